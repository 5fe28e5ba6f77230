"""The zip of lambda/: the same code is the same file, with libraries for the machine of the functions."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.common.console import CommandError
from scripts.commands.deploy import build, template
from tests.factories import stand_in

MACHINE = build.Target("machine", ("--platform=any",))
OTHER = build.Target("other", ())
AARCH64 = 183  # EM_AARCH64 of an ELF header


class Pip:
    """Takes the place of the pip command: notes its commands, and makes a library in the target folder."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.stderr = ""

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        library = Path(command[command.index("--target") + 1]) / "orjson"
        library.mkdir(parents=True)
        (library / "__init__.py").write_text("# the library\n")
        (library / "__pycache__").mkdir()
        (library / "__pycache__" / "orjson.pyc").write_text("")
        return subprocess.CompletedProcess(command, 1 if self.stderr else 0, "", self.stderr)


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    """A copy of lambda/ to build from, a folder to build in, and no network."""
    pip = Pip()
    shutil.copytree(build.SOURCE, tmp_path / "lambda")
    monkeypatch.setattr(build, "SOURCE", tmp_path / "lambda")
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    monkeypatch.setattr(build, "subprocess", stand_in(subprocess, run=pip))
    return pip


def names(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


def test_the_zip_holds_the_code_and_the_libraries_and_nothing_else(pip: Pip) -> None:
    (build.SOURCE / "transform" / "__pycache__").mkdir(exist_ok=True)
    (build.SOURCE / "transform" / "__pycache__" / "handler.pyc").write_text("")
    found = names(build.build(MACHINE))
    assert {"transform/handler.py", "transform/rules.py", "transform/schema.json", "orjson/__init__.py"} <= found
    assert not [name for name in found if "__pycache__" in name or name.endswith("requirements.txt")]


def test_the_same_code_is_the_same_file_whenever_and_wherever_it_is_built(pip: Pip, tmp_path: Path) -> None:
    first = build.build(MACHINE)
    content = first.read_bytes()
    for path in build.SOURCE.rglob("*.py"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o600)
    shutil.rmtree(build.BUILD)
    again = build.build(MACHINE)
    assert (again.name, again.read_bytes()) == (first.name, content)


def test_other_code_is_another_file_and_the_old_one_goes_after_an_hour(pip: Pip) -> None:
    first, others = build.build(MACHINE), build.build(OTHER)
    rules = build.SOURCE / "transform" / "rules.py"
    rules.write_text(rules.read_text() + "\n# mine\n")
    second = build.build(MACHINE)
    assert second.name != first.name
    assert sorted(build.BUILD.glob("*.zip")) == sorted([first, second, others])
    for old in (first, others):
        os.utime(old, (0, 0))
    assert build.build(MACHINE) == second
    assert sorted(build.BUILD.glob("*.zip")) == sorted([second, others])
    assert not list(build.BUILD.glob("*.draft"))


def test_libraries_are_fetched_once_for_each_version_and_machine(pip: Pip) -> None:
    for target in (MACHINE, MACHINE, OTHER, MACHINE):
        build.build(target)
    assert len(pip.commands) == 2
    assert "--platform=any" in pip.commands[0] and "--platform=any" not in pip.commands[1]
    (build.SOURCE / "requirements.txt").write_text("orjson==0.0.0\n")
    build.build(MACHINE)
    assert len(pip.commands) == 3
    assert len(list(build.BUILD.glob("libraries-machine-*"))) == 1


def test_what_pip_cannot_fetch_is_said_and_tried_again_the_next_time(pip: Pip) -> None:
    pip.stderr = "WARNING: Retrying\nERROR: No matching distribution found for orjson==9\nmore\n"
    with pytest.raises(CommandError) as caught:
        build.build(MACHINE)
    assert str(caught.value) == (
        "pip could not fetch lambda/requirements.txt for machine: ERROR: No matching distribution found for orjson==9"
    )
    assert not list(build.BUILD.glob("*.zip"))
    pip.stderr = ""
    assert "orjson/__init__.py" in names(build.build(MACHINE))


def test_half_a_library_of_an_interrupted_run_is_not_used(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(command: list[str], **options: Any) -> None:
        half = Path(command[command.index("--target") + 1]) / "orjson"
        half.mkdir(parents=True)
        (half / "half.py").write_text("")
        raise KeyboardInterrupt

    target = build.Target("python3.13-machine", ())
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(build, "subprocess", stand_in(subprocess, run=interrupt))
        build.build(target)
    assert "orjson/half.py" not in names(build.build(target))


def test_two_at_a_time_fetch_the_libraries_once(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def wait_for_the_other(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.3)
        return pip(command, **options)

    monkeypatch.setattr(build, "subprocess", stand_in(subprocess, run=wait_for_the_other))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(build.build, [MACHINE, MACHINE])
    assert (len(pip.commands), first) == (1, second)


def test_the_libraries_are_for_the_machine_that_the_template_asks_for() -> None:
    functions = [
        resource["Properties"]
        for resource in template.load(template.TEMPLATE.read_text())["Resources"].values()
        if resource["Type"] == "AWS::Lambda::Function"
    ]
    assert functions
    for function in functions:
        assert build.AWS.name == f"{function['Runtime']}-{function['Architectures'][0]}"
        assert f"--python-version={function['Runtime'].removeprefix('python')}" in build.AWS.pip_options
    assert "--platform=manylinux2014_aarch64" in build.AWS.pip_options


@pytest.mark.slow
def test_the_libraries_for_aws_are_compiled_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetches them from the package registry."""
    monkeypatch.setattr(build, "BUILD", tmp_path)
    with zipfile.ZipFile(build.build(build.AWS)) as archive:
        compiled = [name for name in archive.namelist() if name.endswith(".so")]
        assert [name for name in compiled if name.startswith("orjson/")]
        for name in compiled:
            header = archive.read(name)[:20]
            assert "cpython-313-aarch64" in name
            assert header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") == AARCH64
