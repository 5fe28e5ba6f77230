"""Values as Athena writes them: into results, and into the SQL that is made of a query.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/data-types.html
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any


def result_type(kind: str) -> str:
    """Athena's name for a DuckDB type."""
    names = {
        "TIMESTAMP_S": "timestamp",
        "TIMESTAMP_MS": "timestamp",
        "HUGEINT": "bigint",
        "BLOB": "varbinary",
        '"NULL"': "unknown",
        "STRUCT": "row",
    }
    kind = "array" if kind.endswith("]") else kind.partition("(")[0]
    return names.get(kind, kind.lower())


def show(value: Any) -> str | None:
    """A value as Athena writes it in a result: 100.0, 1.0E7, 2026-01-01 00:00:00.000, [1, 2], {a=1}."""
    match value:
        case None | str():
            return value
        case bool():
            return str(value).lower()
        case float():
            return java_double(value)
        case Decimal():
            return f"{value:f}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03}"
        case date():
            return value.isoformat()
        case bytes():
            return value.hex(" ")
        case list():
            return f"[{', '.join(map(show_item, value))}]"
        case dict():
            return "{" + ", ".join(f"{show(key)}={show_item(item)}" for key, item in value.items()) + "}"
    return str(value)


def show_item(value: Any) -> str:
    """A value inside another."""
    shown = show(value)
    return "null" if shown is None else shown


def java_double(value: float) -> str:
    """A double as Java's Double.toString writes it: 100.0, 0.001, 1.0E7, 1.5E-4, Infinity, NaN."""
    if value != value or abs(value) == float("inf"):
        return str(value).replace("nan", "NaN").replace("inf", "Infinity")
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    fraction = "".join(map(str, digits[1:])) or "0"
    return f"{'-' * sign}{digits[0]}.{fraction}E{int(exponent) + len(digits) - 1}"
