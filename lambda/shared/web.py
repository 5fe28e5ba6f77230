"""One request to somebody's HTTP service, and how long to wait before the next.

Nothing here tries again: messages wait in a queue, and the queue tries again. Nothing here writes a query, a header or
a body into an error or a log, as each may hold a secret.
"""

from __future__ import annotations

import math
import random as randomness
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as LateError
from urllib3.util import create_urllib3_context

MOST_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
READ_BYTES: Final = 65_536


class Unreachable(Exception):
    """No whole answer came. Names the host and the reason, never the query, the headers or the body."""


class Answer(NamedTuple):
    """A whole answer, of any status. The names of the headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Call(threading.local):
    """A thread's call."""

    deadline = math.inf
    """When it must have ended, in monotonic seconds."""
    lateness = ""
    """The error if it has not."""

    def seconds_left(self) -> float:
        """For the next step of the call; raises TimeoutError when there are none."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


_call: Final = _Call()


def ask(  # noqa: PLR0913 - a request of HTTP and its two limits
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    timeout: float = 30.0,
    largest: int = 50_000_000,
) -> Answer:
    """Send one request and return its answer, whatever the status.

    `timeout` is the seconds until this function returns: looking up the name, connecting, TLS, every redirect and the
    last byte of the answer have to fit, however slowly the server sends. `largest` is in bytes, after decompression.
    A GET follows redirects within its own origin; every other redirect is itself the answer: no header of ours,
    such as a token, may reach another host.

    Raises Unreachable when no whole answer came: refused, no such name, TLS, timeout, cut off, or beyond `largest`.
    Raises ValueError if the URL or a header cannot be sent; it names the header and does not show its value.
    """
    deadline = time.monotonic() + timeout
    host = _host(url)
    for name, value in headers.items():
        # http.client would show the value in its error.
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"the header {name} holds a character that no header may hold")
    answer: Future[Answer] = Future()
    lateness = f"gave no whole answer within {timeout:.3g} s"

    def call() -> None:
        _call.deadline, _call.lateness = deadline, lateness
        try:
            answer.set_result(_follow(method, url, headers, body, largest))
        except BaseException as error:
            answer.set_exception(error)

    # Nothing interrupts the look-up of a name: a thread still at it is left behind, and then sends nothing.
    threading.Thread(target=call, daemon=True).start()
    try:
        return answer.result(timeout)
    except TimeoutError:
        raise Unreachable(f"{host} {lateness}") from None


def retry_after(answer: Answer, now: float) -> float | None:
    """The seconds to wait, as the answer asks (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after).

    `now` is in seconds since 1970. None if there is no such header, or it cannot be read.
    """
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def backoff(
    attempt: int,
    *,
    base: float = 1.0,
    longest: float = 900.0,
    at_least: float = 0.0,
    random: Callable[[], float] = randomness.random,
) -> float:
    """The seconds to wait after an attempt, the first being 1: exponential backoff with full jitter.

    Anything from 0 to `base` seconds after the first, twice that after each one more, never more than `longest`. The
    service's own wish, `at_least`, comes on top: else all clients with the same wish would return at one moment.
    See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    # The exponent is bounded because a float is.
    return at_least + random() * min(longest, base * 2.0 ** min(attempt - 1, 100))


class _Socket(socket.socket):
    """Keeps the deadline of its call: the timeout of a socket begins anew with each byte."""

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        self.settimeout(_call.seconds_left())
        return super().recv_into(*arguments, **options)

    def send(self, *arguments: Any, **options: Any) -> int:
        self.settimeout(_call.seconds_left())
        return super().send(*arguments, **options)

    def sendall(self, *arguments: Any, **options: Any) -> None:
        self.settimeout(_call.seconds_left())
        super().sendall(*arguments, **options)


class _TlsSocket(_Socket, ssl.SSLSocket):
    """The same over TLS, whose handshake has a deadline of its own: the timeout left at its beginning."""


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = _Socket(fileno=self.sock.detach())


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


@lru_cache(maxsize=1)
def connections() -> urllib3.PoolManager:
    """The connections; they stay open between the invocations of one function."""
    context = create_urllib3_context()
    context.load_default_certs()
    context.sslsocket_class = _TlsSocket
    pool = urllib3.PoolManager(retries=False, ssl_context=context)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": urllib3.HTTPSConnectionPool}
    return pool


def _follow(method: str, url: str, headers: Mapping[str, str], body: bytes | None, largest: int) -> Answer:
    for _ in range(MOST_REDIRECTS + 1):
        answer = _ask_once(method, url, headers, body, largest)
        if method != "GET" or answer.status not in REDIRECTS or "location" not in answer.headers:
            return answer
        try:
            target = urljoin(url, answer.headers["location"])
            if _origin(target) != _origin(url):
                return answer
        except ValueError:
            # A location that is not a URL leads nowhere else either.
            return answer
        url = target
    raise Unreachable(f"{_host(url)} redirected more than {MOST_REDIRECTS} times")


def _ask_once(method: str, url: str, headers: Mapping[str, str], body: bytes | None, largest: int) -> Answer:
    host = _host(url)
    try:
        response = connections().request(
            method,
            url,
            body=body,
            headers={"Accept-Encoding": "gzip, deflate", **headers},
            timeout=urllib3.Timeout(total=_call.seconds_left()),
            redirect=False,
            preload_content=False,
        )
        try:
            if response.status < 200:
                # http.client takes it for the answer, which is still to come.
                raise Unreachable(f"{host} sent an answer of {response.status} before its own, which is not understood")
            chunks, size = [], 0
            # read1 unpacks no more than it is asked for, however small the packed bytes are.
            while chunk := response.read1(READ_BYTES, decode_content=True):
                chunks.append(chunk)
                size += len(chunk)
                if size > largest:
                    raise Unreachable(f"{host} answered with more than {largest:,} bytes")
            names = {name.lower(): value for name, value in response.headers.items()}
            answer = Answer(response.status, names, b"".join(chunks))
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return answer
    except (HTTPError, OSError) as error:
        # The texts of these errors, which a log would show behind this one, may hold the whole URL.
        raise Unreachable(f"{host} {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if time.monotonic() >= _call.deadline:
        return _call.lateness
    match error:
        case NameResolutionError():
            return "has no address: its name could not be resolved"
        case NewConnectionError():
            return "refused the connection, or no way leads there"
        case LocationValueError():
            return "is not a name that a host can have"
        case LateError():
            return _call.lateness
        case SSLError():
            return f"could not agree on TLS: {error}"
        case DecodeError():
            return "sent an answer that is not encoded as its Content-Encoding says"
    return "sent no whole HTTP answer before the connection ended"


def _host(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL must begin with https:// or http:// and a host")
    return parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
