"""Athena's results: every value is a text, and the metadata has the type of its column.

https://docs.aws.amazon.com/athena/latest/ug/data-types.html
"""

from __future__ import annotations

import math
from typing import Final, NotRequired, TypedDict

INTEGERS: Final = frozenset({"tinyint", "smallint", "integer", "int", "bigint"})
FLOATS: Final = frozenset({"double", "float", "real"})

SMALLEST_CHARGE: Final = 10_000_000
"""Bytes; Athena bills a query for no less."""


class ColumnInfo(TypedDict):
    """A column of a result."""

    Name: str
    Type: str


class ResultSetMetadata(TypedDict):
    """The columns of a result."""

    ColumnInfo: list[ColumnInfo]


class Datum(TypedDict):
    """A value; without a text it is NULL."""

    VarCharValue: NotRequired[str]


class ResultRow(TypedDict):
    """The values of a row, in the order of the columns."""

    Data: list[Datum]


class ResultSet(TypedDict):
    """A page of a result. The first row of the first page of a SELECT repeats the names of the columns."""

    Rows: list[ResultRow]
    ResultSetMetadata: ResultSetMetadata


class NamedQuery(TypedDict):
    """A saved query."""

    Name: str
    Description: NotRequired[str]
    Database: str
    QueryString: str


def typed(kind: str, value: str | None) -> str | int | float | bool | None:
    """A value of a column of Athena's type `kind` as JSON has it.

    Decimals, NaN and infinities stay text, because JSON would bend or refuse them; so do all types except
    numbers and boolean.
    """
    if value is None:
        return None
    if kind in INTEGERS:
        return int(value)
    if kind in FLOATS:
        number = float(value)
        return number if math.isfinite(number) else value
    return value == "true" if kind == "boolean" else value
