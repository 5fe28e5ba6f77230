"""From an event to its row: the columns of schema.json, and how the value of each is read.

Everything here is pure. What a sender may write for a column of each type:

- null and blank text count as "not given", for every column.
- A string column takes text. A number or a boolean becomes its JSON text; so does an object or an array, as in
  Athena's own JSON reader. A double of 2^53 or more rejects the event: it may have been a long id that lost its last
  digits, and two users must not become one.
- `properties` holds every key that is not a column, and every key that only the pipeline sets. The keys of the sender's
  own `properties` object stand in it directly; if one of them is also a key of the event, the object stays whole under
  `properties`. So nothing is ever lost.
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
from typing import Any, Final, Literal, Protocol, TypeAlias, cast

import orjson

from transform.records import EARLIEST, EPOCH, LATEST, Reject
from transform.rules import Event

Row: TypeAlias = dict[str, Any]
"""The values of a row by its columns, all of them, in the schema's order."""

RequestColumns: TypeAlias = tuple[str, str | None, str | None, str | None]
"""What the events of a request share: received_at, ip, user_agent and request_id."""


class MakeRow(Protocol):
    """Makes the row of an event, which it takes apart; raises Reject.

    `not_an_id` is what the sender gave as an id that is none, or None.
    """

    def __call__(
        self, event: Event, not_an_id: Any, received_at_milliseconds: int, of_request: RequestColumns, /
    ) -> Row: ...


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
            value = orjson.dumps(value).decode()
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
            number = float(value) if _NUMBER.fullmatch(value.strip()) else nan
        else:
            raise Reject("not_a_number", f"{column.name} must be a number")
        if not isfinite(number):
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
        hours = (moment.toordinal() - _EPOCH_DAY) * 24 + moment.hour
        milliseconds = (hours * 60 + moment.minute) * 60_000 + moment.second * 1000 + moment.microsecond // 1000
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
    return _format_second(milliseconds // 1000) + _THOUSANDTHS[milliseconds % 1000]


_EPOCH_DAY: Final = EPOCH.toordinal()
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


def compile_rows(columns: Sequence[Column]) -> MakeRow:
    """The function that makes a row of an event, for just these columns.

    What a loop over the columns would do is written out for each and compiled, as dataclasses are: this saves a
    twentieth of the time (docs/decisions/0018). For a column `name` of text, of at most 256 characters, it is

        v1 = take('name', None)
        if v1 is not None and not (type(v1) is str and v1 and len(v1) <= 256 and not v1.isspace()): v1 = read1(v1)

    and then `'name': v1` in the row. Of schema.json nothing comes into the text but as a literal.
    """
    names: dict[str, Any] = {"dumps": orjson.dumps, "isfinite": isfinite, "read_time": _read_time, "miss": _miss}
    steps, values = [], []
    for number, column in enumerate(columns):
        if column.name in COMPUTED:
            value = column.name
        elif column.set_by == "sender":
            value = f"v{number}"
            names[f"read{number}"] = _READERS[column.type](column)
            plain = _PLAIN.get(column.type, "False").format(v=value, longest=column.longest_text)
            steps.append(f"{value} = take({column.key or column.name!r}, None)")
            steps.append(f"if {value} is not None and not ({plain}): {value} = read{number}({value})")
            if column.required:
                steps.append(f"if {value} is None: miss({column.name!r})")
        else:
            raise ValueError(f"schema.json: the pipeline sets no column {column.name!r}: only {', '.join(COMPUTED)}")
        values.append(f"{column.name!r}: {value}")
    [time_key] = [column.key for column in COLUMNS if column.name == "occurred_at"]
    text = _MAKE_ROW.format(steps="\n    ".join(steps), time_key=time_key, values=", ".join(values))
    exec(text, names)  # nosec B102
    return cast("MakeRow", names["make_row"])


COMPUTED: Final = ("occurred_at", "received_at", "clock_skew_ms", "properties", "ip", "user_agent", "request_id")
"""The columns that are not a key's value as it was read, by the variables of the function below."""

_MAKE_ROW: Final = """
def make_row(event, not_an_id, received_at_milliseconds, of_request):
    received_at, ip, user_agent, request_id = of_request
    take = event.pop
    {steps}
    occurred_at, clock_skew_ms = received_at, None
    sent_at = take({time_key!r}, None)
    if sent_at is not None and (occurred := read_time(sent_at)) is not None:
        milliseconds, occurred_at = occurred
        clock_skew_ms = milliseconds - received_at_milliseconds
    if not_an_id is not None:
        event["event_id"] = not_an_id
    own_properties = take("properties", None)
    if own_properties is not None:
        if type(own_properties) is dict and event.keys().isdisjoint(own_properties):
            event.update(own_properties)
        else:
            event["properties"] = own_properties
    properties = dumps(event).decode()
    return {{{values}}}
"""

_PLAIN: Final = {
    "string": "type({v}) is str and {v} and len({v}) <= {longest} and not {v}.isspace()",
    "double": "type({v}) is float and isfinite({v})",
}
"""By type, the values that a column takes as they stand: most are such, and this spares a call for each."""


def _miss(name: str) -> None:
    raise Reject("missing", f"{name} must be given")


make_row: Final = compile_rows(COLUMNS)
