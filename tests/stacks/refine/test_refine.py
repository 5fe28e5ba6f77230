"""The refinement function: plans, and what Publish and Sweep do to catalog and bucket, also when they are killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from random import Random
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from stacks.refine.function import handler
from stacks.refine.function import publish as publishing
from stacks.refine.function.lock import KEY, Busy, take_turn
from stacks.refine.function.plan import (
    MAX_STATEMENTS,
    Lake,
    Prepared,
    Refused,
    Statement,
    Target,
    ask_moved,
    name_days,
    new_run,
    plan,
    prepare,
    read_targets,
    run_time,
)
from stacks.refine.function.publish import MARK, Ages, Undone, get_partitions
from stacks.refine.function.sweep import Clients, sweep

DATABASE, BUCKET = "lake", "store"
LAKE = Lake(DATABASE, BUCKET, "records")
EVENTS = Target("events.sql", "events_clean", "processed", 100, (), "-- target: events_clean\nSELECT\n", "", (), False)
BY_KIND = Target(
    "by_kind.sql", "by_kind", "curated", 10, ("rows_in",), "-- target: by_kind\nSELECT\n", "", ("events_clean",), False
)
COLUMNS = [("name", "string"), ("n", "bigint")]
DAYS = {"dt": "string"}
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = NOW.date()

Json = dict[str, Any]

# One for all tests: it keeps the models of the services, which take longest to load.
SESSION = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")


@pytest.fixture
def aws() -> Iterator[Callable[[str], Any]]:
    with mock_aws():
        SESSION.client("glue").create_database(DatabaseInput={"Name": DATABASE})
        SESSION.client("s3").create_bucket(Bucket=BUCKET)
        yield SESSION.client


# --- Plans ------------------------------------------------------------------------------------------------------------


def days_of(request: Json) -> list[str]:
    statements = plan([EVENTS, BY_KIND], request, TODAY, 3)
    return [f"{one['table']} {one['first']} {one['last']}" for one in statements]


PLANS: dict[str, tuple[Json, list[str]]] = {
    "nothing said is the last days": (
        {},
        ["events_clean 2026-11-19 2026-11-21", "by_kind 2026-11-19 2026-11-21"],
    ),
    "one day": (
        {"from": "2026-01-31", "to": "2026-01-31"},
        ["events_clean 2026-01-31 2026-01-31", "by_kind 2026-01-31 2026-01-31"],
    ),
    "from alone ends today": ({"from": "2026-11-20", "only": ["events_clean"]}, ["events_clean 2026-11-20 2026-11-21"]),
    "to alone begins some days before": (
        {"to": "2026-03-02", "only": ["by_kind"]},
        ["by_kind 2026-02-28 2026-03-02"],
    ),
    "no statement writes more days than it may": (
        {"from": "2026-01-01", "to": "2026-01-21", "only": ["by_kind"]},
        ["by_kind 2026-01-01 2026-01-10", "by_kind 2026-01-11 2026-01-20", "by_kind 2026-01-21 2026-01-21"],
    ),
    "all days of a table before the next table": (
        {"from": "2026-01-01", "to": "2026-01-11", "only": ["by_kind", "events_clean"]},
        ["events_clean 2026-01-01 2026-01-11", "by_kind 2026-01-01 2026-01-10", "by_kind 2026-01-11 2026-01-11"],
    ),
}


@pytest.mark.parametrize(("request_", "statements"), PLANS.values(), ids=PLANS.keys())
def test_a_plan_has_the_statements_in_order(request_: Json, statements: list[str]) -> None:
    assert days_of(request_) == statements


REFUSED_PLANS: dict[str, tuple[Json, str]] = {
    "unknown key": ({"form": "2026-01-01"}, "takes from, to and only .got form"),
    "no day": ({"from": "2026-02-30"}, "from must be a day such as 2026-01-31 .got '2026-02-30'"),
    "another form of a day": ({"to": "20260131"}, "to must be a day"),
    "a number": ({"from": 20260131}, "from must be a day"),
    "backwards": ({"from": "2026-02-02", "to": "2026-02-01"}, "from .2026-02-02. lies after to .2026-02-01"),
    "from in the future": ({"from": "2026-12-01"}, "lies after to"),
    "unknown table": ({"only": ["event"]}, "no file makes the table 'event': there are events_clean, by_kind"),
    "only is not a list": ({"only": "by_kind"}, "only must be a list of tables"),
    "too long": ({"from": "1990-01-01", "only": ["by_kind"]}, "needs 1,348 statements, and one run takes 500"),
}


@pytest.mark.parametrize(("request_", "message"), REFUSED_PLANS.values(), ids=REFUSED_PLANS.keys())
def test_a_wrong_request_is_refused_with_its_value(request_: Json, message: str) -> None:
    with pytest.raises(Refused, match=message):
        days_of(request_)


def test_every_day_of_a_range_is_written_once() -> None:
    statements = plan([BY_KIND], {"from": "2024-01-01", "to": "2025-12-31"}, TODAY, 3)
    days = [
        date.fromisoformat(one["first"]) + timedelta(days=n)
        for one in statements
        for n in range((date.fromisoformat(one["last"]) - date.fromisoformat(one["first"])).days + 1)
    ]
    assert days == [date(2024, 1, 1) + timedelta(days=n) for n in range(731)]
    assert len(statements) <= MAX_STATEMENTS


def test_the_sql_of_an_attempt_keeps_the_lines_of_the_file() -> None:
    sql = '-- target: by_kind\nSELECT \'${from} ${to}\'\nFROM "${AthenaDatabaseName}"."${AthenaTableName}"\n'
    target = replace(BY_KIND, sql=sql, received="got_at")
    run = new_run(NOW, "0badcafe")
    made = prepare(target, statement(target), run, LAKE)
    head, *lines = made["create"].splitlines()
    assert head == (
        "CREATE TABLE lake.by_kind__run_20261121t120000_0badcafe WITH (format = 'PARQUET', "
        "write_compression = 'SNAPPY', external_location = "
        "'s3://store/curated/by_kind/run=20261121t120000_0badcafe/', partitioned_by = ARRAY['dt']) "
        "AS -- target: by_kind"
    )
    assert lines == ["SELECT '2026-01-01 2026-01-03'", 'FROM "lake"."records"']
    assert made["count"] == (
        'SELECT "dt", count(*) AS "rows", max("rows_in") AS "rows_in", '
        """CASE WHEN count("got_at") = count(*) THEN date_format(min("got_at"), '%Y-%m-%d') END AS "$since" """
        'FROM "lake"."by_kind__run_20261121t120000_0badcafe" GROUP BY "dt" ORDER BY "dt"'
    )
    assert run_time(run) == NOW
    assert run_time("20261121t120000") is None


def test_targets_are_read_as_deploy_has_written_them() -> None:
    item = {
        "file": "by_kind.sql",
        "table": "by_kind",
        "zone": "curated",
        "needs": ["events_clean"],
        "days": 10,
        "metrics": ["rows_in"],
        "sql": BY_KIND.sql,
        "received": "",
        "moves": False,
    }
    assert read_targets(json.dumps({"targets": [item]}).encode()) == [BY_KIND]


MOVED: dict[str, tuple[set[str], list[str]]] = {
    "none": (set(), ["one 2026-01-05 2026-01-06", "two 2026-01-05 2026-01-06", "three 2026-01-05 2026-01-06"]),
    "its own days, those of the tables that need it, and no others": (
        {"2026-01-02", "2026-01-05"},
        [
            "one 2026-01-02 2026-01-02",
            "one 2026-01-05 2026-01-06",
            "two 2026-01-02 2026-01-02",
            "two 2026-01-05 2026-01-06",
            "three 2026-01-05 2026-01-06",
        ],
    ),
}


@pytest.mark.parametrize(("moved", "statements"), MOVED.values(), ids=MOVED)
def test_the_days_that_events_were_moved_from_are_made_too(moved: set[str], statements: list[str]) -> None:
    one = replace(EVENTS, table="one", moves=True)
    two, three = replace(BY_KIND, table="two", needs=("one",)), replace(EVENTS, table="three")
    found = plan([one, two, three], {"from": "2026-01-05", "to": "2026-01-06"}, TODAY, 3, moved)
    assert [f"{each['table']} {each['first']} {each['last']}" for each in found] == statements


def test_nothing_is_asked_when_the_events_of_no_chosen_table_move() -> None:
    targets = [replace(EVENTS, moves=True), BY_KIND]
    assert ask_moved(targets, plan(targets, {"only": ["by_kind"]}, TODAY, 3), "records") == ""
    assert "FROM records" in ask_moved(targets, plan(targets, {}, TODAY, 3), "records")


def test_more_moved_days_than_a_run_makes_are_refused() -> None:
    moved = {(date(2020, 1, 1) + timedelta(days=2 * number)).isoformat() for number in range(500)}
    with pytest.raises(Refused, match="2026-11-21 and 500 days from or to which events were moved needs 501 statem"):
        plan([replace(EVENTS, moves=True)], {"from": "2026-11-21"}, TODAY, 3, moved)


def test_days_are_named_for_a_person() -> None:
    assert name_days({"2026-01-01", "2025-12-31", "2026-01-03"}) == "2025-12-31 to 2026-01-01, 2026-01-03"


# --- One run at a time ------------------------------------------------------------------------------------------------

MACHINE = "arn:aws:states:us-east-1:123456789012:execution:RefineMachine"
RUNS = [f"{MACHINE}:{number}" for number in range(3)]
ELSEWHERE = f"{MACHINE}Before:1"


class FakeStates:
    """Executions by their states; all others run."""

    class exceptions:
        class ExecutionDoesNotExist(Exception):
            pass

    def __init__(self, **states: str) -> None:
        self.states = states

    def describe_execution(self, executionArn: str) -> Json:
        if (status := self.states.get(executionArn, "RUNNING")) == "UNKNOWN":
            raise self.exceptions.ExecutionDoesNotExist
        return {"status": status}


def holder(aws: Any) -> str:
    body: bytes = aws("s3").get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
    return body.decode()


def test_the_first_run_has_its_turn_for_as_long_as_it_runs(aws: Any) -> None:
    for _ in range(2):
        take_turn(aws("s3"), FakeStates(), BUCKET, RUNS[0])
    with pytest.raises(Busy, match=rf"^another run is under way, and this one waits for its end: {RUNS[0]}$"):
        take_turn(aws("s3"), FakeStates(), BUCKET, RUNS[1])
    assert holder(aws) == RUNS[0]


ENDED = {
    "has ended": (RUNS[0], "SUCCEEDED"),
    "was stopped": (RUNS[0], "ABORTED"),
    "is another machine's": (ELSEWHERE, ""),
}


@pytest.mark.parametrize(("before", "status"), ENDED.values(), ids=ENDED)
def test_the_next_run_has_its_turn_when_the_one_before_does_not_run(aws: Any, before: str, status: str) -> None:
    take_turn(aws("s3"), FakeStates(), BUCKET, before)
    states = FakeStates(**{before: status or "RUNNING"})
    take_turn(aws("s3"), states, BUCKET, RUNS[1])
    assert holder(aws) == RUNS[1]


def test_a_run_that_nobody_knows_of_yet_keeps_its_turn_for_a_moment(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    states = FakeStates(**{RUNS[0]: "UNKNOWN"})
    take_turn(aws("s3"), states, BUCKET, RUNS[0])
    with pytest.raises(Busy):
        take_turn(aws("s3"), states, BUCKET, RUNS[1])
    monkeypatch.setattr("stacks.refine.function.lock.NEW", timedelta())
    take_turn(aws("s3"), states, BUCKET, RUNS[1])
    assert holder(aws) == RUNS[1]


def test_of_two_runs_that_find_the_turn_free_one_has_it(aws: Any) -> None:
    take_turn(aws("s3"), FakeStates(), BUCKET, RUNS[0])

    class Overtaken(FakeStates):
        def describe_execution(self, executionArn: str) -> Json:
            take_turn(aws("s3"), FakeStates(**{RUNS[0]: "FAILED"}), BUCKET, RUNS[2])
            return {"status": "FAILED"}

    with pytest.raises(Busy, match="another run began at the same time"):
        take_turn(aws("s3"), Overtaken(), BUCKET, RUNS[1])
    assert holder(aws) == RUNS[2]


def test_what_s3_refuses_for_another_reason_is_not_another_run(aws: Any) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        take_turn(aws("s3"), FakeStates(), "nowhere", RUNS[0])


# --- Publish ----------------------------------------------------------------------------------------------------------


def statement(target: Target = EVENTS, first: str = "2026-01-01", last: str = "2026-01-03") -> Statement:
    return {"table": target.table, "file": target.file, "first": first, "last": last, "attempt": 1}


def publish(glue: Any, target: Target, one: Statement, temporary: str, since: dict[str, str], gone: str) -> Undone:
    prepared = Prepared(**one, run="", temporary=temporary, create="", count="")
    return publishing.publish(glue, LAKE, target, prepared, Ages(since, gone))


def write(
    glue: Any,
    run: str,
    *partitions: tuple[str, ...],
    target: Target = EVENTS,
    columns: list[tuple[str, str]] = COLUMNS,
    keys: dict[str, str] = DAYS,
) -> str:
    """What CREATE TABLE AS leaves: a table with its partitions, under a place of its own; returns its name."""
    name, place = f"{target.table}__run_{run}", f"s3://{BUCKET}/{target.zone}/{target.table}/run={run}/"
    storage = {"Columns": [{"Name": column, "Type": kind} for column, kind in columns], "Location": place}
    types = [{"Name": key, "Type": kind} for key, kind in keys.items()]
    glue.create_table(
        DatabaseName=DATABASE, TableInput={"Name": name, "PartitionKeys": types, "StorageDescriptor": storage}
    )
    for values in partitions:
        folder = "".join(f"{key}={value}/" for key, value in zip(keys, values, strict=True))
        own = {"Values": list(values), "StorageDescriptor": {**storage, "Location": place + folder}}
        glue.create_partition(DatabaseName=DATABASE, TableName=name, PartitionInput=own)
    return name


def tables(glue: Any) -> list[str]:
    return [table["Name"] for table in glue.get_tables(DatabaseName=DATABASE)["TableList"]]


def runs_by_day(glue: Any, target: Target = EVENTS) -> dict[str, str]:
    """The run that each partition of the target points at, by its values."""
    return {
        " ".join(values): location.split("run=")[1].split("/")[0]
        for values, location in get_partitions(glue, DATABASE, target.table, "").items()
    }


def columns_of(glue: Any, target: Target = EVENTS) -> list[str]:
    table = glue.get_table(DatabaseName=DATABASE, Name=target.table)["Table"]
    return [f"{column['Name']} {column['Type']}" for column in table["StorageDescriptor"]["Columns"]]


def publish_run(glue: Any, run: str, *days: str, first: str = "2026-01-01", last: str = "2026-01-03") -> None:
    temporary = write(glue, run, *((day,) for day in days))
    publish(glue, EVENTS, statement(first=first, last=last), temporary, {}, "")


def test_the_first_run_creates_the_table_with_registered_partitions(aws: Any) -> None:
    glue = aws("glue")
    publish_run(glue, "a", "2026-01-01", "2026-01-03")
    assert tables(glue) == ["events_clean"]
    assert runs_by_day(glue) == {"2026-01-01": "a", "2026-01-03": "a"}
    table = glue.get_table(DatabaseName=DATABASE, Name="events_clean")["Table"]
    assert table["TableType"] == "EXTERNAL_TABLE"
    assert table["Parameters"] == {"EXTERNAL": "TRUE", "classification": "parquet", MARK: "events.sql"}
    assert table["StorageDescriptor"]["Location"] == "s3://store/processed/events_clean/"
    assert table["StorageDescriptor"]["SerdeInfo"]["SerializationLibrary"].endswith("ParquetHiveSerDe")
    assert table["PartitionKeys"] == [{"Name": "dt", "Type": "string"}]


def test_a_later_run_takes_its_days_and_leaves_the_others(aws: Any) -> None:
    glue = aws("glue")
    publish_run(glue, "a", "2025-12-31", "2026-01-01", "2026-01-02", first="2025-12-01")
    publish_run(glue, "b", "2026-01-02", "2026-01-03")
    # 2026-01-01 has no events any more: it lies within the days of the run, and the run has none of it.
    assert runs_by_day(glue) == {"2025-12-31": "a", "2026-01-02": "b", "2026-01-03": "b"}


def test_a_run_without_rows_leaves_an_empty_table_that_can_be_queried(aws: Any) -> None:
    glue = aws("glue")
    publish_run(glue, "a")
    assert tables(glue) == ["events_clean"]
    assert runs_by_day(glue) == {}


def test_as_many_days_as_a_statement_writes_are_published(aws: Any) -> None:
    glue = aws("glue")
    days = [(date(2026, 1, 1) + timedelta(days=number)).isoformat() for number in range(100)]
    for run in ("a", "b"):
        publish_run(glue, run, *days, last=days[-1])
        assert runs_by_day(glue) == dict.fromkeys(days, run)


def test_new_columns_are_added_at_the_end_and_lost_ones_stay(aws: Any) -> None:
    glue = aws("glue")
    publish_run(glue, "a", "2026-01-01")
    temporary = write(glue, "b", ("2026-01-02",), columns=[("colour", "string"), ("n", "bigint")])
    publish(glue, EVENTS, statement(first="2026-01-02"), temporary, {}, "")
    assert columns_of(glue) == ["name string", "n bigint", "colour string"]
    partitions = glue.get_partitions(DatabaseName=DATABASE, TableName=EVENTS.table)["Partitions"]
    assert [[column["Name"] for column in one["StorageDescriptor"]["Columns"]] for one in partitions] == [
        ["name", "n"],
        ["name", "n", "colour"],
    ]


REFUSED: dict[str, tuple[Callable[[Any], str], str]] = {
    "changed type": (
        lambda glue: write(glue, "b", ("2026-01-01",), columns=[("name", "string"), ("n", "double")]),
        "columns of events_clean cannot change their types: n was bigint and would be double: CAST",
    ),
    "day outside of the run": (
        lambda glue: write(glue, "b", ("2026-01-01",), ("2026-01-04",)),
        "rows with dt = '2026-01-04', no day from 2026-01-01 to 2026-01-03: let its WHERE keep",
    ),
    "rows without a day": (
        lambda glue: write(glue, "b", ("__HIVE_DEFAULT_PARTITION__",)),
        "rows with dt = '__HIVE_DEFAULT_PARTITION__', no day",
    ),
    "another form of a day": (lambda glue: write(glue, "b", ("2026-01-1",)), "rows with dt = '2026-01-1', no day"),
    "dt is a date": (lambda glue: write(glue, "b", ("2026-01-01",), keys={"dt": "date"}), "dt must be text"),
}


@pytest.mark.parametrize(("written", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_published_is_refused_before_anything_changes(
    aws: Any, written: Callable[[Any], str], message: str
) -> None:
    glue = aws("glue")
    publish_run(glue, "a", "2026-01-01", "2026-01-02")
    temporary = written(glue)
    with pytest.raises(Refused, match=message):
        publish(glue, EVENTS, statement(), temporary, {}, "")
    assert runs_by_day(glue) == {"2026-01-01": "a", "2026-01-02": "a"}
    assert columns_of(glue) == ["name string", "n bigint"]


def test_a_table_of_somebody_else_is_left_alone(aws: Any) -> None:
    glue = aws("glue")
    glue.create_table(DatabaseName=DATABASE, TableInput={"Name": EVENTS.table, "StorageDescriptor": {"Columns": []}})
    with pytest.raises(Refused, match="the table events_clean is not made by refinement: name another target"):
        publish_run(glue, "a", "2026-01-01")


def test_a_table_with_more_partition_columns_is_left_as_it_was(aws: Any) -> None:
    glue = aws("glue")
    names = {"DatabaseName": DATABASE, "Name": EVENTS.table}
    publish_run(glue, "a")
    glue.delete_table(**names)
    keys = [{"Name": name, "Type": "string"} for name in ("dt", "kind")]
    input_ = {"Name": EVENTS.table, "PartitionKeys": keys, "Parameters": {MARK: "events.sql"}}
    glue.create_table(DatabaseName=DATABASE, TableInput={**input_, "StorageDescriptor": {"Columns": []}})
    with pytest.raises(Refused, match="partitioned by dt, kind, not by dt alone: name another target, or drop"):
        publish_run(glue, "b", "2026-01-01")


RETENTION: dict[str, tuple[str | None, str, str]] = {
    "made of events of the day itself, which are there": (None, "2025-12-31", "b"),
    "made of events of the day itself, which may be deleted": (None, "2026-01-01", "a"),
    "made of late events, which are there": ("2026-03-01", "2026-02-28", "b"),
    "made of late events, which may be deleted": ("2026-03-01", "2026-03-01", "a"),
    "made of an event that came a day early and may be deleted": ("2025-12-31", "2025-12-31", "a"),
    "added by hand, of a day whose events may be deleted": ("", "2026-01-01", "a"),
    "events are kept": (None, "", "b"),
}


@pytest.mark.parametrize("days", [("2026-01-01", "2026-01-02"), ("2026-01-02",)], ids=["with rows", "without rows"])
@pytest.mark.parametrize(("since", "gone", "run"), RETENTION.values(), ids=RETENTION.keys())
def test_a_day_is_made_anew_while_all_events_behind_it_are_there(
    aws: Any, since: str | None, gone: str, run: str, days: tuple[str, ...]
) -> None:
    glue = aws("glue")
    old = write(glue, "a", ("2026-01-01",))
    publish(glue, EVENTS, statement(), old, {"2026-01-01": since} if since else {}, "")
    if since == "":
        names = {"DatabaseName": DATABASE, "TableName": EVENTS.table}
        [partition] = glue.get_partitions(**names)["Partitions"]
        by_hand = {"Values": partition["Values"], "StorageDescriptor": partition["StorageDescriptor"]}
        glue.update_partition(**names, PartitionValueList=partition["Values"], PartitionInput=by_hand)
    new = write(glue, "b", *((day,) for day in days))
    undone = publish(glue, EVENTS, statement(), new, {}, gone)
    assert undone.left == ({"2026-01-01"} if run == "a" else set())
    assert undone.emptied == (set() if run == "a" or "2026-01-01" in days else {"2026-01-01"})
    found = runs_by_day(glue)
    assert found.pop("2026-01-01", "removed") == (run if run == "a" or "2026-01-01" in days else "removed")
    # A day without rows had nothing to lose, however long ago it is.
    assert found == {"2026-01-02": "b"}


@pytest.mark.parametrize("kill_after", range(1, 9))
def test_the_first_rows_of_a_day_long_ago_are_published_whole_whatever_was_killed(aws: Any, kill_after: int) -> None:
    glue = aws("glue")
    temporary = write(glue, "a", ("2026-01-01",), ("2026-01-02",), target=BY_KIND)
    try:
        killed = with_calls(aws("glue"), [], kill_after)
        publish(killed, BY_KIND, statement(BY_KIND), temporary, {}, "2026-06-01")
    except Killed:
        pass
    assert publish(glue, BY_KIND, statement(BY_KIND), temporary, {}, "2026-06-01").left == set()
    assert runs_by_day(glue, BY_KIND) == {"2026-01-01": "a", "2026-01-02": "a"}


@pytest.mark.parametrize("says_received", [True, False])
def test_no_row_is_lost_at_the_boundary_however_late_events_come_and_are_deleted(aws: Any, says_received: bool) -> None:
    glue, random, numbers, retention = aws("glue"), Random(7), count(), 4
    day = [(date(2026, 1, 1) + timedelta(days=number)).isoformat() for number in range(25)]
    stored: dict[int, tuple[int, int]] = {}  # the day on which each event happened, and that on which it was received
    rows: dict[str, dict[str, set[int]]] = {}  # what each run wrote, by day
    seen = Counter[str]()
    for now in range(25):
        for _ in range(2):
            stored[next(numbers)] = (random.randint(max(0, now - 12), now), now)
        first, last = sorted((random.randint(max(0, now - 12), now), now - random.randint(0, min(now, 6))))
        run, written, oldest = f"r{now}", dict[str, set[int]](), dict[str, str]()
        for event, (happened, received) in stored.items():
            if first <= happened <= last:
                written.setdefault(day[happened], set()).add(event)
                oldest[day[happened]] = min(oldest.get(day[happened], "9"), day[received])
        rows[run] = written
        # Objects go at the midnight after their time, or some days later: here also while the run goes on.
        for event, (_, received) in list(stored.items()):
            if received + retention < now and random.random() < 0.4:
                del stored[event]
                seen["deleted"] += 1
        before = {one: rows[by][one] for one, by in runs_by_day(glue).items()} if now else {}
        since = oldest if says_received else {}
        gone = day[now - retention] if now >= retention else "2025-01-01"
        temporary = write(glue, run, *((one,) for one in written))
        left = publish(glue, EVENTS, statement(first=day[first], last=day[last]), temporary, since, gone).left
        after = {one: rows[by][one] for one, by in runs_by_day(glue).items()}
        for one, events in before.items():
            assert events <= after.get(one, set()), f"{one} has lost rows on {day[now]}"
        assert all(after[one] == written[one] for one in written if one not in left)
        for one in written:
            is_old = one <= gone
            seen["old days made anew"] += is_old and one in before and one not in left
            seen["old days made for the first time"] += is_old and one not in before
        seen["left"] += len(left)
    assert seen["deleted"] > 0
    assert seen["left"] > 0
    assert seen["old days made for the first time"] > 0
    assert (seen["old days made anew"] > 0) == says_received


class Killed(BaseException):
    """The function's process is gone."""


def with_calls(
    glue: Any, seen: list[str], kill_after: int | None = None, do: Callable[[str], None] | None = None
) -> Any:
    """Note each call of this client; kill the process when one is answered, or do something else then."""

    def answered(model: Any, **_: Any) -> None:
        seen.append(model.name)
        if do:
            do(model.name)
        if kill_after is not None and len(seen) == kill_after:
            raise Killed

    glue.meta.events.register("after-call.glue", answered)
    return glue


CASES: dict[str, tuple[str, ...]] = {
    "first run": (),
    "days that are there, that are new and that go": ("2026-01-01", "2026-01-02"),
}


@pytest.mark.parametrize("before", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("kill_after", range(1, 13))
def test_a_publish_that_is_killed_after_any_call_and_run_again_ends_the_same(
    aws: Any, before: tuple[str, ...], kill_after: int
) -> None:
    glue = aws("glue")
    if before:
        publish_run(glue, "a", *before)
    columns = [*COLUMNS, ("colour", "string")]
    temporary = write(glue, "b", ("2026-01-02",), ("2026-01-03",), columns=columns)
    seen: list[str] = []
    try:
        publish(with_calls(aws("glue"), seen, kill_after), EVENTS, statement(), temporary, {}, "")
    except Killed:
        # Readers in between find each day whole: of the one run or of the other.
        if EVENTS.table in tables(glue):
            found = runs_by_day(glue)
            assert set(found.items()) <= {(day, "a") for day in before} | {("2026-01-02", "b"), ("2026-01-03", "b")}
    else:
        assert kill_after > len(seen), "it was to be killed"
    publish(glue, EVENTS, statement(), temporary, {}, "")
    assert runs_by_day(glue) == {"2026-01-02": "b", "2026-01-03": "b"}
    assert columns_of(glue) == ["name string", "n bigint", "colour string"]
    assert tables(glue) == [EVENTS.table]


@pytest.mark.parametrize("before", CASES.values(), ids=CASES.keys())
def test_every_call_of_publish_is_among_those_that_it_is_killed_after(aws: Any, before: tuple[str, ...]) -> None:
    if before:
        publish_run(aws("glue"), "a", *before)
    temporary = write(aws("glue"), "b", ("2026-01-02",), ("2026-01-03",))
    seen: list[str] = []
    publish(with_calls(aws("glue"), seen), EVENTS, statement(), temporary, {}, "")
    assert 6 <= len(seen) < 12
    assert seen[-1] == "DeleteTable"


@pytest.mark.parametrize("other_days", [("2026-01-01", "2026-01-02"), ("2026-01-03",), ()], ids=" ".join)
@pytest.mark.parametrize("after", range(1, 9))
def test_two_runs_of_the_same_days_leave_each_day_to_one_of_them(
    aws: Any, other_days: tuple[str, ...], after: int
) -> None:
    glue = aws("glue")
    publish_run(glue, "a", "2026-01-01")
    one = write(glue, "b", ("2026-01-01",), ("2026-01-02",))
    other = write(glue, "c", *((day,) for day in other_days))
    seen: list[str] = []

    def run_beside(_: str) -> None:
        if len(seen) == after:
            publish(glue, EVENTS, statement(), other, {}, "")

    publish(with_calls(aws("glue"), seen, do=run_beside), EVENTS, statement(), one, {}, "")
    found = runs_by_day(glue)
    assert set(found.items()) <= {(day, "b") for day in ("2026-01-01", "2026-01-02")} | {(d, "c") for d in other_days}
    # Whoever comes last has the last word.
    publish_run(glue, "d", "2026-01-02")
    assert runs_by_day(glue) == {"2026-01-02": "d"}


@pytest.mark.parametrize("other_days", [(), ("2026-01-02",)], ids=["removes one", "creates one"])
def test_partitions_that_come_or_go_while_a_run_publishes_are_published_all_the_same(
    aws: Any, other_days: tuple[str, ...]
) -> None:
    glue = aws("glue")
    publish_run(glue, "a", "2026-01-01")
    one = write(glue, "b", ("2026-01-01",), ("2026-01-02",))
    other = write(glue, "c", *((day,) for day in other_days))
    seen: list[str] = []

    def run_beside(call: str) -> None:
        # Our second look is at the partitions of the target.
        if call == "GetPartitions" and seen.count(call) == 2:
            publish(glue, EVENTS, statement(), other, {}, "")

    publish(with_calls(aws("glue"), seen, do=run_beside), EVENTS, statement(), one, {}, "")
    assert runs_by_day(glue) == {"2026-01-01": "b", "2026-01-02": "b"}


def test_a_run_that_has_been_published_is_not_published_over_a_later_one(aws: Any) -> None:
    glue = aws("glue")
    publish_run(glue, "a", "2026-01-01")
    publish_run(glue, "b", "2026-01-01")
    publish(glue, EVENTS, statement(), "events_clean__run_a", {}, "")  # tried once more
    assert runs_by_day(glue) == {"2026-01-01": "b"}


def test_what_glue_refuses_for_another_reason_is_not_a_race(aws: Any) -> None:
    class Refusing:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def batch_create_partition(self, **_: Any) -> Json:
            detail = {"ErrorCode": "InternalServiceException", "ErrorMessage": "no"}
            return {"Errors": [{"PartitionValues": ["2026-01-01"], "ErrorDetail": detail}]}

    with pytest.raises(RuntimeError, match=r"Glue does not take a partition of events_clean: .*InternalService"):
        publish_run(Refusing(aws("glue")), "a", "2026-01-01")


# --- Sweep ------------------------------------------------------------------------------------------------------------


def put(s3: Any, run: str, day: str, count: int = 1, target: Target = EVENTS) -> None:
    for number in range(count):
        key = f"{target.zone}/{target.table}/run={run}/dt={day}/{number}"
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"rows")


def keys(s3: Any) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def swept(aws: Any, now: datetime = NOW, has_time: Callable[[], bool] = lambda: True) -> dict[str, int]:
    return sweep(Clients(aws("glue"), aws("s3")), LAKE, [EVENTS], now, has_time)


OLD, OLDER, NEW = (
    new_run(NOW - age, "00000000") for age in (timedelta(days=2), timedelta(days=3), timedelta(hours=23))
)


def test_what_no_partition_points_at_goes_after_a_day(aws: Any) -> None:
    glue, s3 = aws("glue"), aws("s3")
    for run, days in ((OLDER, ("2026-01-01", "2026-01-02")), (OLD, ("2026-01-02", "2026-01-03"))):
        publish_run(glue, run, *days, first=days[0], last=days[1])
        for day in days:
            put(s3, run, day)
    put(s3, NEW, "2026-01-02")  # of an attempt that is not published yet
    put(s3, "by-hand", "2026-01-02")
    s3.put_object(Bucket=BUCKET, Key="events/dt=2026-01-01/x", Body=b"rows")
    assert swept(aws) == {"objects": 1, "tables": 0}
    assert f"processed/events_clean/run={OLDER}/dt=2026-01-02/0" not in keys(s3)
    assert len(keys(s3)) == 6
    assert swept(aws) == {"objects": 0, "tables": 0}
    assert swept(aws, NOW + timedelta(days=1)) == {"objects": 1, "tables": 0}


def test_temporary_tables_of_attempts_that_were_not_published_go_after_a_day(aws: Any) -> None:
    glue = aws("glue")
    publish_run(glue, OLD, "2026-01-01")
    put(aws("s3"), OLD, "2026-01-01")
    for run in (OLD, NEW, "by_hand"):
        write(glue, run)
    write(glue, OLD, target=BY_KIND)  # of a file that this stack does not have
    assert swept(aws) == {"objects": 0, "tables": 1}
    assert f"events_clean__run_{OLD}" not in tables(glue)
    assert len(tables(glue)) == 4


def test_nothing_is_deleted_when_partitions_do_not_point_at_what_is_there(
    aws: Any, caplog: pytest.LogCaptureFixture
) -> None:
    publish_run(aws("glue"), OLD, "2026-01-01")
    put(aws("s3"), OLDER, "2026-01-01")
    assert swept(aws)["objects"] == 0
    assert f"events_clean is not swept: its partition at s3://store/processed/events_clean/run={OLD}/" in caplog.text


def test_sweeping_ends_in_time_and_the_next_run_goes_on(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    glue, s3 = aws("glue"), aws("s3")
    publish_run(glue, OLD, "2026-01-01")
    put(s3, OLD, "2026-01-01")
    put(s3, OLDER, "2026-01-01", 5)
    assert swept(aws, has_time=lambda: False)["objects"] == 0
    monkeypatch.setattr("stacks.refine.function.sweep.MAX_OBJECTS", 3)
    monkeypatch.setattr("stacks.refine.function.sweep.BATCH", 2)
    assert [swept(aws)["objects"] for _ in range(3)] == [3, 2, 0]


# --- The handler ------------------------------------------------------------------------------------------------------


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 300_000


@pytest.fixture
def step(aws: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Json]]:
    """Calls the handler with a step, in the environment that the template gives it."""
    document = {
        "targets": [
            {
                "file": target.file,
                "table": target.table,
                "zone": target.zone,
                "needs": target.needs,
                "moves": target.moves,
                "days": target.days,
                "metrics": target.metrics,
                "sql": target.sql,
                "received": target.received,
            }
            for target in (replace(EVENTS, moves=True), BY_KIND)
        ]
    }
    aws("s3").put_object(Bucket=BUCKET, Key="files.json", Body=json.dumps(document))
    for name, value in {
        "DATABASE": DATABASE,
        "EVENTS_TABLE": "records",
        "BUCKET": BUCKET,
        "FILES_BUCKET": BUCKET,
        "FILES_KEY": "files.json",
        "REFINE_DAYS": "2",
        "EVENTS_RETENTION_DAYS": "",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(handler, "client", lambda service: FakeStates() if service == "stepfunctions" else aws(service))
    handler.read_files.cache_clear()
    same = {"execution": RUNS[0], "moved": None}
    yield lambda name, **event: handler.lambda_handler({"step": name, **same, **event}, Context())
    handler.read_files.cache_clear()


def result_set(*rows: list[str | None]) -> Json:
    """Rows as Athena answers them: NULL is a value that is not there."""
    return {"Rows": [{"Data": [{} if v is None else {"VarCharValue": v} for v in row]} for row in rows]}


def test_a_run_goes_from_plan_to_sweep(aws: Any, step: Callable[..., Json], capsys: pytest.CaptureFixture[str]) -> None:
    request = {"from": "2026-01-01", "to": "2026-01-02", "only": ["by_kind"]}
    planned = step("plan", request=request)
    assert [one["table"] for one in planned["statements"]] == ["by_kind"]
    prepared = step("prepare", statement=planned["statements"][0])
    again = step("prepare", statement={**prepared, "attempt": 2})
    assert again["attempt"] == 2
    assert again["run"] != prepared["run"]
    write(aws("glue"), again["run"], ("2026-01-01",), ("2026-01-02",), target=BY_KIND)
    counts = result_set(["dt", "rows", "rows_in"], ["2026-01-01", "5", "7"], ["2026-01-02", "1", None])
    published = step("publish", statement=again, counts=counts)
    assert published == {
        "step": "publish",
        "table": "by_kind",
        "first": "2026-01-01",
        "last": "2026-01-02",
        "days": 2,
        "rows": 6,
        "notes": [],
    }
    assert set(runs_by_day(aws("glue"), BY_KIND).values()) == {again["run"]}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{key: line[key] for key in line if key != "_aws"} for line in lines] == [
        {"Database": "lake", "Table": "by_kind", "Day": "2026-01-01", "Rows": 5, "RowsIn": 7.0},
        {"Database": "lake", "Table": "by_kind", "Day": "2026-01-02", "Rows": 1},
    ]
    assert lines[0]["_aws"]["CloudWatchMetrics"] == [
        {
            "Namespace": "Sluice",
            "Dimensions": [["Database", "Table"]],
            "Metrics": [{"Name": "Rows"}, {"Name": "RowsIn"}],
        }
    ]
    assert step("sweep") == {"step": "sweep", "objects": 0, "tables": 0}


def test_days_that_stay_as_they_were_or_have_lost_their_rows_reach_people(
    aws: Any,
    step: Callable[..., Json],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EVENTS_RETENTION_DAYS", "30")
    days = [(datetime.now(UTC).date() - timedelta(days=ago)).isoformat() for ago in (32, 31, 29, 28)]
    planned = step("plan", request={"from": days[0], "to": days[-1], "only": ["events_clean"]})["statements"][0]
    notes: list[str] = []
    for there in (days, days[:-1]):
        capsys.readouterr()
        prepared = step("prepare", statement=planned)
        write(aws("glue"), prepared["run"], *((day,) for day in there))
        counts = result_set(["dt", "rows", "$since"], *([day, "5", None] for day in there))
        published = step("publish", statement=prepared, counts=counts)
        made = len(there) if there == days else 1
        assert (published["days"], published["rows"]) == (made, 5 * made)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        lacking = [line["DaysLackingRows"] for line in lines if "DaysLackingRows" in line]
        assert lacking == ([] if there == days else [3])
        notes += published["notes"]
    assert lines[-1]["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["Database"]]
    assert notes == [
        f"events_clean has days that stay as they were, as events behind them may be deleted: {days[0]} to {days[1]}",
        f"events_clean has no rows any more on days that had some: {days[3]}",
    ]
    assert all(note in caplog.text for note in notes)


def test_a_day_that_came_late_is_made_anew_while_its_events_are_there(
    aws: Any, step: Callable[..., Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTS_RETENTION_DAYS", "30")
    request = {"from": "2014-01-01", "to": "2014-01-01", "only": ["events_clean"]}
    for _ in range(2):
        prepared = step("prepare", statement=step("plan", request=request)["statements"][0])
        write(aws("glue"), prepared["run"], ("2014-01-01",))
        counts = result_set(["dt", "rows", "$since"], ["2014-01-01", "5", datetime.now(UTC).date().isoformat()])
        assert step("publish", statement=prepared, counts=counts)["notes"] == []
    assert runs_by_day(aws("glue")) == {"2014-01-01": prepared["run"]}


def test_a_run_without_days_is_as_long_as_the_environment_says(step: Callable[..., Json]) -> None:
    first, second = step("plan", request={})["statements"]
    assert date.fromisoformat(first["last"]) - date.fromisoformat(first["first"]) == timedelta(days=1)
    assert second["table"] == "by_kind"


def test_a_refusal_is_an_error_of_its_own_name_which_the_state_machine_does_not_retry(
    step: Callable[..., Json],
) -> None:
    with pytest.raises(Exception, match="from must be a day") as refusal:
        step("plan", request={"from": "yesterday"})
    assert type(refusal.value).__name__ == "Refused"
    with pytest.raises(Refused, match="there is no step 'publsh'"):
        step("publsh")


def test_a_run_does_nothing_while_another_has_its_turn(aws: Any, step: Callable[..., Json]) -> None:
    prepared = step("prepare", statement=step("plan", request={"only": ["by_kind"]})["statements"][0])
    with pytest.raises(Busy, match=rf"another run is under way, .*: {RUNS[0]}$"):
        step("plan", request={}, execution=RUNS[1])
    with pytest.raises(Busy):
        step("publish", statement=prepared, counts=result_set(["dt", "rows"]), execution=RUNS[1])
    assert tables(aws("glue")) == []


def test_the_days_that_events_were_moved_from_are_asked_for_and_made_anew(step: Callable[..., Json]) -> None:
    request = {"from": "2026-01-05", "to": "2026-01-06"}
    first = step("plan", request=request)
    assert first["ask"].startswith("SELECT DISTINCT date_format(")
    answer = result_set(["dt"], ["2026-01-07"], ["2025-12-01"])
    second = step("plan", request=request, moved=answer)
    assert second["ask"] == ""
    assert [f"{one['table']} {one['first']} {one['last']}" for one in second["statements"]] == [
        f"{table} {days}"
        for table in ("events_clean", "by_kind")
        for days in ("2025-12-01 2025-12-01", "2026-01-05 2026-01-07")
    ]
    assert step("plan", request=request, moved=result_set(["dt"])) == {**first, "ask": ""}


def test_a_missing_permission_is_not_a_refusal(aws: Any) -> None:
    class Denying:
        exceptions = aws("glue").exceptions

        def get_table(self, **_: Any) -> Json:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetTable")

    with pytest.raises(ClientError, match="AccessDenied"):
        publish(Denying(), EVENTS, statement(), "events_clean__run_a", {}, "")
