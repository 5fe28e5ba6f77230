"""Whatever an API does with its pages: all rows present throughout land, or the run fails openly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from shared import web
from tests.memory_table import MemoryTable
from tests.pull_api import Json
from tests.stacks.pull.pulled import Killed, Pulled, declare

ASKED = 7
"""The number of rows asked for in each page."""


@dataclass
class Shelf:
    """An API over ordered rows; they come and go between two requests. `kind` is the style and the total."""

    kind: tuple[str, str | None]
    keys: list[float]
    caps: list[int]
    """The API's limits of rows: for the first request, the second and so on; then the last one for ever."""
    changes: list[int]
    """The number of rows added before each request but the first two; removed if it is negative."""
    places: list[float]
    """Where they come or go: 0 is the front, 1 the end."""
    hidden: set[float] = field(default_factory=set)
    """Rows left out of pages, though they count in totals and offsets."""
    asked: int = 0

    def __post_init__(self) -> None:
        self.stable = set(self.keys) - self.hidden
        """The rows present all the time."""

    def ask(self, method: str, url: str, headers: Json, body: bytes | None, *, timeout: float) -> web.Answer:
        """In the place of shared.web.ask."""
        query = dict(parse_qsl(urlsplit(url).query))
        self._change()
        cap = min(ASKED, self.caps[min(self.asked, len(self.caps) - 1)])
        self.asked += 1
        style = self.kind[0]
        answer: Json = {"total_rows": len(self.keys), "total_pages": math.ceil(len(self.keys) / cap)}
        told: dict[str, str] = {}
        if style in ("cursor", "link"):
            after = float(query.get("after", -1))
            behind = [key for key in self.keys if key > after]
            rows = behind[:cap]
            if len(behind) > cap:
                answer["next"] = repr(rows[-1])
                told["link"] = f'</?after={rows[-1]!r}>; rel="next"'
        else:
            start = int(query["offset"]) if style == "offset" else (int(query["page"]) - 1) * cap
            cut = self.keys[start : start + cap]
            # A page without rows is the end wherever nothing else says so.
            rows = [key for key in cut if key not in self.hidden] or cut[:1]
        answer["data"] = [{"id": key} for key in rows]
        return web.Answer(200, told, json.dumps(answer).encode())

    def _change(self) -> None:
        change = self.changes[self.asked] if 1 < self.asked < len(self.changes) else 0
        for number in range(abs(change)):
            place = self.places[(self.asked + number) % len(self.places)]
            at = round(place * len(self.keys))
            if change > 0:
                before = self.keys[at - 1] if at else 0.0
                behind = self.keys[at] if at < len(self.keys) else before + 2
                self.keys.insert(at, (before + behind) / 2)
            elif self.keys:
                self.stable.discard(self.keys.pop(min(at, len(self.keys) - 1)))


KINDS = [
    ("page", None),
    ("page", "total_rows"),
    ("page", "total_pages"),
    ("offset", None),
    ("offset", "total_rows"),
    ("cursor", None),
    ("link", None),
]


@st.composite
def shelves(draw: st.DrawFn, kind: tuple[str, str | None]) -> Shelf:
    """Shelves without the changes that docs/pull.md calls unseen.

    These are rows removed where their number is not told, or while others come, so the total stays the same; rows added
    within a page where only pages are counted; and numbered pages of changing size. Where rows are counted, such sizes
    change all the same, and most changes are seen.
    """
    style, counts = kind
    caps = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    least = -3 if counts == "total_rows" or style in ("cursor", "link") else 0
    changes = draw(st.lists(st.one_of(st.just(0), st.integers(least, 3)), max_size=12))
    if counts == "total_rows":
        sign = draw(st.sampled_from((-1, 1)))
        changes = [sign * abs(change) for change in changes]
    hidden = draw(st.sets(st.integers(1, 30).map(float), max_size=3)) if style in PLACEHOLDERS else set()
    if style == "page" and (hidden or counts != "total_rows"):
        caps = caps[:1]
    if counts == "total_pages":
        changes = [change * min(ASKED, caps[0]) for change in changes]
    keys = [float(number) for number in range(1, draw(st.integers(1, 31)))]
    return Shelf(kind, keys, caps, changes, draw(st.lists(st.floats(0, 1), min_size=1, max_size=4)), hidden)


PLACEHOLDERS: dict[str, Json] = {"page": {"page": "{page}"}, "offset": {"offset": "{offset}"}}


def declaration_of(kind: tuple[str, str | None]) -> Json:
    style, counts = kind
    pagination: Json = {"style": style} | ({"next": "next"} if style == "cursor" else {})
    pagination |= {counts: counts, "size": ASKED} if counts else {}
    return declare(
        "http://127.0.0.1",
        query=PLACEHOLDERS.get(style, {"after": "{cursor}"} if style == "cursor" else {}),
        pagination=pagination,
        auth=None,
        event={"event_id": ["id"]},
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " with ".join(filter(None, kind)))
@settings(max_examples=60)
@given(data=st.data(), order=st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_what_was_there_throughout_lands_or_the_run_fails(
    kind: tuple[str, str | None], data: st.DataObject, order: list[int]
) -> None:
    shelf = data.draw(shelves(kind))
    pulled = Pulled(MemoryTable(), declaration_of(kind))
    pulled.queue.order = order
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "ask", shelf.ask)
        end = pulled.run()
    landed = {found["properties"]["id"] for found in pulled.events}
    has_moved = "checkpoint" in pulled.store.state("things")
    event("landed" if has_moved else "failed")
    assert has_moved == (not end["failed"])
    # Pages of changing size may repeat as many rows as they leave out, so the total is right.
    repeats = kind == ("page", "total_rows") and len(set(shelf.caps)) > 1 and len(pulled.events) > len(landed)
    assert not has_moved or shelf.stable <= landed or repeats
    assert len(pulled.ids) == len(landed)


class Mortal:
    """Kills the process of a source right after some of its calls to AWS; `deaths` are their numbers."""

    def __init__(self, pulled: Pulled, deaths: set[int]) -> None:
        self.deaths, self.calls, self.killed = deaths, 0, 0
        for target, names in (
            (pulled.store, ("task", "tasks", "pages", "add", "land", "restart", "note_planned", "open_run", "end_run")),
            (pulled.queue, ("send", "bury")),
        ):
            for name in names:
                target.__dict__[name] = self.deadly(getattr(target, name))
        pulled.put = self.deadly(pulled.put)

    def deadly(self, call: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            result = iter(list(result)) if isinstance(result, Iterator) else result
            self.calls += 1
            if self.calls in self.deaths:
                self.killed += 1
                raise Killed
            return result

        return wrapped


def survive(step: Callable[[], Any]) -> Any:
    """A step as Step Functions calls it: once more when the function died."""
    while True:
        with suppress(Killed):
            return step()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " with ".join(filter(None, kind)))
@settings(max_examples=40, print_blob=True)
@given(total=st.integers(1, 30), cap=st.integers(1, 7), deaths=st.sets(st.integers(1, 60), max_size=10))
def test_a_run_that_is_killed_again_and_again_loses_no_row_and_doubles_none(
    kind: tuple[str, str | None], total: int, cap: int, deaths: set[int]
) -> None:
    shelf = Shelf(kind, [float(number) for number in range(1, total + 1)], [cap], [], [0.0])
    pulled = Pulled(MemoryTable(), declaration_of(kind))
    mortal = Mortal(pulled, deaths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "ask", shelf.ask)
        for execution in map(str, range(5)):
            checked = pulled.runner.check([])
            seen: Json = {"planned": survive(partial(pulled.runner.plan, execution, checked))}
            while not seen.get("is_done"):
                pulled.work()
                seen = survive(partial(pulled.runner.look, execution, seen))
                pulled.clock.sleep(seen["pause"])
            moved = "checkpoint" in pulled.store.state("things")
            assert moved == (not seen["failed"])
            assert not moved or {found["properties"]["id"] for found in pulled.events} == set(shelf.keys)
            if moved:
                break
    event(f"killed {min(mortal.killed, 5)} times")
    assert moved, "five executions are enough for any death"
    assert len(pulled.ids) == total
