"""The configuration of a delivery stream: a template's properties, CreateDeliveryStream's refusals, and prefixes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from local import shapes

Json = dict[str, Any]
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Destination:
    """Where objects go: `size` is in bytes, `interval` in seconds."""

    bucket_arn: str
    role: str
    prefix: str
    error_prefix: str
    size: int
    interval: float
    compression: str
    extension: str | None
    log: tuple[str, str] | None


@dataclass(frozen=True)
class Processor:
    """The transform function and when to call it: `size` in bytes before base64, `interval` in seconds."""

    function: str
    role: str
    retries: int
    size: int
    interval: float


@dataclass(frozen=True)
class Conversion:
    """Record format conversion: the Glue table with the columns' types, and Parquet's codec."""

    role: str
    database: str
    table: str
    codec: str


@dataclass(frozen=True)
class Configuration:
    """One version of a delivery stream."""

    name: str
    arn: str
    version: int
    main: Destination
    backup: Destination | None
    processor: Processor | None
    conversion: Conversion | None
    # The ARN of the KMS key under which records wait; empty for a key of Firehose's own.
    key: str

    @property
    def glue_catalog(self) -> str:
        """The common beginning of the Glue catalog's ARNs in the stream's account and region."""
        return ":".join(self.arn.replace(":firehose:", ":glue:").split(":")[:5])


# The implemented part of CreateDeliveryStream, by name: every value of AWS (None), or some of them (a pattern). A name
# with `!` at its end is needed here, though AWS has a default for it.
_S3: Json = {
    "BucketARN": None,
    "RoleARN": None,
    "Prefix!": None,
    "ErrorOutputPrefix!": None,
    "BufferingHints!": {"IntervalInSeconds!": None, "SizeInMBs!": None},
    "CompressionFormat": "UNCOMPRESSED|GZIP|HADOOP_SNAPPY",
    "CloudWatchLoggingOptions": {"Enabled": None, "LogGroupName": None, "LogStreamName": None},
}
_PROCESSOR: Json = {
    "Type": "Lambda",
    "Parameters": [
        {
            "ParameterName": "LambdaArn|RoleArn|NumberOfRetries|BufferSizeInMBs|BufferIntervalInSeconds",
            "ParameterValue": None,
        }
    ],
}
_CONVERSION: Json = {
    "Enabled": None,
    "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
    "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {"Compression": None}}},
    "SchemaConfiguration": {"RoleARN": None, "DatabaseName": None, "TableName": None},
}
IMPLEMENTED: Json = {
    "DeliveryStreamName": None,
    "DeliveryStreamType": "DirectPut",
    "DeliveryStreamEncryptionConfigurationInput": {"KeyType": None, "KeyARN": None},
    "ExtendedS3DestinationConfiguration!": {
        **_S3,
        "FileExtension": None,
        "ProcessingConfiguration": {"Enabled": None, "Processors": [_PROCESSOR]},
        "DataFormatConversionConfiguration": _CONVERSION,
        "S3BackupMode": None,
        "S3BackupConfiguration": _S3,
    },
}
# AWS's rules for the parameters of a Lambda processor. All of them are text for AWS; numbers have bounds.
_FUNCTION = r"arn:[\w-]+:lambda:[\w-]+:\d{12}:function:[\w$-]+(:[\w$-]+)?"
_ROLE = r"arn:[\w-]+:iam::\d{12}:role/.+"
# A backup buffers for a minute at least: https://docs.aws.amazon.com/firehose/latest/dev/create-configure-backup.html
_LEAST_BACKUP_INTERVAL = 60


def conform(properties: Json) -> Json:
    """Check resolved properties as CreateDeliveryStream does, and type their scalars, possibly given as text.

    ValueError names the property, the value and the allowed ones, or a part not implemented by this engine.
    """
    given: Json = shapes.conform(properties, shapes.input_of("firehose", "CreateDeliveryStream"))
    _restrict(given, IMPLEMENTED, "")
    return given


def _restrict(value: Any, implemented: Any, path: str) -> None:
    if isinstance(implemented, dict):
        here = f"{path}." if path else ""
        parts = {name.rstrip("!"): part for name, part in implemented.items()}
        for name, part in value.items():
            if name not in parts:
                raise ValueError(f"{here}{name} is not implemented by the local Firehose")
            _restrict(part, parts[name], here + name)
        for name in implemented:
            if name.endswith("!") and name[:-1] not in value:
                raise ValueError(f"{here}{name[:-1]} is required by the local Firehose")
    elif isinstance(implemented, list):
        for index, part in enumerate(value):
            _restrict(part, implemented[0], f"{path}[{index}]")
    elif implemented and not re.fullmatch(implemented, value):
        options = implemented.replace("|", ", ")
        raise ValueError(f"{path} {value} is not implemented by the local Firehose: it has {options}")


def merge(was: Json, given: Json) -> Json:
    """A destination after UpdateDestination: omitted members keep their old values.

    The conversion and the backup are merged member by member, everything else is replaced as a whole.
    """
    merged = {
        name: given[name] for name in ("DataFormatConversionConfiguration", "S3BackupConfiguration") if name in given
    }
    return {**was, **given, **{name: _merge_members(was.get(name, {}), part) for name, part in merged.items()}}


def _merge_members(was: Json, given: Json) -> Json:
    return {
        **was,
        **{
            name: _merge_members(was[name], part) if isinstance(part, dict) and name in was else part
            for name, part in given.items()
        },
    }


def configure(properties: Json, *, name: str, arn: str, version: int) -> Configuration:
    """Read conformed properties; ValueError for combinations refused by CreateDeliveryStream, in its order."""
    path = "ExtendedS3DestinationConfiguration"
    s3: Json = properties[path]
    conversion = _conversion(s3, path)
    main = _destination(s3, path)
    backup = None
    if s3.get("S3BackupMode") == "Enabled":
        if "S3BackupConfiguration" not in s3:
            raise ValueError(f"{path}.S3BackupConfiguration is required when S3BackupMode is Enabled")
        backup = _destination(s3["S3BackupConfiguration"], f"{path}.S3BackupConfiguration")
        if backup.interval < _LEAST_BACKUP_INTERVAL:
            raise ValueError(
                f"{path}.S3BackupConfiguration.BufferingHints.IntervalInSeconds must be {_LEAST_BACKUP_INTERVAL} or "
                f"more (got {backup.interval})"
            )
    processor = _processor(s3.get("ProcessingConfiguration", {}), main.role, f"{path}.ProcessingConfiguration")
    encryption = properties.get("DeliveryStreamEncryptionConfigurationInput", {"KeyType": "AWS_OWNED_CMK"})
    if (encryption["KeyType"] == "CUSTOMER_MANAGED_CMK") != ("KeyARN" in encryption):
        raise ValueError(
            "DeliveryStreamEncryptionConfigurationInput needs a KeyARN with KeyType CUSTOMER_MANAGED_CMK, and takes "
            f"none with AWS_OWNED_CMK (got {encryption})"
        )
    return Configuration(name, arn, version, main, backup, processor, conversion, encryption.get("KeyARN", ""))


def _conversion(s3: Json, path: str) -> Conversion | None:
    """The conversion; it is on unless `Enabled` says otherwise."""
    settings = s3.get("DataFormatConversionConfiguration", {"Enabled": False})
    if not settings.get("Enabled", True):
        return None
    compression, size = s3.get("CompressionFormat", "UNCOMPRESSED"), s3["BufferingHints"]["SizeInMBs"]
    if compression != "UNCOMPRESSED":
        raise ValueError(
            f"{path}.CompressionFormat must be UNCOMPRESSED when DataFormatConversionConfiguration is enabled, "
            f"as ParquetSerDe.Compression compresses inside the file (got {compression!r})"
        )
    if size < 64:
        raise ValueError(
            f"{path}.BufferingHints.SizeInMBs must be 64 or more when DataFormatConversionConfiguration is enabled "
            f"(got {size})"
        )
    for needed in (
        "InputFormatConfiguration.Deserializer.OpenXJsonSerDe",
        "OutputFormatConfiguration.Serializer.ParquetSerDe",
        *(f"SchemaConfiguration.{name}" for name in ("RoleARN", "DatabaseName", "TableName")),
    ):
        part = settings
        for name in needed.split("."):
            if name not in part:
                where = needed[: needed.index(name) + len(name)]
                raise ValueError(
                    f"DataFormatConversionConfiguration.{where} is required when the conversion is enabled"
                )
            part = part[name]
    schema, serializer = settings["SchemaConfiguration"], settings["OutputFormatConfiguration"]["Serializer"]
    codec = serializer["ParquetSerDe"].get("Compression", "SNAPPY")
    return Conversion(schema["RoleARN"], schema["DatabaseName"], schema["TableName"], codec)


def _processor(processing: Json, role: str, path: str) -> Processor | None:
    """The transform function; unlike the conversion, processing is off unless `Enabled` says otherwise."""
    if not processing.get("Enabled", False):
        return None
    processors = processing.get("Processors", [])
    if len(processors) != 1:
        raise ValueError(f"{path}.Processors must hold one Lambda when it is enabled (got {len(processors)})")
    values = {item["ParameterName"]: item["ParameterValue"] for item in processors[0].get("Parameters", [])}

    def text(name: str, default: str, pattern: str) -> str:
        value: str = values.get(name, default)
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{path}.Processors.Lambda.{name} must match {pattern} (got {value!r})")
        return value

    def number(name: str, default: float, low: float, high: float) -> float:
        value = str(values.get(name, default))
        if not re.fullmatch(r"\d+(\.\d+)?" if low % 1 else r"\d+", value) or not low <= float(value) <= high:
            raise ValueError(f"{path}.Processors.Lambda.{name} must be a number from {low} to {high} (got {value!r})")
        return float(value)

    return Processor(
        function=text("LambdaArn", "", _FUNCTION),
        role=text("RoleArn", role, _ROLE),
        retries=int(number("NumberOfRetries", 3, 0, 300)),
        size=int(number("BufferSizeInMBs", 1, 0.2, 3) * MEBIBYTE),
        interval=number("BufferIntervalInSeconds", 60, 0, 900),
    )


def _destination(s3: Json, path: str) -> Destination:
    prefix, error_prefix, hints = s3["Prefix"], s3["ErrorOutputPrefix"], s3["BufferingHints"]
    check_prefix(f"{path}.Prefix", prefix, error=False)
    check_prefix(f"{path}.ErrorOutputPrefix", error_prefix, error=True)
    logging = s3.get("CloudWatchLoggingOptions", {})
    log = (logging.get("LogGroupName", ""), logging.get("LogStreamName", "")) if logging.get("Enabled") else None
    if log and not all(log):
        raise ValueError(f"{path}.CloudWatchLoggingOptions needs LogGroupName and LogStreamName when it is enabled")
    return Destination(
        bucket_arn=s3["BucketARN"],
        role=s3["RoleARN"],
        prefix=prefix,
        error_prefix=error_prefix,
        size=hints["SizeInMBs"] * MEBIBYTE,
        interval=hints["IntervalInSeconds"],
        compression=s3.get("CompressionFormat", "UNCOMPRESSED"),
        extension=s3.get("FileExtension") or None,
        log=log,
    )


_EXPRESSION = re.compile(r"!\{([^:{}]*):([^{}]*)\}")
_PATTERN_TOKEN = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|.", re.DOTALL)
_PATTERN_FIELDS = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


def check_prefix(path: str, prefix: str, *, error: bool) -> None:
    """Raise ValueError for a prefix refused by CreateDeliveryStream, or with a part not implemented here.

    https://docs.aws.amazon.com/firehose/latest/dev/s3-prefixes.html
    """
    expressions = _EXPRESSION.findall(prefix)
    has_error_type = ("firehose", "error-output-type") in expressions
    if "!{" in _EXPRESSION.sub("", prefix):
        raise ValueError(f"{path}: '!{{' may only begin an expression like !{{timestamp:yyyy}} (got {prefix!r})")
    for namespace, value in expressions:
        if namespace != "timestamp" and (namespace, value) != ("firehose", "error-output-type"):
            raise ValueError(f"{path}: !{{{namespace}:{value}}} is not implemented by the local Firehose")
    if has_error_type and not error:
        raise ValueError(f"{path} must not contain !{{firehose:error-output-type}} (got {prefix!r})")
    needed = ("firehose", "error-output-type") if error else ("timestamp", "yyyy")
    if needed[0] not in dict(expressions):  # Firehose refuses it, or adds one.
        raise ValueError(f"{path}: the local Firehose needs !{{{':'.join(needed)}}} in it (got {prefix!r})")
    try:
        evaluated = evaluate_prefix(prefix, 0, "format-conversion-failed")
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from None
    if len(evaluated) > 512:
        raise ValueError(f"{path} must be at most 512 characters when evaluated (got {len(evaluated)})")


def evaluate_prefix(prefix: str, oldest: int, error_type: str = "") -> str:
    """Evaluate a prefix at one instant: the arrival of an object's oldest record, in epoch milliseconds (UTC)."""

    def evaluate(match: re.Match[str]) -> str:
        if match[1] == "timestamp":
            return _format_timestamp(match[2], datetime.fromtimestamp(oldest / 1000, UTC))
        return error_type

    return _EXPRESSION.sub(evaluate, prefix)


def _format_timestamp(pattern: str, instant: datetime) -> str:
    """The part of Java's DateTimeFormatter that partitions need; quoted text is literal, two quotes are one."""

    def token(match: re.Match[str]) -> str:
        text = match[0]
        if match[1] is not None:
            return match[1].replace("''", "'") or "'"
        if match[2] is None and text not in "'[]{}#":
            return text
        if text not in _PATTERN_FIELDS:
            why = "is the week-based year: write yyyy" if text == "YYYY" else "is not implemented by the local Firehose"
            raise ValueError(f"{text!r} in !{{timestamp:{pattern}}} {why}")
        return instant.strftime(_PATTERN_FIELDS[text])

    return _PATTERN_TOKEN.sub(token, pattern)
