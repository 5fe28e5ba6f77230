"""The weather of this example's service, for every place and day, and the sensors asking for it.

The days are real: daily weather of Seattle, from 2012 to 2015 (seattle-weather.csv). Other places get it varied: by
how far north and east of Seattle they lie, and by chance, the same each time. check.py computes the refined
tables' right content from it.
"""

from __future__ import annotations

import csv
import random
from datetime import date, timedelta
from functools import cache
from typing import NamedTuple

from scripts.commands.demo import fetch_dataset

SIDE = 10  # sensors in a row of the grid, and rows
SIDE_OF_REGION = 2
STEP = 0.1  # degrees between two sensors
SOUTH, WEST = 47.2, -122.8

FIRST_DAY = date(2014, 1, 1)
LAST_DAY = date(2014, 12, 31)

SHARE_MISSING = 0.001
SHARE_SWAPPED = 0.0005
PRELIMINARY_DAYS = 2
"""The last days of an archive come from a forecast: in whole degrees, until measured values replace them."""


class Sensor(NamedTuple):
    """A place to ask for, and its region of four places."""

    id: str
    region: str
    latitude: float
    longitude: float


class Weather(NamedTuple):
    """A day at a place: degrees Celsius and millimetres, or None where nothing was recorded."""

    temperature_2m_max: float | None
    temperature_2m_min: float | None
    precipitation_sum: float | None


def sensors() -> list[Sensor]:
    """A grid of 100, row by row."""
    return [
        Sensor(
            f"SENSOR_{row * SIDE + column:04d}",
            f"ZONE_{row // SIDE_OF_REGION}_{column // SIDE_OF_REGION}",
            round(SOUTH + row * STEP, 1),
            round(WEST + column * STEP, 1),
        )
        for row in range(SIDE)
        for column in range(SIDE)
    ]


@cache
def seattle() -> dict[date, Weather]:
    """The real days, by date."""
    with fetch_dataset("seattle-weather.csv").open(newline="") as file:
        return {
            date.fromisoformat(row["date"].replace("/", "-")): Weather(
                float(row["temp_max"]), float(row["temp_min"]), float(row["precipitation"])
            )
            for row in csv.DictReader(file)
        }


def weather(latitude: float, longitude: float, day: date, archive_end: date) -> Weather:
    """The weather of a place on a day, as an archive tells it whose last day is `archive_end`."""
    base = seattle()[day]
    high, low, rain = base.temperature_2m_max or 0, base.temperature_2m_min or 0, base.precipitation_sum or 0
    chance = random.Random(f"{latitude:.1f} {longitude:.1f} {day}")
    warmer = 4 * (47.6 - latitude) + 2 * (longitude + 122.3)
    high, low = round(high + warmer + chance.gauss(0, 0.4), 1), round(low + warmer + chance.gauss(0, 0.4), 1)
    rain = round(rain * (1 + 0.5 * (longitude + 122.3)) * chance.uniform(0.8, 1.2), 1)
    if chance.random() < SHARE_SWAPPED:
        high, low = low, high
    if day > archive_end - timedelta(days=PRELIMINARY_DAYS):
        high, low = float(round(high)), float(round(low))
    has_temperatures, has_rain = chance.random() >= SHARE_MISSING, chance.random() >= SHARE_MISSING
    return Weather(high if has_temperatures else None, low if has_temperatures else None, rain if has_rain else None)


def days(first: date, last: date) -> list[date]:
    """The days from the first to the last."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
