"""Rows of one person go from Parquet, and the others keep values, order and types."""

from __future__ import annotations

import io
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from scripts.commands.erase import parquet as erase_parquet
from scripts.commands.erase.zones import Person, Remains
from scripts.commands.lake.objects import Corrupt, plain
from tests.scripts.erase.erase_bucket import ADA, MILLISECONDS, PERSON, Json, parquet


def described(content: bytes) -> list[tuple[Any, ...]]:
    file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
    group = file.metadata.row_group(0)
    return [
        (column.path_in_schema, column.physical_type, column.compression, str(file.schema.column(index).logical_type))
        for index, column in ((index, group.column(index)) for index in range(group.num_columns))
    ]


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
