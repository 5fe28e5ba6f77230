"""Run a saved query of the stack, or SQL of one's own, in the stack's Athena workgroup, and show what it costs."""

from __future__ import annotations

import argparse
import csv
import difflib
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.commands.console import CommandError, Parser, UsageError, main, printable, say, status
from scripts.commands.stack import add_stack_arguments, session, stack_outputs
from shared.athena import FLOATS, INTEGERS, typed

DOLLARS_PER_TERABYTE = 5.0
BYTES_PER_TERABYTE = 10**12
SMALLEST_CHARGE = 10_000_000  # bytes; Athena bills a query for no less

_FINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_LITERAL = re.compile(r"(?i)((date|timestamp|decimal)\s+)?'([^']|'')*'|true|false|null")
# A cell that begins so is a formula to a spreadsheet, also in the wide forms of these characters.
_FORMULA = re.compile(r"[=+\-@\t\n＝＋－＠]")  # noqa: RUF001 - the wide forms are meant
# What steers a terminal and JSON leaves as it is: the control characters beyond ASCII, and those of the direction.
_UNESCAPED = re.compile(r"[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class SavedQuery:
    """A named query of the workgroup. `question` is its description: what a person wants to know."""

    name: str
    question: str
    sql: str
    database: str


@dataclass(frozen=True)
class Column:
    """A column of the result; `type` is Athena's name of it, such as varchar or bigint."""

    name: str
    type: str

    @property
    def is_number(self) -> bool:
        return self.type in INTEGERS | FLOATS or self.type.startswith("decimal")


Row = list[str | None]


def query(arguments: list[str]) -> int:
    """scripts/query.sh"""
    options = _parse(arguments)
    write = WRITERS[options.format]
    aws = session(options.local)
    outputs = stack_outputs(aws, options.stack_name)
    athena, workgroup = aws.client("athena"), _output(outputs, "WorkGroupName")
    if options.list:
        saved = sorted(saved_queries(athena, workgroup), key=lambda query: query.name)
        columns = [Column("name", "varchar"), Column("question", "varchar")]
        write(columns, ([query.name, query.question] for query in saved))
        return 0
    if options.sql is not None:
        database, sql = _output(outputs, "DatabaseName"), fill(options.sql, outputs)
    else:
        chosen = choose(saved_queries(athena, workgroup), options.name)
        database, sql = chosen.database, chosen.sql
    execution = run(athena, workgroup, database, sql, [literal(value) for value in options.param])
    columns, rows = results(athena, execution["QueryExecutionId"])
    counted = Counted(rows)
    write(columns, counted)
    say(account(counted.count, execution.get("Statistics", {})), style="dim")
    return 0


def saved_queries(athena: Any, workgroup: str) -> list[SavedQuery]:
    """Every named query of the workgroup."""
    ids = [
        query_id
        for page in athena.get_paginator("list_named_queries").paginate(WorkGroup=workgroup)
        for query_id in page["NamedQueryIds"]
    ]
    found = [athena.get_named_query(NamedQueryId=query_id)["NamedQuery"] for query_id in ids]
    return [
        SavedQuery(item["Name"], item.get("Description", ""), item["QueryString"], item["Database"]) for item in found
    ]


def choose(saved: list[SavedQuery], name: str) -> SavedQuery:
    """The query of this name; case, spaces, hyphens and underscores do not matter.

    Raises:
        CommandError: there is none; it suggests those that contain the name, else those with a similar one.
    """
    by_key = {_key(item.name): item for item in saved}
    if _key(name) in by_key:
        return by_key[_key(name)]
    similar = [key for key in by_key if _key(name) in key] or difflib.get_close_matches(_key(name), by_key, cutoff=0.5)
    names = " or ".join(repr(by_key[key].name) for key in similar[:3])
    hint = f"did you mean {names}?" if names else "see scripts/query.sh --list"
    raise UsageError(f"there is no saved query '{name}': {hint}")


def fill(sql: str, outputs: dict[str, str]) -> str:
    """SQL with the two names that queries.sql uses replaced by those of the stack."""
    for name, key in (("AthenaDatabaseName", "DatabaseName"), ("AthenaTableName", "TableName")):
        if f"${{{name}}}" in sql:
            sql = sql.replace(f"${{{name}}}", _output(outputs, key))
    return sql


def literal(value: str) -> str:
    """A parameter as the SQL literal that Athena takes for a `?`: numbers and literals as they are, else a string."""
    if _NUMBER.fullmatch(value) or _LITERAL.fullmatch(value):
        return value
    return "'" + value.replace("'", "''") + "'"


def run(
    athena: Any, workgroup: str, database: str, sql: str, parameters: list[str], pauses: Iterable[float] | None = None
) -> dict[str, Any]:
    """Run a query to its end and return Athena's QueryExecution structure. Ctrl-C stops it in Athena too.

    Raises:
        CommandError: Athena refused, failed or cancelled it; the message is Athena's reason.
    """
    request = {
        "QueryString": sql,
        "QueryExecutionContext": {"Database": database},
        "WorkGroup": workgroup,
        **({"ExecutionParameters": parameters} if parameters else {}),
    }
    try:
        execution_id = athena.start_query_execution(**request)["QueryExecutionId"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidRequestException":
            raise
        raise CommandError(f"Athena refuses the query: {error.response['Error']['Message']}") from error
    try:
        with status("Athena is running the query ..."):
            for pause in pauses or _pauses():
                execution: dict[str, Any] = athena.get_query_execution(QueryExecutionId=execution_id)["QueryExecution"]
                if execution["Status"]["State"] in _FINAL:
                    break
                time.sleep(pause)
    except KeyboardInterrupt:
        athena.stop_query_execution(QueryExecutionId=execution_id)
        say(f"Athena was told to stop the query {execution_id}")
        raise
    if execution["Status"]["State"] != "SUCCEEDED":
        raise CommandError(f"the query {execution['Status']['State'].lower()}: {_reason(execution)}")
    return execution


def results(athena: Any, execution_id: str) -> tuple[list[Column], Iterator[Row]]:
    """The columns of a finished query and its rows, read page by page as they are taken; None is NULL."""
    pages = iter(athena.get_paginator("get_query_results").paginate(QueryExecutionId=execution_id))
    first = next(pages)["ResultSet"]
    columns = [Column(item["Name"], item["Type"]) for item in first["ResultSetMetadata"]["ColumnInfo"]]

    def rows() -> Iterator[Row]:
        head = _values(first)
        # A SELECT's first row repeats the names of the columns; other statements have no such row.
        yield from head[1:] if head[:1] == [[column.name for column in columns]] else head
        for page in pages:
            yield from _values(page["ResultSet"])

    return columns, rows()


class Counted:
    """Rows, and how many have been taken."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.count += 1
            yield row


def account(rows: int, statistics: dict[str, Any]) -> str:
    """One line: rows, bytes scanned, run time and what Athena charges for it."""
    scanned = statistics.get("DataScannedInBytes", 0)
    seconds = statistics.get("TotalExecutionTimeInMillis", statistics.get("EngineExecutionTimeInMillis", 0)) / 1000
    return (
        f"{rows:,} row{'' if rows == 1 else 's'}, {size(scanned)} scanned in {seconds:.1f} s, "
        f"about {cost(scanned):.5f} USD (5.00 USD per TB, 10 MB at least)"
    )


def cost(scanned: int) -> float:
    """Athena's charge in US dollars for a query that scanned so many bytes."""
    return max(scanned, SMALLEST_CHARGE) * DOLLARS_PER_TERABYTE / BYTES_PER_TERABYTE


def size(count: int) -> str:
    """Bytes as a person reads them."""
    if count < 1000:
        return f"{count} bytes"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:.1f} {('', 'kB', 'MB', 'GB', 'TB')[power]}"


def write_table(columns: list[Column], rows: Iterable[Row]) -> None:
    """A table on stdout; as wide as it needs to be where nobody's terminal limits it."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(Text(printable(column.name)), justify="right" if column.is_number else "left")
    for row in rows:
        cells = [Text("NULL", style="dim") if value is None else Text(printable(value)) for value in row]
        table.add_row(*cells)
    console = Console()
    if not console.is_terminal:
        console.width = max(
            console.width, console.measure(table, options=console.options.update(width=100_000)).maximum
        )
    console.print(table)


def write_csv(columns: list[Column], rows: Iterable[Row]) -> None:
    """CSV on stdout with a header line; NULL is an empty field.

    What a sender wrote must not run in the spreadsheet that opens the file: a text that begins as a formula does gets
    an apostrophe in front, and a carriage return, which begins a row to some, is a newline. Numbers are as they are. On
    a terminal, control characters are shown as text.
    """
    writer = csv.writer(sys.stdout, lineterminator="\n")
    shown = printable if sys.stdout.isatty() else str
    writer.writerow(shown(_text_cell(column.name)) for column in columns)
    writer.writerows(
        [
            "" if value is None else value if column.is_number else shown(_text_cell(value))
            for column, value in zip(columns, row, strict=True)
        ]
        for row in rows
    )


def write_json(columns: list[Column], rows: Iterable[Row]) -> None:
    """One JSON object per row on stdout; numbers and booleans are typed, everything else is Athena's text, exactly."""
    for row in rows:
        text = json.dumps(
            {column.name: typed(column.type, value) for column, value in zip(columns, row, strict=True)},
            ensure_ascii=False,
        )
        print(_UNESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


WRITERS: dict[str, Callable[[list[Column], Iterable[Row]], None]] = {
    "table": write_table,
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


def _output(outputs: dict[str, str], key: str) -> str:
    if key not in outputs:
        raise UsageError(f"the stack has no output {key}: it was not made from this template")
    return outputs[key]


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


def _pauses() -> Iterator[float]:
    """Seconds between two looks at a query: short ones first, since most queries here end within a second."""
    pause = 0.1
    while True:
        yield pause
        pause = min(pause * 1.5, 2.0)


def _reason(execution: dict[str, Any]) -> str:
    state = execution["Status"]
    return str(state.get("StateChangeReason") or state.get("AthenaError", {}).get("ErrorMessage") or "no reason given")


def _text_cell(value: str) -> str:
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if _FORMULA.match(text) else text


def _values(result_set: dict[str, Any]) -> list[Row]:
    return [[item.get("VarCharValue") for item in row["Data"]] for row in result_set["Rows"]]


if __name__ == "__main__":
    main(query)
