"""Events of rejected/ and records of errors/ and raw/, ready to be put on the stream again.

Everything here is pure. An Item is replayed as a whole or not at all. Its records lead to the rows its events would
have had at first: event_id, position and received_at travel in the context line (transform/records.py).

- A row of rejected/ holds one event's text, or a numbered part of it. Its record has the row's id, so the event keeps
  it even if its sender gave none. Only the network of the client's address remains.
- A record of errors/processing-failed/ is in its envelope as it was put, and goes as it is. A bare one of an SDK
  gets a context line with its arrival time, because its ids were made from it.
- A record of errors/format-conversion-failed/ is rows, not events: each becomes its original event again, as far as
  the row has it. Rules run a second time on it.
- raw/ holds records one after the other. Bare ones have lost their arrival time there: only events with an id of their
  own can be told from stored ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from scripts.commands.lake.errors import Failed, failed_records, not_a_record
from scripts.commands.lake.objects import Corrupt, plain, values, values_or_lines
from scripts.commands.lake.records import Origin, origin_of, split_records, write_again
from scripts.commands.lake.rejected import OF_MANY, Texts, not_a_row, read_rows
from scripts.commands.lake.zones import CONVERSION_FAILED, PROCESSING_FAILED, Zone
from shared.documents import Json, parse_json
from transform.events import Accepted, Dropped, Rejected, transform
from transform.records import BYTE_ORDER_MARK, MARKER, WRAPPING, Fault, Form, parse, read_id, split_texts
from transform.rows import COLUMNS
from transform.rules import Settings
from transform.streams import MAX_RECORD_BYTES

_NOT_OF_A_QUERY: Final = frozenset({"not_json", "not_an_object", "nested_too_deeply", *OF_MANY})
_ROW_KEYS: Final = {column.name: column.key or column.name for column in COLUMNS if column.set_by == "sender"}


@dataclass(frozen=True, slots=True)
class Item:
    """A rejected event or a record; `digest` tells it from every other, and from its own next failure."""

    reason: str
    digest: str
    records: tuple[bytes, ...] = ()
    """To put on the stream; none if it cannot be replayed."""
    obstacle: str = ""
    """Why it cannot be replayed."""


@dataclass(slots=True)
class Verdict:
    """Outcomes of an item's events in today's transform; `obstacle` is why it is held back."""

    accepted: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    obstacle: str = ""


def judge(item: Item, settings: Settings, zone: Zone) -> Verdict:
    """Ask this folder's transform, and hold an item back if it would fail or be rejected again."""
    verdict = Verdict(obstacle=item.obstacle)
    for record in item.records:
        if len(record) > MAX_RECORD_BYTES:
            verdict.obstacle = "would be too large for a record of 1,024,000 bytes with the id that it keeps"
            return verdict
        try:
            outcomes = transform(record, 0, settings)
        except Fault as fault:
            verdict.obstacle = f"would fail again: {fault}"
            return verdict
        for outcome in outcomes:
            if isinstance(outcome, Accepted):
                verdict.accepted += 1
            elif isinstance(outcome, Dropped):
                verdict.dropped[outcome.rule] += 1
            elif isinstance(outcome, Rejected):
                verdict.rejected[outcome.reason] += outcome.events
    if zone == "rejected" and item.records and not verdict.accepted and not verdict.dropped:
        verdict.obstacle = f"would be rejected again: {', '.join(sorted(verdict.rejected)) or 'no event'}"
    return verdict


# --- Objects


# --- rejected/


def read_rejected(content: bytes, texts: Texts) -> list[Item]:
    """The rejected events of an object; incomplete ones wait in `texts` for their other parts. Raises Corrupt."""
    # All rows are read first, so one bad row sets the whole object aside.
    rows = []
    for number, (row, body, _) in enumerate(read_rows(content), 1):
        try:
            rows.append((row, body, origin_of(row), int(row["position"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise not_a_row(number, error) from None
    return [
        _rejected_item(row, text, sender)
        for row, body, sender, _ in rows
        if (text := texts.join(row, body)) is not None
    ]


def _rejected_item(row: Json, text: bytes, sender: Origin) -> Item:
    reason, event_id, position = row["reason"], row["event_id"], int(row["position"])
    digest = _digest("rejected", event_id, position, sender.extended_request_id, row.get("rejected_at"), text)
    body, form = _as_sent(text, reason, row["form"]) if row.get("form") else _as_event(text, reason)
    pairs: Json = {"form": form} if form else {}
    # One with white space in it is the sender's own, and is in the event.
    if event_id.split() == [event_id] and reason not in OF_MANY:
        pairs["event_id"] = event_id
    return Item(reason, digest, sender.record(body, **pairs, position=position))


def _as_sent(text: bytes, reason: str, form: Form) -> tuple[bytes, Form]:
    """The text of a rejected row with a form, as a body of this form."""
    if form not in WRAPPING:
        return text, form
    texts = values_or_lines(text) if reason in OF_MANY else [text]
    return b"[%b]" % b",".join(texts), form


def _as_event(text: bytes, reason: str) -> tuple[bytes, Form | None]:
    """The text of a rejected event as a body, and a form that keeps a single event single."""
    event = parse(text.removeprefix(BYTE_ORDER_MARK))
    if reason not in _NOT_OF_A_QUERY and type(event) is not dict:
        return text, "query"  # a JSON text with such a fault is always an object
    if reason in OF_MANY:
        # Items of an array may be on several lines each; a line break is white space between JSON's tokens.
        try:
            return b"\n".join(line.replace(b"\n", b" ") for line in values(text)), "lines"
        except ValueError:
            return text, "lines"
    if not isinstance(event, Exception):
        text = text.removeprefix(BYTE_ORDER_MARK).replace(b"\n", b" ")
    return text, None if b"\n" in text or not text.strip() else "lines"


# --- errors/


def read_errors(content: bytes, error_type: str) -> list[Item]:
    """The failed records of an object of errors/<error_type>/. Raises Corrupt."""
    items = []
    read = _conversion_item if error_type == CONVERSION_FAILED else _processing_item
    for number, failed in enumerate(failed_records(content), 1):
        try:
            items.append(read(failed))
        except (KeyError, TypeError, ValueError) as error:
            raise not_a_record(number, error) from None
    return items


def _processing_item(failed: Failed) -> Item:
    reason = str(failed.envelope.get("errorCode") or PROCESSING_FAILED)
    digest = _digest("errors", failed.arrived_at, failed.data)
    if failed.data.startswith(MARKER):
        return Item(reason, digest, (failed.data,))
    return Item(reason, digest, write_again(failed.data, failed.arrived_at))


def _conversion_item(failed: Failed) -> Item:
    """The rows of one request, as events of a record of theirs."""
    rows = [parse_json(text) for text in values(failed.data)]
    if not rows or not all(type(row) is dict and type(row["event_id"]) is str for row in rows):
        raise ValueError("rawData holds no rows of events")
    reason = str(failed.envelope.get("lastErrorCode") or CONVERSION_FAILED)
    # A row lacks its extended_request_id; no id is made from it here, because each event has its own.
    sender = origin_of({**rows[0], "extended_request_id": rows[0].get("request_id")})
    lines = b"\n".join(json.dumps(event_of(row), ensure_ascii=False).encode() for row in rows)
    return Item(reason, _digest("errors", failed.arrived_at, failed.data), sender.record(lines, form="lines"))


def event_of(row: Json) -> Json:
    """A row's original event, as far as the row has it; it becomes the same row again.

    Members of `properties` go back beside the columns, where rules look for them. Those with a column's name stay, as
    they were inside the sender's own `properties`.
    """
    event = {key: row[name] for name, key in _ROW_KEYS.items() if row.get(name) is not None}
    if row.get("clock_skew_ms") is None:
        event.pop(_ROW_KEYS["occurred_at"], None)  # the sender gave no time
    try:
        properties = parse_json(row.get("properties") or "{}")
    except ValueError:
        properties = row["properties"]
    if type(properties) is not dict or "properties" in properties:
        return {**event, "properties": properties}
    inside = {key: value for key, value in properties.items() if key in _ROW_KEYS.values()}
    beside = {key: value for key, value in properties.items() if key not in inside}
    return {**event, **beside, **({"properties": inside} if inside else {})}


# --- raw/


def read_raw(content: bytes, stored_at: int) -> list[Item]:
    """The records of an object of raw/; the oldest one arrived at `stored_at` (epoch milliseconds). Raises Corrupt."""
    content = plain(content)
    if not content:
        raise Corrupt("it is empty")
    items = []
    for record in split_records(content):
        if record.startswith(MARKER):
            items.append(Item("record", _digest("raw", record), (record,)))
        elif record.strip():
            items += _bare_items(record, stored_at)
    return items


def _bare_items(content: bytes, stored_at: int) -> Iterator[Item]:
    """The events of adjacent bare records, a line each."""
    events: list[bytes] = []
    for value in values_or_lines(content):
        document = parse(value)
        events += split_texts(value)[1] if type(document) is list else [value]
    known = [event.replace(b"\n", b" ") for event in events if _has_id(parse(event, exact=True))]
    if known:
        sender = Origin("", str(stored_at), stored_at, "", "")
        # They come back into raw/ as they are sent, and are then known by it.
        for record in sender.record(b"\n".join(known), form="lines"):
            yield Item("bare record", _digest("raw", record), (record,))
    if len(known) < len(events):
        obstacle = "would count a second time: bare events without an event_id cannot be told from what is stored"
        yield Item("bare record", _digest("raw", content), obstacle=obstacle)


def _has_id(event: Any) -> bool:
    return type(event) is dict and read_id(event.get("event_id")) is not None


# --- Records


def _digest(*parts: object) -> str:
    """An item's identity, in 128 bits."""
    return sha256(b"\0".join(_bytes(parts))).hexdigest()[:32]


def _bytes(parts: Iterable[object]) -> Iterator[bytes]:
    for part in parts:
        yield part if isinstance(part, bytes) else str(part).encode()
