"""Builds the zip of lambda/: one for all functions, with the pinned libraries for the machine that it will run on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from scripts.commands.console import CommandError

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "lambda"
BUILD = REPOSITORY / ".sluice" / "build"


@dataclass(frozen=True)
class Target:
    """A machine that functions run on; `pip_options` make pip fetch the libraries for it."""

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
    """Build and return the zip. Its name is its content's hash, so that the same code is the same object in S3."""
    libraries = _libraries(target)
    draft = BUILD / f"lambda-{target.name}-{os.getpid()}.draft"
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for root in (SOURCE, libraries):
            for path in sorted(root.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts and path.stem != "requirements":
                    _add(archive, path, path.relative_to(root).as_posix())
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()[:16]
    built = draft.replace(BUILD / f"lambda-{target.name}-{digest}.zip")
    for path in BUILD.glob(f"lambda-{target.name}-*.zip"):
        if path != built:
            path.unlink(missing_ok=True)
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
    for path in BUILD.glob(f"libraries-{target.name}-*"):
        shutil.rmtree(path, ignore_errors=True)
    draft = folder.with_suffix(".draft")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(draft), *target.pip_options, "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "ERROR" in line), done.stderr.strip())
        raise CommandError(f"pip could not fetch lambda/requirements.txt for {target.name}: {reason}")
    return draft.rename(folder)
