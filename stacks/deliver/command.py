"""Start a delivery, show how far it is, send refused rows again, and keep the token for the endpoint."""

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from scripts.commands.common import runs
from scripts.commands.common.athena import choose, literal, saved_queries
from scripts.commands.common.console import CommandError, Parser, main, progress, say
from scripts.commands.common.stack import Aws, Stack, add_stack_arguments, session
from scripts.commands.common.tables import Column, write_table
from shared.aws import ReceivedMessage

RUNS_SHOWN = 5
DEAD_LETTERS_READ = 200
TIME = "%Y-%m-%d %H:%M:%S"
QUIET_SECONDS = 60.0
"""How long the queue must have been empty before figures are taken as they are, even if they do not add up."""

RUN_COLUMNS = [
    *(Column(name, "varchar") for name in ("run", "started (UTC)", "state")),
    *(Column(name, "bigint") for name in ("queued", "delivered", "refused", "waiting")),
]
REASON_COLUMNS = [
    *(Column(name, "bigint") for name in ("rows", "status")),
    *(Column(name, "varchar") for name in ("reason", "answer", "one of them")),
]
EXAMPLE_CHARACTERS = 120

_WINDOW = ("{from}", "{to}")


@dataclass(frozen=True)
class Delivery:
    """The deployed parts of stacks/deliver/template.yaml."""

    aws: Aws
    stack_name: str
    machine: str
    table: str
    queue: str
    dead_letters: str
    secret: str
    work_group: str

    def command(self, verb: str) -> str:
        """The command line of another verb for this stack."""
        return f"scripts/deliver.sh {verb}{self.aws.flag} --stack-name {self.stack_name}"


@dataclass(frozen=True)
class Figures:
    """A run's numbers of rows: queued, delivered and refused so far. A row may be counted twice, never less."""

    queued: int
    delivered: int
    refused: int

    @property
    def waiting(self) -> int:
        return max(0, self.queued - self.delivered - self.refused)


def deliver(arguments: list[str]) -> int:
    """scripts/deliver.sh"""
    options = _parse(arguments)
    return _COMMANDS[options.command](find(session(options), options.stack_name), options)


def find(aws: Aws, stack_name: str) -> Delivery:
    """The delivery of a stack; CommandError when the stack has none."""
    stack = Stack(aws, stack_name)
    outputs = stack.outputs
    if "DeliverMachineArn" not in outputs:
        raise stack.lacks("deliver", "--parameter DeliverUrl=https://...")
    return Delivery(
        aws,
        stack_name,
        machine=outputs["DeliverMachineArn"],
        table=outputs["DeliverTableName"],
        queue=outputs["DeliverQueueUrl"],
        dead_letters=outputs["DeliverDeadLetterQueueUrl"],
        secret=outputs["DeliverSecretArn"],
        work_group=outputs["WorkGroupName"],
    )


def run(delivery: Delivery, options: argparse.Namespace) -> int:
    """Start a run and, unless told not to, follow it until the endpoint has taken or refused every row."""
    given: dict[str, str | list[str]] = {}
    if options.query is not None:
        given["query"] = choose(saved_queries(delivery.aws.client("athena"), delivery.work_group), options.query).name
    if options.parameter:
        given["parameters"] = [value if value in _WINDOW else literal(value) for value in options.parameter]
    if options.since is not None:
        given |= {"from": options.since, "to": options.until}
    name = f"by-hand-{uuid.uuid4().hex[:12]}"
    execution = delivery.aws.client("stepfunctions").start_execution(
        stateMachineArn=delivery.machine, name=name, input=json.dumps(given)
    )["executionArn"]
    print(name, flush=True)
    if options.no_wait:
        say(f"Started. See how far it is with {delivery.command('status')}")
        return 0
    try:
        return follow(delivery, execution, name)
    except KeyboardInterrupt:
        say(f"The run goes on without this script: {delivery.command('status')}")
        raise


def follow(delivery: Delivery, execution: str, name: str) -> int:
    """Show a run's progress to its end; 0 when the endpoint has taken every row. Raises CommandError when it fails."""
    emptied: float | None = None
    with progress() as display:
        task = display.add_task("The query is running", total=None)
        for state in runs.follow(delivery.aws, execution, 2.0):
            if state["status"] not in ("RUNNING", "SUCCEEDED"):
                raise CommandError(f"the run {state['status'].lower()}: {runs.cause(state)}")
            # The queue first: what it no longer has is in the figures that are read after it.
            is_empty = runs.depth(delivery.aws.client("sqs"), delivery.queue).total == 0
            figures = read_figures(delivery, name)
            text = f"Delivered {figures.delivered:,}, refused {figures.refused:,}, waiting {figures.waiting:,}"
            done = figures.delivered + figures.refused
            display.update(task, description=text, completed=done, total=max(figures.queued, done) or None)
            if state["status"] == "SUCCEEDED" and not figures.waiting:
                break
            emptied = (emptied or time.monotonic()) if is_empty and state["status"] == "SUCCEEDED" else None
            if emptied is not None and time.monotonic() - emptied > QUIET_SECONDS:
                break
    say(f"Delivered {figures.delivered:,} rows, refused {figures.refused:,}, waiting {figures.waiting:,}")
    if figures.refused:
        say(f"Why rows were refused: {delivery.command('status')}")
    return 1 if figures.refused or figures.waiting else 0


def read_figures(delivery: Delivery, run_name: str) -> Figures:
    """The figures of a run; zeros while it has none."""
    found = delivery.aws.client("dynamodb").get_item(
        TableName=delivery.table, Key={"id": {"S": f"run {run_name}"}}, ConsistentRead=True
    )
    item = found.get("Item", {})
    return Figures(*(int(item.get(name, {"N": "0"})["N"]) for name in ("queued", "delivered", "refused")))


def status(delivery: Delivery, options: argparse.Namespace) -> int:
    """Print the latest runs, the depth of the queue, and the reasons of the dead letters."""
    stepfunctions, sqs = delivery.aws.client("stepfunctions"), delivery.aws.client("sqs")
    found = stepfunctions.list_executions(stateMachineArn=delivery.machine, maxResults=RUNS_SHOWN)["executions"]
    rows_of_runs: list[list[str | None]] = []
    for item in found:
        figures = read_figures(delivery, item["name"])
        counts = (figures.queued, figures.delivered, figures.refused, figures.waiting)
        started = f"{item['startDate'].astimezone(UTC):{TIME}}"
        rows_of_runs.append([item["name"], started, item["status"].lower(), *(f"{count:,}" for count in counts)])
    write_table(RUN_COLUMNS, rows_of_runs)
    for item in found:
        if item["status"] not in ("RUNNING", "SUCCEEDED"):
            state = stepfunctions.describe_execution(executionArn=item["executionArn"])
            print(f"{item['name']} {item['status'].lower()}: {runs.cause(state)}")
    waiting, refused = runs.depth(sqs, delivery.queue), runs.depth(sqs, delivery.dead_letters)
    print(
        f"In the queue: {waiting.visible:,} to be posted, {waiting.hidden:,} being posted or waiting for their next try"
    )
    print(f"Dead letters: {refused.total:,}")
    if letters := runs.look(sqs, delivery.dead_letters, DEAD_LETTERS_READ):
        reasons = Counter(_reason(letter) for letter in letters)
        examples = {_reason(letter): letter["Body"][:EXAMPLE_CHARACTERS] for letter in letters}
        rows = ([f"{count:,}", *reason, examples[reason]] for reason, count in reasons.most_common())
        write_table(REASON_COLUMNS, rows)
        if len(letters) < refused.total:
            say(f"These are the reasons of {len(letters):,} of them")
        say(f"Fix the cause, then send them again with {delivery.command('redrive')}")
    return 0


def redrive(delivery: Delivery, options: argparse.Namespace) -> int:
    """Put every dead letter back into the queue."""
    sqs = delivery.aws.client("sqs")
    total = runs.depth(sqs, delivery.dead_letters).total
    moved = 0
    with progress() as display:
        task = display.add_task("Into the queue", total=total)
        for count in runs.redrive(sqs, delivery.dead_letters, delivery.queue):
            moved += count
            display.update(task, completed=moved, total=max(total, moved))
    print(moved)
    say(f"{moved:,} dead letter{'' if moved == 1 else 's'} went back into the queue: {delivery.command('status')}")
    return 0


def token(delivery: Delivery, options: argparse.Namespace) -> int:
    """Keep the token, read from standard input, in the stack's secret; it is never shown."""
    text = runs.check_token(runs.read_secret("Token: "))
    delivery.aws.client("secretsmanager").put_secret_value(
        SecretId=delivery.secret, SecretString=json.dumps({"token": text})
    )
    say("Kept. A function that is running takes it up within five minutes, or when the endpoint refuses the old one")
    return 0


_COMMANDS = {"run": run, "status": status, "redrive": redrive, "token": token}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("deliver")
    parser.add_argument("command", choices=_COMMANDS)
    add_stack_arguments(parser)
    parser.add_argument("--query")
    parser.add_argument("--parameter", action="append", default=[])
    parser.add_argument("--from", dest="since", type=_time)
    parser.add_argument("--to", dest="until", type=_time)
    parser.add_argument("--no-wait", action="store_true")
    options = parser.parse_args(arguments)
    if options.command != "run":
        for name in ("query", "parameter", "since", "until", "no_wait"):
            if getattr(options, name):
                shown = {"since": "from", "until": "to"}.get(name, name.replace("_", "-"))
                parser.error(f"--{shown} goes with run, not with {options.command}")
    if (options.since is None) != (options.until is None):
        parser.error("--from and --to go together")
    if options.since is not None and options.since >= options.until:
        parser.error(f"--to must be later than --from (got {options.until} and {options.since})")
    return options


def _time(text: str) -> str:
    """A time as the state machine takes it; without an offset, it is UTC already."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a time: write it as 2026-01-31 or 2026-01-31T18:00:00"
        ) from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).strftime(TIME)


def _reason(letter: ReceivedMessage) -> tuple[str, str, str]:
    attributes = {name: value["StringValue"] for name, value in letter.get("MessageAttributes", {}).items()}
    reason = attributes.get("reason", "received 1,000 times: see the function's log")
    return attributes.get("status", ""), reason, attributes.get("answer", "")


if __name__ == "__main__":
    main(deliver)
