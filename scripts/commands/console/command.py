"""Pages about a stack, for a browser on this machine; or its saved queries' answers as one file."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import uvicorn

from scripts.commands.common.console import CommandError, Parser, main, say
from scripts.commands.common.stack import Stack, add_stack_arguments, session
from scripts.commands.console.app import Console
from scripts.commands.console.export import export

DEFAULT_PORT = 8321


def console(arguments: list[str]) -> int:
    """scripts/console.sh"""
    options = _parse(arguments)
    aws = session(options)
    stack = Stack(aws, options.stack_name)
    _ = stack.outputs
    if options.export is not None:
        return _export(stack, options.export)
    with _listen(options.port) as listener:
        port = listener.getsockname()[1]
        pages = Console(lambda: session(options), options.stack_name)
        config = uvicorn.Config(
            pages.app(port), ws="none", lifespan="off", log_level="warning", server_header=False, proxy_headers=False
        )
        say(f"The console of stack '{options.stack_name}' in {aws.place} is on http://127.0.0.1:{port}/")
        say("Ctrl-C ends it.")
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _export(stack: Stack, path: Path) -> int:
    text, unanswered = export(stack)
    try:
        path.write_text(text)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    say(f"{path} has the answers.")
    return 1 if unanswered else 0


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise CommandError(
            f"port {port} of 127.0.0.1 cannot be used: {error.strerror}:"
            f" if another console has it, add --port {port + 1}"
        ) from error


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("console")
    add_stack_arguments(parser)
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT)
    parser.add_argument("--export", type=Path)
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isdecimal() or not int(text) <= 65_534:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port from 0 to 65534")
    return int(text)


if __name__ == "__main__":
    main(console)
