"""Builds the zip of lambda/ and the functions of stacks/: one for all, with libraries for the target machine."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from scripts.commands.common.console import CommandError
from scripts.commands.common.paths import HOME, LAMBDA, STACKS

KEPT_SECONDS = 3600
"""How long the zip of other code is kept."""
SOURCE = LAMBDA
BUILD = HOME / "build"


@dataclass(frozen=True)
class Target:
    """A machine to run functions on; `pip_options` make pip fetch the libraries for it."""

    name: str
    pip_options: tuple[str, ...]


# As the functions' Runtime and Architectures in the template.
AWS = Target(
    "python3.13-arm64",
    ("--platform=manylinux2014_aarch64", "--implementation=cp", "--python-version=3.13", "--only-binary=:all:"),
)
# The local AWS runs functions with its own interpreter.
LOCAL = Target(f"local-{sys.implementation.cache_tag}", ())


def build(target: Target) -> Path:
    """Build and return the zip. Its name has its content's hash: the same code is the same object in S3."""
    BUILD.mkdir(parents=True, exist_ok=True)
    # One after the other: two would fetch the libraries into the same folder.
    with (BUILD / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(target)


def _build(target: Target) -> Path:
    libraries = _libraries(target)
    draft = BUILD / f"lambda-{target.name}.draft"
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        functions = {folder: f"{folder.parent.name}/" for folder in sorted(STACKS.glob("*/function"))}
        for root, package in {SOURCE: "", libraries: "", **functions}.items():
            for path in sorted(root.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts and path.stem != "requirements":
                    _add(archive, path, package + path.relative_to(root).as_posix())
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()[:16]
    built = draft.replace(BUILD / f"lambda-{target.name}-{digest}.zip")
    # A deployment running beside this one may still have to upload its own.
    oldest = built.stat().st_mtime - KEPT_SECONDS
    for path in BUILD.glob(f"lambda-{target.name}-*.zip"):
        if path.stat().st_mtime < oldest:
            path.unlink()
    return built


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    # No time and no mode of this machine: they would change the hash where the code has not changed.
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, path.read_bytes())


def _libraries(target: Target) -> Path:
    """A folder with the libraries, made once for each version of the requirements."""
    requirements = SOURCE / "requirements.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    folder = BUILD / f"libraries-{target.name}-{digest}"
    if folder.exists():
        return folder
    # Those of before, and the leftovers of an interrupted run: pip would keep half a library as it is.
    for path in BUILD.glob(f"libraries-{target.name}-*"):
        shutil.rmtree(path)
    draft = BUILD / f"{folder.name}.draft"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(draft), *target.pip_options, "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "ERROR" in line), done.stderr.strip())
        raise CommandError(f"pip could not fetch lambda/requirements.txt for {target.name}: {reason}")
    return draft.rename(folder)
