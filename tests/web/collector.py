"""A web site with web/sluice.js, and an API of another origin to record its events."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import itemgetter
from typing import Any, TypeVar

from tests.conftest import ROOT

SCRIPT = (ROOT / "web/sluice.js").read_bytes()
PAGE = """<!doctype html><title>A page</title><style>body {{ height: 4000px; margin: 0 }}</style>
<script defer src="/sluice.js" data-url="{api}" data-source="shop" {attributes}></script>{html}"""
SECONDS = 60

Json = dict[str, Any]
T = TypeVar("T")


class Collector(ThreadingHTTPServer):
    """`localhost` is the site, a secure origin; `shop.test` is the same site without https; 127.0.0.1 is the API.

    `bodies` are the requests to the API as they came, `answers` the statuses of the next ones (202 if empty). No answer
    is given while `answering` is not set.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.bodies: list[bytes] = []
        self.answers: list[int] = []
        self.answering = threading.Event()
        self.answering.set()

    def url(self, path: str = "/", host: str = "localhost") -> str:
        return f"http://{host}:{self.server_port}{path}"

    @property
    def api(self) -> str:
        return self.url("/prod", "127.0.0.1")

    def show(self, path: str, attributes: str = "", html: str = "") -> str:
        """Put a page with the script under a path; returns its URL."""
        self.pages[path] = PAGE.format(api=self.api, attributes=attributes, html=html)
        return self.url(path)

    @property
    def events(self) -> list[Json]:
        """Taken and refused events, in the order of their timestamps: a request may overtake another."""
        return sorted((event for body in self.bodies for event in json.loads(body)), key=itemgetter("timestamp"))

    def named(self, action: str) -> list[Json]:
        return [event for event in self.events if event["action"] == action]

    def deliveries(self) -> Counter[str]:
        """How often each event arrived."""
        return Counter(event["event_id"] for event in self.events)

    def wait(self, count: int, action: str = "view") -> list[Json]:
        """The events with this action, once there are so many."""
        return until(lambda: found if len(found := self.named(action)) >= count else [])


def until(look: Callable[[], T]) -> T:
    """The result of `look` as soon as it is true; AssertionError after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing was found in time"
        time.sleep(0.02)
    return found


class Handler(BaseHTTPRequestHandler):
    server: Collector
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        # A page may close the connection at any time when it is left.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/sluice.js":
            self.answer(200, SCRIPT, "text/javascript")
        else:
            html = self.server.pages.get(path, "<!doctype html><title>Another page</title>")
            self.answer(200, html.encode(), "text/html; charset=utf-8", **self.server.headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"].startswith("text/plain") and self.path == "/prod/batch"
        self.server.bodies.append(body)
        self.server.answering.wait(SECONDS)
        status = self.server.answers.pop(0) if self.server.answers else 202
        self.answer(status, b"{}", "application/json", **{"Access-Control-Allow-Origin": "*"})

    def answer(self, status: int, body: bytes, media_type: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": media_type, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the output to the tests."""


def running() -> Iterator[Collector]:
    """A collector while it runs."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
