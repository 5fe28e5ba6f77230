"""Writes the declaration of the source: without options, sources/weather.json.

    python -m examples.weather.declare [--port PORT] [--first DAY] [--last DAY] [--sensors COUNT]

docs/pull.md describes every key.
"""

from __future__ import annotations

import argparse
import json
from datetime import date, timedelta

from examples.weather.archive import FIRST_DAY, LAST_DAY, PRELIMINARY_DAYS, SIDE, sensors

FORM = """{{
  "name": "weather",
  "description": "Daily weather at the places of a grid",
  "url": "http://127.0.0.1:{port}/v1/archive",
  "query": {{
    "latitude": "{{sensor.latitude}}",
    "longitude": "{{sensor.longitude}}",
    "start_date": "{{from:date}}",
    "end_date": "{{last:date}}",
    "daily": "temperature_2m_max,temperature_2m_min,precipitation_sum",
    "timezone": "UTC"
  }},
  "window": {{
    "first": "{first}T00:00:00Z",
    "end": "{end}T00:00:00Z",
    "round_to": "day",
    "overlap_seconds": {overlap}
  }},
  "items": {{"columns": "daily"}},
  "error": "error && reason",
  "event": {{
    "event_id": ["sensor.id", "time"],
    "name": {{"constant": "weather"}},
    "source": "sensor.id",
    "timestamp": "time"
  }},
  "grid": {{
    "sensor": [
      {grid}
    ]
  }}
}}
"""


def declare(port: int = 8003, first: date = FIRST_DAY, last: date = LAST_DAY, count: int = SIDE * SIDE) -> str:
    """The declaration of a source of these days, for the first sensors of the grid."""
    return FORM.format(
        port=port,
        first=first,
        end=last + timedelta(days=1),
        overlap=PRELIMINARY_DAYS * 86_400,
        grid=",\n      ".join(json.dumps(sensor._asdict()) for sensor in sensors()[:count]),
    )


def main() -> None:
    """Read the arguments and write to standard output."""
    parser = argparse.ArgumentParser(description="Write the declaration of the source.")
    parser.add_argument("--port", type=int, default=8003)
    parser.add_argument("--first", type=date.fromisoformat, default=FIRST_DAY)
    parser.add_argument("--last", type=date.fromisoformat, default=LAST_DAY)
    parser.add_argument("--sensors", type=int, default=SIDE * SIDE)
    options = parser.parse_args()
    print(declare(options.port, options.first, options.last, options.sensors), end="")


if __name__ == "__main__":
    main()
