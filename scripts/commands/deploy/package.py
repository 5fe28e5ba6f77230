"""Writes a folder for another pipeline to deploy the stack from, and gives the commands to deploy it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from scripts.commands.common.console import UsageError, say
from scripts.commands.deploy import build, template
from scripts.commands.deploy.product import Product

FILES = "files"
"""The folder in it with the files for the bucket: they must be there before the template is deployed."""


def write(folder: Path, product: Product, target: build.Target, given: Mapping[str, str]) -> None:
    """Write the complete template, the files named in it, and a value for each parameter into an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder: give a new one, or empty it")
    archive = build.build(target)
    (folder / FILES).mkdir(parents=True)
    files = folder / FILES
    text, parameters = product.complete(archive, {}, given, lambda name, content: (files / name).write_bytes(content))
    (folder / "template.yaml").write_text(text)
    # Version 1 of the AWS CLI reads no other form than this.
    values = [f"{name}={value}" for name, value in parameters.items()]
    (folder / "parameters.json").write_text(json.dumps(values, indent=2) + "\n")
    *fixed, last = sorted(template.parameters_of_api(product.template))
    say(
        f"The API's deployment fits the values in parameters.json alone. To change {', '.join(fixed)} or {last}, "
        f"package again: if your pipeline overrides one of them, the API stays as it was.\n"
        f"These commands deploy the package:"
    )


def commands(folder: Path, stack_name: str, bucket: str, *, protects: bool) -> list[str]:
    """The commands of the AWS CLI to deploy a package."""
    deploy = {
        "--stack-name": stack_name,
        "--template-file": str(folder / "template.yaml"),
        "--s3-bucket": bucket,
        "--parameter-overrides": f"file://{folder / 'parameters.json'}",
        "--capabilities": "CAPABILITY_IAM",
    }
    found = [
        ["aws", "s3", "cp", str(folder / FILES), f"s3://{bucket}/", "--recursive"],
        ["aws", "cloudformation", "deploy", *(word for option in deploy.items() for word in option)],
    ]
    if protects:
        protection = ["--enable-termination-protection", "--stack-name", stack_name]
        found.append(["aws", "cloudformation", "update-termination-protection", *protection])
    return [shlex.join(command) for command in found]
