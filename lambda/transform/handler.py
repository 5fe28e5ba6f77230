"""The transform Lambda: Firehose's records in, rows out.

This is the only module that knows Firehose's contract (record ids, base64, `result`) and the environment:

    IP_HANDLING     TRUNCATE (default), FULL or NONE: what becomes of the client's address
    REDACT_FIELDS   field names, separated by commas, whose values are emptied at any depth

The contract (https://docs.aws.amazon.com/firehose/latest/dev/data-transformation.html): every recordId comes back
exactly once with `data` and one of three results. The data of `Ok` is appended to the object as it stands, so one
record may carry many rows. A record that is `ProcessingFailed` goes, as it came, to the error output. An exception
would fail the records of the whole invocation, and so would a reply of more than 6 MB.
"""

from __future__ import annotations

import json
import logging
import os
import time
from binascii import a2b_base64, b2a_base64
from collections import Counter
from typing import Any, Final, Literal, Protocol, TypedDict, cast, get_args

from transform.events import Accepted, Dropped, Fault, IpHandling, Outcome, Rejected, Settings, transform

REPLY_LIMIT: Final = 6_000_000
"""Bytes of a reply. Lambda's limit is 6 MB for a synchronous invocation, read here as the smaller megabyte."""

REPLY_OVERHEAD: Final = 80
"""Bytes that a record takes in the reply beside its id and its data, at most."""

logger = logging.getLogger(__name__)


class Record(TypedDict):
    """A record as Firehose hands it over."""

    recordId: str
    approximateArrivalTimestamp: int
    data: str


class Reply(TypedDict):
    """A record as Firehose takes it back."""

    recordId: str
    result: Literal["Ok", "Dropped", "ProcessingFailed"]
    data: str


class LambdaContext(Protocol):
    """What the handler reads of Lambda's context object."""

    @property
    def function_name(self) -> str: ...


def read_settings(environment: dict[str, str]) -> Settings:
    """Settings from the environment; raises ValueError with the name, the value and the way out."""
    handling = environment.get("IP_HANDLING") or "TRUNCATE"
    if handling not in get_args(IpHandling):
        raise ValueError(f"IP_HANDLING must be one of {', '.join(get_args(IpHandling))} (got {handling!r})")
    names = (name.strip().lower() for name in environment.get("REDACT_FIELDS", "").split(","))
    return Settings(ip_handling=cast(IpHandling, handling), redact_fields=frozenset(name for name in names if name))


SETTINGS: Final = read_settings(dict(os.environ))


class Tally:
    """The outcomes of one invocation, counted in events."""

    def __init__(self) -> None:
        self.received = 0
        self.accepted = 0
        self.dropped: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def metrics(self, function_name: str, milliseconds: int) -> dict[str, Any]:
        """The counts in CloudWatch's embedded metric format: a metric for each outcome.

        Rules and reasons are fields of the same line, for Logs Insights: each metric costs money every month.
        """
        counts = {
            "Received": self.received,
            "Accepted": self.accepted,
            "Dropped": self.dropped.total(),
            "Rejected": self.rejected.total(),
            "Failed": self.failed.total(),
        }
        definition = {
            "Namespace": "Sluice",
            "Dimensions": [["FunctionName"]],
            "Metrics": [{"Name": name, "Unit": "Count"} for name in counts],
        }
        return {
            "_aws": {"Timestamp": milliseconds, "CloudWatchMetrics": [definition]},
            "FunctionName": function_name,
            **counts,
            "DroppedByRule": dict(self.dropped),
            "RejectedByReason": dict(self.rejected),
            "FailedByReason": dict(self.failed),
        }


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, list[Reply]]:
    """Answer one invocation: a reply for each record, in their order, and one line of metrics on standard output."""
    records: list[Record] = event["records"]
    tally = Tally()
    # Every record can at least be handed back as it came; what is left is room for rows that are longer than that.
    room = REPLY_LIMIT - sum(len(record["data"]) + len(record["recordId"]) + REPLY_OVERHEAD for record in records)
    replies = []
    for record in records:
        reply = answer(record, room, tally)
        room += len(record["data"]) - len(reply["data"])
        replies.append(reply)
    print(json.dumps(tally.metrics(context.function_name, time.time_ns() // 1_000_000)), flush=True)
    return {"records": replies}


def answer(record: Record, room: int, tally: Tally) -> Reply:
    """Transform one record and count its events; whatever is wrong with it, it is answered.

    `room` is by how many bytes the reply's data may be longer than the record's.
    """
    try:
        data = a2b_base64(record["data"], strict_mode=True)
        outcomes = transform(data, record["approximateArrivalTimestamp"], SETTINGS)
    except Fault as fault:
        return fail(record, tally, fault.reason, fault.detail, fault.events)
    except Exception as error:
        # Nothing that Firehose is known to do, such as bad base64 or an impossible arrival time.
        return fail(record, tally, "record", f"the record cannot be read ({type(error).__name__})", 1)
    rejected = [outcome for outcome in outcomes if type(outcome) is Rejected]
    if rejected:
        return reject(record, tally, outcomes, rejected)
    rows = [outcome.row for outcome in outcomes if type(outcome) is Accepted]
    reply_data = b2a_base64(b"".join(rows), newline=False).decode("ascii") if rows else record["data"]
    if len(reply_data) - len(record["data"]) > room:
        return overflow(record, tally, outcomes)
    tally.received += len(outcomes)
    tally.accepted += len(rows)
    if len(rows) < len(outcomes):
        tally.dropped.update(outcome.rule for outcome in outcomes if type(outcome) is Dropped)
    return {"recordId": record["recordId"], "result": "Ok" if rows else "Dropped", "data": reply_data}


def fail(record: Record, tally: Tally, reason: str, detail: str, events: int) -> Reply:
    """Hand a record back as it came, for Firehose to keep in its error output, and say why in one line of the log.

    `events` of it count as failed. The log never has a word of the record in it: what people send may be private.
    """
    tally.received += events
    if events:
        tally.failed[reason] += events
    logger.error("record %s failed: %s: %s", record["recordId"], reason, detail)
    return {"recordId": record["recordId"], "result": "ProcessingFailed", "data": record["data"]}


def reject(record: Record, tally: Tally, outcomes: list[Outcome], rejected: list[Rejected]) -> Reply:
    """Fail a record for the rejected events in it; they count as rejected, the others in it as failed.

    Rejected events have no place of their own, so their record goes to Firehose's error output. It goes there whole,
    with the good events that came with them: if those became rows here, a replay of the record would make them rows
    again. A delivery stream for rejected events would take them here, and the others would go on to their rows.
    """
    tally.received += len(rejected)
    tally.rejected.update(outcome.reason for outcome in rejected)
    first = rejected[0]
    detail = f"{len(rejected)} of {len(outcomes)} events, first event {first.position}: {first.reason}: {first.detail}"
    return fail(record, tally, "rejected_events", detail, len(outcomes) - len(rejected))


def overflow(record: Record, tally: Tally, outcomes: list[Outcome]) -> Reply:
    """Fail a record whose rows no longer fit the reply.

    Nothing is wrong with its events. Put back on the stream in smaller records, from here, they would need no replay.
    """
    return fail(record, tally, "reply_full", "its rows no longer fit Lambda's reply of 6 MB", len(outcomes))
