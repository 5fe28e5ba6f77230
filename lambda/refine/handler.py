"""The refinement function: the steps of the state machine that are not SQL.

Each call names its step, and answers with it:

    plan       the execution's input -> its statements, in their order
    prepare    a statement -> the same with the SQL of this attempt
    publish    a prepared statement, and what was counted in its temporary table -> the target's new partitions
    sweep      nothing -> what was removed of earlier runs

Each may be called again. Refused is the one error that another try does not mend. The environment:

    DATABASE, EVENTS_TABLE, BUCKET     what the SQL reads, and where it writes
    FILES_BUCKET, FILES_KEY            the document that deploy made of the SQL files
    REFINE_DAYS                        days of a run that names none, today included
    EVENTS_RETENTION_DAYS              days after which events are deleted; empty if they are kept
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Protocol

from refine import plan as plans
from refine.plan import Target
from refine.publish import publish
from refine.sweep import sweep

SWEEP_ENDS_BEFORE: Final = 30_000
"""Milliseconds before the function's timeout at which sweeping stops, for the next run to go on."""

logger = logging.getLogger(__name__)

Json = dict[str, Any]


class LambdaContext(Protocol):
    """What the handler reads of Lambda's context object."""

    def get_remaining_time_in_millis(self) -> int: ...


def lambda_handler(event: Json, context: LambdaContext) -> Json:
    """Do one step; raises plans.Refused for what another try would not mend."""
    now = datetime.now(UTC)
    environment = os.environ
    database, bucket = environment["DATABASE"], environment["BUCKET"]
    targets = read_files(environment["FILES_BUCKET"], environment["FILES_KEY"])
    match event["step"]:
        case "plan":
            days = int(environment["REFINE_DAYS"])
            answer: Any = {"statements": plans.plan(targets, event["request"], now.date(), days)}
        case "prepare":
            statement = event["statement"]
            target = plans.find(targets, statement["table"])
            run = plans.new_run(now, secrets.token_hex(4))
            answer = plans.prepare(target, statement, run, bucket, database, environment["EVENTS_TABLE"])
        case "publish":
            retention = int(environment["EVENTS_RETENTION_DAYS"] or 0)
            gone = (now.date() - timedelta(days=retention)).isoformat() if retention else ""
            answer = publish_step(targets, database, bucket, event["statement"], event["counts"], now, gone)
        case "sweep":
            answer = sweep(
                client("glue"),
                client("s3"),
                database,
                bucket,
                targets,
                now,
                lambda: context.get_remaining_time_in_millis() > SWEEP_ENDS_BEFORE,
            )
        case other:
            raise plans.Refused(f"there is no step '{other}'")
    return {"step": event["step"], **answer}


def publish_step(
    targets: list[Target], database: str, bucket: str, statement: Any, counts: Json, now: datetime, gone: str
) -> Json:
    """Publish a statement, and print its figures as metrics; `counts` is Athena's ResultSet of the count.

    `gone` is the last day whose events may have been deleted, as yyyy-MM-dd; empty if they are kept.
    """
    target = plans.find(targets, statement["table"])
    figures = read_counts(counts)
    since = {day["dt"]: day[plans.SINCE] for day in figures if plans.SINCE in day}
    left = publish(client("glue"), database, bucket, target, statement, statement["temporary"], since, gone)
    if left:
        logger.warning("%s keeps %s as it was: events behind it may be deleted", target.table, ", ".join(sorted(left)))
    figures = [day for day in figures if day["dt"] not in left]
    for line in metrics(database, target, figures, int(now.timestamp() * 1000)):
        print(json.dumps(line), flush=True)
    rows = {day["dt"]: int(day["rows"]) for day in figures}
    logger.info("%s from %s to %s: %d rows", target.table, statement["first"], statement["last"], sum(rows.values()))
    return {
        "table": target.table,
        "first": statement["first"],
        "last": statement["last"],
        "days": len(rows),
        "rows": sum(rows.values()),
        "left": len(left),
    }


def read_counts(result: Json) -> list[dict[str, str]]:
    """The rows of Athena's ResultSet structure, of which the first repeats the names; what is NULL is left out."""
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
        definition = {
            "Namespace": "Sluice",
            "Dimensions": [["Database", "Table"]],
            "Metrics": [{"Name": name} for name in values],
        }
        yield {
            "_aws": {"Timestamp": milliseconds, "CloudWatchMetrics": [definition]},
            "Database": database,
            "Table": target.table,
            "Day": day["dt"],
            **values,
        }


@lru_cache(maxsize=1)
def read_files(bucket: str, key: str) -> list[Target]:
    """The targets. The key carries a hash of the content, so that a change of the files is another key."""
    return plans.read_targets(client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())


@lru_cache
def client(service: str) -> Any:
    """A client of this service, made once."""
    import boto3
    from botocore.config import Config

    return boto3.client(service, config=Config(retries={"mode": "standard", "max_attempts": 5}))
