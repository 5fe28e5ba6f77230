"""The tests run alike on every machine: Ctrl-C, one clock, an end to hanging tests, and names of failing ones."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT, environment_of_a_new_machine


def run_tests(directory: Path, code: str, *options: str, ignore: str = "") -> str:
    """The output of pytest for `code` with our configuration, started by a shell with a signal ignored."""
    (directory / "test_inner.py").write_text(code)
    pytest = [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", "-p", "tests.conftest", *options]
    shell = ["bash", "-c", f'trap "" {ignore}; exec "$@"' if ignore else 'exec "$@"', "bash"]
    return subprocess.run([*shell, *pytest, directory], cwd=ROOT, capture_output=True, text=True).stdout


def test_processes_take_ctrl_c_when_the_tests_run_in_the_background(tmp_path: Path) -> None:
    code = """
import signal, subprocess, sys
def test_it():
    code = "import signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True)
"""
    assert "1 passed" in run_tests(tmp_path, code, ignore="INT")


def test_a_test_that_hangs_ends_and_the_next_one_runs(tmp_path: Path) -> None:
    code = "import time\ndef test_hung(): time.sleep(3600)\ndef test_next(): pass\n"
    assert "1 failed, 1 passed" in run_tests(tmp_path, code, "-o", "timeout=0.2")


def test_a_failure_is_named_before_the_next_test_starts(tmp_path: Path) -> None:
    code = """
import pytest
@pytest.fixture
def broken(): raise OSError
def test_bad(): assert False
def test_worse(broken): pass
def test_next(): print("the next one")
"""
    told = run_tests(tmp_path, code, "--capture=no")
    places = [told.index(part) for part in ("FAILED test_inner.py::test_bad\n", "ERROR test_inner.py::test_worse\n")]
    assert max(places) < told.index("the next one")


def test_processes_have_the_clock_and_the_time_zone_of_the_tests() -> None:
    date = subprocess.run(["date", "+%s %z"], env=environment_of_a_new_machine(), capture_output=True, text=True).stdout
    seconds, zone = date.split()
    assert abs(time.time() - int(seconds)) < 3600
    assert zone == time.strftime("%z")
