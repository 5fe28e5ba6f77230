"""What a run has to do: which statements, over which days, and what each of them says to Athena.

Nothing here has a clock, an environment or AWS in it. The targets come from a folder of SQL files; the shape of the
document, and what was checked before it was deployed, stand in scripts/commands/refine_files.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, TypedDict

MAX_STATEMENTS: Final = 500
"""Statements of one run. Each has about 30 events in the execution's history, which ends at 25,000."""

RUN_MARK: Final = "__run_"
"""Stands in the name of a temporary table between its target and its run."""

SINCE: Final = "$since"
"""Column of the count: the day on which the oldest event behind a day's rows was received."""

_RUN: Final = re.compile(r"(\d{8}t\d{6})_[0-9a-f]{8}")


class Refused(Exception):
    """What another try would not mend: says which value is wrong, and the way out."""


@dataclass(frozen=True, slots=True)
class Target:
    """One SQL file: the table that it makes, and how."""

    file: str
    table: str
    zone: str
    """The folder in the bucket: processed or curated."""
    partitions: tuple[str, ...]
    """Names of the partition columns; the first is always dt, a day as yyyy-MM-dd."""
    days: int
    """Days that one statement may write."""
    metrics: tuple[str, ...]
    """Numeric columns whose largest value of each day goes to CloudWatch."""
    sql: str
    received: str
    """The column with the time at which the oldest event behind a row was received; empty if there is none."""


class Statement(TypedDict):
    """One CREATE TABLE AS: a target, and the days that it makes anew. Both days are included, as yyyy-MM-dd."""

    table: str
    file: str
    first: str
    last: str
    attempt: int


class Prepared(Statement):
    """A statement with the SQL of one attempt. No two attempts share a run, and so neither a place nor a table."""

    run: str
    temporary: str
    create: str
    count: str


def read_targets(document: bytes) -> list[Target]:
    """The targets of the document that deploy made of the SQL files, each after those that it needs."""
    return [
        Target(
            item["file"],
            item["table"],
            item["zone"],
            tuple(item["partitions"]),
            item["days"],
            tuple(item["metrics"]),
            item["sql"],
            item["received"],
        )
        for item in json.loads(document)["targets"]
    ]


def find(targets: list[Target], table: str) -> Target:
    """The target of this name; Refused if there is none."""
    for target in targets:
        if target.table == table:
            return target
    raise Refused(f"no file makes the table '{table}': there are {', '.join(target.table for target in targets)}")


def plan(targets: list[Target], request: dict[str, Any], today: date, default_days: int) -> list[Statement]:
    """The statements of a run, in their order.

    `request` may have `from` and `to`, the first and the last day, and `only`, a list of tables. Without days it is the
    last `default_days` days, today included; without `only` every table. Raises Refused.
    """
    if unknown := request.keys() - {"from", "to", "only"}:
        raise Refused(f"a run takes from, to and only (got {', '.join(sorted(unknown))})")
    last = _day("to", request["to"]) if request.get("to") else today
    first = _day("from", request["from"]) if request.get("from") else last - timedelta(days=default_days - 1)
    if first > last:
        raise Refused(f"from ({first}) lies after to ({last})")
    only = request.get("only") or []
    if not isinstance(only, list):
        raise Refused(f"only must be a list of tables (got {only!r})")
    chosen = {find(targets, table).table for table in only} or {target.table for target in targets}
    statements: list[Statement] = [
        {
            "table": target.table,
            "file": target.file,
            "first": start.isoformat(),
            "last": min(start + timedelta(days=target.days - 1), last).isoformat(),
            "attempt": 1,
        }
        for target in targets
        if target.table in chosen
        for start in _every(first, last, target.days)
    ]
    if len(statements) > MAX_STATEMENTS:
        raise Refused(
            f"{first} to {last} needs {len(statements):,} statements, and one run takes {MAX_STATEMENTS:,}: "
            f"run a shorter range of days, or fewer tables"
        )
    return statements


def new_run(now: datetime, token: str) -> str:
    """The name of one attempt, from its time in UTC and eight random hexadecimal digits."""
    return f"{now:%Y%m%dt%H%M%S}_{token}"


def run_time(run: str) -> datetime | None:
    """When an attempt of this name began, in UTC; None for what is no such name."""
    match = _RUN.fullmatch(run)
    return datetime.strptime(match[1], "%Y%m%dt%H%M%S").replace(tzinfo=UTC) if match else None


def prepare(target: Target, statement: Statement, run: str, bucket: str, database: str, events_table: str) -> Prepared:
    """The SQL of one attempt: it writes to a place of its own, into a table of its own, which Publish reads.

    The head stands in the file's first line, a comment, so that Athena's line numbers are those of the file.
    """
    temporary = f"{target.table}{RUN_MARK}{run}"
    names = {
        "from": statement["first"],
        "to": statement["last"],
        "AthenaDatabaseName": database,
        "AthenaTableName": events_table,
    }
    select = target.sql
    for name, value in names.items():
        select = select.replace(f"${{{name}}}", value)
    columns = ", ".join(f"'{name}'" for name in target.partitions)
    # Athena wants the names of a CREATE TABLE AS without quotes; none of these is a reserved word.
    create = (
        f"CREATE TABLE {database}.{temporary} WITH (format = 'PARQUET', write_compression = 'SNAPPY', "
        f"external_location = '{folder(bucket, target)}run={run}/', partitioned_by = ARRAY[{columns}]) AS {select}"
    )
    figures = "".join(f', max("{name}") AS "{name}"' for name in target.metrics)
    if name := target.received:
        # NULL where one row does not say it: then nothing is known of the day.
        figures += (
            f""", CASE WHEN count("{name}") = count(*) THEN date_format(min("{name}"), '%Y-%m-%d') END AS "{SINCE}\""""
        )
    count = f'SELECT "dt", count(*) AS "rows"{figures} FROM "{database}"."{temporary}" GROUP BY "dt" ORDER BY "dt"'
    return {**statement, "run": run, "temporary": temporary, "create": create, "count": count}


def folder(bucket: str, target: Target) -> str:
    """Where the objects of a table lie."""
    return f"s3://{bucket}/{target.zone}/{target.table}/"


def day_of(text: str) -> date | None:
    """A day as yyyy-MM-dd; None for any other text."""
    try:
        return date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        return None


def _day(name: str, text: Any) -> date:
    found = day_of(text) if isinstance(text, str) else None
    if found is None:
        raise Refused(f"{name} must be a day such as 2026-01-31 (got {text!r})")
    return found


def _every(first: date, last: date, step: int) -> list[date]:
    return [first + timedelta(days=days) for days in range(0, (last - first).days + 1, step)]
