"""The events of a body, and the outcome of each."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests import factories
from tests.outcomes import SETTINGS, kinds, outcomes, row
from transform import records, rules
from transform.events import Accepted, Dropped, Rejected, transform
from transform.records import MAX_EVENTS, split, split_texts


def test_ndjson_is_one_event_a_line_and_blank_lines_do_not_count() -> None:
    found = outcomes(factories.read_event("batch.ndjson"))
    assert found[2] == Dropped("debug")
    assert kinds(found) == ["accepted", "accepted", "dropped", "accepted"]


def test_a_bad_line_never_harms_its_neighbours() -> None:
    found = outcomes(factories.read_event("batch_with_bad_lines.ndjson"))
    assert kinds(found) == ["accepted", "not_json", "not_an_object", "not_a_number", "not_json", "accepted"]
    assert [outcome.position for outcome in found if isinstance(outcome, Rejected)] == [1, 2, 3, 4]


BODIES = [
    pytest.param(b"", ["not_json"], id="empty"),
    pytest.param(b" \r\n\t\n", ["not_json"], id="white space alone"),
    pytest.param(b"[]", [], id="an empty array has no events"),
    pytest.param(b"{}", ["dropped"], id="an object without any key"),
    pytest.param(b"42", ["not_an_object"], id="a number"),
    pytest.param(b"null", ["not_an_object"], id="null"),
    pytest.param(b'"text"', ["not_an_object"], id="text"),
    pytest.param(b"name=John&value=1", ["not_json"], id="a form"),
    pytest.param(b"{} {}", ["not_json"], id="two objects on one line"),
    pytest.param(b"{'name': 'a'}", ["not_json"], id="single quotes"),
    pytest.param(b'{"name": "a",}', ["not_json"], id="a trailing comma"),
    pytest.param(b'[{"a": 1}, 2, [{}], {"b": 1}]', ["accepted", *["not_an_object"] * 2, "accepted"], id="mixed array"),
    pytest.param(b'{"a": 1}\r\n{"a": 2}\r\n', ["accepted", "accepted"], id="NDJSON with CR LF"),
    pytest.param(b'oops\n{"a": 1}\n{"a": 2}', ["not_json", "accepted", "accepted"], id="NDJSON, first line bad"),
    pytest.param(b"1[2]", ["not_json"], id="something before an array"),
    pytest.param(b"[1]2", ["not_json"], id="something after an array"),
    pytest.param(b"1\n2\n3", ["not_json"], id="lines without any object are no NDJSON"),
    pytest.param(b'{\n "a": 1,\n "b": oops\n}', ["not_json"], id="a pretty-printed object is one event, bad or not"),
    pytest.param(b'{\n "a": 1\n}', ["accepted"], id="a pretty-printed object"),
    pytest.param(b'\xef\xbb\xbf{"a": 1}', ["accepted"], id="a byte order mark"),
    pytest.param(b'\xef\xbb\xbf[{"a": 1}, {}]', ["accepted", "dropped"], id="a byte order mark before an array"),
    pytest.param(b'\xef\xbb\xbf{"a": 1}\n{}', ["accepted", "dropped"], id="a byte order mark before NDJSON"),
    pytest.param(b"\xef\xbb\xbf" * 5000, ["not_json"], id="byte order marks alone"),
    pytest.param('{"a": 1}'.encode("utf-16"), ["not_json"], id="UTF-16"),
    pytest.param(b'{"a": "\xff"}', ["not_json"], id="bytes that are not UTF-8"),
    pytest.param(b'{"a": "\\ud800"}', ["accepted"], id="half a surrogate pair"),
    pytest.param(b'{"a": "\\ud800", "b": oops}', ["not_json"], id="half a surrogate pair in what is not JSON"),
    pytest.param(b'"\\ud800"', ["not_json"], id="half a surrogate pair in text alone"),
    pytest.param(b'{"a": "\xed\xa0\x80"}', ["not_json"], id="half a surrogate pair in UTF-8"),
    pytest.param(b'{"a": 1, "a": 2}', ["accepted"], id="a key twice"),
    pytest.param(b'{"a":' * 250 + b"1" + b"}" * 250, ["accepted"], id="250 levels"),
    pytest.param(b'{"a":' * 300 + b"1" + b"}" * 300, ["nested_too_deeply"], id="300 levels"),
    pytest.param(b'{"a":' * 3000 + b"1" + b"}" * 3000, ["nested_too_deeply"], id="3,000 levels"),
    pytest.param(b'{"a":' * 100_000, ["nested_too_deeply"], id="100,000 levels"),
    pytest.param(b"[" * 500_000 + b"]" * 500_000, ["nested_too_deeply"], id="half a million brackets"),
    pytest.param(b'{"name": ' + b"[" * 300 + b"]" * 300 + b"}", ["nested_too_deeply"], id="300 levels in a column"),
    # In an array, each event answers for itself alone:
    pytest.param(b'[{"value": NaN}, {"value": 1}]', ["not_json", "accepted"], id="array: NaN"),
    pytest.param(b'[{"value": 1e400}, {"value": 1}]', ["not_json", "accepted"], id="array: a number too large"),
    pytest.param(b'[{"a": ' + b"9" * 5000 + b'}, {"b": 1}]', ["not_json", "accepted"], id="array: 5,000 digits"),
    pytest.param(b'[{"a": "\\ud800"}, {"b": "\xc3\xa9"}]', ["accepted", "accepted"], id="array: half a surrogate pair"),
    pytest.param(b'[{"a": "\xff"}, {"b": 1}]', ["not_json", "accepted"], id="array: not UTF-8"),
    pytest.param(b'[\n{"value": 1e400},\n{"value": 1}\n]', ["not_json", "accepted"], id="array: pretty-printed"),
    pytest.param(b'[{"a": 1}, {"b": 1}', ["not_json"], id="array: cut"),
    pytest.param(b'[{"a": 1}, oops, {"b": 1}]', ["accepted", "not_json", "accepted"], id="array: no JSON between"),
    pytest.param(b'[{"a": "],}{["}, {"b": NaN}]', ["accepted", "not_json"], id="array: brackets in text"),
    pytest.param(b'[{"a": "\\""}, {"b": NaN}, "\\\\"]', ["accepted", "not_json", "not_an_object"], id="array: escapes"),
    pytest.param(b'[{"a": "x}, {"b": 1}]', ["not_json"], id="array: a quote that never ends"),
    pytest.param(b'[{"a": 1},]', ["accepted"], id="array: a trailing comma"),
    pytest.param(b"[ , ]", ["not_json"], id="array: nothing but a comma"),
    pytest.param(b'[{"a": NaN}]\n[{}]', ["not_json"], id="array: two of them"),
    pytest.param(b'[1,{"a":%b}]' % (b"[" * 300 + b"]" * 300), ["not_an_object", "nested_too_deeply"], id="array: deep"),
    pytest.param(
        b'[1, {"a":' + b"[" * 3000 + b"]" * 3000 + b"}]", ["not_an_object", "nested_too_deeply"], id="array: deeper"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), BODIES)
@pytest.mark.parametrize("bare", [False, True], ids=["from the API", "bare"])
def test_a_body_becomes(body: bytes, expected: list[str], bare: bool) -> None:
    found = transform(body if bare else factories.record(body), factories.RECEIVED_AT, SETTINGS)
    assert kinds(found) == expected


def test_a_neighbour_of_a_bad_event_keeps_its_content() -> None:
    content = (
        '[{"value": 1e400}, {"event_id": 12345678901234567890, "text": "é\u2028 😀", "n": 0.1, "deep": [{"a": null}]}]'
    )
    _, neighbour = outcomes(content)
    assert isinstance(neighbour, Accepted)
    [found] = factories.rows(neighbour)
    assert found["event_id"] == "12345678901234567890"
    assert json.loads(found["properties"]) == {"text": "é\u2028 😀", "n": 0.1, "deep": [{"a": None}]}


def test_the_last_of_two_values_under_one_key_counts() -> None:
    assert row(b'{"name": "first", "name": "last"}')["name"] == "last"


QUERIES = [
    pytest.param("name=John&action=charge&value=100", {"name": "John", "action": "charge", "value": 100.0}, id="plain"),
    pytest.param("name=John&", {"name": "John"}, id="an ampersand at the end"),
    pytest.param("name=a+b%20c%2B%26%3D", {"name": "a b c+&="}, id="encoded characters"),
    pytest.param("name=Zo%C3%AB+%F0%9F%98%80", {"name": "Zoë 😀"}, id="UTF-8"),
    pytest.param("name=%FF", {"name": "\ufffd"}, id="not UTF-8"),
    pytest.param("name=first&name=last", {"name": "last"}, id="a name twice"),
    pytest.param("name=", {"name": None}, id="a blank value"),
    pytest.param("name", {"name": None}, id="no value"),
    pytest.param("name=a&empty=&page=%2F", {"name": "a", "properties": '{"empty":"","page":"/"}'}, id="properties"),
    pytest.param("timestamp=1763706000123", {"occurred_at": "2025-11-21 06:20:00.123"}, id="a time"),
    pytest.param("event_id=mine", {"event_id": "mine"}, id="an id"),
    pytest.param('{"name":"a"}', {"name": None, "properties": '{"{\\"name\\":\\"a\\"}":""}'}, id="JSON is not a query"),
]


@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_a_query_string_is_one_event_of_text_values(query: str, expected: dict[str, Any]) -> None:
    found = row(query, form="query")
    assert {column: found[column] for column in expected} == expected


@pytest.mark.parametrize(
    ("body", "context"), [("{}", {}), ("{ }\n", {"event_id": "replayed"}), ("", {"form": "query"})], ids=repr
)
def test_an_event_without_any_key_is_dropped_before_it_gets_an_id_or_meets_a_rule(
    body: str, context: dict[str, Any]
) -> None:
    def meet(event: rules.Event, context: rules.Context) -> None:
        raise AssertionError("a rule has seen it")

    found = transform(factories.record(body, **context), 0, SETTINGS, {"meet": meet})
    assert found == [Dropped("empty")]


def test_a_query_string_passes_the_rules_and_is_judged_as_any_event() -> None:
    assert outcomes("name=a&debug=true", form="query") == [Dropped("debug")]
    [rejected] = outcomes("value=abc", form="query")
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.position) == ("not_a_number", 0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'[{"a": 1}]', ["not_an_object"]),
        (b"1\noops", ["not_an_object", "not_json"]),
        (b'{"a": 1}', ["accepted"]),
        (b'{"a": 1}\n[]', ["accepted", "not_an_object"]),
    ],
    ids=["an array alone", "no object among them", "an object alone", "both"],
)
def test_where_the_context_line_says_lines_each_line_is_an_event(body: bytes, expected: list[str]) -> None:
    assert kinds(outcomes(body, form="lines")) == expected


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        pytest.param(b' {"a": 1}\n', [b' {"a": 1}\n'], id="a document, space and all"),
        pytest.param(b"\xef\xbb\xbf{}", [b"\xef\xbb\xbf{}"], id="a document with a byte order mark"),
        pytest.param(b"\xff\xfe oops", [b"\xff\xfe oops"], id="no text"),
        pytest.param(b"", [b""], id="nothing"),
        pytest.param(b"[]", [], id="an empty array"),
        pytest.param(b'[\n {"a":\n 1}, 2 ,"x,]"]', [b'{"a":\n 1}', b"2", b'"x,]"'], id="an array"),
        pytest.param(b"\xef\xbb\xbf[1, 2]", [b"1", b"2"], id="an array with a byte order mark"),
        pytest.param(b'[1e999, "\xff"]', [b"1e999", b'"\xff"'], id="an array that no JSON reader takes"),
        pytest.param(b'{"a":1}\r\n\n oops \n', [b'{"a":1}\r', b" oops "], id="lines"),
        pytest.param(b"\xef\xbb\xbf{}\n{}", [b"{}", b"{}"], id="lines with a byte order mark"),
    ],
)
def test_each_event_has_the_text_that_was_sent(body: bytes, texts: list[bytes]) -> None:
    form, found = split(body)
    assert split_texts(body) == (form, texts)
    assert len(found) == len(texts)


def test_a_byte_order_mark_among_lines_is_an_event_of_its_own_also_when_it_comes_back_first() -> None:
    body = b"\xef\xbb\xbf\n{}"
    assert split_texts(body, "lines") == ("lines", [b"\xef\xbb\xbf", b"{}"])
    assert kinds(outcomes(body, form="lines")) == ["not_json", "dropped"]


@pytest.mark.parametrize(
    "body",
    [b'["' + b'\\"' * 400_000, b"[" + b'"' * 800_000 + b"]", b"[" * 400_000 + b"]" * 400_000 + b",", b'["' * 400_000],
    ids=["escaped quotes", "quotes", "brackets", "open arrays"],
)
def test_a_hostile_megabyte_takes_no_longer_than_any_other(body: bytes) -> None:
    before = time.process_time()
    outcomes(body)
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'"Great \ud83d"', "Great \ufffd"),
        (r'"\ude00 cut in front"', "\ufffd cut in front"),
        (r'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (r'"\\ud83d \\\ud83d"', "\\ud83d \\\ufffd"),
    ],
    ids=["cut behind", "cut in front", "before a whole one", "not an escape, and one"],
)
@pytest.mark.parametrize("wrap", ["{%s}", "[{%s}]", '{"other": 1}\n{%s}'], ids=["document", "array", "lines"])
def test_half_an_emoji_is_repaired_and_flagged(text: str, expected: str, wrap: str) -> None:
    outcome = outcomes(wrap % f'"title": {text}')[-1]
    assert isinstance(outcome, Accepted)
    [found] = factories.rows(outcome)
    assert json.loads(found["properties"]) == {"title": expected, "sluice_repaired": True}


def test_a_neighbour_of_half_an_emoji_is_not_flagged() -> None:
    _, neighbour = outcomes(r'[{"title": "\ud83d"}, {"title": "whole"}]')
    assert isinstance(neighbour, Accepted)
    assert "sluice_repaired" not in neighbour.decode()


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"\x1f\xef\xbf\xbd\x08\x00", "gzip"),
        (b'{"a": \xef\xbf\xbd}', "bytes that were not UTF-8"),
        (b"{\x00\xef\xbf\xbd", "bytes that were not UTF-8"),
    ],
    ids=["gzip", "another encoding", "UTF-16"],
)
def test_a_body_that_was_not_utf_8_is_rejected_with_that_as_the_detail(body: bytes, detail: str) -> None:
    [outcome] = outcomes(body)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "not_json"
    assert detail in outcome.detail


@pytest.mark.parametrize("separator", [b",", b"\n"], ids=["an array", "NDJSON"])
def test_what_stands_beyond_10_000_events_is_one_rejected_event(separator: bytes) -> None:
    def body(events: int) -> bytes:
        text = separator.join([b'{"name":"John","action":"charge","value":1}'] * events)
        return b"[%b]" % text if separator == b"," else text

    assert kinds(outcomes(body(MAX_EVENTS))) == ["accepted"] * 10_000
    found = outcomes(body(MAX_EVENTS + 5), position=20)
    assert kinds(found) == ["accepted"] * 10_000 + ["too_many_events"]
    last = found[-1]
    assert isinstance(last, Rejected)
    assert (last.position, last.events) == (10_020, 5)
    assert last.detail.endswith(" bytes holds at most 10,000 events, and 5 more followed")
    assert list(last.others) == [10_021, 10_022, 10_023, 10_024]


def test_a_request_of_tiny_events_holds_fewer_of_them() -> None:
    """Their rows would be many times the bytes sent."""
    body = b"\n".join([b'{"a":1}'] * 10_000)
    found = outcomes(body)
    accepted = [outcome for outcome in found if isinstance(outcome, Accepted)]
    assert kinds(found) == ["accepted"] * len(accepted) + ["too_many_events"]
    assert isinstance(found[-1], Rejected)
    assert found[-1].events == 10_000 - len(accepted)
    assert 16 * len(body) < sum(map(len, accepted)) < 21 * len(body)
    # The limit is not for the requeued rest of a request, or for records from our own servers.
    assert kinds(outcomes(body, position=0)) == kinds(transform(body, 0, SETTINGS)) == ["accepted"] * 10_000
    assert kinds(outcomes(b"\n".join([b'{"a":1}'] * 100), user_agent="u" * 1_024)) == ["accepted"] * 100
    hello = b"\n".join([b'{"name":"John","action":"charge","value":100}'] * 10_000)
    assert kinds(outcomes(hello, user_agent="u" * 1_024)) == ["accepted"] * 10_000


@pytest.mark.parametrize(
    "body", [b"{}\n" + b"x\n" * 400_000, b"[1e400" + b",1" * 400_000 + b"]"], ids=["lines", "an array"]
)
def test_what_stands_beyond_the_limit_is_not_even_read(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[None] = []
    parse = records.parse

    def count(text: bytes, *exact: bool) -> Any:
        read.append(None)
        return parse(text, *exact)

    monkeypatch.setattr(records, "parse", count)
    found = outcomes(body, position=0)
    assert (len(found), kinds(found)[-1]) == (MAX_EVENTS + 1, "too_many_events")
    assert len(read) < 2 * MAX_EVENTS


def test_the_detail_of_a_rejection_repeats_nothing_of_the_event() -> None:
    secret = "hunter2"
    for content in (
        {"value": secret},
        {"timestamp": secret},
        {"name": secret * 99},
        f'{{"a": {secret}}}',
        f'[{{"{secret}": 1e999}}]',
        secret,
    ):
        [outcome] = outcomes(content)
        assert isinstance(outcome, Rejected)
        assert secret not in outcome.detail
