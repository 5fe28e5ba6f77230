"""Publishing a statement's rows: the target's partitions come to point at them, one after the other.

A day is one partition, whose location changes in one step in the catalog: a reader finds the old objects or the new
ones, never both and never half. Glue changes several partitions one after the other, also in one call: a day of several
would be mixed meanwhile. Everything here can be done again from the start, however far an earlier try got, because the
temporary table, the list of what to publish, is dropped last.

The contract: https://docs.aws.amazon.com/glue/latest/webapi/API_BatchUpdatePartition.html (100 partitions a call; the
answer lists the failed ones).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from .catalog import Glue, GlueColumn, GluePartition, GlueTable, PartitionError, PartitionUpdate, StorageDescriptor
from .plan import Lake, Prepared, Refused, Target, day_of, folder

MARK: Final = "sluice.refine.file"
"""Table parameter: the name of the table's file; a table without it is not ours to touch."""

SINCE: Final = "sluice.refine.since"
"""Partition parameter: the day the oldest event behind its day's rows was received, as yyyy-MM-dd."""

ROUNDS: Final = 5
"""Tries to win against runs changing the same partitions at the same time."""

_RACES: Final = {"AlreadyExistsException", "EntityNotFoundException"}

Values = tuple[str, ...]


class Undone(NamedTuple):
    """Days whose rows a person may miss."""

    left: set[str]
    """They stay as they were, since events behind them may be deleted."""
    emptied: set[str]
    """They had rows, and have none now."""


@dataclass(frozen=True)
class Ages:
    """The ages of the events behind the new days, and the limit of deletion."""

    since: Mapping[str, str]
    """The day of the oldest event behind each day, as yyyy-MM-dd; the day itself if it is not here."""
    gone: str
    """The last day whose events may have been deleted, as yyyy-MM-dd; empty if they are kept."""


def publish(glue: Glue, lake: Lake, target: Target, statement: Prepared, ages: Ages) -> Undone:
    """Publish the temporary table of a statement as the target's days `first` to `last`.

    A day stays as it was if its partition is made of events that may be deleted.

    A missing temporary table has been published before. Raises Refused, before anything has changed, if the rows cannot
    be published.
    """
    database, temporary = lake.database, statement["temporary"]
    written = get_table(glue, database, temporary)
    if written is None:
        return Undone(set(), set())
    new = get_partitions(glue, database, temporary, "")
    _check(target, statement, written, new)
    columns = _ensure_table(glue, lake, target, written)
    inputs: dict[Values, GluePartition] = {
        values: {
            "Values": list(values),
            "StorageDescriptor": _parquet(columns, place),
            "Parameters": {SINCE: ages.since.get(values[0], values[0])},
        }
        for values, place in new.items()
    }
    days = f"dt BETWEEN '{statement['first']}' AND '{statement['last']}'"
    names = {"DatabaseName": database, "TableName": target.table}
    undone = _swap(glue, names, inputs, days, ages.gone)
    delete_table(glue, database, temporary)
    return undone


def get_table(glue: Glue, database: str, name: str) -> GlueTable | None:
    """The table, None if there is no such table."""
    try:
        return glue.get_table(DatabaseName=database, Name=name)["Table"]
    except glue.exceptions.EntityNotFoundException:
        return None


def delete_table(glue: Glue, database: str, name: str) -> None:
    """Drop a table from the catalog, if it is there; its objects stay."""
    try:
        glue.delete_table(DatabaseName=database, Name=name)
    except glue.exceptions.EntityNotFoundException:
        return


def get_partitions(glue: Glue, database: str, table: str, expression: str) -> dict[Values, str]:
    """The locations of a table's partitions by their values; `expression` chooses among them, '' takes all."""
    return {
        values: _location(item)
        for values, item in _partitions(glue, {"DatabaseName": database, "TableName": table}, expression).items()
    }


def _partitions(glue: Glue, names: dict[str, str], expression: str) -> dict[Values, GluePartition]:
    pages = glue.get_paginator("get_partitions").paginate(**names, Expression=expression, ExcludeColumnSchema=True)
    return {tuple(item["Values"]): item for page in pages for item in page["Partitions"]}


def _location(partition: GluePartition) -> str:
    return partition["StorageDescriptor"]["Location"]


def _check(target: Target, statement: Prepared, written: GlueTable, new: Iterable[Values]) -> None:
    """Refuse rows outside the days of the statement: their partitions would be made of them alone."""
    keys = _types(written["PartitionKeys"])
    if keys.get("dt") != "string":
        raise Refused(f"dt must be text: write date_format(..., '%Y-%m-%d') (got {keys.get('dt')})")
    for values in new:
        day = day_of(values[0])
        if day is None or not statement["first"] <= values[0] <= statement["last"]:
            raise Refused(
                f"the SELECT has rows with dt = '{values[0]}', no day from {statement['first']} to "
                f"{statement['last']}: let its WHERE keep only the days from ${{from}} to ${{to}}"
            )


def _ensure_table(glue: Glue, lake: Lake, target: Target, written: GlueTable) -> list[GlueColumn]:
    """Create the target, or add its missing columns; returns its columns."""
    database, bucket = lake.database, lake.bucket
    table = get_table(glue, database, target.table)
    if table is None:
        columns = _columns(written["StorageDescriptor"]["Columns"])
        try:
            glue.create_table(DatabaseName=database, TableInput=_table(bucket, target, written, columns))
            return columns
        except glue.exceptions.AlreadyExistsException:  # by a run beside this one
            table = glue.get_table(DatabaseName=database, Name=target.table)["Table"]
    if MARK not in table.get("Parameters", {}):
        raise Refused(f"the table {target.table} is not made by refinement: name another target")
    existing = _columns(table["StorageDescriptor"]["Columns"])
    _refuse_changed_types(target, _types([*existing, *table["PartitionKeys"]]), written)
    if (keys := [key["Name"] for key in table["PartitionKeys"]]) != ["dt"]:
        raise Refused(
            f"the table {target.table} is partitioned by {', '.join(keys)}, not by dt alone: "
            f"name another target, or drop the table and run all days again"
        )
    known = _types(existing)
    added = [column for column in _columns(written["StorageDescriptor"]["Columns"]) if column["Name"] not in known]
    if added:
        # At the end: then the columns of every older partition are the first ones of the table.
        glue.update_table(DatabaseName=database, TableInput=_table(bucket, target, written, existing + added))
    return existing + added


def _refuse_changed_types(target: Target, known: dict[str, str], written: GlueTable) -> None:
    new = _types([*written["StorageDescriptor"]["Columns"], *written["PartitionKeys"]])
    changed = [
        f"{name} was {known[name]} and would be {kind}"
        for name, kind in new.items()
        if name in known and known[name] != kind
    ]
    if changed:
        raise Refused(
            f"columns of {target.table} cannot change their types: {'; '.join(changed)}: CAST to "
            f"the old type, give the column another name, or drop the table and run all days again"
        )


def _table(bucket: str, target: Target, written: GlueTable, columns: list[GlueColumn]) -> GlueTable:
    return {
        "Name": target.table,
        "Description": f"Made by refinement from {target.file}",
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", "classification": "parquet", MARK: target.file},
        "PartitionKeys": _columns(written["PartitionKeys"]),
        "StorageDescriptor": _parquet(columns, folder(bucket, target)),
    }


def _parquet(columns: list[GlueColumn], location: str) -> StorageDescriptor:
    package = "org.apache.hadoop.hive.ql.io.parquet"
    return {
        "InputFormat": f"{package}.MapredParquetInputFormat",
        "OutputFormat": f"{package}.MapredParquetOutputFormat",
        "SerdeInfo": {"SerializationLibrary": f"{package}.serde.ParquetHiveSerDe"},
        "Columns": columns,
        "Location": location,
    }


def _swap(glue: Glue, names: dict[str, str], new: dict[Values, GluePartition], expression: str, gone: str) -> Undone:
    """Let the table's partitions of the expression be exactly the new ones, except on days left as they were.

    `names` are DatabaseName and TableName, as Glue's calls take them.
    """
    table = names["TableName"]
    emptied = set()
    for _ in range(ROUNDS):
        found = _partitions(glue, names, expression)
        # Partitions published by an earlier try are at the new place.
        other = {
            values: one
            for values, one in found.items()
            if values not in new or _location(one) != _location(new[values])
        }
        left = {values[0] for values, one in other.items() if one.get("Parameters", {}).get(SINCE, values[0]) <= gone}
        old = {values for values in found if values[0] not in left}
        inputs = [
            item for values, item in new.items() if values[0] not in left and (values not in old or values in other)
        ]
        errors: list[PartitionError] = []
        # One call each, as a statement writes 100 partitions at most, and a call takes as many.
        if changed := [item for item in inputs if tuple(item["Values"]) in old]:
            entries = [PartitionUpdate(PartitionValueList=item["Values"], PartitionInput=item) for item in changed]
            errors += glue.batch_update_partition(**names, Entries=entries).get("Errors", [])
        if created := [item for item in inputs if tuple(item["Values"]) not in old]:
            errors += glue.batch_create_partition(**names, PartitionInputList=created).get("Errors", [])
        for values in old - new.keys():
            try:
                glue.delete_partition(**names, PartitionValues=list(values))
            except glue.exceptions.EntityNotFoundException:  # by a run beside this one
                continue
            emptied.add(values[0])
        # Partitions created or removed meanwhile by a run beside this one are looked at once more.
        for error in errors:
            if error["ErrorDetail"]["ErrorCode"] not in _RACES:
                raise RuntimeError(f"Glue does not take a partition of {table}: {error}")
        if not errors:
            return Undone(left, emptied)
    raise RuntimeError(f"other runs keep changing the partitions of {table}")


def _columns(columns: Iterable[GlueColumn]) -> list[GlueColumn]:
    return [{"Name": column["Name"], "Type": column["Type"]} for column in columns]


def _types(columns: Iterable[GlueColumn]) -> dict[str, str]:
    return {column["Name"]: column["Type"] for column in columns}
