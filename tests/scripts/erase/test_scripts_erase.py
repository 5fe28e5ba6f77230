"""scripts/erase.sh: one person goes from every zone, format and version, everybody else stays, and it is proven."""

from __future__ import annotations

import base64
import gzip
import io
import json
import time
from hashlib import scrypt, sha256
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from local.firehose.objects import compress
from scripts.commands.common.console import guarded, nobody_to_ask
from scripts.commands.erase import command as erase
from scripts.commands.erase.store import Store
from scripts.commands.erase.zones import Person, Remains
from scripts.commands.lake.objects import plain
from stacks.refine.function import lock
from tests import factories
from tests.factories import stand_in
from tests.scripts.erase.erase_bucket import (
    ADA,
    BUCKET,
    DAY,
    MILLISECONDS,
    Bucket,
    event,
    is_clean,
    lines,
    parquet,
    raw_data,
    rejected,
    rows_of,
    without_users,
)
from transform.events import Rejected

# The command


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
