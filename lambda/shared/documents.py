"""JSON that somebody else wrote."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The document, as json.loads reads it with these options.

    Raises ValueError for everything that cannot be read. json.loads has a RecursionError for what is nested too deeply,
    which callers forget: it is not a ValueError, and a hundred kilobytes of brackets are enough for it.
    """
    try:
        return json.loads(text, **options)  # noqa: TID251 - this is the place to do it
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
