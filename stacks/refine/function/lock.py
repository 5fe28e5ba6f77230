"""One run at a time: an object in the bucket names the execution whose turn it is, and S3 lets one writer have it.

Nothing has to give it back. The object stays when a run ends, however it ends, and the next run sees in Step Functions
that its holder does not run any more.

The contract: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

KEY: Final = "refine-run"

NEW: Final = timedelta(minutes=1)
"""For so long, Step Functions may not know of a new execution, as its answers may be a little old."""

_TAKEN: Final = {"PreconditionFailed", "ConditionalRequestConflict"}


class Busy(Exception):
    """Another run is under way: its end lets this one begin."""


def take_turn(s3: Any, states: Any, bucket: str, execution: str) -> None:
    """Give this execution the turn, unless it has it already; raises Busy while another one runs."""
    place = {"Bucket": bucket, "Key": KEY}
    if _write(s3, **place, Body=execution.encode(), IfNoneMatch="*"):
        return
    found = s3.get_object(**place)
    holder = found["Body"].read().decode()
    if holder == execution:
        return
    if _is_running(states, holder, execution, found["LastModified"]):
        raise Busy(f"another run is under way, and this one waits for its end: {holder}")
    if not _write(s3, **place, Body=execution.encode(), IfMatch=found["ETag"]):
        raise Busy(f"another run began at the same time, and this one waits for its end: {execution}")


def _write(s3: Any, **request: Any) -> bool:
    """Whether the condition was met."""
    try:
        s3.put_object(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] not in _TAKEN:
            raise
        return False
    return True


def _is_running(states: Any, holder: str, execution: str, taken_at: datetime) -> bool:
    if _machine(holder) != _machine(execution):  # of a deleted stack, or of an earlier time
        return False
    try:
        return bool(states.describe_execution(executionArn=holder)["status"] == "RUNNING")
    except states.exceptions.ExecutionDoesNotExist:
        return datetime.now(UTC) - taken_at < NEW


def _machine(execution: str) -> str:
    return execution.rpartition(":")[0]
