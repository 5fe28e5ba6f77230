"""The picture for a result, and the numbers from which the templates draw it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from scripts.commands.common.tables import Column, Row

MOST_BARS: Final = 20
_TIME: Final = re.compile(r"\d{4}-\d\d(-\d\d([ T]\d\d:\d\d.*)?)?")


@dataclass(frozen=True)
class Chart:
    """A picture of two columns: `kind` is line, bars or number. Labels and texts are in the order of the values."""

    kind: str
    title: str
    labels: list[str]
    values: list[float]
    texts: list[str]

    @property
    def least(self) -> float:
        """The lower end of the scale."""
        return min(0.0, *self.values, 0.0)

    @property
    def most(self) -> float:
        """The upper end of the scale."""
        return max(0.0, *self.values, 0.0)

    def share(self, value: float) -> float:
        """How far a value is along the scale, from 0 to 100."""
        span = self.most / 2 - self.least / 2  # the whole of it may be more than a double holds
        return round((value / 2 - self.least / 2) / span * 100, 2) if span else 0.0

    @property
    def path(self) -> str:
        """The line in a box of 100 by 100, as SVG's path has it."""
        step = 100 / max(1, len(self.values) - 1)
        points = [f"{number * step:.2f} {100 - self.share(value)}" for number, value in enumerate(self.values)]
        return "M" + " L".join(points)


def chart_of(columns: list[Column], rows: list[Row]) -> Chart | None:
    """Time by number is a line, text by number is bars, one number is itself; None if nothing fits."""
    numbers = [index for index, column in enumerate(columns) if column.is_number]
    if len(rows) == 1 and len(columns) == 1 and numbers and rows[0][0] is not None:
        return Chart("number", columns[0].name, [], [], [rows[0][0]])
    if not numbers or not 1 <= numbers[0] <= 2 or len(rows) < 2:
        return None
    index = numbers[0]
    found = [
        (" / ".join(cell or "(none)" for cell in row[:index]), number, str(row[index]))
        for row in rows
        if (number := _finite(row[index])) is not None
    ]
    is_time = all(_TIME.fullmatch(label) for label, _, _ in found)
    labels = [label for label, _, _ in found]
    if len(found) < 2 or len(set(labels)) < len(labels):
        return None  # several rows with one label: a picture would mislead
    found = sorted(found) if is_time else found[:MOST_BARS]
    title = f"{columns[index].name} by {' and '.join(column.name for column in columns[:index])}"
    kind = "line" if is_time else "bars"
    return Chart(kind, title, *(list(part) for part in zip(*found, strict=True)))


def _finite(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
