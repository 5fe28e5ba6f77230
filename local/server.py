"""The local AWS as one ASGI application: MiniStack with the three engines plugged in, bound to 127.0.0.1.

    python -m local.server --directory .sluice/local --port 4566

While it can be reached, `server.json` in its directory holds its endpoint and process id. The process holds a lock on
the directory, so that two of them never share one state.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import socket
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

import uvicorn

from local.apigateway import ApiGateway
from local.athena import Athena
from local.emulator import Emulator
from local.firehose import Firehose

SAVE_INTERVAL_SECONDS = 1.0

Message = MutableMapping[str, Any]


class LocalAws:
    """Routes each request: API Gateway's data plane to our engine, all else to MiniStack and what is plugged into it."""

    def __init__(self, directory: Path, port: int) -> None:
        self.emulator = Emulator(directory, port)
        self.firehose = Firehose(self.emulator, directory / "firehose")
        self.athena = Athena(self.emulator, directory / "athena")
        self.apigateway = ApiGateway(
            self.emulator, directory / "apigateway", integrations={"firehose": self.firehose.request}
        )
        for engine in (self.firehose, self.athena, self.apigateway):
            engine.register()
        self.changed = False
        self.saving: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith("/_aws/execute-api/"):
            await self.apigateway.serve(scope, receive, send)
        else:
            self.changed = self.changed or scope.get("method") != "GET"
            await self.emulator.app(scope, receive, send)

    async def _live(self, scope: Message, receive: Any, send: Any) -> None:
        """Deliver only between MiniStack's start, which restores roles and functions, and its stop."""

        async def receive_stopping_first() -> Message:
            message: Message = await receive()
            if message["type"] == "lifespan.shutdown" and self.saving:
                self.saving.cancel()
                await self.firehose.stop()
            return message

        async def send_starting_first(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self.firehose.start()
                self.saving = asyncio.create_task(self._save_changes())
            await send(message)

        await self.emulator.app(scope, receive_stopping_first, send_starting_first)

    async def _save_changes(self) -> None:
        """Keep MiniStack's state on disk no older than a second or two, so that a killed process loses no stack."""
        unsaved = False
        while True:
            await asyncio.sleep(SAVE_INTERVAL_SECONDS)
            # A stack operation goes on after the call that began it: one more look follows the last call.
            if self.changed or unsaved:
                unsaved, self.changed = self.changed, False
                self.emulator.save()


async def serve(directory: Path, listener: socket.socket) -> None:
    """Serve on the listening socket until a signal stops the process."""
    port = listener.getsockname()[1]
    local_aws = LocalAws(directory, port)
    announcement = directory / "server.json"
    announcement.write_text(json.dumps({"endpoint": f"http://127.0.0.1:{port}", "pid": os.getpid()}))
    try:
        config = uvicorn.Config(local_aws, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
        await uvicorn.Server(config).serve(sockets=[listener])
    finally:
        announcement.unlink(missing_ok=True)


def lock(directory: Path) -> TextIO:
    """Take the directory for this process, or exit when another process has it."""
    directory.mkdir(parents=True, exist_ok=True)
    file = (directory / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("error: the local AWS runs already: stop it with scripts/local.sh stop")
    return file


def listen(port: int) -> socket.socket:
    """Listen on 127.0.0.1 (port 0: any free port), or exit when the port is taken."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        sys.exit(f"error: port {port} cannot be used ({error.strerror}): choose another with --port")


def main() -> None:
    """Entry point of `python -m local.server`."""
    parser = argparse.ArgumentParser(description="Serve the local AWS on 127.0.0.1.")
    parser.add_argument("--directory", type=Path, required=True, help="where all of its state stands")
    parser.add_argument("--port", type=int, default=4566, help="0 takes any free port")
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    with lock(directory), listen(arguments.port) as listener:
        asyncio.run(serve(directory, listener))


if __name__ == "__main__":
    main()
