"""Rows as events, and events as records of a delivery stream: the same rows give the same ids, whenever they come."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Final

from shared.documents import JsonObject, JsonValue

from .problems import Problem
from .source import Source

MOST_EVENTS: Final = 5_000
MOST_BYTES: Final = 500_000
"""Events and bytes of one record: half of a record's limits, for its rows to fit one reply."""

LARGEST_EVENT: Final = 1_000_000


class RowTooLarge(Problem):
    """A row too large for a record of a delivery stream."""


def to_events(source: Source, rows: list[JsonObject], parameters: JsonObject) -> Iterator[bytes]:
    """The rows as JSON events, a line each.

    The event_id is a hash of the source's name and the declared parts; without these, of the source's name, the row,
    its series' place in the grid, and the number of such rows before it on its page.
    """
    seen: Counter[str] = Counter()
    series = {name: parameters.get(name) for name in source.grid}
    for row in rows:
        if source.event_id:
            key: list[JsonValue] = [find(row) for find in source.event_id]
        else:
            text = json.dumps(row, sort_keys=True)
            key = [series, text, seen[text]]
            seen[text] += 1
        event: JsonObject = {"event_id": _hash([source.name, key])}
        event |= {name: value for name, find in source.mapping.items() if (value := find(row)) is not None}
        event["properties"] = {name: value for name, value in row.items() if name not in source.mapped_keys}
        # Half of a surrogate pair has no UTF-8, and is not text either.
        yield json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def to_records(events: Iterator[bytes]) -> Iterator[bytes]:
    """Events packed into records, each line with its end; raises RowTooLarge."""
    lines: list[bytes] = []
    size = 0
    for event in events:
        if len(event) > LARGEST_EVENT:
            raise RowTooLarge(f"a row makes an event of {len(event):,} bytes; {LARGEST_EVENT:,} are possible")
        if lines and (len(lines) == MOST_EVENTS or size + len(event) > MOST_BYTES):
            yield b"\n".join([*lines, b""])
            lines, size = [], 0
        lines.append(event)
        size += len(event) + 1
    if lines:
        yield b"\n".join([*lines, b""])


def _hash(value: JsonValue) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
