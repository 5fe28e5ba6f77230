"""The worker: one message is one request. Its rows go on the delivery stream; then, and only then, its page has landed.

The order makes it safe to be killed anywhere. The pages after a page get their items before it lands, and their
messages after it. So the table never shows everything as landed while a page is still to come, and a message received
a second time sends the messages left out the first time. Rows put twice have the same ids.

The contract (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html): messages named in
`batchItemFailures` stay in the queue, and all others are deleted.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

from shared import web
from shared.aws import QueueRecord
from shared.documents import Json, parse_json
from transform.streams import connect, put_records

from . import pages
from .events import to_events, to_records
from .pages import Following, Page, Place
from .parts import Parts
from .problems import Busy, ErrorBody, HttpError, NotJson, Problem, UnknownSource, WrongTotal
from .queue import Queue
from .source import MOST_PAGES, Source
from .store import MOST_RESTARTS, NewTask, TaskItem, TaskKey, is_chained

MOST_DOUBTS: Final = 4
"""How often a request with impossible answers is tried."""

LONGEST_WAIT: Final = 20.0
"""Seconds a worker itself waits for its turn; for a longer time the message goes back."""

LONGEST_PAUSE: Final = 900.0
LONGEST_ASKED: Final = 3600.0
"""Seconds until the next try: at most by our own count, and at most if the API asks for it."""

FEW_PAGES: Final = 10
"""So many items are asked for by their keys, and not by reading the whole series."""

PUT_SECONDS: Final = 45
"""Seconds to be left for putting rows when a request begins, besides its answer's timeout."""

NOTHING: Final = Page([], "", None, None)
"""The page behind the last one."""

logger = logging.getLogger(__name__)


def settle(worker: Worker, queue: Queue, record: QueueRecord, milliseconds_left: Callable[[], int]) -> bool:
    """Handle one message; False if it is to stay in the queue, with its delay set."""
    received = int(record["attributes"]["ApproximateReceiveCount"])
    try:
        seconds = worker.fetch(TaskKey.read(record["body"]), milliseconds_left)
    except Exception as error:
        # A fault of ours or of AWS, such as a throttled call. The message's limit of receives bounds it.
        logger.exception("fault: %s", type(error).__name__)
        seconds = web.backoff(received, base=2.0, longest=LONGEST_PAUSE)
    if seconds is None:
        return True
    queue.delay(record["receiptHandle"], seconds)
    return False


class Worker:
    """Fetches pages. `put` puts records on the stream."""

    def __init__(self, parts: Parts, stream: str, *, put: Callable[..., list[str | None]] = put_records) -> None:
        self._sources, self._store, self._queue, self._client = parts.sources, parts.store, parts.queue, parts.client
        self._stream, self._retry_seconds = stream, parts.retry_seconds
        self._put, self._now, self._sleep = put, parts.now, parts.sleep

    def fetch(self, key: TaskKey, milliseconds_left: Callable[[], int]) -> float | None:
        """Make one request. None if its message has done its work, else the seconds until it is to come again."""
        task = self._store.task(key)
        if task is None or task["state"] == "discarded":
            logger.info("%s: nothing to do", key)
            return None
        if task["state"] == "landed":
            self._send_following(key, range(int(task["next_first"]), int(task["next_end"])))
            return None
        if key.source not in self._sources:
            return self._handle(key, task, UnknownSource(f"'{key.source}' is no longer declared"))
        source = self._sources[key.source]
        seconds = self._store.reserve(key.source, source.interval, LONGEST_WAIT)
        if seconds is None:
            return self._store.wait(key.source) + random.uniform(0, 5)
        if milliseconds_left() < 1000 * (seconds + 2 * source.timeout + PUT_SECONDS):
            return 1.0
        self._sleep(seconds)
        try:
            self._land(source, key, task, milliseconds_left)
            return None
        except Problem as problem:
            return self._handle(key, task, problem)
        except RecursionError:
            return self._handle(key, task, NotJson("a row is nested too deeply"))

    def _land(self, source: Source, key: TaskKey, task: TaskItem, milliseconds_left: Callable[[], int]) -> None:
        """Fetch the page, put its rows, plan the pages after it, note it as landed, and queue the pages after it."""
        parameters = parse_json(task["parameters"])
        place = Place(
            key.number,
            parameters,
            int(task["planned"]),
            int(task.get("size", 0)),
            is_alone=key.start > 0,
            previous=task["previous"],
            mark=task.get("mark", ""),
        )
        try:
            page = self._client.get(source, parameters)
            if place.is_behind(source, page):
                page = NOTHING
        except HttpError:
            if not place.is_probe:
                raise
            # Behind the last page there may well be nothing but a 404.
            page = NOTHING
        following = pages.follow(source, page, place)
        records = list(to_records(to_events(source, page.rows, parameters)))
        errors = [error for error in self._put(connect, self._stream, records, milliseconds_left) if error]
        if errors:
            raise Busy(f"the delivery stream did not take {len(errors)} of {len(records)} records: {errors[0]}")
        self._plan(source, key, parameters, page, following)
        self._store.land(key, page, following.numbers, following.note)
        self._send_following(key, following.numbers)
        logger.info("%s: landed, rows: %d %s", key, len(page.rows), following.note)

    def _plan(self, source: Source, key: TaskKey, parameters: Json, page: Page, following: Following) -> None:
        if not following.numbers:
            return
        there = self._states(key, following.numbers)
        base = {name: value for name, value in parameters.items() if name not in ("probe", "cursor", "link")}
        if page.next is not None:
            base[source.pagination["style"]] = page.next
        if following.are_probes:
            base["probe"] = True
        start, rows = parameters.get("offset", 0), len(page.rows)
        new = (
            NewTask(
                key.page(number),
                source.page(base, number, start + (number - key.number) * rows),
                following.planned,
                page.digest if len(following.numbers) == 1 else "",
                following.mark,
                rows if key.number == 0 else 0,
            )
            for number in following.numbers
            if key.page(number) not in there
        )
        self._store.add(new)

    def _send_following(self, key: TaskKey, numbers: range) -> None:
        """Queue the following pages, except for those already done."""
        states = self._states(key, numbers)
        self._queue.send(page for page, state in states.items() if state == "planned")

    def _states(self, key: TaskKey, numbers: range) -> dict[TaskKey, str]:
        """The states of these pages of the series, if they have an item."""
        if len(numbers) <= FEW_PAGES:
            found = {key.page(number): self._store.task(key.page(number)) for number in numbers}
            return {page: item["state"] for page, item in found.items() if item is not None}
        items = self._store.pages(key)
        return {page: item["state"] for item in items if (page := TaskKey.of(item)).number in numbers}

    def _handle(self, key: TaskKey, task: TaskItem, problem: Problem) -> float | None:
        """Bury a failed request and return None, or return the seconds until its next try."""
        now = self._now()
        since = int(task.get("failing_since", now))
        attempts = int(task.get("attempts", 0)) + 1
        doubts = int(task.get("doubts", 0)) + (problem.patience == "tries")
        is_dead = {
            "none": True,
            "tries": doubts >= MOST_DOUBTS,
            "hours": now - since >= self._retry_seconds,
        }[problem.patience]
        logger.warning("%s: %s, attempt %d%s", key, problem.reason, attempts, ", dead" if is_dead else "")
        if is_dead and self._start_again(key, task, problem):
            return None
        if is_dead:
            if self._store.bury(key, problem.reason):
                self._queue.bury(key, problem.reason)
            return None
        self._store.fail(key, problem.reason, since, attempts, doubts)
        asked = min(problem.wait, LONGEST_ASKED)
        if asked:
            self._store.hold(key.source, asked)
        return web.backoff(attempts, base=2.0, longest=LONGEST_PAUSE, at_least=asked)

    def _start_again(self, key: TaskKey, task: TaskItem, problem: Problem) -> bool:
        """Start a series from its first page if the address of this page may be at fault: cursors expire, and rows
        move. False if the fault is another, or after enough restarts."""
        if self._store.is_left(key):
            return True
        kinds = (HttpError, ErrorBody) if is_chained(task) else WrongTotal
        is_first_or_last = key.number in (0, MOST_PAGES - 1)
        if is_first_or_last or key.start >= MOST_RESTARTS or not isinstance(problem, kinds):
            return False
        again = self._store.restart(key, problem.reason)
        logger.warning("%s: the series starts again from its first page", key)
        self._queue.send([again])
        return True
