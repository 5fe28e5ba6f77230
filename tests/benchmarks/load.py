"""A client that costs little beside what it measures: HTTP/1.1 over keep-alive connections, one request at a time each.

It runs in a process of its own (`run`), on what the server leaves of the machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
RETRY_SECONDS = 0.2

Requests = Iterator[tuple[str, bytes, dict[str, str]]]


@dataclass
class Result:
    """What one load saw: answers by status, seconds in all, and the milliseconds that each answer took."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.statuses.total() / self.seconds

    def percentile(self, share: float) -> float:
        """The milliseconds within which this share of the answers came."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def run(requests: Callable[..., Requests], *arguments: Any, connections: int, seconds: float = 3600.0) -> Result:
    """Send what `requests(*arguments)` yields as (url, body, headers), until it ends or `seconds` are over.

    A refusal that says "later" (429 or 5xx) is sent again after a pause: its answer is counted too.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, requests, arguments, connections, seconds).result()


def _run(requests: Callable[..., Requests], arguments: Any, connections: int, seconds: float) -> Result:
    return asyncio.run(_send_all(requests(*arguments), connections, seconds))


async def _send_all(requests: Requests, connections: int, seconds: float) -> Result:
    result = Result()
    began = time.perf_counter()
    await asyncio.gather(*(_send(requests, result, began + seconds) for _ in range(connections)))
    result.seconds = time.perf_counter() - began
    return result


async def _send(requests: Requests, result: Result, deadline: float) -> None:
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for url, body, headers in requests:
        address = urlsplit(url)
        head = {"Host": address.netloc, "Content-Length": str(len(body)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        request = f"POST {address.path or '/'} HTTP/1.1\r\n{lines}\r\n".encode() + body
        if streams is None:
            streams = await asyncio.open_connection(address.hostname, address.port)
        status = 0
        while status == 0 or status == 429 or status >= 500:
            if status:
                await asyncio.sleep(RETRY_SECONDS)
            sent = time.perf_counter()
            streams[1].write(request)
            status = await _answer(streams[0])
            result.latencies.append((time.perf_counter() - sent) * 1000)
            result.statuses[status] += 1
        if time.perf_counter() > deadline:
            break
    if streams:
        streams[1].close()


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = CONTENT_LENGTH.search(head)
    if length and int(length[1]):
        await reader.readexactly(int(length[1]))
    return int(head[9:12])
