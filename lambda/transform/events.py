"""From the bytes of one Firehose record to an outcome for each event in it.

Everything here is pure: no clock, no environment, no AWS. The same record gives the same outcomes, ids included, so a
record that is delivered twice can be told from two records.

What becomes of input that is not plain:

- One JSON object is one event; the items of a JSON array are events; so are the lines of NDJSON, where blank lines do
  not count. A body that is no JSON document counts as NDJSON as soon as one of its lines is a JSON object; otherwise
  it is one rejected event. A bad event in an array or among lines never harms its neighbours. A query string is one
  event of text values; of a name that stands twice in it, the last counts.
- null and blank text count as "not given", for every column.
- A string column takes text. A number or a boolean becomes its JSON text; so does an object or an array, as in
  Athena's own JSON reader. A double of 2^53 or more rejects the event: it may have been a long id that lost its last
  digits, and two users must not become one.
- `event_id` takes text or a whole number. Anything else is no id: it goes into `properties`, and the event gets ours.
- `properties` holds every key that is not a column, and every key that only the pipeline sets. The keys of the sender's
  own `properties` object stand in it directly; if one of them is also a key of the event, the object stays whole under
  `properties`. So nothing is ever lost.
- A key that stands twice in one object counts with its last value. Whole numbers beyond 64 bits become doubles.
- NaN, a number that no double holds, half a surrogate pair and bytes that are not UTF-8 are not JSON: they reject the
  event that they stand in. So does nesting deeper than orjson writes (254 levels).
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import orjson

from transform.records import (
    EARLIEST,
    EPOCH,
    LATEST,
    MAX_EVENTS,
    Fault,
    Reason,
    Reject,
    describe,
    read_record,
    split,
)
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
    columns_of_request = _columns_of_request(context, settings)
    _, events = split(record.body, record.form)
    alone = len(events) == 1
    beyond = len(events) - MAX_EVENTS
    outcomes: list[Outcome] = []
    for position, event in enumerate(events[:MAX_EVENTS], context.position):
        rule_name = ""
        try:
            if type(event) is not dict:
                raise event if isinstance(event, Reject) else Reject("not_an_object", "an event must be a JSON object")
            not_an_id = _give_event_id(event, context, position, alone)
            for rule_name, rule in rules.items():  # noqa: B007 (the handlers below say which rule it was)
                rule(event, context)
            rule_name = ""
            outcomes.append(_row(event, not_an_id, columns_of_request, context, position))
        except Drop:
            outcomes.append(Dropped(rule_name))
        except Reject as reject:
            outcomes.append(Rejected(reject.reason, reject.detail, position))
        except Exception as error:
            detail = f"rule {rule_name!r}: {describe(error)}" if rule_name else describe(error)
            raise Fault("rule" if rule_name else "bug", detail, min(len(events), MAX_EVENTS + 1)) from error
    if beyond > 0:
        detail = f"a record holds at most {MAX_EVENTS:,} events, and {beyond:,} more followed"
        first = context.position + MAX_EVENTS
        outcomes.append(Rejected("too_many_events", detail, first, range(first + 1, first + beyond)))
    return outcomes


# --- The columns that the events of a request share ----------------------------------------------------------------


def _columns_of_request(context: Context, settings: Settings) -> dict[str, Any]:
    """A row with the columns that all events of a request share, and None in every other."""
    row = _EMPTY_ROW.copy()
    row["received_at"] = row["occurred_at"] = format_time(context.received_at)
    row["request_id"] = context.request_id
    if "user_agent" not in settings.redact_fields:
        row["user_agent"] = context.user_agent
    ip = context.ip
    if ip is not None and "ip" not in settings.redact_fields:
        row["ip"] = handle_ip(ip, settings.ip_handling)
    return row


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


# --- The event: columns from the schema, everything else into properties ------------------------------------------


def _give_event_id(event: Event, context: Context, position: int, alone: bool) -> Any:
    """Give the event an id before the rules see it; returns what the sender had in its place, if that was no id."""
    own = event.get("event_id")
    if type(own) is str and own and not own.isspace():
        return None
    if type(own) is int:
        event["event_id"] = str(own)
        return None
    event["event_id"] = context.event_id if alone and context.event_id else _make_event_id(event, context, position)
    return own if type(own) is not str else None


def _make_event_id(event: Event, context: Context, position: int) -> str:
    """An id that the same event of the same request has again when its record is delivered again.

    Two bare records that arrive in the same millisecond differ by their text alone; if that is the same as well, they
    count as one event.
    """
    request = context.extended_request_id or context.received_at
    return sha256(b"%b %d %b" % (str(request).encode(), position, _dumps(event))).hexdigest()[:32]


def _row(event: Event, not_an_id: Any, columns_of_request: dict[str, Any], context: Context, position: int) -> bytes:
    """The row of an event; takes the event apart. Raises Reject."""
    row = columns_of_request.copy()
    take = event.pop
    for key, column, longest_text, read in _SENDER_COLUMNS:
        value = take(key, None)
        # Most values are text that needs no reader: this spares a call for each.
        if type(value) is str and value and len(value) <= longest_text and not value.isspace():
            row[column] = value
        elif value is not None:
            row[column] = read(value)
    sent_at = take(_OCCURRED_AT_KEY, None)
    if sent_at is not None and (occurred := _read_time(sent_at)) is not None:
        row["occurred_at"] = occurred[1]
        row["clock_skew_ms"] = occurred[0] - context.received_at
    for column in _REQUIRED_COLUMNS:
        if row[column] is None:
            raise Reject("missing", f"{column} must be given")
    if not_an_id is not None:
        event["event_id"] = not_an_id
    own_properties = take("properties", None)
    if own_properties is not None:
        if type(own_properties) is dict and event.keys().isdisjoint(own_properties):
            event.update(own_properties)
        else:
            event["properties"] = own_properties
    row["properties"] = _dumps(event).decode()
    if row["event_id"] is None:  # a rule has emptied it
        row["event_id"] = _make_event_id(row, context, position)
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _dumps(value: Any) -> bytes:
    """JSON text. Only a rule can have put something into an event that has none, and that is a fault: TypeError."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        if "Recursion limit" in str(error):
            raise Reject("nested_too_deeply", "objects and arrays are nested deeper than 254 levels") from error
        raise


# --- Values: what a sender may write for a column of each type ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the events table, as schema.json has it."""

    name: str
    type: str
    """The Glue type."""
    set_by: Literal["sender", "pipeline"]
    description: str
    key: str = ""
    """The event's key that fills the column, where it is not the column's name."""
    required: bool = False
    max_length: int | None = None
    """Characters, for a column of text."""

    @property
    def longest_text(self) -> int:
        """Characters of text that the column takes as they stand; none, if it is not a column of text."""
        return (self.max_length or sys.maxsize) if self.type == "string" else 0


_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

Reader: TypeAlias = Callable[[Any], Any]
"""Makes a column's value from what the sender wrote, never null; returns None for blank text. Raises Reject."""


def _text_reader(column: Column) -> Reader:
    longest = column.longest_text

    def read(value: Any) -> str | None:
        if type(value) is not str:
            if type(value) is float and abs(value) >= 2**53:
                detail = f"{column.name} is a number too long to be kept digit for digit; send it as text"
                raise Reject("not_text", detail)
            value = _dumps(value).decode()
        if len(value) > longest:
            raise Reject("too_long", f"{column.name} has {len(value):,} characters; at most {longest:,} are allowed")
        return value if value and not value.isspace() else None

    return read


def _double_reader(column: Column) -> Reader:
    def read(value: Any) -> float | None:
        number: float
        if type(value) is float:
            number = value
        elif type(value) is int:
            number = float(value)
        elif type(value) is str:
            if not value or value.isspace():
                return None
            number = float(value) if _NUMBER.fullmatch(value.strip()) else math.nan
        else:
            raise Reject("not_a_number", f"{column.name} must be a number")
        if not math.isfinite(number):
            raise Reject("not_a_number", f"{column.name} must be a number that a double holds")
        return number

    return read


def _bigint_reader(column: Column) -> Reader:
    read_double = _double_reader(column)

    def read(value: Any) -> int | None:
        if type(value) is str and len(value) <= 20 and re.fullmatch(r"[+-]?\d+", value, re.ASCII):
            value = int(value)
        if type(value) is not int:
            number = read_double(value)
            if number is None:
                return None
            # A double of 2^53 or more may have been another whole number.
            if not number.is_integer() or abs(number) >= 2**53:
                raise Reject("not_a_number", f"{column.name} must be a whole number")
            value = int(number)
        if not -(2**63) <= value < 2**63:
            raise Reject("not_a_number", f"{column.name} must be a whole number of at most 64 bits")
        return int(value)

    return read


def _boolean_reader(column: Column) -> Reader:
    def read(value: Any) -> bool | None:
        if type(value) is bool:
            return value
        text = value.strip().lower() if type(value) is str else None
        if text not in ("true", "false", ""):
            raise Reject("not_a_boolean", f"{column.name} must be true or false")
        return text == "true" if text else None

    return read


def _time_reader(column: Column) -> Reader:
    def read(value: Any) -> str | None:
        time = _read_time(value)
        return None if time is None else time[1]

    return read


def _read_time(value: Any) -> tuple[int, str] | None:
    """A time as epoch milliseconds and as `yyyy-MM-dd HH:mm:ss.SSS` in UTC; None for blank text.

    Takes ISO-8601, in UTC if it names no offset, or epoch time as a number or its text: seconds below 1e11, else
    milliseconds. The text of eight digits is the date yyyyMMdd. What is finer than a millisecond is cut off. Raises
    Reject for anything else, and for times outside the years 1970 to 2100.
    """
    text = None
    if type(value) is str and value[4:5] != "-":
        value = value.strip()
        if not value:
            return None
        if _NUMBER.fullmatch(value) and not (len(value) == 8 and value.isdigit()):
            value = float(value)
    if type(value) is str:
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not UTC:
                moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            raise Reject("not_a_time", "the text is neither ISO-8601 nor epoch time") from None
        since = moment - EPOCH
        milliseconds = (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
        if len(value) == 24 and value[7] == "-" and value[19] == "." and value[23] == "Z":
            # What browsers write, as in 2026-11-21T06:20:00.123Z: nearly the form that we write.
            text = f"{value[:10]} {value[11:23]}"
    elif type(value) is int or type(value) is float:
        milliseconds = LATEST
        if EARLIEST <= value < LATEST:  # an infinite number would not survive rounding
            milliseconds = round(value * 1000) if value < 1e11 else int(value)
    else:
        raise Reject("not_a_time", "a time must be text or a number")
    if not EARLIEST <= milliseconds < LATEST:
        raise Reject("not_a_time", "the time lies outside the years 1970 to 2100")
    return milliseconds, text or format_time(milliseconds)


def format_time(milliseconds: int) -> str:
    """The form of a timestamp that OpenX JSON, Parquet conversion and Athena all read."""
    return f"{_format_second(milliseconds // 1000)}.{milliseconds % 1000:03d}"


@lru_cache(maxsize=4096)
def _format_second(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S")


# --- The schema ---------------------------------------------------------------------------------------------------

_READERS: Final[Mapping[str, Callable[[Column], Reader]]] = {
    "string": _text_reader,
    "double": _double_reader,
    "bigint": _bigint_reader,
    "boolean": _boolean_reader,
    "timestamp": _time_reader,
}

COLUMNS: Final[tuple[Column, ...]] = tuple(
    Column(**column) for column in orjson.loads(Path(__file__).with_name("schema.json").read_bytes())["columns"]
)
"""The columns of a row, in their order."""

_EMPTY_ROW: Final[dict[str, Any]] = dict.fromkeys(column.name for column in COLUMNS)
_REQUIRED_COLUMNS: Final = tuple(column.name for column in COLUMNS if column.required)
[_OCCURRED_AT_KEY] = [column.key for column in COLUMNS if column.name == "occurred_at"]
# The columns that one key of the event fills, with nothing more to it: key, column, longest text that is taken as it
# stands (0: none is), and the reader for everything else.
_SENDER_COLUMNS: Final[tuple[tuple[str, str, int, Reader], ...]] = tuple(
    (column.key or column.name, column.name, column.longest_text, _READERS[column.type](column))
    for column in COLUMNS
    if column.set_by == "sender" and column.name != "occurred_at"
)
