"""Clients of boto3 made once for all tests: making one takes longer than most tests, and each test has its own moto."""

from __future__ import annotations

from functools import cache
from typing import Any

import boto3
from botocore.config import Config


@cache
def client(service: str, region: str = "us-east-1") -> Any:
    """A test that registers a handler of events makes a client of its own instead."""
    # Other tests may have set AWS_ENDPOINT_URL.
    config = Config(ignore_configured_endpoint_urls=True)
    return boto3.Session("test", "test", region_name=region).client(service, config=config)
