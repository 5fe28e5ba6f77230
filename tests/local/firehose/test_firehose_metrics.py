"""A delivery stream's metrics in CloudWatch: its intake, the outcomes, and the refusals."""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local.cloudwatch import metrics
from local.ministack import Invocation
from tests.local.firehose.firehose_fakes import (
    ENABLED_BACKUP,
    FakeEmulator,
    answer,
    conversion,
    processing,
    properties,
    put,
    run,
    running,
    until,
)

EVENTS = (b'{"name": "a", "value": 1}\n', b'{"name": "b", "value": 2}\n', b'{"name": "c", "value": "x"}\n')


def sums(emulator: FakeEmulator) -> dict[str, tuple[int, float]]:
    """The count and the sum of each metric's values."""
    found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for datum in emulator.metrics:
        count, total = found[datum.name]
        found[datum.name] = (count + datum.count, total + datum.sum)
    return dict(found)


def observe(tmp_path: Path, emulator: FakeEmulator, condition: Callable[[], object], **changes: Any) -> dict[str, Any]:
    """The metrics of a stream after it has taken EVENTS and stopped."""

    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.create("Stream", properties(**changes), "stack")
            await put(firehose, *EVENTS)
            await until(condition, "the end")

    run(scenario())
    return sums(emulator)


def unchanged(event: dict[str, Any]) -> dict[str, Any]:
    return answer(event, change=bytes)


def test_records_and_bytes_are_counted_in_and_out(tmp_path: Path) -> None:
    emulator = FakeEmulator()
    found = observe(tmp_path, emulator, lambda: emulator.under("events/"))
    size = sum(map(len, EVENTS))
    assert found.pop("DeliveryToS3.DataFreshness")[0] == 1
    assert found == {
        "IncomingRecords": (1, 3),
        "IncomingBytes": (1, size),
        "DeliveryToS3.Success": (1, 1),
        "DeliveryToS3.Records": (1, 3),
        "DeliveryToS3.Bytes": (1, size),
    }
    units = {datum.name: datum.unit for datum in emulator.metrics}
    assert units["IncomingRecords"] == "Count"
    assert units["IncomingBytes"] == "Bytes"
    assert units["DeliveryToS3.DataFreshness"] == "Seconds"


def test_the_transform_and_the_conversion_say_how_many_records_they_managed(tmp_path: Path) -> None:
    emulator = FakeEmulator()
    emulator.reply = unchanged
    found = observe(
        tmp_path,
        emulator,
        lambda: emulator.under("errors/format-conversion-failed/"),
        ProcessingConfiguration=processing(),
        DataFormatConversionConfiguration=conversion(),
    )
    assert found["ExecuteProcessing.Success"] == (1, 1)
    assert found["ExecuteProcessing.Duration"][0] == 1
    assert found["SucceedProcessing.Records"] == (1, 3)
    assert found["SucceedProcessing.Bytes"] == (1, sum(map(len, EVENTS)))
    assert found["SucceedConversion.Records"] == (1, 2)
    assert found["FailedConversion.Records"] == (1, 1)
    # Two objects were put; both count, with the bytes sent.
    assert found["DeliveryToS3.Success"] == (2, 2)
    assert found["DeliveryToS3.Records"] == (2, 3)
    assert found["DeliveryToS3.Bytes"] == (2, sum(map(len, EVENTS)))


def test_each_try_of_the_transform_counts_for_itself(tmp_path: Path) -> None:
    emulator = FakeEmulator()
    emulator.reply = lambda event: Invocation(200, "Unhandled", b"{}")
    found = observe(
        tmp_path,
        emulator,
        lambda: emulator.under("errors/processing-failed/"),
        ProcessingConfiguration=processing(),
    )
    assert found["ExecuteProcessing.Success"] == (2, 0)
    assert found["SucceedProcessing.Records"] == (1, 0)
    assert found["DeliveryToS3.Records"] == (1, 3)


def test_a_dropped_record_is_not_counted_as_processed(tmp_path: Path) -> None:
    emulator = FakeEmulator()

    def reply(event: dict[str, Any]) -> dict[str, Any]:
        replied = unchanged(event)
        replied["records"][0]["result"] = "Dropped"
        return replied

    emulator.reply = reply
    found = observe(tmp_path, emulator, lambda: emulator.under("events/"), ProcessingConfiguration=processing())
    assert found["SucceedProcessing.Records"] == (1, 2)


def test_a_delivery_that_fails_grows_old(tmp_path: Path) -> None:
    emulator = FakeEmulator()
    emulator.missing_bucket = True
    found = observe(tmp_path, emulator, lambda: len(emulator.lines) >= 3)
    assert found["DeliveryToS3.Success"][0] >= 3
    assert found["DeliveryToS3.Success"][1] == 0
    ages = [datum for datum in emulator.metrics if datum.name == "DeliveryToS3.DataFreshness"]
    assert max(datum.maximum for datum in ages) > min(datum.minimum for datum in ages)


def test_a_backup_has_metrics_of_its_own(tmp_path: Path) -> None:
    emulator = FakeEmulator()
    found = observe(tmp_path, emulator, lambda: emulator.under("raw/") and emulator.under("events/"), **ENABLED_BACKUP)
    assert found["BackupToS3.Success"] == found["DeliveryToS3.Success"] == (1, 1)
    assert found["BackupToS3.Records"] == (1, 3)


def test_what_is_refused_is_counted_as_throttled(tmp_path: Path) -> None:
    emulator = FakeEmulator()

    async def scenario() -> None:
        async with running(emulator, tmp_path, memory=1000) as firehose:
            firehose.create("Stream", properties(), "stack")
            records = [{"Data": base64.b64encode(b"x" * 300).decode()}] * 4
            _, reply = await firehose.request(
                "PutRecordBatch", {"DeliveryStreamName": "events", "Records": records}, None
            )
            assert reply["FailedPutCount"] == 3
            status, _ = await firehose.request(
                "PutRecord", {"DeliveryStreamName": "events", "Record": {"Data": "eHh4" * 200}}, None
            )
            assert status == 500

    asyncio.run(scenario())
    assert sums(emulator)["ThrottledRecords"] == (2, 4)


def test_values_are_collected_and_put_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FLUSH_SECONDS", 0.02)
    emulator = FakeEmulator()

    async def scenario() -> None:
        collector = metrics.Metrics(emulator, "AWS/Firehose", {"DeliveryStreamName": "events"})
        for value in (3, 1, 2):
            collector.add(IncomingBytes=value)
        assert not emulator.metrics
        await asyncio.sleep(0.05)
        collector.add(IncomingBytes=7)
        collector.flush()

    asyncio.run(scenario())
    first, second = emulator.metrics
    assert (first.count, first.sum, first.minimum, first.maximum) == (3, 6, 1, 3)
    assert (second.count, second.sum) == (1, 7)
