"""The rows of rejected/: each has the text of one rejected event, or a part of it. Parts may lie in several objects."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from scripts.commands.lake.objects import Corrupt, located
from shared.documents import Json

OF_MANY: Final = frozenset({"too_many_events", "too_many_rejects"})
"""Reasons of rows with many events."""

Key: TypeAlias = tuple[str, ...]


def key_of(row: Json) -> Key:
    """The key of one text's parts: the event, its request, and the attempt to transform it."""
    return tuple(str(row.get(name)) for name in ("event_id", "position", "extended_request_id", "rejected_at"))


def event_of(row: Json) -> Key:
    """The key of one rejected event, whatever the attempt."""
    return key_of(row)[:-1]


def read_rows(content: bytes) -> list[tuple[Json, bytes, str]]:
    """Each row of an object with its body and its own text. Raises Corrupt for the whole object if a row is wrong."""
    rows = []
    for number, (row, text) in enumerate(located(content), 1):
        try:
            rows.append((row, a2b_base64(row["body"], strict_mode=True), text))
            _ = row["reason"] + row["event_id"], int(row["part"]), int(row["parts"])
        except (KeyError, TypeError, ValueError) as error:
            raise not_a_row(number, error) from None
    return rows


def not_a_row(number: int, error: Exception) -> Corrupt:
    """The error for a row."""
    return Corrupt(f"row {number:,} is not a rejected event ({type(error).__name__}: {error})")


@dataclass(slots=True)
class Text:
    """A rejected text, as far as its parts are known; `row` is the first one found."""

    row: Json
    parts: dict[int, bytes] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        """The numbers of the parts not found."""
        return [part for part in range(1, int(self.row["parts"]) + 1) if part not in self.parts]

    @property
    def content(self) -> bytes:
        """The parts found, joined."""
        return b"".join(self.parts[part] for part in sorted(self.parts))


@dataclass(slots=True)
class Texts:
    """Rejected texts by their key. A repeated part counts once."""

    found: dict[Key, Text] = field(default_factory=dict)

    def add(self, row: Json, body: bytes) -> Text:
        """Take a part, unless it is known; returns its text."""
        text = self.found.setdefault(key_of(row), Text(row))
        text.parts.setdefault(int(row["part"]), body)
        return text

    def join(self, row: Json, body: bytes) -> bytes | None:
        """Take a part; returns the whole text with its last one, and forgets it then."""
        text = self.add(row, body)
        if text.missing:
            return None
        del self.found[key_of(row)]
        return text.content

    def incomplete(self) -> Iterator[tuple[str, str]]:
        """The reason of each incomplete text, and its missing parts in words."""
        for text in self.found.values():
            if missing := text.missing:
                parts = ", ".join(map(str, missing))
                yield str(text.row["reason"]), f"part {parts} of {text.row['parts']} is missing"
