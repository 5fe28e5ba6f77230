"""From rejected events to the rows of the rejected table: the reason, the event's own text, and its request.

Everything here is pure. A row is one JSON object and a newline, its keys the `rejected_columns` of schema.json in their
order. The text of an event is in its row byte for byte as it was sent, in base64, because much of it is not JSON and
some of it not text. For the same reason no field of it can be redacted. A long text becomes several rows with the same
id, numbered in `part`: decode each body, and join them.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from transform.envelopes import read_event
from transform.events import Rejected, handle_ip, make_id
from transform.records import ENVELOPES, Form, Record, parse, read_id, split, split_texts
from transform.rows import format_time
from transform.rules import Settings

MAX_REJECTS: Final = 500
"""Rejected events of one record that have rows of their own; those beyond share one."""

MAX_PART_BYTES: Final = 600_000
"""Bytes of an event's text in one row: 800,000 in base64, for a row to fit a record of Firehose's 1,024,000."""

MAX_PACKED_BYTES: Final = 1_000_000
"""Bytes of rows in one record of the reject stream."""

MAX_ID_CHARACTERS: Final = 1_024
"""A longer id is not repeated in a row: it could be as long as its event."""


def limit(rejected: list[Rejected]) -> list[Rejected]:
    """At most MAX_REJECTS rejections, and one for all others."""
    if len(rejected) <= MAX_REJECTS + 1:
        return rejected
    rest = rejected[MAX_REJECTS:]
    first, *others = (position for reject in rest for position in (reject.position, *reject.others))
    detail = f"a record holds at most {MAX_REJECTS} rejected events, and {len(others) + 1:,} more followed"
    return [*rejected[:MAX_REJECTS], Rejected("too_many_rejects", detail, first, others)]


def make_rows(record: Record, rejected: list[Rejected], settings: Settings, rejected_at: int) -> Iterator[bytes]:
    """The rows of a record's rejections. `rejected_at` is the present, in epoch milliseconds."""
    form, texts = split_texts(record.body, record.form)
    context = record.context
    redacted = settings.redact_fields
    # A faulty client sends many rejects, so its network identifies it well enough, even where IpHandling says FULL.
    handling = "NONE" if settings.ip_handling == "NONE" or "ip" in redacted else "TRUNCATE"
    row: dict[str, Any] = {
        "received_at": format_time(context.received_at),
        "rejected_at": format_time(rejected_at),
        "ip": handle_ip(context.ip, handling) if context.ip else None,
        "user_agent": None if "user_agent" in redacted else context.user_agent,
        "request_id": context.request_id,
        "extended_request_id": context.extended_request_id,
        "form": form if form == "query" or form in ENVELOPES else None,
    }
    for reject in rejected:
        text = b"\n".join(texts[position - context.position] for position in (reject.position, *reject.others))
        parts = max(1, -(-len(text) // MAX_PART_BYTES))
        own_id = _find_id(text, form) if not reject.others and "event_id" not in redacted else None
        alone_id = context.event_id if len(texts) == 1 else None
        event_id = own_id or alone_id or make_id(context, reject.position, text)
        for part in range(parts):
            body = b2a_base64(text[part * MAX_PART_BYTES : (part + 1) * MAX_PART_BYTES], newline=False)
            yield orjson.dumps(
                {
                    "reason": reject.reason,
                    "detail": reject.detail,
                    "event_id": event_id,
                    "position": reject.position,
                    "part": part + 1,
                    "parts": parts,
                    "events": reject.events,
                    "body": body.decode(),
                    **row,
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )


def pack(rows: Iterable[bytes], most: int = MAX_PACKED_BYTES) -> Iterator[bytes]:
    """The rows in few records of at most `most` bytes each, because Firehose bills a small record as if it had 5 KB."""
    packed: list[bytes] = []
    size = 0
    for row in rows:
        if packed and size + len(row) > most:
            yield b"".join(packed)
            packed, size = [], 0
        packed.append(row)
        size += len(row)
    if packed:
        yield b"".join(packed)


def _find_id(text: bytes, form: Form) -> str | None:
    """The sender's id of the event, if it can be read and is valid."""
    event: Any
    if form == "query":
        event = split(text, form)[1][0]
    elif form in ENVELOPES:
        event = read_event(text, form)
    else:
        event = parse(text)
    if type(event) is not dict:
        return None
    own_id = read_id(event.get("event_id"))
    return own_id.strip() if own_id and len(own_id) <= MAX_ID_CHARACTERS else None
