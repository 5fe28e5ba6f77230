"""The table and the secrets of a pull."""

from __future__ import annotations

from typing import Any

import pytest

from shared.secret import SecretMissing
from stacks.pull.function import client as clients
from tests.memory_table import MemoryTable
from tests.stacks.pull.pulled import SECRETS


@pytest.fixture
def table(secrets: None) -> MemoryTable:
    return MemoryTable()


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """SECRETS in the place of Secrets Manager."""

    def read(arn: str, key: str, *, fresh: bool = False) -> Any:
        if key not in SECRETS:
            raise SecretMissing(f"no {key}")
        return SECRETS[key]

    monkeypatch.setattr(clients.secret, "read", read)
