"""A local API Gateway, and one with an API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway import Gateway
from tests.local.apigateway.ingest_api import BODY


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


@pytest.fixture
def live(gateway: Gateway) -> Gateway:
    gateway.deploy(BODY)
    return gateway
