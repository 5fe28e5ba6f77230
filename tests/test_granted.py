"""No role of a nested stack may do more than it needs: every granted action is used, or has its reason here.

One stack with everything switched on, and a run of each: an API is pulled, its rows are refined, and delivered. For the
core, tests/test_roles.py takes each action away; for the analyst's policy see tests/stacks/analyst/test_analyst.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest

from scripts.commands.deploy import nested
from tests.conftest import ROOT
from tests.granted import Action, RecordingProcess, of_stack
from tests.local_process import eventually, post
from tests.pull_api import Asked, Told, serving

pytestmark = pytest.mark.slow

GRANTED = {action for stack in nested.read() if stack.name != "analyst" for action in of_stack(stack)}
SOURCE = {
    "name": "things",
    "auth": {"type": "bearer", "secret": "things"},
    "items": "data",
    "event": {"event_id": ["id"], "name": {"constant": "thing"}, "value": "value"},
}
QUERY = """-- new-rows: What has come in?
SELECT event_id, name FROM "${AthenaDatabaseName}"."${AthenaTableName}"
WHERE received_at >= ? AND received_at < ?
ORDER BY event_id;
"""

# Actions for AWS alone, or for another day: nothing here can see them, with the reason.
_SCHEDULE = "a schedule starts nothing within a test's time; that the local one asks is in local/test_stepfunctions.py"
_CATALOG = "Step Functions' own documentation wants it for a query; the local Athena has one catalog and asks nobody"
_MULTIPART = "Athena uploads large results in parts; the local one writes each object at once"
_PARTITIONS = "Athena may ask for single partitions; the local one asks for all of a table"
_REFINED = "for saved queries over refined tables, whose partitions stand in the catalog"
_CHANGED = "when a target has more columns, or fewer days, than before: tests/stacks/refine/test_refine_publish.py"
_TURN = "when a run finds another at work: tests/stacks/refine/test_refine_turn.py"
_SWEPT = "what runs of long ago have left: tests/stacks/refine/test_refine_sweep.py"
_KEY = "what queues, secrets and encrypted logs need of who uses them; those of the local AWS ask for no key"
REASONS: dict[Action, str] = {
    **{
        (stack, role, "UseKey", f"kms:{action}"): _KEY
        for stack, role in (("deliver", "DeliverRole"), ("refine", "RefineRole"))
        for action in ("Decrypt", "GenerateDataKey")
    },
    ("deliver", "RunScheduleRole", "Start", "states:StartExecution"): _SCHEDULE,
    ("pull", "RunScheduleRole", "Start", "states:StartExecution"): _SCHEDULE,
    ("refine", "RefineScheduleRole", "StartRun", "states:StartExecution"): _SCHEDULE,
    ("deliver", "RunMachineRole", "ReadCatalog", "athena:GetDataCatalog"): _CATALOG,
    ("refine", "RefineMachineRole", "RunQueries", "athena:GetDataCatalog"): _CATALOG,
    ("deliver", "RunMachineRole", "WriteResults", "s3:AbortMultipartUpload"): _MULTIPART,
    ("deliver", "RunMachineRole", "WriteResults", "s3:ListMultipartUploadParts"): _MULTIPART,
    ("refine", "RefineMachineRole", "ListBucket", "s3:ListBucketMultipartUploads"): _MULTIPART,
    ("refine", "RefineMachineRole", "ReadAndWriteTables", "s3:AbortMultipartUpload"): _MULTIPART,
    ("refine", "RefineMachineRole", "ReadAndWriteTables", "s3:ListMultipartUploadParts"): _MULTIPART,
    ("refine", "RefineMachineRole", "ReadTablesAndMakeTemporaryOnes", "glue:GetPartition"): _PARTITIONS,
    ("refine", "RefineMachineRole", "ReadTablesAndMakeTemporaryOnes", "glue:BatchGetPartition"): _PARTITIONS,
    ("deliver", "RunMachineRole", "ReadCatalog", "glue:GetPartitions"): _REFINED,
    ("refine", "RefineRole", "PublishTables", "glue:UpdateTable"): _CHANGED,
    ("refine", "RefineRole", "PublishTables", "glue:DeletePartition"): _CHANGED,
    ("refine", "RefineRole", "DeleteLeftOvers", "s3:DeleteObject"): _SWEPT,
    ("refine", "RefineTurnPolicy", "SeeRuns", "states:DescribeExecution"): _TURN,
}


class Endpoint:
    """An API to pull from and an endpoint to deliver to: each is busy once, and the endpoint refuses one row."""

    # The first call of a pull is a test call, not tried again.
    busy_at = MappingProxyType({"/things": 2, "/rows": 1})

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __call__(self, asked: Asked) -> Told:
        self.calls[asked.path] += 1
        if self.calls[asked.path] == self.busy_at[asked.path]:
            return Told(503, {}, {"Retry-After": "1"})
        if asked.path == "/things":
            return Told(200, {"data": [{"id": "pulled", "value": 1}]})
        return Told(400, {"error": "no"}) if b"refused" in asked.body else Told(200, {})


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[Action]]:
    folder = tmp_path_factory.mktemp("granted")
    local = RecordingProcess(folder / "aws")
    local.start()
    try:
        with serving(Endpoint()) as url:
            run_everything(local, folder, url)
        yield {
            action
            for stack, role in {(stack, role) for stack, role, _, _ in GRANTED if "ScheduleRole" not in role}
            for action in local.used(stack.capitalize(), role)
        }
    finally:
        local.stop()


def run_everything(local: RecordingProcess, folder: Path, url: str) -> None:
    environment = {**os.environ, "SLUICE_LOCAL_STATE": str(local.directory)}

    def script(name: str, *arguments: str, stdin: str = "", expected: tuple[int, ...] = (0,)) -> str:
        command = ["bash", str(ROOT / "scripts" / f"{name}.sh"), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=500)
        assert done.returncode in expected, (command, done.returncode, done.stdout, done.stderr)
        return done.stdout

    sources, queries = folder / "sources", folder / "more.sql"
    sources.mkdir()
    (sources / "things.json").write_text(json.dumps({**SOURCE, "url": f"{url}/things"}))
    queries.write_text(QUERY)
    switched_on = ("--refine", str(ROOT / "stacks/refine/sql"), "--pull", str(sources), "--queries", str(queries))
    parameters = (
        f"DeliverUrl={url}/rows",
        "DeliverQuery=new-rows",
        "DeliverParameters={from},{to}",
        "DeliverBatchSize=1",
        "DeliverBatchingWindowInSeconds=1",
        "FirehoseBufferingInterval=1",
        "PullDeliveryMarginInSeconds=0",
        f"KmsKeyArn={local.key()}",
    )
    given = [word for parameter in parameters for word in ("--parameter", parameter)]
    lines = script("deploy", "--local", "--yes", *switched_on, *given).splitlines()
    outputs = dict(line.split("\t") for line in lines)
    script("pull", "token", "--local", "things", stdin="a-token")
    script("deliver", "token", "--local", stdin="a-token")
    for identifier in ("good", "refused"):
        assert post(outputs["TrackURL"], json.dumps({"event_id": identifier, "name": "x"}).encode())[0] == 202
    eventually(lambda: {"good", "refused"} <= set(local.bucket(outputs["BucketName"]).event_ids()))
    script("pull", "run", "--local")  # it refines, too
    script("refine", "--local")  # once more, over days already there
    # Up to now, less the time for a delivery: no row yet, unless this machine is slow.
    script("deliver", "run", "--local", expected=(0, 1))
    script("deliver", "run", "--local", "--from", "2025-01-01", "--to", "2100-01-01", expected=(1,))  # one is refused


@pytest.mark.parametrize("action", sorted(GRANTED - set(REASONS)), ids="-".join)
def test_what_is_granted_is_used(used: set[Action], action: Action) -> None:
    assert action in used, "take it away, or say in REASONS why nothing here can see it"


@pytest.mark.parametrize("action", REASONS, ids="-".join)
def test_what_has_a_reason_is_granted_and_not_seen_to_be_used(used: set[Action], action: Action) -> None:
    assert action in GRANTED
    assert action not in used, "it needs no reason any more"
