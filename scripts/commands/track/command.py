"""Post one event to a stack's /track, or the events of a file or of standard input, in packs, to its /batch.

Each event has its event_id before its first try. Ids of a file's events are made from its content (event_files.py).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, NoCredentialsError
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from scripts.commands.common.api import read_api_key
from scripts.commands.common.console import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    CommandError,
    Parser,
    UsageError,
    main,
    printable,
    progress,
    say,
)
from scripts.commands.common.stack import (
    Aws,
    Stack,
    add_stack_arguments,
    command_options,
    reachable_url,
    session,
)
from scripts.commands.track.arrivals import Arrivals, text_literal
from scripts.commands.track.event_files import STANDARD_INPUT, Events, event_line, id_of, written
from scripts.commands.track.sender import (
    PACKED,
    REQUESTS_PER_SECOND,
    SINGLE,
    USER_AGENT,
    Answer,
    Authorize,
    Entrance,
    Line,
    anybody,
    send,
)

SHOWN_REFUSALS = 10

# Statuses that refuse the sender, not the event: every other event would fare no better.
_NOT_ALLOWED = (401, 403)

_NO_REFUSALS = (
    "Fix refused events in a file of their own, which --refused FILE writes: a changed line changes the ids of all"
    " events after it, so that they would count twice"
)
_MISSING = """  late?                scripts/query.sh{place} history-of-one-event --param {event_id}
  dropped by a rule?   scripts/status.sh{place}
  failed?              scripts/query.sh{place} failures
  one of more than 500 that were rejected in a request?   scripts/query.sh{place} rejections"""
_API_KEY = re.compile("[!-~]{20,128}")


class Interruption:
    """Ctrl-C or SIGTERM while events are on their way: `requested` is set, so that answers are still counted.

    Nothing is raised, except for the second Ctrl-C.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.exit_code = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        again = self.requested.is_set()
        self.exit_code = EXIT_TERMINATED if number == signal.SIGTERM else EXIT_INTERRUPTED
        self.requested.set()
        if again:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Door(Entrance):
    """A stack's entrance for events. `way_out` is the advice for a sender it refuses."""

    way_out: str = ""

    def check(self, answer: Answer) -> None:
        """Raise CommandError if an answer refuses the sender rather than the event."""
        if answer.status in _NOT_ALLOWED:
            raise CommandError(f"not allowed to post: {answer.reason}: {self.way_out}")


def find_door(stack: Stack, *, many: bool, api_key: str | None = None) -> Door:
    """The stack's entrance: /batch for many events, /track for one or if the stack has no other.

    Args:
        api_key: the key to send if the stack asks for one; without it, the stack's own is read.

    Raises:
        CommandError: the stack does not exist, or its key may not be read.
        NoCredentialsError: the stack wants signed requests, and there are no credentials to sign them.
    """
    aws, outputs = stack.aws, stack.outputs
    packing = PACKED if many and "BatchURL" in outputs else SINGLE
    url = outputs["BatchURL"] if packing is PACKED else stack.output("TrackURL")
    authorize: Authorize = anybody
    way_out = (
        f"stack '{stack.name}' asks for no key and no signature: see what was changed by hand, or is before its API"
    )
    if stack.parameters.get("ApiAuth") == "AWS_IAM":
        authorize = signature(aws)
        way_out = "requests are signed with your AWS credentials: give them execute-api:Invoke, or set AWS_PROFILE"
    elif api_key:
        authorize = key_header(api_key)
        way_out = "fix the API key in --api-key or SLUICE_API_KEY, or give none, and the stack's own is read"
    elif "ApiKeyId" in outputs:
        authorize = key_header(read_api_key(aws, outputs["ApiKeyId"]))
        way_out = f"the stack's own API key {outputs['ApiKeyId']} was sent: see whether it is enabled"
    return Door(reachable_url(aws, url), packing, authorize, way_out=way_out)


def signature(aws: Aws) -> Authorize:
    """Signs each request (Signature Version 4) with the AWS credentials here; they must allow execute-api:Invoke."""
    credentials = aws.session.get_credentials()
    if credentials is None:
        raise NoCredentialsError()

    def sign(url: str, body: bytes, headers: Mapping[str, str]) -> Mapping[str, str]:
        request = AWSRequest("POST", url, headers=headers, data=body)
        # Frozen for each request, as a role's credentials are renewed in between.
        SigV4Auth(credentials.get_frozen_credentials(), "execute-api", aws.region).add_auth(request)
        return dict(request.headers.items())

    return sign


def key_header(api_key: str) -> Authorize:
    """Sends an API key along."""
    return lambda _url, _body, headers: {**headers, "x-api-key": api_key}


@dataclass
class Summary:
    """The line on stdout after a file. `next_line` is where to go on; null if every line is settled."""

    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    next_line: int | None = None


def command(arguments: list[str]) -> int:
    """scripts/track.sh"""
    options = _parse(arguments)
    return _track_one(options) if options.event is not None else _track_many(options)


def _track_one(options: argparse.Namespace) -> int:
    event_id = str(uuid.uuid4())
    line = event_line(1, options.event.encode("utf-8", "surrogateescape"), event_id)
    if line.problem is not None:
        raise UsageError(f"{line.problem}: {options.event[:80]}")
    stack = Stack(session(options), options.stack_name)
    door = _door(options, stack)
    arrivals = Arrivals(stack) if options.wait else None
    with Interruption() as interruption:
        answer = next(iter([*_send(door, [line], options, interruption)]), None)
    if answer is None:
        say("interrupted: the event was not accepted")
        return interruption.exit_code
    print(printable(answer.text) if sys.stdout.isatty() else answer.text)
    door.check(answer)
    if not answer.is_accepted:
        raise CommandError(f"refused: {answer.reason}")
    say(f"accepted: event_id {id_of(line)}", style="green")
    return int(not _follow(arrivals, {id_of(line): 1}, "event", command_options(options)))


def _track_many(options: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_open(options.file))
        refusals = stack.enter_context(_open_refusals(options))
        spool = stack.enter_context(tempfile.TemporaryFile()) if refusals is not None else None
        target = Stack(session(options), options.stack_name)
        door = _door(options, target)
        arrivals = Arrivals(target) if options.wait else None
        interruption = stack.enter_context(Interruption())
        name = STANDARD_INPUT if options.file == "-" else options.file
        events = Events(stream, name, interruption.requested, options.seed, spool)
        lines = events.lines(options.from_line)
        # Closed, it sends no more.
        answers = stack.enter_context(contextlib.closing(_send(door, lines, options, interruption)))
        ids: dict[str, int] = {}
        if arrivals is not None:
            answers = _note(answers, ids)
        summary, last, fault = _report(door, answers, events, options.from_line, refusals)
    if fault is None and events.is_whole and options.from_line > events.read + 1:
        raise UsageError(f"--from-line {options.from_line}: {name} has {_count(events.read, events.unit)}")
    is_cut_short = fault is not None or interruption.requested.is_set()
    if is_cut_short and not (events.is_whole and last >= events.last):
        summary.next_line = last + 1
    print(json.dumps(asdict(summary)))
    if not is_cut_short and not isinstance(events.fault, UsageError):
        say(f"{summary.accepted:,} accepted, {summary.refused:,} refused in {summary.seconds:.1f} s")
        if summary.refused and refusals is None:
            say(_NO_REFUSALS)
    if summary.next_line is not None:
        say(f"sent {_count(last, events.unit)}; go on with: {_again(options, summary.next_line)}", style="yellow")
    if fault := fault or events.fault:
        raise fault
    if interruption.exit_code:
        return interruption.exit_code
    is_arrived = not summary.accepted or _follow(arrivals, ids, events.unit, command_options(options))
    return int(summary.refused > 0 or not is_arrived)


def _note(answers: Iterator[Answer], ids: dict[str, int]) -> Generator[Answer]:
    """The answers; the id of each accepted event is noted, with the number of its first line."""
    for answer in answers:
        if answer.is_accepted:
            ids.setdefault(id_of(answer.line), answer.line.number)
        yield answer


def _follow(arrivals: Arrivals | None, ids: Mapping[str, int], unit: str, place: str) -> bool:
    """Wait for accepted events, and return whether each is a row or rejected; or tell where to look for rejected ones.

    `place` has the command line's options for the stack.
    """
    if arrivals is None:
        say(f"In a minute or two, scripts/query.sh{place} rejections shows those that the transform rejects")
        return True
    arrived = arrivals.wait(ids)
    rejected = sorted((ids[event_id], reason) for event_id, reason in arrived.rejected.items())
    for number, reason in rejected[:SHOWN_REFUSALS]:
        say(f"{unit} {number}: rejected: {reason}", style="red")
    print(json.dumps({"rows": arrived.rows, "rejected": len(rejected), "missing": len(arrived.missing)}))
    found = f"{_count(arrived.rows, 'row')}, {len(rejected):,} rejected, {len(arrived.missing):,} in neither table"
    charge = f", for about {arrived.dollars:.5f} USD of Athena" if arrived.dollars else ""
    say(f"{found} after {arrived.seconds:.0f} s{charge}")
    if arrived.missing:
        missing = sorted((ids[event_id], event_id) for event_id in arrived.missing)
        for number, event_id in missing[:SHOWN_REFUSALS]:
            say(f"{unit} {number}: in neither table: {printable(event_id)}", style="red")
        if len(missing) > SHOWN_REFUSALS:
            say(f"... and {len(missing) - SHOWN_REFUSALS:,} more in neither table", style="red")
        event_id = missing[0][1]
        # In double quotes, where that is enough for the shell.
        quoted = f"\"'{event_id}'\"" if re.fullmatch(r"[\w-]+", event_id) else shlex.quote(text_literal(event_id))
        say(_MISSING.format(place=place, event_id=quoted), style="yellow")
    return not arrived.missing


def _send(
    door: Door, lines: Iterable[Line | None], options: argparse.Namespace, interruption: Interruption
) -> Generator[Answer]:
    entrance = replace(door, user_agent=options.user_agent)
    return send(entrance, lines, rate=options.rate, stop=interruption.requested)


def _report(
    door: Door, answers: Iterator[Answer], events: Events, first: int, refusals: IO[bytes] | None
) -> tuple[Summary, int, Exception | None]:
    """Show the answers as they come; returns the sums, the last settled line and the fault that ended it early."""
    summary, last, started = Summary(), first - 1, time.monotonic()
    fault: Exception | None = None
    columns = (
        BarColumn(),
        TextColumn("{task.fields[accepted]:,} accepted, {task.fields[refused]:,} refused"),
        TimeRemainingColumn(),
    )
    with progress(*columns) as display:
        task = display.add_task("", total=events.size, accepted=0, refused=0)
        try:
            for answer in answers:
                door.check(answer)
                last = answer.line.number
                if answer.is_accepted:
                    summary.accepted += 1
                else:
                    summary.refused += 1
                    if summary.refused <= SHOWN_REFUSALS:
                        text = printable(f"{events.unit} {last}: {answer.reason}")
                        display.console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
                    if refusals is not None:
                        refusals.writelines(written(answer.line))
                display.update(task, completed=events.position, accepted=summary.accepted, refused=summary.refused)
        # By `send`, by `check`, or by expired credentials while requests were signed.
        except (CommandError, BotoCoreError) as error:
            fault = error
    if summary.refused > SHOWN_REFUSALS:
        say(f"... and {summary.refused - SHOWN_REFUSALS:,} more refused", style="red")
    summary.seconds = round(time.monotonic() - started, 1)
    return summary, last, fault


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("track")
    add_stack_arguments(parser)
    parser.add_argument("event", nargs="?")
    parser.add_argument("--file")
    parser.add_argument("--from-line", type=_line_number, default=1)
    parser.add_argument("--rate", type=_rate, default=REQUESTS_PER_SECOND)
    parser.add_argument("--refused")
    parser.add_argument("--seed", default="")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--user-agent", type=_header_value, default=USER_AGENT)
    parser.add_argument("--api-key", type=_api_key)
    options = parser.parse_args(arguments)
    if options.api_key is None and (given := os.environ.get("SLUICE_API_KEY")):
        try:
            options.api_key = _api_key(given)
        except argparse.ArgumentTypeError as error:
            parser.error(f"variable SLUICE_API_KEY: {error}")
    if options.event == "-":
        if options.file is not None:
            parser.error("give either - or --file")
        options.event, options.file = None, "-"
    if (options.event is None) == (options.file is None):
        parser.error("give one event as JSON, or --file events.ndjson, or - for standard input")
    if options.event is not None and (options.refused or options.seed or options.from_line != 1):
        parser.error("--refused, --seed and --from-line go with --file or -")
    return options


def _line_number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a line number (1, 2, ...)")
    return int(text)


def _rate(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (rate := float(text)) < float("inf"):
            return rate
    raise argparse.ArgumentTypeError(f"'{text}' is not a rate (requests per second, above 0)")


def _api_key(text: str) -> str:
    if not _API_KEY.fullmatch(text):  # said without the value: it is a secret
        raise argparse.ArgumentTypeError("that is not an API key (20 to 128 printable characters)")
    return text


def _header_value(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise argparse.ArgumentTypeError(f"'{text}' is not an HTTP header value (printable ASCII)")
    return text


def _open(file: str) -> io.FileIO:
    try:
        # Standard input stays open; closing it is not ours.
        return open(0, "rb", buffering=0, closefd=False) if file == "-" else Path(file).open("rb", buffering=0)
    except OSError as error:
        raise UsageError(f"cannot read '{file}': {error.strerror}") from error


def _open_refusals(options: argparse.Namespace) -> contextlib.AbstractContextManager[IO[bytes] | None]:
    if options.refused is None:
        return contextlib.nullcontext()
    path = Path(options.refused)
    if options.file != "-" and path.exists() and path.samefile(options.file):
        raise UsageError(f"--refused {path}: that is the file to send")
    if path.is_file() and path.stat().st_size:
        raise UsageError(f"--refused {path}: the file has events already: name another, or remove it")
    try:
        return path.open("wb")
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error


def _door(options: argparse.Namespace, stack: Stack) -> Door:
    return find_door(stack, many=options.event is None, api_key=options.api_key)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _again(options: argparse.Namespace, line: int) -> str:
    """The command line to go on from a line; without the API key, a secret."""
    words = ["scripts/track.sh", *shlex.split(command_options(options))]
    if options.rate != REQUESTS_PER_SECOND:
        words += ["--rate", f"{options.rate:g}"]
    if options.user_agent != USER_AGENT:
        words += ["--user-agent", options.user_agent]
    if options.wait:
        words.append("--wait")
    if options.seed:
        words += ["--seed", options.seed]
    words += ["-"] if options.file == "-" else ["--file", options.file]
    return shlex.join([*words, "--from-line", str(line)])


if __name__ == "__main__":
    main(command)
