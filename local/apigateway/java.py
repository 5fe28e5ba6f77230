"""Text and numbers as Java has them: API Gateway is written in it. A pair of surrogates is one character in Python."""

from __future__ import annotations

import itertools
import json
import re
from decimal import Decimal
from typing import Any
from urllib.parse import quote_plus

ENCODED_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]?")
PERCENT_ENCODED = re.compile("(?:%[0-9A-Fa-f]{2})+")
ESCAPED_IN_JSON = re.compile(r'["\\\x00-\x1f\x7f-\x9f\u2000-\u20ff]')
ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def decode(data: bytes) -> str:
    """UTF-8 as text: one U+FFFD for an encoded surrogate, where Python has one for each of its bytes."""
    return ENCODED_SURROGATE.sub(b"\xef\xbf\xbd", data).decode("utf-8", "replace")


def encode(text: str) -> bytes:
    """Text as UTF-8; half of a surrogate pair is a question mark."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _join(text).encode("utf-8", "replace")


def _join(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def concatenate(parts: list[str]) -> str:
    """One text; adjacent halves of a surrogate pair become one character."""
    text = "".join(parts)
    if not text.isascii():
        for left, right in itertools.pairwise(filter(None, parts)):
            if "\ud800" <= left[-1] <= "\udbff" and "\udc00" <= right[0] <= "\udfff":
                return _join(text)
    return text


def url_encode(text: str) -> str:
    """java.net.URLEncoder."""
    return quote_plus(encode(text), safe="*").replace("~", "%7E")


def url_decode(text: str) -> str:
    """java.net.URLDecoder: a % without two hexadecimal digits raises ValueError."""
    if "%" in PERCENT_ENCODED.sub("", text):
        raise ValueError(f"urlDecode of {text!r}: two hexadecimal digits must follow a %")
    return PERCENT_ENCODED.sub(lambda run: decode(bytes.fromhex(run[0].replace("%", ""))), text.replace("+", " "))


def length(text: str) -> int:
    """The number of UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def substring(text: str, start: int, end: int | None = None) -> str:
    """The UTF-16 units from `start` up to `end`; ValueError where the text has none."""
    units = text.encode("utf-16-le", "surrogatepass")
    end = len(units) // 2 if end is None else end
    if not 0 <= start <= end <= len(units) // 2:
        raise ValueError(f"substring({start}, {end}) of {len(units) // 2} characters")
    return units[2 * start : 2 * end].decode("utf-16-le", "surrogatepass")


def parse_json(text: str) -> Any:
    """The document in a JSON text; ValueError for other text, and for DEL, as Java's parsers may leave it out."""
    if "\x7f" in text:
        raise ValueError("the character U+007F in a payload is not implemented")
    # A number with a fraction or an exponent is a double, or a BigDecimal where the literal is long.
    return json.loads(text, parse_float=lambda literal: Decimal(literal) if len(literal) > 18 else float(literal))


def to_json(value: Any) -> str:
    """A value as compact JSON."""
    if isinstance(value, str):
        return '"' + ESCAPED_IN_JSON.sub(lambda sign: ESCAPES.get(sign[0]) or f"\\u{ord(sign[0]):04X}", value) + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{to_json(name)}:{to_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return to_string(value)


def to_string(value: Any) -> str:
    """A value's printed text: a map as `{a=b}`, a list as JSON with escaped slashes. TypeError for a non-JSON value."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}={to_string(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return to_json(value).replace("/", "\\/")
    if isinstance(value, float) and value != 0 and not 1e-3 <= abs(value) < 1e7:
        if not 1e-300 <= abs(value) < 1e17:
            raise ValueError(
                f"the text of the number {value} is not implemented: versions of Java write it differently"
            )
        sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
        first, *rest = map(str, digits)
        return f"{'-' * sign}{first}.{''.join(rest) or '0'}E{int(exponent) + len(rest)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float | Decimal):
        return str(value)
    raise TypeError(f"the text of a {type(value).__name__} is not implemented")
