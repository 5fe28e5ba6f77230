"""A client with little cost beside the measured server: HTTP/1.1, keep-alive, one request at a time per connection.

It runs in a process of its own (`run`), on the rest of the machine.
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

import orjson

CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
RETRY_SECONDS = 0.2

Requests = Iterator[tuple[str, bytes, dict[str, str]]]


@dataclass
class Result:
    """One load: answers by status, records taken and refusals of records by PutRecordBatch, seconds in all, and the
    milliseconds of each answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    taken: int = 0
    refused: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.statuses.total() / self.seconds

    def percentile(self, share: float) -> float:
        """This share of the answers took at most so many milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def run(requests: Callable[..., Requests], *arguments: Any, connections: int, seconds: float = 3600.0) -> Result:
    """Send each (url, body, headers) of `requests(*arguments)`, until they end or `seconds` are over.

    A refusal for now (429 or 5xx) is sent again after a pause: its answer is counted too. PutRecordBatch answers with
    200 all the same, and its refused records alone are sent again:
    https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, requests, arguments, connections, seconds).result()


def _run(requests: Callable[..., Requests], arguments: Any, connections: int, seconds: float) -> Result:
    return asyncio.run(send_all(requests(*arguments), connections, seconds))


async def send_all(requests: Requests, connections: int, seconds: float) -> Result:
    result = Result()
    began = time.perf_counter()
    await asyncio.gather(*(_send(requests, result, began + seconds) for _ in range(connections)))
    result.seconds = time.perf_counter() - began
    return result


async def _send(requests: Requests, result: Result, deadline: float) -> None:
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for url, body, headers in requests:
        address = urlsplit(url)
        if streams is None:
            streams = await asyncio.open_connection(address.hostname, address.port)
        while True:
            head = {"Host": address.netloc, **headers, "Content-Length": str(len(body))}
            lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
            sent = time.perf_counter()
            streams[1].write(f"POST {address.path or '/'} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            status, answer = await _answer(streams[0])
            result.latencies.append((time.perf_counter() - sent) * 1000)
            result.statuses[status] += 1
            if status == 200 and headers.get("X-Amz-Target", "").endswith(".PutRecordBatch"):
                body = _count(result, body, answer)
                if not body:
                    break
            elif status != 429 and status < 500:
                break
            await asyncio.sleep(RETRY_SECONDS)
        if time.perf_counter() > deadline:
            break
    if streams:
        streams[1].close()


def _count(result: Result, body: bytes, answer: bytes) -> bytes:
    """Count the records taken by PutRecordBatch; returns a call with the rest, empty if there are none."""
    call, responses = orjson.loads(body), orjson.loads(answer)["RequestResponses"]
    rest = [record for record, one in zip(call["Records"], responses, strict=True) if "ErrorCode" in one]
    result.taken += len(responses) - len(rest)
    result.refused += len(rest)
    return orjson.dumps({**call, "Records": rest}) if rest else b""


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = CONTENT_LENGTH.search(head)
    return int(head[9:12]), await reader.readexactly(int(length[1])) if length else b""
