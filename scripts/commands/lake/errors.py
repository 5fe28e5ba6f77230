"""The objects of errors/: Firehose's envelopes, each with an undelivered record or its rows."""

from __future__ import annotations

import json
import re
from binascii import a2b_base64
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.commands.lake.objects import Corrupt, kind_of, located, plain
from shared.documents import Json


@dataclass(frozen=True, slots=True)
class Failed:
    """A document of an object, and its text up to the next one."""

    envelope: Json
    text: str
    data: bytes
    arrived_at: int
    """Epoch milliseconds."""


def failed_records(content: bytes) -> Iterator[Failed]:
    """The failed records of an object. Raises Corrupt."""
    for number, (envelope, text) in enumerate(located(content), 1):
        try:
            data = a2b_base64(envelope["rawData"], strict_mode=True)
            arrived_at = int(envelope["arrivalTimestamp"])  # a number or its text
        except (KeyError, TypeError, ValueError) as error:
            raise not_a_record(number, error) from None
        yield Failed(envelope, text, data, arrived_at)


def not_a_record(number: int, error: Exception) -> Corrupt:
    """The error for a document."""
    return Corrupt(f"document {number:,} is not a failed record ({type(error).__name__}: {error})")


def envelopes(content: bytes) -> tuple[list[Json], list[str]]:
    """An error object's JSON documents, and the texts between them: AWS documents none. Empty for other formats."""
    if kind_of(content) not in ("gzip", "json"):
        return [], []
    text, decoder, position = plain(content).decode(errors="replace"), json.JSONDecoder(), 0
    found, between = [], []
    while position < len(text):
        document, position = decoder.raw_decode(text, position)
        found.append(document)
        gap = re.compile(r"[^{]*").match(text, position)
        between.append(gap[0] if gap else "")
        position = gap.end() if gap else position
    return found, between
