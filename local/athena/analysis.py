"""From Athena's SQL to DuckDB's: names, types and clauses as Trino understands them.

A statement is a tree of `local.athena.syntax`. Each expression becomes SQL with a Trino type, each relation a subquery
with an alias of its own, so DuckDB has nothing to resolve or to convert by itself. SQL not implemented here is
refused by name; errors come in Athena's words, with their place.

Facts: https://trino.io/docs/current/sql/select.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from local.athena import types as t
from local.athena.calls import Calls, Column, Grouping, Named, Scope, Typed, literal, merged, utc
from local.athena.functions import AGGREGATE_FUNCTIONS, SCALAR_FUNCTIONS, WINDOW_FUNCTIONS
from local.athena.syntax import Missing, Node, parse, place
from local.athena.tables import QueryFailed, Table
from local.athena.text import moment
from local.athena.values import (
    from_text,
    json_parse,
    rounded_moment,
    zoned_clock,
)

QUERIES = ("scalar", "exists", "in query")
MAX_RECURSION = 10
UNITS = ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND")
MILLISECONDS = {"DAY": 86_400_000, "HOUR": 3_600_000, "MINUTE": 60_000, "SECOND": 1000}
HIDDEN = {"$path": t.VARCHAR, "$file_size": t.BIGINT}
COLUMN_TYPES = {"INTEGER": t.INTEGER, "DOUBLE": t.DOUBLE, "BIGINT": t.BIGINT, "BOOLEAN": t.BOOLEAN, "DATE": t.DATE,
                "TIMESTAMP": t.timestamp(), "VARCHAR": t.VARCHAR}  # fmt: skip


@dataclass
class Scan:
    """A table to read: its alias, and the conditions on its partitions."""

    name: tuple[str, str]
    table: Table
    alias: str
    conditions: list[str] = field(default_factory=list)


@dataclass
class Relation:
    """The source of a FROM: its SQL with an alias, its columns, the scans whose rows are in it as they are."""

    sql: str
    columns: list[Column]
    scans: list[int] = field(default_factory=list)
    is_outer: bool = False


@dataclass
class Result:
    """A query in DuckDB's SQL, and its columns: their names and types."""

    sql: str
    columns: Columns


Names = dict[str, Named]
Columns = list[tuple[str, t.Type]]


def column_type(kind: str) -> t.Type:
    """The type of a table's column, by its DuckDB type."""
    if found := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind):
        return t.decimal(int(found[1]), int(found[2]))
    return COLUMN_TYPES[kind]


def inner_nodes(node: Node | None) -> Iterator[Node]:
    """The nodes of an expression, without those of its subqueries."""
    if node is not None:
        yield node
        for name in node.parts:
            if not (name == "query" and node.kind in QUERIES):
                for one in node.within(name):
                    yield from inner_nodes(one)


def aggregates(node: Node | None) -> list[str]:
    """The names of the aggregates of an expression."""
    return [
        one["name"] or one.kind
        for one in inner_nodes(node)
        if one.kind == "grouping" or (one.kind == "call" and one["name"] in AGGREGATE_FUNCTIONS and not one["over"])
    ]


def has_query(node: Node) -> bool:
    return any(inner.kind in QUERIES for inner in node.walk())


class Analysis(Calls):
    """One statement. `find` gives the table of a name, or a view's text; `scans` are the tables it reads."""

    def __init__(self, sql: str, now: datetime, find: Callable[[Node], Any]) -> None:
        super().__init__(sql, now)
        self.find = find
        self.scans: list[Scan] = []

    # --- Queries

    def query(self, node: Node, names: Names, outer: Scope | None = None) -> Result:
        """A query with its WITH."""
        names, clauses = dict(names), []
        for one in node["named"] or []:
            alias, name = self.alias("w"), one["name"].lower()
            tables = [table["name"] for table in one["query"].walk() if table.kind == "table"]
            if node["recursive"] and any([part.lower() for part in table] == [name] for table in tables):
                made, columns = self.recursive(one, alias, names, outer)
            else:
                result = self.query(one["query"], names, outer)
                columns = self.renamed(result.columns, one["columns"], one)
                made = f"{alias} AS ({result.sql})"
            clauses.append(made)
            names[name] = Named(alias, columns)
        result = self.ordered(node["body"], names, outer)
        if clauses:
            result.sql = f"WITH {', '.join(clauses)} SELECT * FROM ({result.sql})"
        return result

    def renamed(self, columns: Columns, names: list[str] | None, node: Node) -> Columns:
        if names is None:
            return columns
        if len(names) != len(columns):
            counts = f"{len(names)} entries but relation has {len(columns)} columns"
            self.fail("MISMATCHED_COLUMN_ALIASES", node, f"Column alias list has {counts}")
        return [(name, kind) for name, (_, kind) in zip(names, columns, strict=True)]

    def recursive(self, node: Node, alias: str, names: Names, outer: Scope | None) -> tuple[str, Columns]:
        """A recursive query, as deep as Athena goes: step by step, each a query over the last one."""
        body = node["query"]["body"]
        union = body["term"]
        if union["operator"] != "UNION" or not union["all"] or node["query"]["named"] or body["order"]:
            raise Missing("a recursive query other than a UNION ALL of two")
        if node["columns"] is None:
            self.fail("MISSING_COLUMN_ALIASES", node, "missing column aliases in recursive WITH query")
        first = self.term(union["left"], names, outer)
        columns = self.renamed(first.columns, node["columns"], node)
        step = self.term(union["right"], {**names, node["name"].lower(): Named(f"{alias}_step", columns)}, outer)
        for (_, had), (_, kind) in zip(step.columns, columns, strict=True):
            if t.common(had, kind) != kind:
                self.mismatch(node, f"recursion step output type ({had}) is not coercible to that of the base ({kind})")
        step = self.converted(step, [kind for _, kind in columns])
        outputs = ", ".join(f"o{n}" for n in range(len(columns)))
        clauses = [f"{alias}_0 AS ({first.sql})"]
        for depth in range(1, MAX_RECURSION + 2):
            last = re.sub(rf"\b{alias}_step\b", f"{alias}_{depth - 1}", step.sql)
            clauses.append(f"{alias}_{depth} AS MATERIALIZED ({last})")
        steps = [f"SELECT {outputs} FROM {alias}_{depth}" for depth in range(MAX_RECURSION + 2)]
        advice = "Use 'max_recursion_depth' session property to modify the limit."
        reason = literal(f"NOT_SUPPORTED: Recursion depth limit exceeded ({MAX_RECURSION}). {advice}")
        steps[-1] += f" WHERE py_fail({reason} || left(o0::VARCHAR, 0)) IS NULL"  # a step too many must be empty
        return ", ".join([*clauses, f"{alias} AS ({' UNION ALL '.join(steps)})"]), columns

    def ordered(self, node: Node, names: Names, outer: Scope | None) -> Result:
        """A query term with ORDER BY, OFFSET and LIMIT."""
        if node.kind != "ordered":
            return self.term(node, names, outer)
        term, order = node["term"], node["order"] or []
        if term.kind == "select":
            result = self.select(term, names, outer, order)
        else:
            result = self.term(term, names, outer)
            if order:
                alias = self.alias()
                columns = self.columns_of(alias, result.columns)
                scope = Scope(columns, outer, clause="ORDER BY", names=names)
                items = [self.sorted_by(self.sort_value(one, scope, columns), one) for one in order]
                result.sql = f"SELECT {alias}.* FROM ({result.sql}) AS {alias} ORDER BY {', '.join(items)}"
        limits = f" LIMIT {node['limit']}" * bool(node["limit"]) + f" OFFSET {node['offset']}" * bool(node["offset"])
        if limits:
            result.sql = f"{result.sql}{limits}" if order else f"SELECT * FROM ({result.sql}){limits}"
        return result

    def sort_value(self, item: Node, scope: Scope, columns: list[Column]) -> Typed:
        value = item["value"]
        if value.kind == "number" and value["text"].isdigit():
            number = int(value["text"])
            if not 1 <= number <= len(columns):
                self.fail("INVALID_COLUMN_REFERENCE", value, f"ORDER BY position {number} is not in select list")
            return Typed(columns[number - 1].sql, columns[number - 1].type)
        return self.value(value, scope)

    def columns_of(self, alias: str, columns: Columns, qualifier: str = "") -> list[Column]:
        parts = (qualifier.lower(),) if qualifier else ()
        return [Column(parts, name, kind, f"{alias}.o{number}") for number, (name, kind) in enumerate(columns)]

    def term(self, node: Node, names: Names, outer: Scope | None) -> Result:
        if node.kind == "ordered":
            return self.ordered(node, names, outer)
        if node.kind == "select":
            return self.select(node, names, outer, [])
        if node.kind == "values":
            return self.values(node, outer)
        left, right = self.term(node["left"], names, outer), self.term(node["right"], names, outer)
        operator = node["operator"]
        if len(left.columns) != len(right.columns):
            counts = f"{len(left.columns)}, {len(right.columns)}"
            self.mismatch(node, f"{operator} query has different number of fields: {counts}")
        kinds = []
        for number, ((_, one), (_, other)) in enumerate(zip(left.columns, right.columns, strict=True), 1):
            kind = t.common(one, other)
            if kind is None:
                self.mismatch(node, f"column {number} in {operator} query has incompatible types: {one}, {other}")
            if not node["all"]:
                self.distinct_type(kind, node)
            kinds.append(kind)
        both = [f"SELECT * FROM ({self.converted(side, kinds).sql})" for side in (left, right)]
        joined = f" {operator}{' ALL' * node['all']} ".join(both)
        return Result(f"SELECT * FROM ({joined})", list(zip([name for name, _ in left.columns], kinds, strict=True)))

    def distinct_type(self, kind: t.Type, node: Node) -> None:
        if kind.name == "map" or (kind.name == t.ZONED and not kind.zone):
            raise Missing(f"DISTINCT values of {kind}")

    def converted(self, result: Result, kinds: list[t.Type]) -> Result:
        """The same rows with wider types."""
        alias = self.alias()
        outputs = [
            f"{self.coerce(Typed(f'{alias}.o{n}', had), kind).sql} AS o{n}"
            for n, ((_, had), kind) in enumerate(zip(result.columns, kinds, strict=True))
        ]
        sql = f"SELECT {', '.join(outputs)} FROM ({result.sql}) AS {alias}"
        return Result(sql, [(name, kind) for (name, _), kind in zip(result.columns, kinds, strict=True)])

    def values(self, node: Node, outer: Scope | None) -> Result:
        scope = Scope(parent=outer, clause="VALUES")
        nodes = [row["items"] if row.kind == "row" else [row] for row in node["rows"]]
        if len({len(row) for row in nodes}) > 1:
            self.mismatch(node, "Values rows have mismatched sizes")
        rows = [[self.value(one, scope) for one in row] for row in nodes]
        reason = "Values rows have mismatched types."
        columns = [self.unify(list(column), node, reason) for column in zip(*rows, strict=True)]
        selects = []
        for row in zip(*(values for values, _ in columns), strict=True):
            selects.append("SELECT " + ", ".join(f"{value.sql} AS o{n}" for n, value in enumerate(row)))
        return Result(" UNION ALL ".join(selects), [("", kind) for _, kind in columns])

    def select(self, node: Node, names: Names, outer: Scope | None, order: list[Node]) -> Result:
        """SELECT ... FROM ... with its ORDER BY."""
        source = self.relation(node["source"], names, outer) if node["source"] else Relation("", [])
        windows = {one["name"].lower(): one["window"] for one in node["windows"] or []}
        scope = Scope(source.columns, outer, windows=windows, clause="SELECT", names=names)
        from_sql = (f" FROM {source.sql}" if source.sql else "") + self.where(node["where"], scope, source)
        items = self.items(node["items"] or [Node("star", node.at)], scope)
        selected = [one for _, one in items if isinstance(one, Node)]
        group = None
        if node["groups"] is not None or any(map(aggregates, [*selected, node["having"], *order])):
            group = Grouping(replace(scope, clause="GROUP BY"), self.alias())
            scope = replace(scope, columns=[], grouping=group)
            groups = self.group(node["groups"] or [], items, group)
        made = [(name, self.item(one, scope, node)) for name, one in items]
        having = ""
        if node["having"]:
            having = f" WHERE {self.condition(node['having'], replace(scope, clause='HAVING')).sql}"
        for _, value in made if node["distinct"] else []:
            self.distinct_type(value.type, node)
        sorts = self.sorts(order, made, replace(scope, outputs=made, clause="ORDER BY"), node)
        outputs = [f"{value.sql} AS o{number}" for number, (_, value) in enumerate(made)]
        outputs += [f"{sql} AS s{number}" for number, (sql, by, _) in enumerate(sorts) if by.startswith("s")]
        if group:
            inner = [f"{sql} AS g{n}" for n, sql in enumerate(group.keys)]
            inner += [f"{sql} AS a{n}" for n, sql in enumerate(group.aggregates)]
            from_sql = f" FROM (SELECT {', '.join(inner) or '1 AS one'}{from_sql}{groups}) AS {group.alias}{having}"
        sql = f"SELECT {'DISTINCT ' * bool(node['distinct'])}{', '.join(outputs)}{from_sql}"
        if order:
            keys = ", ".join(f"{by}{how}" for _, by, how in sorts)
            sql = f"SELECT {', '.join(f'o{n}' for n in range(len(made)))} FROM ({sql}) ORDER BY {keys}"
        return Result(sql, [(name, value.type) for name, value in made])

    def item(self, one: Node | Column, scope: Scope, node: Node) -> Typed:
        """One expression or column of a select list."""
        if isinstance(one, Node):
            return self.value(one, scope)
        if scope.grouping is None:
            return Typed(one.sql, one.type, frozenset([one]))
        if one.sql not in scope.grouping.keys:
            self.fail("EXPRESSION_NOT_AGGREGATE", node, f"Column '{one.name}' not in GROUP BY clause")
        return scope.grouping.keys[one.sql]

    def where(self, node: Node | None, scope: Scope, source: Relation) -> str:
        """The WHERE clause; its conditions on partition columns alone choose partitions."""
        if node is None:
            return ""
        scope = replace(scope, clause="WHERE")
        made = self.condition(node, scope)
        parts = node["operands"] if node.kind == "logical" and node["operator"] == "AND" else [node]
        for part in [] if source.is_outer else [one for one in parts if not has_query(one)]:
            condition = self.condition(part, scope)
            scans = {column.key for column in condition.columns or ()}
            number = scans.pop() if len(scans) == 1 else None
            if number is not None and number in source.scans:
                self.scans[number].conditions.append(condition.sql)
        return f" WHERE {made.sql}"

    def items(self, items: list[Node], scope: Scope) -> list[tuple[str, Node | Column]]:
        """The select list with its stars written out."""
        made: list[tuple[str, Node | Column]] = []
        for item in items:
            if item.kind != "star":
                value, name = item["value"], item["alias"]
                if name is None and value.kind in ("name", "field"):
                    name = value["name"]
                made.append((name or "", value))
                continue
            found = [column for column in scope.columns if not column.hidden]
            if item["of"]:
                qualifier = tuple(part.lower() for part in item["of"])
                found = [one for one in found if one.qualifier[-len(qualifier) :] == qualifier]
                if not found:
                    self.fail("TABLE_NOT_FOUND", item, f"Table '{'.'.join(qualifier)}' not found")
            elif not scope.columns:
                self.fail("COLUMN_NOT_FOUND", item, "SELECT * not allowed in queries without FROM clause")
            made += [(column.name, column) for column in found]
        return made

    def sorts(
        self, order: list[Node], made: list[tuple[str, Typed]], scope: Scope, node: Node
    ) -> list[tuple[str, str, str]]:
        """Each ORDER BY item: its SQL, its column (o0, o1 ... or s0, s1 ...), and how it sorts."""
        sqls = [value.sql for _, value in made]
        columns = [Column((), name, value.type, value.sql) for name, value in made]
        found = []
        for number, item in enumerate(order):
            value = self.sort_value(item, scope, columns)
            how = self.sorted_by(value, item).removeprefix(value.sql)
            if value.sql not in sqls and node["distinct"]:
                reason = "For SELECT DISTINCT, ORDER BY expressions must appear in select list"
                self.fail("EXPRESSION_NOT_IN_DISTINCT", node, reason)
            found.append((value.sql, f"o{sqls.index(value.sql)}" if value.sql in sqls else f"s{number}", how))
        return found

    # --- Groups

    def group(self, groups: list[Node], items: list[tuple[str, Node | Column]], grouping: Grouping) -> str:
        """The GROUP BY clause over the keys g0, g1 ... of the grouping."""

        def key(node: Node, simple: bool = True) -> str:
            if not simple and node.kind not in ("name", "field", "number"):
                self.fail("INVALID_COLUMN_REFERENCE", node, "GROUP BY expression must be a column reference")
            value = self.group_key(node, items, grouping)
            if value.sql not in grouping.keys:
                sql = f"{grouping.alias}.g{len(grouping.keys)}"
                grouping.keys[value.sql] = replace(value, sql=sql, columns=frozenset())
            return f"g{[*grouping.keys].index(value.sql)}"

        clauses = []
        for node in groups:
            if node.kind == "rollup":
                clauses.append(f"ROLLUP ({', '.join(key(one, False) for one in node['items'])})")
            else:
                clauses += map(key, node["items"] or [] if node.kind == "row" else [node])
        return f" GROUP BY {', '.join(clauses or ['()'])}" if groups else ""

    def group_key(self, node: Node, items: list[tuple[str, Node | Column]], grouping: Grouping) -> Typed:
        if node.kind == "number" and node["text"].isdigit():
            number = int(node["text"])
            if not 1 <= number <= len(items):
                self.fail("INVALID_COLUMN_REFERENCE", node, f"GROUP BY position {number} is not in select list")
            one = items[number - 1][1]
            if isinstance(one, Column):
                return Typed(one.sql, one.type)
            node = one
        if has_query(node):
            raise Missing("GROUP BY a subquery")
        if names := aggregates(node) + [one["name"] for one in inner_nodes(node) if one["over"]]:
            reason = f"GROUP BY clause cannot contain aggregations or window functions: {names[0]}"
            self.fail("EXPRESSION_NOT_SCALAR", node, reason)
        value = self.value(node, grouping.inner)
        self.distinct_type(value.type, node)
        return value

    def grouped(self, node: Node, scope: Scope) -> Typed | None:
        """An expression as a key of the GROUP BY; None if it is not one."""
        grouping = scope.grouping
        if not grouping or not grouping.keys or node.kind in ("number", "string", "null", "true", "false"):
            return None
        if has_query(node) or aggregates(node) or any(one["over"] for one in inner_nodes(node)):
            return None
        before = self.numbered
        try:
            inner = replace(grouping.inner, variables={**scope.variables}, depth=scope.depth)
            return grouping.keys.get(self.value(node, inner).sql)
        except (QueryFailed, Missing):
            return None
        finally:
            self.numbered = before

    # --- Relations

    def relation(self, node: Node, names: Names, outer: Scope | None, left: Relation | None = None) -> Relation:
        if node.kind == "aliased":
            return self.aliased(self.relation(node["relation"], names, outer, left), node)
        made: Relation = getattr(self, f"from_{node.kind}")(node, names, outer, left)
        return made

    def aliased(self, made: Relation, node: Node) -> Relation:
        shown = [column for column in made.columns if not column.hidden]
        given, qualifier = node["columns"], (node["alias"].lower(),)
        if given is not None and len(given) != len(shown):
            counts = f"{len(given)} entries but '{node['alias']}' has {len(shown)} columns"
            self.fail("MISMATCHED_COLUMN_ALIASES", node, f"Column alias list has {counts}")
        hidden = [column for column in made.columns if column.hidden and given is None]
        if given is not None:
            shown = [replace(column, name=name) for column, name in zip(shown, given, strict=True)]
        made.columns = [replace(column, qualifier=qualifier) for column in (*shown, *hidden)]
        return made

    def from_versioned(self, node: Node, names: Names, outer: Scope | None, left: Relation | None) -> Relation:
        self.fail("NOT_SUPPORTED", node, "This connector does not support versioned tables")

    def from_table(self, node: Node, names: Names, outer: Scope | None, left: Relation | None) -> Relation:
        alias = self.alias()
        parts = [part.lower() for part in node["name"]]
        if len(parts) == 1 and (named := names.get(parts[0])):
            return Relation(f"{named.alias} AS {alias}", self.columns_of(alias, named.columns, parts[0]))
        found = self.find(node)
        if isinstance(found, Result):
            return Relation(f"({found.sql}) AS {alias}", self.columns_of(alias, found.columns, parts[-1]))
        name, table = found
        if isinstance(table, str):
            view = Analysis(table, self.now, self.find)
            view.numbered, view.scans, view.udfs, view.names = self.numbered, self.scans, self.udfs, self.names
            result = view.query(parse(table), {})
            self.numbered = view.numbered
            return Relation(f"({result.sql}) AS {alias}", self.columns_of(alias, result.columns, parts[-1]))
        number = len(self.scans)
        self.scans.append(Scan(name, table, alias))

        def column(one: str, kind: t.Type, hidden: bool = False, key: int | None = None) -> Column:
            return Column(name, one, kind, f'{alias}."{one}"', hidden, key)

        columns = [column(one, column_type(kind)) for one, kind in table.columns.items()]
        columns += [column(one, column_type(kind), key=number) for one, kind in table.keys.items()]
        columns += [column(one, kind, True) for one, kind in HIDDEN.items()]
        return Relation(f"scan_{number} AS {alias}", columns, [number])

    def from_subquery(self, node: Node, names: Names, outer: Scope | None, left: Relation | None) -> Relation:
        alias = self.alias()
        result = self.query(node["query"], names, outer)
        return Relation(f"({result.sql}) AS {alias}", self.columns_of(alias, result.columns))

    def from_lateral(self, node: Node, names: Names, outer: Scope | None, left: Relation | None) -> Relation:
        scope = Scope(left.columns, outer, clause="LATERAL", names=names) if left else outer
        made = self.from_subquery(node, names, scope, None)
        return replace(made, sql=f"LATERAL {made.sql}")

    def from_unnest(self, node: Node, names: Names, outer: Scope | None, left: Relation | None) -> Relation:
        alias, scope = self.alias(), Scope(left.columns if left else [], outer, clause="UNNEST", names=names)
        values = [self.value(one, scope) for one in node["values"]]
        outputs = [f"unnest({value.sql}) AS u{number}" for number, value in enumerate(values)]
        columns: list[Column] = []
        for number, kind in enumerate(value.type for value in values):
            if kind.name not in ("array", "map"):
                self.mismatch(node, f"Cannot unnest type: {kind}")
            item = kind.items[0]
            parts = [("", "", item)]
            if kind.name == "map":
                parts = [("", ".k", item), ("", ".v", kind.items[1])]
            elif item.name == "row":
                parts = [(name, f".f{n}", of) for n, (name, of) in enumerate(zip(item.fields, item.items, strict=True))]
            columns += [Column((), name, of, f"{alias}.u{number}{part}") for name, part, of in parts]
        if node["ordinality"]:
            lengths = ", ".join(f"len({value.sql})" for value in values)
            outputs.append(f"unnest(range(1, greatest({lengths}) + 1)) AS n")
            columns.append(Column((), "", t.BIGINT, f"{alias}.n"))
        return Relation(f"LATERAL (SELECT {', '.join(outputs)}) AS {alias}", columns)

    def from_join(self, node: Node, names: Names, outer: Scope | None, _: Relation | None) -> Relation:
        left = self.relation(node["left"], names, outer)
        right = self.relation(node["right"], names, outer, left)
        how = node["how"] or "INNER"
        if how == "NATURAL":
            self.fail("NOT_SUPPORTED", node, "Natural join not supported")
        columns = [*left.columns, *right.columns]
        is_outer = left.is_outer or right.is_outer or how not in ("CROSS", "INNER")
        right_sql = f"({right.sql})" if node["right"].kind == "join" else right.sql
        condition = ""
        if node["using"]:
            condition, columns = self.using(node, left, right)
        elif how != "CROSS":
            condition = self.condition(node["on"], Scope(columns, outer, clause="JOIN", names=names)).sql
            if right.sql.startswith("LATERAL") and (how not in ("LEFT", "INNER") or condition != "true"):
                raise Missing(f"{how} JOIN UNNEST or LATERAL with a condition")
            if how in ("RIGHT", "FULL") and has_query(node["on"]):
                raise Missing("a subquery in the condition of an outer join")
        sql = f"{left.sql} {how} JOIN {right_sql}{' ON ' * bool(condition)}{condition}"
        return Relation(sql, columns, [*left.scans, *right.scans], is_outer)

    def using(self, node: Node, left: Relation, right: Relation) -> tuple[str, list[Column]]:
        """The condition of a USING, and the columns of the join."""
        conditions, columns, used = [], [], []
        for name in node["using"]:
            sides = [[one for one in side.columns if one.name.lower() == name.lower()] for side in (left, right)]
            if any(len(found) != 1 for found in sides):
                word = "AMBIGUOUS_NAME" if all(sides) else "COLUMN_NOT_FOUND"
                self.fail(word, node, f"Column '{name}' is ambiguous, or missing from a side of the join")
            one, other = (Typed(column.sql, column.type) for [column] in sides)
            conditions.append(self.comparison("=", one, other, node).sql)
            values, kind = self.unify([one, other], node, "USING columns")
            columns.append(Column((), name, kind, f"coalesce({values[0].sql}, {values[1].sql})"))
            used += [sides[0][0], sides[1][0]]
        rest = [column for column in (*left.columns, *right.columns) if not any(column is one for one in used)]
        return " AND ".join(conditions), [*columns, *rest]

    # --- Expressions

    def value(self, node: Node, scope: Scope) -> Typed:
        """An expression. In a grouped query, a key of the GROUP BY is a column of the grouping."""
        if scope.grouping and (found := self.grouped(node, scope)):
            return found
        made: Typed = getattr(self, f"of_{node.kind.replace(' ', '_')}")(node, scope)
        return made

    def condition(self, node: Node, scope: Scope) -> Typed:
        return self.boolean(self.value(node, scope), node, f"{scope.clause} clause")

    def of_number(self, node: Node, scope: Scope) -> Typed:
        text = node["text"]
        if "e" in text.lower():
            return Typed(f"(CAST('{float(text)!r}' AS DOUBLE))", t.DOUBLE)
        if "." in text:
            whole, _, fraction = text.lstrip("-").partition(".")
            precision = max(len(whole.lstrip("0") + fraction), 1)
            if precision > t.MAX_DIGITS:
                self.fail("NUMERIC_VALUE_OUT_OF_RANGE", node, f"Value exceeds maximum precision: {text}")
            kind = t.decimal(precision, len(fraction))
        else:
            if not -(2**63) <= int(text) < 2**63:
                self.fail("SYNTAX_ERROR", node, f"Invalid numeric literal: {text}")
            kind = t.INTEGER if -(2**31) <= int(text) < 2**31 else t.BIGINT
        return Typed(f"(CAST('{text}' AS {kind.duckdb}))", kind)

    def of_string(self, node: Node, scope: Scope) -> Typed:
        return Typed(literal(node["text"]), t.varchar(len(node["text"])))

    def of_binary(self, node: Node, scope: Scope) -> Typed:
        digits = re.sub(r"\s", "", node["text"][2:-1])
        if len(digits) % 2 or re.search(r"[^0-9a-fA-F]", digits):
            self.fail("SYNTAX_ERROR", node, "Binary literal must contain an even number of hex digits")
        return Typed(f"unhex('{digits}')", t.VARBINARY)

    def of_null(self, node: Node, scope: Scope) -> Typed:
        return Typed("CAST(NULL AS INTEGER)", t.UNKNOWN)

    def of_parameter(self, node: Node, scope: Scope) -> Typed:
        self.fail("INVALID_PARAMETER_USAGE", node, "Incorrect number of parameters: expected 1 but found 0")

    def of_true(self, node: Node, scope: Scope) -> Typed:
        return Typed("true", t.BOOLEAN)

    def of_false(self, node: Node, scope: Scope) -> Typed:
        return Typed("false", t.BOOLEAN)

    def of_typed(self, node: Node, scope: Scope) -> Typed:
        """DATE '2026-01-01', and all like it."""
        name, text = node["type"]["name"], node["text"]
        wrong = QueryFailed(
            f"INVALID_LITERAL: {place(self.sql, node.at)}: '{text}' is not a valid {name.upper()} literal"
        )
        if name == "timestamp":
            try:
                clock, zone, decimals = zoned_clock(text)
            except QueryFailed:
                raise wrong from None
            at = moment(clock, zone) if zone else clock
            return Typed(f"(TIMESTAMP '{at}')", t.zoned(zone, decimals) if zone else t.timestamp(decimals))
        if name == "json":
            try:
                return Typed(literal(json_parse(text)), t.JSON)
            except QueryFailed:
                raise wrong from None
        kind = self.type_of(node["type"])
        if name == "decimal":
            whole, _, fraction = text.strip().lstrip("+-").partition(".")
            kind = t.decimal(max(len(whole.lstrip("0") + fraction), 1), len(fraction))
        if name == "varchar":
            return Typed(literal(text), t.varchar(len(text)))
        value = from_text(text, kind, wrong)
        shown = {"date": str(value), "boolean": str(value).lower()}.get(name, text.strip())
        shown = shown.replace("Infinity", "inf")
        return Typed(f"(CAST({literal(shown)} AS {kind.duckdb}))", kind)

    def of_interval(self, node: Node, scope: Scope) -> Typed:
        sign, text, unit, end = (node[name] or "" for name in ("sign", "text", "unit", "end"))
        wrong = QueryFailed(f"INVALID_LITERAL: {place(self.sql, node.at)}: '{text}' is not a valid INTERVAL literal")
        units = UNITS[UNITS.index(unit) : UNITS.index(end or unit) + 1]
        is_months = unit in ("YEAR", "MONTH")
        if not units or (is_months and end not in ("", "MONTH", "YEAR")):
            raise wrong
        found = re.fullmatch(r"([+-]?)(\d+(?:[- :]\d+)*)(\.\d{1,3})?", text.strip())
        numbers = list(map(int, re.split("[- :]", found[2]))) if found else []
        if not found or len(numbers) != len(units) or (found[3] and units[-1] != "SECOND"):
            raise wrong
        if is_months:
            total = sum(number * (12 if one == "YEAR" else 1) for number, one in zip(numbers, units, strict=True))
        else:
            total = sum(number * MILLISECONDS[one] for number, one in zip(numbers, units, strict=True))
            total += round(float(found[3] or 0) * 1000)
        negative = (sign == "-") != (found[1] == "-")
        return Typed(f"(CAST({'-' * negative}{total} AS BIGINT))", t.Type(t.MONTHS if is_months else t.DAYS))

    def of_moment(self, node: Node, scope: Scope) -> Typed:
        name, precision = node["name"], 3 if node["precision"] is None else int(node["precision"])
        if precision > 6:
            raise Missing(f"{name} with more than 6 decimals")
        at = f"(TIMESTAMP '{rounded_moment(self.now, precision)}')"
        match name:
            case "CURRENT_DATE":
                return Typed(f"DATE '{self.now:%Y-%m-%d}'", t.DATE)
            case "CURRENT_TIMESTAMP":
                return Typed(at, t.zoned("UTC", precision))
            case "LOCALTIMESTAMP":
                return Typed(at, t.timestamp(precision))
            case "CURRENT_TIME":
                return Typed("NULL", t.Type("time(3) with time zone"))
        return Typed("NULL", t.Type("time(3)"))

    def of_name(self, node: Node, scope: Scope) -> Typed:
        if node["name"] in ("$file_modified_time", "$bucket", "$partition"):
            raise Missing(f"the column {node['name']}")
        found = self.resolve([node["name"]], node, scope)
        if found is None:
            self.fail("COLUMN_NOT_FOUND", node, f"Column '{node['name'].lower()}' cannot be resolved")
        return found

    def of_field(self, node: Node, scope: Scope) -> Typed:
        names = self.names_of(node)
        for count in range(len(names), 0, -1):  # the longest name of a column; the rest are its fields
            if found := self.resolve(names[:count], node, scope):
                break
        else:
            if names:
                self.fail("COLUMN_NOT_FOUND", node, f"Column '{'.'.join(names).lower()}' cannot be resolved")
            found, count = self.value(node["value"], scope), -1
        for name in names[count:] if names else [node["name"]]:
            if found.type.name != "row":
                self.mismatch(node, f"Expression {name.lower()} is not of type ROW")
            at = [n for n, one in enumerate(found.type.fields) if one.lower() == name.lower()]
            if len(at) != 1:
                self.fail("COLUMN_NOT_FOUND", node, f"Column '{'.'.join(names or [name]).lower()}' cannot be resolved")
            found = replace(found, sql=f"{found.sql}.f{at[0]}", type=found.type.items[at[0]])
        return found

    def names_of(self, node: Node) -> list[str]:
        if node.kind == "name":
            return [node["name"]]
        before = self.names_of(node["value"]) if node.kind == "field" else []
        return [*before, node["name"]] if before else []

    def resolve(self, names: list[str], node: Node, scope: Scope | None) -> Typed | None:
        """The column of a name; None if there is none."""
        *qualifier, name = [one.lower() for one in names]
        while scope:
            if not qualifier and name in scope.variables:
                return scope.variables[name]
            if not qualifier and (outputs := [one for had, one in scope.outputs if had.lower() == name]):
                if len({one.sql for one in outputs}) > 1:
                    self.fail("AMBIGUOUS_NAME", node, f"Column '{name}' is ambiguous")
                return outputs[0]
            columns = scope.grouping.inner.columns if scope.grouping and not scope.variables else scope.columns
            found = [
                one for one in columns
                if one.name.lower() == name and (not qualifier or one.qualifier[-len(qualifier) :] == tuple(qualifier))
            ]  # fmt: skip
            if len(found) > 1:
                self.fail("AMBIGUOUS_NAME", node, f"Column '{name}' is ambiguous")
            if found:
                if scope.grouping:
                    reason = f"'{'.'.join(names)}' must be an aggregate expression or appear in GROUP BY clause"
                    self.fail("EXPRESSION_NOT_AGGREGATE", node, reason)
                return Typed(found[0].sql, found[0].type, frozenset(found))
            scope = scope.parent
        return None

    def of_logical(self, node: Node, scope: Scope) -> Typed:
        parts = [self.boolean(self.value(one, scope), one, "Logical expression term") for one in node["operands"]]
        joined = f" {node['operator']} ".join(part.sql for part in parts)
        return Typed(f"({joined})", t.BOOLEAN, merged(parts))

    def of_not(self, node: Node, scope: Scope) -> Typed:
        made = self.boolean(self.value(node["value"], scope), node, "Value of logical NOT expression")
        return replace(made, sql=f"(NOT {made.sql})")

    def of_comparison(self, node: Node, scope: Scope) -> Typed:
        return self.comparison(
            node["operator"], self.value(node["value"], scope), self.value(node["right"], scope), node
        )

    def of_distinct_from(self, node: Node, scope: Scope) -> Typed:
        left, right = self.value(node["value"], scope), self.value(node["right"], scope)
        kind = t.common(left.type, right.type)
        if kind is None:
            self.mismatch(node, f"Cannot apply operator: {left.type} IS DISTINCT FROM {right.type}")
        one, other = self.coerce(left, kind), self.coerce(right, kind)
        word = "IS NOT DISTINCT FROM" if node["negated"] else "IS DISTINCT FROM"
        return Typed(f"({utc(one)} {word} {utc(other)})", t.BOOLEAN, merged((left, right)))

    def of_is_null(self, node: Node, scope: Scope) -> Typed:
        value = self.value(node["value"], scope)
        return replace(value, sql=f"({value.sql} IS {'NOT ' * bool(node['negated'])}NULL)", type=t.BOOLEAN)

    def of_between(self, node: Node, scope: Scope) -> Typed:
        value, low, high = (self.value(node[name], scope) for name in ("value", "low", "high"))
        kind = t.common(value.type, low.type)
        if kind is None or t.common(kind, high.type) is None or not kind.is_orderable:
            self.mismatch(node, f"Cannot check if {value.type} is BETWEEN {low.type} and {high.type}")
        above = self.comparison(">=", value, low, node).sql
        below = self.comparison("<=", value, high, node).sql
        return Typed(f"({'NOT ' * bool(node['negated'])}({above} AND {below}))", t.BOOLEAN, merged((value, low, high)))

    def of_in(self, node: Node, scope: Scope) -> Typed:
        value, *items = values = [self.value(one, scope) for one in (node["value"], *node["items"])]
        kind: t.Type | None = value.type
        for item in items:
            kind = kind and t.common(kind, item.type)
        if kind is None:
            shown = ", ".join(str(one.type) for one in values)
            self.mismatch(node, f"IN value and list items must be the same type or coercible to a common type: {shown}")
        made = f"{utc(self.coerce(value, kind))} IN ({', '.join(utc(self.coerce(item, kind)) for item in items)})"
        if kind.items:
            made = " OR ".join(self.comparison("=", value, item, node).sql for item in items)
        return Typed(f"({'NOT ' * bool(node['negated'])}({made}))", t.BOOLEAN, merged(values))

    def of_like(self, node: Node, scope: Scope) -> Typed:
        sides = [self.value(one, scope) for one in (node["value"], node["pattern"], node["escape"]) if one]
        for one in sides:
            if one.type.name not in ("varchar", "unknown"):
                self.mismatch(node, f"Each side of LIKE must evaluate to a varchar (actual: {one.type})")
        text, form, *escape = (self.coerce(side, t.VARCHAR).sql for side in sides)
        if escape:
            if node["escape"].kind != "string" or node["pattern"].kind != "string":
                raise Missing("LIKE ... ESCAPE with anything but literals")
            mark, wanted = node["escape"]["text"], node["pattern"]["text"]
            if len(mark) != 1:
                raise QueryFailed("INVALID_FUNCTION_ARGUMENT: Escape string must be a single character")
            if re.search(f"{re.escape(mark)}(?![%_{re.escape(mark)}])", wanted.replace(mark * 2, "")):
                raise QueryFailed("INVALID_FUNCTION_ARGUMENT: Escape character must be followed by '%', '_' or itself")
            form += f" ESCAPE {escape[0]}"
        return Typed(f"({text} {'NOT ' * bool(node['negated'])}LIKE {form})", t.BOOLEAN, merged(sides))

    def of_arithmetic(self, node: Node, scope: Scope) -> Typed:
        return self.arithmetic(
            node["operator"], self.value(node["left"], scope), self.value(node["right"], scope), node
        )

    def of_concat(self, node: Node, scope: Scope) -> Typed:
        made = self.concatenated([self.value(node["left"], scope), self.value(node["right"], scope)], node)
        return replace(made, sql=f"({made.sql})")

    def of_sign(self, node: Node, scope: Scope) -> Typed:
        value = self.value(node["value"], scope)
        if value.type.name not in (*t.NUMBERS, t.DAYS, t.MONTHS):
            self.mismatch(node, f"Cannot negate {value.type}")
        return replace(value, sql=f"(-{value.sql})") if node["sign"] == "-" else value

    def of_at_zone(self, node: Node, scope: Scope) -> Typed:
        value = self.value(node["value"], scope)
        if value.type.name not in ("timestamp", t.ZONED):
            self.mismatch(node, f"Type of value must be a time or timestamp (actual {value.type})")
        if node["zone"].kind != "string":
            raise Missing("AT TIME ZONE with anything but a literal")
        return self.at_zone(value, node["zone"]["text"])

    def of_case(self, node: Node, scope: Scope) -> Typed:
        operand = self.value(node["operand"], scope) if node["operand"] else None
        conditions, results = [], []
        for branch in node["branches"]:
            when = self.value(branch["when"], scope)
            if operand:
                conditions.append(self.comparison("=", operand, when, branch))
            else:
                conditions.append(self.boolean(when, branch, "CASE WHEN clause"))
            results.append(self.value(branch["then"], scope))
        results.append(self.value(node["otherwise"], scope) if node["otherwise"] else Typed("NULL", t.UNKNOWN))
        reason = "All CASE results must be the same type or coercible to a common type."
        values, kind = self.unify(results, node, reason)
        branches = " ".join(f"WHEN {when.sql} THEN {then.sql}" for when, then in zip(conditions, values, strict=False))
        return Typed(f"(CASE {branches} ELSE {values[-1].sql} END)", kind, merged([*conditions, *values]))

    def of_cast(self, node: Node, scope: Scope) -> Typed:
        value, kind = node["value"], self.type_of(node["type"])
        if value.kind == "call" and value["name"] == "json_parse" and len(value["arguments"]) == 1 and kind.items:
            text = self.value(value["arguments"][0], scope)  # Trino reads the text itself, in its own order
            value = replace(self.coerce(text, t.VARCHAR), type=t.JSON) if text.type.name == "varchar" else None
        else:
            value = None
        made = self.cast(value or self.value(node["value"], scope), kind, node)
        return replace(made, sql=f"(TRY({made.sql}))") if node["tries"] else made

    def of_array(self, node: Node, scope: Scope) -> Typed:
        items, kind = self.unify(
            [self.value(one, scope) for one in node["items"] or []], node, "All ARRAY elements must be the same type."
        )
        listed = ", ".join(item.sql for item in items)
        return Typed(f"(CAST([{listed}] AS {kind.duckdb}[]))", t.array(kind), merged(items))

    def of_row(self, node: Node, scope: Scope) -> Typed:
        items = [self.value(one, scope) for one in node["items"]]
        fields = ", ".join(f"f{n} := {item.sql}" for n, item in enumerate(items))
        kind = t.Type("row", tuple(item.type for item in items), fields=("",) * len(items))
        return Typed(f"struct_pack({fields})", kind, merged(items))

    def of_subscript(self, node: Node, scope: Scope) -> Typed:
        value, at = self.value(node["value"], scope), self.value(node["index"], scope)
        kind, columns = value.type, merged((value, at))
        if kind.name == "row":
            number = int(node["index"]["text"]) if node["index"].kind == "number" else 0
            if not 1 <= number <= len(kind.items):
                self.fail("INVALID_FUNCTION_ARGUMENT", node, f"ROW index out of bounds: {number}")
            return Typed(f"{value.sql}.f{number - 1}", kind.items[number - 1], columns)
        if kind.name == "map" and t.common(kind.items[0], at.type) == kind.items[0]:
            key = self.coerce(at, kind.items[0])
            found = f"list_filter({value.sql}, lambda e0: e0.k = {key.sql})"
            fault = f"py_fail('INVALID_FUNCTION_ARGUMENT: Key not present in map: ' || {self.text(key)})"
            length = f"CASE WHEN len({found}) = 0 AND {key.sql} IS NOT NULL THEN CAST({fault} AS BIGINT) ELSE 1 END"
            return Typed(f"(({found})[{length}].v)", kind.items[1], columns)
        if kind.name != "array" or at.type.name not in ("tinyint", "smallint", "integer", "bigint"):
            self.mismatch(node, f"Cannot use {at.type} for subscript of {kind}")
        return Typed(f"(({value.sql})[py_index({at.sql}, len({value.sql}))])", kind.items[0], columns)

    def of_extract(self, node: Node, scope: Scope) -> Typed:
        field = node["field"].lower()
        value = self.value(node["value"], scope)
        if value.type.name not in ("date", "timestamp", t.ZONED, t.DAYS, t.MONTHS):
            self.mismatch(
                node, f"Type of argument to extract must be DATE, TIMESTAMP, or INTERVAL (actual {value.type})"
            )
        if value.type == t.DATE and field in ("hour", "minute", "second"):
            raise Missing(f"EXTRACT({field} FROM a date)")
        return self.call(Node("call", node.at, name=field, arguments=[node["value"]], order=[]), scope)

    def of_exists(self, node: Node, scope: Scope) -> Typed:
        return Typed(f"(EXISTS ({self.subquery(node, scope).sql}))", t.BOOLEAN, None)

    def subquery(self, node: Node, scope: Scope) -> Result:
        at: Scope | None = scope
        while at and not at.names:
            at = at.parent
        return self.query(node["query"], at.names if at else {}, scope)

    def of_scalar(self, node: Node, scope: Scope) -> Typed:
        result = self.subquery(node, scope)
        if len(result.columns) != 1:
            raise Missing("subqueries of several columns")
        return Typed(f"({result.sql})", result.columns[0][1], None)

    def of_in_query(self, node: Node, scope: Scope) -> Typed:
        value, result = self.value(node["value"], scope), self.subquery(node, scope)
        if len(result.columns) != 1 or value.type.items:
            raise Missing("IN with a subquery of several columns")
        kind, of = t.common(value.type, result.columns[0][1]), result.columns[0][1]
        if kind is None:
            self.mismatch(node, f"value and result of subquery must be of the same type: {value.type} vs {of}")
        inner = self.converted(result, [kind])
        return Typed(
            f"({self.coerce(value, kind).sql} {'NOT ' * bool(node['negated'])}IN ({inner.sql}))", t.BOOLEAN, None
        )

    def of_lambda(self, node: Node, scope: Scope) -> Typed:
        self.mismatch(node, "Lambda expression should always be used inside a function")

    def of_grouping(self, node: Node, scope: Scope) -> Typed:
        grouping = scope.grouping
        if grouping is None:
            self.fail("EXPRESSION_NOT_SCALAR", node, "grouping() is allowed in a query with GROUP BY")
        keys = [self.value(one, grouping.inner).sql for one in node["items"]]
        if any(one not in grouping.keys for one in keys):
            self.fail("INVALID_ARGUMENTS", node, "The arguments to GROUPING() must be those of the GROUP BY")
        listed = ", ".join(f"g{[*grouping.keys].index(one)}" for one in keys)
        return self.registered(Typed(f"CAST(GROUPING({listed}) AS INTEGER)", t.INTEGER), grouping)

    def registered(self, made: Typed, grouping: Grouping) -> Typed:
        """An aggregate as a column of the grouping."""
        if made.sql not in grouping.aggregates:
            sql = f"{grouping.alias}.a{len(grouping.aggregates)}"
            grouping.aggregates[made.sql] = replace(made, sql=sql, columns=frozenset())
        return grouping.aggregates[made.sql]

    def of_call(self, node: Node, scope: Scope) -> Typed:
        name = node["name"]
        if node["over"]:
            return self.windowed(node, scope)
        if name in WINDOW_FUNCTIONS:
            self.fail("MISSING_OVER", node, f"Window function {name} must have an OVER clause")
        if name not in AGGREGATE_FUNCTIONS:
            return self.call(node, scope)
        grouping = scope.grouping
        if grouping is None:
            if scope.clause == "GROUP BY":
                self.fail("NESTED_AGGREGATION", node, f"Cannot nest aggregations inside aggregation: {name}")
            reason = f"{scope.clause} clause cannot contain aggregations or window functions: {name}"
            self.fail("EXPRESSION_NOT_SCALAR", node, reason)
        inner = replace(grouping.inner, clause="GROUP BY")
        return self.registered(self.aggregate(node, inner, self.filtered(node, inner), AGGREGATE_FUNCTIONS), grouping)

    def windowed(self, node: Node, scope: Scope) -> Typed:
        name = node["name"]
        if scope.clause not in ("SELECT", "ORDER BY"):
            word = "NESTED_WINDOW" if scope.clause == "window" else "EXPRESSION_NOT_SCALAR"
            self.fail(word, node, f"{scope.clause} clause cannot contain aggregations or window functions: {name}")
        functions = WINDOW_FUNCTIONS if name in WINDOW_FUNCTIONS else AGGREGATE_FUNCTIONS
        if name not in functions:
            if name in SCALAR_FUNCTIONS:
                self.fail("FUNCTION_NOT_WINDOW", node, f"Function '{name}' is not a window or an aggregate function")
            raise self.unknown_function(node)
        if node["distinct"]:
            self.fail("NOT_SUPPORTED", node, "DISTINCT in window function parameters not yet supported")
        inner = replace(scope, clause="window", outputs=[])
        window = f"{self.filtered(node, inner)} OVER ({self.window(node['over'], inner)})"
        return replace(self.aggregate(node, inner, window, functions), columns=None)

    def filtered(self, node: Node, scope: Scope) -> str:
        return f" FILTER (WHERE {self.condition(node['filter'], scope).sql})" if node["filter"] else ""

    def window(self, node: Node, scope: Scope) -> str:
        """The inside of OVER (...)."""
        partition, order, frame = node["partition"], node["order"], node["frame"]
        if node["base"]:
            base = scope.windows.get(node["base"].lower())
            if base is None:
                self.fail("INVALID_WINDOW_REFERENCE", node, f"Cannot resolve WINDOW name {node['base'].lower()}")
            if base["base"]:
                raise Missing("windows that extend windows")
            partition, order, frame = base["partition"], order or base["order"], frame or base["frame"]
        parts = []
        if partition:
            parts.append(f"PARTITION BY {', '.join(utc(self.value(one, scope)) for one in partition)}")
        if order:
            parts.append(f"ORDER BY {self.order(order, scope)}")
        if frame:
            bounds = [self.bound(one, frame, scope) for one in (frame["start"], frame["end"]) if one]
            parts.append(f"{frame['unit']} {'BETWEEN ' * (len(bounds) > 1)}{' AND '.join(bounds)}")
        return " ".join(parts)

    def bound(self, node: Node, frame: Node, scope: Scope) -> str:
        """An end of a frame: a number of rows or groups, or the distance of a range."""
        side, amount = node["side"], node["value"]
        if amount is None:
            return "CURRENT ROW" if side == "CURRENT" else f"UNBOUNDED {side}"
        value = self.value(amount, scope)
        if value.type.name in (t.DAYS, t.MONTHS) and frame["unit"] == "RANGE":
            unit = f"to_milliseconds({value.sql})" if value.type.name == t.DAYS else f"to_months({value.sql}::INTEGER)"
            return f"{unit} {side}"
        if amount.kind != "number":
            raise Missing(f"{frame['unit']} frames with such a distance")
        return f"{amount['text']} {side}"
