"""What a replay finds in the bucket: events of rejected/ and records of errors/ and raw/, ready to be put again.

Everything here is pure. An Item is what is replayed or not as a whole. Its records lead to the rows that its events
would have had at first: event_id, position and received_at travel in the context line (transform/records.py).

- A row of rejected/ holds one event's text, or a numbered part of it. Its record has the row's id, so that the event
  keeps it also where its sender gave none. Of the client's address only the network is left.
- A record of errors/processing-failed/ stands in its envelope as it was put, and goes as it is. A bare one of an SDK
  gets a context line with its arrival time, from which its ids were made.
- A record of errors/format-conversion-failed/ is rows, not events: each becomes the event that it was made of, as far
  as a row says. Rules run a second time on it.
- raw/ holds records one after the other. Bare ones have lost their arrival time there: only events with an id of their
  own can be told from those that are stored.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from base64 import b64encode
from binascii import a2b_base64
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias

import cramjam

from scripts.commands.verify_evidence import split_records
from transform.events import Accepted, Dropped, Settings, transform
from transform.records import MAX_EVENTS, Fault, Form, parse, read_record, split_texts, write_rest
from transform.rows import COLUMNS
from transform.streams import MAX_RECORD_BYTES

Json: TypeAlias = dict[str, Any]
Zone: TypeAlias = Literal["rejected", "errors", "raw"]

PROCESSING_FAILED: Final = "processing-failed"
CONVERSION_FAILED: Final = "format-conversion-failed"
_OF_MANY: Final = frozenset({"too_many_events", "too_many_rejects"})
_NOT_OF_A_QUERY: Final = frozenset({"not_json", "not_an_object", "nested_too_deeply", *_OF_MANY})
_SPACE: Final = re.compile(r"\s*")
_DECODER: Final = json.JSONDecoder()
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_ROW_KEYS: Final = {column.name: column.key or column.name for column in COLUMNS if column.set_by == "sender"}


class Corrupt(Exception):
    """An object, or a document in it, is not what its zone holds; the text repeats nothing of an event."""


@dataclass(frozen=True, slots=True)
class Item:
    """An event or a record that may be replayed; `digest` tells it from every other, and from its own next failure."""

    reason: str
    digest: str
    records: tuple[bytes, ...] = ()
    """To put on the stream; none if it cannot be replayed."""
    obstacle: str = ""
    """Why it cannot be replayed."""


@dataclass(slots=True)
class Verdict:
    """What today's transform says of an item's events; `obstacle` is why it is held back."""

    accepted: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    obstacle: str = ""


def judge(item: Item, settings: Settings, zone: Zone) -> Verdict:
    """Ask the transform of this folder. What would fail again is held back, and so is what would be rejected again."""
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
            else:
                verdict.rejected[outcome.reason] += 1 + len(outcome.others)
    if zone == "rejected" and item.records and not verdict.accepted and not verdict.dropped:
        verdict.obstacle = f"would be rejected again: {', '.join(sorted(verdict.rejected)) or 'no event'}"
    return verdict


# --- Objects


def plain(content: bytes) -> bytes:
    """An object's content, decompressed if its first bytes say gzip or Hadoop's Snappy. Raises Corrupt."""
    if content[:1] == b"\0":  # the length of Snappy's first block, of at most 256 KiB
        return _without_snappy(content)
    if content[:2] != b"\x1f\x8b":
        return content
    parts = []
    try:
        while content:
            inflater = zlib.decompressobj(wbits=31)
            parts.append(inflater.decompress(content))
            if not inflater.eof:
                raise Corrupt("its gzip data is cut off")
            content = inflater.unused_data
    except zlib.error as error:
        raise Corrupt(f"its gzip data is damaged: {error}") from None
    return b"".join(parts)


def _without_snappy(content: bytes) -> bytes:
    """Blocks of raw Snappy, each after its length without and with compression."""
    parts, position = [], 0
    try:
        while position < len(content):
            plain_length, length = struct.unpack_from(">II", content, position)
            block = content[position + 8 : position + 8 + length]
            parts.append(bytes(cramjam.snappy.decompress_raw(block)))
            if len(parts[-1]) != plain_length or len(block) != length:
                raise Corrupt("its Snappy data is cut off")
            position += 8 + length
    except (struct.error, cramjam.DecompressionError):
        raise Corrupt("its Snappy data is damaged") from None
    return b"".join(parts)


def documents(content: bytes) -> Iterator[Json]:
    """The JSON objects of an object, on lines of their own or one right after the other. Raises Corrupt."""
    for document, _ in located(content):
        yield document


def located(content: bytes) -> Iterator[tuple[Json, str]]:
    """The same, each with its text up to the next one: together the texts are the whole object. Raises Corrupt."""
    try:
        text = plain(content).decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"neither compressed nor text: byte {error.start:,} is not UTF-8") from None
    start, position = 0, _skip_space(text, 0)
    if position == len(text):
        raise Corrupt("it is empty")
    while position < len(text):
        try:
            document, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            raise Corrupt(f"no JSON from character {position:,} on") from None
        if not isinstance(document, dict):
            raise Corrupt(f"a {type(document).__name__} instead of a JSON object at character {position:,}")
        position = _skip_space(text, end)
        yield document, text[start:position]
        start = position


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


# --- rejected/


@dataclass(slots=True)
class Parts:
    """The rows of texts that were parted, kept until all parts of a text are there: they may lie in several objects."""

    waiting: dict[tuple[str, ...], dict[int, tuple[Json, bytes]]] = field(default_factory=dict)

    def join(self, row: Json, body: bytes) -> bytes | None:
        """The whole text, once its last part comes."""
        parts = int(row["parts"])
        if parts == 1:
            return body
        key = tuple(str(row.get(name)) for name in ("event_id", "position", "extended_request_id", "rejected_at"))
        found = self.waiting.setdefault(key, {})
        found[int(row["part"])] = (row, body)
        if not all(part in found for part in range(1, parts + 1)):
            return None
        del self.waiting[key]
        return b"".join(found[part][1] for part in range(1, parts + 1))

    def incomplete(self) -> Iterator[tuple[str, str]]:
        """The reason and what is missing of each text of which not all parts were found."""
        for found in self.waiting.values():
            row = next(iter(found.values()))[0]
            missing = [part for part in range(1, int(row["parts"]) + 1) if part not in found]
            yield str(row["reason"]), f"part {', '.join(map(str, missing))} of {row['parts']} is missing"


def read_rejected(content: bytes, parts: Parts) -> list[Item]:
    """The rejected events of an object; those of which it has only a part wait in `parts`. Raises Corrupt."""
    # First all of it, so that an object with one bad row in it is set aside as a whole.
    rows = []
    for number, row in enumerate(documents(content), 1):
        try:
            rows.append((row, a2b_base64(row["body"], strict_mode=True), _sender(row)))
            _ = row["reason"] + row["event_id"], int(row["part"]), int(row["parts"]), int(row["position"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(f"row {number:,} is no rejected event ({type(error).__name__}: {error})") from None
    return [
        _rejected_item(row, text, sender) for row, body, sender in rows if (text := parts.join(row, body)) is not None
    ]


@dataclass(frozen=True, slots=True)
class _Sender:
    """What the context line of a row's request says."""

    request_id: str
    extended_request_id: str
    time: int
    ip: str
    user_agent: str

    def record(self, body: bytes, **pairs: object) -> tuple[bytes, ...]:
        """The body as records that this sender sent; `pairs` end their context lines."""
        line = (
            f"sluice/1 request_id={self.request_id} extended_request_id={self.extended_request_id} time={self.time}"
            f" ip={self.ip} user_agent={b64encode(self.user_agent.encode()).decode()}"
        )
        line += "".join(f" {key}={value}" for key, value in pairs.items())
        end = f"\nsluice/end extended_request_id={self.extended_request_id}\n"
        return _write(b"%b\n%b%b" % (line.encode(), body, end.encode()), self.time)


def _sender(row: Json) -> _Sender:
    moment = datetime.fromisoformat(row["received_at"]).replace(tzinfo=UTC)
    received_at = round(moment.timestamp() * 1000)
    # For a bare record its time stands for the id of its request, as it does where ids are made.
    extended_request_id = row.get("extended_request_id") or str(received_at)
    ids = row.get("request_id") or "", extended_request_id, row.get("ip") or ""
    if any(text.split() != [text] for text in ids if text):
        raise ValueError("an id or an address with white space in it")
    return _Sender(ids[0], ids[1], received_at, ids[2], row.get("user_agent") or "")


def _rejected_item(row: Json, text: bytes, sender: _Sender) -> Item:
    reason, event_id, position = row["reason"], row["event_id"], int(row["position"])
    digest = _digest("rejected", event_id, position, sender.extended_request_id, row.get("rejected_at"), text)
    body, form = _as_event(text, reason)
    pairs: Json = {"form": form} if form else {}
    # One with white space in it is the sender's own, and stands in the event.
    if event_id.split() == [event_id] and reason not in _OF_MANY:
        pairs["event_id"] = event_id
    return Item(reason, digest, sender.record(body, **pairs, position=position))


def _as_event(text: bytes, reason: str) -> tuple[bytes, Form | None]:
    """The text of a rejected event as a body, and its form: one that leaves it the one event that it was, if it was."""
    event = parse(text.removeprefix(_BYTE_ORDER_MARK))
    if reason not in _NOT_OF_A_QUERY and type(event) is not dict:
        return text, "query"  # every text of JSON that has such a fault is an object
    if reason in _OF_MANY:
        # Items of an array may stand on several lines each; a line break is white space between JSON's tokens.
        try:
            return b"\n".join(line.replace(b"\n", b" ") for line in values(text)), "lines"
        except ValueError:
            return text, "lines"
    if not isinstance(event, Exception):
        text = text.removeprefix(_BYTE_ORDER_MARK).replace(b"\n", b" ")
    return text, None if b"\n" in text or not text.strip() else "lines"


def values(content: bytes) -> Iterator[bytes]:
    """The texts of the JSON values that stand one after the other; ValueError if something else does."""
    text = content.decode()
    position = _skip_space(text, 0)
    while position < len(text):
        try:
            _, end = _DECODER.raw_decode(text, position)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        yield text[position:end].encode()
        position = _skip_space(text, end)


# --- errors/


def read_errors(content: bytes, error_type: str) -> list[Item]:
    """The failed records of an object of errors/<error_type>/. Raises Corrupt."""
    items = []
    for number, envelope in enumerate(documents(content), 1):
        try:
            data = a2b_base64(envelope["rawData"], strict_mode=True)
            arrived_at = int(envelope["arrivalTimestamp"])  # a number or its text
            if error_type == CONVERSION_FAILED:
                items.append(_conversion_item(envelope, data, arrived_at))
            else:
                items.append(_processing_item(envelope, data, arrived_at))
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"document {number:,} is no failed record ({type(error).__name__}: {error})") from None
    return items


def _processing_item(envelope: Json, data: bytes, arrived_at: int) -> Item:
    reason = str(envelope.get("errorCode") or PROCESSING_FAILED)
    digest = _digest("errors", arrived_at, data)
    if data.startswith(b"sluice/"):
        return Item(reason, digest, (data,))
    return Item(reason, digest, _write(data, arrived_at))


def _conversion_item(envelope: Json, data: bytes, arrived_at: int) -> Item:
    """The rows of one request, as events of a record of theirs."""
    rows = [json.loads(text) for text in values(data)]
    if not rows or not all(type(row) is dict and type(row["event_id"]) is str for row in rows):
        raise ValueError("rawData holds no rows of events")
    reason = str(envelope.get("lastErrorCode") or CONVERSION_FAILED)
    # A row lacks the id of its request that no client can choose; no id is made of it here, as each event has its own.
    sender = _sender({**rows[0], "extended_request_id": rows[0].get("request_id")})
    lines = b"\n".join(json.dumps(event_of(row), ensure_ascii=False).encode() for row in rows)
    return Item(reason, _digest("errors", arrived_at, data), sender.record(lines, form="lines"))


def event_of(row: Json) -> Json:
    """The event that the transform made a row of, as far as the row says; it becomes the same row again.

    What stood in `properties` goes back beside the columns, where rules look for it; there stays what has a column's
    name, and so was inside the sender's own `properties`.
    """
    event = {key: row[name] for name, key in _ROW_KEYS.items() if row.get(name) is not None}
    if row.get("clock_skew_ms") is None:
        event.pop(_ROW_KEYS["occurred_at"], None)  # the sender gave no time
    try:
        properties = json.loads(row.get("properties") or "{}")
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
        if record.startswith(b"sluice/"):
            items.append(Item("record", _digest("raw", record), (record,)))
        elif record.strip():
            items += _bare_items(record, stored_at)
    return items


def _bare_items(content: bytes, stored_at: int) -> Iterator[Item]:
    """Bare records that stand one after the other: their events, a line each."""
    try:
        texts = [line.replace(b"\n", b" ") for line in values(content)]
    except ValueError:
        texts = [line for line in content.split(b"\n") if line.strip()]
    events: list[bytes] = []
    for value in texts:
        document = parse(value)
        events += split_texts(value)[1] if type(document) is list else [value]
    known = [event.replace(b"\n", b" ") for event in events if _has_id(parse(event))]
    if known:
        sender = _Sender("", str(stored_at), stored_at, "", "")
        # They come back into raw/ as they are sent, and are then known by it.
        for record in sender.record(b"\n".join(known), form="lines"):
            yield Item("bare record", _digest("raw", record), (record,))
    if len(known) < len(events):
        obstacle = "would count a second time: bare events without an event_id cannot be told from what is stored"
        yield Item("bare record", _digest("raw", content), obstacle=obstacle)


def _has_id(event: Any) -> bool:
    own = event.get("event_id") if type(event) is dict else None
    return type(own) is int or (type(own) is str and bool(own.strip()))


# --- Records


def _write(data: bytes, arrived_at: int) -> tuple[bytes, ...]:
    """Records with a context line and at most MAX_EVENTS events, that lead to the very rows that this one leads to."""
    record = read_record(data, arrived_at)
    _, texts = split_texts(record.body, record.form)
    return tuple(
        written
        for first in range(0, len(texts), MAX_EVENTS)
        for written in write_rest(record, first, [0] * min(MAX_EVENTS, len(texts) - first), most=0)
    )


def _digest(*parts: object) -> str:
    """128 bits that tell an item from every other."""
    return sha256(b"\0".join(_bytes(parts))).hexdigest()[:32]


def _bytes(parts: Iterable[object]) -> Iterator[bytes]:
    for part in parts:
        yield part if isinstance(part, bytes) else str(part).encode()
