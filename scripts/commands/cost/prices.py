"""AWS's list prices from scripts/prices/us-east-1.json, and the cost of a quantity by them.

The file has the tiers of each price, its source, and how strong the source is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared.documents import parse_json

PRICE_FILE = Path(__file__).resolve().parents[2] / "prices/us-east-1.json"


@dataclass(frozen=True)
class Price:
    """One price. `tiers` are (up to so many units a month, US dollars for `per` units); the last one has no end."""

    service: str
    item: str
    unit: str
    per: float
    tiers: tuple[tuple[float | None, float], ...]
    strength: str
    source: str

    def cost(self, quantity: float) -> float:
        """US dollars for so many units in one month."""
        total = begin = 0.0
        for end, dollars in self.tiers[:-1]:
            assert end is not None
            within = min(quantity, end - begin)
            total += within / self.per * dollars
            quantity, begin = quantity - within, end
        return total + quantity / self.per * self.tiers[-1][1]


@dataclass(frozen=True)
class Prices:
    """Every price by its key; `gathered` is the day on which the sources were read."""

    region: str
    gathered: str
    by_key: dict[str, Price]

    def __getitem__(self, key: str) -> Price:
        return self.by_key[key]


def read() -> Prices:
    """The prices of the file."""
    document = parse_json(PRICE_FILE.read_text())
    prices = {
        key: Price(**{**entry, "tiers": tuple((end, dollars) for end, dollars in entry["tiers"])})
        for key, entry in document["prices"].items()
    }
    return Prices(document["region"], document["gathered"], prices)
