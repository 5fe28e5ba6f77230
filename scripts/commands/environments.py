"""The environments of scripts/environments/, or of a file: what sets, say, dev apart from prod."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.commands.console import UsageError
from scripts.commands.stack import DEFAULT_STACK_NAME

FOLDER = Path(__file__).resolve().parents[1] / "environments"


@dataclass(frozen=True)
class Environment:
    """One file."""

    name: str
    parameters: dict[str, str]
    """Values of the template's parameters; what is given on the command line wins."""
    needs_one_of: list[str]
    """Parameters of which the stack must have one, with a value that no file can know, such as an e-mail address."""
    has_termination_protection: bool
    """Whether CloudFormation refuses to delete the stack."""

    @property
    def stack_name(self) -> str:
        """`prod` is deployed as the stack sluice-prod, unless another name is given."""
        return f"{DEFAULT_STACK_NAME}-{self.name}"

    def check(self, parameters: Mapping[str, str]) -> None:
        """Raise CommandError unless the effective parameters have what the environment needs."""
        if self.needs_one_of and not any(parameters.get(name) for name in self.needs_one_of):
            names = " or ".join(self.needs_one_of)
            raise UsageError(
                f"environment {self.name} needs {names}: give it once with --parameter {self.needs_one_of[0]}=..."
            )


def read(name: str) -> Environment:
    """The environment of this name, or in this file (*.json); CommandError if there is none."""
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in FOLDER.glob("*.json")))
        place = "" if name.endswith(".json") else f" in scripts/environments: {known}"
        raise UsageError(f"there is no environment '{name}'{place}")
    content = json.loads(path.read_text())
    return Environment(path.stem, content["parameters"], content["needsOneOf"], content["terminationProtection"])
