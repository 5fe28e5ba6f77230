"""An API breaking its word is reported by name, and no row is lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.pull_api import Api, Asked, Clock, Told, serving
from tests.stacks.pull.pulled import PAGES, THINGS, Pulled, declare, honest, page_of


def changed(page: int, told: Told, *, until: float = float("inf")) -> Any:
    """An API, honest except for one page."""

    def build(clock: Clock) -> Api:
        return lambda asked: told if page_of(asked) == page and clock.now < until else honest(asked)

    return build


def busy_for_an_hour(clock: Clock) -> Api:
    end = clock.now + 3600

    def api(asked: Asked) -> Told:
        if page_of(asked) > 1 and clock.now < end:
            return Told(429, {"message": "slow down"}, {"Retry-After": "600"})
        return honest(asked)

    return api


def flickering(clock: Clock) -> Api:
    """Every request but the first fails twice, each time in another way."""
    seen: Counter[int] = Counter()

    def api(asked: Asked) -> Told:
        seen[page_of(asked)] += 1
        if page_of(asked) > 1 and seen[page_of(asked)] < 3:
            return [Told(503, b""), Told(200, b"<html>Back soon</html>", {"Content-Type": "text/html"})][
                seen[page_of(asked)] - 1
            ]
        return honest(asked)

    return api


def announcing(pages: int) -> Any:
    """An API announcing a wrong number of pages."""

    def build(clock: Clock) -> Api:
        return lambda asked: Told(200, {**honest(asked).body, "pages": pages})

    return build


def repeating(clock: Clock) -> Api:
    """The third page is the second once more."""

    def api(asked: Asked) -> Told:
        return honest(asked._replace(query={"page": "2"})) if page_of(asked) == 3 else honest(asked)

    return api


def growing(clock: Clock) -> Api:
    """From the second page on, the API knows of the pages forgotten before."""
    return lambda asked: Told(200, {**honest(asked).body, "pages": 2 if page_of(asked) == 1 else PAGES})


HTML = Told(200, b"<html><title>Log in</title></html>", {"Content-Type": "text/html"})


LIARS = {
    # name: (the API, the landing rows, the end of the run, the text of a dead letter)
    "HTML instead of JSON": (changed(2, HTML), 8, "Dead", "NotJson: the API answers 200 with text/html"),
    "brackets without an end": (
        changed(2, Told(200, b"[" * 30_000)),
        8,
        "Dead",
        "NotJson: the API answers 200 with application/json, 30,000 bytes",
    ),
    "a 200 with an error in it": (
        changed(2, Told(200, {"error": "quota"})),
        8,
        "Dead",
        "ErrorBody: the API answers 200 with an error in it: quota",
    ),
    "the rows have moved": (
        changed(2, Told(200, {"rows": [], "pages": 4})),
        8,
        "Dead",
        "ShapeChanged: 'items' finds no list; the answer has the keys rows, pages",
    ),
    "a key of the rows has gone": (
        changed(2, Told(200, {"data": [{"ID": 1}], "pages": 4})),
        8,
        "Dead",
        "ShapeChanged: row 0 of 1 has no 'id'; it has the keys ID",
    ),
    "an item is not an object": (
        changed(2, Told(200, {"data": [1], "pages": 4})),
        8,
        "Dead",
        "ShapeChanged: an item is not a JSON object",
    ),
    "the total is not a number": (
        changed(2, Told(200, {"data": THINGS[3:6], "pages": "many"})),
        8,
        "Dead",
        "ShapeChanged: 'total_pages' finds no whole number",
    ),
    "a page is gone": (changed(2, Told(404, {"message": "gone"})), 8, "Dead", "HttpError: the API answers 404"),
    "the credentials end in the middle": (changed(2, Told(403, {})), 8, "Dead", "BadCredentials: the API answers 403"),
    "a page redirects to what is not a URL": (
        changed(2, Told(302, b"", {"Location": "http://["})),
        8,
        "Dead",
        "HttpError: the API answers 302",
    ),
    "a page redirects elsewhere": (
        changed(2, Told(302, b"", {"Location": "http://localhost:1/"})),
        8,
        "Dead",
        "HttpError: the API answers 302",
    ),
    "a page is not there, though it is announced": (
        changed(2, Told(200, {"data": [], "pages": 4})),
        8,
        "Dead",
        "WrongTotal: only 1 of 4 pages came",
    ),
    "a billion pages": (
        changed(2, Told(200, {"data": THINGS[3:6], "pages": 10**9})),
        11,
        "Dead",
        "WrongTotal: 4 pages were announced, and 1,000,000,000 pages",
    ),
    "more pages are announced than there are": (
        announcing(PAGES + 2),
        11,
        "Dead",
        "WrongTotal: only 4 of 6 pages came",
    ),
    "fewer pages are announced than there are": (announcing(2), 11, "landed", None),
    "the total grows": (growing, 11, "landed", None),
    "a page comes twice": (repeating, 8, "Dead", "RepeatedPage: page 3 has the 3 rows of the page before"),
    "429 for an hour": (busy_for_an_hour, 11, "landed", None),
    "503 and maintenance pages now and then": (flickering, 11, "landed", None),
}


@pytest.mark.parametrize(("build", "rows", "outcome", "reason"), LIARS.values(), ids=LIARS)
def test_an_api_that_lies_is_reported_by_name_and_loses_nothing(
    table: Any, build: Any, rows: int, outcome: str, reason: str | None
) -> None:
    pulled = Pulled(table, declare("http://127.0.0.1"))
    api = [build(pulled.clock)]
    with serving(lambda asked: api[0](asked)) as url:
        pulled.source.declaration["url"] = f"{url}/things"
        end = pulled.run()
        assert len(pulled.things) == rows
        assert [run["outcome"].partition(":")[0] for run in end["runs"]] == [outcome]
        if reason is None:
            assert end["failed"] == [] and pulled.queue.dead == []
            assert "checkpoint" in pulled.store.state("things")
            return
        assert any(found.startswith(reason) for _, found in pulled.queue.dead)
        assert reason.partition(":")[0] in end["failed"][0]["error"]
        assert "checkpoint" not in pulled.store.state("things")

        # When the API tells the truth, the dead letters bring the missing rows, and the run ends well.
        api[0] = honest
        pulled.redrive()
        end = pulled.run("another execution")
    assert end["failed"] == []
    assert pulled.things == {thing["id"] for thing in THINGS}
    assert "checkpoint" in pulled.store.state("things")


def test_rows_behind_the_announced_pages_are_noted(table: Any) -> None:
    with serving(announcing(2)(Clock())) as url:
        pulled = Pulled(table, declare(url))
        end = pulled.run()
    assert end["runs"][0]["notes"] == [
        "WrongTotal: page 3 has 3 rows, and only 2 pages are announced",
        "WrongTotal: page 4 has 2 rows, and only 2 pages are announced",
    ]


def test_a_429_holds_every_worker_for_as_long_as_it_says(table: Any) -> None:
    asked_at = []

    def api(asked: Asked) -> Told:
        if page_of(asked) > 1:
            asked_at.append(pulled.clock.now - begin)
            if pulled.clock.now - begin < 3600:
                return Told(429, {}, {"Retry-After": "1200"})
        return honest(asked)

    with serving(api) as url:
        pulled = Pulled(table, declare(url))
        begin = pulled.clock.now
        assert pulled.run()["failed"] == []
    assert len([at for at in asked_at if at < 3600]) == 3  # one of the pages each time, not all of them
    assert not [at for at in asked_at if 1 < at < 1200]


CHECKS = {
    "bad credentials": (Told(401, {}), "BadCredentials: the API answers 401 to the credentials of 'things'"),
    "another status": (Told(418, {}), "HttpError: the API answers 418"),
    "HTML": (HTML, "NotJson: the API answers 200 with text/html, 34 bytes"),
    "an error in a 200": (
        Told(200, {"error": {"code": 7}}),
        'ErrorBody: the API answers 200 with an error in it: {"code": 7}',
    ),
    "a shape that does not fit": (Told(200, []), "ShapeChanged: 'items' finds no list; the answer has a list"),
    "busy": (Told(503, {}), "Busy: the API answers 503"),
    "a billion pages": (
        Told(200, {"data": THINGS[:3], "pages": 10**9}),
        "WrongTotal: 1,000,000,000 pages are announced; a series may have 10,000: narrow it",
    ),
}


@pytest.mark.parametrize(("told", "error"), CHECKS.values(), ids=CHECKS)
def test_the_check_stops_a_run_before_anything_is_planned(table: Any, told: Told, error: str) -> None:
    calls = []
    with serving(lambda asked: calls.append(asked) or told) as url:  # appends too
        pulled = Pulled(table, declare(url))
        end = pulled.run()
    assert end["failed"][0]["error"].startswith(error)
    assert end["runs"] == [] and end["is_done"] and pulled.queue.is_empty()
    assert pulled.store.state("things") == {}
    assert len(calls) == (3 if error.startswith("Busy") else 1)


def test_nobody_listens_is_busy_too(table: Any) -> None:
    with serving(honest) as url:
        pass
    end = Pulled(table, declare(url)).run()
    assert "Busy: 127.0.0.1" in end["failed"][0]["error"]


def test_an_unknown_source_is_an_error_and_not_a_fault(table: Any) -> None:
    pulled = Pulled(table, declare("http://127.0.0.1"))
    assert pulled.runner.check(["thing"]) == [
        {"source": "thing", "error": "UnknownSource: there is no source 'thing': there are things"}
    ]
