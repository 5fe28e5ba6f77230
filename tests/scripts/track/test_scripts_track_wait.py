"""scripts/track.sh --wait: its queries of Athena and their time, and its messages about events without rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.track import arrivals
from scripts.commands.track import command as track
from tests.track_api import Api, account, file_of

LATE = 195  # the transform's 15 s, Firehose's 60 s and 120 s beyond them


class Clock:
    """A clock, moved by sleep alone."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - 1_789_999_000

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeAthena:
    """Finds events in the tables of events and of rejected events, each from some second on.

    `table` has the second and the reason for each id, no reason for a row.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock, self.started = clock, clock.now
        self.table: dict[str, list[tuple[float, str | None]]] = {}
        self.everything_after: float | None = None
        self.asked: list[tuple[float, list[str]]] = []
        self.queries: list[str] = []
        self.seconds_per_query = 0.0

    def start_query_execution(self, QueryString: str, **_: Any) -> dict[str, str]:
        ids = [text.replace("''", "'") for text in re.findall(r"'((?:[^']|'')*)'", QueryString.partition(" IN (")[2])]
        self.asked.append((self.clock.now - self.started, ids))
        self.queries.append(QueryString)
        self.clock.sleep(self.seconds_per_query)
        return {"QueryExecutionId": str(len(self.asked) - 1)}

    def get_query_execution(self, QueryExecutionId: str) -> dict[str, Any]:
        done = {"QueryExecutionId": QueryExecutionId, "Status": {"State": "SUCCEEDED"}}
        return {"QueryExecution": done | {"Statistics": {"DataScannedInBytes": 1}}}

    def get_paginator(self, _: str) -> FakeAthena:
        return self

    def paginate(self, QueryExecutionId: str) -> Iterator[dict[str, Any]]:
        second, ids = self.asked[int(QueryExecutionId)]
        names = ["event_id", "reason", "detail"]
        rows: list[list[str | None]] = [[*names]]
        for event_id in ids:
            stored = self.table.get(event_id, [])
            if self.everything_after is not None:
                stored = [*stored, (self.everything_after, None)]
            rows += [[event_id, reason, reason and "why"] for arrives, reason in stored if arrives <= second]
        found = [
            {"Data": [{} if value is None else {"VarCharValue": value} for value in row]}
            for row in dict.fromkeys(map(tuple, rows))
        ]
        columns = [{"Name": name, "Type": "varchar"} for name in names]
        yield {"ResultSet": {"Rows": found, "ResultSetMetadata": {"ColumnInfo": columns}}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(arrivals, "time", clock)
    return clock


@pytest.fixture
def athena(api: Api, aws: None, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> FakeAthena:
    athena = FakeAthena(clock)
    api.stack.outputs |= {"WorkGroupName": "workgroup", "DatabaseName": "lake", "TableName": "records"}
    monkeypatch.setattr(track, "session", lambda local: account(api, athena=athena))
    return athena


def events_of(directory: Path, *ids: str) -> str:
    return file_of(directory, *(json.dumps({"event_id": event_id}) for event_id in ids))


def outcome(out: str) -> tuple[int, int, int]:
    """Rows, rejected and missing."""
    last = json.loads(out.splitlines()[-1])
    return last["rows"], last["rejected"], last["missing"]


def test_events_that_are_rows_are_all_that_is_waited_for(run: Any, athena: FakeAthena, tmp_path: Path) -> None:
    athena.table = {"a": [(50, None)], "b": [(80, None)]}
    code, out, err = run("--file", events_of(tmp_path, "a", "b", "a"), "--wait")
    assert (code, outcome(out)) == (0, (2, 0, 0))
    assert json.loads(out.splitlines()[0])["accepted"] == 3
    assert athena.asked == [(75, ["a", "b"]), (90, ["b"])]  # not before Firehose should have delivered
    assert err.endswith("2 rows, 0 rejected, 0 in neither table after 90 s, for about 0.00010 USD of Athena\n")


def test_a_question_reads_the_days_since_the_run_began_and_the_rejects_since_then(
    run: Any, athena: FakeAthena, clock: Clock
) -> None:
    clock.now = athena.started = 1_789_948_850.0  # 2026-09-21T00:00:50Z: a reject may seem to be of the day before
    athena.everything_after = 0
    assert run("{}", "--wait")[0] == 0
    [sql] = athena.queries
    assert """ FROM "lake"."records" WHERE dt >= '2026-09-20' UNION ALL """ in sql
    assert """ FROM "lake"."records_rejected" WHERE dt >= '2026-09-20' AND received_at >= """ in sql
    assert "TIMESTAMP '2026-09-20 23:59:50'" in sql


def test_a_rejected_event_is_told_with_its_line_and_its_reason(run: Any, athena: FakeAthena, tmp_path: Path) -> None:
    athena.table = {"a": [(50, None)], "b": [(50, "not_a_time")]}
    code, out, err = run("--file", events_of(tmp_path, "a", "b"), "--wait")
    assert (code, outcome(out)) == (0, (1, 1, 0))
    assert "line 2: rejected: not_a_time: why\n" in err


def test_an_event_that_was_rejected_before_and_is_a_row_now_is_a_row(
    run: Any, athena: FakeAthena, tmp_path: Path
) -> None:
    athena.table = {"a": [(0, "not_a_time"), (50, None)]}
    code, out, _ = run("--file", events_of(tmp_path, "a"), "--wait")
    assert (code, outcome(out)) == (0, (1, 0, 0))


def test_an_event_in_neither_table_is_waited_for_until_it_is_late(run: Any, athena: FakeAthena, tmp_path: Path) -> None:
    athena.table = {"a": [(50, None)], "b": [(LATE + 1, None)]}
    code, out, err = run("--file", events_of(tmp_path, "a", "b", "it's"), "--wait")
    assert (code, outcome(out)) == (1, (1, 0, 2))
    assert [second for second, _ in athena.asked] == [*range(75, LATE + 1, 15)]
    assert f"1 row, 0 rejected, 2 in neither table after {LATE} s" in err
    assert "line 2: in neither table: b\nline 3: in neither table: it's\n" in err
    assert """scripts/query.sh history-of-one-event --param "'b'"\n""" in err
    assert "dropped by a rule?   scripts/status.sh\n" in err


def test_what_arrives_while_others_are_asked_for_is_found(
    run: Any, athena: FakeAthena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "IDS_PER_QUERY", 1)
    athena.seconds_per_query = 100
    athena.table = {"a": [(170, None)], "b": [(170, None)], "c": [(170, None)]}
    code, out, _ = run("--file", events_of(tmp_path, "a", "b", "c"), "--wait")
    assert (code, outcome(out)) == (0, (3, 0, 0))


def test_a_query_holds_5000_ids_and_what_was_found_is_not_asked_for_again(
    run: Any, athena: FakeAthena, tmp_path: Path
) -> None:
    ids = [f"{number:032x}" for number in range(12_000)]
    athena.table = {key: [(0, None)] for key in ids}
    athena.table |= {ids[7]: [(80, None)], ids[9_999]: [(80, None)]}
    code, out, _ = run("--file", events_of(tmp_path, *ids), "--wait")
    assert (code, outcome(out)) == (0, (12_000, 0, 0))
    assert [len(asked) for _, asked in athena.asked] == [5_000, 5_000, 2_000, 2]


def test_no_query_is_larger_than_athena_takes_and_ids_that_no_table_has_are_not_asked_for(
    run: Any, athena: FakeAthena, tmp_path: Path
) -> None:
    ids = [f"{number:03}{'é' * 997}''" for number in range(300)]
    athena.everything_after = 0
    code, out, _ = run("--file", events_of(tmp_path, *ids, "x" * 1_025), "--wait")
    assert (code, outcome(out)) == (1, (300, 0, 1))
    assert max(len(sql.encode()) for sql in athena.queries) < 262_144


@pytest.mark.parametrize(
    ("text", "event_id"),
    [
        ('{"event_id": " own "}', "own"),
        ('{"event_id": 12345.0}', "12345"),
        ('{"event_id": 123456789012345678901234567890}', "123456789012345678901234567890"),
        ('{"event_id": "half \\ud83d"}', "half \ufffd"),
    ],
)
def test_an_event_is_looked_for_by_the_id_that_its_row_has(
    run: Any, athena: FakeAthena, text: str, event_id: str
) -> None:
    athena.table = {event_id: [(0, None)]}
    code, out, _ = run(text, "--wait")
    assert (code, outcome(out)) == (0, (1, 0, 0))


def test_refused_events_are_not_waited_for(run: Any, athena: FakeAthena, tmp_path: Path) -> None:
    athena.everything_after = 0
    code, out, _ = run("--file", file_of(tmp_path, '{"event_id": "a"}', "{broken"), "--wait")
    assert (code, outcome(out)) == (1, (1, 0, 0))
    run("--file", file_of(tmp_path, "{broken"), "--wait")
    assert [ids for _, ids in athena.asked] == [["a"]]


def test_a_run_that_was_cut_short_does_not_wait_and_goes_on_waiting(
    run: Any, api: Api, athena: FakeAthena, tmp_path: Path
) -> None:
    api.answer = lambda number, body: (0, {}, b"")
    code, _, err = run("--file", events_of(tmp_path, "a"), "--wait")
    assert code == 1 and athena.asked == []
    assert "--wait --file" in err


def test_a_stack_that_redacts_event_id_is_an_error_before_anything_is_sent(
    run: Any, api: Api, athena: FakeAthena
) -> None:
    api.stack.parameters["RedactFields"] = "email, Event_ID"
    code, _, err = run("{}", "--wait")
    assert (code, api.bodies) == (2, [])
    assert err == "error: RedactFields empties event_id, which --wait finds events by: send without --wait\n"


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ((), "scripts/query.sh rejections"),
        (("--stack-name", "other"), "scripts/query.sh --stack-name other rejections"),
        (("--local",), "scripts/query.sh --local rejections"),
    ],
)
def test_the_last_line_says_where_to_look_for_rejected_events(
    run: Any, api: Api, tmp_path: Path, options: tuple[str, ...], command: str
) -> None:
    api.stack.name = options[1] if "--stack-name" in options else "sluice"
    last = f"In a minute or two, {command} shows those that the transform rejects\n"
    assert run("{}", *options)[2].endswith(last)
    assert run("--file", file_of(tmp_path, "{}"), *options)[2].endswith(last)
    assert "rejections" not in run("--file", file_of(tmp_path, "{"), *options)[2]  # nothing was accepted
