"""scripts/track.sh against an HTTP server that answers what each test tells it."""

from __future__ import annotations

import contextlib
import email.message
import email.utils
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, CredentialRetrievalError

from scripts.commands.common import console
from scripts.commands.track import command as track
from scripts.commands.track import sender
from scripts.commands.track.event_files import Events, event_line
from scripts.commands.track.sender import (
    PACKED,
    SINGLE,
    Entrance,
    Line,
    Pacer,
    Packing,
    Patience,
    Unreachable,
    packs,
    send,
)
from tests.factories import stand_in
from tests.track_api import FIVES, QUICK, Api, account, events_in, file_of

API_KEY = "a-key-of-twenty-letters-or-more"
ROOT = Path(__file__).resolve().parents[3]


def numbers_in(body: bytes) -> list[int]:
    return [event["n"] for event in events_in(body)]


def lines_of(*events: dict[str, Any]) -> Iterator[Line]:
    return (event_line(number, json.dumps(event).encode(), f"id-{number}") for number, event in enumerate(events, 1))


# One event


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('{"a": 1}', '{"a": 1,"event_id":"X"}', id="an id is added"),
        pytest.param("{}", '{"event_id":"X"}', id="to the empty event too"),
        pytest.param(' {"a": 1 } \r', '{"a": 1,"event_id":"X"}', id="space around it does not matter"),
        pytest.param('{"event_id": "own"}', '{"event_id": "own"}', id="the sender's own id is kept"),
        pytest.param('{"event_id": 7}', '{"event_id": 7}', id="whatever its type"),
        pytest.param('{"event_id": null}', '{"event_id": null,"event_id":"X"}', id="null is not an id"),
        pytest.param('{"v": 1.10, "n": 1e400}', '{"v": 1.10, "n": 1e400,"event_id":"X"}', id="numbers stay as written"),
        pytest.param('{"n": ' + "9" * 5000 + "}", '{"n": ' + "9" * 5000 + ',"event_id":"X"}', id="a very long number"),
        pytest.param('{"é": "\\ud800 ✓"}', '{"é": "\\ud800 ✓","event_id":"X"}', id="unicode stays as written"),
    ],
)
def test_an_event_gets_an_id_and_stays_as_it_was_written(text: str, expected: str) -> None:
    line = event_line(1, text.encode(), "X")
    assert line.problem is None
    assert line.body.decode() == expected
    assert json.loads(line.body, parse_int=float)["event_id"] is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(b'{"a": 1', "not JSON: Expecting ',' delimiter at column 8", id="cut off"),
        pytest.param(b"{'a': 1}", "property name enclosed in double quotes at column 2", id="single quotes"),
        pytest.param(
            b'{"a":\n x}', "Expecting value at line 2, column 2", id="the position in a text of several lines"
        ),
        pytest.param(b"", "not JSON: Expecting value at column 1", id="empty"),
        pytest.param(b'{"a": NaN}', "NaN is not a JSON value", id="NaN"),
        pytest.param(b'{"a": -Infinity}', "-Infinity is not a JSON value", id="infinity"),
        pytest.param(b'{"a": "\xff"}', "not UTF-8: byte 0xff at column 8", id="latin-1"),
        pytest.param(b'[{"a": 1}]', "an event is a JSON object, this is an array", id="array"),
        pytest.param(b"17", "this is a number", id="number"),
        pytest.param(b"true", "this is a boolean", id="boolean"),
        pytest.param(b"null", "this is null", id="null"),
        pytest.param(b"[" * 100_000, "not JSON", id="nested too deeply"),
        pytest.param(b'{"a": "' + b"x" * 1_024_000 + b'"}', "larger than 1,024,000 bytes", id="too large"),
    ],
)
def test_a_line_without_an_event_is_named_with_its_position_and_never_sent(text: bytes, problem: str) -> None:
    line = event_line(3, text, "X")
    assert line.problem is not None and problem in line.problem
    assert (line.number, line.body) == (3, text)


def test_one_event_prints_the_answer_of_the_api_and_tells_its_id(run: Any, api: Api) -> None:
    code, out, err = run('{"name": "John", "action": "charge", "value": 100}')
    assert (code, json.loads(out)) == (0, {"recordId": "r"})
    (event,) = api.accepted
    assert {key: event[key] for key in ("name", "action", "value")} == {
        "name": "John",
        "action": "charge",
        "value": 100,
    }
    assert event["event_id"] in err
    assert api.paths == ["/prod/track"]
    assert api.sent("Content-Type") == ["application/json"]
    assert api.sent("User-Agent") == [track.USER_AGENT]


def test_two_single_events_get_different_ids(run: Any, api: Api) -> None:
    run("{}")
    run("{}")
    assert api.accepted[0]["event_id"] != api.accepted[1]["event_id"]


def test_the_user_agent_can_be_chosen(run: Any, api: Api) -> None:
    assert run("{}", "--user-agent", "Googlebot/2.1")[0] == 0
    assert api.sent("User-Agent") == ["Googlebot/2.1"]


def test_a_single_event_that_is_refused_prints_the_answer_and_fails(run: Any, api: Api) -> None:
    api.answer = lambda number, body: (400, {}, b'{"message": "Invalid request body"}')
    code, out, err = run("{}")
    assert (code, json.loads(out)) == (1, {"message": "Invalid request body"})
    assert err == "error: refused: 400 Invalid request body\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(['{"a": tru}'], 'not JSON: Expecting value at column 7: {"a": tru}', id="malformed JSON"),
        pytest.param(["[1]"], "an event is a JSON object, this is an array", id="an array"),
        pytest.param([], "give one event as JSON, or --file events.ndjson, or - for standard input", id="nothing"),
        pytest.param(["{}", "--file", "x"], "give one event as JSON, or --file", id="event and file"),
        pytest.param(["-", "--file", "x"], "give either - or --file", id="standard input and file"),
        pytest.param(["{}", "--from-line", "2"], "--from-line go with --file", id="from-line without a file"),
        pytest.param(["{}", "--from-line", "0"], "'0' is not a line number", id="line zero"),
        pytest.param(["{}", "--rate", "fast"], "'fast' is not a rate", id="rate in words"),
        pytest.param(["{}", "--rate", "0"], "'0' is not a rate", id="rate zero"),
        pytest.param(["{}", "--user-agent", "a\nb: c"], "is not an HTTP header value", id="header injection"),
        pytest.param(["{}", "--api-key", "secret"], "that is not an API key (20 to 128", id="a key that is none"),
        pytest.param(["{}", "--bogus"], "unrecognized arguments: --bogus", id="unknown option"),
        pytest.param(["{}", "--fil", "x"], "unrecognized arguments: --fil", id="an option's prefix"),
        pytest.param(["--file"], "--file: expected one argument", id="missing value"),
        pytest.param(
            ["--file", "/nowhere/x"], "cannot read '/nowhere/x': No such file or directory", id="missing file"
        ),
        pytest.param(["--file", "/"], "cannot read '/': Is a directory", id="a directory"),
        pytest.param(["{}", "--stack-name", "7up"], "'7up' is not a stack name", id="stack name"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2_and_sends_nothing(
    api: Api, aws: None, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert console.guarded(track.command, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert complaint in err and "secret" not in err
    assert api.bodies == []


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
    """The seconds that each request waited for its turn."""
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


# Files


def test_a_file_goes_to_batch_in_packs_and_is_summed_up(run: Any, api: Api, tmp_path: Path) -> None:
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(12_000)])
    code, out, err = run("--file", path)
    assert code == 0
    assert json.loads(out) | {"seconds": 0} == {"accepted": 12_000, "refused": 0, "seconds": 0, "next_line": None}
    assert sorted(event["n"] for event in api.accepted) == list(range(12_000))
    assert len({event["event_id"] for event in api.accepted}) == 12_000
    assert sorted(len(events_in(body)) for body in api.bodies) == [2_000, 5_000, 5_000]
    assert set(api.paths) == {"/prod/batch"}
    assert set(api.sent("Content-Type")) == {"application/x-ndjson"}
    assert "12,000 accepted, 0 refused" in err


@pytest.mark.usefixtures("one_by_one")
def test_a_stack_without_batch_gets_each_event_on_track(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, _ = run("--file", file_of(tmp_path, *[json.dumps({"n": n}) for n in range(200)]))
    assert (code, json.loads(out)["accepted"], len(api.bodies)) == (0, 200, 200)
    assert set(api.paths) == {"/prod/track"}
    assert set(api.sent("Content-Type")) == {"application/json"}
    assert api.connections <= SINGLE.connections


@pytest.mark.parametrize("packing", [pytest.param(SINGLE, id="single"), pytest.param(FIVES, id="packed")])
def test_answers_come_in_the_order_of_the_lines_however_the_requests_overtake_each_other(
    api: Api, packing: Packing
) -> None:
    def answer(number: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.02 if any(n % 15 == 0 for n in numbers_in(body)) else 0)
        return 202, {}, b"{}"

    api.answer = answer
    answers = [*send(Entrance(api.url, packing), lines_of(*[{"n": n} for n in range(60)]), rate=5000)]
    assert [answer.line.number for answer in answers] == list(range(1, 61))
    assert [event["n"] for event in api.accepted] != list(range(60))


def test_a_line_that_is_not_an_event_is_refused_here_and_the_rest_goes_on(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, err = run("--file", file_of(tmp_path, '{"n": 1}', '{"n": ', "", "[2]", '{"n": 3}'))
    assert code == 1
    assert json.loads(out)["accepted"] == 2 and json.loads(out)["refused"] == 2
    assert "line 2: not JSON: Expecting value at column 7" in err
    assert "line 4: an event is a JSON object, this is an array" in err
    assert sorted(event["n"] for event in api.accepted) == [1, 3]


@pytest.mark.usefixtures("one_by_one")
def test_no_answer_steers_the_terminal(run: Any, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answer = lambda number, body: (400, {}, b"\x1b]0;owned\x07 no")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for arguments in (["{}"], ["--file", file_of(tmp_path, "{}")]):
        _, out, err = run(*arguments)
        assert r"400 \x1b]0;owned\x07 no" in err
        assert not {"\x1b", "\x07"} & set(out + err)


@pytest.mark.usefixtures("one_by_one")
def test_the_first_ten_refusals_are_told_and_all_are_written_to_a_file(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (400, {}, b'{"message": "no"}') if b"bad" in body else (202, {}, b"{}")
    path = file_of(tmp_path, *['{"n": "bad"}'] * 12, "{not json", '{"n": "good"}')
    refused = tmp_path / "refused.ndjson"
    code, _, err = run("--file", path, "--refused", str(refused))
    assert code == 1
    assert err.count("400 no") == 10
    assert "... and 3 more refused" in err
    written = refused.read_text().splitlines()
    assert len(written) == 13
    assert written[-1] == "{not json"
    assert json.loads(written[0])["event_id"]  # sent again from there, it is still the same event


def test_the_file_of_refusals_cannot_be_the_file_to_send(run: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}')
    code, _, err = run("--file", path, "--refused", path)
    assert code == 2 and "that is the file to send" in err
    assert Path(path).read_text() == '{"n": 1}\n'


def test_the_same_file_gives_the_same_ids(run: Any, api: Api, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}', '{"n": 1}', '{"n": 2}')
    run("--file", path)
    first = Counter(event["event_id"] for event in api.accepted)
    run("--file", path, "--from-line", "2")
    again = Counter(event["event_id"] for event in api.accepted[3:])
    assert len(first) == 3  # equal lines are two events
    assert len(again) == 2 and again.keys() < first.keys()


def test_sending_can_begin_at_a_line(run: Any, api: Api, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}', "{broken", '{"n": 3}', '{"n": 4}')
    code, out, _ = run("--file", path, "--from-line", "3")
    assert (code, json.loads(out)["accepted"]) == (0, 2)
    assert sorted(event["n"] for event in api.accepted) == [3, 4]


def test_a_line_beyond_the_end_of_the_file_is_an_error(run: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}')
    code, _, err = run("--file", path, "--from-line", "3")
    assert (code, err) == (2, f"error: --from-line 3: {path} has 1 line\n")
    assert run("--file", path, "--from-line", "2")[0] == 0  # all of it was sent


def test_an_empty_file_sends_nothing_and_succeeds(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, _ = run("--file", file_of(tmp_path))
    assert (code, json.loads(out)["accepted"], api.bodies) == (0, 0, [])


@pytest.mark.usefixtures("in_fives")
def test_when_the_api_goes_away_it_says_how_far_it_came(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (202 if max(numbers_in(body)) < 20 else 0, {}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(100)])
    code, out, err = run("--file", path)
    assert code == 1
    assert json.loads(out)["next_line"] == 21
    assert f"sent 20 lines; go on with: scripts/track.sh --rate 5000 --file {path} --from-line 21" in err
    assert "error: cannot reach http://127.0.0.1:" in err


def lines_read(content: bytes, directory: Path) -> list[Line]:
    path = directory / "content"
    path.write_bytes(content)
    with path.open("rb", buffering=0) as stream:
        return [line for line in Events(stream, "content", threading.Event()).lines() if line is not None]


def test_lines_are_read_as_they_are(tmp_path: Path) -> None:
    filler = b"".join(b'{"n": %d}\n' % n for n in range(100_000))
    lines = lines_read(b'\xef\xbb\xbf{"n": 1}\r\n  \n' + filler + b'{"n": 4}', tmp_path)
    assert (lines[0].number, events_in(lines[0].body)[0]["n"]) == (1, 1)
    assert [line.number for line in lines[1:]] == list(range(3, 100_004))
    assert lines[70_001].body.startswith(b'{"n": 70000,"event_id":"')
    assert (lines[-1].number, events_in(lines[-1].body)[0]["n"]) == (100_003, 4)


def test_no_line_is_held_that_is_too_long(tmp_path: Path) -> None:
    most = b'{"a": "' + b"x" * (sender.LARGEST_EVENT - 30) + b'","event_id":"own"}'
    content = b'{"n": 1}\n' + b"y" * 30_000_000 + b"\n" + most + b'\n{"n": 4}\n'
    tracemalloc.start()
    lines = lines_read(content, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(line.number, line.body[:5]) for line in lines] == [(1, b'{"n":'), (2, b""), (3, b'{"a":'), (4, b'{"n":')]
    assert lines[1].problem == "larger than 1,024,000 bytes, which one Firehose record holds"
    assert lines[2].problem is None
    assert peak < 8_000_000


@pytest.mark.parametrize("packing", [pytest.param(SINGLE, id="single"), pytest.param(FIVES, id="packed")])
def test_a_file_is_read_no_faster_than_it_is_sent(api: Api, packing: Packing) -> None:
    read = 0

    def endless() -> Iterator[Line]:
        nonlocal read
        while True:
            read += 1
            yield event_line(read, b"{}", f"id-{read}")

    before = senders()
    answers = send(Entrance(api.url, packing), endless(), rate=5000)
    for _ in range(100):
        next(answers)
    assert read <= 100 + packing.most_events * (packing.window + 1)
    assert senders() > before
    answers.close()
    assert senders() == before  # nothing goes on behind its back


def senders() -> set[threading.Thread]:
    """The threads that send, or that something else uses as a pool."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of its memory")
def test_a_large_file_is_sent_in_the_memory_of_a_small_one(api: Api, start: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.ndjson"
    with path.open("w") as file:
        file.writelines(f'{{"name": "temperature", "note": "{"x" * 1_500}", "value": {n}}}\n' for n in range(30_000))
    api.accepted = Forgetful()
    api.bodies = Forgetful()
    process = start("--file", str(path), "--rate", "100000", code=DRIVER + PEAK)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["accepted"] == api.accepted.count == 30_000
    before, after = map(int, err.split()[-2:])
    assert after - before < 30_000, "kB more than it has before it reads anything"


class Forgetful(list[Any]):
    """A list that only counts what it is given."""

    count = 0

    def append(self, item: Any) -> None:
        self.count += 1

    def __iadd__(self, items: Any) -> Forgetful:  # type: ignore[override, misc]
        self.count += len(items)
        return self

    def __len__(self) -> int:
        return self.count


def test_whoever_stops_reading_the_answers_gets_the_error_of_the_line_it_belongs_to(api: Api) -> None:
    api.answer = lambda number, body: (202 if json.loads(body)["n"] < 3 else 0, {}, b"{}")
    answers = send(Entrance(api.url), lines_of(*[{"n": n} for n in range(5)]), rate=5000, patience=QUICK)
    assert [next(answers).line.number for _ in range(3)] == [1, 2, 3]
    with pytest.raises(Unreachable, match="cannot reach"):
        next(answers)


# Packs


def sizes(packing: Packing, *lengths: int) -> list[list[int]]:
    """The lengths of the events in each pack."""
    lines = [Line(number, b"x" * length) for number, length in enumerate(lengths, 1)]
    return [[len(line.body) for line in pack] for pack in packs(lines, packing)]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([1], [[1]], id="one event"),
        pytest.param([9] * 3, [[9, 9, 9]], id="as many as are allowed"),
        pytest.param([9] * 4, [[9, 9, 9], [9]], id="one more"),
        pytest.param([49, 50], [[49, 50]], id="exactly full with the newline between"),
        pytest.param([50, 50], [[50], [50]], id="one byte too many"),
        pytest.param([10, 999, 10], [[10], [999], [10]], id="one that is larger than a pack goes alone"),
        pytest.param([100, 1], [[100], [1]], id="one that fills a pack"),
    ],
)
def test_a_pack_holds_so_many_bytes_and_so_many_events(lengths: list[int], expected: list[list[int]]) -> None:
    assert sizes(Packing("x", most_events=3, most_bytes=100, connections=1), *lengths) == expected


def test_no_default_pack_passes_what_a_request_may_carry() -> None:
    assert PACKED.most_bytes < sender.LARGEST_EVENT and PACKED.most_events < 10_000
    assert [len(pack) for pack in sizes(PACKED, *[60] * 12_000)] == [5_000, 5_000, 2_000]
    assert all(sum(pack) + len(pack) - 1 <= 500_000 for pack in sizes(PACKED, *range(1, 3_000)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by the sender's clock, to be set by a test."""
    clock = [100.0]
    monkeypatch.setattr(sender, "time", stand_in(time, monotonic=lambda: clock[0]))
    return clock


def test_a_pack_waits_only_so_long_for_more_lines(clock: list[float]) -> None:
    def slow() -> Iterator[Line | None]:
        for number in range(1, 7):
            yield Line(number, b"{}")
            clock[0] += sender.LINGER_SECONDS / 2
            yield None
        yield None

    found = [[line.number for line in pack] for pack in packs(slow(), PACKED)]
    assert found == [[], [1, 2], [], [], [3, 4], [], [], [5, 6], [], []]


def test_lines_that_are_there_are_packed_in_full_however_slowly(clock: list[float]) -> None:
    def read_by_a_busy_machine() -> Iterator[Line]:
        for number in range(6_000):
            yield Line(number, b"{}")
            clock[0] += 60

    assert [len(pack) for pack in packs(read_by_a_busy_machine(), PACKED)] == [5_000, 1_000]


def answer_413_above(events: int) -> Callable[[int, bytes], tuple[int, dict[str, str], bytes]]:
    def answer(number: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        too_large = len(events_in(body)) > events or b'"huge"' in body
        return (413, {}, b'{"message": "too large"}') if too_large else (202, {}, b"{}")

    return answer


@pytest.mark.usefixtures("in_fives")
def test_a_pack_that_is_too_large_is_posted_again_in_halves(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = answer_413_above(2)
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(12)])
    code, out, _ = run("--file", path)
    assert (code, json.loads(out)["accepted"]) == (0, 12)
    assert sorted(event["n"] for event in api.accepted) == list(range(12))
    assert sorted(map(numbers_in, api.bodies)) == sorted(
        [[0, 1, 2, 3, 4], [0, 1], [2, 3, 4], [2], [3, 4], [5, 6, 7, 8, 9], [5, 6], [7, 8, 9], [7], [8, 9], [10, 11]]
    )


def test_the_halves_keep_the_order_and_only_the_event_that_is_too_large_is_refused(api: Api) -> None:
    api.answer = answer_413_above(5)
    lines = lines_of(*[{"n": "huge" if n == 6 else n} for n in range(20)])
    answers = [*send(Entrance(api.url, FIVES), lines, rate=5000)]
    assert [answer.line.number for answer in answers] == list(range(1, 21))
    assert [(answer.line.number, answer.reason) for answer in answers if not answer.is_accepted] == [
        (7, "413 too large")
    ]
    assert len(api.accepted) == 19


def test_what_follows_a_half_that_no_answer_came_for_is_not_settled(api: Api) -> None:
    def answer(number: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if len(events_in(body)) > 3:
            return 413, {}, b"{}"
        return (0 if 4 in numbers_in(body) else 202), {}, b"{}"

    api.answer = answer
    answers = send(Entrance(api.url, FIVES), lines_of(*[{"n": n} for n in range(10)]), rate=5000, patience=QUICK)
    assert [next(answers).line.number for _ in range(2)] == [1, 2]
    with pytest.raises(Unreachable):
        next(answers)


@pytest.mark.usefixtures("in_fives")
@pytest.mark.parametrize("status", [400, 415])
def test_a_pack_is_refused_as_a_whole_and_the_others_go_on(run: Any, api: Api, tmp_path: Path, status: int) -> None:
    api.answer = lambda number, body: (status if 7 in numbers_in(body) else 202, {}, b'{"message": "no"}')
    refused = tmp_path / "refused.ndjson"
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(15)])
    code, out, err = run("--file", path, "--refused", str(refused))
    assert code == 1
    assert json.loads(out) | {"seconds": 0} == {"accepted": 10, "refused": 5, "seconds": 0, "next_line": None}
    assert [line for line in err.splitlines() if f"{status} no" in line] == [
        f"line {line}: {status} no" for line in (6, 7, 8, 9, 10)
    ]
    assert numbers_in(refused.read_bytes().rstrip()) == [5, 6, 7, 8, 9]
    assert len(api.bodies) == 3


@pytest.mark.usefixtures("in_fives")
def test_a_pack_that_passed_its_last_try_is_refused_and_told(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (503 if 1 in numbers_in(body) else 202, {}, b'{"message": "slow down"}')
    code, out, err = run("--file", file_of(tmp_path, *[json.dumps({"n": n}) for n in range(10)]))
    assert (code, json.loads(out)["accepted"], json.loads(out)["refused"]) == (1, 5, 5)
    assert "line 5: 503 slow down" in err
    tries = [body for body in api.bodies if 1 in numbers_in(body)]
    assert len(tries) == QUICK.tries and len(set(tries)) == 1


# Who may post


class Keys:
    """API Gateway's GetApiKey."""

    def __init__(self, refusal: str | None = None) -> None:
        self.refusal = refusal

    def get_api_key(self, apiKey: str, includeValue: bool) -> dict[str, Any]:
        assert (apiKey, includeValue) == ("k1", True)
        if self.refusal:
            raise ClientError({"Error": {"Code": self.refusal, "Message": "User: x is not authorized"}}, "GetApiKey")
        return {"id": "k1", "value": API_KEY}


@pytest.fixture
def keys(api: Api, aws: None, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """The stack asks for an API key."""
    found = Keys()
    api.stack.parameters["ApiAuth"] = "API_KEY"
    api.stack.outputs["ApiKeyId"] = "k1"
    monkeypatch.setattr(track, "session", lambda local: account(api, apigateway=found))
    return found


@pytest.fixture
def stranger(keys: Keys) -> Keys:
    """Whoever runs the command may not read the key."""
    keys.refusal = "AccessDeniedException"
    return keys


@pytest.mark.usefixtures("keys")
def test_the_stacks_own_key_is_found_and_sent_and_never_printed(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, err = run("{}")
    assert code == 0 and API_KEY not in out + err
    code, out, err = run("--file", file_of(tmp_path, "{}", "{}"))
    assert code == 0 and API_KEY not in out + err
    assert api.sent("x-api-key") == [API_KEY, API_KEY]


@pytest.mark.usefixtures("stranger")
def test_a_key_that_may_not_be_read_is_an_error_that_names_the_permission_and_the_ways_out(run: Any, api: Api) -> None:
    code, out, err = run("{}")
    assert (code, out, api.bodies) == (1, "", [])
    assert err == (
        "error: the stack's API key cannot be read: apigateway:GET on /apikeys/k1 is not allowed to you: ask for that"
        " permission, or give the key in SLUICE_API_KEY or with --api-key\n"
    )


def test_a_key_that_is_gone_is_told_as_aws_tells_it(keys: Keys, run: Any) -> None:
    keys.refusal = "NotFoundException"
    assert run("{}")[2] == "error: GetApiKey failed: NotFoundException: User: x is not authorized\n"


@pytest.mark.usefixtures("stranger")
def test_a_key_can_be_given_and_the_option_wins_over_the_variable(
    run: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_API_KEY", "from-the-environment-of-the-shell")
    assert run("{}")[0] == 0
    assert run("{}", "--api-key", API_KEY)[0] == 0
    assert api.sent("x-api-key") == ["from-the-environment-of-the-shell", API_KEY]


@pytest.mark.usefixtures("in_fives")
def test_the_command_to_go_on_with_does_not_tell_the_key(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (202 if max(numbers_in(body)) < 5 else 0, {}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(9)])
    _, out, err = run("--file", path, "--api-key", API_KEY)
    assert json.loads(out)["next_line"] == 6 and "go on with: scripts/track.sh" in err
    assert API_KEY not in err


@pytest.mark.usefixtures("keys", "in_fives")
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_who_posts_ends_it_with_the_line_to_go_on_from(
    run: Any, api: Api, tmp_path: Path, status: int
) -> None:
    api.answer = lambda number, body: (status if 7 in numbers_in(body) else 202, {}, b'{"message": "Forbidden"}')
    refused = tmp_path / "refused.ndjson"
    path = file_of(tmp_path, "{no event", *[json.dumps({"n": n}) for n in range(1, 1_000)])
    code, out, err = run("--file", path, "--api-key", API_KEY, "--refused", str(refused))
    assert code == 1
    assert json.loads(out) | {"seconds": 0} == {"accepted": 4, "refused": 1, "seconds": 0, "next_line": 6}
    assert f"sent 5 lines; go on with: scripts/track.sh --rate 5000 --file {path} --from-line 6" in err
    assert f"error: not allowed to post: {status} Forbidden: fix the API key in --api-key or SLUICE_API_KEY" in err
    assert refused.read_text() == "{no event\n" and API_KEY not in out + err
    assert len(api.bodies) <= 1 + FIVES.window  # those on their way


@pytest.mark.usefixtures("in_fives")
def test_whoever_may_not_post_is_told_so_before_the_first_line(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (403, {}, b'{"message": "Forbidden"}')
    code, out, _ = run("--file", file_of(tmp_path, "{}", "{}"))
    assert (code, json.loads(out) | {"seconds": 0}) == (
        1,
        {"accepted": 0, "refused": 0, "seconds": 0, "next_line": 1},
    )


@pytest.mark.parametrize(
    ("auth", "options", "way_out"),
    [
        pytest.param(
            "keys", ["--api-key", API_KEY], "fix the API key in --api-key or SLUICE_API_KEY", id="a given key"
        ),
        pytest.param("keys", [], "the stack's own API key k1 was sent: see whether it is enabled", id="the own key"),
        pytest.param("iam", [], "give them execute-api:Invoke, or set AWS_PROFILE", id="a signature"),
        pytest.param("aws", [], "stack 'sluice' asks for no key and no signature", id="neither"),
    ],
)
def test_who_may_not_post_a_single_event_is_told_the_way_out(
    run: Any, api: Api, request: pytest.FixtureRequest, auth: str, options: list[str], way_out: str
) -> None:
    request.getfixturevalue(auth)
    api.answer = lambda number, body: (403, {}, b'{"message": "Forbidden"}')
    code, out, err = run("{}", *options)
    assert (code, json.loads(out)) == (1, {"message": "Forbidden"})
    assert err.startswith("error: not allowed to post: 403 Forbidden: ") and err.count("\n") == 1
    assert way_out in err and API_KEY not in err


def test_a_key_that_is_none_is_told_with_the_variable_that_it_stands_in(
    run: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_API_KEY", "secret")
    code, _, err = run("{}")
    assert (code, api.bodies) == (2, [])
    assert (
        "variable SLUICE_API_KEY: that is not an API key (20 to 128 printable characters)" in err
        and "secret" not in err
    )


def test_an_open_stack_is_sent_neither_key_nor_signature(run: Any, api: Api) -> None:
    run("{}")
    assert api.sent("x-api-key") == api.sent("Authorization") == [None]


def signed_by(path: str, headers: email.message.Message, body: bytes) -> str | None:
    """The access key that signed a request for execute-api, as AWS finds out; None if the signature is wrong."""
    parts = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/eu-west-1/execute-api/aws4_request, "
        r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
        headers["Authorization"],
    )
    assert parts is not None
    names = parts[2].split(";")
    assert {"host", "x-amz-date", "content-type"} <= {*names}
    request = AWSRequest("POST", f"http://nowhere{path}", {name: headers[name] for name in names}, body)
    request.context["timestamp"] = headers["X-Amz-Date"]
    session = boto3.Session(aws_access_key_id=parts[1], aws_secret_access_key="s3cret", aws_session_token="token")
    auth = SigV4Auth(session.get_credentials(), "execute-api", "eu-west-1")
    expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return parts[1] if expected == parts[3] else None


@pytest.fixture
def iam(api: Api, aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack wants signed requests."""
    api.stack.parameters["ApiAuth"] = "AWS_IAM"
    for name, value in (("ACCESS_KEY_ID", "AKIDEXAMPLE"), ("SECRET_ACCESS_KEY", "s3cret"), ("SESSION_TOKEN", "token")):
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.mark.usefixtures("iam")
def test_requests_are_signed_where_the_stack_asks_for_it(run: Any, api: Api, tmp_path: Path) -> None:
    assert run('{"a": "é"}', "--user-agent", "own/1")[0] == 0
    assert run("--file", file_of(tmp_path, '{"n": 1}', '{"n": 2}'), "--api-key", API_KEY)[0] == 0
    assert [signed_by(*request) for request in zip(api.paths, api.headers, api.bodies, strict=True)] == [
        "AKIDEXAMPLE",
        "AKIDEXAMPLE",
    ]
    assert api.paths == ["/prod/track", "/prod/batch"]
    assert api.sent("X-Amz-Security-Token") == ["token", "token"]
    assert api.sent("User-Agent") == ["own/1", track.USER_AGENT]
    assert signed_by(api.paths[0], api.headers[0], b"{}") is None  # this test can tell


@pytest.mark.usefixtures("iam")
def test_each_try_has_a_signature_of_its_own_time(run: Any, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[bytes] = []
    original = SigV4Auth.add_auth
    monkeypatch.setattr(
        SigV4Auth, "add_auth", lambda self, request: (signed.append(request.data), original(self, request))
    )
    api.answer = lambda number, body: (503 if number < 3 else 202, {}, b"{}")
    assert run("{}")[0] == 0
    assert signed == api.bodies and len(signed) == 3


@pytest.mark.usefixtures("iam")
def test_without_credentials_nothing_can_be_signed(run: Any, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda self: None)
    code, _, err = run("{}")
    assert (code, api.bodies) == (2, []) and "no AWS credentials: run `aws configure`" in err


@pytest.mark.usefixtures("iam", "in_fives")
def test_credentials_that_run_out_on_the_way_end_it_with_the_line_to_go_on_from(
    run: Any, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SigV4Auth.add_auth

    def add_auth(self: SigV4Auth, request: AWSRequest) -> None:
        if 7 in numbers_in(request.data):
            raise CredentialRetrievalError(provider="sso", error_msg="the session has expired")
        original(self, request)

    monkeypatch.setattr(SigV4Auth, "add_auth", add_auth)
    code, out, err = run("--file", file_of(tmp_path, *[json.dumps({"n": n}) for n in range(12)]))
    assert (code, json.loads(out)["accepted"], json.loads(out)["next_line"]) == (1, 5, 6)
    assert "--from-line 6" in err and "error: no AWS credentials: run `aws configure`" in err


# Interruption


DRIVER = """
import sys
sys.path[:0] = ["tests", "lambda"]
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack
from scripts.commands.common import console
from scripts.commands.track import command as track, sender
aws = FakeAws(cloudformation=FakeCloudFormation(Stack("sluice", outputs={outputs!r})))
track.session = lambda local: aws
"""
RUN = "console.main(track.command)"
IN_FIVES = "track.PACKED = sender.Packing('application/x-ndjson', 5, 10_000, 4)\n"
# Tells the most memory that it ever held, in kB: before and after. Not ru_maxrss, which the parent's memory counts in.
PEAK = """
import re
peak = lambda: re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())[1]
before = peak()
code = console.guarded(track.command, sys.argv[1:])
print(before, peak(), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def start(api: Api) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a process of its own, which ends with the test."""
    with contextlib.ExitStack() as started:

        def process(*arguments: str, code: str = DRIVER + IN_FIVES + RUN, **options: Any) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", code.format(outputs=api.stack.outputs), *arguments]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = started.enter_context(subprocess.Popen(command, cwd=ROOT, text=True, **pipes, **options))
            started.callback(process.kill)
            return process

        yield process


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [pytest.param(signal.SIGINT, 130, id="Ctrl-C"), pytest.param(signal.SIGTERM, 143, id="kill")],
)
def test_an_interrupted_file_goes_on_without_a_loss_or_a_second_id(
    api: Api, start: Any, tmp_path: Path, number: int, exit_code: int
) -> None:
    interrupted = threading.Event()
    api.answer = lambda number, body: (202 if number <= 30 or interrupted.wait() else 0, {}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(2000)])
    process = start("--file", path, "--rate", "400")
    until(lambda: len(api.bodies) > 30)
    process.send_signal(number)
    interrupted.set()
    out, err = process.communicate()
    assert process.returncode == exit_code
    summary = json.loads(out)
    done = summary["next_line"] - 1
    assert summary["accepted"] == done < 2000
    # Events that follow a gap may have arrived as well: they come again, with their ids.
    assert set(range(done)) <= {event["n"] for event in api.accepted}
    assert f"sent {done:,} lines; go on with: scripts/track.sh --rate 400 --file {path} --from-line {done + 1}" in err
    assert "Traceback" not in err

    again = start("--file", path, "--rate", "5000", "--from-line", str(done + 1))
    again.communicate()
    assert again.returncode == 0
    ids = {(event["n"], event["event_id"]) for event in api.accepted}
    assert sorted(number for number, _ in ids) == list(range(2000))
    assert len({event_id for _, event_id in ids}) == 2000


def test_an_interruption_counts_only_what_is_settled_without_a_gap(api: Api, start: Any, tmp_path: Path) -> None:
    # Line 14 is never accepted: later packs are, but whoever goes on from there must not leave its pack out.
    api.answer = lambda number, body: (503 if 14 in numbers_in(body) else 202, {"Retry-After": "30"}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(1, 200)])
    process = start("--file", path, "--rate", "2000")
    until(lambda: {*range(1, 11), 16} <= {event["n"] for event in api.accepted.copy()})
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130
    assert json.loads(out)["next_line"] == 11


def test_what_a_pipe_brings_is_told_while_it_is_waited_for(api: Api, start: Any) -> None:
    process = start("-", "--rate", "2000", stdin=subprocess.PIPE)
    assert process.stdin is not None
    api.answer = lambda number, body: (413 if len(events_in(body)) > 1 else 400, {}, b'{"message": "no"}')
    process.stdin.write('{"n": 1}\n{"n": 2}\n{"n": ')
    process.stdin.flush()
    assert process.stderr is not None
    assert process.stderr.readline() == "line 1: 400 no\n"  # the pipe is still open, and a line half there
    assert process.stderr.readline() == "line 2: 400 no\n"
    out, _ = process.communicate("3}\n")
    assert json.loads(out)["refused"] == 3
    assert [numbers_in(body) for body in api.bodies if len(events_in(body)) > 1] == [[1, 2]]


def test_ctrl_c_ends_a_wait_for_standard_input(api: Api, start: Any) -> None:
    process = start("-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write('{"n": 1}\n')
    process.stdin.flush()
    until(lambda: len(api.accepted) == 1)
    process.send_signal(signal.SIGINT)
    process.wait()
    out, err = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
    process.stdin.close()
    assert process.returncode == 130
    assert json.loads(out)["accepted"] == 1
    assert "sent 1 line; go on with: scripts/track.sh - --from-line 2" in err


def test_standard_input_is_sent_to_its_end(api: Api, start: Any) -> None:
    process = start("-", "--rate", "2000", stdin=subprocess.PIPE)
    out, _ = process.communicate('{"n": 1}\n{"n": 2}')
    assert process.returncode == 0
    assert json.loads(out)["accepted"] == 2
    assert len({event["event_id"] for event in api.accepted}) == 2


def test_an_interrupted_single_event_says_that_it_was_not_accepted(api: Api, start: Any) -> None:
    api.answer = lambda number, body: (503, {"Retry-After": "60"}, b"{}")
    process = start('{"n": 1}')
    until(lambda: len(api.bodies) == 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "interrupted: the event was not accepted\n"
