"""AWS's list prices out of a price file, and what a quantity costs by them.

A price file (scripts/prices/us-east-1.json) says of each price what it is for, in tiers, how strong its source is, and
where it was found.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from scripts.commands.console import UsageError

PRICE_FILE = Path(__file__).resolve().parents[1] / "prices/us-east-1.json"


@dataclass(frozen=True)
class Price:
    """One price.

    `tiers` are (up to so many units a month, US dollars for `per` units); the last one goes on without an end. `free`
    units a month cost nothing in every account.
    """

    service: str
    item: str
    unit: str
    per: float
    tiers: tuple[tuple[float | None, float], ...]
    strength: str
    source: str
    free: float

    def cost(self, quantity: float, *, with_free_tier: bool = False) -> float:
        """US dollars for so many units in one month."""
        left = max(quantity - self.free, 0.0) if with_free_tier else quantity
        total = begin = 0.0
        for end, dollars in self.tiers[:-1]:
            assert end is not None
            within = min(left, end - begin)
            total += within / self.per * dollars
            left, begin = left - within, end
        return total + left / self.per * self.tiers[-1][1]


@dataclass(frozen=True)
class Prices:
    """Every price of one file by its key; `gathered` is the day on which the sources were read."""

    region: str
    gathered: str
    by_key: dict[str, Price]

    def __getitem__(self, key: str) -> Price:
        return self.by_key[key]


def read(path: Path = PRICE_FILE) -> Prices:
    """The prices of a file; CommandError if it cannot be read, or is no price file."""
    try:
        document = json.loads(path.read_text())
        prices = {
            key: Price(
                entry["service"],
                entry["item"],
                entry["unit"],
                float(entry["per"]),
                tuple((None if end is None else float(end), float(dollars)) for end, dollars in entry["tiers"]),
                entry["strength"],
                entry["source"],
                float(entry.get("free_per_month", 0)),
            )
            for key, entry in document["prices"].items()
        }
        return Prices(document["region"], document["gathered"], prices)
    except OSError as error:
        raise UsageError(f"the price file {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no price file ({error!r}): write it like {PRICE_FILE}") from error
