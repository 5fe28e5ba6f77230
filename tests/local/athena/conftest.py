"""A lake with three rows, and the local Athena over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lake import ROWS, Client, Lake, day


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    lake.add_table("records")
    lake.put_parquet(f"events/dt={day()}/a.parquet", ROWS)
    return lake


@pytest.fixture
def client(lake: Lake, tmp_path: Path) -> Client:
    return Client(lake, tmp_path / "athena")
