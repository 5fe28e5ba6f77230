"""The environments of scripts/environments/, or of a file: the differences between, say, dev and prod."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.commands.common.console import UsageError
from scripts.commands.common.stack import DEFAULT_STACK_NAME
from shared.documents import parse_json

_KINDS: Final = {
    "parameters": (dict, "an object"),
    "needsOneOf": (list, "a list"),
    "terminationProtection": (bool, "true or false"),
}
"""The keys of a file, each with its type and how to call it."""

FOLDER = Path(__file__).resolve().parents[2] / "environments"


@dataclass(frozen=True)
class Environment:
    """One file."""

    name: str
    parameters: dict[str, str]
    """Values of the template's parameters; those on the command line win."""
    needs_one_of: list[str]
    """The stack must have one of these parameters, with a value unknown to any file, such as an e-mail address."""
    has_termination_protection: bool
    """Whether CloudFormation refuses to delete the stack."""

    @property
    def stack_name(self) -> str:
        """`prod` is deployed as the stack sluice-prod, unless another name is given."""
        return f"{DEFAULT_STACK_NAME}-{self.name}"

    def check(self, parameters: Mapping[str, str]) -> None:
        """Raise UsageError unless the effective parameters have one of `needs_one_of`."""
        if self.needs_one_of and not any(parameters.get(name) for name in self.needs_one_of):
            names = " or ".join(self.needs_one_of)
            raise UsageError(
                f"environment {self.name} needs {names}: give it once with --parameter {self.needs_one_of[0]}=..."
            )


def read(name: str) -> Environment:
    """The environment of this name, or in this file (*.json); UsageError if there is none or it is malformed."""
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in FOLDER.glob("*.json")))
        place = "" if name.endswith(".json") else f" in scripts/environments: {known}"
        raise UsageError(f"there is no environment '{name}'{place}")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error
    if problem := _problem(content):
        raise UsageError(f"{path} {problem}; write it like scripts/environments/dev.json")
    return Environment(path.stem, content["parameters"], content["needsOneOf"], content["terminationProtection"])


def _problem(content: Any) -> str | None:
    """The fault in a file's content, as the end of a sentence about it; None if there is none."""
    if not isinstance(content, dict):
        return "must be a JSON object"
    for key, (kind, name) in _KINDS.items():
        if key not in content:
            return f'has no key "{key}"'
        if not isinstance(content[key], kind):
            return f'must have {name} as "{key}" (got {json.dumps(content[key])[:80]})'
    if unknown := content.keys() - _KINDS:
        return f'has the key "{min(unknown)}", and only {", ".join(_KINDS)} have a meaning'
    for name, value in [*content["parameters"].items(), *(("needsOneOf", each) for each in content["needsOneOf"])]:
        if not isinstance(value, str):
            return f'must have a text in quotes for "{name}" (got {json.dumps(value)[:80]})'
    return None
