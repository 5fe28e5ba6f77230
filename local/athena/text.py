"""Values as Athena writes them into results, and as CAST makes text of them.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/data-types.html
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from local.athena.types import DAYS, MONTHS, UNKNOWN, ZONED, Type

OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


def offset(zone: str) -> timedelta | None:
    """The difference of an offset such as +05:30 from UTC; None for the name of a zone."""
    if found := OFFSET.fullmatch(zone):
        return timedelta(hours=int(found[2]), minutes=int(found[3])) * (1 if found[1] == "+" else -1)
    return timedelta() if zone == "UTC" else None


def wall(moment: datetime, zone: str) -> datetime:
    """The clock's time in a zone at a moment of UTC."""
    if (ahead := offset(zone)) is not None:
        return moment + ahead
    return moment.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def moment(clock: datetime, zone: str) -> datetime:
    """The moment of UTC for a clock's time in a zone."""
    if (ahead := offset(zone)) is not None:
        return clock - ahead
    return clock.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).replace(tzinfo=None)


def show(value: Any, kind: Type = UNKNOWN) -> str | None:
    """A value as Athena writes it in a result: 100.0, 1.0E7, 2026-01-01 00:00:00.000, [1, 2], {a=1}."""
    if value is None:
        return None
    match kind.name:
        case "array":
            return f"[{', '.join(show_item(item, kind.items[0]) for item in value)}]"
        case "map":
            pairs = (f"{show(one['k'], kind.items[0])}={show_item(one['v'], kind.items[1])}" for one in value)
            return f"{{{', '.join(pairs)}}}"
        case "row":
            fields = zip(kind.fields, value.values(), kind.items, strict=True)
            named = (f"{name or f'field{n}'}={show_item(item, of)}" for n, (name, item, of) in enumerate(fields))
            return f"{{{', '.join(named)}}}"
        case "real":
            import numpy  # most servers never show one, and would start a tenth later

            return java_double(float(str(numpy.float32(value))))
        case _ if kind.name == ZONED:
            return f"{show(wall(value['utc'], value['zone']))} {value['zone']}"
        case _ if kind.name == DAYS:
            sign, (days, rest) = "-" * (value < 0), divmod(abs(value), 86_400_000)
            return (
                f"{sign}{days} {rest // 3_600_000:02}:{rest // 60_000 % 60:02}:{rest // 1000 % 60:02}.{rest % 1000:03}"
            )
        case _ if kind.name == MONTHS:
            return f"{'-' * (value < 0)}{abs(value) // 12}-{abs(value) % 12}"
    match value:
        case bool():
            return str(value).lower()
        case float():
            return java_double(value)
        case Decimal():
            return f"{value:f}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03}".zfill(23)
        case date():
            return value.isoformat()
        case bytes():
            return value.hex(" ")
    return str(value)


def show_item(value: Any, kind: Type) -> str:
    """A value inside another."""
    shown = show(value, kind)
    return "null" if shown is None else shown


def java_double(value: float) -> str:
    """A double as Java's Double.toString writes it: 100.0, 0.001, 1.0E7, 1.5E-4, Infinity, NaN."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    return scientific(value)


def scientific(value: float) -> str:
    """A double as CAST makes text of it: 1.0E2, 1.5E-4, 0E0."""
    if value != value or abs(value) == float("inf"):
        return str(value).replace("nan", "NaN").replace("inf", "Infinity")
    if value == 0:
        return f"{value:.0f}E0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    fraction = "".join(map(str, digits[1:])) or "0"
    return f"{'-' * sign}{digits[0]}.{fraction}E{int(exponent) + len(digits) - 1}"
