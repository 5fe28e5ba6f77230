"""Pulling, whole: an API on 127.0.0.1, the worker, the steps of the state machine, and DynamoDB as moto has it."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from shared.secret import SecretMissing
from stacks.pull.function import client as clients
from stacks.pull.function import fetch
from stacks.pull.function.client import Client
from stacks.pull.function.fetch import Worker, settle
from stacks.pull.function.parts import Parts
from stacks.pull.function.problems import Busy
from stacks.pull.function.run import Runner
from stacks.pull.function.source import Source
from stacks.pull.function.store import Store, TaskKey
from tests.pull_api import Api, Asked, Clock, Json, MemoryQueue, Told, serving

TOKEN = "sesame-4711-open"
SECRETS: dict[str, Any] = {
    "things": TOKEN,
    "machine": {"client_id": "me", "client_secret": "kept-by-me-0815"},
}
RETRY_HOURS = 2
ROWS_A_PAGE = 3
TOTAL = 11
THINGS = [
    {"id": f"thing-{number}", "size": number / 2, "at": f"2026-01-01T00:00:{number:02d}Z"} for number in range(TOTAL)
]
PAGES = -(-TOTAL // ROWS_A_PAGE)


class Killed(BaseException):
    """The worker's process ends here."""


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The table of stacks/pull/template.yaml."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        yield boto3.resource("dynamodb", region_name="us-east-1").create_table(
            TableName="pull",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("source", "item")],
            KeySchema=[{"AttributeName": "source", "KeyType": "HASH"}, {"AttributeName": "item", "KeyType": "RANGE"}],
        )


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Secrets Manager would hold."""
    held = dict(SECRETS)

    def read(arn: str, key: str, *, fresh: bool = False) -> Any:
        if key not in held:
            raise SecretMissing(f"no {key}")
        return held[key]

    monkeypatch.setattr(clients.secret, "read", read)
    monkeypatch.setattr(clients, "_tokens", {})
    return held


class Pulled:
    """One source with everything around it; `events` is what was put on the stream, in order."""

    def __init__(self, table: Any, declaration: Json, *others: Json) -> None:
        self.clock = Clock()
        self.queue = MemoryQueue(self.clock)
        self.store = Store(table, self.clock)
        self.source = Source(declaration["name"], declaration)
        self.events: list[Json] = []
        self.refusals = 0
        self.sources = {each["name"]: Source(each["name"], each) for each in others} | {self.source.name: self.source}
        self.client = Client("secret", self.clock)
        parts = Parts(
            self.sources, self.store, self.queue, self.client, RETRY_HOURS * 3600, self.clock, self.clock.sleep
        )
        self.runner = Runner(parts)
        self.worker = Worker(parts, "stream", put=lambda *arguments: self.put(*arguments))

    def put(self, connect: Any, stream: str, records: list[bytes], left: Any) -> list[str | None]:
        if self.refusals:
            self.refusals -= 1
            return ["ServiceUnavailable" for _ in records]
        self.events += [json.loads(line) for record in records for line in record.splitlines()]
        return [None] * len(records)

    def work(self, most: int = 10_000) -> None:
        """Do what the queue holds, until it holds nothing."""
        for _ in range(most):
            message = self.queue.receive()
            if message is None:
                return
            try:
                if settle(self.worker, self.queue, message, lambda: 300_000):
                    self.queue.delete(message)
            except Killed:
                self.queue.give_back(message)

    def run(self, holder: str = "execution") -> Json:
        """A whole execution: what its last look found."""
        planned = self.runner.plan(holder, self.runner.check([]))
        seen: Json = {"planned": planned}
        for _ in range(1000):
            self.work()
            seen = self.runner.look(holder, json.loads(json.dumps(seen)))
            if seen["is_done"]:
                return seen
            self.clock.sleep(seen["pause"])
        raise AssertionError(f"no end: {seen}")

    def redrive(self) -> None:
        """What `scripts/pull.sh redrive` does."""
        for body, _ in self.queue.dead:
            again = self.store.try_again(TaskKey.read(body))
            assert again
            self.queue.send([again])
        self.queue.dead.clear()

    @property
    def ids(self) -> set[str]:
        return {event["event_id"] for event in self.events}

    @property
    def things(self) -> set[str]:
        return {event["properties"]["id"] for event in self.events}

    def states(self) -> Counter[str]:
        run = self.store.state(self.source.name)["last_run"]
        return Counter(task["state"] for task in self.store.tasks(self.source.name, run))

    def reasons(self) -> set[str]:
        run = self.store.state(self.source.name)["last_run"]
        return {str(task["reason"]) for task in self.store.tasks(self.source.name, run) if "reason" in task}


def declare(url: str, **changes: Any) -> Json:
    """A source of pages that announces their number, with what a test changes; None takes a key away."""
    declaration = {
        "name": "things",
        "url": f"{url}/things",
        "query": {"page": "{page}"},
        "auth": {"type": "bearer"},
        "pagination": {"style": "page", "total_pages": "pages"},
        "window": {"first": "2025-12-31T00:00:00Z"},
        "items": "data",
        "error": "error",
        "event": {"event_id": ["id"], "name": {"constant": "thing"}, "value": "size", "timestamp": "at"},
        **changes,
    }
    return {key: value for key, value in declaration.items() if value is not None}


def page_of(asked: Asked) -> int:
    return int(asked.query.get("page", "1"))


def honest(asked: Asked) -> Told:
    """Eleven things in pages of three."""
    if asked.headers.get("authorization") != f"Bearer {TOKEN}":
        return Told(401, {"message": "who are you?"})
    start = (page_of(asked) - 1) * ROWS_A_PAGE
    return Told(200, {"data": THINGS[start : start + ROWS_A_PAGE], "pages": PAGES})


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


# --- An API that lies ---------------------------------------------------------------------------------------------


def changed(page: int, told: Told, *, until: float = float("inf")) -> Any:
    """An API that is honest except for one page."""

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
    """An API that announces another number of pages than there are."""

    def build(clock: Clock) -> Api:
        return lambda asked: Told(200, {**honest(asked).body, "pages": pages})

    return build


def repeating(clock: Clock) -> Api:
    """The third page is the second once more."""

    def api(asked: Asked) -> Told:
        return honest(asked._replace(query={"page": "2"})) if page_of(asked) == 3 else honest(asked)

    return api


def growing(clock: Clock) -> Api:
    """From the second page on, the API knows of the pages that it had forgotten."""
    return lambda asked: Told(200, {**honest(asked).body, "pages": 2 if page_of(asked) == 1 else PAGES})


HTML = Told(200, b"<html><title>Log in</title></html>", {"Content-Type": "text/html"})

LIARS = {
    # what it is: (the API, the rows that land, how the run ends, what a dead letter says)
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

        # When the API tells the truth, the dead letters bring what was missing, and the run ends well.
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
    with serving(lambda asked: calls.append(asked) or told) as url:  # type: ignore[func-returns-value]  # appends too
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


# --- The styles of pagination -------------------------------------------------------------------------------------


def by_offset(asked: Asked) -> Told:
    start = int(asked.query["offset"])
    return Told(200, {"data": THINGS[start : start + int(asked.query["limit"])], "count": TOTAL})


def by_cursor(asked: Asked) -> Told:
    start = int(asked.query.get("after", "0"))
    end = start + ROWS_A_PAGE
    return Told(200, {"data": THINGS[start:end], "next": str(end) if end < TOTAL else None})


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


def test_fifty_sources_that_hang_stop_no_other(table: Any) -> None:
    """They hang at the same time: none of them waits for another, and so neither does the one that works."""
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
    """An API that takes a minute to say nothing is not asked again when the function would be killed meanwhile."""
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


MANY = [{"id": f"thing-{number}"} for number in range(120)]
CAP = 5
"""Rows that an API gives at most, however many are asked for."""


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
    """Pages of three, of which the API hides a row of the second."""
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
    """Behind its last page, which is full, the API gives that page again."""
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


# --- Cursors that expire ------------------------------------------------------------------------------------------


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


def test_a_post_has_a_body_with_its_placeholders_filled_in(table: Any) -> None:
    bodies = []

    def api(asked: Asked) -> Told:
        bodies.append(json.loads(asked.body))
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
    assert bodies[0] == {"filter": {"since": 1767139200000, "day": "on 2025-12-31"}, "size": 50}


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


# --- Credentials --------------------------------------------------------------------------------------------------


def test_oauth2_fetches_a_token_once_and_anew_when_it_is_taken_back(table: Any) -> None:
    given: list[str] = []

    def api(asked: Asked) -> Told:
        if asked.path == "/token":
            assert asked.headers["authorization"] == "Basic bWU6a2VwdC1ieS1tZS0wODE1"
            assert asked.body == b"grant_type=client_credentials&scope=read"
            given.append(f"access-{len(given)}")
            return Told(200, {"access_token": given[-1], "expires_in": 3600})
        if asked.headers["authorization"] != f"Bearer {given[-1]}" or (page_of(asked) == 3 and len(given) == 1):
            return Told(401, {})
        return honest(asked._replace(headers={"authorization": f"Bearer {TOKEN}"}))

    with serving(api) as url:
        auth = {"type": "oauth2_client_credentials", "token_url": f"{url}/token", "scope": "read", "secret": "machine"}
        pulled = Pulled(table, declare(url, auth=auth))
        assert pulled.run()["failed"] == []
    assert given == ["access-0", "access-1"]
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_a_token_and_the_answer_that_it_is_for_have_one_deadline(table: Any) -> None:
    def api(asked: Asked) -> Told:
        time.sleep(0.7)
        return Told(200, {"access_token": "access-0", "expires_in": 3600, "data": [], "pages": 0})

    with serving(api) as url:
        auth = {"type": "oauth2_client_credentials", "token_url": f"{url}/token", "secret": "machine"}
        pulled = Pulled(table, declare(url, auth=auth, timeout_seconds=1))
        with pytest.raises(Busy, match="gave no whole answer within"):
            pulled.client.get(pulled.source, {"page": 1})


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_replaced_in_a_run_is_read_anew(
    table: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The secret is kept for five minutes; the API takes the new token alone from the third page on."""
    kept = "old"

    def read(arn: str, key: str, *, fresh: bool = False) -> str:
        nonlocal kept
        kept = "new" if fresh else kept
        return kept

    def api(asked: Asked) -> Told:
        wanted = "new" if page_of(asked) >= 3 else "old"
        if asked.headers["authorization"] not in (f"Bearer {wanted}", "Bearer new"):
            return Told(status, {})
        return honest(asked._replace(headers={"authorization": f"Bearer {TOKEN}"}))

    monkeypatch.setattr(clients.secret, "read", read)
    with serving(api) as url:
        pulled = Pulled(table, declare(url))
        assert pulled.run()["failed"] == []
    assert sorted(event["properties"]["id"] for event in pulled.events) == sorted(thing["id"] for thing in THINGS)


AUTHS: dict[str, tuple[Json, Any, str]] = {
    "no secret": (
        {"type": "bearer", "secret": "other"},
        None,
        "there is no secret 'other': set it with scripts/pull.sh token other",
    ),
    "a secret of the wrong kind": ({"type": "bearer", "secret": "machine"}, None, "the secret of 'things' is not text"),
    "no client id": (
        {"type": "oauth2_client_credentials", "token_url": "https://x"},
        None,
        "must be an object with client_id and client_secret",
    ),
}


@pytest.mark.parametrize(("auth", "_", "error"), AUTHS.values(), ids=AUTHS)
def test_credentials_that_are_not_there_say_how_to_set_them(table: Any, auth: Json, _: Any, error: str) -> None:
    with serving(honest) as url:
        end = Pulled(table, declare(url, auth=auth)).run()
    assert end["failed"][0]["error"].startswith("BadCredentials: ") and error in end["failed"][0]["error"]


def test_no_credential_reaches_a_log_the_table_or_a_queue(
    table: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("pull", "shared", "transform", "urllib3"):
        caplog.set_level(logging.DEBUG, logger=name)
    hidden = {TOKEN, "kept-by-me-0815", "bWU6a2VwdC1ieS1tZS0wODE1", "access-0"}

    def api(asked: Asked) -> Told:
        """Repeats in its error whatever it was sent."""
        if asked.path == "/token" and page_of(asked) == 1:
            return Told(200, {"access_token": "access-0", "expires_in": 3600})
        if page_of(asked) == 1:
            return Told(200, {"data": THINGS[:3], "pages": 4})
        return [
            Told(200, {"error": f"I got {asked.headers}"}),
            Told(403, {"headers": asked.headers}),
            Told(500, {"headers": asked.headers}),
        ][page_of(asked) - 2]

    kinds: list[Json] = [
        {"type": "bearer"},
        {"type": "api_key", "header": "X-Api-Key"},
        {"type": "oauth2_client_credentials", "secret": "machine"},
    ]
    with serving(api) as url:
        for number, auth in enumerate(kinds):
            if "oauth2" in auth["type"]:
                auth["token_url"] = f"{url}/token"
            auth.setdefault("secret", "things")
            pulled = Pulled(table, declare(url, auth=auth, name=f"kind-{number}"))
            end = pulled.run()
            seen = [json.dumps(end), str(pulled.queue.dead), str(pulled.reasons())]
            assert "ErrorBody: the API answers 200 with an error in it: I got" in str(pulled.reasons())
            seen += [str(pulled.store.state(f"kind-{number}")), caplog.text, *capfd.readouterr()]
            assert [secret for secret in hidden if any(secret in text for text in seen)] == []
    assert [secret for secret in hidden if secret in str(table.scan()["Items"])] == []


# --- Being killed, and done twice ---------------------------------------------------------------------------------


FEW = THINGS[:5]


def few_announced(asked: Asked) -> Told:
    start = (page_of(asked) - 1) * ROWS_A_PAGE
    # The first answer knows of one page only, so that a worker has to plan the other.
    return Told(200, {"data": FEW[start : start + ROWS_A_PAGE], "pages": 2 if start or asked.query["try"] else 1})


def few_by_cursor(asked: Asked) -> Told:
    start = int(asked.query.get("after", "0"))
    end = start + ROWS_A_PAGE
    return Told(200, {"data": FEW[start:end], "next": str(end) if end < len(FEW) else None})


def dying(pulled: Pulled, at: int) -> list[str]:
    """Let the worker's process end right after its n-th call to AWS or to the API; returns the calls as they come.

    Dying before a call is dying after the one before it.
    """
    calls: list[str] = []

    def deadly(name: str, call: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            result = list(result) if name == "tasks" else result
            calls.append(name)
            if len(calls) == at:
                raise Killed
            return result

        return wrapped

    for name in ("task", "tasks", "add", "land", "wait"):
        setattr(pulled.store, name, deadly(name, getattr(pulled.store, name)))
    pulled.queue.__dict__["send"] = deadly("send", pulled.queue.send)
    pulled.put = deadly("put", pulled.put)  # type: ignore[method-assign]  # on purpose
    pulled.client.get = deadly("get", pulled.client.get)  # type: ignore[method-assign]  # on purpose
    return calls


DYING: dict[str, tuple[Api, Json]] = {
    "pages that are announced": (few_announced, {"query": {"page": "{page}", "try": "{from:epoch}"}}),
    "cursor": (few_by_cursor, {"query": {"after": "{cursor}"}, "pagination": {"style": "cursor", "next": "next"}}),
}


@pytest.mark.parametrize(("api", "changes"), DYING.values(), ids=DYING)
def test_a_worker_that_dies_after_any_call_changes_nothing_in_the_end(table: Any, api: Api, changes: Json) -> None:
    with serving(api) as url:

        def declared(name: str) -> Json:
            return declare(url, name=name, auth={"type": "none"}, **changes)

        clean = Pulled(table, declared("clean"))
        clean.run()
        for at in itertools.count(1):
            pulled = Pulled(table, declared(f"dies-{at}"))
            seen = {"planned": pulled.runner.plan("one", pulled.runner.check([]))}
            calls = dying(pulled, at)
            pulled.work()
            alive = Pulled(table, pulled.source.declaration)
            end = alive.runner.look("one", seen)
            assert end["is_done"] and end["failed"] == [], f"died after {calls[at - 1]}"
            assert pulled.things == clean.things == {thing["id"] for thing in FEW}
            assert len(pulled.ids) == len(clean.ids) == len(FEW)
            assert alive.states() == clean.states()
            assert end["rows"] == len(FEW)
            if len(calls) < at:
                break
    assert {"task", "get", "put", "land"} | ({"add", "send"} if "pagination" in changes else set()) <= set(calls)
    assert at > 10


def test_a_step_that_is_done_twice_is_done_once(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        checked = pulled.runner.check([])
        first = pulled.runner.plan("execution", checked)
        pulled.work(2)
        assert pulled.runner.plan("execution", checked) == first
        assert pulled.states().total() == PAGES
        pulled.work()
        seen = {"planned": first}
        assert pulled.runner.look("execution", seen)["runs"] == pulled.runner.look("execution", seen)["runs"]
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_two_executions_do_not_pull_one_source_at_the_same_time(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        checked = pulled.runner.check([])
        assert "run" in pulled.runner.plan("one", checked)[0]
        other = pulled.runner.plan("two", checked)
        pulled.clock.sleep(901)
        later = pulled.runner.plan("two", checked)
    assert other == [{"source": "things", "skip": "another execution is pulling this source"}]
    assert "run" in later[0]


def test_a_run_whose_messages_are_gone_is_reported_and_the_next_one_queues_them_anew(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        seen: Json = {"planned": pulled.runner.plan("one", pulled.runner.check([]))}
        pulled.work(1)
        pulled.queue.waiting.clear()
        while not seen.get("is_done"):
            seen = pulled.runner.look("one", seen)
            pulled.clock.sleep(seen["pause"])
        assert seen["failed"][0]["error"].startswith("Lost: 3 requests have no message in the queue: run it again")
        assert pulled.run("two")["failed"] == []
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_what_fails_for_longer_than_the_retry_hours_dies(table: Any) -> None:
    with serving(lambda asked: Told(503, {}) if page_of(asked) == 2 else honest(asked)) as url:
        pulled = Pulled(table, declare(url))
        begin = pulled.clock.now
        end = pulled.run()
    assert RETRY_HOURS * 3600 <= pulled.clock.now - begin < (RETRY_HOURS + 1) * 3600
    assert "Busy: the API answers 503" in end["failed"][0]["error"]
    assert pulled.states() == {"landed": PAGES - 1, "dead": 1}


def test_a_discarded_request_lets_its_run_end_without_it(table: Any) -> None:
    with serving(lambda asked: Told(404, {}) if page_of(asked) == 2 else honest(asked)) as url:
        pulled = Pulled(table, declare(url))
        pulled.run()
        assert pulled.store.discard(TaskKey.read(pulled.queue.dead[0][0]))
        end = pulled.run("two")
    assert end["failed"] == []
    assert end["runs"][0]["outcome"] == "Discarded: 1 of 4 requests were given up, and their rows are missing"
    assert pulled.states() == {"landed": PAGES - 1, "discarded": 1}
    assert "checkpoint" in pulled.store.state("things")


def test_a_source_that_is_no_longer_declared_has_its_requests_given_up(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        pulled.runner.plan("one", pulled.runner.check([]))
        pulled.sources.clear()
        pulled.work()
    assert {reason for _, reason in pulled.queue.dead} == {"UnknownSource: 'things' is no longer declared"}
    assert pulled.states() == {"dead": 1}


def test_a_stream_that_takes_not_everything_has_the_page_fetched_again(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        pulled.refusals = 3
        assert pulled.run()["failed"] == []
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_a_row_that_no_record_can_hold_is_a_dead_letter(table: Any) -> None:
    rows = [{"id": "small"}, {"id": "large", "text": "x" * 1_100_000}]
    with serving(lambda asked: Told(200, {"data": rows})) as url:
        pulled = Pulled(table, declare(url, query={}, pagination=None))
        end = pulled.run()
    assert "RowTooLarge: a row makes an event of 1,100,1" in end["failed"][0]["error"]


def test_a_fault_of_ours_leaves_the_message_in_the_queue(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter([RuntimeError("throttled"), None, None])
    plain = fetch.to_records

    def faulty(events: Any) -> Any:
        if fault := next(faults, None):
            raise fault
        return plain(events)

    monkeypatch.setattr(fetch, "to_records", faulty)
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        assert pulled.run()["failed"] == []
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_a_large_page_is_packed_into_records_that_firehose_and_the_transform_take(table: Any) -> None:
    rows = [{"id": number, "text": "x" * 200} for number in range(12_000)]
    sizes: list[tuple[int, int]] = []

    def put(connect: Any, stream: str, records: list[bytes], left: Any) -> list[str | None]:
        sizes.extend((len(record), record.count(b"\n")) for record in records)
        return [None] * len(records)

    with serving(lambda asked: Told(200, {"data": rows})) as url:
        pulled = Pulled(table, declare(url, query={}, pagination=None))
        pulled.put = put
        assert pulled.run()["rows"] == 12_000
    assert sum(count for _, count in sizes) == 12_000
    assert all(size <= 500_000 and count <= 5_000 for size, count in sizes)


def test_what_has_landed_stays_landed_whatever_a_second_delivery_of_its_message_finds(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        pulled.run()
    key = TaskKey("things", pulled.store.state("things")["last_run"], 0, 0)
    pulled.store.land(key, fetch.NOTHING, range(0), "")
    assert not pulled.store.bury(key, "HttpError: too late")
    assert not pulled.store.revive(key) and not pulled.store.discard(key)
    task = pulled.store.task(key)
    assert task is not None and (task["state"], task["rows"]) == ("landed", ROWS_A_PAGE)
