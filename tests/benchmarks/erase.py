"""Measures the erasure of one user: the touched objects, the time, and the bytes read.

    python -m tests.benchmarks.erase [--events N] [--users N] [--objects N]

One stack on a local AWS of its own. The events of tests.benchmarks.scan become rows by the transform itself, and the
local Firehose's own functions write them as one Parquet object for each delivery, under the dt= prefix of its day. A
user comes by three times, and so is in three objects at most.

There is no wait for events on their way, because there are none. The proof is checked from outside as well: Athena
counts the rows before and after, and all other objects keep their versions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from local.firehose import objects
from scripts.commands.common import athena as athena_queries
from scripts.commands.common.stack import Aws
from scripts.commands.erase import command as erase
from scripts.commands.erase import store as erase_store
from scripts.commands.erase.receipt import Receipt
from scripts.commands.erase.zones import Person
from tests.benchmarks import scan
from tests.factories import session_in
from tests.local_process import LocalProcess
from transform.events import Settings, transform

DAYS = 7
VISITS = 3


@dataclass
class Result:
    """Figures of one run; sizes in bytes."""

    events: int
    users: int
    objects: int
    stored_bytes: int
    rows_of_the_user: int
    objects_that_hold_the_user: int
    objects_touched: int
    look_seconds: float
    look_bytes: int
    remove_seconds: float
    remove_bytes: int
    proof_seconds: float
    events_after: int
    untouched_objects_unchanged: bool


class Lake:
    """A stack with a bucket full of objects."""

    def __init__(self, local: LocalProcess, folder: Path) -> None:
        self.local, self.folder = local, folder
        self.outputs = local.deploy()
        self.table = local.client("glue").get_table(
            DatabaseName=self.outputs["DatabaseName"], Name=self.outputs["TableName"]
        )["Table"]
        self.s3, self.stored = local.client("s3"), 0

    def fill(self, events: int, users: int, count: int, user: str) -> tuple[int, int]:
        """Put the objects; returns how many rows are the user's, and how many objects hold them."""
        chance = random.Random(2026)
        visitors: list[list[int]] = [[] for _ in range(count)]
        for number in range(users):
            for visit in chance.sample(range(count), min(VISITS, count)):
                visitors[visit].append(number)
        first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
        rows_of_user = holding = 0
        for number in range(count):
            begin, end = number * events // count, (number + 1) * events // count
            at = first + timedelta(days=DAYS * number / count)
            rows = []
            for _ in range(begin, end):
                body = json.loads(scan.event(chance, at)) | {"user_id": f"user-{chance.choice(visitors[number])}"}
                record = scan.record(chance, at, json.dumps(body).encode())
                rows += [row for row in transform(record, 0, Settings()) if isinstance(row, bytes)]
            own = sum(f'"user_id":"{user}"'.encode() in row for row in rows)
            rows_of_user, holding = rows_of_user + own, holding + bool(own)
            converted = objects.convert([objects.Record(0, 0, b"".join(rows))], self.table, "GZIP", self.folder)
            assert not converted.failed, converted.failed[:1]
            self.stored += len(converted.body)
            key = f"events/dt={at:%Y-%m-%d}/{number:06d}.parquet"
            self.s3.put_object(Bucket=self.outputs["BucketName"], Key=key, Body=converted.body)
        return rows_of_user, holding

    def versions(self) -> dict[str, str]:
        """The only version of each object."""
        pages = self.s3.get_paginator("list_object_versions").paginate(Bucket=self.outputs["BucketName"])
        listed = [item for page in pages for item in page["Versions"] if item["Key"].startswith("events/")]
        assert all(item["IsLatest"] for item in listed)
        return {item["Key"]: item["VersionId"] for item in listed}

    def count(self) -> int:
        """The number of rows according to Athena."""
        athena = self.local.client("athena")
        execution = athena_queries.run(
            athena,
            {"WorkGroup": self.outputs["WorkGroupName"]},
            self.outputs["DatabaseName"],
            f"SELECT count(*) FROM {self.outputs['TableName']}",
            [],
        )
        _, rows = athena_queries.results(athena, execution["QueryExecutionId"])
        return int(next(iter(rows))[0] or 0)


class Store(erase_store.Store):
    """Reads ranges of the latest version, here the only one: the local AWS ignores a range of a given version."""

    def get(self, version: erase_store.Version, byte_range: str = "") -> tuple[bytes, dict[str, Any]]:
        if not byte_range:
            return super().get(version)
        answer = self.s3.get_object(Bucket=self.bucket, Key=version.key, Range=byte_range)
        content: bytes = answer["Body"].read()
        with self._lock:
            self.bytes_read += len(content)
        return content, answer


def run(directory: Path, events: int, users: int, count: int) -> Result:
    """Build a lake, erase one of its users, and check it from outside."""
    with LocalProcess(directory / "aws") as local:
        scan.say(f"writing {events:,} events of {users:,} users as {count:,} objects")
        lake, user = Lake(local, directory), f"user-{users // 2}"
        rows_of_user, holding = lake.fill(events, users, count, user)
        assert lake.count() == events
        before, person = lake.versions(), Person(user)
        keys = session_in("us-east-1", "test", "test")
        store = Store(Aws(keys, "us-east-1", local.endpoint), lake.outputs["BucketName"], "events/")
        receipt = Receipt(directory / "receipt.json", user, "sluice", "here", store.bucket)
        receipt.begin(0)
        moments = [time.monotonic()]
        found = erase.look(store, person)
        moments.append(time.monotonic())
        read = store.bytes_read
        erase.remove(store, person, found, receipt)
        moments.append(time.monotonic())
        read_to_remove = store.bytes_read - read
        proof = erase.look(store, person)
        moments.append(time.monotonic())
        receipt.end(found, proof)
        assert not (proof.findings or proof.set_aside), proof.set_aside
        after = lake.versions()
        touched = {item["key"] for item in receipt.objects}
        seconds = [round(end - begin, 2) for begin, end in itertools.pairwise(moments)]
        return Result(
            events=events,
            users=users,
            objects=len(before),
            stored_bytes=lake.stored,
            rows_of_the_user=rows_of_user,
            objects_that_hold_the_user=holding,
            objects_touched=len(touched),
            look_seconds=seconds[0],
            look_bytes=found.bytes_read,
            remove_seconds=seconds[1],
            remove_bytes=read_to_remove,
            proof_seconds=seconds[2],
            events_after=lake.count(),
            untouched_objects_unchanged=all(after[key] == before[key] for key in before.keys() - touched),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the erasure of one user.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--objects", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-erase-") as directory:
        result = run(Path(directory), arguments.events, arguments.users, arguments.objects)
    machine = {"processors": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    json.dump({"date": time.strftime("%Y-%m-%d"), **machine, **asdict(result)}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
