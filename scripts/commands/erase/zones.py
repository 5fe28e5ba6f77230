"""One person's events in the text zones of the bucket: how to tell them, and the objects without them.

Everything here is pure. An object is read as scripts/commands/lake/ reads it. Its other events stay byte
for byte, in their order and in the object's compression.

An event is a person's if its `user_id` is the person's id after the transform's trimming, as text or as a number, or
if the rules give it this id. A text without a readable event (cut off, not JSON, a number instead of an object)
is the person's if the id follows the name `user_id` in it, in any spelling. Where nobody has signed in, the
same holds for `anonymous_id`.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final
from unicodedata import normalize
from urllib.parse import parse_qsl, quote, quote_plus, unquote_plus

from scripts.commands.lake.errors import failed_records
from scripts.commands.lake.objects import Corrupt, located, pack, plain, values_or_lines
from scripts.commands.lake.records import split_records
from scripts.commands.lake.rejected import OF_MANY, Texts, key_of, read_rows
from scripts.commands.lake.zones import CONVERSION_FAILED
from shared.documents import Json, JsonValue, parse_json
from transform.envelopes import read_event
from transform.records import (
    BYTE_ORDER_MARK,
    ENVELOPES,
    MARKER,
    Fault,
    Form,
    Reject,
    Sent,
    parse,
    read_id,
    read_record,
    split_texts,
    write_json,
    write_rest,
)
from transform.rows import COLUMNS
from transform.rules import RULES, Context, Drop

ID_COLUMNS: Final = ("user_id", "anonymous_id")
"""The columns with a person's id."""
_KEYS: Final = {column.name: column.key or column.name for column in COLUMNS if column.name in ID_COLUMNS}
_CAMEL: Final = {"user_id": "userId", "anonymous_id": "anonymousId"}
"""As the libraries of Segment and RudderStack name them."""
_WHOLE: Final = re.compile(r"(-?\d+)\.0+")
_MARKS: Final = re.compile(rb"([0-9a-f]{32}\n)*")


@dataclass(frozen=True, slots=True)
class Remains:
    """An object without the person."""

    before: int
    """Rows, or events of the records, in it now."""
    removed: int
    """How many of them go."""
    found: int
    """How many are the person's. More than `removed` where a row holds many events and only some go."""
    content: bytes = b""
    """The rest, if anything was found and anything stays."""
    obstacle: str = ""
    """Why a part of the object could not be checked."""
    goes_last: bool = False
    """It has a part naming the person: without it, nobody could tell whose the text's other parts are."""

    @property
    def after(self) -> int:
        return self.before - self.removed


class Person:
    """Tells one person's events from everybody else's, and counts ids equal to the person's except for their form.

    `id` is the person's in `column`, one of ID_COLUMNS. `similar` has how many events or rows hold each such other id,
    since this was made. They may be the person's or somebody else's: whoever runs the command decides.
    """

    def __init__(self, id: str, column: str = "user_id") -> None:
        self.id, self.column = id.strip(), column
        self.similar: Counter[str] = Counter()
        self._key = _KEYS[column]
        self._form = _form(self.id)
        as_json = (json.dumps(self.id, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False))
        ids = {self.id, quote(self.id, safe=""), quote_plus(self.id), *as_json}
        names = {column, self._key, _CAMEL[column]}
        any_id, any_name = ("|".join(map(re.escape, sorted(forms))) for forms in (ids, names))
        # JSON, JSON inside JSON, JavaScript, Python, a form or a query string, also where the text ends behind it.
        mark = r"""\\*["']?"""
        pattern = rf"""(?<!\w)(?:{any_name}){mark}\s*[:=]\s*{mark}\s*(?:{any_id})(?=[\\"'&,;}}\]\s]|\Z)"""
        self._naming = re.compile(pattern.encode())
        self._named = re.compile(
            rf"""(?<!\w)(?:{any_name}){mark}\s*[:=]\s*\\*(?:"([^"\\]*)|'([^'\\]*)|([^\s"'&,;}}\]\\]+))"""
        )

    def note(self, value: JsonValue, count: int = 1) -> None:
        """Count an id equal to the person's except for its form."""
        text = value if isinstance(value, str) else read_id(value)
        if text and _form(text) == self._form:
            self.similar[text.strip()] += count

    def is_meant(self, value: JsonValue | bytes, text: bytes = b"") -> bool:
        """Whether the value of the column is this person's; `text` is the event's, for digits lost in a double."""
        if value is None:
            return False
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str):
            return value.strip() == self.id
        with suppress(TypeError):  # a value nested too deeply is nobody's id
            if (read_id(value) or write_json(value).decode()) == self.id:
                return True
        if type(value) is float and text:
            with suppress(ValueError, AttributeError):
                literal = parse_json(text, parse_float=str, parse_int=str).get(self._key)
                return bool(literal == self.id)
        return False

    def owns(self, event: Json, text: bytes = b"") -> bool:
        """Whether an event is this person's, as sent or after the rules. Changes the event."""
        own_id = event.get(self._key)
        if self.is_meant(own_id, text):
            return True
        with suppress(Exception):  # a rule may drop the event or fail: it is checked as far as it got
            for rule in RULES.values():
                rule(event, Context(0))
        if self.is_meant(event.get(self._key)):
            return True
        self.note(own_id)
        return False

    def is_named_in(self, text: bytes) -> bool:
        """Whether a text without an event names this person."""
        if self._naming.search(text):
            return True
        for found in self._named.finditer(text.decode(errors="replace")):
            self.note(unquote_plus(next(filter(None, found.groups()), "")))
        return False

    def owns_text(self, text: bytes, form: Form | None = None) -> bool:
        """Whether the text of one event, in its form, is this person's."""
        if form == "query":
            event: Sent | Drop = _query(text)
        elif form in ENVELOPES:
            event = read_event(text, form)
        else:
            event = parse(text.removeprefix(BYTE_ORDER_MARK), exact=True)
        if type(event) is dict:
            return self.owns(event, text)
        return self.is_named_in(text)


def _form(id: str) -> str:
    """An id without its form: case, wide and compatible characters, and the `.0` of a whole number.

    Rows had that `.0` from senders whose numbers are doubles, until the transform took it away.
    """
    text = normalize("NFKC", normalize("NFKC", id).casefold()).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _query(text: bytes) -> Json:
    return dict(parse_qsl(text.decode(errors="replace"), keep_blank_values=True))


# --- Texts without some of their pieces


def _kept(text: bytes, pieces: Sequence[bytes], owned: Sequence[bool]) -> list[tuple[int, int]]:
    """The ranges of a text to keep. Its pieces are in it in their order; one goes together with its separator."""
    spans, position = [], 0
    for piece in pieces:
        start = text.index(piece, position)
        position = start + len(piece)
        spans.append((start, position))
    staying = [number for number, is_owned in enumerate(owned) if not is_owned]
    if not staying:
        return []
    ranges = [(0, spans[0][0])]
    ranges += [(spans[number][0], spans[number + 1][0]) for number in staying[:-1]]
    return [*ranges, spans[staying[-1]], (spans[-1][1], len(text))]


def _cut(text: bytes, pieces: Sequence[bytes], owned: Sequence[bool]) -> bytes:
    return b"".join(text[start:end] for start, end in _kept(text, pieces, owned))


def _with(text: str, document: Json, key: str, value: str | int) -> str:
    """The text of a document with another value under a key, the rest byte for byte."""
    old, new = f"{json.dumps(key)}:{json.dumps(document[key])}", f"{json.dumps(key)}:{json.dumps(value)}"
    for gap in ("", " "):
        if (found := old.replace(":", f":{gap}", 1)) in text:
            return text.replace(found, new.replace(":", f":{gap}", 1), 1)
    return json.dumps({**document, key: value}, ensure_ascii=False) + text[len(text.rstrip()) :]


def _changed(content: bytes, before: int, removed: int, found: int, text: Callable[[], bytes]) -> Remains:
    """Remains of an object with `text` as its rest."""
    left = pack(text(), content) if found and removed < before else b""
    return Remains(before, removed, found, left)


# --- events/ as JSON, a row a line


def _owns_row(row: Json, person: Person) -> bool:
    if person.is_meant(row.get(person.column)):
        return True
    person.note(row.get(person.column))
    return False


def erase_rows(content: bytes, person: Person) -> Remains:
    """An object of JSON rows. Raises Corrupt."""
    rows = [(text, _owns_row(row, person)) for row, text in located(content)]
    found = sum(is_owned for _, is_owned in rows)
    return _changed(
        content, len(rows), found, found, lambda: "".join(text for text, is_owned in rows if not is_owned).encode()
    )


# --- rejected/


@dataclass(slots=True)
class Pool:
    """The parts of the rejected texts with several parts: they may be in several objects."""

    texts: Texts = field(default_factory=Texts)
    holders: set[Any] = field(default_factory=set)
    """The objects with such parts."""

    def add(self, content: bytes) -> bool:
        """Add an object's parts; return whether it has any. Raises Corrupt."""
        has_parts = False
        for row, body, _ in read_rows(content):
            if int(row["parts"]) > 1:
                has_parts = True
                self.texts.add(row, body)
        return has_parts

    def parts(self, row: Json) -> dict[int, bytes]:
        """The known parts of a row's text."""
        text = self.texts.found.get(key_of(row))
        return text.parts if text else {}


def erase_rejected(content: bytes, person: Person, pool: Pool) -> Remains:
    """An object of rejected/. A row with many events loses only the person's. Raises Corrupt."""
    rows, own = read_rows(content), Texts()
    for row, body, _ in rows:
        own.add(row, body)
    staying, removed, found, obstacles = [], 0, 0, []
    for row, body, line in rows:
        part, parts = int(row["part"]), int(row["parts"])
        # This version's parts of the text win over those of other objects: they may be cut already.
        known = {**pool.parts(row), **own.found[key_of(row)].parts} if parts > 1 else {part: body}
        text = b"".join(known[number] for number in sorted(known))
        ranges: list[tuple[int, int]] | None
        if len(known) == parts:
            ranges = _rejected_ranges(text, row, person)
        else:
            ranges = [] if person.is_named_in(text) else None
            if ranges is None:
                obstacles.append(f"{parts - len(known)} of the {parts} parts of a rejected text are missing")
        if ranges is None:
            staying.append(line)
            continue
        found += 1
        if not ranges:
            removed += 1
            continue
        first = sum(len(known[number]) for number in known if number < part)
        cut = b"".join(
            body[max(start - first, 0) : max(end - first, 0)]
            for start, end in ranges
        )  # fmt: skip
        if "events" in row:  # between the head and the tail of the text there is a range for each kept event
            line, row = _with(line, row, "events", len(ranges) - 2), {**row, "events": len(ranges) - 2}
        staying.append(_with(line, row, "body", b64encode(cut).decode()))
        found -= cut == body  # the person's events are in other parts
    remains = _changed(content, len(rows), removed, found, lambda: "".join(staying).encode())
    goes_last = any(int(row["parts"]) > 1 and person.is_named_in(body) for row, body, _ in rows)
    return replace(remains, obstacle=next(iter(obstacles), ""), goes_last=goes_last)


def _rejected_ranges(text: bytes, row: Json, person: Person) -> list[tuple[int, int]] | None:
    """The ranges of a rejected text to keep: None if nothing of it is the person's, an empty list if all is."""
    reason, form = row["reason"], row.get("form")
    if reason not in OF_MANY and form:
        return [] if person.owns_text(text, form) else None
    if reason not in OF_MANY:  # older rows do not say whether they are of a query string
        event = parse(text.removeprefix(BYTE_ORDER_MARK), exact=True)
        is_owned = person.owns_text(text) or (type(event) is Reject and person.owns_text(text, "query"))
        return [] if is_owned else None
    pieces = values_or_lines(text)
    owned = [person.owns_text(piece, form) for piece in pieces]
    return _kept(text, pieces, owned) if any(owned) else None


# --- errors/


def erase_errors(content: bytes, person: Person, error_type: str) -> Remains:
    """An object of errors/<error_type>/: envelopes whose rawData is a record, or the rows of one. Raises Corrupt."""
    staying, before, found = [], 0, 0
    for failed in failed_records(content):
        if error_type == CONVERSION_FAILED:
            records, count, owned = _rows_without(failed.data, person)
        else:
            records, count, owned = _record_without(failed.data, failed.arrived_at, person)
        before, found = before + count, found + owned
        for record in records:
            kept = _with(failed.text, failed.envelope, "rawData", b64encode(record).decode()) if owned else failed.text
            staying.append(kept)
    return _changed(content, before, found, found, lambda: "".join(staying).encode())


def _rows_without(data: bytes, person: Person) -> tuple[list[bytes], int, int]:
    rows = [line for line in data.split(b"\n") if line.strip()]
    parsed = [(parse(row, exact=True), row) for row in rows]
    owned = [
        _owns_row(columns, person) if type(columns) is dict else person.is_named_in(row) for columns, row in parsed
    ]
    left = _cut(data, rows, owned)
    return [left] if left else [], len(rows), sum(owned)


def _record_without(data: bytes, arrived_at: int, person: Person) -> tuple[list[bytes], int, int]:
    """The records left of a record, how many events it has, and how many of them go.

    The events before and after a removed one become records of their own with their position, as when the transform
    itself splits records. A made-up event_id depends on the position, and so stays the same.
    """
    try:
        record = read_record(data, arrived_at)
    except Fault:  # nothing of it can be told apart
        is_owned = person.is_named_in(data)
        return [] if is_owned else [data], 1, int(is_owned)
    form, texts = split_texts(record.body, record.form)
    owned = [person.owns_text(text, form) for text in texts]
    if not any(owned):
        return [data], len(texts), 0
    left: list[bytes] = []
    for first, count in _runs(owned):
        left += write_rest(record, first, [0] * count, most=0)
    return left, len(texts), sum(owned)


def _runs(owned: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Each run of kept events: the first, and how many."""
    first = 0
    for number, is_owned in enumerate([*owned, True]):
        if is_owned:
            if number > first:
                yield first, number - first
            first = number + 1


# --- raw/


def erase_raw(content: bytes, person: Person) -> Remains:
    """An object of raw/: records one after the other. Raises Corrupt."""
    text = plain(content)
    if not text:
        raise Corrupt("it is empty")
    staying: list[bytes] = []
    before = found = 0
    for data in split_records(text):
        records, count, owned = (
            _record_without(data, 0, person) if data.startswith(MARKER) else _bare_without(data, person)
        )
        staying += records
        before, found = before + count, found + owned
    return _changed(content, before, found, found, lambda: b"".join(staying))


def _bare_without(content: bytes, person: Person) -> tuple[list[bytes], int, int]:
    """The same for bare records without separators: JSON values, an array being several events, or lines."""
    left, position, before, found = [], 0, 0, 0
    for value in values_or_lines(content):
        start = content.index(value, position)
        events = split_texts(value)[1] if type(parse(value)) is list else [value]
        owned = [person.owns_text(event) for event in events]
        before, found = before + len(events), found + sum(owned)
        stays = _cut(value, events, owned) if any(owned) else value
        if stays:
            left += [content[position:start], stays]
        position = start + len(value)
    return [b"".join([*left, content[position:]])], before, found


# --- replayed/


def check_marks(content: bytes) -> Remains:
    """The marks of a replay are digests, and so hold nobody. Raises Corrupt if it is anything else."""
    if not _MARKS.fullmatch(content):
        raise Corrupt("it is not a mark of a replay: restore it from its last version, or delete it")
    return Remains(0, 0, 0)
