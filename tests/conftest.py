"""A local AWS of the tests' own, on a free port and with a state of its own, and the scripts as a person runs them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings

from local.ministack import Emulator
from shared import secret

pytest_plugins = ["tests.browser", "tests.computed_once", "tests.deployed", "tests.track_api"]

ROOT = Path(__file__).resolve().parents[1]
SECONDS_OF_A_SLOW_TEST = 120

# Properties are held, not times: the machine may be doing something else.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell starts its background jobs with Ctrl-C ignored, and so would be every process of a test.
signal.signal(signal.SIGINT, signal.default_int_handler)

Run = Callable[..., subprocess.CompletedProcess[str]]


_set_attribute = pytest.MonkeyPatch.setattr


def _set_attribute_of_ours(patch: pytest.MonkeyPatch, target: Any, *arguments: Any, **options: Any) -> None:
    """Refuse to replace `time.sleep` and the like: every thread of the process would get the replacement."""
    name = target if isinstance(target, str) else target.__name__ if isinstance(target, ModuleType) else ""
    owner = name.split(".")[-2:][0] if isinstance(target, str) else name.partition(".")[0]
    if owner in sys.stdlib_module_names - {"builtins", "sys"}:
        pytest.fail(f"{name}: replace it in the module under test alone, with tests.factories.stand_in")
    _set_attribute(patch, target, *arguments, **options)


pytest.MonkeyPatch.setattr = _set_attribute_of_ours  # there is no hook for it


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show the name of a failed test at once, and not only when all tests have ended."""
    if not report.failed:
        return None
    category, word = ("failed", "FAILED") if report.when == "call" else ("error", "ERROR")
    return category, f"\n{word} {report.nodeid}\n", word


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Refuse processes and connections at import: all processes of a run must find the same tests."""
    refusal = RuntimeError("a test file may start no process and open no connection at import: use a fixture")
    with (
        mock.patch.object(subprocess, "Popen", side_effect=refusal),
        mock.patch.object(socket.socket, "connect", side_effect=refusal),
    ):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let midnight UTC pass before the test, so that its day is the same when it ends."""
    left = 86_400 - time.time() % 86_400
    if left < (SECONDS_OF_A_SLOW_TEST if item.get_closest_marker("slow") else 2):
        time.sleep(left)
    return (yield)


def environment_of_a_new_machine(**variables: str) -> dict[str, str]:
    """The environment of a person with these `variables` alone, at the tests' time."""
    # The paths of programs, and the shifted clock of scripts/test.sh.
    inherited = re.compile("PATH|TZ|LD_LIBRARY_PATH|LD_PRELOAD|DONT_FAKE_MONOTONIC|FAKETIME.*")
    return {name: value for name, value in os.environ.items() if inherited.fullmatch(name)} | variables


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """MiniStack in the tests' own process, at most one; its changes to the environment are taken back."""
    environment = dict(os.environ)
    emulator = Emulator(tmp_path_factory.mktemp("emulator"), port=1)
    os.environ.clear()
    os.environ.update(environment)
    return emulator


@pytest.fixture
def unread_secrets() -> None:
    """Secrets Manager is asked anew, by this test's own client."""
    secret.connect.cache_clear()
    secret.cache.clear()


def free_port() -> int:
    """A free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs `scripts/<name>.sh arguments...` with the environment of a new machine and a state of its own."""
    state = tmp_path_factory.mktemp("local-aws")
    environment = environment_of_a_new_machine(HOME=str(state / "home"), SLUICE_LOCAL_STATE=str(state / "aws"))

    def run(name: str, *arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(ROOT / "scripts" / f"{name}.sh"), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=500)
        if check and done.returncode:
            pytest.fail(f"{name}.sh {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def local_aws(script: Run) -> Iterator[str]:
    """The endpoint of a running local AWS."""
    port = free_port()
    script("local", "start", "--port", str(port))
    yield f"http://127.0.0.1:{port}"
    script("local", "stop")
