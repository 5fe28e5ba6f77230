"""Starts and stops the local AWS: one process, whose whole state is in .sluice/local."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError

from scripts.commands.common.console import CommandError, Parser, main, say
from scripts.commands.common.paths import REPOSITORY
from scripts.commands.common.stack import LOCAL_STATE, local_endpoint

DEFAULT_PORT = os.environ.get("SLUICE_LOCAL_PORT", "4566")
START_SECONDS = 120  # Python compiles its packages at the first start
STOP_SECONDS = 15


def local(arguments: list[str]) -> int:
    """Entry point of scripts/local.sh; returns the exit code (status: 0 when it runs, 3 when it does not)."""
    parser = Parser("local")
    parser.add_argument("action", choices=["start", "stop", "status", "reset"])
    parser.add_argument("--port", type=port_number, default=DEFAULT_PORT)
    options = parser.parse_args(arguments)
    if options.action == "start":
        start(options.port)
        say(f"The local AWS runs on {local_endpoint()}")
    elif options.action == "status":
        running = is_running()
        print(local_endpoint() if running else "not running")
        return 0 if running else 3
    else:
        say("Stopped the local AWS." if stop() else "The local AWS was not running.")
        if options.action == "reset" and LOCAL_STATE.exists():
            _refuse_what_is_not_ours()
            shutil.rmtree(LOCAL_STATE)
            say("Removed its state: stacks, objects, everything.")
    return 0


def port_number(text: str) -> int:
    """A TCP port as a person writes it."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ArgumentTypeError(f"must be 1 to 65535 (got '{text}')")
    return int(text)


def start(port: int) -> None:
    """Start the local AWS in the background, unless it runs already, and wait until it answers."""
    if is_running():
        _wait_for(None)  # somebody else may be starting it
        return
    _refuse_what_is_not_ours()
    try:
        LOCAL_STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = (LOCAL_STATE / "server.log").open("a")
    except OSError as error:
        raise CommandError(f"{LOCAL_STATE} cannot hold the local AWS's state: {error.strerror}") from error
    command = [sys.executable, "-m", "local.server", "--directory", str(LOCAL_STATE.resolve()), "--port", str(port)]
    with output:
        output.truncate(0)
        # A session of its own: Ctrl-C in this terminal is not for it.
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_for(process)
    except BaseException:
        process.kill()
        process.wait()
        raise


def _wait_for(process: subprocess.Popen[bytes] | None) -> None:
    """Wait until it answers. Without a process of ours, somebody else's has the lock."""
    log = LOCAL_STATE / "server.log"
    deadline = time.monotonic() + START_SECONDS
    while not _answers():
        # When somebody else starts it at the same time, one of the two processes ends.
        if (process is None or process.poll() is not None) and not is_running():
            lines = log.read_text().strip().splitlines() if log.exists() else []
            ended = f"exit code {process.returncode}" if process else "it was stopped"
            reason = (lines or [ended])[-1].removeprefix("error: ")
            raise CommandError(f"the local AWS did not start: {reason} (all of it: {log})")
        if time.monotonic() > deadline:
            raise CommandError(f"the local AWS did not answer within {START_SECONDS} s: see {log}")
        time.sleep(0.05)


def _refuse_what_is_not_ours() -> None:
    """Refuse a folder with other files: `reset` removes it as a whole."""
    found = {path.name for path in LOCAL_STATE.iterdir()} if LOCAL_STATE.is_dir() else set()
    if found - {"server.log"} and "lock" not in found:
        raise CommandError(
            f"{LOCAL_STATE} holds other files: let SLUICE_LOCAL_STATE name an empty folder, or one that does not exist"
        )


def stop() -> bool:
    """Stop the local AWS; acknowledged data stays on disk. False when it was not running."""
    if not is_running():
        return False
    pid = int((LOCAL_STATE / "lock").read_text())
    number = signal.SIGTERM
    deadline = time.monotonic()
    while is_running():
        if time.monotonic() >= deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            number, deadline = signal.SIGKILL, time.monotonic() + STOP_SECONDS
        time.sleep(0.05)
    return True


def is_running() -> bool:
    """Whether a process holds the state's lock: unlike a process id in a file, a lock goes with its process."""
    lock = LOCAL_STATE / "lock"
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _answers() -> bool:
    if not is_running():
        return False
    try:
        local_endpoint()
    except CommandError:
        return False
    return True


if __name__ == "__main__":
    main(local)
