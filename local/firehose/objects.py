"""A delivery stream's formats, as pure functions: the contract with its transform function, error documents, object
keys, compression and Parquet. Clock, disk and network belong to `local.firehose.stream`.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import math
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, NoReturn

import cramjam
import duckdb
import orjson

from local.catalog import GlueTable
from local.firehose.configuration import MEBIBYTE, Configuration, evaluate_prefix
from local.shapes import JsonObject, JsonValue

Cell = Callable[[JsonValue], JsonValue]

REQUEST_LIMIT = 6_000_000  # The lower reading of Lambda's 6 MB; a request is cut below it.
REPLY_LIMIT = 6 * MEBIBYTE + 100
# As S3 shows them. A client with its own unpacking, for example a browser, gets the plain lines.
CONTENT_ENCODINGS = {"GZIP": "gzip", "HADOOP_SNAPPY": "hadoop-snappy"}
EXTENSIONS = {"UNCOMPRESSED": "", "GZIP": ".gz", "HADOOP_SNAPPY": ".snappy", "PARQUET": ".parquet"}


class Record(NamedTuple):
    """One record: its number in the log, its arrival in epoch milliseconds, its bytes as they now are, and how many
    bytes its producer sent."""

    sequence: int
    arrival: int
    data: bytes
    sent: int = 0

    @property
    def record_id(self) -> str:
        """The RecordId in the answer to the producer."""
        return f"{self.sequence:056d}"

    @property
    def transform_id(self) -> str:
        """The recordId for the transform function: as on AWS, not the one in the answer to the producer."""
        return f"shardId-000000000000{self.record_id}000000"


# --- The transform function -----------------------------------------------------------------------------------------


class TransformFailure(Exception):
    """The function failed a whole batch, with Firehose's code for it; `retry` if Firehose asks again."""

    def __init__(self, code: str, message: str, *, retry: bool) -> None:
        super().__init__(message)
        self.code, self.message, self.retry = code, message, retry


class Verdict(NamedTuple):
    """The fate of one record: its new data goes on, or it fails with a code and a message, or it is dropped."""

    data: bytes | None = None
    failure: tuple[str, str] | None = None


def request_share(record: Record) -> int:
    """The most bytes of a record in a request, including base64 and its own JSON."""
    return (len(record.data) + 2) // 3 * 4 + 160


def transform_event(invocation_id: str, arn: str, records: Iterable[Record]) -> bytes:
    """The event for the transform function."""
    return orjson.dumps(
        {
            "invocationId": invocation_id,
            "deliveryStreamArn": arn,
            "region": arn.split(":")[3],
            "records": [
                {
                    "recordId": record.transform_id,
                    "approximateArrivalTimestamp": record.arrival,
                    "data": base64.b64encode(record.data).decode(),
                }
                for record in records
            ],
        }
    )


# In the words of AWS, as they were found in its error objects.
_MISSING = (
    "Lambda.MissingRecordId",
    "One or more record Ids were not returned. Ensure that the Lambda function returns all received record Ids.",
)
_DUPLICATED = (
    "Lambda.DuplicatedRecordId",
    "Multiple records were returned with the same record Id. Ensure that the Lambda function returns a unique record "
    "Id for each record.",
)
_STATUS = ("Lambda.ProcessingFailedStatus", "ProcessingFailed status set for record")
_NO_DATA = (
    "Lambda.InvalidReturnFormat",
    "The data field cannot be null when the SourceType is DirectPut or KinesisStreamAsSource and processing result is "
    "Ok. The value field cannot be null when the SourceType is MSKAsSource and processing result is Ok.",
)
_NOT_PARSED = (
    "Lambda.JsonProcessingException",
    "There was an error parsing returned records from the Lambda function. Ensure that the returned records follow the "
    "status model required by Firehose.",
)
_NOT_IN_FORMAT = (
    "Lambda.FunctionError",
    "Check your function and make sure the output is in required format. In addition to that, make sure the processed "
    "records contain valid result status of Dropped, Ok, or ProcessingFailed",
)


def read_transform_reply(payload: bytes, records: Sequence[Record]) -> list[Verdict]:
    """The verdict of the function's reply on each record, in the order of the records.

    A record left out of the reply, returned twice, or returned as Ok without data fails alone. A reply other than JSON,
    or with a result or data of another form, fails the batch: TransformFailure. Neither is tried again. An id never
    sent is ignored. https://docs.aws.amazon.com/firehose/latest/dev/data-transformation-status-model.html
    """
    try:
        reply = orjson.loads(payload)
        entries = reply.get("records") if isinstance(reply, dict) else None
        returned = [(entry["recordId"], entry) for entry in entries] if isinstance(entries, list) else []
        by_id, counts = dict(returned), Counter(identifier for identifier, _ in returned)
    except (ValueError, TypeError, KeyError) as problem:
        raise TransformFailure(*_NOT_PARSED, retry=False) from problem
    verdicts = []
    for record in records:
        entry = by_id.get(record.transform_id)
        if entry is None:
            verdicts.append(Verdict(failure=_MISSING))
        elif counts[record.transform_id] > 1:
            verdicts.append(Verdict(failure=_DUPLICATED))
        else:
            verdicts.append(_verdict(entry))
    return verdicts


def _verdict(entry: JsonObject) -> Verdict:
    result, text = entry.get("result"), entry.get("data")
    if result not in ("Ok", "Dropped", "ProcessingFailed"):
        raise TransformFailure(*_NOT_IN_FORMAT, retry=False)
    try:
        data = None if text is None else decode_base64(text)
    except ValueError as problem:
        raise TransformFailure(*_NOT_IN_FORMAT, retry=False) from problem
    if result == "Ok":
        return Verdict(failure=_NO_DATA) if data is None else Verdict(data)
    return Verdict(failure=_STATUS) if result == "ProcessingFailed" else Verdict()


def decode_base64(text: JsonValue) -> bytes:
    """Strict base64 of a JSON string; ValueError for anything else."""
    if not isinstance(text, str):
        raise ValueError("base64 text is missing")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as problem:
        raise ValueError(f"not base64 ({problem})") from None


def processing_failed(record: Record, failure: tuple[str, str], attempts: int, ended: int, function: str) -> bytes:
    """The document of one record failed by the transform, on a line of its own; rawData is the producer's data.

    Names, order and types are those of AWS's own objects. AWS's page has `lambdaArn` and every number as text instead:
    https://docs.aws.amazon.com/firehose/latest/dev/data-transformation-failure-handling.html
    """
    code, message = failure
    document = {
        "rawData": base64.b64encode(record.data).decode(),
        "errorCode": code,
        "errorMessage": message,
        "attemptsMade": attempts,
        "arrivalTimestamp": record.arrival,
        "attemptEndingTimestamp": ended,
        "lambdaARN": function,
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def conversion_failed(record: Record, code: str, message: str, ended: int, configuration: Configuration) -> bytes:
    """The document of one record unfit for the table; rawData is the record as the conversion saw it.

    https://docs.aws.amazon.com/firehose/latest/dev/record-format-conversion-error-handling.html
    """
    conversion = configuration.conversion
    assert conversion
    region, account = configuration.arn.split(":")[3:5]
    document = {
        "attemptsMade": 1,
        "arrivalTimestamp": record.arrival,
        "lastErrorCode": code,
        "lastErrorMessage": message,
        "attemptEndingTimestamp": ended,
        "rawData": base64.b64encode(record.data).decode(),
        "sequenceNumber": record.record_id,
        "subSequenceNumber": 0,
        "dataCatalogTable": {
            "catalogId": account,
            "databaseName": conversion.database,
            "tableName": conversion.table,
            "region": region,
            "versionId": "LATEST",
            "catalogArn": f"{configuration.glue_catalog}:catalog",
        },
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


# --- Objects --------------------------------------------------------------------------------------------------------


def object_key(configuration: Configuration, prefix: str, oldest: int, extension: str, error_type: str = "") -> str:
    """The key of one object: `<evaluated prefix><stream>-<version>-<yyyy-MM-dd-HH-mm-ss>-<uuid><extension>`.

    `oldest` is the arrival of its oldest record: https://docs.aws.amazon.com/firehose/latest/dev/s3-object-name.html
    """
    instant = datetime.fromtimestamp(oldest / 1000, UTC)
    suffix = f"{configuration.name}-{configuration.version}-{instant:%Y-%m-%d-%H-%M-%S}-{uuid.uuid4()}{extension}"
    return evaluate_prefix(prefix, oldest, error_type) + suffix


def compress(data: bytes, compression: str) -> bytes:
    """Compress an object as CompressionFormat says; Hadoop's Snappy is raw blocks under big-endian lengths."""
    if compression == "GZIP":
        return gzip.compress(data, mtime=0)
    if compression == "UNCOMPRESSED":
        return data
    framed = []
    for start in range(0, len(data), 256 * 1024):
        block = data[start : start + 256 * 1024]
        raw = bytes(cramjam.snappy.compress_raw(block))
        framed += [len(block).to_bytes(4, "big"), len(raw).to_bytes(4, "big"), raw]
    return b"".join(framed)


class Converted(NamedTuple):
    """A Parquet file (empty when no record fits), the records in it, and the failed ones with code and text."""

    body: bytes
    fitting: list[Record]
    failed: list[tuple[Record, str, str]]


class Misfit(ValueError):
    """A JSON value does not fit its column, or a column's type is not implemented."""


def column_types(table: GlueTable) -> dict[str, str]:
    """The Glue types of a table's columns by name, without partition keys; Misfit names one not implemented."""
    types = {column["Name"].lower(): column["Type"].lower() for column in table["StorageDescriptor"]["Columns"]}
    for name, kind in types.items():
        if kind not in _COLUMN_TYPES:
            options = ", ".join(_COLUMN_TYPES)
            raise Misfit(f"column {name} has type {kind}: the local Firehose converts to {options}")
    return types


def convert(records: Iterable[Record], table: GlueTable, codec: str, directory: Path) -> Converted:
    """Turn JSON records into one Parquet file with the table's columns; `directory` takes temporary files.

    Each record holds JSON objects, apart by whitespace or nothing; one unfit object fails its whole record. Values
    are checked here and DuckDB writes: its own reader tells keys apart by case, rounds 1.5 to an integer and drops the
    offset of a timestamp, where the OpenX SerDe does not.
    """
    types = column_types(table)
    cells = [(name, _COLUMN_TYPES[kind][1]) for name, kind in types.items()]
    fitting: list[Record] = []
    failed: list[tuple[Record, str, str]] = []
    with TemporaryDirectory(dir=directory) as folder:
        source, target = Path(folder, "rows.json"), Path(folder, "rows.parquet")
        with source.open("wb") as file:
            for record in records:
                try:
                    file.write(b"".join([_row(document, cells) for document in _documents(record.data)]))
                    fitting.append(record)
                except Misfit as problem:
                    text = f"Data does not match the schema. {problem}"
                    failed.append((record, "DataFormatConversion.MalformedData", text))
                except (ValueError, TypeError, RecursionError) as problem:
                    text = f"Encountered malformed JSON. {problem}"
                    failed.append((record, "DataFormatConversion.ParseError", text))
        if not fitting:
            return Converted(b"", fitting, failed)
        columns = ", ".join(f"{_quoted(name)}: '{_COLUMN_TYPES[kind][0]}'" for name, kind in types.items())
        rows = f"read_json({_quoted(str(source))}, format = 'newline_delimited', columns = {{{columns}}})"
        with duckdb.connect(config={"threads": 1, "memory_limit": "512MB"}) as database:
            database.execute(f"COPY (FROM {rows}) TO {_quoted(str(target))} (FORMAT parquet, CODEC {_quoted(codec)})")
        return Converted(target.read_bytes(), fitting, failed)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _documents(data: bytes) -> list[JsonObject]:
    """The JSON objects of one record; ValueError when it holds none, or anything else."""
    try:
        documents = [orjson.loads(line) for line in data.split(b"\n") if line and not line.isspace()]
    except orjson.JSONDecodeError:  # Not one object a line: perhaps many in a line, or one over many.
        text, documents = data.decode().strip(), []
        position = 0
        while position < len(text):
            document, position = _DECODER.raw_decode(text, position)
            documents.append(document)
            space = _SPACE.match(text, position)
            assert space  # the pattern matches everywhere, if only nothing
            position = space.end()
    if not documents:
        raise ValueError("The record holds no JSON object.")
    for document in documents:
        if not isinstance(document, dict):
            raise ValueError(f"Expected JSON objects (got {type(document).__name__}).")
    return documents


def _row(document: JsonObject, cells: list[tuple[str, Cell]]) -> bytes:
    """One line of JSON with the table's columns only; keys are compared in lower case, null is the same as absent."""
    lowered = {key.lower(): value for key, value in document.items()}
    if len(lowered) < len(document):
        raise ValueError("Two keys differ by case only.")
    row = {}
    for name, cell in cells:
        value = lowered.get(name)
        if value is not None:
            try:
                row[name] = cell(value)
            except (ValueError, OverflowError) as problem:
                raise Misfit(f"Column {name}: {problem} (got {str(value)[:80]!r})") from None
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _string(value: JsonValue) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _integer(bits: int) -> Callable[[JsonValue], int]:
    def cell(value: JsonValue) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,19}(\.0)?", str(value)):
            raise ValueError("not a whole number")
        number = int(str(value).removesuffix(".0"))
        if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
            raise ValueError(f"more than {bits} bits")
        return number

    return cell


def _double(value: JsonValue) -> float:
    if not re.fullmatch(r"[0-9.eE+-]+", str(value)) or abs(number := float(str(value))) == math.inf:
        raise ValueError("not a finite number")
    return number


def _boolean(value: JsonValue) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ValueError("not true or false")
    return str(value).lower() == "true"


_TIMESTAMP = re.compile(
    r"(?P<year>[0-9]{4})-((?P<m>[0-9]{2})-(?P<d>[0-9]{2})T|(?P<month>[0-9]{1,2})-(?P<day>[0-9]{1,2}) )"
    r"(?P<clock>[0-9]{2}:[0-9]{2}:[0-9]{2})(\.(?P<fraction>[0-9]{1,9}))?(?(m)Z)"
)


def _timestamp(value: JsonValue) -> str:
    """Milliseconds in UTC, from one of the forms of the OpenX SerDe; none of them has an offset like +02:00."""
    if match := _TIMESTAMP.fullmatch(str(value)):
        month, day, fraction = match["m"] or match["month"], match["d"] or match["day"], match["fraction"] or ""
        text = f"{match['year']}-{month:0>2}-{day:0>2} {match['clock']}.{fraction:0<3.3}"
        datetime.fromisoformat(text)
        return text
    if not re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]+)?", str(value)):
        raise ValueError("not a timestamp")
    number = float(str(value))
    # Epoch seconds keep ten digits for centuries; epoch milliseconds have thirteen.
    instant = datetime.fromtimestamp(number if abs(number) < 1e11 else number / 1000, UTC)
    return instant.replace(tzinfo=None).isoformat(" ", "milliseconds")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON.")


_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder(parse_constant=_no_constant)
# Glue type -> (DuckDB type, check of a JSON value). TIMESTAMP_MS is Parquet's TIMESTAMP of milliseconds.
_COLUMN_TYPES: dict[str, tuple[str, Cell]] = {
    "string": ("VARCHAR", _string),
    "boolean": ("BOOLEAN", _boolean),
    "int": ("INTEGER", _integer(32)),
    "bigint": ("BIGINT", _integer(64)),
    "double": ("DOUBLE", _double),
    "timestamp": ("TIMESTAMP_MS", _timestamp),
}
