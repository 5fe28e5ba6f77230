"""A service with the answers of Open-Meteo's archive (https://open-meteo.com/en/docs/historical-weather-api).

    python -m examples.weather.api --port 8003 --archive-end FILE

    GET /v1/archive?latitude=47.6&longitude=-122.3&start_date=2014-01-01&end_date=2014-12-31&timezone=UTC
        &daily=temperature_2m_max,temperature_2m_min,precipitation_sum

It answers {"daily": {"time": [...], "temperature_2m_max": [...], ...}, ...}, a list for each variable, and
{"error": true, "reason": ...} with 400 when it is asked wrongly. The file holds the last day of the archive.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from examples.weather.archive import Weather, days, seattle, weather

UNITS = {"temperature_2m_max": "°C", "temperature_2m_min": "°C", "precipitation_sum": "mm"}

Answer = tuple[int, dict[str, Any]]


class Wrong(Exception):
    """A request without an answer, and why."""


def answer(path: str, query: dict[str, list[str]], archive_end: date) -> Answer:
    """The status and the document for a request; `query` has the values of each parameter."""
    if path != "/v1/archive":
        return 404, {"error": True, "reason": "Not Found"}
    started = time.perf_counter()
    try:
        document = _archive(query, archive_end)
    except Wrong as wrong:
        return 400, {"error": True, "reason": str(wrong)}
    return 200, {**document, "generationtime_ms": round(1000 * (time.perf_counter() - started), 3)}


def _archive(query: dict[str, list[str]], archive_end: date) -> dict[str, Any]:
    latitude, longitude = _degrees(query, "latitude", 90), _degrees(query, "longitude", 180)
    first, last = _day(query, "start_date", archive_end), _day(query, "end_date", archive_end)
    if first > last:
        raise Wrong("End-date must be larger or equals than start-date")
    variables = [name for text in query.get("daily", []) for name in text.split(",")]
    for name in variables:
        if name not in UNITS:
            raise Wrong(f"'{name}' is not a daily variable here: there are {', '.join(UNITS)}")
    if (timezone := query.get("timezone", ["GMT"])[0]) not in ("GMT", "UTC"):
        raise Wrong(f"'{timezone}' is not a timezone here: there are GMT and UTC")
    columns: dict[str, list[Any]] = {"time": [day.isoformat() for day in days(first, last)]}
    found: list[Weather] = [weather(latitude, longitude, day, archive_end) for day in days(first, last)]
    columns |= {name: [getattr(each, name) for each in found] for name in variables}
    return {
        "latitude": latitude,
        "longitude": longitude,
        "utc_offset_seconds": 0,
        "timezone": timezone,
        "timezone_abbreviation": timezone,
        "elevation": 0.0,
        "daily_units": {"time": "iso8601"} | {name: UNITS[name] for name in variables},
        "daily": columns,
    }


def _only(query: dict[str, list[str]], name: str) -> str:
    if len(values := query.get(name, [])) != 1:
        raise Wrong(f"Parameter '{name}' must be given once")
    return values[0]


def _degrees(query: dict[str, list[str]], name: str, largest: int) -> float:
    try:
        value = float(_only(query, name))
    except ValueError:
        raise Wrong(f"Parameter '{name}' must be one number") from None
    if not -largest <= value <= largest:
        raise Wrong(f"{name.capitalize()} must be in range of -{largest} to {largest}°. Given: {value}.")
    return value


def _day(query: dict[str, list[str]], name: str, archive_end: date) -> date:
    try:
        value = date.fromisoformat(_only(query, name))
    except ValueError:
        raise Wrong(f"Parameter '{name}' must be a day, such as 2014-01-31") from None
    first = min(seattle())
    if not first <= value <= archive_end:
        raise Wrong(f"Parameter '{name}' is out of allowed range from {first} to {archive_end}")
    return value


def serve(port: int, archive_end: Path) -> None:
    """Serve on 127.0.0.1 until the process ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            end = date.fromisoformat(archive_end.read_text().strip())
            status, document = answer(parts.path, parse_qs(parts.query), end)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="Serve an archive of weather.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--archive-end", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    seattle()
    serve(options.port, options.archive_end)


if __name__ == "__main__":
    main()
