"""A deployed stack for tests that are not about deploying: one deployment, and a copy of its state for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local_process import LocalProcess

PARAMETERS = ("FirehoseBufferingInterval=1", "ThrottleRateLimit=10000", "ThrottleBurstLimit=5000")
Deployed = tuple[LocalProcess, dict[str, str]]


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """A local AWS with a stack that delivers within a second, stopped; and the stack's outputs."""
    with LocalProcess(tmp_path_factory.mktemp("deployed")) as process:
        return process, process.deploy(*PARAMETERS)


@pytest.fixture
def local(deployed: Deployed, tmp_path: Path) -> Iterator[LocalProcess]:
    """The same local AWS on a port of the test's own."""
    with LocalProcess(shutil.copytree(deployed[0].directory, tmp_path / "aws")) as process:
        yield process


@pytest.fixture
def outputs(deployed: Deployed, local: LocalProcess) -> dict[str, str]:
    """The outputs of the stack there."""
    return {key: value.replace(deployed[0].endpoint, local.endpoint) for key, value in deployed[1].items()}
