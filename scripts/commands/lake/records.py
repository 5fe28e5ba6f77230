"""Records in the bucket: where each begins and ends, and how to write records with the same rows again.

transform/records.py knows their format.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from shared.documents import Json
from transform.records import (
    MAX_EVENTS,
    RECORD,
    RECORD_START,
    end_line,
    read_record,
    sender_line,
    split_texts,
    write_rest,
)


def split_records(content: bytes) -> list[bytes]:
    """The records in a run without separators: ours, with their end line or not, and each bare stretch as one."""
    records, end = list[bytes](), 0
    for match in RECORD.finditer(content):
        records += [*RECORD_START.split(content[end : match.start()]), match[0]]
        end = match.end()
    return [record for record in (*records, *RECORD_START.split(content[end:])) if record]


@dataclass(frozen=True, slots=True)
class Origin:
    """The context line of a row's request, by field."""

    request_id: str
    extended_request_id: str
    time: int
    ip: str
    user_agent: str

    def record(self, body: bytes, **pairs: str | int) -> tuple[bytes, ...]:
        """The body as records of this sender; `pairs` end their context lines."""
        line = sender_line(self.request_id, self.extended_request_id, self.time, self.ip, self.user_agent)
        more = "".join(f" {key}={value}" for key, value in pairs.items()).encode()
        end = end_line(self.extended_request_id.encode())
        return write_again(b"%b%b\n%b%b" % (line, more, body, end), self.time)


def origin_of(row: Json) -> Origin:
    """The sender of a row's event. Raises ValueError."""
    moment = datetime.fromisoformat(row["received_at"]).replace(tzinfo=UTC)
    received_at = round(moment.timestamp() * 1000)
    # A bare record's time is used as the id of its request, as in the making of ids.
    extended_request_id = row.get("extended_request_id") or str(received_at)
    ids = row.get("request_id") or "", extended_request_id, row.get("ip") or ""
    if any(text.split() != [text] for text in ids if text):
        raise ValueError("an id or an address with white space in it")
    return Origin(ids[0], ids[1], received_at, ids[2], row.get("user_agent") or "")


def write_again(data: bytes, arrived_at: int) -> tuple[bytes, ...]:
    """The same rows' records, each with a context line and at most MAX_EVENTS events."""
    record = read_record(data, arrived_at)
    _, texts = split_texts(record.body, record.form)
    return tuple(
        written
        for first in range(0, len(texts), MAX_EVENTS)
        for written in write_rest(record, first, [0] * min(MAX_EVENTS, len(texts) - first), most=0)
    )
