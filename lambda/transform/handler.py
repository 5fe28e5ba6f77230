"""The transform Lambda: Firehose's records in, rows out.

Only this module knows Firehose's contract (record ids, base64, `result`) and the environment:

    HEADLESS_BROWSERS   DROP (default) or KEEP the events of headless browsers
    IP_HANDLING         TRUNCATE (default), FULL or NONE: how to show the client's address
    REDACT_FIELDS       field names, separated by commas, whose values are emptied at any depth
    SALT_BUCKET         the bucket with the salts of visitors' ids; without one, rows have no such ids
    REJECT_STREAM       the delivery stream for rejected events; without one, their records fail as a whole

The contract (https://docs.aws.amazon.com/firehose/latest/dev/data-transformation.html): every recordId comes back
exactly once with `data` and one of three results. The data of `Ok` is appended to the object as it is, so one
record may carry many rows. A `ProcessingFailed` record goes, as it came, to the error output. An exception
would fail the records of the whole invocation, and so would a reply of more than 6 MB.

Not everything leaves by the reply. Rejected events go to the reject stream. Events whose rows do not fit the reply go
back to their own stream, in smaller records. A record has its rows in the reply only when all of these are safely put;
else it fails as a whole, and emits none.

Putting back comes to an end, because every invocation settles at least one event: the first is dropped, rejected, or
becomes a row. If its row is too long for any reply, it is rejected; if it is too long beside the other records of this
invocation, its record fails.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NotRequired, TypedDict, TypeVar, get_args

from pybase64 import b64decode, b64encode_as_string

from transform import rejects
from transform.events import Accepted, Dropped, Outcome, Rejected, Waiting, transform
from transform.records import Fault, describe, read_record, write_rest
from transform.rules import IpHandling, Settings, fold
from transform.streams import connect, put_records
from transform.visitors import Salts

if TYPE_CHECKING:
    from shared.aws import LambdaContext  # types alone, which no cold start waits for

REPLY_LIMIT: Final = 6_000_000
"""Bytes of a reply. Lambda's limit is 6 MB for a synchronous invocation, read here as the smaller megabyte."""

REPLY_OVERHEAD: Final = 80
"""Bytes of a record in the reply beside its id and its data, at most."""

Choice = TypeVar("Choice", bound=str)

logger = logging.getLogger(__name__)


class Record(TypedDict):
    """A record as Firehose hands it over."""

    recordId: str
    approximateArrivalTimestamp: int
    data: str


class FirehoseEvent(TypedDict):
    """An invocation, as Firehose makes it."""

    records: list[Record]
    deliveryStreamArn: NotRequired[str]


class Reply(TypedDict):
    """A record as Firehose takes it back."""

    recordId: str
    result: Literal["Ok", "Dropped", "ProcessingFailed"]
    data: str


def read_settings(environment: dict[str, str]) -> Settings:
    """Settings from the environment; raises ValueError with the name, the value and the way out."""

    def choose(name: str, *choices: Choice) -> Choice:
        chosen = environment.get(name) or choices[0]
        if chosen not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)} (got {chosen!r})")
        return choices[choices.index(chosen)]  # which has their type

    names = (fold(name.strip()) for name in environment.get("REDACT_FIELDS", "").split(","))
    return Settings(
        ip_handling=choose("IP_HANDLING", *get_args(IpHandling)),
        redact_fields=frozenset(name for name in names if name),
        keep_headless=choose("HEADLESS_BROWSERS", "DROP", "KEEP") == "KEEP",
        find_salt=Salts(bucket).find if (bucket := environment.get("SALT_BUCKET")) else None,
    )


SETTINGS: Final = read_settings(dict(os.environ))
REJECT_STREAM: Final = os.environ.get("REJECT_STREAM", "")


class Tally:
    """Outcomes, counted in events."""

    def __init__(self) -> None:
        self.accepted = 0
        self.dropped: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.requeued = 0
        """Not counted as received; they are counted when they arrive again."""

    @property
    def received(self) -> int:
        return self.accepted + self.dropped.total() + self.rejected.total() + self.failed.total()

    def add(self, other: Tally) -> None:
        self.accepted += other.accepted
        self.dropped += other.dropped
        self.rejected += other.rejected
        self.failed += other.failed
        self.requeued += other.requeued

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
            "Requeued": self.requeued,
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


@dataclass(frozen=True, slots=True)
class Detour:
    """A record with data for a delivery stream; its reply counts only when all of them are put."""

    record: Record
    reply: Reply
    tally: Tally
    """Its outcomes in that case."""
    events: int
    """How many events fail otherwise."""
    rejects: list[bytes]
    """For the reject stream."""
    rest: list[bytes]
    """For the record's own stream."""


class Invocation:
    """The state of an invocation, from one record to the next."""

    def __init__(self, records: list[Record]) -> None:
        # Every record can at least be handed back as it came; the rest is room for longer rows.
        handed_back = sum([len(record["data"]) + len(record["recordId"]) for record in records])
        self.room = REPLY_LIMIT - handed_back - REPLY_OVERHEAD * len(records)
        """How many bytes longer than their records the data of further replies may be."""
        self.tally = Tally()
        self.detours: list[Detour] = []


def lambda_handler(event: FirehoseEvent, context: LambdaContext) -> dict[str, list[Reply]]:
    """Answer one invocation: a reply for each record, in their order, and one line of metrics on standard output."""
    records = event["records"]
    invocation = Invocation(records)
    replies = [answer(record, invocation) for record in records]
    tally = invocation.tally
    if invocation.detours:
        stream_arn = event.get("deliveryStreamArn", "")
        put_detours(invocation.detours, stream_arn, tally, context.get_remaining_time_in_millis)
    print(json.dumps(tally.metrics(context.function_name, time.time_ns() // 1_000_000)), flush=True)
    return {"records": replies}


def answer(record: Record, invocation: Invocation) -> Reply:
    """Transform one record and count its events; whatever is wrong with it, it is answered.

    If something must leave by a stream, the record becomes one of the detours, and is counted with them.
    """
    tally = invocation.tally
    try:
        sent = record["data"]
        data = b64decode(sent, None, True)  # validated; by keyword, that takes half as long again
        room = invocation.room + len(sent)
        outcomes = transform(data, record["approximateArrivalTimestamp"], SETTINGS, room=room)
        dropped: list[str] = []
        try:
            # Most often, all of them are rows. They are not many more bytes than there is room for: else some wait.
            rows = b"".join(outcomes)  # type: ignore[arg-type]  # else a TypeError
        except TypeError:
            accepted = [outcome for outcome in outcomes if type(outcome) is Accepted]
            dropped = [outcome.rule for outcome in outcomes if type(outcome) is Dropped]
            if len(accepted) + len(dropped) < len(outcomes):
                return part(record, data, outcomes, invocation)
            rows = b"".join(accepted)
        reply = make_reply(record, rows)
        growth = len(reply["data"]) - len(sent)
        if growth > invocation.room:
            return part(record, data, outcomes, invocation)
        invocation.room -= growth
        tally.accepted += len(outcomes) - len(dropped)
        if dropped:
            tally.dropped.update(dropped)
        return reply
    except Fault as fault:
        return fail(record, tally, fault.reason, fault.detail, fault.events)
    except Exception as error:
        # Nothing that Firehose is known to do, such as bad base64 or an impossible arrival time.
        return fail(record, tally, "record", f"the record cannot be read: {describe(error)}", 1)


def make_reply(record: Record, rows: bytes) -> Reply:
    """The reply with a record's rows; Dropped if it has none."""
    if not rows:
        return {"recordId": record["recordId"], "result": "Dropped", "data": record["data"]}
    return {"recordId": record["recordId"], "result": "Ok", "data": b64encode_as_string(rows)}


def fail(record: Record, tally: Tally, reason: str, detail: str, events: int) -> Reply:
    """Hand a record back as it came, for Firehose to keep in its error output, and say why in one line of the log.

    `events` of it count as failed. The log never has a word of the record in it: it may be private.
    """
    if events:
        tally.failed[reason] += events
    logger.error("record %s failed: %s: %s", record["recordId"], reason, detail)
    return {"recordId": record["recordId"], "result": "ProcessingFailed", "data": record["data"]}


def fail_for_rejects(record: Record, tally: Tally, outcomes: list[Outcome], rejected: list[Rejected]) -> Reply:
    """Fail a record for the rejected events in it; they count as rejected, the others in it as failed.

    Without a reject stream, rejected events have no place of their own, so their record goes to Firehose's error
    output. It goes there whole, with its good events: if those became rows here, a replay of the record would make them
    rows again.
    """
    for outcome in rejected:
        tally.rejected[outcome.reason] += outcome.events
    wrong, all_events = sum([outcome.events for outcome in rejected]), count_events(outcomes)
    first = rejected[0]
    detail = f"{wrong} of {all_events} events, first event {first.position}: {first.reason}: {first.detail}"
    return fail(record, tally, "rejected_events", detail, all_events - wrong)


# --- Detours by a delivery stream ---------------------------------------------------------------------------------


def part(record: Record, data: bytes, outcomes: list[Outcome], invocation: Invocation) -> Reply:
    """Answer a record with rejected events, or with more rows than this reply has room for.

    Its reply is the rows up to the first too long to fit. From there on its events are put back on the stream.
    """
    tally, detours = invocation.tally, invocation.detours
    longest = REPLY_LIMIT - REPLY_OVERHEAD - len(record["recordId"])
    contents = read_record(data, record["approximateArrivalTimestamp"], SETTINGS)
    for index, outcome in enumerate(outcomes):
        if type(outcome) is Accepted and base64_length(len(outcome)) > longest:
            detail = f"its row has {len(outcome):,} bytes, which no reply of Lambda's {REPLY_LIMIT:,} holds"
            outcomes[index] = Rejected("too_large", detail, contents.context.position + index)
    rejected = [outcome for outcome in outcomes if type(outcome) is Rejected]
    if rejected and not REJECT_STREAM:
        return fail_for_rejects(record, tally, outcomes, rejected)

    fitting = count_fitting(outcomes, invocation.room + len(record["data"]))
    most = contents.most_events
    rest = outcomes[fitting:most]
    settled = outcomes[:fitting] + outcomes[max(fitting, most) :]
    settled_before = tally.received or any(detour.tally.received for detour in detours)
    if rest and not settled and not settled_before:
        detail = "beside the other records, its first row does not fit Lambda's reply of 6 MB"
        return fail(record, tally, "reply_full", detail, count_events(outcomes))

    rows = [outcome for outcome in settled if type(outcome) is Accepted]
    rejected = rejects.limit([outcome for outcome in settled if type(outcome) is Rejected])
    counts = Tally()
    counts.accepted = len(rows)
    counts.dropped.update(outcome.rule for outcome in settled if type(outcome) is Dropped)
    for reject in rejected:
        counts.rejected[reject.reason] += reject.events
    counts.requeued = len(rest)
    now = time.time_ns() // 1_000_000
    longest = max([len(outcome) for outcome in outcomes if type(outcome) is Accepted], default=0)
    row_sizes = [len(outcome) if type(outcome) is Accepted else longest for outcome in rest]
    reply = make_reply(record, b"".join(rows))
    # A shorter reply leaves no more room: the record may yet be handed back as it came.
    invocation.room -= max(0, len(reply["data"]) - len(record["data"]))
    detours.append(
        Detour(
            record,
            reply,
            counts,
            count_events(outcomes),
            list(rejects.pack(rejects.make_rows(contents, rejected, SETTINGS, now))) if rejected else [],
            list(write_rest(contents, fitting, row_sizes, REPLY_LIMIT // 4)) if rest else [],
        )
    )
    return reply


def count_events(outcomes: list[Outcome]) -> int:
    """How many events have these outcomes."""
    return sum([outcome.events if type(outcome) is Rejected else 1 for outcome in outcomes])


def count_fitting(outcomes: list[Outcome], most: int) -> int:
    """How many of the outcomes, from the first on, have rows of at most `most` bytes in base64."""
    size = 0
    for index, outcome in enumerate(outcomes):
        if type(outcome) is Waiting:
            return index
        if type(outcome) is Accepted:
            size += len(outcome)
            if base64_length(size) > most:
                return index
    return len(outcomes)


def base64_length(size: int) -> int:
    """Characters of so many bytes in base64."""
    return (size + 2) // 3 * 4


def put_detours(
    detours: list[Detour], main_stream_arn: str, tally: Tally, milliseconds_left: Callable[[], int]
) -> None:
    """Put the detours' data on their streams, and count; a record fails if any of its data cannot be put.

    The rejects go first. If a record's rejects are not put, nothing of it is put back: a replay will bring it whole.
    """

    def put(stream: str, reason: str, data: list[list[bytes]]) -> list[Detour]:
        """Put each detour's data; returns the detours with nothing left to put."""
        owners = [number for number, own in enumerate(data) for _ in own]
        errors = put_records(connect, stream, [record for own in data for record in own], milliseconds_left)
        failed = {number: error for number, error in zip(owners, errors, strict=True) if error is not None}
        for number, error in failed.items():
            detour = detours[number]
            detour.reply.update(fail(detour.record, tally, reason, f"on {stream!r}: {error}", detour.events))
        return [detour for number, detour in enumerate(detours) if number not in failed]

    detours = put(REJECT_STREAM, "reject_stream", [detour.rejects for detour in detours])
    detours = put(main_stream_arn.rpartition("/")[2], "requeue", [detour.rest for detour in detours])
    for detour in detours:
        tally.add(detour.tally)
