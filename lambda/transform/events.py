"""From the bytes of one Firehose record to an outcome for each event in it.

Everything here is pure: no clock, no environment, no AWS. The same record gives the same outcomes, ids included, so a
record that is delivered twice can be told from two records.

What becomes of input that is not plain:

- One JSON object is one event; the items of a JSON array are events; so are the lines of NDJSON, where blank lines do
  not count. A body that is no JSON document counts as NDJSON as soon as one of its lines is a JSON object; otherwise
  it is one rejected event. A bad event in an array or among lines never harms its neighbours. A query string is one
  event of text values; of a name that stands twice in it, the last counts.
- `event_id` takes text or a whole number. Anything else is no id: it goes into `properties`, and the event gets ours.
- A key that stands twice in one object counts with its last value. Whole numbers beyond 64 bits become doubles.
- NaN, a number that no double holds, half a surrogate pair and bytes that are not UTF-8 are not JSON: they reject the
  event that they stand in. So does nesting deeper than orjson writes (254 levels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal, TypeAlias

import orjson

from transform.records import MAX_EVENTS, TOO_DEEP, Fault, Reason, Reject, describe, read_record, split
from transform.rows import RequestColumns, format_time, make_row
from transform.rules import RULES, Context, Drop, Event, Rule

IpHandling: TypeAlias = Literal["TRUNCATE", "FULL", "NONE"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parameters of the stack decide."""

    ip_handling: IpHandling = "TRUNCATE"
    redact_fields: frozenset[str] = frozenset()
    """Field names in lower case."""


Accepted: TypeAlias = bytes
"""An event that became a row is its row: a JSON object and a newline, its keys the columns in the schema's order."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """An event that the named rule left out."""

    rule: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that is wrong; the detail says how, and repeats none of its content."""

    reason: Reason
    detail: str
    position: int
    """Which event of its request it was, from 0."""
    others: Sequence[int] = ()
    """The positions of further events, where one rejection stands for many."""


Outcome: TypeAlias = Accepted | Dropped | Rejected


def transform(data: bytes, arrived_at: int, settings: Settings, rules: Mapping[str, Rule] = RULES) -> list[Outcome]:
    """Turn one record into the outcomes of its events, one for each and in their order.

    `data` is the record as it stood on the delivery stream, `arrived_at` its approximateArrivalTimestamp in epoch
    milliseconds. An empty array has no events and no outcomes. What stands beyond MAX_EVENTS has one outcome together.
    Raises Fault when not the sender but we are wrong.
    """
    record = read_record(data, arrived_at, settings.redact_fields)
    context = record.context
    received_at = context.received_at
    of_request = _columns_of_request(context, settings)
    _, events = split(record.body, record.form)
    beyond = len(events) - MAX_EVENTS
    if beyond > 0:
        del events[MAX_EVENTS:]
    outcomes: list[Outcome] = []
    for position, event in enumerate(events, context.position):
        rule_name = ""
        try:
            if type(event) is not dict:
                raise event if isinstance(event, Reject) else Reject("not_an_object", "an event must be a JSON object")
            own_id = event.get("event_id")
            not_an_id = None
            if type(own_id) is not str or not own_id or own_id.isspace():
                not_an_id = _give_event_id(event, own_id, context, position, len(events) == 1)
            for rule_name, rule in rules.items():  # noqa: B007 (the handlers below say which rule it was)
                rule(event, context)
            rule_name = ""
            row = make_row(event, not_an_id, received_at, of_request)
            if row["event_id"] is None:  # a rule has emptied it
                row["event_id"] = make_id(context, position, orjson.dumps(row))
            outcomes.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        except Drop:
            outcomes.append(Dropped(rule_name))
        except Reject as reject:
            outcomes.append(Rejected(reject.reason, reject.detail, position))
        except Exception as error:
            if not rule_name and "Recursion limit" in str(error):  # orjson's word, when it writes
                outcomes.append(Rejected("nested_too_deeply", TOO_DEEP, position))
                continue
            detail = f"rule {rule_name!r}: {describe(error)}" if rule_name else describe(error)
            raise Fault("rule" if rule_name else "bug", detail, len(events) + (beyond > 0)) from error
    if beyond > 0:
        detail = f"a record holds at most {MAX_EVENTS:,} events, and {beyond:,} more followed"
        first = context.position + MAX_EVENTS
        outcomes.append(Rejected("too_many_events", detail, first, range(first + 1, first + beyond)))
    return outcomes


def _columns_of_request(context: Context, settings: Settings) -> RequestColumns:
    """What the events of a request share."""
    ip, user_agent = context.ip, context.user_agent
    if settings.redact_fields:
        ip = None if "ip" in settings.redact_fields else ip
        user_agent = None if "user_agent" in settings.redact_fields else user_agent
    if ip is not None:
        ip = handle_ip(ip, settings.ip_handling)
    return format_time(context.received_at), ip, user_agent, context.request_id


@lru_cache(maxsize=4096)
def handle_ip(ip: str, handling: IpHandling) -> str | None:
    """An address as its column shows it: truncated to its /24 or /48 network, in full, or not at all.

    Truncating an address that cannot be read would show it whole, so it is left out.
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


def _give_event_id(event: Event, own_id: Any, context: Context, position: int, alone: bool) -> Any:
    """Give the event an id before the rules see it; returns what the sender had in its place, if that was no id."""
    if type(own_id) is int:
        event["event_id"] = str(own_id)
        return None
    made_before = context.event_id if alone else None
    event["event_id"] = made_before or make_id(context, position, orjson.dumps(event))
    return own_id if type(own_id) is not str else None


def make_id(context: Context, position: int, text: bytes) -> str:
    """An id that the same text at the same place of the same request has again when its record is delivered again.

    Two bare records that arrive in the same millisecond differ by their text alone; if that is the same as well, they
    count as one event.
    """
    request = context.extended_request_id or str(context.received_at)
    return sha256(b"%b %d %b" % (request.encode(), position, text)).hexdigest()[:32]
