"""A bucket with one person's events among others in every zone, and scripts/erase.sh as a person types it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import pyarrow
import pyarrow.parquet
import pytest

from scripts.commands.common.console import guarded
from scripts.commands.erase import command as erase
from scripts.commands.erase.zones import Person
from scripts.commands.lake.objects import plain, values
from tests import factories
from tests.factories import RECEIVED_AT, stand_in
from tests.fake_cloudformation import FakeAws, FakeCloudFormation, Stack
from transform import rejects
from transform.events import Rejected, Settings, transform
from transform.records import read_record

ADA = "ada-7f3e"
PERSON = Person(ADA)
TODAY = Settings()
DAY = "dt=2026-11-20"
BUCKET = "the-data"
Json = dict[str, Any]


def event(user: Any, number: int = 0, **more: Any) -> Json:
    return {"event_id": f"e{number}", "name": "order", "user_id": user, **more}


def rows_of(*records: bytes) -> list[Json]:
    return [json.loads(row) for data in records for row in transform(data, RECEIVED_AT, TODAY) if type(row) is bytes]


def lines(*documents: Json) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def envelope(data: bytes, **more: Any) -> Json:
    return {"arrivalTimestamp": RECEIVED_AT, "errorCode": "x", "rawData": base64.b64encode(data).decode(), **more}


def rejected(data: bytes, *reasons: Rejected) -> bytes:
    return b"".join(rejects.make_rows(read_record(data, RECEIVED_AT), list(reasons), TODAY, RECEIVED_AT))


def raw_data(content: bytes) -> list[bytes]:
    return [base64.b64decode(json.loads(text)["rawData"]) for text in values(plain(content))]


def long_rejection(user: str) -> list[bytes]:
    """The rows of a rejected text of two parts; the first names the user."""
    data = factories.record(event(user, 3, long="x" * 700_000), extended_request_id=f"of-{len(user)}")
    return rejected(data, Rejected("too_long", "too long", 0)).splitlines(keepends=True)


def parquet(users: list[Any], *, codec: str = "GZIP", groups: int = 100, **options: Any) -> bytes:
    table = pyarrow.table(
        {
            "event_id": [f"e{number}" for number in range(len(users))],
            "value": [number / 3 if number % 3 else None for number in range(len(users))],
            "user_id": pyarrow.array(users),
            "occurred_at": pyarrow.array([datetime(2026, 11, 20, 1, 2, 3, 456_000)] * len(users), options.pop("time")),
            "clock_skew_ms": pyarrow.array(range(len(users)), pyarrow.int64()),
        }
    )
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression=codec, row_group_size=groups, store_schema=False, **options)
    return sink.getvalue()


def without_users() -> bytes:
    """An aggregate."""
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"events": [2]}), sink)
    return sink.getvalue()


MILLISECONDS = pyarrow.timestamp("ms")


class Bucket:
    """A stack with a versioned bucket, and scripts/erase.sh as a person types it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.capsys, self.receipt = capsys, folder / "receipt.json"
        self.slept: list[float] = []
        self.s3 = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
        parameters = {"FirehoseS3Prefix": "events/", "FirehoseBufferingInterval": "60", "LambdaTimeout": "60"}
        self.stack = Stack("sluice", outputs={"BucketName": BUCKET}, parameters=parameters)
        aws = FakeAws(cloudformation=FakeCloudFormation(self.stack), s3=self.s3)
        monkeypatch.setattr(erase, "session", lambda local: aws)
        monkeypatch.setattr(erase, "time", stand_in(time, sleep=self.slept.append))
        monkeypatch.setattr(erase.sys.stdin, "isatty", lambda: False, raising=False)
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})

    def put(self, key: str, content: bytes, **more: Any) -> str:
        return str(self.s3.put_object(Bucket=BUCKET, Key=key, Body=content, **more)["VersionId"])

    def get(self, key: str) -> bytes:
        content: bytes = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def versions(self) -> list[tuple[str, str]]:
        """The key and the id of every version and every delete marker."""
        page = self.s3.list_object_versions(Bucket=BUCKET)
        return [
            (item["Key"], item["VersionId"]) for kind in ("Versions", "DeleteMarkers") for item in page.get(kind, [])
        ]

    def everything(self) -> Iterator[tuple[str, bytes]]:
        for item in self.s3.list_object_versions(Bucket=BUCKET).get("Versions", []):
            answer = self.s3.get_object(Bucket=BUCKET, Key=item["Key"], VersionId=item["VersionId"])
            yield item["Key"], answer["Body"].read()

    def fill(self) -> None:
        """Every zone with events of the person and of others, and of others alone."""
        mine, other = event(ADA, 1), event("b", 2)
        record, others = factories.record([mine, other]), factories.record(other)
        for number, users in enumerate([["a", ADA, "b"], ["a", "b"], [ADA]]):
            self.put(f"events/{DAY}/{number}.parquet", parquet(users, time=MILLISECONDS))
        self.put(f"processed/processed_events/run=1/{DAY}/x", parquet(["a", ADA], codec="SNAPPY", time=MILLISECONDS))
        self.put(f"curated/daily_events/run=1/{DAY}/x", without_users())
        reasons = [Rejected("not_a_number", "no", 0), Rejected("not_a_number", "no", 1)]
        self.put(f"rejected/{DAY}/0.json.gz", gzip.compress(rejected(record, *reasons)))
        first, second = long_rejection(ADA)
        self.put(f"rejected/{DAY}/1.json.gz", gzip.compress(first))
        self.put(f"rejected/{DAY}/2.json.gz", gzip.compress(second + rejected(others, reasons[0])))
        self.put(f"errors/processing-failed/{DAY}/0", lines(envelope(record), envelope(others)))
        row = lines(*rows_of(record))
        self.put(f"errors/format-conversion-failed/{DAY}/0", gzip.compress(lines(envelope(row))))
        self.put(f"raw/{DAY}/0.gz", gzip.compress(record + others))
        self.put("replayed/rejected/run/000001", b"0" * 32 + b"\n")
        self.put("athena-results/q.csv", f'"user_id"\n"{ADA}"\n'.encode())

    def run(self, *arguments: str, user: str = ADA, by: str = "--user-id", code: int = 0) -> str:
        """Run the command; return the output of both streams."""
        receipt = [] if "--receipt" in arguments else ["--receipt", str(self.receipt)]
        assert guarded(erase.erase, [by, user, *receipt, *arguments]) == code
        out, err = self.capsys.readouterr()
        return out + err

    def objects(self) -> list[Json]:
        """Everything in the receipt, of all its runs."""
        return [item for run in json.loads(self.receipt.read_text())["runs"] for item in run["objects"]]


def is_clean(content: bytes) -> bool:
    """Whether the person is nowhere in an object, however it is packed."""
    if content[:4] == b"PAR1":
        table = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
        return ADA not in json.dumps(table, default=str)
    text = plain(content)
    inside = [json.loads(line) for line in text.splitlines() if line[:1] == b"{" and line[-1:] == b"}"]
    texts = [base64.b64decode(row.get("body") or row.get("rawData") or "") for row in inside]
    # The second part of a text does not name the person.
    return ADA.encode() not in b"".join([text, *texts]) and not any(len(one) > 90_000 for one in texts)
