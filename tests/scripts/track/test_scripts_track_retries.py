"""scripts/track.sh retries temporary errors, and keeps to a rate the API can take."""

from __future__ import annotations

import email.message
import email.utils
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.track import sender
from scripts.commands.track.sender import Entrance, Pacer, Patience, send
from tests.track_api import QUICK, Api, file_of, lines_of

# Retries


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503, 504])
def test_a_fault_that_passes_is_tried_again_with_the_same_id(run: Any, api: Api, status: int) -> None:
    api.answer = lambda number, body: (status if number < 3 else 202, {}, b"{}")
    assert run('{"a": 1}')[0] == 0
    assert len(api.bodies) == 3
    assert len(set(api.bodies)) == 1
    assert len(api.accepted) == 1


@pytest.mark.parametrize("status", [302, 400, 403, 404, 413, 415])
def test_a_refusal_is_final(run: Any, api: Api, status: int) -> None:
    api.answer = lambda number, body: (status, {}, b"{}")
    assert run("{}")[0] == 1
    assert len(api.bodies) == 1


@pytest.mark.usefixtures("one_by_one")
def test_after_the_last_try_the_event_counts_as_refused(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (503 if b'"bad"' in body else 202, {}, b'{"message": "slow down"}')
    code, out, err = run("--file", file_of(tmp_path, '{"n": "bad"}', '{"n": "good"}'))
    assert code == 1
    assert json.loads(out) | {"seconds": 0} == {"accepted": 1, "refused": 1, "seconds": 0, "next_line": None}
    assert "line 1: 503 slow down" in err
    assert len(api.bodies) == QUICK.tries + 1


def test_an_api_that_cannot_be_reached_is_named_in_one_line(run: Any, api: Api) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        api.move(f"http://127.0.0.1:{unused.getsockname()[1]}")
        code, out, err = run("{}")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: cannot reach {api.home}: ") and err.count("\n") == 1
    assert "Connection refused" in err


def test_an_answer_that_comes_too_late_is_asked_for_again_on_a_new_connection(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(number: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        time.sleep(2 if number == 1 else 0)
        return 202, {}, b"{}"

    api.answer = answer
    monkeypatch.setattr(sender, "ANSWER_SECONDS", 1.0)
    (answered,) = send(Entrance(api.url), lines_of({"a": 1}), patience=QUICK, rate=1000)
    assert answered.is_accepted
    assert len(api.bodies) == api.connections == 2


def test_retry_after_is_honoured_as_the_least_pause() -> None:
    patience = Patience(first_seconds=0.001, longest_seconds=0.001, longest_retry_after=9)
    assert patience.pause(1, retry_after=3) == 3
    assert patience.pause(1, retry_after=3600) == 9


def test_retry_after_reaches_the_pause_between_two_tries(api: Api) -> None:
    api.answer = lambda number, body: (503 if number == 1 else 202, {"Retry-After": "60"}, b"{}")
    asked: list[float] = []

    class Watching(Patience):
        def pause(self, tries: int, retry_after: float) -> float:
            asked.append(retry_after)
            return 0.0

    (answer,) = send(Entrance(api.url), lines_of({"a": 1}), patience=Watching(), rate=1000)
    assert answer.is_accepted
    assert asked == [60.0]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (email.utils.formatdate(1_000_030, usegmt=True), 30),
        (email.utils.formatdate(999_000, usegmt=True), 0),
        ("soon", 0),
        ("-3", 0),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(header: str | None, seconds: float) -> None:
    assert sender.seconds_of_retry_after(header, now=1_000_000) == seconds


def test_the_backoff_doubles_up_to_its_limit_with_full_jitter() -> None:
    patience = Patience(first_seconds=1, longest_seconds=10)
    for tries, limit in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (50, 10)):
        pauses = [patience.pause(tries, 0) for _ in range(300)]
        assert 0 <= min(pauses) < limit * 0.2
        assert limit * 0.8 < max(pauses) <= limit


# Pace


def test_requests_are_spaced_evenly_at_the_rate() -> None:
    clock = [100.0]
    pacer = Pacer(10, lambda: clock[0])
    assert [round(pacer.pause(), 6) for _ in range(4)] == [0, 0.1, 0.2, 0.3]
    clock[0] += 60  # an idle minute is not saved up for a burst
    assert [round(pacer.pause(), 6) for _ in range(2)] == [0, 0.1]


def test_the_pace_slows_down_on_429_once_a_second_and_comes_back() -> None:
    clock = [0.0]
    pacer = Pacer(90, lambda: clock[0])
    pacer.throttled()
    pacer.throttled()
    assert pacer.rate == pytest.approx(60)
    clock[0] = 1.0
    pacer.throttled()
    assert pacer.rate == pytest.approx(40)
    for second in range(2, 60):
        clock[0] = second
        pacer.throttled()
    assert pacer.rate == 1
    seconds = 0.0
    while pacer.rate < 90:
        seconds += 1 / pacer.rate
        pacer.accepted()
    assert pacer.rate == 90
    assert 25 < seconds < 35


def test_a_request_takes_a_turn_for_each_10_kb_and_one_at_the_least() -> None:
    pacer = Pacer(10, lambda: 100.0)
    assert [round(pacer.pause(size), 6) for size in (0, 9_999, 500_000, 15_000, 0)] == [0, 0.1, 0.2, 5.2, 5.35]


def test_large_requests_win_the_full_rate_back_in_the_same_time() -> None:
    clock = [0.0]
    pacer = Pacer(90, lambda: clock[0])
    for second in range(60):
        clock[0] = second
        pacer.throttled()
    seconds = 0.0
    while pacer.rate < 90:
        seconds += 4 / pacer.rate
        pacer.accepted(40_000)
    assert 25 < seconds < 40


@pytest.mark.parametrize(("status", "slows"), [(429, True), (503, True), (502, False), (504, False)])
def test_who_is_busy_slows_the_pace(api: Api, monkeypatch: pytest.MonkeyPatch, status: int, slows: bool) -> None:
    throttled: list[int] = []
    monkeypatch.setattr(Pacer, "throttled", lambda self: throttled.append(1))
    api.answer = lambda number, body: (status if number == 1 else 202, {}, b"{}")
    assert len([*send(Entrance(api.url), lines_of({"a": 1}), patience=QUICK, rate=1000)]) == 1
    assert bool(throttled) == slows


def test_a_slow_rate_is_never_raised_by_a_429() -> None:
    pacer = Pacer(0.5, lambda: 5.0)
    pacer.throttled()
    assert pacer.rate == 0.5


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds each request waited for its turn."""
    found: list[float] = []
    pause = Pacer.pause

    def noted(self: Pacer, size: int = 0) -> float:
        found.append(pause(self, size))
        return found[-1]

    monkeypatch.setattr(Pacer, "pause", noted)
    return found


def test_the_rate_limits_what_the_api_sees(api: Api, pauses: list[float]) -> None:
    started = time.monotonic()
    assert len([*send(Entrance(api.url), lines_of(*[{"n": n} for n in range(11)]), rate=100)]) == 11
    assert time.monotonic() - started >= 0.1 >= max(pauses)


def test_the_rate_counts_a_large_request_as_many(api: Api, pauses: list[float]) -> None:
    started = time.monotonic()
    assert len([*send(Entrance(api.url), lines_of(*[{"n": "x" * 100_000}] * 3), rate=100)]) == 3
    assert time.monotonic() - started >= 0.2
    assert max(pauses) < 0.21
