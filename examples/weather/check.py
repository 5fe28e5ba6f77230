"""Compares the refined tables, row by row and value by value, with rows made from the archive's own figures.

    python -m examples.weather.check SENSOR_DAYS.ndjson REGION_DAYS.ndjson QUALITY.ndjson [--sensors COUNT]

The files have a JSON object for each row: of the two tables, and of the query weather-quality. Exit codes: 0 the same,
1 others.
"""

from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

from examples.weather.archive import FIRST_DAY, Sensor, Weather, days, sensors, weather

Row = dict[str, Any]

ARCHIVE_END = date(2015, 1, 7)
"""The last day of the archive when the tables were made for the last time."""

DIGITS = {
    "temperature_max_f": 1,
    "temperature_min_f": 1,
    "temperature_range": 1,
    "region_avg_temp": 2,
    "region_total_precipitation": 1,
    "temperature_avg": 2,
    "precipitation": 2,
    "week_temperature_avg": 2,
    "week_precipitation": 2,
    "completeness_rate": 2,
    "data_quality_score": 1,
}
"""To how many digits a number is rounded; others are exact."""


def band(value: float | None, names: Sequence[str], limits: Sequence[float]) -> str | None:
    """The name of a value's band; each but the first begins at its limit."""
    return None if value is None else names[bisect_right(limits, value)]


def average(values: Iterable[float | None]) -> float | None:
    """The mean of the values except None; None if there are none."""
    there = [value for value in values if value is not None]
    return mean(there) if there else None


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the values except None; None if there are none."""
    there = [value for value in values if value is not None]
    return sum(there) if there else None


def sensor_day(sensor: Sensor, day: date, found: Weather) -> Row:
    """A row of sensor_days, except for its region's values."""
    high, low, rain = found
    middle = round((high + low) / 2, 2) if high is not None and low is not None else None
    is_true = high is not None and low is not None and -90 <= low <= high <= 60
    level = "none" if rain == 0 else band(rain, ("light", "moderate", "heavy", "extreme"), (2.5, 10, 50))
    return {
        "dt": day.isoformat(),
        "sensor_id": sensor.id,
        "region": sensor.region,
        "latitude": sensor.latitude,
        "longitude": sensor.longitude,
        "temperature_max": high,
        "temperature_min": low,
        "precipitation": rain,
        "temperature_max_f": None if high is None else 1.8 * high + 32,
        "temperature_min_f": None if low is None else 1.8 * low + 32,
        "temperature_avg": middle,
        "temperature_range": None if high is None or low is None else high - low,
        "temp_category": band(middle, ("freezing", "cold", "mild", "warm", "hot"), (0, 10, 18, 25)),
        "precipitation_level": level,
        "is_complete": middle is not None and rain is not None,
        "data_quality_score": 30 * (high is not None) + 30 * (low is not None) + 20 * (rain is not None) + 20 * is_true,
    }


def sensor_days(count: int) -> list[Row]:
    """The right rows of the table of sensors, for the first sensors of the grid."""
    rows = [
        sensor_day(sensor, day, weather(sensor.latitude, sensor.longitude, day, ARCHIVE_END))
        for sensor in sensors()[:count]
        for day in days(FIRST_DAY, ARCHIVE_END)
    ]
    for group in _groups(rows, "dt", "region").values():
        warmth, rain = average(row["temperature_avg"] for row in group), total(row["precipitation"] for row in group)
        for row in group:
            row.update(region_avg_temp=warmth, region_total_precipitation=rain)
    return rows


def region_days(rows: list[Row]) -> list[Row]:
    """The right rows of the table of regions, made from those of the table of sensors."""
    made = []
    for (region,), group in _groups(rows, "region").items():
        by_day = [(day, each) for (day,), each in sorted(_groups(group, "dt").items())]
        warmth = [average(row["temperature_avg"] for row in each) for _, each in by_day]
        rain = [average(row["precipitation"] for row in each) for _, each in by_day]
        for number, (day, each) in enumerate(by_day):
            week = slice(max(0, number - 6), number + 1)
            made.append(
                {
                    "dt": day,
                    "region": region,
                    "sensors": len(each),
                    "temperature_avg": warmth[number],
                    "precipitation": rain[number],
                    "week_temperature_avg": average(warmth[week]),
                    "week_precipitation": total(rain[week]),
                    "data_quality_score": mean(row["data_quality_score"] for row in each),
                }
            )
    for group in _groups(made, "dt").values():
        rounded = [round(row["temperature_avg"], 4) for row in group if row["temperature_avg"] is not None]
        for row in group:
            if row["temperature_avg"] is not None:
                row["warmest"] = 1 + sum(other > round(row["temperature_avg"], 4) for other in rounded)
    return made


def quality(rows: list[Row]) -> Row:
    """The right answer of the query weather-quality."""
    complete = sum(row["is_complete"] for row in rows)
    return {
        "total_rows": len(rows),
        "complete_rows": complete,
        "completeness_rate": 100 * complete / len(rows),
        "null_temperature_count": sum(row["temperature_avg"] is None for row in rows),
        "null_precipitation_count": sum(row["precipitation"] is None for row in rows),
        "data_quality_score": mean(row["data_quality_score"] for row in rows),
        "first_day": FIRST_DAY.isoformat(),
        "last_day": ARCHIVE_END.isoformat(),
    }


def differences(wanted: list[Row], seen: list[Row], *keys: str) -> list[str]:
    """The differences, a line each; the keys tell one row from another."""
    lines = []
    wanted_rows, seen_rows = _groups(wanted, *keys), _groups(seen, *keys)
    lines += [f"{' '.join(key)}: no such row" for key in wanted_rows.keys() - seen_rows.keys()]
    lines += [f"{' '.join(key)}: a row that should not be" for key in seen_rows.keys() - wanted_rows.keys()]
    for key in wanted_rows.keys() & seen_rows.keys():
        if len(seen_rows[key]) > 1:
            lines.append(f"{' '.join(key)}: {len(seen_rows[key])} rows, and one is right")
        [row], found = wanted_rows[key], seen_rows[key][0]
        for name, value in row.items():
            if not _is_same(name, value, found.get(name)):
                lines.append(f"{' '.join(key)}: {name} is {found.get(name)}, and should be {value}")
    return sorted(lines)


def _is_same(name: str, one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return abs(one - other) <= 0.501 * 0.1 ** DIGITS.get(name, 9)
    return bool(one == other)


def _groups(rows: list[Row], *keys: str) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def main() -> int:
    """Read the files and compare; returns the exit code."""
    parser = argparse.ArgumentParser(description="Compare the tables with the archive.")
    parser.add_argument("files", type=Path, nargs=3)
    parser.add_argument("--sensors", type=int, default=len(sensors()))
    options = parser.parse_args()
    by_sensor, by_region, answer = ([json.loads(line) for line in file.open()] for file in options.files)
    wanted = sensor_days(options.sensors)
    regions = region_days(wanted)
    wrong = differences(wanted, by_sensor, "dt", "sensor_id") + differences(regions, by_region, "dt", "region")
    wrong += differences([quality(wanted)], answer, "first_day")
    if wrong:
        print(f"error: {len(wrong):,} differences: {'; '.join(wrong[:3])}", file=sys.stderr)
        return 1
    print(f"All {len(wanted):,} days of sensors and {len(regions):,} of regions are as the archive makes them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
