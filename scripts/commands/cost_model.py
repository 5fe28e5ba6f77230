"""What a month of events uses of each service, what would use less, and what other designs would use: all pure.

A quantity stands under the key of its price (scripts/prices). What no document of AWS fixes is a constant here, with
the reason for its value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from scripts.commands.cost_prices import Prices
from scripts.commands.query import SMALLEST_CHARGE

HOURS_PER_MONTH: Final = 730
SECONDS_PER_MONTH: Final = HOURS_PER_MONTH * 3600
DAYS_PER_MONTH: Final = HOURS_PER_MONTH / 24

FIREHOSE_STEP: Final = 5 * 1024
"""Bytes: Firehose counts each record as a multiple of this."""

KINESIS_STEP: Final = 1024
"""Bytes: Kinesis Data Streams counts each record as a multiple of this."""

LINES_WITHOUT_AGENT: Final = len(
    "sluice/1 request_id=8a2b7c1e-5d3f-4e6a-9b0c-1d2e3f4a5b6c extended_request_id=JKJaXmPLvHcESHA= "
    "time=1795246526348 ip=203.0.113.247 user_agent=\n\nsluice/end extended_request_id=JKJaXmPLvHcESHA=\n"
)
LINES_PER_RECORD: Final = LINES_WITHOUT_AGENT + 148
"""Bytes that the context line and the end line add to a request: without a user agent, and with a browser's of 110
characters in base64."""

LARGEST_PACK: Final = 5_000
"""Events that scripts/track.sh packs into a request at most, in half of what a request holds; it holds 10,000."""

LARGEST_BODY: Final = 1_000_000
"""Bytes that always fit one request."""

ANSWER_BYTES: Final = 800
"""Bytes of an answer of the API with its headers: assumed."""

TRANSFORM_BUFFER_SECONDS: Final = 5
TRANSFORM_BUFFER_BYTES: Final = 1024 * 1024
"""Firehose invokes the transform when either is reached (BufferIntervalInSeconds and BufferSizeInMBs)."""

OBJECT_BYTES: Final = 64 * 1024 * 1024
"""Firehose writes an object no later than this (FirehoseBufferingSize)."""

MICROSECONDS_PER_RECORD: Final = 6.4
MICROSECONDS_PER_EVENT: Final = 9.3
MEASURED_BYTES: Final = 576
"""The transform's time on one processor for events of so many bytes: docs/performance.md. Longer ones take longer."""

INVOCATION_SECONDS: Final = 0.005
"""What an invocation takes apart from its events: assumed."""

MEGABYTES_PER_PROCESSOR: Final = 1769
"""Memory at which a function has one whole processor; with less memory it has that share of one:
https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html"""

LOG_BYTES_PER_INVOCATION: Final = 610
"""The transform's one line of metrics, and what CloudWatch adds to each line (26 bytes)."""

METRICS_OF_THE_TRANSFORM: Final = 6
METRICS_OF_A_METHOD: Final = 5
"""Count, 4XXError, 5XXError, Latency, IntegrationLatency: the stage publishes them for each method that is called."""

TRACES_A_SECOND: Final = 1
TRACED_SHARE: Final = 0.05
"""X-Ray's default rule records the first request of each second, and this share of the others."""

GETS_PER_OBJECT: Final = {"PARQUET": 2, "JSON": 1}
"""Reads of an object by a query: the footer and the columns of Parquet, the whole of JSON: assumed."""

OBJECTS_PER_LIST: Final = 1000


@dataclass(frozen=True)
class Stored:
    """Bytes in S3 of events of 575 bytes, as tests/benchmarks/scan.py measured them: for each event and each object.

    `read` is the part of them that the saved query totals-by-name-and-action reads.
    """

    per_event: float
    per_object: float
    read_per_event: float
    read_per_object: float


STORED_BYTES: Final = 575
STORED: Final = {
    "PARQUET": Stored(per_event=103.4, per_object=5_750, read_per_event=28.3, read_per_object=4_140),
    "JSON": Stored(per_event=120.5, per_object=760, read_per_event=120.5, read_per_object=760),
}


class Unsuitable(ValueError):
    """A workload that the pipeline would not take."""


@dataclass(frozen=True)
class Workload:
    """What comes in during a month, what is asked of it, and the parameters of the stack that the bill depends on.

    Events and requests may be fractions, as averages are. `retention_in_days` is for how many days events are stored
    by then. `tracing` is whether X-Ray records requests at all, `traced_share` the share of them that a rule of one's
    own records; None is the default rule.
    """

    events_per_month: float
    bytes_per_event: float
    events_per_request: float
    output_format: str = "PARQUET"
    buffering_interval: int = 60
    memory: int = 512
    retention_in_days: int = 365
    queries_per_month: float = 100
    days_per_query: int = 30
    alarms: int = 0
    dashboards: int = 0
    tracing: bool = False
    traced_share: float | None = None
    lines_per_record: int = LINES_PER_RECORD

    @property
    def requests(self) -> float:
        return self.events_per_month / self.events_per_request

    @property
    def body_bytes(self) -> float:
        """Of one request: the events, with one byte between two of them."""
        return self.events_per_request * (self.bytes_per_event + 1) - 1

    @property
    def record_bytes(self) -> float:
        return self.body_bytes + self.lines_per_record

    @property
    def invocations(self) -> float:
        """Of the transform: by time, unless the buffer is full earlier, and never more than there are records."""
        by_time = min(self.requests, SECONDS_PER_MONTH / TRANSFORM_BUFFER_SECONDS)
        return max(by_time, self.requests * self.record_bytes / TRANSFORM_BUFFER_BYTES)

    @property
    def objects(self) -> float:
        """Written by Firehose: by time, unless the buffer is full earlier."""
        interval = max(self.buffering_interval, TRANSFORM_BUFFER_SECONDS)
        by_time = min(self.requests, SECONDS_PER_MONTH / interval)
        return max(by_time, self.events_per_month * self.bytes_per_event / OBJECT_BYTES)

    def check(self) -> None:
        """Raise Unsuitable, with the way out, if a request would not hold its events."""
        fit = min(int((LARGEST_BODY + 1) // (self.bytes_per_event + 1)), 2 * LARGEST_PACK)
        if self.events_per_request > fit:
            raise Unsuitable(
                f"a request holds 1,000,000 bytes and 10,000 events, so {fit:,} events of {self.bytes_per_event:,.0f} "
                f"bytes at most (got {self.events_per_request:,.0f})"
            )


def quantities(workload: Workload) -> dict[str, float]:
    """What a month uses, by the key of the price."""
    found = {
        "api-requests": workload.requests,
        "data-out": workload.requests * ANSWER_BYTES,
        **stream_quantities(workload),
        "lambda-requests": workload.invocations,
        "lambda-gb-seconds": gigabyte_seconds(workload, workload.invocations),
        **stored_quantities(workload),
        "xray-traces": sum(_traced(workload, calls) for calls in (workload.requests, workload.invocations)),
        "cloudwatch-metrics": METRICS_OF_THE_TRANSFORM + METRICS_OF_A_METHOD,
        "cloudwatch-logs": workload.invocations * LOG_BYTES_PER_INVOCATION,
        "cloudwatch-log-storage": workload.invocations * LOG_BYTES_PER_INVOCATION,
        "cloudwatch-alarms": workload.alarms,
        "cloudwatch-dashboards": workload.dashboards,
    }
    return {key: quantity for key, quantity in found.items() if quantity}


def stream_quantities(workload: Workload) -> dict[str, float]:
    """Firehose: each record counts as a multiple of 5 KB, for ingest and again for the conversion."""
    counted = workload.requests * steps(workload.record_bytes, FIREHOSE_STEP)
    return {
        "firehose-ingest": counted,
        **({"firehose-conversion": counted} if workload.output_format == "PARQUET" else {}),
    }


def stored_quantities(workload: Workload) -> dict[str, float]:
    """S3 and Athena: objects written, events stored, and what the queries read of them."""
    stored = STORED[workload.output_format]
    scale = workload.bytes_per_event / STORED_BYTES
    days = min(workload.days_per_query, workload.retention_in_days)
    objects_a_day, events_a_day = (value / DAYS_PER_MONTH for value in (workload.objects, workload.events_per_month))
    kept = scale * stored.per_event * workload.events_per_month + stored.per_object * workload.objects
    read = days * (scale * stored.read_per_event * events_a_day + stored.read_per_object * objects_a_day)
    lists = workload.queries_per_month * days * max(1, math.ceil(objects_a_day / OBJECTS_PER_LIST))
    return {
        "s3-puts": workload.objects + lists,
        "s3-gets": workload.queries_per_month * days * objects_a_day * GETS_PER_OBJECT[workload.output_format],
        "s3-storage": kept * workload.retention_in_days / DAYS_PER_MONTH,
        "athena-scans": workload.queries_per_month * max(read, SMALLEST_CHARGE),
    }


def gigabyte_seconds(workload: Workload, invocations: float) -> float:
    """The transform's GB-seconds in so many invocations."""
    longer = workload.bytes_per_event / MEASURED_BYTES
    microseconds = (
        workload.requests * MICROSECONDS_PER_RECORD + workload.events_per_month * MICROSECONDS_PER_EVENT * longer
    )
    processor = min(workload.memory / MEGABYTES_PER_PROCESSOR, 1)
    return (microseconds / 1e6 / processor + invocations * INVOCATION_SECONDS) * workload.memory / 1024


def steps(size: float, step: int) -> int:
    """A size as a service counts it: the next multiple of its step."""
    return math.ceil(size / step) * step


def _traced(workload: Workload, calls: float) -> float:
    if not workload.tracing:
        return 0.0
    if workload.traced_share is not None:
        return calls * workload.traced_share
    first = min(calls, SECONDS_PER_MONTH * TRACES_A_SECOND)
    return first + (calls - first) * TRACED_SHARE


@dataclass(frozen=True)
class Line:
    """One line of a bill."""

    key: str
    quantity: float
    dollars: float


def bill(found: dict[str, float], prices: Prices, *, with_free_tier: bool = False) -> list[Line]:
    """Each quantity at its price, in the order of the price file."""
    return [
        Line(key, found[key], price.cost(found[key], with_free_tier=with_free_tier))
        for key, price in prices.by_key.items()
        if key in found
    ]


def total(lines: list[Line]) -> float:
    """US dollars of all lines."""
    return sum(line.dollars for line in lines)


# Levers


@dataclass(frozen=True)
class Lever:
    """Something to do, and what it alone saves in US dollars a month: less than nothing if it costs more."""

    what: str
    dollars: float


def levers(workload: Workload, prices: Prices, *, with_free_tier: bool = False) -> list[Lever]:
    """Every lever, tried: the one that saves most comes first."""

    def cost(tried: Workload) -> float:
        return total(bill(quantities(tried), prices, with_free_tier=with_free_tier))

    before = cost(workload)
    found = [Lever(what, before - cost(tried)) for what, tried in _tries(workload)]
    return sorted(found, key=lambda lever: -lever.dollars)


def _tries(workload: Workload) -> Iterator[tuple[str, Workload]]:
    fit = min(int((LARGEST_BODY / 2 + 1) // (workload.bytes_per_event + 1)), LARGEST_PACK)
    for events in (20, fit):
        if workload.events_per_request < events <= fit:
            yield f"pack {events:,} events into a request (/batch)", replace(workload, events_per_request=events)
    for seconds in (300, 900):
        if seconds > workload.buffering_interval:
            tried = replace(workload, buffering_interval=seconds)
            yield f"FirehoseBufferingInterval={seconds}: events are that much later in the table", tried
    other = "JSON" if workload.output_format == "PARQUET" else "PARQUET"
    yield f"OutputFormat={other}, in a new stack", replace(workload, output_format=other)
    for days in (30, 90):
        if days < workload.retention_in_days:
            yield f"EventsRetentionInDays={days}", replace(workload, retention_in_days=days)
    for days in (1, 7):
        if days < workload.days_per_query:
            yield f"queries that name {days} day{'s'[: days > 1]} of dt", replace(workload, days_per_query=days)
    if workload.tracing:
        yield "Tracing=DISABLED", replace(workload, tracing=False)
        yield "an X-Ray sampling rule that records 1 request in 1,000", replace(workload, traced_share=0.001)
    if workload.memory > 256:
        yield "LambdaMemorySize=256", replace(workload, memory=256)


# Other designs


DESIGNS: Final = (
    "Sluice: API Gateway, Firehose, transform",
    "A Lambda function for each request, then Firehose",
    "A Lambda function for each request, then S3",
    "Kinesis Data Streams before Firehose",
)

REQUEST_SECONDS: Final = 0.02
REQUEST_MEMORY: Final = 256
"""A function that handles one request and calls another service: seconds and MB, assumed, and few of either."""


def designs(workload: Workload) -> dict[str, dict[str, float]]:
    """What one million events use by design; only what grows with them.

    Left out, as it is the same in all designs or grows with time: objects that Firehose writes, storage, queries, logs,
    metrics, traces, and the 730 hours of a Kinesis stream. The function for each request does the transform's work at
    no further cost, and writes to Firehose or S3 all events of its request at once.
    """
    million = replace(workload, events_per_month=1e6)
    door = {"api-requests": million.requests, "data-out": million.requests * ANSWER_BYTES}
    function = {
        "lambda-requests": million.requests,
        "lambda-gb-seconds": million.requests * REQUEST_SECONDS * REQUEST_MEMORY / 1024,
    }
    transform = {"lambda-gb-seconds": gigabyte_seconds(million, 0)}
    stream = stream_quantities(million)
    sluice, function_firehose, function_s3, kinesis = DESIGNS
    return {
        sluice: {**door, **stream, **transform},
        function_firehose: {**door, **function, **stream},
        function_s3: {**door, **function, "s3-puts": million.requests},
        kinesis: {
            **door,
            "kinesis-writes": million.requests * steps(million.record_bytes, KINESIS_STEP),
            "kinesis-reads": million.requests * million.record_bytes,
            **stream,
            **transform,
        },
    }
