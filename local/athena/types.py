"""Trino's types, their conversions, and DuckDB's form of their values.

A map is a list of entries, a row a struct of f0, f1 ..., JSON its text, an interval a number of milliseconds or months.
A timestamp with a time zone is a struct of the moment in UTC and the zone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

INTEGERS = {"tinyint": 3, "smallint": 5, "integer": 10, "bigint": 19}  # with the digits of their decimals
NUMBERS = (*INTEGERS, "decimal", "real", "double")
ZONED, DAYS, MONTHS = "timestamp with time zone", "interval day to second", "interval year to month"
MAX_DIGITS = 38
DUCKDB = {
    "unknown": "INTEGER", "real": "FLOAT", "json": "VARCHAR", "uuid": "VARCHAR", "varbinary": "BLOB",
    DAYS: "BIGINT", MONTHS: "BIGINT",
    **{name: name.upper() for name in (*INTEGERS, "double", "boolean", "varchar", "date", "timestamp")},
}  # fmt: skip
ZONED_STRUCT = "STRUCT(utc TIMESTAMP, zone VARCHAR)"


@dataclass(frozen=True)
class Type:
    """A type: `size` is the length of a varchar, the digits of a decimal or the precision of a timestamp; `zone` the
    time zone of all values, where it is known."""

    name: str
    items: tuple[Type, ...] = ()
    size: tuple[int, ...] = ()
    fields: tuple[str, ...] = ()
    zone: str = field(default="", compare=False)

    def __str__(self) -> str:
        """As typeof and errors show it."""
        if self.name == "row":
            named = zip(self.fields, self.items, strict=True)
            return f"row({', '.join(f'{name} {item}'.strip() for name, item in named)})"
        sizes = ",".join(map(str, self.size))
        if self.name == ZONED:
            return f"timestamp({sizes}) with time zone"
        inner = ", ".join(map(str, self.items)) or sizes
        return f"{self.name}({inner})" if inner else self.name

    @property
    def duckdb(self) -> str:
        """The DuckDB type of its values."""
        if self.name == "array":
            return f"{self.items[0].duckdb}[]"
        if self.name == "map":
            return f"STRUCT(k {self.items[0].duckdb}, v {self.items[1].duckdb})[]"
        if self.name == "row":
            return f"STRUCT({', '.join(f'f{number} {item.duckdb}' for number, item in enumerate(self.items))})"
        if self.name == "decimal":
            return f"DECIMAL({self.size[0]},{self.size[1]})"
        if self.name == ZONED:
            return ZONED_STRUCT
        return DUCKDB[self.name]

    @property
    def is_orderable(self) -> bool:
        return self.name not in ("json", "map") and all(item.is_orderable for item in self.items)


UNKNOWN, BOOLEAN, INTEGER, BIGINT, DOUBLE, REAL, VARCHAR, DATE, JSON, VARBINARY = map(
    Type, ("unknown", "boolean", "integer", "bigint", "double", "real", "varchar", "date", "json", "varbinary")
)


def timestamp(precision: int = 3) -> Type:
    return Type("timestamp", size=(precision,))


def zoned(zone: str, precision: int = 3) -> Type:
    return Type(ZONED, size=(precision,), zone=zone)


def decimal(precision: int, scale: int) -> Type:
    """A decimal with at most 38 digits."""
    return Type("decimal", size=(min(max(precision, 1), MAX_DIGITS), min(scale, MAX_DIGITS)))


def varchar(length: int) -> Type:
    return Type("varchar", size=(length,))


def array(item: Type) -> Type:
    return Type("array", (item,))


# The types of a table's columns, as Glue calls them; decimals besides.
GLUE = {"string": VARCHAR, "int": INTEGER, "bigint": BIGINT, "double": DOUBLE, "boolean": BOOLEAN, "date": DATE,
        "timestamp": timestamp()}  # fmt: skip


def from_glue(name: str) -> Type | None:
    """The type of a column in the catalog; None if the local Athena does not read it."""
    if found := re.fullmatch(r"decimal\((\d+), ?(\d+)\)", name):
        return decimal(int(found[1]), int(found[2]))
    return GLUE.get(name)


def digits(kind: Type) -> tuple[int, int]:
    """Precision and scale of a decimal, or of an integer as a decimal."""
    return (kind.size[0], kind.size[1]) if kind.name == "decimal" else (INTEGERS[kind.name], 0)


def common(one: Type, other: Type) -> Type | None:
    """The type of both without a CAST, or None."""
    if one.name == "unknown" or other.name == "unknown":
        return other if one.name == "unknown" else one
    if one.name == other.name != "decimal":
        return _widen(one, other)
    if one.name in NUMBERS and other.name in NUMBERS:
        low, high = sorted((one, other), key=lambda kind: NUMBERS.index(kind.name))
        if high.name != "decimal":
            return high
        (p, s), (q, t) = digits(low), digits(high)
        return decimal(max(p - s, q - t) + max(s, t), max(s, t))
    moments = ("date", "timestamp", ZONED)
    if one.name in moments and other.name in moments:
        low, high = sorted((one, other), key=lambda kind: moments.index(kind.name))
        if high.name == ZONED:
            size = max(high.size, low.size or (0,))
            return replace(high, size=size, zone="UTC" if high.zone == "UTC" else "")
        return high
    return None


def _widen(one: Type, other: Type) -> Type | None:
    if one.name == "varchar":
        return varchar(max(one.size[0], other.size[0])) if one.size and other.size else VARCHAR
    if len(one.items) != len(other.items):
        return None
    items = [common(a, b) for a, b in zip(one.items, other.items, strict=True)]
    found = tuple(item for item in items if item)
    if len(found) != len(items):
        return None
    fields = tuple(a if a == b else "" for a, b in zip(one.fields, other.fields, strict=True))
    zone = one.zone if one.zone == other.zone else ""
    return Type(one.name, found, max(one.size, other.size), fields, zone)
