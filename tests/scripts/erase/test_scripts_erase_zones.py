"""The owner of an event in each zone; without it, a record leads to the same rows of everybody else."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.firehose.objects import compress
from scripts.commands.erase import zones as erase_zones
from scripts.commands.erase.zones import Person, Pool
from scripts.commands.lake.objects import plain, values
from tests import factories
from tests.factories import RECEIVED_AT
from tests.scripts.erase.erase_bucket import (
    ADA,
    PERSON,
    TODAY,
    envelope,
    event,
    lines,
    long_rejection,
    raw_data,
    rejected,
    rows_of,
)
from transform.events import Rejected, transform

# Whose an event is


WHOSE: list[tuple[str, str, bytes, bool]] = [
    ("text", "u1", b'{"user_id": "u1"}', True),
    ("text with white space around it", "u1", b'{"user_id": " u1\\t"}', True),
    ("text in escapes", "zo\u00eb", b'{"user_id": "zo\\u00eb"}', True),
    ("after a byte order mark", "u1", b'\xef\xbb\xbf{"user_id": "u1"}', True),
    ("a number", "42", b'{"user_id": 42}', True),
    ("a number that a double loses", "123456789012345678901234", b'{"user_id": 123456789012345678901234}', True),
    ("another such number", "123456789012345678901235", b'{"user_id": 123456789012345678901234}', False),
    ("a longer id", "u1", b'{"user_id": "u12"}', False),
    ("another case", "u1", b'{"user_id": "U1"}', False),
    ("an id that is nested too deeply", "u1", b'{"user_id": %b}' % (b"[" * 300 + b"]" * 300), False),
    ("nobody", "u1", b'{"name": "u1"}', False),
    ("a debug event, which a rule drops", "u1", b'{"user_id": "u1", "debug": true}', True),
    ("cut off", "u1", b'{"name": "x", "user_id": "u1", "na', True),
    ("cut off within the id of another", "u1", b'{"user_id": "u12', False),
    ("an array in an array", "u1", b'[{"user_id":"u1"}]', True),
    ("JSON inside JSON", "u1", b'"{\\"user_id\\": \\"u1\\"}"', True),
    ("Python", "u1", b"{'user_id': 'u1'}", True),
    ("a form", "a b", b"name=x&user_id=a+b&y=1", True),
    ("a name that ends alike", "u1", b'{"other_user_id": "u1"', False),
]


@pytest.mark.parametrize(("user", "text", "is_owned"), [case[1:] for case in WHOSE], ids=[case[0] for case in WHOSE])
def test_an_event_is_the_persons_however_its_id_is_written(user: str, text: bytes, is_owned: bool) -> None:
    assert Person(user).owns_text(text) is is_owned


def test_an_event_is_the_persons_if_a_rule_gives_it_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase_zones, "RULES", {"uid": lambda event, context: event.update(user_id=event.pop("uid"))})
    assert PERSON.owns_text(json.dumps({"uid": ADA}).encode())
    assert not PERSON.owns_text(b'{"uid": "other"}')


SIMILAR: list[tuple[str, str, bytes, str]] = [
    ("another case", "u1", b'{"user_id": " U1 "}', "U1"),
    ("wide characters", "ada1", '{"user_id": "\uff41\uff44\uff41\uff11"}'.encode(), "\uff41\uff44\uff41\uff11"),
    ("a sharp s", "strasse", '{"user_id": "Stra\u00dfe"}'.encode(), "Stra\u00dfe"),
    ("an accent of its own", "zo\u00eb", '{"user_id": "zoe\u0308"}'.encode(), "zoe\u0308"),
    ("a whole number with a .0", "12345", b'{"user_id": "12345.0"}', "12345.0"),
    ("a whole number without one", "12345.0", b'{"user_id": 12345}', "12345"),
    ("a text that is cut off", "u1", b'{"name": "x", "user_id": "U1", "na', "U1"),
    ("a form", "a b", b"name=x&user_id=A+B&y=1", "A B"),
]


@pytest.mark.parametrize(("user", "text", "similar"), [case[1:] for case in SIMILAR], ids=[case[0] for case in SIMILAR])
def test_an_id_that_is_the_persons_but_for_its_form_is_counted(user: str, text: bytes, similar: str) -> None:
    person = Person(user)
    assert not person.owns_text(text)
    assert person.similar == {similar: 1}


@pytest.mark.parametrize(("user", "text"), [case[1:3] for case in WHOSE], ids=[case[0] for case in WHOSE])
def test_no_other_id_is_counted(user: str, text: bytes) -> None:
    person = Person(user)
    person.owns_text(text)
    assert person.similar == ({"U1": 1} if b"U1" in text else {})


# Records: the rest leads to the same rows as before


RECORDS: list[tuple[str, bytes]] = [
    ("an array", factories.record([{"user_id": "a", "n": n} if n != 1 else event(ADA) for n in range(4)])),
    ("lines", factories.record(b'{"user_id":"a"}\n\n' + json.dumps(event(ADA)).encode() + b'\n{"user_id":"b"}')),
    ("the last of lines", factories.record(b'{"user_id":"b"}\n' + json.dumps(event(ADA)).encode())),
    ("a record that was put back", factories.record(lines(event(ADA), {"user_id": "b"}), form="lines", position=7)),
    ("a bare array", json.dumps([{"user_id": "a"}, event(ADA), {"user_id": "b"}]).encode()),
    (
        "a batch of a library",
        factories.record(
            {"batch": [{"type": "page", "userId": user} for user in ("a", f" {ADA}", "b")]}, form="v1/batch"
        ),
    ),
]


@pytest.mark.parametrize("data", [case[1] for case in RECORDS], ids=[case[0] for case in RECORDS])
def test_a_failed_record_loses_the_persons_events_and_the_others_keep_their_rows_and_made_up_ids(data: bytes) -> None:
    remains = erase_zones.erase_errors(lines(envelope(data)), PERSON, "processing-failed")
    assert remains.found == remains.removed == 1
    left = rows_of(*raw_data(remains.content))
    assert left == [row for row in rows_of(data) if row["user_id"] != ADA]
    assert len(left) == remains.after


USERS = st.sampled_from([ADA, f" {ADA}", "a", None, 7, [ADA]])
SHAPES: dict[str, Callable[[list[bytes]], bytes]] = {
    "array": lambda texts: b"[%b]" % b" ,\n".join(texts),
    "lines": b"\n\n".join,
}


@given(st.lists(USERS, min_size=1, max_size=6), st.sampled_from(sorted(SHAPES)), st.booleans())
def test_whatever_record_it_is_what_stays_leads_to_the_rows_that_it_led_to(
    users: list[Any], shape: str, is_bare: bool
) -> None:
    body = SHAPES[shape]([json.dumps({"user_id": user, "n": n}).encode() for n, user in enumerate(users)])
    data = body if is_bare else factories.record(body)
    others = [row for row in rows_of(data) if row["user_id"] != ADA]
    remains = erase_zones.erase_errors(lines(envelope(data)), PERSON, "processing-failed")
    assert (remains.before, remains.after) == (len(users), len(others))
    if remains.found:
        assert rows_of(*raw_data(remains.content)) == others
        if others:
            assert erase_zones.erase_errors(remains.content, PERSON, "processing-failed").found == 0


def test_a_record_of_the_person_alone_goes_with_its_envelope_and_the_others_stay_byte_for_byte() -> None:
    other = json.dumps(envelope(factories.record(event("b")))).encode()
    mine = json.dumps(envelope(factories.record(event(ADA)))).encode()
    remains = erase_zones.erase_errors(other + mine + other, PERSON, "processing-failed")
    assert remains.content == other + other
    assert (remains.before, remains.after) == (3, 2)


def test_an_envelope_keeps_its_own_form_whether_as_aws_writes_it_or_as_aws_documents_it() -> None:
    person = Person("ada")
    remains = erase_zones.erase_errors(factories.read_event("processing_failed.ndjson"), person, "processing-failed")
    assert (remains.before, remains.found, remains.after) == (4, 2, 2)
    written = [json.loads(text) for text in values(plain(remains.content))]
    for one, before in zip(written, factories.envelopes(), strict=True):
        assert {**one, "rawData": ""} == {**before, "rawData": ""}
    assert [row["user_id"] for row in rows_of(*raw_data(remains.content))] == ["bob", "bob"]


def test_a_pixel_and_a_record_that_is_not_whole_are_read_too() -> None:
    pixel = factories.record(f"name=x&user_id={ADA}", form="query")
    identify = factories.record({"userId": ADA}, form="v1/identify")
    broken = b"sluice/1 broken\n" + json.dumps(event(ADA)).encode()
    other = b"sluice/1 broken\n" + json.dumps(event("b")).encode()
    remains = erase_zones.erase_errors(
        lines(*map(envelope, (pixel, identify, broken, other))), PERSON, "processing-failed"
    )
    assert raw_data(remains.content) == [other]


def test_rows_that_could_not_be_converted_are_lines_of_their_own() -> None:
    rows = [
        b'{"event_id":"1","user_id":"a"}\n',
        b'{"event_id":"2","user_id":"%b"}\n' % ADA.encode(),
        b'{"user_id":"b"}\n',
    ]
    remains = erase_zones.erase_errors(lines(envelope(b"".join(rows))), PERSON, "format-conversion-failed")
    assert raw_data(remains.content) == [rows[0] + rows[2]]


def test_raw_records_and_bare_ones_that_nothing_parts() -> None:
    ours = [factories.record(event(user), extended_request_id=f"x{user}") for user in ("a", ADA, "b")]
    mine, other = json.dumps(event(ADA)).encode(), json.dumps(event("c")).encode()
    bare = other + mine + b"[%b, %b , %b]" % (mine, other, mine) + other + b"[%b]" % mine
    content = gzip.compress(ours[0] + bare + ours[1] + ours[2])
    remains = erase_zones.erase_raw(content, PERSON)
    assert plain(remains.content) == ours[0] + other + b"[%b]" % other + other + ours[2]
    assert remains.content[:2] == b"\x1f\x8b"
    assert (remains.before, remains.found) == (3 + 7, 1 + 4)


def test_records_without_an_end_line_stay_apart_when_the_one_between_them_goes() -> None:
    broken, mine = (factories.record(event(user), extended_request_id=user) for user in ("b", ADA))
    broken = broken.partition(b"sluice/end")[0]
    remains = erase_zones.erase_raw(broken + mine + broken, PERSON)
    assert remains.content == broken + broken
    assert erase_zones.erase_raw(remains.content, PERSON).before == remains.after == 2


def test_the_texts_of_a_split_record_are_found_where_they_stand() -> None:
    mine = b'{"user_id":"%b"}' % ADA.encode()
    body = b"[[[1]], %b ,[1], %b]" % (mine, mine)
    assert erase_zones.erase_raw(body, PERSON).content == b"[[[1]], [1]]"
    assert erase_zones.erase_raw(b"[%b ,%b]" % (mine, mine), PERSON).content == b""


def test_a_rejection_that_stands_for_many_loses_the_persons_events_alone() -> None:
    events = [event(ADA if number in (10_001, 10_003) else "b", number) for number in range(10_006)]
    data = factories.record(events)
    (reject,) = [outcome for outcome in transform(data, RECEIVED_AT, TODAY) if isinstance(outcome, Rejected)]
    content = gzip.compress(rejected(data, reject))
    remains = erase_zones.erase_rejected(content, PERSON, Pool())
    (row,) = [json.loads(line) for line in plain(remains.content).splitlines()]
    assert [json.loads(text)["event_id"] for text in values(base64.b64decode(row["body"]))] == [
        "e10000", "e10002", "e10004", "e10005"
    ]  # fmt: skip
    assert (remains.before, remains.removed, remains.found) == (1, 0, 1)
    assert erase_zones.erase_rejected(remains.content, PERSON, Pool()).found == 0


def test_all_parts_of_a_text_go_also_those_that_do_not_name_the_person() -> None:
    first, second = long_rejection(ADA)
    other = long_rejection("b")
    pool = Pool()
    pool.add(first)
    remains = erase_zones.erase_rejected(other[0] + second + other[1], PERSON, pool)
    assert remains.content == other[0] + other[1]
    assert (remains.obstacle, remains.goes_last) == ("", False)
    assert erase_zones.erase_rejected(first, PERSON, pool).goes_last


def test_a_part_of_a_text_of_which_the_rest_is_missing_is_told_unless_it_names_the_person() -> None:
    first, second = long_rejection(ADA)
    assert erase_zones.erase_rejected(first, PERSON, Pool()).removed == 1
    alone = erase_zones.erase_rejected(second, PERSON, Pool())
    assert (alone.found, alone.obstacle) == (0, "1 of the 2 parts of a rejected text are missing")


# Rows as JSON, in each compression


@pytest.mark.parametrize("codec", ["GZIP", "HADOOP_SNAPPY", "UNCOMPRESSED"])
def test_json_rows_stay_byte_for_byte_in_their_order_and_compression(codec: str) -> None:
    kept = [b'{"event_id":"1","user_id":"a","value":1.50}\n', b'{"event_id":"3", "user_id":null}\n']
    mine = b'{"event_id":"2","user_id":"%b"}\n' % ADA.encode()
    content = compress(kept[0] + mine + kept[1] + mine, codec)
    remains = erase_zones.erase_rows(content, PERSON)
    assert remains.content == compress(b"".join(kept), codec) or codec == "GZIP"
    assert plain(remains.content) == b"".join(kept)
    assert (remains.before, remains.after, remains.content[:2]) == (4, 2, content[:2])
