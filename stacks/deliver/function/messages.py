"""The messages of the queue, each with one row, and how they are put there.

The contract (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html): one call
takes 10 messages and 1 MiB; it answers 200 even when single messages of it failed, and `Failed` names them. A message
sent again after a timeout may be there twice: its row has an id to tell.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from shared.aws import Entry, MessageAttribute, Sqs
from shared.documents import parse_json
from shared.web import backoff

MAX_MESSAGE_BYTES: Final = 1_048_576
MAX_BATCH_MESSAGES: Final = 10
MAX_BATCH_BYTES: Final = 1_048_576
MAX_TEXT_CHARACTERS: Final = 500
"""So much of each text in an endpoint's answer is kept with a dead letter."""

MAX_ROW_BYTES: Final = MAX_MESSAGE_BYTES - 4096
"""A message with a row leaves room for its dead letter's attributes: two such texts of four bytes a character."""

TRIES: Final = 8
CALLS_AT_ONCE: Final = 8

# All characters except those allowed by SQS in the text of an attribute.
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


Values = dict[str, str | int | float | bool | None]
"""Of a row, by the column's name."""


class NotSent(Exception):
    """The messages in `unsent` could not be put into a queue, after some tries; all others have been."""

    def __init__(self, unsent: list[Message], error: str) -> None:
        super().__init__(f"{len(unsent)} messages could not be sent: {error}")
        self.unsent = unsent


@dataclass(frozen=True)
class Row:
    """A row on its way. `run` is the name of its execution."""

    run: str
    query: str
    row_id: str
    values: Values

    def body(self) -> str:
        """The text of its message: ASCII, as SQS refuses a few of Unicode's characters."""
        return json.dumps(
            {"run": self.run, "query": self.query, "row_id": self.row_id, "values": self.values}, separators=(",", ":")
        )

    @classmethod
    def read(cls, body: str) -> Row:
        """The row of a message; raises ValueError if it is not one of ours."""
        found = parse_json(body)
        match found:
            case {"run": str(run), "query": str(query), "row_id": str(row_id), "values": dict(values)}:
                return cls(run, query, row_id, values)
        raise ValueError("it is not a row")


@dataclass(frozen=True)
class Message:
    """A message for a queue. The attributes of a dead letter give its reason."""

    body: str
    attributes: dict[str, MessageAttribute] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes as SQS counts them."""
        return len(self.body.encode()) + sum(
            len(name) + len(value["DataType"]) + len(value["StringValue"].encode())
            for name, value in self.attributes.items()
        )


def row_id(query: str, values: Values) -> str:
    """The id of a row: 32 hexadecimal digits, the same whenever the query finds the same values in the same columns."""
    content = json.dumps([query, values], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def dead_letter(body: str, reason: str, status: int | None = None, answer: str = "") -> Message:
    """A message for a person: the reason, and the endpoint's status and the start of its answer, if it gave one.

    A body with more bytes than a row may have is kept alone, if the queue would refuse it with these.
    """
    attributes: dict[str, MessageAttribute] = {
        name: {"DataType": "String", "StringValue": _UNFIT.sub("\ufffd", text[:MAX_TEXT_CHARACTERS])}
        for name, text in {"reason": reason, "answer": answer}.items()
        if text
    }
    if status is not None:
        attributes["status"] = {"DataType": "Number", "StringValue": str(status)}
    letter = Message(body, attributes)
    return letter if letter.size <= MAX_MESSAGE_BYTES else Message(body)


def send(
    sqs: Sqs,
    queue_url: str,
    messages: Sequence[Message],
    *,
    tries: int = TRIES,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Put messages into a queue, some calls at a time; failed ones are tried again, after a pause.

    Raises NotSent with the messages not put; the others have been.
    """

    def call(batch: list[Message]) -> tuple[list[Message], str]:
        """Send one batch; returns its unsent messages, and the reason."""
        error = ""
        for attempt in range(1, tries + 1):
            entries: list[Entry] = [
                {"Id": str(number), "MessageBody": message.body, "MessageAttributes": message.attributes}
                for number, message in enumerate(batch)
            ]
            try:
                failed = sqs.send_message_batch(QueueUrl=queue_url, Entries=entries).get("Failed", [])
            except (BotoCoreError, ClientError) as refused:
                return batch, str(refused)  # boto3 has tried passing errors again
            if not failed:
                return [], ""
            batch = [batch[int(entry["Id"])] for entry in failed]
            error = f"{failed[0]['Code']}: {failed[0].get('Message', '')}"
            if all(entry.get("SenderFault") for entry in failed):
                break
            sleep(backoff(attempt, base=0.1, longest=3.0))
        return batch, error

    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        left = [(batch, error) for batch, error in pool.map(call, _batches(messages)) if batch]
    if left:
        raise NotSent([message for batch, _ in left for message in batch], left[0][1])


def _batches(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The messages in as few calls as their limits allow."""
    batch: list[Message] = []
    size = 0
    for message in messages:
        if len(batch) == MAX_BATCH_MESSAGES or (batch and size + message.size > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += message.size
    if batch:
        yield batch
