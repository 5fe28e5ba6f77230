"""Fixtures of the local Firehose's tests."""

from __future__ import annotations

import pytest

from tests.local.firehose.firehose_fakes import FakeEmulator


@pytest.fixture
def emulator() -> FakeEmulator:
    return FakeEmulator()
