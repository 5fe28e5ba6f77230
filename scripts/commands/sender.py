"""Post events to an HTTP endpoint: paced, retried, over a few keep-alive connections, in bounded memory.

A retry may post an event that had already arrived: a timeout hides the answer, and Firehose itself delivers at least
once. So give each event its event_id before its first try.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import random
import socket
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from scripts.commands.console import CommandError

USER_AGENT = "sluice-track/1"
EVENTS_PER_SECOND = 80.0  # below the stage's default throttle of 100, which other senders share
CONNECTIONS = 16
WINDOW = 4 * CONNECTIONS  # events between the oldest unanswered one and the newest read one
LARGEST_EVENT = 1_024_000  # bytes in one Firehose record; the API would answer 413

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 35.0  # API Gateway gives an integration 29 s
RECOVERY_SECONDS = 30.0  # from a standstill back to the full rate
FAREWELL_SECONDS = 3.0  # what requests on their way get after Ctrl-C

_RETRIED = {408, 429} | set(range(500, 600))


@dataclass(frozen=True, slots=True)
class Line:
    """One event to post. `problem` says why it never will be: then `body` is the text as it was read."""

    number: int
    body: bytes
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a line. `status` is the API's HTTP status, or 0 for a line that was refused before sending."""

    line: Line
    status: int
    text: str

    @property
    def is_accepted(self) -> bool:
        return 200 <= self.status < 300

    @property
    def reason(self) -> str:
        """Why it was refused, for a person."""
        if self.status == 0:
            return self.text
        try:
            message = json.loads(self.text)["message"]
        except (ValueError, TypeError, KeyError):
            message = self.text.strip()[:200]
        return f"{self.status} {message}".rstrip()


@dataclass(frozen=True)
class Patience:
    """How long one event is tried: exponential backoff with full jitter, and never sooner than Retry-After asks."""

    tries: int = 8
    first_seconds: float = 0.25
    longest_seconds: float = 20.0
    longest_retry_after: float = 120.0

    def pause(self, tries: int, retry_after: float) -> float:
        """Seconds to wait after so many tries."""
        backoff = random.uniform(0, min(self.longest_seconds, self.first_seconds * 2.0 ** (tries - 1)))
        return max(backoff, min(retry_after, self.longest_retry_after))


class Unreachable(CommandError):
    """The API gave no answer at all to an event, however often it was tried; what follows would fare no better."""


class Pacer:
    """Spaces requests evenly over all connections: slower by a third after a 429, then steadily back up."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._full_rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0.0
        self._slowed = float("-inf")

    def pause(self) -> float:
        """Take the next place in the queue; the seconds until its turn."""
        with self._lock:
            now = self._clock()
            turn = max(self._next, now)
            self._next = turn + 1 / self.rate
            return turn - now

    def throttled(self) -> None:
        """The API said 429. The requests that were on their way then say it too: once a second is enough."""
        with self._lock:
            now = self._clock()
            if now - self._slowed >= 1:
                self._slowed = now
                self.rate = max(min(1.0, self._full_rate), self.rate * 2 / 3)

    def accepted(self) -> None:
        with self._lock:
            self.rate = min(self._full_rate, self.rate + self._full_rate / (RECOVERY_SECONDS * self.rate))


class Sender:
    """Posts lines over a few keep-alive connections, one per thread."""

    def __init__(self, url: str, pacer: Pacer, patience: Patience, user_agent: str, stop: threading.Event) -> None:
        self._url = urlsplit(url)
        self._pacer = pacer
        self._patience = patience
        self._headers = {"Content-Type": "application/json", "User-Agent": user_agent}
        self._stop = stop
        self._own = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def deliver(self, line: Line) -> Answer | None:
        """Post a line until it is answered for good; None if `stop` was set before that.

        Raises:
            Unreachable: no try got an answer.
        """
        if line.problem is not None:
            return Answer(line, 0, line.problem)
        for tries in range(1, self._patience.tries + 1):
            if self._stop.wait(self._pacer.pause()):
                return None
            answer: Answer | None = None
            retry_after = 0.0
            fault: Exception | None = None
            try:
                status, header, text = self._post(line.body)
            except (OSError, http.client.HTTPException) as error:
                fault = error
                self._own.connection.close()
            else:
                answer = Answer(line, status, text)
                if status not in _RETRIED:
                    self._pacer.accepted()
                    return answer
                if status == 429:
                    self._pacer.throttled()
                retry_after = seconds_of_retry_after(header, time.time())
            if tries < self._patience.tries and self._stop.wait(self._patience.pause(tries, retry_after)):
                return None
        if answer is not None or self._stop.is_set():
            return answer
        raise Unreachable(f"cannot reach {self._url.scheme}://{self._url.netloc}: {str(fault) or type(fault).__name__}")

    def abort(self) -> None:
        """Break off the requests that are on their way."""
        for connection in self._connections:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _post(self, body: bytes) -> tuple[int, str | None, str]:
        """One request: the status, the Retry-After header and the body of its answer."""
        if not hasattr(self._own, "connection"):
            self._own.connection = open_later(self._url)
            self._connections.append(self._own.connection)
        connection: http.client.HTTPConnection = self._own.connection
        if not connection.sock:
            connection.connect()
            connection.sock.settimeout(ANSWER_SECONDS)
        target = self._url.path + (f"?{self._url.query}" if self._url.query else "")
        connection.request("POST", target, body, self._headers)
        response = connection.getresponse()
        return response.status, response.getheader("Retry-After"), response.read().decode("utf-8", "replace")


def send(
    url: str,
    lines: Iterable[Line],
    *,
    rate: float = EVENTS_PER_SECOND,
    connections: int = CONNECTIONS,
    patience: Patience | None = None,
    user_agent: str = USER_AGENT,
    stop: threading.Event | None = None,
) -> Iterator[Answer]:
    """Post lines to `url` and yield their answers in the order of the lines, however the requests overtake each other.

    So everything up to the last answer is settled, and nothing after it needs to be known to go on later. Memory is
    bounded by WINDOW lines; `lines` is read no faster than they are sent. Setting `stop` ends it: requests on their way
    get FAREWELL_SECONDS, then the answers that follow without a gap are still yielded.

    Raises:
        Unreachable: the API cannot be reached; the answers before that line have been yielded.
    """
    stop = stop or threading.Event()
    halt = threading.Event()  # what ends the threads; `stop` is the caller's, and only read
    sender = Sender(url, Pacer(rate), patience or Patience(), user_agent, halt)
    source = iter(lines)
    pending: deque[Future[Answer | None]] = deque()
    with ThreadPoolExecutor(connections) as executor:
        try:
            exhausted = False
            while not stop.is_set() and (pending or not exhausted):
                while not exhausted and len(pending) < WINDOW and not stop.is_set():
                    if pending and pending[0].done():
                        break  # `lines` may block for long: what is answered is told first
                    line = next(source, None)
                    exhausted = line is None
                    if line is not None:
                        pending.append(executor.submit(sender.deliver, line))
                if pending and wait([pending[0]], timeout=0.1).done and (answer := pending.popleft().result()):
                    yield answer
            halt.set()
            wait(pending, timeout=FAREWELL_SECONDS)
            sender.abort()
            while pending and (answer := pending.popleft().result()) is not None:
                yield answer
        finally:
            halt.set()
            sender.abort()
            executor.shutdown(cancel_futures=True)
            sender.close()


def open_later(url: SplitResult) -> http.client.HTTPConnection:
    """A connection to the URL's host that opens with its first use; HTTPS honours the environment's proxy."""
    host = url.hostname or ""
    if url.scheme != "https":
        return http.client.HTTPConnection(host, url.port, timeout=CONNECT_SECONDS)
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(host):
        return http.client.HTTPSConnection(host, url.port, timeout=CONNECT_SECONDS)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = http.client.HTTPSConnection(through.hostname or "", through.port, timeout=CONNECT_SECONDS)
    connection.set_tunnel(host, url.port or 443)
    return connection


def seconds_of_retry_after(header: str | None, now: float) -> float:
    """Retry-After in either of its forms, seconds or an HTTP date, as seconds from `now`; 0 if it says nothing."""
    if not header:
        return 0.0
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, TypeError):
        return 0.0
