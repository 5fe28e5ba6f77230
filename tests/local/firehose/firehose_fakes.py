"""A delivery stream's surroundings, in memory; configurations of streams; and the local Firehose, running."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from local.firehose.engine import Limits
from local.firehose.service import Firehose
from local.ministack import AccessDenied, Invocation, MetricDatum, ServiceError

ROLE = "arn:aws:iam::000000000000:role/stream"
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:transform"
BUCKET = "arn:aws:s3:::lake"
KEY = "arn:aws:kms:us-east-1:000000000000:key/one"
TABLE = {
    "StorageDescriptor": {
        "Columns": [
            {"Name": "name", "Type": "string"},
            {"Name": "value", "Type": "double"},
            {"Name": "count", "Type": "bigint"},
            {"Name": "small", "Type": "int"},
            {"Name": "flag", "Type": "boolean"},
            {"Name": "at", "Type": "timestamp"},
        ]
    },
    "PartitionKeys": [{"Name": "dt", "Type": "string"}],
}
LIMITS: dict[str, Any] = {"second": 0.02, "first_backoff": 1.0, "last_backoff": 2.0, "transform_interval": 900.0}
PATIENCE_SECONDS = 40.0  # As tests.local_process.eventually has it: other work may keep the machine busy.


Reply = Callable[[dict[str, Any]], Any]


def answer(event: dict[str, Any], result: str = "Ok", change: Callable[[bytes], bytes] = bytes.upper) -> dict[str, Any]:
    """A sound transform function's reply."""
    records = [
        {
            "recordId": record["recordId"],
            "result": result,
            "data": base64.b64encode(change(base64.b64decode(record["data"]))).decode(),
        }
        for record in event["records"]
    ]
    return {"records": records}


class FakeEmulator:
    """A bucket, a log and a table in memory, a function with settable replies,
    and roles with all permissions except those in `denied`."""

    account, region = "000000000000", "us-east-1"

    def __init__(self) -> None:
        self.bucket: dict[str, bytes] = {}
        self.encodings: dict[str, str] = {}
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.events: list[dict[str, Any]] = []
        self.asked: set[tuple[str, str, str, str]] = set()
        self.denied: set[str] = set()
        self.missing_bucket = False
        self.key, self.session = "", ""
        self.table: dict[str, Any] | None = TABLE
        self.reply: Reply = answer
        self.invoking = self.most_invoking = 0
        self.resource: dict[str, Any] = {}
        self.services: dict[str, Any] = {}
        self.metrics: list[MetricDatum] = []

    def add_resource(self, resource_type: str, **handlers: Any) -> None:
        self.resource = {"type": resource_type, **handlers}

    def add_service(self, name: str, handler: Any) -> None:
        self.services[name] = handler

    def authorize(self, role_arn: str, service: str, action: str, resource: str) -> None:
        self.asked.add((role_arn, service, action, resource))
        if "sts:AssumeRole" in self.denied:
            raise AccessDenied(f"{service} is not authorized to assume role {role_arn}")
        if action in self.denied:
            raise AccessDenied(f"User: {role_arn} is not authorized to perform: {action} on resource: {resource}")

    def caller(self) -> str:
        return self.session

    def authorize_session(self, session: str, action: str, resource: str) -> None:
        self.authorize(session, "", action, resource)

    def bucket_key(self, bucket: str) -> str:
        return self.key

    async def put_object(self, bucket: str, key: str, data: bytes, encoding: str) -> None:
        if self.missing_bucket:
            raise ServiceError(404, "NoSuchBucket", "The specified bucket does not exist")
        assert bucket == "lake"
        self.bucket[key], self.encodings[key] = data, encoding

    async def invoke(self, function_arn: str, payload: bytes) -> Invocation:
        assert function_arn == FUNCTION
        self.invoking += 1
        self.most_invoking = max(self.most_invoking, self.invoking)
        try:
            event = json.loads(payload)
            self.events.append({**event, "bytes": len(payload)})
            reply = self.reply(event)
            if isinstance(reply, Awaitable):
                reply = await reply
        finally:
            self.invoking -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Invocation) else Invocation(200, None, json.dumps(reply).encode())

    def glue_table(self, database: str, table: str) -> dict[str, Any] | None:
        assert (database, table) == ("events_database", "records")
        return self.table

    def log(self, group: str, stream: str, message: str) -> None:
        self.lines.append((group, stream, json.loads(message)))

    def put_metric_data(self, namespace: str, dimensions: dict[str, str], data: list[MetricDatum]) -> None:
        assert (namespace, dimensions.keys()) == ("AWS/Firehose", {"DeliveryStreamName"})
        self.metrics += data

    def under(self, prefix: str) -> dict[str, bytes]:
        return {key: data for key, data in self.bucket.items() if key.startswith(prefix)}

    def content(self, prefix: str = "events/") -> bytes:
        return b"".join(self.under(prefix).values())

    def codes(self) -> list[str]:
        return [line["errorCode"] for _, _, line in self.lines]

    def documents(self, prefix: str = "errors/processing-failed/") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.content(prefix).splitlines()]


def lambda_processor(**parameters: Any) -> dict[str, Any]:
    values = {"LambdaArn": FUNCTION, "RoleArn": ROLE, "NumberOfRetries": "1", "BufferIntervalInSeconds": "1"}
    given = {**values, **parameters}
    return {
        "Type": "Lambda",
        "Parameters": [{"ParameterName": name, "ParameterValue": value} for name, value in given.items()],
    }


def processing(*processors: dict[str, Any]) -> dict[str, Any]:
    return {"Enabled": "true", "Processors": list(processors or (lambda_processor(),))}


def conversion(codec: str = "SNAPPY", **schema: Any) -> dict[str, Any]:
    names = {"RoleARN": ROLE, "DatabaseName": "events_database", "TableName": "records"}
    return {
        "Enabled": "true",
        "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
        "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {"Compression": codec}}},
        "SchemaConfiguration": {**names, **schema},
    }


def destination(**changes: Any) -> dict[str, Any]:
    """ExtendedS3DestinationConfiguration as CloudFormation resolves it (scalars as text); None leaves a part out."""
    parts = {
        "BucketARN": BUCKET,
        "RoleARN": ROLE,
        "Prefix": "events/dt=!{timestamp:yyyy-MM-dd}/",
        "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/dt=!{timestamp:yyyy-MM-dd}/",
        "BufferingHints": {"IntervalInSeconds": "2", "SizeInMBs": "64"},
        "CloudWatchLoggingOptions": {"Enabled": "true", "LogGroupName": "group", "LogStreamName": "delivery"},
        **changes,
    }
    return {name: value for name, value in parts.items() if value is not None}


def properties(**changes: Any) -> dict[str, Any]:
    return {
        "DeliveryStreamName": "events",
        "DeliveryStreamType": "DirectPut",
        "ExtendedS3DestinationConfiguration": destination(**changes),
    }


def parquet_file(body: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(body))


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scenario, 2 * PATIENCE_SECONDS))


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} never came true")
        await asyncio.sleep(0.002)


@asynccontextmanager
async def running(emulator: FakeEmulator, directory: Path, **limits: Any) -> AsyncIterator[Firehose]:
    firehose = Firehose(emulator, directory, Limits(**{**LIMITS, **limits}))
    await firehose.start()
    try:
        yield firehose
    finally:
        await firehose.stop(patience=1)


async def kill(firehose: Firehose) -> None:
    """End an engine as kill -9 does: nothing is flushed, finished or tidied."""
    for stream in firehose.streams.values():
        await stream.stop(patience=0)
    firehose.streams.clear()


async def put(firehose: Firehose, *datas: bytes, name: str = "events") -> list[str]:
    records = [{"Data": base64.b64encode(data).decode()} for data in datas]
    status, reply = await firehose.request("PutRecordBatch", {"DeliveryStreamName": name, "Records": records}, None)
    assert (status, reply["FailedPutCount"]) == (200, 0), reply
    return [response["RecordId"] for response in reply["RequestResponses"]]


ENABLED_BACKUP = {
    "S3BackupMode": "Enabled",
    "S3BackupConfiguration": {
        "BucketARN": BUCKET,
        "RoleARN": ROLE,
        "Prefix": "raw/!{timestamp:yyyy/MM/dd/HH/}",
        "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/",
        "BufferingHints": {"IntervalInSeconds": "60", "SizeInMBs": "5"},
    },
}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


RECORD = {"DeliveryStreamName": "events", "Record": {"Data": encoded(b"x")}}
