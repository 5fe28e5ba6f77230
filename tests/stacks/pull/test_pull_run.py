"""A whole run of a pull: its requests, the landed events, and where the next run begins."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from typing import Any

from tests.pull_api import Asked, Told, serving
from tests.stacks.pull.pulled import PAGES, THINGS, TOTAL, Pulled, declare, honest, page_of


def test_a_run_lands_every_row_once_and_moves_the_checkpoint(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        end = pulled.run()
    assert end["failed"] == []
    assert end["rows"] == len(pulled.events) == TOTAL
    assert pulled.things == {thing["id"] for thing in THINGS}
    assert pulled.states() == {"landed": PAGES}
    assert pulled.store.state("things")["checkpoint"] == "2026-01-01T00:00:00Z"
    assert "run" not in pulled.store.state("things")
    assert end["refine"] == {"from": "2025-12-31", "to": "2025-12-31"}
    assert pulled.events[1] == {
        "event_id": pulled.events[1]["event_id"],
        "source": "things",
        "name": "thing",
        "value": 0.5,
        "timestamp": "2026-01-01T00:00:01Z",
        "properties": {"id": "thing-1"},
    }


def test_a_second_run_begins_at_the_checkpoint_and_one_with_nothing_new_is_skipped(table: Any) -> None:
    asked_for = []

    def api(asked: Asked) -> Told:
        asked_for.append((asked.query["from"], asked.query["to"]))
        return Told(200, {"data": [], "pages": 0})

    with serving(api) as url:
        query = {"page": "{page}", "from": "{from}", "to": "{to:date}"}
        pulled = Pulled(table, declare(url, query=query))
        pulled.run()
        pulled.clock.sleep(3600)
        pulled.run()
        planned = pulled.runner.plan("execution", pulled.runner.check([]))
    assert set(asked_for) == {
        ("2025-12-31T00:00:00Z", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01"),
    }
    assert planned == [{"source": "things", "skip": "there is nothing new since the checkpoint"}]


# --- Several sources ----------------------------------------------------------------------------------------------


def test_fifty_sources_that_hang_stop_no_other(table: Any) -> None:
    """They hang at the same time. None of them waits for another, so the working one does not either."""
    hanging = 50
    together = threading.Barrier(hanging, timeout=30)

    def api(asked: Asked) -> Told:
        if asked.path == "/hangs":
            if asked.query["name"] not in met:  # the second try need not meet
                with contextlib.suppress(threading.BrokenBarrierError):
                    together.wait()
                    met.add(asked.query["name"])
            return Told(503, {})
        return honest(asked)

    met: set[str] = set()
    with serving(api) as url:
        names = [f"hangs-{number}" for number in range(hanging)]
        others = [
            declare(url, name=name, auth={"type": "none"}) | {"url": f"{url}/hangs?name={name}"} for name in names
        ]
        pulled = Pulled(table, declare(url), *others)
        end = pulled.run()
    assert len(met) == hanging
    assert {each["source"] for each in end["failed"]} == {f"hangs-{number}" for number in range(hanging)}
    assert pulled.things == {thing["id"] for thing in THINGS}
    assert "checkpoint" in pulled.store.state("things")


def test_the_check_ends_before_the_function_does(table: Any) -> None:
    """An API silent for a minute is not asked again if the function would be killed meanwhile."""
    asked_at: list[float] = []

    def api(asked: Asked) -> Told:
        asked_at.append(pulled.clock.now)
        pulled.clock.sleep(70)
        return Told(503, {})

    with serving(api) as url:
        pulled = Pulled(table, declare(url, timeout_seconds=60))
        begin = pulled.clock.now
        (checked,) = pulled.runner.check([])
    assert checked["error"].startswith("Busy: the API answers 503")
    assert len(asked_at) == 2 and pulled.clock.now - begin < 300


def test_a_fault_of_ours_in_one_source_stops_no_other(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url), declare(url, name="bad", query=["not", "checked"]))
        end = pulled.run()
    assert end["failed"] == [{"source": "bad", "error": "Fault: AttributeError, see the log of the function"}]
    assert pulled.things == {thing["id"] for thing in THINGS}


# --- Grids, windows, requests -------------------------------------------------------------------------------------


def test_a_grid_times_the_days_of_a_window_is_a_series_each(table: Any) -> None:
    asked_for = set()

    def api(asked: Asked) -> Told:
        asked_for.add((asked.query["lat"], asked.query["from"], asked.query["to"]))
        return Told(200, {"data": [{"t": asked.query["from"]}]})

    declaration = {
        "query": {"lat": "{place.lat}", "from": "{from:date}", "to": "{last:date}"},
        "pagination": None,
        "window": {"first": "2025-12-29T00:00:00Z", "round_to": "day", "slice_days": 1},
        "grid": {"place": [{"id": "north", "lat": 60.5}, {"id": "south", "lat": -1}]},
        "event": {"event_id": ["place.id", "t"], "source": "place.id", "timestamp": "t"},
    }
    with serving(api) as url:
        pulled = Pulled(table, declare(url, **declaration))
        assert pulled.run()["failed"] == []
    days = ("2025-12-29", "2025-12-30", "2025-12-31")
    assert asked_for == {(lat, day, day) for lat in ("60.5", "-1") for day in days}
    assert {(event["source"], event["timestamp"]) for event in pulled.events} == {
        (place, day) for place in ("north", "south") for day in days
    }
    assert pulled.events[0]["properties"]["place"] == {"id": "north", "lat": 60.5}
    assert len(pulled.ids) == 6


def test_the_first_page_of_each_series_plans_the_others(table: Any) -> None:
    def api(asked: Asked) -> Told:
        number = page_of(asked)
        rows = [{"id": f"{asked.query['place']}-{number}"}] if number <= 12 else []
        return Told(200, {"data": rows, "pages": 12})

    grid = {"place": ["north", "south"]}
    with serving(api) as url:
        pulled = Pulled(table, declare(url, query={"page": "{page}", "place": "{place}"}, grid=grid))
        assert pulled.run()["failed"] == []
    assert pulled.things == {f"{place}-{number}" for place in grid["place"] for number in range(1, 13)}
    assert len(pulled.events) == 24
    assert pulled.states() == {"landed": 26}


def test_without_an_event_id_equal_rows_of_a_page_are_two_events_and_equal_pages_one(table: Any) -> None:
    with serving(lambda asked: Told(200, [{"n": 1}, {"n": 1}, {"n": 2}])) as url:
        changes = {"query": {}, "pagination": None, "items": "@", "event": {"value": "n"}, "window": None}
        pulled = Pulled(table, declare(url, **changes))
        pulled.run()
        pulled.clock.sleep(60)
        pulled.run()
    assert len(pulled.events) == 6
    assert len(pulled.ids) == 3


def test_a_post_has_a_body_and_headers_with_their_placeholders_filled_in(table: Any) -> None:
    requests = []

    def api(asked: Asked) -> Told:
        requests.append(asked)
        return Told(200, {"data": [], "next": None})

    changes = {
        "method": "POST",
        "query": {},
        "headers": {"X-Since": "{from:epoch}"},
        "body": {"filter": {"since": "{from:epoch_ms}", "day": "on {from:date}"}, "after": "{cursor}", "size": 50},
        "pagination": {"style": "cursor", "next": "next"},
    }
    with serving(api) as url:
        assert Pulled(table, declare(url, **changes)).run()["failed"] == []
    headers = {"x-since": "1767139200", "content-type": "application/json", "accept": "application/json"}
    assert requests[0].headers.items() >= headers.items()
    assert json.loads(requests[0].body) == {"filter": {"since": 1767139200000, "day": "on 2025-12-31"}, "size": 50}


def test_requests_keep_their_rate_across_workers(table: Any) -> None:
    at = []

    def api(asked: Asked) -> Told:
        at.append(pulled.clock.now)
        return honest(asked)

    with serving(api) as url:
        pulled = Pulled(table, declare(url, requests_per_second=0.5))
        pulled.run()
    assert len(at) == PAGES + 1  # the check asks for the first page, too
    assert all(after - before >= 1.99 for before, after in itertools.pairwise(at[1:]))
