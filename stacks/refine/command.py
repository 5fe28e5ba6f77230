"""Start a refinement run, follow it, and show its tables."""

from __future__ import annotations

import difflib
import json
from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from datetime import date

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.commands.common import runs
from scripts.commands.common.console import CommandError, Parser, UsageError, main, progress, say
from scripts.commands.common.stack import (
    Aws,
    Stack,
    add_stack_arguments,
    session,
)
from shared.documents import parse_json


@dataclass
class Made:
    """A run's work on one table."""

    days: int = 0
    rows: int = 0
    statements: int = 0


@dataclass
class Progress:
    """An execution's progress, from its history."""

    planned: list[str] = field(default_factory=list)
    """The table of each statement, in order; empty before it is planned."""
    made: dict[str, Made] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """For a person: days not made anew, and days without their old rows."""
    waits: str = ""
    """Why it waits: another run is under way."""

    @property
    def done(self) -> int:
        """How many statements are published."""
        return sum(made.statements for made in self.made.values())

    @property
    def current(self) -> str:
        """The table being made, or the name of the phase."""
        if not self.planned:
            return "Waiting" if self.waits else "Planning"
        return self.planned[self.done] if self.done < len(self.planned) else "Sweeping"


def refine(arguments: list[str]) -> int:
    """scripts/refine.sh"""
    parser = Parser("refine")
    add_stack_arguments(parser)
    parser.add_argument("--from", dest="first", type=_day)
    parser.add_argument("--to", dest="last", type=_day)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--last", dest="is_last", action="store_true")
    options = parser.parse_args(arguments)
    if options.first and options.last and options.first > options.last:
        parser.error(f"--from {options.first} lies after --to {options.last}")
    request = {"from": options.first, "to": options.last, "only": options.only}
    request = {key: value for key, value in request.items() if value}
    if options.is_last and request:
        parser.error("--last shows the run before, and starts none: leave out --from, --to and --only")
    stack = Stack(session(options), options.stack_name)
    aws = stack.aws
    machine = machine_of(stack)
    if options.is_last:
        arn = last_run(aws, machine)
        say(f"Showing the run {arn}")
    else:
        check_tables(options.only, tables_of(stack))
        arn = aws.client("stepfunctions").start_execution(stateMachineArn=machine, input=json.dumps(request))[
            "executionArn"
        ]
    show(follow(aws, arn))
    return 0


def machine_of(stack: Stack) -> str:
    """The ARN of the stack's state machine; CommandError if refinement is not switched on."""
    outputs = stack.outputs
    if "RefineMachineArn" not in outputs:
        raise stack.lacks("refine", "--refine stacks/refine/sql")
    return outputs["RefineMachineArn"]


def tables_of(stack: Stack) -> list[str]:
    """The tables of the stack's SQL files, in their order."""
    values = stack.parameters
    document = (
        stack.client("s3").get_object(Bucket=values["ArtifactBucket"], Key=values["RefineFilesKey"])["Body"].read()
    )
    return [target["table"] for target in parse_json(document)["targets"]]


def check_tables(only: list[str], tables: list[str]) -> None:
    """Raise UsageError for a table that no file makes."""
    for table in only:
        if table not in tables:
            close = difflib.get_close_matches(table, tables, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(tables)}"
            raise UsageError(f"no SQL file of the stack makes the table '{table}': {hint}")


def last_run(aws: Aws, machine: str) -> str:
    """The ARN of the latest execution; CommandError if there is none."""
    found = aws.client("stepfunctions").list_executions(stateMachineArn=machine, maxResults=1)["executions"]
    if not found:
        raise CommandError("there was no run in the last 90 days: start one with scripts/refine.sh")
    arn: str = found[0]["executionArn"]
    return arn


def follow(aws: Aws, arn: str) -> Progress:
    """Wait for the end of an execution; returns its progress.

    Raises CommandError with the failing file and the reason.
    """
    waits = ""
    with progress() as display:
        task = display.add_task("Planning", total=None)
        try:
            # The status first: the history after it is then complete.
            for execution in runs.follow(aws, arn, 3.0):
                seen = read_history(aws, arn)
                display.update(task, description=seen.current, completed=seen.done, total=len(seen.planned) or None)
                if seen.waits != waits:
                    waits = seen.waits
                    say(waits)
                if execution["status"] != "RUNNING":
                    break
        except KeyboardInterrupt:
            say(f"The run goes on without this script: {arn}")
            raise
    if execution["status"] != "SUCCEEDED":
        if seen.made:
            say(f"Made before that: {', '.join(seen.made)}")
        raise CommandError(f"refinement has {execution['status'].lower()}: {runs.cause(execution)}")
    return seen


def read_history(aws: Aws, arn: str) -> Progress:
    """An execution's progress, from the answers of the refinement function in its history."""
    seen = Progress()
    for page in aws.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=arn):
        for event in page["events"]:
            failed = event.get("taskFailedEventDetails", {})
            if failed.get("error") == "Busy":
                seen.waits = runs.cause(failed)
            if event["type"] != "TaskSucceeded":
                continue
            answer = parse_json(event["taskSucceededEventDetails"].get("output") or "{}").get("Payload") or {}
            if answer.get("step") == "plan":
                seen.planned = [statement["table"] for statement in answer["statements"]]
            elif answer.get("step") == "publish":
                made = seen.made.setdefault(answer["table"], Made())
                made.days += answer["days"]
                made.rows += answer["rows"]
                made.statements += 1
                seen.notes += answer["notes"]
    return seen


def show(seen: Progress) -> None:
    """Print rows and days by table on stdout; on stderr, notes about single days."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("table")
    for heading in ("days with rows", "rows", "statements"):
        table.add_column(heading, justify="right")
    for name, one in seen.made.items():
        table.add_row(name, f"{one.days:,}", f"{one.rows:,}", str(one.statements))
    Console().print(table)
    for note in seen.notes:
        say(note)


def _day(text: str) -> str:
    try:
        if len(text) != 10:
            raise ValueError
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ArgumentTypeError(f"'{text}' is not a day such as 2026-01-31") from None


if __name__ == "__main__":
    main(refine)
