"""What the code asks of DynamoDB, as DynamoDB counts it for items of up to 1 KB, and of SQS."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import boto3

READS = {"GetItem", "Query"}


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """What clients ask for that boto3 makes in here: `reads` and `writes`; requests to SQS by their operation."""
    found: Counter[str] = Counter()

    def count(params: dict[str, Any], model: Any, **_: Any) -> None:
        if model.service_model.service_name == "sqs":
            found[model.name] += 1
        elif model.name == "BatchWriteItem":
            found["writes"] += sum(map(len, params["RequestItems"].values()))
        else:
            found["reads" if model.name in READS else "writes"] += 1

    boto3.setup_default_session()
    assert boto3.DEFAULT_SESSION
    for service in ("dynamodb", "sqs"):
        boto3.DEFAULT_SESSION.events.register(f"before-parameter-build.{service}", count)
    yield found
    boto3.setup_default_session()
