"""The parts of ASGI that are used here, as the HTTP and lifespan protocols of its specification name them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypedDict


class Scope(TypedDict, total=False):
    """A connection; one of the type lifespan has nothing but its type."""

    type: str
    scheme: str
    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int] | None


class Message(TypedDict, total=False):
    """An event of a connection, in either direction."""

    type: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    more_body: bool


Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
