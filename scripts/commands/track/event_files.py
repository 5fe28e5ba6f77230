"""The events of a file or a pipe: unpacked, split into texts, each with an id made from the texts so far.

A file has a JSON object on each line; or JSON arrays of objects, or pretty-printed objects, one after the other. It may
be gzipped, and UTF-16 or UTF-32 if it begins with a byte order mark. It is read once, and memory holds no more of it
than the largest event.

An id is a digest of all texts up to and including the event's own, without the white space between their tokens. So the
same content has the same ids however it is packed, encoded and laid out, and a growing file keeps its ids.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
import re
import select
import stat
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any, NoReturn

from scripts.commands.common.console import CommandError, UsageError
from scripts.commands.track.sender import LARGEST_EVENT, Line
from shared.documents import parse_json
from transform.records import read_id
from transform.rows import merge_properties

STANDARD_INPUT = "standard input"
POLL_SECONDS = 0.1  # between two looks at a slow input, to see whether to go on waiting
_CHUNK_BYTES = 1 << 18
_MOST_HELD = LARGEST_EVENT + 16  # bytes of a text, with some white space after it
_TOO_LARGE = f"larger than {LARGEST_EVENT:,} bytes, which one Firehose record holds"

Chunks = Iterator[bytes | None]
"""The bytes of an input in their order, and None whenever the next ones are not there yet."""


# --- Bytes: packing and encoding of an input ----------------------------------------------------------------------

_GZIP = b"\x1f\x8b"
_UTF8 = b"\xef\xbb\xbf"
_ENCODINGS = {
    b"\xff\xfe\0\0": "utf-32",  # before the shorter mark at its start
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""By their byte order marks."""

_COPY = "duckdb -c \"COPY (FROM '{}') TO '/dev/stdout' (FORMAT json)\""
_OTHERS = {
    _GZIP: ("gzip inside gzip", "zcat {} | zcat"),
    b"PK\x03\x04": ("a zip archive", "unzip -p {}"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc {}"),
    b"BZh": ("bzip2", "bzip2 -dc {}"),
    b"\xfd7zXZ\0": ("xz", "xz -dc {}"),
    b"PAR1": ("Parquet", _COPY),
}
"""Formats not read, by their first bytes: the name, and a command to make lines of JSON of it."""

_MARKS = (_UTF8, *_ENCODINGS, *_OTHERS)


def read_chunks(stream: io.RawIOBase, stop: threading.Event) -> Chunks:
    """The bytes of a file or a pipe until it ends, or `stop` is set."""
    seconds = 0.0
    while not stop.is_set():
        if not select.select([stream], [], [], seconds)[0]:
            # The first None comes at once: a pack may have waited long enough already.
            seconds = POLL_SECONDS
            yield None
            continue
        seconds = 0.0
        chunk = stream.read(_CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


def unpack(chunks: Chunks, name: str) -> Chunks:
    """The text of an input in UTF-8, without a byte order mark.

    Args:
        name: the file's, or STANDARD_INPUT.

    Raises:
        UsageError: it is not text. The message names its format and a command to make text of it.
        CommandError: it is damaged or cut off. All text before the damage has been yielded.
    """
    head, rest = _peek(chunks)
    if head.startswith(_GZIP):
        head, rest = _peek(_inflate(chain([head], rest)))
    if encoding := next((_ENCODINGS[mark] for mark in _ENCODINGS if head.startswith(mark)), None):
        return _decode(chain([head], rest), encoding)
    found = next((_OTHERS[mark] for mark in _OTHERS if head.startswith(mark)), None)
    if found and b"[Content_Types].xml" in head[:100]:
        found = "an Excel workbook", _COPY
    if not found and b"\0" in head[:64]:
        found = "binary, or UTF-16 without a byte order mark", "iconv -f UTF-16LE -t UTF-8 {}"
    if found:
        kind, command = found
        file = name if re.fullmatch(r"[\w./+-]+", name) else "FILE"
        raise UsageError(f"{name} is {kind}: type {command.format(file)} | scripts/track.sh -")
    return chain([head.removeprefix(_UTF8)], rest)


def _peek(chunks: Chunks) -> tuple[bytes, Chunks]:
    """The start of an input, long enough to tell one mark from another, and the rest."""
    head = b""
    for chunk in chunks:
        head += chunk or b""
        if head and not any(mark.startswith(head) for mark in _MARKS):
            break
    return head, chunks


def _inflate(chunks: Chunks) -> Chunks:
    inflater = zlib.decompressobj(wbits=31)
    for chunk in chunks:
        if chunk is None:
            yield None
            continue
        text = b""
        while chunk or len(text) == _CHUNK_BYTES:
            if inflater.eof:  # zeros may follow, or another member
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    break
                inflater = zlib.decompressobj(wbits=31)
            try:
                text = inflater.decompress(chunk, _CHUNK_BYTES)
            except zlib.error as error:
                raise CommandError(f"the gzip data is damaged: {error}") from error
            yield text
            chunk = inflater.unconsumed_tail or inflater.unused_data
    if not inflater.eof:
        raise CommandError("the gzip data is cut off")


def _decode(chunks: Chunks, encoding: str) -> Chunks:
    # Half a surrogate pair is refused later, with its event.
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for chunk in chunks:
            yield None if chunk is None else decoder.decode(chunk).encode("utf-8", "surrogatepass")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise CommandError(f"the {encoding.upper()} text is damaged or cut off: {error.reason}") from error


# --- Texts: possible events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Large:
    """A text too large for an event. It is in `spool`, from `start` on; nowhere if there is no spool."""

    spool: IO[bytes] | None
    start: int
    size: int

    def pieces(self) -> Iterator[bytes]:
        """The text in pieces small enough for memory."""
        if self.spool is not None:
            self.spool.flush()
            end = self.start + self.size
            for offset in range(self.start, end, _CHUNK_BYTES):
                yield os.pread(self.spool.fileno(), min(_CHUNK_BYTES, end - offset), offset)


class Collector:
    """Makes texts of pieces. A text too large for an event goes to the spool as it comes."""

    def __init__(self, spool: IO[bytes] | None) -> None:
        self._spool = spool
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def is_blank(self) -> bool:
        """Whether the text has no character yet, except white space."""
        return self._size <= _MOST_HELD and all(map(bytes.isspace, self._pieces))

    def add(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
        if self._size > _MOST_HELD:
            if self._spool is not None:
                self._spool.writelines(self._pieces)
            self._pieces.clear()

    def take(self, piece: bytes) -> bytes | Large:
        """The text with this piece as its end."""
        self.add(piece)
        size, self._size = self._size, 0
        if size > _MOST_HELD:
            return Large(self._spool, self._spool.tell() - size if self._spool else 0, size)
        text = b"".join(self._pieces)
        self._pieces.clear()
        return text


Texts = Iterator[bytes | Large | None]
"""Texts in their order, and None whenever the next one is not there yet."""

_VALUES = re.compile(rb"\s*(\[|\{[ \t\r]*\n)")
_UNDECIDED = re.compile(rb"\s*(\{[ \t\r]*)?")


def split(chunks: Chunks, collector: Collector) -> tuple[bool, Texts]:
    """Whether each line is an event, and the texts: of the lines, or of the values if it begins with `[` or a lone `{`.

    A lone `{` is all of its line, as in pretty-printed objects.
    """
    head = b""
    for chunk in chunks:
        head += chunk or b""
        if len(head) > LARGEST_EVENT or not _UNDECIDED.fullmatch(head):
            break
    chunks = chain([head], chunks)
    if _VALUES.match(head):
        return False, split_values(chunks, collector)
    return True, split_lines(chunks, collector)


def split_lines(chunks: Chunks, collector: Collector) -> Texts:
    """The text of each line."""
    for chunk in chunks:
        if chunk is None:
            yield None
            continue
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield collector.take(line.removesuffix(b"\r"))
        collector.add(rest)
    if not collector.is_blank:
        yield collector.take(b"")


# A whole string, or a significant character. No string has a newline.
_TOKEN = re.compile(rb'"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"|["{}\[\]:,\n]')
# The rest of a string: as far as its end, or as the chunk's, where it may leave half an escape.
_STRING = re.compile(rb'[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+(?:\\?(?P<end>["\n])|(?P<escape>\\)?\Z)')


def split_values(chunks: Chunks, collector: Collector) -> Texts:
    """The texts of JSON values one after the other, and of the items of arrays among them.

    A value ends with its last bracket; one without brackets, at a comma or a newline. A value whose brackets do not
    match ends where another begins for sure: at a `{` inside an object and not behind a colon. Else at the array's end.
    """
    opened = bytearray()  # the open brackets of the value
    in_array = in_string = False
    previous = escape = b""
    for chunk in chunks:
        if chunk is None:
            yield None
            continue
        chunk, escape, start, position = escape + chunk, b"", 0, 0
        while True:
            if in_string:
                string = _STRING.match(chunk, position)
                assert string is not None  # it takes everything
                position, in_string, escape = string.end(), string["end"] is None, string["escape"] or b""
            token = _TOKEN.search(chunk, position)
            if token is None:
                break
            before, position, mark = token.start(), token.end(), token[0]
            is_value = previous == b":"  # of a key
            previous = previous if mark == b"\n" else mark
            if mark == b'"':
                in_string = True
            elif mark == b"[" and not (opened or in_array) and collector.is_blank and not chunk[start:before].strip():
                in_array, start = True, position
            elif mark in (b"{", b"["):
                if mark == b"{" and opened.endswith(b"{") and not is_value:
                    yield collector.take(chunk[start:before])
                    opened.clear()
                    start = before
                opened += mark
            elif mark == b"]" and in_array and b"[" not in opened:
                yield collector.take(chunk[start:before])
                opened.clear()
                in_array, start = False, position
            elif mark in (b"}", b"]") and opened:
                opened.pop()
                if not opened:
                    yield collector.take(chunk[start:position])
                    start = position
            elif mark in (b",", b"\n") and not opened:
                yield collector.take(chunk[start:before])
                start = position
        collector.add(chunk[start : len(chunk) - len(escape)])
    if not collector.is_blank:
        yield collector.take(escape)


# --- Events: lines to post ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LargeLine(Line):
    """A line too large to post; its body is empty."""

    text: Large | None = None


class Events:
    """The events of a file or a pipe as lines to post, each with its id.

    `name` is the file's, or STANDARD_INPUT. Another `seed` gives other ids. `spool` keeps texts too large for an event.
    """

    def __init__(
        self, stream: io.RawIOBase, name: str, stop: threading.Event, seed: str = "", spool: IO[bytes] | None = None
    ) -> None:
        self._stream, self._name, self._stop = stream, name, stop
        status = os.fstat(stream.fileno())
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        """Bytes of the file; None for a pipe."""
        self._digest = hashlib.blake2b(seed.encode("utf-8", "surrogateescape"), digest_size=16)
        self._collector = Collector(spool)
        self.unit = "line"
        """The unit of the counts: lines, or events if a line is not an event."""
        self.read = 0
        """How many of them have been read."""
        self.last = 0
        """The number of the last event, sent or refused."""
        self.is_whole = False
        """Whether everything has been read."""
        self.fault: CommandError | None = None
        """Why nothing more can be read."""

    @property
    def position(self) -> int | None:
        """How many bytes of a file have been read."""
        return None if self.size is None else self._stream.tell()

    def lines(self, first: int = 1) -> Iterator[Line | None]:
        """The events from number `first` on, and None whenever the next one is not there yet."""
        try:
            has_lines, texts = split(unpack(read_chunks(self._stream, self._stop), self._name), self._collector)
            self.unit = "line" if has_lines else "event"
            for text in texts:
                if text is None:
                    yield None
                    continue
                is_blank = isinstance(text, bytes) and not text.strip()
                self.read += has_lines or not is_blank
                if is_blank:
                    continue
                if isinstance(text, bytes):
                    self._digest.update(compact(text) + b"\n")
                if self.read >= first:
                    self.last = self.read
                    yield self._line(text)
            self.is_whole = not self._stop.is_set()
        except (CommandError, OSError) as error:
            if not self._stop.is_set():
                self.fault = error if isinstance(error, UsageError) else self._broken(error)

    def _broken(self, error: Exception) -> CommandError:
        reason = error.strerror if isinstance(error, OSError) else error
        return CommandError(f"{self._name} cannot be read after {self.unit} {self.read:,}: {reason}")

    def _line(self, text: bytes | Large) -> Line:
        if isinstance(text, Large):
            return LargeLine(self.read, b"", _TOO_LARGE, text)
        return event_line(self.read, text, self._digest.hexdigest())


def event_line(number: int, text: bytes, event_id: str) -> Line:
    """A text as the line to post, with `event_id` unless it has an id; or with its problem.

    It becomes the same row as the text alone would, and the sender's values arrive as written, to the last digit: the
    id is put before the closing brace, and a sender's value in its place moves to properties.
    """
    try:
        event = parse_json(text.decode("utf-8"), parse_int=_forget_digits, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return Line(number, text, f"not JSON: {error.msg} at {_position(error)}")
    except UnicodeDecodeError as error:
        return Line(number, text, f"not UTF-8: byte 0x{text[error.start]:02x} at column {error.start + 1}")
    except ValueError as error:
        return Line(number, text, f"not JSON: {error}")
    if not isinstance(event, dict):
        kind = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(event), "a number")
        return Line(number, text, f"an event is a JSON object, this is {kind}")
    body = compact(text) if b"\n" in text else text.strip()
    own_id = event.get("event_id")
    if read_id(own_id) is None:
        if own_id is not None and not isinstance(own_id, str):
            body = _without_id(compact(text))
        comma = b"," if event else b""
        body = body[:-1].rstrip() + comma + f'"event_id":"{event_id}"}}'.encode()
    if len(body) > LARGEST_EVENT:
        return Line(number, text, _TOO_LARGE)
    return Line(number, body)


def id_of(line: Line) -> str:
    """The id of a postable event, as its row has it."""
    own_id = read_id(parse_json(line.body, parse_int=str)["event_id"]) or ""
    return _HALF_PAIR.sub("\ufffd", own_id.strip())


_HALF_PAIR = re.compile("[\ud800-\udfff]")
_NO_SPACE = re.compile(rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[^" \t\r\n]++)++', re.DOTALL)


def compact(text: bytes) -> bytes:
    """A JSON text without the white space between its tokens."""
    return b"".join(_NO_SPACE.findall(text))


def _without_id(text: bytes) -> bytes:
    """A compact event whose event_id is not an id, with the value in its properties instead."""
    members: dict[str, Any] = _members(text)
    properties: Any = members.pop("properties", b"null")
    if properties.startswith(b"{"):
        properties = _members(properties)
    members["properties"] = merge_properties(
        {"event_id": members.pop("event_id")}, None if properties == b"null" else properties
    )
    return _write(members)


def _members(text: bytes) -> dict[str, bytes]:
    """The texts of the values of a compact object by their keys. If a key is there twice, the last one counts."""
    members = {}
    depth, start, colon = 0, 1, 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in (b"{", b"["):
            depth += 1
        elif depth == 1 and mark == b":":
            colon = token.start()
        elif depth == 1 and mark in (b",", b"}") and colon:
            members[parse_json(text[start:colon])] = text[colon + 1 : token.start()]
            start = token.end()
        if mark in (b"}", b"]"):
            depth -= 1
    return members


def _write(value: bytes | dict[str, Any]) -> bytes:
    if isinstance(value, bytes):
        return value
    return b"{%b}" % b",".join(b"%b:%b" % (json.dumps(key).encode(), _write(item)) for key, item in value.items())


def written(line: Line) -> Iterator[bytes]:
    """The text of a refused line, whole and with its newline, in pieces small enough for memory."""
    pieces = line.text.pieces() if isinstance(line, LargeLine) and line.text else [line.body]
    for piece in pieces:  # a pretty-printed text becomes a line of its own
        yield piece.replace(b"\r", b" ").replace(b"\n", b" ")
    yield b"\n"


def _position(error: json.JSONDecodeError) -> str:
    return f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"


def _forget_digits(_digits: str) -> int:
    """Any whole number: its value is never used, and reading thousands of digits takes long."""
    return 0


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
