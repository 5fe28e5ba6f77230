"""The steps of a run, called by the state machine one after another: check, plan, look.

The problem of one source is a value, `error`, and stops no other source. Every step may be done twice.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Final, NotRequired, TypedDict

from shared import web

from . import pages
from .pages import Place
from .parts import Parts
from .problems import Busy, Problem, UnknownSource
from .source import EPOCH, MOST_PAGES, Source, Window, read_time, write_time
from .store import MOST_RESTARTS, NewTask, TaskItem, TaskKey, landed

MOST_SIDE_BY_SIDE: Final = 64
"""How many sources are checked at the same time: so many may hang without keeping another waiting."""

CHECK_SECONDS: Final = 180
"""No source is asked once more if its answer may come later than this: the function has 300 seconds."""

MOST_CHECKS: Final = 3
"""How often the test call is made if the API is busy."""

LEASE_SECONDS: Final = 900
"""How long a run keeps others from its source after its last look."""

QUIET_SECONDS: Final = 180
"""How long the queue must be empty before the rest counts as lost; SQS counts with a delay of a minute."""

SHORTEST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 120.0
"""Seconds between two looks: a day of them stays well within an execution's limit of 25,000 events."""

_STATES: Final = ("planned", "landed", "dead", "discarded")

logger = logging.getLogger(__name__)

PlannedSource = TypedDict(
    "PlannedSource",
    {
        "source": str,
        "run": NotRequired[str],
        "from": NotRequired[str],
        "to": NotRequired[str],
        "skip": NotRequired[str],
        "error": NotRequired[str],
    },
)
"""A source with the window of its run, and the run once it is planned; or with why it has none."""

RunProgress = TypedDict(
    "RunProgress",
    {
        "source": str,
        "run": str,
        "from": str,
        "to": str,
        "planned": int,
        "landed": int,
        "dead": int,
        "discarded": int,
        "rows": int,
        "notes": list[str],
        "moved_at": int,
        "quiet_since": int,
        "outcome": NotRequired[str],
    },
)
"""How far a run is: its requests by their states, and the outcome once it is over; times are seconds since 1970."""


class FailedSource(TypedDict):
    """A source and its problem."""

    source: str
    error: str


class Look(TypedDict):
    """The findings of one look; the first look is given only `planned`."""

    planned: list[PlannedSource]
    runs: NotRequired[list[RunProgress]]
    failed: NotRequired[list[FailedSource]]
    is_done: NotRequired[bool]
    pause: NotRequired[int]
    rows: NotRequired[int]
    refine: NotRequired[dict[str, str]]


class Runner:
    """The steps, with their sources, store, queue, client and clock."""

    def __init__(self, parts: Parts) -> None:
        self._sources, self._store, self._queue, self._client = parts.sources, parts.store, parts.queue, parts.client
        self._retry_seconds, self._now, self._sleep = parts.retry_seconds, parts.now, parts.sleep

    def check(self, names: list[str]) -> list[PlannedSource]:
        """Make the first request of each run, as a test: of these sources, or of all."""
        windows = {name: self._window(self._sources[name]) for name in names or self._sources if name in self._sources}
        with ThreadPoolExecutor(MOST_SIDE_BY_SIDE) as pool:
            return list(pool.map(lambda name: self._check(name, windows.get(name)), names or self._sources))

    def _window(self, source: Source) -> Window | None:
        """The window of the open run, else of a run from now on; None if there is nothing new."""
        state = self._store.state(source.name)
        if run := self._store.run(source.name, state["run"]) if "run" in state else None:
            return Window(read_time(run["from"]), read_time(run["to"]))
        now = datetime.fromtimestamp(int(self._now()), UTC)
        return source.window(read_time(state["checkpoint"]) if "checkpoint" in state else None, now)

    def _check(self, name: str, window: Window | None) -> PlannedSource:
        if name not in self._sources:
            problem = UnknownSource(f"there is no source '{name}': there are {', '.join(self._sources)}")
            return {"source": name, "error": problem.reason}
        if window is None:
            return {"source": name, "skip": "there is nothing new since the checkpoint"}
        try:
            return self._try(self._sources[name], window)
        except Problem as problem:
            logger.warning("%s: %s", name, problem.reason)
            return {"source": name, "error": problem.reason}
        except Exception as error:
            # A fault of ours in one source stops no other, either.
            logger.exception("%s: fault", name)
            return {"source": name, "error": f"Fault: {type(error).__name__}, see the log of the function"}

    def _try(self, source: Source, window: Window) -> PlannedSource:
        parameters = source.page(next(source.series(window)), 0)
        began = self._now()
        for attempt in itertools.count(1):
            try:
                page = self._client.get(source, parameters)
                break
            except Busy as problem:
                pause = web.backoff(attempt, base=2.0, at_least=min(problem.wait, 10.0))
                ends = self._now() - began + pause + source.timeout
                if attempt == MOST_CHECKS or ends > CHECK_SECONDS:
                    raise
                self._sleep(pause)
        pages.follow(source, page, Place(0, parameters, 1))
        return {"source": source.name, "from": write_time(window.start), "to": write_time(window.to)}

    def plan(self, holder: str, checked: list[PlannedSource]) -> list[PlannedSource]:
        """Plan the checked sources, or go on with their open runs.

        The first page of each series is planned, and plans the others when it is fetched. Every request has its item
        before any has its message, and keeps it: planning twice plans once.
        """
        return [self._plan(holder, each) if "from" in each else each for each in checked]

    def _plan(self, holder: str, checked: PlannedSource) -> PlannedSource:
        """Plan one source."""
        source = self._sources[checked["source"]]
        if not self._store.acquire(source.name, holder, LEASE_SECONDS):
            return {"source": source.name, "skip": "another execution is pulling this source"}
        state = self._store.state(source.name)
        run = state.get("run") or datetime.fromtimestamp(self._now(), UTC).strftime("%Y%m%dT%H%M%S")
        # An open run keeps its window, whatever was checked.
        opened = self._store.run(source.name, run)
        start, to = (opened["from"], opened["to"]) if opened else (checked["from"], checked["to"])
        window = Window(read_time(start), read_time(to))
        if not opened or not opened.get("is_planned"):
            series = list(itertools.islice(source.series(window), MOST_PAGES + 1))
            if len(series) > MOST_PAGES:
                self._store.release(source.name, holder)
                text = f"more than {MOST_PAGES:,} series of pages: narrow the window or the grid"
                return {"source": source.name, "error": f"TooManyRequests: {text}"}
            self._store.open_run(source.name, run, window)
            there = {item["item"] for item in self._store.tasks(source.name, run)}
            tasks = [
                NewTask(TaskKey(source.name, run, at, 0), source.page(parameters, 0), 1)
                for at, parameters in enumerate(series)
            ]
            self._store.add(task for task in tasks if task.key.item not in there)
            self._store.note_planned(source.name, run)
        keys = []
        for item in self._store.tasks(source.name, run):
            key = TaskKey.of(item)
            # Dead requests are tried once more: a new run is a new chance. The dead letter then finds its page landed.
            again = self._store.try_again(key) if item["state"] == "dead" else key
            if again is not None and item["state"] in ("planned", "dead"):
                keys.append(again)
        self._queue.send(keys)
        logger.info("%s %s: %d requests queued", source.name, run, len(keys))
        return {"source": source.name, "run": run, "from": start, "to": to}

    def look(self, holder: str, seen: Look) -> Look:
        """How far the runs have come.

        Returns the runs with their counts, the failures, whether all is done, and the seconds until the next look.
        `seen` is the last look's return. A run is done when each request has landed, is dead or was discarded; when
        its messages are gone, though its requests have not landed; and when nothing has moved for too long.
        """
        now = int(self._now())
        planned = seen["planned"]
        before = {run["source"]: run for run in seen.get("runs", [])}
        is_quiet = self._queue.is_empty()
        runs: list[RunProgress] = []
        failed: list[FailedSource] = [
            {"source": each["source"], "error": each["error"]} for each in planned if "error" in each
        ]
        for each in planned:
            if "run" not in each:
                continue
            old = before.get(each["source"])
            run = old if old and "outcome" in old else self._look_at(holder, each, old, is_quiet, now)
            runs.append(run)
            if "outcome" in run and (run["planned"] or run["dead"]):
                failed.append({"source": run["source"], "error": run["outcome"]})
        pause = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, 1.5 * seen.get("pause", 0.0)))
        is_done = all("outcome" in run for run in runs)
        return {
            "planned": planned,
            "runs": runs,
            "failed": failed,
            "is_done": is_done,
            "pause": round(pause),
            "rows": sum(run["rows"] for run in runs),
            "refine": self._days(runs),
        }

    def _days(self, runs: list[RunProgress]) -> dict[str, str]:
        """The days of the new events, as `{from, to}`, to be refined; empty if no source has a window: refinement then
        takes its own days."""
        windows = [(read_time(run["from"]), read_time(run["to"])) for run in runs if run["rows"]]
        dated = [(start, to - timedelta(milliseconds=1)) for start, to in windows if start != EPOCH]
        if not dated:
            return {}
        first, last = min(start for start, _ in dated), max(to for _, to in dated)
        return {"from": first.date().isoformat(), "to": last.date().isoformat()}

    def _look_at(
        self, holder: str, planned: PlannedSource, old: RunProgress | None, is_quiet: bool, now: int
    ) -> RunProgress:
        name, run = planned["source"], planned["run"]
        tasks = self._store.tasks(name, run)
        if (
            name in self._sources
            and all(task["state"] != "planned" for task in tasks)
            and self._check_pages(name, tasks)
        ):
            tasks = self._store.tasks(name, run)
        states = Counter(task["state"] for task in tasks)
        found: RunProgress = {
            "source": name,
            "run": run,
            "from": planned["from"],
            "to": planned["to"],
            "planned": states["planned"],
            "landed": states["landed"],
            "dead": states["dead"],
            "discarded": states["discarded"],
            "rows": sum(int(task["rows"]) for task in tasks if task["state"] == "landed"),
            "notes": [task["note"] for task in tasks if task.get("note")][:10],
            "moved_at": now,
            "quiet_since": now,
        }
        if old and all(found[state] == old[state] for state in _STATES):
            found["moved_at"] = old["moved_at"]
            found["quiet_since"] = old["quiet_since"] if is_quiet else now
        if found["planned"]:
            reasons = Counter(task["reason"] for task in tasks if task["state"] == "planned" and "reason" in task)
            why = f"; {reasons.most_common(1)[0][0]}" if reasons else ""
            way = "run it again, and they are queued anew"
            if now - found["quiet_since"] >= QUIET_SECONDS:
                outcome = f"Lost: {found['planned']} requests have no message in the queue: {way}{why}"
            elif now - found["moved_at"] >= self._retry_seconds + 3600:
                outcome = f"Stalled: {found['planned']} requests have not moved for hours: {way}{why}"
            else:
                self._store.acquire(name, holder, LEASE_SECONDS)
                return found
        elif found["dead"]:
            reasons = Counter(task["reason"] for task in tasks if task["state"] == "dead")
            outcome = f"Dead: {found['dead']} of {len(tasks)} requests; {reasons.most_common(1)[0][0]}"
        elif found["discarded"]:
            outcome = (
                f"Discarded: {found['discarded']} of {len(tasks)} requests were given up, and their rows are missing"
            )
            logger.warning("%s %s: the checkpoint moves all the same, to %s", name, run, planned["to"])
        else:
            outcome = "landed"
        is_over = not found["planned"] and not found["dead"]
        self._store.end_run(name, run, outcome, planned["to"] if is_over else None)
        self._store.release(name, holder)
        logger.info("%s %s: %s, rows: %d", name, run, outcome, found["rows"])
        return {**found, "outcome": outcome}

    def _check_pages(self, name: str, tasks: list[TaskItem]) -> bool:
        """Look whether the pages of each series fit together, once all are there; true if something has changed.

        If not, they are fetched once more, one after another: the series starts again from its first page. If they
        still do not fit, the last of them is dead.
        """
        restarted: list[TaskKey] = []
        buried = 0
        for _, group in itertools.groupby(tasks, key=lambda task: TaskKey.of(task).series):
            series = list(group)
            if any(task["state"] != "landed" for task in series):
                continue
            last = TaskKey.of(series[-1])
            problem = pages.check(self._sources[name], [landed(task) for task in series], is_alone=last.start > 0)
            if problem is None:
                continue
            logger.warning("%s: %s", last, problem.reason)
            if last.start < MOST_RESTARTS:
                restarted.append(self._store.restart(last, problem.reason))
            elif self._store.bury(last, problem.reason, state="landed"):
                self._queue.bury(last, problem.reason)
                buried += 1
        self._queue.send(restarted)
        return bool(restarted or buried)
