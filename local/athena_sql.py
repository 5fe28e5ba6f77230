"""One Athena query, from its text to its rows or its new table: what `local.athena` runs.

The SQL is parsed as Athena's and bound to the Glue columns by Trino's rules of scope and type, the tables' partitions
say which objects are in scope, and sqlglot writes DuckDB's SQL, where TRANSLATIONS mends the functions that mean
something else there. What is not implemented is refused by name, not guessed; errors come in Athena's words, with
their place.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/functions.html
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.dialects.athena import Athena
from sqlglot.errors import ErrorLevel, OptimizeError, ParseError, TokenError, UnsupportedError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import traverse_scope
from sqlglot.schema import MappingSchema

from local.athena_create import NewTable, compute, find_target
from local.athena_scan import define_view, prune, sql_list
from local.athena_tables import DataFile, QueryFailed, Table
from local.emulator import AccessDenied, Emulator

Json = dict[str, Any]


class BytesScannedLimitExceeded(Exception):
    """The objects in scope are larger than the work group lets one query read: the query ends as CANCELLED."""


# --- From Athena's SQL to DuckDB's ------------------------------------------------------------------------------------


def call(name: str, *arguments: exp.Expr) -> exp.Expr:
    """A call of a DuckDB function."""
    return exp.Anonymous(this=name, expressions=list(arguments))


# Where what sqlglot writes means something else in DuckDB than the function meant in Trino.
TRANSLATIONS: dict[type[exp.Expr], Callable[[Any], exp.Expr]] = {
    # Trino counts the whole units that have passed, DuckDB's date_diff the boundaries that were crossed.
    exp.DateDiff: lambda n: call("date_sub", exp.Literal.string(n.text("unit").lower()), n.expression, n.this),
    # NULL for text that is not JSON and for what is no scalar.
    exp.JSONExtractScalar: lambda n: call("athena_json_extract_scalar", n.this, n.expression),
    exp.JSONExtract: lambda n: call("athena_json_extract", n.this, n.expression),
    # DuckDB's arg_max passes over rows whose first argument is NULL.
    exp.ArgMax: lambda n: call("arg_max_null", n.this, n.expression),
    exp.ArgMin: lambda n: call("arg_min_null", n.this, n.expression),
    # DuckDB's own is NULL where every condition is NULL, Trino's is 0.
    exp.CountIf: lambda n: exp.Count(this=exp.case().when(n.this, exp.Literal.number(1))),
    # Trino's is exact for small numbers, DuckDB's is not.
    exp.ApproxDistinct: lambda n: exp.Count(this=exp.Distinct(expressions=[n.this])),
    # The result has the type of the argument.
    exp.ApproxQuantile: lambda n: call("approx_quantile", n.this, n.args["quantile"]),
    # Bytes that are not UTF-8 are replaced.
    exp.Decode: lambda n: call("decode", n.this, exp.Literal.string("replace")),
    # DuckDB keeps the moment and not the offset, which is a part of Trino's value.
    exp.FromISO8601Timestamp: lambda n: call(
        "athena_moment", n.this, exp.convert(isinstance(n.parent, exp.AtTimeZone))
    ),
    # Another zone than UTC stands under a CAST only, which leaves nothing but the clock on the wall there.
    exp.AtTimeZone: lambda n: (
        n.this if is_utc(n) else call("timezone", n.args["zone"], exp.cast(n.this, exp.DType.TIMESTAMPTZ))
    ),
}
# What Trino reads from text as a value of each type; DuckDB reads more, and '3.5' as 4.
TEXT_FORMS = {
    **dict.fromkeys(exp.DataType.INTEGER_TYPES, r"[+-]?\d+"),
    exp.DType.DATE: r"\s*\d{4}-\d{1,2}-\d{1,2}\s*",
    exp.DType.TIMESTAMP: r"\s*\d{4}-\d{1,2}-\d{1,2}( \d{1,2}:\d{1,2}(:\d{1,2}(\.\d+)?)?)?\s*",
}
DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "memory_limit": "1GB",
    "temp_directory": "",
    "threads": 2,
}
PREAMBLE = r"""
SET TimeZone = 'UTC';
SET integer_division = true;
CREATE MACRO athena_json_extract_scalar(j, path) AS CASE
    WHEN json_valid(j) AND json_type(j, path) NOT IN ('OBJECT', 'ARRAY') THEN json_extract_string(j, path) END;
CREATE MACRO athena_json_extract(j, path) AS CASE WHEN json_valid(j) THEN json_extract(j, path) END;
CREATE MACRO athena_json_text(j, strict) AS CASE WHEN json_type(j) NOT IN ('OBJECT', 'ARRAY') THEN j ->> '$'
    WHEN strict AND j IS NOT NULL THEN error('INVALID_CAST_ARGUMENT: Cannot cast ' || j || ' to varchar') END;
CREATE MACRO athena_text(value, form, strict, kind) AS CASE WHEN regexp_full_match(value, form) THEN value
    WHEN strict AND value IS NOT NULL
    THEN error('INVALID_CAST_ARGUMENT: Cannot cast ''' || value || ''' to ' || kind) END;
CREATE MACRO athena_moment(value, in_zone) AS CASE
    WHEN in_zone OR NOT regexp_matches(value, '[+-]\d\d:?\d\d$') OR regexp_matches(value, '[+-]00:?00$')
    THEN CAST(value AS TIMESTAMPTZ)
    ELSE error('NOT_SUPPORTED: the local Athena keeps no offset (got ' || value
        || '): write at_timezone(from_iso8601_timestamp(...), ''UTC'')') END;
CREATE MACRO athena_object(j, strict) AS CASE
    WHEN json_type(j) = 'OBJECT' THEN map_from_entries(list_transform(map_entries(CAST(j AS MAP(VARCHAR, JSON))),
        lambda e: {'key': lower(e.key), 'value': e.value ->> '$'}))
    WHEN strict THEN error('HIVE_CURSOR_ERROR: Row is not a valid JSON Object') END;
CREATE MACRO athena_field(value, parsed, name) AS CASE WHEN value IS NULL OR parsed IS NOT NULL THEN parsed
    ELSE error('HIVE_BAD_DATA: Error parsing field value ''' || value || ''' for field ' || name) END;
"""
# Functions that sqlglot has no class for and that DuckDB has under the same name with the same meaning.
SAME_IN_DUCKDB = {"bit_count", "geometric_mean", "json_array_length", "map_concat", "map_entries", "map_values"}
# What sqlglot reads and DuckDB runs, but Athena does not, or not with this meaning.
REFUSED = {exp.ILike: "ILIKE", exp.Qualify: "QUALIFY", exp.Lateral: "LATERAL", exp.Format: "format"}
TYPES: Any = Athena.EXPRESSION_METADATA | {exp.JSONExtract: {"returns": exp.DType.JSON}}
ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)
KINDS = {
    **dict.fromkeys(exp.DataType.TEXT_TYPES, "text"),
    **dict.fromkeys(exp.DataType.NUMERIC_TYPES, "number"),
    **dict.fromkeys(exp.DataType.TEMPORAL_TYPES, "time"),
    exp.DType.BOOLEAN: "boolean",
}


def is_utc(node: exp.AtTimeZone) -> bool:
    """Whether the zone is the one that every moment has here."""
    return node.text("zone") == "UTC"


def parse(sql: str) -> exp.Expr:
    """Parse one SELECT, WITH or CREATE TABLE AS statement. Raises ValueError, which StartQueryExecution answers."""
    try:
        casts = [token for token in sqlglot.tokenize(sql, read="athena") if token.text == "::"]
        statements = [statement for statement in sqlglot.parse(sql, read="athena") if statement]
    except ParseError as error:
        fault = error.errors[0]
        column = max(fault["col"] - len(fault["highlight"]), 0) + 1
        raise ValueError(f"line {fault['line']}:{column}: mismatched input '{fault['highlight']}'") from None
    except TokenError as error:
        raise ValueError(f"line 1:1: {error}") from None
    if len(statements) != 1:
        raise ValueError(f"Only one sql statement is allowed. Got: {sql[:200]}")
    statement = statements[0]
    if not isinstance(statement, exp.Query) and not find_target(statement):
        raise ValueError(
            "Queries of this type are not supported: the local Athena runs SELECT, WITH and CREATE TABLE AS "
            f"(got {' '.join(sql.split()[:2])})"
        )
    for token in casts:
        raise ValueError(f"line {token.line}:{token.col - 1}: mismatched input '::' (write CAST(x AS type))")
    for node in statement.find_all(*REFUSED):
        raise ValueError(f"The local Athena does not support {REFUSED[type(node)]}: {node.sql('athena')}")
    for function in list(statement.find_all(exp.Anonymous)):
        if function.name.lower() == "at_timezone" and len(function.expressions) == 2:
            moment, zone = function.expressions
            function.replace(exp.AtTimeZone(this=moment, zone=zone))
    for zoned in statement.find_all(exp.AtTimeZone):
        if not is_utc(zoned) and not isinstance(zoned.parent, exp.Cast):
            raise ValueError(
                "The local Athena supports other time zones than 'UTC' under CAST(... AS timestamp) or AS date alone: "
                f"{zoned.sql('athena')}"
            )
    return statement


def bind(sql: str, parameters: list[str]) -> str:
    """Put the execution parameters, each an SQL literal (text in single quotes), in place of the question marks."""
    places = [token for token in sqlglot.tokenize(sql, read="athena") if token.text == "?" and token.end == token.start]
    if len(places) != len(parameters):
        raise QueryFailed(
            "INVALID_PARAMETER_USAGE: line 1:1: Incorrect number of parameters: "
            f"expected {len(places)} but found {len(parameters)}"
        )
    for token, value in reversed(list(zip(places, parameters, strict=True))):
        try:
            is_constant = not sqlglot.parse_one(value, read="athena").find(exp.Column, exp.Query, exp.Command)
        except (ParseError, TokenError):
            is_constant = False
        if not is_constant:
            raise QueryFailed(
                "EXPRESSION_NOT_CONSTANT: line 1:1: Constant expression cannot contain column references: "
                f"{value} (as text it needs single quotes: '{value}')"
            )
        sql = sql[: token.start] + value + sql[token.end + 1 :]
    return sql


def place(sql: str, node: exp.Expr | str | None) -> str:
    """Where a node, or the first mention of a name, stands in the text as Trino says it: "line 1:8"."""
    if isinstance(node, str):
        names = parse(sql).find_all(exp.Identifier, exp.Anonymous)
        node = next((found for found in names if found.name.lower() == node), None)
    starts = [inner.meta["start"] for inner in (node.walk() if node else ()) if "start" in inner.meta]
    before = sql[: min(starts, default=0)]
    return f"line {before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def analyse(sql: str, statement: exp.Expr, tables: dict[tuple[str, str], Table]) -> exp.Expr:
    """Resolve every column and check types as Trino does: an alias is known to ORDER BY alone, and text is not compared
    with a number or a time without a CAST. Raises QueryFailed with the place in the text."""
    for function in statement.find_all(exp.Anonymous):
        if (name := function.name.lower()) not in SAME_IN_DUCKDB:
            raise QueryFailed(f"FUNCTION_NOT_FOUND: {place(sql, function)}: Function '{name}' not registered")
    # Trino names a column without a name by its position; sqlglot would name some after their argument.
    for number, projection in enumerate(statement.selects if isinstance(statement, exp.Query) else []):
        if not isinstance(projection, exp.Alias | exp.Column | exp.Star):
            projection.replace(exp.alias_(projection.copy(), f"_col{number}"))
    types: Json = {}
    visible: Json = {}
    for (database, name), table in tables.items():
        types.setdefault(database, {})[name] = {**table.columns, **table.keys, "$path": "VARCHAR"}
        visible.setdefault(database, {})[name] = [*table.columns, *table.keys]
    schema = MappingSchema(types, visible, dialect="athena")
    names = [node.copy() for node in statement.find_all(exp.Identifier)]
    try:
        statement = qualify(statement, dialect="athena", schema=schema, expand_alias_refs=False)
    except OptimizeError as error:
        fault = re.search(r"Column '\"?(.+?)\"?' .*Line: (\d+), Col: (\d+)", str(error))
        if not fault:
            raise QueryFailed(f"SYNTAX_ERROR: line 1:1: {error}") from None
        found = (n for n in names if (n.meta.get("line"), n.meta.get("col")) == (int(fault[2]), int(fault[3])))
        where = place(sql, next(found, fault[1]))
        raise QueryFailed(f"COLUMN_NOT_FOUND: {where}: Column '{fault[1]}' cannot be resolved") from None
    for column in (column for having in statement.find_all(exp.Having) for column in having.find_all(exp.Column)):
        if not column.table:
            raise QueryFailed(f"COLUMN_NOT_FOUND: {place(sql, column)}: Column '{column.name}' cannot be resolved")
    statement = annotate_types(statement, schema=schema, dialect="athena", expression_metadata=TYPES)
    for node in statement.find_all(exp.Between, exp.In, exp.Predicate, exp.DPipe, *ARITHMETIC):
        refuse_mixed_types(sql, node)
    return statement


def refuse_mixed_types(sql: str, node: exp.Expr) -> None:
    """Trino converts nothing by itself; DuckDB reads '2026-01-01' as a time when it is compared with one."""
    if isinstance(node, exp.In | exp.Between):
        operands = [node.this, *node.expressions, *(node.args[key] for key in ("low", "high") if key in node.args)]
    else:
        operands = [node.this, node.expression] if isinstance(node, exp.Binary) else []
    typed = [operand.type for operand in operands if operand.type and KINDS.get(operand.type.this)]
    kinds = {KINDS[kind.this] for kind in typed}
    is_mixed = len(kinds) > 1 and ("text" in kinds or not isinstance(node, ARITHMETIC))
    if is_mixed or (isinstance(node, exp.DPipe) and kinds - {"text"}):
        words = [kind.sql("athena").lower() for kind in typed]
        if isinstance(node, exp.Between):
            reason = f"Cannot check if {words[0]} is BETWEEN {' and '.join(words[1:])}"
        elif isinstance(node, exp.In):
            reason = f"IN value and list items must be the same type or coercible to a common type: {', '.join(words)}"
        else:
            sign = node.sql("athena").removeprefix(node.this.sql("athena")).removesuffix(node.expression.sql("athena"))
            reason = f"Cannot apply operator: {f' {sign.strip()} '.join(words)}"
        raise QueryFailed(f"TYPE_MISMATCH: {place(sql, node)}: {reason}")


def translate(statement: exp.Expr, now: datetime) -> None:
    """Turn an analysed statement into one for DuckDB, in place. Time stands still during a query, at `now` (UTC)."""
    clock: dict[type[exp.Expr], tuple[str, str]] = {
        exp.CurrentTimestamp: ("TIMESTAMPTZ", "+00:00"),
        exp.Localtimestamp: ("TIMESTAMP", ""),
    }
    for node in reversed(list(statement.walk())):  # from the inside out: what replaces a node takes its children along
        new = node
        if type(node) in clock:
            kind, zone = clock[type(node)]
            new = exp.cast(exp.Literal.string(f"{show(now)}{zone}"), kind)
        elif isinstance(node, exp.CurrentDate):
            new = exp.cast(exp.Literal.string(f"{now:%Y-%m-%d}"), "DATE")
        elif type(node) in TRANSLATIONS:
            new = TRANSLATIONS[type(node)](node)
        elif isinstance(node, exp.Cast):
            translate_cast(node)
        elif isinstance(node, exp.GenerateSeries) and is_of(node.args["start"], exp.DType.DATE):
            new = exp.cast(node.copy(), "DATE[]")  # dates stay dates
        elif isinstance(node, exp.Div):
            node.set("typed", False)  # integers divide to integers by the setting in PREAMBLE
        elif isinstance(node, exp.Add | exp.Sub | exp.DateAdd | exp.DateTrunc | exp.TimestampTrunc):
            kinds = (node.type, node.this.type if isinstance(node, exp.TimestampTrunc) else None)
            if any(kind and kind.this is exp.DType.DATE for kind in kinds):
                new = exp.cast(node.copy(), "DATE")  # a date stays a date; DuckDB makes it a timestamp
        if new is not node:
            new.type = node.type
            node.replace(new)


def is_of(node: exp.Expr, *kinds: exp.DType) -> bool:
    """Whether an analysed expression is known to have one of these types."""
    return node.type is not None and node.type.this in kinds


def translate_cast(node: exp.Cast) -> None:
    """Mend what a CAST or TRY_CAST reads where DuckDB converts otherwise than Trino does, in place."""
    value, kind, is_strict = node.this, node.to.this, not isinstance(node, exp.TryCast)
    if kind in TEXT_FORMS and is_of(value, *exp.DataType.TEXT_TYPES):
        form, words = TEXT_FORMS[kind], node.to.sql("athena").lower()
        node.set("this", call("athena_text", value, *map(exp.convert, (form, is_strict, words))))
    elif kind in exp.DataType.INTEGER_TYPES and is_of(value, *exp.DataType.REAL_TYPES):
        node.set("this", call("round", value))  # half away from zero, not to the even neighbour
    elif kind in exp.DataType.TEXT_TYPES and is_of(value, exp.DType.JSON):
        node.set("this", call("athena_json_text", value, exp.convert(is_strict)))
    elif kind in exp.DataType.TEXT_TYPES and is_of(value, exp.DType.TIMESTAMP) and value.find(exp.Column):
        node.set("this", call("strftime", value, exp.Literal.string("%Y-%m-%d %H:%M:%S.%g")))


# --- One query in DuckDB ----------------------------------------------------------------------------------------------


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

    def demand_read(self, table: Table, files: list[DataFile]) -> None:
        """The list of a table's objects, and those that a query reads."""
        self.demand("s3:ListBucket", f"arn:aws:s3:::{table.location.split('/')[2]}")
        self.demand("s3:GetObject", *(f"arn:aws:s3:::{file.path.removeprefix('s3://')}" for file in files))

    def demand_creation(self, created: NewTable) -> None:
        """A new table with its partitions and objects."""
        self.demand_glue("CreateTable", created.database, created.name)
        if created.partitions:
            self.demand_glue("BatchCreatePartition", created.database, created.name)
        self.demand("s3:ListBucket", f"arn:aws:s3:::{created.bucket}")
        self.demand("s3:PutObject", *(f"arn:aws:s3:::{created.bucket}/{key}" for key in created.objects))


def run(execution: Execution, emulator: Emulator) -> None:
    """Run a query to its end; a table that it creates is computed, and nothing of it is written yet.

    Raises QueryFailed, or BytesScannedLimitExceeded before anything is read.
    """
    sql = bind(execution.sql, execution.parameters)
    statement = normalize_identifiers(parse(sql), dialect="athena")
    permissions = Permissions(emulator, execution.principal)
    permissions.demand("s3:PutObject", f"arn:aws:s3:::{execution.output_location.removeprefix('s3://')}")
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


def result_type(kind: str) -> str:
    """Athena's name for a DuckDB type."""
    names = {
        "TIMESTAMP_S": "timestamp",
        "TIMESTAMP_MS": "timestamp",
        "HUGEINT": "bigint",
        "BLOB": "varbinary",
        '"NULL"': "unknown",
        "STRUCT": "row",
    }
    kind = "array" if kind.endswith("]") else kind.partition("(")[0]
    return names.get(kind, kind.lower())


def show(value: Any) -> str | None:
    """A value as Athena writes it in a result: 100.0, 1.0E7, 2026-01-01 00:00:00.000, [1, 2], {a=1}."""
    match value:
        case None | str():
            return value
        case bool():
            return str(value).lower()
        case float():
            return java_double(value)
        case Decimal():
            return f"{value:f}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03}"
        case date():
            return value.isoformat()
        case bytes():
            return value.hex(" ")
        case list():
            return f"[{', '.join(map(show_item, value))}]"
        case dict():
            return "{" + ", ".join(f"{show(key)}={show_item(item)}" for key, item in value.items()) + "}"
    return str(value)


def show_item(value: Any) -> str:
    """A value inside another."""
    shown = show(value)
    return "null" if shown is None else shown


def java_double(value: float) -> str:
    """A double as Java's Double.toString writes it: 100.0, 0.001, 1.0E7, 1.5E-4, Infinity, NaN."""
    if value != value or abs(value) == float("inf"):
        return str(value).replace("nan", "NaN").replace("inf", "Infinity")
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    fraction = "".join(map(str, digits[1:])) or "0"
    return f"{'-' * sign}{digits[0]}.{fraction}E{int(exponent) + len(digits) - 1}"


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
