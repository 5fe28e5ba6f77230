"""The nested stacks of stacks/, and their additions to the template: parameters, a condition, a resource and outputs.

The template.yaml in a folder of stacks/ is a whole template. Its Metadata section describes the nesting:

    Sluice:
      SwitchedOnBy: [DeliverUrl]         one of these parameters must have a value, or else nothing of it is made
      FromCore:                          parameters never shown to a user, and where their values come from:
        BucketName: StoreBucket            a resource or parameter of the template (Ref)
        StreamArn: StreamDelivery.Arn      an attribute of a resource
        Partition: AWS::Partition          a pseudo parameter
        MachineArn: RefineStack.Outputs.RefineMachineArn    an output of another nested stack; empty when that is off

All its other parameters become parameters of the template, to be given and kept as any other.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import yaml

from scripts.commands.common.console import CommandError
from scripts.commands.common.paths import STACKS
from scripts.commands.deploy import template as templates
from scripts.commands.deploy.template import (
    OutputDeclaration,
    ParameterDeclaration,
    ResourceDeclaration,
    Template,
)
from shared.documents import Json

# libyaml is four times as fast; a PyYAML built from source may come without it.
_Dumper: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

BUCKET_URL = "https://s3.${AWS::Region}.${AWS::URLSuffix}/${ArtifactBucket}"


class Label(TypedDict):
    """A group's title."""

    default: str


class ParameterGroup(TypedDict):
    """Parameters shown together in the console of AWS."""

    Label: Label
    Parameters: list[str]


@dataclass(frozen=True)
class NestedStack:
    """One folder of stacks/. `text` is its template.yaml, `template` the same as data."""

    name: str
    text: str
    template: Template

    @property
    def logical_id(self) -> str:
        """`refine` is the resource RefineStack."""
        return f"{self.name.capitalize()}Stack"

    @property
    def switches(self) -> list[str]:
        """The parameters to switch it on."""
        return self.template["Metadata"]["Sluice"]["SwitchedOnBy"]

    @property
    def from_core(self) -> dict[str, str]:
        """The sources of the parameters not given by a user, by parameter."""
        return self.template["Metadata"]["Sluice"]["FromCore"]

    @property
    def parameters(self) -> dict[str, ParameterDeclaration]:
        """The declarations of the parameters given by a user."""
        return {name: value for name, value in self.template["Parameters"].items() if name not in self.from_core}


def read(folder: Path = STACKS) -> list[NestedStack]:
    """The nested stacks, by name; CommandError for a template without a description of its nesting."""
    texts = {path.parent.name: path.read_text() for path in sorted(folder.glob("*/template.yaml"))}
    stacks = [NestedStack(name, text, _load(name, text)) for name, text in texts.items()]
    for stack in stacks:
        nesting = stack.template.get("Metadata", {}).get("Sluice")
        parts = [stack.template.get(part) for part in ("Description", "Parameters", "Outputs")]
        if not all(parts) or not nesting or not {"SwitchedOnBy", "FromCore"} <= nesting.keys():
            raise CommandError(
                f"stacks/{stack.name}/template.yaml needs Description, Parameters and Outputs, and SwitchedOnBy and "
                "FromCore under Sluice in its Metadata: scripts/commands/deploy/nested.py says what they mean"
            )
        for name, output in stack.template["Outputs"].items():
            if not output.get("Description"):
                raise CommandError(f"stacks/{stack.name}/template.yaml: the output {name} needs a Description")
    return stacks


def _load(name: str, text: str) -> Template:
    try:
        template = templates.load(text)
    except yaml.YAMLError as error:
        raise CommandError(f"stacks/{name}/template.yaml is not YAML: {error}") from error
    return template if isinstance(template, dict) else {}


def insert(text: str, stacks: list[NestedStack], key_of: Callable[[NestedStack], str]) -> str:
    """The template with the nested stacks in it; `key_of` returns each file's key in the artifact bucket."""
    groups = "".join(_item(_parameter_group(stack), 6) for stack in stacks)
    parameters = "".join(_entries(stack.parameters) for stack in stacks)
    conditions = "".join(_entries({f"Use{stack.logical_id}": _is_switched_on(stack)}) for stack in stacks)
    present = {stack.logical_id for stack in stacks}
    resources = "".join(
        "\n" + _entries({stack.logical_id: _resource(stack, key_of(stack), present)}) for stack in stacks
    )
    outputs = "".join(_entries(_outputs(stack)) for stack in stacks)
    for section, addition in (
        ("Parameters", groups),
        ("Rules", parameters),
        ("Resources", conditions),
        ("Outputs", resources),
    ):
        text = text.replace(f"\n\n{section}:\n", f"\n{addition}\n{section}:\n", 1)
    return text + outputs


def _parameter_group(stack: NestedStack) -> ParameterGroup:
    purpose = str(stack.template["Description"]).strip().rstrip(".")
    label = f"{stack.name.capitalize()} (optional): {purpose}"
    return {"Label": {"default": label}, "Parameters": list(stack.parameters)}


def _is_switched_on(stack: NestedStack) -> Json:
    given = [{"Fn::Not": [{"Fn::Equals": [{"Ref": switch}, ""]}]} for switch in stack.switches]
    return given[0] if len(given) == 1 else {"Fn::Or": given}


def _resource(stack: NestedStack, key: str, present: set[str]) -> ResourceDeclaration:
    values = {name: _reference(source, present) for name, source in stack.from_core.items()}
    values |= {name: {"Ref": name} for name in stack.parameters}
    return {
        "Type": "AWS::CloudFormation::Stack",
        "Condition": f"Use{stack.logical_id}",
        # Resources of it with a longer life say so themselves.
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": {"TemplateURL": {"Fn::Sub": f"{BUCKET_URL}/{key}"}, "Parameters": values},
    }


def _reference(source: str, present: set[str]) -> Json | str:
    """The value for a source of FromCore. An output of a nested stack is empty if the stack is off or deleted."""
    if output := re.fullmatch(r"(\w+Stack)\.(Outputs\.\w+)", source):
        if output[1] not in present:
            return ""
        value = {"Fn::GetAtt": [output[1], output[2]]}
        return {"Fn::If": [f"Use{output[1]}", value, ""]}
    resource, _, attribute = source.partition(".")
    return {"Fn::GetAtt": [resource, attribute]} if attribute else {"Ref": source}


def _outputs(stack: NestedStack) -> dict[str, OutputDeclaration]:
    return {
        name: {
            "Description": output["Description"],
            "Condition": f"Use{stack.logical_id}",
            "Value": {"Fn::GetAtt": [stack.logical_id, f"Outputs.{name}"]},
        }
        for name, output in stack.template.get("Outputs", {}).items()
    }


def _entries(
    values: Mapping[str, ParameterDeclaration | ResourceDeclaration | OutputDeclaration | Json],
) -> str:
    """YAML lines of a section, two blanks in."""
    return _dump(values, 2) if values else ""


def _item(value: ParameterGroup, blanks: int) -> str:
    """YAML lines of one item of a list."""
    return _dump([value], blanks)


def _dump(value: Any, blanks: int) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110)
    return textwrap.indent(text, " " * blanks)
