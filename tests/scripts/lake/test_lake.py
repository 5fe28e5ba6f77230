"""The contents of the bucket's objects, as scripts/commands/lake/ reads them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from scripts.commands.common.console import CommandError
from scripts.commands.lake.bucket import Bucket
from scripts.commands.lake.errors import envelopes
from scripts.commands.lake.objects import codec_of, kind_of, pack, plain
from scripts.commands.lake.records import split_records
from scripts.commands.lake.rejected import Texts
from scripts.commands.lake.zones import EVENTS, day_of, error_type_of, events_of


def test_records_that_were_stored_in_a_row_are_told_apart_even_if_a_body_looks_like_an_end_line() -> None:
    def record(identifier: bytes, body: bytes) -> bytes:
        line = b"sluice/1 request_id=r extended_request_id=%b time=1 ip= user_agent=" % identifier
        return b"%b\n%b\nsluice/end extended_request_id=%b\n" % (line, body, identifier)

    first, second = record(b"a=", b"{}\nsluice/end extended_request_id=b\n"), record(b"b", b"")
    bare = b'{"x": 1}'
    assert split_records(first + bare + second + bare) == [first, bare, second, bare]
    assert split_records(b"") == []
    broken = first.partition(b"sluice/end")[0]
    assert split_records(broken + broken + second + broken + bare) == [broken, broken, second, broken + bare]


@pytest.mark.parametrize("separator", ["", "\n", "\r\n"], ids=["nothing", "newline", "windows"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_error_objects_are_read_whatever_separates_their_documents(
    separator: str, pack: Callable[[bytes], bytes]
) -> None:
    text = separator.join(['{"rawData": "e30="}', '{"a": {"b": 1}}']) + separator
    documents, between = envelopes(pack(text.encode()))
    assert documents == [{"rawData": "e30="}, {"a": {"b": 1}}]
    assert between == [separator, separator]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PAR1...PAR1", "parquet"),
        (b"PAR1 cut off", "starting with b'PAR1'"),
        (gzip.compress(b"{}"), "gzip"),
        (b"{}", "json"),
        (b"\0\x04\0\0", "snappy"),
        (b"", "starting with b''"),
    ],
    ids=["parquet", "half a parquet", "gzip", "json", "snappy", "nothing"],
)
def test_an_object_is_what_its_first_and_last_bytes_say(content: bytes, kind: str) -> None:
    assert kind_of(content, content[-4:]) == kind


@pytest.mark.parametrize("codec", ["GZIP", "SNAPPY", "NONE"])
def test_the_codec_of_a_parquet_file_is_read_from_its_footer_alone(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"a": ["x"] * 100, "b": [1] * 100}), path, compression=codec)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    assert codec_of(content[:4] + content[-footer:]) == ("UNCOMPRESSED" if codec == "NONE" else codec)


@pytest.mark.parametrize("packed", [b"{}", gzip.compress(b"{}")], ids=["plain", "gzip"])
def test_an_object_is_packed_as_another_one_is(packed: bytes) -> None:
    assert kind_of(pack(b'{"a": 1}', packed)) == kind_of(packed)
    assert plain(pack(b'{"a": 1}', packed)) == b'{"a": 1}'


def test_a_part_that_is_known_is_not_replaced() -> None:
    """An erasure reads its cut objects again: the text remains as it was before."""
    row = {"event_id": "e", "position": 0, "extended_request_id": "r", "rejected_at": "t", "part": 1, "parts": 2}
    texts = Texts()
    assert texts.join(row, b"whole ") is None
    assert texts.join(row, b"cut") is None
    assert texts.join({**row, "part": 2}, b"text") == b"whole text"
    assert list(texts.incomplete()) == []


def test_attempts_to_reject_one_event_are_texts_of_their_own() -> None:
    row = {"reason": "too_long", "event_id": "e", "position": 0, "extended_request_id": "r", "part": 1, "parts": 2}
    texts = Texts()
    texts.add({**row, "rejected_at": "first"}, b"a")
    texts.add({**row, "rejected_at": "second", "part": 2}, b"b")
    missing = [("too_long", "part 2 of 2 is missing"), ("too_long", "part 1 of 2 is missing")]
    assert list(texts.incomplete()) == missing


def test_the_zone_of_the_events_is_the_parameters_unless_that_is_empty() -> None:
    assert (events_of({}), events_of({"FirehoseS3Prefix": ""}), events_of({"FirehoseS3Prefix": "a/b/"})) == (
        *(EVENTS, EVENTS),
        "a/b/",
    )


def test_a_key_says_its_day_and_its_kind_of_error() -> None:
    assert day_of("events/dt=2026-01-31/x.parquet") == "2026-01-31"
    assert day_of("events/x.parquet") == ""
    assert error_type_of("errors/processing-failed/dt=2026-01-31/x") == "processing-failed"


def test_a_version_that_s3_does_not_delete_is_named_after_the_others_are_deleted() -> None:
    class Refusing:
        batches: list[int]

        def delete_objects(self, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
            self.batches.append(len(Delete["Objects"]))
            fault = {"Key": Delete["Objects"][0]["Key"], "Code": "AccessDenied", "Message": "locked"}
            return {"Errors": [fault]} if len(self.batches) == 1 else {}

    s3 = Refusing()
    s3.batches = []
    with pytest.raises(CommandError, match="s3://b/0 cannot be deleted: AccessDenied: locked"):
        Bucket(s3, "b").delete((str(number), "1") for number in range(1_001))
    assert s3.batches == [1_000, 1]
