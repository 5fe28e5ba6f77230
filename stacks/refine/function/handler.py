"""The refinement function: the steps of the state machine, except the SQL.

Each call names its step, and answers with it:

    plan       the execution's input -> its statements, in their order, and a query to `ask` before them, if any: then
               it is called again, with the answer as `moved`
    prepare    a statement -> the same with the SQL of this attempt
    publish    a prepared statement, and the counts of its temporary table -> the target's new partitions
    sweep      nothing -> the numbers of removed leftovers of earlier runs

Each may be called again. Refused is the one error that another try does not fix; after Busy, a later one may.
The environment:

    DATABASE, EVENTS_TABLE, BUCKET     the SQL's input, and the place of its output
    FILES_BUCKET, FILES_KEY            deploy's document of the SQL files
    REFINE_DAYS                        days of a run without days in its input, today included
    EVENTS_RETENTION_DAYS              days after which events are deleted; empty if they are kept
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, TypedDict

from shared.athena import ResultSet
from shared.aws import LambdaContext
from shared.documents import Json

from . import plan as plans
from .lock import take_turn
from .plan import Target
from .publish import Ages, publish
from .sweep import Clients, sweep

SWEEP_ENDS_BEFORE: Final = 30_000
"""Sweeping stops so many milliseconds before the function's timeout, for the next run to go on."""

logger = logging.getLogger(__name__)


class Counted(TypedDict):
    """A prepared statement, and the counts of its temporary table."""

    statement: plans.Prepared
    counts: ResultSet


class Published(TypedDict):
    """A published statement: its days and rows; `notes` are for a person."""

    table: str
    first: str
    last: str
    days: int
    rows: int
    notes: list[str]


def lambda_handler(event: Json, context: LambdaContext) -> Json:
    """Do one step; raises plans.Refused if another try would not help, Busy while another run is under way."""
    now = datetime.now(UTC)
    environment = os.environ
    lake = plans.Lake(environment["DATABASE"], environment["BUCKET"], environment["EVENTS_TABLE"])
    targets = read_files(environment["FILES_BUCKET"], environment["FILES_KEY"])
    match event["step"]:
        case "plan":
            take_turn(client("s3"), client("stepfunctions"), lake.bucket, event["execution"])
            answered = event["moved"]
            moved = {row["dt"] for row in read_rows(answered)} if answered else set()
            statements = plans.plan(targets, event["request"], now.date(), int(environment["REFINE_DAYS"]), moved)
            ask = "" if answered else plans.ask_moved(targets, statements, lake.events)
            answer: Any = {"statements": statements, "ask": ask}
        case "prepare":
            statement = event["statement"]
            target = plans.find(targets, statement["table"])
            run = plans.new_run(now, secrets.token_hex(4))
            answer = plans.prepare(target, statement, run, lake)
        case "publish":
            # Again: an execution that failed may have been started anew in its middle, by a redrive.
            take_turn(client("s3"), client("stepfunctions"), lake.bucket, event["execution"])
            retention = int(environment["EVENTS_RETENTION_DAYS"] or 0)
            gone = (now.date() - timedelta(days=retention)).isoformat() if retention else ""
            counted = Counted(statement=event["statement"], counts=event["counts"])
            answer = publish_step(targets, lake, counted, now, gone)
        case "sweep":
            clients = Clients(client("glue"), client("s3"))
            answer = sweep(
                clients, lake, targets, now, lambda: context.get_remaining_time_in_millis() > SWEEP_ENDS_BEFORE
            )
        case other:
            raise plans.Refused(f"there is no step '{other}'")
    return {"step": event["step"], **answer}


def publish_step(targets: list[Target], lake: plans.Lake, counted: Counted, now: datetime, gone: str) -> Published:
    """Publish a prepared statement, and print its figures as metrics; `gone` is as in Ages."""
    statement = counted["statement"]
    database, target = lake.database, plans.find(targets, statement["table"])
    figures = read_rows(counted["counts"])
    since = {day["dt"]: day[plans.SINCE] for day in figures if plans.SINCE in day}
    undone = publish(client("glue"), lake, target, statement, Ages(since, gone))
    figures = [day for day in figures if day["dt"] not in undone.left]
    milliseconds = int(now.timestamp() * 1000)
    for line in metrics(database, target, figures, milliseconds):
        print(json.dumps(line), flush=True)
    notes = [
        f"{target.table} {what}: {plans.name_days(days)}"
        for days, what in (
            (undone.left, "has days that stay as they were, as events behind them may be deleted"),
            (undone.emptied, "has no rows any more on days that had some"),
        )
        if days
    ]
    if notes:
        count = {"DaysLackingRows": len(undone.left) + len(undone.emptied)}
        print(json.dumps(embedded(["Database"], {"Database": database}, count, milliseconds)), flush=True)
    for note in notes:
        logger.warning("%s", note)
    rows = {day["dt"]: int(day["rows"]) for day in figures}
    logger.info("%s from %s to %s: %d rows", target.table, statement["first"], statement["last"], sum(rows.values()))
    return {
        "table": target.table,
        "first": statement["first"],
        "last": statement["last"],
        "days": len(rows),
        "rows": sum(rows.values()),
        "notes": notes,
    }


def read_rows(result: ResultSet) -> list[dict[str, str]]:
    """The rows as values by column, without NULLs; the result's first row has the names."""
    rows = [[item.get("VarCharValue") for item in row["Data"]] for row in result["Rows"]]
    return [
        {name: value for name, value in zip(rows[0], row, strict=True) if name is not None and value is not None}
        for row in rows[1:]
    ]


def metrics(database: str, target: Target, figures: list[dict[str, str]], milliseconds: int) -> Iterator[Json]:
    """Lines in CloudWatch's embedded metric format, one for each day: the rows, and the target's own metrics.

    The day is a field of the line, not a dimension: each day would be a metric of its own, to be paid each month.
    """
    for day in figures:
        values = {"Rows": int(day["rows"])} | {
            "".join(word.capitalize() for word in name.split("_")): float(day[name])
            for name in target.metrics
            if name in day
        }
        fields = {"Database": database, "Table": target.table, "Day": day["dt"]}
        yield embedded(["Database", "Table"], fields, values, milliseconds)


def embedded(dimensions: list[str], fields: Mapping[str, str], values: Mapping[str, float], milliseconds: int) -> Json:
    """A line in CloudWatch's embedded metric format."""
    definition = {"Namespace": "Sluice", "Dimensions": [dimensions], "Metrics": [{"Name": name} for name in values]}
    return {"_aws": {"Timestamp": milliseconds, "CloudWatchMetrics": [definition]}, **fields, **values}


@lru_cache(maxsize=1)
def read_files(bucket: str, key: str) -> list[Target]:
    """The targets. The key carries a hash of the content: changed files have another key."""
    return plans.read_targets(client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())


@lru_cache
def client(service: str) -> Any:
    """A client of this service, made once."""
    import boto3
    from botocore.config import Config

    return boto3.client(service, config=Config(retries={"mode": "standard", "max_attempts": 5}))
