"""What the steps of a run and the worker have in common."""

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
    """What they work with: the sources by name, and the clock, in which `now` gives seconds since 1970."""

    sources: dict[str, Source]
    store: Store
    queue: Queue
    client: Client
    retry_seconds: float
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
