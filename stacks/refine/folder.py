"""The SQL files of refinement, checked and compiled into one document for the refinement function.

A folder has one file for each of its tables. A file begins with its header, comment lines of keys and values, up
to the first empty comment line or the first line of SQL:

    -- target: daily_events                the table
    -- zone: curated                       processed or curated: the folder in the bucket
    -- needs: processed_events             optional: the tables of other files in its SQL
    -- partitions: dt                      the day as yyyy-MM-dd, and nothing else: a day changes in one step
    -- days: 100                           optional: days a statement writes; Athena writes 100 partitions at most
    -- metrics: events                     optional: numeric columns; the largest value of each day goes to CloudWatch
    -- received: first_received_at         optional: when the oldest event behind a row was received
    -- moves: yes                          optional: a later row of an event may take it to another day

Below is one SELECT in Athena's SQL. `${from}` and `${to}` are its first and its last day.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from scripts.commands.common.console import UsageError

KEYS = ("target", "zone", "needs", "partitions", "days", "metrics", "received", "moves")
ZONES = ("processed", "curated")
MAX_PARTITIONS = 100  # written by one statement of Athena
MAX_BYTES = 100_000  # of a file, well below the limits of Athena and Step Functions

# Each with a sample value, for valid SQL of the same number of lines.
PLACEHOLDERS = {
    "from": "2000-01-01",
    "to": "2000-01-01",
    "AthenaDatabaseName": "athena_database",
    "AthenaTableName": "athena_table",
}
REQUIRED = ("from", "to")

_HEADER_LINE = re.compile(r"--\s*([^:]*?)\s*:\s*(.*?)\s*")
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
_COLUMN_NAME = re.compile(r"[a-z_][a-z0-9_]{0,99}")


@dataclass(frozen=True)
class SqlFile:
    """One file. `lines` has the line of each key, for errors."""

    path: Path
    text: str
    values: dict[str, str]
    lines: dict[str, int] = field(compare=False)

    @property
    def target(self) -> str:
        return self.values["target"]

    @property
    def needs(self) -> list[str]:
        return _names(self.values.get("needs", ""))

    @property
    def metrics(self) -> list[str]:
        return _names(self.values.get("metrics", ""))

    @property
    def received(self) -> list[str]:
        """The one column, or none."""
        return [self.values["received"]] if "received" in self.values else []

    @property
    def days(self) -> int:
        return int(self.values.get("days", MAX_PARTITIONS))

    def error(self, line: int, message: str) -> UsageError:
        """An error of the file, in one line with its place."""
        return UsageError(f"{self.path}:{line}: {message}")

    def at(self, key: str) -> int:
        """The line of a key, or the first if it is missing."""
        return self.lines.get(key, 1)


def compile_folder(path: Path) -> bytes:
    """The document: a JSON object whose `targets` are the files, each after those it needs.

    Raises CommandError for the first mistake, with file, line and the way out.
    """
    if not path.is_dir():
        raise UsageError(f"'{path}' is not a folder: name one with SQL files, such as refine")
    files = [_read(file) for file in sorted(path.glob("*.sql"))]
    if not files:
        raise UsageError(f"'{path}' has no file that ends in .sql")
    targets: dict[str, SqlFile] = {}
    for file in files:
        if other := targets.get(file.target):
            raise file.error(file.at("target"), f"{other.path.name} makes the table {file.target} already")
        targets[file.target] = file
    for file in files:
        _check_sql(file, targets)
    document = {"targets": [_item(targets[name]) for name in _in_order(targets)]}
    return (json.dumps(document, indent=1) + "\n").encode()


def _item(file: SqlFile) -> dict[str, Any]:
    return {
        "file": file.path.name,
        "table": file.target,
        "zone": file.values["zone"],
        "needs": file.needs,
        "days": file.days,
        "metrics": file.metrics,
        "received": file.values.get("received", ""),
        "moves": "moves" in file.values,
        "sql": file.text,
    }


def _read(path: Path) -> SqlFile:
    """A file whose header is whole and valid by itself."""
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: it has {len(data):,} bytes, and may have {MAX_BYTES:,}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        place = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{place}: this is not UTF-8 text") from None
    file = SqlFile(path, text.rstrip().removesuffix(";") + "\n", {}, {})
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("--") or not line.strip("- "):
            break
        match = _HEADER_LINE.fullmatch(line)
        if not match or match[1] not in KEYS:
            hint = "an empty comment line (--) ends the header" if not match else _suggest(match[1], KEYS)
            raise file.error(number, f"'{line}' is not a line of the header, which has {', '.join(KEYS)}: {hint}")
        if match[1] in file.values:
            raise file.error(number, f"'{match[1]}' is in line {file.lines[match[1]]} already")
        file.values[match[1]], file.lines[match[1]] = match[2], number
    _check_header(file)
    return file


def _check_header(file: SqlFile) -> None:
    for key in ("target", "zone", "partitions"):
        if not file.values.get(key):
            raise file.error(
                file.at(key), f"the header lacks a value for '{key}': add a line `-- {key}: ...` at the top"
            )
    if not _TABLE_NAME.fullmatch(file.target) or "__" in file.target:
        raise file.error(
            file.at("target"),
            f"'{file.target}' is not a table name: lower-case letters, digits and single underscores, at most 100",
        )
    if file.values["zone"] not in ZONES:
        raise file.error(file.at("zone"), f"zone must be {' or '.join(ZONES)} (got '{file.values['zone']}')")
    if file.values["partitions"] != "dt":
        raise file.error(
            file.at("partitions"),
            f"partitions must be dt alone (got '{file.values['partitions']}'): a day of several partitions would not "
            f"change in one step, so let other columns come before dt in the SELECT",
        )
    for key, names in (("metrics", file.metrics), ("received", file.received)):
        for name, count in Counter(names).items():
            if not _COLUMN_NAME.fullmatch(name):
                raise file.error(
                    file.at(key), f"'{name}' is not a column name: lower-case letters, digits, underscores"
                )
            if count > 1:
                raise file.error(file.at(key), f"'{name}' is there twice")
    if file.values.get("moves", "yes") != "yes":
        raise file.error(file.at("moves"), f"moves can only be yes (got '{file.values['moves']}'): or leave it out")
    if "days" in file.values and not re.fullmatch(r"[1-9]\d?|100", file.values["days"]):
        raise file.error(file.at("days"), f"days must be a number from 1 to 100 (got '{file.values['days']}')")


def _check_sql(file: SqlFile, targets: dict[str, SqlFile]) -> None:
    statement = _parse(file, _fill(file))
    for need in file.needs:
        if need not in targets:
            raise file.error(file.at("needs"), f"needs '{need}', which no file makes: {_suggest(need, targets)}")
    _check_columns(file, statement)
    _check_tables(file, statement, targets)


def _fill(file: SqlFile) -> str:
    """The SQL with a value for each placeholder."""
    for match in re.finditer(r"\$\{([^}\n]*)\}?", file.text):
        if match[1] not in PLACEHOLDERS or not match[0].endswith("}"):
            line = file.text.count("\n", 0, match.start()) + 1
            raise file.error(line, f"'{match[0]}' is not a placeholder: there are ${{{'}, ${'.join(PLACEHOLDERS)}}}")
    for name in REQUIRED:
        if f"${{{name}}}" not in _without_comments(file.text):
            raise file.error(
                len(file.text.splitlines()),
                f"the SELECT has no ${{{name}}}: its WHERE must keep only the days from ${{from}} to ${{to}}",
            )
    return re.sub(r"\$\{(\w+)\}", lambda match: PLACEHOLDERS[match[1]], file.text)


def _parse(file: SqlFile, sql: str) -> exp.Query:
    try:
        statements = [statement for statement in sqlglot.parse(sql, read="athena") if statement]
    except ParseError as error:
        fault = error.errors[0]
        near = f" near '{fault['highlight']}'" if fault["highlight"] else ""
        raise file.error(fault["line"] or 1, f"this is not valid Athena SQL: {fault['description']}{near}") from None
    except TokenError as error:
        place = re.search(r"(\d+):\d+$", str(error.__cause__ or ""))
        reason = error.__cause__ or error
        raise file.error(int(place[1]) if place else 1, f"this is not valid Athena SQL: {reason}") from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        what = f"{len(statements)} statements" if len(statements) != 1 else f"a {statements[0].key.upper()}"
        raise file.error(len(file.text.splitlines()), f"a file has one SELECT, which may begin with WITH (got {what})")
    return statements[0]


def _check_columns(file: SqlFile, statement: exp.Query) -> None:
    """The columns of the outermost SELECT: named, each once, and dt last."""
    names = []
    for projection in statement.selects:
        line = _line(projection)
        if projection.is_star:
            raise file.error(line, "the last SELECT has a *: name its columns, as the table is made of them")
        name = projection.alias_or_name
        if not _COLUMN_NAME.fullmatch(name):
            raise file.error(
                line,
                f"'{projection.sql('athena')[:60]}' needs a name: add AS and lower-case letters, digits or underscores",
            )
        if name in names:
            raise file.error(line, f"the SELECT has two columns named '{name}'")
        names.append(name)
    *others, last = names
    if last != "dt" or not others:
        raise file.error(
            _line(statement.selects[-1]),
            f"the SELECT must end with dt, after at least one other column (it ends with {last})",
        )
    for key, columns in (("metrics", file.metrics), ("received", file.received)):
        for name in columns:
            if name not in others:
                raise file.error(file.at(key), f"'{name}' is not a column of the SELECT: {_suggest(name, others)}")


def _check_tables(file: SqlFile, statement: exp.Query, targets: dict[str, SqlFile]) -> None:
    """Check that every table without a database is another file's, and declared as needed."""
    own = {cte.alias_or_name for cte in statement.find_all(exp.CTE)}
    read = {}
    for table in statement.find_all(exp.Table):
        if table.name in own and not table.db:
            continue
        if table.name in targets and table.db in ("", PLACEHOLDERS["AthenaDatabaseName"]):
            read[table.name] = _line(table)
        elif not table.db and not table.name.startswith(PLACEHOLDERS["AthenaTableName"]):
            raise file.error(
                _line(table),
                f"no file makes the table '{table.name}': {_suggest(table.name, targets)}; one that is not made "
                f'here is written with its database, as in "${{AthenaDatabaseName}}".{table.name}',
            )
    for name, line in read.items():
        if name not in file.needs:
            raise file.error(
                line, f"reads {name} and does not say so: add `-- needs: {', '.join([*file.needs, name])}`"
            )
    for name in file.needs:
        if name not in read:
            raise file.error(file.at("needs"), f"needs {name} and does not read it: remove it from the header")


def _in_order(targets: dict[str, SqlFile]) -> Iterable[str]:
    """The tables, each after those it needs, else in the order of their files."""
    sorter = TopologicalSorter({name: file.needs for name, file in targets.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        file = targets[circle[-1]]
        raise file.error(
            file.at("needs"), f"the files need each other in a circle: {' <- '.join(circle)}: remove one of them"
        ) from None
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=lambda name: targets[name].path.name)
        yield from ready
        sorter.done(*ready)


def _line(node: exp.Expr) -> int:
    """The first line of a part of the SQL."""
    return min((inner.meta["line"] for inner in node.walk() if "line" in inner.meta), default=1)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _suggest(name: str, among: Iterable[str]) -> str:
    known = list(among)
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"


def _without_comments(sql: str) -> str:
    return re.sub(r"--[^\n]*", "", sql)
