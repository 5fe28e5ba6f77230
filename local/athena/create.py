"""CREATE TABLE AS, as Athena runs it: Parquet under a location, a table and its partitions in the catalog.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/create-table-as.html and
https://docs.aws.amazon.com/athena/latest/ug/ctas-considerations-limitations.html
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from local.athena.calls import literal
from local.athena.syntax import Node
from local.athena.tables import NULL_PARTITION, PARQUET_SERDE, QueryFailed
from local.athena.types import GLUE, Type
from local.catalog import GluePartition, GlueTable, StorageDescriptor
from local.ministack import Emulator

Json = dict[str, Any]

MAX_PARTITIONS = 100
COMPRESSIONS = ("GZIP", "SNAPPY")  # Athena's default first
PARQUET_FORMATS: StorageDescriptor = {
    "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
}
# The catalog's names for types.
GLUE_NAMES = {kind.name: name for name, kind in GLUE.items()}
PARTITION_TYPES = ("string", "int", "bigint", "date")
# Characters escaped by Hive in the name of a partition's folder.
ESCAPED = re.compile(r"""[\x00-\x1f"#%'*/:=?\\\x7f{[\]^]""")


@dataclass
class NewTable:
    """A computed table: `objects` are its Parquet files by key, `partitions` as Glue takes them."""

    database: str
    name: str
    bucket: str
    table: GlueTable
    partitions: list[GluePartition]
    objects: dict[str, bytes]
    rows: int


@dataclass
class Target:
    """The table of a CREATE TABLE AS statement. `location` is empty until `check` if the statement gives none."""

    database: str
    name: str
    location: str
    keys: tuple[str, ...]
    compression: str

    def check(self, configuration: Json, output_location: str, emulator: Emulator) -> None:
        """Refuse an impossible table before anything is read. A work group with an enforced result location has the
        table there, and takes no other."""
        if configuration.get("EnforceWorkGroupConfiguration") and self.location:
            raise QueryFailed(
                "The Create Table As Select query failed because it was submitted with an 'external_location' property "
                "to an Athena Workgroup that enforces a centralized output location for all queries. Please remove the "
                "'external_location' property and resubmit the query."
            )
        folder, _, name = output_location.rpartition("/")
        self.location = self.location or f"{folder}/tables/{name.removesuffix('.csv')}/"
        if not emulator.has_database(self.database):
            raise QueryFailed(f"SCHEMA_NOT_FOUND: line 1:1: Schema '{self.database}' does not exist")
        if emulator.glue_table(self.database, self.name):
            raise table_exists(self.database, self.name)
        bucket, _, prefix = self.location.removeprefix("s3://").partition("/")
        if emulator.object_paths(bucket, prefix):
            raise QueryFailed(
                f"HIVE_PATH_ALREADY_EXISTS: Target directory for table '{self.database}.{self.name}' already exists: "
                f"{self.location}. You may need to manually clean the data at location '{self.location}' before "
                "retrying. Athena will not delete data in your account."
            )

    def check_names(self, columns: list[tuple[str, Type]]) -> None:
        """Every column of a table has a name, and no other column has it."""
        names = [name.lower() for name, _ in columns]
        for number, name in enumerate(names, 1):
            if not name:
                raise QueryFailed(f"MISSING_COLUMN_NAME: line 1:1: Column name not specified at position {number}")
            if name in names[: number - 1]:
                raise QueryFailed(f"DUPLICATE_COLUMN_NAME: line 1:1: Column name '{name}' specified more than once")


def table_exists(database: str, name: str) -> QueryFailed:
    """The reason why a second table of a name cannot be made."""
    table = f"awsdatacatalog.{database}.{name}"
    return QueryFailed(f"TABLE_ALREADY_EXISTS: line 1:1: Destination table '{table}' already exists")


def find_target(statement: Node, database: str = "") -> Target | None:
    """The table of a CREATE TABLE AS statement; None for other statements. Raises ValueError with the name of a
    property not implemented."""
    if statement.kind != "create":
        return None
    given = {one["name"].lower(): one["value"] for one in statement["properties"] or []}
    for name in given.keys() - {"format", "write_compression", "external_location", "partitioned_by"}:
        raise ValueError(f"The local Athena does not implement the table property {name}")
    for name, allowed in (("format", ("PARQUET",)), ("write_compression", COMPRESSIONS)):
        if str(given.get(name, allowed[0])).upper() not in allowed:
            raise ValueError(
                f"The local Athena implements {name} = '{allowed[-1]}' alone (got '{given.get(name, '')}')"
            )
    location = given.get("external_location", "")
    if location and not re.fullmatch(r"s3://[^/]+/.+", location):
        raise ValueError(f"external_location must be s3://bucket/prefix/ (got '{location}')")
    *before, name = [part.lower() for part in statement["name"]]
    return Target(
        before[-1] if before else database.lower(),
        name,
        f"{location.rstrip('/')}/" if location else "",
        tuple(key.lower() for key in given.get("partitioned_by", ())),
        str(given.get("write_compression", COMPRESSIONS[0])).lower(),
    )


def compute(
    connection: duckdb.DuckDBPyConnection, query: str, columns: list[tuple[str, Type]], target: Target, scratch: Path
) -> NewTable:
    """Run the query, written for DuckDB, and write its rows as Parquet files, one for each partition."""
    types = {name.lower(): glue_type(name, kind) for name, kind in columns}
    check_keys(target.keys, types)
    names = ", ".join(map(quoted, types))
    casts = ", ".join(
        f"CAST({quoted(name)} AS {parquet_type(kind)}) AS {quoted(name)}"
        for name, (_, kind) in zip(types, columns, strict=True)
    )
    connection.execute(f"CREATE TABLE created AS SELECT {casts} FROM ({query}) AS query({names})")
    keys = [f"nullif(CAST({quoted(key)} AS VARCHAR), '')" for key in target.keys]  # Hive has one folder for both
    found = connection.execute(
        f"SELECT {', '.join([*keys, 'count(*)'])} FROM created GROUP BY ALL HAVING count(*) > 0 ORDER BY ALL"
    ).fetchall()
    if len(found) > MAX_PARTITIONS:
        raise QueryFailed(
            f"HIVE_TOO_MANY_OPEN_PARTITIONS: Exceeded limit of {MAX_PARTITIONS} open writers for partitions/buckets"
        )
    bucket, _, prefix = target.location.removeprefix("s3://").partition("/")
    kept = [name for name in types if name not in target.keys]
    storage: StorageDescriptor = {
        "Columns": [{"Name": name, "Type": types[name]} for name in kept],
        "Location": target.location,
        **PARQUET_FORMATS,
        "SerdeInfo": {"SerializationLibrary": PARQUET_SERDE, "Parameters": {"serialization.format": "1"}},
    }
    table: GlueTable = {
        "Name": target.name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE"},
        "PartitionKeys": [{"Name": key, "Type": types[key]} for key in target.keys],
        "StorageDescriptor": storage,
    }
    made = NewTable(target.database, target.name, bucket, table, [], {}, sum(count for *_, count in found))
    for *values, _ in found:
        shown = [value or NULL_PARTITION for value in values]
        folder = "".join(f"{key}={escape(value)}/" for key, value in zip(target.keys, shown, strict=True))
        if target.keys:
            location = f"{target.location}{folder}"
            made.partitions.append({"Values": shown, "StorageDescriptor": {**storage, "Location": location}})
        wanted = " AND ".join(
            f"{key} IS NOT DISTINCT FROM {'NULL' if value is None else literal(value)}"
            for key, value in zip(keys, values, strict=True)
        )
        file = scratch / f"{datetime.now(UTC):%Y%m%d_%H%M%S}_00000_{uuid.uuid4()}"
        connection.execute(
            f"COPY (SELECT {', '.join(map(quoted, kept))} FROM created WHERE {wanted or 'true'}) "
            f"TO {literal(str(file))} (FORMAT parquet, COMPRESSION {target.compression})"
        )
        made.objects[f"{prefix}{folder}{file.name}"] = file.read_bytes()
    return made


def check_keys(keys: tuple[str, ...], types: dict[str, str]) -> None:
    """The partition columns are the last ones, in their order, and not all."""
    if missing := [key for key in keys if key not in types]:
        raise QueryFailed(f"INVALID_TABLE_PROPERTY: Partition columns [{', '.join(missing)}] not present in schema")
    if len(keys) == len(types):
        raise QueryFailed("INVALID_TABLE_PROPERTY: Table contains only partition columns")
    if keys and tuple(types)[-len(keys) :] != keys:
        raise QueryFailed(
            "HIVE_COLUMN_ORDER_MISMATCH: Partition keys must be the last columns in the table and in the same order as "
            f"the table properties: [{', '.join(keys)}]"
        )
    for key in keys:
        if types[key] not in PARTITION_TYPES:
            raise QueryFailed(
                f"NOT_SUPPORTED: the local Athena partitions by {', '.join(PARTITION_TYPES)} (got {types[key]} {key})"
            )


def glue_type(name: str, kind: Type) -> str:
    """The catalog's name for the type of a column."""
    if kind.name == "unknown":
        raise QueryFailed(f"COLUMN_TYPE_UNKNOWN: line 1:1: Column type is unknown: {name} (write CAST(NULL AS type))")
    if kind.name == "decimal":
        return str(kind)
    if kind.name not in GLUE_NAMES:
        raise QueryFailed(f"NOT_SUPPORTED: Unsupported Hive type: {kind} (column {name})")
    return GLUE_NAMES[kind.name]


def parquet_type(kind: Type) -> str:
    """A column's type for DuckDB to write. A timestamp has milliseconds in Athena."""
    return "TIMESTAMP_MS" if kind.name == "timestamp" else kind.duckdb


def escape(value: str) -> str:
    """A partition's value in the name of its folder."""
    return ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", value)


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
