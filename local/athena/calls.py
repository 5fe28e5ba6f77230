"""Functions, casts and operators: the types they take and return, and their DuckDB SQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

from local.athena import types as t
from local.athena.functions import (
    AGGREGATE_FUNCTIONS,
    CASTS,
    SCALAR_FUNCTIONS,
    TRINO,
    TRINO_FAMILIES,
    WINDOW_FUNCTIONS,
    Signature,
    split_types,
)
from local.athena.syntax import Missing, Node, place
from local.athena.tables import QueryFailed
from local.athena.values import (
    cast_from_json,
    from_text,
    histogram,
    java_format,
    map_of,
    sequence_of_moments,
    text_of_cast,
    to_json,
    zone_name,
)

UNITS = ("millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year")
# Aggregates with the same result under DISTINCT.
IDEMPOTENT = ("min", "max", "bool_and", "bool_or", "every", "arbitrary", "any_value", "approx_distinct")
# Forms of the grammar, with their numbers of arguments.
FORMS_COUNT = {"if": (2, 3), "nullif": (2,), "try": (1,), "coalesce": range(2, 9999)}
# Types for which Trino may have signatures missing here.
UNSURE = ("real", "uuid", "varbinary", "unknown", t.DAYS, t.MONTHS)
# Trino's other types.
OTHER_TYPES = ("char", "time", "time with time zone", "ipaddress", "hyperloglog", "qdigest", "tdigest", "geometry")


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class Column:
    """A column in scope. For a partition column, `key` is the number of its scan."""

    qualifier: tuple[str, ...]
    name: str
    type: t.Type
    sql: str
    hidden: bool = False
    key: int | None = None


@dataclass(frozen=True)
class Typed:
    """An expression in DuckDB's SQL."""

    sql: str
    type: t.Type


Columns = list[tuple[str, t.Type]]


@dataclass
class Result:
    """A query in DuckDB's SQL, or its alias, and its columns: their names and types."""

    sql: str
    columns: Columns


@dataclass
class Grouping:
    """A GROUP BY: the scope of its input, and the columns of its output by their SQL over the input."""

    inner: Scope
    alias: str
    keys: dict[str, Typed] = field(default_factory=dict)
    aggregates: dict[str, Typed] = field(default_factory=dict)


@dataclass
class Scope:
    """The names an expression can use, and its place in the statement."""

    columns: list[Column] = field(default_factory=list)
    parent: Scope | None = None
    variables: dict[str, Typed] = field(default_factory=dict)
    depth: int = 0
    grouping: Grouping | None = None
    windows: dict[str, Node] = field(default_factory=dict)
    outputs: list[tuple[str, Typed]] = field(default_factory=list)
    clause: str = ""
    names: dict[str, Result] = field(default_factory=dict)

    def find(self, name: str) -> Result | None:
        """The query of a WITH around here."""
        return self.names.get(name) or (self.parent.find(name) if self.parent else None)


@dataclass
class Call:
    """A function with its arguments, as they were matched with a signature."""

    node: Node
    signature: Signature
    arguments: list[Typed]
    bound: dict[str, t.Type]
    window: str = ""

    @property
    def types(self) -> list[t.Type]:
        return [argument.type for argument in self.arguments]

    @property
    def sqls(self) -> list[str]:
        return [argument.sql for argument in self.arguments]


def utc(value: Typed) -> str:
    """The moment of a timestamp with a time zone, to compare and group by; any other value as it is."""
    return f"{value.sql}.utc" if value.type.name == t.ZONED else value.sql


def wall(value: Typed) -> str:
    """A value's time by the clock: midnight for a date."""
    if value.type.name == t.ZONED:
        return f"athena_wall({value.sql})"
    return f"CAST({value.sql} AS TIMESTAMP)" if value.type.name == "date" else value.sql


def at_wall(sql: str, value: Typed) -> str:
    """The moment of this clock time in the zone of a value."""
    if value.type.name != t.ZONED:
        return sql
    return f"athena_at_wall({sql}, {value.sql}.zone)"


class Calls:
    """Compiles functions, casts and operators. `udfs` are DuckDB functions for this statement alone."""

    def __init__(self, sql: str, now: datetime) -> None:
        self.sql, self.now = sql, now.replace(microsecond=now.microsecond // 1000 * 1000)
        self.udfs: dict[str, tuple[Callable[..., Any], list[str], str]] = {}
        self.names: dict[str, str] = {}
        self.numbered = 0

    def value(self, node: Node, scope: Scope) -> Typed:
        raise NotImplementedError

    def error(self, name: str, node: Node, reason: str) -> QueryFailed:
        return QueryFailed(f"{name}: {place(self.sql, node.at)}: {reason}")

    def fail(self, name: str, node: Node, reason: str) -> NoReturn:
        raise self.error(name, node, reason)

    def mismatch(self, node: Node, reason: str) -> NoReturn:
        self.fail("TYPE_MISMATCH", node, reason)

    def alias(self, letter: str = "r") -> str:
        self.numbered += 1
        return f"{letter}{self.numbered}"

    def udf(self, purpose: str, function: Callable[..., Any], arguments: list[t.Type], result: t.Type) -> str:
        """A DuckDB function of the statement's own; the same one for the same purpose."""
        key = repr((purpose, getattr(function, "keywords", {}), arguments, result))
        if key not in self.names:
            self.names[key] = f"py_{purpose}_{len(self.udfs)}"
            self.udfs[self.names[key]] = (function, [one.duckdb for one in arguments], result.duckdb)
        return self.names[key]

    # --- Conversions

    def coerce(self, value: Typed, kind: t.Type) -> Typed:
        """A value as one of a wider type."""
        of = value.type
        if of.name == "unknown":
            return replace(value, sql=f"CAST(NULL AS {kind.duckdb})", type=kind)
        if kind.name == t.ZONED and of.name != t.ZONED:
            return replace(value, sql=f"athena_zoned(CAST({value.sql} AS TIMESTAMP), 'UTC')", type=kind)
        if of == kind or of.duckdb == kind.duckdb:
            return replace(value, type=kind)
        if of.items:
            return replace(value, sql=self.within(value, kind, self.coerce), type=kind)
        return replace(value, sql=f"CAST({value.sql} AS {kind.duckdb})", type=kind)

    def within(self, value: Typed, kind: t.Type, change: Callable[[Typed, t.Type], Typed]) -> str:
        """An array, map or row with its items changed to those of a type."""
        of, sql = value.type, value.sql
        if of.name == "array":
            return self.each(sql, lambda item: change(Typed(item, of.items[0]), kind.items[0]).sql)
        names = ("k", "v") if of.name == "map" else [f"f{n}" for n in range(len(of.items))]

        def struct(one: str) -> str:
            items = zip(names, of.items, kind.items, strict=True)
            fields = (f"{n} := {change(Typed(f'{one}.{n}', a), b).sql}" for n, a, b in items)
            return f"CASE WHEN {one} IS NOT NULL THEN struct_pack({', '.join(fields)}) END"

        return self.each(sql, struct) if of.name == "map" else f"({struct(sql)})"

    def each(self, sql: str, change: Callable[[str], str]) -> str:
        name = self.alias("e")
        return f"list_transform({sql}, lambda {name}: {change(name)})"

    def unify(self, values: list[Typed], node: Node, reason: str) -> tuple[list[Typed], t.Type]:
        """Values as ones of their common type."""
        kind: t.Type | None = t.UNKNOWN
        for value in values:
            before, kind = kind, t.common(kind or t.UNKNOWN, value.type)
            if kind is None:
                self.mismatch(node, f"{reason} Cannot find common type between {before} and {value.type}")
        made = kind or t.UNKNOWN
        return [self.coerce(value, made) for value in values], made

    def type_of(self, node: Node) -> t.Type:
        """A type as it is written."""
        name, items = {"int": "integer"}.get(node["name"], node["name"]), node["items"]
        if name == "row":
            kinds = tuple(self.type_of(one["type"]) for one in items)
            return t.Type("row", kinds, fields=tuple(one["name"] or "" for one in items))
        if name in ("array", "map") and all(isinstance(item, Node) for item in items):
            return t.Type(name, tuple(map(self.type_of, items)))
        if name == "decimal":
            precision, scale = [*items, 0][:2] if items else (t.MAX_DIGITS, 0)
            if not 1 <= precision <= t.MAX_DIGITS or not 0 <= scale <= precision:
                self.mismatch(node, f"DECIMAL precision must be in range [1, 38] and scale in [0, {precision}]")
            return t.decimal(precision, scale)
        if name in ("timestamp", t.ZONED):
            precision = items[0] if items else 3
            if precision > 6:
                raise Missing(f"{name} with more than 6 decimals")
            return t.timestamp(precision) if name == "timestamp" else t.zoned("", precision)
        if name == "varchar":
            return t.varchar(items[0]) if items else t.VARCHAR
        if name in OTHER_TYPES:
            raise Missing(f"the type {name}")
        if items or name not in t.DUCKDB:
            self.mismatch(node, f"Unknown type: {name}")
        return t.Type(name)

    def cast(self, value: Typed, kind: t.Type, node: Node) -> Typed:
        """CAST, as the white list allows it."""
        of = value.type
        if of.name == "unknown" or (of == kind and of.name not in ("varchar", t.ZONED)):
            return self.coerce(value, kind)
        if of.items and of.name == kind.name and len(of.items) == len(kind.items):
            return Typed(self.within(value, kind, lambda item, to: self.cast(item, to, node)), kind)
        template = CASTS.get((of.name, kind.name))
        if template is None and {"uuid", "varbinary"} & {of.name, kind.name}:
            raise Missing(f"CAST from {of} to {kind}")
        if template is None:
            self.mismatch(node, f"Cannot cast {of} to {kind}")
        if template.startswith("!"):
            made: str = getattr(self, f"cast_{template[1:]}")(value, kind)
        else:
            made = template.format(value.sql, to=kind.duckdb, wall=wall(value), size=(*kind.size, 0)[0])
        if kind.name == t.ZONED:
            kind = replace(kind, zone=of.zone if of.name == t.ZONED else "" if of.name == "varchar" else "UTC")
        return Typed(f"({made})", kind)

    def cast_from_text(self, value: Typed, kind: t.Type) -> str:
        return f"{self.udf('from_text', partial(from_text, kind=kind), [t.VARCHAR], kind)}({value.sql})"

    def cast_from_json(self, value: Typed, kind: t.Type) -> str:
        return f"{self.udf('json', partial(cast_from_json, kind=kind), [t.VARCHAR], kind)}({value.sql})"

    def cast_to_json(self, value: Typed, kind: t.Type) -> str:
        return f"{self.udf('json', partial(to_json, kind=value.type), [value.type], t.VARCHAR)}({value.sql})"

    def cast_to_text(self, value: Typed, kind: t.Type) -> str:
        text = self.text(value)
        if not kind.size:
            return text
        if value.type.name == "varchar":
            return f"left({text}, {kind.size[0]})"
        wrong = f"py_fail('INVALID_CAST_ARGUMENT: Value cannot be represented as {kind}')"
        return f"CASE WHEN length({text}) <= {kind.size[0]} THEN {text} WHEN {text} IS NOT NULL THEN {wrong} END"

    def text(self, value: Typed) -> str:
        """A value as CAST makes text of it."""
        of = value.type
        if of.name in ("double", "real", "decimal", "timestamp", t.ZONED, t.DAYS, t.MONTHS):
            return f"{self.udf('text', partial(text_of_cast, kind=of), [of], t.VARCHAR)}({value.sql})"
        return f"CAST({value.sql} AS VARCHAR)"

    def boolean(self, value: Typed, node: Node, what: str) -> Typed:
        """A condition."""
        if value.type.name not in ("boolean", "unknown"):
            self.mismatch(node, f"{what} must evaluate to a boolean (actual: {value.type})")
        return self.coerce(value, t.BOOLEAN)

    # --- Operators

    def comparison(self, operator: str, left: Typed, right: Typed, node: Node) -> Typed:
        """A comparison of two values of a common type."""
        operator = "<>" if operator == "!=" else operator
        kind = t.common(left.type, right.type)
        if kind is None or (operator not in ("=", "<>") and not kind.is_orderable):
            self.mismatch(node, f"Cannot apply operator: {left.type} {operator} {right.type}")
        one, other = self.coerce(left, kind), self.coerce(right, kind)
        if kind.name == "row":
            if operator not in ("=", "<>"):
                raise Missing("rows that are compared by order")
            pairs = [
                self.comparison("=", Typed(f"{one.sql}.f{n}", of), Typed(f"{other.sql}.f{n}", of), node).sql
                for n, of in enumerate(kind.items)
            ]
            made = " AND ".join(pairs)
            return Typed(f"({made})" if operator == "=" else f"(NOT ({made}))", t.BOOLEAN)
        if kind.name in ("array", "map"):
            if kind.name == "map" or kind.items[0].items:
                raise Missing(f"the comparison of values of {kind}")
            nulls = f"athena_has_null({one.sql}) OR athena_has_null({other.sql})"
            fault = f"CAST(py_missing('the comparison of arrays with NULL', {nulls}) AS BOOLEAN)"
            made = f"CASE WHEN {nulls} THEN {fault} ELSE {one.sql} {operator} {other.sql} END"
            return Typed(f"({made})", t.BOOLEAN)
        made = f"{utc(one)} {operator} {utc(other)}"
        if kind.name in ("double", "real"):
            made += "".join(f" AND NOT isnan({x.sql})" for x in (one, other) if "(" in x.sql and operator != "<>")
            if operator == "<>" and ("(" in one.sql or "(" in other.sql):
                made = f"{made} OR isnan({one.sql})"
        return Typed(f"({made})", t.BOOLEAN)

    def arithmetic(self, operator: str, left: Typed, right: Typed, node: Node) -> Typed:
        """left + right, and the like."""
        a, b = left.type, right.type
        if "unknown" in (a.name, b.name):
            known = b if a.name == "unknown" else a
            if known.name not in t.NUMBERS:
                raise Missing(f"{a} {operator} {b}")
            left, right = self.coerce(left, known), self.coerce(right, known)
            a = b = known
        if a.name in t.NUMBERS and b.name in t.NUMBERS:
            made = self.number(operator, left, right, node)
        else:
            found = self.moments(operator, left, right, node)
            if found is None:
                self.mismatch(node, f"Cannot apply operator: {a} {operator} {b}")
            made = found
        return replace(made, sql=f"({made.sql})")

    def number(self, operator: str, left: Typed, right: Typed, node: Node) -> Typed:
        kind = t.common(left.type, right.type) or t.DOUBLE
        if kind.name == "decimal":
            return self.decimals(operator, left, right)
        one, other = (self.coerce(side, kind).sql for side in (left, right))
        if kind.name in ("double", "real"):
            function = {"/": "athena_divide", "%": "athena_mod"}.get(operator)
            made = f"{function}({one}, {other})" if function else f"{one} {operator} {other}"
            return Typed(f"CAST({made} AS FLOAT)" if kind == t.REAL else made, kind)
        return Typed(f"{one} {'//' if operator == '/' else operator} {other}", kind)

    def decimals(self, operator: str, left: Typed, right: Typed) -> Typed:
        """Decimals with the digits of Trino: a quotient has the larger scale, rounded half up."""
        (p, s), (q, r) = t.digits(left.type), t.digits(right.type)
        scale = max(s, r)
        if operator in ("+", "-"):
            kind = t.decimal(max(p - s, q - r) + scale + 1, scale)
            one, other = (f"CAST({side.sql} AS {kind.duckdb})" for side in (left, right))
            return Typed(f"CAST({one} {operator} {other} AS {kind.duckdb})", kind)
        left, right = (self.coerce(side, t.decimal(*t.digits(side.type))) for side in (left, right))
        if operator == "*":
            if s + r > t.MAX_DIGITS:
                reason = f"DECIMAL scale must be in range [0, precision (38)]: {s + r}"
                raise QueryFailed(f"INVALID_FUNCTION_ARGUMENT: {reason}")
            kind = t.decimal(p + q, s + r)
            return Typed(f"CAST({left.sql} * {right.sql} AS {kind.duckdb})", kind)
        if operator == "%":
            kind = t.decimal(min(p - s, q - r) + scale, scale)
            wide = t.decimal(max(p - s, q - r) + scale, scale).duckdb
            return Typed(f"CAST(CAST({left.sql} AS {wide}) % CAST({right.sql} AS {wide}) AS {kind.duckdb})", kind)
        kind = t.decimal(p + r + max(r - s, 0), scale)
        shift = scale - s + r
        if shift + p > t.MAX_DIGITS:
            raise Missing(f"a quotient of {left.type} and {right.type}")
        quotient = f"athena_quotient({unscaled(left)} * {10**shift}::HUGEINT, {unscaled(right)})"
        return Typed(rescaled(quotient, kind), kind)

    def moments(self, operator: str, left: Typed, right: Typed, node: Node) -> Typed | None:
        """Arithmetic with dates, timestamps and intervals."""
        a, b = left.type.name, right.type.name
        intervals = (t.DAYS, t.MONTHS)
        if a in intervals and b in intervals and a == b and operator in "+-":
            return Typed(f"{left.sql} {operator} {right.sql}", left.type)
        if operator == "*" and a in t.NUMBERS and b in intervals:
            return self.moments("*", right, left, node)
        if a in intervals and b in t.NUMBERS and operator in "*/":
            if b in t.INTEGERS and operator == "*":
                return Typed(f"{left.sql} * {right.sql}", left.type)
            by = self.coerce(right, t.DOUBLE).sql
            return Typed(f"CAST(trunc({left.sql} {operator} {by}) AS BIGINT)", left.type)
        if a in intervals and b in ("date", "timestamp", t.ZONED) and operator == "+":
            return self.moments("+", right, left, node)
        if a in ("date", "timestamp", t.ZONED) and b in intervals and operator in "+-":
            unit = "to_milliseconds" if b == t.DAYS else "to_months"
            amount = f"{unit}({operator if operator == '-' else ''}{right.sql}{'' if b == t.DAYS else '::INTEGER'})"
            if a == "date":
                if b == t.DAYS:
                    fault = "py_fail('INVALID_FUNCTION_ARGUMENT: Cannot add hour, minutes or seconds to a date')"
                    amount = (
                        f"CASE WHEN {right.sql} % 86400000 = 0 THEN {amount} ELSE to_days(CAST({fault} AS INTEGER)) END"
                    )
                return Typed(f"CAST({left.sql} + {amount} AS DATE)", t.DATE)
            made = self.later(left, amount, b == t.MONTHS)
            size = (max(left.type.size[0], 3 if b == t.DAYS else 0),)
            return replace(made, type=replace(left.type, size=size))
        if operator == "-" and a == b == "date":
            return Typed(f"CAST({left.sql} - {right.sql} AS BIGINT) * 86400000", t.Type(t.DAYS))
        if operator == "-" and {a, b} <= {"date", "timestamp", t.ZONED}:
            kind = t.common(left.type, right.type) or t.timestamp()
            one, other = (utc(self.coerce(side, kind)) for side in (left, right))
            return Typed(f"(epoch_us({one}) - epoch_us({other})) // 1000", t.Type(t.DAYS))
        return None

    # --- Functions

    def call(self, node: Node, scope: Scope) -> Typed:
        """A call of a scalar function."""
        name = node["name"]
        if name not in SCALAR_FUNCTIONS:
            raise self.unknown_function(node)
        if name in FORMS_COUNT and len(node["arguments"]) not in FORMS_COUNT[name]:
            self.fail("SYNTAX_ERROR", node, f"Invalid number of arguments for '{name}' function")
        if node["order"] or node["filter"] or node["distinct"] or node["star"] or node["nulls"]:
            self.fail("FUNCTION_NOT_AGGREGATE", node, f"ORDER BY, FILTER and DISTINCT are for aggregates: {name}")
        return self.render(self.match(SCALAR_FUNCTIONS[name], node, scope))

    def unknown_function(self, node: Node) -> QueryFailed:
        """The error for a function in no table. Raises Missing if Trino has it."""
        name = node["name"]
        if name in TRINO or TRINO_FAMILIES.fullmatch(name) or name in WINDOW_FUNCTIONS or name in AGGREGATE_FUNCTIONS:
            raise Missing(f"the function {name}")
        return self.error("FUNCTION_NOT_FOUND", node, f"Function '{name}' not registered")

    def match(self, signatures: list[Signature], node: Node, scope: Scope) -> Call:
        """The call by the first signature for the arguments' types, else by the first for wider types."""
        given: list[Typed | None] = [
            None if one.kind == "lambda" else self.value(one, scope) for one in node["arguments"]
        ]
        for exact in (True, False):
            for signature in signatures:
                if found := self.bind(signature, given, node, scope, exact):
                    return found
        if node["name"] in FORMS_COUNT:
            self.mismatch(node, f"The arguments of {node['name']} have no common type")
        shown = ", ".join("function" if one is None else str(one.type) for one in given)
        name = node["name"]
        is_counted = any(len(one.patterns(len(given))) == len(given) for one in signatures)
        if not is_counted or any(one is None or one.type.name in UNSURE for one in given):
            raise Missing(f"the function {name} of ({shown})")
        raise self.error("FUNCTION_NOT_FOUND", node, f"Unexpected parameters ({shown}) for function {name}")

    def bind(
        self, signature: Signature, given: list[Typed | None], node: Node, scope: Scope, exact: bool
    ) -> Call | None:
        patterns = signature.patterns(len(given))
        if [value is None for value in given] != [pattern.startswith("f(") for pattern in patterns]:
            return None
        bound: dict[str, t.Type] = {}
        arguments: list[Typed | None] = []
        pairs = list(zip(patterns, given, strict=True))
        before: dict[str, t.Type] | None = None
        while before != bound:  # until every variable has its widest type
            before = dict(bound)
            kinds = [None if value is None else fit(pattern, value.type, bound, exact) for pattern, value in pairs]
            arguments = [
                self.lambda_of(one, pattern, bound, scope) if value is None else self.argument(value, pattern, kind)
                for one, (pattern, value), kind in zip(node["arguments"], pairs, kinds, strict=True)
            ]
            if None in arguments:
                return None
        return Call(node, signature, [one for one in arguments if one], bound)

    def argument(self, value: Typed, pattern: str, kind: t.Type | None) -> Typed | None:
        if kind is None:
            return None
        return replace(value, sql=wall(value)) if pattern == "wall" else self.coerce(value, kind)

    def lambda_of(self, node: Node, pattern: str, bound: dict[str, t.Type], scope: Scope) -> Typed | None:
        """A lambda in DuckDB's form, with the type of its result."""
        taken, _, result = pattern[2:].partition(")->")
        kinds = [written(one, bound) for one in split_types(taken)]
        if len(kinds) != len(node["names"]):
            return None
        names = [f"v{scope.depth}_{n}" for n in range(len(kinds))]
        inner = Scope(parent=scope, depth=scope.depth + 1, clause=scope.clause, grouping=scope.grouping)
        inner.variables = {
            name.lower(): Typed(sql, kind) for name, sql, kind in zip(node["names"], names, kinds, strict=True)
        }
        body = self.value(node["body"], inner)
        if len(result) == 1 and result not in bound:
            bound[result] = body.type
        wanted = written(result, bound)
        wider = t.common(wanted, body.type)
        if wider != wanted and len(result) == 1 and wider:
            bound[result] = wanted = wider
        if wider != wanted:
            return None
        body = self.coerce(body, wanted)
        return replace(body, sql=f"lambda {', '.join(names)}: {body.sql}")

    def render(self, call: Call) -> Typed:
        """A call in DuckDB's SQL."""
        signature = call.signature
        if signature.sql.startswith("!"):
            made: Typed = getattr(self, f"do_{signature.sql[1:]}")(call)
            return replace(made, sql=f"({made.sql})")
        return Typed(f"({self.fill(call)})", self.result_type(call))

    def fill(self, call: Call, order: str = "", nulls: str = "") -> str:
        """The template of a signature with the arguments in it."""
        template = call.signature.sql.replace("$", f"{self.alias('e')}_")
        parts = {str(number): sql for number, sql in enumerate(call.sqls)}
        parts |= {"*": ", ".join(call.sqls), "f": call.signature.name, "w": call.window, "o": order, "n": nulls}
        parts["d"] = "DISTINCT " if call.node["distinct"] else ""
        if call.arguments:
            of = call.types[0]
            parts |= {"t": str(of).replace("'", "''"), "size": str((*of.size, 0)[0])}
        if "{map}" in template:
            kind = self.result_type(call)
            parts["map"] = self.udf("map", partial(map_of, kind=kind), [kind], kind)

        def part(found: re.Match[str]) -> str:
            return parts[found[1]] if found[1] else inlined(parts[found[2]], *found[3].split(", "))

        return re.sub(r"\{(\d|\*|[a-z]+)\}|\{(\d)\(([^{}]+)\)\}", part, template)

    def result_type(self, call: Call) -> t.Type:
        result = call.signature.result
        if found := re.search(r"=(\d)", result):
            kind = call.types[int(found[1])]
            return t.array(kind) if result.startswith("array") else kind
        return written(result, call.bound)

    # Functions beyond one template. Each method makes the SQL of one or more.

    def constant(self, call: Call, number: int) -> str:
        """The text of an argument. Raises Missing if it is not a literal."""
        node = call.node["arguments"][number]
        if node.kind != "string":
            raise Missing(f"the function {call.signature.name} with an argument that is not a literal")
        return str(node["text"])

    def do_concat(self, call: Call) -> Typed:
        return self.concatenated(call.arguments, call.node)

    def unexpected(self, name: str, values: list[Typed], node: Node) -> NoReturn:
        shown = ", ".join(str(value.type) for value in values)
        self.fail("FUNCTION_NOT_FOUND", node, f"Unexpected parameters ({shown}) for function {name}")

    def concatenated(self, values: list[Typed], node: Node) -> Typed:
        """a || b: texts, bytes, or arrays and elements of them."""
        lists = [value.type for value in values if value.type.name == "array"]
        if not lists:
            if all(value.type.name in ("varchar", "unknown") for value in values):
                return Typed(" || ".join(self.coerce(value, t.VARCHAR).sql for value in values), t.VARCHAR)
            if all(value.type == t.VARBINARY for value in values):
                return Typed(" || ".join(value.sql for value in values), t.VARBINARY)
            self.unexpected("concat", values, node)
        if any(value.type.name == "unknown" for value in values):
            raise Missing("an array with NULL behind ||")
        values = [v if v.type.name == "array" else Typed(f"[{v.sql}]", t.array(v.type)) for v in values]
        kind: t.Type | None = lists[0]
        for value in values:
            kind = kind and t.common(kind, value.type)
        if kind is None:
            self.unexpected("concat", values, node)
        parts = [self.coerce(value, kind).sql for value in values]
        nulls = " OR ".join(f"{part} IS NULL" for part in parts)
        return Typed(f"CASE WHEN NOT ({nulls}) THEN list_concat({', '.join(parts)}) END", kind)

    def do_format(self, call: Call) -> Typed:
        kinds = tuple(call.types[1:])
        name = self.udf("null_format", partial(java_format, kinds=kinds), call.types, t.VARCHAR)
        return Typed(f"{name}({', '.join(call.sqls)})", t.VARCHAR)

    def do_whole(self, call: Call) -> Typed:
        """A decimal without its places."""
        (p, s), name = call.types[0].size, call.signature.name
        kind = t.decimal(max(1, p - s) if name == "truncate" else p - s + min(1, s), 0)
        function = {"ceiling": "ceil", "truncate": "trunc"}.get(name, name)
        return Typed(f"CAST({function}({call.sqls[0]}{', 0' * (name == 'round')}) AS {kind.duckdb})", kind)

    def places(self, call: Call) -> int:
        if call.node["arguments"][1].kind != "number":
            raise Missing(f"{call.signature.name} of a decimal to a number of places that is not a literal")
        return int(call.node["arguments"][1]["text"])

    def do_round(self, call: Call) -> Typed:
        p, s = call.types[0].size
        kind = t.decimal(p + 1, s)
        return Typed(f"CAST(round({call.sqls[0]}, {self.places(call)}) AS {kind.duckdb})", kind)

    def do_truncate(self, call: Call) -> Typed:
        (_, s), places = call.types[0].size, self.places(call)
        if places < 0:
            raise Missing("truncate to tens")
        if places >= s:
            return Typed(call.sqls[0], call.types[0])
        text = f"CAST({call.sqls[0]} AS VARCHAR)"
        kept = f"left({text}, length({text}) - {s - places})"
        return Typed(f"CAST(CAST({kept} AS DECIMAL(38,{places})) AS {call.types[0].duckdb})", call.types[0])

    def do_mod(self, call: Call) -> Typed:
        return self.arithmetic("%", call.arguments[0], call.arguments[1], call.node)

    def do_greatest(self, call: Call) -> Typed:
        kind = call.bound["T"]
        if not kind.is_orderable or kind.items or (kind.name == t.ZONED and not kind.zone):
            raise Missing(f"{call.signature.name} of {kind}")
        nulls = " OR ".join(f"{sql} IS NULL" for sql in call.sqls)
        return Typed(f"CASE WHEN NOT ({nulls}) THEN {call.signature.name}({', '.join(call.sqls)}) END", kind)

    def do_nullif(self, call: Call) -> Typed:
        one, other = call.arguments
        same = self.comparison("=", one, other, call.node)
        return Typed(f"CASE WHEN {same.sql} IS NOT TRUE THEN {one.sql} END", one.type)

    def do_array_join(self, call: Call) -> Typed:
        item = call.bound["T"]
        if item.items or item.name in ("json", "varbinary", "row", t.ZONED):
            raise Missing(f"array_join of {item}")
        texts = self.each(call.sqls[0], lambda one: self.text(Typed(one, item)))
        if len(call.arguments) == 3:
            texts = f"list_transform({texts}, lambda e0: coalesce(e0, {call.sqls[2]}))"
        return Typed(f"athena_join({texts}, {call.sqls[1]})", t.VARCHAR)

    def do_array_sort(self, call: Call) -> Typed:
        """By a comparison: each item goes behind all smaller ones."""
        items, compare = call.sqls
        item, at, other = (self.alias("e") for _ in range(3))
        rank = f"len(list_filter({items}, lambda {other}: {inlined(compare, other, item)} < 0))"
        ranked = f"list_transform({items}, lambda {item}, {at}: struct_pack(n := {rank}, i := {at}, v := {item}))"
        return Typed(f"list_transform(list_sort({ranked}), lambda {item}: {item}.v)", call.types[0])

    def do_sequence(self, call: Call) -> Typed:
        """sequence(a, b[, step]) of numbers, dates or timestamps."""
        start, stop, *steps = call.arguments
        kind, one = start.type, 1 if start.type.name == "bigint" else 86_400_000
        step = steps[0].sql if steps else f"CASE WHEN {start.sql} <= {stop.sql} THEN {one} ELSE -{one} END"
        name = "py_sequence"
        if kind.name != "bigint":
            function = partial(sequence_of_moments, unit=steps[0].type.name if steps else t.DAYS)
            name = self.udf("moments", function, [kind, kind, t.BIGINT], t.array(kind))
        return Typed(f"{name}({start.sql}, {stop.sql}, {step})", t.array(kind))

    def do_reduce(self, call: Call) -> Typed:
        items, state, step, finish = call.sqls
        held, nothing = call.bound["S"].duckdb, f"CAST(NULL AS {call.bound['T'].duckdb})"
        one, other = self.alias("e"), self.alias("e")
        pairs = self.each(items, lambda x: f"struct_pack(s := CAST(NULL AS {held}), x := {x})")
        after = f"struct_pack(s := CAST({inlined(step, f'{one}.s', f'{other}.x')} AS {held}), x := {nothing})"
        start = f"struct_pack(s := {state}, x := {nothing})"
        made = inlined(finish, f"list_reduce({pairs}, lambda {one}, {other}: {after}, {start}).s")
        return Typed(f"CASE WHEN {items} IS NOT NULL THEN {made} END", call.bound["R"])

    def do_date(self, call: Call) -> Typed:
        return self.cast(call.arguments[0], t.DATE, call.node)

    def unit(self, call: Call, kind: str) -> str:
        """The unit of date_trunc and the like."""
        unit = self.constant(call, 0).lower()
        allowed = UNITS[4:] if kind == "date" else UNITS
        if unit not in allowed:
            words = "DATE" if kind == "date" else "TIMESTAMP"
            raise QueryFailed(f"INVALID_FUNCTION_ARGUMENT: '{unit}' is not a valid {words} field")
        return unit

    def do_date_trunc(self, call: Call) -> Typed:
        value = call.arguments[1]
        unit = self.unit(call, value.type.name)
        if value.type.name == "date":
            return Typed(f"CAST(date_trunc('{unit}', {value.sql}) AS DATE)", t.DATE)
        return Typed(at_wall(f"date_trunc('{unit}', {wall(value)})", value), value.type)

    def do_date_add(self, call: Call) -> Typed:
        _, amount, value = call.arguments
        unit = self.unit(call, value.type.name)
        step = f"to_{unit}s({amount.sql}{'' if unit in UNITS[:4] else '::INTEGER'})"
        if unit == "quarter":
            step = f"to_months(({amount.sql} * 3)::INTEGER)"
        if unit == "second":
            step = f"to_milliseconds({amount.sql} * 1000)"
        if value.type.name == "date":
            return Typed(f"CAST({value.sql} + {step} AS DATE)", t.DATE)
        made = self.later(value, step, unit in UNITS[4:])
        if unit == "millisecond" and value.type.name == "timestamp":
            return replace(made, sql=f"athena_precise({made.sql}, {value.type.size[0]})")
        return made

    def later(self, value: Typed, step: str, by_clock: bool) -> Typed:
        """A timestamp plus a DuckDB interval, by the clock or by the moment."""
        if value.type.name == t.ZONED and by_clock:
            return Typed(at_wall(f"({wall(value)} + {step})", value), value.type)
        if value.type.name == t.ZONED:
            return Typed(f"athena_zoned({value.sql}.utc + {step}, {value.sql}.zone)", value.type)
        return Typed(f"{value.sql} + {step}", value.type)

    def do_date_diff(self, call: Call) -> Typed:
        _, start, stop = call.arguments
        unit = self.unit(call, start.type.name)
        if start.type.name == t.ZONED and unit in UNITS[4:] and not start.type.zone == stop.type.zone == "UTC":
            if start.type.zone != stop.type.zone or not start.type.zone:
                raise Missing("date_diff between time zones")
            return Typed(f"athena_diff('{unit}', {wall(start)}, {wall(stop)})", t.BIGINT)
        return Typed(f"athena_diff('{unit}', {utc(start)}, {utc(stop)})", t.BIGINT)

    def do_from_unixtime(self, call: Call) -> Typed:
        zone = zone_name(self.constant(call, 1))
        return Typed(
            f"athena_zoned(make_timestamp(round({call.sqls[0]} * 1000)::BIGINT * 1000), '{zone}')", t.zoned(zone)
        )

    def do_with_timezone(self, call: Call) -> Typed:
        return self.with_zone(call.arguments[0], zone_name(self.constant(call, 1)))

    def with_zone(self, value: Typed, zone: str) -> Typed:
        """A timestamp as the clock's time in a zone."""
        return Typed(f"athena_at_wall({value.sql}, '{zone}')", t.zoned(zone, value.type.size[0]))

    def do_at_timezone(self, call: Call) -> Typed:
        return self.at_zone(call.arguments[0], self.constant(call, 1))

    def at_zone(self, value: Typed, zone: str) -> Typed:
        """The same moment in another zone; a timestamp without one is in UTC."""
        name, size = zone_name(zone), (value.type.size or (3,))[0]
        return Typed(f"athena_zoned({utc(value)}, '{name}')", t.zoned(name, size))

    def do_now(self, call: Call) -> Typed:
        return self.with_zone(Typed(f"TIMESTAMP '{self.now:%Y-%m-%d %H:%M:%S.%f}'", t.timestamp()), "UTC")

    # --- Aggregates

    def aggregate(self, node: Node, scope: Scope, window: str, signatures: dict[str, list[Signature]]) -> Typed:
        """An aggregate or a window function: `window` is the SQL after its parentheses."""
        name = node["name"]
        if node["star"] and name != "count":
            self.fail("FUNCTION_NOT_FOUND", node, f"Unexpected parameters () for function {name}")
        call = self.match(signatures[name], node, scope)
        call.window = window
        template = call.signature.sql
        if node["distinct"] and name not in IDEMPOTENT and "{d}" not in template and "decimal" not in template:
            raise Missing(f"{name}(DISTINCT ...)")
        if node["order"] and name not in ("array_agg", "listagg"):
            raise Missing(f"{name}(... ORDER BY ...)")
        if name in ("count", "approx_distinct") and call.arguments:
            call.arguments[0] = replace(call.arguments[0], sql=utc(call.arguments[0]))
        elif node["distinct"]:
            self.check_distinct(call.types[0])
        if template.startswith("!"):
            return self.render(call)
        order = f" ORDER BY {self.order(node['order'], scope)}" if node["order"] else ""
        nulls = f" {node['nulls']} NULLS" if node["nulls"] else ""
        return Typed(f"({self.fill(call, order, nulls)})", self.result_type(call))

    def check_distinct(self, kind: t.Type) -> None:
        """Refuse types whose equal values are not the same in DuckDB."""
        if kind.name == "map" or (kind.name == t.ZONED and not kind.zone):
            raise Missing(f"DISTINCT values of {kind}")

    def order(self, items: list[Node], scope: Scope) -> str:
        return ", ".join(self.sorted_by(self.value(item["value"], scope), item) for item in items)

    def sorted_by(self, value: Typed, item: Node) -> str:
        if not value.type.is_orderable:
            self.mismatch(item, f"Type {value.type} is not orderable, and therefore cannot be used in ORDER BY")
        direction = "DESC" if item["descending"] else "ASC"
        return f"{utc(value)} {direction} NULLS {'FIRST' if item['first'] else 'LAST'}"

    def around(self, call: Call, function: str) -> str:
        distinct = "DISTINCT " if call.node["distinct"] else ""
        return f"{function}({distinct}{call.sqls[0]}){call.window}"

    def do_sum_decimal(self, call: Call) -> Typed:
        kind = t.decimal(t.MAX_DIGITS, call.types[0].size[1])
        return Typed(f"CAST({self.around(call, 'sum')} AS {kind.duckdb})", kind)

    def do_avg_decimal(self, call: Call) -> Typed:
        kind = call.types[0]
        total, count = self.do_sum_decimal(call), f"CAST({self.around(call, 'count')} AS HUGEINT)"
        mean = rescaled(f"athena_quotient({unscaled(total)}, {count})", kind)
        return Typed(f"CASE WHEN {count} > 0 THEN {mean} END", kind)

    def do_map_agg(self, call: Call) -> Typed:
        many = call.signature.name == "multimap_agg"
        key, value = call.types
        kind = t.Type("map", (key, t.array(value) if many else value))
        pair = t.Type("map", (key, value))
        purpose = "multimapagg" if many else "mapagg"
        name = self.udf(purpose, partial(map_of, kind=kind, first=True, many=many), [pair], kind)
        return Typed(f"{name}(list(athena_kv({call.sqls[0]}, {call.sqls[1]})){call.window})", kind)

    def do_histogram(self, call: Call) -> Typed:
        kind = t.Type("map", (call.types[0], t.BIGINT))
        name = self.udf("histogram", histogram, [t.array(call.types[0])], kind)
        return Typed(f"{name}(list({call.sqls[0]}){call.window})", kind)


def inlined(function: str, *parts: str) -> str:
    """The body of a lambda with something in place of each variable."""
    names, _, body = function.removeprefix("lambda ").partition(": ")
    for name, part in zip(names.split(", "), parts, strict=True):
        body = re.sub(rf"\b{name}\b", part.replace("\\", r"\\"), body)
    return body


def unscaled(value: Typed) -> str:
    """All digits of a decimal as a whole number."""
    return f"CAST(replace(CAST(CAST({value.sql} AS DECIMAL(38,{value.type.size[1]})) AS VARCHAR), '.', '') AS HUGEINT)"


def rescaled(sql: str, kind: t.Type) -> str:
    """The decimal with these digits."""
    precision, scale = kind.size
    number = f"CAST({sql} AS DECIMAL(38,0))"
    if scale:
        number = f"{number} * CAST('{'0.' + '0' * (scale - 1) + '1'}' AS DECIMAL({scale},{scale}))"
    return f"CAST({number} AS DECIMAL({precision},{scale}))"


SHORT = {
    "days": t.Type(t.DAYS),
    "months": t.Type(t.MONTHS),
    "zoned": t.zoned("UTC"),
    "moment": t.zoned(""),
    "timestamp": t.timestamp(),
    "decimal(1,0)": t.decimal(1, 0),
}


GROUPS = {
    "ints": (*t.INTEGERS,),
    "number": t.NUMBERS,
    "text": ("varchar", "json"),
    "wall": ("date", "timestamp", t.ZONED),
}


def written(pattern: str, bound: dict[str, t.Type]) -> t.Type:
    """The type of a pattern whose variables are known."""
    if pattern in SHORT:
        return SHORT[pattern]
    if pattern == "text":
        return t.VARCHAR
    if len(pattern) == 1:
        return bound.get(pattern, t.UNKNOWN)
    name, _, inner = pattern.partition("(")
    if inner:
        items = tuple(written(one, bound) for one in split_types(inner[:-1]))
        return t.Type(name, items, fields=("",) * len(items) if name == "row" else ())
    return t.Type(name)


def fit(pattern: str, kind: t.Type, bound: dict[str, t.Type], exact: bool) -> t.Type | None:
    """An argument's type under a signature's pattern, wider if needed; None if it does not fit."""
    if pattern == "any" or (pattern == "orderable" and kind.is_orderable) or kind.name in GROUPS.get(pattern, ()):
        return kind
    if pattern == "orderable" or (pattern in GROUPS and (pattern != "text" or kind.name != "unknown")):
        return None
    if len(pattern) == 1:
        if pattern not in bound:
            bound[pattern] = kind
            return kind
        wider = t.common(bound[pattern], kind)
        if wider is None or (exact and kind.name not in ("unknown", bound[pattern].name)):
            return None
        bound[pattern] = wider
        return wider
    name, _, inner = pattern.partition("(")
    if inner and name != "decimal" and kind.name != "unknown":
        patterns = split_types(inner[:-1])
        if kind.name != name or len(patterns) != len(kind.items):
            return None
        items = [fit(one, item, bound, exact) for one, item in zip(patterns, kind.items, strict=True)]
        found = tuple(item for item in items if item)
        return replace(kind, items=found) if len(found) == len(items) else None
    target = written(pattern, bound)
    if kind.name == target.name:
        return kind
    if target.name == "decimal" and kind.name in t.INTEGERS:
        return None if exact else t.decimal(*t.digits(kind))
    wider = None if exact else t.common(kind, target)
    return wider if wider and wider.name == target.name else None
