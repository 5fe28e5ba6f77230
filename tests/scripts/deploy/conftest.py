"""scripts/deploy.sh as a person types it; S3, STS, KMS and Lake Formation are of moto."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto import mock_aws

from scripts.commands.common import stack
from scripts.commands.common.console import guarded
from scripts.commands.deploy import command as deploy
from tests.factories import stand_in
from tests.fake_cloudformation import FakeAws
from tests.scripts.deploy.change_sets import ChangeSets


@pytest.fixture(scope="session")
def clients() -> dict[str, Any]:
    """Made once, because making them takes longer than a test; each test has its own moto."""
    session = boto3.Session("testing", "testing", region_name="eu-west-1")
    # Whatever other tests have set AWS_ENDPOINT_URL to.
    config = Config(ignore_configured_endpoint_urls=True)
    return {service: session.client(service, config=config) for service in ("s3", "sts", "kms", "lakeformation")}


@pytest.fixture
def s3(clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    archive = tmp_path / "lambda-python3.13-arm64-0123.zip"
    archive.write_bytes(b"code")
    monkeypatch.setattr(deploy.build, "BUILD", tmp_path)
    monkeypatch.setattr(deploy.build, "build", lambda target: archive)
    with mock_aws():
        yield clients["s3"]


@pytest.fixture
def run(
    s3: Any, clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run the command against this CloudFormation, with this typed (None: no terminal): (exit code, stdout, stderr)."""
    for module in (deploy, stack):
        monkeypatch.setattr(module, "time", stand_in(time, sleep=lambda seconds: None))

    def command(
        cloudformation: ChangeSets, *arguments: str, typed: str | None = None, **others: Any
    ) -> tuple[int, str, str]:
        stdin = io.StringIO(typed or "")
        monkeypatch.setattr(stdin, "isatty", lambda: typed is not None)
        monkeypatch.setattr("sys.stdin", stdin)
        aws = FakeAws(**{**clients, "cloudformation": cloudformation, **others})
        monkeypatch.setattr(deploy, "session", lambda local: aws)
        code = guarded(deploy.deploy, [*arguments])
        return code, *capsys.readouterr()

    return command
