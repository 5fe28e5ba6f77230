"""The row of an event, column by column."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests import factories
from tests.outcomes import SETTINGS, outcomes, reason, row
from transform import events, rows
from transform.events import Accepted, Rejected, transform
from transform.records import Reject
from transform.rows import COLUMNS
from transform.rules import Settings

# --- The row ------------------------------------------------------------------------------------------------------


def test_the_hello_world_event_becomes_a_row_with_every_column_in_order() -> None:
    found = row(factories.read_event("hello_world.json"))
    assert list(found) == [column.name for column in COLUMNS]
    event_id = found.pop("event_id")
    assert len(event_id) == 32
    assert int(event_id, 16) > 0
    # It has no key of any other column.
    assert found == {
        **dict.fromkeys(found),
        "name": "John",
        "action": "charge",
        "value": 100.0,
        "occurred_at": factories.RECEIVED_AT_TEXT,
        "received_at": factories.RECEIVED_AT_TEXT,
        "properties": "{}",
        "ip": "203.0.113.0",
        "user_agent": factories.USER_AGENT,
        "request_id": factories.REQUEST_ID,
    }


def test_a_page_view_keeps_everything_that_it_came_with() -> None:
    found = row(factories.read_event("page_view.json"))
    sent = json.loads(factories.read_event("page_view.json"))
    assert found["event_id"] == sent["event_id"]
    assert found["occurred_at"] == "2026-11-21 06:20:00.123"
    assert found["clock_skew_ms"] == 365 * 86_400_000
    assert found["referrer"] == sent["referrer"]
    unnamed = ("url", "title", "screen", "language")
    assert json.loads(found["properties"]) == {key: sent[key] for key in unnamed} | sent["properties"]


def test_a_temperature_of_2010_is_a_row_of_2010() -> None:
    found = row(factories.read_event("temperature.json"))
    assert (found["value"], found["occurred_at"]) == (61.4, "2010-07-04 23:00:00.000")
    assert found["clock_skew_ms"] == 1278284400000 - factories.RECEIVED_AT


def test_hostile_text_arrives_as_it_was_sent() -> None:
    sent = json.loads(factories.read_event("hostile.json"))
    found = row(factories.read_event("hostile.json"), user_agent='"\\\'},{"')
    assert found["user_agent"] == '"\\\'},{"'
    assert {key: found[key] for key in ("name", "action", "source")} == {
        key: sent[key] for key in ("name", "action", "source")
    }
    assert json.loads(found["properties"]) == {key: sent[key] for key in ("note", "emoji", "fake")}


def test_what_is_outside_the_schema_goes_into_properties_and_so_do_keys_that_only_we_may_set() -> None:
    reserved = {
        "ip": "6.6.6.6",
        "user_agent": "forged",
        "received_at": "2001-01-01",
        "request_id": "forged",
        "clock_skew_ms": 1,
        "dt": "2001-01-01",
        "occurred_at": "2001-01-01",
    }
    found = row({"name": "a", "Name": "b", "": 0, "nothing": None, "nested": {"a": [1, {"b": None}]}, **reserved})
    expected = {"Name": "b", "": 0, "nothing": None, "nested": {"a": [1, {"b": None}]}, **reserved}
    assert json.loads(found["properties"]) == expected
    assert (found["ip"], found["request_id"]) == ("203.0.113.0", factories.REQUEST_ID)
    assert found["received_at"] == found["occurred_at"] == factories.RECEIVED_AT_TEXT


@pytest.mark.parametrize(
    ("event", "properties"),
    [
        pytest.param({"properties": {"plan": "pro"}}, {"plan": "pro"}, id="an object's keys stand directly in it"),
        pytest.param({"a": 1, "properties": {"b": 2}}, {"a": 1, "b": 2}, id="beside the event's own keys"),
        pytest.param({"properties": {"name": "n"}}, {"name": "n"}, id="a column's name inside it fills no column"),
        pytest.param(
            {"a": 1, "properties": {"a": 2, "b": 3}},
            {"a": 1, "b": 3, "properties": {"a": 2}},
            id="a key in both stays inside, and its neighbours do not",
        ),
        pytest.param(
            {"a": 1, "properties": {"a": 2, "properties": {"a": 3}, "b": 4}},
            {"a": 1, "b": 4, "properties": {"a": 2, "properties": {"a": 3}}},
            id="a key in both beside properties of properties",
        ),
        pytest.param({"properties": {"properties": {"a": 1}}}, {"properties": {"a": 1}}, id="one level, no more"),
        pytest.param({"properties": "text"}, {"properties": "text"}, id="text stays under its key"),
        pytest.param({"properties": [1]}, {"properties": [1]}, id="an array stays under its key"),
        pytest.param({"properties": 0}, {"properties": 0}, id="0 stays under its key"),
        pytest.param({"properties": ""}, {"properties": ""}, id="no text stays under its key"),
        pytest.param({"properties": False}, {"properties": False}, id="false stays under its key"),
        pytest.param({"properties": []}, {"properties": []}, id="an empty array stays under its key"),
        pytest.param({"properties": None}, {}, id="null is nothing"),
    ],
)
def test_a_senders_own_properties(event: dict[str, Any], properties: dict[str, Any]) -> None:
    found = row(event)
    assert json.loads(found["properties"]) == properties
    assert found["name"] is None


# --- Values -------------------------------------------------------------------------------------------------------


ACCEPTED_VALUES = [
    pytest.param("value", 100, 100.0, id="value: a whole number"),
    pytest.param("value", "100", 100.0, id="value: a number as text"),
    pytest.param("value", " -1.5e3\n", -1500.0, id="value: text with an exponent and space around it"),
    pytest.param("value", "+.5", 0.5, id="value: text with a sign and no leading digit"),
    pytest.param("value", 2**64 - 1, float(2**64 - 1), id="value: the largest whole number of 64 bits"),
    pytest.param("value", 10**30, 1e30, id="value: a giant whole number is a double"),
    pytest.param("value", 1.7976931348623157e308, 1.7976931348623157e308, id="value: the largest double"),
    pytest.param("value", "1e-400", 0.0, id="value: too small for a double is zero"),
    pytest.param("value", None, None, id="value: null"),
    pytest.param("value", "", None, id="value: empty text, as from an empty field of a form"),
    pytest.param("value", " \t", None, id="value: blank text"),
    pytest.param("name", "  Zoë ", "Zoë", id="name: text is trimmed"),
    pytest.param("name", "n" * 256, "n" * 256, id="name: 256 characters"),
    pytest.param("name", " " + "😀" * 256 + " ", "😀" * 256, id="name: 256 characters after trimming, any script"),
    pytest.param("name", "  ", None, id="name: blank text"),
    pytest.param("name", None, None, id="name: null"),
    pytest.param("name", 42, "42", id="name: a whole number"),
    pytest.param("name", 4.5, "4.5", id="name: a fraction"),
    pytest.param("name", True, "true", id="name: a boolean"),
    pytest.param("action", {"a": [1, None]}, '{"a":[1,null]}', id="action: an object is its JSON text"),
    pytest.param("source", ["a", "é"], '["a","é"]', id="source: an array is its JSON text"),
    pytest.param("source", "s" * 100_000, "s" * 100_000, id="source: of any length"),
    pytest.param("user_id", 0, "0", id="user_id: zero"),
    pytest.param("user_id", 2**64 - 1, "18446744073709551615", id="user_id: 64 bits, digit for digit"),
    pytest.param("user_id", "00012", "00012", id="user_id: text keeps its zeros"),
    pytest.param("event_id", "mine", "mine", id="event_id: text"),
    pytest.param("event_id", " mine ", "mine", id="event_id: text is trimmed"),
    pytest.param("event_id", 12345678901234567890, "12345678901234567890", id="event_id: a whole number"),
]


@pytest.mark.parametrize(("key", "sent", "expected"), ACCEPTED_VALUES)
def test_a_value_is_taken_as(key: str, sent: object, expected: object) -> None:
    found = row({key: sent})
    assert found[key] == expected
    assert type(found[key]) is type(expected)
    assert found["properties"] == "{}"


REJECTED_VALUES = [
    pytest.param('{"value": "abc"}', "not_a_number", id="value: text that is not a number"),
    pytest.param('{"value": "NaN"}', "not_a_number", id="value: NaN as text"),
    pytest.param('{"value": "Infinity"}', "not_a_number", id="value: infinity as text"),
    pytest.param('{"value": "1e400"}', "not_a_number", id="value: overflow as text"),
    pytest.param('{"value": "1_000"}', "not_a_number", id="value: Python's own underscore"),
    pytest.param('{"value": "1,5"}', "not_a_number", id="value: a comma"),
    pytest.param('{"value": "0x10"}', "not_a_number", id="value: hexadecimal"),
    pytest.param('{"value": "\u0661\u0660"}', "not_a_number", id="value: digits of another script"),
    pytest.param('{"value": true}', "not_a_number", id="value: a boolean"),
    pytest.param('{"value": {}}', "not_a_number", id="value: an object"),
    pytest.param('{"value": [1]}', "not_a_number", id="value: an array"),
    pytest.param('{"value": NaN}', "not_json", id="value: NaN is not JSON"),
    pytest.param('{"value": -Infinity}', "not_json", id="value: infinity is not JSON"),
    pytest.param('{"value": 1e400}', "not_json", id="value: a number that no double holds"),
    pytest.param('{"value": ' + "9" * 5000 + "}", "not_json", id="value: a whole number that no double holds"),
    pytest.param(json.dumps({"name": "n" * 257}), "too_long", id="name: 257 characters"),
    pytest.param(json.dumps({"name": ["n" * 257]}), "too_long", id="name: 257 characters as JSON text"),
    pytest.param('{"user_id": 1.2345678901234568e29}', "not_text", id="user_id: digits would be lost"),
    pytest.param('{"user_id": -9007199254740992.0}', "not_text", id="user_id: a double of 2^53"),
]


@pytest.mark.parametrize(("text", "expected"), REJECTED_VALUES)
def test_a_value_rejects_its_event(text: str, expected: str) -> None:
    assert reason(text) == expected


@pytest.mark.parametrize("key", ["event_id", "name", "action", "source", "user_id", "value", "timestamp"])
def test_blank_text_is_not_given_even_without_the_rule_that_trims(key: str) -> None:
    [outcome] = transform(factories.record({key: " \t "}), 0, SETTINGS, {})
    assert isinstance(outcome, Accepted)
    [found] = factories.rows(outcome)
    assert len(found.pop("event_id")) == 32
    absent = row({"a": 1}) | {"properties": "{}"}
    assert found == {column: absent[column] for column in found}


@pytest.mark.parametrize("not_an_id", [True, 1.5, {"a": 1}, ["x"], 1e30], ids=repr)
def test_an_event_id_that_is_not_an_id_goes_into_properties_and_ours_takes_its_place(not_an_id: object) -> None:
    found = row({"event_id": not_an_id})
    assert json.loads(found["properties"]) == {"event_id": not_an_id}
    assert len(found["event_id"]) == 32


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"plan": "pro"}, {"event_id": ["x"], "plan": "pro"}),
        ({"event_id": "inner", "plan": "pro"}, {"event_id": ["x"], "plan": "pro", "properties": {"event_id": "inner"}}),
        ("text", {"event_id": ["x"], "properties": "text"}),
    ],
    ids=["other keys", "the same key", "no object"],
)
def test_an_event_id_that_is_not_an_id_joins_the_senders_own_properties(sent: object, expected: object) -> None:
    assert json.loads(row({"event_id": ["x"], "properties": sent})["properties"]) == expected


def test_rules_see_an_event_id_that_is_not_an_id() -> None:
    settings = Settings(redact_fields=frozenset({"email"}))
    found = row({"event_id": {"email": "ada@example.com", "n": 1}}, settings)
    assert json.loads(found["properties"]) == {"event_id": {"email": None, "n": 1}}
    found = row({"event_id": ["ada@example.com"]}, Settings(redact_fields=frozenset({"event_id"})))
    assert json.loads(found["properties"]) == {"event_id": None}


@pytest.mark.parametrize(("sent", "expected"), [(12345, "12345"), (12345.0, "12345"), (-0.0, "0"), (2**70, str(2**70))])
def test_a_whole_number_is_one_id_and_one_user_however_it_is_written(sent: float, expected: str) -> None:
    found = row({"event_id": sent, "user_id": sent})
    assert (found["event_id"], found["user_id"]) == (expected, expected)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 123456789012345678901234567890])
def test_a_long_whole_number_keeps_its_digits(number: int) -> None:
    event = {"wei": number, "deep": [{"n": number, "text": "9" * 30}], "fraction": 0.5}
    found = row({**event, "user_id": number, "value": number})
    assert found["properties"] == json.dumps(event, separators=(",", ":"))
    assert (found["user_id"], found["value"]) == (str(number), float(number))
    [first, second] = outcomes([{"wei": number}, {"value": "1e999"}])
    assert isinstance(first, Accepted)
    assert str(number) in first.decode()
    assert isinstance(second, Rejected)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30], ids=str)
def test_a_long_whole_number_inside_a_column_of_text_keeps_its_digits(number: int) -> None:
    assert row({"name": [[number]], "source": {"a": number}})["name"] == f"[[{number}]]"
    assert row({"name": "a", "source": {"a": number}})["source"] == f'{{"a":{number}}}'
    assert row({"name": [1e300]})["name"] == "[1e+300]"


@pytest.mark.parametrize("blank", [None, "", "  "], ids=repr)
def test_a_blank_event_id_is_replaced(blank: object) -> None:
    found = row({"event_id": blank})
    assert (len(found["event_id"]), found["properties"]) == (32, "{}")


TIMES = [
    pytest.param("2025-11-21T06:20:00.123Z", "2025-11-21 06:20:00.123", id="as browsers write it"),
    pytest.param("2025-11-21T06:20:00Z", "2025-11-21 06:20:00.000", id="no fraction"),
    pytest.param("2025-11-21T06:20:00.123987Z", "2025-11-21 06:20:00.123", id="microseconds are cut off"),
    pytest.param("2025-11-21T06:20:00.123999999+00:00", "2025-11-21 06:20:00.123", id="nanoseconds are cut off"),
    pytest.param("2025-11-21T06:20:00,5Z", "2025-11-21 06:20:00.500", id="a decimal comma"),
    pytest.param("2025-11-21T06:20:00,123Z", "2025-11-21 06:20:00.123", id="a decimal comma, at browsers' length"),
    pytest.param("2025-W47-5T06:20:00.123Z", "2025-11-21 06:20:00.123", id="a week date, at browsers' length"),
    pytest.param("2025-11-21T08:20:00.1+02", "2025-11-21 06:20:00.100", id="an offset in hours, at browsers' length"),
    pytest.param("2025-11-21T07:20:00.123+01:00", "2025-11-21 06:20:00.123", id="an offset to the east"),
    pytest.param("2025-11-20T22:20:00-08:00", "2025-11-21 06:20:00.000", id="an offset to the west, over midnight"),
    pytest.param("2025-11-21T11:50:00+0530", "2025-11-21 06:20:00.000", id="an offset without a colon"),
    pytest.param("2025-11-21 06:20:00", "2025-11-21 06:20:00.000", id="no offset is UTC; a space instead of T"),
    pytest.param("2025-11-21", "2025-11-21 00:00:00.000", id="a date is its midnight in UTC"),
    pytest.param("20251121", "2025-11-21 00:00:00.000", id="eight digits are a date"),
    pytest.param("20251121T062000Z", "2025-11-21 06:20:00.000", id="the basic form"),
    pytest.param(" 2025-11-21T06:20:00Z ", "2025-11-21 06:20:00.000", id="space around it"),
    pytest.param(1763706000, "2025-11-21 06:20:00.000", id="epoch seconds"),
    pytest.param(1763706000.1234, "2025-11-21 06:20:00.123", id="epoch seconds with a fraction"),
    pytest.param(1763706000123, "2025-11-21 06:20:00.123", id="epoch milliseconds"),
    pytest.param(1763706000123.9, "2025-11-21 06:20:00.123", id="epoch milliseconds with a fraction"),
    pytest.param("1763706000", "2025-11-21 06:20:00.000", id="epoch seconds as text"),
    pytest.param("1763706000123", "2025-11-21 06:20:00.123", id="epoch milliseconds as text"),
    pytest.param("1612121200000", "2021-01-31 19:26:40.000", id="epoch milliseconds that begin like a date"),
    pytest.param(0, "1970-01-01 00:00:00.000", id="the first moment, as of a device without a clock"),
    pytest.param(99_999_999, "1973-03-03 09:46:39.000", id="few seconds"),
    pytest.param(100_000_000_000, "1973-03-03 09:46:40.000", id="from 1e11 on it is milliseconds"),
    pytest.param(4133980799.999, "2100-12-31 23:59:59.999", id="the last moment as seconds"),
    pytest.param("2100-12-31T23:59:59.999Z", "2100-12-31 23:59:59.999", id="the last moment"),
    pytest.param("1969-12-31T23:00:00-01:00", "1970-01-01 00:00:00.000", id="the first moment by its offset"),
    pytest.param("2025-11-21T06:20:00Z\n", "2025-11-21 06:20:00.000", id="a newline behind it"),
    pytest.param("2025-11-21t06:20:00z", "2025-11-21 06:20:00.000", id="lower case"),
    pytest.param("2025-11-21 06:20:00 UTC", "2025-11-21 06:20:00.000", id="UTC by name"),
    pytest.param("2025-11-21 06:20:00.123456789 +0000 UTC", "2025-11-21 06:20:00.123", id="as Go prints it"),
    pytest.param("2025-11-21 08:20:00 +0200", "2025-11-21 06:20:00.000", id="a space before the offset"),
    pytest.param("2025-11-21T08:20:00.1+02", "2025-11-21 06:20:00.100", id="24 characters that do not end with Z"),
    pytest.param("2025/11/21", "2025-11-21 00:00:00.000", id="slashes, the year first"),
    pytest.param("2025/1/5 6:20", "2025-01-05 06:20:00.000", id="slashes and single figures"),
    pytest.param("2025/11/21T06:20:00.5+01:00", "2025-11-21 05:20:00.500", id="slashes and an offset"),
    pytest.param("Fri, 21 Nov 2025 06:20:00 +0000", "2025-11-21 06:20:00.000", id="as in e-mail"),
    pytest.param("Fri, 21 Nov 2025 06:20:00 GMT", "2025-11-21 06:20:00.000", id="as in HTTP"),
    pytest.param("21 Nov 2025 08:20 +0200 (CEST)", "2025-11-21 06:20:00.000", id="as in short e-mail"),
    pytest.param(1763706000123456, "2025-11-21 06:20:00.123", id="epoch microseconds"),
    pytest.param(1763706000123456.5, "2025-11-21 06:20:00.123", id="epoch microseconds as a double"),
    pytest.param(1763706000123456789, "2025-11-21 06:20:00.123", id="epoch nanoseconds"),
    pytest.param("1763706000123999999", "2025-11-21 06:20:00.123", id="epoch nanoseconds as text"),
    pytest.param(100_000_000_000_000, "1973-03-03 09:46:40.000", id="from 1e14 on it is microseconds"),
    pytest.param(100_000_000_000_000_000, "1973-03-03 09:46:40.000", id="from 1e17 on it is nanoseconds"),
]


@pytest.mark.parametrize(("sent", "expected"), TIMES)
def test_a_time_is_read_as(sent: object, expected: str) -> None:
    found = row({"timestamp": sent})
    assert found["occurred_at"] == expected
    # The difference is worked out from the texts, by another way than the code's.
    assert found["clock_skew_ms"] == milliseconds_between(found["received_at"], expected)
    assert found["properties"] == "{}"


def milliseconds_between(earlier: str, later: str) -> int:
    difference = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    return (difference.days * 86_400 + difference.seconds) * 1000 + difference.microseconds // 1000


@pytest.mark.parametrize(
    "sent",
    [
        "yesterday",
        "2025-13-01",
        "2025-02-30T00:00:00Z",
        "2025-11-21T25:00:00Z",
        "21.11.2025",
        "1969-12-31T23:59:59.999Z",
        "2101-01-01T00:00:00Z",
        "1970-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1e999",
        "-1",
        -1,
        -0.001,
        4133980800,
        4133980800000,
        4133980800000 * 10**6,
        "9" * 30,
        "Jun 12 1998",
        "01/02/2003",
        "21/11/2025",
        "2025/02/30",
        "31 Feb 2025 06:20:00 GMT",
        "Fri, 21 Nov 25 06:20:00 GMT",
        "\uff12\uff10\uff12\uff15/11/21",
        1e300,
        True,
        [],
        {"$date": 1},
    ],
    ids=repr,
)
def test_a_time_that_cannot_be_read_or_lies_outside_1970_to_2100_rejects_the_event(sent: object) -> None:
    assert reason({"timestamp": sent}) == "not_a_time"


@pytest.mark.parametrize("blank", [None, "", " "], ids=repr)
def test_a_blank_time_is_not_given(blank: object) -> None:
    found = row({"timestamp": blank})
    assert (found["occurred_at"], found["clock_skew_ms"]) == (factories.RECEIVED_AT_TEXT, None)


# --- The columns added by a user ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "sent", "expected"),
    [
        ("bigint", 7, 7),
        ("bigint", "-9223372036854775808", -(2**63)),
        ("bigint", 7.0, 7),
        ("bigint", "7e2", 700),
        ("bigint", "", None),
        ("bigint", 2**63, "not_a_number"),
        ("bigint", 7.5, "not_a_number"),
        ("bigint", 1e16, "not_a_number"),
        ("bigint", 2.0**53 - 1, 2**53 - 1),
        ("bigint", 2.0**53, "not_a_number"),
        ("bigint", "abc", "not_a_number"),
        ("bigint", True, "not_a_number"),
        ("boolean", False, False),
        ("boolean", "True", True),
        ("boolean", " false", False),
        ("boolean", " ", None),
        ("boolean", 1, "not_a_boolean"),
        ("boolean", "yes", "not_a_boolean"),
        ("timestamp", 1763706000, "2025-11-21 06:20:00.000"),
        ("timestamp", " ", None),
        ("timestamp", "soon", "not_a_time"),
    ],
)
def test_a_column_of_another_type(type_: str, sent: Any, expected: object) -> None:
    seats = rows.Column("seats", type_, "sender", "How many")
    try:
        found: object = rows.row_maker([seats])({"seats": sent}, 0, OF_REQUEST)["seats"]
    except Reject as reject:
        found = reject.reason
    assert found == expected
    assert type(found) is type(expected)


OF_REQUEST = ("2025-11-21 06:20:00.000", "203.0.113.0", None, "1")


ANYTHING: list[Any] = [None, "", " \n", "a", "a b", "ä" * 256, "a" * 257, "7", "1e400", 0, 7, -(2**63), 2**64 - 1]
ANYTHING += [0.0, 7.5, 1e16, float("inf"), float("nan"), True, False, {}, {"a": [1]}, []]


@pytest.mark.parametrize("sent", ANYTHING, ids=repr)
@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("type_", rows._READERS)
def test_any_column_is_read_by_the_reader_of_its_type(type_: str, required: bool, sent: Any) -> None:
    before = rows.Column("class", "string", "sender", "A word of Python's", key="it's")
    column = rows.Column("a", type_, "sender", "Anything", required=required, max_length=256)
    after = rows.Column("ip", "string", "pipeline", "The address")

    def loop(event: dict[str, Any]) -> dict[str, Any]:
        value = event.pop("a")
        value = None if value is None else rows._READERS[type_](column)(value)
        if required and value is None:
            raise Reject("missing", "a must be given")
        return {"class": event.pop("it's"), "a": value, "ip": OF_REQUEST[1]}

    def made(event: dict[str, Any]) -> dict[str, Any]:
        return rows.row_maker([before, column, after])(event, 0, OF_REQUEST)

    found = []
    for read in (loop, made):
        event = {"it's": "first", "a": sent, "other": 1}
        try:
            row = read(event)
            found.append((list(row.items()), [type(value) for value in row.values()], event))
        except Reject as reject:
            found.append((reject.reason, reject.detail))
    assert found[0] == found[1]


def test_a_column_that_the_pipeline_does_not_set_is_refused() -> None:
    with pytest.raises(ValueError, match="the pipeline sets no column 'country': only occurred_at, "):
        rows.row_maker([rows.Column("country", "string", "pipeline", "Nobody sets it")])


def test_a_required_column_rejects_an_event_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [replace(column, required=column.name in ("name", "value")) for column in COLUMNS]
    monkeypatch.setattr(events, "make_row", rows.row_maker(columns))
    assert reason({"name": "a"}) == "missing"
    assert row({"name": "a", "value": 0})["value"] == 0


def test_the_schema_says_all_that_a_table_needs() -> None:
    schema = json.loads(Path(rows.__file__).with_name("schema.json").read_bytes())
    for column in schema["columns"] + schema["partition_keys"]:
        assert {"name", "type", "set_by", "description"} <= column.keys()
        assert column["type"] in rows._READERS
        assert "\n" not in column["description"]
        assert "|" not in column["description"]
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
