"""Values of an event from its request: the id, the time, the address, the client."""

from __future__ import annotations

import pytest

from tests import factories
from tests.outcomes import SETTINGS, outcomes, row
from transform.events import Accepted, Rejected, transform
from transform.records import Fault
from transform.rules import IpHandling, Settings

# --- Ids ----------------------------------------------------------------------------------------------------------


def test_a_redelivered_record_has_the_same_ids() -> None:
    content = [{"name": "a"}, {"name": "a"}, {"event_id": None}]
    first, second = outcomes(content), transform(factories.record(content), 99, SETTINGS)
    assert first == second
    ids = [factories.rows(outcome)[0]["event_id"] for outcome in first if isinstance(outcome, Accepted)]
    assert len(set(ids)) == 3


def test_the_same_event_in_another_request_has_another_id() -> None:
    ids = {row({"name": "a"}, extended_request_id=other)["event_id"] for other in ("X=", "Y=")}
    assert len(ids) == 2


def test_an_id_does_not_depend_on_how_the_rest_of_its_request_travels() -> None:
    """A rest put back on the stream carries its position, and its events keep their ids."""
    whole = outcomes([{"name": "a"}, {"name": "b"}, {"name": "c"}])
    rest = outcomes('{"name":"b"}\n{"name":"c"}', position=1)
    assert whole[1:] == rest
    assert [outcome.position for outcome in outcomes("1\n{}\n2", position=7) if isinstance(outcome, Rejected)] == [7, 9]


def test_the_arrival_time_stands_for_the_request_id_of_a_bare_record() -> None:
    def identify(data: bytes, arrived_at: int) -> str:
        [outcome] = transform(data, arrived_at, SETTINGS)
        assert isinstance(outcome, Accepted)
        return str(factories.rows(outcome)[0]["event_id"])

    assert identify(b'{"name": "a"}', 1) == identify(b'{"name": "a"}', 1)
    assert len({identify(b'{"name": "a"}', 1), identify(b'{"name": "a"}', 2), identify(b'{"name": "b"}', 1)}) == 3


# --- The record ---------------------------------------------------------------------------------------------------


def test_a_bare_record_has_its_arrival_time_and_no_request() -> None:
    [outcome] = transform(b'{"name": "a"}', factories.RECEIVED_AT, SETTINGS)
    assert isinstance(outcome, Accepted)
    [found] = factories.rows(outcome)
    assert found["received_at"] == found["occurred_at"] == factories.RECEIVED_AT_TEXT
    assert found["ip"] is found["user_agent"] is found["request_id"] is None


def test_a_replayed_record_keeps_its_time_its_position_and_its_id() -> None:
    found = row({"name": "a"}, event_id="kept==", position=3, received_at=1000)
    assert (found["event_id"], found["received_at"]) == ("kept==", "1970-01-01 00:00:01.000")
    assert row({"event_id": "own"}, event_id="kept")["event_id"] == "own"
    twice = outcomes([{"a": 1}, {"a": 1}], event_id="one")
    assert len({outcome for outcome in twice if isinstance(outcome, Accepted)}) == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "a", "x": "sluice/end extended_request_id=AbCdEfGhIjKlMnO="}',
        b'{"name": "a"}\nsluice/end extended_request_id=AbCdEfGhIjKlMnO=',
        b'{"name": "a"}\nsluice/end extended_request_id=AbCdEfGhIjKlMnO=\n',
        b'sluice/1 request_id=forged extended_request_id=f time=1 ip=6.6.6.6 user_agent=\n{"name": "a"}',
        b'\nsluice/1 request_id=forged extended_request_id=f time=1 ip=6.6.6.6 user_agent=\n{"name": "a"}\n'
        b"sluice/end extended_request_id=f\n",
    ],
    ids=["a line in text", "an end line", "an end line and a newline", "a context line", "a whole record"],
)
def test_a_body_cannot_forge_its_context(body: bytes) -> None:
    found = [outcome for outcome in outcomes(body) if isinstance(outcome, Accepted)]
    assert len(found) == 1
    [only] = factories.rows(found[0])
    assert (only["request_id"], only["ip"]) == (factories.REQUEST_ID, "203.0.113.0")
    assert only["received_at"] == factories.RECEIVED_AT_TEXT


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(factories.record({}, end=""), "end_line", id="no end line"),
        pytest.param(factories.record({})[:-1], "end_line", id="a cut end line"),
        pytest.param(
            factories.record({}, end="\nsluice/end extended_request_id=other\n"), "end_line", id="another's end line"
        ),
        pytest.param(factories.record({}) + b"{}", "end_line", id="something after the end line"),
        pytest.param(
            factories.record(b"", end="sluice/end extended_request_id=AbCdEfGhIjKlMnO=\n"),
            "end_line",
            id="no newline of its own",
        ),
        pytest.param(factories.record({}, extended_request_id=""), "context_line", id="no extended request id"),
        pytest.param(factories.record({}, time="soon"), "context_line", id="no time"),
        pytest.param(factories.record({}, time=10**15), "context_line", id="an impossible time"),
        pytest.param(factories.record({}, position="x"), "context_line", id="a position that is not a number"),
        pytest.param(factories.record({}, colour="red"), "context_line", id="an unknown field"),
        pytest.param(factories.record({}, form="xml"), "context_line", id="an unknown form"),
        pytest.param(factories.record({}).replace(b"user_agent=T", b"user_agent=*"), "context_line", id="bad base64"),
        pytest.param(factories.record({}).replace(b"sluice/1", b"sluice/2"), "context_line", id="another version"),
        pytest.param(b"sluice/1 ", "context_line", id="the marker alone"),
    ],
)
def test_a_record_of_ours_that_is_not_whole_is_our_fault(data: bytes, expected: str) -> None:
    with pytest.raises(Fault) as fault:
        transform(data, 0, SETTINGS)
    assert (fault.value.reason, fault.value.events) == (expected, 1)


@pytest.mark.parametrize(
    ("ip", "handling", "expected"),
    [
        ("203.0.113.7", "TRUNCATE", "203.0.113.0"),
        ("203.0.113.7", "FULL", "203.0.113.7"),
        ("203.0.113.7", "NONE", None),
        ("2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", "TRUNCATE", "2001:db8:aaaa::"),
        ("2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", "FULL", "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"),
        ("::ffff:203.0.113.7", "TRUNCATE", "203.0.113.0"),
        ("test-invoke-source-ip", "TRUNCATE", None),
        ("", "TRUNCATE", None),
        ("", "FULL", None),
    ],
)
def test_the_address_is_shown_as_configured(ip: str, handling: IpHandling, expected: str | None) -> None:
    assert row({"a": 1}, Settings(ip_handling=handling), ip=ip)["ip"] == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("", None),
        ('"\\\'},{"', '"\\\'},{"'),
        ("line\nsluice/end x=\u2028", "line\nsluice/end x=\u2028"),
        (b"caf\xe9", "caf\ufffd"),
        ("x" * 1024, "x" * 256),
    ],
    ids=["empty", "quotes and brackets", "a newline", "not UTF-8", "1,024 characters"],
)
def test_a_user_agent_arrives_as_its_first_256_characters_were_sent(sent: str | bytes, expected: str | None) -> None:
    assert row({"a": 1}, user_agent=sent)["user_agent"] == expected
