"""A service as a fleet's maker runs it: vehicles and their measurements, by pages, for every client with the token.

    VEHICLES_TOKEN=... python -m examples.vehicles.api --port 8002 --broken FILE

    GET /vehicles      vehicles created from fromCreationDate until before toCreationDate (epoch milliseconds)
    GET /sensor-data   measurements of the same time

Both take page (from 1) and pageSize (50,000 at most), and answer {"total_pages": ..., "data": [...]}. While the file
exists, the second page of /sensor-data answers 422.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from examples.vehicles import fleet

MOST_ROWS = 50_000
BROKEN_PAGE = 2

Answer = tuple[int, dict[str, Any]]

ENTITIES: dict[str, Callable[[int, int], Sequence[fleet.Vehicle | fleet.Measurement]]] = {
    "/vehicles": lambda start, end: [each for each in fleet.vehicles() if start <= each.created_at < end],
    "/sensor-data": lambda start, end: [each for each in fleet.measurements() if start <= each.timestamp < end],
}


def answer(path: str, query: dict[str, str], authorization: str, token: str, is_broken: bool) -> Answer:
    """The status and the document for a request."""
    if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
        return 401, {"message": "the token is missing or wrong"}
    if path not in ENTITIES:
        return 404, {"message": "there are /vehicles and /sensor-data"}
    try:
        start, end = int(query["fromCreationDate"]), int(query["toCreationDate"])
        page, size = int(query.get("page", "1")), int(query.get("pageSize", MOST_ROWS))
    except (KeyError, ValueError):
        return 400, {"message": "fromCreationDate, toCreationDate, page and pageSize must be whole numbers"}
    if page < 1 or not 1 <= size <= MOST_ROWS:
        return 400, {"message": f"page begins at 1, and pageSize ends at {MOST_ROWS}"}
    if is_broken and path == "/sensor-data" and page == BROKEN_PAGE:
        return 422, {"message": "this page cannot be made"}
    found = ENTITIES[path](start, end)
    rows = found[(page - 1) * size : page * size]
    return 200, {"total_pages": -(-len(found) // size), "data": [row._asdict() for row in rows]}


def serve(port: int, token: str, broken: Path) -> None:
    """Serve on 127.0.0.1 until the process ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            authorization = self.headers.get("Authorization", "")
            status, document = answer(parts.path, dict(parse_qsl(parts.query)), authorization, token, broken.exists())
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="Serve the made-up fleet.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--broken", type=Path, required=True)
    options = parser.parse_args()
    fleet.measurements()
    serve(options.port, os.environ["VEHICLES_TOKEN"], options.broken)


if __name__ == "__main__":
    main()
