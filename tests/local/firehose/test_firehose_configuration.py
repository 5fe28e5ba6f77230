"""A stream's configuration in a template: the local Firehose refuses settings that AWS refuses or it does not have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from local.firehose.service import Firehose
from tests.local.firehose.firehose_fakes import (
    KEY,
    ROLE,
    TABLE,
    FakeEmulator,
    conversion,
    destination,
    lambda_processor,
    processing,
    properties,
)

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
        Firehose(emulator, tmp_path).create("Stream", properties(**changes), "stack")
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
        Firehose(emulator, tmp_path).create("Stream", {**properties(), **changes}, "stack")


def test_checks_come_in_the_order_of_aws(emulator: FakeEmulator, tmp_path: Path) -> None:
    firehose = Firehose(emulator, tmp_path)
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
        Firehose(emulator, tmp_path).create(
            "Stream", properties(DataFormatConversionConfiguration=conversion()), "stack"
        )


def test_a_role_that_firehose_cannot_assume_fails_the_resource_but_a_missing_permission_does_not(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    firehose = Firehose(emulator, tmp_path)
    emulator.denied = {"sts:AssumeRole"}
    with pytest.raises(ValueError, match="Firehose is unable to assume role"):
        firehose.create("Stream", properties(), "stack")
    emulator.denied = {"s3:PutObject"}
    firehose.create("Stream", properties(), "stack")


def test_ref_is_the_name_and_arn_an_attribute(emulator: FakeEmulator, tmp_path: Path) -> None:
    firehose = Firehose(emulator, tmp_path)
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
    firehose = Firehose(emulator, tmp_path)
    unnamed = {name: value for name, value in properties().items() if name != "DeliveryStreamName"}
    name, _ = firehose.create("Stream", unnamed, "stack")
    assert re.fullmatch(r"stack-Stream-\w{12}", name)
    longest, _ = firehose.create("L" * 100, unnamed, "s" * 100)
    assert len(longest) == 64
