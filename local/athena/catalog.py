"""The catalog as SQL shows it: information_schema, SHOW and DESCRIBE.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/querying-glue-catalog.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from local.athena.calls import Columns, Result, literal
from local.athena.syntax import Missing, Node
from local.athena.tables import QueryFailed, Table
from local.athena.types import BIGINT, VARCHAR, Type
from local.catalog import GlueColumn, GlueTable, SerdeInfo, StorageDescriptor
from local.ministack import Emulator

Json = dict[str, Any]

CATALOG = "awsdatacatalog"
INFORMATION = {
    "tables": ("table_catalog", "table_schema", "table_name", "table_type"),
    "columns": ("table_catalog", "table_schema", "table_name", "column_name", "ordinal_position", "column_default",
                "is_nullable", "data_type"),
    "schemata": ("catalog_name", "schema_name"),
}  # fmt: skip


def columns_of(glue: GlueTable) -> list[GlueColumn]:
    """The columns of a table, those of its partitions last."""
    storage = glue.get("StorageDescriptor") or StorageDescriptor()
    return [*storage.get("Columns", []), *(glue.get("PartitionKeys") or [])]


def information(name: str, emulator: Emulator) -> Result:
    """A table of information_schema as a relation. Raises Missing for any other table."""
    if name not in INFORMATION:
        raise Missing(f"the table information_schema.{name}")
    rows: list[tuple[Any, ...]] = []
    for database in emulator.glue_databases():
        if name == "schemata":
            rows.append((CATALOG, database))
        for glue in emulator.glue_tables(database) if name != "schemata" else []:
            if name == "tables":
                is_view = glue.get("TableType") == "VIRTUAL_VIEW"
                rows.append((CATALOG, database, glue["Name"], "VIEW" if is_view else "BASE TABLE"))
                continue
            for number, column in enumerate(columns_of(glue), 1):
                kind = trino_type(glue, column)
                rows.append((CATALOG, database, glue["Name"], column["Name"].lower(), number, None, "YES", kind))
    columns = [(one, BIGINT if one == "ordinal_position" else VARCHAR) for one in INFORMATION[name]]
    return relation(columns, rows)


def trino_type(glue: GlueTable, column: GlueColumn) -> str:
    """The type of a column as Trino calls it; as Glue does, where the local Athena does not read it."""
    try:
        found = Table(glue["Name"], {**glue, "StorageDescriptor": {**glue["StorageDescriptor"], "Columns": [column]},
                                     "PartitionKeys": []})  # fmt: skip
        return str(found.columns[column["Name"].lower()])
    except (QueryFailed, KeyError):
        return str(column["Type"])


def relation(columns: Columns, rows: list[tuple[Any, ...]]) -> Result:
    """Rows as a query."""

    def cell(value: Any, kind: Type) -> str:
        shown = "NULL" if value is None else literal(value) if isinstance(value, str) else str(value)
        return f"CAST({shown} AS {kind.duckdb})"

    nothing = [None] * len(columns)  # its row gives the types
    listed = [
        f"({', '.join(cell(value, kind) for value, (_, kind) in zip(row, columns, strict=True))})"
        for row in (nothing, *rows)
    ]
    names = [f"o{number}" for number in range(len(columns))]
    values = f"(VALUES {', '.join(listed)}) AS rows({', '.join(names)})"
    return Result(f"(SELECT * FROM {values} WHERE o0 IS NOT NULL)", columns)


def answer(
    statement: Node, database: str, emulator: Emulator, find: Callable[[Node], GlueTable]
) -> tuple[list[str], list[list[str]]]:
    """The column names and the rows of SHOW or DESCRIBE."""
    what, pattern = statement["what"] or "", statement["pattern"] or ""
    given = [part.lower() for part in statement["name"] or []]
    if what in ("DATABASES", "SCHEMAS"):
        return ["database_name"], matching(emulator.glue_databases(), pattern)
    if what in ("TABLES", "VIEWS"):
        database = given[-1] if given else database
        if not emulator.has_database(database):
            raise QueryFailed(f"FAILED: SemanticException [Error 10072]: Database does not exist: {database}")
        tables = emulator.glue_tables(database)
        is_view = [one.get("TableType") == "VIRTUAL_VIEW" for one in tables]
        names = [one["Name"] for one, view in zip(tables, is_view, strict=True) if view or what == "TABLES"]
        return ["tab_name" if what == "TABLES" else "views"], matching(names, pattern)
    glue = find(statement)
    if what == "COLUMNS":
        return ["field"], [[one["Name"]] for one in columns_of(glue)]
    if what == "PARTITIONS":
        keys = [one["Name"] for one in glue.get("PartitionKeys") or []]
        if not keys:
            raise QueryFailed(f"FAILED: SemanticException Table {glue['Name']} is not a partitioned table")
        listed = emulator.glue_partitions(given[-2] if len(given) > 1 else database, given[-1])
        pairs = [zip(keys, one["Values"], strict=True) for one in listed]
        return ["partition"], [["/".join(f"{key}={value}" for key, value in pair)] for pair in pairs]
    rows = [[one["Name"], one["Type"], one.get("Comment", "")] for one in columns_of(glue)]
    return ["col_name", "data_type", "comment"], [["\t".join(cell.ljust(20) for cell in row)] for row in rows]


def matching(names: list[str], pattern: str) -> list[list[str]]:
    """The names matching a pattern with * and |, in order."""
    form = re.compile(pattern.replace("*", ".*") or ".*", re.IGNORECASE)
    return [[name] for name in sorted(names) if form.fullmatch(name)]


def metadata(glue: GlueTable) -> Json:
    """A table as Athena's own API describes it."""
    storage = glue.get("StorageDescriptor") or StorageDescriptor()
    serde = storage.get("SerdeInfo") or SerdeInfo()
    parameters = dict(glue.get("Parameters") or {})
    for name, value in (("location", storage.get("Location")), ("inputformat", storage.get("InputFormat")),
                        ("outputformat", storage.get("OutputFormat")),
                        ("serde.serialization.lib", serde.get("SerializationLibrary"))):  # fmt: skip
        parameters |= {name: value} if value else {}
    parameters |= {f"serde.param.{name}": value for name, value in (serde.get("Parameters") or {}).items()}

    def shown(columns: list[GlueColumn]) -> list[dict[str, str]]:
        return [{key: one[key] for key in ("Name", "Type", "Comment") if one.get(key)} for one in columns]

    return {
        "Name": glue["Name"],
        "TableType": glue.get("TableType", ""),
        "Parameters": parameters,
        "Columns": shown(storage.get("Columns") or []),
        "PartitionKeys": shown(glue.get("PartitionKeys") or []),
        **({"CreateTime": glue["CreateTime"]} if "CreateTime" in glue else {}),
    }
