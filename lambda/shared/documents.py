"""Other people's JSON."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
JsonObject: TypeAlias = dict[str, JsonValue]


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The document, as json.loads reads it with these options.

    Raises ValueError if it cannot be read. json.loads itself raises RecursionError for deep nesting, and callers forget
    it: it is not a ValueError, and a hundred kilobytes of brackets are enough for it.
    """
    try:
        return json.loads(text, **options)  # noqa: TID251 - this is the place to do it
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
