"""A delivery stream's objects: their keys, their compression, and the times of their writing."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cramjam
import pytest

from local.firehose import stream as firehose_stream
from local.firehose.configuration import check_prefix, configure, conform, evaluate_prefix
from local.firehose.objects import compress, object_key
from tests.local.firehose.firehose_fakes import (
    FakeEmulator,
    answer,
    encoded,
    processing,
    properties,
    put,
    run,
    running,
    until,
)

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
