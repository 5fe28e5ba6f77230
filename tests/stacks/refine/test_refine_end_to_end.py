"""Refinement on the local AWS, as a person uses it: deploy a folder of SQL files, post events, refine, query."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stacks.refine.function.publish import SINCE
from tests.conftest import ROOT, Run
from tests.end_to_end.test_end_to_end import Stack
from tests.lake import day
from tests.local_process import eventually

pytestmark = pytest.mark.slow

TABLES = ("processed_events", "daily_events", "quality")
FIGURES = "rows_in, rows_out, duplicates, not_refined, completeness, nulls_user_id"


LATEST = """-- target: latest_events
-- zone: processed
-- partitions: dt
-- moves: yes
--
-- What was received last of an event counts.
WITH deliveries AS (
    SELECT event_id, value, occurred_at,
        row_number() OVER (PARTITION BY event_id ORDER BY received_at DESC, request_id DESC) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date '${from}' - interval '1' day, '%Y-%m-%d')
)
SELECT event_id, value, date_format(occurred_at, '%Y-%m-%d') AS dt
FROM deliveries
WHERE delivery = 1 AND CAST(occurred_at AS date) BETWEEN date '${from}' AND date '${to}'
"""


class Refined(Stack):
    """A stack refining by its own copy of the SQL folder."""

    def __init__(self, script: Run, endpoint: str, folder: Path) -> None:
        self.made = ""
        self.days = [day(ago) for ago in (2, 1, 0)]
        self.folder = shutil.copytree(ROOT / "stacks/refine/sql", folder / "refine")
        super().__init__(script, endpoint, "refined", "--refine", str(self.folder))

    def deploy(self) -> None:
        self.script("deploy", "--local", "--stack-name", self.name, "--yes", "--refine", str(self.folder))

    def refine(self, *arguments: str, check: bool = True) -> Any:
        return self.script("refine", "--local", "--stack-name", self.name, *arguments, check=check)

    def count(self, table: str, where: str = "true") -> int:
        return int(self.ask(f"SELECT count(*) AS n FROM {table} WHERE {where}")[0]["n"])

    def all_rows(self) -> list[list[str]]:
        return [sorted(map(str, self.ask(f"SELECT * FROM {table}"))) for table in TABLES]

    def ringing(self, logical_id: str) -> str:
        """The name of the alarm, if it is in ALARM."""
        alarms = self.client("cloudwatch").describe_alarms(StateValue="ALARM")["MetricAlarms"]
        return next((alarm["AlarmName"] for alarm in alarms if logical_id in alarm["AlarmName"]), "")

    def post(self, *events: dict[str, Any]) -> None:
        """Post events and wait until their rows can be queried."""
        before = self.count(self.table())
        for event in events:
            self.track(event)
        eventually(lambda: self.count(self.table()) == before + len(events))


def event(event_id: str, happened: str, **more: Any) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "name": "pump",
        "action": "read",
        "source": "plant",
        "timestamp": f"{happened}T00:00:01Z",
        **more,
    }


@pytest.fixture(scope="module")
def stack(script: Run, local_aws: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refined]:
    stack = Refined(script, local_aws, tmp_path_factory.mktemp("files"))
    first, second, today = stack.days
    stack.post(event("a", first, value=1), event("b", first, value=2), event("c", second, value=3, user_id="u"))
    stolen = event("b", first, value=20)
    stack.post(event("d", today), {"event_id": "e", "value": 9}, event("a", first, value=1), stolen)
    stack.made = stack.refine().stdout
    yield stack


def test_a_run_makes_the_tables_of_the_last_days(stack: Refined) -> None:
    counted = {line.split()[0]: line.split()[2] for line in stack.made.splitlines() if line.strip()[:1].islower()}
    assert counted == {"table": "with", "processed_events": "5", "daily_events": "4", "quality": "3"}
    rows = stack.ask("SELECT event_id, value, deliveries, is_late, dt FROM processed_events ORDER BY event_id")
    assert [(row["event_id"], row["value"], row["deliveries"], row["dt"]) for row in rows] == [
        ("a", "1.0", "2", stack.days[0]),
        ("b", "2.0", "2", stack.days[0]),
        ("c", "3.0", "1", stack.days[1]),
        ("d", None, "1", stack.days[2]),
        ("e", "9.0", "1", stack.days[2]),
    ]
    daily = stack.ask("SELECT source, name, events, total_value, dt FROM daily_events ORDER BY dt, source NULLS LAST")
    assert [(row["source"], row["events"], row["total_value"]) for row in daily] == [
        ("plant", "2", "3.0"),
        ("plant", "1", "3.0"),
        ("plant", "1", None),
        (None, "1", "9.0"),
    ]


def test_the_quality_of_a_day_adds_up_and_goes_to_cloudwatch(stack: Refined) -> None:
    figures = [tuple(row.values()) for row in stack.ask(f"SELECT {FIGURES} FROM quality ORDER BY dt")]
    # Of today's eight values for name, action, source and user_id, three are there.
    assert figures == [
        ("4", "2", "2", "0", "0.75", "2"),
        ("1", "1", "0", "0", "1.0", "0"),
        ("2", "2", "0", "0", "0.375", "2"),
    ]
    dimensions = [{"Name": "Database", "Value": "refined"}, {"Name": "Table", "Value": "quality"}]
    [point] = stack.client("cloudwatch").get_metric_statistics(
        Namespace="Sluice",
        MetricName="RowsIn",
        Dimensions=dimensions,
        StartTime=datetime.now(UTC) - timedelta(hours=1),
        EndTime=datetime.now(UTC) + timedelta(minutes=1),
        Period=7200,
        Statistics=["Maximum"],
    )["Datapoints"]
    assert point["Maximum"] == 4


def test_a_late_event_is_found_by_running_its_day_again(stack: Refined) -> None:
    assert stack.count("processed_events", "event_id = 'late'") == 0
    stack.post(event("late", stack.days[0], value=5))
    stack.refine("--from", stack.days[0], "--to", stack.days[0])
    assert stack.ask("SELECT dt, is_late FROM processed_events WHERE event_id = 'late'") == [
        {"dt": stack.days[0], "is_late": "true"}
    ]
    assert stack.count("processed_events", f"dt > '{stack.days[0]}'") == 3
    assert stack.ask(f"SELECT events FROM daily_events WHERE dt = '{stack.days[0]}'") == [{"events": "3"}]


def test_many_small_objects_become_one_for_each_partition(stack: Refined) -> None:
    assert len(stack.objects("events/")) > 1
    paths = stack.ask('SELECT DISTINCT "$path" AS path, dt FROM processed_events')
    assert len(paths) == len({row["dt"] for row in paths}) == 3


def test_a_file_that_fails_is_named_with_its_line_and_leaves_its_table_as_it_was(stack: Refined) -> None:
    before = stack.ask("SELECT * FROM daily_events ORDER BY dt, source")
    file = stack.folder / "daily_events.sql"
    text = file.read_text()
    line = next(number for number, each in enumerate(text.splitlines(), 1) if "AS total_value" in each)
    file.write_text(text.replace("if(abs(sum(value))", "if(abs(sum(valu))"))
    try:
        stack.deploy()
        failed = stack.refine(check=False)
    finally:
        file.write_text(text)
        stack.deploy()
    assert failed.returncode == 1
    days = f"{day(2)} to {day()}"
    assert f"daily_events.sql, {days}: COLUMN_NOT_FOUND: line {line}:16: Column 'valu'" in failed.stderr
    assert stack.ask("SELECT * FROM daily_events ORDER BY dt, source") == before


def test_a_file_that_is_not_sql_stops_before_anything_is_deployed(stack: Refined) -> None:
    file = stack.folder / "daily_events.sql"
    text = file.read_text()
    file.write_text(text.replace("count(*) AS events", "count(* AS events"))
    try:
        refused = stack.script(
            "deploy", "--local", "--stack-name", "refined", "--yes", "--refine", str(stack.folder), check=False
        )
    finally:
        file.write_text(text)
    assert refused.returncode == 2
    assert "daily_events.sql:14: this is not valid Athena SQL" in refused.stderr


def test_a_wrong_request_is_refused_and_not_tried_again(stack: Refined) -> None:
    states = stack.client("stepfunctions")
    request = '{"from": "yesterday"}'
    run = states.start_execution(stateMachineArn=stack.outputs["RefineMachineArn"], input=request)["executionArn"]
    ended = eventually(lambda: (one := states.describe_execution(executionArn=run))["status"] != "RUNNING" and one)
    assert (ended["status"], ended["error"]) == ("FAILED", "Refused")
    assert "from must be a day such as 2026-01-31 (got 'yesterday')" in ended["cause"]
    events = states.get_execution_history(executionArn=run)["events"]
    assert [event["type"] for event in events].count("TaskFailed") == 1


def test_a_run_that_is_stopped_at_any_time_and_run_again_makes_the_same_tables(stack: Refined) -> None:
    stack.refine()
    before = stack.all_rows()
    states, machine = stack.client("stepfunctions"), stack.outputs["RefineMachineArn"]
    for pause in (0.0, 0.2, 0.4, 0.7, 1.0):
        execution = states.start_execution(stateMachineArn=machine, input="{}")["executionArn"]
        time.sleep(pause)
        states.stop_execution(executionArn=execution)
    stack.refine()
    assert stack.all_rows() == before


def test_readers_see_a_day_whole_while_it_is_made_anew_by_two_runs_at_once(stack: Refined) -> None:
    expected = stack.count("processed_events")
    states, machine = stack.client("stepfunctions"), stack.outputs["RefineMachineArn"]
    running = [states.start_execution(stateMachineArn=machine, input="{}")["executionArn"] for _ in range(2)]
    seen = set()
    while "RUNNING" in {states.describe_execution(executionArn=one)["status"] for one in running}:
        seen.add(stack.count("processed_events"))
    assert seen == {expected}
    ended = [states.describe_execution(executionArn=one) for one in running]
    assert {one["status"] for one in ended} == {"SUCCEEDED"}
    # One of them has waited for the end of the other.
    histories = [states.get_execution_history(executionArn=one)["events"] for one in running]
    errors = [
        {each["taskFailedEventDetails"]["error"] for each in one if each["type"] == "TaskFailed"} for one in histories
    ]
    assert sorted(errors, key=len) == [set(), {"Busy"}]
    first, second = sorted(range(2), key=lambda one: len(errors[one]))
    planned = next(each["timestamp"] for each in histories[second] if each["type"] == "MapStateEntered")
    assert planned >= ended[first]["stopDate"]


def test_an_event_that_is_corrected_to_another_day_is_a_row_on_one_day(stack: Refined) -> None:
    days = [day(ago) for ago in (40, 30, 50)]
    file = stack.folder / "latest_events.sql"
    file.write_text(LATEST)
    try:
        stack.deploy()
        for value, moved_to in enumerate(days, 1):
            stack.post(event("moved", moved_to, value=value))
            # The last time, the run names the event's old day, not its new one.
            asked = days[min(value, 2) - 1]
            run = stack.refine("--from", asked, "--to", asked, "--only", "latest_events")
            rows = stack.ask("SELECT value, dt FROM latest_events WHERE event_id = 'moved'")
            assert rows == [{"value": f"{value}.0", "dt": moved_to}]
            if value > 1:
                note = f"latest_events has no rows any more on days that had some: {days[value - 2]}\n"
                assert note in run.stderr
                assert note in stack.refine("--last").stderr
    finally:
        file.unlink()
        stack.deploy()
    alarm = eventually(lambda: stack.ringing("RefineDaysLackRowsAlarm"))
    status = stack.script("status", "--local", "--stack-name", stack.name, check=False)
    assert alarm in status.stdout
    assert "scripts/refine.sh --stack-name refined --last" in " ".join(status.stdout.split())


def test_late_rows_of_a_day_long_ago_are_refined_until_events_behind_it_may_be_deleted(stack: Refined) -> None:
    old = day(400)
    stack.script("deploy", "--local", "--stack-name", stack.name, "--yes", "--parameter", "EventsRetentionInDays=30")
    for count, event_id in enumerate(("x", "y"), 1):
        stack.post(event(event_id, old, value=count))
        run = stack.refine("--from", old, "--to", old)
        assert "stay as they were" not in run.stderr
        assert {stack.count(table, f"dt = '{old}'") for table in TABLES[1:]} == {1}
        assert stack.count(TABLES[0], f"dt = '{old}'") == count
    glue, names = stack.client("glue"), {"DatabaseName": stack.outputs["DatabaseName"], "TableName": TABLES[0]}
    [partition] = glue.get_partitions(**names, Expression=f"dt = '{old}'")["Partitions"]
    assert partition["Parameters"] == {SINCE: day()}
    # As it is when they were received longer ago than events are kept.
    entry = {key: partition[key] for key in ("Values", "StorageDescriptor")} | {"Parameters": {SINCE: old}}
    glue.batch_update_partition(**names, Entries=[{"PartitionValueList": [old], "PartitionInput": entry}])
    stack.post(event("z", old))
    run = stack.refine("--from", old, "--to", old)
    assert run.stderr.count("processed_events has days that stay as they were") == run.stderr.count("stay as") == 1
    assert f"may be deleted: {old}" in run.stderr
    assert stack.count(TABLES[0], f"dt = '{old}'") == 2


def test_switched_off_it_is_gone_and_its_tables_stay(stack: Refined) -> None:
    before = stack.count("processed_events")
    stack.script("deploy", "--local", "--stack-name", stack.name, "--yes", "--refine", "off")
    refused = stack.refine(check=False)
    assert refused.returncode == 2
    assert (
        "has no optional stack 'refine': switch it on with scripts/deploy.sh --local --stack-name refined --refine"
        in refused.stderr
    )
    assert stack.count("processed_events") == before
