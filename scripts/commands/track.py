"""Post one event, or the events of a file or of standard input, to a stack's /track.

Each event has its event_id before its first try. For a file the id is derived from the file's content and the line's
number: whoever sends the same file again, whole or from some line on, sends the same ids, and queries count by id.
Standard input cannot be read twice, so its ids are random.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shlex
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from scripts.commands.console import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_USAGE,
    CommandError,
    Parser,
    main,
    progress,
    say,
)
from scripts.commands.sender import EVENTS_PER_SECOND, LARGEST_EVENT, USER_AGENT, Answer, Line, Unreachable, send
from scripts.commands.stack import DEFAULT_STACK_NAME, add_stack_arguments, reachable_url, session, stack_output

SHOWN_REFUSALS = 10

_FILE_IDS = uuid.UUID("a3f1c7de-4a0b-5f0e-9d1c-6f0e3b1d2c58")


def event_line(number: int, text: bytes, event_id: str) -> Line:
    """A line of input as the line to post, with `event_id` added unless it has one; or with what is wrong with it.

    The id is put before the closing brace of the text as it stands: what the sender wrote, digits of its numbers
    included, arrives as it was written.
    """
    try:
        event = json.loads(text.decode("utf-8"), parse_int=float, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return Line(number, text, f"not JSON: {error.msg} at {_position(error)}")
    except UnicodeDecodeError as error:
        return Line(number, text, f"not UTF-8: byte 0x{text[error.start]:02x} at column {error.start + 1}")
    except (ValueError, RecursionError) as error:
        return Line(number, text, f"not JSON: {error}")
    if not isinstance(event, dict):
        kind = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(event), "a number")
        return Line(number, text, f"an event is a JSON object, this is {kind}")
    body = text.strip()
    if event.get("event_id") in (None, ""):
        comma = b"," if event else b""
        body = body[:-1].rstrip() + comma + f'"event_id":"{event_id}"}}'.encode()
    if len(body) > LARGEST_EVENT:
        return Line(number, text, f"larger than {LARGEST_EVENT:,} bytes, which one Firehose record holds")
    return Line(number, body)


def event_lines(readline: Callable[[int], bytes], identify: Callable[[int], str], first: int = 1) -> Iterator[Line]:
    """The events of an NDJSON stream from line `first` on; blank lines are passed over.

    Args:
        readline: reads a line of at most so many bytes, as a binary file's `readline`.
        identify: the event_id for a line number.
        first: the number of the first line to yield, counted from 1.
    """
    number = 0
    while text := readline(LARGEST_EVENT + 2):
        number += 1
        whole = text
        while len(text) >= LARGEST_EVENT and not text.endswith(b"\n"):
            text = readline(LARGEST_EVENT)  # the rest of a line that is too long anyway
        if number < first:
            continue
        if number == 1:
            whole = whole.removeprefix(b"\xef\xbb\xbf")
        if len(whole) > LARGEST_EVENT + 1:
            yield Line(number, b"", f"larger than {LARGEST_EVENT:,} bytes, which one Firehose record holds")
        elif whole.strip():
            yield event_line(number, whole.rstrip(b"\r\n"), identify(number))


def survey(path: Path) -> tuple[int, str]:
    """How many lines a file has, and a digest of its content."""
    digest, lines, last = hashlib.blake2b(digest_size=16), 0, b"\n"
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n"), digest.hexdigest()


class Interruption:
    """Ctrl-C or SIGTERM while events are on their way: `requested` is set, so that answers are still counted.

    Nothing is raised, except out of a read that waits for input, and for the second Ctrl-C.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.exit_code = 0
        self._is_reading = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def readline(self, stream: IO[bytes], limit: int) -> bytes:
        """As the stream's own; an interruption ends the input."""
        try:
            self._is_reading = True
            return b"" if self.requested.is_set() else stream.readline(limit)
        except KeyboardInterrupt:
            return b""
        finally:
            self._is_reading = False

    def _handle(self, number: int, _frame: object) -> None:
        again = self.requested.is_set()
        self.exit_code = EXIT_TERMINATED if number == signal.SIGTERM else EXIT_INTERRUPTED
        self.requested.set()
        if again or self._is_reading:
            raise KeyboardInterrupt


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
        raise CommandError(f"{line.problem}: {options.event[:80]}", EXIT_USAGE)
    url = _track_url(options)
    with Interruption() as interruption:
        answers = send(
            url, [line], rate=options.rate, connections=1, user_agent=options.user_agent, stop=interruption.requested
        )
        answer = next(iter([*answers]), None)
    if answer is None:
        raise CommandError("interrupted: the event was not accepted", interruption.exit_code)
    print(answer.text)
    if not answer.is_accepted:
        raise CommandError(f"refused: {answer.reason}")
    say(f"accepted: event_id {json.loads(line.body)['event_id']}", style="green")
    return 0


def _track_many(options: argparse.Namespace) -> int:
    total: int | None = None
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_open(options.file))
        identify: Callable[[int], str] = _random_id
        if stream.seekable() and not stream.isatty() and options.file != "-":
            total, digest = survey(Path(options.file))
            identify = _file_ids(digest)
            if options.from_line > max(total, 1):
                raise CommandError(f"--from-line {options.from_line}: {options.file} has {total:,} lines", EXIT_USAGE)
        refusals = stack.enter_context(_open_refusals(options))
        url = _track_url(options)
        interruption = stack.enter_context(Interruption())
        lines = event_lines(lambda limit: interruption.readline(stream, limit), identify, options.from_line)
        answers = send(url, lines, rate=options.rate, user_agent=options.user_agent, stop=interruption.requested)
        summary, last, fault = _report(answers, total, options.from_line, refusals)
    is_cut_short = fault is not None or interruption.requested.is_set()
    if is_cut_short and (total is None or last < total):
        summary.next_line = last + 1
    print(json.dumps(asdict(summary)))
    if fault is None and not interruption.requested.is_set():
        say(f"{summary.accepted:,} accepted, {summary.refused:,} refused in {summary.seconds:.1f} s")
        return 1 if summary.refused else 0
    if summary.next_line is not None:
        done = f"sent {last:,}" + (f" of {total:,}" if total is not None else "")
        say(f"{done}; go on with: {_again(options, summary.next_line)}", style="yellow")
    if fault is not None:
        raise fault
    return interruption.exit_code


def _report(
    answers: Iterator[Answer], total: int | None, first: int, refusals: IO[bytes] | None
) -> tuple[Summary, int, Unreachable | None]:
    """Show the answers as they come: the sums, the last line that is settled, and what ended it early."""
    summary, last, fault, started = Summary(), first - 1, None, time.monotonic()
    columns = (
        BarColumn(),
        TextColumn("{task.fields[accepted]:,} accepted, {task.fields[refused]:,} refused"),
        TimeRemainingColumn(),
    )
    with progress(*columns) as display:
        task = display.add_task("", total=total, completed=last, accepted=0, refused=0)
        try:
            for answer in answers:
                last = answer.line.number
                if answer.is_accepted:
                    summary.accepted += 1
                else:
                    summary.refused += 1
                    if summary.refused <= SHOWN_REFUSALS:
                        display.console.print(
                            f"line {last}: {answer.reason}", style="red", markup=False, highlight=False, soft_wrap=True
                        )
                    if refusals is not None:
                        refusals.write(answer.line.body + b"\n")
                display.update(task, completed=last, accepted=summary.accepted, refused=summary.refused)
        except Unreachable as error:
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
    parser.add_argument("--rate", type=_rate, default=EVENTS_PER_SECOND)
    parser.add_argument("--refused")
    parser.add_argument("--user-agent", type=_header_value, default=USER_AGENT)
    options = parser.parse_args(arguments)
    if options.event == "-":
        if options.file is not None:
            parser.error("give either - or --file")
        options.event, options.file = None, "-"
    if (options.event is None) == (options.file is None):
        parser.error("give one event as JSON, or --file events.ndjson, or - for standard input")
    if options.event is not None and (options.refused or options.from_line != 1):
        parser.error("--refused and --from-line go with --file or -")
    return options


def _line_number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no line number (1, 2, ...)")
    return int(text)


def _rate(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (rate := float(text)) < float("inf"):
            return rate
    raise argparse.ArgumentTypeError(f"'{text}' is no rate (events per second, above 0)")


def _header_value(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise argparse.ArgumentTypeError(f"'{text}' is no HTTP header value (printable ASCII)")
    return text


def _open(file: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    try:
        # Standard input stays open; closing it is not ours.
        return open(0, "rb", closefd=False) if file == "-" else Path(file).open("rb")
    except OSError as error:
        raise CommandError(f"cannot read '{file}': {error.strerror}", EXIT_USAGE) from error


def _open_refusals(options: argparse.Namespace) -> contextlib.AbstractContextManager[IO[bytes] | None]:
    if options.refused is None:
        return contextlib.nullcontext()
    path = Path(options.refused)
    if options.file != "-" and path.exists() and path.samefile(options.file):
        raise CommandError(f"--refused {path}: that is the file to send", EXIT_USAGE)
    try:
        return path.open("wb")
    except OSError as error:
        raise CommandError(f"cannot write '{path}': {error.strerror}", EXIT_USAGE) from error


def _random_id(_number: int) -> str:
    return str(uuid.uuid4())


def _file_ids(digest: str) -> Callable[[int], str]:
    return lambda number: str(uuid.uuid5(_FILE_IDS, f"{digest}:{number}"))


def _track_url(options: argparse.Namespace) -> str:
    aws = session(options.local)
    return reachable_url(aws, stack_output(aws, options.stack_name, "TrackURL"))


def _again(options: argparse.Namespace, line: int) -> str:
    """The command line that goes on from a line."""
    words = ["scripts/track.sh"]
    if options.local:
        words.append("--local")
    if options.stack_name != DEFAULT_STACK_NAME:
        words += ["--stack-name", options.stack_name]
    if options.rate != EVENTS_PER_SECOND:
        words += ["--rate", f"{options.rate:g}"]
    if options.user_agent != USER_AGENT:
        words += ["--user-agent", options.user_agent]
    words += ["-"] if options.file == "-" else ["--file", options.file]
    return shlex.join([*words, "--from-line", str(line)])


def _position(error: json.JSONDecodeError) -> str:
    return f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


if __name__ == "__main__":
    main(command)
