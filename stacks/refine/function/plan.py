"""The plan of a run: its statements, their days, and their SQL for Athena.

Nothing here has a clock, an environment or AWS in it. The targets come from a folder of SQL files; the shape of the
document, and the checks before it was deployed, are in stacks/refine/folder.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, TypedDict

from shared.documents import Json, parse_json

MAX_STATEMENTS: Final = 500
"""Statements of one run. Each has about 30 events in the execution's history, and that ends at 25,000."""

RUN_MARK: Final = "__run_"
"""Is in the name of a temporary table between its target and its run."""

SINCE: Final = "$since"
"""Column of the count: the day the oldest event behind a day's rows was received."""

FAST_CLOCK_DAYS: Final = 8
"""How many days an event may have been delivered before it happened, by its own clock."""

_RUN: Final = re.compile(r"(\d{8}t\d{6})_[0-9a-f]{8}")


class Refused(Exception):
    """Another try would not fix it: names the wrong value, and the way out."""


@dataclass(frozen=True, slots=True)
class Target:
    """One SQL file: its table, and how to make it."""

    file: str
    table: str
    zone: str
    """The folder in the bucket: processed or curated."""
    days: int
    """Days one statement may write."""
    metrics: tuple[str, ...]
    """Numeric columns whose largest value of each day goes to CloudWatch."""
    sql: str
    received: str
    """The column with the time of receipt of the oldest event behind a row; empty if there is none."""
    needs: tuple[str, ...]
    """The tables of other files, read by this one."""
    moves: bool
    """Whether an event's later row may take it to another day."""


class Statement(TypedDict):
    """One CREATE TABLE AS: a target, and its days to make anew. Both days are included, as yyyy-MM-dd."""

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
    """The targets of deploy's document of the SQL files, each after those it needs."""
    return [
        Target(
            item["file"],
            item["table"],
            item["zone"],
            item["days"],
            tuple(item["metrics"]),
            item["sql"],
            item["received"],
            tuple(item["needs"]),
            item["moves"],
        )
        for item in parse_json(document)["targets"]
    ]


def find(targets: list[Target], table: str) -> Target:
    """The target of this name; Refused if there is none."""
    for target in targets:
        if target.table == table:
            return target
    raise Refused(f"no file makes the table '{table}': there are {', '.join(target.table for target in targets)}")


def plan(
    targets: list[Target], request: Json, today: date, default_days: int, moved: Iterable[str] = ()
) -> list[Statement]:
    """The statements of a run, in their order.

    `request` may have `from` and `to`, the first and the last day, and `only`, a list of tables. Without days it is the
    last `default_days` days, today included; without `only` every table. `moved` are further days, for the tables whose
    events move and those that need them. Raises Refused.
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
    days = {(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)}
    following: set[str] = set()
    statements: list[Statement] = []
    for target in targets:
        if target.table in chosen:
            if target.moves or not following.isdisjoint(target.needs):
                following.add(target.table)
            statements += [
                {
                    "table": target.table,
                    "file": target.file,
                    "first": start.isoformat(),
                    "last": end.isoformat(),
                    "attempt": 1,
                }
                for start, end in spans(days.union(moved) if target.table in following else days, target.days)
            ]
    if len(statements) > MAX_STATEMENTS:
        others = len(days.union(moved)) - len(days)
        besides = f" and {others:,} days from or to which events were moved" if others else ""
        raise Refused(
            f"{first} to {last}{besides} needs {len(statements):,} statements, and one run takes {MAX_STATEMENTS:,}: "
            f"run a shorter range of days, or fewer tables"
        )
    return statements


def ask_moved(targets: list[Target], statements: list[Statement], events: str) -> str:
    """The query for other days with rows of the same events; empty if the events of no statement move.

    An event's old day keeps its row until it is made anew, and the new day lacks it.
    """
    if not any(find(targets, one["table"]).moves for one in statements):
        return ""
    first, last = min(one["first"] for one in statements), max(one["last"] for one in statements)
    day = """date_format("occurred_at", '%Y-%m-%d')"""
    within = f"{day} BETWEEN '{first}' AND '{last}'"
    since = date.fromisoformat(first) - timedelta(days=FAST_CLOCK_DAYS)
    return (
        f"SELECT DISTINCT {day} AS dt FROM {events} WHERE NOT {within} "
        f"""AND "event_id" IN (SELECT "event_id" FROM {events} WHERE "dt" >= '{since}' AND {within}) ORDER BY 1 DESC"""
    )


def spans(days: Iterable[str], longest: int) -> list[tuple[date, date]]:
    """The days, as yyyy-MM-dd, in runs of consecutive ones: the first and the last of each."""
    found: list[tuple[date, date]] = []
    for day in map(date.fromisoformat, sorted(days)):
        if found and day - found[-1][1] == timedelta(days=1) and day - found[-1][0] < timedelta(days=longest):
            found[-1] = found[-1][0], day
        else:
            found.append((day, day))
    return found


def name_days(days: Iterable[str]) -> str:
    """The days for a person to read: 2026-01-01 to 2026-01-03, 2026-01-09."""
    return ", ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in spans(days, 100_000))


def new_run(now: datetime, token: str) -> str:
    """The name of one attempt, from its time in UTC and eight random hexadecimal digits."""
    return f"{now:%Y%m%dt%H%M%S}_{token}"


def run_time(run: str) -> datetime | None:
    """When an attempt of this name began, in UTC; None if it is not such a name."""
    match = _RUN.fullmatch(run)
    return datetime.strptime(match[1], "%Y%m%dt%H%M%S").replace(tzinfo=UTC) if match else None


@dataclass(frozen=True)
class Lake:
    """Where the SQL reads and writes: tables of the database, whose objects are in the bucket."""

    database: str
    bucket: str
    events_table: str

    @property
    def events(self) -> str:
        """The table of events, as SQL names it."""
        return f'"{self.database}"."{self.events_table}"'


def prepare(target: Target, statement: Statement, run: str, lake: Lake) -> Prepared:
    """The SQL of one attempt: it writes to a place of its own, into a table of its own, for Publish to read.

    The head is in the file's first line, a comment: so Athena's line numbers are the file's.
    """
    temporary = f"{target.table}{RUN_MARK}{run}"
    names = {
        "from": statement["first"],
        "to": statement["last"],
        "AthenaDatabaseName": lake.database,
        "AthenaTableName": lake.events_table,
    }
    select = target.sql
    for name, value in names.items():
        select = select.replace(f"${{{name}}}", value)
    # Athena wants the names of a CREATE TABLE AS without quotes; none of these is a reserved word.
    create = (
        f"CREATE TABLE {lake.database}.{temporary} WITH (format = 'PARQUET', write_compression = 'SNAPPY', "
        f"external_location = '{folder(lake.bucket, target)}run={run}/', partitioned_by = ARRAY['dt']) AS {select}"
    )
    figures = "".join(f', max("{name}") AS "{name}"' for name in target.metrics)
    if name := target.received:
        # NULL where one row does not say it: then nothing is known of the day.
        figures += (
            f""", CASE WHEN count("{name}") = count(*) THEN date_format(min("{name}"), '%Y-%m-%d') END AS "{SINCE}\""""
        )
    count = f'SELECT "dt", count(*) AS "rows"{figures} FROM "{lake.database}"."{temporary}" GROUP BY "dt" ORDER BY "dt"'
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
