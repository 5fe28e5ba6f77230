"""A small data warehouse: takes rows over HTTP as docs/deliver.md says, and keeps them in SQLite.

    WAREHOUSE_TOKEN=... python warehouse.py --database rows.db --port 8080 --sensor sf [--sensor NAME]...

It needs nothing but Python. It shows a receiver's duties, as every row may come twice and at any time:

- A request without the token is refused with 401, before its body is looked at.
- Rows are kept by their row_id: a repeated row changes nothing.
- Each row is checked by itself. Wrong rows are named in the answer, the others are kept.
- It answers when the rows are on the disk, so a row comes again if the receiver was killed over it.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COLDEST, HOTTEST = -90.0, 60.0  # degrees Celsius, ever measured on earth
MOST_BYTES = 10_000_000

SCHEMA = """
    CREATE TABLE IF NOT EXISTS readings (
        row_id TEXT PRIMARY KEY,
        event_id TEXT NOT NULL,
        sensor TEXT NOT NULL,
        measured_at TEXT NOT NULL,
        celsius REAL NOT NULL,
        object TEXT NOT NULL
    )
"""
COLUMNS = ("event_id", "sensor", "measured_at", "celsius", "object")


def connect(database: Path) -> sqlite3.Connection:
    """The database, made when it is missing. A commit is on the disk, even if this process is killed after it."""
    connection = sqlite3.connect(database, timeout=30)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(SCHEMA)
    return connection


def fault(values: Any, sensors: set[str]) -> str | None:
    """A row's fault, or None."""
    if not isinstance(values, dict):
        return "values must be an object"
    for name in COLUMNS:
        if name not in values:
            return f"{name} is missing"
    celsius = values["celsius"]
    if not isinstance(celsius, int | float) or isinstance(celsius, bool) or not COLDEST <= celsius <= HOTTEST:
        return f"celsius must be a number from {COLDEST:g} to {HOTTEST:g}"
    for name in ("event_id", "sensor", "measured_at", "object"):
        if not isinstance(values[name], str) or not values[name]:
            return f"{name} must be a text"
    return None if values["sensor"] in sensors else f"no sensor is named {values['sensor']!r}"


def store(database: Path, rows: list[Any], sensors: set[str]) -> list[dict[str, str]]:
    """Keep the rows without a fault; returns the others, as the answer names them.

    Raises ValueError when something is not a row at all: it has no row_id to refuse it by.
    """
    refused, kept = [], []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("row_id"), str):
            raise ValueError("every row must be an object with a row_id")
        if reason := fault(row.get("values"), sensors):
            refused.append({"row_id": row["row_id"], "reason": reason})
        else:
            kept.append((row["row_id"], *(row["values"][name] for name in COLUMNS)))
    with closing(connect(database)) as connection, connection:
        connection.executemany("INSERT OR IGNORE INTO readings VALUES (?, ?, ?, ?, ?, ?)", kept)
    return refused


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    database: Path
    sensors: set[str]
    token: str

    def do_POST(self) -> None:
        """Take the rows of a request."""
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            return self.answer(401, {"error": "the token is missing or wrong"})
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal():
            return self.answer(411, {"error": "Content-Length is missing"})
        if int(length) > MOST_BYTES:
            return self.answer(413, {"error": f"a request has at most {MOST_BYTES:,} bytes"})
        try:
            content = json.loads(self.rfile.read(int(length)))
            if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
                raise ValueError("the body must be an object with a list of rows")
            refused = store(self.database, content["rows"], self.sensors)
        except (ValueError, RecursionError) as error:
            return self.answer(400, {"error": str(error)})
        except sqlite3.OperationalError as error:
            # The disk is full or somebody holds the database: the rows are to come again.
            return self.answer(503, {"error": str(error)}, {"Retry-After": "5"})
        return self.answer(207 if refused else 200, {"refused": refused})

    def answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        """Send an answer. The connection stays open only when all of the request has been read."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status in (401, 411, 413):
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """One line a request on standard error, without its address."""
        print(format % arguments, file=sys.stderr, flush=True)


def main() -> None:
    """Serve on 127.0.0.1 until the process is stopped."""
    parser = argparse.ArgumentParser(description="Takes rows over HTTP, and keeps them in SQLite.")
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sensor", action="append", required=True, help="a sensor whose rows are taken; repeat it")
    options = parser.parse_args()
    if not os.environ.get("WAREHOUSE_TOKEN"):
        parser.error("set WAREHOUSE_TOKEN to the token that a request has to carry")
    Handler.database, Handler.sensors = options.database, set(options.sensor)
    Handler.token = os.environ["WAREHOUSE_TOKEN"]
    connect(options.database).close()
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
