"""The function of a delivery stream: when it is called, its input, and the effect of each of its replies."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from local.firehose.engine import Limits
from local.firehose.objects import Record, Verdict, read_transform_reply, transform_event
from local.ministack import Invocation, ServiceError
from tests import factories
from tests.local.firehose.firehose_fakes import (
    FUNCTION,
    ROLE,
    FakeEmulator,
    Reply,
    answer,
    encoded,
    lambda_processor,
    processing,
    properties,
    put,
    run,
    running,
    until,
)


def test_the_function_gets_the_documented_event_and_its_data_is_delivered(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            _, attributes = firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            identifiers = await put(firehose, b"one\n", b"two\n")
            await until(lambda: emulator.content() == b"ONE\nTWO\n", "delivery")
            (event,) = emulator.events
            assert event["deliveryStreamArn"] == attributes["Arn"]
            assert (event["region"], len(event["invocationId"])) == ("us-east-1", 36)
            # The producer was told other ids.
            ids = [record["recordId"] for record in event["records"]]
            assert len({*ids, *identifiers}) == 4
            assert [base64.b64decode(record["data"]) for record in event["records"]] == [b"one\n", b"two\n"]
            assert abs(event["records"][0]["approximateArrivalTimestamp"] - time.time() * 1000) < 10_000
            for action in ("lambda:InvokeFunction", "lambda:GetFunctionConfiguration"):
                assert (ROLE, "firehose.amazonaws.com", action, FUNCTION) in emulator.asked

    run(scenario())


def test_each_record_goes_where_its_result_says(emulator: FakeEmulator, tmp_path: Path) -> None:
    def reply(event: dict[str, Any]) -> Any:
        replied = answer(event)
        for record, result in zip(replied["records"], ("Ok", "Dropped", "ProcessingFailed", "Ok"), strict=True):
            record["result"] = result
        return replied

    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.reply = reply
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            before = time.time_ns() // 1_000_000
            await put(firehose, b"kept ", b"dropped ", b"failed", b"kept too")
            await until(lambda: emulator.content() and emulator.documents(), "delivery")
            assert emulator.content() == b"KEPT KEPT TOO"
            (document,) = emulator.documents()
            as_aws_writes_it = factories.envelopes()[0]
            assert [*document] == [*as_aws_writes_it]
            assert [*map(type, document.values())] == [*map(type, as_aws_writes_it.values())]
            arrived, ended = document.pop("arrivalTimestamp"), document.pop("attemptEndingTimestamp")
            assert before <= arrived <= ended <= before + 10_000
            assert document == {
                "attemptsMade": 1,
                "errorCode": "Lambda.ProcessingFailedStatus",
                "errorMessage": "ProcessingFailed status set for record",
                "rawData": encoded(b"failed"),
                "lambdaARN": FUNCTION,
            }
            group, stream, line = emulator.lines[0]
            assert (group, stream, line["errorCode"], line["processor"]) == (
                "group",
                "delivery",
                "Lambda.ProcessingFailedStatus",
                FUNCTION,
            )
            (key,) = emulator.under("errors/")
            assert re.match(r"errors/processing-failed/dt=\d{4}-\d\d-\d\d/events-1-", key)
            await until(lambda: not list(tmp_path.glob("*/*.log")), "an empty log")
            assert firehose.streams["events"].held == 0

    run(scenario())


def _changed(**changes: Any) -> Reply:
    def reply(event: dict[str, Any]) -> Any:
        replied = answer(event)
        replied["records"][0].update(changes)
        return replied

    return reply


def _last_only(event: dict[str, Any]) -> Any:
    return {"records": answer(event)["records"][1:]}


def _first_twice(event: dict[str, Any]) -> Any:
    return {"records": answer(event)["records"] + answer(event)["records"][:1]}


# What the reply does to the first of two records; the error code and part of the message.
FAIL_ALONE: dict[str, tuple[Reply, str, str]] = {
    "a missing recordId": (_last_only, "Lambda.MissingRecordId", "were not returned"),
    "a duplicate recordId": (_first_twice, "Lambda.DuplicatedRecordId", "the same record Id"),
    "a recordId replaced": (_changed(recordId="other"), "Lambda.MissingRecordId", "were not returned"),
    "Ok without data": (_changed(data=None), "Lambda.InvalidReturnFormat", "data field cannot be null"),
    "ProcessingFailed without data": (
        _changed(result="ProcessingFailed", data=None),
        "Lambda.ProcessingFailedStatus",
        "ProcessingFailed status",
    ),
}


@pytest.mark.parametrize(("reply", "code", "message"), FAIL_ALONE.values(), ids=FAIL_ALONE)
def test_a_record_that_the_reply_fails_fails_alone_and_is_final(
    emulator: FakeEmulator, tmp_path: Path, reply: Reply, code: str, message: str
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.reply = reply
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"first", b"second")
            await until(lambda: emulator.documents() and emulator.content(), "both objects")
            (document,) = emulator.documents()
            assert (document["rawData"], document["errorCode"]) == (encoded(b"first"), code)
            assert (document["attemptsMade"], len(emulator.events)) == (1, 1)
            assert message in document["errorMessage"]
            assert emulator.content() == b"SECOND"
            assert emulator.codes() == [code]
            await until(lambda: not list(tmp_path.glob("*/*.log")), "an empty log")
            assert firehose.streams["events"].held == 0

    run(scenario())


def test_a_dropped_record_needs_no_data_and_an_id_that_was_never_sent_is_ignored(
    emulator: FakeEmulator, tmp_path: Path
) -> None:
    def reply(event: dict[str, Any]) -> Any:
        first, second = answer(event)["records"]
        dropped = {"recordId": first["recordId"], "result": "Dropped"}
        return {"records": [dropped, second, {**second, "recordId": "unknown"}]}

    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.reply = reply
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"first", b"second")
            await until(lambda: not list(tmp_path.glob("*/*.log")), "an empty log")
            assert emulator.content() == b"SECOND"
            assert not emulator.under("errors/")

    run(scenario())


def _always(reply: Any) -> Reply:
    return lambda event: reply


async def _sleep(event: dict[str, Any]) -> Any:
    await asyncio.sleep(5)


_UNHANDLED = b'{"errorMessage": "boom", "errorType": "ValueError"}'
_SANDBOX = b'{"errorType": "Sandbox.Timedout", "errorMessage": "RequestId: x Error: Task timed out after 3.00 seconds"}'
_ERROR_RESULT = "returned an error result"
_FORMAT = "the output is in required format"


# reply, error code, attempts with NumberOfRetries 1, part of the message
FAILURES: dict[str, tuple[Reply, str, int, str]] = {
    "a wrong result": (_changed(result="OK"), "Lambda.FunctionError", 1, _FORMAT),
    "no result": (_changed(result=None), "Lambda.FunctionError", 1, _FORMAT),
    "bad base64": (_changed(data="%%%"), "Lambda.FunctionError", 1, _FORMAT),
    "data that is a number": (_changed(data=1), "Lambda.FunctionError", 1, _FORMAT),
    "no records": (_always({}), "Lambda.MissingRecordId", 1, "were not returned"),
    "null": (_always(None), "Lambda.MissingRecordId", 1, "were not returned"),
    "records that are an object": (_always({"records": {}}), "Lambda.MissingRecordId", 1, "were not returned"),
    "records that are numbers": (_always({"records": [1, 2]}), "Lambda.JsonProcessingException", 1, "parsing"),
    "records with lists for ids": (
        _always({"records": [{"recordId": []}]}),
        "Lambda.JsonProcessingException",
        1,
        "parsing",
    ),
    "not JSON": (_always(Invocation(200, None, b"<html>")), "Lambda.JsonProcessingException", 1, "parsing"),
    "an exception": (_always(Invocation(200, "Unhandled", _UNHANDLED)), "Lambda.FunctionError", 2, _ERROR_RESULT),
    "its own timeout": (_always(Invocation(200, "Unhandled", _SANDBOX)), "Lambda.FunctionError", 2, _ERROR_RESULT),
    "over 6 MB": (_always(Invocation(200, None, b" " * 6_291_557)), "Lambda.FunctionError", 2, _ERROR_RESULT),
    "Firehose's timeout": (_sleep, "Lambda.FunctionTimedOut", 2, "timed out"),
    "throttling": (_always(Invocation(429, None, b"slow")), "Lambda.InvokeLimitExceeded", 2, "slow"),
    "no function": (_always(Invocation(404, None, b"none")), "Lambda.ResourceNotFound", 2, "none"),
    "a refusal": (_always(ServiceError(403, "AccessDenied", "no")), "Lambda.InvokeAccessDenied", 2, "no"),
    "a service at fault": (_always(Invocation(500, None, b"oops")), "Lambda.InvokeFailed", 2, "oops"),
    "a fault of the emulator": (_always(KeyError("bug")), "InternalError", 2, "bug"),
}


@pytest.mark.parametrize(("reply", "code", "attempts", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_invocation_is_retried_a_malformed_reply_is_not_and_both_fail_the_batch(
    emulator: FakeEmulator, tmp_path: Path, reply: Reply, code: str, attempts: int, message: str
) -> None:
    async def scenario() -> None:
        limits = {"function_timeout": 2} if reply is _sleep else {}
        async with running(emulator, tmp_path, **limits) as firehose:
            emulator.reply = reply
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"first", b"second")
            await until(emulator.documents, "an error object")
            documents = emulator.documents()
            assert [document["rawData"] for document in documents] == [encoded(b"first"), encoded(b"second")]
            assert {(document["errorCode"], document["attemptsMade"]) for document in documents} == {(code, attempts)}
            assert message in documents[0]["errorMessage"]
            assert len(emulator.events) == attempts
            assert emulator.codes() == [code]
            assert not emulator.under("events/")

    run(scenario())


@pytest.mark.parametrize(
    ("denied", "code"),
    [
        pytest.param("lambda:InvokeFunction", "Lambda.InvokeAccessDenied", id="invoke"),
        pytest.param("lambda:GetFunctionConfiguration", "Lambda.InvokeAccessDenied", id="get configuration"),
    ],
)
def test_a_role_that_may_not_invoke_fails_the_batch(
    emulator: FakeEmulator, tmp_path: Path, denied: str, code: str
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            emulator.denied = {denied}
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"first")
            await until(emulator.documents, "an error object")
            assert (emulator.documents()[0]["errorCode"], emulator.documents()[0]["attemptsMade"]) == (code, 2)
            assert emulator.events == []

    run(scenario())


def test_a_retry_that_succeeds_leaves_no_trace(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            replies: Any = itertools.chain([Invocation(429, None, b"")], itertools.repeat(None))
            emulator.reply = lambda event: next(replies) or answer(event)
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"x")
            await until(lambda: emulator.content() == b"X", "delivery")
            assert emulator.codes() == []

    run(scenario())


def test_a_failed_status_after_a_retry_counts_both_attempts(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            replies: Any = itertools.chain([Invocation(429, None, b"")], itertools.repeat(None))
            emulator.reply = lambda event: next(replies) or answer(event, "ProcessingFailed")
            firehose.create("Stream", properties(ProcessingConfiguration=processing()), "stack")
            await put(firehose, b"x")
            await until(emulator.documents, "an error object")
            (document,) = emulator.documents()
            assert (document["errorCode"], document["attemptsMade"]) == ("Lambda.ProcessingFailedStatus", 2)

    run(scenario())


def test_a_request_stays_below_6_mb_and_five_are_outstanding_at_most(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def slow(event: dict[str, Any]) -> Any:
        await asyncio.sleep(0.05)
        return answer(event)

    async def scenario() -> None:
        async with running(emulator, tmp_path, memory=256 * 2**20) as firehose:
            emulator.reply = slow
            processor = lambda_processor(BufferSizeInMBs="3")
            firehose.create("Stream", properties(ProcessingConfiguration=processing(processor)), "stack")
            await asyncio.gather(*(put(firehose, *[b"x" * 1_000_000] * 4) for _ in range(6)))
            tiny = [b"y"] * 500
            await asyncio.gather(*(put(firehose, *tiny) for _ in range(100)))
            await until(lambda: len(emulator.content()) == 24_000_000 + 50_000, "delivery of every byte")
            assert max(event["bytes"] for event in emulator.events) <= 6_000_000
            assert emulator.most_invoking == 5

    run(scenario())


def test_the_processor_buffer_is_sent_when_it_is_full_or_old(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            processor = lambda_processor(BufferSizeInMBs="0.2", BufferIntervalInSeconds="900")
            firehose.create("Stream", properties(ProcessingConfiguration=processing(processor)), "stack")
            await put(firehose, b"x" * 200_000)
            await asyncio.sleep(0.05)
            assert emulator.events == []
            await put(firehose, b"x" * 20_000)
            await until(lambda: emulator.events, "an invocation by size")

    run(scenario())


def test_the_processor_buffer_waits_no_longer_than_its_limit(emulator: FakeEmulator, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path, second=1, transform_interval=Limits.transform_interval) as firehose:
            processor = lambda_processor(BufferIntervalInSeconds="900")
            firehose.create("Stream", properties(ProcessingConfiguration=processing(processor)), "stack")
            await put(firehose, b"x")
            await until(lambda: emulator.events, "an invocation by time")

    run(scenario())


@pytest.mark.parametrize("enabled", [{"Enabled": "false"}, {}], ids=["false", "left out"])
def test_a_processing_configuration_that_is_not_switched_on_transforms_nothing(
    emulator: FakeEmulator, tmp_path: Path, enabled: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with running(emulator, tmp_path) as firehose:
            off = {"Processors": processing()["Processors"], **enabled}
            firehose.create("Stream", properties(ProcessingConfiguration=off), "stack")
            await put(firehose, b"a", b"b")
            await until(lambda: emulator.content() == b"ab", "delivery")
            assert emulator.events == []

    run(scenario())


def test_the_reply_follows_the_order_of_the_records_not_its_own() -> None:
    records = [Record(1, 1000, b"a"), Record(2, 2000, b"b")]
    event = json.loads(transform_event("id", "arn:aws:firehose:us-east-1:0:x", records))
    replied = answer(event)
    replied["records"].reverse()
    assert read_transform_reply(json.dumps(replied).encode(), records) == [Verdict(b"A"), Verdict(b"B")]
