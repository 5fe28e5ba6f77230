"""Runs of the optional stacks: their progress and the reasons of failures, their queues, and their credentials."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from scripts.commands.common.console import UsageError, printable
from scripts.commands.common.stack import Aws
from shared.aws import ReceivedMessage, Sqs
from shared.documents import parse_json

LOOK_SECONDS = 2
"""How long a message stays hidden after a look."""

REDRIVE_SECONDS = 60
"""How long one stays hidden while it goes back; if this command dies meanwhile, it is a dead letter again."""


class Failure(TypedDict, total=False):
    """Why a run or a step of it failed."""

    error: str
    cause: str


class ExecutionDescription(Failure):
    """A run, as DescribeExecution has it. The output is JSON."""

    status: str
    output: NotRequired[str]


def follow(aws: Aws, execution: str, seconds: float) -> Iterator[ExecutionDescription]:
    """Yield DescribeExecution's description of a run without end, with a pause between."""
    states = aws.client("stepfunctions")
    while True:
        yield states.describe_execution(executionArn=execution)
        time.sleep(0.3 if aws.is_local else seconds)


def cause(execution: Failure) -> str:
    """Why an execution failed, in one line.

    The line is a function's error, or the reason why a query of Athena failed, or else the cause as it is.
    """
    text = str(execution.get("cause") or execution.get("error") or "no reason given")
    try:
        found = parse_json(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        status = found.get("QueryExecution", found).get("Status")
        reason = status.get("StateChangeReason") if isinstance(status, dict) else None
        text = str(found.get("errorMessage") or reason or text)
    return printable(text)


def read_secret(prompt: str) -> str:
    """A secret: typed unseen at a terminal, else the content of standard input."""
    return (getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.read()).strip()


def check_token(text: str) -> str:
    """A token as HTTP headers take it; UsageError for anything else."""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError("the token must be one line of visible ASCII characters, without blanks")
    return text


@dataclass(frozen=True)
class Depth:
    """About how many messages a queue has: SQS counts them within a minute."""

    visible: int
    hidden: int
    """Being worked on, or waiting for their next try."""

    @property
    def total(self) -> int:
        return self.visible + self.hidden


def depth(sqs: Sqs, url: str) -> Depth:
    """How much waits in a queue."""
    names = (
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    )
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names))["Attributes"]
    visible, hidden, delayed = (int(found[name]) for name in names)
    return Depth(visible, hidden + delayed)


def look(sqs: Sqs, url: str, most: int) -> list[ReceivedMessage]:
    """Some of the messages, at most so many, with their attributes. They stay in the queue."""
    found: dict[str, ReceivedMessage] = {}
    for batch in _receive(sqs, url, LOOK_SECONDS):
        before = len(found)
        found |= {message["MessageId"]: message for message in batch}
        if len(found) >= most or len(found) == before:
            break
    return list(found.values())[:most]


def redrive(sqs: Sqs, source: str, target: str) -> Iterator[int]:
    """Move every message of `source` to `target`, without its attributes; yields how many each step moved.

    A message is deleted only after it has been sent, so none is lost, and one may be sent twice.
    """
    for batch in _receive(sqs, source, REDRIVE_SECONDS):
        entries = [{"Id": str(number), "MessageBody": message["Body"]} for number, message in enumerate(batch)]
        sent = sqs.send_message_batch(QueueUrl=target, Entries=entries)["Successful"]
        handles = [{"Id": item["Id"], "ReceiptHandle": batch[int(item["Id"])]["ReceiptHandle"]} for item in sent]
        if handles:
            sqs.delete_message_batch(QueueUrl=source, Entries=handles)
        yield len(handles)


def _receive(sqs: Sqs, url: str, hidden_seconds: int) -> Iterator[list[ReceivedMessage]]:
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
