"""The CloudFormation template as data, and the change to its text before it is deployed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, Required, TypedDict

import yaml

from scripts.commands.common.console import UsageError
from scripts.commands.common.paths import TEMPLATE as TEMPLATE
from shared.documents import Json

API = "IngestApi"
DEPLOYMENT = "IngestDeployment"


class ParameterDeclaration(TypedDict, total=False):
    """A parameter, and its allowed values."""

    Type: Required[str]
    Description: str
    Default: str | int
    AllowedValues: list[str | int]
    AllowedPattern: str
    MinValue: float
    MaxValue: float
    MinLength: int
    MaxLength: int
    ConstraintDescription: str


class ResourceDeclaration(TypedDict):
    """A resource. Its properties depend on its type."""

    Type: str
    Condition: NotRequired[str]
    DeletionPolicy: NotRequired[str]
    UpdateReplacePolicy: NotRequired[str]
    Properties: Json


class OutputDeclaration(TypedDict):
    """An output, whose value is a text or an intrinsic function."""

    Description: str
    Condition: NotRequired[str]
    Value: str | Json


class Nesting(TypedDict):
    """How a template is nested: nested.py explains both keys."""

    SwitchedOnBy: list[str]
    FromCore: dict[str, str]


class Metadata(TypedDict, total=False):
    """Our part of a template's metadata."""

    Sluice: Nesting


class Template(TypedDict, total=False):
    """A template. A condition is an intrinsic function."""

    Description: str
    Metadata: Metadata
    Parameters: dict[str, ParameterDeclaration]
    Mappings: Json
    Conditions: dict[str, Json]
    Resources: dict[str, ResourceDeclaration]
    Outputs: dict[str, OutputDeclaration]


# libyaml is six times as fast; a PyYAML built from source may come without it.
_Safe: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):  # type: ignore[misc, valid-type]  # mypy takes no variable for a base class
    """YAML with CloudFormation's short forms, read as their long forms: `!Ref X` as {"Ref": "X"}."""


def _intrinsic(loader: _Loader, suffix: str, node: yaml.Node) -> Json:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _intrinsic)


def load(text: str) -> Template:
    """Parse a template; every intrinsic function comes in its long form."""
    template: Template = yaml.load(text, Loader=_Loader)  # nosec B506 # a SafeLoader with more tags
    return template


def effective_parameters(template: Template, previous: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """The future value of each parameter: the given one, else the stack's previous one, else the default.

    Raises UsageError for an unknown parameter, a missing value, or a value that is not allowed.
    """
    declared = template["Parameters"]
    for name in given:
        if name not in declared:
            raise UsageError(f"the template has no parameter '{name}': it has {', '.join(sorted(declared))}")
    values = {}
    for name, definition in declared.items():
        value = given.get(name, previous.get(name, definition.get("Default")))
        if value is None:
            raise UsageError(f"{name} has no value: give one with --parameter {name}=...")
        values[name] = str(value)
        _check(name, definition, values[name])
    return values


def _check(name: str, definition: ParameterDeclaration, value: str) -> None:
    """Refuse a value as CloudFormation would, before anything is uploaded or created."""
    constraint = definition.get("ConstraintDescription")
    if allowed := [str(choice) for choice in definition.get("AllowedValues", [])]:
        constraint = f"must be one of {', '.join(allowed)}"
        fits = value in allowed
    elif definition["Type"] == "Number":
        fits = bool(re.fullmatch(r"-?\d+(\.\d+)?", value)) and (
            definition.get("MinValue", float("-inf")) <= float(value) <= definition.get("MaxValue", float("inf"))
        )
    else:
        fits = bool(re.fullmatch(definition.get("AllowedPattern", ".*"), value, re.DOTALL))
        fits = fits and definition.get("MinLength", 0) <= len(value) <= definition.get("MaxLength", 4_096)
    if not fits:
        raise UsageError(f"{name} {str(constraint).rstrip('.')} (got '{value}')")


def render(text: str, template: Template, parameters: Mapping[str, str]) -> str:
    """The template's text with the API's deployment renamed after its content; `template` is the same as data.

    A deployment is a snapshot. Only a new logical id makes a new one, so the id carries a hash of the API's
    definition and of the effective value of every parameter used by the definition.
    """
    definition = template["Resources"][API]["Properties"]
    depends_on = {name: parameters[name] for name in sorted(parameters_of_api(template))}
    content = json.dumps([definition, template.get("Mappings"), depends_on], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    return re.sub(rf"\b{DEPLOYMENT}\b", f"{DEPLOYMENT}{digest}", text)


def parameters_of_api(template: Template) -> set[str]:
    """The parameters whose change requires a new deployment of the API."""
    return parameters_of(template, template["Resources"][API]["Properties"])


def parameters_of(template: Template, node: Any) -> set[str]:
    """The parameters used by a part of the template, through conditions too; not through other resources."""
    names = {name for name in references(node) if name in template["Parameters"]}
    for condition in conditions(node):
        names |= parameters_of(template, template["Conditions"][condition])
    return names


def references(node: Any) -> Iterator[str]:
    """Every name referred to by Ref, Fn::GetAtt or Fn::Sub, anywhere below."""
    if isinstance(node, list):
        for item in node:
            yield from references(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "Ref":
                yield value
            elif key == "Fn::GetAtt":
                yield value[0]
            elif key == "Fn::Sub":
                text = value if isinstance(value, str) else value[0]
                yield from (name.split(".")[0] for name in re.findall(r"\$\{([^!}][^}]*)\}", text))
                yield from references(value)
            else:
                yield from references(value)


def conditions(node: Any) -> Iterator[str]:
    """Every condition named by Fn::If or Condition, anywhere below."""
    if isinstance(node, list):
        for item in node:
            yield from conditions(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "Fn::If":
                yield value[0]
            elif key == "Condition" and isinstance(value, str):
                yield value
            yield from conditions(value)
