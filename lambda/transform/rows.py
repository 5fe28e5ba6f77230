"""From an event to its row: the columns of schema.json, and how the value of each is read.

Everything here is pure. A column takes these values of a sender, by its type:

- null and blank text count as "not given", for every column.
- A string column takes text. A number or a boolean becomes its JSON text, and 12345.0 is the same text as 12345. So
  does an object or an array, as in Athena's own JSON reader. A double of 2^53 or more rejects the event: it may have
  been a long id, now without its last digits, and two users must not become one.
- `properties` holds every key except those of the columns set by the sender. The keys of the sender's own `properties`
  object are in it directly; keys also in the event stay in an object under `properties`. So nothing is ever lost,
  and `$.plan` finds a sender's `plan` whatever its neighbours are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isfinite, nan
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import orjson

from shared.documents import JsonValue
from transform.records import EARLIEST, EPOCH, LATEST, MAX_EXACT, Reject, read_id, write_json
from transform.rules import Event

Row: TypeAlias = dict[str, Any]
"""The values of a row by its columns, all of them, in the schema's order."""

RequestColumns: TypeAlias = tuple[str, str | None, str | None, str | None]
"""The columns shared by the events of a request: received_at, ip, user_agent and request_id."""

MakeRow: TypeAlias = Callable[[Event, int, RequestColumns], Row]
"""Makes the row of an event received at these epoch milliseconds, and takes the event apart; raises Reject."""


# --- Values, by the column's type ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the events table, as schema.json has it."""

    name: str
    type: str
    """The Glue type."""
    set_by: Literal["sender", "pipeline"]
    description: str
    key: str = ""
    """The event's key for the column, if it is not the column's name."""
    required: bool = False
    max_length: int | None = None
    """Characters, for a column of text."""

    @property
    def longest_text(self) -> int:
        """How many characters of text the column takes as they are; 0, if it is not a column of text."""
        return (self.max_length or sys.maxsize) if self.type == "string" else 0


_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

Reader: TypeAlias = Callable[[JsonValue], float | str | None]
"""Makes a column's value from the sender's, never null; returns None for blank text. Raises Reject."""


def _text_reader(column: Column) -> Reader:
    longest = column.longest_text

    def read(value: JsonValue) -> str | None:
        if type(value) is not str:
            if type(value) is float and abs(value) >= MAX_EXACT:
                detail = f"{column.name} is a number too long to be kept digit for digit; send it as text"
                raise Reject("not_text", detail)
            value = read_id(value) or write_json(value).decode()
        if len(value) > longest:
            raise Reject("too_long", f"{column.name} has {len(value):,} characters; at most {longest:,} are allowed")
        return value if value and not value.isspace() else None

    return read


def _double_reader(column: Column) -> Callable[[JsonValue], float | None]:
    def read(value: JsonValue) -> float | None:
        number: float
        if type(value) is float:
            number = value
        elif type(value) is int:
            number = float(value)
        elif type(value) is str:
            if not value or value.isspace():
                return None
            number = float(value) if _NUMBER.fullmatch(value.strip()) else nan
        else:
            raise Reject("not_a_number", f"{column.name} must be a number")
        if not isfinite(number):
            raise Reject("not_a_number", f"{column.name} must be a number that a double holds")
        return number

    return read


def _bigint_reader(column: Column) -> Reader:
    read_double = _double_reader(column)

    def read(value: JsonValue) -> int | None:
        if type(value) is str and len(value) <= 20 and re.fullmatch(r"[+-]?\d+", value, re.ASCII):
            value = int(value)
        if type(value) is not int:
            number = read_double(value)
            if number is None:
                return None
            if not number.is_integer() or abs(number) >= MAX_EXACT:
                raise Reject("not_a_number", f"{column.name} must be a whole number")
            value = int(number)
        if not -(2**63) <= value < 2**63:
            raise Reject("not_a_number", f"{column.name} must be a whole number of at most 64 bits")
        return int(value)

    return read


def _boolean_reader(column: Column) -> Reader:
    def read(value: JsonValue) -> bool | None:
        if type(value) is bool:
            return value
        text = value.strip().lower() if type(value) is str else None
        if text not in ("true", "false", ""):
            raise Reject("not_a_boolean", f"{column.name} must be true or false")
        return text == "true" if text else None

    return read


def _time_reader(column: Column) -> Reader:
    def read(value: JsonValue) -> str | None:
        time = _read_time(value)
        return None if time is None else time[1]

    return read


def _read_time(value: JsonValue) -> tuple[int, str] | None:
    """A time as epoch milliseconds and as `yyyy-MM-dd HH:mm:ss.SSS` in UTC; None for blank text.

    Takes ISO-8601 and its relatives, a date of e-mail and HTTP, or epoch time as a number or its text: seconds below
    1e11, milliseconds, microseconds from 1e14 on, and nanoseconds from 1e17 on. A time without an offset is UTC. The
    text of eight digits is the date yyyyMMdd. Parts of a millisecond are cut off. Raises Reject for anything else, and
    for times outside the years 1970 to 2100.
    """
    text = None
    if type(value) is str and value[4:5] != "-":
        value = value.strip()
        if not value:
            return None
        if _NUMBER.fullmatch(value) and not (len(value) == 8 and value.isdigit()):
            value = int(value) if value.isdecimal() and len(value) < 20 else float(value)
    if type(value) is str:
        try:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                moment = _read_relative(value)
            if moment.tzinfo is not UTC:
                moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            raise Reject("not_a_time", _HOW_TO_WRITE_TIMES) from None
        since = moment - EPOCH
        milliseconds = (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
        if len(value) == 24 and value[7] == "-" and value[19] == "." and value[23] == "Z":
            # The form of browsers, as in 2026-11-21T06:20:00.123Z: nearly our own.
            text = f"{value[:10]} {value[11:23]}"
    elif type(value) is int or type(value) is float:
        milliseconds = LATEST
        if EARLIEST <= value < LATEST:  # an infinite number would not survive rounding
            milliseconds = round(value * 1000) if value < 1e11 else int(value)
        elif 1e14 <= value < LATEST * 1e6:
            milliseconds = int(value) // (1_000 if value < 1e17 else 1_000_000)
    else:
        raise Reject("not_a_time", _HOW_TO_WRITE_TIMES)
    if not EARLIEST <= milliseconds < LATEST:
        raise Reject("not_a_time", "the time lies outside the years 1970 to 2100")
    return milliseconds, text or format_time(milliseconds)


_HOW_TO_WRITE_TIMES: Final = (
    "the time must be text such as 2026-11-21T06:20:00Z, or epoch seconds or milliseconds; day and month in figures"
    " are ambiguous unless the year is first"
)
# Of one meaning, though not ISO-8601: 2026/1/5 6:20:00,123 UTC, and the forms of Ruby, Go and e-mail.
_RELATIVE: Final = re.compile(
    r"(\d{4})[-/](\d\d?)[-/](\d\d?)(?:(?:\s*T\s*|\s+)(\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?"
    r"\s*(?:Z|UTC|GMT|([+-]\d\d):?(\d\d)?(?:\s+[A-Z]{3,5})?)?)?",
    re.ASCII | re.IGNORECASE,
)
_OF_MAIL: Final = re.compile(
    r"(?:[A-Z][a-z]{2},\s*)?\d\d?[ -][A-Z][a-z]{2}[ -]\d{4} \d\d:\d\d(?::\d\d)?"
    r" (?:GMT|UTC?|Z|[+-]\d{4})(?: \([^()]*\))?",
    re.ASCII,
)


def _read_relative(text: str) -> datetime:
    """The moment of a text that is not quite ISO-8601 but has one meaning; raises ValueError for any other."""
    text = text.strip()
    if found := _RELATIVE.fullmatch(text):
        year, month, day, hour, minute, second, fraction, offset_hours, offset_minutes = found.groups()
        offset = f"{offset_hours}:{offset_minutes or '00'}" if offset_hours else ""
        clock = f"{hour or '0':0>2}:{minute or '00'}:{second or '00'}.{(fraction or '')[:6]:0<6}{offset}"
        return datetime.fromisoformat(f"{year}-{month:0>2}-{day:0>2}T{clock}")
    if _OF_MAIL.fullmatch(text):
        from email.utils import parsedate_to_datetime  # few events need it, and every start would wait for it

        return parsedate_to_datetime(text)
    return datetime.fromisoformat(text)


def format_time(milliseconds: int) -> str:
    """A timestamp in a form common to OpenX JSON, Parquet conversion and Athena."""
    return _format_second(milliseconds // 1000) + _THOUSANDTHS[milliseconds % 1000]


_THOUSANDTHS: Final = tuple(f".{number:03d}" for number in range(1000))


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


def row_maker(columns: Sequence[Column]) -> MakeRow:
    """The function from an event to its row, with just these columns in their order."""
    blank: Row = dict.fromkeys([column.name for column in columns])
    surplus = [name for name in COMPUTED if name not in blank]
    sent = []
    for column in columns:
        if column.name in COMPUTED:
            continue
        if column.set_by != "sender":
            raise ValueError(f"schema.json: the pipeline sets no column {column.name!r}: only {', '.join(COMPUTED)}")
        read = _READERS[column.type](column)
        sent.append((column.name, column.key or column.name, read, column.longest_text, column.required))

    def make_row(event: Event, received_at_milliseconds: int, of_request: RequestColumns) -> Row:
        row = blank.copy()
        take = event.pop
        for name, key, read, longest, required in sent:
            value = take(key, None)
            # Most values are text to be taken as it is: this spares a call for each.
            if type(value) is str and value and len(value) <= longest and not value.isspace():
                row[name] = value
                continue
            if value is not None:
                row[name] = value = read(value)
            if value is None and required:
                raise Reject("missing", f"{name} must be given")
        row["received_at"], row["ip"], row["user_agent"], row["request_id"] = of_request
        sent_at = take(_TIME_KEY, None)
        if sent_at is not None and (occurred := _read_time(sent_at)) is not None:
            milliseconds, row["occurred_at"] = occurred
            row["clock_skew_ms"] = milliseconds - received_at_milliseconds
        else:
            row["occurred_at"] = row["received_at"]
        merge_properties(event, take("properties", None))
        row["properties"] = write_json(event).decode()
        for name in surplus:
            row.pop(name, None)
        return row

    return make_row


COMPUTED: Final = (
    *("occurred_at", "received_at", "clock_skew_ms", "properties", "ip", "user_agent", "request_id"),
    "visitor_id",
)
"""The columns whose value is not simply a key's, as it was read."""

[_TIME_KEY] = [column.key for column in COLUMNS if column.name == "occurred_at"]


def merge_properties(event: Event, properties: JsonValue) -> Event:
    """Move the keys of a sender's `properties` into an event, and return the event.

    Keys also in the event stay in an object under `properties`, and so does a value other than an object.
    """
    if type(properties) is not dict:
        if properties is not None:
            event["properties"] = properties
    elif event.keys().isdisjoint(properties):
        event.update(properties)
    else:
        colliding = {key: value for key, value in properties.items() if key in event or key == "properties"}
        event.update({key: value for key, value in properties.items() if key not in colliding})
        event["properties"] = colliding
    return event


make_row: Final = row_maker(COLUMNS)
