"""Measures the local pipeline, from a request to rows on disk, in one run with a local AWS of its own.

    python -m tests.benchmarks.pipeline [--records N] [--seconds S]

The client, the server and the transform share this machine's processors. Every request is durable: its record is on
disk, with fsync, before the answer. Events have about 600 bytes.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.benchmarks import load
from tests.local_process import Bucket, LocalProcess

BATCH_BYTES = 500_000
RECORDS_PER_CALL = 500
PATIENCE_SECONDS = 60.0
# The stage must not throttle the benchmark, and the wait for a full buffer is not work.
PARAMETERS = ("FirehoseBufferingInterval=1", "ThrottleRateLimit=10000", "ThrottleBurstLimit=5000")


def event(number: int) -> bytes:
    """One event of about 600 bytes, as a page or a shop would send it."""
    return orjson.dumps(
        {
            "event_id": f"{number:032x}",
            "name": "order",
            "action": "placed",
            "value": number % 10_000 / 100,
            "source": "web",
            "user_id": f"user-{number % 5_000}",
            "timestamp": "2026-11-21T12:34:56.789+01:00",
            "page": {"url": f"https://shop.example.com/checkout/{number % 97}?campaign=autumn", "referrer": "search"},
            "items": [{"sku": f"SKU-{number % 1_000:06d}", "quantity": 2, "price": 19.99}] * 3,
            "note": "Leave it with the neighbours, please; the bell is broken and the dog is louder than it.",
            "experiment": "checkout-button-colour",
        }
    )


def track_requests(url: str, first: int) -> load.Requests:
    """One event a request, without end."""
    for number in itertools.count(first):
        yield url, event(number), {"Content-Type": "application/json"}


def batches(first: int, events: int) -> Iterator[bytes]:
    """NDJSON of at most BATCH_BYTES each."""
    lines: list[bytes] = []
    size = 0
    for number in range(first, first + events):
        line = event(number) + b"\n"
        if size + len(line) > BATCH_BYTES:
            yield b"".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    yield b"".join(lines)


def batch_requests(url: str, first: int, events: int) -> load.Requests:
    """Many events a request, packed."""
    for body in batches(first, events):
        yield url, body, {"Content-Type": "application/x-ndjson"}


def put_requests(endpoint: str, stream: str, first: int, records: int) -> load.Requests:
    """Signed calls of PutRecordBatch, each with RECORDS_PER_CALL bare events."""
    signer = SigV4Auth(Credentials("test", "test"), "firehose", "us-east-1")
    for start in range(first, first + records, RECORDS_PER_CALL):
        numbers = range(start, min(start + RECORDS_PER_CALL, first + records))
        entries = [{"Data": base64.b64encode(event(number)).decode()} for number in numbers]
        body = orjson.dumps({"DeliveryStreamName": stream, "Records": entries})
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "Firehose_20150804.PutRecordBatch",
        }
        request = AWSRequest("POST", f"{endpoint}/", headers, body)
        signer.add_auth(request)
        yield endpoint, body, dict(request.headers.items())


class Memory:
    """Samples the resident memory of a process, in MB, while it is entered."""

    def __init__(self, pid: int) -> None:
        self.pid, self.stopped = pid, threading.Event()
        self.samples: list[float] = []
        self.thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self.stopped.wait(0.2):
            status = Path(f"/proc/{self.pid}/status").read_text()
            self.samples.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)

    def __enter__(self) -> Memory:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()

    def tenths(self) -> list[int]:
        """The most in each tenth of the time: level figures mean no pile-up."""
        step = max(len(self.samples) / 10, 1)
        parts = (self.samples[int(step * index) : max(int(step * (index + 1)), 1)] for index in range(10))
        return [round(max(part)) for part in parts if part]


def rows_appear(bucket: Bucket, wanted: int, patience: float = PATIENCE_SECONDS) -> None:
    """Wait until the bucket holds so many rows; RuntimeError when none has come for `patience` seconds."""
    counted: dict[Path, int] = {}
    changed = time.monotonic()
    while (found := sum(counted.values())) < wanted:
        for path in bucket.files("events/"):
            if path not in counted:
                counted[path] = pyarrow.parquet.read_metadata(path).num_rows
                changed = time.monotonic()
        if time.monotonic() - changed > patience:
            raise RuntimeError(
                f"no row has come for {patience:g} s, and {wanted - found:,} of {wanted:,} are missing: the bucket's "
                "rejected/ and errors/ and the server's log have what became of them"
            )
        time.sleep(0.1)


def measure(directory: Path, records: int, seconds: float) -> dict[str, Any]:
    """All figures of one run."""
    local = LocalProcess(directory)
    figures: dict[str, Any] = {"start_seconds": round(local.start(), 2)}
    try:
        outputs = local.deploy(*PARAMETERS)
        bucket, total = local.bucket(outputs["BucketName"]), 0
        for connections in (1, 8, 32):
            result = load.run(track_requests, outputs["TrackURL"], total, connections=connections, seconds=seconds)
            assert set(result.statuses) == {202}, result.statuses
            total += result.statuses[202]
            say(f"/track, {connections} connections: {result.rate:,.0f} requests/s")
            figures[f"track_{connections}"] = {
                "requests_per_second": round(result.rate),
                "p50_ms": round(result.percentile(0.5), 1),
                "p99_ms": round(result.percentile(0.99), 1),
            }
        rows_appear(bucket, total)
        if "BatchURL" in outputs:
            events = max(records // 5, 1_000)
            began = time.perf_counter()
            result = load.run(batch_requests, outputs["BatchURL"], total, events, connections=4)
            accepted = time.perf_counter() - began
            total += events
            rows_appear(bucket, total)
            delivered = time.perf_counter() - began
            say(f"/batch: {events / accepted:,.0f} events/s taken, {events / delivered:,.0f} events/s delivered")
            figures["batch"] = {
                "events": events,
                "answers": {str(status): count for status, count in result.statuses.items()},
                "events_per_second_taken": round(events / accepted),
                "events_per_second_delivered": round(events / delivered),
            }
        began = time.perf_counter()
        with Memory(local.pid) as memory:
            result = load.run(put_requests, local.endpoint, outputs["StreamName"], total, records, connections=4)
            accepted = time.perf_counter() - began
            assert result.taken == records, (result.taken, result.statuses)
            total += records
            rows_appear(bucket, total)
        delivered = time.perf_counter() - began
        say(f"PutRecordBatch: {records / accepted:,.0f} records/s taken, {records / delivered:,.0f} delivered")
        say(f"memory of the server by tenths of that, MB: {memory.tenths()}")
        figures["put_record_batch"] = {
            "records": records,
            "answers": {str(status): count for status, count in result.statuses.items()},
            "records_refused": result.refused,
            "records_per_second_taken": round(records / accepted),
            "records_per_second_delivered": round(records / delivered),
            "memory_mb_by_tenths": memory.tenths(),
            "memory_mb_peak": round(max(memory.samples)),
        }
        rows = sum(bucket.event_ids().values())
        figures["rows"] = {"sent": total, "found": rows}
    finally:
        local.stop()
    return figures


def say(text: str) -> None:
    """Talk on standard error; the figures alone go to standard output."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the local pipeline.")
    parser.add_argument("--records", type=int, default=1_000_000, help="records through PutRecordBatch")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of each load on /track")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-benchmark-") as directory:
        figures = measure(Path(directory), arguments.records, arguments.seconds)
    machine = {"processors": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    print(json.dumps({"date": time.strftime("%Y-%m-%d"), **machine, **figures}, indent=2))


if __name__ == "__main__":
    main()
