"""One person's rows in a Parquet object: their number, and the object without them.

A new object has the columns, types and codecs of the old one, its rows in their order and in their row groups. It is
read back and compared before its use: a copy with other columns, types, codecs or values is refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from scripts.commands.erase.zones import Person, Remains
from scripts.commands.lake.objects import Corrupt


class WithoutUsers(Exception):
    """A table without the person's column: it holds counts, not the rows of one person."""


def count(file: io.IOBase, person: Person) -> Remains:
    """How many rows there are, and how many are the person's; reads the footer and one column.

    Raises:
        Corrupt: it is not Parquet, or damaged.
        WithoutUsers: it has no column of the person's id.
    """
    with _open(file, person) as parquet:
        before = parquet.metadata.num_rows
        found = sum(
            pyarrow.compute.sum(_owned(parquet.read_row_group(group, columns=[person.column]), person)).as_py() or 0
            for group in range(parquet.num_row_groups)
        )
        return Remains(before, found, found)


def erase(content: bytes, person: Person) -> Remains:
    """The object without the person's rows. Raises as count() does, and Corrupt if it cannot be written alike."""
    sink, after = io.BytesIO(), 0
    with _open(io.BytesIO(content), person) as parquet:
        leaves = _leaves(parquet)
        writer = pyarrow.parquet.ParquetWriter(
            sink,
            parquet.schema_arrow,
            compression={path: codec for path, _, codec in leaves},
            # Hive, and so Firehose, writes timestamps in 96 bits.
            use_deprecated_int96_timestamps=any(kind == "INT96" for _, kind, _ in leaves),
            store_schema=False,
        )
        with writer:
            for left in _staying(parquet, person):
                after += left.num_rows
                if left.num_rows:
                    writer.write_table(left, row_group_size=left.num_rows)
        before = parquet.metadata.num_rows
        found = before - after
        if not found or found == before:
            return Remains(before, found, found)
        written = sink.getvalue()
        with _open(io.BytesIO(written), person) as again:
            if _leaves(again) != leaves or not again.schema_arrow.equals(parquet.schema_arrow):
                raise Corrupt("it cannot be written with the columns, types and codecs that it has")
            groups = iter(range(again.num_row_groups))
            for left in _staying(parquet, person):
                if left.num_rows and not again.read_row_group(next(groups)).equals(left):
                    raise Corrupt("its values are not the same when they are written again")
    return Remains(before, found, found, written)


@contextmanager
def _open(file: io.IOBase, person: Person) -> Iterator[pyarrow.parquet.ParquetFile]:
    """A file whose errors say that the object is corrupt."""
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            if person.column not in parquet.schema_arrow.names:
                raise WithoutUsers
            yield parquet
    except (pyarrow.ArrowException, OSError) as error:
        raise Corrupt(f"it is not Parquet, or damaged: {error}") from None


def _staying(parquet: pyarrow.parquet.ParquetFile, person: Person) -> Iterator[pyarrow.Table]:
    """The rest of each row group."""
    for group in range(parquet.num_row_groups):
        rows = parquet.read_row_group(group)
        yield rows.filter(pyarrow.compute.invert(_owned(rows, person)))


def _owned(rows: pyarrow.Table, person: Person) -> pyarrow.BooleanArray:
    """A mask of the person's rows; the column may also be a number, as in a table of one's own."""
    column = rows.column(person.column)
    values = []
    for value, count in map(dict.values, pyarrow.compute.value_counts(column).to_pylist()):
        if person.is_meant(value):
            values.append(value)
        else:
            person.note(value, count)
    return pyarrow.compute.is_in(column, value_set=pyarrow.array(values, column.type))


def _leaves(parquet: pyarrow.parquet.ParquetFile) -> list[tuple[str, str, str]]:
    """Each column's path, physical type and codec; a file's first row group speaks for all."""
    if not parquet.num_row_groups:
        return []
    group = parquet.metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    return [
        (
            column.path_in_schema,
            column.physical_type,
            "NONE" if column.compression == "UNCOMPRESSED" else column.compression,
        )
        for column in columns
    ]
