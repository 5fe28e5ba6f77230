"""A stack's API for the tests of scripts/track.sh: it keeps the requests, and gives each test's answers."""

from __future__ import annotations

import email.message
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.common import console
from scripts.commands.common.stack import Aws
from scripts.commands.track import command as track
from scripts.commands.track import sender
from scripts.commands.track.event_files import event_line
from scripts.commands.track.sender import Line, Packing, Patience
from tests.fake_cloudformation import FakeAws, FakeCloudFormation, Stack

QUICK = Patience(tries=4, first_seconds=0.002, longest_seconds=0.01)
FIVES = Packing("application/x-ndjson", most_events=5, most_bytes=10_000, connections=4)


@dataclass
class Api:
    """A stack's API with a record of its requests. `answer` gets a request's number and body: status, headers, body."""

    home: str = ""
    answer: Callable[[int, bytes], tuple[int, dict[str, str], bytes]] = lambda number, body: (
        202,
        {},
        b'{"recordId":"r"}',
    )
    paths: list[str] = field(default_factory=list)
    headers: list[email.message.Message] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    stack: Stack = field(default_factory=lambda: Stack("sluice", parameters={"ApiAuth": "NONE"}))

    @property
    def url(self) -> str:
        return self.stack.outputs["TrackURL"]

    def move(self, home: str) -> None:
        self.home = home
        self.stack.outputs = {"TrackURL": f"{home}/prod/track", "BatchURL": f"{home}/prod/batch"}

    def sent(self, header: str) -> list[str | None]:
        """A header of each request."""
        return [headers[header] for headers in self.headers]


@pytest.fixture
def api() -> Iterator[Api]:
    state, lock = Api(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with lock:
                state.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                state.paths.append(self.path)
                state.headers.append(self.headers)
                state.bodies.append(body)
                number = len(state.bodies)
            status, headers, text = state.answer(number, body)
            if status == 202:
                with lock:
                    state.accepted += events_in(body)
            if status == 0:  # hang up without an answer
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            pass  # clients hang up in the tests

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.move(f"http://127.0.0.1:{server.server_port}")
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def aws(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's AWS account has the API's stack, and no other service."""
    monkeypatch.delenv("SLUICE_API_KEY", raising=False)
    monkeypatch.setattr(track, "session", lambda local: account(api))


def account(api: Api, **clients: Any) -> Aws:
    return FakeAws(cloudformation=FakeCloudFormation(api.stack), **clients)


@pytest.fixture
def run(aws: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command against the API: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sender, "Patience", lambda: QUICK)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = console.guarded(track.command, [*arguments, "--rate", "5000"])
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def one_by_one(api: Api) -> None:
    """The stack has no /batch: each event of a file is a request of its own."""
    del api.stack.outputs["BatchURL"]


@pytest.fixture
def in_fives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file goes in packs of five events."""
    monkeypatch.setattr(track, "PACKED", FIVES)


def events_in(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.split(b"\n")]


def file_of(directory: Path, *lines: str) -> str:
    path = directory / "events.ndjson"
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def numbers_in(body: bytes) -> list[int]:
    return [event["n"] for event in events_in(body)]


def lines_of(*events: dict[str, Any]) -> Iterator[Line]:
    return (event_line(number, json.dumps(event).encode(), f"id-{number}") for number, event in enumerate(events, 1))
