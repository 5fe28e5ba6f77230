"""The configuration of a delivery stream: what a template may say, what CreateDeliveryStream refuses, and prefixes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

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
    """Record format conversion: the Glue table that types the columns, and Parquet's codec."""

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
    # The ARN of the KMS key under which records wait; empty where that is a key of Firehose's own.
    key: str

    @property
    def glue_catalog(self) -> str:
        """What the ARNs of the Glue catalog in the stream's account and region begin with."""
        return ":".join(self.arn.replace(":firehose:", ":glue:").split(":")[:5])


# A shape is a pattern, a range of numbers, `bool`, a list of one shape, or an object of them; `!` is for required.
Shape = str | tuple[float, float] | type[bool] | list[Any] | dict[str, Any]
_ROLE = r"arn:[\w-]+:iam::\d{12}:role/.+"
_S3: dict[str, Shape] = {
    "BucketARN!": r"arn:[\w-]+:s3:::[a-z0-9.-]{3,63}",
    "RoleARN!": _ROLE,
    "Prefix!": r"(?s).{0,1024}",
    "ErrorOutputPrefix!": r"(?s).{0,1024}",
    "BufferingHints!": {"IntervalInSeconds!": (0, 900), "SizeInMBs!": (1, 128)},
    "CompressionFormat": "UNCOMPRESSED|GZIP|HADOOP_SNAPPY",
    "CloudWatchLoggingOptions": {"Enabled": bool, "LogGroupName": ".*", "LogStreamName": ".*"},
}
_LAMBDA: dict[str, Shape] = {
    "LambdaArn!": r"arn:[\w-]+:lambda:[\w-]+:\d{12}:function:[\w$-]+(:[\w$-]+)?",
    "RoleArn": _ROLE,
    "NumberOfRetries": (0, 300),
    "BufferSizeInMBs": (0.2, 3.0),
    "BufferIntervalInSeconds": (0, 900),
}
SHAPE: dict[str, Shape] = {
    "DeliveryStreamName": r"[a-zA-Z0-9_.-]{1,64}",
    "DeliveryStreamType": "DirectPut",
    "DeliveryStreamEncryptionConfigurationInput": {
        "KeyType!": "AWS_OWNED_CMK|CUSTOMER_MANAGED_CMK",
        "KeyARN": r"arn:[\w-]+:kms:[\w-]+:\d{12}:key/[\w-]+",
    },
    "Tags": [{"Key!": r".{1,128}", "Value": r".{0,256}"}],
    "ExtendedS3DestinationConfiguration!": {
        **_S3,
        "FileExtension": r"|\.[0-9a-z!\-_.*'()]{1,127}",
        "ProcessingConfiguration": {
            "Enabled": bool,
            "Processors": [
                {
                    "Type!": "Lambda",
                    "Parameters": [{"ParameterName!": r"\w+", "ParameterValue!": r"(?s).{1,5120}"}],
                }
            ],
        },
        "DataFormatConversionConfiguration": {
            "Enabled": bool,
            "InputFormatConfiguration": {"Deserializer!": {"OpenXJsonSerDe!": {}}},
            "OutputFormatConfiguration": {
                "Serializer!": {"ParquetSerDe!": {"Compression": "UNCOMPRESSED|GZIP|SNAPPY"}}
            },
            "SchemaConfiguration": {"RoleARN!": _ROLE, "DatabaseName!": ".+", "TableName!": ".+"},
        },
        "S3BackupMode": "Disabled|Enabled",
        # A backup cannot be written without buffering: no interval of 0.
        "S3BackupConfiguration": {**_S3, "BufferingHints!": {"IntervalInSeconds!": (1, 900), "SizeInMBs!": (1, 128)}},
    },
}


def conform(value: Any, shape: Shape = SHAPE, path: str = "") -> Any:
    """Check resolved properties against a shape and type their scalars, which CloudFormation may give as text.

    ValueError names the property, the value and what is allowed. A property without a shape is not implemented.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{path} must be an object (got {value!r})")
        here = f"{path}." if path else ""
        parts = {name.rstrip("!"): part for name, part in shape.items()}
        for name in sorted(value.keys() - parts.keys()):
            raise ValueError(f"{here}{name} is not implemented by the local Firehose")
        for name in shape:
            if name.endswith("!") and name[:-1] not in value:
                raise ValueError(f"{here}{name[:-1]} is required")
        return {name: conform(part, parts[name], here + name) for name, part in value.items()}
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{path} must be a list (got {value!r})")
        return [conform(part, shape[0], f"{path}[{index}]") for index, part in enumerate(value)]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(shape, tuple):
        low, high = shape
        whole = isinstance(low, int)
        if re.fullmatch(r"\d+" if whole else r"\d+(\.\d+)?", text) and low <= float(text) <= high:
            return int(text) if whole else float(text)
        raise ValueError(f"{path} must be a {'whole ' if whole else ''}number from {low} to {high} (got {value!r})")
    if not re.fullmatch("true|false" if isinstance(shape, type) else shape, text):
        options = "true or false" if isinstance(shape, type) else shape.strip("|").replace("|", " or ")
        raise ValueError(f"{path} must be {options} (got {value!r})")
    return text == "true" if isinstance(shape, type) else text


def configure(properties: Json, *, name: str, arn: str, version: int) -> Configuration:
    """Read conformed properties; ValueError for combinations that CreateDeliveryStream refuses."""
    path = "ExtendedS3DestinationConfiguration"
    s3: Json = properties[path]
    conversion = _conversion(s3)
    main = _destination(s3, path)
    if conversion and main.size < 64 * MEBIBYTE:
        raise ValueError(
            f"{path}.BufferingHints.SizeInMBs must be 64 or more when DataFormatConversionConfiguration is enabled "
            f"(got {main.size // MEBIBYTE})"
        )
    if conversion and main.compression != "UNCOMPRESSED":
        raise ValueError(
            f"{path}.CompressionFormat must be UNCOMPRESSED when DataFormatConversionConfiguration is enabled, "
            f"as ParquetSerDe.Compression compresses inside the file (got {main.compression!r})"
        )
    backup = None
    if s3.get("S3BackupMode") == "Enabled":
        if "S3BackupConfiguration" not in s3:
            raise ValueError(f"{path}.S3BackupConfiguration is required when S3BackupMode is Enabled")
        backup = _destination(s3["S3BackupConfiguration"], f"{path}.S3BackupConfiguration")
    processing = s3.get("ProcessingConfiguration", {})
    processor = None
    for part in processing.get("Processors", []) if processing.get("Enabled", True) else []:
        if processor:
            raise ValueError(f"{path}.ProcessingConfiguration.Processors may hold one Lambda (got two)")
        values = {item["ParameterName"]: item["ParameterValue"] for item in part.get("Parameters", [])}
        function = conform(values, _LAMBDA, f"{path}.ProcessingConfiguration.Processors.Lambda")
        processor = Processor(
            function=function["LambdaArn"],
            role=function.get("RoleArn", main.role),
            retries=function.get("NumberOfRetries", 3),
            size=int(function.get("BufferSizeInMBs", 1) * MEBIBYTE),
            interval=function.get("BufferIntervalInSeconds", 60),
        )
    encryption = properties.get("DeliveryStreamEncryptionConfigurationInput", {"KeyType": "AWS_OWNED_CMK"})
    if (encryption["KeyType"] == "CUSTOMER_MANAGED_CMK") != ("KeyARN" in encryption):
        raise ValueError(
            "DeliveryStreamEncryptionConfigurationInput needs a KeyARN with KeyType CUSTOMER_MANAGED_CMK, and takes "
            f"none with AWS_OWNED_CMK (got {encryption})"
        )
    return Configuration(name, arn, version, main, backup, processor, conversion, encryption.get("KeyARN", ""))


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


def _conversion(s3: Json) -> Conversion | None:
    settings = s3.get("DataFormatConversionConfiguration", {"Enabled": False})
    if not settings.get("Enabled", True):
        return None
    for name in ("InputFormatConfiguration", "OutputFormatConfiguration", "SchemaConfiguration"):
        if name not in settings:
            raise ValueError(f"DataFormatConversionConfiguration.{name} is required when the conversion is enabled")
    schema, serializer = settings["SchemaConfiguration"], settings["OutputFormatConfiguration"]["Serializer"]
    codec = serializer["ParquetSerDe"].get("Compression", "SNAPPY")
    return Conversion(schema["RoleARN"], schema["DatabaseName"], schema["TableName"], codec)


_EXPRESSION = re.compile(r"!\{([^:{}]*):([^{}]*)\}")
_PATTERN_TOKEN = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|.", re.DOTALL)
_PATTERN_FIELDS = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


def check_prefix(path: str, prefix: str, *, error: bool) -> None:
    """Raise ValueError where CreateDeliveryStream refuses a prefix, or where it uses what is not implemented here.

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
