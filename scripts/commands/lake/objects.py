"""Objects of the bucket: their compression, their format, and their JSON documents. All of it is pure."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

import cramjam

from shared.documents import Json

_SPACE: Final = re.compile(r"\s*")
_DECODER: Final = json.JSONDecoder()
_SNAPPY_BLOCK: Final = 256 * 1024


class Corrupt(Exception):
    """An object, or a document in it, does not fit its zone; the text repeats nothing of an event."""


def kind_of(head: bytes, tail: bytes = b"") -> str:
    """The format of an object by its first and last bytes."""
    if head[:4] == b"PAR1" and tail[-4:] == b"PAR1":
        return "parquet"
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    # Hadoop's Snappy begins with the length of its first block, of at most 256 KiB.
    return "json" if head[:1] == b"{" else "snappy" if head[:1] == b"\0" else f"starting with {head[:4]!r}"


def codec_of(parquet: bytes) -> str:
    """The codec of the columns in a Parquet file or its footer alone: GZIP, SNAPPY, UNCOMPRESSED."""
    from pyarrow.parquet import read_metadata  # here, because only verify.sh needs it

    footer = read_metadata(io.BytesIO(parquet))
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    return "+".join(sorted({group.column(index).compression for group in groups for index in range(group.num_columns)}))


def plain(content: bytes) -> bytes:
    """An object's content, decompressed if its first bytes say gzip or Hadoop's Snappy. Raises Corrupt."""
    kind = kind_of(content)
    if kind == "snappy":
        return _without_snappy(content)
    if kind != "gzip":
        return content
    parts = []
    try:
        while content:
            inflater = zlib.decompressobj(wbits=31)
            parts.append(inflater.decompress(content))
            if not inflater.eof:
                raise Corrupt("its gzip data is cut off")
            content = inflater.unused_data
    except zlib.error as error:
        raise Corrupt(f"its gzip data is damaged: {error}") from None
    return b"".join(parts)


def _without_snappy(content: bytes) -> bytes:
    """Blocks of raw Snappy, each after its length without and with compression."""
    parts, position = [], 0
    try:
        while position < len(content):
            plain_length, length = struct.unpack_from(">II", content, position)
            block = content[position + 8 : position + 8 + length]
            parts.append(bytes(cramjam.snappy.decompress_raw(block)))
            if len(parts[-1]) != plain_length or len(block) != length:
                raise Corrupt("its Snappy data is cut off")
            position += 8 + length
    except (struct.error, cramjam.DecompressionError):
        raise Corrupt("its Snappy data is damaged") from None
    return b"".join(parts)


def pack(content: bytes, like: bytes) -> bytes:
    """Compress as `like` is compressed: gzip, Hadoop's Snappy or not at all."""
    kind = kind_of(like)
    if kind == "gzip":
        packer = zlib.compressobj(wbits=31)
        return packer.compress(content) + packer.flush()
    if kind != "snappy":
        return content
    framed = []
    for start in range(0, len(content), _SNAPPY_BLOCK):
        block = content[start : start + _SNAPPY_BLOCK]
        raw = bytes(cramjam.snappy.compress_raw(block))
        framed += [len(block).to_bytes(4, "big"), len(raw).to_bytes(4, "big"), raw]
    return b"".join(framed)


def located(content: bytes) -> Iterator[tuple[Json, str]]:
    """The JSON objects of an object, on lines of their own or one right after the other. Raises Corrupt.

    Each comes with its text up to the next one: together the texts are the whole object.
    """
    try:
        text = plain(content).decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"neither compressed nor text: byte {error.start:,} is not UTF-8") from None
    start, position = 0, _skip_space(text, 0)
    if position == len(text):
        raise Corrupt("it is empty")
    while position < len(text):
        try:
            document, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            raise Corrupt(f"no JSON from character {position:,} on") from None
        if not isinstance(document, dict):
            raise Corrupt(f"a {type(document).__name__} instead of a JSON object at character {position:,}")
        position = _skip_space(text, end)
        yield document, text[start:position]
        start = position


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def values(content: bytes) -> Iterator[bytes]:
    """The texts of adjacent JSON values; ValueError if anything else is among them."""
    text = content.decode()
    position = _skip_space(text, 0)
    while position < len(text):
        try:
            _, end = _DECODER.raw_decode(text, position)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        yield text[position:end].encode()
        position = _skip_space(text, end)


def values_or_lines(content: bytes) -> list[bytes]:
    """The texts of adjacent JSON values; the nonblank lines if anything else is among them."""
    try:
        return list(values(content))
    except ValueError:
        return [line for line in content.split(b"\n") if line.strip()]
