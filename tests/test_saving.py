"""What MiniStack holds is on disk before anybody builds on it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from local import saving
from local.saving import Saving

Json = dict[str, Any]


class Emulator:
    """An application that answers every request with `body`, and services whose state is written into `log`."""

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


async def call(application: Saving, target: str = "", body: bytes = b"", method: str = "POST", path: str = "/") -> None:
    """One request; its answer stands in the emulator's log."""
    emulator: Any = application.emulator

    async def receive() -> Json:
        return {"type": "http.request", "body": body}

    async def send(message: Json) -> None:
        emulator.log.append(message["type"].removeprefix("http.response."))

    scope = {"method": method, "path": path, "headers": [(b"x-amz-target", target.encode())] if target else []}
    await application(scope, receive, send)


def saving_of(emulator: Emulator) -> Saving:
    return Saving(emulator)  # type: ignore[arg-type]


CALLS = {
    "an item that is put": ("DynamoDB_20120810.PutItem", b"", True),
    "a message that is sent": ("AmazonSQS.SendMessage", b"", True),
    "a query of DynamoDB": ("DynamoDB_20120810.Query", b"", False),
    "a secret that is read": ("secretsmanager.GetSecretValue", b"", False),
    "partitions that are read": ("AWSGlue.BatchGetPartition", b"", False),
    "a stack that is described": ("", b"Action=DescribeStacks&Version=2010-05-15", False),
    "a stack that is made": ("", b"Action=CreateStack&Version=2010-05-15", True),
    "a query of Athena": ("AmazonAthena.StartQueryExecution", b"", False),
    "a record for Firehose": ("Firehose_20150804.PutRecord", b"", False),
}


@pytest.mark.parametrize(("target", "body", "changes"), CALLS.values(), ids=CALLS)
def test_a_call_that_only_reads_changes_nothing(target: str, body: bytes, changes: bool) -> None:
    application = saving_of(Emulator())
    asyncio.run(call(application, target, body))
    assert application.changed == changes


def test_a_metric_that_is_read_by_its_path_changes_nothing() -> None:
    application = saving_of(Emulator())
    path = "/service/GraniteServiceVersion20100801/operation/GetMetricStatistics"
    asyncio.run(call(application, path=path))
    assert not application.changed


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
    assert "write sqs" not in emulator.log
