"""The table and the secrets of a pull."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from shared.secret import SecretMissing
from stacks.pull.function import client as clients
from tests.stacks.pull.pulled import SECRETS


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, secrets: None) -> Iterator[Any]:
    """The table of stacks/pull/template.yaml."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        yield boto3.resource("dynamodb", region_name="us-east-1").create_table(
            TableName="pull",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("source", "item")],
            KeySchema=[{"AttributeName": "source", "KeyType": "HASH"}, {"AttributeName": "item", "KeyType": "RANGE"}],
        )


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """SECRETS in the place of Secrets Manager."""

    def read(arn: str, key: str, *, fresh: bool = False) -> Any:
        if key not in SECRETS:
            raise SecretMissing(f"no {key}")
        return SECRETS[key]

    monkeypatch.setattr(clients.secret, "read", read)
