"""Every library is pinned with its hashes, and the pins are the ones people wrote."""

from __future__ import annotations

import re
from pathlib import Path

import botocore.compat
import pytest

from tests.conftest import ROOT

WRITTEN = [ROOT / "lambda/requirements.in", *sorted((ROOT / "scripts/requirements").glob("*.in"))]


def pins(text: str) -> dict[str, str]:
    """Versions by name, lower case and with hyphens."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[\w,]+\])?==([^\s;\\]+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_what_people_wrote_is_what_is_locked(path: Path) -> None:
    locked = pins(path.with_suffix(".txt").read_text())
    wrong = {name: version for name, version in pins(path.read_text()).items() if locked.get(name) != version}
    assert wrong == {}, f"run scripts/lock.sh: {path.with_suffix('.txt').name} has other versions"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_every_library_is_pinned_with_a_hash(path: Path) -> None:
    text = re.sub(r"^#.*\n", "", path.with_suffix(".txt").read_text(), flags=re.MULTILINE)
    entries = text.replace("\\\n", " ").strip().splitlines()
    assert len(entries) >= (1 if path.stem == "uv" else 4)
    assert [one.split(" ")[0] for one in entries if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", one)] == []
    assert "://" not in text, "a lock names no place that libraries come from"


def test_sets_that_share_an_environment_have_the_same_pins() -> None:
    """scripts/environment.sh installs them side by side: the second one would replace libraries of the first one."""
    found: dict[str, set[str]] = {}
    for name in ("aws", "erase", "local", "test"):
        for library, version in pins((ROOT / f"scripts/requirements/{name}.txt").read_text()).items():
            found.setdefault(library, set()).add(version)
    assert {library: versions for library, versions in found.items() if len(versions) > 1} == {}


def test_a_profile_of_aws_login_finds_what_it_needs() -> None:
    """botocore refuses such a profile without awscrt."""
    assert "awscrt" in pins((ROOT / "scripts/requirements/aws.txt").read_text())
    assert botocore.compat.HAS_CRT


def test_the_lock_script_makes_every_lock() -> None:
    script = (ROOT / "scripts/lock.sh").read_text()
    (names,) = re.findall(r"scripts/requirements/\{([\w,]+)\}", script)
    assert set(names.split(",")) == {path.stem for path in WRITTEN[1:]}
    assert "for file in lambda/requirements " in script
