"""One query execution: who may read what, which objects it reads, and its rows or its new table, by DuckDB.

DuckDB reaches the objects in scope and nothing else on this machine. Its errors come in Athena's words.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/fine-grained-access-to-glue-resources.html
"""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from sqlglot import exp
from sqlglot.errors import ErrorLevel, UnsupportedError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.scope import traverse_scope

from local.athena_create import NewTable, compute, find_target
from local.athena_scan import define_view, prune, sql_list
from local.athena_sql import PREAMBLE, analyse, bind, parse, place, translate
from local.athena_tables import DataFile, QueryFailed, Table
from local.athena_text import result_type, show
from local.emulator import AccessDenied, Emulator

Json = dict[str, Any]

DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "memory_limit": "1GB",
    "temp_directory": "",
    "threads": 2,
}


class BytesScannedLimitExceeded(Exception):
    """The objects in scope are larger than the work group lets one query read: the query ends as CANCELLED."""


@dataclass
class Execution:
    """A query execution. `rows` hold Athena's text forms, None for NULL; times are epoch seconds; `principal` is the
    session of the role that asks, or empty for the account's root."""

    sql: str
    database: str
    parameters: list[str]
    work_group: str
    configuration: Json
    output_location: str
    identifier: str
    principal: str = ""
    is_ddl: bool = False
    state: str = "QUEUED"
    reason: str = ""
    error_category: int = 0
    submitted: float = field(default_factory=time.time)
    started: float = 0.0
    completed: float = 0.0
    bytes_scanned: int = 0
    columns: list[tuple[str, str]] = field(default_factory=list)
    rows: list[list[str | None]] = field(default_factory=list)
    created: NewTable | None = None
    connection: duckdb.DuckDBPyConnection | None = None


class Permissions:
    """What the one who asks is allowed. Each method raises QueryFailed with AWS's sentence."""

    def __init__(self, emulator: Emulator, principal: str) -> None:
        self.emulator, self.principal = emulator, principal

    def demand(self, action: str, *resources: str) -> None:
        """An action on each of the resources; the account's root may do everything."""
        try:
            for resource in resources if self.principal else ():
                self.emulator.authorize_session(self.principal, action, resource)
        except AccessDenied as denied:
            raise QueryFailed(f"Insufficient permissions to execute the query. {denied}") from None

    def demand_glue(self, action: str, database: str, table: str = "") -> None:
        """Glue asks for the catalog, the database and the table, each by itself."""
        prefix = f"arn:aws:glue:{self.emulator.region}:{self.emulator.account}"
        tables = [f"{prefix}:table/{database}/{table}"] * bool(table)
        self.demand(f"glue:{action}", f"{prefix}:catalog", f"{prefix}:database/{database}", *tables)

    def demand_table(self, database: str, name: str, table: Table) -> None:
        """What the catalog says of a table."""
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
        """The list of a table's objects, and those that a query reads."""
        self.demand("s3:ListBucket", f"arn:aws:s3:::{table.location.split('/')[2]}")
        self.demand("s3:GetObject", *(f"arn:aws:s3:::{file.path.removeprefix('s3://')}" for file in files))
        self.demand_key(table.location.split("/")[2], "kms:Decrypt")

    def demand_creation(self, created: NewTable) -> None:
        """A new table with its partitions and objects."""
        self.demand_glue("CreateTable", created.database, created.name)
        if created.partitions:
            self.demand_glue("BatchCreatePartition", created.database, created.name)
        self.demand("s3:ListBucket", f"arn:aws:s3:::{created.bucket}")
        self.demand("s3:PutObject", *(f"arn:aws:s3:::{created.bucket}/{key}" for key in created.objects))
        self.demand_key(created.bucket, "kms:GenerateDataKey", "kms:Decrypt")


def run(execution: Execution, emulator: Emulator) -> None:
    """Run a query to its end; a table that it creates is computed, and nothing of it is written yet.

    Raises QueryFailed, or BytesScannedLimitExceeded before anything is read.
    """
    sql = bind(execution.sql, execution.parameters)
    statement = normalize_identifiers(parse(sql), dialect="athena")
    permissions = Permissions(emulator, execution.principal)
    permissions.demand("s3:PutObject", f"arn:aws:s3:::{execution.output_location.removeprefix('s3://')}")
    permissions.demand_key(execution.output_location.split("/")[2], "kms:GenerateDataKey", "kms:Decrypt")
    if target := find_target(statement, execution.database):
        permissions.demand_glue("GetDatabase", target.database)
        target.check(execution.configuration, execution.output_location, emulator)
        statement = statement.expression.pop()
        target.check_names(statement, lambda node: place(sql, node))
    tables: dict[tuple[str, str], Table] = {}
    for scope in traverse_scope(statement):
        for reference in scope.tables:
            if reference.db or reference.name not in scope.cte_sources:
                bind_table(sql, reference, execution.database, tables, emulator)
    for key, table in tables.items():
        permissions.demand_table(*key, table)
    statement = analyse(sql, statement, tables)
    translate(statement, datetime.fromtimestamp(execution.submitted, UTC))
    files = {key: table.files(emulator) for key, table in tables.items()}
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(config=DUCKDB) as connection:
        execution.connection, scratch = connection, Path(folder)
        try:
            connection.execute(PREAMBLE)
            scans = []
            for scope in traverse_scope(statement):
                for alias, (_, source) in scope.selected_sources.items():
                    if isinstance(source, exp.Table):
                        key = (source.db, source.name)
                        scans.append((source, tables[key], prune(connection, tables[key], files[key], scope, alias)))
            execution.bytes_scanned = sum(file.size for _, _, in_scope in scans for file in in_scope)
            if execution.bytes_scanned > execution.configuration.get("BytesScannedCutoffPerQuery", float("inf")):
                raise BytesScannedLimitExceeded
            readable: list[str] = []
            for number, (source, table, in_scope) in enumerate(scans):
                permissions.demand_read(table, in_scope)
                readable += define_view(connection, f"scan_{number}", table, in_scope, scratch)
                source.set("this", exp.to_identifier(f"scan_{number}"))
                source.set("db", None)
            # From here on the query reaches its own objects and nothing else on this machine.
            connection.execute(f"SET allowed_directories = {sql_list([str(scratch)])}")
            connection.execute(f"SET allowed_paths = {sql_list(readable)}; SET enable_external_access = false")
            translated = statement.sql(dialect="duckdb", unsupported_level=ErrorLevel.RAISE)
            if target:
                execution.created = compute(connection, translated, target, scratch)
                permissions.demand_creation(execution.created)
            else:
                fetch(connection, translated, execution)
        except duckdb.Error as error:
            raise failure(sql, error) from None
        except UnsupportedError as error:
            raise QueryFailed(f"NOT_SUPPORTED: the local Athena does not translate this: {error}") from None
        finally:
            execution.connection = None


def bind_table(sql: str, reference: exp.Table, database: str, tables: Any, emulator: Emulator) -> None:
    """Find a table that a statement reads in the Glue catalog, and write its database into the reference."""
    if not isinstance(reference.this, exp.Identifier) or reference.catalog not in ("", "awsdatacatalog"):
        raise QueryFailed(f"NOT_SUPPORTED: {place(sql, reference)}: {reference.sql('athena')} is not in the catalog")
    key = (reference.db or database, reference.name)
    name = ".".join(key)
    if (glue := emulator.glue_table(*key)) is None:
        raise QueryFailed(f"TABLE_NOT_FOUND: {place(sql, reference)}: Table 'awsdatacatalog.{name}' does not exist")
    tables.setdefault(key, Table(name, glue))
    reference.set("catalog", None)
    reference.set("db", exp.to_identifier(key[0], quoted=True))


def fetch(connection: duckdb.DuckDBPyConnection, sql: str, execution: Execution) -> None:
    """Run the SQL and keep the result in Athena's text forms."""
    described = [(name, kind) for name, kind, *_ in connection.execute(f"DESCRIBE {sql}").fetchall()]
    names = [f"column_{number}" for number in range(len(described))]
    # Python gets a TIMESTAMP WITH TIME ZONE, always in UTC here, as one without.
    zoned = ["TIME ZONE" in kind for _, kind in described]
    shown = [f"CAST({name} AS TIMESTAMP)" if zone else name for name, zone in zip(names, zoned, strict=True)]
    rows = connection.execute(f"SELECT {', '.join(shown)} FROM ({sql}) AS result({', '.join(names)})").fetchall()
    execution.columns = [(name, result_type(kind)) for name, kind in described]
    execution.rows = [
        [f"{show(value)} UTC" if zone and value else show(value) for value, zone in zip(row, zoned, strict=True)]
        for row in rows
    ]


# A pattern in DuckDB's message, and the reason that Athena gives; {0} is what the pattern caught, {1} its place.
FAILURES = {
    r"^((?:HIVE_\w+|INVALID_CAST_ARGUMENT|NOT_SUPPORTED): .+)": "{0}",
    r"^(No files found that match .+|Cannot open file .+)": "HIVE_CANNOT_OPEN_SPLIT: {0}",
    r"^((?i:Malformed JSON|Map keys must be unique).*)": "HIVE_CURSOR_ERROR: Row is not a valid JSON Object: {0}",
    r"(Division by zero)": "DIVISION_BY_ZERO: {0}",
    r'column "(.+?)" must appear in the GROUP BY': (
        "EXPRESSION_NOT_AGGREGATE: {1}: '{0}' must be an aggregate expression or appear in GROUP BY clause"
    ),
    r"Function with name (\w+) does not exist": "FUNCTION_NOT_FOUND: {1}: Function '{0}' not registered",
    r"^(Could not convert .+|Failed to cast value .+)": "INVALID_CAST_ARGUMENT: {0}",
    r"^(.+out of range.*)": "NUMERIC_VALUE_OUT_OF_RANGE: {0}",
}


def failure(sql: str, error: duckdb.Error) -> QueryFailed:
    """DuckDB's error in Athena's words."""
    message = str(error).split("\n", 1)[0].partition("Error: ")[2] or str(error)
    for pattern, reason in FAILURES.items():
        if caught := re.search(pattern, message):
            return QueryFailed(reason.format(caught[1], place(sql, caught[1].lower())))
    if isinstance(error, duckdb.BinderException | duckdb.InvalidInputException):
        return QueryFailed(f"TYPE_MISMATCH: line 1:1: {message}")
    return QueryFailed(f"GENERIC_INTERNAL_ERROR: {message}", 1)
