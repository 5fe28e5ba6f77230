"""From Athena's SQL to DuckDB's: names, types and clauses as Trino understands them.

A statement is a tree of `local.athena.syntax`. Each expression becomes SQL with a Trino type, each relation a subquery
with an alias of its own, so DuckDB has nothing to resolve or to convert by itself. SQL not implemented here is
refused by name; errors come in Athena's words, with their place.

Facts: https://trino.io/docs/current/sql/select.html
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from local.athena import types as t
from local.athena.calls import Calls, Column, Columns, Grouping, Result, Scope, Typed, literal, utc
from local.athena.functions import AGGREGATE_FUNCTIONS, SCALAR_FUNCTIONS, WINDOW_FUNCTIONS
from local.athena.syntax import Missing, Node
from local.athena.tables import QueryFailed, Table
from local.athena.text import show
from local.athena.values import (
    from_text,
    json_parse,
    rounded_moment,
    zoned_clock,
)

# The units of an interval, in its months or milliseconds.
MULTIPLES = {"YEAR": 12, "MONTH": 1, "DAY": 86_400_000, "HOUR": 3_600_000, "MINUTE": 60_000, "SECOND": 1000}
CONSTANTS = {"true": Typed("true", t.BOOLEAN), "false": Typed("false", t.BOOLEAN),
             "null": Typed("CAST(NULL AS INTEGER)", t.UNKNOWN)}  # fmt: skip
HIDDEN = {"$path": t.VARCHAR, "$file_size": t.BIGINT}
MAX_RECURSION = 10


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


def aggregates(node: Node) -> list[str]:
    """The names of the aggregates of an expression."""
    calls = [one for one in node.walk(into_queries=False) if one.kind in ("call", "grouping") and not one["over"]]
    return [one["name"] or one.kind for one in calls if one["name"] in AGGREGATE_FUNCTIONS or one.kind == "grouping"]


def window_calls(node: Node) -> list[str]:
    """The names of its functions with OVER."""
    return [one["name"] for one in node.walk(into_queries=False) if one["over"]]


def references(nodes: Iterable[Node], name: str) -> int:
    """How many tables there have this name."""
    return sum(one.kind == "table" and [part.lower() for part in one["name"]] == [name.lower()] for one in nodes)


def has_query(node: Node) -> bool:
    return any("query" in one.parts for one in node.walk())


def is_of_columns(node: Node) -> bool:
    """Whether an expression depends on columns, and on nothing else such as chance."""
    is_random = any(one["name"] in ("random", "rand", "uuid") for one in node.walk() if one.kind == "call")
    return not has_query(node) and not is_random and any(one.kind == "name" for one in node.walk())


class Analysis(Calls):
    """One statement. `find` gives the table of a name; `scans` are the tables it reads."""

    def __init__(self, sql: str, now: datetime, find: Callable[[Node], Result | tuple[tuple[str, str], Table]]) -> None:
        super().__init__(sql, now)
        self.find = find
        self.scans: list[Scan] = []

    # --- Queries

    def query(self, node: Node, outer: Scope) -> Result:
        """A query with its WITH."""
        scope, clauses = Scope(parent=outer), []
        for one in node["named"] or []:
            alias, is_recursive = self.alias("w"), node["recursive"] and references(one["query"].walk(), one["name"])
            result = self.recursive(one, scope) if is_recursive else self.query(one["query"], scope)
            clauses.append(f"{alias} AS ({result.sql})")
            scope.names[one["name"].lower()] = Result(alias, self.renamed(result.columns, one["columns"], one))
        result = self.ordered(node["body"], scope)
        if clauses:
            result.sql = f"WITH {', '.join(clauses)} SELECT * FROM ({result.sql})"
        return result

    def recursive(self, node: Node, outer: Scope) -> Result:
        """A recursive query, as deep as Athena goes: step by step, each a query over the last one."""
        body, alias = node["query"]["body"], self.alias("w")
        union = body["term"]
        is_union = union["operator"] == "UNION" and union["all"] and not node["query"]["named"]
        if not is_union or body["order"] or body["limit"] or body["offset"]:
            raise Missing("a recursive query other than a UNION ALL of two")
        source = [*union["right"]["source"].walk(into_queries=False)] if union["right"]["source"] else []
        is_outer = any(one["how"] in ("LEFT", "RIGHT", "FULL") for one in source)
        if is_outer or not references(source, node["name"]) == references(node["query"].walk(), node["name"]) == 1:
            raise Missing("a recursive query with such a reference to itself")
        if node["columns"] is None:
            self.fail("MISSING_COLUMN_ALIASES", node, "missing column aliases in recursive WITH query")
        first = self.term(union["left"], outer)
        columns, kinds = self.renamed(first.columns, node["columns"], node), [kind for _, kind in first.columns]
        names = {node["name"].lower(): Result(f"{alias}_last", columns)}
        step = self.term(union["right"], Scope(parent=outer, names=names))
        if len(step.columns) != len(kinds):
            counts = f"{len(kinds)}, {len(step.columns)}"
            self.mismatch(node, f"base and step relations of recursion have different number of fields: {counts}")
        for (_, had), kind in zip(step.columns, kinds, strict=True):
            if t.common(had, kind) != kind:
                self.mismatch(node, f"recursion step output type ({had}) is not coercible to that of the base ({kind})")
        step = self.converted(step, kinds)
        clauses, depths = [f"{alias}_0 AS ({first.sql})"], range(MAX_RECURSION + 2)
        for depth in depths[1:]:
            last = re.sub(rf"\b{alias}_last\b", f"{alias}_{depth - 1}", step.sql)
            clauses.append(f"{alias}_{depth} AS MATERIALIZED ({last})")
        steps = [f"SELECT {', '.join(f'o{n}' for n in range(len(kinds)))} FROM {alias}_{depth}" for depth in depths]
        advice = "Use 'max_recursion_depth' session property to modify the limit."
        reason = literal(f"NOT_SUPPORTED: Recursion depth limit exceeded ({MAX_RECURSION}). {advice}")
        steps[-1] += f" WHERE py_fail({reason} || left(o0::VARCHAR, 0)) IS NULL"  # a step too many must be empty
        return Result(f"WITH {', '.join(clauses)} {' UNION ALL '.join(steps)}", columns)

    def renamed(self, columns: Columns, names: list[str] | None, node: Node) -> Columns:
        if names is None:
            return columns
        if len(names) != len(columns):
            counts = f"{len(names)} entries but relation has {len(columns)} columns"
            self.fail("MISMATCHED_COLUMN_ALIASES", node, f"Column alias list has {counts}")
        return [(name, kind) for name, (_, kind) in zip(names, columns, strict=True)]

    def ordered(self, node: Node, outer: Scope) -> Result:
        """A query term with ORDER BY, OFFSET and LIMIT."""
        if node.kind != "ordered":
            return self.term(node, outer)
        term, order = node["term"], node["order"] or []
        if term.kind == "select":
            result = self.select(term, outer, order)
        else:
            result = self.term(term, outer)
            if order:
                alias = self.alias()
                columns = self.columns_of(alias, result.columns)
                scope = Scope(columns, outer, clause="ORDER BY")
                items = [self.sorted_by(self.sort_value(one, scope, columns), one) for one in order]
                result.sql = f"SELECT {alias}.* FROM ({result.sql}) AS {alias} ORDER BY {', '.join(items)}"
        limits = f" LIMIT {node['limit']}" * bool(node["limit"]) + f" OFFSET {node['offset']}" * bool(node["offset"])
        if limits:
            result.sql = f"{result.sql}{limits}" if order else f"SELECT * FROM ({result.sql}){limits}"
        return result

    def sort_value(self, item: Node, scope: Scope, columns: list[Column]) -> Typed:
        place = self.position(item["value"], len(columns), "ORDER BY")
        if place is None:
            return self.value(item["value"], scope)
        return Typed(columns[place].sql, columns[place].type)

    def position(self, node: Node, count: int, clause: str) -> int | None:
        """The place in the select list meant by a number such as that of ORDER BY 2."""
        if node.kind != "number" or not node["text"].isdigit():
            return None
        if not 1 <= int(node["text"]) <= count:
            self.fail("INVALID_COLUMN_REFERENCE", node, f"{clause} position {node['text']} is not in select list")
        return int(node["text"]) - 1

    def columns_of(self, alias: str, columns: Columns, qualifier: str = "") -> list[Column]:
        parts = (qualifier.lower(),) if qualifier else ()
        return [Column(parts, name, kind, f"{alias}.o{number}") for number, (name, kind) in enumerate(columns)]

    def term(self, node: Node, outer: Scope) -> Result:
        if node.kind == "ordered":
            return self.ordered(node, outer)
        if node.kind == "select":
            return self.select(node, outer, [])
        if node.kind == "values":
            return self.values(node, outer)
        left, right = self.term(node["left"], outer), self.term(node["right"], outer)
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
                self.check_distinct(kind)
            kinds.append(kind)
        both = [f"SELECT * FROM ({self.converted(side, kinds).sql})" for side in (left, right)]
        joined = f" {operator}{' ALL' * node['all']} ".join(both)
        return Result(f"SELECT * FROM ({joined})", list(zip([name for name, _ in left.columns], kinds, strict=True)))

    def converted(self, result: Result, kinds: list[t.Type]) -> Result:
        """The same rows with wider types."""
        alias = self.alias()
        outputs = [
            f"{self.coerce(Typed(f'{alias}.o{n}', had), kind).sql} AS o{n}"
            for n, ((_, had), kind) in enumerate(zip(result.columns, kinds, strict=True))
        ]
        sql = f"SELECT {', '.join(outputs)} FROM ({result.sql}) AS {alias}"
        return Result(sql, [(name, kind) for (name, _), kind in zip(result.columns, kinds, strict=True)])

    def values(self, node: Node, outer: Scope) -> Result:
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

    def select(self, node: Node, outer: Scope, order: list[Node]) -> Result:
        """SELECT ... FROM ... with its ORDER BY."""
        source = self.relation(node["source"], outer) if node["source"] else Relation("", [])
        windows = {one["name"].lower(): one["window"] for one in node["windows"] or []}
        scope = Scope(source.columns, outer, windows=windows, clause="SELECT")
        from_sql = (f" FROM {source.sql}" if source.sql else "") + self.where(node["where"], scope, source)
        items = self.items(node["items"] or [Node("star", node.at)], scope)
        selected = [one for _, one in items if isinstance(one, Node)]
        group = None
        if node["groups"] is not None or any(map(aggregates, filter(None, [*selected, node["having"], *order]))):
            group = Grouping(replace(scope, clause="GROUP BY"), self.alias())
            scope = replace(scope, columns=[], grouping=group)
            groups = self.group(node["groups"] or [], items, group)
        made = [(name, self.item(one, scope, node)) for name, one in items]
        having = ""
        if node["having"]:
            having = f" WHERE {self.condition(node['having'], replace(scope, clause='HAVING')).sql}"
        for _, value in made if node["distinct"] else []:
            self.check_distinct(value.type)
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
            return Typed(one.sql, one.type)
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
        for number in [] if source.is_outer else source.scans:
            keys = [column for column in scope.columns if column.key == number]
            for part in parts:
                if is_of_columns(part):
                    with contextlib.suppress(QueryFailed):  # it reads more than these columns
                        self.scans[number].conditions.append(self.condition(part, Scope(keys, clause="WHERE")).sql)
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
        clauses = []
        for group in groups:
            keys = []
            for node in group["items"] or [] if group.kind in ("row", "rollup") else [group]:
                if group.kind == "rollup" and node.kind not in ("name", "field", "number"):
                    self.fail("INVALID_COLUMN_REFERENCE", node, "GROUP BY expression must be a column reference")
                value = self.group_key(node, items, grouping)
                if value.sql not in grouping.keys:
                    grouping.keys[value.sql] = replace(value, sql=f"{grouping.alias}.g{len(grouping.keys)}")
                keys.append(f"g{[*grouping.keys].index(value.sql)}")
            clauses += [f"ROLLUP ({', '.join(keys)})"] if group.kind == "rollup" else keys
        return f" GROUP BY {', '.join(clauses or ['()'])}" if groups else ""

    def group_key(self, node: Node, items: list[tuple[str, Node | Column]], grouping: Grouping) -> Typed:
        if (place := self.position(node, len(items), "GROUP BY")) is not None:
            one = items[place][1]
            if isinstance(one, Column):
                return Typed(one.sql, one.type)
            node = one
        if has_query(node):
            raise Missing("GROUP BY a subquery")
        if names := aggregates(node) + window_calls(node):
            reason = f"GROUP BY clause cannot contain aggregations or window functions: {names[0]}"
            self.fail("EXPRESSION_NOT_SCALAR", node, reason)
        value = self.value(node, grouping.inner)
        self.check_distinct(value.type)
        return value

    def grouped(self, node: Node, scope: Scope) -> Typed | None:
        """An expression as a key of the GROUP BY; None if it is not one."""
        grouping = scope.grouping
        if not grouping or not grouping.keys or node.kind in ("number", "string", "null", "true", "false"):
            return None
        if has_query(node) or aggregates(node) or window_calls(node):
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

    def relation(self, node: Node, outer: Scope, left: Relation | None = None) -> Relation:
        if node.kind == "aliased":
            return self.aliased(self.relation(node["relation"], outer, left), node)
        made: Relation = getattr(self, f"from_{node.kind}")(node, outer, left)
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

    def from_versioned(self, node: Node, outer: Scope, left: Relation | None) -> Relation:
        self.fail("NOT_SUPPORTED", node, "This connector does not support versioned tables")

    def from_table(self, node: Node, outer: Scope, left: Relation | None) -> Relation:
        alias = self.alias()
        parts = [part.lower() for part in node["name"]]
        found = (outer.find(parts[0]) if len(parts) == 1 else None) or self.find(node)
        if isinstance(found, Result):
            return Relation(f"{found.sql} AS {alias}", self.columns_of(alias, found.columns, parts[-1]))
        name, table = found
        number = len(self.scans)
        self.scans.append(Scan(name, table, alias))

        def column(one: str, kind: t.Type, hidden: bool = False, key: int | None = None) -> Column:
            return Column(name, one, kind, f'{alias}."{one}"', hidden, key)

        columns = [column(one, kind) for one, kind in table.columns.items()]
        columns += [column(one, kind, key=number) for one, kind in table.keys.items()]
        columns += [column(one, kind, True) for one, kind in HIDDEN.items()]
        return Relation(f"scan_{number} AS {alias}", columns, [number])

    def from_subquery(self, node: Node, outer: Scope, left: Relation | None) -> Relation:
        alias = self.alias()
        result = self.query(node["query"], outer)
        return Relation(f"({result.sql}) AS {alias}", self.columns_of(alias, result.columns))

    def from_lateral(self, node: Node, outer: Scope, left: Relation | None) -> Relation:
        scope = Scope(left.columns, outer) if left else outer
        made = self.from_subquery(node, scope, None)
        return replace(made, sql=f"LATERAL {made.sql}")

    def from_unnest(self, node: Node, outer: Scope, left: Relation | None) -> Relation:
        alias, scope = self.alias(), Scope(left.columns if left else [], outer, clause="UNNEST")
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

    def from_join(self, node: Node, outer: Scope, _: Relation | None) -> Relation:
        left = self.relation(node["left"], outer)
        right = self.relation(node["right"], outer, left)
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
            condition = self.condition(node["on"], Scope(columns, outer, clause="JOIN")).sql
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
        if node.kind in CONSTANTS:
            return CONSTANTS[node.kind]
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

    def of_typed(self, node: Node, scope: Scope) -> Typed:
        """DATE '2026-01-01', and all like it."""
        name, text = node["type"]["name"], node["text"]
        kind = self.type_of(node["type"])
        if name == "decimal":
            whole, _, fraction = text.strip().lstrip("+-").partition(".")
            kind = t.decimal(max(len(whole.lstrip("0") + fraction), 1), len(fraction))
        try:
            if name == "timestamp":
                clock, zone, decimals = zoned_clock(text)
                made = Typed(f"(TIMESTAMP '{clock}')", t.timestamp(decimals))
                return self.with_zone(made, zone) if zone else made
            value = json_parse(text) if name == "json" else show(from_text(text, kind), kind)
        except QueryFailed:
            self.fail("INVALID_LITERAL", node, f"'{text}' is not a valid {name.upper()} literal")
        return Typed(f"(CAST({literal(value or '')} AS {kind.duckdb}))", kind)

    def of_interval(self, node: Node, scope: Scope) -> Typed:
        sign, text, unit = node["sign"], node["text"].strip(), node["unit"]
        found = re.fullmatch(r"([+-]?)(\d+)(\.\d{1,3})?", text)
        if not found or (found[3] and unit != "SECOND"):
            raise self.error("INVALID_LITERAL", node, f"'{text}' is not a valid INTERVAL literal")
        is_months = unit in ("YEAR", "MONTH")
        total = int(found[2]) * MULTIPLES[unit] + round(float(found[3] or 0) * 1000)
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
                return self.with_zone(Typed(at, t.timestamp(precision)), "UTC")
            case "LOCALTIMESTAMP":
                return Typed(at, t.timestamp(precision))
        raise Missing(name)

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
                return Typed(found[0].sql, found[0].type)
            scope = scope.parent
        return None

    def of_logical(self, node: Node, scope: Scope) -> Typed:
        parts = [self.boolean(self.value(one, scope), one, "Logical expression term") for one in node["operands"]]
        joined = f" {node['operator']} ".join(part.sql for part in parts)
        return Typed(f"({joined})", t.BOOLEAN)

    def of_not(self, node: Node, scope: Scope) -> Typed:
        made = self.boolean(self.value(node["value"], scope), node, "Value of logical NOT expression")
        return replace(made, sql=f"(NOT {made.sql})")

    def of_comparison(self, node: Node, scope: Scope) -> Typed:
        return self.comparison(
            node["operator"], self.value(node["value"], scope), self.value(node["right"], scope), node
        )

    def of_distinct_from(self, node: Node, scope: Scope) -> Typed:
        sides = [self.value(node["value"], scope), self.value(node["right"], scope)]
        (one, other), _ = self.unify(sides, node, "Cannot apply operator IS DISTINCT FROM.")
        return Typed(f"({utc(one)} IS {'NOT ' * bool(node['negated'])}DISTINCT FROM {utc(other)})", t.BOOLEAN)

    def of_is_null(self, node: Node, scope: Scope) -> Typed:
        value = self.value(node["value"], scope)
        return replace(value, sql=f"({value.sql} IS {'NOT ' * bool(node['negated'])}NULL)", type=t.BOOLEAN)

    def of_between(self, node: Node, scope: Scope) -> Typed:
        value, low, high = (self.value(node[name], scope) for name in ("value", "low", "high"))
        if not (t.common(value.type, low.type) and t.common(value.type, high.type)):
            self.mismatch(node, f"Cannot check if {value.type} is BETWEEN {low.type} and {high.type}")
        above = self.comparison(">=", value, low, node).sql
        below = self.comparison("<=", value, high, node).sql
        return Typed(f"({'NOT ' * bool(node['negated'])}({above} AND {below}))", t.BOOLEAN)

    def of_in(self, node: Node, scope: Scope) -> Typed:
        value, *items = [self.value(one, scope) for one in (node["value"], *node["items"])]
        (one, *others), kind = self.unify([value, *items], node, "IN value and list items must be the same type.")
        made = f"{utc(one)} IN ({', '.join(map(utc, others))})"
        if kind.items:
            made = " OR ".join(self.comparison("=", value, item, node).sql for item in items)
        return Typed(f"({'NOT ' * bool(node['negated'])}({made}))", t.BOOLEAN)

    def of_like(self, node: Node, scope: Scope) -> Typed:
        sides = [self.value(one, scope) for one in (node["value"], node["pattern"], node["escape"]) if one]
        for one in sides:
            if one.type.name not in ("varchar", "unknown"):
                self.mismatch(node, f"Each side of LIKE must evaluate to a varchar (actual: {one.type})")
        text, form, *escape = (self.coerce(side, t.VARCHAR).sql for side in sides)
        if escape:
            mark, wanted = node["escape"]["text"], node["pattern"]["text"] or ""
            end = re.escape(mark or "")
            if len(mark or "") != 1 or not re.fullmatch(f"([^{end}]|{end}[%_{end}])*", wanted):
                raise Missing("such a LIKE ... ESCAPE")
            form += f" ESCAPE {escape[0]}"
        return Typed(f"({text} {'NOT ' * bool(node['negated'])}LIKE {form})", t.BOOLEAN)

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
        return Typed(f"(CASE {branches} ELSE {values[-1].sql} END)", kind)

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
        return Typed(f"(CAST([{listed}] AS {kind.duckdb}[]))", t.array(kind))

    def of_row(self, node: Node, scope: Scope) -> Typed:
        items = [self.value(one, scope) for one in node["items"]]
        fields = ", ".join(f"f{n} := {item.sql}" for n, item in enumerate(items))
        kind = t.Type("row", tuple(item.type for item in items), fields=("",) * len(items))
        return Typed(f"struct_pack({fields})", kind)

    def of_subscript(self, node: Node, scope: Scope) -> Typed:
        value, at = self.value(node["value"], scope), self.value(node["index"], scope)
        kind = value.type
        if kind.name == "row":
            number = int(node["index"]["text"]) if node["index"].kind == "number" else 0
            if not 1 <= number <= len(kind.items):
                self.fail("INVALID_FUNCTION_ARGUMENT", node, f"ROW index out of bounds: {number}")
            return Typed(f"{value.sql}.f{number - 1}", kind.items[number - 1])
        if kind.name == "map" and t.common(kind.items[0], at.type) == kind.items[0]:
            key = self.coerce(at, kind.items[0])
            found = f"list_filter({value.sql}, lambda e0: e0.k = {key.sql})"
            fault = f"py_fail('INVALID_FUNCTION_ARGUMENT: Key not present in map: ' || {self.text(key)})"
            length = f"CASE WHEN len({found}) = 0 AND {key.sql} IS NOT NULL THEN CAST({fault} AS BIGINT) ELSE 1 END"
            return Typed(f"(({found})[{length}].v)", kind.items[1])
        if kind.name != "array" or at.type.name not in ("tinyint", "smallint", "integer", "bigint"):
            self.mismatch(node, f"Cannot use {at.type} for subscript of {kind}")
        return Typed(f"(({value.sql})[py_index({at.sql}, len({value.sql}))])", kind.items[0])

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
        return Typed(f"(EXISTS ({self.query(node['query'], scope).sql}))", t.BOOLEAN)

    def of_scalar(self, node: Node, scope: Scope) -> Typed:
        result = self.query(node["query"], scope)
        if len(result.columns) != 1:
            raise Missing("subqueries of several columns")
        return Typed(f"({result.sql})", result.columns[0][1])

    def of_in_query(self, node: Node, scope: Scope) -> Typed:
        value, result = self.value(node["value"], scope), self.query(node["query"], scope)
        if len(result.columns) != 1 or value.type.items:
            raise Missing("IN with a subquery of several columns")
        kind, of = t.common(value.type, result.columns[0][1]), result.columns[0][1]
        if kind is None:
            self.mismatch(node, f"value and result of subquery must be of the same type: {value.type} vs {of}")
        inner = self.converted(result, [kind])
        return Typed(f"({self.coerce(value, kind).sql} {'NOT ' * bool(node['negated'])}IN ({inner.sql}))", t.BOOLEAN)

    def of_lambda(self, node: Node, scope: Scope) -> Typed:
        self.mismatch(node, "Lambda expression should always be used inside a function")

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
            grouping.aggregates[made.sql] = replace(made, sql=f"{grouping.alias}.a{len(grouping.aggregates)}")
        return grouping.aggregates[made.sql]

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
        return self.aggregate(node, inner, window, functions)

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
