"""Start a pull, show how far each source is, send dead requests again, and keep credentials."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import boto3

from scripts.commands.common import runs
from scripts.commands.common.console import CommandError, Parser, UsageError, main, printable, progress, say
from scripts.commands.common.stack import (
    Aws,
    Stack,
    add_stack_arguments,
    session,
)
from scripts.commands.common.tables import Column, write_table
from shared.aws import ReceivedMessage, Sqs
from shared.documents import parse_json
from stacks.pull.function.store import RunItem, StateItem, Store, TaskItem, TaskKey

COLUMNS = [
    *(Column(name, "varchar") for name in ("source", "checkpoint (UTC)", "run", "state")),
    *(Column(name, "bigint") for name in ("requests", "landed", "waiting", "dead", "rows")),
]
REASON_COLUMNS = [Column("requests", "bigint"), *(Column(name, "varchar") for name in ("source", "state", "why"))]
REASONS_SHOWN = 20


@dataclass(frozen=True)
class Pull:
    """The deployed parts of stacks/pull/template.yaml."""

    aws: Aws
    stack_name: str
    machine: str
    store: Store
    queue: str
    dead_letters: str
    secret: str
    sources: list[str]

    def command(self, verb: str) -> str:
        """The command line of another verb for this stack."""
        return f"scripts/pull.sh {verb}{self.aws.flag} --stack-name {self.stack_name}"


@dataclass(frozen=True)
class Figures:
    """How far a source is: its state, its last run, and the run's tasks."""

    source: str
    state: StateItem
    run: RunItem | None
    tasks: list[TaskItem]

    def count(self, state: str) -> int:
        """How many requests of the run are in this state."""
        return sum(task["state"] == state for task in self.tasks)

    @property
    def rows(self) -> int:
        """How many rows have landed."""
        return sum(int(task["rows"]) for task in self.tasks if task["state"] == "landed")


def pull(arguments: list[str]) -> int:
    """scripts/pull.sh"""
    options = _parse(arguments)
    found = find(session(options), options.stack_name)
    for name in options.source:
        if name not in found.sources:
            raise UsageError(f"there is no source '{name}': there are {', '.join(found.sources)}")
    return _COMMANDS[options.command](found, options)


def find(aws: Aws, stack_name: str) -> Pull:
    """The pull of a stack; CommandError if it has none."""
    stack = Stack(aws, stack_name)
    outputs, values = stack.outputs, stack.parameters
    if "PullMachineArn" not in outputs:
        raise stack.lacks("pull", "--pull DIR")
    document = aws.client("s3").get_object(Bucket=values["ArtifactBucket"], Key=values["PullSourcesKey"])["Body"].read()
    config = aws.client("dynamodb").meta.config
    dynamodb: Any = boto3.Session(botocore_session=aws.session).resource(
        "dynamodb", endpoint_url=aws.endpoint, config=config
    )
    return Pull(
        aws,
        stack_name,
        machine=outputs["PullMachineArn"],
        store=Store(dynamodb.Table(outputs["PullTableName"])),
        queue=outputs["PullQueueUrl"],
        dead_letters=outputs["PullDeadLetterQueueUrl"],
        secret=outputs["PullSecretArn"],
        sources=list(parse_json(document)["sources"]),
    )


def run(pull: Pull, options: argparse.Namespace) -> int:
    """Start an execution and, unless told not to, follow it to its end."""
    states = pull.aws.client("stepfunctions")
    names = options.source or pull.sources
    for name in names:
        _release_if_left(pull, name)
    request = json.dumps({"sources": options.source} if options.source else {})
    execution = states.start_execution(stateMachineArn=pull.machine, input=request)["executionArn"]
    if options.no_wait:
        say(f"Started. See how far it is with {pull.command('status')}")
        return 0
    try:
        state = _follow(pull, execution, names)
    except KeyboardInterrupt:
        say(f"The run goes on without this script: {pull.command('status')}")
        raise
    show(pull, names)
    if state["status"] == "SUCCEEDED":
        output = parse_json(state["output"])
        for each in output["planned"]:
            if "skip" in each:
                say(f"{each['source']}: {each['skip']}")
        for each in output["runs"]:
            if each["discarded"]:
                say(f"{each['source']}: {each['outcome']}")
        return 0
    raise CommandError(f"the run {state['status'].lower()}: {runs.cause(state)}")


def _release_if_left(pull: Pull, name: str) -> None:
    """Let a run begin at once if the one before it was stopped, and so did not release the source."""
    holder = pull.store.state(name).get("lease_by")
    if holder:
        states = pull.aws.client("stepfunctions")
        try:
            is_running = states.describe_execution(executionArn=holder)["status"] == "RUNNING"
        except states.exceptions.ExecutionDoesNotExist:
            is_running = False
        if not is_running:
            pull.store.release(name, holder)


def _follow(pull: Pull, execution: str, names: list[str]) -> runs.ExecutionDescription:
    """Show an execution's progress to its end; returns how Step Functions describes it then."""
    with progress() as display:
        task = display.add_task("Checking", total=None)
        for state in runs.follow(pull.aws, execution, 5.0):
            if state["status"] != "RUNNING":
                break
            figures = [read(pull, name) for name in names]
            total = sum(len(each.tasks) for each in figures)
            landed = sum(each.count("landed") for each in figures)
            waiting = sum(each.count("planned") for each in figures)
            text = f"Requests, {sum(each.rows for each in figures):,} rows"
            if total and not waiting:
                text += ", delivering"
            display.update(task, description=text, completed=landed, total=total or None)
    return state


def read(pull: Pull, name: str) -> Figures:
    """How far a source is."""
    state = pull.store.state(name)
    last = state.get("last_run")
    if last is None:
        return Figures(name, state, None, [])
    return Figures(name, state, pull.store.run(name, last), list(pull.store.tasks(name, last)))


def show(pull: Pull, names: list[str]) -> list[Figures]:
    """Print a table of the sources; returns its figures."""
    figures = [read(pull, name) for name in names]
    write_table(COLUMNS, (_row(each) for each in figures))
    reasons = Counter(
        (each.source, task["state"], task.get("reason") or task.get("note"))
        for each in figures
        for task in each.tasks
        if task.get("reason") or task.get("note")
    )
    if reasons:
        rows = reasons.most_common(REASONS_SHOWN)
        write_table(REASON_COLUMNS, ([f"{count:,}", *(printable(str(part)) for part in why)] for why, count in rows))
    return figures


def _row(figures: Figures) -> list[str | None]:
    outcome = figures.run.get("outcome", "running") if figures.run else "never run"
    counts = (len(figures.tasks), *(figures.count(state) for state in ("landed", "planned", "dead")), figures.rows)
    return [
        figures.source,
        figures.state.get("checkpoint"),
        figures.state.get("last_run"),
        outcome.partition(":")[0].lower(),
        *(f"{count:,}" for count in counts),
    ]


def status(pull: Pull, options: argparse.Namespace) -> int:
    """Print how far each source is, the last execution's failure, and the depth of the queues."""
    show(pull, options.source or pull.sources)
    states, sqs = pull.aws.client("stepfunctions"), pull.aws.client("sqs")
    for item in states.list_executions(stateMachineArn=pull.machine, maxResults=1)["executions"]:
        when = f"{item['startDate'].astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        state = states.describe_execution(executionArn=item["executionArn"])
        why = f": {runs.cause(state)}" if item["status"] not in ("RUNNING", "SUCCEEDED") else ""
        print(f"The last execution, of {when}, {item['status'].lower()}{why}")
    waiting, dead = runs.depth(sqs, pull.queue), runs.depth(sqs, pull.dead_letters)
    print(f"In the queue: {waiting.visible:,} requests, and {waiting.hidden:,} under way or waiting for their next try")
    print(f"Dead letters: {dead.total:,}")
    if dead.total:
        say(f"Fix the cause, then send them again with {pull.command('redrive')}")
    return 0


def redrive(pull: Pull, options: argparse.Namespace) -> int:
    """Put dead letters back into the queue, or give them up for good; then `run` can end their run."""
    sqs, wanted = pull.aws.client("sqs"), set(options.source or pull.sources)
    moved, left, discarded = 0, 0, 0
    total = runs.depth(sqs, pull.dead_letters).total
    with progress() as display:
        task = display.add_task("Dead letters", total=total)
        for message in _receive(sqs, pull.dead_letters, total):
            key = _key(message["Body"])
            if key is not None and key.source not in wanted:
                left += 1
                continue
            if key is not None and options.discard:
                discarded += pull.store.discard(key)
            elif key is not None:
                # If it landed meanwhile, the worker finds it so.
                again = pull.store.try_again(key) or key
                sqs.send_message(QueueUrl=pull.queue, MessageBody=again.text)
            sqs.delete_message(QueueUrl=pull.dead_letters, ReceiptHandle=message["ReceiptHandle"])
            moved += 1
            display.update(task, completed=moved, total=max(total, moved))
    print(moved)
    verb = "given up" if options.discard else "back in the queue"
    say(f"Dead letters {verb}: {moved:,}" + (f"; left, as they are of other sources: {left:,}" if left else ""))
    if discarded:
        say(
            f"The next run moves the checkpoint past {discarded:,} requests: their rows will be missing, and those of "
            "the pages that a cursor or a link would have led to"
        )
    if moved:
        say(f"End their runs with {pull.command('run')}")
    return 0


def _receive(sqs: Sqs, url: str, most: int) -> Iterator[ReceivedMessage]:
    """The messages of a queue, each once; unless deleted, they are hidden for a minute."""
    seen: set[str] = set()
    while len(seen) < most:
        batch = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=runs.REDRIVE_SECONDS, WaitTimeSeconds=1
        ).get("Messages", [])
        if not batch or all(message["MessageId"] in seen for message in batch):
            return
        seen.update(message["MessageId"] for message in batch)
        yield from batch


def _key(text: str) -> TaskKey | None:
    """The request of a message; None if it is not one of ours."""
    try:
        return TaskKey.read(text)
    except (ValueError, TypeError):
        return None


def token(pull: Pull, options: argparse.Namespace) -> int:
    """Keep credentials, read from standard input, under a name in the stack's secret; they are never shown."""
    text = runs.read_secret(f"Token of {options.name}: ")
    secrets = pull.aws.client("secretsmanager")
    value = _credentials(text)
    try:
        kept = parse_json(secrets.get_secret_value(SecretId=pull.secret).get("SecretString") or "{}")
    except secrets.exceptions.ResourceNotFoundException:
        kept = {}
    except ValueError:
        kept = None
    if not isinstance(kept, dict):
        raise CommandError(
            f"the secret {pull.secret} holds something else than a JSON object, and was left as it is. To begin anew: "
            f"aws secretsmanager put-secret-value --secret-id {pull.secret} --secret-string '{{}}'"
        )
    secrets.put_secret_value(SecretId=pull.secret, SecretString=json.dumps({**kept, options.name: value}))
    say(f"Kept under '{options.name}'. A function that is running takes it up within five minutes")
    return 0


def _credentials(text: str) -> str | dict[str, str]:
    """A token of one line, or a JSON object with client_id and client_secret."""
    if text.startswith("{"):
        try:
            value = parse_json(text)
        except ValueError:
            value = {}
        if set(value) != {"client_id", "client_secret"} or not all(isinstance(each, str) for each in value.values()):
            raise UsageError("a JSON object must have client_id and client_secret, both texts, and nothing else")
        found: dict[str, str] = value
        return found
    return runs.check_token(text)


_COMMANDS = {"run": run, "status": status, "redrive": redrive, "token": token}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("pull")
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument("name", nargs="?")
    add_stack_arguments(parser)
    parser.add_argument("--source", action="append", default=[])
    parser.add_argument("--no-wait", action="store_true")
    parser.add_argument("--discard", action="store_true")
    options = parser.parse_intermixed_args(arguments)
    if (options.command == "token") != (options.name is not None):
        parser.error("token needs the name of a source, or of its auth.secret; nothing else takes a name")
    if options.no_wait and options.command != "run":
        parser.error(f"--no-wait goes with run, not with {options.command}")
    if options.discard and options.command != "redrive":
        parser.error(f"--discard goes with redrive, not with {options.command}")
    if options.source and options.command == "token":
        parser.error("--source goes with run, status and redrive, not with token")
    return options


if __name__ == "__main__":
    main(pull)
