"""The console answers its own pages, on this machine, and nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not no-referrer: Chromium then sends a form's Origin as null.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Guard:
    """The application behind a look at Host, Origin and Sec-Fetch-Site, on every path."""

    app: ASGIApp
    port: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if reason := complaint(Headers(scope=scope), scope["method"], self.port):
            await PlainTextResponse(f"{reason}\n", 403)(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)


def complaint(headers: Headers, method: str, port: int) -> str:
    """Why a request is refused; empty if it is not."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if headers.getlist("host") != [host] or host not in (f"127.0.0.1:{port}", f"localhost:{port}"):
        return "this console answers to its own address only"  # the name may be an attacker's, bound to this machine
    if origin != f"http://{host}" and (origin is not None or method not in ("GET", "HEAD")):
        return "this console takes nothing from other pages"
    # Any port of this machine is the same site, and any person's link is a navigation.
    is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    is_page = headers.get("sec-fetch-dest", "document") == "document"
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not (is_link and is_page):
        return "this console shows nothing inside other pages"
    return ""
