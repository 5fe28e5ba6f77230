"""The deliver Lambda: the state machine calls it for the steps of a run, the queue for the rows to post.

Only this module knows the environment:

    ENDPOINT                  where to post
    QUERY, PARAMETERS         the saved query to deliver, and the values for its question marks
    WORK_GROUP                Athena's workgroup with the saved queries
    STREAM                    the delivery stream whose events the query reads
    BUFFERING_SECONDS         how long the stream collects events
    TABLE                     the DynamoDB table of watermarks and of the figures of each run
    QUEUE_URL, DEAD_LETTER_QUEUE_URL
    SECRET_ARN                the secret with the key `token`; without one, requests carry no Authorization header
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, TypedDict

import boto3

from shared.aws import BatchItemFailures, LambdaContext, QueueRecord

from . import run, send
from .settings import Clients, Settings


class LambdaEvent(TypedDict, total=False):
    """A step of the state machine, with its input; or messages of the queue."""

    step: Literal["prepare", "enqueue"]
    started: run.Started
    execution: str
    delivery: run.PlannedDelivery
    position: str | None
    Records: list[QueueRecord]


def lambda_handler(
    event: LambdaEvent, context: LambdaContext
) -> run.PreparedDelivery | run.Enqueued | BatchItemFailures:
    """Answer one invocation: a step of run.py, or the messages to come again from the queue."""
    settings, clients = read_settings(), make_clients()
    match event.get("step"):
        case "prepare":
            return run.prepare(event["started"], settings, clients, datetime.now(UTC))
        case "enqueue":
            return run.enqueue(
                {
                    "execution": event["execution"],
                    "delivery": event["delivery"],
                    "position": event.get("position"),
                },
                settings,
                clients,
                datetime.now(UTC),
                context.get_remaining_time_in_millis,
            )
    received = [send.receive(record) for record in event["Records"]]

    def post(body: bytes, headers: dict[str, str]) -> send.Answer:
        return send.post(settings, body, headers)

    outcome = send.deliver(received, post, time.time(), context.get_remaining_time_in_millis)
    send.settle(outcome, settings, clients)
    print(json.dumps(send.metrics(outcome, context.function_name, time.time())), flush=True)
    return {"batchItemFailures": [{"itemIdentifier": message.message_id} for message, _ in outcome.waiting]}


@lru_cache(maxsize=1)
def read_settings() -> Settings:
    return Settings(
        endpoint=os.environ["ENDPOINT"],
        query=os.environ["QUERY"],
        parameters=os.environ["PARAMETERS"],
        work_group=os.environ["WORK_GROUP"],
        stream=os.environ["STREAM"],
        buffering_seconds=int(os.environ["BUFFERING_SECONDS"]),
        table=os.environ["TABLE"],
        queue_url=os.environ["QUEUE_URL"],
        dead_letter_queue_url=os.environ["DEAD_LETTER_QUEUE_URL"],
        secret_arn=os.environ["SECRET_ARN"],
    )


@lru_cache(maxsize=1)
def make_clients() -> Clients:
    return Clients(*(boto3.client(service) for service in ("athena", "cloudwatch", "dynamodb", "sqs")))
