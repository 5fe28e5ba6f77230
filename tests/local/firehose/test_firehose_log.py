"""Acknowledged records survive a killed process, a torn log and a jumping clock, and are delivered once."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local.firehose import engine as firehose_engine
from local.firehose import log as firehose_log
from local.firehose.buffer import RECORD_OVERHEAD
from local.firehose.engine import Limits
from local.firehose.log import Log
from local.firehose.objects import Record
from local.firehose.service import Firehose
from tests.factories import stand_in
from tests.local.firehose.firehose_fakes import (
    ENABLED_BACKUP,
    LIMITS,
    RECORD,
    FakeEmulator,
    kill,
    processing,
    properties,
    put,
    run,
    running,
    until,
)

# --- What is acknowledged is on disk --------------------------------------------------------------------------------


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
        first = Firehose(emulator, tmp_path, Limits(**LIMITS))
        await first.start()
        first.create("Stream", properties(BufferingHints={"IntervalInSeconds": "100", "SizeInMBs": "5"}), "stack")
        await put(first, b"one ")
        with monkeypatch.context() as patch:
            patch.setattr(firehose_log, "os", stand_in(os, fsync=full))
            status, reply = await first.request("PutRecord", RECORD, None)
            assert (status, reply["__type"]) == (500, "ServiceUnavailableException")
        await put(first, b"two")
        assert first.streams["events"].held == len("one two") + 2 * RECORD_OVERHEAD
        await kill(first)
        async with running(emulator, tmp_path, second=0.0005):
            await until(lambda: emulator.content() == b"one two", "delivery of what was acknowledged")

    run(scenario())


# --- A new process --------------------------------------------------------------------------------------------------


def test_acknowledged_records_survive_a_killed_process_and_are_delivered_once(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    async def scenario() -> None:
        changes = {"ProcessingConfiguration": processing(), **ENABLED_BACKUP}
        first = Firehose(emulator, tmp_path, Limits(**LIMITS))
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
        changes = json.loads(json.dumps(ENABLED_BACKUP))
        changes["S3BackupConfiguration"]["BufferingHints"]["IntervalInSeconds"] = backup
        changes["BufferingHints"] = {"IntervalInSeconds": main, "SizeInMBs": "5"}
        first = Firehose(emulator, tmp_path, Limits(**LIMITS))
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
        first = Firehose(emulator, tmp_path, Limits(**LIMITS))
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
        first = Firehose(emulator, tmp_path, Limits(**LIMITS, segment=1000))
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

            emulator.put_object = slow
            firehose.create("Stream", properties(), "stack")
            await put(firehose, b"under way")
            await started.wait()
        assert emulator.content() == b"under way"
        assert not list(tmp_path.glob("*/*.log"))

    run(scenario())


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[Record]]:
    """An earlier process's log of three records."""
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
    """The clock of a laptop after sleep, of a restored virtual machine, or of somebody trying dates."""
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
