"""MiniStack's state is on disk before anybody builds on it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from local.ministack import saving
from local.ministack.saving import Saving

Json = dict[str, Any]


class Emulator:
    """An application that answers every request with `body`; its services write their state into `log`."""

    def __init__(self, body: bytes = b"{}") -> None:
        self.body = body
        self.log: list[str] = []
        self.gate: threading.Event | None = None
        self.on_change: Any = None

    def services(self) -> list[str]:
        return ["dynamodb", "sqs", "cloudformation"]

    def state(self, service: str) -> Json:
        self.log.append(f"copy {service}")
        if self.gate:
            self.gate.wait(5)
        return {}

    def write(self, service: str, state: Json | None) -> None:
        self.log.append(f"write {service}")

    async def app(self, scope: Json, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": self.body})


async def call(
    application: Saving, target: str = "", body: bytes = b"", method: str = "POST", path: str = "/", **headers: str
) -> None:
    """Send one request, by default a form; its answer is in the emulator's log."""
    emulator: Any = application.emulator

    async def receive() -> Json:
        return {"type": "http.request", "body": body}

    async def send(message: Json) -> None:
        emulator.log.append(message["type"].removeprefix("http.response."))

    given = {"content_type": "application/x-www-form-urlencoded; charset=utf-8", "x_amz_target": target, **headers}
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items() if value]
    path, _, query = path.partition("?")
    await application({"method": method, "path": path, "query_string": query.encode(), "headers": named}, receive, send)


def signed_for(service: str) -> str:
    return f"AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host"


def saving_of(emulator: Emulator) -> Saving:
    return Saving(emulator)


METRIC = "/service/GraniteServiceVersion20100801/operation/GetMetricStatistics"
CALLS: dict[str, tuple[Json, bool]] = {
    "an item that is put": ({"target": "DynamoDB_20120810.PutItem"}, True),
    "a message that is sent": ({"target": "AmazonSQS.SendMessage"}, True),
    "a query of DynamoDB": ({"target": "DynamoDB_20120810.Query"}, False),
    "a secret that is read": ({"target": "secretsmanager.GetSecretValue"}, False),
    "partitions that are read": ({"target": "AWSGlue.BatchGetPartition"}, False),
    "a stack that is described": ({"body": b"Action=DescribeStacks&Version=2010-05-15"}, False),
    "a stack that is made": ({"body": b"Version=2010-05-15&Action=CreateStack"}, True),
    "a stack that is made by its address": ({"path": "/?Action=CreateStack", "body": b"Action=ListStacks"}, True),
    "a user that is made with GET": ({"path": "/?Action=CreateUser", "method": "GET"}, True),
    "a user that is read with GET": ({"path": "/?Action=GetUser", "method": "GET"}, False),
    "an operation that nobody knows": ({"target": "DynamoDB_20120810.Getaway"}, True),
    "an operation that does more than read": ({"target": "DynamoDB_20120810.QueryAndDelete"}, True),
    "an object that is read": ({"path": "/bucket/key", "method": "GET"}, False),
    "an object that reads like an action": ({"path": "/bucket/key", "method": "PUT", "body": b"Action=GetUser"}, True),
    "an object whose key reads like an operation": ({"path": "/bucket/operation/GetUser", "method": "PUT"}, True),
    "an invocation": ({"path": "/x/invocations", "body": b"Action=GetUser", "content_type": ""}, True),
    "a metric that is read by its path": ({"path": METRIC, "smithy_protocol": "rpc-v2-cbor"}, False),
    "a query of Athena": ({"target": "AmazonAthena.StartQueryExecution"}, False),
    "a record for Firehose": ({"target": "Firehose_20150804.PutRecord"}, False),
}


@pytest.mark.parametrize(("arguments", "changes"), CALLS.values(), ids=CALLS)
def test_a_call_that_only_reads_changes_nothing(arguments: Json, changes: bool) -> None:
    application = saving_of(Emulator())
    asyncio.run(call(application, **arguments))
    assert application.changed == changes


@pytest.mark.parametrize(("body", "changes"), [(b'{"Messages": [{"ReceiptHandle": "x"}]}', True), (b"{}", False)])
def test_receiving_changes_a_queue_only_when_there_is_a_message(body: bytes, changes: bool) -> None:
    application = saving_of(Emulator(body))
    asyncio.run(call(application, "AmazonSQS.ReceiveMessage"))
    assert application.queues_changed == changes


@pytest.mark.parametrize("body", [b"Action=CreateUser", b"Action=AttachRolePolicy", b"Action=GetUser"])
def test_iam_is_on_disk_before_a_call_that_changes_it_is_answered(body: bytes) -> None:
    emulator = Emulator()
    asyncio.run(call(saving_of(emulator), body=body, authorization=signed_for("iam")))
    saved = ["copy iam", "write iam"] if body != b"Action=GetUser" else []
    assert emulator.log == [*saved, "start", "body"]


def test_a_message_that_is_sent_as_a_form_stands_on_disk_before_the_items_after_it() -> None:
    emulator = Emulator()
    application = saving_of(emulator)

    async def scenario() -> None:
        await call(application, body=b"Action=SendMessage", authorization=signed_for("sqs"))
        await call(application, "DynamoDB_20120810.PutItem")

    asyncio.run(scenario())
    assert emulator.log.index("write sqs") < emulator.log.index("write dynamodb")


def test_an_item_is_on_disk_before_its_call_is_answered_and_after_the_messages_before_it() -> None:
    emulator = Emulator()
    application = saving_of(emulator)

    async def scenario() -> None:
        await call(application, "AmazonSQS.SendMessage")
        await call(application, "DynamoDB_20120810.PutItem")

    asyncio.run(scenario())
    assert emulator.log == [
        *("start", "body"),
        *("copy dynamodb", "copy sqs", "write sqs", "write dynamodb", "start", "body"),
    ]


def test_calls_that_come_while_a_state_is_copied_share_the_next_write() -> None:
    emulator = Emulator()
    application = saving_of(emulator)

    async def scenario() -> None:
        emulator.gate = threading.Event()
        first = asyncio.create_task(call(application, "DynamoDB_20120810.PutItem"))
        while not emulator.log:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(call(application, "DynamoDB_20120810.PutItem")) for _ in range(5)]
        await asyncio.sleep(0.01)
        emulator.gate.set()
        await asyncio.gather(first, *others)

    asyncio.run(scenario())
    assert emulator.log.count("write dynamodb") == 2
    assert emulator.log.count("start") == 6


@pytest.mark.parametrize("status", ["UPDATE_COMPLETE", "ROLLBACK_COMPLETE"])
def test_a_stack_is_on_disk_once_before_anybody_reads_that_it_is_complete(status: str) -> None:
    emulator = Emulator(f"<StackId>s</StackId><StackStatus>{status}</StackStatus>".encode())
    application = saving_of(emulator)

    async def scenario() -> None:
        for _ in range(3):
            await call(application, body=b"Action=DescribeStacks")

    asyncio.run(scenario())
    assert emulator.log.index("write cloudformation") < emulator.log.index("body")
    assert emulator.log.count("write cloudformation") == 1


def test_a_stack_in_progress_is_not_written_by_being_described() -> None:
    emulator = Emulator(b"<StackId>s</StackId><StackStatus>CREATE_IN_PROGRESS</StackStatus>")
    asyncio.run(call(saving_of(emulator), body=b"Action=DescribeStacks"))
    assert emulator.log == ["start", "body"]


def test_the_state_is_saved_once_more_after_the_last_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack operation goes on after the call that began it."""
    monkeypatch.setattr(saving, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(saving, "LARGEST_SHARE", 1.0)
    emulator = Emulator()
    application = saving_of(emulator)
    emulator.on_change("cloudformation")

    async def live() -> None:
        task = asyncio.create_task(application.save_changes())
        await asyncio.sleep(0.2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(live())
    assert emulator.log.count("write cloudformation") == 2


def test_queues_are_saved_with_everything_else_since_a_stack_makes_them_too() -> None:
    emulator = Emulator()
    asyncio.run(saving_of(emulator).save())
    assert emulator.log.count("write sqs") == 1
