"""scripts/refine.sh against scripted Step Functions."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack

from scripts.commands.common import runs
from scripts.commands.common.console import guarded
from stacks.refine import command as refine
from tests.factories import stand_in

ARN = "arn:aws:states:us-east-1:123456789012:stateMachine:refine"
TARGETS = {"targets": [{"table": "processed_events"}, {"table": "daily_events"}]}

Json = dict[str, Any]
Output = tuple[str, str]


def answered(payload: Json) -> Json:
    return {"type": "TaskSucceeded", "taskSucceededEventDetails": {"output": json.dumps({"Payload": payload})}}


def published(table: str, days: int, rows: int, *notes: str) -> Json:
    return answered({"step": "publish", "table": table, "days": days, "rows": rows, "notes": notes})


def busy(run: str) -> Json:
    cause = json.dumps({"errorMessage": f"another run is under way: {run}", "errorType": "Busy"})
    return {"type": "TaskFailed", "taskFailedEventDetails": {"error": "Busy", "cause": cause}}


PLANNED = answered({"step": "plan", "statements": [{"table": t} for t in ("processed_events", "daily_events")]})
QUERIED = {"type": "TaskSucceeded", "taskSucceededEventDetails": {"output": json.dumps({"QueryExecution": {}})}}
DONE = [
    {"type": "ExecutionStarted"},
    PLANNED,
    QUERIED,
    published("processed_events", 100, 12_345),
    published("processed_events", 1, 5, "processed_events has days that stay as they were: 2014-12-31"),
    published("daily_events", 101, 600),
    answered({"step": "sweep", "objects": 0}),
]


class FakeStates:
    """One execution. `looks` has the finding of each look: the status, and the number of events."""

    def __init__(self) -> None:
        self.events = DONE
        self.looks: list[tuple[str, int]] = [("RUNNING", 1), ("RUNNING", 4), ("SUCCEEDED", len(DONE))]
        self.failure: Json = {}
        self.started: list[Json] = []
        self.runs = [{"executionArn": f"{ARN}:run-0"}]

    def start_execution(self, stateMachineArn: str, input: str) -> Json:
        self.started.append({"machine": stateMachineArn, **json.loads(input)})
        return {"executionArn": f"{ARN}:run-1"}

    def list_executions(self, stateMachineArn: str, maxResults: int) -> Json:
        assert (stateMachineArn, maxResults) == (ARN, 1)
        return {"executions": self.runs}

    def describe_execution(self, executionArn: str) -> Json:
        status, self.count = self.looks.pop(0)
        return {"status": status, **(self.failure if status != "RUNNING" else {})}

    def get_paginator(self, name: str) -> FakeStates:
        assert name == "get_execution_history"
        return self

    def paginate(self, executionArn: str) -> list[Json]:
        events = self.events[: self.count]
        return [{"events": events[:2]}, {"events": events[2:]}]


class FakeStore:
    def get_object(self, Bucket: str, Key: str) -> Json:
        assert (Bucket, Key) == ("artifacts", "refinefiles-1.json")
        return {"Body": io.BytesIO(json.dumps(TARGETS).encode())}


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> FakeStates:
    states = FakeStates()
    stack = Stack(
        "sluice",
        outputs={"TrackURL": "https://x", "RefineMachineArn": ARN},
        parameters={"ArtifactBucket": "artifacts", "RefineFilesKey": "refinefiles-1.json"},
    )
    without = Stack("plain", outputs={"TrackURL": "https://x"})
    clients = {"cloudformation": FakeCloudFormation(stack, without), "stepfunctions": states, "s3": FakeStore()}
    monkeypatch.setattr(refine, "session", lambda _: FakeAws(**clients))
    monkeypatch.setattr(runs, "time", stand_in(time, sleep=lambda _: None))
    return states


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = guarded(refine.refine, list(arguments))
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_it_shows_the_rows_of_each_table(states: FakeStates, run: Run) -> None:
    code, out, err = run()
    assert code == 0
    assert err == "processed_events has days that stay as they were: 2014-12-31\n"
    rows = [line.split() for line in out.splitlines() if "events" in line]
    assert rows == [["processed_events", "101", "12,350", "2"], ["daily_events", "101", "600", "1"]]
    assert states.started == [{"machine": ARN}]


def test_it_says_once_which_run_it_waits_for(states: FakeStates, run: Run) -> None:
    states.events = [*DONE[:1], *[busy("one")] * 3, busy("two"), *DONE[1:]]
    states.looks = [("RUNNING", 2), ("RUNNING", 3), ("RUNNING", 5), ("SUCCEEDED", len(states.events))]
    code, _, err = run()
    assert code == 0
    assert err.splitlines()[:2] == [f"another run is under way: {number}" for number in ("one", "two")]


def test_the_last_run_is_shown_without_another_one(states: FakeStates, run: Run) -> None:
    code, out, err = run("--last")
    assert code == 0
    assert states.started == []
    assert err.splitlines()[0] == f"Showing the run {ARN}:run-0"
    assert "12,350" in out


def test_there_may_be_no_last_run(states: FakeStates, run: Run) -> None:
    states.runs = []
    assert run("--last")[::2] == (
        1,
        "error: there was no run in the last 90 days: start one with scripts/refine.sh\n",
    )


def test_it_asks_for_the_days_and_tables_that_are_given(states: FakeStates, run: Run) -> None:
    run("--from", "2026-01-01", "--to", "2026-01-31", "--only", "daily_events", "--only", "processed_events")
    only = ["daily_events", "processed_events"]
    assert states.started == [{"machine": ARN, "from": "2026-01-01", "to": "2026-01-31", "only": only}]


FAILURES: dict[str, tuple[Json, str]] = {
    "a statement": (
        {"error": "RefineFailed", "cause": "daily_events.sql, 2026-01-01 to 2026-01-31: COLUMN_NOT_FOUND: line 13:9"},
        "error: refinement has failed: daily_events.sql, 2026-01-01 to 2026-01-31: COLUMN_NOT_FOUND: line 13:9",
    ),
    "the function": (
        {"error": "Refused", "cause": json.dumps({"errorMessage": "from must be a day", "errorType": "Refused"})},
        "error: refinement has failed: from must be a day",
    ),
    "without a cause": ({"error": "States.Runtime"}, "error: refinement has failed: States.Runtime"),
    "without anything": ({}, "error: refinement has failed: no reason given"),
}


@pytest.mark.parametrize(("failure", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failed_run_says_which_file_and_why(states: FakeStates, run: Run, failure: Json, message: str) -> None:
    states.looks = [("RUNNING", 4), ("FAILED", 4)]
    states.failure = failure
    code, out, err = run()
    assert (code, out) == (1, "")
    assert err.splitlines() == ["Made before that: processed_events", message]


def test_a_stopped_run_is_none_that_has_succeeded(states: FakeStates, run: Run) -> None:
    states.looks = [("ABORTED", 1)]
    code, _, err = run()
    assert code == 1
    assert "error: refinement has aborted: no reason given" in err


def test_ctrl_c_leaves_the_run_going_and_says_which(
    states: FakeStates, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "time", stand_in(time, sleep=interrupt))
    code, _, err = run()
    assert code == 130
    assert f"The run goes on without this script: {ARN}:run-1" in err


WRONG: dict[str, tuple[list[str], str]] = {
    "no day": (["--from", "2026-02-30"], "'2026-02-30' is not a day such as 2026-01-31"),
    "another form of a day": (["--to", "20260131"], "'20260131' is not a day such as 2026-01-31"),
    "backwards": (["--from", "2026-02-02", "--to", "2026-02-01"], "--from 2026-02-02 lies after --to 2026-02-01"),
    "unknown table": (
        ["--only", "daily_event"],
        "no SQL file of the stack makes the table 'daily_event': did you mean",
    ),
    "unlike any table": (["--only", "x"], "the table 'x': there are processed_events, daily_events"),
    "the last run and another": (["--last", "--only", "daily_events"], "--last shows the run before, and starts none"),
    "not switched on": (
        ["--stack-name", "plain"],
        "has no optional stack 'refine': switch it on with scripts/deploy.sh",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_start_nothing(states: FakeStates, run: Run, arguments: list[str], message: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert states.started == []
