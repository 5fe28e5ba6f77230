"""Compares a query's daily figures with the records' own.

    scripts/query.sh --format json daily-by-source | python -m examples.datalake.check

Exit codes: 0 the same, 1 others.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from examples.datalake.records import SAMPLE, records

Json = dict[str, Any]
Figures = dict[tuple[str, str], dict[str, Any]]

COMPARED = ("records", "devices", "perfect_records", "mean_temperature")
TOLERANCE = 0.0051  # of a mean rounded to two digits


def expected() -> Figures:
    """The figures by day and source, counted from the records alone."""
    by_day: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for record in [SAMPLE, *records()]:
        time = datetime.fromisoformat(record["data"]["timestamp"]).astimezone(UTC)
        by_day[time.date().isoformat(), record["source"]].append(record)
    return {key: _figures(group) for key, group in by_day.items()}


def _figures(group: list[Json]) -> dict[str, Any]:
    devices = {record["data"]["device_id"] for record in group if "device_id" in record["data"]}
    true = [one["data"]["temperature"] for one in group if abs(one["data"].get("temperature", 999)) <= 60]
    perfect = [
        one for one in group if "location" in one.get("metadata", {}) and abs(one["data"].get("temperature", 999)) <= 60
    ]
    mean = sum(true) / len(true) if true else None
    return {
        "records": len(group),
        "devices": len(devices),
        "perfect_records": len(perfect),
        "mean_temperature": mean,
    }


def found(lines: list[str]) -> Figures:
    """The figures of the query, by day and source."""
    rows = [json.loads(line) for line in lines]
    return {(row["day"], row["source"]): {name: row[name] for name in COMPARED} for row in rows}


def differences(wanted: Figures, seen: Figures) -> list[str]:
    """The differences, a line each."""
    lines = [f"{' '.join(key)}: no such row" for key in wanted.keys() - seen.keys()]
    lines += [f"{' '.join(key)}: a row too many" for key in seen.keys() - wanted.keys()]
    for key in wanted.keys() & seen.keys():
        for name in COMPARED:
            one, other = wanted[key][name], seen[key][name]
            if one != other and (one is None or other is None or abs(one - other) > TOLERANCE):
                lines.append(f"{' '.join(key)}: {name} is {other}, and should be {one}")
    return sorted(lines)


def main() -> int:
    """Read the query's rows from standard input; returns the exit code."""
    wanted = expected()
    if wrong := differences(wanted, found(sys.stdin.readlines())):
        print(f"error: the figures do not add up: {'; '.join(wrong[:3])}", file=sys.stderr)
        return 1
    count = sum(figures["records"] for figures in wanted.values())
    print(f"All {count:,} records are there, each once, and the {len(wanted)} daily figures are those of the records")
    return 0


if __name__ == "__main__":
    sys.exit(main())
