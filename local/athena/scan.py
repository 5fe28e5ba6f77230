"""The objects of a table for a query, and their rows in the types of the table.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/openx-json-serde.html and
https://docs.aws.amazon.com/athena/latest/ug/compression-formats.html
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import cramjam
import duckdb

from local.athena.calls import literal
from local.athena.create import quoted
from local.athena.tables import PARQUET_TYPES, DataFile, QueryFailed, Table
from local.athena.types import Type


def prune(
    connection: duckdb.DuckDBPyConnection, table: Table, files: list[DataFile], alias: str, conditions: list[str]
) -> list[DataFile]:
    """The files whose partition can match: conditions on partition columns alone filter the list of partitions."""
    if not conditions or not files:
        return files
    partitions = list(dict.fromkeys(file.partition for file in files))
    in_scope = {partitions[number] for number in matching(connection, table.keys, partitions, alias, conditions)}
    return [file for file in files if file.partition in in_scope]


def matching(
    connection: duckdb.DuckDBPyConnection,
    keys: dict[str, Type],
    partitions: Sequence[Sequence[str | None]],
    alias: str,
    conditions: list[str],
) -> list[int]:
    """The numbers of the partitions for which all conditions hold. `keys` are their columns."""
    columns = "".join(f", CAST(unnest(?::VARCHAR[]) AS {kind.duckdb}) AS {quoted(key)}" for key, kind in keys.items())
    rows = connection.execute(
        f"SELECT number FROM (SELECT unnest(?::BIGINT[]) AS number{columns}) AS {alias} "
        f"WHERE {' AND '.join(conditions)}",
        [list(range(len(partitions))), *([values[n] for values in partitions] for n in range(len(keys)))],
    )
    return [number for (number,) in rows.fetchall()]


def sql_list(values: list[str]) -> str:
    """Texts as an SQL list."""
    return f"[{', '.join(map(literal, values))}]"


def define_view(
    connection: duckdb.DuckDBPyConnection, view: str, table: Table, files: list[DataFile], scratch: Path
) -> list[str]:
    """Show the files as one relation of the Glue columns, the partition columns and those of files."""
    readable = [plain_file(file, scratch) for file in files]
    names = ["$file", "$path", "$file_size", *table.keys]
    rows = [(name, file.path, str(file.size), *file.partition) for name, file in zip(readable, files, strict=True)]
    connection.execute(
        f"CREATE TABLE {view}_files AS SELECT {', '.join(f'unnest(?::VARCHAR[]) AS {quoted(n)}' for n in names)}",
        list(map(list, zip(*rows, strict=True))) if rows else [[] for _ in names],
    )
    # Columns missing from every file are NULL.
    sources = [f"SELECT {', '.join(f'NULL AS {quoted(n)}' for n in ('$file', *table.columns))} WHERE false"]
    if table.is_parquet and files:
        options = "union_by_name = true, hive_partitioning = false, filename = '$file'"
        sources.append(f"SELECT * FROM read_parquet({sql_list(readable)}, {options})")
        for name, kind, *_ in connection.execute(f"DESCRIBE {sources[1]}").fetchall():
            column = table.columns.get(name.lower())
            wanted = column.duckdb if column else kind
            if kind not in {wanted} | PARQUET_TYPES.get(wanted, set()):
                raise QueryFailed(
                    f"HIVE_BAD_DATA: Field {name}'s type {kind} in parquet file is incompatible with type "
                    f"{wanted.lower()} defined in table schema (table {table.name})"
                )
    if not table.is_parquet:
        for compression, paths in groupby(sorted(readable, key=compression_of), compression_of):
            sources.append(json_source(table, sql_list(list(paths)), compression))
    columns = [f"CAST(data.{quoted(name)} AS {kind.duckdb}) AS {quoted(name)}" for name, kind in table.columns.items()]
    columns += [f"CAST(files.{quoted(name)} AS {kind.duckdb}) AS {quoted(name)}" for name, kind in table.keys.items()]
    connection.execute(
        f'CREATE VIEW {view} AS SELECT {", ".join(columns)}, "$path", "$file_size"::BIGINT AS "$file_size" FROM '
        f'({" UNION ALL BY NAME ".join(sources)}) AS data JOIN {view}_files AS files ON data."$file" = files."$file"'
    )
    return readable


# The macros of json_source.
JSON_MACROS = "athena_object athena_field"


def json_source(table: Table, paths: str, compression: str) -> str:
    """The rows of JSON lines as the OpenX SerDe reads them: keys in any case, each value as its column's type."""
    fields = []
    for name, kind in table.columns.items():
        value = f"object['{name}']"
        parsed = f"TRY_CAST({value} AS {kind.duckdb})"
        if kind.name == "timestamp":
            shape = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,9})?"
            parsed = f"CASE WHEN regexp_full_match({value}, '{shape}') THEN {parsed} END"
        fields.append(f"athena_field({value}, {parsed}, '{name}') AS {quoted(name)}")
    return (
        f'SELECT "$file", {", ".join(fields)} FROM (SELECT "$file", athena_object(json, {not table.ignores_malformed}) '
        f"AS object FROM read_ndjson_objects({paths}, compression = '{compression}', filename = '$file', "
        f"ignore_errors = {table.ignores_malformed}))"
    )


def compression_of(path: str) -> str:
    """Athena knows the compression of text by the extension, in lower case only."""
    return "gzip" if path.endswith(".gz") else "uncompressed"


def plain_file(file: DataFile, scratch: Path) -> str:
    """A path for DuckDB to read: the object itself, or the content of Hadoop's Snappy container."""
    if not file.path.endswith(".snappy"):
        return str(file.file)
    plain = scratch / f"{uuid.uuid4()}.json"
    plain.write_bytes(hadoop_snappy(file.file.read_bytes()))
    return str(plain)


def hadoop_snappy(data: bytes) -> bytes:
    """Decompress Hadoop's Snappy: blocks, each its plain size and its chunks; a chunk is its compressed
    size and raw Snappy. Sizes are 4 bytes, big-endian."""
    plain, at = bytearray(), 0
    while at < len(data):
        end = len(plain) + int.from_bytes(data[at : at + 4])
        at += 4
        while len(plain) < end:
            size = int.from_bytes(data[at : at + 4])
            plain += bytes(cramjam.snappy.decompress_raw(data[at + 4 : at + 4 + size]))
            at += 4 + size
    return bytes(plain)
