"""A source with everything around it: an API on 127.0.0.1, the worker, the steps of the state machine, and a table."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from stacks.pull.function.client import Client
from stacks.pull.function.fetch import Worker, settle
from stacks.pull.function.parts import Parts
from stacks.pull.function.run import Runner
from stacks.pull.function.source import Source
from stacks.pull.function.store import Store, TaskKey
from tests.pull_api import Asked, Clock, Json, MemoryQueue, Told

TOKEN = "sesame-4711-open"
SECRETS: dict[str, Any] = {
    "things": TOKEN,
    "machine": {"client_id": "me", "client_secret": "kept-by-me-0815"},
}
RETRY_HOURS = 2
ROWS_A_PAGE = 3
TOTAL = 11
THINGS = [
    {"id": f"thing-{number}", "size": number / 2, "at": f"2026-01-01T00:00:{number:02d}Z"} for number in range(TOTAL)
]
PAGES = -(-TOTAL // ROWS_A_PAGE)


class Killed(BaseException):
    """The worker's process ends here."""


class Pulled:
    """One source with everything around it; `events` has the events put on the stream, in order."""

    def __init__(self, table: Any, declaration: Json, *others: Json) -> None:
        self.clock = Clock()
        self.queue = MemoryQueue(self.clock)
        self.store = Store(table, self.clock)
        self.source = Source(declaration["name"], declaration)
        self.events: list[Json] = []
        self.refusals = 0
        self.sources = {each["name"]: Source(each["name"], each) for each in others} | {self.source.name: self.source}
        self.client = Client("secret", self.clock)
        parts = Parts(
            self.sources, self.store, self.queue, self.client, RETRY_HOURS * 3600, self.clock, self.clock.sleep
        )
        self.runner = Runner(parts)
        self.worker = Worker(parts, "stream", put=lambda *arguments: self.put(*arguments))

    def put(self, connect: Any, stream: str, records: list[bytes], left: Any) -> list[str | None]:
        if self.refusals:
            self.refusals -= 1
            return ["ServiceUnavailable" for _ in records]
        self.events += [json.loads(line) for record in records for line in record.splitlines()]
        return [None] * len(records)

    def work(self, most: int = 10_000) -> None:
        """Work on the queue's messages until it is empty."""
        for _ in range(most):
            message = self.queue.receive()
            if message is None:
                return
            try:
                if settle(self.worker, self.queue, message, lambda: 300_000):
                    self.queue.delete(message)
            except Killed:
                self.queue.give_back(message)

    def run(self, holder: str = "execution") -> Json:
        """Run a whole execution; return the findings of its last look."""
        planned = self.runner.plan(holder, self.runner.check([]))
        seen: Json = {"planned": planned}
        for _ in range(1000):
            self.work()
            seen = self.runner.look(holder, json.loads(json.dumps(seen)))
            if seen["is_done"]:
                return seen
            self.clock.sleep(seen["pause"])
        raise AssertionError(f"no end: {seen}")

    def redrive(self) -> None:
        """As `scripts/pull.sh redrive` does."""
        for body, _ in self.queue.dead:
            again = self.store.try_again(TaskKey.read(body))
            assert again
            self.queue.send([again])
        self.queue.dead.clear()

    @property
    def ids(self) -> set[str]:
        return {event["event_id"] for event in self.events}

    @property
    def things(self) -> set[str]:
        return {event["properties"]["id"] for event in self.events}

    def states(self) -> Counter[str]:
        run = self.store.state(self.source.name)["last_run"]
        return Counter(task["state"] for task in self.store.tasks(self.source.name, run))

    def reasons(self) -> set[str]:
        run = self.store.state(self.source.name)["last_run"]
        return {str(task["reason"]) for task in self.store.tasks(self.source.name, run) if "reason" in task}


def declare(url: str, **changes: Any) -> Json:
    """A source of pages with an announced number, and a test's changes; None takes a key away."""
    declaration = {
        "name": "things",
        "url": f"{url}/things",
        "query": {"page": "{page}"},
        "auth": {"type": "bearer"},
        "pagination": {"style": "page", "total_pages": "pages"},
        "window": {"first": "2025-12-31T00:00:00Z"},
        "items": "data",
        "error": "error",
        "event": {"event_id": ["id"], "name": {"constant": "thing"}, "value": "size", "timestamp": "at"},
        **changes,
    }
    return {key: value for key, value in declaration.items() if value is not None}


def page_of(asked: Asked) -> int:
    return int(asked.query.get("page", "1"))


def honest(asked: Asked) -> Told:
    """Eleven things in pages of three."""
    if asked.headers.get("authorization") != f"Bearer {TOKEN}":
        return Told(401, {"message": "who are you?"})
    start = (page_of(asked) - 1) * ROWS_A_PAGE
    return Told(200, {"data": THINGS[start : start + ROWS_A_PAGE], "pages": PAGES})


def by_cursor(asked: Asked) -> Told:
    start = int(asked.query.get("after", "0"))
    end = start + ROWS_A_PAGE
    return Told(200, {"data": THINGS[start:end], "next": str(end) if end < TOTAL else None})
