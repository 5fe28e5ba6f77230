"""Rejected events: their rows, and the outcomes of the events beside them."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import factories
from tests.factories import FakeFirehose, LambdaContext, refusal, stand_in
from transform import handler, rejects, streams
from transform.events import Rejected, transform
from transform.handler import lambda_handler
from transform.records import MAX_EVENTS, read_record
from transform.rules import Settings

DEFAULT = Settings()
NOW = 1763706060000
NOW_TEXT = "2025-11-21 06:21:00.000"


def rejected_rows(
    content: Any, configured: Settings = DEFAULT, *, bare: bool = False, **context: Any
) -> list[dict[str, Any]]:
    """The rows of the rejected events in a record."""
    data = content if bare else factories.record(content, **context)
    found = [item for item in transform(data, factories.RECEIVED_AT, configured) if isinstance(item, Rejected)]
    record = read_record(data, factories.RECEIVED_AT, configured)
    lines = list(rejects.make_rows(record, rejects.limit(found), configured, NOW))
    assert all(len(line) <= 1_000_000 for line in lines)
    return [row for line in lines for row in factories.rows(line)]


def text(*rows: dict[str, Any]) -> bytes:
    """The text of one event, from its parts in any order."""
    assert {row["parts"] for row in rows} == {len(rows)}
    assert len({row["event_id"] for row in rows}) == 1
    return b"".join(base64.b64decode(row["body"], validate=True) for row in sorted(rows, key=lambda row: row["part"]))


# --- The row ------------------------------------------------------------------------------------------------------


def test_a_row_has_the_reason_the_text_and_the_request() -> None:
    [row] = rejected_rows('{"value": "abc"}')
    event_id = row.pop("event_id")
    assert (len(event_id), int(event_id, 16) > 0) == (32, True)
    assert row == {
        "reason": "not_a_number",
        "detail": "value must be a number that a double holds",
        "position": 0,
        "part": 1,
        "parts": 1,
        "events": 1,
        "body": base64.b64encode(b'{"value": "abc"}').decode(),
        "received_at": factories.RECEIVED_AT_TEXT,
        "rejected_at": NOW_TEXT,
        "ip": "203.0.113.0",
        "user_agent": factories.USER_AGENT,
        "request_id": factories.REQUEST_ID,
        "extended_request_id": factories.EXTENDED_REQUEST_ID,
        "form": None,
    }


def test_the_columns_are_those_of_the_schema_in_their_order() -> None:
    columns = json.loads(Path(rejects.__file__).with_name("schema.json").read_bytes())["rejected_columns"]
    [row] = rejected_rows("value=oops", form="query")
    assert list(row) == [column["name"] for column in columns]
    types = {"string": str, "bigint": int, "int": int, "timestamp": str}
    assert all(type(row[column["name"]]) is types[column["type"]] for column in columns)


def test_a_bare_record_has_its_arrival_time_and_no_request() -> None:
    [row] = rejected_rows(b"oops", bare=True)
    assert row["received_at"] == factories.RECEIVED_AT_TEXT
    assert [row[key] for key in ("ip", "user_agent", "request_id", "extended_request_id")] == [None] * 4


@pytest.mark.parametrize(
    ("configured", "ip"),
    [
        (Settings("TRUNCATE"), "203.0.113.0"),
        (Settings("FULL"), "203.0.113.0"),
        (Settings("NONE"), None),
        (Settings("FULL", frozenset({"ip"})), None),
    ],
    ids=["TRUNCATE", "FULL", "NONE", "redacted"],
)
def test_the_address_is_never_shown_whole(configured: Settings, ip: str | None) -> None:
    [row] = rejected_rows("oops", configured)
    assert row["ip"] == ip


def test_what_is_redacted_in_a_row_of_events_is_redacted_here() -> None:
    configured = Settings(redact_fields=frozenset({"user_agent", "event_id"}))
    [row] = rejected_rows('{"event_id": "mine", "value": "abc"}', configured)
    assert row["user_agent"] is None
    assert len(row["event_id"]) == 32


@pytest.mark.parametrize(
    ("content", "context", "event_id"),
    [
        ('{"event_id": " mine ", "value": "abc"}', {}, "mine"),
        ('{"event_id": 12345678901234567890, "value": "abc"}', {}, "12345678901234567890"),
        ('[{"event_id": "mine", "value": "abc"}]', {}, "mine"),
        ("event_id=mine&value=abc", {"form": "query"}, "mine"),
        ("oops", {"event_id": "replayed"}, "replayed"),
    ],
    ids=["text", "a whole number", "in an array", "in a query string", "from a replay"],
)
def test_an_event_keeps_its_id(content: str, context: dict[str, Any], event_id: str) -> None:
    [row] = rejected_rows(content, **context)
    assert row["event_id"] == event_id


@pytest.mark.parametrize("own", ['" "', "true", "{}", json.dumps("x" * 1_025)], ids=["blank", "true", "{}", "too long"])
def test_an_id_that_is_not_valid_is_replaced(own: str) -> None:
    [row] = rejected_rows(f'{{"event_id": {own}, "value": "abc"}}')
    assert len(row["event_id"]) == 32


def test_an_id_may_have_1_024_characters() -> None:
    own = "x" * 1_024
    [row] = rejected_rows({"event_id": own, "value": "abc"})
    assert row["event_id"] == own


def test_ids_are_the_same_when_the_record_comes_again_and_differ_otherwise() -> None:
    def ids(**context: Any) -> list[str]:
        return [row["event_id"] for row in rejected_rows("{}\noops\noops", **context)]

    assert ids() == ids()
    assert len({*ids(), *ids(extended_request_id="other="), *ids(position=7)}) == 6


@pytest.mark.parametrize(
    "sent",
    [
        '{"name": "Zoë 😀", "value": "\u2028x"}'.encode(),
        b'{"name": "\xff\xfe"}',
        b"\x00\x1f\x8b\xed\xa0\x80",
        b" \r\n",
        b"1[2]",
    ],
    ids=["unicode", "not UTF-8", "bytes", "white space", "something before an array"],
)
@pytest.mark.parametrize("bare", [False, True], ids=["from the API", "bare"])
def test_the_text_comes_back_byte_for_byte(sent: bytes, bare: bool) -> None:
    assert text(*rejected_rows(sent, bare=bare)) == sent


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda line: line.strip() and b"\n" not in line), max_size=5))
def test_the_text_of_a_line_comes_back_byte_for_byte(lines: list[bytes]) -> None:
    body = b"\n".join([b"{}", *lines])
    rows = rejected_rows(body)
    assert [text(row) for row in rows] == [body.split(b"\n")[row["position"]] for row in rows]


def test_the_text_of_an_item_comes_back_as_it_stands_in_its_array() -> None:
    rows = rejected_rows(b'[ {"value" : "a\\u0062c"}, {"a": 1},\n "x,]" , [ 1,\n2 ], {"value": NaN} ]')
    assert [row["position"] for row in rows] == [0, 2, 3, 4]
    assert [text(row) for row in rows] == [b'{"value" : "a\\u0062c"}', b'"x,]"', b"[ 1,\n2 ]", b'{"value": NaN}']


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(600_000, [600_000]), (600_001, [600_000, 1]), (1_000_000, [600_000, 400_000])],
)
def test_a_long_text_comes_back_from_numbered_parts(size: int, sizes: list[int]) -> None:
    sent = ("é" * 300_000 + "x" * 500_000).encode()[:size]
    rows = rejected_rows(sent)
    assert [(row["part"], row["parts"]) for row in rows] == [(part, len(sizes)) for part in range(1, len(sizes) + 1)]
    assert [len(base64.b64decode(row["body"])) for row in rows] == sizes
    assert text(*rows) == sent


# --- The limits ---------------------------------------------------------------------------------------------------


def test_what_stands_beyond_10_000_events_is_one_row_with_all_their_texts() -> None:
    lines = [b'{"n":%d}' % number for number in range(MAX_EVENTS + 3)]
    [row] = rejected_rows(b"\n".join(lines), position=5)
    assert (row["reason"], row["position"], row["events"]) == ("too_many_events", MAX_EVENTS + 5, 3)
    assert text(row) == b"\n".join(lines[MAX_EVENTS:])


def test_from_the_501st_rejected_event_on_there_is_one_row_for_the_bad_ones_and_the_good_ones_go_on(
    firehose: FakeFirehose, invoke: Any
) -> None:
    lines = [b'{"a":1}', *[b"oops %d" % number for number in range(600)], b'{"name":"good"}', b"last"]
    [reply], metrics = invoke(factories.record(b"\n".join(lines), position=0))
    assert [row["name"] for row in factories.rows(reply["data"])] == [None, "good"]
    rows = firehose.rejected()
    assert [text(row) for row in rows[:500]] == lines[1:501]
    assert text(rows[500]) == b"\n".join([*lines[501:601], b"last"])
    assert (rows[500]["reason"], rows[500]["position"]) == ("too_many_rejects", 501)
    assert rows[500]["detail"] == "a record holds at most 500 rejected events, and 101 more followed"
    assert rows[500]["events"] == 101
    assert metrics["RejectedByReason"] == {"not_json": 500, "too_many_rejects": 101}
    assert (metrics["Received"], metrics["Accepted"], metrics["Rejected"]) == (603, 2, 601)


def test_501_rejected_events_need_no_row_for_the_rest() -> None:
    rows = rejected_rows(b"{}\n" + b"oops\n" * 501, position=0)
    assert [row["reason"] for row in rows] == ["not_json"] * 501


def test_both_limits_at_once_leave_one_row_for_the_rest(firehose: FakeFirehose, invoke: Any) -> None:
    lines = [b"{}", *[b"%d" % number for number in range(MAX_EVENTS + 500)]]
    [_], metrics = invoke(factories.record(b"\n".join(lines)))
    rows = firehose.rejected()
    assert (len(rows), rows[-1]["reason"]) == (501, "too_many_rejects")
    assert text(rows[-1]) == b"\n".join(lines[501:])
    assert sum(row["events"] for row in rows) == len(lines) - 1
    assert (metrics["Received"], metrics["Rejected"]) == (len(lines), len(lines) - 1)


# --- The invocation -----------------------------------------------------------------------------------------------


@pytest.fixture
def firehose(monkeypatch: pytest.MonkeyPatch) -> FakeFirehose:
    firehose = FakeFirehose()
    monkeypatch.setattr(handler, "connect", lambda: firehose)
    monkeypatch.setattr(handler, "REJECT_STREAM", "rejects")
    monkeypatch.setattr(streams, "time", stand_in(time, sleep=lambda seconds: None))
    return firehose


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Any:
    def invoke(*records: bytes, seconds: float = 60) -> tuple[list[Any], dict[str, Any]]:
        reply = lambda_handler(factories.invocation(*records), LambdaContext(seconds))
        return reply["records"], json.loads(capsys.readouterr().out)

    return invoke


def test_rows_are_packed_into_as_few_records_as_hold_them() -> None:
    assert list(rejects.pack([b"aaa", b"bbb", b"ccc", b"ddd", b"eeeeeee", b"f"], most=6)) == [
        *(b"aaabbb", b"cccddd"),
        *(b"eeeeeee", b"f"),
    ]


def test_a_rejected_row_says_when_it_was_rejected(
    firehose: FakeFirehose, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "time", stand_in(time, time_ns=lambda: NOW * 1_000_000 + 999_999))
    invoke(factories.record("oops"))
    assert [row["rejected_at"] for row in firehose.rejected()] == [NOW_TEXT]


MIXED = [{"value": "abc"}, {"name": "good"}, {"debug": True}, {"timestamp": "soon"}]


def test_bad_events_go_to_their_stream_and_their_neighbours_become_rows(firehose: FakeFirehose, invoke: Any) -> None:
    replies, metrics = invoke(factories.record(MIXED), factories.record("oops"), factories.record({"name": "other"}))
    assert [reply["result"] for reply in replies] == ["Ok", "Dropped", "Ok"]
    assert [row["name"] for row in factories.rows(replies[0]["data"])] == ["good"]
    assert [row["reason"] for row in firehose.rejected()] == ["not_a_number", "not_a_time", "not_json"]
    assert [text(row) for row in firehose.rejected()][-1] == b"oops"
    counts = [metrics[name] for name in ("Received", "Accepted", "Dropped", "Rejected", "Failed", "Requeued")]
    assert counts == [6, 2, 1, 3, 0, 0]
    assert metrics["RejectedByReason"] == {"not_a_number": 1, "not_a_time": 1, "not_json": 1}


def test_an_invocation_puts_its_rejects_with_one_call_and_those_of_a_record_as_one(
    firehose: FakeFirehose, invoke: Any
) -> None:
    invoke(*[factories.record([1, 2, 3]) for _ in range(5)])
    assert firehose.calls == [("rejects", 5)]
    assert len(firehose.rejected()) == 15


def test_a_record_whose_rejects_are_not_put_fails_and_emits_no_rows(firehose: FakeFirehose, invoke: Any) -> None:
    failing = {1}
    firehose.faults = [failing, *[{0}] * 1_000]
    records = [factories.record(MIXED) for _ in range(3)]
    replies, metrics = invoke(*records, factories.record({"name": "other"}), seconds=6.001)
    assert [reply["result"] for reply in replies] == ["Ok", "ProcessingFailed", "Ok", "Ok"]
    assert base64.b64decode(replies[1]["data"]) == records[1]
    counts = [metrics[name] for name in ("Received", "Accepted", "Dropped", "Rejected", "Failed")]
    assert counts == [13, 3, 2, 4, 4]
    assert metrics["FailedByReason"] == {"reject_stream": 4}
    assert len(firehose.rejected()) == 4


@pytest.mark.parametrize(
    "error",
    [refusal("AccessDeniedException"), refusal("ResourceNotFoundException"), RuntimeError("a bug")],
    ids=["no permission", "no stream", "anything"],
)
def test_without_the_stream_only_records_with_rejects_fail(
    error: Exception, firehose: FakeFirehose, invoke: Any, caplog: pytest.LogCaptureFixture
) -> None:
    firehose.broken["rejects"] = error
    replies, metrics = invoke(factories.record(MIXED), factories.record({"name": "other"}))
    assert [reply["result"] for reply in replies] == ["ProcessingFailed", "Ok"]
    assert (metrics["Received"], metrics["Accepted"], metrics["Failed"]) == (5, 1, 4)
    [line] = [entry.getMessage() for entry in caplog.records]
    assert line == f"record record-0 failed: reject_stream: on 'rejects': {type(error).__name__}: {error}"


def test_throttling_that_passes_is_not_noticed(firehose: FakeFirehose, invoke: Any) -> None:
    firehose.faults = [refusal("ServiceUnavailableException", 503), {0, 1}, {1}]
    replies, metrics = invoke(factories.record("oops"), factories.record("oops"))
    assert [reply["result"] for reply in replies] == ["Dropped", "Dropped"]
    assert (metrics["Rejected"], len(firehose.rejected())) == (2, 2)


@pytest.mark.parametrize("spare", [0, 400])
def test_a_reply_that_may_have_to_go_back_has_its_place_kept(
    spare: int, firehose: FakeFirehose, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One short row comes of a long record. If its rejects are not put, the record goes back, as long as it was."""
    firehose.broken["rejects"] = refusal("AccessDeniedException")
    found = [factories.record(b"{}\n" + b"x" * 5_000), factories.record([{}] * 60)]
    as_they_came = json.dumps(factories.invocation(*found)["records"])
    monkeypatch.setattr(handler, "REPLY_LIMIT", len(as_they_came) + spare)
    replies, _ = invoke(*found)
    assert replies[0]["result"] == "ProcessingFailed"
    assert len(json.dumps({"records": replies})) <= len(as_they_came) + spare


def test_nothing_of_a_rejected_event_is_logged(
    firehose: FakeFirehose, invoke: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("DEBUG"):
        _, metrics = invoke(factories.record({"value": "hunter2"}))
    assert caplog.records == []
    assert "hunter2" not in json.dumps(metrics)
