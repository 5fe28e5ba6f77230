"""The traces of a run of scripts/verify.sh (rows, objects, metrics), and how to read and remove them."""

from __future__ import annotations

import base64
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from scripts.commands.common.athena import results
from scripts.commands.common.console import CommandError
from scripts.commands.common.stack import Stack
from scripts.commands.common.tables import Column
from scripts.commands.lake import zones
from scripts.commands.lake.bucket import Bucket
from scripts.commands.lake.objects import codec_of, kind_of, plain
from scripts.commands.lake.records import split_records
from scripts.commands.lake.rejected import Key, Texts, event_of, key_of
from scripts.commands.verify.canaries import FILLER
from shared.athena import typed
from shared.documents import Json, parse_json


@dataclass
class Evidence:
    """One run's data in the tables and the log; times are as Athena shows them.

    A rejected event comes with its parts joined, as `text`; a failed record as `record`. `objects` has how many rows
    of each object are the run's, and how many there are. `stored` has by zone how many different rows
    the run has, and how many with repeated deliveries.
    """

    columns: dict[str, str] = field(default_factory=dict)
    rows: list[Json] = field(default_factory=list)
    fillers: int = 0
    rejected: list[Json] = field(default_factory=list)
    failed: list[Json] = field(default_factory=list)
    metrics: list[Json] = field(default_factory=list)
    objects: dict[str, tuple[int, int]] = field(default_factory=dict)
    stored: dict[str, tuple[int, int]] = field(default_factory=dict)
    foreign: int = 0  # Rows of others delivered meanwhile.

    @property
    def events(self) -> int:
        """How many different events are whole in a table."""
        ids = {(row["event_id"], row["request_id"]) for row in self.rows}
        rejected: int = sum(row["events"] for row in self.rejected if row["is_whole"])
        return len(ids) + self.fillers + rejected + len(self.failed)

    def counted(self, name: str) -> int:
        """A metric of the transform, summed over its invocations."""
        return sum(line.get(name, 0) for line in self.metrics)

    def counted_by(self, name: str) -> dict[str, int]:
        """The same for a metric counted by rule or reason."""
        counter: Counter[str] = Counter()
        for line in self.metrics:
            counter.update(line.get(name, {}))
        return dict(counter)


class Reader:
    """Reads a run's traces in a stack. `since` is the time when the run began, in seconds since the epoch."""

    def __init__(self, stack: Stack, run: str, since: float) -> None:
        aws, outputs = stack.aws, stack.outputs
        self.outputs, self.ids, self.run = outputs, stack.ids, run
        self.bucket = Bucket(aws.client("s3"), outputs["BucketName"])
        # A clock wrong by minutes hides nothing: the run's id marks its events.
        self.since = datetime.fromtimestamp(since, UTC) - timedelta(minutes=10)
        self.started_at = int(since * 1000)
        self.athena = aws.client("athena")
        self.logs, self.cloudwatch = aws.client("logs"), aws.client("cloudwatch")
        self.firehose = aws.client("firehose")
        self.pause = 0.1 if aws.is_local else 1.0
        self.results: list[str] = []

    # --- Tables

    def ask(self, sql: str) -> tuple[list[Column], list[Json]]:
        """The columns and rows of a query; `{events}`, `{rejected}` and `{errors}` stand for the tables."""
        table = f'"{self.outputs["DatabaseName"]}"."{self.outputs["TableName"]}'
        for name, suffix in (("{events}", '"'), ("{rejected}", '_rejected"'), ("{errors}", '_errors"')):
            sql = sql.replace(name, table + suffix)
        started = self.athena.start_query_execution(
            QueryString=sql,
            QueryExecutionContext={"Database": self.outputs["DatabaseName"]},
            WorkGroup=self.outputs["WorkGroupName"],
        )
        while True:
            execution = self.athena.get_query_execution(QueryExecutionId=started["QueryExecutionId"])["QueryExecution"]
            if execution["Status"]["State"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
                break
            time.sleep(self.pause)
        self.results.append(execution["ResultConfiguration"].get("OutputLocation", ""))
        if execution["Status"]["State"] != "SUCCEEDED":
            raise CommandError(f"the query failed: {execution['Status'].get('StateChangeReason')}: {sql}")
        columns, rows = results(self.athena, started["QueryExecutionId"])
        return columns, [
            {column.name: typed(column.type, value) for column, value in zip(columns, row, strict=True)} for row in rows
        ]

    def look(self) -> Evidence:
        """Everything delivered by now."""
        day, arrived = f"{self.since:%Y-%m-%d}", f"TIMESTAMP '{self.since:%Y-%m-%d %H:%M:%S}'"
        started = f"TIMESTAMP '{datetime.fromtimestamp(self.started_at / 1000, UTC):%Y-%m-%d %H:%M:%S}'"
        own = f"dt >= '{day}' AND source = '{self.run}'"
        asked = (
            f"""SELECT *, "$path" AS object FROM {{events}} WHERE {own} AND (name IS NULL OR name <> '{FILLER}')""",
            f"SELECT count(DISTINCT event_id) AS events, count(*) AS n FROM {{events}} "
            f"WHERE {own} AND name = '{FILLER}'",
            f"""SELECT "$path" AS object, count(*) AS n, count_if(source = '{self.run}') AS own, """
            f"count_if(received_at >= {started} AND (source IS NULL OR source <> '{self.run}')) AS others "
            f"FROM {{events}} WHERE dt >= '{day}' GROUP BY 1",
            f"""SELECT "$path" AS object, count(*) AS n FROM {{rejected}} WHERE dt >= '{day}' GROUP BY 1 """
            f"""UNION ALL SELECT "$path" AS object, count(*) AS n FROM {{errors}} WHERE dt >= '{day}' GROUP BY 1""",
            f"""SELECT *, "$path" AS object FROM {{rejected}} WHERE dt >= '{day}' AND received_at >= {arrived}""",
            f"""SELECT *, "$path" AS object FROM {{errors}} WHERE dt >= '{day}' """
            f"AND arrivaltimestamp >= {int(self.since.timestamp() * 1000)}",
        )
        with ThreadPoolExecutor(len(asked) + 1) as executor:
            metrics = executor.submit(self.read_metrics)
            (columns, rows), (_, fillers), (_, paths), (_, sizes), (_, rejected), (_, failed) = executor.map(
                self.ask, asked
            )
        evidence = Evidence({column.name: column.type.partition("(")[0] for column in columns[:-1]}, _distinct(rows))
        evidence.fillers, evidence.metrics = int(fillers[0]["events"]), metrics.result()
        own_rejected = join_parts(rejected, self.run)
        whole = {event_of(row) for row in own_rejected if row["is_whole"]}
        evidence.rejected = _distinct(
            [row for row in own_rejected if row["is_whole"] or event_of(row) not in whole], "text"
        )
        for row in failed:
            row["record"] = _decoded(row["rawdata"])
        own_failed = [row for row in failed if self.run.encode() in row["record"]]
        evidence.failed = _distinct(own_failed, "record")
        owned = Counter({path["object"]: int(path["own"]) for path in paths})
        for row in own_rejected:
            owned.update(row["objects"])
        owned.update(row["object"] for row in own_failed)
        evidence.stored = {
            zones.EVENTS: (len(evidence.rows), len(rows)),
            f"{zones.EVENTS}, requeued": (evidence.fillers, int(fillers[0]["n"])),
            zones.REJECTED: (
                sum(row["rows"] for row in evidence.rejected),
                sum(row["objects"].total() for row in own_rejected),
            ),
            zones.ERRORS: (len(evidence.failed), len(own_failed)),
        }
        evidence.objects = {path["object"]: (owned[path["object"]], int(path["n"])) for path in (*paths, *sizes)}
        # Objects without any of the run's rows are somebody else's.
        evidence.objects = {path: counts for path, counts in evidence.objects.items() if counts[0]}
        evidence.foreign = sum(int(path["others"]) for path in paths)
        return evidence

    # --- Metrics

    def read_metrics(self) -> list[Json]:
        """The transform's lines of metrics (CloudWatch's embedded format) since the run began."""
        lines = []
        pages = self.logs.get_paginator("filter_log_events").paginate(
            logGroupName=self.ids["TransformLogGroup"], startTime=self.started_at, filterPattern='"CloudWatchMetrics"'
        )
        for event in (event for page in pages for event in page["events"]):
            with contextlib.suppress(ValueError):
                line = parse_json(event["message"])
                if "_aws" in line:
                    lines.append(line)
        return lines

    def incoming_records(self) -> float | None:
        """Firehose's own count of incoming records since the run began; None where it has not counted yet."""
        answer = self.cloudwatch.get_metric_statistics(
            Namespace="AWS/Firehose",
            MetricName="IncomingRecords",
            Dimensions=[{"Name": "DeliveryStreamName", "Value": self.outputs["StreamName"]}],
            StartTime=datetime.fromtimestamp(self.started_at // 60_000 * 60, UTC),
            EndTime=datetime.now(UTC) + timedelta(minutes=1),
            Period=60,
            Statistics=["Sum"],
        )
        points = [point["Sum"] for point in answer.get("Datapoints", [])]
        return sum(points) if points else None

    # --- Objects

    def key(self, path: str) -> str:
        """An object's key, from its URL in Athena."""
        return urlsplit(path).path.lstrip("/")

    def kind(self, key: str) -> str:
        """An object's real format, by its first and last bytes: parquet with its codec, gzip, json or other."""
        size = self.bucket.s3.head_object(Bucket=self.bucket.name, Key=key)["ContentLength"]

        def part(start: int, end: int) -> bytes:
            return self.bucket.read(key, Range=f"bytes={max(start, 0)}-{end - 1}")

        head, tail = part(0, 4), part(size - 8, size)
        kind = kind_of(head, tail)
        # A Parquet file ends with its footer, the footer's length and the mark.
        footer = int.from_bytes(tail[:4], "little") + len(tail)
        return f"parquet {codec_of(head + part(size - footer, size))}" if kind == "parquet" else kind

    def is_own(self, record: bytes) -> bool:
        """Whether a record is of this run: its id is in the body, or is the user agent."""
        return self.run.encode() in record or base64.b64encode(self.run.encode()) in record

    def raw(self) -> dict[str, list[bytes]]:
        """The objects of raw/ with the run's records, each with all of its records.

        Records are there as they came, one after the other; bytes between two of ours count as one record.
        """
        found = {}
        for day in (self.since, self.since + timedelta(days=1)):
            for item in self.bucket.objects(zones.day_folder(zones.RAW, day)):
                if item["LastModified"] >= self.since:
                    records = split_records(plain(self.bucket.read(item["Key"])))
                    if any(map(self.is_own, records)):
                        found[item["Key"]] = records
        return found

    def delete(self, keys: Iterable[str], *suffixes: str) -> None:
        """Delete every version of these objects, and of those whose keys have one of the suffixes in addition."""

        def versions(key: str) -> list[tuple[str, str]]:
            return [found for found in self.bucket.history(key) if found[0].removeprefix(key) in ("", *suffixes)]

        with ThreadPoolExecutor(8) as executor:
            found = [version for listed in executor.map(versions, keys) for version in listed]
        with contextlib.suppress(CommandError):  # the leftovers are named by a check
            self.bucket.delete(found)

    def delete_results(self) -> None:
        """Delete the results of the run's own queries."""
        self.delete([self.key(location) for location in self.results if location], ".metadata")
        self.results.clear()


def join_parts(parts: list[Json], run: str) -> list[Json]:
    """The run's rejected events, each with its parts joined; they may be in several objects.

    A text without the run's id may be another attempt of an event of the run. `rows` counts the different parts,
    `objects` all rows by their object.
    """
    texts, objects = Texts(), defaultdict[Key, Counter[str]](Counter)
    for row in sorted(parts, key=lambda row: int(row["part"])):
        texts.add(row, _decoded(row["body"]))
        objects[key_of(row)][row["object"]] += 1
    own = {event_of(text.row) for text in texts.found.values() if run.encode() in text.content}
    joined = []
    for key, text in texts.found.items():
        if event_of(text.row) in own:
            events = text.row.get("events") or 1  # rows of older versions have none
            known = {"rows": len(text.parts), "is_whole": not text.missing, "objects": objects[key]}
            joined.append({**text.row, "text": text.content, "events": events, **known})
    return joined


def _decoded(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError:
        return (text or "").encode()


def _distinct(rows: list[Json], *keys: str) -> list[Json]:
    """Rows without repeated deliveries: the same id with the same content, of the same request."""

    def identity(row: Json) -> tuple[Any, ...]:
        return tuple(row[key] for key in (keys or [name for name in row if name not in ("object", "dt")]))

    return list({identity(row): row for row in rows}.values())
