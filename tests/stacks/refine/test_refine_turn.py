"""One run of refinement at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stacks.refine.function.lock import KEY, Busy, take_turn
from tests.stacks.refine.refine_tables import BUCKET, MACHINE, RUNS, FakeStates, Json

ELSEWHERE = f"{MACHINE}Before:1"


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
