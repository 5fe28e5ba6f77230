"""scripts/track.sh against an HTTP server that answers what each test tells it."""

from __future__ import annotations

import email.utils
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.commands import console, sender, track
from scripts.commands.sender import Line, Pacer, Patience, Unreachable, send
from scripts.commands.track import event_line, event_lines

QUICK = Patience(tries=4, first_seconds=0.002, longest_seconds=0.01)
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Api:
    """A /track that keeps what it was sent. `answer` gets a request's number and body: status, headers, body."""

    url: str = ""
    answer: Callable[[int, bytes], tuple[int, dict[str, str], bytes]] = lambda number, body: (
        202,
        {},
        b'{"recordId":"r"}',
    )
    bodies: list[bytes] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0


@pytest.fixture
def api() -> Iterator[Api]:
    state, lock = Api(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with lock:
                state.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                state.bodies.append(body)
                state.agents.append(self.headers["User-Agent"])
                state.types.append(self.headers["Content-Type"])
                number = len(state.bodies)
            status, headers, text = state.answer(number, body)
            if status == 202:
                with lock:
                    state.accepted.append(json.loads(body))
            if status == 0:  # hang up without an answer
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            pass  # a client that hangs up is part of the tests

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/prod/track"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command against the API: (exit code, stdout, stderr)."""
    monkeypatch.setattr(track, "_track_url", lambda options: api.url)
    monkeypatch.setattr(sender, "Patience", lambda: QUICK)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = console.guarded(track.command, [*arguments, "--rate", "5000"])
        return code, *capsys.readouterr()

    return command


def lines_of(*events: dict[str, Any]) -> Iterator[Line]:
    return (event_line(number, json.dumps(event).encode(), f"id-{number}") for number, event in enumerate(events, 1))


def file_of(directory: Path, *lines: str) -> str:
    path = directory / "events.ndjson"
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


# One event


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('{"a": 1}', '{"a": 1,"event_id":"X"}', id="an id is added"),
        pytest.param("{}", '{"event_id":"X"}', id="to the empty event too"),
        pytest.param(' {"a": 1 } \r', '{"a": 1,"event_id":"X"}', id="space around it does not matter"),
        pytest.param('{"event_id": "own"}', '{"event_id": "own"}', id="the sender's own id is kept"),
        pytest.param('{"event_id": 7}', '{"event_id": 7}', id="whatever its type"),
        pytest.param('{"event_id": null}', '{"event_id": null,"event_id":"X"}', id="null is no id"),
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
        pytest.param(b'{"a": NaN}', "NaN is no JSON value", id="NaN"),
        pytest.param(b'{"a": -Infinity}', "-Infinity is no JSON value", id="infinity"),
        pytest.param(b'{"a": "\xff"}', "not UTF-8: byte 0xff at column 8", id="latin-1"),
        pytest.param(b'[{"a": 1}]', "an event is a JSON object, this is an array", id="array"),
        pytest.param(b"17", "this is a number", id="number"),
        pytest.param(b"true", "this is a boolean", id="boolean"),
        pytest.param(b"null", "this is null", id="null"),
        pytest.param(b"[" * 100_000, "not JSON", id="nested too deeply"),
        pytest.param(b'{"a": "' + b"x" * 1_024_000 + b'"}', "larger than 1,024,000 bytes", id="too large"),
    ],
)
def test_what_is_no_event_is_named_with_its_position_and_never_sent(text: bytes, problem: str) -> None:
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
    assert api.types == ["application/json"]
    assert api.agents == [track.USER_AGENT]


def test_two_single_events_get_different_ids(run: Any, api: Api) -> None:
    run("{}")
    run("{}")
    assert api.accepted[0]["event_id"] != api.accepted[1]["event_id"]


def test_the_user_agent_can_be_chosen(run: Any, api: Api) -> None:
    assert run("{}", "--user-agent", "Googlebot/2.1")[0] == 0
    assert api.agents == ["Googlebot/2.1"]


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
        pytest.param(["{}", "--from-line", "0"], "'0' is no line number", id="line zero"),
        pytest.param(["{}", "--rate", "fast"], "'fast' is no rate", id="rate in words"),
        pytest.param(["{}", "--rate", "0"], "'0' is no rate", id="rate zero"),
        pytest.param(["{}", "--user-agent", "a\nb: c"], "is no HTTP header value", id="header injection"),
        pytest.param(["{}", "--bogus"], "unrecognized arguments: --bogus", id="unknown option"),
        pytest.param(["{}", "--fil", "x"], "unrecognized arguments: --fil", id="an option's prefix"),
        pytest.param(["--file"], "--file: expected one argument", id="missing value"),
        pytest.param(
            ["--file", "/nowhere/x"], "cannot read '/nowhere/x': No such file or directory", id="missing file"
        ),
        pytest.param(["--file", "/"], "cannot read '/': Is a directory", id="a directory"),
        pytest.param(["{}", "--stack-name", "7up"], "'7up' is no stack name", id="stack name"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2_and_sends_nothing(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    monkeypatch.setattr(track, "_track_url", lambda options: api.url)
    assert console.guarded(track.command, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert complaint in err
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
        api.url = f"http://127.0.0.1:{unused.getsockname()[1]}/track"
        code, out, err = run("{}")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: cannot reach {api.url.removesuffix('/track')}: ") and err.count("\n") == 1
    assert "Connection refused" in err


def test_an_answer_that_comes_too_late_is_asked_for_again_on_a_new_connection(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(number: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.15 if number == 1 else 0)
        return 202, {}, b"{}"

    api.answer = answer
    monkeypatch.setattr(sender, "ANSWER_SECONDS", 0.05)
    (answered,) = send(api.url, lines_of({"a": 1}), patience=QUICK, rate=1000)
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

    (answer,) = send(api.url, lines_of({"a": 1}), patience=Watching(), rate=1000)
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


def test_a_slow_rate_is_never_raised_by_a_429() -> None:
    pacer = Pacer(0.5, lambda: 5.0)
    pacer.throttled()
    assert pacer.rate == 0.5


def test_the_rate_limits_what_the_api_sees(api: Api) -> None:
    started = time.monotonic()
    assert len([*send(api.url, lines_of(*[{"n": n} for n in range(11)]), rate=100)]) == 11
    assert 0.1 <= time.monotonic() - started < 1


# Files


def test_a_file_is_sent_whole_over_few_connections_and_summed_up(run: Any, api: Api, tmp_path: Path) -> None:
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(500)])
    code, out, err = run("--file", path)
    assert code == 0
    assert json.loads(out) | {"seconds": 0} == {"accepted": 500, "refused": 0, "seconds": 0, "next_line": None}
    assert sorted(event["n"] for event in api.accepted) == list(range(500))
    assert len({event["event_id"] for event in api.accepted}) == 500
    assert api.connections <= sender.CONNECTIONS
    assert "500 accepted, 0 refused" in err


def test_answers_come_in_the_order_of_the_lines_however_the_requests_overtake_each_other(api: Api) -> None:
    def answer(number: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.02 if json.loads(body)["n"] % 7 == 0 else 0)
        return 202, {}, b"{}"

    api.answer = answer
    answers = [*send(api.url, lines_of(*[{"n": n} for n in range(60)]), rate=5000)]
    assert [answer.line.number for answer in answers] == list(range(1, 61))
    assert [event["n"] for event in api.accepted] != list(range(60))


def test_a_line_that_is_no_event_is_refused_here_and_the_rest_goes_on(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, err = run("--file", file_of(tmp_path, '{"n": 1}', '{"n": ', "", "[2]", '{"n": 3}'))
    assert code == 1
    assert json.loads(out)["accepted"] == 2 and json.loads(out)["refused"] == 2
    assert "line 2: not JSON: Expecting value at column 7" in err
    assert "line 4: an event is a JSON object, this is an array" in err
    assert sorted(event["n"] for event in api.accepted) == [1, 3]


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


def test_the_same_file_gives_the_same_ids_and_another_file_others(run: Any, api: Api, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}', '{"n": 1}', '{"n": 2}')
    run("--file", path)
    first = Counter(event["event_id"] for event in api.accepted)
    run("--file", path, "--from-line", "2")
    again = Counter(event["event_id"] for event in api.accepted[3:])
    assert len(first) == 3  # equal lines are two events
    assert len(again) == 2 and again.keys() < first.keys()
    run("--file", file_of(tmp_path, '{"n": 1}', '{"n": 1}', '{"n": 3}'))
    assert not first.keys() & {event["event_id"] for event in api.accepted[5:]}


def test_sending_can_begin_at_a_line(run: Any, api: Api, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}', "{broken", '{"n": 3}', '{"n": 4}')
    code, out, _ = run("--file", path, "--from-line", "3")
    assert (code, json.loads(out)["accepted"]) == (0, 2)
    assert sorted(event["n"] for event in api.accepted) == [3, 4]


def test_a_line_beyond_the_end_of_the_file_is_an_error(run: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}')
    code, _, err = run("--file", path, "--from-line", "2")
    assert (code, err) == (2, f"error: --from-line 2: {path} has 1 lines\n")


def test_an_empty_file_sends_nothing_and_succeeds(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, _ = run("--file", file_of(tmp_path))
    assert (code, json.loads(out)["accepted"], api.bodies) == (0, 0, [])


def test_when_the_api_goes_away_it_says_how_far_it_came(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (202 if json.loads(body)["n"] < 20 else 0, {}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(100)])
    code, out, err = run("--file", path)
    assert code == 1
    assert json.loads(out)["next_line"] == 21
    assert f"sent 20 of 100; go on with: scripts/track.sh --rate 5000 --file {path} --from-line 21" in err
    assert "error: cannot reach http://127.0.0.1:" in err


def test_lines_are_read_as_they_are_and_no_line_is_held_that_is_too_long() -> None:
    huge = b'{"a": "' + b"x" * 3_000_000 + b'"}\n'
    stream = io.BytesIO(b'\xef\xbb\xbf{"n": 1}\r\n' + huge + b'  \n{"n": 4}')
    asked: list[int] = []

    def readline(limit: int) -> bytes:
        asked.append(limit)
        return stream.readline(limit)

    lines = [*event_lines(readline, lambda number: f"id-{number}")]
    assert [line.number for line in lines] == [1, 2, 4]
    assert lines[0].body == b'{"n": 1,"event_id":"id-1"}'
    assert lines[1].problem is not None and "larger than 1,024,000 bytes" in lines[1].problem
    assert lines[2].body == b'{"n": 4,"event_id":"id-4"}'
    assert max(asked) <= sender.LARGEST_EVENT + 2


def test_a_file_is_read_no_faster_than_it_is_sent(api: Api) -> None:
    read = 0

    def endless() -> Iterator[Line]:
        nonlocal read
        while True:
            read += 1
            yield event_line(read, b"{}", f"id-{read}")

    answers = send(api.url, endless(), rate=5000)
    for _ in range(100):
        next(answers)
    assert read <= 100 + sender.WINDOW
    answers.close()
    settled = len(api.bodies)
    time.sleep(0.05)
    assert len(api.bodies) == settled  # nothing goes on behind its back


def test_whoever_stops_reading_the_answers_gets_the_error_of_the_line_it_belongs_to(api: Api) -> None:
    api.answer = lambda number, body: (202 if json.loads(body)["n"] < 3 else 0, {}, b"{}")
    answers = send(api.url, lines_of(*[{"n": n} for n in range(5)]), rate=5000, patience=QUICK)
    assert [next(answers).line.number for _ in range(3)] == [1, 2, 3]
    with pytest.raises(Unreachable, match="cannot reach"):
        next(answers)


# Interruption


DRIVER = """
import sys
from scripts.commands import console, track
track._track_url = lambda options: {url!r}
console.main(track.command)
"""


def start(api: Api, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    code = DRIVER.format(url=api.url)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [pytest.param(signal.SIGINT, 130, id="Ctrl-C"), pytest.param(signal.SIGTERM, 143, id="kill")],
)
def test_an_interrupted_file_goes_on_without_a_loss_or_a_second_id(
    api: Api, tmp_path: Path, number: int, exit_code: int
) -> None:
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(2000)])
    process = start(api, "--file", path, "--rate", "2000")
    until(lambda: len(api.bodies) > 150)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == exit_code
    summary = json.loads(out)
    done = summary["next_line"] - 1
    assert summary["accepted"] == done == len(api.accepted) < 2000
    assert (
        f"sent {done:,} of 2,000; go on with: scripts/track.sh --rate 2000 --file {path} --from-line {done + 1}" in err
    )
    assert "Traceback" not in err

    again = start(api, "--file", path, "--rate", "5000", "--from-line", str(done + 1))
    again.communicate(timeout=20)
    assert again.returncode == 0
    assert sorted(event["n"] for event in api.accepted) == list(range(2000))
    assert len({event["event_id"] for event in api.accepted}) == 2000


def test_an_interruption_counts_only_what_is_settled_without_a_gap(api: Api, tmp_path: Path) -> None:
    # Line 4 is never accepted: later lines are, but whoever goes on from there must not leave it out.
    api.answer = lambda number, body: (503 if json.loads(body)["n"] == 4 else 202, {"Retry-After": "30"}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(1, 200)])
    process = start(api, "--file", path, "--rate", "2000")
    until(lambda: len(api.accepted) >= 20)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert json.loads(out)["next_line"] == 4


def test_ctrl_c_ends_a_wait_for_standard_input(api: Api) -> None:
    process = start(api, "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write('{"n": 1}\n')
    process.stdin.flush()
    until(lambda: len(api.accepted) == 1)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=10)
    out, err = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
    process.stdin.close()
    assert process.returncode == 130
    assert json.loads(out)["accepted"] == 1
    assert "sent 1; go on with: scripts/track.sh - --from-line 2" in err


def test_standard_input_is_sent_to_its_end(api: Api) -> None:
    process = start(api, "-", "--rate", "2000", stdin=subprocess.PIPE)
    out, _ = process.communicate('{"n": 1}\n{"n": 2}', timeout=10)
    assert process.returncode == 0
    assert json.loads(out)["accepted"] == 2
    assert len({event["event_id"] for event in api.accepted}) == 2


def test_an_interrupted_single_event_says_that_it_was_not_accepted(api: Api) -> None:
    api.answer = lambda number, body: (503, {"Retry-After": "60"}, b"{}")
    process = start(api, '{"n": 1}')
    until(lambda: len(api.bodies) == 1)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert (
        err == "interrupted: the event was not accepted\n" or err == "error: interrupted: the event was not accepted\n"
    )
