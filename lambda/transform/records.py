"""The record on the delivery stream: a context line, a body and an end line; and the events that its body holds.

    sluice/1 request_id=<id> extended_request_id=<id> time=<epoch ms> ip=<address> user_agent=<base64>
    <the body>
    sluice/end extended_request_id=<the same id>

The API's mapping template writes it so, and adds `form=query` for a pixel. What the reply to Firehose has no room for
is written so here, to be put back on the stream; `position` then says which event of its request is the first, and
`form=lines` that each line is an event. A replay may add `event_id` and `received_at`.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import parse_qsl

import orjson

from transform.rules import Context

MAX_EVENTS: Final = 10_000
"""Events in one record; what stands beyond is one rejected event."""

MAX_REST_BYTES: Final = 1_000_000
"""Bytes of events in a record that is written here. With both its lines it stays below Firehose's 1,024,000."""

TOO_DEEP: Final = "objects and arrays are nested deeper than 254 levels"
"""What is said of an event that orjson does not write; from 1,024 levels on it does not even read it."""

Reason: TypeAlias = Literal[
    "not_json",
    "not_an_object",
    "nested_too_deeply",
    "too_many_events",
    "too_many_rejects",
    "too_large",
    "missing",
    "too_long",
    "not_text",
    "not_a_number",
    "not_a_boolean",
    "not_a_time",
]
"""Why an event is rejected; events are counted by it."""

FaultReason: TypeAlias = Literal["context_line", "end_line", "rule", "bug"]
"""Why a record cannot be transformed; its events are counted by it."""

Form: TypeAlias = Literal["document", "array", "lines", "query"]
"""How a body holds its events: as itself, as the items of an array, one a line, or one as a query string."""


class Fault(Exception):
    """We are wrong, not the sender: the whole record fails, untouched, to be replayed."""

    def __init__(self, reason: FaultReason, detail: str, events: int = 1) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.events = events
        """How many events fail with the record; 1 when it could not be split."""


class Reject(Exception):
    """Inside the transform: the event at hand is wrong."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class Record:
    """A record, parted into what is known of its request and its body."""

    context: Context
    body: bytes
    form: Form | None = None
    """What the context line says of the body; if nothing, the body shows its form itself."""
    line: re.Match[bytes] | None = None
    """The context line as it came; none for a bare record."""


def describe(error: Exception) -> str:
    """An exception's type and place. Not its message, which may repeat what the sender wrote."""
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.name}, {Path(place.filename).name} line {place.lineno}"


# --- The context line and the end line ----------------------------------------------------------------------------

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)
EARLIEST: Final = 0
LATEST: Final = (datetime(2101, 1, 1, tzinfo=UTC) - EPOCH) // MILLISECOND
"""The first moment that is too late, in epoch milliseconds: the years 1970 to 2100 are taken."""

# Without its newline. "Not a space" is matched several times as fast as "no white space".
_CONTEXT_LINE: Final = re.compile(
    rb"sluice/1 request_id=([^ ]*+) extended_request_id=([^ ]++) time=(\d++) ip=([^ ]*+) user_agent=([^ ]*+)"
    rb"(?P<more>(?: (?:form|event_id|position|received_at)=[^ ]++)*+)"
)
_FORMS: Final[dict[str | None, Form | None]] = {None: None, "query": "query", "lines": "lines"}


def read_record(data: bytes, arrived_at: int, redact_fields: frozenset[str] = frozenset()) -> Record:
    """Part a record; `arrived_at` (epoch milliseconds) is the time of one that names none.

    The end line repeats the extended request id, which no client can choose, and it must be the record's last: whatever
    looks like either line inside the body is body. A record that does not begin with our marker was put on the stream
    by an SDK and is a body alone. Raises Fault for a record of ours that is not whole.
    """
    line_end = data.find(b"\n")
    line = _CONTEXT_LINE.fullmatch(data, 0, line_end)
    if line is None:
        if not data.startswith(b"sluice/"):
            return Record(Context(arrived_at, redact_fields=redact_fields), data)
        raise Fault("context_line", "the record begins with our marker, and not with a context line of version 1")
    request_id, extended_request_id, time, ip, user_agent, more = line.groups()
    end = b"\nsluice/end extended_request_id=%b\n" % extended_request_id
    body_end = len(data) - len(end)
    if body_end <= line_end or not data.endswith(end):
        raise Fault("end_line", "the record does not end with the end line of its own request")
    form, received_at, event_id, position = None, time, None, 0
    try:
        if more:
            pairs = _read_pairs(more)
            form = _FORMS[pairs.get("form")]
            received_at = pairs.get("received_at", time)
            event_id = pairs.get("event_id")
            position = int(pairs.get("position", 0))
        received_at = int(received_at)
        context = Context(
            received_at,
            request_id.decode() or None,
            extended_request_id.decode(),
            ip.decode() or None,
            _decode_user_agent(user_agent),
            event_id,
            position,
            redact_fields,
        )
    except (ValueError, KeyError) as error:
        raise Fault("context_line", f"a field of the context line cannot be read: {describe(error)}") from error
    if not EARLIEST <= received_at < LATEST:
        raise Fault("context_line", "the context line has a time outside the years 1970 to 2100")
    return Record(context, data[line_end + 1 : body_end], form, line)


def _read_pairs(more: bytes) -> dict[str, str]:
    return dict([pair.split("=", 1) for pair in more.decode().split()])


@lru_cache(maxsize=4096)
def _decode_user_agent(encoded: bytes) -> str | None:
    """The user agent's text. The header may hold any bytes; what is not UTF-8 in it becomes U+FFFD."""
    return b64decode(encoded, validate=True).decode(errors="replace") or None


def write_rest(record: Record, first: int, row_sizes: Sequence[int], most: int) -> Iterator[bytes]:
    """Write events of a record as smaller records, which lead to the very rows that the events would have had here.

    They are the events from `first` on, of which `row_sizes` has the bytes of each one's row (0: it has none); `most`
    is how many bytes of rows one record may lead to, unless a single event leads to more. Ids stay what they are,
    because the events keep their texts, their positions and the context of their request.
    """
    context = record.context
    form, texts = split_texts(record.body, record.form)
    line = record.line
    pairs = _read_pairs(line["more"]) if line else {}
    if len(texts) > 1:
        pairs.pop("event_id", None)  # it is the id of an only event, and one of these may soon be alone
    if form == "lines":
        pairs["form"] = form  # else a line that is alone, or bad lines among themselves, would be read as a document
    # For a bare record its time stands for the id of its request, as it does where ids are made.
    extended_request_id = context.extended_request_id or str(context.received_at)
    bare = f"sluice/1 request_id= extended_request_id={extended_request_id} time={context.received_at} ip= user_agent="
    sender = line.string[: line.start("more")] if line else bare.encode()
    end = f"\nsluice/end extended_request_id={extended_request_id}\n".encode()

    def write(start: int, stop: int) -> bytes:
        pairs["position"] = str(context.position + start)
        more = "".join(f" {key}={value}" for key, value in pairs.items()).encode()
        body = b"[%b]" % b",".join(texts[start:stop]) if form == "array" else b"\n".join(texts[start:stop])
        return b"%b%b\n%b%b" % (sender, more, body, end)

    start, text_bytes, row_bytes = first, 0, 0
    for position, row_size in enumerate(row_sizes, first):
        text_bytes += len(texts[position]) + 1
        row_bytes += row_size
        if position > start and (text_bytes > MAX_REST_BYTES or row_bytes > most):
            yield write(start, position)
            start, text_bytes, row_bytes = position, len(texts[position]) + 1, row_size
    yield write(start, first + len(row_sizes))


# --- The body: one object, an array, lines, or a query string -----------------------------------------------------

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # some editors put it in front of a file


def split(body: bytes, form: Form | None = None) -> tuple[Form, list[Any]]:
    """The form of a body, and its events in their order: what was sent as an event, or a Reject if it cannot be read.

    From MAX_EVENTS on there is one item for each event, and nothing else is said of it.
    """
    if form == "query":
        return form, [dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))]
    if form == "lines":
        return form, _parse_each(_split_lines(body))
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        document = _complain(error)
        if body.startswith(_BYTE_ORDER_MARK):
            body = body[len(_BYTE_ORDER_MARK) :]
            document = parse(body)
        if type(document) is Reject:
            return _split_unreadable(body, document)
    return ("array", document) if type(document) is list else ("document", [document])


def split_texts(body: bytes, named_form: Form | None = None) -> tuple[Form, list[bytes]]:
    """The form of a body, and the texts of its events as they were sent: one for each that split gives."""
    form, _ = split(body, named_form)
    if form in ("document", "query"):
        return form, [body]
    if named_form is None:  # else the first of these lines may be any of the lines that were sent
        body = body.removeprefix(_BYTE_ORDER_MARK)
    return form, _split_lines(body) if form == "lines" else _split_array(body) or []


def parse(text: bytes) -> Any:
    """A JSON text's value, or a Reject that says where it is wrong."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _complain(error)


def _complain(error: orjson.JSONDecodeError) -> Reject:
    text = str(error)
    return Reject("nested_too_deeply", TOO_DEEP) if text.startswith("depth limit") else Reject("not_json", text)


def _parse_each(texts: list[bytes]) -> list[Any]:
    # What stands beyond the limit is only counted: a megabyte of short bad lines would take a lot of time and memory.
    return [*map(parse, texts[:MAX_EVENTS]), *texts[MAX_EVENTS:]]


def _split_unreadable(body: bytes, complaint: Reject) -> tuple[Form, list[Any]]:
    """The form and the events of a body that is no JSON document to orjson; the complaint is what orjson says of it."""
    lines = _parse_each(_split_lines(body))
    if not lines:
        return "document", [Reject("not_json", "the body is empty")]
    # The first line decides most cases. Else an array comes before lines: a pretty-printed array with one number too
    # large in it has lines that are whole objects, too.
    if type(lines[0]) is dict:
        return "lines", lines
    items = _split_array(body)
    if items:
        return "array", _parse_each(items)
    return ("lines", lines) if dict in map(type, lines) else ("document", [complaint])


def _split_lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line and not line.isspace()]


_WHITE_SPACE: Final = b" \t\r\n"
# A string, which ends with the text if nothing else ends it, or a character that gives an array its structure.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)


def _split_array(body: bytes) -> list[bytes] | None:
    """The texts of an array's items, whatever they are, so that each answers for itself; None if it is no array.

    Nothing between two commas counts as little as a blank line.
    """
    body = body.strip(_WHITE_SPACE)
    if not (body.startswith(b"[") and body.endswith(b"]")):
        return None
    items = []
    depth, start = 0, 1
    for token in _TOKEN.finditer(body):
        character = body[token.start()]
        if character in b"[{":
            depth += 1
        elif character in b"]}":
            depth -= 1
            if depth == 0 and token.end() < len(body):
                return None
        elif character == 0x2C and depth == 1:  # a comma
            items.append(body[start : token.start()].strip(_WHITE_SPACE))
            start = token.end()
    if depth != 0:
        return None
    items.append(body[start:-1].strip(_WHITE_SPACE))
    return [item for item in items if item]
