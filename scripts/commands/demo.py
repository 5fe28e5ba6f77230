"""The whole pipeline on this machine: a local AWS, a deployment, real events, their delivery, saved queries."""

from __future__ import annotations

import csv
import fcntl
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.commands import local
from scripts.commands.common.athena import account, choose, fill, place, results, run, saved_queries
from scripts.commands.common.console import CommandError, Parser, main, progress, say
from scripts.commands.common.paths import HOME
from scripts.commands.common.stack import DEFAULT_STACK_NAME, Stack, local_session
from scripts.commands.common.tables import Row, write_table
from scripts.commands.deploy.command import deploy_stack
from scripts.commands.deploy.product import read_product
from scripts.commands.track.command import Door, find_door
from scripts.commands.track.sender import Answer, Line, send
from shared.documents import parse_json

DATA = HOME / "demo"
DATASETS = "vega_datasets==0.9.0"
TEMPERATURES = "sf-temps.csv"  # a year of hourly temperatures in San Francisco, 2010
QUERIES = Path(__file__).with_name("demo.sql")
PARAMETERS = {"FirehoseBufferingInterval": "5"}
DELIVERY_SECONDS = 60
_IDS = uuid.UUID("5b0c2f8e-6d2f-4f0c-9f7a-1f8f1d3f6a52")

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
LOADER = "sluice-demo/1"
BOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
HELLO = {"event_id": str(uuid.uuid5(_IDS, "hello")), "name": "John", "action": "charge", "value": 100}
# Events not stored as rows, each with its user agent: from a bot, for debugging, with a bad value, in an array.
ODD = [
    ({"name": "John", "action": "view"}, BOT),
    ({"name": "John", "action": "view", "debug": True}, BROWSER),
    ({"name": "John", "action": "charge", "value": "abc"}, BROWSER),
    ([{"name": "John", "action": "charge", "value": 100}], BROWSER),
]


def demo(arguments: list[str]) -> int:
    """Entry point of scripts/demo.sh; returns the exit code."""
    parser = Parser("demo")
    parser.add_argument("--port", type=local.port_number, default=local.DEFAULT_PORT)
    options = parser.parse_args(arguments)
    started = time.monotonic()

    _headline("1. A local AWS on this machine")
    temperatures = fetch_dataset(TEMPERATURES)
    local.start(options.port)
    aws = local_session()
    say(f"It runs on {aws.endpoint}")

    _headline("2. template.yaml, deployed by scripts/deploy.sh --local")
    deploy_stack(aws, DEFAULT_STACK_NAME, read_product(more_queries=[QUERIES]), PARAMETERS, ask=False)
    stack = Stack(aws, DEFAULT_STACK_NAME)

    _headline("3. Events over HTTP")
    before = count_outcomes(stack)
    answers = _post(stack, temperatures)
    taken = sum(answer.is_accepted for answer in answers)

    _headline("4. Delivery: Firehose collects, the Lambda function transforms, an object in the bucket appears")
    after = _wait_for_delivery(stack, before, taken)
    accounted = account_for(answers, before, after)

    _headline("5. Saved queries")
    for name in ("totals-by-name-and-action", "daily-mean-temperature-in-celsius"):
        _ask(stack, name)
    say(f"Done in {time.monotonic() - started:.0f} s. The local AWS goes on running. Type next:\n")
    for line in (
        """scripts/track.sh --local --wait '{"name": "Ada", "action": "signup", "plan": "pro"}'""",
        "scripts/query.sh --local latest-events",
        "scripts/query.sh --local --list",
        "scripts/local.sh stop",
        "scripts/console.sh --local",
    ):
        say(f"  {line}", style="bold")
    if not accounted:
        raise CommandError("the figures above do not add up: see scripts/query.sh --local failures")
    return 0


def _headline(text: str) -> None:
    say(f"\n{text}", style="bold cyan")


def fetch_dataset(name: str) -> Path:
    """A file of real data out of a package, fetched once, also when several processes ask for it at the same time."""
    path = DATA / "vega_datasets" / "_data" / name
    DATA.mkdir(parents=True, exist_ok=True)
    with (DATA / "fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            say(f"Fetching {DATASETS} for its {name} ...")
            # Without its dependencies, as nobody here needs pandas, and in the place of what an interrupted run left.
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--upgrade", "--target", str(DATA), DATASETS]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise CommandError(f"pip could not fetch {DATASETS}: {done.stderr.strip().splitlines()[-1]}")
    return path


def read_temperatures(path: Path) -> Iterator[dict[str, str]]:
    """8,759 hourly temperatures. Their ids are the same each time: a second run of the demo adds no second row."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            day, hour = row["date"].split(" ")
            yield {
                "event_id": str(uuid.uuid5(_IDS, row["date"])),
                "source": "sf",
                "name": "temperature",
                "value": row["temp"],
                "timestamp": f"{day.replace('/', '-')}T{hour}Z",
            }


def _post(stack: Stack, temperatures: Path) -> list[Answer]:
    """The hello-world event and the odd ones to /track, the temperatures to /batch, many in a request."""
    single, batch = (find_door(stack, many=many) for many in (False, True))
    readings = list(read_temperatures(temperatures))
    answers: list[Answer] = []
    with progress() as bar:
        task = bar.add_task("Posting", total=1 + len(readings) + len(ODD))
        posts: list[tuple[Door, Sequence[object], str]] = [(single, [HELLO], BROWSER), (batch, readings, LOADER)]
        for door, events, user_agent in posts + [(single, [event], user_agent) for event, user_agent in ODD]:
            lines = [Line(number, json.dumps(event).encode()) for number, event in enumerate(events, len(answers) + 1)]
            for answer in send(replace(door, user_agent=user_agent), lines):
                answers.append(answer)
                bar.advance(task)
    for answer in answers:
        if not answer.is_accepted:
            say(f"Refused at the door: {answer.line.body.decode()[:80]}: {answer.reason}")
    say(f"Posted {len(answers):,} events, {sum(answer.is_accepted for answer in answers):,} of them taken (202)")
    return answers


def count_outcomes(stack: Stack) -> dict[str, int]:
    """The transform's counts so far, by outcome: the sum over its lines for CloudWatch."""
    group = stack.ids["TransformLogGroup"]
    pages = stack.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    counts = dict.fromkeys(("Received", "Accepted", "Dropped", "Rejected", "Failed"), 0)
    for page in pages:
        for event in page["events"]:
            if '"_aws"' in event["message"]:
                line = parse_json(event["message"])
                for outcome in counts:
                    counts[outcome] += int(line.get(outcome, 0))
    return counts


def _rows(stack: Stack, sql: str) -> list[Row]:
    client = stack.client("athena")
    done = run(client, place(stack), stack.output("DatabaseName"), fill(sql, stack), [])
    return list(results(client, done["QueryExecutionId"])[1])


def _wait_for_delivery(stack: Stack, before: dict[str, int], taken: int) -> dict[str, int]:
    """Wait until every event taken by the API has an outcome, and the accepted ones are in the table."""
    rows = 'SELECT count(*) FROM "${AthenaDatabaseName}"."${AthenaTableName}"'
    wanted = before["Accepted"]
    deadline = time.monotonic() + DELIVERY_SECONDS
    with progress() as bar:
        task = bar.add_task("Rows in the table", total=None)
        while time.monotonic() < deadline:
            after = count_outcomes(stack)
            found = int(_rows(stack, rows)[0][0] or 0)
            wanted = after["Accepted"]
            bar.update(task, completed=found, total=max(wanted, before["Accepted"] + taken))
            if after["Received"] - before["Received"] >= taken and found >= wanted:
                return after
            time.sleep(0.5)
    raise CommandError(
        f"after {DELIVERY_SECONDS} s the table has {found:,} rows, not {wanted:,}: see .sluice/local/server.log"
    )


def account_for(answers: list[Answer], before: dict[str, int], after: dict[str, int]) -> bool:
    """Show where each event went; return whether the figures add up."""
    counted = {outcome: after[outcome] - before[outcome] for outcome in after}
    refused = sum(not answer.is_accepted for answer in answers)
    table = Table(title="Where each event went", title_justify="left")
    table.add_column("Outcome")
    table.add_column("Events", justify="right")
    table.add_column("Where", style="dim")
    for outcome, count, where in (
        ("a row in the table", counted["Accepted"], "events/"),
        ("dropped by a rule", counted["Dropped"], "nowhere: a bot, and a debug event"),
        ("rejected with a reason", counted["Rejected"], 'rejected/: "abc" is not a number'),
        ("failed", counted["Failed"], "errors/"),
        ("refused at the door", refused, "the sender was told: it is an array"),
    ):
        table.add_row(outcome, f"{count:,}", where)
    total = sum(counted[outcome] for outcome in ("Accepted", "Dropped", "Rejected", "Failed")) + refused
    table.add_section()
    table.add_row("posted", f"{len(answers):,}", "" if total == len(answers) else f"but {total:,} accounted for")
    Console().print(table)
    return total == len(answers)


def _ask(stack: Stack, name: str) -> None:
    client = stack.client("athena")
    saved = choose(saved_queries(client, stack.output("WorkGroupName")), name)
    say(f"\n$ scripts/query.sh --local {name}", style="bold")
    say(saved.question)
    done = run(client, place(stack), saved.database, saved.sql, [])
    columns, rows = results(client, done["QueryExecutionId"])
    listed = list(rows)
    write_table(columns, listed[:7])
    if len(listed) > 7:
        say(f"... and {len(listed) - 7:,} more rows")
    say(account(len(listed), done.get("Statistics", {})))


if __name__ == "__main__":
    main(demo)
