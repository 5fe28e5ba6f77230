"""A fleet and two days of its measurements, made up: the same each time, to the millisecond.

The service (api.py) hands it out; check.py computes the refined tables' right content from it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

FIRST_DAY = datetime(2026, 3, 2, tzinfo=UTC)
DAYS = 2
VEHICLES_OF_A_TYPE = 7
MEAN_GAPS = {"bus": 20.0, "truck": 45.0, "van": 60.0, "car": 120.0}
"""Seconds between two measurements of a vehicle, by its type."""

SHARE_WITHOUT_VALUE = 0.01


class Vehicle(NamedTuple):
    """A vehicle of the fleet; it measures from the moment when it was created, in epoch milliseconds."""

    vehicle_id: str
    vehicle_name: str
    vehicle_type: str
    created_at: int


class Measurement(NamedTuple):
    """A value of a vehicle's sensor, at a time in epoch milliseconds; the value is missing now and then."""

    vehicle_id: str
    timestamp: int
    sensor_value: float | None


def milliseconds(time: datetime) -> int:
    """A time in epoch milliseconds."""
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


BEGIN = milliseconds(FIRST_DAY)
END = milliseconds(FIRST_DAY + timedelta(days=DAYS))


@cache
def vehicles() -> list[Vehicle]:
    """The fleet. The last of each type came on the second day."""
    found = []
    for kind in MEAN_GAPS:
        for number in range(1, VEHICLES_OF_A_TYPE + 1):
            created = FIRST_DAY + timedelta(minutes=number, days=number == VEHICLES_OF_A_TYPE)
            found.append(Vehicle(f"{kind}-{number}", f"{kind.capitalize()} {number}", kind, milliseconds(created)))
    return found


def measurements_of(vehicle: Vehicle) -> Iterator[Measurement]:
    """A vehicle's measurements in their order: gaps from half to one and a half times the mean of its type."""
    chance = random.Random(vehicle.vehicle_id)
    mean = MEAN_GAPS[vehicle.vehicle_type]
    time = vehicle.created_at
    while True:
        time += round(1000 * mean * chance.uniform(0.5, 1.5))
        if time >= END:
            return
        value = None if chance.random() < SHARE_WITHOUT_VALUE else round(chance.gauss(70, 15), 2)
        yield Measurement(vehicle.vehicle_id, time, value)


@cache
def measurements() -> list[Measurement]:
    """All measurements, in the order of time."""
    found = [measurement for vehicle in vehicles() for measurement in measurements_of(vehicle)]
    return sorted(found, key=lambda measurement: (measurement.timestamp, measurement.vehicle_id))
