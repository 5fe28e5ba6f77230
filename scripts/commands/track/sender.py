"""Post events to an HTTP endpoint: packed, paced, retried, over a few keep-alive connections, in bounded memory.

A retry may post an event a second time, because a timeout hides the answer, and Firehose itself delivers at least
once. So give each event its event_id before its first try.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from urllib.parse import urlsplit

from scripts.commands.common.api import ANSWER_SECONDS, open_later, seconds_of_retry_after
from scripts.commands.common.console import CommandError
from shared.documents import parse_json

USER_AGENT = "sluice-track/1"
# Below the stage's default throttle of 100, which other senders share. As every 10 KB of a request count as one, it is
# also 800 KB a second: below a delivery stream's 1 MiB in most regions.
REQUESTS_PER_SECOND = 80.0
BYTES_PER_TURN = 10_000
LARGEST_EVENT = 1_024_000  # bytes in one Firehose record; the API would answer 413
LINGER_SECONDS = 0.5  # the first event of a pack waits so long for others

SEND_SECONDS = 120.0  # a pack over a slow line
RECOVERY_SECONDS = 30.0  # from a standstill back to the full rate
FAREWELL_SECONDS = 3.0  # for requests on their way after Ctrl-C

_RETRIED = {408, 429} | set(range(500, 600))
_BUSY = {429, 503}  # the stage's throttle, and Firehose's

Authorize = Callable[[str, bytes, Mapping[str, str]], Mapping[str, str]]
"""The headers to send, with the authorization, made from the URL, the body and the other headers."""


@dataclass(frozen=True)
class Packing:
    """How events share requests. One larger than `most_bytes` travels alone."""

    media_type: str
    most_events: int
    most_bytes: int
    connections: int

    @property
    def window(self) -> int:
        """Packs between the oldest unanswered one and the newest read one."""
        return 4 * self.connections


SINGLE = Packing("application/json", most_events=1, most_bytes=LARGEST_EVENT, connections=16)
# A pack becomes one Firehose record, and its rows are larger than its events: half of a record leaves the transform
# room for them in one reply of 6 MB.
PACKED = Packing("application/x-ndjson", most_events=5_000, most_bytes=500_000, connections=4)


@dataclass(frozen=True, slots=True)
class Line:
    """One event to post. `problem` says why it never will be: then `body` is the text as it was read."""

    number: int
    body: bytes
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a line. `status` is the API's HTTP status, or 0 for a line refused before sending."""

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
            message = parse_json(self.text)["message"]
        except (ValueError, TypeError, KeyError):
            message = self.text.strip()[:200]
        return f"{self.status} {message}".rstrip()


@dataclass(frozen=True)
class Patience:
    """How long one request is tried: exponential backoff with full jitter, and never sooner than Retry-After asks."""

    tries: int = 8
    first_seconds: float = 0.25
    longest_seconds: float = 20.0
    longest_retry_after: float = 120.0

    def pause(self, tries: int, retry_after: float) -> float:
        """Seconds to wait after so many tries."""
        backoff = random.uniform(0, min(self.longest_seconds, self.first_seconds * 2.0 ** (tries - 1)))
        return max(backoff, min(retry_after, self.longest_retry_after))


class Unreachable(CommandError):
    """The API gave no answer at all to a request in all its tries; later requests would fare no better."""


class Pacer:
    """Spaces turns evenly over all connections: slower by a third when throttled, then steadily back up.

    `rate` is in turns a second. A request takes one for each BYTES_PER_TURN of its body, and one at the least.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._full_rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0.0
        self._slowed = float("-inf")

    def pause(self, size: int = 0) -> float:
        """Take the next place in the queue for a body of `size` bytes; the seconds until it may go."""
        with self._lock:
            now = self._clock()
            start = max(self._next, now)
            self._next = start + _turns(size) / self.rate
            return start - now

    def throttled(self) -> None:
        """The API or Firehose is busy. Requests on their way will show it too, so once a second is enough."""
        with self._lock:
            now = self._clock()
            if now - self._slowed >= 1:
                self._slowed = now
                self.rate = max(min(1.0, self._full_rate), self.rate * 2 / 3)

    def accepted(self, size: int = 0) -> None:
        with self._lock:
            gained = self._full_rate * _turns(size) / (RECOVERY_SECONDS * self.rate)
            self.rate = min(self._full_rate, self.rate + gained)


def _turns(size: int) -> float:
    return max(1.0, size / BYTES_PER_TURN)


class Sender:
    """Posts packs of lines over a few keep-alive connections, one per thread."""

    def __init__(self, entrance: Entrance, pacer: Pacer, patience: Patience, stop: threading.Event) -> None:
        self._entrance = entrance
        self._parts = urlsplit(entrance.url)
        self._headers = {"Content-Type": entrance.packing.media_type, "User-Agent": entrance.user_agent}
        self._pacer = pacer
        self._patience = patience
        self._stop = stop
        self._own = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def deliver(self, pack: list[Line]) -> list[Answer] | None:
        """Post a pack until it is answered for good, one answer for all; None if `stop` was set earlier.

        Raises:
            Unreachable: no try got an answer.
        """
        events = [line.body for line in pack if line.problem is None]
        settled = self._settle(b"\n".join(events)) if events else (0, "")
        if settled is None:
            return None
        return [Answer(line, *settled) if line.problem is None else Answer(line, 0, line.problem) for line in pack]

    def _settle(self, body: bytes) -> tuple[int, str] | None:
        """Status and text of the last answer to a body; None if `stop` was set before there was one."""
        for tries in range(1, self._patience.tries + 1):
            if self._stop.wait(self._pacer.pause(len(body))):
                return None
            answer: tuple[int, str] | None = None
            retry_after = 0.0
            fault: Exception | None = None
            try:
                status, header, text = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                fault = error
                self._own.connection.close()
            else:
                answer = (status, text)
                if status not in _RETRIED:
                    self._pacer.accepted(len(body))
                    return answer
                if status in _BUSY:
                    self._pacer.throttled()
                retry_after = seconds_of_retry_after(header, time.time())
            if tries < self._patience.tries and self._stop.wait(self._patience.pause(tries, retry_after)):
                return None
        if answer is not None or self._stop.is_set():
            return answer
        home = f"{self._parts.scheme}://{self._parts.netloc}"
        raise Unreachable(f"cannot reach {home}: {str(fault) or type(fault).__name__}")

    def abort(self) -> None:
        """Break off the requests on their way."""
        for connection in self._connections:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _post(self, body: bytes) -> tuple[int, str | None, str]:
        """One request: the status, the Retry-After header and the body of its answer."""
        if not hasattr(self._own, "connection"):
            self._own.connection = open_later(self._parts)
            self._connections.append(self._own.connection)
        connection: http.client.HTTPConnection = self._own.connection
        if not connection.sock:
            connection.connect()
        target = self._parts.path + (f"?{self._parts.query}" if self._parts.query else "")
        # Anew for each try: a signature says when it was made.
        headers = self._entrance.authorize(self._entrance.url, body, self._headers)
        connection.sock.settimeout(SEND_SECONDS)
        connection.request("POST", target, body, headers)
        connection.sock.settimeout(ANSWER_SECONDS)
        response = connection.getresponse()
        return response.status, response.getheader("Retry-After"), response.read().decode("utf-8", "replace")


def anybody(_url: str, _body: bytes, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Authorize nothing: the headers as they are."""
    return headers


@dataclass(frozen=True)
class Entrance:
    """Where events go in, how they are packed and authorized, and the user agent of their sender."""

    url: str
    packing: Packing = SINGLE
    authorize: Authorize = anybody
    user_agent: str = USER_AGENT


def send(
    entrance: Entrance,
    lines: Iterable[Line | None],
    *,
    rate: float = REQUESTS_PER_SECOND,
    patience: Patience | None = None,
    stop: threading.Event | None = None,
) -> Generator[Answer]:
    """Post lines and yield their answers in the order of the lines, however the requests overtake each other.

    So everything up to the last answer is settled, and nothing after it needs to be known to go on later. Memory is
    bounded by a window of packs; `lines` is read no faster than they are sent, and yields None if the next line has
    yet to come. A pack is taken or refused as a whole; one too large for the API (413) is posted again in two halves.
    Setting `stop` ends it: requests on their way get FAREWELL_SECONDS, then the answers before the first gap are
    still yielded.

    Args:
        rate: requests per second at most, where every BYTES_PER_TURN of a request count as one.

    Raises:
        Unreachable: the API cannot be reached; the answers before that line have been yielded.
    """
    stop = stop or threading.Event()
    halt = threading.Event()  # ends the threads; `stop` is the caller's, and only read
    packing = entrance.packing
    sender = Sender(entrance, Pacer(rate), patience or Patience(), halt)
    source = packs(lines, packing)
    pending: deque[Future[list[Answer] | None]] = deque()
    with ThreadPoolExecutor(packing.connections) as executor:
        try:
            exhausted = False
            while not stop.is_set() and (pending or not exhausted):
                while not exhausted and len(pending) < packing.window and not stop.is_set():
                    if pending and pending[0].done():
                        break  # answers go first
                    pack = next(source, None)
                    exhausted = pack is None
                    if not pack:
                        break
                    pending.append(executor.submit(sender.deliver, pack))
                if pending and wait([pending[0]], timeout=0.1).done and (answers := pending.popleft().result()):
                    halves = _halves(answers)
                    pending.extendleft(reversed([executor.submit(sender.deliver, half) for half in halves]))
                    if not halves:
                        yield from answers
            halt.set()
            wait(pending, timeout=FAREWELL_SECONDS)
            sender.abort()
            while pending and (answers := pending.popleft().result()) and not _halves(answers):
                yield from answers
        finally:
            halt.set()
            sender.abort()
            executor.shutdown(cancel_futures=True)
            sender.close()


def packs(lines: Iterable[Line | None], packing: Packing) -> Iterator[list[Line]]:
    """Group lines, in their order, into packs of one request each.

    A pack ends if the next line would not fit, or if there is no next line yet and its first one came LINGER_SECONDS
    ago: lines already there are packed in full, however slow this machine is. None among the lines, a wait for the
    next one, is handed on as an empty pack.
    """
    pack: list[Line] = []
    size, deadline = 0, 0.0
    for line in lines:
        is_over = time.monotonic() >= deadline if line is None else size + len(line.body) > packing.most_bytes
        if pack and is_over:
            yield pack
            pack, size = [], 0
        if line is None:
            yield []
            continue
        if not pack:
            deadline = time.monotonic() + LINGER_SECONDS
        pack.append(line)
        size += len(line.body) + 1
        if len(pack) == packing.most_events:
            yield pack
            pack, size = [], 0
    if pack:
        yield pack


def _halves(answers: list[Answer]) -> list[list[Line]]:
    """The two halves of a pack too large for the API, to post in its place. Nothing for any other answer."""
    if len(answers) == 1 or all(answer.status != 413 for answer in answers):
        return []
    lines = [answer.line for answer in answers]
    return [lines[: len(lines) // 2], lines[len(lines) // 2 :]]
