"""scripts/erase.sh on the local AWS: what the real pipeline wrote of one person goes, and Athena counts the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.commands import erase, query, stack
from scripts.commands.console import guarded
from tests.local_process import LocalProcess, eventually, post

pytestmark = pytest.mark.slow

ADA = "ada-7f3e"
OTHERS = 20


def test_one_person_goes_from_what_the_pipeline_wrote_and_the_others_are_counted_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalProcess(tmp_path / "aws") as local:
        outputs = local.deploy("FirehoseBufferingInterval=1")
        monkeypatch.setattr(stack, "LOCAL_STATE", local.directory)
        s3, bucket = local.client("s3"), local.bucket(outputs["BucketName"])
        url = stack.reachable_url(stack.session(True), outputs["BatchURL"])
        good = [{"event_id": f"{number}", "user_id": f"u{number}"} for number in range(OTHERS)]
        post(url, json.dumps([*good, *({"event_id": f"ada{number}", "user_id": ADA} for number in range(3))]).encode())
        post(url, b'[{"user_id": "%b", "value": "?"}, {"user_id": "b", "value": "?"}]' % ADA.encode())
        broken = b'sluice/1 broken\n{"user_id": "%b"}'
        records = [{"Data": broken % user} for user in (ADA.encode(), b"b")]
        local.client("firehose").put_record_batch(DeliveryStreamName=outputs["StreamName"], Records=records)
        eventually(lambda: sum(bucket.event_ids().values()) == OTHERS + 3, seconds=60)
        eventually(lambda: len(bucket.rejected_texts()) == 2, seconds=60)
        eventually(lambda: len(bucket.failed_records()) == 2, seconds=60)
        s3.put_object(Bucket=outputs["BucketName"], Key="athena-results/old.csv", Body=ADA.encode())

        slept: list[float] = []
        with monkeypatch.context() as patch:
            patch.setattr(erase.time, "sleep", slept.append)  # all of it is there
            receipt = tmp_path / "receipt.json"
            code = guarded(erase.erase, ["--local", "--user-id", ADA, "--yes", "--receipt", str(receipt)])
        said = capsys.readouterr()
        assert code == 0, said.out + said.err
        assert "finds nothing of the person" in said.err
        assert 500 < slept[0] < 600

        assert set(bucket.event_ids()) == {event["event_id"] for event in good}
        assert bucket.rejected_texts() == [b'{"user_id": "b", "value": "?"}']
        assert bucket.failed_records() == [broken % b"b"]
        done = json.loads(receipt.read_text())["runs"][-1]
        assert sorted(item["key"].split("/")[0] for item in done["objects"]) == ["errors", "events", "rejected"]
        assert done["results_deleted"] == 1
        assert ADA not in receipt.read_text()
        versions = s3.list_object_versions(Bucket=outputs["BucketName"])
        assert all(item["IsLatest"] for item in versions["Versions"])
        assert count(local, outputs) == str(OTHERS)


def count(local: LocalProcess, outputs: dict[str, str]) -> str | None:
    """How many events Athena counts."""
    athena, sql = local.client("athena"), f"SELECT count(*) FROM {outputs['TableName']}"
    execution: dict[str, Any] = query.run(athena, outputs["WorkGroupName"], outputs["DatabaseName"], sql, [])
    _, rows = query.results(athena, execution["QueryExecutionId"])
    return next(iter(rows))[0]
