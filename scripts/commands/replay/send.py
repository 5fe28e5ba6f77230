"""Putting records back on the stream no faster than it takes them, and the marks of items already put.

A mark is an object `replayed/<zone>/<run>/<number>` with the digests of one call's items, a line each. It is written
after Firehose has taken them and before the next call: a killed replay sends at most one call's records a second
time, and their rows keep their ids. Marks are only ever added, and no table reads them. Once they are deleted,
everything can be replayed again.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final

from botocore.exceptions import ClientError

from scripts.commands.common.console import CommandError
from scripts.commands.lake.bucket import Bucket
from scripts.commands.lake.zones import REPLAYED, Zone
from scripts.commands.replay.zones import Item
from transform.streams import MAX_BATCH_BYTES, MAX_BATCH_RECORDS, BatchReply, Firehose, put_records

READERS: Final = 16
PATIENCE_SECONDS: Final = 300
"""How long one call's records are tried before the replay gives up, to be taken up again by the same command."""

FIRST_RATE: Final = 1024 * 1024
LEAST_RATE: Final = 64 * 1024
GREATEST_RATE: Final = 5 * 1024 * 1024
"""Bytes a second. A stream takes 1 MiB in most regions and 5 in the largest, from all of its senders together."""

_DIGESTS: Final = re.compile(r"([0-9a-f]{32}\n)*")


class Marks:
    """The digests of a zone's replayed items, and the means to add more."""

    def __init__(self, bucket: Bucket, zone: Zone) -> None:
        self.bucket, self.prefix = bucket, f"{REPLAYED}{zone}/"
        self.run, self.number = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{uuid.uuid4().hex[:8]}", 0
        keys = [item["Key"] for item in bucket.objects(self.prefix)]
        with ThreadPoolExecutor(READERS) as executor:
            self.digests = {digest for found in executor.map(self._read, keys) for digest in found}

    def _read(self, key: str) -> list[str]:
        text = self.bucket.read(key).decode("ascii", "replace")
        if not _DIGESTS.fullmatch(text):
            raise CommandError(
                f"s3://{self.bucket.name}/{key} is not a mark of a replay, so nobody can tell which events were sent: "
                "restore it from its last version, or delete it to send its events again"
            )
        return text.split()

    def add(self, digests: Sequence[str]) -> None:
        """Remember that these items are on the stream."""
        self.number += 1
        text = "".join(f"{digest}\n" for digest in digests)
        key = f"{self.prefix}{self.run}/{self.number:06d}"
        place = {"Bucket": self.bucket.name, "Key": key, "IfNoneMatch": "*"}
        self.bucket.s3.put_object(**place, Body=text.encode(), ContentType="text/plain")
        self.digests.update(digests)


class Paced:
    """A Firehose client with backpressure: it leaves room on the stream for live senders.

    Half as fast after each refusal, a tenth faster after each success.
    """

    def __init__(
        self,
        client: Firehose,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client, self.clock, self.sleep = client, clock, sleep
        self.rate = float(FIRST_RATE)
        self.free_at = clock()

    def put_record_batch(self, *, DeliveryStreamName: str, Records: list[dict[str, bytes]]) -> BatchReply:
        """PutRecordBatch, when it is its turn."""
        self.sleep(max(0.0, self.free_at - self.clock()))
        self.free_at = self.clock() + sum(len(record["Data"]) for record in Records) / self.rate
        try:
            reply = self.client.put_record_batch(DeliveryStreamName=DeliveryStreamName, Records=Records)
        except ClientError:
            self._take(is_refused=True)
            raise
        self._take(is_refused=bool(reply.get("FailedPutCount")))
        return reply

    def _take(self, *, is_refused: bool) -> None:
        self.rate = max(LEAST_RATE, self.rate / 2) if is_refused else min(GREATEST_RATE, self.rate * 1.1)


def send(
    items: Iterable[Item], firehose: Firehose, stream: str, marks: Marks, tell: Callable[[int], None]
) -> tuple[int, int]:
    """Put the items' records on the stream, a full call after the other, and mark each call's items.

    `tell` gets the number of items of each call. Returns how many items and records were put. Raises CommandError
    when the stream does not take a record; items it has taken are marked by then.
    """
    paced, items_put, records_put = Paced(firehose), 0, 0
    for call in _calls(items):
        records = [record for item in call for record in item.records]
        deadline = time.monotonic() + PATIENCE_SECONDS
        errors = put_records(
            lambda: paced,
            stream,
            records,
            lambda: int((deadline - time.monotonic()) * 1000),  # noqa: B023 - used at once
        )
        taken, position = [], 0
        for item in call:
            if not any(errors[position : position + len(item.records)]):
                taken.append(item.digest)
            position += len(item.records)
        if taken:
            marks.add(taken)
            tell(len(taken))
        items_put, records_put = items_put + len(taken), records_put + errors.count(None)
        if reason := next((error for error in errors if error), None):
            raise CommandError(
                f"the stream {stream} did not take {len(errors) - errors.count(None):,} records: {reason}: "
                "what it took is marked, so the same command goes on from here"
            )
    return items_put, records_put


def _calls(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in as few calls as Firehose's limits allow; one with more records than a call takes is alone."""
    call: list[Item] = []
    count = size = 0
    for item in items:
        records, length = len(item.records), sum(map(len, item.records))
        if call and (count + records > MAX_BATCH_RECORDS or size + length > MAX_BATCH_BYTES):
            yield call
            call, count, size = [], 0, 0
        call.append(item)
        count, size = count + records, size + length
    if call:
        yield call
