"""One screen about a stack: does it take events, do they arrive, and does it need a person."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scripts.commands.common.console import Parser, main, printable
from scripts.commands.common.stack import add_stack_arguments, session
from scripts.commands.common.tables import counts, duration, many, size
from scripts.commands.lake.facts import (
    Alarm,
    DeadLetters,
    Deliveries,
    Drops,
    Facts,
    FailedRecords,
    Freshness,
    LastEvent,
    LastHour,
    Need,
    Newest,
    Refusals,
    StackFacts,
    Unseen,
)
from scripts.commands.lake.health import gather

T = TypeVar("T")

WATCH_SECONDS = 10.0
WIDE = 120  # characters, where no terminal says otherwise
_COLOURS = {"OK": "green", "ALARM": "bold red", "INSUFFICIENT_DATA": "dim"}


def status(arguments: list[str]) -> int:
    """scripts/status.sh"""
    options = _parse(arguments)
    aws = session(options)
    facts = gather(aws, options.stack_name, datetime.now(UTC))
    if options.watch is None:
        _show(facts, options.json)
    else:
        watch = _Watch(options.json)
        with watch:
            while True:
                watch.show(facts)
                time.sleep(options.watch)
                facts = gather(aws, options.stack_name, datetime.now(UTC))
    return 1 if facts.needs_a_person else 0


class _Watch:
    """A redrawn screen; without a terminal, one JSON document or screen after the other."""

    def __init__(self, as_json: bool) -> None:
        console = _console()
        self.as_json = as_json
        self.live = (
            Live(console=console, screen=True, auto_refresh=False) if console.is_terminal and not as_json else None
        )

    def __enter__(self) -> None:
        if self.live:
            self.live.start()

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, facts: Facts) -> None:
        if self.live:
            self.live.update(screen(facts), refresh=True)
        else:
            _show(facts, self.as_json)


def _show(facts: Facts, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(facts)), flush=True)
    else:
        _console().print(screen(facts))


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    return console


# --- The screen


def screen(facts: Facts) -> Group:
    """The facts as a person reads them; no text from outside steers the terminal."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    now = datetime.fromisoformat(facts.at)

    def add(name: str, part: T | Unseen, show: Callable[[T], Text]) -> None:
        grid.add_row(name, _plain(f"unknown: {part.unknown}", "yellow") if isinstance(part, Unseen) else show(part))

    grid.add_row("stack", _stack(facts.stack, now))
    grid.add_row("endpoint", _plain(facts.stack.endpoint or "none: the stack has no outputs"))
    add("last event", facts.last_event, _last_event)
    add("last hour", facts.last_hour, _last_hour)
    add("drops", facts.drops, _drops)
    add("4xx", facts.refusals, _refusals)
    add("waiting", facts.freshness, _freshness)
    add("alarms", facts.alarms, lambda found: _alarms(found, now))
    add("deliveries", facts.deliveries, lambda found: _deliveries(found, now))
    add("failed", facts.failed_records, lambda found: _failed(found, now))
    add("newest", facts.zones, lambda found: _zones(found, now))
    add("dead letters", facts.dead_letters, _dead_letters)
    return Group(grid, Text(), *_verdict(facts.needs_a_person))


def _stack(stack: StackFacts, now: datetime) -> Text:
    state = stack.status
    colour = "yellow" if state.endswith("_IN_PROGRESS") or "ROLLBACK" in state else "green"
    text = Text.assemble(_plain(f"{stack.name} in {stack.place}  "), (state, "red" if "FAILED" in state else colour))
    if stack.changed_at:
        text.append(f", {_ago(stack.changed_at, now)}")
    if stack.nested:
        text.append(f"  with {', '.join(stack.nested)}")
    return text


def _last_event(found: LastEvent) -> Text:
    if found.age_seconds is None:
        return Text("none that is known", "dim")
    return _plain(f"{duration(found.age_seconds)} ago (by {found.known_by})")


def _last_hour(found: LastHour) -> Text:
    text = Text(f"{found.received:,} events = {found.accepted:,} accepted + {found.dropped:,} dropped + ")
    text.append(f"{found.rejected:,} rejected", "yellow" if found.rejected else "")
    text.append(" + ")
    text.append(f"{found.failed:,} failed", "bold red" if found.failed else "")
    if found.requeued:
        text.append(f"; {found.requeued:,} put back for lack of room")
    if found.known_by == "log":
        text.append(" (by the log)", "dim")
    return text


def _drops(found: Drops) -> Text:
    more = ", and more: the log is too long to be read whole" if found.lines_left_out else ""
    return _plain((counts(found.by_rule) or "none") + more)


def _refusals(found: Refusals) -> Text:
    if not found.answered_4xx:
        return Text(f"none of {found.requests:,} requests")
    where = counts({**found.by_route, "elsewhere": found.elsewhere})
    return _plain(f"{found.answered_4xx:,} of {found.requests:,} requests: {where}")


def _freshness(found: Freshness) -> Text:
    waits = [
        f"{zone} {'nothing lately' if seconds is None else f'at most {duration(seconds)}'}"
        for zone, seconds in found.by_zone.items()
    ]
    return Text(", ".join(waits))


def _alarms(found: list[Alarm], now: datetime) -> Text:
    if not found:
        return Text("none: docs/observe.md says how to have some", "dim")
    text, states = Text(), [alarm.state for alarm in found]
    for state in ("ALARM", "INSUFFICIENT_DATA", "OK"):
        if state in states:
            text.append(f"{states.count(state)} {state}  ", _COLOURS[state])
    for alarm in found:
        if alarm.state == "ALARM":
            since = f" since {_ago(alarm.since, now)}" if alarm.since else ""
            text.append(f"\n{printable(alarm.name)}{since}", "red")
    return text


def _deliveries(found: Deliveries, now: datetime) -> Text:
    if not found.errors_by_code:
        return Text("no error in the last day")
    text = _plain(f"errors in the last day: {counts(found.errors_by_code)}", "yellow")
    for line in found.last_errors:
        text.append(f"\n{_ago(line.at, now)}: {printable(line.message[:200])}", "dim")
    return text


def _failed(found: FailedRecords, now: datetime) -> Text:
    if not found.newest_at:
        return Text("no record in the last day")
    kinds = counts(found.objects_by_type)
    since = ", replayed since" if found.replayed_at else ""
    return _plain(f"objects of the last day: {kinds}, the newest {_ago(found.newest_at, now)}{since}", "yellow")


def _zones(found: dict[str, Newest | None], now: datetime) -> Text:
    lines = []
    for zone, newest in found.items():
        if newest is None:
            lines.append(f"{zone:<9} empty")
            continue
        day = f"{many(newest.objects_of_that_day, 'object')}, {size(newest.bytes_of_that_day)} that day"
        lines.append(f"{zone:<9} {_ago(newest.newest_at, now)} ({day})")
    return _plain("\n".join(lines))


def _dead_letters(found: list[DeadLetters]) -> Text:
    if not found:
        return Text("no queue", "dim")
    return Text("  ").join(
        _plain(f"{queue.name} {queue.messages:,}", "bold red" if queue.messages else "") for queue in found
    )


def _verdict(needs: list[Need]) -> list[Text]:
    if not needs:
        return [Text("Nothing needs you.", "bold green")]
    lines = [Text(f"{len(needs)} {'thing needs' if len(needs) == 1 else 'things need'} you:", "bold red")]
    for need in needs:
        lines += [_plain(f"- {need.what}"), _command(need.first_command)]
    return lines


def _command(text: str) -> Text:
    """A command as it can be copied: the terminal may break its line, this program does not."""
    return Text(f"  {printable(text)}", "bold", no_wrap=True, overflow="ignore")


def _ago(text: str, now: datetime) -> str:
    return f"{duration(max(0.0, (now - datetime.fromisoformat(text)).total_seconds()))} ago"


def _plain(text: str, style: str = "") -> Text:
    return Text("\n".join(printable(line) for line in text.split("\n")), style)


# --- Arguments


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("status")
    add_stack_arguments(parser)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", nargs="?", type=_pause, const=WATCH_SECONDS)
    return parser.parse_args(arguments)


def _pause(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 1 to 86400")
    return seconds


if __name__ == "__main__":
    main(status)
