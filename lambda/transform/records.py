"""The record on the delivery stream: a context line, a body with events, and an end line.

    sluice/1 request_id=<id> extended_request_id=<id> time=<epoch ms> ip=<address> user_agent=<base64>
    <the body>
    sluice/end extended_request_id=<the same id>

The API's mapping template writes it so, and adds `form=query` for a pixel, and the name of its envelope for a body of a
well-known client. Events too many for the reply to Firehose are written so here, to be put back on the stream;
`position` is then the first one's position in its request, and `form=lines` means one event a line. A replay may add
`event_id` and `received_at`.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl

import orjson

from shared.documents import JsonValue, parse_json
from transform.rules import DEFAULTS, Context, Settings

MAX_EVENTS: Final = 10_000
"""Events in one record; those beyond share one rejection."""

MAX_GROWTH: Final = 20
"""The rows of a request may have so many times its own bytes. A row has hundreds of bytes, even of a tiny event, and
rows beyond a reply go back to the stream: many tiny events would cost many times their own bytes."""

FREE_EVENTS: Final = 100
"""Events allowed in a request, however few bytes it has."""

LEAST_ROW: Final = 424
"""Bytes of a row with no user agent and next to no content."""

MAX_AGENT_CHARACTERS: Final = 256
"""Characters of the user agent in a row."""

MAX_REST_BYTES: Final = 1_000_000
"""Bytes of events in a record written here. With both its lines it stays below Firehose's 1,024,000."""

TOO_DEEP: Final = "objects and arrays are nested deeper than 254 levels"
"""The detail of an event too deep for orjson to write; from 1,024 levels on it does not even read it."""

Reason: TypeAlias = Literal[
    "not_json",
    "not_an_object",
    "unknown_type",
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

Envelope: TypeAlias = Literal[
    "cloudevents",
    "v1/track",
    "v1/page",
    "v1/identify",
    "v1/group",
    "v1/alias",
    "v1/screen",
    "v1/batch",
    "v1/metrics",
    "v1/other",
]
"""How a well-known client writes its events; envelopes.py reads them."""

Form: TypeAlias = Literal["document", "array", "lines", "query"] | Envelope
"""How a body holds its events: as itself, as the items of an array, one a line, one as a query string, or in an
envelope."""

ENVELOPES: Final[frozenset[Form]] = frozenset(get_args(Envelope))
BATCH: Final = "v1/batch"
WRAPPING: Final[frozenset[Form]] = frozenset(("array", "cloudevents", BATCH))
"""The forms with several events written as an array."""


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


Sent: TypeAlias = JsonValue | Reject
"""What was sent as an event, or why it cannot be read."""


@dataclass(slots=True)
class Record:
    """A record, parted into its request's context and its body."""

    context: Context
    body: bytes
    form: Form | None = None
    """The form in the context line; without one, the body shows its form itself."""
    line: re.Match[bytes] | None = None
    """The context line as it came; none for a bare record."""

    @property
    def most_events(self) -> int:
        """How many of its events are looked at: fewer of a request of the API, as it came, if they are tiny."""
        if self.line is None or b" position=" in self.line["more"]:
            return MAX_EVENTS
        rows = (len(self.line[0]) + len(self.body)) * MAX_GROWTH
        agent = len(write_json(self.context.user_agent or ""))
        return min(MAX_EVENTS, max(FREE_EVENTS, rows // (LEAST_ROW + agent)))


def describe(error: Exception) -> str:
    """An exception's type and place, without its message: it may repeat the sender's text."""
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.name}, {Path(place.filename).name} line {place.lineno}"


# --- The context line and the end line ----------------------------------------------------------------------------

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)
EARLIEST: Final = 0
LATEST: Final = (datetime(2101, 1, 1, tzinfo=UTC) - EPOCH) // MILLISECOND
"""The first moment too late, in epoch milliseconds: the years 1970 to 2100 are taken."""

MARKER: Final = b"sluice/"
"""How a record of ours begins, whatever its version."""

# Without its newline. "Not a space" is matched several times as fast as "no white space".
_CONTEXT_LINE: Final = re.compile(
    rb"sluice/1 request_id=([^ ]*+) extended_request_id=([^ ]++) time=(\d++) ip=([^ ]*+) user_agent=([^ ]*+)"
    rb"(?P<more>(?: (?:form|event_id|position|received_at)=[^ ]++)*+)"
)
RECORD: Final = re.compile(
    rb"sluice/1 request_id=\S* extended_request_id=(\S+) [^\n]*\n.*?\nsluice/end extended_request_id=\1\n", re.DOTALL
)
"""A whole record of ours, to be found among the others in an object of raw/."""
RECORD_START: Final = re.compile(rb"^(?=sluice/1 request_id=)", re.MULTILINE)
"""Where a record of ours begins there, also one without its end line."""

_FORMS: Final[dict[str | None, Form | None]] = {
    **{None: None, "query": "query", "lines": "lines"},
    **{form: form for form in get_args(Envelope)},
}


def read_record(data: bytes, arrived_at: int, settings: Settings = DEFAULTS) -> Record:
    """Part a record; `arrived_at` (epoch milliseconds) is the time of one without a time.

    The end line repeats the extended request id, which no client can choose, and it must be the record's last: anything
    like either line inside the body is body. A record without our marker at its start was put on the stream by an SDK
    and is a body alone. Raises Fault if a record of ours is not whole.
    """
    line_end = data.find(b"\n")
    line = _CONTEXT_LINE.fullmatch(data, 0, line_end)
    if line is None:
        if not data.startswith(MARKER):
            return Record(Context(arrived_at, settings=settings), data)
        raise Fault("context_line", "the record begins with our marker, and not with a context line of version 1")
    request_id, extended_request_id, time, ip, user_agent, more = line.groups()
    end = end_line(extended_request_id)
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
            settings,
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
    """The start of the user agent's text. The header may hold any bytes; U+FFFD replaces invalid UTF-8."""
    return b64decode(encoded, validate=True).decode(errors="replace")[:MAX_AGENT_CHARACTERS] or None


def sender_line(request_id: str, extended_request_id: str, time: int, ip: str = "", user_agent: str = "") -> bytes:
    """The context line of a request, without its newline; pairs may follow it. `time` is in epoch milliseconds."""
    agent = b64encode(user_agent.encode()).decode()
    line = f"sluice/1 request_id={request_id} extended_request_id={extended_request_id} time={time} ip={ip}"
    return f"{line} user_agent={agent}".encode()


def end_line(extended_request_id: bytes) -> bytes:
    """A record's end line, with the newline after its body."""
    return b"\nsluice/end extended_request_id=%b\n" % extended_request_id


def write_rest(record: Record, first: int, row_sizes: Sequence[int], most: int) -> Iterator[bytes]:
    """Write events of a record as smaller records; these become the very rows of the events here.

    They are the events from `first` on; `row_sizes` has the bytes of each one's row (0: no row). One record leads to
    rows of at most `most` bytes, unless a single event leads to more. Ids stay the same, because the events keep their
    texts, their positions and the context of their request.
    """
    context = record.context
    form, texts = split_texts(record.body, record.form)
    line = record.line
    pairs = _read_pairs(line["more"]) if line else {}
    if len(texts) > 1:
        pairs.pop("event_id", None)  # it is the id of an only event, and one of these may soon be alone
    if form == "lines":
        pairs["form"] = form  # else a line that is alone, or bad lines among themselves, would be read as a document
    # A bare record's time is the id of its request, as it is where ids are made.
    extended_request_id = context.extended_request_id or str(context.received_at)
    bare = sender_line("", extended_request_id, context.received_at)
    sender = line.string[: line.start("more")] if line else bare
    end = end_line(extended_request_id.encode())

    def write(start: int, stop: int) -> bytes:
        pairs["position"] = str(context.position + start)
        more = "".join(f" {key}={value}" for key, value in pairs.items()).encode()
        some = texts[start:stop]
        body = b"[%b]" % b",".join(some) if form in WRAPPING else b"\n".join(some)
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

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # some editors put it in front of a file


def split(body: bytes, form: Form | None = None, exact: bool = False) -> tuple[Form, list[Any]]:
    """The form of a body, and its events in their order: each as it was sent, or a Reject if it cannot be read.

    Items beyond MAX_EVENTS are only there to be counted. Whole numbers beyond 64 bits are doubles; `exact` keeps their
    digits, and takes longer.
    """
    if form == "query":
        return form, [dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))]
    if form == "lines":
        return form, _parse_each(_split_lines(body), exact)
    if form is not None:
        return form, _split_envelope(body, form, exact)
    try:
        document = _load_exactly(body) if exact else orjson.loads(body)
    except orjson.JSONDecodeError:
        body = body.removeprefix(BYTE_ORDER_MARK)
        document = parse(body, exact)
        if type(document) is Reject:
            return _split_unreadable(body, document, exact)
    return ("array", document) if type(document) is list else ("document", [document])


def split_texts(body: bytes, named_form: Form | None = None) -> tuple[Form, list[bytes]]:
    """The form of a body, and the texts of its events as they were sent: one for each of split's events."""
    form, events = split(body, named_form)
    if form in ("document", "query"):
        return form, [body]
    if form in ENVELOPES:
        texts = (form in WRAPPING and _split_items(body, form)) or []
        if len(texts) == len(events):
            return form, texts
        # It is not several events, or its key `batch` is written with escapes.
        return form, [body] if len(events) == 1 else [write_json(event) for event in events]
    if named_form is None:  # else the first of these lines may be any of the sent lines
        body = body.removeprefix(BYTE_ORDER_MARK)
    return form, _split_lines(body) if form == "lines" else _split_array(body) or []


def parse(text: bytes, exact: bool = False) -> Sent:
    """A JSON text's value, or a Reject with the reason.

    An object with half an emoji, as JavaScript writes for a text cut inside one, is repaired and flagged.
    """
    try:
        return _load_exactly(text) if exact else orjson.loads(text)
    except orjson.JSONDecodeError as error:
        repaired = _SURROGATE.sub(lambda match: rb"\ufffd" if match[1] else match[0], text)
        if repaired != text:
            with suppress(orjson.JSONDecodeError):
                value = _load_exactly(repaired)
                if type(value) is dict:
                    return {**value, REPAIRED: True}
        return _complain(error, text)


REPAIRED: Final = "sluice_repaired"
"""The key that flags an event with U+FFFD in place of half a character."""

# A whole pair, or half of one, or any other escape.
_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)


def _load_exactly(text: bytes) -> JsonValue:
    """A JSON text's value, with every digit of its whole numbers. Raises JSONDecodeError if orjson does not read it."""
    value: JsonValue = orjson.loads(text)
    with suppress(ValueError):  # nested too deeply: orjson does not write such a value either
        value = parse_json(text)
    return value


def may_have_lost_digits(written: bytes) -> bool:
    """Whether a double in orjson's JSON text may have been a whole number beyond 64 bits."""
    return _LARGE_DOUBLE.search(written) is not None


_LARGE_DOUBLE: Final = re.compile(rb"\de\+\d")
PLUS: Final = ord("+")
"""No such double is without this byte. As a number it is found eight times as fast as by b"+"."""

MAX_EXACT: Final = 2**53
"""A double of this size or more may have been another whole number."""


def write_json(value: JsonValue) -> bytes:
    """The JSON text of a value read here. Raises TypeError if it is nested deeper than orjson writes."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        if "64-bit" not in str(error):
            raise
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        except RecursionError:
            raise TypeError("Recursion limit reached") from None


def read_id(value: JsonValue) -> str | None:
    """A sender's `event_id` as text, if it is one: text, not blank, or a whole number, also as 12345.0; else None."""
    if type(value) is str:
        return None if not value or value.isspace() else value
    if type(value) is float and value.is_integer() and abs(value) < MAX_EXACT:
        value = int(value)
    return str(value) if type(value) is int else None


_REPLACED: Final = "\ufffd".encode()
_REPLACED_GZIP: Final = b"\x1f" + _REPLACED


def _complain(error: orjson.JSONDecodeError, text: bytes) -> Reject:
    message = str(error)
    if message.startswith("depth limit"):
        return Reject("nested_too_deeply", TOO_DEEP)
    if text.startswith(_REPLACED_GZIP):
        message = "a gzip body came without Content-Encoding: gzip, and API Gateway has damaged it"
    elif _REPLACED in text:
        message += "; U+FFFD replaces bytes that were not UTF-8, which API Gateway does not keep"
    return Reject("not_json", message)


def _split_envelope(body: bytes, form: Form, exact: bool) -> list[Any]:
    """The events of an envelope, as its client wrote them."""
    if form not in WRAPPING:
        return [parse(body, exact)]
    try:
        document = _load_exactly(body) if exact else orjson.loads(body)
    except orjson.JSONDecodeError:
        items = _split_items(body, form)
        return [parse(body, exact)] if items is None else _parse_each(items, exact)
    if form == BATCH and type(document) is dict:
        document = document.get("batch")
        if type(document) is not list:
            return [Reject("not_an_object", "a batch must be an object with an array `batch`")]
    return document if type(document) is list else [document]


def _split_items(body: bytes, form: Form) -> list[bytes] | None:
    """The texts of an envelope's events, if it holds an array of them; else None."""
    return _split_array(_find_batch(body) if form == BATCH else body)


def _find_batch(body: bytes) -> bytes:
    """The text of the array `batch` of an object; all of the body, if there is none."""
    depth, start, found, is_named = 0, 0, body, False
    for token in _TOKEN.finditer(body):
        text = token[0]
        if text in (b"{", b"["):
            if depth == 1 and is_named and text == b"[":
                start = token.start()
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
            if depth == 1 and start:
                found, start = body[start : token.end()], 0
        is_named = depth == 1 and text == b'"batch"'
    return found


def _parse_each(texts: list[bytes], exact: bool) -> list[Any]:
    # Texts beyond the limit are only counted: a megabyte of short bad lines would take a lot of time and memory.
    return [*[parse(text, exact) for text in texts[:MAX_EVENTS]], *texts[MAX_EVENTS:]]


def _split_unreadable(body: bytes, complaint: Reject, exact: bool) -> tuple[Form, list[Any]]:
    """The form and the events of a body refused by orjson; `complaint` is orjson's reason."""
    lines = _parse_each(_split_lines(body), exact)
    if not lines:
        return "document", [Reject("not_json", "the body is empty")]
    # The first line decides most cases. Else an array comes before lines: a pretty-printed array with one number too
    # large in it has lines that are whole objects, too.
    if type(lines[0]) is dict:
        return "lines", lines
    items = _split_array(body)
    if items:
        return "array", _parse_each(items, exact)
    return ("lines", lines) if dict in map(type, lines) else ("document", [complaint])


def _split_lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line and not line.isspace()]


_WHITE_SPACE: Final = b" \t\r\n"
# A string (an unfinished one ends with the text), or a character of an array's structure.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)


def _split_array(body: bytes) -> list[bytes] | None:
    """The texts of an array's items, right or wrong, each to be read by itself; None if it is not an array.

    An empty place between two commas counts as little as a blank line.
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
