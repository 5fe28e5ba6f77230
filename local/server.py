"""The local AWS as one ASGI application: MiniStack with the three engines plugged in, bound to 127.0.0.1.

    python -m local.server --directory .sluice/local --port 4566

While it can be reached, `server.json` in its directory holds its endpoint. The process writes its id to the file `lock`
and locks it, so no two of them share one state.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import uvicorn

from local.apigateway.service import ApiGateway
from local.asgi import Application, Message, Receive, Scope, Send
from local.athena.glue import Glue
from local.athena.service import Athena
from local.cloudwatch.alarms import Alarms
from local.door import API, refusal, refuse
from local.firehose.service import Firehose
from local.ministack import Emulator
from local.ministack.saving import Saving
from local.stepfunctions import StepFunctions

LOCK_SECONDS = 0.5
M_ARENA_MAX = -8  # As malloc.h has it: mallopt(3).


class LocalAws:
    """Routes each request: API Gateway's data plane to our engine, all else to MiniStack and our additions to it."""

    def __init__(self, directory: Path, port: int) -> None:
        self.emulator = Emulator(directory, port)
        self.firehose = Firehose(self.emulator, directory / "firehose")
        self.athena = Athena(self.emulator, directory / "athena")
        self.apigateway = ApiGateway(
            self.emulator, directory / "apigateway", integrations={"firehose": self.firehose.request}
        )
        glue, states = Glue(self.emulator), StepFunctions(self.emulator, self.athena)
        self.alarms = Alarms(self.emulator)
        for engine in (self.firehose, self.athena, self.apigateway, glue, states, self.alarms):
            engine.register()
        self.saving = Saving(self.emulator)
        self.loops: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif reason := refusal(scope):
            await refuse(reason, send)
        elif scope["path"].startswith(API):
            await self.apigateway.serve(scope, receive, send)
        else:
            # Nothing leaves this machine, so a policy's demand for TLS from functions is met.
            await self.saving({**scope, "scheme": "https"}, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Deliver only between MiniStack's start, with its roles and functions restored, and its stop."""

        async def receive_stopping_first() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown" and self.loops:
                for loop in self.loops:
                    loop.cancel()
                await self.firehose.stop()
            return message

        async def send_starting_first(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self.firehose.start()
                self.loops = [asyncio.create_task(loop) for loop in (self.saving.save_changes(), self.alarms.run())]
            await send(message)

        await self.emulator.app(scope, receive_stopping_first, send_starting_first)


def configuration(application: Application) -> uvicorn.Config:
    """How the application is served. It speaks HTTP and nothing else; a sender's address is its connection's,
    whatever its headers say, as on AWS; and an application is not served if it fails to start."""
    return uvicorn.Config(
        application,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )


async def serve(directory: Path, listener: socket.socket) -> None:
    """Serve on the listening socket until a signal stops the process."""
    share_arenas()
    port = listener.getsockname()[1]
    local_aws = LocalAws(directory, port)
    announcement = directory / "server.json"
    announcement.write_text(json.dumps({"endpoint": f"http://127.0.0.1:{port}"}))
    try:
        await uvicorn.Server(configuration(local_aws)).serve(sockets=[listener])
    finally:
        announcement.unlink(missing_ok=True)


def share_arenas() -> None:
    """Let all threads share two arenas of memory, where the C library is glibc.

    Each would have one of its own, and keep the memory once used in it: 100 MB more, for nothing, as threads wait for
    Python's lock rather than for memory.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def lock(directory: Path) -> int:
    """Take the directory for as long as this process lives, or exit when another has it; the descriptor of the lock.

    Only its owner gets in from then on, whoever could before: it holds secrets and everybody's events.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        reason = f"{directory} cannot be made private ({os.strerror(error.errno or 0)})"
        sys.exit(f"error: {reason}: let SLUICE_LOCAL_STATE name a folder of your own")
    file = os.open(directory / "lock", os.O_WRONLY | os.O_CREAT)
    # Whoever looks whether it is locked holds it for a moment.
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit("error: the local AWS runs already: stop it with scripts/local.sh stop")
            time.sleep(0.02)
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    return file


def tidy(directory: Path) -> None:
    """Remove the traces of a killed process: its endpoint, perhaps another's by now, and its functions' code."""
    (directory / "server.json").unlink(missing_ok=True)
    temporary = directory / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tempfile.tempdir = str(temporary)


def listen(port: int) -> socket.socket:
    """Listen on 127.0.0.1 (port 0: any free port), or exit when the port is taken."""
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        # Connections inherit it. asyncio sets it only for its own sockets, and an answer goes in two writes: every
        # second write on an open connection would wait 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        sys.exit(f"error: port {port} cannot be used ({os.strerror(error.errno or 0)}): choose another with --port")


def main() -> None:
    """Entry point of `python -m local.server`."""
    parser = argparse.ArgumentParser(description="Serve the local AWS on 127.0.0.1.")
    parser.add_argument("--directory", type=Path, required=True, help="where all of its state is")
    parser.add_argument("--port", type=int, default=4566, help="0 takes any free port")
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    # Files of it and its functions are their owner's alone, in temporary folders as well.
    os.umask(0o077)
    # As Ctrl-C does, SIGTERM ends the process by an exception, so it tidies up on its way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lock(directory)
    with contextlib.suppress(KeyboardInterrupt):
        # Before it listens: whoever waits for it would take a killed process's endpoint for this one's.
        tidy(directory)
        with listen(arguments.port) as listener:
            asyncio.run(serve(directory, listener))
    # All is on disk. Python itself would wait for every thread, and an execution of Step Functions may wait for hours.
    os._exit(0)


if __name__ == "__main__":
    main()
