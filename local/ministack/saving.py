"""When MiniStack's state is written to disk, so a killed process loses nothing important.

MiniStack itself saves when it stops. Here a call changing items, secrets, the catalog, IAM or the list of executions is
answered when the change is on disk; calls coming meanwhile share the next write. A state is written whole, and queues
of 10,000 messages take seconds: too long for each of the calls filling them. So messages follow within two seconds
while there are few, but are on disk before any item put after them: no item on disk knows of a lost message.
Everything else follows like messages, a stack before anybody reads of its completion. Where a round of writing takes
long, there are fewer rounds.

A call changes something unless its operation is named like a read, such as Get or List.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict

from local.asgi import Message, Receive, Scope, Send
from local.ministack import Emulator

INTERVAL_SECONDS = 1.0
LARGEST_SHARE = 0.1
QUEUES = "sqs"
# MiniStack's names of the queues, and of the services whose calls are answered from the disk: by the prefix of the
# target where a call has one, and else by the service in its signature.
SERVICES = {
    b"AmazonSQS": QUEUES,
    b"sqs": QUEUES,
    b"DynamoDB_20120810": "dynamodb",
    b"secretsmanager": "secretsmanager",
    b"AWSGlue": "glue",
    b"AWSStepFunctions": "stepfunctions",
    b"iam": "iam",
}
SIGNED_FOR = re.compile(rb"Credential=(?:[^/]+/){3}([^/]+)/aws4_request")
FORM = b"application/x-www-form-urlencoded"
ACTION = re.compile(rb"(?:^|&)Action=(\w+)")
READS = re.compile(rb"(BatchGet|Describe|Filter|Get|List|TransactGet)[A-Z]\w+|Query|Scan")
# The engines keep their own state.
ENGINES = (b"Firehose_20150804", b"AmazonAthena")
STACKS = re.compile(rb"<StackId>.+?</StackId>|<StackStatus>\w+</StackStatus>|<LastUpdatedTime>.+?</LastUpdatedTime>")


class Saving:
    """Saves the changes of calls; an ASGI application around MiniStack's."""

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers, method = dict(scope.get("headers", [])), scope["method"]
        target, _, operation = headers.get(b"x-amz-target", b"").partition(b".")
        signed = SIGNED_FOR.search(headers.get(b"authorization", b""))
        service = SERVICES.get(target or (signed[1] if signed else b""), "")
        if not operation and b"smithy-protocol" in headers:
            operation = scope["path"].partition("/operation/")[2].encode()
        operations = [operation] if operation else ACTION.findall(scope.get("query_string", b""))
        is_form = method == "POST" and headers.get(b"content-type", b"").startswith(FORM)

        async def receive_watching() -> Message:
            message = await receive()
            if is_form and not operation:
                operations.extend(ACTION.findall(message.get("body", b"")))
            return message

        async def send_saved(message: Message) -> None:
            body = message.get("body", b"")
            if message["type"] == "http.response.start":
                reads = all(map(READS.fullmatch, operations)) if operations else method in ("GET", "HEAD")
                if not reads and target not in ENGINES and operations != [b"ReceiveMessage"]:
                    self.note(service)
                    if service not in ("", QUEUES):
                        await self.save_next(service)
            elif operations == [b"ReceiveMessage"] and b"ReceiptHandle" in body:
                self.note(QUEUES)
            elif b"_COMPLETE</StackStatus>" in body:
                # A stack goes on changing after its first call.
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
            await self._save_queues()  # between the two: no state on disk knows of messages missing there
            await asyncio.to_thread(self.emulator.write, service, state)

    async def _save_queues(self) -> None:
        async with self.locks[QUEUES]:
            if self.queues_changed:
                self.queues_changed = False
                state = await asyncio.to_thread(self.emulator.state, QUEUES)
                await asyncio.to_thread(self.emulator.write, QUEUES, state)

    async def save(self) -> None:
        """Save the state of every service."""
        self.queues_changed = True  # by a stack, a topic, a schedule or a state machine, unknown here
        for service in set(self.emulator.services()) - {QUEUES}:
            await self._save_one(service)
        await self._save_queues()

    async def save_changes(self) -> None:
        """Keep the state on disk no older than a second or two."""
        unsaved, took = False, 0.0
        while True:
            await asyncio.sleep(max(INTERVAL_SECONDS, took / LARGEST_SHARE))
            # A stack operation goes on after its first call: one more look follows the last call.
            if self.changed or unsaved:
                unsaved, self.changed = self.changed, False
                began = time.monotonic()
                await self.save()
                took = time.monotonic() - began
