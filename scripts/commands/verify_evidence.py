"""What a run of scripts/verify.sh left behind: rows, objects, metrics; how it is read back, and how it is removed."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from scripts.commands import query
from scripts.commands.console import CommandError
from scripts.commands.stack import Aws
from scripts.commands.verify_canaries import FILLER
from shared.athena import typed

Json = dict[str, Any]

_RECORD = re.compile(
    rb"sluice/1 request_id=\S* extended_request_id=(\S+) [^\n]*\n.*?\nsluice/end extended_request_id=\1\n", re.DOTALL
)


@dataclass
class Evidence:
    """What the tables and the log hold of one run; times are as Athena shows them.

    A rejected event comes with its parts joined, as `text`; a failed record as `record`. `objects` says how many rows
    of each object are the run's, and how many there are. `stored` says by zone how many different rows
    the run has, and how many with those that were delivered more than once.
    """

    columns: dict[str, str] = field(default_factory=dict)
    rows: list[Json] = field(default_factory=list)
    fillers: int = 0
    rejected: list[Json] = field(default_factory=list)
    failed: list[Json] = field(default_factory=list)
    metrics: list[Json] = field(default_factory=list)
    objects: dict[str, tuple[int, int]] = field(default_factory=dict)
    stored: dict[str, tuple[int, int]] = field(default_factory=dict)
    foreign: int = 0  # Rows of others that were delivered meanwhile.

    @property
    def events(self) -> int:
        """How many different events are whole in a table."""
        ids = {(row["event_id"], row["request_id"]) for row in self.rows}
        return len(ids) + self.fillers + sum(bool(row["is_whole"]) for row in self.rejected) + len(self.failed)

    def counted(self, name: str) -> int:
        """A metric of the transform, summed over its invocations."""
        return sum(line.get(name, 0) for line in self.metrics)

    def counted_by(self, name: str) -> dict[str, int]:
        """The same for a metric that is told apart by rule or reason."""
        counter: Counter[str] = Counter()
        for line in self.metrics:
            counter.update(line.get(name, {}))
        return dict(counter)


class Reader:
    """Reads what a run left in a stack. `outputs` and `ids` are the stack's; `since` is when the run began."""

    def __init__(self, aws: Aws, outputs: dict[str, str], ids: dict[str, str], run: str, since: float) -> None:
        self.outputs, self.ids, self.run = outputs, ids, run
        self.bucket = outputs["BucketName"]
        # A clock that is wrong by minutes hides nothing: the run's id tells what belongs to it.
        self.since = datetime.fromtimestamp(since, UTC) - timedelta(minutes=10)
        self.started_at = int(since * 1000)
        self.athena, self.s3 = aws.client("athena"), aws.client("s3")
        self.logs, self.cloudwatch = aws.client("logs"), aws.client("cloudwatch")
        self.firehose = aws.client("firehose")
        self.pause = 0.1 if aws.is_local else 1.0
        self.results: list[str] = []

    # --- Tables

    def ask(self, sql: str) -> tuple[list[query.Column], list[Json]]:
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
        columns, rows = query.results(self.athena, started["QueryExecutionId"])
        return columns, [
            {column.name: typed(column.type, value) for column, value in zip(columns, row, strict=True)} for row in rows
        ]

    def look(self) -> Evidence:
        """Everything that is there by now."""
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
        evidence.rejected = _distinct(own_rejected, "text")
        for row in failed:
            row["record"] = _decoded(row["rawdata"])
        own_failed = [row for row in failed if self.run.encode() in row["record"]]
        evidence.failed = _distinct(own_failed, "record")
        owned = Counter({path["object"]: int(path["own"]) for path in paths})
        for row in own_rejected:
            owned.update(row["objects"])
        owned.update(row["object"] for row in own_failed)
        evidence.stored = {
            "events/": (len(evidence.rows), len(rows)),
            "events/, requeued": (evidence.fillers, int(fillers[0]["n"])),
            "rejected/": (
                sum(row["rows"] for row in evidence.rejected),
                sum(row["objects"].total() for row in own_rejected),
            ),
            "errors/": (len(evidence.failed), len(own_failed)),
        }
        evidence.objects = {path["object"]: (owned[path["object"]], int(path["n"])) for path in (*paths, *sizes)}
        # What stands in the objects of others alone is theirs.
        evidence.objects = {path: counts for path, counts in evidence.objects.items() if counts[0]}
        evidence.foreign = sum(int(path["others"]) for path in paths)
        return evidence

    # --- Metrics

    def read_metrics(self) -> list[Json]:
        """The lines of metrics (CloudWatch's embedded format) that the transform has printed since the run began."""
        lines = []
        pages = self.logs.get_paginator("filter_log_events").paginate(
            logGroupName=self.ids["TransformLogGroup"], startTime=self.started_at, filterPattern='"CloudWatchMetrics"'
        )
        for event in (event for page in pages for event in page["events"]):
            with contextlib.suppress(ValueError):
                line = json.loads(event["message"])
                if "_aws" in line:
                    lines.append(line)
        return lines

    def incoming_records(self) -> float | None:
        """Firehose's own count of the records that came in since the run began; None where it has not counted yet."""
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
        """An object's key, of the URL that Athena shows."""
        return urlsplit(path).path.lstrip("/")

    def read(self, key: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def kind(self, key: str) -> str:
        """What an object really is, by its first and last bytes: parquet with its codec, gzip, json or other."""
        size = self.s3.head_object(Bucket=self.bucket, Key=key)["ContentLength"]

        def part(start: int, end: int) -> bytes:
            asked = f"bytes={max(start, 0)}-{end - 1}"
            return bytes(self.s3.get_object(Bucket=self.bucket, Key=key, Range=asked)["Body"].read())

        head, tail = part(0, 4), part(size - 8, size)
        kind = kind_of(head, tail)
        # A Parquet file ends with its footer, the footer's length and the mark.
        footer = int.from_bytes(tail[:4], "little") + len(tail)
        return f"parquet {codec_of(head + part(size - footer, size))}" if kind == "parquet" else kind

    def folders(self, prefix: str) -> list[str]:
        """The folders directly under a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/")
        return [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]

    def raw(self) -> dict[str, list[bytes]]:
        """The objects of raw/ that the run's records stand in, each with all records that it holds.

        Records stand there as they came, one after the other; what lies between two of ours is taken as one record.
        """
        found = {}
        for day in {f"{moment:%Y-%m-%d}" for moment in (self.since, self.since + timedelta(days=1))}:
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"raw/dt={day}/")
            for item in (item for page in pages for item in page.get("Contents", [])):
                if item["LastModified"] >= self.since:
                    records = split_records(_plain(self.read(item["Key"])))
                    if any(self.run.encode() in record for record in records):
                        found[item["Key"]] = records
        return found

    def delete(self, keys: Iterable[str], *suffixes: str) -> None:
        """Delete every version of these objects, and of those whose keys have one of the suffixes in addition."""

        def versions(key: str) -> list[dict[str, str]]:
            listed = self.s3.list_object_versions(Bucket=self.bucket, Prefix=key)
            return [
                {"Key": item["Key"], "VersionId": item["VersionId"]}
                for item in [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]
                if item["Key"].removeprefix(key) in ("", *suffixes)
            ]

        with ThreadPoolExecutor(8) as executor:
            found = [version for listed in executor.map(versions, keys) for version in listed]
        for start in range(0, len(found), 1_000):
            self.s3.delete_objects(Bucket=self.bucket, Delete={"Objects": found[start : start + 1_000], "Quiet": True})

    def delete_results(self) -> None:
        """Delete the results of the run's own queries."""
        self.delete([self.key(location) for location in self.results if location], ".metadata")
        self.results.clear()

    def is_there(self, key: str) -> bool:
        try:
            self.s3.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return False
            raise
        return True


def join_parts(parts: list[Json], run: str) -> list[Json]:
    """The run's rejected events, each with its parts joined, which may stand in several objects.

    Later parts need not hold the run's id. `rows` counts the different parts, `objects` all rows by their object.
    """
    grouped: dict[tuple[Any, ...], list[Json]] = {}
    for row in parts:
        grouped.setdefault(tuple(row[name] for name in ("event_id", "request_id", "position")), []).append(row)
    joined = []
    for rows in grouped.values():
        by_part = {row["part"]: row for row in sorted(rows, key=lambda row: int(row["part"]))}
        first = next(iter(by_part.values()))
        text = b"".join(_decoded(row["body"]) for row in by_part.values())
        if run.encode() in text:
            is_whole = [*by_part] == [*range(1, first["parts"] + 1)]
            objects = Counter(row["object"] for row in rows)
            joined.append({**first, "text": text, "rows": len(by_part), "is_whole": is_whole, "objects": objects})
    return joined


def split_records(content: bytes) -> list[bytes]:
    """The records that were stored one after the other with nothing between them: ours, and what is bare."""
    records, end = [], 0
    for match in _RECORD.finditer(content):
        if bare := content[end : match.start()]:
            records.append(bare)
        records.append(match[0])
        end = match.end()
    return [*records, content[end:]] if content[end:] else records


def kind_of(head: bytes, tail: bytes = b"") -> str:
    """The format of an object by its first and last bytes."""
    if head[:4] == b"PAR1" and tail[-4:] == b"PAR1":
        return "parquet"
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    # Hadoop's Snappy begins with the length of its first block, of at most 256 KiB.
    return "json" if head[:1] == b"{" else "snappy" if head[:1] == b"\0" else f"starting with {head[:4]!r}"


def codec_of(parquet: bytes) -> str:
    """The codec of the columns in a Parquet file, of which the footer is enough: GZIP, SNAPPY, UNCOMPRESSED."""
    from pyarrow.parquet import read_metadata  # what shares this module with verify.sh goes without it

    footer = read_metadata(io.BytesIO(parquet))
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    return "+".join(sorted({group.column(index).compression for group in groups for index in range(group.num_columns)}))


def envelopes(content: bytes) -> tuple[list[Json], list[str]]:
    """The JSON documents of an error object, and what stands between them: AWS does not say. None of another format."""
    if kind_of(content) not in ("gzip", "json"):
        return [], []
    text, decoder, position = _plain(content).decode(errors="replace"), json.JSONDecoder(), 0
    found, between = [], []
    while position < len(text):
        document, position = decoder.raw_decode(text, position)
        found.append(document)
        gap = re.compile(r"[^{]*").match(text, position)
        between.append(gap[0] if gap else "")
        position = gap.end() if gap else position
    return found, between


def _plain(content: bytes) -> bytes:
    return gzip.decompress(content) if kind_of(content) == "gzip" else content


def _decoded(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError:
        return (text or "").encode()


def _distinct(rows: list[Json], *keys: str) -> list[Json]:
    """Rows without what was delivered more than once: the same id with the same content, of the same request."""

    def identity(row: Json) -> tuple[Any, ...]:
        return tuple(row[key] for key in (keys or [name for name in row if name not in ("object", "dt")]))

    return list({identity(row): row for row in rows}.values())
