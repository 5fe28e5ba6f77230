"""A small HTTP server with a test's answers, and a queue and a clock without real waiting."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from stacks.pull.function.queue import Queue
from stacks.pull.function.store import TaskKey

Json = dict[str, Any]


class Asked(NamedTuple):
    """A request to the server; of a query only each name's first value."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Told(NamedTuple):
    """The server's answer: a status, a body (JSON unless it is bytes) and headers."""

    status: int
    body: Any
    headers: Mapping[str, str] = MappingProxyType({})


Api = Callable[[Asked], Told]


@contextlib.contextmanager
def serving(api: Api) -> Iterator[str]:
    """Serve on a free port of 127.0.0.1; yields the URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or a body waits 40 ms for its headers to be acknowledged

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            told = api(Asked(self.command, parts.path, query, headers, body))
            content = told.body if isinstance(told.body, bytes) else json.dumps(told.body).encode()
            self.send_response(told.status)
            for name, value in {"Content-Type": "application/json", **told.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Clock:
    """A time passing only during sleeps and waits."""

    def __init__(self, now: float = 1_767_225_600.0) -> None:  # 2026-01-01
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class MemoryQueue(Queue):
    """Both queues in memory. Delayed messages come after all others, and the clock has then moved on to them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(None, "queue", "dead letters")
        self.clock = clock
        self.waiting: deque[tuple[float, str, int]] = deque()
        self.taken: dict[str, tuple[str, int]] = {}
        self.dead: list[tuple[str, str]] = []
        self.order: list[int] = [0]
        """The choice among the ready messages: at the first time, the second, and so on, round and round."""
        self.count = 0

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def send(self, keys: Any) -> None:
        self.waiting.extend((0.0, key.text, 0) for key in keys)

    def bury(self, key: TaskKey, reason: str) -> None:
        self.dead.append((key.text, reason))

    def delay(self, receipt: str, seconds: float) -> None:
        body, received = self.taken.pop(receipt)
        self.waiting.append((self.clock.now + seconds, body, received))

    def is_empty(self) -> bool:
        return not self.waiting and not self.taken

    def receive(self) -> Json | None:
        """The next message, as Lambda hands it over; None when there is none."""
        if not self.waiting:
            return None
        first = min(self.waiting, key=lambda message: message[0])[0]
        ready = [message for message in self.waiting if message[0] <= max(first, self.clock.now)]
        soonest = ready[self.order[self.count % len(self.order)] % len(ready)]
        self.count += 1
        self.waiting.remove(soonest)
        at, body, received = soonest
        self.clock.now = max(self.clock.now, at)
        receipt = f"{body} {received}"
        self.taken[receipt] = (body, received + 1)
        return {
            "messageId": receipt,
            "receiptHandle": receipt,
            "body": body,
            "attributes": {"ApproximateReceiveCount": str(received + 1)},
        }

    def delete(self, message: Json) -> None:
        self.taken.pop(message["receiptHandle"], None)

    def give_back(self, message: Json) -> None:
        """Let a dead worker's message come back after 360 seconds."""
        self.delay(message["receiptHandle"], 360)
