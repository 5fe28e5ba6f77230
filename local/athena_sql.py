"""From Athena's SQL to DuckDB's.

A statement is parsed as Athena's and bound to the Glue columns by Trino's rules of scope and type. Sqlglot writes
DuckDB's SQL; TRANSLATIONS and PREAMBLE mend the functions that mean something else there. What is not implemented is
refused by name, not guessed; errors come in Athena's words, with their place.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/functions.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.dialects.athena import Athena
from sqlglot.errors import OptimizeError, ParseError, TokenError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema

from local.athena_create import find_target
from local.athena_tables import QueryFailed, Table
from local.athena_text import show

Json = dict[str, Any]


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
