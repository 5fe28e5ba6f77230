"""scripts/erase.sh killed, overtaken by another writer, or stopped when counts disagree."""

from __future__ import annotations

import copy
import functools
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from moto.s3.models import s3_backends

from scripts.commands.erase import command as erase
from scripts.commands.erase import parquet as erase_parquet
from scripts.commands.erase.store import Store
from scripts.commands.erase.zones import Remains
from tests import factories
from tests.scripts.erase.erase_bucket import ADA, BUCKET, DAY, MILLISECONDS, Bucket, event, is_clean, parquet


def after_each_write(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, note: Callable[[], None]) -> None:
    """Call `note` after each write, once S3 has taken it."""
    for name in ("put_object", "delete_objects", "delete_object"):

        def call(real: Any, **arguments: Any) -> Any:
            answer = real(**arguments)
            note()
            return answer

        monkeypatch.setattr(bucket.s3, name, functools.partial(call, getattr(bucket.s3, name)))


def test_killed_after_any_write_the_same_command_ends_it(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.fill()
    moto = s3_backends["123456789012"]["aws"].buckets[BUCKET]
    left: list[tuple[dict[str, Any], bytes | None]] = []
    """What kill -9 leaves after each write: the versions of each object, and the receipt."""
    with monkeypatch.context() as patch:

        def note() -> None:
            receipt = bucket.receipt.read_bytes() if bucket.receipt.exists() else None
            left.append(({key: copy.deepcopy(moto.keys.getlist(key)) for key in [*moto.keys]}, receipt))

        after_each_write(bucket, patch, note)
        bucket.run("--yes")
    expected = sorted(bucket.everything())
    assert len(left) > 10 and any(len(versions) > 1 for objects, _ in left for versions in objects.values())
    for write, (objects, receipt) in enumerate(left, 1):
        moto.keys.clear()
        for key, versions in objects.items():
            moto.keys.setlist(key, versions)
        bucket.receipt.unlink()
        if receipt is not None:
            bucket.receipt.write_bytes(receipt)
        bucket.run("--yes")
        found = sorted(bucket.everything())
        assert [key for key, _ in found] == [key for key, _ in expected], write
        assert all(is_clean(content) for _, content in found), write
        assert len(bucket.versions()) == len(expected), write


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
