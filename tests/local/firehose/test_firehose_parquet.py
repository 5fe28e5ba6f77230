"""Records become rows of Parquet as a table of Glue says, or fail by name."""

from __future__ import annotations

import io
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from local.firehose.objects import Record, convert
from tests.local.firehose.firehose_fakes import (
    ROLE,
    TABLE,
    FakeEmulator,
    conversion,
    encoded,
    parquet_file,
    properties,
    put,
    run,
    running,
    until,
)


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
