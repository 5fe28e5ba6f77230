"""scripts/replay.sh: its reading of the objects of each zone, its calls, marks and output."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import gzip
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import NoCredentialsError
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from local.firehose.objects import compress
from scripts.commands.common.console import CommandError, guarded
from scripts.commands.deploy.build import SOURCE
from scripts.commands.lake.objects import Corrupt, located, plain
from scripts.commands.lake.rejected import Texts
from scripts.commands.replay import command as replay
from scripts.commands.replay import send as replay_send
from scripts.commands.replay.send import Marks, Paced, send
from scripts.commands.replay.zones import (
    Item,
    event_of,
    judge,
    read_errors,
    read_raw,
    read_rejected,
)
from tests import factories
from tests.factories import EXTENDED_REQUEST_ID, RECEIVED_AT, RECEIVED_AT_TEXT, FakeFirehose, refusal, stand_in
from transform import rejects, streams
from transform.events import Rejected, Settings, transform
from transform.records import read_record, split_texts

DAY = "2026-11-20"
TODAY = Settings()
PRETTY = b'{\n  "name": "John",\n  "value": 100\n}'


def row_of(data: bytes, arrived_at: int = 0) -> dict[str, Any]:
    """The only row of a record."""
    (outcome,) = transform(data, arrived_at, TODAY)
    assert isinstance(outcome, bytes), outcome
    row: dict[str, Any] = json.loads(outcome)
    return row


def rejected_rows(data: bytes, *rejected: Rejected, rejected_at: int = RECEIVED_AT + 5_000) -> bytes:
    """The lines of rejected/ for these rejections of a record, whatever is wrong with its events."""
    return b"".join(rejects.make_rows(read_record(data, RECEIVED_AT), list(rejected), TODAY, rejected_at))


def too_long(position: int = 0) -> Rejected:
    return Rejected("too_long", "name has 9 characters; at most 5 are allowed", position)


# Rejected events become events again


LINES = b'{"name": "Ada"}\n{"name": "John", "value": 100}\n{"name": "Eve"}'
ITEMS = b'[{"name": "Ada"}, ' + PRETTY + b"]"
OF_LIBRARY = b'{"type": "track",\n"messageId": "m 1", "event": "John", "value": 100}'
ONE_EVENT: list[tuple[str, bytes, int]] = [
    ("one event", factories.record({"name": "John", "value": 100}), 0),
    ("an event with an id of its own", factories.record({"event_id": " order 7 ", "name": "John", "value": 100}), 0),
    ("an event on several lines", factories.record(PRETTY), 0),
    ("an event after a byte order mark", factories.record(b"\xef\xbb\xbf" + PRETTY), 0),
    ("a line of many", factories.record(LINES), 1),
    ("an item of an array, on several lines", factories.record(ITEMS), 1),
    ("an item of a record that was put back", factories.record(LINES, position=7, form="lines"), 8),
    ("a query string", factories.record("name=John&value=100", form="query"), 0),
    ("a bare event", b'{"name": "John", "value": 100}', 0),
    ("an event of a library", factories.record({"event": "John", "value": 100}, form="v1/track"), 0),
    (
        "an item of a library's batch",
        factories.record(b'{"sentAt": "x", "batch": [5, %b]}' % OF_LIBRARY, form="v1/batch"),
        1,
    ),
    (
        "a CloudEvent",
        factories.record({"id": "1", "source": "/s", "type": "John", "value": 100}, form="cloudevents"),
        0,
    ),
    ("a text of two parts", factories.record({"name": "John", "value": 100, "long": "x" * 700_000}), 0),
]


@pytest.mark.parametrize(("data", "position"), [case[1:] for case in ONE_EVENT], ids=[case[0] for case in ONE_EVENT])
def test_a_rejected_event_becomes_the_row_that_it_would_have_been_with_the_id_of_its_rejection(
    data: bytes, position: int
) -> None:
    content = rejected_rows(data, too_long(position))
    (item,) = read_rejected(content, Texts())
    (record,) = item.records
    row, rejected = row_of(record), json.loads(content.splitlines()[0])
    assert (row["name"], row["value"]) == ("John", 100.0)
    assert row["event_id"] == rejected["event_id"]
    assert row["received_at"] == row["occurred_at"] == RECEIVED_AT_TEXT
    assert (row["request_id"], row["user_agent"]) == (rejected["request_id"], rejected["user_agent"])
    assert row["ip"] == rejected["ip"]
    assert read_record(record, 0).context.position == position
    verdict = judge(item, TODAY, "rejected")
    assert (verdict.accepted, verdict.obstacle) == (1, "")


ONE_REJECTION: list[tuple[str, bytes, str]] = [
    ("an array inside an array", factories.record(b'[{"name": "x"}, [{"name": "y"}, {"name": "z"}]]'), "not_an_object"),
    ("a line that is cut off", factories.record(b'{"name": "x"}\n[{"a": 1}, {"b": tru}]'), "not_json"),
    ("a text of many lines", factories.record(b"this is\nno JSON\nat all"), "not_json"),
    ("nothing", factories.record(b""), "not_json"),
    ("a number that is none", factories.record({"name": "x", "value": "abc"}), "not_a_number"),
    ("a number that is none, in a query", factories.record("value=abc", form="query"), "not_a_number"),
    (
        "a batch in a batch",
        factories.record({"batch": [{"type": "batch", "batch": [{}]}]}, form="v1/batch"),
        "unknown_type",
    ),
    ("a batch that is none", factories.record(b'{"batch":[{"type":"track"},', form="v1/batch"), "not_json"),
    ("an unknown type", factories.record({"event": "x"}, form="v1/other"), "unknown_type"),
]


@pytest.mark.parametrize(("data", "reason"), [case[1:] for case in ONE_REJECTION], ids=[c[0] for c in ONE_REJECTION])
def test_an_event_that_is_still_wrong_is_held_back_and_stays_one_event(data: bytes, reason: str) -> None:
    (rejected,) = [outcome for outcome in transform(data, RECEIVED_AT, TODAY) if isinstance(outcome, Rejected)]
    (item,) = read_rejected(rejected_rows(data, rejected), Texts())
    verdict = judge(item, TODAY, "rejected")
    assert verdict.rejected == {reason: 1}
    assert verdict.obstacle == f"would be rejected again: {reason}"


@pytest.mark.parametrize("shape", ["lines", "array"])
def test_all_events_of_a_rejection_that_stands_for_many_come_back_ten_thousand_in_a_record(shape: str) -> None:
    events = [b'{\n"event_id": "e%d"}' % number if shape == "array" else b'{"event_id": "e%d"}' % number
              for number in range(30_050)]  # fmt: skip
    body = b"[%b]" % b",".join(events) if shape == "array" else b"\n".join(events)
    data = factories.record(body)
    (rejected,) = [outcome for outcome in transform(data, RECEIVED_AT, TODAY) if isinstance(outcome, Rejected)]
    assert rejected.reason == "too_many_events"
    (item,) = read_rejected(rejected_rows(data, rejected), Texts())
    assert len(item.records) == 3
    rows = [json.loads(row) for record in item.records for row in transform(record, 0, TODAY) if type(row) is bytes]
    assert [row["event_id"] for row in rows] == [f"e{number}" for number in range(10_000, 30_050)]
    assert [read_record(record, 0).context.position for record in item.records] == [10_000, 20_000, 30_000]
    assert judge(item, TODAY, "rejected").accepted == 20_050


def test_parts_of_a_text_are_joined_across_objects_and_in_any_order() -> None:
    content = rejected_rows(factories.record({"name": "John", "long": "x" * 700_000}), too_long())
    first, second = content.splitlines(keepends=True)
    parts = Texts()
    assert read_rejected(second, parts) == []
    assert list(parts.incomplete()) == [("too_long", "part 1 of 2 is missing")]
    (item,) = read_rejected(first, parts)
    assert row_of(*item.records)["name"] == "John"
    assert list(parts.incomplete()) == []


def test_the_same_rejection_delivered_twice_is_one_item_and_its_next_rejection_is_another() -> None:
    data = factories.record({"name": "John"})
    (first,), (again,), (next_time,) = (
        read_rejected(rejected_rows(data, too_long(), rejected_at=moment), Texts()) for moment in (1, 1, 2)
    )
    assert first == again
    assert first.digest != next_time.digest


def test_an_event_that_leaves_no_room_for_its_id_is_held_back() -> None:
    # The record filled its 1,024,000 bytes, and had no id of its own in it.
    data = factories.record({"name": "x" * (1_024_000 - len(factories.record({"name": ""})))})
    assert len(data) == 1_024_000
    (item,) = read_rejected(rejected_rows(data, too_long()), Texts())
    assert "too large" in judge(item, TODAY, "rejected").obstacle


# Failed records


def envelope(data: bytes, **changes: Any) -> dict[str, Any]:
    """An envelope of errors/processing-failed/."""
    return {
        "attemptsMade": 1,
        "arrivalTimestamp": RECEIVED_AT,
        "errorCode": "Lambda.ProcessingFailedStatus",
        "errorMessage": "ProcessingFailed status set for record",
        "attemptEndingTimestamp": RECEIVED_AT + 1_000,
        "rawData": base64.b64encode(data).decode(),
        "lambdaARN": "arn:aws:lambda:us-east-1:123456789012:function:transform",
        **changes,
    }


def as_text(document: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value) for key, value in document.items()}


FORMS: list[tuple[str, Callable[[list[dict[str, Any]]], bytes]]] = [
    ("on lines", lambda found: b"\n".join(json.dumps(one).encode() for one in found) + b"\n"),
    ("right after each other", lambda found: b"".join(json.dumps(one).encode() for one in found)),
    ("on many lines", lambda found: b" ".join(json.dumps(one, indent=2).encode() for one in found)),
    ("gzipped", lambda found: gzip.compress(b"".join(json.dumps(one).encode() for one in found))),
    ("gzipped in members", lambda found: b"".join(gzip.compress(json.dumps(one).encode()) for one in found)),
    (
        "in Hadoop's Snappy",
        lambda found: compress(b"".join(json.dumps(one).encode() for one in found), "HADOOP_SNAPPY"),
    ),
    ("with text for numbers", lambda found: b"\n".join(json.dumps(as_text(one)).encode() for one in found)),
]


@pytest.mark.parametrize("write", [form[1] for form in FORMS], ids=[form[0] for form in FORMS])
def test_envelopes_are_read_however_firehose_writes_them(write: Callable[[list[dict[str, Any]]], bytes]) -> None:
    datas = [factories.record({"name": "a"}), factories.record([{"name": "}{"}, {"name": "b"}])]
    items = read_errors(write([envelope(data) for data in datas]), "processing-failed")
    assert [item.records for item in items] == [(data,) for data in datas]
    assert {item.reason for item in items} == {"Lambda.ProcessingFailedStatus"}


def test_an_envelope_is_read_as_aws_writes_it_and_as_aws_documents_it() -> None:
    first, second = read_errors(factories.read_event("processing_failed.ndjson"), "processing-failed")
    assert first == second
    assert first.reason == "Lambda.FunctionError"
    assert judge(first, TODAY, "errors").accepted == 2


@pytest.mark.parametrize(
    "data",
    [b'{"name": "a"}', b'[{"name": "a"}, {"name": "b"}]', b'{"name": "a"}\nno JSON\n{"name": "b"}'],
    ids=["an object", "an array", "lines"],
)
def test_a_bare_record_that_failed_has_the_ids_of_its_arrival_again(data: bytes) -> None:
    (item,) = read_errors(json.dumps(envelope(data)).encode(), "processing-failed")
    (record,) = item.records
    assert transform(record, RECEIVED_AT + 86_400_000, TODAY) == transform(data, RECEIVED_AT, TODAY)


def test_a_record_that_would_fail_again_is_held_back() -> None:
    (item,) = read_errors(json.dumps(envelope(b"sluice/1 no context line\n{}")).encode(), "processing-failed")
    verdict = judge(item, TODAY, "errors")
    assert verdict.obstacle.startswith("would fail again: context_line: ")


def test_a_failed_record_goes_whole_also_where_some_of_its_events_will_be_rejected() -> None:
    data = factories.record([{"name": "a"}, {"name": "b", "value": "abc"}, {"debug": True}])
    (item,) = read_errors(json.dumps(envelope(data)).encode(), "processing-failed")
    verdict = judge(item, TODAY, "errors")
    assert (verdict.accepted, verdict.rejected, verdict.dropped) == (1, {"not_a_number": 1}, {"debug": 1})
    assert verdict.obstacle == ""


def conversion(*rows: dict[str, Any]) -> bytes:
    """An envelope of errors/format-conversion-failed/."""
    raw = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    changes = {"lastErrorCode": "DataFormatConversion.MalformedData", "sequenceNumber": "1", "subSequenceNumber": 0}
    return json.dumps({**envelope(raw), **changes}).encode()


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose properties have no order."""
    return {**row, "properties": json.loads(row["properties"])}


def test_rows_that_could_not_be_converted_become_the_same_rows_again() -> None:
    event = {"name": "John", "value": 1, "plan": {"id": 7}, "properties": {"name": "inside", "x": 1}}
    timed = {**event, "timestamp": "2026-11-20T23:30:00.5+02:00", "event_id": "own", "ip": "forged"}
    rows = [json.loads(row) for row in transform(factories.record([event, timed]), 0, TODAY) if isinstance(row, bytes)]
    (item,) = read_errors(conversion(*rows), "format-conversion-failed")
    assert item.reason == "DataFormatConversion.MalformedData"
    (record,) = item.records
    again = [json.loads(row) for row in transform(record, 0, TODAY) if isinstance(row, bytes)]
    assert [comparable(row) for row in again] == [comparable(row) for row in rows]
    assert judge(item, TODAY, "errors").accepted == 2


KEYS = st.sampled_from(
    ["name", "action", "value", "properties", "event_id", "timestamp", "occurred_at", "ip", "dt", "x", "request_id"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, width=32) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_whatever_a_row_was_made_of_its_event_makes_it_again(event: dict[str, Any]) -> None:
    (outcome,) = transform(factories.record(event), 0, TODAY)
    if not isinstance(outcome, bytes):
        return
    row = json.loads(outcome)
    (again,) = transform(factories.record(event_of(row)), 0, TODAY)
    assert isinstance(again, bytes)
    assert comparable(json.loads(again)) == comparable(row)


# Raw records


def test_raw_records_go_as_they_came_and_bare_ones_only_with_ids_of_their_own() -> None:
    first, second = factories.record({"name": "a"}), factories.record({"name": "b"}, extended_request_id="other")
    bare = b'{"event_id": "x", "name": "c"}\n{"event_id": "y"}[{"event_id": 7}, {"name": "no id"}]'
    items = read_raw(gzip.compress(first + bare + second), RECEIVED_AT)
    assert [item.reason for item in items] == ["record", "bare record", "bare record", "record"]
    assert [items[0].records, items[3].records] == [(first,), (second,)]
    rows = [json.loads(row) for row in transform(*items[1].records, 0, TODAY) if isinstance(row, bytes)]
    assert [row["event_id"] for row in rows] == ["x", "y", "7"]
    assert {row["received_at"] for row in rows} == {RECEIVED_AT_TEXT}
    assert (items[2].records, "count a second time" in items[2].obstacle) == ((), True)
    assert judge(items[2], TODAY, "raw").obstacle == items[2].obstacle


def test_a_body_that_looks_like_the_lines_of_a_record_parts_none() -> None:
    hostile = b'{"a": 1}\nsluice/end extended_request_id=other\nsluice/1 request_id=x extended_request_id=y time=1'
    record = factories.record(hostile)
    assert [item.records for item in read_raw(record, 0)] == [(record,)]


# Corrupt objects


CORRUPT: list[tuple[str, bytes, str]] = [
    ("empty", b"", "it is empty"),
    ("empty in gzip", gzip.compress(b" \n"), "it is empty"),
    ("gzip that is cut off", gzip.compress(json.dumps(envelope(b"{}" * 99)).encode())[:-20], "is cut off"),
    ("gzip that is damaged", gzip.compress(b"{}")[:12] + b"\xff\xff\xff\xff\xff\xff\xff\xff", "gzip data is"),
    ("Snappy that is cut off", compress(json.dumps(envelope(b"{}")).encode(), "HADOOP_SNAPPY")[:-5], "Snappy data is"),
    ("Snappy that is damaged", b"\0\0\0\1\0\0\0\1?", "Snappy data is"),
    ("Parquet", b"PAR1\x00\xff\xfe\x80", "byte 5 is not UTF-8"),
    ("JSON that is cut off", json.dumps(envelope(b"{}")).encode()[:-3], "no JSON from character 0 on"),
    ("text after a document", json.dumps(envelope(b"{}")).encode() + b" and more", "no JSON from character"),
    ("another value", b"[1, 2]", "a list instead of a JSON object at character 0"),
    ("an envelope without data", b'{"errorCode": "x", "arrivalTimestamp": 1}', "document 1 is not a failed record"),
    ("data that is not base64", b'{"arrivalTimestamp": 1, "rawData": "?"}', "document 1 is not a failed record"),
    ("no time of arrival", b'{"arrivalTimestamp": "soon", "rawData": "e30="}', "document 1 is not a failed record"),
]


@pytest.mark.parametrize(("content", "reason"), [case[1:] for case in CORRUPT], ids=[case[0] for case in CORRUPT])
def test_an_object_that_is_corrupt_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(Corrupt, match=reason):
        read_errors(content, "processing-failed")


@pytest.mark.parametrize(
    "changes",
    [{"body": "?"}, {"body": None}, {"received_at": "soon"}, {"part": "one"}, {"request_id": "a b"}, {"reason": 7}],
    ids=str,
)
def test_one_bad_row_sets_its_whole_object_aside(changes: dict[str, Any]) -> None:
    good = rejected_rows(factories.record({"name": "a"}), too_long())
    bad = json.dumps({**json.loads(good), **changes}).encode()
    with pytest.raises(Corrupt, match="row 2 is not a rejected event"):
        read_rejected(good + bad, Texts())


@given(st.binary())
def test_no_bytes_break_more_than_their_own_object(content: bytes) -> None:
    for read in (lambda: list(located(content)), lambda: plain(content), lambda: read_raw(content, 0)):
        with contextlib.suppress(Corrupt):
            read()


def test_rows_without_rows_of_events_in_them_are_corrupt() -> None:
    with pytest.raises(Corrupt, match="no rows of events"):
        read_errors(json.dumps(envelope(b"[1]")).encode(), "format-conversion-failed")


# The command


KEY = f"dt={DAY}/stream-1-2026-11-20-10-00-00-0c1f6f0e-0000-4000-8000-00000000000"


def archive(**changes: bytes) -> bytes:
    """The zip of this folder's transform."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for path in (path for path in (SOURCE / "transform").iterdir() if path.is_file()):
            written.writestr(f"transform/{path.name}", changes.get(path.stem, path.read_bytes()))
    return file.getvalue()


@functools.cache
def connect() -> Any:
    """Made once, because making it takes longer than a test; each test has its own moto."""
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client("s3", region_name="eu-west-1", **keys)


class Place:
    """A stack with a bucket, and scripts/replay.sh as a person types it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys, self.firehose = capsys, FakeFirehose()
        outputs = {"BucketName": "the-data", "StreamName": "events"}
        self.parameters = {"ArtifactBucket": "artifacts", "TransformCodeKey": "code.zip"}
        self.stack = Stack("sluice", outputs=outputs, parameters=self.parameters)
        self.s3 = connect()
        aws = FakeAws(cloudformation=FakeCloudFormation(self.stack), firehose=self.firehose, s3=self.s3)
        monkeypatch.setattr(replay, "session", lambda local: aws)
        monkeypatch.setattr(streams, "time", stand_in(time, sleep=lambda seconds: None))
        monkeypatch.setattr(replay_send, "Paced", lambda client: client)
        for bucket in ("the-data", "artifacts"):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.s3.put_object(Bucket="artifacts", Key="code.zip", Body=archive())

    def put(self, key: str, content: bytes) -> None:
        self.s3.put_object(Bucket="the-data", Key=key, Body=content)

    def put_failed(self, count: int, number: int = 0, day: str = DAY) -> None:
        """An object of errors/ with so many failed records."""
        records = [factories.record({"event_id": f"{number}-{n}"}) for n in range(count)]
        content = "".join(json.dumps(envelope(record)) for record in records)
        self.put(f"errors/processing-failed/dt={day}/{number}", content.encode())

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run the command; return the output of both streams."""
        assert guarded(replay.replay, [*arguments]) == code
        out, err = self.capsys.readouterr()
        return out + err

    @property
    def sent(self) -> list[bytes]:
        return self.firehose.streams["events"]

    @property
    def marks(self) -> list[str]:
        return [
            item["Key"] for item in self.s3.list_objects_v2(Bucket="the-data", Prefix="replayed/").get("Contents", [])
        ]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    with mock_aws():
        yield Place(monkeypatch, capsys)


def test_what_is_sent_once_is_not_sent_again(place: Place) -> None:
    place.put_failed(1_200)
    shown = place.run("--from", "errors", "--yes")
    assert "Sent 1,200 as 1,200 records" in shown
    assert [count for _, count in place.firehose.calls] == [500, 500, 200]
    assert len(place.marks) == 3
    assert "Nothing to send: 1,200 sent before, 0 held back." in place.run("--from", "errors", "--yes")
    assert len(set(place.sent)) == len(place.sent) == 1_200


def test_what_was_delivered_twice_is_sent_once(place: Place) -> None:
    content = json.dumps(envelope(factories.record({"name": "a"}))).encode()
    for number in range(2):
        place.put(f"errors/processing-failed/dt={DAY}/{number}", content)
    assert "Sent 1 as 1 records" in place.run("--from", "errors", "--yes")
    assert len(place.sent) == 1


def test_a_replay_that_ends_between_a_call_and_its_mark_sends_that_call_alone_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put_failed(1_200)
    add, calls = Marks.add, []

    def add_until_killed(self: Marks, digests: list[str]) -> None:
        calls.append(digests)
        if len(calls) == 2:
            raise KeyboardInterrupt
        add(self, digests)

    monkeypatch.setattr(Marks, "add", add_until_killed)
    place.run("--from", "errors", "--yes", code=130)
    assert len(place.sent) == 1_000
    shown = place.run("--from", "errors", "--yes")
    assert " 500 " in shown.splitlines()[4]  # sent before
    assert len(place.sent) == 1_000 + 700
    assert len(set(place.sent)) == 1_200


def test_records_that_firehose_fails_are_tried_again_and_the_others_are_not(place: Place) -> None:
    place.put_failed(10)
    place.firehose.faults = [refusal("ServiceUnavailableException", 500), {3, 4}]
    place.run("--from", "errors", "--yes")
    assert [count for _, count in place.firehose.calls] == [10, 10, 2]
    assert len(set(place.sent)) == len(place.sent) == 10


def test_when_the_stream_takes_no_more_what_it_took_is_marked(place: Place) -> None:
    place.put_failed(600)
    place.firehose.faults = [None, refusal("AccessDeniedException", 400)]
    shown = place.run("--from", "errors", "--yes", code=1)
    assert "did not take 100 records: ClientError" in shown.splitlines()[-1]
    assert "the same command goes on from here" in shown.splitlines()[-1]
    place.run("--from", "errors", "--yes")
    assert len(set(place.sent)) == len(place.sent) == 600


def test_a_dry_run_shows_by_reason_what_would_become_of_everything_and_sends_nothing(place: Place) -> None:
    records = [factories.record({"name": "a"}), factories.record({"debug": True}), b"sluice/1 broken"]
    place.put("errors/processing-failed/" + KEY, b"".join(json.dumps(envelope(data)).encode() for data in records))
    row = json.loads(row_text := next(iter(transform(factories.record({"name": "x"}), 0, TODAY))))
    assert row_text
    place.put("errors/format-conversion-failed/" + KEY, conversion(row))
    shown = place.run("--from", "errors", "--dry-run").splitlines()
    table = {line.split()[0]: line.split()[1:] for line in shown if "." in line and "  " in line}
    assert table["Lambda.ProcessingFailedStatus"] == ["3", "0", "1", "2", "1", "1", "debug", "0"]
    assert table["DataFormatConversion.MalformedData"] == ["1", "0", "0", "1", "1", "0", "0"]
    assert any(line.startswith("held back: 1 would fail again: context_line") for line in shown)
    assert shown[-1] == "Nothing was sent: leave --dry-run out to send it."
    assert (place.sent, place.marks) == ([], [])


def test_days_reasons_and_a_limit_narrow_what_is_sent(place: Place) -> None:
    for day in (18, 19, 20):
        place.put_failed(10, day, f"2026-11-{day}")
    place.run("--from", "errors", "--since", "2026-11-19", "--until", "2026-11-19", "--yes")
    assert {read_record(data, 0).body[:16] for data in place.sent} == {b'{"event_id": "19'}
    shown = place.run("--from", "errors", "--limit", "4", "--yes")
    assert "--limit is reached" in shown
    assert len(place.sent) == 14
    shown = place.run("--from", "errors", "--reason", "Lambda.ProcessingFailedStatus", "--limit", "100", "--yes")
    assert "--limit" not in shown
    assert len(set(place.sent)) == len(place.sent) == 30


def test_a_corrupt_object_is_set_aside_and_named_and_the_others_are_sent(place: Place) -> None:
    place.put_failed(3)
    place.put("errors/processing-failed/dt=2026-11-20/bad.gz", gzip.compress(b'{"x": 1}')[:-4])
    place.put("errors/splunk-failed/dt=2026-11-20/other", b"{}")
    place.put("errors/notes.txt", b"mine")
    shown = place.run("--from", "errors", "--yes", code=1)
    assert "set aside: errors/processing-failed/dt=2026-11-20/bad.gz: its gzip data is cut off" in shown
    assert "set aside: errors/splunk-failed/dt=2026-11-20/other: what failed as splunk-failed cannot" in shown
    assert "set aside: errors/notes.txt: its key names no day" in shown
    assert len(place.sent) == 3
    place.run("--from", "errors", "--yes", code=1)
    assert len(place.sent) == 3


def test_a_part_that_is_missing_is_named_and_comes_with_its_day(place: Place) -> None:
    content = rejected_rows(factories.record({"name": "John", "long": "x" * 700_000}), too_long())
    for number, part in enumerate(content.splitlines(keepends=True)):
        place.put(f"rejected/dt=2026-11-2{number}/x", part)
    shown = place.run("--from", "rejected", "--since", "2026-11-21", "--yes", code=1)
    assert "set aside: an event rejected as too_long: part 1 of 2 is missing" in shown
    assert place.sent == []
    place.run("--from", "rejected", "--yes")
    assert row_of(*place.sent)["name"] == "John"


def test_a_replay_of_raw_records_that_came_back_into_raw_sends_them_once(place: Place) -> None:
    record = factories.record({"name": "a"})
    place.put("raw/" + KEY, gzip.compress(record + b'{"event_id": "bare"}\n'))
    place.run("--from", "raw", "--yes")
    assert place.sent[0] == record
    place.put("raw/" + KEY.replace(DAY, "2026-11-21"), gzip.compress(b"".join(place.sent)))
    assert "Nothing to send: 2 sent before, 0 held back." in place.run("--from", "raw", "--yes")
    assert len(place.sent) == 2


def test_text_of_an_envelope_steers_no_terminal(place: Place) -> None:
    place.put("errors/processing-failed/" + KEY, json.dumps(envelope(b"{}", errorCode="\x1b[2J\u202eevil")).encode())
    shown = place.run("--from", "errors", "--dry-run")
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\x1b[2J" in shown


def test_a_stack_that_runs_another_transform_is_not_replayed_into(place: Place) -> None:
    place.put_failed(1)
    place.s3.put_object(Bucket="artifacts", Key="code.zip", Body=archive(rules=b"other = 1"))
    shown = place.run("--from", "errors", "--yes", code=2)
    assert "runs another transform than this folder's (transform/rules.py): deploy it first" in shown.splitlines()[-1]
    assert "What is foretold above may not be so" in place.run("--from", "errors", "--dry-run")
    assert place.sent == []


def test_a_mark_that_is_none_stops_the_replay_before_anything_is_sent(place: Place) -> None:
    place.put_failed(1)
    place.put("replayed/errors/x/000001", b"nonsense")
    assert "s3://the-data/replayed/errors/x/000001 is not a mark" in place.run("--from", "errors", "--yes", code=1)
    assert place.sent == []


MISTAKES: list[tuple[str, list[str], str]] = [
    ("no zone", [], "the following arguments are required: --from"),
    ("another zone", ["--from", "events"], "invalid choice: 'events'"),
    ("a day that is none", ["--from", "raw", "--since", "2026-02-30"], "'2026-02-30' is not a day"),
    ("a day in another form", ["--from", "raw", "--until", "20260201"], "'20260201' is not a day"),
    (
        "days in the wrong order",
        ["--from", "raw", "--since", "2026-02-02", "--until", "2026-02-01"],
        "is after --until",
    ),
    ("a limit of none", ["--from", "raw", "--limit", "0"], "'0' is not a number of events above 0"),
    ("a reason for raw", ["--from", "raw", "--reason", "x"], "--reason goes with rejected and errors"),
    ("no such stack", ["--from", "errors", "--stack-name", "other"], "stack 'other' does not exist in eu-west-1"),
    ("an empty zone", ["--from", "rejected"], "s3://the-data/rejected/ is empty"),
    ("raw/ that is switched off", ["--from", "raw"], "RawBackup is off"),
    ("days without anything", ["--from", "errors", "--until", "2020-01-01"], "has no object to 2020-01-01"),
    ("an unknown reason", ["--from", "errors", "--reason", "x"], "the reasons are Lambda.ProcessingFailedStatus"),
    ("nobody to ask", ["--from", "errors"], "stdin is not a terminal to ask at: add --yes"),
]


@pytest.mark.parametrize(("arguments", "line"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES])
def test_a_mistake_is_one_clear_line_and_exit_code_2(place: Place, arguments: list[str], line: str) -> None:
    place.put_failed(1)
    shown = place.run(*arguments, code=2)
    assert line in shown.splitlines()[-1]
    assert shown.splitlines()[-1].startswith("error: ")
    assert place.sent == []


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "CREATE_IN_PROGRESS"])
def test_a_stack_without_outputs_is_named_with_its_status(place: Place, status: str) -> None:
    place.stack.outputs, place.stack.status = {}, status
    assert f"has no outputs: its status is {status}" in place.run("--from", "errors", code=2)


def test_a_stack_of_another_template_is_named(place: Place) -> None:
    place.stack.outputs = {"Other": "x"}
    assert "has no output BucketName: it was not made from this template" in place.run("--from", "errors", code=2)


def test_a_stack_whose_bucket_is_gone_is_named_with_the_way_out(place: Place) -> None:
    place.stack.outputs["BucketName"] = "another"
    shown = place.run("--from", "errors", code=2)
    assert "the bucket another of stack 'sluice' in" in shown
    assert "scripts/destroy.sh" in shown


def test_no_credentials_is_one_line_and_exit_code_2(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(local: bool) -> Any:
        raise NoCredentialsError()

    monkeypatch.setattr(replay, "session", refuse)
    assert place.run("--from", "errors", code=2).startswith("error: no AWS credentials: run `aws configure`")


# Back-pressure


def test_the_pace_halves_with_each_refusal_and_rises_slowly() -> None:
    slept: list[float] = []
    firehose = FakeFirehose(None, {0}, refusal("ServiceUnavailableException", 500), None)
    paced = Paced(firehose, clock=lambda: 0.0, sleep=slept.append)
    record = [{"Data": b"x" * 1_000_000}]
    rates = []
    for _ in range(4):
        try:
            paced.put_record_batch(DeliveryStreamName="events", Records=record)
        except Exception as error:
            assert "ServiceUnavailable" in str(error)
        rates.append(round(paced.rate / 1024 / 1024, 3))
    assert rates == [1.1, 0.55, 0.275, 0.303]
    assert [round(seconds, 2) for seconds in slept] == [0.0, 0.95, 0.87, 1.73]


def test_an_item_of_more_records_than_a_call_takes_is_marked_when_all_are_put(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "time", stand_in(time, sleep=lambda seconds: None))
    monkeypatch.setattr(replay_send, "Paced", lambda client: client)
    marks, firehose = dataclasses.make_dataclass("Fake", [("added", list)])([]), FakeFirehose()
    marks.add = marks.added.append
    items = [Item("x", "small", (b"1",)), Item("x", "large", (b"2",) * 1_200), Item("x", "last", (b"3",))]
    assert send(items, firehose, "events", marks, lambda count: None) == (3, 1_202)
    assert marks.added == [["small"], ["large"], ["last"]]
    assert [count for _, count in firehose.calls] == [1, 500, 500, 200, 1]


def test_a_failing_record_of_an_item_leaves_that_item_unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_send, "Paced", lambda client: client)
    monkeypatch.setattr(replay_send, "put_records", lambda connect, stream, records, left: [None, None, "full", None])
    marks = dataclasses.make_dataclass("Fake", [("added", list)])([])
    marks.add = marks.added.append
    items = [Item("x", "a", (b"1",)), Item("x", "b", (b"2", b"3")), Item("x", "c", (b"4",))]
    with pytest.raises(CommandError, match="did not take 1 records: full"):
        send(items, FakeFirehose(), "events", marks, lambda count: None)
    assert marks.added == [["a", "c"]]


def test_the_id_of_the_request_is_that_of_the_row(place: Place) -> None:
    place.put("rejected/" + KEY, rejected_rows(factories.record({"name": "a"}), too_long()))
    place.run("--from", "rejected", "--yes")
    (record,) = place.sent
    assert read_record(record, 0).context.extended_request_id == EXTENDED_REQUEST_ID
    assert split_texts(read_record(record, 0).body) == ("document", [b'{"name": "a"}'])
