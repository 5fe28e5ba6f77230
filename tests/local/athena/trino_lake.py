"""The lake behind Trino's answers: 126 rows, the same each time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

PROPERTIES: list[Json] = [
    {"plan": "pro", "tags": ["a", "b"], "n": 7, "ok": True, "cart": {"items": [
        {"sku": "x-1", "qty": 2, "price": 9.5}, {"sku": "y-2", "qty": 1, "price": 3}], "total": 22.0}},
    {"plan": "free", "tags": [], "n": "8", "ok": False, "utm": {"source": "news", "campaign": "black friday"},
     "url": "https://example.com:8080/p/x?utm_source=n&q=a%20b#f"},
    {"plan": None, "a.b": 1, "sp ace": "x", "text": 'he said "hi", twice', "big": 9007199254740993},
    {"city": "東京", "emoji": "🙂", "naïve": "é", "nested": {"deep": {"deeper": [1, [2, 3], {"k": "v"}]}}},
    {},
    {"price": "12.50", "qty": "3", "when": "2026-11-21T10:00:00+02:00", "day": "21/11/2026", "csv": "a,b,,c",
     "list": [3, None, 1], "map": {"k1": 1, "k2": 2}},
]  # fmt: skip
NAMES = ["page", "signup", "charge", "temperature", "café 東京", None]
ACTIONS = ["view", "click", None, "charge", "View"]
VALUES = [100.0, -2.5, None, 0.0, 0.1, 1e10, 3.5, 2.5, -0.5, 7.0, 1234567.891]
TIMES = [
    "2026-11-20T23:59:59.999", "2026-11-21T00:00:00", "2026-11-21T10:15:30.500", "2026-11-22T03:00:00",
    "2024-02-29T12:34:56.789", "2027-01-01T00:00:00", "2026-03-29T01:30:00", "1999-12-31T23:59:59",
    "2026-10-25T00:30:00",
]  # fmt: skip


def rows() -> Iterator[Json]:
    """The rows as the pipeline delivers them; some are delivered twice."""
    for number in range(120):
        row: Json = {
            "event_id": f"e{number:03d}",
            "name": NAMES[number * 7 % 6],
            "action": ACTIONS[number * 3 % 5],
            "value": VALUES[number * 5 % 11],
            "source": ["web", "ios", None, "it's", "sf"][number % 5],
            "user_id": f"u{number * 11 % 8}" if number % 8 else None,
            "occurred_at": datetime.fromisoformat(TIMES[number * 4 % 9]),
            "received_at": datetime.now(UTC).replace(tzinfo=None),
            "properties": json.dumps(PROPERTIES[number % 6], ensure_ascii=False, separators=(",", ":")),
        }
        yield from [row] * (2 if number % 20 == 3 else 1)
