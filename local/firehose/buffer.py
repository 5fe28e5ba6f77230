"""Where records wait until there are enough of them, or the first has waited long enough."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from local.firehose import objects
from local.firehose.objects import Record

RECORD_OVERHEAD = 256  # A record's memory beside its bytes.


class Buffer:
    """Records waiting until there are `size` bytes of them or the first has waited for `interval` seconds.

    They do not wait for more than `most` bytes of memory, whatever the size: else memory could be full before
    the object is complete. On AWS, too, the size is a hint.
    """

    def __init__(self, hints: Callable[[], tuple[int, float]], most: int, request_limit: int | None = None) -> None:
        self.hints, self.most, self.request_limit = hints, most, request_limit
        self.records: deque[Record] = deque()
        self.size = 0
        self.since = 0.0
        self.changed = asyncio.Event()

    def add(self, records: Sequence[Record]) -> None:
        """Let records wait."""
        if first := not self.records:
            self.since = time.monotonic()
        self.records.extend(records)
        self.size += sum(len(record.data) for record in records)
        if first or self._is_enough(self.size, len(self.records)):
            self.changed.set()

    def _is_enough(self, size: int, count: int) -> bool:
        return size >= self.hints()[0] or size + count * RECORD_OVERHEAD >= self.most

    async def take(self) -> list[Record]:
        """Wait until the buffer is due, then take the records for one object, or one request."""
        while True:
            wait = self.since + self.hints()[1] - time.monotonic() if self.records else None
            if wait is not None and (wait <= 0 or self._is_enough(self.size, len(self.records))):
                return self._pop()
            self.changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self.changed.wait()

    def _pop(self) -> list[Record]:
        taken: list[Record] = []
        taken_size = request = 0
        while self.records and not self._is_enough(taken_size, len(taken)):
            request += objects.request_share(self.records[0])
            if taken and self.request_limit and request > self.request_limit:
                break
            taken.append(self.records.popleft())
            taken_size += len(taken[-1].data)
        self.size -= taken_size
        return taken


def weight(data: bytes) -> int:
    """The memory of a record with this data, in bytes."""
    return len(data) + RECORD_OVERHEAD
