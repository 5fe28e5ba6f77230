"""Queries of the stack's Athena: saved ones and those of one's own, run to their end, with their results and charge."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from botocore.exceptions import ClientError

from scripts.commands.common.console import CommandError, UsageError, say, status
from scripts.commands.common.stack import Stack
from scripts.commands.common.tables import Column, Row, size
from shared.athena import SMALLEST_CHARGE, ResultSet

DOLLARS_PER_TERABYTE = 5.0
BYTES_PER_TERABYTE = 10**12

FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_LITERAL = re.compile(r"(?i)((date|timestamp|decimal)\s+)?'([^']|'')*'|true|false|null")


@dataclass(frozen=True)
class SavedQuery:
    """A named query of the workgroup. `question` is its description: a person's question."""

    name: str
    question: str
    sql: str
    database: str


class ResultConfiguration(TypedDict):
    """Where a result goes."""

    OutputLocation: str


class QueryPlace(TypedDict):
    """Where a query runs and leaves its result, as StartQueryExecution takes it."""

    WorkGroup: str
    ResultConfiguration: NotRequired[ResultConfiguration]


class AthenaError(TypedDict):
    """The reason of a failure."""

    ErrorMessage: NotRequired[str]


class QueryStatus(TypedDict):
    """How far a query is."""

    State: str
    StateChangeReason: NotRequired[str]
    AthenaError: NotRequired[AthenaError]
    SubmissionDateTime: NotRequired[datetime]


class QueryStatistics(TypedDict, total=False):
    """A query's use of data and time."""

    DataScannedInBytes: int
    EngineExecutionTimeInMillis: int
    TotalExecutionTimeInMillis: int


class QueryContext(TypedDict, total=False):
    """Where a query looks for tables."""

    Database: str


class QueryExecution(TypedDict):
    """A query that is running or has ended."""

    QueryExecutionId: str
    Query: NotRequired[str]
    ExecutionParameters: NotRequired[list[str]]
    QueryExecutionContext: NotRequired[QueryContext]
    WorkGroup: NotRequired[str]
    Status: QueryStatus
    Statistics: NotRequired[QueryStatistics]


def place(stack: Stack) -> QueryPlace:
    """Where the caller's query runs and leaves its result.

    A stack with analysts keeps a folder for each caller: docs/analyst.md.
    """
    if "AnalystWorkGroupName" not in stack.outputs:
        return {"WorkGroup": stack.output("WorkGroupName")}
    user = stack.client("sts").get_caller_identity()["UserId"]
    folder = f"s3://{stack.output('BucketName')}/athena-results/{user}/"
    return {"WorkGroup": stack.outputs["AnalystWorkGroupName"], "ResultConfiguration": {"OutputLocation": folder}}


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
        CommandError: there is none; it suggests queries containing the name, else those with a similar one.
    """
    by_key = {_key(item.name): item for item in saved}
    if _key(name) in by_key:
        return by_key[_key(name)]
    similar = [key for key in by_key if _key(name) in key] or difflib.get_close_matches(_key(name), by_key, cutoff=0.5)
    names = " or ".join(repr(by_key[key].name) for key in similar[:3])
    hint = f"did you mean {names}?" if names else "see scripts/query.sh --list"
    raise UsageError(f"there is no saved query '{name}': {hint}")


def fill(sql: str, stack: Stack) -> str:
    """SQL with the names of the stack's database and table for the two placeholders of queries.sql."""
    for name, key in (("AthenaDatabaseName", "DatabaseName"), ("AthenaTableName", "TableName")):
        if f"${{{name}}}" in sql:
            sql = sql.replace(f"${{{name}}}", stack.output(key))
    return sql


def literal(value: str) -> str:
    """A parameter as Athena's SQL literal for a `?`: numbers and literals stay as they are, the rest is a string."""
    if _NUMBER.fullmatch(value) or _LITERAL.fullmatch(value):
        return value
    return "'" + value.replace("'", "''") + "'"


def start(athena: Any, where: QueryPlace, database: str, sql: str, parameters: list[str]) -> str:
    """Start a query and return its QueryExecutionId.

    Raises:
        CommandError: Athena refused it; the message is Athena's reason.
    """
    request = {
        "QueryString": sql,
        "QueryExecutionContext": {"Database": database},
        **where,
        **({"ExecutionParameters": parameters} if parameters else {}),
    }
    try:
        return str(athena.start_query_execution(**request)["QueryExecutionId"])
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidRequestException":
            raise
        raise CommandError(f"Athena refuses the query: {error.response['Error']['Message']}") from error


def run(
    athena: Any,
    where: QueryPlace,
    database: str,
    sql: str,
    parameters: list[str],
) -> QueryExecution:
    """Run a query to its end. Ctrl-C stops it in Athena too.

    Raises:
        CommandError: Athena refused, failed or cancelled it; the message is Athena's reason.
    """
    execution_id = start(athena, where, database, sql, parameters)
    try:
        with status("Athena is running the query ..."):
            for pause in pauses():
                execution: QueryExecution = athena.get_query_execution(QueryExecutionId=execution_id)["QueryExecution"]
                if execution["Status"]["State"] in FINAL:
                    break
                time.sleep(pause)
    except KeyboardInterrupt:
        athena.stop_query_execution(QueryExecutionId=execution_id)
        say(f"Athena was told to stop the query {execution_id}")
        raise
    if execution["Status"]["State"] != "SUCCEEDED":
        raise CommandError(f"the query {execution['Status']['State'].lower()}: {reason(execution)}")
    return execution


def results(athena: Any, execution_id: str, **paging: dict[str, int]) -> tuple[list[Column], Iterator[Row]]:
    """The columns of a finished query and its rows, read page by page as they are taken; None is NULL.

    `paging` is PaginationConfig, if a page has another size than Athena's 1,000 rows.
    """
    pages = iter(athena.get_paginator("get_query_results").paginate(QueryExecutionId=execution_id, **paging))
    first = next(pages)["ResultSet"]
    columns = [Column(item["Name"], item["Type"]) for item in first["ResultSetMetadata"]["ColumnInfo"]]

    def rows() -> Iterator[Row]:
        head = _values(first)
        # A SELECT's first row repeats the names of the columns; other statements have no such row.
        yield from head[1:] if head[:1] == [[column.name for column in columns]] else head
        for page in pages:
            yield from _values(page["ResultSet"])

    return columns, rows()


def account(rows: int, statistics: QueryStatistics) -> str:
    """One line: rows, bytes scanned, run time and Athena's charge."""
    scanned = statistics.get("DataScannedInBytes", 0)
    seconds = statistics.get("TotalExecutionTimeInMillis", statistics.get("EngineExecutionTimeInMillis", 0)) / 1000
    return (
        f"{rows:,} row{'' if rows == 1 else 's'}, {size(scanned)} scanned in {seconds:.1f} s, "
        f"about {cost(scanned):.5f} USD (5.00 USD per TB, 10 MB at least)"
    )


def cost(scanned: int) -> float:
    """Athena's charge in US dollars for scanning so many bytes."""
    return max(scanned, SMALLEST_CHARGE) * DOLLARS_PER_TERABYTE / BYTES_PER_TERABYTE


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


def pauses() -> Iterator[float]:
    """Seconds between two looks at a query: short ones first, since most queries here end within a second."""
    pause = 0.1
    while True:
        yield pause
        pause = min(pause * 1.5, 2.0)


def reason(execution: QueryExecution) -> str:
    """Why a query failed or was cancelled, as Athena says it."""
    state = execution["Status"]
    return str(state.get("StateChangeReason") or state.get("AthenaError", {}).get("ErrorMessage") or "no reason given")


def _values(result_set: ResultSet) -> list[Row]:
    return [[item.get("VarCharValue") for item in row["Data"]] for row in result_set["Rows"]]
