"""The local Firehose keeps AWS's rules: what it takes, transforms, writes, refuses, and never loses."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import io
import itertools
import json
import os
import re
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cramjam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from local.firehose import engine as firehose_engine
from local.firehose import log as firehose_log
from local.firehose import stream as firehose_stream
from local.firehose.buffer import RECORD_OVERHEAD
from local.firehose.configuration import check_prefix, configure, conform, evaluate_prefix
from local.firehose.engine import Limits
from local.firehose.log import Log
from local.firehose.objects import Record, Verdict, compress, convert, object_key, read_transform_reply, transform_event
from local.firehose.service import Firehose
from local.ministack import AccessDenied, Invocation, MetricDatum, ServiceError
from tests import factories
from tests.factories import stand_in

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
    """What a sound transform function replies."""
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
    """A bucket, a log and a table in memory, a function that answers as told,
    and roles that may do all but what is `denied`."""

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
    firehose = Firehose(emulator, directory, Limits(**{**LIMITS, **limits}))  # type: ignore[arg-type]
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


@pytest.fixture
def emulator() -> FakeEmulator:
    return FakeEmulator()


# --- What a template may say ----------------------------------------------------------------------------------------

_ENABLED_BACKUP = {
    "S3BackupMode": "Enabled",
    "S3BackupConfiguration": {
        "BucketARN": BUCKET,
        "RoleARN": ROLE,
        "Prefix": "raw/!{timestamp:yyyy/MM/dd/HH/}",
        "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/",
        "BufferingHints": {"IntervalInSeconds": "60", "SizeInMBs": "5"},
    },
}
REFUSED = {
    "a property of another destination": (
        {"DynamicPartitioningConfiguration": {}},
        "DynamicPartitioningConfiguration is not implemented",
    ),
    "a nested property": (
        {"CloudWatchLoggingOptions": {"Enabled": "true", "Colour": "red"}},
        r"CloudWatchLoggingOptions\.Colour is not a property of AWS's",
    ),
    "another deserializer": (
        {"DataFormatConversionConfiguration": {"InputFormatConfiguration": {"Deserializer": {"HiveJsonSerDe": {}}}}},
        "HiveJsonSerDe is not implemented",
    ),
    "no bucket": ({"BucketARN": None}, "BucketARN is required"),
    "a bucket's name as its ARN": ({"BucketARN": "lake"}, "BucketARN must match .*got 'lake'"),
    "two faults at once": (
        {"BucketARN": None, "CompressionFormat": "gzip"},
        "BucketARN is required; .*CompressionFormat must be",
    ),
    "size 0": (
        {"BufferingHints": {"IntervalInSeconds": "60", "SizeInMBs": "0"}},
        r"SizeInMBs must be .*1 to 128 \(got '0'",
    ),
    "size 129": ({"BufferingHints": {"IntervalInSeconds": "60", "SizeInMBs": "129"}}, "SizeInMBs must be"),
    "interval 901": ({"BufferingHints": {"IntervalInSeconds": 901, "SizeInMBs": 5}}, "IntervalInSeconds must be"),
    "half an interval": ({"BufferingHints": {"IntervalInSeconds": "1.5", "SizeInMBs": 5}}, "whole number"),
    "one hint of two": ({"BufferingHints": {"SizeInMBs": "5"}}, "IntervalInSeconds is required by the local Firehose"),
    "gzip in lower case": (
        {"CompressionFormat": "gzip"},
        "CompressionFormat must be UNCOMPRESSED or GZIP or ZIP or Snappy or HADOOP_SNAPPY",
    ),
    "plain Snappy": (
        {"CompressionFormat": "Snappy"},
        "CompressionFormat Snappy is not implemented by the local Firehose: it has UNCOMPRESSED, GZIP, HADOOP_SNAPPY",
    ),
    "an extension without a dot": ({"FileExtension": "json.gz"}, "FileExtension must match"),
    "an extension in upper case": ({"FileExtension": ".JSON"}, "FileExtension must match"),
    "a prefix of two lines": ({"Prefix": "a\n!{timestamp:yyyy}/"}, r"\.Prefix must match"),
    "a time zone": ({"CustomTimeZone": "UTC"}, "CustomTimeZone is not implemented"),
    "conversion with a small buffer": (
        {
            "DataFormatConversionConfiguration": conversion(),
            "BufferingHints": {"IntervalInSeconds": "60", "SizeInMBs": "63"},
        },
        r"SizeInMBs must be 64 or more .*got 63",
    ),
    "conversion inside compression": (
        {"DataFormatConversionConfiguration": conversion(), "CompressionFormat": "GZIP"},
        "CompressionFormat must be UNCOMPRESSED",
    ),
    "conversion without a schema": (
        {"DataFormatConversionConfiguration": {**conversion(), "SchemaConfiguration": {"RoleARN": ROLE}}},
        r"SchemaConfiguration\.DatabaseName is required",
    ),
    **{
        f"conversion with a {name}": (
            {"DataFormatConversionConfiguration": conversion(**{name: value})},
            rf"SchemaConfiguration\.{name} is not implemented",
        )
        for name, value in {"Region": "us-east-1", "CatalogId": "000000000000", "VersionId": "LATEST"}.items()
    },
    "an option of the deserializer": (
        {
            "DataFormatConversionConfiguration": {
                "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {"CaseInsensitive": "true"}}}
            }
        },
        "CaseInsensitive is not implemented",
    ),
    "an option of Parquet": (
        {
            "DataFormatConversionConfiguration": {
                "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {"WriterVersion": "V1"}}}
            }
        },
        "WriterVersion is not implemented",
    ),
    "Parquet with ZSTD": ({"DataFormatConversionConfiguration": conversion("ZSTD")}, "Compression must be"),
    "a logging group without a stream": (
        {"CloudWatchLoggingOptions": {"Enabled": "true", "LogGroupName": "group"}},
        "needs LogGroupName and LogStreamName",
    ),
    "two functions": (
        {"ProcessingConfiguration": processing(lambda_processor(), lambda_processor())},
        r"must hold one Lambda when it is enabled \(got 2\)",
    ),
    "processing by nothing": (
        {"ProcessingConfiguration": {"Enabled": "true"}},
        r"must hold one Lambda when it is enabled \(got 0\)",
    ),
    "another processor": (
        {"ProcessingConfiguration": processing(lambda_processor(), {"Type": "AppendDelimiterToRecord"})},
        "Type AppendDelimiterToRecord is not implemented by the local Firehose: it has Lambda",
    ),
    "another parameter": (
        {"ProcessingConfiguration": processing(lambda_processor(Delimiter=","))},
        "ParameterName Delimiter is not implemented",
    ),
    "a processor buffer of 4 MB": (
        {"ProcessingConfiguration": processing(lambda_processor(BufferSizeInMBs="4"))},
        r"BufferSizeInMBs must be .*0\.2 to 3",
    ),
    "a processor buffer of 0.1 MB": (
        {"ProcessingConfiguration": processing(lambda_processor(BufferSizeInMBs="0.1"))},
        "BufferSizeInMBs must be",
    ),
    "301 retries": (
        {"ProcessingConfiguration": processing(lambda_processor(NumberOfRetries="301"))},
        "NumberOfRetries must be",
    ),
    "a function's name as its ARN": (
        {"ProcessingConfiguration": processing(lambda_processor(LambdaArn="transform"))},
        "LambdaArn must match",
    ),
    "backup without its configuration": ({"S3BackupMode": "Enabled"}, "S3BackupConfiguration is required"),
    "backup after less than a minute": (
        {
            "S3BackupMode": "Enabled",
            "S3BackupConfiguration": destination(BufferingHints={"IntervalInSeconds": 59, "SizeInMBs": 5}),
        },
        r"S3BackupConfiguration\.BufferingHints\.IntervalInSeconds must be 60 or more \(got 59\)",
    ),
    "an error prefix that is missed": (
        {"ErrorOutputPrefix": None},
        "ErrorOutputPrefix is required by the local Firehose",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_configuration_that_aws_or_the_engine_refuses_fails_the_resource_with_the_reason(
    emulator: FakeEmulator, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Firehose(emulator, tmp_path).create("Stream", properties(**changes), "stack")  # type: ignore[arg-type]
    assert not (tmp_path / "streams.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"DeliveryStreamType": "KinesisStreamAsSource"}, "KinesisStreamAsSource is not implemented", id="source"
        ),
        pytest.param({"DeliveryStreamName": "a b"}, "DeliveryStreamName must match", id="name with a space"),
        pytest.param(
            {"DeliveryStreamName": "a" * 65}, r"must have 1 to 64 characters \(got 65\)", id="name of 65 characters"
        ),
        pytest.param(
            {"DirectPutSourceConfiguration": {"ThroughputHintInMBs": 1}},
            "DirectPutSourceConfiguration is not implemented",
            id="other",
        ),
        pytest.param(
            {"DeliveryStreamEncryptionConfigurationInput": {"KeyType": "CUSTOMER_MANAGED_CMK"}},
            "needs a KeyARN with KeyType CUSTOMER_MANAGED_CMK",
            id="a key of one's own without its ARN",
        ),
        pytest.param(
            {"DeliveryStreamEncryptionConfigurationInput": {"KeyType": "AWS_OWNED_CMK", "KeyARN": KEY}},
            "takes none with AWS_OWNED_CMK",
            id="the ARN of a key that is not used",
        ),
        pytest.param(
            {"DeliveryStreamEncryptionConfigurationInput": {"KeyType": "CUSTOMER_MANAGED_CMK", "KeyARN": "alias/x"}},
            "KeyARN must match arn",
            id="the alias of a key",
        ),
    ],
)
def test_a_stream_that_is_not_ours_to_run_is_refused_by_name(
    emulator: FakeEmulator, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Firehose(emulator, tmp_path).create("Stream", {**properties(), **changes}, "stack")  # type: ignore[arg-type]


def test_checks_come_in_the_order_of_aws(emulator: FakeEmulator, tmp_path: Path) -> None:
    firehose = Firehose(emulator, tmp_path)  # type: ignore[arg-type]
    emulator.table, emulator.denied = None, {"glue:GetTable"}
    faults: dict[str, Any] = {
        "BufferingHints": {"IntervalInSeconds": "60", "SizeInMBs": "0"},
        "CompressionFormat": "GZIP",
        "DataFormatConversionConfiguration": {"Enabled": "true"},
    }
    small = {"IntervalInSeconds": "60", "SizeInMBs": "5"}
    given = conversion()
    seen: list[tuple[str, dict[str, Any]]] = [
        ("SizeInMBs must be a whole number", {"BufferingHints": small}),
        ("CompressionFormat must be UNCOMPRESSED", {"CompressionFormat": "UNCOMPRESSED"}),
        ("SizeInMBs must be 64 or more", {"BufferingHints": {**small, "SizeInMBs": "64"}}),
        *(
            (f"{name} is required when", {"DataFormatConversionConfiguration": {key: given[key] for key in known}})
            for name, known in (
                ("InputFormatConfiguration", ["Enabled", "InputFormatConfiguration"]),
                ("OutputFormatConfiguration", ["Enabled", "InputFormatConfiguration", "OutputFormatConfiguration"]),
                ("SchemaConfiguration", [*given]),
            )
        ),
    ]
    for message, fixed in seen:
        with pytest.raises(ValueError, match=message):
            firehose.create("Stream", properties(**faults), "stack")
        faults |= fixed
    # What Glue says comes last, by the rights of the role.
    with pytest.raises(ValueError, match="Access was denied when calling Glue"):
        firehose.create("Stream", properties(**faults), "stack")
    emulator.denied = set()
    with pytest.raises(ValueError, match="EntityNotFoundException: Table events_database/records not found"):
        firehose.create("Stream", properties(**faults), "stack")
    emulator.table = TABLE
    firehose.create("Stream", properties(**faults), "stack")


def test_a_column_type_that_cannot_be_converted_fails_the_resource(emulator: FakeEmulator, tmp_path: Path) -> None:
    emulator.table = {"StorageDescriptor": {"Columns": [{"Name": "parts", "Type": "array<string>"}]}}
    with pytest.raises(ValueError, match="column parts has type array<string>"):
        Firehose(emulator, tmp_path).create(  # type: ignore[arg-type]
            "Stream", properties(DataFormatConversionConfiguration=conversion()), "stack"
        )


def test_a_role_that_firehose_cannot_assume_fails_the_resource_but_a_missing_permission_does_not(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    firehose = Firehose(emulator, tmp_path)  # type: ignore[arg-type]
    emulator.denied = {"sts:AssumeRole"}
    with pytest.raises(ValueError, match="Firehose is unable to assume role"):
        firehose.create("Stream", properties(), "stack")
    emulator.denied = {"s3:PutObject"}
    firehose.create("Stream", properties(), "stack")


def test_ref_is_the_name_and_arn_an_attribute(emulator: FakeEmulator, tmp_path: Path) -> None:
    firehose = Firehose(emulator, tmp_path)  # type: ignore[arg-type]
    firehose.register()
    assert emulator.resource["type"] == "AWS::KinesisFirehose::DeliveryStream"
    assert emulator.resource["replacing"] == ("DeliveryStreamName", "DeliveryStreamType")
    name, attributes = firehose.create("Stream", properties(), "stack")
    assert (name, attributes) == (
        "events",
        {"Arn": "arn:aws:firehose:us-east-1:000000000000:deliverystream/events"},
    )
    with pytest.raises(ValueError, match="Firehose events under accountId 000000000000 already exists"):
        firehose.create("Stream", properties(), "stack")


def test_a_stream_without_a_name_gets_one_of_at_most_64_characters(emulator: FakeEmulator, tmp_path: Path) -> None:
    firehose = Firehose(emulator, tmp_path)  # type: ignore[arg-type]
    unnamed = {name: value for name, value in properties().items() if name != "DeliveryStreamName"}
    name, _ = firehose.create("Stream", unnamed, "stack")
    assert re.fullmatch(r"stack-Stream-\w{12}", name)
    longest, _ = firehose.create("L" * 100, unnamed, "s" * 100)
    assert len(longest) == 64


# --- Prefixes and keys ----------------------------------------------------------------------------------------------

INSTANT = int(datetime(2026, 1, 2, 3, 4, 5, 678000, UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("prefix", "evaluated"),
    [
        pytest.param("a/dt=!{timestamp:yyyy-MM-dd}/", "a/dt=2026-01-02/", id="date"),
        pytest.param("!{timestamp:yyyy/MM/dd/HH/}", "2026/01/02/03/", id="hours"),
        pytest.param("!{timestamp:HH:mm:ss}", "03:04:05", id="time"),
        pytest.param("!{timestamp:'year='yyyy'/o''clock='HH}", "year=2026/o'clock=03", id="quoted text"),
        pytest.param("!{timestamp:yyyy''MM}", "2026'01", id="a quote"),
        pytest.param("errors/!{firehose:error-output-type}/", "errors/processing-failed/", id="error type"),
        pytest.param("plain/", "plain/", id="plain"),
    ],
)
def test_prefix_expressions_are_evaluated_in_utc(prefix: str, evaluated: str) -> None:
    assert evaluate_prefix(prefix, INSTANT, "processing-failed") == evaluated


@pytest.mark.parametrize(
    ("prefix", "error", "message"),
    [
        pytest.param("!{timestamp:YYYY}", False, "week-based year: write yyyy", id="week-based year"),
        pytest.param("!{timestamp:DDD}", False, "'DDD' in .* is not implemented", id="day of year"),
        pytest.param("!{timestamp:yyyy'a}", False, "not implemented", id="open quote"),
        pytest.param("a!{", False, "may only begin an expression", id="unfinished"),
        pytest.param("!{timestamp}", False, "may only begin an expression", id="no value"),
        pytest.param("!{partitionKeyFromLambda:x}", False, "partitionKeyFromLambda:x} is not impl", id="partitioning"),
        pytest.param("!{firehose:random-string}", False, "random-string} is not implemented", id="random string"),
        pytest.param("!{firehose:error-output-type}/", False, "must not contain", id="error type in Prefix"),
        pytest.param("e/!{timestamp:yyyy}/", True, "needs !{firehose:error-output-type}", id="error type missing"),
        pytest.param("plain/", False, "needs !{timestamp:yyyy}", id="no time"),
        pytest.param("plain/", True, "needs !{firehose:error-output-type}", id="nothing in the error prefix"),
        pytest.param("a" * 513 + "!{timestamp:yyyy}", False, "at most 512", id="too long"),
    ],
)
def test_prefixes_that_aws_refuses_are_refused(prefix: str, error: bool, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\.\*", ".*")):
        check_prefix("Prefix", prefix, error=error)


def test_a_key_names_stream_version_and_the_instant_of_the_oldest_record() -> None:
    given = configure(conform(properties()), name="events", arn="arn:aws:firehose:r:a:x", version=7)
    key = object_key(given, "in/!{timestamp:HH}/", INSTANT, ".json.gz")
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert re.fullmatch(rf"in/03/events-7-2026-01-02-03-04-05-{uuid}\.json\.gz", key)


# --- The API --------------------------------------------------------------------------------------------------------


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


_RECORD = {"DeliveryStreamName": "events", "Record": {"Data": encoded(b"x")}}
_BATCH = {"DeliveryStreamName": "events", "Records": [{"Data": encoded(b"x")}]}
_LARGEST = "Member must have length less than or equal to 1024000"
REFUSED_CALLS = {
    "no such stream": (
        "PutRecord",
        {**_RECORD, "DeliveryStreamName": "none"},
        "ResourceNotFoundException",
        "none under",
    ),
    "no stream named": ("PutRecord", {"Record": {}}, "InvalidArgumentException", "deliveryStreamName"),
    "one byte too many": (
        "PutRecord",
        {**_RECORD, "Record": {"Data": encoded(b"x" * 1_024_001)}},
        "InvalidArgumentException",
        f"1 validation error detected: Value at 'record.data' failed to satisfy constraint: {_LARGEST}",
    ),
    "one byte too many in a batch": (
        "PutRecordBatch",
        {**_BATCH, "Records": [{"Data": ""}, {"Data": encoded(b"x" * 1_024_001)}]},
        "InvalidArgumentException",
        f"'records.2.member.data' failed to satisfy constraint: {_LARGEST}",
    ),
    "501 records": (
        "PutRecordBatch",
        {**_BATCH, "Records": [{"Data": ""}] * 501},
        "InvalidArgumentException",
        "equal to 500",
    ),
    "no records": (
        "PutRecordBatch",
        {**_BATCH, "Records": []},
        "InvalidArgumentException",
        "greater than or equal to 1",
    ),
    "more than 4 MiB": (
        "PutRecordBatch",
        {**_BATCH, "Records": [{"Data": encoded(b"x" * 1_000_000)}] * 5},
        "InvalidArgumentException",
        "Records size exceeds 4 MB limit",
    ),
    "data that is not base64": ("PutRecord", {**_RECORD, "Record": {"Data": "x"}}, "SerializationException", "base64"),
    "data that is missing": ("PutRecord", {**_RECORD, "Record": {}}, "SerializationException", "record.data"),
    "a record that is none": ("PutRecord", {**_RECORD, "Record": "x"}, "SerializationException", "record.data"),
    "a body that is none": ("PutRecord", [], "SerializationException", "not a JSON object"),
    "another operation": (
        "StopDeliveryStreamEncryption",
        {},
        "UnknownOperationException",
        "StopDeliveryStreamEncryption",
    ),
}


@pytest.mark.parametrize(("action", "body", "code", "message"), REFUSED_CALLS.values(), ids=REFUSED_CALLS)
def test_a_call_is_refused_in_the_words_of_aws(
    emulator: FakeEmulator, tmp_path: Path, action: str, body: Any, code: str, message: str
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(), "stack")
            status, reply = await firehose.request(action, body, None)
            assert (status, reply["__type"]) == (400, code)
            assert message in reply["message"]
            await asyncio.sleep(0.1)
            assert emulator.bucket == {}

    run(scenario())


def test_the_largest_record_and_the_largest_batch_are_taken(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            encryption = {"KeyType": "AWS_OWNED_CMK"}
            firehose.create(
                "Stream", {**properties(), "DeliveryStreamEncryptionConfigurationInput": encryption}, "stack"
            )
            body = {**_RECORD, "Record": {"Data": encoded(b"x" * 1_024_000)}}
            status, reply = await firehose.request("PutRecord", body, None)
            assert (status, reply["Encrypted"], len(reply["RecordId"])) == (200, True, 56)
            identifiers = await put(firehose, *[b"y"] * 499, b"z" * (1_000_000))
            assert len(set(identifiers)) == 500
            await until(lambda: len(emulator.content()) == 1_024_000 + 499 + 1_000_000, "delivery of every byte")

    run(scenario())


@pytest.mark.parametrize("action", ["kms:GenerateDataKey", "kms:Decrypt"])
@pytest.mark.parametrize("role", ["arn:aws:iam::000000000000:role/api", None], ids=["API Gateway", "an SDK"])
def test_who_puts_on_a_stream_under_a_customers_key_may_use_that_key(
    emulator: FakeEmulator, tmp_path: Path, role: str | None, action: str
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            encryption = {"KeyType": "CUSTOMER_MANAGED_CMK", "KeyARN": KEY}
            firehose.create(
                "Stream", {**properties(), "DeliveryStreamEncryptionConfigurationInput": encryption}, "stack"
            )
            emulator.session = "arn:aws:sts::000000000000:assumed-role/transform/lambda"
            assert (await firehose.request("PutRecord", _RECORD, role))[0] == 200
            who = (role, "apigateway.amazonaws.com") if role else (emulator.session, "")
            assert (*who, action, KEY) in emulator.asked
            emulator.denied = {action}
            status, reply = await firehose.request("PutRecord", _RECORD, role)
            assert (status, reply["__type"]) == (400, "InvalidKMSResourceException")
            assert KEY in reply["message"]
            emulator.session = ""  # the account's root
            assert (await firehose.request("PutRecord", _RECORD, None))[0] == 200

    run(scenario())


@pytest.mark.parametrize("action", ["kms:GenerateDataKey", "kms:Decrypt"])
def test_a_delivery_waits_until_the_role_may_use_the_key_of_the_bucket(
    emulator: FakeEmulator, tmp_path: Path, action: str
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(), "stack")
            emulator.key, emulator.denied = KEY, {action}
            await put(firehose, b"one")
            await until(lambda: any(asked[2:] == (action, KEY) for asked in emulator.asked), "the question")
            await asyncio.sleep(0.1)
            assert emulator.bucket == {}
            emulator.denied = set()
            await until(lambda: emulator.content() == b"one", "delivery")

    run(scenario())


def test_api_gateway_needs_its_own_role_to_put(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            _, attributes = firehose.create("Stream", properties(), "stack")
            role = "arn:aws:iam::000000000000:role/api"
            assert (await firehose.request("PutRecord", _RECORD, role))[0] == 200
            assert (role, "apigateway.amazonaws.com", "firehose:PutRecord", attributes["Arn"]) in emulator.asked
            emulator.denied = {"firehose:PutRecord"}
            status, reply = await firehose.request("PutRecord", _RECORD, role)
            assert (status, reply["__type"]) == (400, "AccessDeniedException")

    run(scenario())


def test_sdks_speak_json_1_1(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.register()
            firehose.create("Stream", properties(), "stack")
            serve = emulator.services["firehose"]
            headers = {"X-Amz-Target": "Firehose_20150804.PutRecord"}
            status, answered, body = await serve("POST", "/", headers, json.dumps(_RECORD).encode(), {})
            assert (status, answered["Content-Type"]) == (200, "application/x-amz-json-1.1")
            assert json.loads(body)["Encrypted"] is False
            status, _, body = await serve("POST", "/", headers, b"{", {})
            assert (status, json.loads(body)["__type"]) == (400, "SerializationException")

    run(scenario())


def test_full_memory_refuses_what_does_not_fit_and_takes_again_after_delivery(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path, memory=10_000) as firehose:
            firehose.create("Stream", properties(), "stack")
            emulator.missing_bucket = True
            records = [{"Data": encoded(b"x" * 3000)}] * 5
            status, reply = await firehose.request("PutRecordBatch", {**_BATCH, "Records": records}, None)
            codes = [response.get("ErrorCode") for response in reply["RequestResponses"]]
            assert (status, reply["FailedPutCount"]) == (200, 2)
            assert codes == [None] * 3 + ["ServiceUnavailableException"] * 2
            status, reply = await firehose.request("PutRecord", {**_RECORD, "Record": records[0]}, None)
            assert (status, reply["__type"]) == (500, "ServiceUnavailableException")
            emulator.missing_bucket = False
            await until(lambda: len(emulator.content()) == 9000, "delivery")
            await put(firehose, b"y" * 9000)
            await until(lambda: b"y" in emulator.content(), "delivery of what came later")
            assert firehose.streams["events"].held == 0

    run(scenario())


@pytest.mark.parametrize("datas", [[b"x" * 2400], [b"x"] * 10], ids=["of its bytes", "of many small records"])
def test_an_object_does_not_wait_for_more_than_a_quarter_of_memory(
    emulator: FakeEmulator, tmp_path: Path, datas: list[bytes]
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path, memory=10_000, second=1) as firehose:
            hints = {"IntervalInSeconds": "900", "SizeInMBs": "128"}
            firehose.create("Stream", properties(BufferingHints=hints), "stack")
            for _ in range(5):
                records = [{"Data": encoded(data)} for data in datas]
                _, reply = await firehose.request("PutRecordBatch", {**_BATCH, "Records": records}, None)
                assert reply["FailedPutCount"] == 0
                await until(lambda: firehose.streams["events"].held == 0, "delivery before its time")
            assert [len(content) for content in emulator.under("events/").values()] == [sum(map(len, datas))] * 5

    run(scenario())


def test_puts_are_on_disk_before_they_are_answered_and_share_their_fsyncs(
    emulator: FakeEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[int, int] = {}
    syncs = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            synced[status.st_ino] = status.st_size
            syncs.append(status.st_ino)

    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.missing_bucket = True
            firehose.create("Stream", properties(), "stack")
            monkeypatch.setattr(firehose_log, "os", stand_in(os, fsync=watched))
            for _ in range(3):
                await put(firehose, b"x" * 1000)
                (path,) = tmp_path.glob("*/*.log")
                status = path.stat()
                assert status.st_size == synced.get(status.st_ino), "an answer that was not on disk"
            syncs.clear()
            await asyncio.gather(*(put(firehose, b"y") for _ in range(100)))
            assert 1 <= len(syncs) <= 10

    run(scenario())


def test_nothing_is_acknowledged_or_kept_that_the_disk_refuses(
    emulator: FakeEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario() -> None:
        first = Firehose(emulator, tmp_path, Limits(**LIMITS))  # type: ignore[arg-type]
        await first.start()
        first.create("Stream", properties(BufferingHints={"IntervalInSeconds": "100", "SizeInMBs": "5"}), "stack")
        await put(first, b"one ")
        with monkeypatch.context() as patch:
            patch.setattr(firehose_log, "os", stand_in(os, fsync=full))
            status, reply = await first.request("PutRecord", _RECORD, None)
            assert (status, reply["__type"]) == (500, "ServiceUnavailableException")
        await put(first, b"two")
        assert first.streams["events"].held == len("one two") + 2 * RECORD_OVERHEAD
        await kill(first)
        async with running(emulator, tmp_path, second=0.0005):
            await until(lambda: emulator.content() == b"one two", "delivery of what was acknowledged")

    run(scenario())


# --- The transform function -----------------------------------------------------------------------------------------


def test_the_function_gets_the_documented_event_and_its_data_is_delivered(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            _, attributes = firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            identifiers = await put(firehose, b"one\n", b"two\n")
            await until(lambda: emulator.content() == b"ONE\nTWO\n", "delivery")
            (event,) = emulator.events
            assert event["deliveryStreamArn"] == attributes["Arn"]
            assert (event["region"], len(event["invocationId"])) == ("us-east-1", 36)
            # The ids are not those that the producer was told.
            ids = [record["recordId"] for record in event["records"]]
            assert len({*ids, *identifiers}) == 4
            assert [base64.b64decode(record["data"]) for record in event["records"]] == [b"one\n", b"two\n"]
            assert abs(event["records"][0]["approximateArrivalTimestamp"] - time.time() * 1000) < 10_000
            for action in ("lambda:InvokeFunction", "lambda:GetFunctionConfiguration"):
                assert (ROLE, "firehose.amazonaws.com", action, FUNCTION) in emulator.asked

    run(scenario())


def test_each_record_goes_where_its_result_says(emulator: FakeEmulator, tmp_path: Path) -> None:
    def reply(event: dict[str, Any]) -> Any:
        replied = answer(event)
        for record, result in zip(replied["records"], ("Ok", "Dropped", "ProcessingFailed", "Ok"), strict=True):
            record["result"] = result
        return replied

    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.reply = reply
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            before = time.time_ns() // 1_000_000
            await put(firehose, b"kept ", b"dropped ", b"failed", b"kept too")
            await until(lambda: emulator.content() and emulator.documents(), "delivery")
            assert emulator.content() == b"KEPT KEPT TOO"
            (document,) = emulator.documents()
            as_aws_writes_it = factories.envelopes()[0]
            assert [*document] == [*as_aws_writes_it]
            assert [*map(type, document.values())] == [*map(type, as_aws_writes_it.values())]
            arrived, ended = document.pop("arrivalTimestamp"), document.pop("attemptEndingTimestamp")
            assert before <= arrived <= ended <= before + 10_000
            assert document == {
                "attemptsMade": 1,
                "errorCode": "Lambda.ProcessingFailedStatus",
                "errorMessage": "ProcessingFailed status set for record",
                "rawData": encoded(b"failed"),
                "lambdaARN": FUNCTION,
            }
            group, stream, line = emulator.lines[0]
            assert (group, stream, line["errorCode"], line["processor"]) == (
                "group",
                "delivery",
                "Lambda.ProcessingFailedStatus",
                FUNCTION,
            )
            (key,) = emulator.under("errors/")
            assert re.match(r"errors/processing-failed/dt=\d{4}-\d\d-\d\d/events-1-", key)
            await until(lambda: not list(tmp_path.glob("*/*.log")), "an empty log")
            assert firehose.streams["events"].held == 0

    run(scenario())


def _changed(**changes: Any) -> Reply:
    def reply(event: dict[str, Any]) -> Any:
        replied = answer(event)
        replied["records"][0].update(changes)
        return replied

    return reply


def _last_only(event: dict[str, Any]) -> Any:
    return {"records": answer(event)["records"][1:]}


def _first_twice(event: dict[str, Any]) -> Any:
    return {"records": answer(event)["records"] + answer(event)["records"][:1]}


# What the reply does to the first of two records; the error code and part of the message.
FAIL_ALONE: dict[str, tuple[Reply, str, str]] = {
    "a missing recordId": (_last_only, "Lambda.MissingRecordId", "were not returned"),
    "a duplicate recordId": (_first_twice, "Lambda.DuplicatedRecordId", "the same record Id"),
    "a recordId replaced": (_changed(recordId="other"), "Lambda.MissingRecordId", "were not returned"),
    "Ok without data": (_changed(data=None), "Lambda.InvalidReturnFormat", "data field cannot be null"),
    "ProcessingFailed without data": (
        _changed(result="ProcessingFailed", data=None),
        "Lambda.ProcessingFailedStatus",
        "ProcessingFailed status",
    ),
}


@pytest.mark.parametrize(("reply", "code", "message"), FAIL_ALONE.values(), ids=FAIL_ALONE)
def test_a_record_that_the_reply_fails_fails_alone_and_is_final(
    emulator: FakeEmulator, tmp_path: Path, reply: Reply, code: str, message: str
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.reply = reply
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"first", b"second")
            await until(lambda: emulator.documents() and emulator.content(), "both objects")
            (document,) = emulator.documents()
            assert (document["rawData"], document["errorCode"]) == (encoded(b"first"), code)
            assert (document["attemptsMade"], len(emulator.events)) == (1, 1)
            assert message in document["errorMessage"]
            assert emulator.content() == b"SECOND"
            assert emulator.codes() == [code]
            await until(lambda: not list(tmp_path.glob("*/*.log")), "an empty log")
            assert firehose.streams["events"].held == 0

    run(scenario())


def test_a_dropped_record_needs_no_data_and_an_id_that_was_never_sent_is_ignored(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    def reply(event: dict[str, Any]) -> Any:
        first, second = answer(event)["records"]
        dropped = {"recordId": first["recordId"], "result": "Dropped"}
        return {"records": [dropped, second, {**second, "recordId": "unknown"}]}

    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.reply = reply
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"first", b"second")
            await until(lambda: not list(tmp_path.glob("*/*.log")), "an empty log")
            assert emulator.content() == b"SECOND"
            assert not emulator.under("errors/")

    run(scenario())


def _always(reply: Any) -> Reply:
    return lambda event: reply


async def _sleep(event: dict[str, Any]) -> Any:
    await asyncio.sleep(5)


_UNHANDLED = b'{"errorMessage": "boom", "errorType": "ValueError"}'
_SANDBOX = b'{"errorType": "Sandbox.Timedout", "errorMessage": "RequestId: x Error: Task timed out after 3.00 seconds"}'
_ERROR_RESULT = "returned an error result"
_FORMAT = "the output is in required format"
# reply, error code, attempts with NumberOfRetries 1, part of the message
FAILURES: dict[str, tuple[Reply, str, int, str]] = {
    "a wrong result": (_changed(result="OK"), "Lambda.FunctionError", 1, _FORMAT),
    "no result": (_changed(result=None), "Lambda.FunctionError", 1, _FORMAT),
    "bad base64": (_changed(data="%%%"), "Lambda.FunctionError", 1, _FORMAT),
    "data that is a number": (_changed(data=1), "Lambda.FunctionError", 1, _FORMAT),
    "no records": (_always({}), "Lambda.MissingRecordId", 1, "were not returned"),
    "null": (_always(None), "Lambda.MissingRecordId", 1, "were not returned"),
    "records that are an object": (_always({"records": {}}), "Lambda.MissingRecordId", 1, "were not returned"),
    "records that are numbers": (_always({"records": [1, 2]}), "Lambda.JsonProcessingException", 1, "parsing"),
    "records with lists for ids": (
        _always({"records": [{"recordId": []}]}),
        "Lambda.JsonProcessingException",
        1,
        "parsing",
    ),
    "not JSON": (_always(Invocation(200, None, b"<html>")), "Lambda.JsonProcessingException", 1, "parsing"),
    "an exception": (_always(Invocation(200, "Unhandled", _UNHANDLED)), "Lambda.FunctionError", 2, _ERROR_RESULT),
    "its own timeout": (_always(Invocation(200, "Unhandled", _SANDBOX)), "Lambda.FunctionError", 2, _ERROR_RESULT),
    "over 6 MB": (_always(Invocation(200, None, b" " * 6_291_557)), "Lambda.FunctionError", 2, _ERROR_RESULT),
    "Firehose's timeout": (_sleep, "Lambda.FunctionTimedOut", 2, "timed out"),
    "throttling": (_always(Invocation(429, None, b"slow")), "Lambda.InvokeLimitExceeded", 2, "slow"),
    "no function": (_always(Invocation(404, None, b"none")), "Lambda.ResourceNotFound", 2, "none"),
    "a refusal": (_always(ServiceError(403, "AccessDenied", "no")), "Lambda.InvokeAccessDenied", 2, "no"),
    "a service at fault": (_always(Invocation(500, None, b"oops")), "Lambda.InvokeFailed", 2, "oops"),
    "a fault of the emulator": (_always(KeyError("bug")), "InternalError", 2, "bug"),
}


@pytest.mark.parametrize(("reply", "code", "attempts", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_invocation_is_retried_a_malformed_reply_is_not_and_both_fail_the_batch(
    emulator: FakeEmulator, tmp_path: Path, reply: Reply, code: str, attempts: int, message: str
) -> None:
    async def scenario() -> None:
        limits = {"function_timeout": 2} if reply is _sleep else {}
        async with running(emulator, tmp_path, **limits) as firehose:
            emulator.reply = reply
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"first", b"second")
            await until(emulator.documents, "an error object")
            documents = emulator.documents()
            assert [document["rawData"] for document in documents] == [encoded(b"first"), encoded(b"second")]
            assert {(document["errorCode"], document["attemptsMade"]) for document in documents} == {(code, attempts)}
            assert message in documents[0]["errorMessage"]
            assert len(emulator.events) == attempts
            assert emulator.codes() == [code]
            assert not emulator.under("events/")

    run(scenario())


@pytest.mark.parametrize(
    ("denied", "code"),
    [
        pytest.param("lambda:InvokeFunction", "Lambda.InvokeAccessDenied", id="invoke"),
        pytest.param("lambda:GetFunctionConfiguration", "Lambda.InvokeAccessDenied", id="get configuration"),
    ],
)
def test_a_role_that_may_not_invoke_fails_the_batch(
    emulator: FakeEmulator, tmp_path: Path, denied: str, code: str
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.denied = {denied}
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"first")
            await until(emulator.documents, "an error object")
            assert (emulator.documents()[0]["errorCode"], emulator.documents()[0]["attemptsMade"]) == (code, 2)
            assert emulator.events == []

    run(scenario())


def test_a_retry_that_succeeds_leaves_no_trace(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            replies: Any = itertools.chain([Invocation(429, None, b"")], itertools.repeat(None))
            emulator.reply = lambda event: next(replies) or answer(event)
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"x")
            await until(lambda: emulator.content() == b"X", "delivery")
            assert emulator.codes() == []

    run(scenario())


def test_a_failed_status_after_a_retry_counts_both_attempts(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            replies: Any = itertools.chain([Invocation(429, None, b"")], itertools.repeat(None))
            emulator.reply = lambda event: next(replies) or answer(event, "ProcessingFailed")
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"x")
            await until(emulator.documents, "an error object")
            (document,) = emulator.documents()
            assert (document["errorCode"], document["attemptsMade"]) == ("Lambda.ProcessingFailedStatus", 2)

    run(scenario())


def test_a_request_stays_below_6_mb_and_five_are_outstanding_at_most(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def slow(event: dict[str, Any]) -> Any:
        await asyncio.sleep(0.05)
        return answer(event)

    async def scenario() -> None:
        async with running(emulator, tmp_path, memory=256 * 2**20) as firehose:
            emulator.reply = slow
            processor = lambda_processor(BufferSizeInMBs="3")
            firehose.create("Stream", properties(ProcessingConfiguration=processing(processor)), "stack")
            await asyncio.gather(*(put(firehose, *[b"x" * 1_000_000] * 4) for _ in range(6)))
            tiny = [b"y"] * 500
            await asyncio.gather(*(put(firehose, *tiny) for _ in range(100)))
            await until(lambda: len(emulator.content()) == 24_000_000 + 50_000, "delivery of every byte")
            assert max(event["bytes"] for event in emulator.events) <= 6_000_000
            assert emulator.most_invoking == 5

    run(scenario())


def test_the_processor_buffer_is_sent_when_it_is_full_or_old(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            processor = lambda_processor(BufferSizeInMBs="0.2", BufferIntervalInSeconds="900")
            firehose.create("Stream", properties(ProcessingConfiguration=processing(processor)), "stack")
            await put(firehose, b"x" * 200_000)
            await asyncio.sleep(0.05)
            assert emulator.events == []
            await put(firehose, b"x" * 20_000)
            await until(lambda: emulator.events, "an invocation by size")

    run(scenario())


def test_the_processor_buffer_waits_no_longer_than_its_limit(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path, second=1, transform_interval=Limits.transform_interval) as firehose:
            processor = lambda_processor(BufferIntervalInSeconds="900")
            firehose.create("Stream", properties(ProcessingConfiguration=processing(processor)), "stack")
            await put(firehose, b"x")
            await until(lambda: emulator.events, "an invocation by time")

    run(scenario())


@pytest.mark.parametrize("enabled", [{"Enabled": "false"}, {}], ids=["false", "left out"])
def test_a_processing_configuration_that_is_not_switched_on_transforms_nothing(
    emulator: FakeEmulator, tmp_path: Path, enabled: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            off = {"Processors": processing()["Processors"], **enabled}
            firehose.create("Stream", properties(ProcessingConfiguration=off), "stack")
            await put(firehose, b"a", b"b")
            await until(lambda: emulator.content() == b"ab", "delivery")
            assert emulator.events == []

    run(scenario())


def test_the_reply_follows_the_order_of_the_records_not_its_own() -> None:
    records = [Record(1, 1000, b"a"), Record(2, 2000, b"b")]
    event = json.loads(transform_event("id", "arn:aws:firehose:us-east-1:0:x", records))
    replied = answer(event)
    replied["records"].reverse()
    assert read_transform_reply(json.dumps(replied).encode(), records) == [Verdict(b"A"), Verdict(b"B")]


# --- Objects --------------------------------------------------------------------------------------------------------


def unframe_hadoop_snappy(body: bytes) -> bytes:
    """Read Hadoop's block Snappy: per block its length, then chunks under their lengths until the block is full."""
    source, whole = io.BytesIO(body), b""
    while header := source.read(4):
        block, length = b"", int.from_bytes(header, "big")
        while len(block) < length:
            block += bytes(cramjam.snappy.decompress_raw(source.read(int.from_bytes(source.read(4), "big"))))
        assert len(block) == length
        whole += block
    return whole


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 700_000])
def test_hadoop_snappy_can_be_read_back(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    assert unframe_hadoop_snappy(compress(data, "HADOOP_SNAPPY")) == data


@pytest.mark.parametrize(
    ("changes", "encoding", "extension", "read"),
    [
        pytest.param({}, "", "", bytes, id="uncompressed"),
        pytest.param({"CompressionFormat": "GZIP"}, "gzip", ".gz", gzip.decompress, id="gzip"),
        pytest.param(
            {"CompressionFormat": "HADOOP_SNAPPY"},
            "hadoop-snappy",
            ".snappy",
            unframe_hadoop_snappy,
            id="Hadoop Snappy",
        ),
        pytest.param(
            {"CompressionFormat": "GZIP", "FileExtension": ".json.gz"},
            "gzip",
            ".json.gz",
            gzip.decompress,
            id="own extension",
        ),
    ],
)
def test_many_records_become_one_object_with_its_extension_and_encoding(
    emulator: FakeEmulator,
    tmp_path: Path,
    changes: dict[str, Any],
    encoding: str,
    extension: str,
    read: Callable[[bytes], bytes],
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(**changes), "stack")
            await asyncio.gather(*(put(firehose, b"%d\n" % number) for number in range(50)))
            await until(lambda: emulator.bucket, "delivery")
            ((key, body),) = emulator.bucket.items()
            today = datetime.now(UTC)
            assert re.fullmatch(rf"events/dt={today:%Y-%m-%d}/events-1-{today:%Y-%m-%d}-[-0-9a-f]+{extension}", key)
            assert sorted(map(int, read(body).split())) == list(range(50))
            assert emulator.encodings[key] == encoding

    run(scenario())


def test_error_objects_are_compressed_but_have_no_extension_of_the_data(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.reply = lambda event: answer(event, "ProcessingFailed")
            changes = {"CompressionFormat": "GZIP", "FileExtension": ".json.gz"}
            firehose.create("Stream", properties(ProcessingConfiguration=processing(), **changes), "stack")
            await put(firehose, b"a", b"b")
            await until(lambda: emulator.bucket, "an error object")
            ((key, body),) = emulator.bucket.items()
            assert re.fullmatch(r"errors/processing-failed/.*[0-9a-f]\.gz", key)
            lines = gzip.decompress(body).splitlines(keepends=True)
            assert [json.loads(line)["rawData"] for line in lines] == [encoded(b"a"), encoded(b"b")]
            assert all(line.endswith(b"}\n") for line in lines)

    run(scenario())


def test_the_oldest_record_dates_an_object(
    emulator: FakeEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = itertools.chain([INSTANT + 86_400_000, INSTANT], itertools.repeat(INSTANT + 2 * 86_400_000))
    monkeypatch.setattr(firehose_stream, "now", lambda: next(arrivals))

    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(), "stack")
            await asyncio.gather(*(put(firehose, b"x") for _ in range(3)))
            await until(lambda: emulator.content() == b"xxx", "delivery")
            (key,) = emulator.bucket
            assert key.startswith("events/dt=2026-01-02/events-1-2026-01-02-03-04-05-")

    run(scenario())


def test_an_object_is_written_when_the_buffer_is_full_or_old(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create(
                "Stream", properties(BufferingHints={"IntervalInSeconds": "900", "SizeInMBs": "1"}), "stack"
            )
            await put(firehose, b"x" * 1_000_000)
            await asyncio.sleep(0.05)
            assert emulator.bucket == {}
            await put(firehose, b"x" * 100_000)
            await until(lambda: len(emulator.content()) == 1_100_000, "delivery by size")

    run(scenario())


# --- Parquet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["SNAPPY", "GZIP", "UNCOMPRESSED"])
def test_parquet_has_the_columns_of_the_table_with_their_types(
    emulator: FakeEmulator, tmp_path: Path, codec: str
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(DataFormatConversionConfiguration=conversion(codec)), "stack")
            await put(
                firehose,
                b'{"name": "a", "value": 1.5, "COUNT": 7, "flag": true, "at": "2026-01-02 03:04:05.678", "dt": "no"}\n',
                b'{"name": "b", "unknown": 1}{"name": "c"}\n\n{"name":\n "d"}',
            )
            await until(lambda: emulator.bucket, "delivery")
            ((key, body),) = emulator.bucket.items()
            assert key.endswith(".parquet")
            table = parquet_file(body)
            assert {field.name: str(field.type) for field in table.schema} == {
                "name": "string",
                "value": "double",
                "count": "int64",
                "small": "int32",
                "flag": "bool",
                "at": "timestamp[ms]",
            }
            assert table.to_pylist()[0] == {
                "name": "a",
                "value": 1.5,
                "count": 7,
                "small": None,
                "flag": True,
                "at": datetime(2026, 1, 2, 3, 4, 5, 678000),
            }
            assert table.column("name").to_pylist() == ["a", "b", "c", "d"]
            written = pq.ParquetFile(io.BytesIO(body)).metadata.row_group(0).column(0).compression
            assert written == codec
            for action in ("glue:GetTable", "glue:GetTableVersion", "glue:GetTableVersions"):
                for name in ("catalog", "database/events_database", "table/events_database/records"):
                    resource = f"arn:aws:glue:us-east-1:000000000000:{name}"
                    assert (ROLE, "firehose.amazonaws.com", action, resource) in emulator.asked

    run(scenario())


def cell(column: str, text: str, folder: Path) -> Any:
    converted = convert([Record(1, 0, b'{"%s": %s}' % (column.encode(), text.encode()))], TABLE, "SNAPPY", folder)
    assert not converted.failed, converted.failed
    return parquet_file(converted.body).column(column)[0].as_py()


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        pytest.param("name", "1", "1", id="a number as text"),
        pytest.param("name", "true", "true", id="true as text"),
        pytest.param("name", '{"a": [1]}', '{"a":[1]}', id="an object as text"),
        pytest.param("name", '"\\u0000 \\ud83d\\ude00 \\n"', "\0 \U0001f600 \n", id="odd characters"),
        pytest.param("name", "null", None, id="null"),
        pytest.param("value", '"1e3"', 1000.0, id="a quoted number"),
        pytest.param("value", "7", 7.0, id="an integer for a double"),
        pytest.param("count", '"-7"', -7, id="a quoted integer"),
        pytest.param("count", "9223372036854775807", 2**63 - 1, id="the largest bigint"),
        pytest.param("count", "5.0", 5, id="a whole float"),
        pytest.param("flag", '"FALSE"', False, id="a quoted boolean"),
        pytest.param("at", '"2026-01-02T03:04:05Z"', datetime(2026, 1, 2, 3, 4, 5), id="ISO"),
        pytest.param("at", '"2026-01-02T03:04:05.1239Z"', datetime(2026, 1, 2, 3, 4, 5, 123000), id="ISO, fraction"),
        pytest.param("at", '"2026-1-2 03:04:05.5"', datetime(2026, 1, 2, 3, 4, 5, 500000), id="short month and day"),
        pytest.param("at", '"2026-01-02 03:04:05"', datetime(2026, 1, 2, 3, 4, 5), id="no fraction"),
        pytest.param("at", "1518033528", datetime(2018, 2, 7, 19, 58, 48), id="epoch seconds"),
        pytest.param("at", "1518033528123", datetime(2018, 2, 7, 19, 58, 48, 123000), id="epoch milliseconds"),
        pytest.param("at", "1518033528.123", datetime(2018, 2, 7, 19, 58, 48, 123000), id="epoch float"),
    ],
)
def test_a_value_that_openx_reads_reaches_its_column(column: str, text: str, expected: Any, tmp_path: Path) -> None:
    assert cell(column, text, tmp_path) == expected


MISFITS = {
    "a word for a double": (b'{"value": "abc"}', "MalformedData", "Column value: not a finite number (got 'abc')"),
    "infinity": (b'{"value": "1e999"}', "MalformedData", "not a finite number"),
    "true for a double": (b'{"value": true}', "MalformedData", "not a finite number"),
    "a fraction for a bigint": (b'{"count": 1.5}', "MalformedData", "not a whole number"),
    "more than a bigint": (b'{"count": 9223372036854775808}', "MalformedData", "more than 64 bits"),
    "more than an int": (b'{"small": 2147483648}', "MalformedData", "more than 32 bits"),
    "a list for a bigint": (b'{"count": [1]}', "MalformedData", "not a whole number"),
    "a number for a boolean": (b'{"flag": 1}', "MalformedData", "not true or false"),
    "a timestamp with an offset": (b'{"at": "2026-01-02T03:04:05+02:00"}', "MalformedData", "not a timestamp"),
    "a timestamp without its Z": (b'{"at": "2026-01-02T03:04:05"}', "MalformedData", "not a timestamp"),
    "a day that does not exist": (b'{"at": "2026-02-30 03:04:05"}', "MalformedData", "Column at: "),
    "a time beyond all years": (b'{"at": 999999999999999}', "MalformedData", "Column at: "),
    "keys that differ by case": (b'{"name": 1, "Name": 2}', "ParseError", "differ by case"),
    "an array": (b'[{"name": "a"}]', "ParseError", "got list"),
    "a number": (b"42", "ParseError", "got int"),
    "null": (b"null", "ParseError", "got NoneType"),
    "NaN": (b'{"value": NaN}', "ParseError", "NaN is not JSON"),
    "half an object": (b'{"name":', "ParseError", "malformed JSON"),
    "nothing": (b" \n", "ParseError", "no JSON object"),
    "bytes that are no UTF-8": (b'{"name": "\xff"}', "ParseError", "malformed JSON"),
    "half a surrogate pair": (b'{"name": "\\ud800"}', "ParseError", "malformed JSON"),
    "very deep nesting": (b'{"name": ' + b"[" * 200_000, "ParseError", "malformed JSON"),
    "one bad object of two": (b'{"name": "a"}\n{"value": "abc"}', "MalformedData", "Column value"),
}


@pytest.mark.parametrize(("data", "code", "message"), MISFITS.values(), ids=MISFITS)
def test_a_record_that_does_not_fit_fails_alone(data: bytes, code: str, message: str, tmp_path: Path) -> None:
    good = Record(1, 0, b'{"name": "good"}')
    converted = convert([good, Record(2, 0, data), good], TABLE, "SNAPPY", tmp_path)
    assert parquet_file(converted.body).column("name").to_pylist() == ["good", "good"]
    ((record, found, text),) = converted.failed
    assert (record.data, found) == (data, f"DataFormatConversion.{code}")
    assert message in text
    assert list(tmp_path.iterdir()) == []


def test_conversion_failures_have_their_own_envelope(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(DataFormatConversionConfiguration=conversion()), "stack")
            await put(firehose, b'{"value": "abc"}', b'{"name": "good"}')
            await until(lambda: emulator.under("errors/"), "an error object")
            (key,) = emulator.under("errors/")
            assert re.fullmatch(r"errors/format-conversion-failed/dt=[-0-9]+/events-1-[-0-9a-f]+", key)
            (document,) = emulator.documents("errors/format-conversion-failed/")
            assert isinstance(document.pop("arrivalTimestamp"), int)
            assert isinstance(document.pop("attemptEndingTimestamp"), int)
            assert isinstance(document.pop("sequenceNumber"), str)
            assert document == {
                "attemptsMade": 1,
                "lastErrorCode": "DataFormatConversion.MalformedData",
                "lastErrorMessage": "Data does not match the schema. Column value: not a finite number (got 'abc')",
                "rawData": encoded(b'{"value": "abc"}'),
                "subSequenceNumber": 0,
                "dataCatalogTable": {
                    "catalogId": "000000000000",
                    "databaseName": "events_database",
                    "tableName": "records",
                    "region": "us-east-1",
                    "versionId": "LATEST",
                    "catalogArn": "arn:aws:glue:us-east-1:000000000000:catalog",
                },
            }
            assert emulator.codes() == ["DataFormatConversion.MalformedData"]
            assert len(emulator.under("events/")) == 1
            await until(lambda: not list(tmp_path.glob("*/*.log")), "an empty log")

    run(scenario())


def test_an_edited_table_is_picked_up_by_the_next_object(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(DataFormatConversionConfiguration=conversion()), "stack")
            emulator.table = {"StorageDescriptor": {"Columns": [{"Name": "extra", "Type": "string"}]}}
            await put(firehose, b'{"name": "a", "extra": "b"}')
            await until(lambda: emulator.bucket, "delivery")
            assert parquet_file(emulator.content()).to_pylist() == [{"extra": "b"}]

    run(scenario())


# --- What cannot be delivered ---------------------------------------------------------------------------------------


def _deny(action: str) -> Callable[[FakeEmulator], None]:
    return lambda emulator: emulator.denied.add(action)


def _no_bucket(emulator: FakeEmulator) -> None:
    emulator.missing_bucket = True


def _no_table(emulator: FakeEmulator) -> None:
    emulator.table = None


def _other_table(emulator: FakeEmulator) -> None:
    emulator.table = {"StorageDescriptor": {"Columns": [{"Name": "name", "Type": "map<string,string>"}]}}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param(_no_bucket, "S3.NoSuchBucket", id="no bucket"),
        pytest.param(_deny("s3:PutObject"), "S3.AccessDenied", id="s3:PutObject denied"),
        pytest.param(_deny("glue:GetTable"), "DataFormatConversion.AccessDenied", id="glue:GetTable denied"),
        pytest.param(_deny("glue:GetTableVersions"), "DataFormatConversion.AccessDenied", id="GetTableVersions denied"),
        pytest.param(_no_table, "DataFormatConversion.EntityNotFoundException", id="no table"),
        pytest.param(_other_table, "DataFormatConversion.InvalidSchema", id="a type that cannot be converted"),
    ],
)
def test_what_cannot_be_delivered_waits_is_reported_and_arrives_once(
    emulator: FakeEmulator, tmp_path: Path, fault: Callable[[FakeEmulator], None], code: str
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(DataFormatConversionConfiguration=conversion()), "stack")
            fault(emulator)
            await put(firehose, b'{"name": "a"}')
            await until(lambda: len(emulator.lines) >= 2, "a second try")
            assert set(emulator.codes()) == {code}
            assert emulator.bucket == {}
            emulator.missing_bucket, emulator.denied, emulator.table = False, set(), TABLE
            await until(lambda: emulator.bucket, "delivery")
            assert parquet_file(emulator.content()).column("name").to_pylist() == ["a"]

    run(scenario())


def test_after_the_retention_time_undelivered_data_is_lost(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path, retention=3) as firehose:
            firehose.create("Stream", properties(), "stack")
            emulator.missing_bucket = True
            await put(firehose, b"lost")
            await until(lambda: not list(tmp_path.glob("*/*.log")), "giving up")
            assert firehose.streams["events"].held == 0

    run(scenario())


# --- Backup ---------------------------------------------------------------------------------------------------------


def test_the_backup_holds_every_record_as_it_came(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.reply = lambda event: answer(event, "Dropped")
            backup = json.loads(json.dumps(_ENABLED_BACKUP))
            backup["S3BackupConfiguration"]["CompressionFormat"] = "GZIP"
            firehose.create("Stream", properties(ProcessingConfiguration=processing(), **backup), "stack")
            await put(firehose, b"one\n", b"two\n")
            await until(lambda: emulator.bucket, "a raw object")
            ((key, body),) = emulator.bucket.items()
            assert re.fullmatch(rf"raw/{datetime.now(UTC):%Y/%m/%d}/\d\d/events-1-[-0-9a-f]+\.gz", key)
            assert gzip.decompress(body) == b"one\ntwo\n"
            await until(lambda: not list(tmp_path.glob("*/*.log")), "an empty log")

    run(scenario())


def test_a_backup_can_be_switched_on_and_not_off(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(), "stack")
            await put(firehose, b"before ")
            firehose.update("events", properties(), properties(**_ENABLED_BACKUP), "stack")
            await asyncio.sleep(0)
            await put(firehose, b"after")
            await until(lambda: emulator.content("raw/") == b"after" and emulator.content() == b"before after", "both")
            for mode in ("Disabled",):
                with pytest.raises(ValueError, match="S3BackupMode cannot be disabled"):
                    firehose.update("events", {}, properties(S3BackupMode=mode), "stack")

    run(scenario())


# --- Update, delete, restart ----------------------------------------------------------------------------------------


def test_an_update_delivers_what_is_buffered_under_the_new_configuration(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            slow = {"IntervalInSeconds": "900", "SizeInMBs": "5"}
            firehose.create("Stream", properties(BufferingHints=slow), "stack")
            await put(firehose, b"in flight")
            await asyncio.sleep(0.05)  # It is in the last buffer now.
            firehose.update("events", {}, properties(Prefix="new/dt=!{timestamp:yyyy}/"), "stack")
            await until(lambda: emulator.content("new/") == b"in flight", "delivery")
            (key,) = emulator.bucket
            assert "/events-2-" in key

    run(scenario())


def test_an_update_keeps_what_it_leaves_out(emulator: FakeEmulator, tmp_path: Path) -> None:
    firehose = Firehose(emulator, tmp_path)  # type: ignore[arg-type]
    firehose.create("Stream", properties(ProcessingConfiguration=processing(), CompressionFormat="GZIP"), "stack")
    firehose.update("events", {}, properties(FileExtension=".json.gz"), "stack")
    kept = firehose.resources["events"]["properties"]["ExtendedS3DestinationConfiguration"]
    assert (kept["CompressionFormat"], kept["ProcessingConfiguration"]["Enabled"]) == ("GZIP", True)
    with pytest.raises(ValueError, match="CompressionFormat must be UNCOMPRESSED"):
        firehose.update("events", {}, properties(DataFormatConversionConfiguration=conversion()), "stack")
    assert firehose.resources["events"]["version"] == 2
    # Nothing new makes no new version.
    firehose.update("events", {}, properties(), "stack")
    assert firehose.resources["events"]["version"] == 2


def test_an_update_merges_the_conversion_and_the_backup_and_replaces_the_processing(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    firehose = Firehose(emulator, tmp_path)  # type: ignore[arg-type]
    before = {"ProcessingConfiguration": processing(), "DataFormatConversionConfiguration": conversion("GZIP")}
    firehose.create("Stream", properties(**before, **_ENABLED_BACKUP), "stack")
    role = ROLE.replace("stream", "other")
    backup = {**_ENABLED_BACKUP["S3BackupConfiguration"], "CompressionFormat": "GZIP"}
    firehose.update(
        "events",
        {},
        properties(
            ProcessingConfiguration={"Enabled": "false"},
            DataFormatConversionConfiguration={"SchemaConfiguration": {"RoleARN": role}},
            S3BackupConfiguration=backup,
        ),
        "stack",
    )
    firehose.update("events", {}, properties(**_ENABLED_BACKUP), "stack")
    kept = firehose.resources["events"]["properties"]["ExtendedS3DestinationConfiguration"]
    assert kept["ProcessingConfiguration"] == {"Enabled": False}
    assert kept["DataFormatConversionConfiguration"] == {**conversion("GZIP", RoleARN=role), "Enabled": True}
    assert kept["S3BackupConfiguration"]["CompressionFormat"] == "GZIP"
    firehose.update("events", {}, properties(DataFormatConversionConfiguration={"Enabled": "false"}), "stack")
    kept = firehose.resources["events"]["properties"]["ExtendedS3DestinationConfiguration"]
    assert kept["DataFormatConversionConfiguration"] == {**conversion("GZIP", RoleARN=role), "Enabled": False}


def test_a_deleted_stream_is_gone_with_its_data_and_its_name_is_free(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(), "stack")
            await put(firehose, b"discarded")
            firehose.delete("events", properties())
            status, reply = await firehose.request("PutRecord", _RECORD, None)
            assert (status, reply["__type"]) == (400, "ResourceNotFoundException")
            firehose.create("Stream", properties(), "stack")
            await put(firehose, b"kept")
            await until(lambda: emulator.bucket, "delivery")
            await asyncio.sleep(0.1)
            assert emulator.content() == b"kept"
            firehose.delete("events", properties())
            firehose.delete("events", properties())
            assert [path.name for path in tmp_path.iterdir()] == ["streams.json"]

    run(scenario())


def test_acknowledged_records_survive_a_killed_process_and_are_delivered_once(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    async def scenario() -> None:
        changes = {"ProcessingConfiguration": processing(), **_ENABLED_BACKUP}
        first = Firehose(emulator, tmp_path, Limits(**LIMITS))  # type: ignore[arg-type]
        await first.start()
        first.create("Stream", properties(**changes), "stack")
        await put(first, b"delivered ")
        await until(lambda: emulator.content() and emulator.content("raw/"), "delivery")
        await until(lambda: first.streams["events"].held == 0, "the mark of delivery")
        emulator.denied = {"s3:PutObject"}
        identifiers = await put(first, b"transformed ", b"and kept ")
        await until(lambda: len(emulator.events) == 2, "the transform")
        await put(first, b"waiting")
        await kill(first)

        emulator.denied = set()
        async with running(emulator, tmp_path) as second:
            await until(lambda: emulator.content().endswith(b"WAITING"), "delivery")
            assert emulator.content() == b"DELIVERED TRANSFORMED AND KEPT WAITING"
            await until(lambda: emulator.content("raw/") == b"delivered transformed and kept waiting", "the backup")
            assert identifiers[0] in emulator.events[-1]["records"][0]["recordId"]
            await until(lambda: not list(tmp_path.glob("*/*.log")), "an empty log")
            assert second.streams["events"].held == 0

    run(scenario())


@pytest.mark.parametrize(
    ("main", "backup", "delivered", "waiting"),
    [
        pytest.param("1", "900", "events/", "raw/", id="the backup waits"),
        pytest.param("900", "60", "raw/", "events/", id="the data waits"),
    ],
)
def test_what_one_destination_has_is_not_sent_to_it_again_when_the_other_still_waits(
    emulator: FakeEmulator, tmp_path: Path, main: str, backup: str, delivered: str, waiting: str
) -> None:
    async def scenario() -> None:
        changes = json.loads(json.dumps(_ENABLED_BACKUP))
        changes["S3BackupConfiguration"]["BufferingHints"]["IntervalInSeconds"] = backup
        changes["BufferingHints"] = {"IntervalInSeconds": main, "SizeInMBs": "5"}
        first = Firehose(emulator, tmp_path, Limits(**LIMITS))  # type: ignore[arg-type]
        await first.start()
        first.create("Stream", properties(**changes), "stack")
        await put(first, b"one ", b"two")
        await until(lambda: emulator.content(delivered) == b"one two", "delivery")
        await until(lambda: list(tmp_path.glob("*/*.done")), "the mark of delivery")
        await kill(first)
        async with running(emulator, tmp_path, second=0.0005):
            await until(lambda: emulator.content(waiting) == b"one two", "the other delivery")
            assert emulator.content(delivered) == b"one two"

    run(scenario())


def test_a_log_whose_records_are_all_delivered_is_only_removed(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Firehose(emulator, tmp_path, Limits(**LIMITS))  # type: ignore[arg-type]
        await first.start()
        first.create("Stream", properties(), "stack")
        (identifier,) = await put(first, b"delivered")
        await kill(first)
        (path,) = tmp_path.glob("*/*.log")
        path.with_suffix(".done").write_text(json.dumps(["main", [[int(identifier), int(identifier)]]]))
        async with running(emulator, tmp_path):
            await until(lambda: not list(tmp_path.glob("*/*.*")), "an empty log")
            assert emulator.bucket == {}

    run(scenario())


def test_a_long_log_is_taken_up_within_the_bounds_of_memory(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Firehose(emulator, tmp_path, Limits(**LIMITS, segment=1000))  # type: ignore[arg-type]
        await first.start()
        first.create("Stream", properties(), "stack")
        emulator.missing_bucket = True
        for _ in range(30):
            await put(first, b"x" * 1000)
        await kill(first)
        async with running(emulator, tmp_path, memory=10_000) as second:
            await until(lambda: second.streams["events"].held > 5000, "the beginning")
            await asyncio.sleep(0.05)
            assert second.streams["events"].held <= 7000
            emulator.missing_bucket = False
            await until(lambda: len(emulator.content()) == 30_000, "delivery of it all")

    run(scenario())


def test_an_orderly_stop_finishes_what_is_under_way(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            started = asyncio.Event()
            put_object = emulator.put_object

            async def slow(bucket: str, key: str, data: bytes, encoding: str) -> None:
                started.set()
                await asyncio.sleep(0.05)
                await put_object(bucket, key, data, encoding)

            emulator.put_object = slow  # type: ignore[method-assign]
            firehose.create("Stream", properties(), "stack")
            await put(firehose, b"under way")
            await started.wait()
        assert emulator.content() == b"under way"
        assert not list(tmp_path.glob("*/*.log"))

    run(scenario())


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[Record]]:
    """A log of three records that an earlier process left."""
    log = Log(tmp_path / "log", 1000)
    records = log.begin().write([(1000, [b"first", b"second"]), (2000, [b"third"])])
    log.end(written=True)
    log.owe(records)
    log.done("main", records[:1])
    return tmp_path / "log", records


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        pytest.param(lambda content: content, 3, id="sound"),
        pytest.param(lambda content: content[:-1], 2, id="last byte missing"),
        pytest.param(lambda content: content + b"\0" * 100, 3, id="zeros after the end"),
        pytest.param(lambda content: content + content[:10], 3, id="part of a header"),
        pytest.param(lambda content: content.replace(b"second", b"sEcond"), 1, id="a changed byte"),
        pytest.param(lambda content: b"", 0, id="empty"),
    ],
)
def test_a_torn_log_is_read_up_to_the_tear(
    written: tuple[Path, list[Record]], damage: Callable[[bytes], bytes], left: int
) -> None:
    directory, records = written
    (path,) = directory.glob("*.log")
    path.write_bytes(damage(path.read_bytes()))
    (segment,) = Log(directory, 1000).recovered
    found, done = segment.read()
    assert found == records[:left]
    assert done == {"main": {records[0].sequence}}


def test_a_torn_mark_costs_only_itself(written: tuple[Path, list[Record]]) -> None:
    directory, records = written
    (path,) = directory.glob("*.done")
    path.write_bytes(path.read_bytes() + b'\n["main", [[17')
    log = Log(directory, 1000)
    log.owe(records[1:])
    log.done("backup", records[1:2])
    _, done = log.recovered[0].read()
    assert done == {"main": {records[0].sequence}, "backup": {records[1].sequence}}


def test_a_clock_that_jumps_loses_and_doubles_nothing(
    emulator: FakeEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of a laptop that slept, of a virtual machine that was restored, or of somebody who tries dates."""
    offset, day = 0, 86_400 * 10**9

    def now() -> int:
        return time.time_ns() + offset

    for module in (firehose_log, firehose_engine):
        monkeypatch.setattr(module, "time", stand_in(time, time_ns=now))

    async def scenario() -> None:
        nonlocal offset
        sent = 0
        for number, jump in enumerate((day, -day, day // 24, -day // 24)):
            async with running(emulator, tmp_path, segment=1) as firehose:  # A new file for each write.
                if not number:
                    firehose.create("Stream", properties(), "stack")
                emulator.missing_bucket = True
                for jumped in (0, jump, -jump, 0, -jump):
                    offset = jumped
                    await put(firehose, b"%d " % sent)
                    sent += 1
                await kill(firehose)
            offset, emulator.missing_bucket = jump, False
            async with running(emulator, tmp_path) as firehose:
                await put(firehose, b"%d " % sent)
                sent += 1
                offset = -jump
                await until(lambda: not list(tmp_path.glob("*/*.log")), "delivery")
            assert sorted(map(int, emulator.content().split())) == list(range(sent))

    run(scenario())


def test_numbers_of_records_are_never_used_twice_even_when_the_clock_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firehose_log, "time", stand_in(time, time_ns=lambda: 1_000_000))
    seen: set[int] = set()
    for _ in range(5):
        log = Log(tmp_path, 1)  # A new file for each write.
        for _ in range(3):
            records = log.begin().write([(1000, [b"x"] * 100)])
            log.end(written=True)
            log.owe(records)
            assert not seen & {record.sequence for record in records}
            seen |= {record.sequence for record in records}
    assert len(seen) == 1500


def test_files_of_the_log_go_when_all_of_their_records_are_delivered(tmp_path: Path) -> None:
    log = Log(tmp_path, 100)
    batches = []
    for _ in range(3):
        batches.append(log.begin().write([(1000, [b"x" * 90])]))
        log.end(written=True)
        log.owe(batches[-1])
    assert len(list(tmp_path.glob("*.log"))) == 3
    log.done("main", batches[1])
    assert len(list(tmp_path.glob("*.log"))) == 2
    log.done("main", batches[0] + batches[2])
    assert list(tmp_path.iterdir()) == []
