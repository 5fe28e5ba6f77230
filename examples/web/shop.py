"""Serves the three pages of the shop, with web/sluice.js and the address of the API in them.

python -m examples.web.shop --port 8080 --api https://.../prod
"""

from __future__ import annotations

import argparse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).parent
PAGES = {"/": "index.html", "/shoes": "shoes.html", "/cart": "cart.html"}
FILES = {
    "/sluice.js": (HERE.parents[1] / "web/sluice.js", "text/javascript"),
    "/consent.js": (HERE / "consent.js", "text/javascript"),
}
PRICES = b"item,price\nshoes,49.00\n"


class Handler(BaseHTTPRequestHandler):
    """`api` is the API's stage, the target of the pages' events."""

    api = ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path in PAGES:
            text = (HERE / PAGES[path]).read_text().replace("{api}", self.api)
            self.answer(200, text.encode(), "text/html; charset=utf-8")
        elif path in FILES:
            file, media_type = FILES[path]
            self.answer(200, file.read_bytes(), media_type)
        elif path == "/prices.csv":
            self.answer(200, PRICES, "text/csv")
        else:
            self.answer(404, b"", "text/plain")

    def answer(self, status: int, body: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the output to the example."""


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api", required=True)
    options = parser.parse_args()
    Handler.api = options.api
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
