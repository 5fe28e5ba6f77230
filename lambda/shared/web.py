"""One request to somebody's HTTP service, and how long to wait before the next.

Nothing here tries again: messages wait in a queue, and the queue tries again. Nothing here writes a query, a header or
a body into an error or a log, as each may hold a secret.
"""

from __future__ import annotations

import random as randomness
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import DecodeError, HTTPError, NameResolutionError, NewConnectionError, SSLError, TimeoutError

MOST_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
READ_BYTES: Final = 65_536

# Connections stay open between the invocations of one function.
_pool: Final = urllib3.PoolManager(retries=False)


class Unreachable(Exception):
    """No whole answer came. Names the host and the reason, never the query, the headers or the body."""


class Answer(NamedTuple):
    """An answer that came whole, whatever it says. The names of the headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    timeout: float = 30.0,
    largest: int = 50_000_000,
) -> Answer:
    """Send one request and return its answer, whatever the status.

    `timeout` is the seconds in which the answer must be there, to its last byte; one that stops in the middle may take
    twice as long to be given up. `largest` is in bytes, after decompression.
    A GET follows redirects within its own origin; every other redirect is itself the answer, so that no header of
    ours, such as a token, reaches another host.

    Raises Unreachable when no whole answer came: refused, no such name, TLS, timeout, cut off, or beyond `largest`.
    Raises ValueError for a URL or header that cannot be sent; it names the header and does not show its value.
    """
    deadline = time.monotonic() + timeout
    for name, value in headers.items():
        # http.client would show the value in its error.
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"the header {name} holds a character that no header may hold")
    for _ in range(MOST_REDIRECTS + 1):
        answer = _ask_once(method, url, headers, body, deadline, timeout, largest)
        target = answer.headers.get("location")
        if method != "GET" or answer.status not in REDIRECTS or target is None:
            return answer
        target = urljoin(url, target)
        if _origin(target) != _origin(url):
            return answer
        url = target
    raise Unreachable(f"{_host(url)} redirected more than {MOST_REDIRECTS} times")


def retry_after(answer: Answer, now: float) -> float | None:
    """The seconds that the answer asks to wait (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after), if it does.

    `now` is in seconds since 1970. None when there is no such header, or when nobody can read it.
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
    """The seconds to wait after the given attempt, the first of which is 1: exponential backoff with full jitter.

    Anything from 0 to `base` seconds after the first, twice that after each one more, never more than `longest`. What
    the service itself asked for, `at_least`, comes on top: else all who were told the same would return at one moment.
    See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    # The exponent is bounded because a float is.
    return at_least + random() * min(longest, base * 2.0 ** min(attempt - 1, 100))


def _ask_once(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    deadline: float,
    timeout: float,
    largest: int,
) -> Answer:
    host = _host(url)
    try:
        response = _pool.request(
            method,
            url,
            body=body,
            headers={"Accept-Encoding": "gzip, deflate", **headers},
            timeout=urllib3.Timeout(total=max(0.001, deadline - time.monotonic())),
            redirect=False,
            preload_content=False,
        )
        try:
            chunks, size = [], 0
            # read1 returns what has come: read would wait for a whole chunk, which a slow sender may spin out for ever.
            while chunk := response.read1(READ_BYTES, decode_content=True):
                chunks.append(chunk)
                size += len(chunk)
                if size > largest:
                    raise Unreachable(f"{host} answered with more than {largest:,} bytes")
                if time.monotonic() > deadline:
                    raise Unreachable(f"{host} did not finish its answer within {timeout:g} s")
            names = {name.lower(): value for name, value in response.headers.items()}
            answer = Answer(response.status, names, b"".join(chunks))
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return answer
    except (HTTPError, OSError) as error:
        # The texts of these errors, which a log would show behind this one, may hold the whole URL.
        raise Unreachable(f"{host} {_reason(error, timeout)}") from None


def _reason(error: Exception, timeout: float) -> str:
    match error:
        case NameResolutionError():
            return "has no address: its name could not be resolved"
        case NewConnectionError():
            return "refused the connection, or no way leads there"
        case TimeoutError():
            return f"did not answer within {timeout:g} s"
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
