"""Imports run down only: command -> lake -> common -> lambda/."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FLOORS = {"lambda": 0, "common": 1, "lake": 2}
COMMAND = 3
"""Of each package or module in scripts/commands/, and of each folder of stacks/."""

EXCEPTIONS = {
    ("demo", "local"): "the demo is the other commands, one after the other",
    ("demo", "deploy"): "the demo is the other commands, one after the other",
    ("demo", "track"): "the demo is the other commands, one after the other",
}
PRODUCT = [
    path
    for folder in ("lambda", "local", "scripts/commands", "stacks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def room_of(module: str) -> str | None:
    """The room of a module by its full name: lambda, common, lake, a command, local or a stack; None outside."""
    names = module.split(".")
    match names:
        case ["scripts", "commands", room, *_]:
            return room
        case ["stacks", name, *_]:
            return f"stacks/{name}"
        case ["local", *_]:
            return "local/"
        case [name, *_] if (ROOT / "lambda" / name).is_dir():
            return "lambda"
    return None


def name_of(path: Path) -> str:
    """A file's name as a module; files in lambda/ are imported without this folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "lambda" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Each imported module with its line, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def complaint(importer: str, room: str, module: str) -> str:
    """The fault of an import of `module` in `importer`, with its remedy; empty if it is allowed."""
    if room == importer or (importer, room) in EXCEPTIONS:
        return ""
    if "local/" in (importer, room):
        return "local/ and the product never import each other: copy the fact, or let the local AWS read the template"
    if room.startswith("stacks/"):
        return f"only {room}/ itself may import it: delete the folder, and everything else must still run"
    floor = FLOORS.get(importer, COMMAND)
    if FLOORS.get(room, COMMAND) < floor:
        return ""
    lower = "lake/ if it is about the bucket, else common/" if floor == COMMAND else f"a floor below {importer}/"
    return f"move what both need from {module} to {lower}"


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down_only(path: Path) -> None:
    importer = str(room_of(name_of(path)))
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}: {reason}"
        for line, module in imports(path)
        if (room := room_of(module)) is not None and (reason := complaint(importer, room, module))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_used() -> None:
    used = {(room_of(name_of(path)), room_of(module)) for path in PRODUCT for _, module in imports(path)}
    assert not set(EXCEPTIONS) - used, "delete the exceptions that no module needs any more"
    assert len(EXCEPTIONS) <= 3


def test_a_refused_argument_waits_for_no_client() -> None:
    """botocore's sessions take longer to import than everything else, and `local.sh stop` needs none."""
    program = "import sys, scripts.commands.local, scripts.commands.query; print('botocore.session' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'lambda'}"}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment) == b"False\n"


@pytest.mark.parametrize(
    ("importer", "module", "told"),
    [
        ("erase", "scripts.commands.replay.zones", "lake/ if it is about the bucket, else common/"),
        ("lake", "scripts.commands.erase.zones", "a floor below lake/"),
        ("common", "scripts.commands.lake.bucket", "a floor below common/"),
        ("lambda", "scripts.commands.common.console", "a floor below lambda/"),
        ("deploy", "stacks.refine.folder", "only stacks/refine/ itself"),
        ("stacks/pull", "stacks.refine.folder", "only stacks/refine/ itself"),
        ("stacks/pull", "scripts.commands.query.query", "lake/ if it is about the bucket, else common/"),
        ("local/", "transform.records", "local/ and the product never import each other"),
        ("deploy", "local.server", "local/ and the product never import each other"),
    ],
)
def test_an_import_that_runs_up_or_sideways_is_told_where_to_move(importer: str, module: str, told: str) -> None:
    assert told in complaint(importer, str(room_of(module)), module)


@pytest.mark.parametrize(
    ("importer", "module"),
    [("erase", "scripts.commands.lake.zones"), ("lake", "transform.records"), ("stacks/pull", "shared.documents")],
)
def test_an_import_that_runs_down_is_allowed(importer: str, module: str) -> None:
    assert not complaint(importer, str(room_of(module)), module)
