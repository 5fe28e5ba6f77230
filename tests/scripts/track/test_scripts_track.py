"""scripts/track.sh against an HTTP server with answers from each test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.commands.common import console
from scripts.commands.track import command as track
from scripts.commands.track.event_files import event_line
from tests.track_api import Api


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
