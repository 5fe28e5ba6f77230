"""The pull Lambda: the state machine calls it for the steps of a run, the queue for the requests to make.

    {"step": "check", "input": {"sources": [...]}}          a test call to each of these sources, or to all of them
    {"step": "plan", "holder": ..., "checked": [...]}       their requests, each with an item and a message
    {"step": "look", "holder": ..., "seen": {...}}          how far all of them have come
    {"Records": [...]}                                      messages of the queue; the answer names those to keep

Only this module reads the environment:

    SOURCES_BUCKET, SOURCES_KEY        the compiled declarations
    TABLE                              the name of the DynamoDB table
    QUEUE_URL, DEAD_LETTER_QUEUE_URL   the queue of requests, and the queue of dead letters
    SECRET_ARN                         the secret with the credentials
    STREAM                             the delivery stream's name
    RETRY_HOURS                        how long a request is tried again if its problem may pass
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache

from shared.aws import BatchItemFailures, LambdaContext
from shared.documents import Json, parse_json

from .client import Client
from .fetch import Worker, settle
from .parts import Parts
from .queue import Queue
from .run import Look, PlannedSource, Runner
from .source import Source
from .store import Store

logging.getLogger().setLevel(logging.INFO)


def lambda_handler(event: Json, context: LambdaContext) -> list[PlannedSource] | Look | BatchItemFailures:
    """Do a step, or the messages of the queue."""
    runner, worker, queue = parts()
    if "Records" in event:
        kept = [
            each for each in event["Records"] if not settle(worker, queue, each, context.get_remaining_time_in_millis)
        ]
        return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in kept]}
    match event["step"]:
        case "check":
            return runner.check(event["input"].get("sources", []))
        case "plan":
            return runner.plan(event["holder"], event["checked"])
        case "look":
            return runner.look(event["holder"], event["seen"])
    raise ValueError(f"there is no step {event['step']!r}")


@lru_cache(maxsize=1)
def parts() -> tuple[Runner, Worker, Queue]:
    """The runner, the worker and the queue, made once a process. The sources' key has their hash: they never change."""
    import boto3

    environment = os.environ
    found = boto3.client("s3").get_object(Bucket=environment["SOURCES_BUCKET"], Key=environment["SOURCES_KEY"])
    declared = parse_json(found["Body"].read())["sources"]
    sources = {name: Source(name, declaration) for name, declaration in declared.items()}
    store = Store(boto3.resource("dynamodb").Table(environment["TABLE"]))
    queue = Queue(boto3.client("sqs"), environment["QUEUE_URL"], environment["DEAD_LETTER_QUEUE_URL"])
    client = Client(environment["SECRET_ARN"])
    shared = Parts(sources, store, queue, client, retry_seconds=3600 * float(environment["RETRY_HOURS"]))
    return Runner(shared), Worker(shared, environment["STREAM"]), queue
