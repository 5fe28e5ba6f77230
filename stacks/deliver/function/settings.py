"""A delivery's surroundings: names from the environment, and the clients of AWS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.aws import DynamoDb, Sqs


@dataclass(frozen=True)
class Settings:
    """The environment, as handler.py reads it."""

    endpoint: str
    query: str
    parameters: str
    work_group: str
    stream: str
    buffering_seconds: int
    table: str
    queue_url: str
    dead_letter_queue_url: str
    secret_arn: str


@dataclass(frozen=True)
class Clients:
    """boto3's clients."""

    athena: Any
    cloudwatch: Any
    dynamodb: DynamoDb
    sqs: Sqs
