"""Delayed deliveries, the backup, and streams changed or deleted under way."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local.firehose.service import Firehose
from tests.local.firehose.firehose_fakes import (
    ENABLED_BACKUP,
    KEY,
    RECORD,
    ROLE,
    TABLE,
    FakeEmulator,
    answer,
    conversion,
    parquet_file,
    processing,
    properties,
    put,
    run,
    running,
    until,
)

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


# --- Backup ---------------------------------------------------------------------------------------------------------


def test_the_backup_holds_every_record_as_it_came(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.reply = lambda event: answer(event, "Dropped")
            backup = json.loads(json.dumps(ENABLED_BACKUP))
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
            firehose.update("events", properties(), properties(**ENABLED_BACKUP), "stack")
            await asyncio.sleep(0)
            await put(firehose, b"after")
            await until(lambda: emulator.content("raw/") == b"after" and emulator.content() == b"before after", "both")
            for mode in ("Disabled",):
                with pytest.raises(ValueError, match="S3BackupMode cannot be disabled"):
                    firehose.update("events", {}, properties(S3BackupMode=mode), "stack")

    run(scenario())


# --- Update and delete ----------------------------------------------------------------------------------------------


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
    firehose = Firehose(emulator, tmp_path)
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
    firehose = Firehose(emulator, tmp_path)
    before = {"ProcessingConfiguration": processing(), "DataFormatConversionConfiguration": conversion("GZIP")}
    firehose.create("Stream", properties(**before, **ENABLED_BACKUP), "stack")
    role = ROLE.replace("stream", "other")
    backup = {**ENABLED_BACKUP["S3BackupConfiguration"], "CompressionFormat": "GZIP"}
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
    firehose.update("events", {}, properties(**ENABLED_BACKUP), "stack")
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
            status, reply = await firehose.request("PutRecord", RECORD, None)
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
