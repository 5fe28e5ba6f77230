"""Queues of SQS: how much waits in one, what its dead letters say, and how they go back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LOOK_SECONDS = 2
"""How long a message stays hidden that was only looked at."""

REDRIVE_SECONDS = 60
"""How long one stays hidden while it goes back; if this command dies meanwhile, it is a dead letter again."""


@dataclass(frozen=True)
class Depth:
    """About how many messages a queue has: SQS counts them within a minute."""

    visible: int
    hidden: int
    """Being worked on, or waiting for their next try."""

    @property
    def total(self) -> int:
        return self.visible + self.hidden


def depth(sqs: Any, url: str) -> Depth:
    """How much waits in a queue."""
    names = (
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    )
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names))["Attributes"]
    visible, hidden, delayed = (int(found[name]) for name in names)
    return Depth(visible, hidden + delayed)


def look(sqs: Any, url: str, most: int) -> list[dict[str, Any]]:
    """Some of the messages, at most so many, which stay where they are: boto3's structures with their attributes."""
    found: dict[str, dict[str, Any]] = {}
    for batch in _receive(sqs, url, LOOK_SECONDS):
        before = len(found)
        found |= {message["MessageId"]: message for message in batch}
        if len(found) >= most or len(found) == before:
            break
    return list(found.values())[:most]


def redrive(sqs: Any, source: str, target: str) -> Iterator[int]:
    """Move every message of `source` to `target`, without its attributes; yields how many each step moved.

    A message is deleted only when it has been sent, so that none is lost, and one may be sent twice.
    """
    for batch in _receive(sqs, source, REDRIVE_SECONDS):
        entries = [{"Id": str(number), "MessageBody": message["Body"]} for number, message in enumerate(batch)]
        sent = sqs.send_message_batch(QueueUrl=target, Entries=entries)["Successful"]
        handles = [{"Id": item["Id"], "ReceiptHandle": batch[int(item["Id"])]["ReceiptHandle"]} for item in sent]
        if handles:
            sqs.delete_message_batch(QueueUrl=source, Entries=handles)
        yield len(handles)


def _receive(sqs: Any, url: str, hidden_seconds: int) -> Iterator[list[dict[str, Any]]]:
    """Batches of messages until there is none."""
    while True:
        batch = sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            VisibilityTimeout=hidden_seconds,
            # Asks all servers of the queue: a shorter look may find nothing where there is something.
            WaitTimeSeconds=1,
        ).get("Messages", [])
        if not batch:
            return
        yield batch
