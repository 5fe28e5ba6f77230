"""PutRecord and PutRecordBatch answer as those of AWS do, with the same limits."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.local.firehose.firehose_fakes import KEY, RECORD, FakeEmulator, encoded, properties, put, run, running, until

_BATCH = {"DeliveryStreamName": "events", "Records": [{"Data": encoded(b"x")}]}
_LARGEST = "Member must have length less than or equal to 1024000"
REFUSED_CALLS = {
    "no such stream": (
        "PutRecord",
        {**RECORD, "DeliveryStreamName": "none"},
        "ResourceNotFoundException",
        "none under",
    ),
    "no stream named": ("PutRecord", {"Record": {}}, "InvalidArgumentException", "deliveryStreamName"),
    "one byte too many": (
        "PutRecord",
        {**RECORD, "Record": {"Data": encoded(b"x" * 1_024_001)}},
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
    "data that is not base64": ("PutRecord", {**RECORD, "Record": {"Data": "x"}}, "SerializationException", "base64"),
    "data that is missing": ("PutRecord", {**RECORD, "Record": {}}, "SerializationException", "record.data"),
    "a record that is none": ("PutRecord", {**RECORD, "Record": "x"}, "SerializationException", "record.data"),
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
            body = {**RECORD, "Record": {"Data": encoded(b"x" * 1_024_000)}}
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
            assert (await firehose.request("PutRecord", RECORD, role))[0] == 200
            who = (role, "apigateway.amazonaws.com") if role else (emulator.session, "")
            assert (*who, action, KEY) in emulator.asked
            emulator.denied = {action}
            status, reply = await firehose.request("PutRecord", RECORD, role)
            assert (status, reply["__type"]) == (400, "InvalidKMSResourceException")
            assert KEY in reply["message"]
            emulator.session = ""  # the account's root
            assert (await firehose.request("PutRecord", RECORD, None))[0] == 200

    run(scenario())


def test_api_gateway_needs_its_own_role_to_put(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            _, attributes = firehose.create("Stream", properties(), "stack")
            role = "arn:aws:iam::000000000000:role/api"
            assert (await firehose.request("PutRecord", RECORD, role))[0] == 200
            assert (role, "apigateway.amazonaws.com", "firehose:PutRecord", attributes["Arn"]) in emulator.asked
            emulator.denied = {"firehose:PutRecord"}
            status, reply = await firehose.request("PutRecord", RECORD, role)
            assert (status, reply["__type"]) == (400, "AccessDeniedException")

    run(scenario())


def test_sdks_speak_json_1_1(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            firehose.register()
            firehose.create("Stream", properties(), "stack")
            serve = emulator.services["firehose"]
            headers = {"X-Amz-Target": "Firehose_20150804.PutRecord"}
            status, answered, body = await serve("POST", "/", headers, json.dumps(RECORD).encode(), {})
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
            status, reply = await firehose.request("PutRecord", {**RECORD, "Record": records[0]}, None)
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
