"""When MiniStack's state is written to disk, so that a killed process loses nothing that matters.

MiniStack itself saves when it stops. Here a call that changes items, secrets, the catalog or the list of executions is
answered when that is on disk; calls that come meanwhile share the next write. Writing a queue takes longer, the more
it holds. So messages follow within two seconds, but stand on disk before any item that is put after them: what
keeps account of messages never runs ahead of them. Everything else follows like messages, a stack before anybody reads
that it is complete. Where a round of writing takes long, there are fewer rounds.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qs

from local.emulator import Emulator

INTERVAL_SECONDS = 1.0
LARGEST_SHARE = 0.1
QUEUES = "sqs"
# The services whose calls are answered from the disk, by the name of their protocol and in MiniStack.
DURABLE = {
    b"DynamoDB_20120810": "dynamodb",
    b"secretsmanager": "secretsmanager",
    b"AWSGlue": "glue",
    b"AWSStepFunctions": "stepfunctions",
}
READS = re.compile(rb"(BatchGet|Describe|Filter|Get|Head|List|Query|ReceiveMessage|Scan)")
# The engines keep their own state.
ENGINES = (b"Firehose_20150804", b"AmazonAthena")
STACKS = re.compile(rb"<StackId>.+?</StackId>|<StackStatus>\w+</StackStatus>|<LastUpdatedTime>.+?</LastUpdatedTime>")

Message = MutableMapping[str, Any]


class Saving:
    """Saves what calls change; an ASGI application around MiniStack's."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.changed = self.queues_changed = False
        self.complete: list[bytes] = []
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.next: dict[str, asyncio.Task[None]] = {}
        emulator.on_change = self.note

    def note(self, service: str) -> None:
        """Something of a service has changed."""
        self.changed = True
        self.queues_changed = self.queues_changed or service == QUEUES

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Serve one request."""
        prefix, _, operation = dict(scope.get("headers", [])).get(b"x-amz-target", b"").partition(b".")
        operation = operation or scope["path"].partition("/operation/")[2].encode()
        is_read = prefix in ENGINES or scope["method"] in ("GET", "HEAD")

        async def receive_watching() -> Message:
            nonlocal operation
            message: Message = await receive()
            if not operation and b"Action=" in message.get("body", b"")[:4096]:
                operation = parse_qs(message["body"]).get(b"Action", [b""])[0]
            return message

        async def send_saved(message: Message) -> None:
            nonlocal is_read
            if message["type"] == "http.response.start":
                is_read = is_read or bool(READS.match(operation))
                if not is_read:
                    self.note(QUEUES if prefix == b"AmazonSQS" else "")
                if not is_read and prefix in DURABLE:
                    await self.save_next(DURABLE[prefix])
            elif b"_COMPLETE</StackStatus>" in (body := message.get("body", b"")):
                # A stack goes on changing after the call that began it.
                stacks = STACKS.findall(body)
                if stacks != self.complete:
                    await self.save()
                    self.complete = stacks
            await send(message)

        await self.emulator.app(scope, receive_watching, send_saved)

    async def save_next(self, service: str) -> None:
        """Save a service's state as it is now or later."""
        if service not in self.next:
            self.next[service] = asyncio.create_task(self._save_one(service))
        await asyncio.shield(self.next[service])

    async def _save_one(self, service: str) -> None:
        async with self.locks[service]:
            self.next.pop(service, None)
            state = await asyncio.to_thread(self.emulator.state, service)
            await self._save_queues()  # between the two, so that no state on disk knows of messages that are not
            await asyncio.to_thread(self.emulator.write, service, state)

    async def _save_queues(self) -> None:
        async with self.locks[QUEUES]:
            if self.queues_changed:
                self.queues_changed = False
                state = await asyncio.to_thread(self.emulator.state, QUEUES)
                await asyncio.to_thread(self.emulator.write, QUEUES, state)

    async def save(self) -> None:
        """Save the state of every service."""
        for service in set(self.emulator.services()) - {QUEUES}:
            await self._save_one(service)
        await self._save_queues()

    async def save_changes(self) -> None:
        """Keep the state on disk no older than a second or two."""
        unsaved, took = False, 0.0
        while True:
            await asyncio.sleep(max(INTERVAL_SECONDS, took / LARGEST_SHARE))
            # A stack operation goes on after the call that began it: one more look follows the last call.
            if self.changed or unsaved:
                unsaved, self.changed = self.changed, False
                began = time.monotonic()
                await self.save()
                took = time.monotonic() - began
