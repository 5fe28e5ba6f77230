"""Every command's input and output at the terminal: data goes to stdout, talk to stderr, errors take one line.

Set DEBUG=1 to see the traceback behind an error's one line.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from botocore import exceptions as aws

# rich is imported where it is used: a line without a style takes none of it.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_BROKEN_PIPE = 141

# Without these nothing can be asked of AWS.
_NOT_SET_UP = (
    *(aws.NoCredentialsError, aws.PartialCredentialsError, aws.NoRegionError),
    *(aws.ProfileNotFound, aws.ConfigNotFound, aws.ConfigParseError),
)
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_INVALID = {
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "AuthFailure",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedAccess"}
# S3 answers HEAD with a status alone, without the name of the missing action.
_TAKES = {"HeadBucket": "s3:ListBucket", "HeadObject": "s3:GetObject"}


class CommandError(Exception):
    """An error that stops a command: one line for the person, with the bad value and the way out."""

    exit_code = EXIT_FAILED


class UsageError(CommandError):
    """The call cannot be carried out as given: an argument is wrong, or the thing it names is missing or unfit.

    docs/operating.md#exit-codes has the rule for both errors.
    """

    exit_code = EXIT_USAGE


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised to make a command tidy up as after Ctrl-C."""


class Parser(argparse.ArgumentParser):
    """Arguments of `scripts/<name>.sh`. Options are never guessed from a prefix; an error is one line and exit code 2.

    The shell script's header comment is the help, so this class prints none.
    """

    def __init__(self, name: str) -> None:
        super().__init__(prog=f"scripts/{name}.sh", allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(command: Callable[[list[str]], int]) -> NoReturn:
    """Run a command with this process's arguments and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    sys.exit(guarded(command, sys.argv[1:]))


def guarded(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command and return its exit code; after an error or an interruption, one line tells it."""
    try:
        code = command(arguments)
        sys.stdout.flush()
        return code
    except Terminated:
        return _stopped("terminated", EXIT_TERMINATED)
    except KeyboardInterrupt:
        return _stopped("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing to tell, and nothing for the interpreter to flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except CommandError as error:
        return _stopped(f"error: {error}", error.exit_code)
    except (aws.BotoCoreError, aws.ClientError) as error:
        return _stopped(f"error: {explain(error)}", EXIT_USAGE if isinstance(error, _NOT_SET_UP) else EXIT_FAILED)


def explain(error: aws.BotoCoreError | aws.ClientError) -> str:
    """An AWS error in words for the person, and the way out."""
    match error:
        case aws.NoCredentialsError() | aws.PartialCredentialsError() | aws.CredentialRetrievalError():
            return "no AWS credentials: run `aws configure` or set AWS_PROFILE, or add --local"
        case aws.NoRegionError():
            return "no AWS region: run `aws configure` or set AWS_REGION, or add --local"
        case aws.ProfileNotFound() | aws.ConfigNotFound() | aws.ConfigParseError():
            return f"{error}: see `aws configure list-profiles`, or unset AWS_PROFILE"
        case aws.SSOError() | aws.TokenRetrievalError():
            return f"{error}: run `aws sso login`"
        case aws.EndpointConnectionError() | aws.ConnectionError() | aws.HTTPClientError():
            return f"{error}: check the network and the region's name"
        case aws.ClientError():
            code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
            if code == "403" and (action := _TAKES.get(error.operation_name)):
                code, message = "AccessDenied", f"it takes {action}"
            if code in _EXPIRED:
                return "the AWS credentials have expired: log in again (`aws sso login`) or fetch new ones"
            if code in _INVALID:
                return f"AWS does not accept these credentials ({code}): check `aws sts get-caller-identity`"
            if code in _DENIED:
                return f"{error.operation_name} is not allowed: {message}: ask for that permission, or set AWS_PROFILE"
            return f"{error.operation_name} failed: {code}: {message}"
    return str(error)


def printable(text: str) -> str:
    """Text without control characters: a sender's text must not steer the terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(text: str, style: str | None = None) -> None:
    """Tell the person something, on stderr; nothing in the text is read as markup, or steers the terminal."""
    shown = "\n".join(map(printable, text.split("\n")))
    if style is None or not sys.stderr.isatty():
        print(shown, file=sys.stderr)
    else:
        _talk().print(shown, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def nobody_to_ask() -> UsageError:
    """The error of a command with a question and no person to ask."""
    return UsageError("nothing was done, as stdin is not a terminal to ask at: add --yes to go on without a question")


def ask(question: str) -> str:
    """Ask on stderr, and read a line of stdin: nothing after Ctrl-D; UsageError where there is nobody to ask."""
    say(question)
    try:
        return input().strip()
    except EOFError:
        if sys.stdin.isatty():
            return ""
        raise nobody_to_ask() from None


def is_agreed(question: str) -> bool:
    """Ask, and read whether it is a yes."""
    return ask(f"{question} [y/N]").lower() in ("y", "yes")


def progress(*columns: ProgressColumn) -> Progress:
    """A progress display on stderr (a context manager); it stays silent where stderr is not a terminal.

    Columns default to: description, bar, done of total, time elapsed.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = _talk()
    shown = columns or (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*shown, console=console, disable=not console.is_terminal)


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """A spinner on stderr while something runs; silent where stderr is not a terminal."""
    with _talk().status(text) if sys.stderr.isatty() else contextlib.nullcontext():
        yield


def _talk() -> Console:
    from rich.console import Console

    # Made anew each time, to write to the current stderr, even if a test or a caller has replaced it.
    return Console(stderr=True)


def _stopped(line: str, code: int) -> int:
    if os.environ.get("DEBUG") == "1":
        traceback.print_exc()
    print(printable(" ".join(line.split())), file=sys.stderr)
    return code


def _raise_terminated(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated
