"""The lake of refinement, in moto; its runs, and their tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import boto3

from stacks.refine.function import publish as publishing
from stacks.refine.function.plan import Lake, Prepared, Statement, Target
from stacks.refine.function.publish import Ages, Undone, get_partitions

DATABASE, BUCKET = "lake", "store"
LAKE = Lake(DATABASE, BUCKET, "records")
EVENTS = Target("events.sql", "events_clean", "processed", 100, (), "-- target: events_clean\nSELECT\n", "", (), False)
BY_KIND = Target(
    "by_kind.sql", "by_kind", "curated", 10, ("rows_in",), "-- target: by_kind\nSELECT\n", "", ("events_clean",), False
)
COLUMNS = [("name", "string"), ("n", "bigint")]
DAYS = {"dt": "string"}
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = NOW.date()


Json = dict[str, Any]


SESSION = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")


MACHINE = "arn:aws:states:us-east-1:123456789012:execution:RefineMachine"
RUNS = [f"{MACHINE}:{number}" for number in range(3)]


class FakeStates:
    """Executions by their states; all others run."""

    class exceptions:
        class ExecutionDoesNotExist(Exception):
            pass

    def __init__(self, **states: str) -> None:
        self.states = states

    def describe_execution(self, executionArn: str) -> Json:
        if (status := self.states.get(executionArn, "RUNNING")) == "UNKNOWN":
            raise self.exceptions.ExecutionDoesNotExist
        return {"status": status}


def statement(target: Target = EVENTS, first: str = "2026-01-01", last: str = "2026-01-03") -> Statement:
    return {"table": target.table, "file": target.file, "first": first, "last": last, "attempt": 1}


def publish(glue: Any, target: Target, one: Statement, temporary: str, since: dict[str, str], gone: str) -> Undone:
    prepared = Prepared(**one, run="", temporary=temporary, create="", count="")
    return publishing.publish(glue, LAKE, target, prepared, Ages(since, gone))


def write(
    glue: Any,
    run: str,
    *partitions: tuple[str, ...],
    target: Target = EVENTS,
    columns: list[tuple[str, str]] = COLUMNS,
    keys: dict[str, str] = DAYS,
) -> str:
    """Leave a table with its partitions, under a place of its own, as CREATE TABLE AS does; return its name."""
    name, place = f"{target.table}__run_{run}", f"s3://{BUCKET}/{target.zone}/{target.table}/run={run}/"
    storage = {"Columns": [{"Name": column, "Type": kind} for column, kind in columns], "Location": place}
    types = [{"Name": key, "Type": kind} for key, kind in keys.items()]
    glue.create_table(
        DatabaseName=DATABASE, TableInput={"Name": name, "PartitionKeys": types, "StorageDescriptor": storage}
    )
    for values in partitions:
        folder = "".join(f"{key}={value}/" for key, value in zip(keys, values, strict=True))
        own = {"Values": list(values), "StorageDescriptor": {**storage, "Location": place + folder}}
        glue.create_partition(DatabaseName=DATABASE, TableName=name, PartitionInput=own)
    return name


def tables(glue: Any) -> list[str]:
    return [table["Name"] for table in glue.get_tables(DatabaseName=DATABASE)["TableList"]]


def runs_by_day(glue: Any, target: Target = EVENTS) -> dict[str, str]:
    """The run of each partition of the target, by the partition's values."""
    return {
        " ".join(values): location.split("run=")[1].split("/")[0]
        for values, location in get_partitions(glue, DATABASE, target.table, "").items()
    }


def columns_of(glue: Any, target: Target = EVENTS) -> list[str]:
    table = glue.get_table(DatabaseName=DATABASE, Name=target.table)["Table"]
    return [f"{column['Name']} {column['Type']}" for column in table["StorageDescriptor"]["Columns"]]


def publish_run(glue: Any, run: str, *days: str, first: str = "2026-01-01", last: str = "2026-01-03") -> None:
    temporary = write(glue, run, *((day,) for day in days))
    publish(glue, EVENTS, statement(first=first, last=last), temporary, {}, "")
