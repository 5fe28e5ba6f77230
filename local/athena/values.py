"""Functions of Athena missing or different in DuckDB: dates, JSON, patterns, addresses, percentiles.

DuckDB calls each function of FUNCTIONS under its name. It raises QueryFailed in Athena's words where Athena fails, and
Missing for cases not implemented here.
"""

from __future__ import annotations

import calendar
import hashlib
import itertools
import json
import math
import re
import urllib.parse
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed lacks it
from typing import Any, NoReturn, TypeVar

from local.athena.syntax import Missing
from local.athena.tables import QueryFailed
from local.athena.text import java_double, moment, scientific, show, show_item, wall
from local.athena.types import MONTHS, UNKNOWN, ZONED, ZONED_STRUCT, Type

# What DuckDB gives a function, and takes from it.
Value = bool | int | float | str | bytes | Decimal | date | list["Value"] | dict[str, "Value"] | None

MONTH_NAMES = str.split("January February March April May June July August September October November December")
WEEKDAYS = str.split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def invalid(reason: str) -> QueryFailed:
    return QueryFailed(f"INVALID_FUNCTION_ARGUMENT: {reason}")


def uncastable(reason: str) -> QueryFailed:
    return QueryFailed(f"INVALID_CAST_ARGUMENT: {reason}")


def fail(reason: str) -> None:
    """End the query for this reason, within an expression."""
    raise QueryFailed(reason)


def missing(what: str, condition: bool) -> None:
    """Refuse under a condition: DuckDB may call this beforehand, too, where all is constant."""
    if condition:
        raise Missing(what)


# --- Dates

# The letters of date_format and date_parse: as Joda's letters, with the largest number of digits when it is parsed.
MYSQL = {
    "a": "EEE", "b": "MMM", "c": "M", "d": "dd", "e": "d", "f": "SSSSSS", "H": "HH", "h": "hh", "I": "hh", "i": "mm",
    "j": "DDD", "k": "H", "l": "h", "M": "MMMM", "m": "MM", "p": "a", "r": "hh:mm:ss a", "S": "ss", "s": "ss",
    "T": "HH:mm:ss", "v": "ww", "x": "xxxx", "W": "EEEE", "Y": "yyyy", "y": "yy",
}  # fmt: skip
JODA = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+")
WIDEST = {"y": 4, "Y": 4, "x": 4, "D": 3}


@lru_cache(256)
def layout(pattern: str, mysql: bool) -> list[tuple[str, str]]:
    """A pattern as its parts: a field as Joda's letters, or a text as it is with no letters."""
    parts: list[tuple[str, str]] = []
    if not mysql:
        if JODA.sub("", pattern):
            raise invalid(f"Illegal pattern: {pattern}")
        for found in JODA.finditer(pattern):
            quoted = found[1].replace("''", "'") or "'" if found[1] is not None else found[0]
            parts.append((found[0], "") if found[2] else ("", quoted))
        return parts
    for found in re.finditer(r"%(.)|%$|[^%]+", pattern, re.DOTALL):
        letter = found[1]
        if letter in ("D", "U", "u", "V", "w", "X") and letter:
            raise invalid(f"%{letter} not supported in date format string")
        if letter in MYSQL:
            parts += layout(MYSQL[letter], False)
        elif found[0] != "%":
            parts.append(("", letter or found[0]))
    return parts


NUMBERS: dict[str, Callable[[datetime], int]] = {
    "M": lambda at: at.month, "d": lambda at: at.day, "D": lambda at: at.timetuple().tm_yday,
    "w": lambda at: at.isocalendar().week, "e": datetime.isoweekday, "H": lambda at: at.hour,
    "k": lambda at: at.hour or 24, "K": lambda at: at.hour % 12, "h": lambda at: at.hour % 12 or 12,
    "m": lambda at: at.minute, "s": lambda at: at.second,
}  # fmt: skip


def field_text(letters: str, at: datetime) -> str:
    """One field of a moment."""
    letter, count = letters[0], len(letters)
    if letter in "yYx":
        year = at.isocalendar().year if letter == "x" else at.year
        return f"{year % 100:02}" if count == 2 else str(year).zfill(count)
    if letter in "ME" and (letter == "E" or count > 2):
        name = MONTH_NAMES[at.month - 1] if letter == "M" else WEEKDAYS[at.weekday()]
        return name if count > 3 else name[:3]
    if letter == "a":
        return "AM" if at.hour < 12 else "PM"
    if letter == "S":
        return f"{at.microsecond // 1000:03}".ljust(count, "0")[:count]
    if letter not in NUMBERS:
        raise Missing(f"{letters} in a date format")
    return str(NUMBERS[letter](at)).zfill(count)


def format_moment(at: datetime, pattern: str, mysql: bool) -> str:
    return "".join(field_text(letters, at) if letters else text for letters, text in layout(pattern, mysql))


def field_form(letters: str, is_followed: bool, mysql: bool) -> str:
    """The regular expression of a field, as it is parsed. Digits behind it leave it no more than its own."""
    letter, count = letters[0], len(letters)
    if letter in "xweGCzZkK" or (letter in "yY" and count not in (1, 2, 4)):
        raise Missing(f"{letters} in a date that is parsed")
    if letter == "a":
        return "AM|PM"
    if letter == "E" or (letter == "M" and count > 2):
        names = WEEKDAYS if letter == "E" else MONTH_NAMES
        return "|".join(sorted({*names, *(name[:3] for name in names)}, key=len, reverse=True))
    if letter == "S":
        return r"\d{1,9}+"
    if letter in "yY" and count == 2:
        return r"\d\d"
    widest = count if is_followed else max(WIDEST.get(letter, 2), 0 if mysql else count)
    return rf"\d{{1,{widest}}}+"


def parse_moment(text: str, pattern: str, mysql: bool) -> datetime:
    """The moment in a text. Fields missing from the pattern are those of 1970-01-01."""
    parts = layout(pattern, mysql)
    fields = [letters for letters, _ in parts if letters]
    expression = ""
    for (letters, constant), (following, _) in itertools.pairwise([*parts, ("", "")]):
        is_followed = following[:1] in tuple("yYMdDHhms")
        expression += f"({field_form(letters, is_followed, mysql)})" if letters else re.escape(constant)
    found = re.fullmatch(expression, text, re.IGNORECASE | re.ASCII)
    if not found:
        raise invalid(f'Invalid format: "{text}"')
    got = {letter[0]: (letter, value) for letter, value in zip(fields, found.groups(), strict=True)}

    def number(letter: str, default: int, lowest: int, highest: int) -> int:
        value = int(got[letter][1]) if letter in got else default
        if not lowest <= value <= highest:
            raise invalid(
                f'Cannot parse "{text}": Value {value} for {letter} must be in the range [{lowest},{highest}]'
            )
        return value

    year_letter = "Y" if "Y" in got else "y"
    year = number(year_letter, 1970, 1 if mysql else 0, 9999)
    if len(got.get(year_letter, ("yyyy",))[0]) == 2:
        year += 2000 if year < 70 else 1900
    month = number("M", 1, 1, 12) if not got.get("M", ("", "1"))[1].isalpha() else 1 + next(
        index for index, name in enumerate(MONTH_NAMES) if name.lower().startswith(got["M"][1].lower())
    )  # fmt: skip
    hour = number("H", 0, 0, 23)
    if "h" in got:
        hour = number("h", 12, 1, 12) % 12 + 12 * (got.get("a", ("", "AM"))[1].upper() == "PM")
    fraction = int(got["S"][1].ljust(3, "0")[:3]) * 1000 if "S" in got else 0
    try:
        made = datetime(
            year, month, number("d", 1, 1, 31), hour, number("m", 0, 0, 59), number("s", 0, 0, 59), fraction
        )
    except ValueError as error:
        raise invalid(f'Cannot parse "{text}": {error}') from None
    if "D" in got:
        made = made.replace(month=1, day=1) + timedelta(days=number("D", 1, 1, 366) - 1)
    if "E" in got and not WEEKDAYS[made.weekday()].lower().startswith(got["E"][1].lower()):
        raise Missing("a day of the week that is not that of the date")
    return made


ISO_DATE = r"(\d{4})(?:-(?:W(\d\d)(?:-(\d))?|(\d{3})|(\d\d?)(?:-(\d\d?))?))?"
ISO_TIME = r"(\d\d?)(?::(\d\d?)(?::(\d\d?)(?:[.,](\d{1,9}))?)?)?"
ISO_OFFSET = r"(Z|[+-]\d\d(?::?\d\d)?)"


def iso_day(found: re.Match[str]) -> date:
    year, week, weekday, ordinal, month, day = (int(part) if part else 0 for part in found.groups()[:6])
    if week:
        return date.fromisocalendar(year, week, weekday or 1)
    if ordinal:
        return date(year, 1, 1) + timedelta(days=ordinal - 1)
    return date(year, month or 1, day or 1)


def iso_date(text: str) -> date:
    found = re.fullmatch(ISO_DATE, text, re.ASCII)
    try:
        if found:
            return iso_day(found)
    except ValueError:
        pass
    raise invalid(f'Invalid format: "{text}"')


def iso_timestamp(text: str) -> dict[str, Value]:
    found = re.fullmatch(rf"{ISO_DATE}(?:T(?:{ISO_TIME})?{ISO_OFFSET}?)?", text, re.ASCII)
    try:
        if found:
            hour, minute, second = (int(part or 0) for part in found.groups()[6:9])
            fraction = (found[10] or "").ljust(3, "0")[:3]
            clock = datetime.combine(iso_day(found), datetime.min.time()).replace(
                hour=hour, minute=minute, second=second, microsecond=int(fraction) * 1000
            )
            zone = zone_name(found[11] or "Z")
            return {"utc": moment(clock, zone), "zone": zone}
    except ValueError:
        pass
    raise invalid(f'Invalid format: "{text}"')


def zone_name(text: str) -> str:
    """A time zone as Trino calls it: UTC, +05:30, Europe/Berlin."""
    if text in ("Z", "UTC", "GMT", "UT", "Etc/UTC", "Etc/GMT"):
        return "UTC"
    if found := re.fullmatch(r"([+-])(\d\d?)(?::?(\d\d))?", text, re.ASCII):
        name = f"{found[1]}{int(found[2]):02}:{found[3] or '00'}"
        return "UTC" if name[1:] == "00:00" else name
    if re.fullmatch(r"[A-Z]\w+(/[A-Z][\w+-]+)+", text, re.ASCII):
        try:
            moment(datetime(2000, 1, 1), text)
            return text
        except (KeyError, OSError, ValueError):
            pass
    raise Missing(f"the time zone '{text}'")


def offset_minutes(utc: datetime, zone: str) -> int:
    return int((wall(utc, zone) - utc).total_seconds() // 60)


def offset_text(utc: datetime, zone: str) -> str:
    """A zone's offset at a moment, as ISO 8601 writes it."""
    minutes = offset_minutes(utc, zone)
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}" if minutes else "Z"


CLOCK = r"\s*(\d{4})-(\d{1,2})-(\d{1,2})(?: (\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d+))?)?)?"


def zoned_clock(text: str) -> tuple[datetime, str, int]:
    """A timestamp as written in SQL: the clock's time, the zone or nothing, the number of decimals."""
    found = re.fullmatch(rf"{CLOCK}\s*([A-Za-z+-][\w/:+-]*)?\s*", text, re.ASCII)
    try:
        if found:
            numbers = [int(part or 0) for part in found.groups()[:6]]
            decimals = len(found[7] or "")
            if decimals > 6:
                raise Missing("timestamps with more than 6 decimals")
            year, month, day, hour, minute, second = numbers
            clock = datetime(year, month, day, hour, minute, second, int((found[7] or "").ljust(6, "0")))
            return clock, zone_name(found[8]) if found[8] else "", decimals
    except ValueError:
        pass
    raise uncastable(f"Value cannot be cast to timestamp: {text}")


def cast_zoned(text: str) -> dict[str, Value]:
    clock, zone, _ = zoned_clock(text)
    return {"utc": moment(clock, zone or "UTC"), "zone": zone or "UTC"}


# --- JSON: numbers keep their text, objects the order of their keys


class Number(str):
    """A number of a JSON text, as it is written."""


class Pairs(list[tuple[str, "Parsed"]]):
    """An object of a JSON text."""


Parsed = bool | str | Number | list["Parsed"] | Pairs | None


def no_constant(name: str) -> NoReturn:
    raise ValueError(name)


decode: Callable[[str, int], tuple[Parsed, int]] = json.JSONDecoder(
    object_pairs_hook=Pairs, parse_float=Number, parse_int=Number, parse_constant=no_constant
).raw_decode
SPACE = re.compile(r"[ \t\r\n]*")
STEP = re.compile(r'\.([\w:]+)|\[(?:"((?:[^"\\]|\\["\\])*)"|(\w+))\]')


@lru_cache(256)
def steps_of(path: str) -> tuple[str, ...]:
    """The keys and indices of a path such as $.a["b c"][0]."""
    steps: list[str] = []
    at = 1
    while path[:1] == "$" and at < len(path):
        found = STEP.match(path, at)
        if not found:
            break
        steps.append(found[1] or found[3] or re.sub(r"\\(.)", r"\1", found[2]))
        at = found.end()
    if path[:1] != "$" or at < len(path):
        raise invalid(f"Invalid JSON path: '{path}'")
    return tuple(steps)


def after_space(text: str, at: int) -> int:
    """The end of any white space at `at`."""
    return SPACE.match(text, at).end()  # type: ignore[union-attr] # it matches nothing, too


def expect(text: str, at: int, sign: str) -> int:
    """The place behind a sign."""
    if text[at : at + 1] != sign:
        raise ValueError(at)
    return at + 1


def entry(text: str, at: int, step: str) -> int:
    """Where the value for a step into an object or array begins. Raises ValueError for bad JSON, KeyError for none."""
    closing = {"{": "}", "[": "]"}[text[at : at + 1]]
    wanted = str(int(step)) if closing == "]" and step.isdigit() else step
    at, number = after_space(text, at + 1), 0
    while text[at : at + 1] != closing:
        if number:
            at = after_space(text, expect(text, at, ","))
        name = str(number)
        if closing == "}":
            name, at = scanstring(text, expect(text, at, '"'))
            at = after_space(text, expect(text, after_space(text, at), ":"))
        if name == wanted:
            return at
        at = after_space(text, decode(text, at)[1])
        number += 1
    raise KeyError(step)


def follow(text: str, steps: tuple[str, ...]) -> Parsed:
    """The value at a path; text behind it is not read. Raises as `entry` does."""
    at = after_space(text, 0)
    for step in steps:
        at = entry(text, at, step)
    return decode(text, at)[0]


def dump(value: Parsed, order: bool = False) -> str:
    """JSON text as Jackson writes it; keys in order if asked."""
    if isinstance(value, list) and not isinstance(value, Pairs):
        return "[" + ",".join(dump(item, order) for item in value) + "]"
    if isinstance(value, Pairs):
        pairs = sorted(dict(value).items()) if order else value
        return "{" + ",".join(f"{quote(name)}:{dump(item, order)}" for name, item in pairs) + "}"
    if isinstance(value, Number):
        return java_double(float(value)) if set(value) & set(".eE") else str(int(value))
    return quote(value) if isinstance(value, str) else json.dumps(value)


def quote(text: str) -> str:
    return re.sub(r"\\u00[0-9a-f]{2}", lambda found: "\\u" + found[0][2:].upper(), json.dumps(text, ensure_ascii=False))


def at_path(show_found: Callable[[Parsed], Value]) -> Callable[[str, str], Value]:
    """A function of a JSON text and a path: `show_found` of the value there, NULL if there is none."""

    def read(text: str, path: str) -> Value:
        steps = steps_of(path)
        try:
            return show_found(follow(text, steps))
        except (ValueError, KeyError, RecursionError):
            return None

    return read


def scalar_text(value: Parsed) -> str | None:
    """A scalar as text, None for all else."""
    if value is None or isinstance(value, list):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_json(text: str) -> Parsed:
    """The whole value. Raises ValueError."""
    value, end = decode(text, after_space(text, 0))
    if after_space(text, end) != len(text):
        raise ValueError(end)
    return value


def json_parse(text: str) -> str:
    try:
        return dump(read_json(text), order=True)
    except ValueError:
        raise invalid(f"Cannot convert value to JSON: '{text}'") from None


def json_array_length(text: str) -> int | None:
    try:
        value = read_json(text)
    except ValueError:
        return None
    return len(value) if isinstance(value, list) and not isinstance(value, Pairs) else None


def cast_from_json(text: str, kind: Type) -> Value:
    try:
        value = read_json(text)
    except ValueError:
        raise uncastable(f"Cannot cast to {kind}. {text}") from None
    return from_json(value, kind)


def from_json(value: Parsed, kind: Type) -> Value:
    """A JSON value as a CAST makes it one of a type."""
    if value is None and kind.name != "json":
        return None
    wrong = uncastable(f"Cannot cast to {kind}. {dump(value)}")
    array = value if isinstance(value, list) and not isinstance(value, Pairs) else None
    match kind.name:
        case "json":
            return dump(value)
        case "array" if array is not None:
            return [from_json(item, kind.items[0]) for item in array]
        case "map" if isinstance(value, Pairs):
            return [
                {"k": from_text(k, kind.items[0], wrong), "v": from_json(v, kind.items[1])}
                for k, v in dict(value).items()
            ]
        case "row" if array is not None and len(array) == len(kind.items):
            return {f"f{n}": from_json(item, of) for n, (item, of) in enumerate(zip(array, kind.items, strict=True))}
        case "row" if isinstance(value, Pairs):
            given = {name.lower(): item for name, item in value}
            return {
                f"f{n}": from_json(given.get(name.lower()), of)
                for n, (name, of) in enumerate(zip(kind.fields, kind.items, strict=True))
            }
    if isinstance(value, list) or kind.items:
        raise wrong
    if kind.name == "varchar" and isinstance(value, Number) and set(value) & set(".eE"):
        return scientific(float(value))
    if kind.name == "boolean" and isinstance(value, Number):
        return float(value) != 0
    text = scalar_text(value) or ""
    if isinstance(value, bool) and kind.name not in ("varchar", "boolean"):
        text = str(int(value))
    if isinstance(value, Number) and kind.name in ("tinyint", "smallint", "integer", "bigint"):
        text = f"{Decimal(value).to_integral_value('ROUND_HALF_UP'):f}"
    return from_text(text, kind, wrong)


RANGES = {"tinyint": 2**7, "smallint": 2**15, "integer": 2**31, "bigint": 2**63}


def from_text(text: str, kind: Type, wrong: QueryFailed | None = None) -> Value:
    """A text as a value of a type. Raises `wrong` if it is not one."""
    name = kind.name
    reason = f"Cannot cast '{text}' to {'INT' if name == 'integer' else str(kind).upper()}"
    if name in ("date", "timestamp"):
        reason = f"Value cannot be cast to {name}: {text}"
    wrong = wrong or uncastable(reason)
    try:
        if name == "varchar":
            return text[: kind.size[0]] if kind.size else text
        if name in RANGES and re.fullmatch(r"[+-]?\d+", text, re.ASCII) and -RANGES[name] <= int(text) < RANGES[name]:
            return int(text)
        if name in ("double", "real") and re.fullmatch(
            r"\s*(NaN|[+-]?(Infinity|[\d.]+([eE][+-]?\d+)?)[dDfF]?)\s*", text
        ):
            return float(text.strip().rstrip("dDfF") if text.strip() not in ("NaN",) else "nan")
        if name == "boolean" and text.lower() in ("true", "false", "t", "f", "1", "0"):
            return text.lower() in ("true", "t", "1")
        if name == "decimal" and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
            rounded = Decimal(text).quantize(Decimal(1).scaleb(-kind.size[1]), "ROUND_HALF_UP")
            if abs(rounded) < Decimal(10) ** (kind.size[0] - kind.size[1]):
                return rounded
        if name == "date" and re.fullmatch(r"\s*\d{4}-\d{1,2}-\d{1,2}\s*", text, re.ASCII):
            return date(*map(int, text.strip().split("-")))
        if name == "timestamp" and re.fullmatch(rf"{CLOCK}\s*", text, re.ASCII):
            return rounded_moment(zoned_clock(text)[0], kind.size[0])
    except (ValueError, ArithmeticError):
        pass
    if name not in (*RANGES, "double", "real", "boolean", "decimal", "date", "timestamp"):
        raise Missing(f"CAST of text to {kind}")
    raise wrong


def text_of_cast(value: Any, kind: Type) -> str | None:
    match kind.name:
        case "double":
            return scientific(value)
        case "real":
            return scientific(float(str(show(value, kind))))
        case "timestamp":
            return clock_text(value, kind.size[0])
        case _ if kind.name == ZONED:
            zone = value["zone"]
            return f"{clock_text(wall(value['utc'], zone), kind.size[0])} {zone}"
    return show(value, kind)


def rounded_moment(at: datetime, precision: int) -> datetime:
    """A moment with so many decimals, half up."""
    if precision >= 6:
        return at
    unit = 10 ** (6 - precision)
    return at.replace(microsecond=0) + timedelta(microseconds=(at.microsecond + unit // 2) // unit * unit)


def to_json(value: Any, kind: Type) -> str:
    """A value as JSON text."""
    if value is None:
        return "null"
    match kind.name:
        case "array":
            return f"[{','.join(to_json(item, kind.items[0]) for item in value)}]"
        case "map":
            pairs = sorted((key_text(one["k"], kind.items[0]), one["v"]) for one in value)
            return f"{{{','.join(f'{quote(k)}:{to_json(v, kind.items[1])}' for k, v in pairs)}}}"
        case "row":
            fields = zip(kind.fields, value.values(), kind.items, strict=True)
            return f"{{{','.join(f'{quote(name)}:{to_json(item, of)}' for name, item, of in fields)}}}"
        case "json" | "boolean" | "real" | "double" | "decimal" | "tinyint" | "smallint" | "integer" | "bigint":
            return str(show(value, kind))
        case "varchar":
            return quote(value)
        case "date":
            return quote(str(value))
        case "timestamp":
            return quote(clock_text(value, kind.size[0]))
    raise Missing(f"CAST of {kind} to JSON")


def key_text(value: Value, kind: Type) -> str:
    if kind.name not in ("varchar", "boolean", *RANGES):
        raise Missing(f"CAST of a map with {kind} keys to JSON")
    return str(show(value, kind))


def clock_text(at: datetime, precision: int) -> str:
    """A timestamp as CAST makes text of it, with as many decimals as its type has."""
    text = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond:06}".zfill(26)
    return text[: 20 + precision].rstrip(".")


# --- Patterns


@lru_cache(256)
def pattern(text: str, group: int = 0) -> re.Pattern[str]:
    """A regular expression in Java's syntax. It has the group."""
    if re.search(r"\\[pPhHvVRXQEGZNkuxc0]|&&|\[\[|\(\?[<a-z-]*[xudU]|\[[^\]]*\[", text):
        raise Missing(f"the regular expression '{text}'")
    translated = text.replace("(?<", "(?P<").replace("(?P<=", "(?<=").replace("(?P<!", "(?<!").replace(r"\z", r"\Z")
    try:
        made = re.compile(translated, re.ASCII)
    except re.error as error:
        raise invalid(str(error)) from None
    if not 0 <= group <= made.groups:
        raise invalid(f"Pattern has {made.groups} groups. Cannot access group {group}")
    return made


def regexp_extract(text: str, expression: str, group: int) -> str | None:
    found = pattern(expression, group).search(text)
    return found[group] if found else None


def regexp_extract_all(text: str, expression: str, group: int) -> list[str | None]:
    return [found[group] for found in pattern(expression, group).finditer(text)]


def regexp_replace(text: str, expression: str, replacement: str) -> str:
    compiled = pattern(expression)

    def replaced(found: re.Match[str]) -> str:
        def part(one: re.Match[str]) -> str:
            if one[1]:
                return one[1]
            try:
                return found[one[3] or int(one[2])] or ""
            except (IndexError, re.error):
                raise invalid("Illegal replacement sequence: unknown group") from None

        return re.sub(r"\\(.)|\$(?:(\d+?)(?=\D|$)|\{(\w+)\})", part, replacement, flags=re.DOTALL)

    if re.search(r"(?<!\\)\$(?![\d{])|\$\d\d", replacement):
        raise Missing(f"the replacement '{replacement}'")
    return compiled.sub(replaced, text)


def regexp_split(text: str, expression: str) -> list[str]:
    ends = [0, *itertools.chain(*(found.span() for found in pattern(expression).finditer(text))), len(text)]
    return [text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]


def regexp_position(text: str, expression: str) -> int:
    found = pattern(expression).search(text)
    return found.start() + 1 if found else -1


def split(text: str, delimiter: str, limit: int) -> list[str]:
    if not delimiter:
        raise invalid("The delimiter may not be the empty string")
    if limit < 1:
        raise invalid("Limit must be positive")
    return text.split(delimiter, limit - 1)


def split_part(text: str, delimiter: str, index: int) -> str | None:
    if index < 1:
        raise invalid("Index must be greater than zero")
    parts = text.split(delimiter) if delimiter else [*text]
    return parts[index - 1] if index <= len(parts) else None


def strpos(text: str, part: str, instance: int) -> int:
    if instance == 0:
        raise invalid("'instance' must be a positive or negative number.")
    if not part:
        return 1
    at = -1 if instance > 0 else len(text)
    for _ in range(abs(instance)):
        at = text.find(part, at + 1) if instance > 0 else (text.rfind(part, 0, at + len(part) - 1) if at else -1)
        if at < 0:
            return 0
    return at + 1


def substr(text: str, start: int, length: int) -> str:
    if start == 0 or abs(start) > len(text) or length <= 0:
        return ""
    begin = start - 1 if start > 0 else len(text) + start
    return text[begin : begin + length]


def pad(text: str, size: int, filling: str, name: str) -> str:
    if not filling:
        raise invalid("Padding string must not be empty")
    if not 0 <= size < 2**31:
        raise invalid(f"Target length must be in the range [0..{2**31 - 1}]")
    added = (filling * (size // len(filling) + 1))[: max(size - len(text), 0)]
    return (added + text if name == "lpad" else text + added)[:size]


def trim(text: str, characters: str, side: str) -> str:
    """Without these characters at its ends; a blank means every white space of Java."""
    characters = (
        characters
        or "\t\n\v\f\r\x1c\x1d\x1e\x1f \u1680"
        + "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u2028\u2029\u205f\u3000"
    )
    return {"trim": text.strip, "ltrim": text.lstrip, "rtrim": text.rstrip}[side](characters)


def from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text) if not re.search(r"\s", text) else bytes.fromhex("-")
    except ValueError:
        raise invalid(f"Invalid hex string: {text}") from None


FORMAT = re.compile(r"%([-0,]*)(\d*)(?:\.(\d+))?([a-zA-Z%])")


def java_format(template: str, *values: Value, kinds: tuple[Type, ...]) -> str:
    """format() with %s, %d and %f: a part of java.util.Formatter."""
    left = iter(zip(values, kinds, strict=True))

    def one(found: re.Match[str]) -> str:
        flags, width, places, letter = found.groups()
        if letter == "%":
            return "%"
        value, kind = next(left, (None, UNKNOWN))
        taken = {"d": (*RANGES, "unknown"), "f": ("double", "real", "decimal", "unknown")}.get(letter, (kind.name,))
        if kind.name not in taken:
            raise invalid(f"Invalid format string: {template} (IllegalFormatConversion: {found[0]} of {kind})")
        if letter not in "sdf" or (letter == "s" and (places or kind.name in ("timestamp", ZONED) or kind.items)):
            raise Missing(f"format('{found[0]}') of {kind}")
        shown = str(show_item(value, kind))
        if value is not None and letter in "df":
            number = Decimal(shown).quantize(Decimal(1).scaleb(-int(places or 6 * (letter == "f"))), "ROUND_HALF_UP")
            shown = f"{number:{',' * (',' in flags)}f}".zfill(int(width or 0) * ("0" in flags))
        return shown.ljust(int(width or 0)) if "-" in flags else shown.rjust(int(width or 0))

    if "%" in FORMAT.sub("", template):
        raise Missing(f"format('{template}')")
    if len(FORMAT.findall(template.replace("%%", ""))) > len(values):
        raise invalid(f"Invalid format string: {template} (MissingFormatArgument)")
    return FORMAT.sub(one, template)


# --- Addresses


def url_part(text: str, function: str) -> str | None:
    """A function's part of an address, as java.net.URI reads it; None if it cannot read the address."""
    part = function.removeprefix("url_extract_")
    if re.search(r"[\s\"<>\\^`{|}]", text) or re.search(r"%(?![0-9a-fA-F]{2})", text):
        return None
    found = re.fullmatch(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(//([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", text)
    if not found or (found[1] and not found[2] and not found[4]):
        return None
    scheme, _, authority, path, query, fragment = found.groups()
    opaque = bool(scheme) and not found[2] and not path.startswith("/")
    host = re.fullmatch(r"(?:[^@]*@)?([^:@\[\]]+|\[[^\]]*\])(?::(\d*))?", authority or "")
    if part == "host":
        return host[1] if host and re.fullmatch(r"[A-Za-z0-9.-]+|\[.*\]", host[1]) else ""
    if part == "port":
        return host[2] or None if host else None
    if part == "protocol":
        return scheme or ""
    if opaque:
        return ""
    raw = {"path": path, "query": query, "fragment": fragment}[part]
    return urllib.parse.unquote(raw or "")


def url_parameter(text: str, name: str) -> str | None:
    if url_part(text, "url_extract_path") is None:
        return None
    query = text.partition("#")[0].partition("?")[2]
    found = [value for key, _, value in (pair.partition("=") for pair in query.split("&")) if key == name]
    return urllib.parse.unquote_plus(found[0]) if found else None


def url_decode(text: str) -> str:
    if re.search(r"%(?![0-9a-fA-F]{2})", text):
        raise invalid("URLDecoder: Illegal hex characters in escape (%) pattern")
    return urllib.parse.unquote_plus(text)


# --- Percentiles: a t-digest, as Trino keeps it


def compress(centroids: list[tuple[float, float]], compression: float) -> list[tuple[float, float]]:
    """Merge neighbours as far as their place among all allows."""
    centroids.sort(key=lambda one: one[0])
    total = sum(weight for _, weight in centroids)
    normal = compression / (4 * math.log(total / compression) + 24)

    def widest(share: float) -> float:
        return share * (1 - share) / normal

    (mean, weight), made, before, widest_before = centroids[0], [], 0.0, widest(0)
    for next_mean, next_weight in centroids[1:]:
        both = weight + next_weight
        if both <= total * min(widest_before, widest(min((before + both) / total, 1))):
            mean += (next_mean - mean) * next_weight / both
            weight = both
        else:
            made.append((mean, weight))
            before += weight
            widest_before, mean, weight = widest(before / total), next_mean, next_weight
    return [*made, (mean, weight)]


def value_at(centroids: list[tuple[float, float]], share: float, lowest: float, highest: float) -> float:
    total = sum(weight for _, weight in centroids)
    rank = share * total
    if len(centroids) == 1:
        return centroids[0][0]
    if rank < 1:
        return lowest
    if rank > total - 1:
        return highest
    (first, first_weight), (last, last_weight) = centroids[0], centroids[-1]
    if first_weight > 1 and rank < first_weight / 2:
        return lowest + (rank - 1) / (first_weight / 2 - 1) * (first - lowest)
    if last_weight > 1 and total - rank <= last_weight / 2:
        return highest + (total - rank - 1) / (last_weight / 2 - 1) * (last - highest)
    before = first_weight / 2
    for (mean, weight), (next_mean, next_weight) in itertools.pairwise(centroids):
        gap = (weight + next_weight) / 2
        if before + gap >= rank:
            if weight == 1 and rank - before < weight / 2:
                return mean
            if next_weight == 1 and rank - before >= weight / 2:
                return next_mean
            if weight == 1:
                before, gap = before + weight / 2, next_weight / 2
            elif next_weight == 1:
                gap = weight / 2
            return mean + (rank - before) / gap * (next_mean - mean)
        before += gap
    return highest


def percentiles(values: list[float | None], shares: list[float]) -> list[float] | None:
    """approx_percentile of a group."""
    if any(not 0 <= share <= 1 for share in shares):
        raise invalid("percentile must be between 0 and 1")
    kept = [value for value in values if value is not None]
    if not kept:
        return None
    if not all(map(math.isfinite, kept)):
        raise invalid("value must be finite")
    centroids: list[tuple[float, float]] = []
    for start in range(0, len(kept), 1000):
        centroids = compress(
            [*centroids, *((value, 1.0) for value in kept[start : start + 1000])], 100 if len(kept) <= 1000 else 200
        )
    return [value_at(centroids, share, min(kept), max(kept)) for share in shares]


def cube_root(value: float) -> float:
    if not value or not math.isfinite(value):
        return value
    return math.copysign(float(abs(Decimal(value)) ** (Decimal(1) / 3)), value)


def index(at: int, length: int) -> int:
    """A subscript of an array, from 1 to its length."""
    if at == 0:
        raise invalid("SQL array indices start at 1")
    if at < 0:
        raise invalid(f"Array subscript is negative: {at}")
    if at > length:
        raise invalid(f"Array subscript must be less than or equal to array length: {at} > {length}")
    return at


def same_length(keys: int, values: int) -> int:
    if keys != values:
        raise invalid("Key and value arrays must be the same length")
    return keys


def element(at: int) -> int:
    if at == 0:
        raise invalid("SQL array indices start at 1")
    return at


def slice_bound(start: int, length: int, size: int, is_end: bool) -> int:
    """Where a slice of a list of this size begins, or ends."""
    if start == 0:
        raise invalid("SQL array indices start at 1")
    if length < 0:
        raise invalid("length must be greater than or equal to 0")
    begin = start if start > 0 else size + start + 1
    begin = begin if begin > 0 else size + 1
    return begin + length - 1 if is_end else begin


def months_later(at: datetime, months: int) -> datetime:
    """The same day so many months later, or the last one of that month."""
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    return at.replace(year=year, month=month + 1, day=min(at.day, calendar.monthrange(year, month + 1)[1]))


Point = TypeVar("Point", int, datetime)


def steps(at: Callable[[int], Point], stop: Point, step: int) -> list[Point]:
    """The first point, and each next one up to the last; a negative step goes down."""
    if step == 0 or (stop < at(0) if step > 0 else stop > at(0)):
        raise invalid(
            "sequence stop value should be greater than or equal to start value if step is greater than zero "
            "otherwise stop should be less than or equal to start"
        )
    made: list[Point] = []
    for number in range(10_001):
        point = at(number)
        if point > stop if step > 0 else point < stop:
            return made
        made.append(point)
    raise invalid("result of sequence function must not have more than 10000 entries")


def sequence(start: int, stop: int, step: int) -> list[int]:
    return steps(lambda number: start + number * step, stop, step)


def sequence_of_moments(start: datetime, stop: datetime, step: int, unit: str) -> list[datetime]:
    """Dates or timestamps; a step counts months or milliseconds."""
    if unit == MONTHS:
        return steps(lambda number: months_later(start, number * step), stop, step)
    return steps(lambda number: start + timedelta(milliseconds=number * step), stop, step)


def map_of(
    pairs: list[dict[str, Any]], kind: Type, first: bool = False, many: bool = False
) -> list[dict[str, Any]] | None:
    """The entries of a map: an aggregate takes the first value of a key, or all, and no NULL keys."""
    made: dict[Any, dict[str, Any]] = {}
    for pair in pairs:
        key = repr(pair["k"])
        if pair["k"] is None and not first:
            raise invalid("map key cannot be null")
        if key in made and not first:
            raise invalid(f"Duplicate map keys ({show(pair['k'], kind.items[0])}) are not allowed")
        if key in made and many:
            made[key]["v"].append(pair["v"])
        elif pair["k"] is not None and key not in made:
            made[key] = {"k": pair["k"], "v": [pair["v"]] if many else pair["v"]}
    return [*made.values()] if made or not first else None


def histogram(values: list[Value]) -> list[dict[str, Value]] | None:
    kept = {repr(value): value for value in values if value is not None}
    counts = Counter(map(repr, values))
    return [{"k": value, "v": counts[key]} for key, value in kept.items()] or None


def digest(data: bytes, name: str) -> bytes:
    return hashlib.new(name, data, usedforsecurity=False).digest()


def utf8(data: bytes) -> str:
    return data.decode(errors="replace")


TEXT, WHOLE, FLOAT = "VARCHAR", "BIGINT", "DOUBLE"
# Function, types of the arguments, type of the result.
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[str], str]] = {
    "py_fail": (fail, [TEXT], TEXT),
    "py_missing": (missing, [TEXT, "BOOLEAN"], TEXT),
    "py_date_format": (lambda at, form: format_moment(at, form, True), ["TIMESTAMP", TEXT], TEXT),
    "py_format_datetime": (lambda at, form: format_moment(at, form, False), ["TIMESTAMP", TEXT], TEXT),
    "py_date_parse": (lambda text, form: parse_moment(text, form, True), [TEXT, TEXT], "TIMESTAMP"),
    "py_parse_datetime": (lambda text, form: parse_moment(text, form, False), [TEXT, TEXT], "TIMESTAMP"),
    "py_iso_date": (iso_date, [TEXT], "DATE"),
    "py_iso_timestamp": (iso_timestamp, [TEXT], ZONED_STRUCT),
    "py_cast_zoned": (cast_zoned, [TEXT], ZONED_STRUCT),
    "py_wall": (wall, ["TIMESTAMP", TEXT], "TIMESTAMP"),
    "py_moment": (lambda clock, zone: moment(clock, zone_name(zone)), ["TIMESTAMP", TEXT], "TIMESTAMP"),
    "py_offset": (offset_minutes, ["TIMESTAMP", TEXT], WHOLE),
    "py_offset_text": (offset_text, ["TIMESTAMP", TEXT], TEXT),
    "py_clock_text": (clock_text, ["TIMESTAMP", WHOLE], TEXT),
    "py_round_moment": (rounded_moment, ["TIMESTAMP", WHOLE], "TIMESTAMP"),
    "py_json_extract": (at_path(dump), [TEXT, TEXT], TEXT),
    "py_json_extract_scalar": (at_path(scalar_text), [TEXT, TEXT], TEXT),
    "py_json_size": (at_path(lambda found: len(found) if isinstance(found, list) else 0), [TEXT, TEXT], WHOLE),
    "py_json_parse": (json_parse, [TEXT], TEXT),
    "py_json_array_length": (json_array_length, [TEXT], WHOLE),
    "py_regexp_like": (lambda text, form: pattern(form).search(text) is not None, [TEXT, TEXT], "BOOLEAN"),
    "py_regexp_extract": (regexp_extract, [TEXT, TEXT, WHOLE], TEXT),
    "py_regexp_extract_all": (regexp_extract_all, [TEXT, TEXT, WHOLE], "VARCHAR[]"),
    "py_regexp_replace": (regexp_replace, [TEXT, TEXT, TEXT], TEXT),
    "py_regexp_split": (regexp_split, [TEXT, TEXT], "VARCHAR[]"),
    "py_regexp_position": (regexp_position, [TEXT, TEXT], "INTEGER"),
    "py_split": (split, [TEXT, TEXT, WHOLE], "VARCHAR[]"),
    "py_split_part": (split_part, [TEXT, TEXT, WHOLE], TEXT),
    "py_strpos": (strpos, [TEXT, TEXT, WHOLE], WHOLE),
    "py_substr": (substr, [TEXT, WHOLE, WHOLE], TEXT),
    "py_pad": (pad, [TEXT, WHOLE, TEXT, TEXT], TEXT),
    "py_trim": (trim, [TEXT, TEXT, TEXT], TEXT),
    "py_upper": (lambda text: "".join(one if len(one.upper()) > 1 else one.upper() for one in text), [TEXT], TEXT),
    "py_reverse": (lambda text: text[::-1], [TEXT], TEXT),
    "py_replace": (lambda text, part, by: text.replace(part, by), [TEXT, TEXT, TEXT], TEXT),
    "py_from_hex": (from_hex, [TEXT], "BLOB"),
    "py_url_part": (url_part, [TEXT, TEXT], TEXT),
    "py_url_parameter": (url_parameter, [TEXT, TEXT], TEXT),
    "py_url_decode": (url_decode, [TEXT], TEXT),
    "py_url_encode": (lambda text: urllib.parse.quote_plus(text, safe="*-._").replace("~", "%7E"), [TEXT], TEXT),
    "py_percentiles": (percentiles, ["DOUBLE[]", "DOUBLE[]"], "DOUBLE[]"),
    "py_cbrt": (cube_root, [FLOAT], FLOAT),
    "py_index": (index, [WHOLE, WHOLE], WHOLE),
    "py_sequence": (sequence, [WHOLE, WHOLE, WHOLE], "BIGINT[]"),
    "py_same_length": (same_length, [WHOLE, WHOLE], WHOLE),
    "py_element": (element, [WHOLE], WHOLE),
    "py_slice": (slice_bound, [WHOLE, WHOLE, WHOLE, "BOOLEAN"], WHOLE),
    "py_digest": (digest, ["BLOB", TEXT], "BLOB"),
    "py_crc32": (zlib.crc32, ["BLOB"], WHOLE),
    "py_utf8": (utf8, ["BLOB"], TEXT),
}
