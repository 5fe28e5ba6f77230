"""The bucket of scripts/erase.sh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from tests.scripts.erase.erase_bucket import Bucket


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Bucket]:
    with mock_aws():
        yield Bucket(monkeypatch, capsys, tmp_path)
