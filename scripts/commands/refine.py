"""Start a refinement run, follow it, and show what it made."""

from __future__ import annotations

import difflib
import json
import time
from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.commands import executions
from scripts.commands.console import CommandError, Parser, UsageError, main, progress, say
from scripts.commands.stack import Aws, add_stack_arguments, describe_stack, session, stack_outputs, stack_parameters


@dataclass
class Made:
    """What a run has made of one table."""

    days: int = 0
    rows: int = 0
    statements: int = 0
    left: int = 0
    """Days that stay as they were, since events behind them may be deleted."""


@dataclass
class Progress:
    """What the history of an execution tells so far."""

    planned: list[str] = field(default_factory=list)
    """The table of each statement, in order; empty before it is planned."""
    made: dict[str, Made] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many statements are published."""
        return sum(made.statements for made in self.made.values())

    @property
    def current(self) -> str:
        """What is going on."""
        if not self.planned:
            return "Planning"
        return self.planned[self.done] if self.done < len(self.planned) else "Sweeping"


def refine(arguments: list[str]) -> int:
    """scripts/refine.sh"""
    parser = Parser("refine")
    add_stack_arguments(parser)
    parser.add_argument("--from", dest="first", type=_day)
    parser.add_argument("--to", dest="last", type=_day)
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args(arguments)
    if options.first and options.last and options.first > options.last:
        parser.error(f"--from {options.first} lies after --to {options.last}")
    aws = session(options.local)
    machine = machine_of(aws, options.stack_name)
    check_tables(options.only, tables_of(aws, options.stack_name))
    request = {"from": options.first, "to": options.last, "only": options.only}
    made = run(aws, machine, {key: value for key, value in request.items() if value})
    show(made)
    return 0


def machine_of(aws: Aws, name: str) -> str:
    """The ARN of the stack's state machine; CommandError if refinement is not switched on."""
    outputs = stack_outputs(aws, name)
    if "RefineMachineArn" not in outputs:
        raise UsageError(
            f"stack '{name}' in {aws.place} does not refine: switch it on with "
            f"scripts/deploy.sh{aws.flag} --stack-name {name} --refine refine"
        )
    return outputs["RefineMachineArn"]


def tables_of(aws: Aws, name: str) -> list[str]:
    """The tables that the stack's SQL files make, in their order."""
    stack = describe_stack(aws, name) or {}
    values = stack_parameters(stack)
    document = aws.client("s3").get_object(Bucket=values["ArtifactBucket"], Key=values["RefineFilesKey"])["Body"].read()
    return [target["table"] for target in json.loads(document)["targets"]]


def check_tables(only: list[str], tables: list[str]) -> None:
    """Refuse a table that no file makes."""
    for table in only:
        if table not in tables:
            close = difflib.get_close_matches(table, tables, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(tables)}"
            raise UsageError(f"no SQL file of the stack makes the table '{table}': {hint}")


def run(aws: Aws, machine: str, request: dict[str, Any]) -> dict[str, Made]:
    """Run the state machine to its end; returns what it made, by table.

    Raises CommandError with the failing file and the reason.
    """
    states = aws.client("stepfunctions")
    arn = states.start_execution(stateMachineArn=machine, input=json.dumps(request))["executionArn"]
    with progress() as display:
        task = display.add_task("Planning", total=None)
        try:
            while True:
                # The status first: what the history has after it is then all there is.
                execution = states.describe_execution(executionArn=arn)
                seen = read_history(states, arn)
                display.update(task, description=seen.current, completed=seen.done, total=len(seen.planned) or None)
                if execution["status"] != "RUNNING":
                    break
                time.sleep(0.3 if aws.is_local else 3)
        except KeyboardInterrupt:
            say(f"The run goes on without this script: {arn}")
            raise
    if execution["status"] != "SUCCEEDED":
        if seen.made:
            say(f"Made before that: {', '.join(seen.made)}")
        raise CommandError(f"refinement has {execution['status'].lower()}: {executions.cause(execution)}")
    return seen.made


def read_history(states: Any, arn: str) -> Progress:
    """What an execution has done so far: the answers of the refinement function stand in its history."""
    seen = Progress()
    for page in states.get_paginator("get_execution_history").paginate(executionArn=arn):
        for event in page["events"]:
            if event["type"] != "TaskSucceeded":
                continue
            answer = json.loads(event["taskSucceededEventDetails"].get("output") or "{}").get("Payload") or {}
            if answer.get("step") == "plan":
                seen.planned = [statement["table"] for statement in answer["statements"]]
            elif answer.get("step") == "publish":
                made = seen.made.setdefault(answer["table"], Made())
                made.days += answer["days"]
                made.rows += answer["rows"]
                made.statements += 1
                made.left += answer["left"]
    return seen


def show(made: dict[str, Made]) -> None:
    """A table on stdout: rows and days by table; on stderr, which tables have days that were not made anew."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("table")
    for heading in ("days with rows", "rows", "statements"):
        table.add_column(heading, justify="right")
    for name, one in made.items():
        table.add_row(name, f"{one.days:,}", f"{one.rows:,}", str(one.statements))
    Console().print(table)
    for name, one in made.items():
        if one.left:
            say(
                f"{name}: days that stay as they were, as events behind them may be deleted: {one.left:,} "
                f"(EventsRetentionInDays; the log of the function names them)"
            )


def _day(text: str) -> str:
    try:
        if len(text) != 10:
            raise ValueError
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ArgumentTypeError(f"'{text}' is no day such as 2026-01-31") from None


if __name__ == "__main__":
    main(refine)
