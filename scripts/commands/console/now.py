"""The page Now: a stack's facts, the outcomes of the last hour by minute, and the last events."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from scripts.commands.common.athena import fill
from scripts.commands.common.console import CommandError, explain
from scripts.commands.common.stack import Stack
from scripts.commands.common.tables import counts
from scripts.commands.console.questions import Questions, Result, Run
from scripts.commands.lake.facts import Facts
from scripts.commands.lake.health import MOST_LINES, gather
from shared.documents import parse_json

SQL: Final = Path(__file__).with_name("now.sql")
MINUTES: Final = 60
FRESH_SECONDS: Final = 3.0
"""Pages in several tabs share a snapshot up to this age."""
ATHENA_SECONDS: Final = 30.0
REQUESTS_PRICE: Final = "0.0005"
"""Dollars; about 30 requests to CloudWatch and 20 to S3, rounded up."""


@dataclass
class Minute:
    """Outcomes of the events given to the transform in this minute."""

    at: datetime
    accepted: int = 0
    failed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def outcomes(self) -> list[tuple[str, int]]:
        """How many of each, in the chart's order of stacking."""
        return [
            ("accepted", self.accepted),
            ("dropped", self.dropped.total()),
            ("rejected", self.rejected.total()),
            ("failed", self.failed),
        ]

    @property
    def total(self) -> int:
        """All events of the minute."""
        return sum(count for _, count in self.outcomes)

    @property
    def why(self) -> str:
        """Rules and reasons, as a person reads them."""
        parts = [("dropped by ", self.dropped), ("rejected: ", self.rejected)]
        return "; ".join(f"{begin}{counts(dict(found))}" for begin, found in parts if found)


@dataclass(frozen=True)
class Snapshot:
    """A stack at a moment. An unreadable part is empty, and `problems` has the reason."""

    at: datetime
    facts: Facts
    minutes: list[Minute]
    problems: list[str]
    run: Run | None
    latest: Result | None

    @property
    def row_age(self) -> float | None:
        """Seconds since the newest row of the last events was received; None if there is none."""
        rows = [row[0] for row in self.latest.rows if row[1] == "row" and row[0]] if self.latest else []
        if not rows:
            return None
        newest = datetime.fromisoformat(max(rows)).replace(tzinfo=UTC)
        return max(0.0, (self.at - newest).total_seconds())

    @property
    def totals(self) -> Counter[str]:
        """Each outcome's events of the last hour."""
        counter: Counter[str] = Counter()
        for minute in self.minutes:
            counter.update(dict(minute.outcomes))
        return counter


class Now:
    """The newest snapshot of a stack, shared by all pages. A thread takes it, so no page waits for long."""

    def __init__(self, find_stack: Callable[[], Stack]) -> None:
        self._find_stack = find_stack
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._next: Future[Snapshot] | None = None

    def look(self, wait_seconds: float, *, anew: bool) -> tuple[Snapshot | None, bool]:
        """The newest snapshot, None if nobody has taken one yet; and whether the next one is being taken.

        `anew` takes one, unless a fresh one is there, and waits so long for it. An error in taking it is raised.
        """
        with self._lock:
            before = self._snapshot
            is_old = before is None or (datetime.now(UTC) - before.at).total_seconds() > FRESH_SECONDS
            if anew and is_old and self._next is None:
                self._next = Future()
                # A daemon: the console ends at once, whatever AWS does.
                threading.Thread(target=_take, args=(self._find_stack, self._next), daemon=True).start()
            future = self._next
        if future is not None:
            wait([future], wait_seconds)
        with self._lock:
            if future is not None and future.done() and self._next is future:
                self._next = None
                self._snapshot = future.result()
            return self._snapshot, self._next is not None


def _take(find_stack: Callable[[], Stack], future: Future[Snapshot]) -> None:
    try:
        future.set_result(_snapshot(find_stack()))
    except Exception as error:  # raised in the next look
        future.set_exception(error)


def _snapshot(stack: Stack) -> Snapshot:
    now, problems = datetime.now(UTC), list[str]()
    run, latest, minutes = None, None, list[Minute]()
    questions, run_id = Questions(stack), ""
    try:
        run_id = questions.start(fill(SQL.read_text(), stack), [])
    except (BotoCoreError, ClientError, CommandError) as error:
        problems.append(f"The last events cannot be read: {_text(error)}")
    facts = gather(stack.aws, stack.name, now)
    try:
        minutes = _minutes(stack, now)
    except (BotoCoreError, ClientError, CommandError) as error:
        problems.append(f"The outcomes by minute cannot be read: {_text(error)}")
    try:
        run = questions.look(run_id, ATHENA_SECONDS) if run_id else None
        if run and run.has_result:
            latest = questions.result(run.id)
        elif run:
            if not run.is_final:
                questions.stop(run_id)
            why = run.reason if run.is_final else f"Athena did not answer within {ATHENA_SECONDS:.0f} s"
            problems.append(f"The last events cannot be read: {why}")
    except (BotoCoreError, ClientError, CommandError) as error:
        problems.append(f"The last events cannot be read: {_text(error)}")
    return Snapshot(now, facts, minutes, problems, run, latest)


def _minutes(stack: Stack, now: datetime) -> list[Minute]:
    """The last hour by the transform's log lines, for their rules and reasons; the oldest minute first."""
    first = now.replace(second=0, microsecond=0) - timedelta(minutes=MINUTES - 1)
    minutes = [Minute(first + timedelta(minutes=number)) for number in range(MINUTES)]
    if "TransformLogGroup" not in stack.ids:
        return minutes
    pages = (
        stack.client("logs")
        .get_paginator("filter_log_events")
        .paginate(
            logGroupName=stack.ids["TransformLogGroup"],
            startTime=int(first.timestamp() * 1000),
            filterPattern='"CloudWatchMetrics"',
        )
    )
    for event in islice((event for page in pages for event in page["events"]), MOST_LINES):
        number = int((event["timestamp"] / 1000 - first.timestamp()) // 60)
        if 0 <= number < MINUTES:
            _count(minutes[number], event["message"])
    return minutes


def _count(minute: Minute, message: str) -> None:
    try:
        line = parse_json(message)
        accepted, failed = int(line["Accepted"]), int(line["Failed"])
        dropped, rejected = Counter(line["DroppedByRule"]), Counter(line["RejectedByReason"])
    except (ValueError, KeyError, TypeError):
        return  # a line of another program with the word in it
    minute.accepted += accepted
    minute.failed += failed
    minute.dropped += dropped
    minute.rejected += rejected


def _text(error: Exception) -> str:
    return explain(error) if isinstance(error, BotoCoreError | ClientError) else str(error)
