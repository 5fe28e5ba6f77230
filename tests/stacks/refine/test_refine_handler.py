"""The refinement function as the state machine calls it, step by step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from stacks.refine.function import handler
from stacks.refine.function.lock import Busy
from stacks.refine.function.plan import Refused
from tests.stacks.refine.refine_tables import (
    BUCKET,
    BY_KIND,
    DATABASE,
    EVENTS,
    RUNS,
    FakeStates,
    Json,
    runs_by_day,
    tables,
    write,
)


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 300_000


@pytest.fixture
def step(aws: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Json]]:
    """Call the handler with a step, in its environment from the template."""
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
    """Rows as Athena answers them: NULL is a missing value."""
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
