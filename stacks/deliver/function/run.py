"""A run: from a saved query to messages in the queue. The state machine's steps in code:

    prepare   finds the query and the window of time, and writes the request for Athena
    enqueue   puts the rows of the result into the queue, and moves the watermark after the last

A query with `{from}` and `{to}` among its parameters reads a window of time. It begins at the end of the last window;
everything before its own end has been delivered to S3. A begun window is finished before the next begins, by the first
run to come. So a killed run loses nothing: its rows are queued again, with the same ids.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NotRequired, TypedDict

from shared.athena import NamedQuery, ResultSet, typed
from shared.aws import DynamoDb, DynamoItem

from .messages import MAX_ROW_BYTES, Message, Row, dead_letter, row_id, send
from .settings import Clients, Settings

SPARE_SECONDS: Final = 15
"""Firehose's time to transform and write, beyond the buffering."""

LATE_SECONDS: Final = 300
"""So much later than Firehose measures it, CloudWatch may know how far behind the stream is."""

FRESHNESS_PERIOD: Final = timedelta(minutes=15)
RUN_DAYS: Final = 90
"""How long the figures of a run are kept."""

ENQUEUE_MILLISECONDS: Final = 60_000
"""No further page is begun with less time left: the state machine calls again."""

BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
TIME: Final = "%Y-%m-%d %H:%M:%S"

# Commas between the values, but not those within a string.
_PARAMETER: Final = re.compile(r"(?:[^,']|'[^']*')+")

logger = logging.getLogger(__name__)


class Unusable(Exception):
    """A run cannot succeed with its configuration or its input; says how to change them. It is not tried again."""


Given = TypedDict("Given", {"query": str, "parameters": list[str], "from": str, "to": str}, total=False)
"""A run's optional input: another saved query, SQL literals with `{from}` and `{to}` among them, and a window as TIME
in UTC. Given a window, the watermark is neither read nor moved."""


class Started(TypedDict):
    """The execution."""

    Name: str
    Input: Given


class PlannedDelivery(TypedDict):
    """A run, as enqueue needs it. `resumed` if another run had begun its window."""

    run: str
    query: str
    watermark: str | None
    until: str | None
    resumed: bool


class PreparedDelivery(TypedDict):
    """Whether there is anything to deliver; if so, the arguments of StartQueryExecution, too."""

    waiting: bool
    request: NotRequired[dict[str, str | list[str] | dict[str, str]]]
    delivery: NotRequired[PlannedDelivery]


class Position(TypedDict):
    """A succeeded query, and the page of its result to go on with: none at the beginning and at the end."""

    execution: str
    delivery: PlannedDelivery
    position: NotRequired[str | None]


class Enqueued(Position):
    """The next step; "prepare" after another run's window, as there may be one more."""

    next: Literal["enqueue", "prepare", "end"]


@dataclass(frozen=True)
class Window:
    """A window of time: `since` belongs to it, `until` does not. `resumed` if another run had begun it."""

    since: datetime
    until: datetime
    resumed: bool = False


def prepare(started: Started, settings: Settings, clients: Clients, now: datetime) -> PreparedDelivery:
    """Decide what to deliver. Raises Unusable."""
    run, given = started["Name"], started["Input"]
    name = given.get("query", settings.query)
    values = given.get("parameters", split(settings.parameters))
    saved = find_query(clients.athena, settings.work_group, name)
    delivery: PlannedDelivery = {"run": run, "query": name, "watermark": None, "until": None, "resumed": False}
    has_window = "{from}" in values or "{to}" in values
    if "from" in given:
        if not has_window:
            raise Unusable(f"the query '{name}' takes no window: its parameters ({', '.join(values)}) have no {{from}}")
        try:
            window: Window | None = Window(_read_time(given["from"]), _read_time(given["to"]))
        except (KeyError, ValueError) as error:
            raise Unusable(f"from and to must both be given, as 2026-01-31 00:00:00 in UTC (got {given})") from error
    elif has_window:
        watermark = f"watermark {name} {','.join(values)}"
        window = claim(clients.dynamodb, settings.table, watermark, complete_until(settings, clients.cloudwatch, now))
        if window is None:
            return {"waiting": False}
        delivery |= {"watermark": watermark, "until": window.until.strftime(TIME), "resumed": window.resumed}
    else:
        window = None
    if window:
        ends = {"{from}": window.since, "{to}": window.until}
        values = [f"timestamp '{ends[value].strftime(TIME)}'" if value in ends else value for value in values]
    request: dict[str, str | list[str] | dict[str, str]] = {
        "QueryString": saved["QueryString"],
        "QueryExecutionContext": {"Database": saved["Database"]},
        "WorkGroup": settings.work_group,
        **({"ExecutionParameters": values} if values else {}),
    }
    _count(clients.dynamodb, settings.table, run, now, queued=0, refused=0)
    return {"waiting": True, "request": request, "delivery": delivery}


def enqueue(
    start: Position, settings: Settings, clients: Clients, now: datetime, milliseconds_left: Callable[[], int]
) -> Enqueued:
    """Put rows into the queue, page by page of the result, as many as time allows."""
    execution, delivery, position = start["execution"], start["delivery"], start.get("position")
    while True:
        arguments = {"NextToken": position} if position else {}
        page = clients.athena.get_query_results(QueryExecutionId=execution, MaxResults=1000, **arguments)
        fitting, too_large = [], []
        for row in read_rows(page["ResultSet"], delivery["run"], delivery["query"], is_first=not position):
            message = Message(row.body())
            if message.size <= MAX_ROW_BYTES:
                fitting.append(message)
            else:
                note = json.dumps({"run": row.run, "query": row.query, "row_id": row.row_id})
                reason = f"the row has {message.size:,} bytes, and {MAX_ROW_BYTES:,} fit into a message"
                too_large.append(dead_letter(note, f"{reason}: see execution {execution} of Athena"))
        send(clients.sqs, settings.queue_url, fitting)
        send(clients.sqs, settings.dead_letter_queue_url, too_large)
        _count(clients.dynamodb, settings.table, delivery["run"], now, queued=len(fitting), refused=len(too_large))
        position = page.get("NextToken")
        if not position or milliseconds_left() < ENQUEUE_MILLISECONDS:
            break
    following: Literal["enqueue", "prepare", "end"] = "enqueue"
    if not position:
        if delivery["watermark"] and delivery["until"]:
            move(clients.dynamodb, settings.table, delivery["watermark"], delivery["until"])
        following = "prepare" if delivery["resumed"] else "end"
    return {"execution": execution, "delivery": delivery, "position": position, "next": following}


def split(parameters: str) -> list[str]:
    """The values of DeliverParameters: SQL literals, `{from}` and `{to}`, separated by commas."""
    return [value.strip() for value in _PARAMETER.findall(parameters)]


def find_query(athena: Any, work_group: str, name: str) -> NamedQuery:
    """The query of this name in the workgroup; raises Unusable if there is none."""
    names = set()
    query: NamedQuery
    for page in athena.get_paginator("list_named_queries").paginate(WorkGroup=work_group):
        if page["NamedQueryIds"]:
            found = athena.batch_get_named_query(NamedQueryIds=page["NamedQueryIds"])["NamedQueries"]
            for query in found:
                if query["Name"] == name:
                    return query
                names.add(query["Name"])
    raise Unusable(f"the workgroup '{work_group}' has no saved query '{name}': it has {', '.join(sorted(names))}")


def complete_until(settings: Settings, cloudwatch: Any, now: datetime) -> datetime:
    """A time, in whole seconds: every event received before it has been delivered to S3.

    Firehose tells the age of its oldest undelivered event (DataFreshness), and events in its buffer may be as old as
    the buffering. The larger age is added to the longest silence (LATE_SECONDS), or taken twice if it exceeds that.
    """
    datapoints = cloudwatch.get_metric_statistics(
        Namespace="AWS/Firehose",
        MetricName="DeliveryToS3.DataFreshness",
        Dimensions=[{"Name": "DeliveryStreamName", "Value": settings.stream}],
        StartTime=now - FRESHNESS_PERIOD,
        EndTime=now,
        Period=60,
        Statistics=["Maximum"],
    )["Datapoints"]
    oldest = max([settings.buffering_seconds, *(point["Maximum"] for point in datapoints)])
    return (now - timedelta(seconds=oldest + max(oldest, LATE_SECONDS) + SPARE_SECONDS)).replace(microsecond=0)


def claim(dynamodb: DynamoDb, table: str, watermark: str, until: datetime) -> Window | None:
    """The window to deliver now, after noting it; None while there is none.

    A begun and unfinished window comes first, as it was.
    """
    key: DynamoItem = {"id": {"S": watermark}}
    while True:
        item = dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {})
        since = _read_time(item["moved_to"]["S"]) if "moved_to" in item else BEGINNING
        if "begun_to" in item:
            return Window(since, _read_time(item["begun_to"]["S"]), resumed=True)
        if until <= since:
            return None
        is_unchanged = "moved_to = :since" if "moved_to" in item else "attribute_not_exists(moved_to)"
        values: DynamoItem = {":until": {"S": until.strftime(TIME)}}
        if "moved_to" in item:
            values[":since"] = item["moved_to"]
        try:
            dynamodb.update_item(
                TableName=table,
                Key=key,
                UpdateExpression="SET begun_to = :until",
                ConditionExpression=f"attribute_not_exists(begun_to) AND {is_unchanged}",
                ExpressionAttributeValues=values,
            )
            return Window(since, until)
        except dynamodb.exceptions.ConditionalCheckFailedException:
            continue  # another run began one in this moment


def move(dynamodb: DynamoDb, table: str, watermark: str, until: str) -> None:
    """Move the watermark to the end of the window, unless another run has finished the same window already."""
    try:
        dynamodb.update_item(
            TableName=table,
            Key={"id": {"S": watermark}},
            UpdateExpression="SET moved_to = :until REMOVE begun_to",
            ConditionExpression="begun_to = :until",
            ExpressionAttributeValues={":until": {"S": until}},
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        logger.warning("%s: another run has delivered the window until %s too", watermark, until)


def read_rows(result_set: ResultSet, run: str, query: str, *, is_first: bool) -> Iterator[Row]:
    """The rows of a page of a result; the first row of the first page repeats the names of the columns."""
    columns = [(column["Name"], column["Type"]) for column in result_set["ResultSetMetadata"]["ColumnInfo"]]
    if len({name for name, _ in columns}) < len(columns):
        raise Unusable(f"the query '{query}' has two columns of one name: give each its own with AS")
    for item in result_set["Rows"][1 if is_first else 0 :]:
        values = {
            name: typed(kind, value.get("VarCharValue"))
            for (name, kind), value in zip(columns, item["Data"], strict=True)
        }
        yield Row(run, query, row_id(query, values), values)


def _count(dynamodb: DynamoDb, table: str, run: str, now: datetime, **counts: int) -> None:
    """Add to the figures of a run."""
    expiry = int((now + timedelta(days=RUN_DAYS)).timestamp())
    dynamodb.update_item(
        TableName=table,
        Key={"id": {"S": f"run {run}"}},
        UpdateExpression=f"SET expires_at = :expiry ADD {', '.join(f'{name} :{name}' for name in counts)}",
        ExpressionAttributeValues={
            ":expiry": {"N": str(expiry)},
            **{f":{name}": {"N": str(count)} for name, count in counts.items()},
        },
    )


def _read_time(text: str) -> datetime:
    return datetime.strptime(text, TIME).replace(tzinfo=UTC)
