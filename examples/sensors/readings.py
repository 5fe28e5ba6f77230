"""Writes the readings into a file, one event a line: a year of San Francisco, and an unknown sensor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.commands.demo import TEMPERATURES, fetch_dataset, read_temperatures

UNKNOWN_SENSOR = "sf-rooftop"


def readings() -> Iterator[dict[str, Any]]:
    """8,759 hourly temperatures in degrees Fahrenheit, and three of another sensor on New Year's Day."""
    yield from read_temperatures(fetch_dataset(TEMPERATURES))
    for hour in range(3):
        yield {
            "event_id": f"{UNKNOWN_SENSOR}-{hour}",
            "source": UNKNOWN_SENSOR,
            "name": "temperature",
            "value": 60 + hour,
            "timestamp": f"2010-01-01T0{hour}:30:00Z",
        }


if __name__ == "__main__":
    with Path(sys.argv[1]).open("w") as file:
        file.writelines(json.dumps(reading) + "\n" for reading in readings())
