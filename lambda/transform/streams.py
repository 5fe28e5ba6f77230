"""Putting records on a delivery stream, as many of them as time allows.

The contract (https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html): one call takes 500
records and 4 MiB; it answers 200 even when single records of it failed, and `RequestResponses` names them. After a
timeout a record may have arrived all the same, so a record put again may be there twice: every row has an id to tell.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NotRequired, Protocol, TypedDict

MAX_RECORD_BYTES: Final = 1_024_000
MAX_BATCH_RECORDS: Final = 500
MAX_BATCH_BYTES: Final = 3 * 1024 * 1024 - 2 * MAX_BATCH_RECORDS
"""Bytes in one call. They travel in base64, each record a third longer and rounded up by at most two bytes, and so stay
within 4 MiB however those are counted."""

CALL_SECONDS: Final = 6
"""How long a call may take at most. None is begun with less time left: the function must still answer."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 3.0
"""Seconds between two tries: the first is at most FIRST_PAUSE, and each may be twice as long as the one before."""


class RecordReply(TypedDict):
    """Firehose's reply for a record: without an error it was taken."""

    ErrorCode: NotRequired[str]


class BatchReply(TypedDict):
    """Firehose's reply for the records of one call, in their order."""

    FailedPutCount: int
    RequestResponses: list[RecordReply]


class Firehose(Protocol):
    """The used part of boto3's Firehose client."""

    def put_record_batch(self, *, DeliveryStreamName: str, Records: list[dict[str, bytes]]) -> BatchReply: ...


@lru_cache(maxsize=1)
def connect() -> Firehose:
    """The Firehose client. boto3 is imported only here: most functions never put, and would start later for it."""
    import boto3
    from botocore.config import Config

    # We retry ourselves: a failed record as well as a failed call, and only while there is time.
    config = Config(connect_timeout=1, read_timeout=CALL_SECONDS - 2, retries={"total_max_attempts": 1})
    client: Firehose = boto3.client("firehose", config=config)
    return client


def put_records(
    connect: Callable[[], Firehose], stream: str, records: Sequence[bytes], milliseconds_left: Callable[[], int]
) -> list[str | None]:
    """Put records on the named stream; returns for each why it could not be put, or None when it was.

    A failed record is tried again, after a pause, until there are no more than CALL_SECONDS left. A failed call is
    tried again only if its error may pass: a missing permission does not. Never raises.
    """
    errors: list[str | None] = ["there was no time left to try"] * len(records)
    waiting = []
    for number, record in enumerate(records):
        if len(record) <= MAX_RECORD_BYTES:
            waiting.append(number)
        else:
            errors[number] = f"it has {len(record):,} bytes; a delivery stream takes {MAX_RECORD_BYTES:,}"
    longest_pause = FIRST_PAUSE
    while waiting:
        again = []
        for batch in _batches(waiting, records):
            if milliseconds_left() < CALL_SECONDS * 1000:
                return errors
            found, may_pass = _put_batch(connect, stream, [records[number] for number in batch])
            for number, error in zip(batch, found, strict=True):
                errors[number] = error
                if error is not None and may_pass:
                    again.append(number)
        waiting = again
        if waiting:
            pause = random.uniform(0, longest_pause)
            if milliseconds_left() - pause * 1000 < CALL_SECONDS * 1000:
                return errors
            time.sleep(pause)
            longest_pause = min(2 * longest_pause, LONGEST_PAUSE)
    return errors


def _batches(numbers: list[int], records: Sequence[bytes]) -> Iterator[list[int]]:
    """The records of these numbers in as few calls as their limits allow."""
    batch: list[int] = []
    size = 0
    for number in numbers:
        if len(batch) == MAX_BATCH_RECORDS or (batch and size + len(records[number]) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += len(records[number])
    if batch:
        yield batch


def _put_batch(connect: Callable[[], Firehose], stream: str, records: list[bytes]) -> tuple[list[str | None], bool]:
    """One call: each record's error, and whether another try may fix them."""
    try:
        reply = connect().put_record_batch(DeliveryStreamName=stream, Records=[{"Data": data} for data in records])
    except Exception as error:
        return [f"{type(error).__name__}: {error}"] * len(records), _may_pass(error)
    responses = reply["RequestResponses"]
    return [response.get("ErrorCode") for response in responses], True


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later: Firehose is busy or broken, or the network is."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        code = error.response.get("Error", {}).get("Code", "")
        return status >= 500 or status == 429 or "Throttl" in code or code == "ServiceUnavailableException"
    return isinstance(error, ConnectionError | HTTPClientError)
