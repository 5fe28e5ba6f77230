"""A console of a stack whose Athena answers from a script; moto is the rest of AWS."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.exceptions import ClientError

from scripts.commands.console.app import Console
from tests.fake_cloudformation import PIPELINE, FakeAws, FakeCloudFormation, Stack

REGION = "eu-west-1"
OUTPUTS = {
    "WorkGroupName": "sluice-wg",
    "DatabaseName": "lake",
    "TableName": "records",
    "BucketName": "the-data",
    "TrackURL": "https://x.execute-api.eu-west-1.amazonaws.com/prod/track",
}
# By name: the question, and its SQL.
SAVED = {
    "by-day": ("How many each day?", "SELECT day, events FROM t"),
    "by-name": ("How many of each?", "SELECT name, events FROM t"),
    "in-all": ("How many in all?", "SELECT count(*) FROM t"),
    "one-event": ("What became of one event?", "SELECT * FROM t WHERE event_id = ? AND value > ?"),
}

Rows = list[list[str | None]]


@dataclass
class Table:
    """A query's answer: columns by name and type, and rows."""

    columns: list[tuple[str, str]]
    rows: Rows


EVENT_COLUMNS = [
    *(("received_at", "timestamp"), ("outcome", "varchar"), ("name", "varchar"), ("action", "varchar")),
    *(("value", "double"), ("user_id", "varchar"), ("content", "varchar"), ("event_id", "varchar")),
]
REJECTED_COLUMNS = [
    *(("reason", "varchar"), ("of_reason", "bigint"), ("newest", "timestamp"), ("detail", "varchar")),
    *(("received_at", "timestamp"), ("ip", "varchar"), ("user_agent", "varchar"), ("request_id", "varchar")),
    *(("event_id", "varchar"), ("position", "bigint"), ("bytes", "bigint"), ("parts", "integer")),
    ("content", "varchar"),
]

EMPTY = {"AS outcome": Table(EVENT_COLUMNS, []), "of_reason": Table(REJECTED_COLUMNS, [])}
"""Empty answers to the queries of the pages Now and Rejected."""


def moment() -> str:
    """The present as Athena writes a timestamp."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def rejected_row(reason: str, content: str, count: int = 1, user_agent: str = "curl/8") -> list[str | None]:
    """A row for the page Rejected."""
    when = moment()
    context = [when, "203.0.113.0", user_agent, "r-1", "e-1", "0", "20", "1"]
    return [reason, str(count), when, f"because {reason}", *context, content]


@dataclass
class FakeAthena:
    """A workgroup. `tables` has answers by a piece of the query's SQL; `states` how a query goes on."""

    tables: dict[str, Table] = field(default_factory=lambda: dict(EMPTY))
    states: list[str] = field(default_factory=lambda: ["SUCCEEDED"])  # the last one is for good
    reason: str = ""
    refusal: ClientError | None = None
    workgroup: str = "sluice-wg"
    started: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    pages_read: int = 0

    def start_query_execution(self, **request: Any) -> dict[str, str]:
        if self.refusal:
            raise self.refusal
        self.started.append(request)
        return {"QueryExecutionId": f"run-{len(self.started)}"}

    def get_query_execution(self, QueryExecutionId: str) -> dict[str, Any]:
        number = QueryExecutionId.removeprefix("run-")
        if not number.isdecimal() or not 1 <= int(number) <= len(self.started):
            raise refused("InvalidRequestException", f"QueryExecution {QueryExecutionId} was not found")
        request = self.started[int(number) - 1]
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        status = {"State": state, "SubmissionDateTime": datetime.now(UTC)}
        return {
            "QueryExecution": {
                "QueryExecutionId": QueryExecutionId,
                "Query": request["QueryString"],
                "ExecutionParameters": request.get("ExecutionParameters", []),
                "WorkGroup": self.workgroup,
                "Status": {**status, **({"StateChangeReason": self.reason} if self.reason else {})},
                "Statistics": {"DataScannedInBytes": 123_456_789, "TotalExecutionTimeInMillis": 1234},
            }
        }

    def stop_query_execution(self, QueryExecutionId: str) -> None:
        self.stopped.append(QueryExecutionId)

    def get_named_query(self, NamedQueryId: str) -> dict[str, Any]:
        question, sql = SAVED[NamedQueryId]
        return {"NamedQuery": {"Name": NamedQueryId, "Description": question, "QueryString": sql, "Database": "lake"}}

    def get_paginator(self, operation: str) -> Any:
        assert operation in ("list_named_queries", "get_query_results")
        return self

    def paginate(
        self, WorkGroup: str = "", QueryExecutionId: str = "", PaginationConfig: Any = None
    ) -> Iterator[dict[str, Any]]:
        if WorkGroup:
            yield {"NamedQueryIds": list(SAVED)}
            return
        sql = self.started[int(QueryExecutionId.removeprefix("run-")) - 1]["QueryString"]
        table = next((table for piece, table in self.tables.items() if piece in sql), Table([("n", "bigint")], [["1"]]))
        size = (PaginationConfig or {}).get("PageSize", 1_000)
        rows = [[name for name, _ in table.columns], *table.rows]
        for start in range(0, len(rows), size):
            self.pages_read += 1
            data = [
                {"Data": [{} if value is None else {"VarCharValue": value} for value in row]}
                for row in rows[start : start + size]
            ]
            info = [{"Name": name, "Type": kind} for name, kind in table.columns]
            yield {"ResultSet": {"Rows": data, "ResultSetMetadata": {"ColumnInfo": info}}}


def refused(code: str, message: str) -> ClientError:
    """An error of AWS."""
    return ClientError({"Error": {"Code": code, "Message": message}}, "StartQueryExecution")


class LocalAws(FakeAws):
    """The same, in place of the local AWS."""

    is_local = True


@functools.cache
def clients() -> dict[str, Any]:
    """Made once, because it takes longer than a test; each test has a moto of its own."""
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return {name: boto3.client(name, region_name=REGION, **keys) for name in ("s3", "sqs", "logs", "cloudwatch", "sts")}


class Place:
    """A stack, and a console of it. Enter moto before this is made."""

    def __init__(self, *, is_local: bool = True) -> None:
        self.athena = FakeAthena()
        self.stack = Stack("sluice", outputs=OUTPUTS, resources=list(PIPELINE))
        self.stack.parameters = {"FirehoseBufferingInterval": "60", "AthenaBytesScannedLimit": "10000000000"}
        self.cloudformation = FakeCloudFormation(self.stack, page_size=100)
        self.logins = 0
        self.kind = LocalAws if is_local else FakeAws
        where = {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
        clients()["s3"].create_bucket(Bucket="the-data", **where)
        for group in ("stream-log", "transform-log"):
            clients()["logs"].create_log_group(logGroupName=group)
            clients()["logs"].create_log_stream(logGroupName=group, logStreamName="stream")
        self.console = Console(self.connect, "sluice")

    def connect(self) -> FakeAws:
        """A new login."""
        self.logins += 1
        return self.kind(cloudformation=self.cloudformation, athena=self.athena, **clients())

    def counted(self, **counts: Any) -> None:
        """A line of the transform's log, of this moment."""
        line = {"_aws": {"CloudWatchMetrics": []}, "Accepted": 0, "Failed": 0, "Received": 0, "Requeued": 0}
        line |= {"Dropped": 0, "Rejected": 0, "DroppedByRule": {}, "RejectedByReason": {}, **counts}
        event = {"timestamp": int(datetime.now(UTC).timestamp() * 1000), "message": json.dumps(line)}
        clients()["logs"].put_log_events(logGroupName="transform-log", logStreamName="stream", logEvents=[event])
