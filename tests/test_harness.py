"""The tests run alike on every machine: Ctrl-C, one clock, an end to hanging tests, and names of failing ones."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import ROOT, environment_of_a_new_machine
from tests.factories import stand_in


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


def test_a_file_that_needs_a_process_or_a_connection_to_be_collected_is_refused(tmp_path: Path) -> None:
    code = """
import pytest, socket, subprocess
for ask in lambda: subprocess.run(["true"]), lambda: socket.create_connection(("127.0.0.1", 9)):
    with pytest.raises(RuntimeError, match="no process and open no connection at import"):
        ask()
subprocess.run(["true"])
def test_it(): pass
"""
    assert "1 error" in run_tests(tmp_path, code)


@pytest.mark.parametrize(("is_slow", "second", "waits"), [(True, 86_300, [100]), (False, 86_300, []), (True, 0, [])])
def test_a_test_does_not_begin_so_late_that_its_day_ends_before_it(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, is_slow: bool, second: int, waits: list[int]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(conftest, "time", stand_in(time, time=lambda: second, sleep=slept.append))
    item = stand_in(request.node, get_closest_marker=lambda _: is_slow)
    next(conftest.pytest_runtest_protocol(item))
    assert slept == waits


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a file that are run when it is imported: all but the bodies of functions."""
    yield node
    for name, value in ast.iter_fields(node):
        if not (isinstance(node, ast.FunctionDef | ast.Lambda) and name == "body"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from run_at_import(child)


def test_no_file_of_tests_reads_the_clock_when_it_is_imported() -> None:
    """The day of a value from then may be over when its test runs."""
    clocks = re.compile(r"(date|datetime)\.(now|today|utcnow)|time\.(time|time_ns|gmtime|localtime)|day")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}: ask for it in the test or in a fixture"
        for path in (ROOT / "tests").rglob("*.py")
        for node in run_at_import(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and clocks.fullmatch(ast.unparse(node.func))
    ]
    assert found == []
