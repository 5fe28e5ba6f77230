"""The memory of each source between two runs, in one DynamoDB table: its checkpoint, its runs, each of its requests.

    source    item                      attributes
    cars      state                     checkpoint, run (the open one), lease_by and lease_until
    cars      rate                      next: when the next request may go, in epoch milliseconds
    cars      run#<run>                 from, to, is_planned, and how it ended
    cars      task#<run>#<series>#<n>   one request: parameters, state (planned, landed, dead, discarded), rows, reason

A series started again from its first page has `<series>.1`, then `<series>.2`. Only the last start of a series counts:
workers still busy with an earlier one change nothing.

Every change of a task names the states it may change, so doing it twice is the same as doing it once.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, NotRequired, TypedDict

from shared.documents import Json, parse_json

from .pages import Landed, Page
from .source import Window, read_time, write_time

RETENTION_DAYS: Final = 90
"""How long the items of a run stay; DynamoDB deletes them some time after that."""

SECONDS_A_DAY: Final = 86_400

MOST_RESTARTS: Final = 2
"""How often a series starts again in a run by itself. A person, and the next run, start it again without a limit."""


Value = str | int | bool | None


class StateItem(TypedDict, total=False):
    """The item `state` of a source; `lease_until` is in seconds since 1970."""

    checkpoint: str
    run: str
    last_run: str
    lease_by: str
    lease_until: Decimal


RunItem = TypedDict(
    "RunItem",
    {
        "from": str,
        "to": str,
        "is_planned": NotRequired[bool],
        "outcome": NotRequired[str],
        "started_at": Decimal,
        "ended_at": NotRequired[Decimal],
    },
)
"""The item of a run."""


class TaskItem(TypedDict):
    """The item of a request."""

    source: str
    item: str
    state: Literal["planned", "landed", "dead", "discarded"]
    parameters: str
    """JSON."""
    planned: Decimal
    previous: str
    mark: NotRequired[str]
    size: NotRequired[Decimal]
    rows: Decimal
    """This, the digest and the next two are there when it has landed. The next two are the pages it planned."""
    digest: str
    next_first: Decimal
    next_end: Decimal
    total: NotRequired[Decimal | None]
    note: NotRequired[str]
    reason: NotRequired[str]
    """Why the last try did not succeed."""
    failing_since: NotRequired[Decimal]
    attempts: NotRequired[Decimal]
    doubts: NotRequired[Decimal]


@dataclass(frozen=True)
class TaskKey:
    """A request's key: its number, counted from 0, in a series of a run."""

    source: str
    run: str
    series: int
    number: int
    start: int = 0
    """How often the series has started again."""

    @property
    def pages(self) -> str:
        """The common beginning of the items of all pages of this start of the series."""
        return f"{_tasks(self.run)}{self.series:06d}{f'.{self.start}' if self.start else ''}#"

    @property
    def item(self) -> str:
        return f"{self.pages}{self.number:06d}"

    @property
    def text(self) -> str:
        return json.dumps([self.source, self.run, self.series, self.number, *([self.start] if self.start else [])])

    @classmethod
    def read(cls, text: str) -> TaskKey:
        """A key out of a message's text."""
        source, run, *numbers = parse_json(text)
        series, number, start = (*map(int, numbers), 0)[:3]
        return cls(str(source), str(run), series, number, start)

    @classmethod
    def of(cls, item: TaskItem) -> TaskKey:
        """The key of a task's item."""
        _, run, series, number = item["item"].split("#")
        series, _, start = series.partition(".")
        return cls(item["source"], run, int(series), int(number), int(start or 0))

    def page(self, number: int) -> TaskKey:
        """Another page of the same series."""
        return replace(self, number=number)

    def __str__(self) -> str:
        again = f", start {self.start + 1}" if self.start else ""
        return f"{self.source} {self.run} series {self.series + 1} page {self.number + 1}{again}"


class NewTask(NamedTuple):
    """A request to plan."""

    key: TaskKey
    parameters: Json
    planned: int
    """How many pages of its series are planned by then."""
    previous: str = ""
    """The digest of the page before it, if pages are found one after another."""
    mark: str = ""
    size: int = 0
    """See pages.Place."""


def is_chained(task: TaskItem) -> bool:
    """Whether only the page before knew the place of this one: by a cursor or a link, good for an hour perhaps."""
    parameters = parse_json(task["parameters"])
    return any(parameters.get(name) is not None for name in ("cursor", "link"))


def landed(task: TaskItem) -> Landed:
    """A landed task, as `pages.check` takes it."""
    total = task.get("total")
    return Landed(
        TaskKey.of(task).number,
        int(parse_json(task["parameters"]).get("offset", 0)),
        int(task["rows"]),
        None if total is None else int(total),
        task["digest"],
    )


def current(tasks: Iterable[TaskItem]) -> list[TaskItem]:
    """The valid tasks of a run: of each series the last start."""
    keyed = [(TaskKey.of(task), task) for task in tasks]
    last: dict[int, int] = {}
    for key, _ in keyed:
        last[key.series] = max(key.start, last.get(key.series, 0))
    return [task for key, task in keyed if key.start == last[key.series]]


class Store:
    """The table. `table` is a Table of boto3's DynamoDB resource, `now` gives seconds since 1970."""

    def __init__(self, table: Any, now: Callable[[], float] = time.time) -> None:
        self._table = table
        self._now = now

    # --- The source -----------------------------------------------------------------------------------------------

    def state(self, source: str) -> StateItem:
        """The source's state; empty if it has never run."""
        found: StateItem | None = self._get(source, "state")
        return found or {}

    def checkpoint(self, source: str) -> datetime | None:
        """The moment up to which everything has landed; None before the first."""
        text = self.state(source).get("checkpoint")
        return read_time(text) if text else None

    def acquire(self, source: str, holder: str, seconds: float) -> bool:
        """Let this execution alone work on the source for so long; False while another has it."""
        now = self._time()
        return self._update(
            source,
            "state",
            "SET #lease_by = :holder, #lease_until = :until",
            "attribute_not_exists(#lease_by) OR #lease_by = :holder OR #lease_until < :now",
            {"holder": holder, "until": now + int(seconds), "now": now},
        )

    def release(self, source: str, holder: str) -> None:
        """Let others work on the source."""
        self._update(source, "state", "REMOVE #lease_by, #lease_until", "#lease_by = :holder", {"holder": holder})

    # --- Runs -----------------------------------------------------------------------------------------------------

    def run(self, source: str, run: str) -> RunItem | None:
        """A run's item."""
        found: RunItem | None = self._get(source, f"run#{run}")
        return found

    def open_run(self, source: str, run: str, window: Window) -> None:
        """Note a run and make it the source's open one."""
        values = {"from": write_time(window.start), "to": write_time(window.to)}
        times = {"now": self._time(), "expires": self._expires()}
        update = "SET #from = :from, #to = :to, #started_at = if_not_exists(#started_at, :now), #expires = :expires"
        self._update(source, f"run#{run}", update, "", {**values, **times})
        self._update(source, "state", "SET #run = :run, #last_run = :run", "", {"run": run})

    def note_planned(self, source: str, run: str) -> None:
        """Note the run as planned: every first request has its item."""
        self._update(source, f"run#{run}", "SET #is_planned = :yes", "", {"yes": True})

    def end_run(self, source: str, run: str, outcome: str, checkpoint: str | None) -> None:
        """Note a run's outcome. With a checkpoint all of it has landed: the source moves on, and the run is closed."""
        update = "SET #outcome = :outcome, #ended_at = :now"
        self._update(source, f"run#{run}", update, "", {"outcome": outcome, "now": self._time()})
        if checkpoint is not None:
            update = "SET #checkpoint = :checkpoint REMOVE #run"
            self._update(source, "state", update, "#run = :run", {"checkpoint": checkpoint, "run": run})

    # --- Tasks ----------------------------------------------------------------------------------------------------

    def task(self, key: TaskKey) -> TaskItem | None:
        """A task's item."""
        found: TaskItem | None = self._get(key.source, key.item)
        return found

    def tasks(self, source: str, run: str) -> list[TaskItem]:
        """The valid tasks of a run, in their order and as they are now."""
        return current(self._items(source, _tasks(run)))

    def pages(self, key: TaskKey) -> Iterator[TaskItem]:
        """The tasks of one start of a series, in their order and as they are now."""
        return self._items(key.source, key.pages)

    def _items(self, source: str, prefix: str) -> Iterator[TaskItem]:
        query: Json = {
            "KeyConditionExpression": "#source = :source AND begins_with(#item, :prefix)",
            "ExpressionAttributeNames": {"#source": "source", "#item": "item"},
            "ExpressionAttributeValues": {":source": source, ":prefix": prefix},
            "ConsistentRead": True,
        }
        while True:
            page = self._table.query(**query)
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def add(self, tasks: Iterable[NewTask]) -> None:
        """Plan tasks without an item.

        Callers leave out tasks with an item. If two plan at once, a landed page may be planned anew, and lands once
        more, with the same ids.
        """
        with self._table.batch_writer() as batch:
            for task in tasks:
                batch.put_item(
                    Item={
                        "source": task.key.source,
                        "item": task.key.item,
                        "state": "planned",
                        "parameters": json.dumps(task.parameters),
                        "planned": task.planned,
                        "previous": task.previous,
                        "mark": task.mark,
                        "size": task.size,
                        "expires": self._expires(),
                    }
                )

    def land(self, key: TaskKey, page: Page, following: range, note: str) -> None:
        """Note a page as landed, with all its rows on the stream, and the pages it planned. Once landed it stays so."""
        values: dict[str, Value] = {"rows": len(page.rows), "digest": page.digest, "total": page.total}
        values |= {"first": following.start, "end": following.stop} | ({"note": note} if note else {})
        self._update(
            key.source,
            key.item,
            "SET #state = :landed, #rows = :rows, #digest = :digest, #total = :total, #next_first = :first, "
            f"#next_end = :end, {'#note = :note, ' if note else ''}#ended_at = :now REMOVE #reason, #failing_since",
            "#state <> :landed",
            {**values, "landed": "landed", "now": self._time()},
        )

    def fail(self, key: TaskKey, reason: str, failing_since: int, attempts: int, doubts: int) -> None:
        """Note why a request failed; it will be tried again."""
        self._update(
            key.source,
            key.item,
            "SET #reason = :reason, #failing_since = :since, #attempts = :attempts, #doubts = :doubts",
            "#state = :planned",
            {"reason": reason, "since": failing_since, "attempts": attempts, "doubts": doubts, "planned": "planned"},
        )

    def bury(self, key: TaskKey, reason: str, *, state: Literal["planned", "landed"] = "planned") -> bool:
        """Note a request as dead, and why; False if it is neither dead already nor in `state`."""
        update = "SET #state = :dead, #reason = :reason, #ended_at = :now"
        values = {"dead": "dead", "state": state, "reason": reason, "now": self._time()}
        return self._update(key.source, key.item, update, "#state IN (:state, :dead)", values)

    def revive(self, key: TaskKey) -> bool:
        """Plan a dead request anew; False if it is not dead."""
        update = "SET #state = :planned REMOVE #reason, #failing_since, #attempts, #doubts, #ended_at"
        return self._update(key.source, key.item, update, "#state = :dead", {"planned": "planned", "dead": "dead"})

    def try_again(self, key: TaskKey) -> TaskKey | None:
        """Plan a dead request anew, or its whole series, and return the request to queue; None if it is not dead.

        A series starts again from its first page when only the page before knew the dead one, and when its pages did
        not fit together: an old cursor may have expired, and rows may have moved since.
        """
        task = self.task(key)
        if task is None or task["state"] != "dead" or self.is_left(key):
            return None
        if key.start or is_chained(task):
            return self.restart(key, task["reason"])
        return key if self.revive(key) else None

    def restart(self, key: TaskKey, reason: str) -> TaskKey:
        """Plan the first page of the series once more, as its next start, and return its key."""
        again = replace(key, number=0, start=key.start + 1)
        first = self.task(key.page(0))
        if first is None:
            raise KeyError(f"{key.page(0)} has no item")
        self._update(
            again.source,
            again.item,
            "SET #state = :planned, #parameters = :parameters, #planned = :one, #previous = :none, #mark = :none, "
            "#note = :note, #expires = :expires",
            "attribute_not_exists(#item)",
            {
                "planned": "planned",
                "parameters": first["parameters"],
                "one": 1,
                "none": "",
                "note": f"started again from the first page: {reason}",
                "expires": self._expires(),
            },
        )
        return again

    def is_left(self, key: TaskKey) -> bool:
        """Whether the series has started again since, and this request no longer counts."""
        return self.task(replace(key, number=0, start=key.start + 1)) is not None

    def discard(self, key: TaskKey) -> bool:
        """Give up a dead request, for its run to end; False if it is not dead."""
        values = {"discarded": "discarded", "dead": "dead"}
        return self._update(key.source, key.item, "SET #state = :discarded", "#state = :dead", values)

    # --- The rate -------------------------------------------------------------------------------------------------

    def reserve(self, source: str, interval: float, longest: float) -> float | None:
        """Reserve the next turn to ask the source, with `interval` seconds to the one after it.

        Returns the seconds until then; None, with nothing reserved, if they would be more than `longest`.
        """
        if not interval:
            wait = self.wait(source)
            return wait if wait <= longest else None
        now, step = int(self._now() * 1000), max(1, int(interval * 1000))
        for _ in range(10):
            values = {"after": now + step, "now": now}
            condition = "attribute_not_exists(#next) OR #next <= :now"
            if self._update(source, "rate", "SET #next = :after", condition, values):
                return 0.0
            reserved = self._add_to_rate(source, step, now, now + int(longest * 1000))
            if reserved is not None:
                return (reserved - now) / 1000
            if self.wait(source) > longest:
                return None
        return None

    def wait(self, source: str) -> float:
        """The seconds until the source may be asked again."""
        item = self._get(source, "rate") or {}
        return max(0.0, int(item.get("next", 0)) / 1000 - self._now())

    def hold(self, source: str, seconds: float) -> None:
        """Let nobody ask the source for so long: it told one of us to wait, and means all."""
        until = int((self._now() + seconds) * 1000)
        condition = "attribute_not_exists(#next) OR #next < :until"
        self._update(source, "rate", "SET #next = :until", condition, {"until": until})

    def _add_to_rate(self, source: str, step: int, now: int, latest: int) -> int | None:
        condition = "#next > :now AND #next <= :latest"
        old = self._change(source, "rate", "ADD #next :step", condition, {"step": step, "now": now, "latest": latest})
        return None if old is None else int(old["next"])

    # --- DynamoDB -------------------------------------------------------------------------------------------------

    def _get(self, source: str, item: str) -> Any:
        return self._table.get_item(Key={"source": source, "item": item}, ConsistentRead=True).get("Item")

    def _update(self, source: str, item: str, update: str, condition: str, values: Mapping[str, Value]) -> bool:
        """Update an item; False if the condition does not hold."""
        return self._change(source, item, update, condition, values) is not None

    def _change(self, source: str, item: str, update: str, condition: str, values: Mapping[str, Value]) -> Json | None:
        """Update an item and return the old values of the changed attributes; None if the condition does not hold.

        Attributes are written as #name, because DynamoDB reserves some five hundred words.
        """
        names = {f"#{name}": name for name in re.findall(r"#(\w+)", update + condition)}
        try:
            answer = self._table.update_item(
                Key={"source": source, "item": item},
                UpdateExpression=update,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues={f":{name}": value for name, value in values.items()},
                ReturnValues="UPDATED_OLD",
                **({"ConditionExpression": condition} if condition else {}),
            )
        except self._table.meta.client.exceptions.ConditionalCheckFailedException:
            return None
        old: Json = answer.get("Attributes", {})
        return old

    def _time(self) -> int:
        return int(self._now())

    def _expires(self) -> int:
        return self._time() + RETENTION_DAYS * SECONDS_A_DAY


def _tasks(run: str) -> str:
    return f"task#{run}#"
