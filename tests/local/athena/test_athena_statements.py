"""Every statement of the product has the same result on Athena, on the local Athena, and on both at the next run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from local.athena.analysis import Analysis
from local.athena.calls import Scope, Typed
from local.athena.syntax import Node, parse
from local.athena.tables import Table
from scripts.commands.deploy.queries import read
from stacks.refine.folder import compile_folder
from stacks.refine.function import plan
from stacks.refine.function.plan import Prepared, Statement, Target, prepare, read_targets
from tests.conftest import ROOT
from tests.lake import ERROR_COLUMNS, OPENX_JSON, Client, Lake
from tests.test_queries import REJECTED_COLUMNS, SCHEMA

FOLDERS = [ROOT / "stacks/refine/sql", *sorted(ROOT.glob("examples/*/refine"))]
REFINED = {
    f"{folder.relative_to(ROOT)}/{target.file}": (folder, target)
    for folder in dict.fromkeys(FOLDERS)
    for target in read_targets(compile_folder(folder))
}
SAVED = {
    f"{path.relative_to(ROOT)}: {query.name}": query.text
    for path in (ROOT / "queries.sql", *sorted(ROOT.glob("examples/*/queries.sql")))
    for query in read(path)
}
PLACEHOLDERS = {"from": "2026-01-01", "to": "2026-01-01", "AthenaDatabaseName": "sluice", "AthenaTableName": "records"}


def fill(sql: str) -> str:
    for name, value in PLACEHOLDERS.items():
        sql = sql.replace(f"${{{name}}}", value)
    return sql


def embedded() -> Iterator[tuple[str, str]]:
    """Statements within programs, scripts and pages, each with its place, and with an x for each later value."""
    for path in (*ROOT.glob("scripts/**/*.py"), *ROOT.glob("examples/**/*.py")):
        tree = list(ast.walk(ast.parse(path.read_text())))
        inner = {id(part) for node in tree if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in tree:
            if not isinstance(node, ast.JoinedStr | ast.Constant) or id(node) in inner:
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in parts)
            if re.match(r"(SELECT|WITH) .+ FROM ", text, re.DOTALL):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", re.sub(r"\{[^{}]*}", "x", text)
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.[ms][dh]"),
        *ROOT.glob("scripts/*.sh"),
    ):
        text = path.read_text().replace("\\$", "$")
        found = re.findall(r"""--sql (?:"((?:[^"\\]|\\.)+)"|'([^']+)')""", text)
        blocks = re.findall(r"^```sql\n(.+?);?\n```$", text, re.MULTILINE | re.DOTALL)
        for number, sql in enumerate([*("".join(pair) for pair in found), *blocks], 1):
            yield (
                f"{path.relative_to(ROOT)}, statement {number}",
                re.sub(r"\$\{?\w+}?", "x", fill(sql).replace("$1", "x")),
            )


def prepared(target: Target) -> Prepared:
    """The refinement function's statements for a file."""
    of_one_day: Statement = {
        "table": target.table,
        "file": target.file,
        "first": PLACEHOLDERS["from"],
        "last": PLACEHOLDERS["to"],
        "attempt": 1,
    }
    return prepare(target, of_one_day, "x", plan.Lake("sluice", "lake", "records"))


STATEMENTS = (
    {name: fill(sql) for name, sql in SAVED.items()}
    | {name: fill(target.sql) for name, (_, target) in REFINED.items()}
    | {f"stacks/refine/function/plan.py, {name}": prepared(target)["count"] for name, (_, target) in REFINED.items()}
    | dict(embedded())
)


def test_the_statements_are_found_wherever_they_stand() -> None:
    places = [re.split("[:,]", name)[0] for name in STATEMENTS]
    assert {
        "queries.sql",
        "stacks/refine/sql/quality.sql",
        "README.md",
        "docs/deliver.md",
        "docs/refine.md",
        "docs/operating.md",
    } <= {*places}
    assert {"scripts/commands/verify/evidence.py", "scripts/commands/demo.py", "stacks/refine/function/plan.py"} <= {
        *places
    }
    assert {"examples/example.sh", "examples/weather/run.sh", "examples/vehicles/queries.sql"} <= {*places}


def divisions(sql: str) -> list[exp.Div]:
    return list(sqlglot.parse_one(sql, read="athena").find_all(exp.Div))


def decimal_literals(division: exp.Div) -> list[str]:
    return [
        node.name
        for node in division.find_all(exp.Literal)
        if node.is_number and "." in node.name and "e" not in node.name.lower()
    ]


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_division_has_a_decimal(name: str) -> None:
    """On Athena 1234 / 1000.0 is 1.2."""
    for division in divisions(STATEMENTS[name]):
        for literal in decimal_literals(division):
            fix = f"{literal.removesuffix('.0')}e0"
            pytest.fail(
                f"{name}: {literal} is a decimal, and so is the quotient: write {fix} in {division.sql('athena')}"
            )


def test_a_decimal_in_a_division_is_found() -> None:
    assert [decimal_literals(one) for one in divisions("SELECT (100.0 * a) / b, a / 1e3, a / 100.0e0, 1.5 * a")] == [
        ["100.0"],
        [],
        [],
    ]


def lake_of(folder: Path | None, directory: Path) -> Lake:
    """The tables of a stack without any event: the template's, and the folder's refined ones."""
    lake = Lake(directory)
    lake.add_table("records")
    lake.add_table("records_errors", ERROR_COLUMNS, serde=OPENX_JSON, keys=("error_type", "dt"))
    lake.add_table("records_rejected", REJECTED_COLUMNS, serde=OPENX_JSON)
    client = Client(lake, directory / "athena")
    for target in read_targets(compile_folder(folder)) if folder else []:
        made = prepared(target)
        answer = client.run(made["create"])
        assert answer.state == "SUCCEEDED", answer.reason
        lake.tables["sluice", target.table] = lake.tables["sluice", made["temporary"]]
    return lake


@pytest.mark.parametrize(
    "place", ["", "examples/datalake/", "examples/sensors/", "examples/vehicles/", "examples/weather/"]
)
def test_every_quotient_and_mean_is_a_double(place: str, tmp_path: Path) -> None:
    """Integers and decimals would be rounded, to a unit or to an unseen scale."""
    folder = ROOT / (f"{place}refine" if place else "stacks/refine/sql")
    lake = lake_of(folder if folder in FOLDERS else None, tmp_path)
    names = [
        name for name in (*SAVED, *REFINED) if name.startswith((f"{place}queries.sql", f"{folder.relative_to(ROOT)}/"))
    ]
    assert names
    tables = {key: Table(".".join(key), glue) for key, glue in lake.tables.items()}
    for name in names:
        sql = STATEMENTS[name].replace("-?", "-1").replace("?", "NULL")
        analysis = Means(sql, datetime(2026, 1, 1), lambda node: (key_of(node), tables[key_of(node)]))
        analysis.query(parse(sql), Scope())
        for mean in analysis.means:
            assert mean.type.name == "double", f"{name}: {mean.sql} is a {mean.type}"


class Means(Analysis):
    """Keeps the quotients and means of a statement."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.means: list[Typed] = []

    def value(self, node: Node, scope: Scope) -> Typed:
        made = super().value(node, scope)
        if node["operator"] == "/" or node["name"] == "avg":
            self.means.append(made)
        return made


def key_of(table: Node) -> tuple[str, str]:
    return "sluice", table["name"][-1]


# --- Order

COLUMNS = [one["name"] for one in json.loads(SCHEMA.read_text())["columns"]]
FIRST = ["received_at", "request_id"]
ORDER = FIRST + [name for name in COLUMNS if name not in ("event_id", *FIRST)]
REJECTED_ORDER = FIRST + [name for name in REJECTED_COLUMNS if name not in ("event_id", "part", *FIRST)]
# Tables and subqueries, with the columns that identify a row.
KEYS = {
    "daily_events": {"dt", "source", "name", "action"},
    "processed_data": {"dt", "record_id"},
    "device_days": {"dt", "source", "device_id"},
    "region_days": {"dt", "region"},
    "weeks": {"week_until", "region"},  # of region_days
    "events": {"event_id"},  # of queries.sql, one row for each event
    "visits": {"event_id"},  # the same
    "queries.sql: rejections": {"event_id"},  # of one part of each rejected event, once
    "docs/refine.md, statement 2": {"name", "occurred_hour"},  # an hour lies on one day
}
POSITIONAL = (exp.RowNumber, exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue, exp.NthValue)
PULLED = ("examples/vehicles/", "examples/weather/")


def names_of(nodes: list[exp.Expr]) -> list[str]:
    """The columns named whole: an expression of a column does not tell all of its values apart."""
    columns = [node.this if isinstance(node, exp.Ordered) else node for node in nodes]
    return [column.name for column in columns if isinstance(column, exp.Column)]


def parts_of(window: exp.Window) -> tuple[list[str], list[exp.Expr]]:
    """A window's partition columns and its order, also from the WINDOW clause."""
    select = window.find_ancestor(exp.Select)
    named = {one.name: one for one in (select.args.get("windows") or [])} if select else {}
    defined = named.get(window.args["alias"].name, window) if window.args.get("alias") else window
    order = defined.args.get("order")
    return names_of(defined.args.get("partition_by") or []), order.expressions if order else []


def columns_read(select: exp.Select) -> set[str]:
    """The columns behind the rows of a SELECT, without those named by a window alone."""
    made = [one.copy() for one in select.selects]
    for window in (window for one in made for window in one.find_all(exp.Window)):
        window.set("partition_by", None)
        window.set("order", None)
    return {column.name for one in made for column in one.find_all(exp.Column)}


def windows_of(sql: str) -> list[tuple[exp.Window, exp.Select]]:
    statement = sqlglot.parse_one(sql, read="athena")
    found = [window for window in statement.find_all(exp.Window) if isinstance(window.this, POSITIONAL)]
    return [(window, select) for window in found if (select := window.find_ancestor(exp.Select))]


def is_total(name: str, select: exp.Select, named: set[str]) -> bool:
    """Whether rows equal in the named columns are equal in everything selected."""
    source = select.args["from_"].this.name if select.args.get("from_") else ""
    group = select.args.get("group")
    keys = [KEYS.get(source), KEYS.get(name), {*names_of(group.expressions)} if group else None]
    if select.is_star:
        [made] = [one.this for one in select.root().find_all(exp.CTE) if one.alias == source]
        keys += [{one.alias_or_name for one in made.selects}, columns_read(made)]
    else:
        keys += [columns_read(select)]
    return any(key <= named for key in keys if key)


@pytest.mark.parametrize("name", STATEMENTS)
def test_whatever_depends_on_an_order_has_a_total_one(name: str) -> None:
    """Ties come in any order, and in another one at the next run or on another engine."""
    for window, select in windows_of(STATEMENTS[name]):
        partition, order = parts_of(window)
        assert is_total(name, select, {*partition, *names_of(order)}), window.sql("athena")
    for select in sqlglot.parse_one(STATEMENTS[name], read="athena").find_all(exp.Select):
        if select.args.get("limit"):
            order = select.args["order"].expressions
            assert is_total(name, select, {*names_of(order)}), select.args["order"].sql("athena")


def test_an_order_with_ties_is_found() -> None:
    for sql in (
        "SELECT a, b FROM t ORDER BY a LIMIT 1",
        "SELECT a, row_number() OVER (PARTITION BY b ORDER BY abs(a)) AS n FROM t",
        "SELECT a, b, lag(b) OVER w FROM t WINDOW w AS (PARTITION BY b ORDER BY c)",
    ):
        with pytest.raises(AssertionError):
            STATEMENTS["tied"] = sql
            test_whatever_depends_on_an_order_has_a_total_one("tied")
    del STATEMENTS["tied"]


DEDUPLICATING = [
    name for name, sql in STATEMENTS.items() if any("event_id" in parts_of(one)[0] for one, _ in windows_of(sql))
]


@pytest.mark.parametrize("name", DEDUPLICATING)
def test_the_row_of_an_event_id_that_counts_is_the_same_one_in_every_statement(name: str) -> None:
    """The first received; of ties, the first by the table's columns in order. Of revised rows, the last received."""
    wanted = REJECTED_ORDER if "_rejected" in STATEMENTS[name] else ORDER
    for window, select in windows_of(STATEMENTS[name]):
        partition, order = parts_of(window)
        if "event_id" not in partition:
            continue
        names = [one for one in names_of(order) if one != "$path"]
        is_descending = [bool(one.args.get("desc")) for one in order]
        if name.startswith(PULLED):
            assert names[:2] == FIRST and is_descending == [True, True, *[False] * (len(names) - 2)]
        else:
            # Rows of one request share an address and a user agent, and properties cost the most to read.
            due = [one for one in wanted if one in names or one not in ("properties", "ip", "user_agent")]
            assert names == due[: len(names)] and not any(is_descending), (
                f"{name} orders the rows of an event_id by {names}, not by {due[: len(names)]}: received_at, "
                "request_id, then the order of lambda/transform/schema.json. Add a new column at the end"
            )
        missing = ({*wanted} & columns_read(select)) - {*names}
        assert not missing, (
            f"{name} reads {missing} and does not order the rows of an event_id by it: add it to ORDER BY"
        )
        where = select.args.get("where")
        conditions = {column.name for column in where.find_all(exp.Column)} if where else set()
        assert conditions <= ({"dt", "name"} if name.startswith(PULLED) else {"dt"}), (
            "this chooses before the order does"
        )


def test_every_statement_that_counts_events_takes_each_once() -> None:
    assert {
        "queries.sql: totals-by-name-and-action",
        "stacks/refine/sql/processed_events.sql",
        "stacks/refine/sql/quality.sql",
    } <= {*DEDUPLICATING}
    assert {"examples/datalake/refine/processed_data.sql", "examples/sensors/queries.sql: celsius-readings"} <= {
        *DEDUPLICATING
    }
    assert len(DEDUPLICATING) >= 20
