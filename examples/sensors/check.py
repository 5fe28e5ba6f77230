"""Compares a query's rows with the warehouse's: they must be the same, no more and no fewer.

    scripts/query.sh --format json celsius-readings ... | python check.py rows.db

Exit codes: 0 the same rows, 1 others.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from contextlib import closing

from examples.sensors.warehouse import COLUMNS

Row = tuple[object, ...]


def compare(found: Counter[Row], held: Counter[Row]) -> str | None:
    """The difference, or None."""
    missing, surplus = found - held, held - found
    if not missing and not surplus:
        return None
    example = next(iter(missing or surplus))
    where = "the query" if missing else "the warehouse"
    return f"{missing.total():,} rows are missing, {surplus.total():,} are too many; one only in {where}: {example}"


def main() -> int:
    """Read the query's rows from standard input, the warehouse's from the database; returns the exit code."""
    rows = [json.loads(line) for line in sys.stdin]
    found = Counter(tuple(row[name] for name in COLUMNS) for row in rows)
    with closing(sqlite3.connect(sys.argv[1])) as connection:
        held = Counter(connection.execute(f"SELECT {', '.join(COLUMNS)} FROM readings").fetchall())
    if difference := compare(found, held):
        print(
            f"error: the query has {found.total():,} rows, the warehouse {held.total():,}: {difference}",
            file=sys.stderr,
        )
        return 1
    print(f"The warehouse holds exactly the {found.total():,} rows of the query")
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
