"""An expired cursor starts its series again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from stacks.pull.function.store import TaskKey
from tests.pull_api import Api, Asked, Clock, Json, Told, serving
from tests.stacks.pull.pulled import PAGES, RETRY_HOURS, THINGS, TOTAL, Pulled, by_cursor, declare


def expiring(clock: Clock, down: tuple[float, float]) -> Api:
    """Cursors are good for ten minutes. Nothing but the first page is answered while the API is down."""
    begin = clock.now

    def api(asked: Asked) -> Told:
        start, _, given = asked.query.get("after", "0").partition("@")
        if start != "0" and down[0] <= clock.now - begin < down[1]:
            return Told(503, {})
        if given and clock.now - float(given) > 600:
            return Told(410, {"message": "this cursor has expired"})
        told = by_cursor(asked._replace(query={"after": start}))
        clock.sleep(60)
        told.body["next"] = told.body["next"] and f"{told.body['next']}@{clock.now}"
        return told

    return api


CURSOR: Json = {"query": {"after": "{cursor}"}, "pagination": {"style": "cursor", "next": "next"}}


def test_a_series_whose_cursor_has_expired_starts_again_by_itself(table: Any) -> None:
    pulled = Pulled(table, declare("http://127.0.0.1", **CURSOR))
    with serving(expiring(pulled.clock, (100, 3000))) as url:
        pulled.source.declaration["url"] = url
        end = pulled.run()
    assert end["failed"] == [] and pulled.queue.dead == []
    assert pulled.things == {thing["id"] for thing in THINGS}
    assert len(pulled.ids) == end["rows"] == TOTAL < len(pulled.events)
    assert end["runs"][0]["notes"][0].startswith("started again from the first page: HttpError: the API answers 410")
    assert "checkpoint" in pulled.store.state("things")


@pytest.mark.parametrize("way", ["redrive", "the next run"])
def test_a_series_whose_cursor_died_starts_again_when_somebody_tries_it(table: Any, way: str) -> None:
    pulled = Pulled(table, declare("http://127.0.0.1", **CURSOR))
    with serving(expiring(pulled.clock, (100, 3600 * RETRY_HOURS + 7200))) as url:
        pulled.source.declaration["url"] = url
        end = pulled.run()
        assert "Busy: the API answers 503" in end["failed"][0]["error"]
        assert len(pulled.things) < TOTAL and "checkpoint" not in pulled.store.state("things")
        pulled.clock.sleep(36_000)
        if way == "redrive":
            pulled.redrive()
            pulled.work()
        end = pulled.run("another execution")
    assert end["failed"] == []
    assert pulled.things == {thing["id"] for thing in THINGS}
    assert len(pulled.ids) == end["rows"] == TOTAL
    assert "checkpoint" in pulled.store.state("things")


def test_a_page_that_is_gone_for_good_ends_its_series_after_three_starts(table: Any) -> None:
    asked_for = Counter[str]()

    def api(asked: Asked) -> Told:
        asked_for[asked.query.get("after", "")] += 1
        return Told(404, {}) if asked.query.get("after") == "6" else by_cursor(asked)

    with serving(api) as url:
        pulled = Pulled(table, declare(url, **CURSOR))
        end = pulled.run()
    assert asked_for == {"": 4, "3": 3, "6": 3}  # the check asks for the first page, too
    assert end["failed"][0]["error"].startswith("Dead: 1 of 3 requests; HttpError: the API answers 404")
    assert len(pulled.queue.dead) == 1 and "checkpoint" not in pulled.store.state("things")


def test_what_a_worker_still_does_for_an_earlier_start_changes_nothing(table: Any) -> None:
    answers = iter([Told(404, {})])

    def api(asked: Asked) -> Told:
        return next(answers, by_cursor(asked)) if "after" in asked.query else by_cursor(asked)

    with serving(api) as url:
        pulled = Pulled(table, declare(url, **CURSOR))
        seen: Json = {"planned": pulled.runner.plan("one", pulled.runner.check([]))}
        pulled.work(1)
        old = TaskKey.read(pulled.queue.waiting[0][1])
        pulled.queue.send([pulled.store.restart(old, "HttpError: as a test wants it")])
        pulled.work()
        end = pulled.runner.look("one", seen)
    assert end["is_done"] and end["failed"] == [] and end["rows"] == TOTAL
    assert pulled.queue.dead == [] and pulled.states() == {"landed": PAGES}
