"""Publish's changes to the catalog, also when it is killed or meets another run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from itertools import count
from random import Random
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stacks.refine.function.plan import Refused
from stacks.refine.function.publish import MARK
from tests.stacks.refine.refine_tables import (
    BY_KIND,
    COLUMNS,
    DATABASE,
    EVENTS,
    SESSION,
    Json,
    columns_of,
    publish,
    publish_run,
    runs_by_day,
    statement,
    tables,
    write,
)


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
        killed = with_calls([], kill_after)
        publish(killed, BY_KIND, statement(BY_KIND), temporary, {}, "2026-06-01")
    except Killed:
        pass
    assert publish(glue, BY_KIND, statement(BY_KIND), temporary, {}, "2026-06-01").left == set()
    assert runs_by_day(glue, BY_KIND) == {"2026-01-01": "a", "2026-01-02": "a"}


@pytest.mark.parametrize("says_received", [True, False])
def test_no_row_is_lost_at_the_boundary_however_late_events_come_and_are_deleted(aws: Any, says_received: bool) -> None:
    glue, random, numbers, retention = aws("glue"), Random(7), count(), 4
    day = [(date(2026, 1, 1) + timedelta(days=number)).isoformat() for number in range(25)]
    stored: dict[int, tuple[int, int]] = {}  # the days of each event: happened, received
    rows: dict[str, dict[str, set[int]]] = {}  # the events written by each run, by day
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


def with_calls(seen: list[str], kill_after: int | None = None, do: Callable[[str], None] | None = None) -> Any:
    """A client of its own whose calls are noted; kill the process when one is answered, or do something else then."""

    def answered(model: Any, **_: Any) -> None:
        seen.append(model.name)
        if do:
            do(model.name)
        if kill_after is not None and len(seen) == kill_after:
            raise Killed

    glue = SESSION.client("glue")
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
        publish(with_calls(seen, kill_after), EVENTS, statement(), temporary, {}, "")
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
    publish(with_calls(seen), EVENTS, statement(), temporary, {}, "")
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

    publish(with_calls(seen, do=run_beside), EVENTS, statement(), one, {}, "")
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

    publish(with_calls(seen, do=run_beside), EVENTS, statement(), one, {}, "")
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


def test_a_missing_permission_is_not_a_refusal(aws: Any) -> None:
    class Denying:
        exceptions = aws("glue").exceptions

        def get_table(self, **_: Any) -> Json:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetTable")

    with pytest.raises(ClientError, match="AccessDenied"):
        publish(Denying(), EVENTS, statement(), "events_clean__run_a", {}, "")
