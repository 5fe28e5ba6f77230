"""scripts/erase.sh on the local AWS: the real pipeline's data of one person goes, and Athena counts the others."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.common import athena as athena_queries
from scripts.commands.common import stack
from scripts.commands.common.console import guarded
from scripts.commands.erase import command as erase
from tests.end_to_end import test_durability as durability
from tests.factories import stand_in
from tests.local_process import Bucket, LocalProcess, eventually, post

pytestmark = pytest.mark.slow

ADA = "ada-7f3e"
OTHERS = 20


def test_one_person_goes_from_what_the_pipeline_wrote_and_the_others_are_counted_as_before(
    local: LocalProcess,
    outputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stack, "LOCAL_STATE", local.directory)
    s3, bucket = local.client("s3"), local.bucket(outputs["BucketName"])
    url = stack.reachable_url(stack.local_session(), outputs["BatchURL"])
    good = [{"event_id": f"{number}", "user_id": f"u{number}"} for number in range(OTHERS)]
    post(url, json.dumps([*good, *({"event_id": f"ada{number}", "user_id": ADA} for number in range(3))]).encode())
    post(url, b'[{"user_id": "%b", "value": "?"}, {"user_id": "b", "value": "?"}]' % ADA.encode())
    broken = b'sluice/1 broken\n{"user_id": "%b"}'
    records = [{"Data": broken % user} for user in (ADA.encode(), b"b")]
    local.client("firehose").put_record_batch(DeliveryStreamName=outputs["StreamName"], Records=records)
    eventually(lambda: sum(bucket.event_ids().values()) == OTHERS + 3)
    eventually(lambda: len(bucket.rejected_texts()) == 2)
    eventually(lambda: len(bucket.failed_records()) == 2)
    s3.put_object(Bucket=outputs["BucketName"], Key="athena-results/old.csv", Body=ADA.encode())

    slept: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(erase, "time", stand_in(time, sleep=slept.append))  # all of it is there
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


def test_what_firehose_delivers_during_an_erasure_is_neither_lost_nor_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with durability.HurriedProcess(tmp_path / "aws") as local:
        outputs = local.deploy(*durability.HURRIED_PARAMETERS)
        monkeypatch.setattr(stack, "LOCAL_STATE", local.directory)
        monkeypatch.setattr(erase, "time", stand_in(time, sleep=lambda seconds: None))
        bucket, ledger = local.bucket(outputs["BucketName"]), durability.Ledger()
        with durability.Load(local, outputs, ledger, pause=0.1):
            for number in range(3):
                events = [{"event_id": f"ada-{number}-{row}", "user_id": ADA} for row in range(5)]
                assert post(outputs["BatchURL"], json.dumps(events).encode())[0] == 202
            eventually(lambda: sum(identifier.startswith("ada") for identifier in bucket.event_ids()) == 15)
            eventually(lambda: b"".join(raw_records(bucket)).count(ADA.encode()) == 15)
            known = durability.objects_in(bucket)
            arguments = ["--local", "--user-id", ADA, "--yes", "--receipt", str(tmp_path / "receipt.json")]
            assert guarded(erase.erase, arguments) == 0, capsys.readouterr().err
            assert (durability.objects_in(bucket) - known)["events"], "nothing was delivered meanwhile"
        durability.settle(local)
        assert ADA.encode() not in b"".join(raw_records(bucket))
        durability.check_accounts(ledger, bucket)
        durability.check_sum(ledger, bucket)
        assert max(bucket.event_ids().values()) == 1


def raw_records(bucket: Bucket) -> list[bytes]:
    """The content of each object of raw/."""
    return [gzip.decompress(path.read_bytes()) for path in bucket.files("raw/")]


def count(local: LocalProcess, outputs: dict[str, str]) -> str | None:
    """How many events Athena counts."""
    athena, sql = local.client("athena"), f"SELECT count(*) FROM {outputs['TableName']}"
    execution: dict[str, Any] = athena_queries.run(
        athena, {"WorkGroup": outputs["WorkGroupName"]}, outputs["DatabaseName"], sql, []
    )
    _, rows = athena_queries.results(athena, execution["QueryExecutionId"])
    return next(iter(rows))[0]
