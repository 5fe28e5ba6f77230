"""Measures the bytes and the price of one question over a million events: gzip JSON and Parquet, one day and all.

    python -m tests.benchmarks.scan [--events N] [--interval SECONDS ...]

Two stacks on a local AWS of its own, OutputFormat PARQUET and JSON. Events of about 600 bytes, spread evenly over seven
days and different from each other as real ones are, become rows by the transform itself. The local Firehose's own
functions write the rows of each FirehoseBufferingInterval as one object of either format, under the dt= prefix of its
day. (A delivery dates objects by the present, so one run of it cannot fill several days.)

The question is the saved query totals-by-name-and-action, over all seven days and over one. The local Athena counts
whole objects. Athena on AWS reads only the footer of a Parquet object and the columns in a query, so these are added
up out of the footers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import re
import sys
import tempfile
import time
import uuid
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet

from local.firehose import objects
from scripts.commands.common import athena as athena_queries
from scripts.commands.cost import prices as cost_prices
from scripts.commands.cost.model import GETS_PER_OBJECT, OBJECTS_PER_LIST
from shared.athena import SMALLEST_CHARGE
from tests.local_process import LocalProcess
from transform.events import Settings, transform

DAYS = 7
SECONDS_A_DAY = 86_400
QUESTION = "totals-by-name-and-action"
COLUMNS = ("event_id", "name", "action", "value", "received_at", "request_id")  # of the question
DAY_FILTER = re.compile(r"WHERE dt >= [^\n]+")
FIRST_DAY = date(2025, 1, 1)  # of the table's projection: without a filter Athena looks for objects of each day since
FORMATS = ("PARQUET", "JSON")
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0",
    "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
)
COLOURS = ("red", "blue", "green", "black")
KINDS = (
    ("page", "view"),
    ("page", "scroll"),
    ("product", "view"),
    ("search", "submit"),
    ("cart", "add"),
    ("order", "placed"),
)


def event(chance: random.Random, at: datetime) -> bytes:
    """One event of about 600 bytes from a shop: distinct ids, similar words."""
    name, action = chance.choices(KINDS, weights=[50, 20, 15, 8, 5, 2])[0]
    product = chance.randrange(20_000)
    return orjson.dumps(
        {
            "event_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "name": name,
            "action": action,
            "value": chance.randrange(100, 50_000) / 100,
            "source": chance.choice(["shop.example.com", "app-ios", "app-android"]),
            "user_id": f"user-{chance.randrange(50_000)}",
            "timestamp": at.isoformat(timespec="milliseconds"),
            "session": f"{chance.getrandbits(64):016x}",
            "page": {
                "url": f"https://shop.example.com/catalogue/{product % 97}/{product}?colour={chance.choice(COLOURS)}",
                "referrer": chance.choice(["https://search.example.org/", "https://news.example.net/", ""]),
                "title": f"Product {product}, free delivery, thirty days to send it back",
            },
            "items": [
                {"sku": f"SKU-{chance.randrange(100_000):06d}", "quantity": 1, "price": chance.randrange(9_999) / 100}
                for _ in range(2)
            ],
            "screen": {
                "width": chance.choice([390, 1440, 1920, 2560]),
                "height": chance.choice([844, 900, 1080, 1440]),
            },
            "language": chance.choice(["en-GB", "de-DE", "fr-FR", "es-ES"]),
            "experiment": f"checkout-{chance.randrange(8)}",
        }
    )


def record(chance: random.Random, at: datetime, body: bytes) -> bytes:
    """The API's record of one event."""
    request_id = uuid.UUID(int=chance.getrandbits(128), version=4)
    extended = b64encode(chance.randbytes(11)).decode()
    agent = b64encode(chance.choice(AGENTS).encode()).decode()
    context = (
        f"sluice/1 request_id={request_id} extended_request_id={extended} time={int(at.timestamp() * 1000)} "
        f"ip=203.0.{chance.randrange(256)}.{chance.randrange(256)} user_agent={agent}\n"
    )
    return context.encode() + body + f"\nsluice/end extended_request_id={extended}\n".encode()


def deliveries(events: int, interval: int) -> Iterator[tuple[str, int, bytes, int]]:
    """For each object: its day, its number, its rows, and the bytes of its events as sent."""
    chance = random.Random(2026)
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    count = DAYS * SECONDS_A_DAY // interval
    for number in range(count):
        begin, end = number * events // count, (number + 1) * events // count
        rows: list[bytes] = []
        sent = 0
        for index in range(begin, end):
            at = first + timedelta(seconds=interval * (number + (index - begin) / (end - begin)))
            body = event(chance, at)
            sent += len(body)
            outcomes = transform(record(chance, at, body), int(at.timestamp() * 1000), Settings())
            rows += [outcome for outcome in outcomes if isinstance(outcome, bytes)]
        assert len(rows) == end - begin, "the transform takes every event of this benchmark"
        yield f"{first + timedelta(seconds=interval * number):%Y-%m-%d}", number, b"".join(rows), sent


class Lake:
    """Two stacks, and the contents of each by day: objects, their bytes, and the bytes of Parquet read by Athena."""

    def __init__(self, local: LocalProcess, folder: Path, interval: int) -> None:
        self.local, self.folder, self.interval = local, folder, interval
        self.outputs = {
            form: local.deploy(
                f"OutputFormat={form}",
                f"AthenaDatabaseName=scan_{form.lower()}_{interval}",
                name=f"scan-{form.lower()}-{interval}",
            )
            for form in FORMATS
        }
        parquet = self.outputs["PARQUET"]
        self.table = local.client("glue").get_table(DatabaseName=parquet["DatabaseName"], Name=parquet["TableName"])
        self.bytes: dict[str, Counter[str]] = {form: Counter() for form in FORMATS}
        self.read: Counter[str] = Counter()
        self.objects: Counter[str] = Counter()
        self.sent = 0

    def fill(self, events: int) -> None:
        """Put every object of the week."""
        s3 = self.local.client("s3")
        for day, number, rows, sent in deliveries(events, self.interval):
            self.sent += sent
            self.objects[day] += 1
            converted = objects.convert([objects.Record(0, 0, rows)], self.table["Table"], "GZIP", self.folder)
            assert not converted.failed, converted.failed[:1]
            self.read[day] += bytes_to_read(converted.body)
            for form, body, extension in (
                ("PARQUET", converted.body, "parquet"),
                ("JSON", objects.compress(rows, "GZIP"), "json.gz"),
            ):
                self.bytes[form][day] += len(body)
                key = f"events/dt={day}/{number:06d}.{extension}"
                s3.put_object(Bucket=self.outputs[form]["BucketName"], Key=key, Body=body)

    def ask(self, form: str, day: str | None) -> tuple[int, int]:
        """The number of events in the answer, and the bytes scanned according to the local Athena."""
        athena, outputs = self.local.client("athena"), self.outputs[form]
        saved = athena_queries.choose(athena_queries.saved_queries(athena, outputs["WorkGroupName"]), QUESTION)
        sql, count = DAY_FILTER.subn("" if day is None else f"WHERE dt = '{day}'", saved.sql)
        assert count == 1, saved.sql
        execution = athena_queries.run(athena, {"WorkGroup": outputs["WorkGroupName"]}, saved.database, sql, [])
        _, rows = athena_queries.results(athena, execution["QueryExecutionId"])
        return sum(int(row[2] or 0) for row in rows), execution["Statistics"]["DataScannedInBytes"]


def bytes_to_read(parquet: bytes) -> int:
    """The bytes of a Parquet object needed for the question: its columns, and everything but columns (the footer)."""
    metadata = pyarrow.parquet.read_metadata(io.BytesIO(parquet))
    wanted = every = 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            every += column.total_compressed_size
            wanted += column.total_compressed_size if column.path_in_schema in COLUMNS else 0
    return len(parquet) - every + wanted


def measure(directory: Path, events: int, intervals: list[int]) -> list[dict[str, Any]]:
    """A row for each interval, format and filter."""
    found: list[dict[str, Any]] = []
    with LocalProcess(directory) as local:
        for interval in intervals:
            say(f"writing {events:,} events, an object each {interval} seconds")
            lake = Lake(local, directory, interval)
            lake.fill(events)
            for form in FORMATS:
                for day in (None, sorted(lake.objects)[DAYS // 2]):
                    found.append({"interval_seconds": interval, "sent_bytes": lake.sent, **scan(lake, form, day)})
                    say(json.dumps(found[-1]))
    return found


def scan(lake: Lake, form: str, day: str | None) -> dict[str, Any]:
    """The question's reads over one day, or over all, and their price."""
    prices, days = cost_prices.read(), sorted(lake.objects) if day is None else [day]
    counted, whole = lake.ask(form, day)
    stored, count = (sum(part[name] for name in days) for part in (lake.bytes[form], lake.objects))
    assert whole == stored, f"the local Athena scanned {whole:,} bytes, of {stored:,} that were put"
    scanned = sum(lake.read[name] for name in days) if form == "PARQUET" else stored
    gets, lists = count * GETS_PER_OBJECT[form], sum(-(-lake.objects[name] // OBJECTS_PER_LIST) for name in days)
    if day is None:
        lists += (datetime.now(UTC).date() - FIRST_DAY).days + 2 - len(days)  # up to tomorrow
    return {
        "format": form,
        "filter": "none" if day is None else "one day",
        "events_counted": counted,
        "objects": count,
        "stored_bytes": stored,
        "scanned_bytes": scanned,
        "athena_usd": prices["athena-scans"].cost(max(scanned, SMALLEST_CHARGE)),
        "get_requests": gets,
        "list_requests": lists,
        "s3_usd": prices["s3-gets"].cost(gets) + prices["s3-puts"].cost(lists),
    }


def say(text: str) -> None:
    """Talk on standard error; the figures alone go to standard output."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what one question scans.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--interval", type=int, action="append", help="seconds of events in an object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-scan-") as directory:
        figures = measure(Path(directory), arguments.events, arguments.interval or [60, 900, 86_400])
    machine = {"processors": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    print(json.dumps({"date": time.strftime("%Y-%m-%d"), **machine, "events": arguments.events, "scans": figures}))


if __name__ == "__main__":
    main()
