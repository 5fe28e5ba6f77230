"""The plan of a request of refinement, and the SQL of each attempt."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta

import pytest

from stacks.refine.function.plan import (
    MAX_STATEMENTS,
    Refused,
    ask_moved,
    name_days,
    new_run,
    plan,
    prepare,
    read_targets,
    run_time,
)
from tests.stacks.refine.refine_tables import BY_KIND, EVENTS, LAKE, NOW, TODAY, Json, statement


def days_of(request: Json) -> list[str]:
    statements = plan([EVENTS, BY_KIND], request, TODAY, 3)
    return [f"{one['table']} {one['first']} {one['last']}" for one in statements]


PLANS: dict[str, tuple[Json, list[str]]] = {
    "nothing said is the last days": (
        {},
        ["events_clean 2026-11-19 2026-11-21", "by_kind 2026-11-19 2026-11-21"],
    ),
    "one day": (
        {"from": "2026-01-31", "to": "2026-01-31"},
        ["events_clean 2026-01-31 2026-01-31", "by_kind 2026-01-31 2026-01-31"],
    ),
    "from alone ends today": ({"from": "2026-11-20", "only": ["events_clean"]}, ["events_clean 2026-11-20 2026-11-21"]),
    "to alone begins some days before": (
        {"to": "2026-03-02", "only": ["by_kind"]},
        ["by_kind 2026-02-28 2026-03-02"],
    ),
    "no statement writes more days than it may": (
        {"from": "2026-01-01", "to": "2026-01-21", "only": ["by_kind"]},
        ["by_kind 2026-01-01 2026-01-10", "by_kind 2026-01-11 2026-01-20", "by_kind 2026-01-21 2026-01-21"],
    ),
    "all days of a table before the next table": (
        {"from": "2026-01-01", "to": "2026-01-11", "only": ["by_kind", "events_clean"]},
        ["events_clean 2026-01-01 2026-01-11", "by_kind 2026-01-01 2026-01-10", "by_kind 2026-01-11 2026-01-11"],
    ),
}


@pytest.mark.parametrize(("request_", "statements"), PLANS.values(), ids=PLANS.keys())
def test_a_plan_has_the_statements_in_order(request_: Json, statements: list[str]) -> None:
    assert days_of(request_) == statements


REFUSED_PLANS: dict[str, tuple[Json, str]] = {
    "unknown key": ({"form": "2026-01-01"}, "takes from, to and only .got form"),
    "no day": ({"from": "2026-02-30"}, "from must be a day such as 2026-01-31 .got '2026-02-30'"),
    "another form of a day": ({"to": "20260131"}, "to must be a day"),
    "a number": ({"from": 20260131}, "from must be a day"),
    "backwards": ({"from": "2026-02-02", "to": "2026-02-01"}, "from .2026-02-02. lies after to .2026-02-01"),
    "from in the future": ({"from": "2026-12-01"}, "lies after to"),
    "unknown table": ({"only": ["event"]}, "no file makes the table 'event': there are events_clean, by_kind"),
    "only is not a list": ({"only": "by_kind"}, "only must be a list of tables"),
    "too long": ({"from": "1990-01-01", "only": ["by_kind"]}, "needs 1,348 statements, and one run takes 500"),
}


@pytest.mark.parametrize(("request_", "message"), REFUSED_PLANS.values(), ids=REFUSED_PLANS.keys())
def test_a_wrong_request_is_refused_with_its_value(request_: Json, message: str) -> None:
    with pytest.raises(Refused, match=message):
        days_of(request_)


def test_every_day_of_a_range_is_written_once() -> None:
    statements = plan([BY_KIND], {"from": "2024-01-01", "to": "2025-12-31"}, TODAY, 3)
    days = [
        date.fromisoformat(one["first"]) + timedelta(days=n)
        for one in statements
        for n in range((date.fromisoformat(one["last"]) - date.fromisoformat(one["first"])).days + 1)
    ]
    assert days == [date(2024, 1, 1) + timedelta(days=n) for n in range(731)]
    assert len(statements) <= MAX_STATEMENTS


def test_the_sql_of_an_attempt_keeps_the_lines_of_the_file() -> None:
    sql = '-- target: by_kind\nSELECT \'${from} ${to}\'\nFROM "${AthenaDatabaseName}"."${AthenaTableName}"\n'
    target = replace(BY_KIND, sql=sql, received="got_at")
    run = new_run(NOW, "0badcafe")
    made = prepare(target, statement(target), run, LAKE)
    head, *lines = made["create"].splitlines()
    assert head == (
        "CREATE TABLE lake.by_kind__run_20261121t120000_0badcafe WITH (format = 'PARQUET', "
        "write_compression = 'SNAPPY', external_location = "
        "'s3://store/curated/by_kind/run=20261121t120000_0badcafe/', partitioned_by = ARRAY['dt']) "
        "AS -- target: by_kind"
    )
    assert lines == ["SELECT '2026-01-01 2026-01-03'", 'FROM "lake"."records"']
    assert made["count"] == (
        'SELECT "dt", count(*) AS "rows", max("rows_in") AS "rows_in", '
        """CASE WHEN count("got_at") = count(*) THEN date_format(min("got_at"), '%Y-%m-%d') END AS "$since" """
        'FROM "lake"."by_kind__run_20261121t120000_0badcafe" GROUP BY "dt" ORDER BY "dt"'
    )
    assert run_time(run) == NOW
    assert run_time("20261121t120000") is None


def test_targets_are_read_as_deploy_has_written_them() -> None:
    item = {
        "file": "by_kind.sql",
        "table": "by_kind",
        "zone": "curated",
        "needs": ["events_clean"],
        "days": 10,
        "metrics": ["rows_in"],
        "sql": BY_KIND.sql,
        "received": "",
        "moves": False,
    }
    assert read_targets(json.dumps({"targets": [item]}).encode()) == [BY_KIND]


MOVED: dict[str, tuple[set[str], list[str]]] = {
    "none": (set(), ["one 2026-01-05 2026-01-06", "two 2026-01-05 2026-01-06", "three 2026-01-05 2026-01-06"]),
    "its own days, those of the tables that need it, and no others": (
        {"2026-01-02", "2026-01-05"},
        [
            "one 2026-01-02 2026-01-02",
            "one 2026-01-05 2026-01-06",
            "two 2026-01-02 2026-01-02",
            "two 2026-01-05 2026-01-06",
            "three 2026-01-05 2026-01-06",
        ],
    ),
}


@pytest.mark.parametrize(("moved", "statements"), MOVED.values(), ids=MOVED)
def test_the_days_that_events_were_moved_from_are_made_too(moved: set[str], statements: list[str]) -> None:
    one = replace(EVENTS, table="one", moves=True)
    two, three = replace(BY_KIND, table="two", needs=("one",)), replace(EVENTS, table="three")
    found = plan([one, two, three], {"from": "2026-01-05", "to": "2026-01-06"}, TODAY, 3, moved)
    assert [f"{each['table']} {each['first']} {each['last']}" for each in found] == statements


def test_nothing_is_asked_when_the_events_of_no_chosen_table_move() -> None:
    targets = [replace(EVENTS, moves=True), BY_KIND]
    assert ask_moved(targets, plan(targets, {"only": ["by_kind"]}, TODAY, 3), "records") == ""
    assert "FROM records" in ask_moved(targets, plan(targets, {}, TODAY, 3), "records")


def test_more_moved_days_than_a_run_makes_are_refused() -> None:
    moved = {(date(2020, 1, 1) + timedelta(days=2 * number)).isoformat() for number in range(500)}
    with pytest.raises(Refused, match="2026-11-21 and 500 days from or to which events were moved needs 501 statem"):
        plan([replace(EVENTS, moves=True)], {"from": "2026-11-21"}, TODAY, 3, moved)


def test_days_are_named_for_a_person() -> None:
    assert name_days({"2026-01-01", "2025-12-31", "2026-01-03"}) == "2025-12-31 to 2026-01-01, 2026-01-03"
