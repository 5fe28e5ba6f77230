"""Compares the saved queries' results with the fleet's generator.

    python -m examples.vehicles.check GAPS.ndjson COUNTS.ndjson

The files are the output of scripts/query.sh --format json for mean-gap-by-vehicle-type and for
measurements-by-day-and-type. Exit codes: 0 they agree, 1 they do not.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from examples.vehicles import fleet

ROUNDING = 0.000501
"""The tolerance in seconds of a mean rounded to milliseconds."""

TYPES = {vehicle.vehicle_id: vehicle.vehicle_type for vehicle in fleet.vehicles()}


def day(measurement: fleet.Measurement) -> str:
    """The day of a measurement, in UTC."""
    return datetime.fromtimestamp(measurement.timestamp / 1000, UTC).date().isoformat()


@cache
def mean_gaps() -> dict[str, float]:
    """The mean of the vehicles' mean gaps in seconds, within a day, by type."""
    gaps: defaultdict[str, list[float]] = defaultdict(list)
    for vehicle in fleet.vehicles():
        measured = [each for each in fleet.measurements_of(vehicle) if each.sensor_value is not None]
        pairs = ((one, other) for one, other in itertools.pairwise(measured) if day(one) == day(other))
        own = mean((other.timestamp - one.timestamp) / 1000 for one, other in pairs)
        gaps[vehicle.vehicle_type].append(own)
    return {kind: mean(each) for kind, each in gaps.items()}


@cache
def counts() -> dict[tuple[str, str], tuple[int, int]]:
    """How many measurements there are of a day and a type, and how many of them have a value."""
    keys = [(day(each), TYPES[each.vehicle_id], each.sensor_value is not None) for each in fleet.measurements()]
    all_of, measured = Counter(key[:2] for key in keys), Counter(key[:2] for key in keys if key[2])
    return {key: (all_of[key], measured[key]) for key in all_of}


def differences(gaps: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[str]:
    """The differences between the queries and the generator, a line each."""
    by_type = {row["vehicle_type"]: row["mean_gap_seconds"] for row in gaps}
    by_day = {(row["dt"], row["vehicle_type"]): (row["measurements"], row["measured"]) for row in found}
    lines = [
        f"{kind}: the mean gap is {wanted:.6f} s, the query says {by_type.get(kind)}"
        for kind, wanted in mean_gaps().items()
        if not math.isclose(by_type.get(kind, math.nan), wanted, rel_tol=0, abs_tol=ROUNDING)
    ]
    wanted_counts = counts()
    lines += [
        f"{key}: there are {wanted_counts.get(key)} measurements, the query says {by_day.get(key)}"
        for key in sorted(wanted_counts.keys() | by_day.keys())
        if wanted_counts.get(key) != by_day.get(key)
    ]
    return lines + ([f"there are too many types: {', '.join(by_type)}"] if len(by_type) != len(mean_gaps()) else [])


def main() -> int:
    """Read both files; returns the exit code."""
    gaps, found = ([json.loads(line) for line in Path(name).read_text().splitlines()] for name in sys.argv[1:3])
    lines = differences(gaps, found)
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    if not lines:
        print(f"Both queries say what the generator says, of {len(fleet.measurements()):,} measurements")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
