"""scripts/erase.sh: one person goes from every zone, format and version, everybody else stays, and it is proven."""

from __future__ import annotations

import base64
import functools
import gzip
import io
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import scrypt, sha256
from pathlib import Path
from typing import Any

import boto3
import pyarrow
import pyarrow.parquet
import pytest
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from local.firehose.objects import compress
from scripts.commands.common.console import guarded, nobody_to_ask
from scripts.commands.erase import command as erase
from scripts.commands.erase import parquet as erase_parquet
from scripts.commands.erase import zones as erase_zones
from scripts.commands.erase.store import Store
from scripts.commands.erase.zones import Person, Pool, Remains
from scripts.commands.lake.objects import Corrupt, plain, values
from stacks.refine.function import lock
from tests import factories
from tests.factories import RECEIVED_AT, stand_in
from transform import rejects
from transform.events import Rejected, Settings, transform
from transform.records import read_record, split_texts

ADA = "ada-7f3e"
PERSON = Person(ADA)
TODAY = Settings()
DAY = "dt=2026-11-20"
BUCKET = "the-data"
Json = dict[str, Any]


def event(user: Any, number: int = 0, **more: Any) -> Json:
    return {"event_id": f"e{number}", "name": "order", "user_id": user, **more}


def rows_of(*records: bytes) -> list[Json]:
    """The rows that records lead to."""
    return [json.loads(row) for data in records for row in transform(data, RECEIVED_AT, TODAY) if type(row) is bytes]


def lines(*documents: Json) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def envelope(data: bytes, **more: Any) -> Json:
    return {"arrivalTimestamp": RECEIVED_AT, "errorCode": "x", "rawData": base64.b64encode(data).decode(), **more}


def rejected(data: bytes, *reasons: Rejected) -> bytes:
    return b"".join(rejects.make_rows(read_record(data, RECEIVED_AT), list(reasons), TODAY, RECEIVED_AT))


def raw_data(content: bytes) -> list[bytes]:
    return [base64.b64decode(json.loads(text)["rawData"]) for text in values(plain(content))]


# Whose an event is


WHOSE: list[tuple[str, str, bytes, bool]] = [
    ("text", "u1", b'{"user_id": "u1"}', True),
    ("text with white space around it", "u1", b'{"user_id": " u1\\t"}', True),
    ("text in escapes", "zo\u00eb", b'{"user_id": "zo\\u00eb"}', True),
    ("after a byte order mark", "u1", b'\xef\xbb\xbf{"user_id": "u1"}', True),
    ("a number", "42", b'{"user_id": 42}', True),
    ("a number that a double loses", "123456789012345678901234", b'{"user_id": 123456789012345678901234}', True),
    ("another such number", "123456789012345678901235", b'{"user_id": 123456789012345678901234}', False),
    ("a longer id", "u1", b'{"user_id": "u12"}', False),
    ("another case", "u1", b'{"user_id": "U1"}', False),
    ("an id that is nested too deeply", "u1", b'{"user_id": %b}' % (b"[" * 300 + b"]" * 300), False),
    ("nobody", "u1", b'{"name": "u1"}', False),
    ("a debug event, which a rule drops", "u1", b'{"user_id": "u1", "debug": true}', True),
    ("cut off", "u1", b'{"name": "x", "user_id": "u1", "na', True),
    ("cut off within the id of another", "u1", b'{"user_id": "u12', False),
    ("an array in an array", "u1", b'[{"user_id":"u1"}]', True),
    ("JSON inside JSON", "u1", b'"{\\"user_id\\": \\"u1\\"}"', True),
    ("Python", "u1", b"{'user_id': 'u1'}", True),
    ("a form", "a b", b"name=x&user_id=a+b&y=1", True),
    ("a name that ends alike", "u1", b'{"other_user_id": "u1"', False),
]


@pytest.mark.parametrize(("user", "text", "is_owned"), [case[1:] for case in WHOSE], ids=[case[0] for case in WHOSE])
def test_an_event_is_the_persons_however_its_id_is_written(user: str, text: bytes, is_owned: bool) -> None:
    assert Person(user).owns_text(text) is is_owned


def test_an_event_is_the_persons_if_a_rule_gives_it_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase_zones, "RULES", {"uid": lambda event, context: event.update(user_id=event.pop("uid"))})
    assert PERSON.owns_text(json.dumps({"uid": ADA}).encode())
    assert not PERSON.owns_text(b'{"uid": "other"}')


SIMILAR: list[tuple[str, str, bytes, str]] = [
    ("another case", "u1", b'{"user_id": " U1 "}', "U1"),
    ("wide characters", "ada1", '{"user_id": "\uff41\uff44\uff41\uff11"}'.encode(), "\uff41\uff44\uff41\uff11"),
    ("a sharp s", "strasse", '{"user_id": "Stra\u00dfe"}'.encode(), "Stra\u00dfe"),
    ("an accent of its own", "zo\u00eb", '{"user_id": "zoe\u0308"}'.encode(), "zoe\u0308"),
    ("a whole number with a .0", "12345", b'{"user_id": "12345.0"}', "12345.0"),
    ("a whole number without one", "12345.0", b'{"user_id": 12345}', "12345"),
    ("a text that is cut off", "u1", b'{"name": "x", "user_id": "U1", "na', "U1"),
    ("a form", "a b", b"name=x&user_id=A+B&y=1", "A B"),
]


@pytest.mark.parametrize(("user", "text", "similar"), [case[1:] for case in SIMILAR], ids=[case[0] for case in SIMILAR])
def test_an_id_that_is_the_persons_but_for_its_form_is_counted(user: str, text: bytes, similar: str) -> None:
    person = Person(user)
    assert not person.owns_text(text)
    assert person.similar == {similar: 1}


@pytest.mark.parametrize(("user", "text"), [case[1:3] for case in WHOSE], ids=[case[0] for case in WHOSE])
def test_no_other_id_is_counted(user: str, text: bytes) -> None:
    person = Person(user)
    person.owns_text(text)
    assert person.similar == ({"U1": 1} if b"U1" in text else {})


# Records: what stays leads to the rows that it led to


RECORDS: list[tuple[str, bytes]] = [
    ("an array", factories.record([{"user_id": "a", "n": n} if n != 1 else event(ADA) for n in range(4)])),
    ("lines", factories.record(b'{"user_id":"a"}\n\n' + json.dumps(event(ADA)).encode() + b'\n{"user_id":"b"}')),
    ("the last of lines", factories.record(b'{"user_id":"b"}\n' + json.dumps(event(ADA)).encode())),
    ("a record that was put back", factories.record(lines(event(ADA), {"user_id": "b"}), form="lines", position=7)),
    ("a bare array", json.dumps([{"user_id": "a"}, event(ADA), {"user_id": "b"}]).encode()),
    (
        "a batch of a library",
        factories.record(
            {"batch": [{"type": "page", "userId": user} for user in ("a", f" {ADA}", "b")]}, form="v1/batch"
        ),
    ),
]


@pytest.mark.parametrize("data", [case[1] for case in RECORDS], ids=[case[0] for case in RECORDS])
def test_a_failed_record_loses_the_persons_events_and_the_others_keep_their_rows_and_made_up_ids(data: bytes) -> None:
    remains = erase_zones.erase_errors(lines(envelope(data)), PERSON, "processing-failed")
    assert remains.found == remains.removed == 1
    left = rows_of(*raw_data(remains.content))
    assert left == [row for row in rows_of(data) if row["user_id"] != ADA]
    assert len(left) == remains.after


USERS = st.sampled_from([ADA, f" {ADA}", "a", None, 7, [ADA]])
SHAPES: dict[str, Callable[[list[bytes]], bytes]] = {
    "array": lambda texts: b"[%b]" % b" ,\n".join(texts),
    "lines": b"\n\n".join,
}


@given(st.lists(USERS, min_size=1, max_size=6), st.sampled_from(sorted(SHAPES)), st.booleans())
def test_whatever_record_it_is_what_stays_leads_to_the_rows_that_it_led_to(
    users: list[Any], shape: str, is_bare: bool
) -> None:
    body = SHAPES[shape]([json.dumps({"user_id": user, "n": n}).encode() for n, user in enumerate(users)])
    data = body if is_bare else factories.record(body)
    others = [row for row in rows_of(data) if row["user_id"] != ADA]
    remains = erase_zones.erase_errors(lines(envelope(data)), PERSON, "processing-failed")
    assert (remains.before, remains.after) == (len(users), len(others))
    if remains.found:
        assert rows_of(*raw_data(remains.content)) == others
        if others:
            assert erase_zones.erase_errors(remains.content, PERSON, "processing-failed").found == 0


def test_a_record_of_the_person_alone_goes_with_its_envelope_and_the_others_stay_byte_for_byte() -> None:
    other = json.dumps(envelope(factories.record(event("b")))).encode()
    mine = json.dumps(envelope(factories.record(event(ADA)))).encode()
    remains = erase_zones.erase_errors(other + mine + other, PERSON, "processing-failed")
    assert remains.content == other + other
    assert (remains.before, remains.after) == (3, 2)


def test_an_envelope_keeps_its_own_form_whether_as_aws_writes_it_or_as_aws_documents_it() -> None:
    person = Person("ada")
    remains = erase_zones.erase_errors(factories.read_event("processing_failed.ndjson"), person, "processing-failed")
    assert (remains.before, remains.found, remains.after) == (4, 2, 2)
    written = [json.loads(text) for text in values(plain(remains.content))]
    for one, before in zip(written, factories.envelopes(), strict=True):
        assert {**one, "rawData": ""} == {**before, "rawData": ""}
    assert [row["user_id"] for row in rows_of(*raw_data(remains.content))] == ["bob", "bob"]


def test_a_pixel_and_a_record_that_is_not_whole_are_read_too() -> None:
    pixel = factories.record(f"name=x&user_id={ADA}", form="query")
    identify = factories.record({"userId": ADA}, form="v1/identify")
    broken = b"sluice/1 broken\n" + json.dumps(event(ADA)).encode()
    other = b"sluice/1 broken\n" + json.dumps(event("b")).encode()
    remains = erase_zones.erase_errors(
        lines(*map(envelope, (pixel, identify, broken, other))), PERSON, "processing-failed"
    )
    assert raw_data(remains.content) == [other]


def test_rows_that_could_not_be_converted_are_lines_of_their_own() -> None:
    rows = [
        b'{"event_id":"1","user_id":"a"}\n',
        b'{"event_id":"2","user_id":"%b"}\n' % ADA.encode(),
        b'{"user_id":"b"}\n',
    ]
    remains = erase_zones.erase_errors(lines(envelope(b"".join(rows))), PERSON, "format-conversion-failed")
    assert raw_data(remains.content) == [rows[0] + rows[2]]


def test_raw_records_and_bare_ones_that_nothing_parts() -> None:
    ours = [factories.record(event(user), extended_request_id=f"x{user}") for user in ("a", ADA, "b")]
    mine, other = json.dumps(event(ADA)).encode(), json.dumps(event("c")).encode()
    bare = other + mine + b"[%b, %b , %b]" % (mine, other, mine) + other + b"[%b]" % mine
    content = gzip.compress(ours[0] + bare + ours[1] + ours[2])
    remains = erase_zones.erase_raw(content, PERSON)
    assert plain(remains.content) == ours[0] + other + b"[%b]" % other + other + ours[2]
    assert remains.content[:2] == b"\x1f\x8b"
    assert (remains.before, remains.found) == (3 + 7, 1 + 4)


def test_a_rejection_that_stands_for_many_loses_the_persons_events_alone() -> None:
    events = [event(ADA if number in (10_001, 10_003) else "b", number) for number in range(10_006)]
    data = factories.record(events)
    (reject,) = [outcome for outcome in transform(data, RECEIVED_AT, TODAY) if isinstance(outcome, Rejected)]
    content = gzip.compress(rejected(data, reject))
    remains = erase_zones.erase_rejected(content, PERSON, Pool())
    (row,) = [json.loads(line) for line in plain(remains.content).splitlines()]
    assert [json.loads(text)["event_id"] for text in values(base64.b64decode(row["body"]))] == [
        "e10000", "e10002", "e10004", "e10005"
    ]  # fmt: skip
    assert (remains.before, remains.removed, remains.found) == (1, 0, 1)
    assert erase_zones.erase_rejected(remains.content, PERSON, Pool()).found == 0


def long_rejection(user: str) -> list[bytes]:
    """The rows of a rejected text of two parts; the first names the user."""
    data = factories.record(event(user, 3, long="x" * 700_000), extended_request_id=f"of-{len(user)}")
    return rejected(data, Rejected("too_long", "too long", 0)).splitlines(keepends=True)


def test_all_parts_of_a_text_go_also_those_that_do_not_name_the_person() -> None:
    first, second = long_rejection(ADA)
    other = long_rejection("b")
    pool = Pool()
    pool.add(first)
    remains = erase_zones.erase_rejected(other[0] + second + other[1], PERSON, pool)
    assert remains.content == other[0] + other[1]
    assert (remains.obstacle, remains.goes_last) == ("", False)
    assert erase_zones.erase_rejected(first, PERSON, pool).goes_last


def test_a_part_of_a_text_of_which_the_rest_is_missing_is_told_unless_it_names_the_person() -> None:
    first, second = long_rejection(ADA)
    assert erase_zones.erase_rejected(first, PERSON, Pool()).removed == 1
    alone = erase_zones.erase_rejected(second, PERSON, Pool())
    assert (alone.found, alone.obstacle) == (0, "1 of the 2 parts of a rejected text are missing")


# Rows as JSON, in each compression


@pytest.mark.parametrize("codec", ["GZIP", "HADOOP_SNAPPY", "UNCOMPRESSED"])
def test_json_rows_stay_byte_for_byte_in_their_order_and_compression(codec: str) -> None:
    kept = [b'{"event_id":"1","user_id":"a","value":1.50}\n', b'{"event_id":"3", "user_id":null}\n']
    mine = b'{"event_id":"2","user_id":"%b"}\n' % ADA.encode()
    content = compress(kept[0] + mine + kept[1] + mine, codec)
    remains = erase_zones.erase_rows(content, PERSON)
    assert remains.content == compress(b"".join(kept), codec) or codec == "GZIP"
    assert plain(remains.content) == b"".join(kept)
    assert (remains.before, remains.after, remains.content[:2]) == (4, 2, content[:2])


# Parquet


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


def described(content: bytes) -> list[tuple[Any, ...]]:
    file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
    group = file.metadata.row_group(0)
    return [
        (column.path_in_schema, column.physical_type, column.compression, str(file.schema.column(index).logical_type))
        for index, column in ((index, group.column(index)) for index in range(group.num_columns))
    ]


MILLISECONDS = pyarrow.timestamp("ms")
PARQUETS: list[tuple[str, Json]] = [
    ("GZIP", {"codec": "GZIP", "time": MILLISECONDS}),
    ("SNAPPY", {"codec": "SNAPPY", "time": MILLISECONDS}),
    ("UNCOMPRESSED", {"codec": "NONE", "time": MILLISECONDS}),
    ("Hive's timestamps of 96 bits", {"time": pyarrow.timestamp("ns"), "use_deprecated_int96_timestamps": True}),
    ("several row groups", {"time": MILLISECONDS, "groups": 3}),
]


@pytest.mark.parametrize("options", [case[1] for case in PARQUETS], ids=[case[0] for case in PARQUETS])
def test_parquet_rows_keep_values_order_types_and_codec(options: Json) -> None:
    content = parquet(["a", f" {ADA} ", None, ADA, ADA, ADA, "b", "c", ADA, ADA], **options)
    assert erase_parquet.count(io.BytesIO(content), PERSON) == Remains(10, 6, 6)
    remains = erase_parquet.erase(content, PERSON)
    before, after = (pyarrow.parquet.read_table(io.BytesIO(one)) for one in (content, remains.content))
    assert after.equals(before.take([0, 2, 6, 7]))
    assert described(remains.content) == described(content)
    assert (remains.before, remains.after) == (10, 4)
    assert ADA.encode() not in plain(remains.content)


def test_a_table_of_ones_own_may_have_users_that_are_numbers() -> None:
    content = parquet([42, 7, 42], time=MILLISECONDS)
    assert erase_parquet.erase(content, Person("42")).after == 1


def test_bytes_that_are_not_parquet_are_corrupt() -> None:
    content = parquet(["a"], time=MILLISECONDS)
    for damaged in (b"", b"{}", content[:-3], content[: len(content) // 2]):
        with pytest.raises(Corrupt, match="not Parquet"):
            erase_parquet.count(io.BytesIO(damaged), PERSON)


# The command


class Bucket:
    """A stack with a bucket that keeps versions, and scripts/erase.sh as a person types it."""

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
        """What was written to both streams."""
        receipt = [] if "--receipt" in arguments else ["--receipt", str(self.receipt)]
        assert guarded(erase.erase, [by, user, *receipt, *arguments]) == code
        out, err = self.capsys.readouterr()
        return out + err

    def objects(self) -> list[Json]:
        """Everything in the receipt, of all its runs."""
        return [item for run in json.loads(self.receipt.read_text())["runs"] for item in run["objects"]]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Bucket]:
    with mock_aws():
        yield Bucket(monkeypatch, capsys, tmp_path)


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


def test_a_rejected_event_of_a_library_is_the_persons_also_among_many_and_in_pieces(bucket: Bucket) -> None:
    batch = [{"type": "?", "userId": user} for user in ("b", ADA, "c")]
    record = factories.record({"batch": batch}, form="v1/batch")
    many = Rejected("too_many_rejects", "more", 0, (1, 2))
    bucket.put(f"rejected/{DAY}/0.json", rejected(record, Rejected("unknown_type", "no", 1), many))
    cut_off = factories.record(b'{"batch":[{"anonymousId":"x","userId":"%b' % ADA.encode(), form="v1/batch")
    bucket.put(f"rejected/{DAY}/1.json", rejected(cut_off, Rejected("not_json", "no", 0)))
    bucket.run("--yes")
    assert all(is_clean(content) for _, content in bucket.everything())
    (row,) = [json.loads(line) for line in bucket.get(f"rejected/{DAY}/0.json").splitlines()]
    assert (row["events"], row["form"]) == (2, "v1/batch")


def test_the_person_goes_from_every_zone_and_everybody_else_stays(bucket: Bucket) -> None:
    bucket.fill()
    untouched = bucket.get(f"events/{DAY}/1.parquet")
    assert not all(is_clean(content) for _, content in bucket.everything())
    shown = bucket.run("--yes")
    assert all(is_clean(content) for _, content in bucket.everything())
    left = dict(bucket.everything())
    assert len(left) == len(bucket.versions()), "no older version and no delete marker is left"
    assert left.keys() == {
        f"events/{DAY}/0.parquet", f"events/{DAY}/1.parquet", f"processed/processed_events/run=1/{DAY}/x",
        f"curated/daily_events/run=1/{DAY}/x", f"rejected/{DAY}/0.json.gz", f"rejected/{DAY}/2.json.gz",
        f"errors/processing-failed/{DAY}/0", f"errors/format-conversion-failed/{DAY}/0", f"raw/{DAY}/0.gz",
        "replayed/rejected/run/000001",
    }  # fmt: skip
    assert left[f"events/{DAY}/1.parquet"] == untouched
    assert pyarrow.parquet.read_table(io.BytesIO(left[f"events/{DAY}/0.parquet"]))["user_id"].to_pylist() == ["a", "b"]
    (row,) = [json.loads(line) for line in plain(left[f"rejected/{DAY}/0.json.gz"]).splitlines()]
    assert json.loads(base64.b64decode(row["body"])) == event("b", 2)
    assert [row["event_id"] for row in rows_of(*raw_data(left[f"errors/processing-failed/{DAY}/0"]))] == ["e2", "e2"]
    assert "left alone: 1 objects of curated/daily_events/" in shown
    assert "A second look at 9 objects with 12 rows finds nothing of the person." in shown
    assert "Deleted 1 results of queries." in shown


def test_a_browser_goes_by_its_anonymous_id_and_nobody_goes_whose_user_id_is_the_same(bucket: Bucket) -> None:
    mine, other = ({"event_id": "1", "anonymous_id": f" {ADA} ", "value": "?"}, event(ADA, 2, anonymous_id=ADA.upper()))
    record = factories.record([mine, other])
    bucket.put(f"events/{DAY}/0.json", lines({"anonymous_id": ADA}, {"user_id": ADA}))
    bucket.put(f"events/{DAY}/1.parquet", parquet([ADA], time=MILLISECONDS))
    bucket.put(f"rejected/{DAY}/0.json.gz", gzip.compress(rejected(record, Rejected("not_a_number", "no", 0))))
    bucket.put(f"raw/{DAY}/0.gz", gzip.compress(record))
    bucket.put(f"processed/t/anonymous_id={ADA.upper()}/x", without_users())
    shown = bucket.run("--yes", by="--anonymous-id")
    assert "Erased 3 rows of 3 objects" in shown
    assert f"  2 of scripts/erase.sh --anonymous-id {ADA.upper()}\n" in shown
    assert f"left alone: 1 objects of events/{DAY}/: no column anonymous_id" in shown
    assert bucket.get(f"events/{DAY}/0.json") == lines({"user_id": ADA})
    assert [row["event_id"] for row in rows_of(plain(bucket.get(f"raw/{DAY}/0.gz")))] == ["e2"]
    text = bucket.receipt.read_text()
    assert json.loads(text)["user"]["column"] == "anonymous_id"
    assert ADA not in text.lower()
    shown = bucket.run("--yes", code=2)
    assert "is not a receipt of this person" in shown


def test_the_receipt_has_objects_counts_and_hashes_and_no_personal_data(bucket: Bucket) -> None:
    bucket.fill()
    bucket.run("--yes")
    text = bucket.receipt.read_text()
    assert ADA not in text
    assert "order" not in text
    entry = next(item for item in bucket.objects() if item["key"] == f"events/{DAY}/0.parquet")
    assert (entry["rows_before"], entry["rows_after"], entry["was_latest"]) == (3, 2, True)
    assert entry["sha256_after"] == sha256(bucket.get(entry["key"])).hexdigest() != entry["sha256_before"]
    assert (entry["key"], entry["version_after"]) in bucket.versions()
    user = json.loads(text)["user"]
    salt = bytes.fromhex(user["salt"])
    assert user["scrypt"] == scrypt(ADA.encode(), salt=salt, n=user["n"], r=user["r"], p=user["p"]).hex()
    assert json.loads(text)["runs"][-1]["proof"]["versions_that_hold_the_person"] == 0


def test_ids_that_are_the_persons_but_for_their_form_are_named_before_nothing_is_left(bucket: Bucket) -> None:
    upper = ADA.upper()
    bucket.put(f"events/{DAY}/0.parquet", parquet([ADA, upper, upper, "b"], time=MILLISECONDS))
    bucket.put(f"raw/{DAY}/0.gz", gzip.compress(factories.record([event(f" {ADA.title()}"), event("b")])))
    bucket.put(f"processed/t/user_id={upper}/x", without_users())
    shown = bucket.run("--yes")
    told = (
        "Not erased: 4 rows or events whose ids are equal to this one except for case, width or a decimal .0. "
        "If an id is the same person's, erase it as well:\n"
        f"  3 of scripts/erase.sh --user-id {upper}\n"
        f"  1 of scripts/erase.sh --user-id {ADA.title()}\n"
    )
    first, last = shown.split("The receipt is in")
    assert told in first and told in last
    assert last.index(told) < last.index("finds nothing of the person")
    text = bucket.receipt.read_text()
    assert json.loads(text)["runs"][-1]["similar_ids_left"] == 2
    assert ADA not in text.lower()
    assert "Not erased" not in bucket.run("--yes", "--receipt", f"{bucket.receipt}.of-b", user="b")


def test_rows_of_a_number_that_was_once_a_double_are_named_and_can_be_erased(bucket: Bucket) -> None:
    bucket.put(f"events/{DAY}/0.parquet", parquet(["12345", "12345.0", "12345.5"], time=MILLISECONDS))
    shown = bucket.run("--yes", user="12345")
    assert "  1 of scripts/erase.sh --user-id 12345.0\n" in shown
    assert "12345.5" not in shown
    shown = bucket.run("--yes", "--receipt", f"{bucket.receipt}.of-the-double", user="12345.0")
    assert "Erased 1 rows" in shown and "Not erased" not in shown


def test_the_ids_that_are_named_are_few(bucket: Bucket) -> None:
    forms = [f"{'A' * number}{'a' * (30 - number)}" for number in range(1, 31)]
    bucket.put(f"events/{DAY}/0.json", b"".join(b'{"user_id": "%b"}\n' % one.encode() for one in forms))
    last = bucket.run("--yes", user="a" * 30).split("The receipt is in")[1]
    assert last.count("--user-id") == erase.SHOWN_IDS
    assert "  and 10 more ids\n" in last


def test_a_dry_run_shows_what_would_happen_and_changes_nothing(bucket: Bucket) -> None:
    bucket.fill()
    before = bucket.versions()
    shown = bucket.run(code=2)
    assert bucket.versions() == before
    words = [line.split() for line in shown.splitlines()]
    assert [f"events/{DAY}/0.parquet", "3", "1", "rewritten", "with", "2", "rows"] in words
    assert [f"events/{DAY}/2.parquet", "1", "1", "deleted"] in words
    assert ["events/", "3", "6", "2", "2"] in words
    assert "athena-results/: all 1 results of queries will be deleted" in shown
    assert shown.splitlines()[-1] == f"error: {nobody_to_ask()}"
    assert (bucket.slept, bucket.receipt.exists()) == ([], False)


@pytest.mark.parametrize(("typed", "code"), [("y", 0), ("n", 1)])
def test_it_asks_on_a_terminal(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, typed: str, code: int) -> None:
    bucket.fill()
    before = bucket.versions()
    monkeypatch.setattr(erase.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: typed)
    shown = bucket.run(code=code)
    assert "Erase this person in 9 objects and delete 1 results of queries" in shown
    assert (bucket.versions() == before) == (typed == "n")


def test_it_waits_before_it_looks_until_what_is_on_its_way_is_delivered(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver(seconds: float) -> None:
        bucket.slept.append(seconds)
        bucket.put(f"events/{DAY}/late.parquet", parquet(["a", ADA], time=MILLISECONDS))

    monkeypatch.setattr(erase, "time", stand_in(time, sleep=deliver))
    shown = bucket.run("--yes")
    assert 660 < sum(bucket.slept) <= 2 * (5 + 4 * 60 + 60) + 60
    assert "an event may be on its way for 670 s (5 s and 4 tries of 60 s for the transform and 60 s in a " in shown
    assert [item["key"] for item in bucket.objects()] == [f"events/{DAY}/late.parquet"]


@pytest.mark.parametrize(
    ("parameters", "seconds"),
    [
        ({"LambdaTimeout": "60", "FirehoseBufferingInterval": "900"}, 2 * (5 + 240 + 900) + 60),
        ({"LambdaTimeout": "10", "FirehoseBufferingInterval": "0", "RawBackup": "DISABLED"}, 2 * (5 + 40) + 60),
        ({"LambdaTimeout": "10", "FirehoseBufferingInterval": "0", "RawBackup": "ENABLED"}, 300 + 60),
        ({}, 2 * (5 + 1_200 + 900) + 60),
    ],
    ids=["a long buffer", "no buffer", "raw/ has the longest buffer", "unknown: the longest that the template allows"],
)
def test_how_long_it_waits_follows_from_the_parameters(parameters: dict[str, str], seconds: int) -> None:
    assert erase.delivery_seconds(parameters)[0] == seconds


def test_events_may_be_json_in_a_folder_of_ones_own_and_the_receipt_has_a_name_of_its_own(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket.stack.parameters["FirehoseS3Prefix"] = "data/raw/"
    rows = lines({"event_id": "1", "user_id": "a"}, {"event_id": "2", "user_id": ADA})
    for codec, extension in (("GZIP", "json.gz"), ("HADOOP_SNAPPY", "json.snappy"), ("UNCOMPRESSED", "json")):
        bucket.put(f"data/raw/{DAY}/0.{extension}", compress(rows, codec))
    bucket.put("notes/places.csv", ADA.encode())
    bucket.put(lock.KEY, b"arn:aws:states:us-east-1:123456789012:execution:refine:1")
    monkeypatch.chdir(tmp_path)
    assert guarded(erase.erase, ["--user-id", ADA, "--yes"]) == 0
    shown = bucket.capsys.readouterr().err
    assert "left alone: 1 objects of notes/" in shown
    # Whose turn it is to refine is nobody's data.
    assert shown.count("left alone: ") == 1
    assert [plain(content) for key, content in bucket.everything() if key.startswith("data/")] == [
        lines({"event_id": "1", "user_id": "a"})
    ] * 3
    (receipt,) = tmp_path.glob("erase-receipt-*.json")
    assert len(json.loads(receipt.read_text())["runs"][0]["objects"]) == 3


def test_an_unknown_user_is_looked_for_everywhere(bucket: Bucket) -> None:
    bucket.fill()
    shown = bucket.run("--yes", user="nobody")
    assert "Nothing of this person was found: 11 objects and older versions with 21 rows were read." in shown
    assert bucket.objects() == []


# Versions


def test_older_versions_and_those_of_deleted_objects_go_and_others_stay_deleted(bucket: Bucket) -> None:
    mine, other = (parquet(users, time=MILLISECONDS) for users in (["a", ADA], ["a"]))
    bucket.put(f"events/{DAY}/overwritten.parquet", mine)
    kept = bucket.put(f"events/{DAY}/overwritten.parquet", other)
    for content in (mine, mine):
        bucket.put(f"events/{DAY}/deleted.parquet", content)
    still = bucket.put(f"events/{DAY}/hidden.parquet", without_users())
    bucket.put(f"events/{DAY}/hidden.parquet", parquet([ADA], time=MILLISECONDS))
    bucket.s3.delete_object(Bucket=BUCKET, Key=f"events/{DAY}/deleted.parquet")
    bucket.run("--yes")
    left = bucket.versions()
    assert (f"events/{DAY}/overwritten.parquet", kept) in left
    assert not [key for key, _ in left if key.endswith("deleted.parquet")], "not even its delete marker"
    # The latest version is gone: the one before it must not come forth.
    assert next(one for key, one in left if key.endswith("hidden.parquet")) == still
    keys = [item["Key"] for item in bucket.s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert keys == [f"events/{DAY}/overwritten.parquet"]


def test_a_bucket_that_keeps_no_versions_keeps_its_objects(bucket: Bucket) -> None:
    bucket.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})
    bucket.s3.put_object(Bucket=BUCKET, Key=f"events/{DAY}/0.parquet", Body=parquet(["a", ADA], time=MILLISECONDS))
    bucket.run("--yes")
    table = pyarrow.parquet.read_table(io.BytesIO(bucket.get(f"events/{DAY}/0.parquet")))
    assert table["user_id"].to_pylist() == ["a"]


def test_a_rewritten_object_keeps_its_storage_class_metadata_and_tags(bucket: Bucket) -> None:
    key = f"events/{DAY}/0.parquet"
    content = parquet(["a", ADA], time=MILLISECONDS)
    bucket.put(key, content, StorageClass="STANDARD_IA", ContentType="x/y", Metadata={"a": "b"}, Tagging="team=data")
    bucket.run("--yes")
    head = bucket.s3.get_object(Bucket=BUCKET, Key=key)
    assert (head["StorageClass"], head["ContentType"], head["Metadata"]) == ("STANDARD_IA", "x/y", {"a": "b"})
    assert bucket.s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"] == [{"Key": "team", "Value": "data"}]


# Killed, raced and refused


class Killed(BaseException):
    """As kill -9 ends a process."""


def writes(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, after: Callable[[int], None]) -> None:
    """Call `after` with the number of each write, once S3 has taken it."""
    number = 0
    for name in ("put_object", "delete_objects", "delete_object"):

        def call(real: Any, **arguments: Any) -> Any:
            nonlocal number
            answer = real(**arguments)
            number += 1
            after(number)
            return answer

        monkeypatch.setattr(bucket.s3, name, functools.partial(call, getattr(bucket.s3, name)))


def test_killed_after_any_write_the_same_command_ends_it(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.fill()
    total = 0
    with monkeypatch.context() as patch:

        def count(number: int) -> None:
            nonlocal total
            total = number

        writes(bucket, patch, count)
        bucket.run("--yes")
    expected = sorted(bucket.everything())
    assert total > 10
    for last in range(1, total + 1):
        every = [{"Key": key, "VersionId": version} for key, version in bucket.versions()]
        bucket.s3.delete_objects(Bucket=BUCKET, Delete={"Objects": every})
        bucket.fill()

        def kill(number: int, last: int = last) -> None:
            if number == last:
                raise Killed

        with monkeypatch.context() as patch:
            writes(bucket, patch, kill)
            with pytest.raises(Killed):
                bucket.run("--yes")
        bucket.run("--yes")
        found = sorted(bucket.everything())
        assert [key for key, _ in found] == [key for key, _ in expected], last
        assert all(is_clean(content) for _, content in found), last
        assert len(bucket.versions()) == len(expected), last


def test_a_second_run_continues_the_receipt_and_another_persons_is_refused(bucket: Bucket) -> None:
    bucket.fill()
    bucket.run("--yes")
    done = len(bucket.objects())
    bucket.run("--yes")
    assert len(bucket.objects()) == done
    assert len(json.loads(bucket.receipt.read_text())["runs"]) == 2
    assert "is not a receipt of this person and bucket" in bucket.run("--yes", user="b", code=2)


def test_an_object_that_changes_between_reading_and_writing_is_read_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"events/{DAY}/0.parquet"
    bucket.put(key, parquet(["a", ADA], time=MILLISECONDS))
    changed = parquet(["a", ADA, "new"], time=MILLISECONDS)
    real, calls = bucket.s3.put_object, []

    def put(**arguments: Any) -> Any:
        calls.append(arguments["IfMatch"])
        if len(calls) == 1:
            real(Bucket=BUCKET, Key=key, Body=changed)
        return real(**arguments)

    monkeypatch.setattr(bucket.s3, "put_object", put)
    bucket.run("--yes")
    assert len(set(calls)) == 2
    assert pyarrow.parquet.read_table(io.BytesIO(bucket.get(key)))["user_id"].to_pylist() == ["a", "new"]
    assert len(bucket.versions()) == 1


def test_an_object_that_never_stops_changing_ends_it(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put(f"events/{DAY}/0.parquet", parquet(["a", ADA], time=MILLISECONDS))
    monkeypatch.setattr(Store, "put", lambda *arguments: None)
    assert "keeps changing: run the same command again" in bucket.run("--yes", code=1)


@pytest.mark.parametrize(
    ("key", "content", "loses"),
    [
        (f"events/{DAY}/0.parquet", parquet(["a", "b", ADA], time=MILLISECONDS), parquet(["a"], time=MILLISECONDS)),
        (
            f"raw/{DAY}/0.gz",
            factories.record(event("a")) * 2 + factories.record(event(ADA)),
            factories.record(event("a")),
        ),
    ],
    ids=["Parquet", "raw"],
)
def test_counts_that_do_not_agree_replace_nothing(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, key: str, content: bytes, loses: bytes
) -> None:
    version = bucket.put(key, content)
    for module, name in ((erase_parquet, "erase"), (erase, "erase_raw")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda content, person, real=real: (
                Remains(3, 1, 1, loses) if (found := real(content, person)).found else found
            ),
        )
    shown = bucket.run("--yes", code=1)
    assert "the counts do not agree, so it was not replaced: of 3 rows 1 go, and 1 would be left" in shown
    assert bucket.versions() == [(key, version)]
    assert "1 objects still hold something of the person" in shown


# Bad input


def test_corrupt_objects_are_set_aside_by_key_and_the_others_are_done(bucket: Bucket) -> None:
    bucket.fill()
    bad = {
        f"events/{DAY}/bad.parquet": b"PAR1 and no more",
        f"rejected/{DAY}/bad.json.gz": gzip.compress(b"{}")[:-4],
        f"errors/processing-failed/{DAY}/bad": b'{"rawData": "?"}',
        f"raw/{DAY}/bad.gz": b"",
        "replayed/raw/bad": ADA.encode(),
        f"processed/by_user/user_id={ADA}/x": parquet(["a"], time=MILLISECONDS),
    }
    for key, content in bad.items():
        bucket.put(key, content)
    shown = bucket.run("--yes", code=1)
    for key in bad:
        assert f"set aside: {key}: " in shown
    assert "6 objects could not be read: fix or delete them, and run it again" in shown
    assert len(bucket.objects()) == 9
    told = json.loads(bucket.receipt.read_text())["runs"][0]["set_aside"]
    assert told == sorted(key.replace(f"={ADA}", "=?") for key in bad)
    assert ADA not in bucket.receipt.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --user-id --anonymous-id is required (see scripts/erase.sh --help)"),
        (["--user-id", "u", "--anonymous-id", "a"], "--anonymous-id: not allowed with argument --user-id"),
        (["--user-id", "  "], "is not an id: it is blank"),
        (["--anonymous-id", "\t"], "is not an id: it is blank"),
        (["--user-id", "\udcff"], "'\\udcff' is not text in UTF-8"),
        (["--user-id", "u", "--stack-name", "no_name"], "'no_name' is not a stack name"),
        (["--user-id", "u", "--stack-name", "other"], "stack 'other' does not exist in eu-west-1"),
        (["--user-id", "u", "--receipt", "no/such/folder/x.json"], "there is no folder 'no/such/folder' to write to"),
    ],
    ids=str,
)
def test_bad_arguments_are_one_line_and_code_2(bucket: Bucket, arguments: list[str], message: str) -> None:
    assert guarded(erase.erase, [*arguments, "--yes"]) == 2
    err = bucket.capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert bucket.slept == []


def test_a_bucket_that_is_gone_is_one_line_and_code_2(bucket: Bucket) -> None:
    bucket.s3.delete_bucket(Bucket=BUCKET)
    assert "the bucket the-data of stack 'sluice' in eu-west-1 was deleted" in bucket.run("--yes", code=2)


@pytest.mark.parametrize("takes_ranges", [True, False], ids=["ranges", "everything, whatever is asked for"])
def test_of_a_large_object_the_footer_and_one_column_are_read(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, takes_ranges: bool
) -> None:
    content = parquet([f"u{number}" for number in range(30_000)], codec="NONE", time=MILLISECONDS, groups=10_000)
    bucket.put(f"events/{DAY}/0.parquet", content)
    real = bucket.s3.get_object
    if not takes_ranges:
        monkeypatch.setattr(bucket.s3, "get_object", lambda Range, **arguments: real(**arguments))
    store = Store(erase.session(False), BUCKET, "events/")
    scan = erase.look(store, Person("u1234"))
    assert [finding.remains for finding in scan.findings] == [Remains(30_000, 1, 1)]
    assert (scan.bytes_read < len(content) / 2) == takes_ranges


def test_the_texts_of_a_split_record_are_found_where_they_stand() -> None:
    body = b'[[[1]], {"a":1} ,[1], 2]'
    _, texts = split_texts(body)
    assert erase_zones._cut(body, texts, [False, True, False, True]) == b"[[[1]], [1]]"
    assert erase_zones._cut(body, texts, [True] * 4) == b""
