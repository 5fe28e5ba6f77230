"""One Athena query, from its text to its rows: what `local.athena` runs.

The SQL is parsed as Athena's and bound to the Glue columns by Trino's rules of scope and type, partition projection
finds the objects in scope, and sqlglot writes DuckDB's SQL, where TRANSLATIONS mends the functions that mean something
else there. What is not implemented is refused by name, not guessed; errors come in Athena's words, with their place.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/partition-projection.html and
https://docs.aws.amazon.com/athena/latest/ug/openx-json-serde.html
"""

from __future__ import annotations

import re
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import cramjam
import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import OptimizeError, ParseError, TokenError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope
from sqlglot.schema import MappingSchema

from local.emulator import Emulator

Json = dict[str, Any]


class QueryFailed(Exception):
    """A query ends as FAILED for this reason. Error category 1 is the system's fault, 2 the user's."""

    def __init__(self, reason: str, category: int = 2) -> None:
        super().__init__(reason)
        self.category = category


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
}
DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "memory_limit": "1GB",
    "temp_directory": "",
    "threads": 2,
}
PREAMBLE = """
SET TimeZone = 'UTC';
SET integer_division = true;
CREATE MACRO athena_json_extract_scalar(j, path) AS CASE
    WHEN json_valid(j) AND json_type(j, path) NOT IN ('OBJECT', 'ARRAY') THEN json_extract_string(j, path) END;
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
REFUSED = {exp.ILike: "ILIKE", exp.Qualify: "QUALIFY", exp.AtTimeZone: "AT TIME ZONE", exp.Lateral: "LATERAL"}
ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)
KINDS = {
    **dict.fromkeys(exp.DataType.TEXT_TYPES, "text"),
    **dict.fromkeys(exp.DataType.NUMERIC_TYPES, "number"),
    **dict.fromkeys(exp.DataType.TEMPORAL_TYPES, "time"),
    exp.DataType.Type.BOOLEAN: "boolean",
}


def parse(sql: str) -> exp.Expr:
    """Parse one SELECT or WITH statement. Raises ValueError, which StartQueryExecution answers at once."""
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
    if not isinstance(statements[0], exp.Query):
        what = " ".join(sql.split()[:2])
        raise ValueError(f"Queries of this type are not supported: the local Athena runs SELECT and WITH (got {what})")
    for token in casts:
        raise ValueError(f"line {token.line}:{token.col - 1}: mismatched input '::' (write CAST(x AS type))")
    for node in statements[0].find_all(*REFUSED):
        raise ValueError(f"The local Athena does not support {REFUSED[type(node)]}: {node.sql('athena')}")
    return statements[0]


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
    statement = annotate_types(statement, schema=schema, dialect="athena")
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
        elif isinstance(node, exp.Div):
            node.set("typed", False)  # integers divide to integers by the setting in PREAMBLE
        elif isinstance(node, exp.Add | exp.Sub | exp.DateAdd | exp.DateTrunc | exp.TimestampTrunc):
            kinds = (node.type, node.this.type if isinstance(node, exp.TimestampTrunc) else None)
            if any(kind and kind.this is exp.DataType.Type.DATE for kind in kinds):
                new = exp.cast(node.copy(), "DATE")  # a date stays a date; DuckDB makes it a timestamp
        if new is not node:
            new.type = node.type
            node.replace(new)


# --- The tables: Glue's columns, partition projection -----------------------------------------------------------------

COLUMN_TYPES = {"string": "VARCHAR", "int": "INTEGER"} | {
    name: name.upper() for name in ("double", "bigint", "boolean", "date", "timestamp")
}
# The Parquet types, as DuckDB calls them, that Athena reads into a column of another name.
PARQUET_TYPES = {
    "VARCHAR": {"BLOB"},
    "BIGINT": {"INTEGER"},
    "DOUBLE": {"FLOAT"},
    "TIMESTAMP": {"TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"},
}
PARQUET_SERDE = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
JSON_SERDE = "org.openx.data.jsonserde.JsonSerDe"
DATE_FIELDS = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}
Values = tuple[str, Callable[[str], bool]]


@dataclass(frozen=True)
class DataFile:
    """An object of a table: its file on disk, its s3:// path, its size in bytes, the values of its partition."""

    file: Path
    path: str
    size: int
    partition: tuple[str, ...]


class Table:
    """A Glue table as Athena reads it. `columns` and `keys` (the partition's) map lower-case names to DuckDB types."""

    def __init__(self, name: str, glue: Json) -> None:
        self.name, self.parameters = name, glue.get("Parameters") or {}
        storage = glue["StorageDescriptor"]
        serde = storage.get("SerdeInfo") or {}
        options = {key.lower(): str(value).lower() for key, value in (serde.get("Parameters") or {}).items()}
        self.ignores_malformed = options.pop("ignore.malformed.json", "false") == "true"
        self.columns, self.keys = self._types(storage["Columns"]), self._types(glue.get("PartitionKeys") or [])
        self.location = storage["Location"].rstrip("/") + "/"
        self.is_parquet = serde.get("SerializationLibrary") == PARQUET_SERDE
        if not glue.get("TableType"):
            raise QueryFailed("FAILED: NullPointerException Name is null (the Glue table has no TableType)")
        if not self.is_parquet and serde.get("SerializationLibrary") != JSON_SERDE:
            raise self._unsupported(f"the SerDe {serde.get('SerializationLibrary')}")
        for option in options.items() - {("case.insensitive", "true"), ("serialization.format", "1")}:
            raise self._unsupported(f"the SerDe parameter {'='.join(option)}")

    def _unsupported(self, what: str) -> QueryFailed:
        return QueryFailed(f"NOT_SUPPORTED: the local Athena does not implement {what} (table {self.name})")

    def _types(self, columns: list[Json]) -> dict[str, str]:
        for column in columns:
            if column["Type"].lower() not in COLUMN_TYPES:
                raise self._unsupported(f"the type {column['Type']} of column {column['Name']}")
        return {column["Name"].lower(): COLUMN_TYPES[column["Type"].lower()] for column in columns}

    def files(self, emulator: Emulator) -> list[DataFile]:
        """Every object in the range of the partition projection; what lies outside is not seen, without a word, as on
        AWS. Objects whose name begins with _ or . are hidden."""
        template, values = self._projection()
        bucket, _, key_template = template.removeprefix("s3://").partition("/")
        parts = re.split(r"\$\{(\w+)}", key_template)  # text, column, text, column, ... text
        groups = [f"(?P<{part}>{values[part][0]})" if i % 2 else re.escape(part) for i, part in enumerate(parts)]
        found = []
        for key, file in emulator.object_paths(bucket, parts[0][: parts[0].rfind("/") + 1]):
            match = re.match("".join(groups), key)
            if match and not any(part[:1] in ("_", ".") for part in key[match.end() :].split("/")):
                size, partition = file.stat().st_size, tuple(match[column] for column in self.keys)
                if size and all(values[column][1](match[column]) for column in self.keys):
                    found.append(DataFile(file, f"s3://{bucket}/{key}", size, partition))
        return found

    def _projection(self) -> tuple[str, dict[str, Values]]:
        """The template of a partition's location, and what values each partition column can have."""
        if not self.keys:
            return self.location, {}
        if self.parameters.get("projection.enabled", "").lower() != "true":
            raise self._unsupported("partitions without projection.enabled=true")
        default = self.location + "".join(f"{key}=${{{key}}}/" for key in self.keys)
        template = self.parameters.get("storage.location.template", default)
        if not template.endswith("/") or set(re.findall(r"\$\{(\w+)}", template)) != set(self.keys):
            raise QueryFailed(
                f"HIVE_METASTORE_ERROR: Table {self.name}: storage.location.template must hold every partition column "
                f"and end with a slash (got '{template}')"
            )
        return template, {key: self._values(key) for key in self.keys}

    def _option(self, key: str, name: str) -> str:
        if (value := self.parameters.get(f"projection.{key}.{name}")) is None:
            raise QueryFailed(
                f"HIVE_METASTORE_ERROR: Table {self.name} is configured for partition projection, but the partition "
                f"column '{key}' is missing projection configuration: projection.{key}.{name}"
            )
        return str(value)

    def _values(self, key: str) -> Values:
        """A pattern for the values of a partition column, and the test whether one is in its range."""
        kind = self._option(key, "type").lower()
        if self.parameters.get(f"projection.{key}.interval", "1") != "1":
            raise self._unsupported(f"projection.{key}.interval other than 1")
        if kind == "enum":
            enumerated = self._option(key, "values").split(",")
            return "|".join(map(re.escape, enumerated)), enumerated.__contains__
        if kind != "date":
            raise self._unsupported(f"projection.{key}.type={kind}")
        fields = re.findall(r"[A-Za-z]+|[^A-Za-z]+", self._option(key, "format"))
        if unknown := [part for part in fields if part.isalpha() and part not in DATE_FIELDS]:
            raise self._unsupported(f"{unknown[0]} in projection.{key}.format")
        if "HH" in fields:
            self._option(key, "interval")  # has a default for days and months only
        layout = "".join(DATE_FIELDS.get(part, part) for part in fields)
        start, end = (self._date(text.strip(), layout) for text in self._option(key, "range").split(","))

        def is_in_range(text: str) -> bool:
            try:
                return start <= datetime.strptime(text, layout) <= end
            except ValueError:
                return False

        return "".join(rf"\d{{{len(p)}}}" if p in DATE_FIELDS else re.escape(p) for p in fields), is_in_range

    def _date(self, text: str, layout: str) -> datetime:
        """One end of a range: a date in the column's own format, or NOW (in UTC) with an offset such as NOW+1DAYS."""
        if not text.startswith("NOW"):
            return datetime.strptime(text, layout)
        offset = re.fullmatch(r"NOW(?:([+-]\d+)(WEEK|DAY|HOUR|MINUTE|SECOND)S?)?", text.replace(" ", ""))
        if not offset:
            raise self._unsupported(f"the date {text}")
        moment = datetime.now(UTC) + timedelta(**{f"{(offset[2] or 'DAY').lower()}s": int(offset[1] or 0)})
        return datetime.strptime(moment.strftime(layout), layout)


# --- One query in DuckDB ----------------------------------------------------------------------------------------------


@dataclass
class Execution:
    """A query execution. `rows` hold Athena's text forms, None for NULL; times are epoch seconds."""

    sql: str
    database: str
    parameters: list[str]
    work_group: str
    configuration: Json
    output_location: str
    identifier: str
    state: str = "QUEUED"
    reason: str = ""
    error_category: int = 0
    submitted: float = field(default_factory=time.time)
    started: float = 0.0
    completed: float = 0.0
    bytes_scanned: int = 0
    columns: list[tuple[str, str]] = field(default_factory=list)
    rows: list[list[str | None]] = field(default_factory=list)
    connection: duckdb.DuckDBPyConnection | None = None


def run(execution: Execution, emulator: Emulator) -> None:
    """Run a query to its end. Raises QueryFailed, or BytesScannedLimitExceeded before anything is read."""
    sql = bind(execution.sql, execution.parameters)
    statement = normalize_identifiers(parse(sql), dialect="athena")
    tables: dict[tuple[str, str], Table] = {}
    for scope in traverse_scope(statement):
        for reference in scope.tables:
            if reference.db or reference.name not in scope.cte_sources:
                bind_table(sql, reference, execution.database, tables, emulator)
    statement = analyse(sql, statement, tables)
    translate(statement, datetime.fromtimestamp(execution.submitted, UTC))
    files = {key: table.files(emulator) for key, table in tables.items()}
    with tempfile.TemporaryDirectory() as scratch, duckdb.connect(config=DUCKDB) as connection:
        execution.connection = connection
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
                readable += define_view(connection, f"scan_{number}", table, in_scope, Path(scratch))
                source.set("this", exp.to_identifier(f"scan_{number}"))
                source.set("db", None)
            # From here on the query reaches its own objects and nothing else on this machine.
            connection.execute(f"SET allowed_paths = {sql_list(readable)}; SET enable_external_access = false")
            fetch(connection, statement.sql(dialect="duckdb"), execution)
        except duckdb.Error as error:
            raise failure(sql, error) from None
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


def prune(
    connection: duckdb.DuckDBPyConnection, table: Table, files: list[DataFile], scope: Scope, alias: str
) -> list[DataFile]:
    """The files whose partition can match: every condition of the WHERE clause that reads nothing but partition columns
    is asked of the list of partitions."""
    select, where = scope.expression, scope.expression.args.get("where")
    # An outer join finds rows by what is missing: there, reading less could find more.
    if not where or not files or any(join.side for join in select.args.get("joins") or []):
        return files
    conditions = []
    for condition in where.this.flatten() if isinstance(where.this, exp.And) else [where.this]:
        columns = list(condition.find_all(exp.Column))
        is_of_partition = all(column.table == alias and column.name in table.keys for column in columns)
        if columns and is_of_partition and not condition.find(exp.Query):
            conditions.append(f"({condition.sql(dialect='duckdb')})")
    partitions = sorted({file.partition for file in files})
    values = ", ".join(f"CAST(unnest(?) AS {kind}) AS {quoted(key)}" for key, kind in table.keys.items())
    matching = connection.execute(
        f"SELECT number FROM (SELECT unnest(?) AS number{', ' * bool(values)}{values}) AS {quoted(alias)} "
        f"WHERE {' AND '.join(conditions) or 'true'}",
        [list(range(len(partitions))), *map(list, zip(*partitions, strict=True))],
    ).fetchall()
    in_scope = {partitions[number] for (number,) in matching}
    return [file for file in files if file.partition in in_scope]


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return exp.to_identifier(name, quoted=True).sql(dialect="duckdb")


def sql_list(values: list[str]) -> str:
    """Texts as an SQL list."""
    return f"[{', '.join(exp.Literal.string(value).sql(dialect='duckdb') for value in values)}]"


def define_view(
    connection: duckdb.DuckDBPyConnection, view: str, table: Table, files: list[DataFile], scratch: Path
) -> list[str]:
    """Show the files as one relation of the Glue columns, the partition columns and "$path"; returns what it reads."""
    readable = [plain_file(file, scratch) for file in files]
    names = ["$file", "$path", *table.keys]
    rows = [(name, file.path, *file.partition) for name, file in zip(readable, files, strict=True)]
    connection.execute(
        f"CREATE TABLE {view}_files AS SELECT {', '.join(f'unnest(?::VARCHAR[]) AS {quoted(n)}' for n in names)}",
        list(map(list, zip(*rows, strict=True))) if rows else [[] for _ in names],
    )
    # The columns that no file has are NULL.
    sources = [f"SELECT {', '.join(f'NULL AS {quoted(n)}' for n in ('$file', *table.columns))} WHERE false"]
    if table.is_parquet and files:
        options = "union_by_name = true, hive_partitioning = false, filename = '$file'"
        sources.append(f"SELECT * FROM read_parquet({sql_list(readable)}, {options})")
        for name, kind, *_ in connection.execute(f"DESCRIBE {sources[1]}").fetchall():
            wanted = table.columns.get(name.lower(), kind)
            if kind not in {wanted} | PARQUET_TYPES.get(wanted, set()):
                raise QueryFailed(
                    f"HIVE_BAD_DATA: Field {name}'s type {kind} in parquet file is incompatible with type "
                    f"{wanted.lower()} defined in table schema (table {table.name})"
                )
    if not table.is_parquet:
        for compression, paths in groupby(sorted(readable, key=compression_of), compression_of):
            sources.append(json_source(table, sql_list(list(paths)), compression))
    columns = [f"CAST(data.{quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in table.columns.items()]
    columns += [f"CAST(files.{quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in table.keys.items()]
    connection.execute(
        f'CREATE VIEW {view} AS SELECT {", ".join(columns)}, "$path" FROM '
        f'({" UNION ALL BY NAME ".join(sources)}) AS data JOIN {view}_files AS files ON data."$file" = files."$file"'
    )
    return readable


def json_source(table: Table, paths: str, compression: str) -> str:
    """The rows of JSON lines as the OpenX SerDe reads them: keys in any case, each value as its column's type."""
    fields = []
    for name, kind in table.columns.items():
        value = f"object['{name}']"
        parsed = f"TRY_CAST({value} AS {kind})"
        if kind == "TIMESTAMP":
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
    """A path that DuckDB can read: the object itself, or what was in Hadoop's Snappy container."""
    if not file.path.endswith(".snappy"):
        return str(file.file)
    plain = scratch / f"{uuid.uuid4()}.json"
    plain.write_bytes(hadoop_snappy(file.file.read_bytes()))
    return str(plain)


def hadoop_snappy(data: bytes) -> bytes:
    """Decompress Hadoop's Snappy: blocks, each its plain size and the chunks that make it up; a chunk is its compressed
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
    names = {"HUGEINT": "bigint", "BLOB": "varbinary", '"NULL"': "unknown", "STRUCT": "row"}
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
            return f"[{', '.join(show(item) or 'null' for item in value)}]"
        case dict():
            return "{" + ", ".join(f"{show(key)}={show(item) or 'null'}" for key, item in value.items()) + "}"
    return str(value)


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
    r"^(HIVE_\w+: .+)": "{0}",
    r"^((?i:Malformed JSON|Map keys must be unique).*)": "HIVE_CURSOR_ERROR: Row is not a valid JSON Object: {0}",
    r"(Division by zero)": "DIVISION_BY_ZERO: {0}",
    r'column "(.+?)" must appear in the GROUP BY': (
        "EXPRESSION_NOT_AGGREGATE: {1}: '{0}' must be an aggregate expression or appear in GROUP BY clause"
    ),
    r"Function with name (\w+) does not exist": "FUNCTION_NOT_FOUND: {1}: Function '{0}' not registered",
    r"^(Could not convert .+)": "INVALID_CAST_ARGUMENT: {0}",
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
