"""The records of this example, the same ones each time. Run as a program, it writes them, one envelope a line; with
`--sample` it writes one more, alone.

    {"source": "...", "data": {"device_id": ..., "timestamp": ...}, "metadata": {"location": ...}}

Three days of a warehouse's sensors every ten minutes, of delivery vans every half an hour, in local time, and of a
counting gate. Some have the usual faults: no place, or the value of a disconnected sensor.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

Json = dict[str, Any]

FIRST = datetime(2025, 11, 24, tzinfo=UTC)
DAYS, SENSORS, VANS = 3, 6, 4
NOT_CONNECTED = 999.9  # degrees Celsius
LOCAL = timezone(timedelta(hours=1))

SAMPLE: Json = {
    "source": "iot_sensors",
    "data": {"device_id": "sensor_001", "temperature": 22.5, "humidity": 65, "timestamp": "2025-11-25T10:00:00Z"},
    "metadata": {"location": "warehouse_a", "firmware_version": "2.1.0"},
}


def records() -> Iterator[Json]:
    """2,592 records of sensors, 576 of vans, and 144 of the gate."""
    chance = random.Random(20251124)
    for minutes in range(0, DAYS * 24 * 60, 10):
        time = FIRST + timedelta(minutes=minutes)
        for number in range(SENSORS):
            yield _sensor(chance, number, time)
        if minutes % 30 == 0:
            for number in range(VANS):
                yield _van(chance, number, time)
            yield {"source": "gate", "data": {"passed": chance.randrange(40), "timestamp": _text(time)}}


def _sensor(chance: random.Random, number: int, time: datetime) -> Json:
    data = {
        "device_id": f"sensor_{number:03}",
        "temperature": NOT_CONNECTED if chance.random() < 0.01 else round(chance.gauss(20 + number, 1.5), 1),
        "humidity": chance.randrange(40, 70),
        "timestamp": _text(time),
    }
    metadata = {"location": f"warehouse_{'ab'[number % 2]}", "firmware_version": "2.1.0"}
    if chance.random() < 0.02:
        del metadata["location"]
    return {"source": "iot_sensors", "data": data, "metadata": metadata}


def _van(chance: random.Random, number: int, time: datetime) -> Json:
    data = {
        "device_id": f"van_{number}",
        "temperature": round(chance.gauss(4, 0.5), 1),
        "humidity": chance.randrange(70, 90),
        "timestamp": _text(time.astimezone(LOCAL)),
    }
    return {"source": "vans", "data": data, "metadata": {"location": "road", "firmware_version": "1.4.2"}}


def _text(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    for record in [SAMPLE] if "--sample" in sys.argv else records():
        print(json.dumps(record))
