"""Questions to Athena: a query's parameters and price, its run, and the part of its result to show."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from botocore.exceptions import ClientError

from scripts.commands.common.athena import (
    FINAL,
    QueryExecution,
    SavedQuery,
    cost,
    literal,
    pauses,
    place,
    reason,
    results,
    saved_queries,
    start,
)
from scripts.commands.common.console import UsageError
from scripts.commands.common.stack import Stack
from scripts.commands.common.tables import Column, Row, size
from scripts.commands.console.charts import Chart, chart_of

SHOWN_ROWS: Final = 500
PAGE_ROWS: Final = 100  # of a request to Athena
SHOWN_CHARACTERS: Final = 500
MOST_CHARACTERS: Final = 2_000_000
"""Of a page: no more rows are read after so many."""

# Comments and quoted texts: a `?` in them is not a parameter.
_NOT_CODE: Final = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", re.DOTALL)
_COMPARED: Final = re.compile(r"(\w+)\)?\s*(?:=|<>|!=|[<>]=?|like|in\s*\()\s*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Result:
    """The beginning of a result; `has_more` if the rest is not shown."""

    columns: list[Column]
    rows: list[Row]
    has_more: bool
    chart: Chart | None


@dataclass(frozen=True)
class Run:
    """A running or ended query, as in GetQueryExecution's answer."""

    id: str
    sql: str
    parameters: list[str]
    state: str
    reason: str
    scanned: int
    seconds: float
    submitted_at: datetime | None
    database: str

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL

    @property
    def has_result(self) -> bool:
        """Whether it has ended well."""
        return self.state == "SUCCEEDED"

    @property
    def account(self) -> str:
        """Its bytes scanned, its time and Athena's charge, as a person reads them."""
        return f"{size(self.scanned)} scanned in {self.seconds:.1f} s, about {cost(self.scanned):.5f} USD"


def parameters_of(sql: str) -> list[str]:
    """A label for each `?` of a query: the column compared with it, or its number."""
    code = _NOT_CODE.sub(lambda match: " " * len(match[0]), sql)
    labels = []
    for number, match in enumerate(re.finditer(r"\?", code), 1):
        compared = _COMPARED.search(code, 0, match.start())
        labels.append(compared[1] if compared else f"parameter {number}")
    return labels


class Questions:
    """The Athena of a stack, for a person allowed to run queries in the stack's workgroup."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self.athena = stack, stack.client("athena")

    def saved(self) -> list[SavedQuery]:
        """The stack's saved queries by name."""
        return sorted(saved_queries(self.athena, self._stack.output("WorkGroupName")), key=lambda query: query.name)

    @property
    def price(self) -> str:
        """The price of a query, before it runs."""
        if self._stack.aws.is_local:
            return "free on this machine"
        limit = int(self._stack.parameters.get("AthenaBytesScannedLimit") or 0)
        most = f" and at most {cost(limit):.2f}" if limit else ""
        return f"at least {cost(0):.5f}{most} USD"

    def start(self, sql: str, parameters: list[str], database: str = "") -> str:
        """Start a query; returns its id."""
        where = place(self._stack)
        return start(
            self.athena,
            where,
            database or self._stack.output("DatabaseName"),
            sql,
            [literal(parameter) for parameter in parameters],
        )

    def look(self, run_id: str, wait_seconds: float = 0.0) -> Run:
        """The state of a query of the stack's workgroup, as soon as it has ended or the time is up.

        Raises:
            UsageError: the query does not exist, or it ran elsewhere.
        """
        deadline = time.monotonic() + wait_seconds
        for pause in pauses():
            found = self._execution(run_id)
            if found["Status"]["State"] in FINAL or time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
        statistics = found.get("Statistics", {})
        milliseconds = statistics.get("TotalExecutionTimeInMillis", statistics.get("EngineExecutionTimeInMillis", 0))
        return Run(
            id=run_id,
            sql=found.get("Query", ""),
            parameters=found.get("ExecutionParameters", []),
            state=found["Status"]["State"],
            reason=reason(found),
            scanned=statistics.get("DataScannedInBytes", 0),
            seconds=milliseconds / 1000,
            submitted_at=found["Status"].get("SubmissionDateTime"),
            database=found.get("QueryExecutionContext", {}).get("Database", ""),
        )

    def _execution(self, run_id: str) -> QueryExecution:
        try:
            found: QueryExecution = self.athena.get_query_execution(QueryExecutionId=run_id)["QueryExecution"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidRequestException":
                raise
            raise UsageError(f"Athena knows no query {run_id!r}, or no longer: ask again") from error
        ours = {self._stack.outputs.get(key) for key in ("WorkGroupName", "AnalystWorkGroupName")} - {None}
        if found.get("WorkGroup") not in ours:
            raise UsageError(f"the query {run_id!r} did not run in the stack's workgroup")
        return found

    def stop(self, run_id: str) -> None:
        """Stop a query of the stack's workgroup."""
        self._execution(run_id)
        self.athena.stop_query_execution(QueryExecutionId=run_id)

    def result(self, run_id: str) -> Result:
        """The first rows of a finished query, for a page."""
        columns, rows = results(self.athena, run_id, PaginationConfig={"PageSize": PAGE_ROWS})
        shown: list[Row] = []
        characters = 0
        for row in rows:
            if len(shown) == SHOWN_ROWS or characters > MOST_CHARACTERS:
                return Result(columns, shown, True, chart_of(columns, shown))
            characters += sum(len(cell or "") for cell in row)
            shown.append([cell if cell is None else _cut(cell) for cell in row])
        return Result(columns, shown, False, chart_of(columns, shown))

    def all_rows(self, run_id: str) -> tuple[list[Column], Iterator[Row]]:
        """The whole result, read as it is taken."""
        return results(self.athena, run_id)

    def console_link(self, run_id: str) -> str:
        """The query in the console of AWS; empty for the local AWS."""
        aws = self._stack.aws
        if aws.is_local:
            return ""
        home = "console.amazonaws.cn" if aws.region.startswith("cn-") else "console.aws.amazon.com"
        return f"https://{aws.region}.{home}/athena/home?region={aws.region}#/query-editor/history/{run_id}"


def _cut(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]} … ({len(text):,} characters; CSV has them all)"
