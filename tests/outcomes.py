"""The transform's outcomes for the events of one record."""

from __future__ import annotations

from typing import Any

from tests import factories
from transform.events import Accepted, Dropped, Outcome, Rejected, transform
from transform.rules import Settings

SETTINGS = Settings()


def outcomes(content: Any, **context: Any) -> list[Outcome]:
    return transform(factories.record(content, **context), 0, SETTINGS)


def row(content: Any, settings: Settings = SETTINGS, **context: Any) -> dict[str, Any]:
    """The row of the only event of a record."""
    [outcome] = transform(factories.record(content, **context), 0, settings)
    assert isinstance(outcome, Accepted), outcome
    [found] = factories.rows(outcome)
    return found


def reason(content: Any) -> str:
    """Why the only event of a record is rejected."""
    [outcome] = outcomes(content)
    assert isinstance(outcome, Rejected), outcome
    return outcome.reason


def kinds(found: list[Outcome]) -> list[str]:
    """For each event the reason why it was rejected, or else accepted or dropped."""
    names = {bytes: "accepted", Dropped: "dropped"}
    return [outcome.reason if isinstance(outcome, Rejected) else names[type(outcome)] for outcome in found]
