"""A local AWS of the tests' own, on a free port and with a state of its own, and the scripts as a person runs them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from local.emulator import Emulator

ROOT = Path(__file__).resolve().parents[1]

# Properties are held, not times: the machine may be doing something else.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """MiniStack in the tests' own process, which takes one only; what it sets in the environment is taken back."""
    environment = dict(os.environ)
    emulator = Emulator(tmp_path_factory.mktemp("emulator"), port=1)
    os.environ.clear()
    os.environ.update(environment)
    return emulator


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs `scripts/<name>.sh arguments...` with the environment of a new machine and a state of its own."""
    state = tmp_path_factory.mktemp("local-aws")
    environment = {"PATH": os.environ["PATH"], "HOME": str(state / "home"), "SLUICE_LOCAL_STATE": str(state / "aws")}

    def run(name: str, *arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(ROOT / "scripts" / f"{name}.sh"), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=180)
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
