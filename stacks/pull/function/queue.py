"""The queue of requests, and the one of dead letters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from shared.aws import MessageAttribute, Sqs

from .store import TaskKey


@dataclass(frozen=True)
class Queue:
    """Both queues, with boto3's client of SQS. A message is the key of a task and nothing else."""

    client: Sqs
    url: str
    dead_url: str

    def send(self, keys: Iterable[TaskKey]) -> None:
        """Queue requests; raises when SQS did not take each of them."""
        keys = iter(keys)
        while batch := list(islice(keys, 10)):
            entries = [{"Id": str(number), "MessageBody": key.text} for number, key in enumerate(batch)]
            answer = self.client.send_message_batch(QueueUrl=self.url, Entries=entries)
            if failed := answer.get("Failed"):
                raise RuntimeError(f"SQS did not take {len(failed)} messages: {failed[0]['Code']}")

    def bury(self, key: TaskKey, reason: str) -> None:
        """Put a dead letter with its reason."""
        why: MessageAttribute = {"DataType": "String", "StringValue": reason[:1000]}
        self.client.send_message(QueueUrl=self.dead_url, MessageBody=key.text, MessageAttributes={"reason": why})

    def delay(self, receipt: str, seconds: float) -> None:
        """Let a received message come again after so many seconds; SQS takes twelve hours at most."""
        self.client.change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=receipt, VisibilityTimeout=min(43_000, max(1, round(seconds)))
        )

    def is_empty(self) -> bool:
        """Whether no message is in the queue, nor with a worker; SQS's counts are up to a minute old."""
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return all(int(found[name]) == 0 for name in names)
