"""Results as tables on stdout: their columns and rows, and numbers as a person reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from scripts.commands.common.console import printable
from shared.athena import FLOATS, INTEGERS

# A cell with such a beginning is a formula to a spreadsheet, also in the wide forms of these characters.
_FORMULA = re.compile(r"[=+\-@\t\n＝＋－＠]")  # noqa: RUF001 - the wide forms are meant


@dataclass(frozen=True)
class Column:
    """A column of the result; `type` is Athena's name of it, such as varchar or bigint."""

    name: str
    type: str

    @property
    def is_number(self) -> bool:
        return self.type in INTEGERS | FLOATS or self.type.startswith("decimal")


Row = list[str | None]


def write_table(columns: list[Column], rows: Iterable[Sequence[str | None]]) -> None:
    """A table on stdout, as wide as it needs; a terminal wraps its cells."""
    console, table = Console(), _table(columns, rows)
    _print(console, table, _width(console, table))


def write_rows(columns: list[Column], rows: Iterable[Row]) -> None:
    """A table on stdout, or each row as lines of a name and a value if the table is wider than the terminal.

    Values are never cut or wrapped, so a person can copy an id.
    """
    console, rows = Console(), list(rows)
    table = _table(columns, rows)
    needed = _width(console, table)
    if not console.is_terminal or needed <= console.width:
        _print(console, table, needed)
        return
    width = max(cell_len(printable(column.name)) for column in columns)
    for number, row in enumerate(rows, 1):
        console.print(Rule(f"row {number:,}", align="left", style="dim"))
        for column, value in zip(columns, row, strict=True):
            name = set_cell_size(printable(column.name), width)
            console.print(Text.assemble((f"{name}  ", "bold"), _cell(value)), soft_wrap=True)


def _print(console: Console, table: Table, needed: int) -> None:
    if not console.is_terminal:
        console.width = max(console.width, needed)
    console.print(table)


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(width=100_000)).maximum


def _table(columns: list[Column], rows: Iterable[Sequence[str | None]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(Text(printable(column.name)), justify="right" if column.is_number else "left")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: str | None) -> Text:
    return Text("NULL", style="dim") if value is None else Text(printable(value))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def many(count: int, noun: str) -> str:
    """So many of something, as in `1 event` and `2 events`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def counts(found: dict[str, int]) -> str:
    """How many of each, as in `3 bot, 1 debug`; zeros are left out."""
    return ", ".join(f"{count:,} {name}" for name, count in found.items() if count)


def csv_cells(columns: list[Column], row: Row) -> list[str]:
    """A row as CSV has it: NULL is an empty field, and numbers are as they are."""
    return [
        "" if value is None else value if column.is_number else csv_text(value)
        for column, value in zip(columns, row, strict=True)
    ]


def csv_text(value: str) -> str:
    """A text made harmless: a spreadsheet does not run it as a formula.

    A text with the beginning of a formula gets an apostrophe in front. A carriage return becomes a newline, because
    some programs begin a row with it.
    """
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if _FORMULA.match(text) else text


def size(count: int) -> str:
    """Bytes as a person reads them."""
    if count < 1000:
        return f"{count} bytes"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:.1f} {('', 'kB', 'MB', 'GB', 'TB')[power]}"
