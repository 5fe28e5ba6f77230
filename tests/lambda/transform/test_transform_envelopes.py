"""Events of well-known clients: the bodies of Segment's and RudderStack's libraries, and CloudEvents."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from tests import factories
from transform.envelopes import METRICS, read_event
from transform.events import Dropped, Outcome, Rejected, transform
from transform.records import ENVELOPES, Envelope, split, split_texts
from transform.rows import COLUMNS
from transform.rules import Settings

Json = dict[str, Any]
OF_THE_REQUEST = ("received_at", "ip", "user_agent", "request_id")


def outcomes(body: Any, form: str, **context: Any) -> list[Outcome]:
    return transform(factories.record(body, form=form, **context), factories.RECEIVED_AT, Settings())


def rows(body: Any, form: str, **context: Any) -> list[Json]:
    """The rows without nulls and without the columns of the request."""
    found = outcomes(body, form, **context)
    assert all(type(one) is bytes for one in found), found
    read = [json.loads(one) for one in found if type(one) is bytes]
    return [
        {key: value for key, value in row.items() if value is not None and key not in OF_THE_REQUEST}
        | {"properties": json.loads(row["properties"])}
        for row in read
    ]


# A request of @segment/analytics-next 1.81 to /v1/p, shortened.
PAGE = {
    "timestamp": "2025-11-21T06:20:00.100Z",
    "sentAt": "2025-11-21T06:20:00.120Z",
    "messageId": "ajs-next-1763-1",
    "type": "page",
    "userId": None,
    "anonymousId": "a-1",
    "name": "Prices",
    "writeKey": "x",
    "context": {
        "page": {"path": "/prices", "referrer": "https://example.org/", "search": "?utm_source=x", "title": "P"},
        "locale": "de",
    },
    "properties": {"path": "/prices", "plan": "pro"},
    "integrations": {},
}


def test_a_page_of_a_browsers_library_fills_our_columns_and_keeps_the_rest() -> None:
    [row] = rows(PAGE, "v1/page")
    assert row == {
        "event_id": "ajs-next-1763-1",
        "name": "Prices",
        "action": "page",
        "occurred_at": "2025-11-21 06:20:00.100",
        "clock_skew_ms": -23,
        "anonymous_id": "a-1",
        "path": "/prices",
        "referrer": "https://example.org/",
        "properties": {
            "sentAt": PAGE["sentAt"],
            "writeKey": "x",
            "context": {"page": {"search": "?utm_source=x", "title": "P"}, "locale": "de"},
            "path": "/prices",
            "plan": "pro",
            "integrations": {},
        },
    }


NAMES: list[tuple[str, Json, Json]] = [
    ("track", {"event": "Order"}, {"name": "Order", "action": "track"}),
    ("page", {"name": "Home"}, {"name": "Home", "action": "page"}),
    ("screen", {"name": "Home"}, {"name": "Home", "action": "screen"}),
    ("identify", {"userId": 7, "traits": {"a": 1}}, {"user_id": "7", "action": "identify"}),
    ("group", {"groupId": "g"}, {"action": "group"}),
    ("alias", {"previousId": "a", "userId": "u"}, {"user_id": "u", "action": "alias"}),
]


@pytest.mark.parametrize(("type_name", "event", "columns"), NAMES, ids=[case[0] for case in NAMES])
def test_every_type_is_the_same_alone_and_in_a_batch(type_name: str, event: Json, columns: Json) -> None:
    event = {**event, "messageId": "m", "context": {"sessionId": 42}}
    [alone] = rows({"type": type_name, **event}, f"v1/{type_name}")
    [in_batch] = rows({"batch": [{"type": type_name, **event}], "sentAt": "x", "writeKey": "x"}, "v1/batch")
    assert alone == in_batch
    assert columns.items() <= alone.items()
    assert (alone["event_id"], alone["session_id"]) == ("m", "42")


CLOCK: list[tuple[str, Json, str | None, list[str]]] = [
    ("all three", {"timestamp": 1e9, "originalTimestamp": 2e9, "sentAt": 3e9}, "2001", ["originalTimestamp", "sentAt"]),
    ("no timestamp", {"timestamp": None, "originalTimestamp": 2e9, "sentAt": 3e9}, "2033", ["sentAt"]),
    ("only sentAt", {"sentAt": 3e9}, "2065", []),
    ("none", {}, None, []),
]


@pytest.mark.parametrize(("times", "year", "left"), [case[1:] for case in CLOCK], ids=[case[0] for case in CLOCK])
def test_the_time_is_the_timestamp_else_the_original_one_else_that_of_sending(
    times: Json, year: str | None, left: list[str]
) -> None:
    [row] = rows({"event": "x", **times}, "v1/track")
    assert row["occurred_at"][:4] == (year or factories.RECEIVED_AT_TEXT[:4])
    assert ("clock_skew_ms" in row) is (year is not None)
    assert list(row["properties"]) == left


def test_a_clock_that_is_a_year_off_is_flagged_and_its_event_counts() -> None:
    [row] = rows({**PAGE, "timestamp": "2024-11-21T06:20:00.123Z"}, "v1/page")
    assert (row["occurred_at"], row["clock_skew_ms"]) == ("2024-11-21 06:20:00.123", -365 * 86_400_000)


def test_our_own_names_win_and_nothing_is_lost() -> None:
    sent = {"event": "A", "name": "B", "userId": "a", "user_id": "b", "messageId": "1", "event_id": "2"}
    [row] = rows(sent, "v1/track")
    assert (row["name"], row["user_id"], row["event_id"]) == ("B", "b", "2")
    assert row["properties"] == {"event": "A", "userId": "a", "messageId": "1"}


def test_each_event_of_a_batch_has_its_own_outcome_and_text() -> None:
    items = [
        '{"type": "track", "event": "good"}',
        '{"type":"track","event":"bad","x":NaN}',
        "5",
        '{"type":"batch","batch":[{"type":"track"}]}',
        '{"type":["track"]}',
        '{"event":"no type"}',
        '{"type":"page","userId":12345678901234567890123}',
        "{}",
    ]
    body = ('{"sentAt": "2025-11-21T06:20:00Z", "batch": [' + " ,\n".join(items) + '], "writeKey": "x"}').encode()
    found = outcomes(body, "v1/batch")
    reasons = ["row", "not_json", "not_an_object", *["unknown_type"] * 3, "row", "empty"]
    assert [one.reason if isinstance(one, Rejected) else getattr(one, "rule", "row") for one in found] == reasons
    assert [one.position for one in found if isinstance(one, Rejected)] == [1, 2, 3, 4, 5]
    assert split_texts(body, "v1/batch") == ("v1/batch", [item.encode() for item in items])


def test_half_an_emoji_flags_its_own_event_of_a_batch() -> None:
    body = rb'{"batch":[{"type":"track","event":"a\ud83d"},{"type":"track","event":"b"}]}'
    first, second = rows(body, "v1/batch")
    assert first["properties"] == {"sluice_repaired": True}
    assert second["properties"] == {}


WRONG: list[tuple[str, str, Any, str]] = [
    ("no JSON", "v1/track", b"{", "not_json"),
    ("an array", "v1/track", [{}], "not_an_object"),
    ("a batch without an array", "v1/batch", {"batch": {"type": "track"}}, "not_an_object"),
    ("a batch that is cut off", "v1/batch", b'{"batch":[{"type":"track"},{"ty', "not_json"),
    ("an unknown type", "v1/other", {"event": "x"}, "unknown_type"),
    ("an unknown type that is not JSON", "v1/other", b"\xff", "unknown_type"),
    ("CloudEvents that are cut off", "cloudevents", b'[{"id":"1"},', "not_json"),
]


@pytest.mark.parametrize(("form", "body", "reason"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_body_that_is_wrong_is_one_rejected_event_with_its_whole_text(form: Any, body: Any, reason: str) -> None:
    [found] = outcomes(body, form)
    assert isinstance(found, Rejected)
    assert found.reason == reason
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert split_texts(text, form)[1] == [text]


def test_what_a_library_measures_of_itself_is_dropped_whatever_it_is() -> None:
    assert outcomes({"series": [{"type": "Counter"}]}, "v1/metrics") == [Dropped(METRICS)]
    assert outcomes(b"no JSON", "v1/metrics") == [Dropped(METRICS)]


def test_half_a_megabyte_of_traits_is_one_row() -> None:
    traits = {f"t{number}": "x" * 1_000 for number in range(500)}
    [row] = rows({"userId": "u", "traits": traits}, "v1/identify")
    assert row["properties"] == {"traits": traits}


@pytest.mark.parametrize(
    "body",
    [b'{"b\\u0061tch":[{"type":"page"},{"type":"page"}]}', b'{"batch":1,"batch":[{"type":"page"},{"type":"page"}]}'],
    ids=["a key in escapes", "a key that is there twice"],
)
def test_the_texts_of_a_batch_are_as_many_as_its_events_however_it_is_written(body: bytes) -> None:
    assert len(split(body, "v1/batch")[1]) == len(split_texts(body, "v1/batch")[1]) == 2


@pytest.mark.parametrize("key", ["x", "type"])
def test_a_batch_inside_of_something_else_is_not_the_batch(key: str) -> None:
    body = b'{"%b":"batch","y":{"batch":[1,2,3]},"z":[[{"batch":[4]}]],"batch":[{"type":"page"}]}' % key.encode()
    assert split_texts(body, "v1/batch")[1] == [b'{"type":"page"}']


CLOUD_EVENT = {
    "specversion": "1.0",
    "id": "A-1",
    "source": "/orders",
    "type": "com.example.order.paid",
    "time": "2025-11-21T06:20:00.100Z",
    "subject": "o-7",
    "data": {"value": 12.5, "currency": "EUR"},
}


def test_a_cloud_event_has_an_id_of_its_source_and_its_id() -> None:
    [row] = rows(CLOUD_EVENT, "cloudevents")
    assert row == {
        "event_id": "/orders A-1",
        "name": "com.example.order.paid",
        "source": "/orders",
        "occurred_at": "2025-11-21 06:20:00.100",
        "clock_skew_ms": -23,
        "properties": {"specversion": "1.0", "subject": "o-7", "value": 12.5, "currency": "EUR"},
    }
    ids = [row["event_id"] for row in rows([CLOUD_EVENT, {**CLOUD_EVENT, "source": "/other"}], "cloudevents")]
    assert ids == ["/orders A-1", "/other A-1"]


def test_a_cloud_event_without_an_object_or_without_an_id_is_a_row_all_the_same() -> None:
    [row] = rows({"id": "", "type": "t", "data": "text"}, "cloudevents")
    assert len(row["event_id"]) == 32
    assert row["properties"] == {"id": "", "data": "text"}


def test_every_envelope_is_read_by_the_context_line_and_by_nothing_else() -> None:
    assert frozenset(get_args(Envelope)) == ENVELOPES
    for form in get_args(Envelope):
        assert type(read_event(b"{}", form)) is not bytes
    [row] = rows({"type": "track", "event": "x", "userId": "u"}, "lines")
    assert row["properties"] == {"type": "track", "event": "x", "userId": "u"}
    assert {"anonymous_id", "session_id", "path", "referrer"} <= {column.name for column in COLUMNS}
