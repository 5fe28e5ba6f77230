"""From the bytes of one Firehose record to an outcome for each event in it.

Everything here is pure: no clock, no environment, no AWS. The same record gives the same outcomes, ids included, so a
record delivered twice can be told from two records.

Unusual input:

- One JSON object is one event; the items of a JSON array are events; so are the lines of NDJSON, where blank lines do
  not count. A body other than a JSON document counts as NDJSON as soon as one of its lines is a JSON object; otherwise
  it is one rejected event. A bad event in an array or among lines never harms its neighbours. A query string is one
  event of text values; of a name given twice, the last value counts.
- An event without any key is dropped: API Gateway makes `{}` of an empty body, and a pixel's query string may be empty.
- `event_id` takes text or a whole number. Anything else is not an id: it goes into `properties` before the rules see
  the event, and the event gets an id of ours.
- Of a key given twice in one object, the last value counts. Whole numbers keep their digits, however many.
- The body of a well-known client is read as its context line says (envelopes.py).
- Half a surrogate pair becomes U+FFFD, and the event is flagged with `sluice_repaired`.
- NaN, a number too large for a double, and bytes other than UTF-8 are not JSON: they reject their event.
  So does nesting deeper than orjson writes (254 levels).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from hmac import digest
from ipaddress import IPv6Address, ip_address
from typing import Final, TypeAlias

import orjson

from shared.documents import JsonValue
from transform.envelopes import unwrap
from transform.records import (
    ENVELOPES,
    FREE_EVENTS,
    PLUS,
    TOO_DEEP,
    Fault,
    Reason,
    Reject,
    describe,
    may_have_lost_digits,
    read_id,
    read_record,
    split,
    write_json,
)
from transform.rows import RequestColumns, format_time, make_row, merge_properties
from transform.rules import RULES, Context, Drop, Event, IpHandling, Rule, Settings

Accepted: TypeAlias = bytes
"""An accepted event is its row: a JSON object and a newline, its keys the columns in the schema's order."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """An event left out by the named rule."""

    rule: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A faulty event; the detail says why, and repeats none of its content."""

    reason: Reason
    detail: str
    position: int
    """Its position in its request, from 0."""
    others: Sequence[int] = ()
    """The positions of further events with this rejection."""

    @property
    def events(self) -> int:
        """How many events it rejects."""
        return 1 + len(self.others)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event left for later, because the rows before it already fill the reply."""


EMPTY: Final = "empty"
"""The rule against an event without any key: it is dropped before it gets an id and the other rules see it."""


WITHOUT_ID: Final = ("denied", "opted_out")
"""Values of the key `consent`, as sluice.js sends it, of events without a visitor's id."""


Outcome: TypeAlias = Accepted | Dropped | Rejected | Waiting


def transform(  # noqa: PLR0913 - the hot path: it takes no time to wrap its two limits
    data: bytes,
    arrived_at: int,
    settings: Settings,
    rules: Mapping[str, Rule] = RULES,
    room: int = sys.maxsize,
    exact: bool = False,
) -> list[Outcome]:
    """Turn one record into the outcomes of its events, one for each and in their order.

    `data` is the record as it was on the delivery stream, `arrived_at` its approximateArrivalTimestamp in epoch
    milliseconds. An empty array has no events and no outcomes. All events beyond the record's `most_events` share one
    outcome. As soon as the rows have more than `room` characters in base64, the following events wait. A record with
    whole numbers beyond 64 bits is read a second time, and then `exact`. Raises Fault when not the sender but we are
    wrong.
    """
    record = read_record(data, arrived_at, settings)
    context = record.context
    received_at = context.received_at
    of_request = _columns_of_request(context, settings)
    salt = _salt_of(context, settings) if settings.find_salt else None
    form, events = split(record.body, record.form, exact)
    beyond = 0
    if len(events) > FREE_EVENTS:
        most = record.most_events
        beyond = max(0, len(events) - most)
        del events[most:]
    if form in ENVELOPES:
        events = [unwrap(form, event) for event in events]
    are_several = len(events) > 1
    bytes_left = room * 3 // 4 if are_several else 0
    outcomes: list[Outcome] = []
    for position, event in enumerate(events, context.position):
        rule_name = ""
        try:
            if type(event) is not dict:
                if isinstance(event, Reject | Drop):
                    raise event
                raise Reject("not_an_object", "an event must be a JSON object")
            own_id = event.get("event_id")
            if type(own_id) is not str or not own_id or own_id.isspace():
                _give_event_id(event, own_id, context, position, len(events) == 1)
            for rule_name, rule in rules.items():  # noqa: B007 (the handlers below say which rule it was)
                rule(event, context)
            rule_name = ""
            row = make_row(event, received_at, of_request)
            if salt is not None and event.get("consent") not in WITHOUT_ID:
                row["visitor_id"] = make_visitor_id(salt, row["source"], context.ip or "", context.user_agent)
            if row["event_id"] is None:  # a rule has emptied it
                row["event_id"] = make_id(context, position, orjson.dumps(row))
            line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
            if PLUS in line and not exact and may_have_lost_digits(line):
                return transform(data, arrived_at, settings, rules, room, True)
            outcomes.append(line)
            if are_several:
                bytes_left -= len(line)
                if bytes_left < 0:
                    outcomes += [Waiting()] * (len(events) - len(outcomes))
                    break
        except Drop as drop:
            outcomes.append(Dropped(rule_name or str(drop) or EMPTY))
        except Reject as reject:
            if reject.reason == "not_text" and not exact:
                return transform(data, arrived_at, settings, rules, room, True)
            outcomes.append(Rejected(reject.reason, reject.detail, position))
        except Exception as error:
            if not rule_name and "Recursion limit" in str(error):  # orjson's word, when it writes
                outcomes.append(Rejected("nested_too_deeply", TOO_DEEP, position))
                continue
            detail = f"rule {rule_name!r}: {describe(error)}" if rule_name else describe(error)
            raise Fault("rule" if rule_name else "bug", detail, len(events) + beyond) from error
    if beyond:
        detail = f"a record of {len(record.body):,} bytes holds at most {most:,} events, and {beyond:,} more followed"
        first = context.position + most
        outcomes.append(Rejected("too_many_events", detail, first, range(first + 1, first + beyond)))
    return outcomes


def _columns_of_request(context: Context, settings: Settings) -> RequestColumns:
    """The columns shared by the events of a request."""
    ip, user_agent = context.ip, context.user_agent
    if settings.redact_fields:
        ip = None if "ip" in settings.redact_fields else ip
        user_agent = None if "user_agent" in settings.redact_fields else user_agent
    if ip is not None:
        ip = handle_ip(ip, settings.ip_handling)
    return format_time(context.received_at), ip, user_agent, context.request_id


def _salt_of(context: Context, settings: Settings) -> bytes | None:
    """The salt of a request's visitor id; None if it has none.

    A replayed rejection has only the network of its address, and would make the visitor another one.
    """
    if settings.find_salt is None or context.ip is None or "visitor_id" in settings.redact_fields:
        return None
    return settings.find_salt(context.received_at) if handle_ip(context.ip, "TRUNCATE") != context.ip else None


@lru_cache(maxsize=4096)
def handle_ip(ip: str, handling: IpHandling) -> str | None:
    """An address as its column shows it: truncated to its /24 or /48 network, in full, or not at all.

    An unreadable address cannot be truncated, so it is left out.
    """
    if handling != "TRUNCATE":
        return ip if handling == "FULL" else None
    try:
        address = ip_address(ip)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(IPv6Address(int(address) >> 80 << 80))
        address = address.ipv4_mapped
    return str(address).rpartition(".")[0] + ".0"


def _give_event_id(event: Event, own_id: JsonValue, context: Context, position: int, alone: bool) -> None:
    """Give the event an id before the rules see it. An invalid id of the sender's moves to properties.

    Raises Drop for an event without any key: it has no id, so this is the place where it costs the others nothing.
    """
    if own_id is not None and (valid := read_id(own_id)) is not None:
        event["event_id"] = valid
        return
    if not event:
        raise Drop
    made_before = context.event_id if alone else None
    event["event_id"] = made_before or make_id(context, position, write_json(event))
    if own_id is not None and type(own_id) is not str:
        event["properties"] = merge_properties({"event_id": own_id}, event.get("properties"))


def make_id(context: Context, position: int, text: bytes) -> str:
    """An id from an event's request, place and text: the same when its record is delivered again.

    Two bare records of the same millisecond differ by their text alone; if it is the same as well, they count as one
    event.
    """
    request = context.extended_request_id or str(context.received_at)
    return sha256(b"%b %d %b" % (request.encode(), position, text)).hexdigest()[:32]


@lru_cache(maxsize=4096)
def make_visitor_id(salt: bytes, source: str | None, ip: str, user_agent: str | None) -> str:
    """128 bits, the same for one visitor of one source during one day."""
    return digest(salt, "\0".join((source or "", ip, user_agent or "")).encode(), "sha256").hex()[:32]
