"""Run a saved query of the stack, or SQL of one's own, in the stack's Athena workgroup, and show what it costs."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

from scripts.commands.common.athena import account, choose, fill, literal, place, results, run, saved_queries
from scripts.commands.common.console import Parser, main, printable, say
from scripts.commands.common.stack import Stack, add_stack_arguments, session
from scripts.commands.common.tables import Column, Row, csv_cells, csv_text, duration, write_rows, write_table
from shared.athena import typed

# The columns of the saved queries with the time when an event was received.
_RECEIVED = (Column("received_at", "timestamp"), Column("last_received_at", "timestamp"))
# Not escaped by JSON, but steering a terminal: the control characters beyond ASCII, and those of the direction.
_UNESCAPED = re.compile(r"[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def query(arguments: list[str]) -> int:
    """scripts/query.sh"""
    options = _parse(arguments)
    stack = Stack(session(options), options.stack_name)
    athena, workgroup = stack.client("athena"), stack.output("WorkGroupName")
    if options.list:
        saved = sorted(saved_queries(athena, workgroup), key=lambda query: query.name)
        columns = [Column("name", "varchar"), Column("question", "varchar")]
        write = write_table if options.format == "table" else WRITERS[options.format]
        write(columns, ([query.name, query.question] for query in saved))
        return 0
    if options.sql is not None:
        database, sql = stack.output("DatabaseName"), fill(options.sql, stack)
    else:
        chosen = choose(saved_queries(athena, workgroup), options.name)
        database, sql = chosen.database, chosen.sql
    execution = run(athena, place(stack), database, sql, [literal(value) for value in options.param])
    columns, rows = results(athena, execution["QueryExecutionId"])
    counted = Counted(columns, rows)
    WRITERS[options.format](columns, counted)
    say(account(counted.count, execution.get("Statistics", {})), style="dim")
    with suppress(ValueError):  # no row has one, or somebody's SQL gives a year that Python does not have
        age = datetime.now(UTC) - datetime.fromisoformat(counted.newest).replace(tzinfo=UTC)
        say(f"the newest event was received {duration(max(0.0, age.total_seconds()))} ago", style="dim")
    return 0


class Counted:
    """Rows, how many have been taken, and the newest time of receipt among them."""

    def __init__(self, columns: list[Column], rows: Iterable[Row]) -> None:
        self._rows = rows
        self._times = [number for number, column in enumerate(columns) if column in _RECEIVED]
        self.count = 0
        self.newest = ""
        """As in `2026-11-21 08:20:00.123`, in UTC; empty if no column or row has one."""

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.count += 1
            self.newest = max(self.newest, *(row[number] or "" for number in self._times), "")
            yield row


def write_csv(columns: list[Column], rows: Iterable[Row]) -> None:
    """CSV on stdout with a header line. On a terminal, control characters are shown as text."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    shown = printable if sys.stdout.isatty() else str
    writer.writerow(shown(csv_text(column.name)) for column in columns)
    writer.writerows([shown(cell) for cell in csv_cells(columns, row)] for row in rows)


def write_json(columns: list[Column], rows: Iterable[Row]) -> None:
    """One JSON object per row on stdout; numbers and booleans are typed, everything else is Athena's text, exactly."""
    for row in rows:
        text = json.dumps(
            {column.name: typed(column.type, value) for column, value in zip(columns, row, strict=True)},
            ensure_ascii=False,
        )
        print(_UNESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


WRITERS: dict[str, Callable[[list[Column], Iterable[Row]], None]] = {
    "table": write_rows,
    "csv": write_csv,
    "json": write_json,
}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("query")
    add_stack_arguments(parser)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--sql")
    parser.add_argument("--param", action="append", default=[])
    parser.add_argument("--format", choices=sorted(WRITERS), default="table")
    options = parser.parse_args(arguments)
    if [options.name is not None, options.list, options.sql is not None].count(True) != 1:
        parser.error("give the name of a saved query, or --sql '...', or --list")
    if options.list and options.param:
        parser.error("--param goes with a query, not with --list")
    return options


if __name__ == "__main__":
    main(query)
