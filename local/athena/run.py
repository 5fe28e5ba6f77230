"""One query execution: its permissions, its objects, and its rows or its new table, by DuckDB.

DuckDB reaches the objects in scope and nothing else on this machine. Its errors come in Athena's words.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/fine-grained-access-to-glue-resources.html
"""

from __future__ import annotations

import inspect
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from duckdb.func import SPECIAL

from local.athena.analysis import Analysis, Scan
from local.athena.calls import Result, Scope
from local.athena.catalog import answer, information
from local.athena.create import NewTable, compute, find_target
from local.athena.functions import MACROS, SETTINGS
from local.athena.scan import JSON_MACROS, define_view, prune, sql_list
from local.athena.syntax import Missing, Node, bind, parse, place
from local.athena.tables import DataFile, QueryFailed, Table
from local.athena.text import show
from local.athena.types import Type
from local.athena.values import FUNCTIONS
from local.catalog import GlueTable
from local.ministack import AccessDenied, Emulator

Json = dict[str, Any]

DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "memory_limit": "1GB",
    "temp_directory": "",
    "threads": 2,
}


ROWS_AT_ONCE = 10_000


class BytesScannedLimitExceeded(Exception):
    """The objects in scope are larger than the work group lets one query read: the query ends as CANCELLED."""


@dataclass
class Execution:
    """A query execution. `rows` hold Athena's text forms, None for NULL; times are epoch seconds; `principal` is the
    calling role's session, or empty for the account's root."""

    sql: str
    database: str
    parameters: list[str]
    work_group: str
    configuration: Json
    output_location: str
    identifier: str
    principal: str = ""
    kind: str = "DML"
    state: str = "QUEUED"
    reason: str = ""
    error_category: int = 0
    submitted: float = field(default_factory=time.time)
    started: float = 0.0
    completed: float = 0.0
    bytes_scanned: int = 0
    columns: list[tuple[str, Type]] = field(default_factory=list)
    rows: list[list[str | None]] = field(default_factory=list)
    created: NewTable | None = None
    connection: duckdb.DuckDBPyConnection | None = None


class Permissions:
    """The caller's permissions. Each method raises QueryFailed with AWS's sentence."""

    def __init__(self, emulator: Emulator, principal: str) -> None:
        self.emulator, self.principal = emulator, principal

    def demand(self, action: str, *resources: str, prefix: str = "") -> None:
        """An action on each of the resources; the account's root may do everything."""
        try:
            for resource in resources if self.principal else ():
                self.emulator.authorize_session(self.principal, action, resource, prefix)
        except AccessDenied as denied:
            raise QueryFailed(f"Insufficient permissions to execute the query. {denied}") from None

    def demand_glue(self, action: str, database: str, table: str = "") -> None:
        """Glue asks for the catalog, the database and the table, each by itself."""
        prefix = f"arn:aws:glue:{self.emulator.region}:{self.emulator.account}"
        tables = [f"{prefix}:table/{database}/{table}"] * bool(table)
        self.demand(f"glue:{action}", f"{prefix}:catalog", f"{prefix}:database/{database}", *tables)

    def demand_table(self, database: str, name: str, table: Table) -> None:
        """A table's entry in the catalog."""
        self.demand_glue("GetDatabase", database)
        self.demand_glue("GetTable", database, name)
        if table.is_registered():
            self.demand_glue("GetPartitions", database, name)

    def demand_key(self, bucket: str, *actions: str) -> None:
        """The KMS key of a bucket's objects, where it has one."""
        if key := self.emulator.bucket_key(bucket):
            for action in actions:
                self.demand(action, key)

    def demand_read(self, table: Table, files: list[DataFile]) -> None:
        """The list of a table's objects, and the objects a query reads."""
        bucket, _, prefix = table.location.removeprefix("s3://").partition("/")
        self.demand("s3:ListBucket", f"arn:aws:s3:::{bucket}", prefix=prefix)
        self.demand("s3:GetObject", *(f"arn:aws:s3:::{file.path.removeprefix('s3://')}" for file in files))
        self.demand_key(bucket, "kms:Decrypt")

    def demand_creation(self, created: NewTable) -> None:
        """A new table with its partitions and objects."""
        self.demand_glue("CreateTable", created.database, created.name)
        if created.partitions:
            self.demand_glue("BatchCreatePartition", created.database, created.name)
        self.demand("s3:ListBucket", f"arn:aws:s3:::{created.bucket}")
        self.demand("s3:PutObject", *(f"arn:aws:s3:::{created.bucket}/{key}" for key in created.objects))
        self.demand_key(created.bucket, "kms:GenerateDataKey", "kms:Decrypt")


def run(execution: Execution, emulator: Emulator) -> None:
    """Run a query to its end; a new table is computed, and nothing of it is written yet.

    Raises QueryFailed, or BytesScannedLimitExceeded before anything is read.
    """
    try:
        run_query(execution, emulator)
    except (ValueError, Missing) as error:
        raise QueryFailed(str(error)) from None
    except RecursionError:
        raise QueryFailed(str(Missing("statements that are nested this deeply"))) from None


def run_query(execution: Execution, emulator: Emulator) -> None:
    sql = bind(execution.sql, execution.parameters)
    statement = parse(sql)
    permissions = Permissions(emulator, execution.principal)
    # Whatever the statement reads: AWS calls this one mandatory.
    permissions.demand_glue("GetDatabase", "default")
    permissions.demand("s3:PutObject", f"arn:aws:s3:::{execution.output_location.removeprefix('s3://')}")
    permissions.demand_key(execution.output_location.split("/")[2], "kms:GenerateDataKey", "kms:Decrypt")
    if target := find_target(statement, execution.database):
        permissions.demand_glue("GetDatabase", target.database)
        target.check(execution.configuration, execution.output_location, emulator)
        statement = statement["query"]
    elif statement.kind != "query":
        names, rows = answer(
            statement, execution.database, emulator, lambda node: find_glue(sql, node, execution.database, permissions)
        )
        execution.columns, execution.rows = [(name, Type("string")) for name in names], [list(row) for row in rows]
        return
    tables: dict[tuple[str, str], Table] = {}

    def find(node: Node) -> Result | tuple[tuple[str, str], Table]:
        key = table_key(sql, node, execution.database)
        if key[0] == "information_schema":
            return information(key[1], emulator)
        if key not in tables:
            tables[key] = find_table(sql, node, key, emulator)
            permissions.demand_table(*key, tables[key])
        return key, tables[key]

    analysis = Analysis(sql, datetime.fromtimestamp(execution.submitted, UTC).replace(tzinfo=None), find)
    result = analysis.query(statement, Scope())
    if target:
        target.check_names(result.columns)
    refusals: list[str] = []
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(config=DUCKDB) as connection:
        execution.connection, scratch = connection, Path(folder)
        try:
            define_functions(connection, analysis, result.sql, refusals)
            readable = define_views(connection, analysis.scans, execution, permissions, scratch)
            # From here on the query reaches its own objects and nothing else on this machine.
            connection.execute(f"SET allowed_directories = {sql_list([str(scratch)])}")
            connection.execute(f"SET allowed_paths = {sql_list(readable)}; SET enable_external_access = false")
            if target:
                execution.created = compute(connection, result.sql, result.columns, target, scratch)
                permissions.demand_creation(execution.created)
            else:
                fetch(connection, result.sql, result.columns, execution)
            if refusals:  # a TRY has caught it
                raise QueryFailed(refusals[0])
        except duckdb.Error as error:
            raise failure(error, refusals) from None
        finally:
            execution.connection = None


def define_functions(connection: duckdb.DuckDBPyConnection, analysis: Analysis, sql: str, refusals: list[str]) -> None:
    """The macros and the functions of Python in the SQL. To define all would take longer than most queries."""
    connection.execute(SETTINGS)
    if not all(scan.table.is_parquet for scan in analysis.scans):
        sql = f"{sql}\n{JSON_MACROS}"
    macros = []
    for name, macro in reversed(MACROS.items()):
        if re.search(rf"\b{name}\b", sql):
            macros.append(macro)
            sql = f"{sql}\n{macro}"
    functions = {**FUNCTIONS, **analysis.udfs}
    for name in functions.keys() & {*re.findall(r"\bpy_\w+", sql)}:
        function, arguments, returned = functions[name]
        made = guarded(function, len(arguments), name.startswith("py_null_"), refusals)
        connection.create_function(name, made, [*arguments], returned, null_handling=SPECIAL)
    for macro in reversed(macros):
        connection.execute(f"CREATE MACRO {macro}")


def define_views(
    connection: duckdb.DuckDBPyConnection,
    scans: list[Scan],
    execution: Execution,
    permissions: Permissions,
    scratch: Path,
) -> list[str]:
    """A view for each scan, over the files in scope; returns the paths of these."""
    tables = {scan.name: scan.table for scan in scans}
    files = {name: table.files(permissions.emulator) for name, table in tables.items()}
    in_scope = [prune(connection, scan.table, files[scan.name], scan.alias, scan.conditions) for scan in scans]
    execution.bytes_scanned = sum(file.size for chosen in in_scope for file in chosen)
    if execution.bytes_scanned > execution.configuration.get("BytesScannedCutoffPerQuery", float("inf")):
        raise BytesScannedLimitExceeded
    readable: list[str] = []
    for number, (scan, chosen) in enumerate(zip(scans, in_scope, strict=True)):
        permissions.demand_read(scan.table, chosen)
        readable += define_view(connection, f"scan_{number}", scan.table, chosen, scratch)
    return readable


def guarded(function: Callable[..., Any], count: int, takes_null: bool, refusals: list[str]) -> Any:
    """A function for DuckDB, NULL of NULL. Missing ends the query, even within a TRY."""

    def call(*arguments: Any) -> Any:
        if not takes_null:
            for argument in arguments:
                if argument is None:
                    return None
        try:
            return function(*arguments)
        except Missing as error:
            refusals.append(str(error))
            raise
        except RecursionError:
            raise QueryFailed("INVALID_FUNCTION_ARGUMENT: the value is nested too deeply") from None

    named = [inspect.Parameter(f"a{n}", inspect.Parameter.POSITIONAL_ONLY) for n in range(count)]
    call.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]  # DuckDB counts the parameters
    return call


def table_key(sql: str, node: Node, database: str) -> tuple[str, str]:
    """The database and the name of a table."""
    parts = [part.lower() for part in node["name"]]
    if len(parts) > 3 or (len(parts) == 3 and parts[0] != "awsdatacatalog"):
        raise QueryFailed(f"CATALOG_NOT_FOUND: {place(sql, node.at)}: Catalog '{parts[0]}' does not exist")
    if parts[-1].endswith(("$partitions", "$properties", "$history", "$files")):
        raise Missing(f"the table {parts[-1]}")
    return (parts[-2] if len(parts) > 1 else database, parts[-1])


def find_glue(sql: str, node: Node, database: str, permissions: Permissions) -> GlueTable:
    """A table in the catalog, for SHOW or DESCRIBE."""
    key = table_key(sql, node, database)
    permissions.demand_glue("GetTable", *key)
    if (glue := permissions.emulator.glue_table(*key)) is None:
        raise QueryFailed(f"FAILED: SemanticException [Error 10001]: Table not found {'.'.join(key)}")
    return glue


def find_table(sql: str, node: Node, key: tuple[str, str], emulator: Emulator) -> Table:
    """A table read by a statement."""
    name = ".".join(key)
    if (glue := emulator.glue_table(*key)) is not None:
        return Table(name, glue)
    where = place(sql, node.at)
    if len(node["name"]) > 1 and not emulator.has_database(key[0]):
        raise QueryFailed(f"SCHEMA_NOT_FOUND: {where}: Schema '{key[0]}' does not exist")
    raise QueryFailed(f"TABLE_NOT_FOUND: {where}: Table 'awsdatacatalog.{name}' does not exist")


def fetch(
    connection: duckdb.DuckDBPyConnection, sql: str, columns: list[tuple[str, Type]], execution: Execution
) -> None:
    """Run the SQL and keep the result in Athena's text forms."""
    cursor = connection.execute(sql)
    execution.columns = [(name or f"_col{number}", kind) for number, (name, kind) in enumerate(columns)]
    kinds = [kind for _, kind in columns]
    while execution.state == "RUNNING" and (rows := cursor.fetchmany(ROWS_AT_ONCE)):
        execution.rows += [[show(value, kind) for value, kind in zip(row, kinds, strict=True)] for row in rows]


# A pattern in DuckDB's message, and Athena's reason; {0} is the pattern's group.
FAILURES = {
    r"((?:HIVE_\w+|INVALID_\w+|NOT_SUPPORTED|NUMERIC_\w+): .+)": "{0}",
    r"^(No files found that match .+|Cannot open file .+)": "HIVE_CANNOT_OPEN_SPLIT: Error opening Hive split",
    r"^(No magic bytes|File .+ too small to be a Parquet|TProtocol)": "HIVE_BAD_DATA: Malformed Parquet file",
    r"(?i)(decompression failure|GZIP stream)": "HIVE_CURSOR_ERROR: The compressed data is damaged or ends too soon",
    r"^((?i:Malformed JSON|Map keys must be unique).*)": "HIVE_CURSOR_ERROR: Row is not a valid JSON Object",
    r"(Division by zero)": "DIVISION_BY_ZERO: Division by zero",
    r"(More than one row returned)": "SUBQUERY_MULTIPLE_ROWS: Scalar sub-query has returned multiple rows",
    r"(as base64|from base64)": "INVALID_FUNCTION_ARGUMENT: Illegal base64 text",
    r"Casting value \"(.+)\" to type DECIMAL": "INVALID_CAST_ARGUMENT: Cannot cast '{0}' to the decimal type",
    r"^Could not (?:convert string|cast value) ['\"]?(.*?)['\"]? to": "INVALID_CAST_ARGUMENT: Cannot cast '{0}'",
    r"^Overflow in (\w+) of (?:INT128|DECIMAL)": "NUMERIC_VALUE_OUT_OF_RANGE: Decimal overflow",
    r"^Overflow in .+ \((.+)\)!": "NUMERIC_VALUE_OUT_OF_RANGE: integer overflow: {0}",
    r"(?i)(date field value|timestamp field value)": "INVALID_CAST_ARGUMENT: Value cannot be cast to date or timestamp",
    r"^Overflow on (.+)": "NUMERIC_VALUE_OUT_OF_RANGE: Value is out of range for {0}",
    r"(out of range)": "NUMERIC_VALUE_OUT_OF_RANGE: A value is out of range",
}


def failure(error: duckdb.Error, refusals: list[str]) -> QueryFailed:
    """DuckDB's error in Athena's words."""
    if refusals:
        return QueryFailed(refusals[0])
    message = str(error).split("\n", 1)[0].partition("Error: ")[2] or str(error)
    for pattern, reason in FAILURES.items():
        if caught := re.search(pattern, message):
            return QueryFailed(reason.format(caught[1]))
    if isinstance(error, duckdb.OutOfMemoryException):
        return QueryFailed("EXCEEDED_LOCAL_MEMORY_LIMIT: Query exhausted resources at this scale factor")
    return QueryFailed(str(Missing("this combination of clauses and functions")))
