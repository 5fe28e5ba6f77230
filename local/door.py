"""The door lets in programs of this machine, and web pages where they post events.

A browser carries every web site to 127.0.0.1, and everybody knows the credentials of the local AWS. So a page could
sign its requests in the query string, create a function and run it as the developer. CORS hides the answers from it,
but does not help: simple requests act before anything is asked. Therefore browsers reach the API alone: it must answer
pages of every origin.

A browser shows itself. Its Origin or Sec-Fetch-Site cannot be changed by a page. Browsers before 2023 send neither
with a plain GET, as for an image, but "Mozilla/" in their User-Agent. A page could only change it after a preflight,
and a preflight has an Origin.

A name whose owner lets it point to 127.0.0.1 (DNS rebinding) makes page and server one origin, so the page may read
all answers and send any header. The Host header still has the name.
"""

from __future__ import annotations

import json
import re

from local.asgi import Scope, Send

API = "/_aws/execute-api/"
HOST = re.compile(rb"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?", re.IGNORECASE)
BROWSER_HEADERS = (b"origin", b"sec-fetch-site")
AGENT = b"Mozilla/"
# MiniStack's own paths need no signature: they reset everything, show code and change settings. No path of AWS begins
# like these, and nothing here needs them.
ADMINISTRATION = re.compile(r"/_.*|/health", re.DOTALL)


def refusal(scope: Scope) -> str | None:
    """Why this ASGI request is not answered; None when it is."""
    headers = scope["headers"]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
        named = b", ".join(hosts).decode("latin-1")
        return f"the local AWS does not answer to the host '{named}': call it 127.0.0.1 or localhost"
    if scope["path"].startswith(API):
        return None
    if any(name in BROWSER_HEADERS or (name == b"user-agent" and AGENT in value) for name, value in headers):
        return f"browsers may call nothing of the local AWS except APIs, under {API}"
    if ADMINISTRATION.fullmatch(scope["path"]):
        return f"{scope['path']} is not implemented by the local AWS"
    return None


async def refuse(reason: str, send: Send) -> None:
    """Answer 403 with the reason. Without CORS headers, no page can read even this."""
    body = json.dumps({"__type": "AccessDeniedException", "message": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
