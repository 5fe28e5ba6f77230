"""The common parts of the runner and the worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .client import Client
from .queue import Queue
from .source import Source
from .store import Store


@dataclass(frozen=True)
class Parts:
    """Sources by name, store, queue, client and clock; `now` gives seconds since 1970."""

    sources: dict[str, Source]
    store: Store
    queue: Queue
    client: Client
    retry_seconds: float
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
