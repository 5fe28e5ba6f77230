"""Post one event to a stack's /track, or the events of a file or of standard input, in packs, to its /batch.

Each event has its event_id before its first try. For a file the id is derived from the file's content and the line's
number: whoever sends the same file again, whole or from some line on, sends the same ids, and queries count by id.
Standard input cannot be read twice, so its ids are random.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import select
import shlex
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from scripts.commands.console import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    CommandError,
    Parser,
    UsageError,
    main,
    progress,
    say,
)
from scripts.commands.sender import (
    LARGEST_EVENT,
    PACKED,
    REQUESTS_PER_SECOND,
    SINGLE,
    USER_AGENT,
    Answer,
    Authorize,
    Line,
    Packing,
    anybody,
    send,
)
from scripts.commands.stack import (
    DEFAULT_STACK_NAME,
    Aws,
    add_stack_arguments,
    describe_stack,
    reachable_url,
    session,
    stack_output,
    stack_outputs,
)

SHOWN_REFUSALS = 10
POLL_SECONDS = 0.1  # between two looks at an input that keeps us waiting, for whether to go on waiting

# Statuses that judge who posts, not what: every other event would fare no better.
_NOT_ALLOWED = (401, 403)

_TOO_LARGE = f"larger than {LARGEST_EVENT:,} bytes, which one Firehose record holds"
_API_KEY = re.compile("[!-~]{20,128}")
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
        return Line(number, text, _TOO_LARGE)
    return Line(number, body)


def event_lines(texts: Iterable[bytes | None], identify: Callable[[int], str], first: int = 1) -> Iterator[Line | None]:
    """The events of NDJSON from line `first` on; blank lines are passed over, None is handed on.

    Args:
        texts: the lines, as `read_lines` gives them.
        identify: the event_id for a line number.
        first: the number of the first line to yield, counted from 1.
    """
    number = 0
    for text in texts:
        if text is None:
            yield None
            continue
        number += 1
        if number < first:
            continue
        if number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        text = text.rstrip(b"\r")
        if len(text) > LARGEST_EVENT:
            yield Line(number, b"", _TOO_LARGE)
        elif text and not text.isspace():
            yield event_line(number, text, identify(number))


def read_lines(stream: io.RawIOBase, stop: threading.Event) -> Iterator[bytes | None]:
    """The lines of a file or a pipe without their newlines, and None whenever the next one keeps us waiting.

    They end where the input ends, or `stop` is set. Of a line that is too long for an event, only so much is kept that
    it is still too long.
    """
    rest = b""
    while not stop.is_set():
        if not select.select([stream], [], [], POLL_SECONDS)[0]:
            yield None
            continue
        chunk = stream.read(1 << 18)
        if not chunk:
            if rest:
                yield rest
            return
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        rest = rest[: LARGEST_EVENT + 16]


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

    def _handle(self, number: int, _frame: object) -> None:
        again = self.requested.is_set()
        self.exit_code = EXIT_TERMINATED if number == signal.SIGTERM else EXIT_INTERRUPTED
        self.requested.set()
        if again:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Door:
    """Where events go in, how many at once, and what lets them in: the arguments of `send`. `way_out` says what to do
    if it does not."""

    url: str
    packing: Packing
    authorize: Authorize
    way_out: str

    def check(self, answer: Answer) -> None:
        """Raise CommandError if an answer refuses whoever posts, and not the event."""
        if answer.status in _NOT_ALLOWED:
            raise CommandError(f"not allowed to post: {answer.reason}: {self.way_out}")


def find_door(aws: Aws, name: str, *, many: bool, api_key: str | None = None) -> Door:
    """The way into a stack: /batch for many events, /track for one or where the stack has no other.

    Args:
        api_key: the key to send where the stack asks for one; without it, the stack's own is read.

    Raises:
        CommandError: no such stack, or its key may not be read.
        NoCredentialsError: the stack wants signed requests, and there is nothing to sign them with.
    """
    outputs = stack_outputs(aws, name)
    packing = PACKED if many and "BatchURL" in outputs else SINGLE
    url = outputs["BatchURL"] if packing is PACKED else outputs.get("TrackURL") or stack_output(aws, name, "TrackURL")
    authorize: Authorize = anybody
    way_out = f"stack '{name}' asks for no key and no signature: see what was changed by hand, or stands before its API"
    if _parameter(aws, name, "ApiAuth") == "AWS_IAM":
        authorize = signature(aws)
        way_out = "requests are signed with your AWS credentials: give them execute-api:Invoke, or set AWS_PROFILE"
    elif api_key:
        authorize = key_header(api_key)
        way_out = "mend the API key in --api-key or SLUICE_API_KEY, or give none, and the stack's own is read"
    elif "ApiKeyId" in outputs:
        authorize = key_header(read_api_key(aws, outputs["ApiKeyId"]))
        way_out = f"the stack's own API key {outputs['ApiKeyId']} was sent: see whether it is enabled"
    return Door(reachable_url(aws, url), packing, authorize, way_out)


def signature(aws: Aws) -> Authorize:
    """Signs each request (Signature Version 4) as whoever calls AWS here; the policy must allow execute-api:Invoke."""
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


def read_api_key(aws: Aws, key_id: str) -> str:
    """The value of an API key by its id, which is all that a stack's outputs tell of it."""
    try:
        return str(aws.client("apigateway").get_api_key(apiKey=key_id, includeValue=True)["value"])
    except ClientError as error:
        if error.response["Error"].get("Code") not in ("AccessDenied", "AccessDeniedException"):
            raise
        raise CommandError(
            f"the stack's API key cannot be read: apigateway:GET on /apikeys/{key_id} is not allowed to you:"
            " ask for that permission, or give the key in SLUICE_API_KEY or with --api-key"
        ) from error


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
    door = _door(options)
    with Interruption() as interruption:
        answer = next(iter([*_send(door, [line], options, interruption)]), None)
    if answer is None:
        say("interrupted: the event was not accepted")
        return interruption.exit_code
    print(answer.text)
    door.check(answer)
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
                raise UsageError(f"--from-line {options.from_line}: {options.file} has {total:,} lines")
        refusals = stack.enter_context(_open_refusals(options))
        door = _door(options)
        interruption = stack.enter_context(Interruption())
        lines = event_lines(read_lines(stream, interruption.requested), identify, options.from_line)
        # Closed, it sends no more.
        answers = stack.enter_context(contextlib.closing(_send(door, lines, options, interruption)))
        summary, last, fault = _report(door, answers, total, options.from_line, refusals)
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


def _send(
    door: Door, lines: Iterable[Line | None], options: argparse.Namespace, interruption: Interruption
) -> Generator[Answer]:
    return send(
        door.url,
        lines,
        packing=door.packing,
        authorize=door.authorize,
        rate=options.rate,
        user_agent=options.user_agent,
        stop=interruption.requested,
    )


def _report(
    door: Door, answers: Iterator[Answer], total: int | None, first: int, refusals: IO[bytes] | None
) -> tuple[Summary, int, Exception | None]:
    """Show the answers as they come: the sums, the last line that is settled, and what ended it early."""
    summary, last, started = Summary(), first - 1, time.monotonic()
    fault: Exception | None = None
    columns = (
        BarColumn(),
        TextColumn("{task.fields[accepted]:,} accepted, {task.fields[refused]:,} refused"),
        TimeRemainingColumn(),
    )
    with progress(*columns) as display:
        task = display.add_task("", total=total, completed=last, accepted=0, refused=0)
        try:
            for answer in answers:
                door.check(answer)
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
        # By `send`, by `check`, or by credentials that ran out while requests were signed.
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
    raise argparse.ArgumentTypeError(f"'{text}' is no rate (requests per second, above 0)")


def _api_key(text: str) -> str:
    if not _API_KEY.fullmatch(text):  # said without the value: it is a secret
        raise argparse.ArgumentTypeError("that is no API key (20 to 128 printable characters)")
    return text


def _header_value(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise argparse.ArgumentTypeError(f"'{text}' is no HTTP header value (printable ASCII)")
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
    try:
        return path.open("wb")
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error


def _random_id(_number: int) -> str:
    return str(uuid.uuid4())


def _file_ids(digest: str) -> Callable[[int], str]:
    return lambda number: str(uuid.uuid5(_FILE_IDS, f"{digest}:{number}"))


def _door(options: argparse.Namespace) -> Door:
    return find_door(session(options.local), options.stack_name, many=options.event is None, api_key=options.api_key)


def _parameter(aws: Aws, name: str, key: str) -> str | None:
    """A parameter of the stack; None if it has no such parameter."""
    parameters = (describe_stack(aws, name) or {}).get("Parameters", [])
    return next((item["ParameterValue"] for item in parameters if item["ParameterKey"] == key), None)


def _again(options: argparse.Namespace, line: int) -> str:
    """The command line that goes on from a line; without the API key, which is a secret."""
    words = ["scripts/track.sh"]
    if options.local:
        words.append("--local")
    if options.stack_name != DEFAULT_STACK_NAME:
        words += ["--stack-name", options.stack_name]
    if options.rate != REQUESTS_PER_SECOND:
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
