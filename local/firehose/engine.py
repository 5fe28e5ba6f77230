"""Shared by the parts of one delivery stream: the emulator, its limits, its threads and its metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from local.cloudwatch.metrics import Metrics
from local.firehose.configuration import MEBIBYTE
from local.ministack import AccessDenied, Emulator

PRINCIPAL = "firehose.amazonaws.com"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Limits of AWS without a setting. All times are in seconds, and a second lasts `second`: tests make it short."""

    # Undelivered bytes of one stream; beyond them puts are refused. Transforming and converting cost more: an object in
    # the making nearly three times its size.
    memory: int = 32 * MEBIBYTE
    segment: int = 16 * MEBIBYTE  # Size at which the log begins a new file.
    retention: float = 24 * 3600  # For how long delivery is tried.
    first_backoff: float = 0.5
    last_backoff: float = 30
    function_timeout: float = 300  # Firehose honours five minutes of Lambda run time.
    transform_interval: float = 1  # AWS allows 900. Here invocations cost nothing, so events wait no longer than this.
    second: float = 1


@dataclass
class Threads:
    """Acknowledgements wait for the disk, so they share no thread with compression and Parquet."""

    disk: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "firehose-disk"))
    work: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "firehose-work"))


@dataclass(frozen=True)
class Engine:
    """A stream's tools: the emulator, its limits, threads and metrics."""

    emulator: Emulator
    limits: Limits
    threads: Threads
    metrics: Metrics

    async def on_disk(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """The function's result, from a thread for the disk."""
        return await _called(self.threads.disk, function, *arguments, **options)

    async def at_work(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """The function's result, from a thread for compression and Parquet."""
        return await _called(self.threads.work, function, *arguments, **options)

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after so many tries."""
        doubled = self.limits.first_backoff * 2.0 ** min(attempt - 1, 20)
        return min(doubled, self.limits.last_backoff) * self.limits.second


async def _called(threads: ThreadPoolExecutor, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: function(*arguments, **options))


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def is_about_trust(error: AccessDenied) -> bool:
    """Whether a role could not be assumed; otherwise it lacks a permission."""
    return "assume role" in str(error).lower()
