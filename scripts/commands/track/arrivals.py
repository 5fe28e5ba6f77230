"""The outcome of accepted events: asks the stack's tables for their ids.

The API's 202 means: stored. The transform judges the event later, and then Firehose collects the rows. So the tables
of events and of rejected events are asked until each id is in one of them, or late.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from scripts.commands.common.athena import cost, place, results, run
from scripts.commands.common.console import UsageError, status
from scripts.commands.common.stack import Stack
from scripts.commands.lake.delivery import TRANSFORM_PASSES, TRANSFORM_SECONDS, slack_seconds
from transform.rejects import MAX_ID_CHARACTERS

PAUSE_SECONDS, LOCAL_PAUSE_SECONDS = 15, 1  # each question costs, except locally
IDS_PER_QUERY = 5_000
ID_BYTES_PER_QUERY = 200_000  # Athena takes a query of 262,144
CLOCK_SECONDS = 60  # this machine's clock may be so much ahead of AWS's


@dataclass
class Arrived:
    """The ids by place: the number of rows, the reasons of rejected ones, and those in neither table."""

    rows: int = 0
    rejected: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    seconds: float = 0.0
    dollars: float = 0.0
    """Athena's charge for the questions."""


class Arrivals:
    """Waits for events sent to a stack from now on.

    Raises:
        UsageError: the stack redacts event_id, so no event can be found by it.
    """

    def __init__(self, stack: Stack) -> None:
        if "event_id" in stack.redacted_fields:
            raise UsageError("RedactFields empties event_id, which --wait finds events by: send without --wait")
        self._athena, self._is_local = stack.client("athena"), stack.aws.is_local
        self._database, self._table = (stack.output(key) for key in ("DatabaseName", "TableName"))
        self._place = place(stack)
        self._interval = float(stack.parameters.get("FirehoseBufferingInterval", "60"))
        self._since = datetime.fromtimestamp(time.time(), UTC)

    @property
    def longest_seconds(self) -> float:
        """From when an event is accepted until it is late."""
        return TRANSFORM_PASSES * TRANSFORM_SECONDS + self._interval + slack_seconds(self._is_local)

    def wait(self, ids: Collection[str]) -> Arrived:
        """Ask until each id is in a table, or `longest_seconds` have passed.

        On AWS the first question comes when Firehose should have delivered.
        """
        arrived = Arrived(missing=set(ids))
        started = time.monotonic()
        pause = LOCAL_PAUSE_SECONDS if self._is_local else self._interval + PAUSE_SECONDS
        is_late = False
        while arrived.missing and not is_late:
            left = max(0.0, started + self.longest_seconds - time.monotonic())
            with status(f"Waiting for {len(arrived.missing):,} of {len(ids):,} events, at most {left:.0f} s ..."):
                time.sleep(min(pause, left))
            pause = LOCAL_PAUSE_SECONDS if self._is_local else PAUSE_SECONDS
            is_late = time.monotonic() - started >= self.longest_seconds
            for asked in _chunks(arrived.missing):
                self._look(asked, arrived)
        arrived.seconds = time.monotonic() - started
        return arrived

    def _look(self, asked: list[str], arrived: Arrived) -> None:
        day = self._since - timedelta(minutes=10)
        received = self._since - timedelta(seconds=CLOCK_SECONDS)
        events, rejected = (f'"{self._database}"."{self._table}{suffix}"' for suffix in ("", "_rejected"))
        sql = (
            "SELECT DISTINCT event_id, reason, detail FROM ("
            "SELECT event_id, CAST(NULL AS varchar) AS reason, CAST(NULL AS varchar) AS detail "
            f"FROM {events} WHERE dt >= '{day:%Y-%m-%d}' UNION ALL "
            f"SELECT event_id, reason, detail FROM {rejected} WHERE dt >= '{day:%Y-%m-%d}' "
            f"AND received_at >= TIMESTAMP '{received:%Y-%m-%d %H:%M:%S}') AS arrived "
            f"WHERE event_id IN ({', '.join(map(text_literal, asked))})"
        )
        done = run(self._athena, self._place, self._database, sql, [])
        if not self._is_local:
            arrived.dollars += cost(done.get("Statistics", {}).get("DataScannedInBytes", 0))
        rows = set()
        for event_id, reason, detail in results(self._athena, done["QueryExecutionId"])[1]:
            assert event_id is not None
            if reason is None:
                rows.add(event_id)
            else:
                arrived.rejected[event_id] = f"{reason}: {detail}"
        # A rejected event with a row now counts as a row.
        for event_id in rows:
            arrived.rejected.pop(event_id, None)
        arrived.rows += len(rows)
        arrived.missing -= rows | arrived.rejected.keys()


def _chunks(ids: Collection[str]) -> Iterator[list[str]]:
    """The ids in lists short enough for a query, without those impossible in a table."""
    chunk: list[str] = []
    size = 0
    for event_id in sorted(ids):
        length = len(text_literal(event_id).encode("utf-8", "replace"))
        if len(event_id) > MAX_ID_CHARACTERS or "\0" in event_id:
            continue
        if chunk and (len(chunk) == IDS_PER_QUERY or size + length > ID_BYTES_PER_QUERY):
            yield chunk
            chunk, size = [], 0
        chunk.append(event_id)
        size += length + 2
    if chunk:
        yield chunk


def text_literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"
