"""Events beyond the reply's room go back on the stream, until every event is settled exactly once."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import factories
from tests.factories import FakeFirehose, LambdaContext, refusal, stand_in
from transform import handler, records, streams
from transform.events import Accepted, Rejected, transform
from transform.records import read_record, split_texts, write_rest
from transform.rules import Settings

ARRIVED_AT = factories.RECEIVED_AT
COUNTS = ("Received", "Accepted", "Dropped", "Rejected", "Failed")


@contextmanager
def reply_limit(limit: int, firehose: FakeFirehose) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "REPLY_LIMIT", limit)
        patch.setattr(handler, "REJECT_STREAM", "rejects")
        patch.setattr(handler, "connect", lambda: firehose)
        patch.setattr(streams, "time", stand_in(time, sleep=lambda seconds: None))
        yield


def invoke(*found: bytes, again: int = 0) -> tuple[list[Any], dict[str, Any]]:
    """Invoke the transform; the last records, `again` of them, have arrived for the second time, and later."""
    event = factories.invocation(*found)
    for record in event["records"][len(found) - again :]:
        record["approximateArrivalTimestamp"] += 1
    with redirect_stdout(StringIO()) as printed:
        reply = handler.lambda_handler(event, LambdaContext())
    metrics = json.loads(printed.getvalue())
    assert metrics["Received"] == sum(metrics[name] for name in COUNTS[1:])
    assert len(json.dumps(reply)) <= max(handler.REPLY_LIMIT, len(json.dumps(event)))
    return reply["records"], metrics


class Run:
    """Records through the transform, and then those it puts back, until nothing comes back."""

    def __init__(self, found: list[bytes], limit: int, together: int = 1) -> None:
        self.rows: list[bytes] = []
        self.failed: list[bytes] = []
        self.rounds = 0
        self.totals: Counter[str] = Counter()
        firehose = FakeFirehose()
        waiting, unseen = list(found), len(found)
        with reply_limit(limit, firehose):
            while waiting:
                batch, waiting = waiting[:together], waiting[together:]
                replies, metrics = invoke(*batch, again=max(0, len(batch) - unseen))
                unseen = max(0, unseen - len(batch))
                self.rounds += 1
                self.totals.update({name: metrics[name] for name in COUNTS})
                assert metrics["Received"] > 0 or not metrics["Requeued"], "an invocation settled nothing"
                for sent, reply in zip(batch, replies, strict=True):
                    if reply["result"] == "Ok":
                        self.rows += base64.b64decode(reply["data"]).splitlines(keepends=True)
                    elif reply["result"] == "ProcessingFailed":
                        self.failed.append(sent)
                waiting += firehose.streams.pop(factories.STREAM, [])
        self.rejected = firehose.rejected()


def expected(data: bytes) -> tuple[list[bytes], int]:
    """The rows of a record when there is room for all, and how many of its events are rejected."""
    outcomes = transform(data, ARRIVED_AT, Settings())
    rows = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    return rows, sum(outcome.events for outcome in outcomes if isinstance(outcome, Rejected))


def room_for(rows: list[bytes]) -> int:
    """The limit of a reply with room for any one of these rows."""
    longest = max(map(len, rows), default=0)
    return handler.base64_length(longest) + handler.REPLY_OVERHEAD + len("record-0")


# --- The proof of its end ---------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
objects = st.dictionaries(
    st.sampled_from(["name", "value", "event_id", "debug", "timestamp", "x", "type", "messageId"]),
    scalars | st.lists(scalars, max_size=2) | st.sampled_from(["100", "track"]),
    max_size=4,
)
texts = st.one_of(
    st.builds(json.dumps, objects),
    st.builds(lambda event: json.dumps(event, indent=1), objects),
    st.sampled_from(
        ["oops", "1", "[{}]", '"x,]"', "NaN", '{"value": 1e400}', '{"debug": true}', "[1,\n2]", '{"a":', ""]
    ),
)
ends = st.sampled_from(["", "\n", " ", "\ufeff"])
bodies = st.one_of(
    st.builds(lambda found, end: "[" + ",".join(found) + "]" + end, st.lists(texts, max_size=9), ends),
    st.builds(lambda found, end: end + "[\n" + "\n,\n".join(found) + "]", st.lists(texts, max_size=9), ends),
    st.builds(lambda found, end: end + "\n".join(found) + end, st.lists(texts, max_size=9), ends),
    st.builds(lambda found: "{}\n" + "\r\n".join(found), st.lists(texts, max_size=9)),
    st.builds(lambda found: '{"x":"batch","batch":[' + ",".join(found) + "]}", st.lists(texts, max_size=9)),
    texts,
).map(str.encode) | st.binary(max_size=30).filter(lambda data: not data.startswith(b"sluice/"))
contexts = st.sampled_from(
    [{}, {"position": 7}, {"form": "lines"}, {"form": "query"}, {"event_id": "replayed"}, {"received_at": 1000}]
    + [{"form": form} for form in ("cloudevents", "v1/batch", "v1/track", "v1/metrics", "v1/other")]
)
any_record = bodies | st.builds(lambda body, context: factories.record(body, **context), bodies, contexts)
thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(any_record, st.integers(0, 1_500))
@example(b"\xef\xbb\xbf{}\n{}\n\xef\xbb\xbf", 0)  # a byte order mark, put back as the first line
@example(b"[{},{},]", 0)  # a comma with nothing after it
def test_any_record_ends_as_the_rows_that_it_would_have_with_room_for_all_of_them(data: bytes, more: int) -> None:
    rows, rejected = expected(data)
    run = Run([data], room_for(rows) + more)
    assert sorted(run.rows) == sorted(rows)
    assert len({(row["event_id"], row["position"]) for row in run.rejected}) == len(run.rejected)
    assert sum(row["events"] for row in run.rejected) == rejected
    assert run.failed == []
    assert run.rounds <= 2 * len(transform(data, ARRIVED_AT, Settings())) + 1


@thorough
@given(st.lists(any_record, min_size=1, max_size=6), st.integers(0, 6_000), st.integers(1, 6))
@example([b"{}\n", b"{}\n", b"[]", b"[{}]", b"[]"], 464, 4)  # a record without events settles none
def test_records_that_share_an_invocation_end_as_well_and_only_whole_records_fail(
    found: list[bytes], limit: int, together: int
) -> None:
    run = Run(found, limit, together)
    rows = Counter(row for data in found for row in expected(data)[0])
    failed = Counter(row for data in run.failed for row in expected(data)[0])
    too_large = sum(row["reason"] == "too_large" for row in run.rejected)
    assert Counter(run.rows) + failed <= rows
    assert (Counter(run.rows) + failed).total() + too_large == rows.total()


@given(st.lists(objects, min_size=1, max_size=30), st.sampled_from([b",", b"\n"]), st.booleans())
def test_with_room_for_one_row_at_a_time_every_event_keeps_its_id(
    events: list[dict[str, Any]], separator: bytes, bare: bool
) -> None:
    body = separator.join(json.dumps(event).encode() for event in events)
    body = b"[%b]" % body if separator == b"," else body
    data = body if bare else factories.record(body)
    rows, _ = expected(data)
    run = Run([data], room_for(rows))
    assert sorted(run.rows) == sorted(rows)


# --- How it goes about it -----------------------------------------------------------------------------------------


def test_rows_that_fit_stay_and_the_rest_comes_back_in_order(caplog: pytest.LogCaptureFixture) -> None:
    firehose = FakeFirehose()
    data = factories.record([{"value": number} for number in range(12)])
    with reply_limit(3_000, firehose):
        [reply], metrics = invoke(data)
    kept = [row["value"] for row in factories.rows(reply["data"])]
    assert kept == [float(number) for number in range(len(kept))]
    assert 0 < len(kept) < 12
    assert (metrics["Received"], metrics["Accepted"], metrics["Requeued"]) == (len(kept), len(kept), 12 - len(kept))
    assert caplog.records == []
    back = firehose.streams["events"]
    assert back[0].startswith(data.split(b"\n")[0] + b" position=%d\n" % len(kept))
    assert [row["value"] for part in back for row in map(json.loads, expected(part)[0])] == list(range(len(kept), 12))
    assert [row for part in back for row in expected(part)[0]] == expected(data)[0][len(kept) :]


def test_rejected_events_before_the_cut_are_put_and_those_after_it_come_back() -> None:
    firehose = FakeFirehose()
    events = [*[{"a": 1}] * 3, 1, *[{"debug": True}], *[{"a": 1}] * 5, 2]
    with reply_limit(3_000, firehose):
        [reply], metrics = invoke(factories.record(events))
    assert len(factories.rows(reply["data"])) == 4
    assert [row["position"] for row in firehose.rejected()] == [3]
    counts = [metrics[name] for name in (*COUNTS, "Requeued")]
    assert counts == [6, 4, 1, 1, 0, 5]


def test_what_stands_beyond_10_000_events_stays_beyond() -> None:
    firehose = FakeFirehose()
    data = b"\n".join([b'{"n":%d}' % number for number in range(10_005)])
    with reply_limit(1_000_000, firehose):
        _, metrics = invoke(data)
    assert metrics["RejectedByReason"] == {"too_many_events": 5}
    assert metrics["Received"] + metrics["Requeued"] == 10_005
    run = Run([data], 1_000_000, together=3)
    assert (run.totals["Accepted"], len(run.rejected)) == (10_000, 1)
    assert sorted(run.rows) == sorted(expected(data)[0])


def test_a_single_event_whose_row_fits_no_reply_is_rejected_and_never_comes_back() -> None:
    firehose = FakeFirehose()
    events = [{"name": "small"}, {"event_id": "big", "x": "x" * 3_000}, {"name": "small"}]
    with reply_limit(3_000, firehose):
        [reply], metrics = invoke(factories.record(events))
    assert len(factories.rows(reply["data"])) == 1
    [row] = firehose.rejected()
    assert (row["reason"], row["event_id"], row["position"]) == ("too_large", "big", 1)
    assert base64.b64decode(row["body"]) == json.dumps(events[1]).encode()
    # The last event was not looked at any more.
    assert (metrics["Rejected"], metrics["Requeued"]) == (1, 1)


def test_many_small_bare_records_share_several_replies() -> None:
    found = [b'{"n":%d}' % number for number in range(60)]
    run = Run(found, 12_000, together=20)
    assert sorted(run.rows) == sorted(row for data in found for row in expected(data)[0])
    assert 1 < run.rounds < 60
    assert run.failed == []


def test_a_record_whose_first_row_does_not_fit_beside_the_others_fails_rather_than_come_back_for_ever() -> None:
    firehose = FakeFirehose()
    found = [factories.record({"x": "\x01" * 200}), factories.record(b"x" * 1_500)]
    with reply_limit(4_300, firehose):
        replies, metrics = invoke(*found)
    assert [reply["result"] for reply in replies] == ["ProcessingFailed", "Dropped"]
    assert metrics["FailedByReason"] == {"reply_full": 1}


@pytest.mark.parametrize("first", [{"a": 1}, {"value": "abc"}], ids=["a row", "a reject"])
def test_a_record_whose_first_row_does_not_fit_comes_back_when_another_one_was_settled(first: object) -> None:
    firehose = FakeFirehose()
    found = [factories.record(first), factories.record({"x": "\x01" * 200}), factories.record(b"x" * 1_500)]
    with reply_limit(5_400, firehose):
        replies, metrics = invoke(*found)
    assert metrics["Requeued"] == 1
    assert replies[1]["result"] == "Dropped"
    assert metrics["FailedByReason"] == {}


@pytest.mark.parametrize(
    ("faults", "arn"),
    [
        ([refusal("AccessDeniedException")], None),
        ([refusal("ServiceUnavailableException", 503)] * 1_000, None),
        ([], ""),
    ],
    ids=["no permission", "throttled until the time is over", "no stream named"],
)
def test_a_record_whose_rest_cannot_be_put_back_fails_whole(
    faults: list[Any], arn: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    firehose = FakeFirehose(*faults)
    # The second takes more room as a record than as a row, so its row fits the reply, however many columns there are.
    roomy = factories.record(b'{"a": 1}' + b" " * 1_000)
    event = factories.invocation(factories.record([{"a": 1}] * 12), roomy)
    if arn is not None:
        event["deliveryStreamArn"] = arn
        firehose.broken[""] = ValueError("a stream has a name")
    with reply_limit(4_000, firehose):
        reply = handler.lambda_handler(event, LambdaContext(seconds=6.001))
    metrics = json.loads(capsys.readouterr().out)
    assert [record["result"] for record in reply["records"]] == ["ProcessingFailed", "Ok"]
    assert reply["records"][0]["data"] == event["records"][0]["data"]
    assert [metrics[name] for name in (*COUNTS, "Requeued")] == [13, 1, 0, 0, 12, 0]
    assert metrics["FailedByReason"] == {"requeue": 12}


def test_nothing_of_a_record_is_put_back_when_its_rejects_are_not_put() -> None:
    firehose = FakeFirehose()
    firehose.broken["rejects"] = refusal("AccessDeniedException")
    with reply_limit(3_000, firehose):
        [reply], metrics = invoke(factories.record([1, *[{"a": 1}] * 12]))
    assert reply["result"] == "ProcessingFailed"
    assert firehose.streams["events"] == []
    assert metrics["FailedByReason"] == {"reject_stream": 13}


def test_a_full_reply_of_6_mb_is_used_and_never_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small events have rows fifty times as long: 240 KB come in, and 12 MB would go out."""
    firehose = FakeFirehose()
    monkeypatch.setattr(handler, "connect", lambda: firehose)
    found = [factories.record([{"a": 1}] * 9_900, position=0) for _ in range(3)]
    replies, metrics = invoke(*found)
    assert 5_990_000 < len(json.dumps({"records": replies})) <= 6_000_000
    assert (metrics["Failed"], metrics["Received"] + metrics["Requeued"]) == (0, 29_700)
    # One reply holds more than one of the records put back.
    back = [handler.base64_length(sum(map(len, expected(data)[0]))) for data in firehose.streams["events"]]
    assert 1_500_000 < max(back) < 3_000_000


# --- The smaller records ------------------------------------------------------------------------------------------


def rest(data: bytes, first: int, row_sizes: list[int], most: int = 10**9) -> list[tuple[int, bytes, list[bytes]]]:
    """A record's smaller records: for each the position of its first event, its body and its texts."""
    found = []
    for part in write_rest(read_record(data, ARRIVED_AT), first, row_sizes, most):
        record = read_record(part, ARRIVED_AT + 1)
        found.append((record.context.position, record.body, split_texts(record.body, record.form)[1]))
    return found


def test_an_array_stays_an_array_and_lines_stay_lines() -> None:
    assert rest(factories.record(b"[1, {} ,[2]]"), 1, [0, 0]) == [(1, b"[{},[2]]", [b"{}", b"[2]"])]
    assert rest(factories.record(b"{}\n\n[2]\r\noops"), 1, [0, 0]) == [(1, b"[2]\r\noops", [b"[2]\r", b"oops"])]


def test_a_record_is_cut_where_its_rows_or_its_texts_are_enough_for_one() -> None:
    data = factories.record(b"\n".join([b"{}"] * 6), position=10)
    assert [start for start, _, _ in rest(data, 1, [30, 30, 30, 200, 30], most=60)] == [11, 13, 14, 15]
    long = factories.record(b'{"x":"%b"}\n' % (b"x" * 400_000) * 2 + b"{}")
    assert [start for start, _, _ in rest(long + b"", 0, [1, 1, 1])] == [0]
    assert [len(found) for _, _, found in rest(b"\n".join([b'{"x":"%b"}' % (b"x" * 400_000)] * 4), 0, [1] * 4)] == [
        2,
        2,
    ]


def test_a_bare_record_comes_back_with_the_time_of_its_first_arrival() -> None:
    [back] = write_rest(read_record(b"{}\n{}", 1_000), 1, [1], 10**9)
    context = read_record(back, 2_000).context
    assert (context.received_at, context.request_id, context.ip, context.user_agent) == (1_000, None, None, None)
    assert transform(back, 2_000, Settings()) == transform(b"{}\n{}", 1_000, Settings())[1:]


def test_the_context_of_a_request_comes_back_byte_for_byte() -> None:
    data = factories.record("[{},{}]", user_agent=b"caf\xe9", received_at=5, ip="2001:db8::1")
    [back] = write_rest(read_record(data, 0), 1, [1], 10**9)
    assert back.split(b"\n")[0] == data.split(b"\n")[0] + b" position=1"
    assert back.split(b"\n")[-2] == data.split(b"\n")[-2]


def test_the_id_of_an_only_event_is_not_given_to_one_that_is_alone_by_the_cut() -> None:
    data = factories.record("[{},{}]", event_id="replayed")
    [back] = write_rest(read_record(data, 0), 1, [1], 10**9)
    assert b"replayed" not in back
    [alone] = write_rest(read_record(factories.record("{}", event_id="replayed"), 0), 0, [1], 10**9)
    assert b" event_id=replayed" in alone


def test_a_record_written_here_has_room_for_both_its_lines() -> None:
    line = b'{"x":"%b"}' % (b"x" * (records.MAX_REST_BYTES // 2 - 9))
    data = factories.record(b"\n".join([line, line]), user_agent="\u20ac" * 1_024)
    [back] = write_rest(read_record(data, 0), 0, [1, 1], 10**9)
    assert 1_000_000 < len(back) < streams.MAX_RECORD_BYTES
