"""The log of one delivery stream: a record is on disk before its producer is answered and until it is delivered.

A directory holds `<first sequence>.log` files of frames, each with a `.done` file of its delivered records by
destination. A file is deleted when nothing waits for it. All methods except `Segment.write` and `Segment.read` belong
to the event loop; those two block, on a thread.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import time
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from local.firehose.objects import Record

_FRAME = struct.Struct(">IIQ")  # Length of the data, CRC-32 of arrival and data, arrival in epoch milliseconds.


class Segment:
    """One file of the log. `owed` counts its records' outstanding deliveries."""

    def __init__(self, path: Path) -> None:
        self.path, self.first = path, int(path.stem)
        self.done_path = path.with_suffix(".done")
        self.size = self.count = self.owed = 0
        self.file: BinaryIO | None = None

    def write(self, groups: Iterable[tuple[int, list[bytes]]]) -> list[Record]:
        """Append groups of (arrival, datas) and force them to disk. OSError: none of them is kept."""
        frames: list[bytes] = []
        records: list[Record] = []
        for arrival, datas in groups:
            for data in datas:
                frames += (_FRAME.pack(len(data), zlib.crc32(data, arrival & 0xFFFFFFFF), arrival), data)
                records.append(Record(self.first + self.count + len(records), arrival, data, len(data)))
        content = b"".join(frames)
        if self.file is None:
            self.file = self.path.open("ab", buffering=0)
            _sync_directory(self.path.parent)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[self.file.write(rest) :]
            os.fsync(self.file.fileno())
        except OSError:
            with suppress(OSError):
                self.file.truncate(self.size)
            raise
        self.size += len(content)
        self.count += len(records)
        return records

    def read(self) -> tuple[list[Record], dict[str, set[int]]]:
        """The records up to the first torn or damaged frame, and the sequences delivered to each destination."""
        content, position = self.path.read_bytes(), 0
        records: list[Record] = []
        while len(content) - position >= _FRAME.size:
            size, checksum, arrival = _FRAME.unpack_from(content, position)
            data = content[position + _FRAME.size : position + _FRAME.size + size]
            # A power cut may leave zeros: without the check of arrival, sound frames of nothing.
            if len(data) < size or arrival == 0 or zlib.crc32(data, arrival & 0xFFFFFFFF) != checksum:
                break
            records.append(Record(self.first + len(records), arrival, data, len(data)))
            position += _FRAME.size + size
        done: dict[str, set[int]] = {}
        marks = self.done_path.read_text(errors="replace") if self.done_path.exists() else ""
        for line in marks.splitlines():
            with suppress(ValueError):  # A torn line: its records are delivered again.
                destination, ranges = json.loads(line)
                for first, last in ranges:
                    done.setdefault(destination, set()).update(range(first, last + 1))
        return records, done


class Log:
    """All files of one stream. `recovered` are those of an earlier process, for the stream to take up."""

    def __init__(self, directory: Path, segment_limit: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.segment_limit = directory, segment_limit
        self.recovered = [Segment(path) for path in sorted(directory.glob("*.log"))]
        self.segments = list(self.recovered)
        for path in directory.glob("*.done"):
            if not path.with_suffix(".log").exists():
                path.unlink()
        self.active: Segment | None = None
        self.appending = False
        # No file holds more records than it has room for frames.
        bounds = (segment.first + segment.path.stat().st_size // _FRAME.size for segment in self.recovered)
        self.next = max(bounds, default=0) + 1

    def begin(self) -> Segment:
        """The segment for the next records; it stays until `end`."""
        if self.active and (self.active.size >= self.segment_limit or (self.active.count and not self.active.owed)):
            self._retire(self.active)
        if self.active is None:
            # The clock keeps numbers unique when all files of an earlier process are gone.
            first = max(self.next, time.time_ns() // 1000)
            self.active = Segment(self.directory / f"{first:020d}.log")
            self.segments.append(self.active)
        self.appending = True
        return self.active

    def end(self, written: bool) -> None:
        """The write is over. After a failure, the disk's content is unknown, so the next write gets a new file."""
        self.appending = False
        if self.active:
            self.next = self.active.first + self.active.count
            if not written:
                self._retire(self.active)

    def owe(self, records: Iterable[Record]) -> None:
        """Count one delivery for each record, to keep its file."""
        for segment, sequences in self._by_segment(records):
            segment.owed += len(sequences)

    def done(self, destination: str, records: Iterable[Record]) -> None:
        """Note delivered records, and delete the files with nothing owed."""
        for segment, sequences in self._by_segment(records):
            # A line begins with its newline, so a torn line before it spoils only itself. A lost mark means a second
            # delivery, allowed by at-least-once: no fsync, and a full disk stops nothing.
            with suppress(OSError), segment.done_path.open("a") as file:
                file.write("\n" + json.dumps([destination, list(_ranges(sequences))]))
            segment.owed -= len(sequences)
            self.release(segment)

    def release(self, segment: Segment) -> None:
        """Delete a segment when nothing is owed and nothing is being written."""
        if not segment.owed and not (segment is self.active and self.appending):
            self._retire(segment)

    def _retire(self, segment: Segment) -> None:
        """Write no more to a segment, and delete it when nothing is owed."""
        if segment is self.active:
            self.active = None
        if not segment.owed:
            if segment.file:
                segment.file.close()
            self.segments.remove(segment)
            # The log first: without its marks it would be delivered again.
            segment.path.unlink(missing_ok=True)
            segment.done_path.unlink(missing_ok=True)

    def _by_segment(self, records: Iterable[Record]) -> list[tuple[Segment, list[int]]]:
        firsts = [segment.first for segment in self.segments]
        sequences = sorted(record.sequence for record in records)
        groups = itertools.groupby(sequences, key=lambda sequence: bisect_right(firsts, sequence) - 1)
        return [(self.segments[index], list(group)) for index, group in groups]


def _ranges(sequences: list[int]) -> Iterator[tuple[int, int]]:
    for _, group in itertools.groupby(enumerate(sequences), key=lambda item: item[1] - item[0]):
        run = [sequence for _, sequence in group]
        yield run[0], run[-1]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
