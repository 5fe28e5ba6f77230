"""Each style of pagination finds every row, or the run says why not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.pull_api import Api, Asked, Json, Told, serving
from tests.stacks.pull.pulled import ROWS_A_PAGE, THINGS, TOTAL, Pulled, by_cursor, declare, honest, page_of


def by_offset(asked: Asked) -> Told:
    start = int(asked.query["offset"])
    return Told(200, {"data": THINGS[start : start + int(asked.query["limit"])], "count": TOTAL})


def by_link(asked: Asked) -> Told:
    end = page_of(asked) * ROWS_A_PAGE
    link = {"Link": f'</things?page={page_of(asked) + 1}>; rel="next", </things?page=1>; rel="first"'}
    return Told(200, {"data": THINGS[end - ROWS_A_PAGE : end]}, link if end < TOTAL else {})


def by_columns(asked: Asked) -> Told:
    return Told(200, {"daily": {"id": [thing["id"] for thing in THINGS], "size": list(range(TOTAL))}})


OFFSET = {"offset": "{offset}", "limit": 3}
STYLES: dict[str, tuple[Api, Json, int]] = {
    "pages, of which nothing says how many": (honest, {"pagination": {"style": "page"}}, 5),
    "pages, of whose rows it says how many": (
        lambda asked: Told(200, {**honest(asked).body, "rows": TOTAL}),
        {"pagination": {"style": "page", "size": 3, "total_rows": "rows"}},
        4,
    ),
    "offset": (by_offset, {"query": OFFSET, "pagination": {"style": "offset", "size": 3}}, 5),
    "offset with a total": (
        by_offset,
        {"query": OFFSET, "pagination": {"style": "offset", "size": 3, "total_rows": "count"}},
        4,
    ),
    "cursor": (by_cursor, {"query": {"after": "{cursor}"}, "pagination": {"style": "cursor", "next": "next"}}, 4),
    "link header": (by_link, {"query": {}, "pagination": {"style": "link"}}, 4),
    "one page": (
        lambda asked: Told(200, {"data": THINGS}),
        {"query": {}, "pagination": None},
        1,
    ),
    "columns": (
        by_columns,
        {
            "query": {},
            "pagination": None,
            "items": {"columns": "daily"},
            "event": {"event_id": ["id"], "value": "size"},
        },
        1,
    ),
    "a list at the top": (lambda asked: Told(200, THINGS), {"query": {}, "pagination": None, "items": "@"}, 1),
}


@pytest.mark.parametrize(("api", "changes", "requests"), STYLES.values(), ids=STYLES)
def test_each_style_of_pagination_finds_every_row(table: Any, api: Api, changes: Json, requests: int) -> None:
    with serving(api) as url:
        pulled = Pulled(table, declare(url, **changes))
        end = pulled.run()
    assert end["failed"] == []
    assert sorted(event["properties"]["id"] for event in pulled.events) == sorted(thing["id"] for thing in THINGS)
    assert pulled.states() == {"landed": requests}


COUNTER = itertools.count()
CIRCLE = dict(zip(["", *"abcdefg"], "abcdefgd", strict=True))
LYING_STYLES: dict[str, tuple[Api, Json, str]] = {
    "a cursor that leads to itself": (
        lambda asked: Told(200, {"data": [{"id": str(next(COUNTER))}], "next": "again"}),
        {"query": {"after": "{cursor}"}, "pagination": {"style": "cursor", "next": "next"}},
        "RepeatedPage: the cursor that page 2 names as the next was one before",
    ),
    "cursors that go round in a circle": (
        lambda asked: Told(200, {"data": [{"id": str(next(COUNTER))}], "next": CIRCLE[asked.query.get("after", "")]}),
        {"query": {"after": "{cursor}"}, "pagination": {"style": "cursor", "next": "next"}},
        "RepeatedPage: the cursor that page 8 names as the next was one before",
    ),
    "links that go round in a circle": (
        lambda asked: Told(
            200, {"data": [{"id": str(next(COUNTER))}]}, {"Link": f'<?page={page_of(asked) % 2 + 1}>; rel="next"'}
        ),
        {"query": {}, "pagination": {"style": "link"}},
        "RepeatedPage: the link that page 4 names as the next was one before",
    ),
    "pages without a total that are all the same": (
        lambda asked: Told(200, {"data": THINGS[:3]}),
        {"pagination": {"style": "page"}},
        "RepeatedPage: page 2 has the 3 rows of the page before",
    ),
    "a link to another host": (
        lambda asked: Told(200, {"data": THINGS[:3]}, {"Link": '<https://example.com/>; rel="next"'}),
        {"query": {}, "pagination": {"style": "link"}},
        "ShapeChanged: the next link leads to another host",
    ),
    "a link that is not a URL": (
        lambda asked: Told(200, {"data": THINGS[:3]}, {"Link": '<http://[>; rel="next"'}),
        {"query": {}, "pagination": {"style": "link"}},
        "ShapeChanged: the next link is not a URL",
    ),
    "columns of unequal length": (
        lambda asked: Told(200, {"id": [1, 2], "size": [1]}),
        {"query": {}, "pagination": None, "items": {"columns": "@"}},
        "ShapeChanged: the columns are not equally long: id 2, size 1",
    ),
}


@pytest.mark.parametrize(("api", "changes", "reason"), LYING_STYLES.values(), ids=LYING_STYLES)
def test_a_style_that_cannot_come_to_an_end_is_named(table: Any, api: Api, changes: Json, reason: str) -> None:
    with serving(api) as url:
        end = Pulled(table, declare(url, **changes)).run()
    assert reason in end["failed"][0]["error"]


@pytest.mark.parametrize("depth", range(800, 1000, 40))
def test_a_row_that_is_nested_deeply_lands_or_has_a_name(table: Any, depth: int) -> None:
    deep = b'{"id": "deep", "of": ' + b"[" * depth + b"]" * depth + b"}"
    with serving(lambda asked: Told(200, b'{"data": [' + deep + b"]}")) as url:
        pulled = Pulled(table, declare(url, query={}, pagination=None))
        end = pulled.run()
    assert pulled.things == {"deep"} or "NotJson" in end["failed"][0]["error"]


MANY = [{"id": f"thing-{number}"} for number in range(120)]
CAP = 5
"""An API's limit of rows, however many are asked for."""


def capped_pages(asked: Asked) -> Told:
    start = (page_of(asked) - 1) * CAP
    return Told(200, {"data": MANY[start : start + CAP], "rows": float(len(MANY)), "pages": f"{len(MANY) // CAP}"})


def capped_offset(asked: Asked) -> Told:
    start = int(asked.query["offset"])
    return Told(200, {"data": MANY[start : start + CAP], "rows": len(MANY)})


BY_OFFSET = {"offset": "{offset}", "limit": 40}
CAPS: dict[str, tuple[Api, Json]] = {
    "pages": (capped_pages, {"pagination": {"style": "page", "size": 40}}),
    "pages with a total of rows": (capped_pages, {"pagination": {"style": "page", "size": 40, "total_rows": "rows"}}),
    "pages with a total of pages": (
        capped_pages,
        {"pagination": {"style": "page", "size": 40, "total_pages": "pages"}},
    ),
    "pages with a total that is that of the page": (
        lambda asked: Told(200, {"data": (data := capped_pages(asked).body["data"]), "rows": len(data)}),
        {"pagination": {"style": "page", "size": 40, "total_rows": "rows"}},
    ),
    "offset": (capped_offset, {"query": BY_OFFSET, "pagination": {"style": "offset", "size": 40}}),
    "offset with a total": (
        capped_offset,
        {"query": BY_OFFSET, "pagination": {"style": "offset", "size": 40, "total_rows": "rows"}},
    ),
    "offset with a page in the middle that is shorter": (
        lambda asked: Told(
            200, {**capped_offset(asked).body, "data": capped_offset(asked).body["data"][: 3 + page_of(asked)]}
        ),
        {"query": BY_OFFSET, "pagination": {"style": "offset", "total_rows": "rows"}},
    ),
}


@pytest.mark.parametrize(("api", "changes"), CAPS.values(), ids=CAPS)
def test_an_api_that_gives_fewer_rows_than_asked_for_loses_none(table: Any, api: Api, changes: Json) -> None:
    with serving(api) as url:
        pulled = Pulled(table, declare(url, **changes))
        end = pulled.run()
    assert end["failed"] == []
    assert pulled.things == {thing["id"] for thing in MANY}
    assert "checkpoint" in pulled.store.state("things")


def test_fewer_rows_than_asked_for_are_noted(table: Any) -> None:
    with serving(capped_offset) as url:
        pulled = Pulled(table, declare(url, **CAPS["offset with a total"][1]))
        (run,) = pulled.run()["runs"]
    assert run["notes"] == ["page 1 has 5 rows, though 40 were asked for"]


def uneven(asked: Asked) -> Told:
    """Pages of three; the API hides a row of the second."""
    told = honest(asked)
    rows = told.body["data"][1:] if page_of(asked) == 2 else told.body["data"]
    return Told(200, {**told.body, "data": rows, "rows": TOTAL})


@pytest.mark.parametrize(
    ("pagination", "reason"),
    [
        pytest.param(
            {"style": "page"},
            'page 1 has 3 rows, and page 2 has 2: rows may lie between them. Declare "sho',
            id="no total",
        ),
        pytest.param({"style": "page", "short_pages": True}, None, id="no total, and short pages are declared"),
        pytest.param({"style": "page", "total_pages": "pages"}, None, id="a total of pages"),
        pytest.param(
            {"style": "page", "total_rows": "rows"}, "page 1 has 3 rows, and page 2 has 2", id="a total of rows"
        ),
        pytest.param(
            {"style": "page", "total_rows": "rows", "short_pages": True},
            "only 10 of 11 rows came: leave total_rows out",
            id="a total of rows, and short pages are declared",
        ),
    ],
)
def test_a_short_page_before_others_is_wrong_unless_the_source_says_so(
    table: Any, pagination: Json, reason: str | None
) -> None:
    with serving(uneven) as url:
        pulled = Pulled(table, declare(url, pagination=pagination))
        end = pulled.run()
    assert len(pulled.things) == TOTAL - 1
    assert ("checkpoint" in pulled.store.state("things")) == (reason is None)
    assert reason is None or f"WrongTotal: {reason}" in end["failed"][0]["error"]


def clamped(asked: Asked) -> Told:
    """Behind its last, full page, the API gives this page again."""
    return capped_pages(asked._replace(query={"page": str(min(page_of(asked), len(MANY) // CAP))}))


@pytest.mark.parametrize(
    "api",
    [
        pytest.param(
            lambda asked: Told(404, {}) if page_of(asked) > len(MANY) // CAP else capped_pages(asked), id="404"
        ),
        pytest.param(clamped, id="the last page once more"),
        pytest.param(capped_pages, id="no rows"),
    ],
)
def test_what_is_behind_a_full_last_page_is_its_end(table: Any, api: Api) -> None:
    with serving(api) as url:
        pulled = Pulled(table, declare(url))
        assert pulled.run()["failed"] == []
    assert pulled.things == {thing["id"] for thing in MANY}
    assert pulled.states() == {"landed": len(MANY) // CAP + 1}
