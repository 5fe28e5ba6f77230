"""A month's use of each service, and the limit it meets first: all pure.

Each quantity has the key of its price (scripts/prices). Values without an AWS document are constants here, with their
reasons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from scripts.commands.cost.prices import Prices
from shared.athena import SMALLEST_CHARGE

HOURS_PER_MONTH: Final = 730
SECONDS_PER_MONTH: Final = HOURS_PER_MONTH * 3600
DAYS_PER_MONTH: Final = HOURS_PER_MONTH / 24

FIREHOSE_STEP: Final = 5 * 1024
"""Bytes: Firehose counts each record as a multiple of this."""

LINES_WITHOUT_AGENT: Final = len(
    "sluice/1 request_id=8a2b7c1e-5d3f-4e6a-9b0c-1d2e3f4a5b6c extended_request_id=JKJaXmPLvHcESHA= "
    "time=1795246526348 ip=203.0.113.247 user_agent=\n\nsluice/end extended_request_id=JKJaXmPLvHcESHA=\n"
)
LINES_PER_RECORD: Final = LINES_WITHOUT_AGENT + 148
"""Bytes of the context line and the end line of a request: without a user agent, and with a browser's of 110 characters
in base64."""

LARGEST_PACK: Final = 5_000
"""Most events in a request of scripts/track.sh: half of the 10,000 allowed."""

LARGEST_BODY: Final = 1_000_000
"""A body of so many bytes always fits one request."""

ANSWER_BYTES: Final = 800
"""Bytes of an answer of the API with its headers: assumed."""

TRANSFORM_BUFFER_SECONDS: Final = 5
TRANSFORM_BUFFER_BYTES: Final = 1024 * 1024
"""Firehose invokes the transform when either is reached (BufferIntervalInSeconds and BufferSizeInMBs)."""

OBJECT_BYTES: Final = 64 * 1024 * 1024
"""Firehose writes an object no later than this (FirehoseBufferingSize)."""

MULTIPART_SECONDS: Final = 60
MULTIPART_REQUESTS: Final = 3
"""With a buffering interval below so many seconds Firehose uploads each object in parts: at least one part, between the
beginning and the end of the upload."""

MICROSECONDS_PER_RECORD: Final = 6.4
MICROSECONDS_PER_EVENT: Final = 9.3
MEASURED_BYTES: Final = 576
"""The transform's time on one processor for events of so many bytes: docs/performance.md. Longer ones take longer."""

INVOCATION_SECONDS: Final = 0.005
"""Time of an invocation apart from its events: assumed."""

MEGABYTES: Final = 512
"""LambdaMemorySize."""

MEGABYTES_PER_PROCESSOR: Final = 1769
"""Memory at which a function has one whole processor; with less memory it has that share of one:
https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html"""

LOG_BYTES_PER_INVOCATION: Final = 610
"""The transform's one line of metrics, and CloudWatch's own 26 bytes for each line."""

METRICS_OF_THE_TRANSFORM: Final = 6
METRICS_OF_A_METHOD: Final = 5
"""Count, 4XXError, 5XXError, Latency, IntegrationLatency: the stage publishes them for each method called."""

GETS_PER_OBJECT: Final = {"PARQUET": 2, "JSON": 1}
"""Reads of an object by a query: the footer and the columns of Parquet, the whole of JSON: assumed."""

OBJECTS_PER_LIST: Final = 1000

DAYS_STORED: Final = 365
DAYS_PER_QUERY: Final = 30
"""Days for which events have come in and are kept, and days of dt read by a query."""

LARGE_REGIONS: Final = {"us-east-1", "us-west-2", "eu-west-1"}
STREAM_QUOTAS: Final = {True: (2_000, 5), False: (1_000, 1)}
"""Requests and MiB a second into one stream by Direct PUT, in the large regions and in others. A load meets them
before the stream's quota of records and before the 10,000 requests a second of all APIs of a region."""


@dataclass(frozen=True)
class Stored:
    """Bytes in S3 of events of 575 bytes, as tests/benchmarks/scan.py measured them: for each event and each object.

    `read_*` are those of them read by the saved query totals-by-name-and-action.
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


@dataclass(frozen=True)
class Workload:
    """A month's events, and the stack parameters that change the bill.

    Events and requests may be fractions, as averages are. The defaults are those of the template.
    """

    events_per_month: float
    bytes_per_event: float
    events_per_request: float
    output_format: str = "PARQUET"
    buffering_interval: int = 60
    requests_per_second: float = 100
    queries_per_month: float = 100
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
        """Of the transform: by time, unless the buffer is full earlier, and at most one per record."""
        by_time = min(self.requests, SECONDS_PER_MONTH / TRANSFORM_BUFFER_SECONDS)
        return max(by_time, self.requests * self.record_bytes / TRANSFORM_BUFFER_BYTES)

    @property
    def objects(self) -> float:
        """Written by Firehose: by time, unless the buffer is full earlier."""
        interval = max(self.buffering_interval, TRANSFORM_BUFFER_SECONDS)
        by_time = min(self.requests, SECONDS_PER_MONTH / interval)
        return max(by_time, self.events_per_month * self.bytes_per_event / OBJECT_BYTES)

    @property
    def largest_pack(self) -> int:
        """The most events of this size in one request."""
        return min(int((LARGEST_BODY + 1) // (self.bytes_per_event + 1)), 2 * LARGEST_PACK)


def quantities(workload: Workload) -> dict[str, float]:
    """The quantities used in a month, by the key of the price."""
    found = {
        "api-requests": workload.requests,
        "data-out": workload.requests * ANSWER_BYTES,
        **stream_quantities(workload),
        "lambda-requests": workload.invocations,
        "lambda-gb-seconds": gigabyte_seconds(workload),
        **stored_quantities(workload),
        "cloudwatch-metrics": METRICS_OF_THE_TRANSFORM + METRICS_OF_A_METHOD,
        "cloudwatch-logs": workload.invocations * LOG_BYTES_PER_INVOCATION,
        "cloudwatch-log-storage": workload.invocations * LOG_BYTES_PER_INVOCATION,
    }
    return {key: quantity for key, quantity in found.items() if quantity}


def stream_quantities(workload: Workload) -> dict[str, float]:
    """Firehose: each record counts as a multiple of 5 KB, for ingest and again for the conversion."""
    ingested = workload.requests * counted(workload.record_bytes)
    return {
        "firehose-ingest": ingested,
        **({"firehose-conversion": ingested} if workload.output_format == "PARQUET" else {}),
    }


def stored_quantities(workload: Workload) -> dict[str, float]:
    """S3 and Athena: objects written, events stored, and bytes read by the queries."""
    stored = STORED[workload.output_format]
    scale = workload.bytes_per_event / STORED_BYTES
    objects_a_day, events_a_day = (value / DAYS_PER_MONTH for value in (workload.objects, workload.events_per_month))
    kept = scale * stored.per_event * workload.events_per_month + stored.per_object * workload.objects
    read = DAYS_PER_QUERY * (scale * stored.read_per_event * events_a_day + stored.read_per_object * objects_a_day)
    requests = MULTIPART_REQUESTS if workload.buffering_interval < MULTIPART_SECONDS else 1
    days = workload.queries_per_month * DAYS_PER_QUERY
    return {
        "s3-puts": workload.objects * requests + days * max(1, math.ceil(objects_a_day / OBJECTS_PER_LIST)),
        "s3-gets": days * objects_a_day * GETS_PER_OBJECT[workload.output_format],
        "s3-storage": kept * DAYS_STORED / DAYS_PER_MONTH,
        "athena-scans": workload.queries_per_month * max(read, SMALLEST_CHARGE),
    }


def gigabyte_seconds(workload: Workload) -> float:
    """The transform's GB-seconds."""
    longer = workload.bytes_per_event / MEASURED_BYTES
    microseconds = (
        workload.requests * MICROSECONDS_PER_RECORD + workload.events_per_month * MICROSECONDS_PER_EVENT * longer
    )
    seconds = microseconds / 1e6 * MEGABYTES_PER_PROCESSOR / MEGABYTES + workload.invocations * INVOCATION_SECONDS
    return seconds * MEGABYTES / 1024


def counted(size: float) -> int:
    """A record's bytes as Firehose counts them: the next multiple of its step."""
    return math.ceil(size / FIREHOSE_STEP) * FIREHOSE_STEP


@dataclass(frozen=True)
class Line:
    """One line of a bill."""

    key: str
    quantity: float
    dollars: float


def bill(found: dict[str, float], prices: Prices) -> list[Line]:
    """Each quantity at its price, in the order of the price file."""
    return [Line(key, found[key], price.cost(found[key])) for key, price in prices.by_key.items() if key in found]


def total(lines: list[Line]) -> float:
    """US dollars of all lines."""
    return sum(line.dollars for line in lines)


# Limits


@dataclass(frozen=True)
class Limit:
    """A limit, and the share of it taken by a load if it comes evenly."""

    what: str
    share: float


def limits(workload: Workload, region: str) -> list[Limit]:
    """The limits of a stack in this region, in the order in which the load meets them."""
    requests = workload.requests / SECONDS_PER_MONTH
    most_requests, most_mebibytes = STREAM_QUOTAS[region in LARGE_REGIONS]
    found = [
        Limit(
            f"ThrottleRateLimit of {workload.requests_per_second:,.0f} requests a second, a parameter of the stack",
            requests / workload.requests_per_second,
        ),
        Limit(f"Firehose's {most_requests:,} requests a second into a stream", requests / most_requests),
        Limit(
            f"Firehose's {most_mebibytes} MiB a second into a stream",
            requests * workload.record_bytes / (most_mebibytes * 2**20),
        ),
    ]
    return sorted(found, key=lambda limit: -limit.share)
