"""The folders of the stack's bucket: each is a zone, and in it `dt=YYYY-MM-DD/` is a day of delivery.

docs/architecture.md has the contents of each zone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Final, Literal, TypeAlias

Zone: TypeAlias = Literal["rejected", "errors", "raw"]
"""The zones of a replay."""

EVENTS: Final = "events/"
"""Unless the stack's parameter FirehoseS3Prefix says otherwise: see events_of."""
REJECTED: Final = "rejected/"
ERRORS: Final = "errors/"
RAW: Final = "raw/"
REPLAYED: Final = "replayed/"
TABLES: Final = ("processed/", "curated/")
"""Tables of a refinement."""
RESULTS: Final = "athena-results/"
BESIDE_EVENTS: Final = (REJECTED, ERRORS, RAW, *TABLES, REPLAYED, RESULTS)
SALTS: Final = "salts/"
"""The salts of visitors' ids: random bytes with nobody's data."""
TURN: Final = "refine-run"
"""The object with the turn to refine; it holds nobody's data."""

PROCESSING_FAILED: Final = "processing-failed"
CONVERSION_FAILED: Final = "format-conversion-failed"
"""Folders of errors/, as Firehose calls them."""

_DAY: Final = re.compile(r"/dt=(\d{4}-\d\d-\d\d)/")


def events_of(parameters: Mapping[str, str]) -> str:
    """The zone of the events in a stack with these parameters."""
    return parameters.get("FirehoseS3Prefix") or EVENTS


def day_folder(folder: str, day: date) -> str:
    """The folder of one day of a zone."""
    return f"{folder}dt={day:%Y-%m-%d}/"


def day_of(key: str) -> str:
    """The day of delivery in an object's key, as 2026-01-31; '' if it names none."""
    found = _DAY.search(key)
    return found[1] if found else ""


def error_type_of(key: str) -> str:
    """The folder of an object's key under errors/."""
    return key.removeprefix(ERRORS).partition("/")[0]
