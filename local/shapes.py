"""The parameters of AWS's calls, by botocore's shapes.

AWS checks a call against its shape before anything else. An engine does the same, so a value without a place in the
call cannot work here either.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Protocol, TypedDict

JsonValue = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
JsonObject = dict[str, JsonValue]


class Constraints(TypedDict, total=False):
    """What a shape demands of a value: the bounds of a number or of a size, and a pattern as Java has it."""

    min: float
    max: float
    pattern: str


class Shape(Protocol):
    """A shape of botocore's. `members` are those of a structure, `member` that of a list, `key` and `value` a map's."""

    type_name: str
    members: dict[str, Shape]
    required_members: list[str]
    member: Shape
    key: Shape
    value: Shape
    enum: list[str]
    metadata: Constraints
    serialization: dict[str, str]


@lru_cache
def _model_of(service: str) -> Any:
    # botocore is imported only here: it takes a tenth of a second.
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(service, "service-2"))


@lru_cache
def input_of(service: str, operation: str) -> Shape:
    """The shape of an operation's input."""
    found: Shape = _model_of(service).operation_model(operation).input_shape
    return found


def conform(value: JsonObject, shape: Shape) -> JsonObject:
    """The value with its scalars in the types of the shape, as CloudFormation may give them as text.

    ValueError names every unknown or missing member, and every broken constraint.
    """
    problems: list[str] = []
    found = _conform_members(value, shape, "", problems)
    if problems:
        raise ValueError("; ".join(problems))
    return found


def _conform_members(value: JsonObject, shape: Shape, here: str, problems: list[str]) -> JsonObject:
    problems += [f"{here}{name} is not a property of AWS's" for name in sorted(value.keys() - shape.members.keys())]
    problems += [f"{here}{name} is required" for name in shape.required_members if name not in value]
    known = {name: part for name, part in value.items() if name in shape.members}
    return {name: _conform(part, shape.members[name], here + name, problems) for name, part in known.items()}


def _conform(value: JsonValue, shape: Shape, path: str, problems: list[str]) -> JsonValue:
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict):
        return _conform_members(value, shape, f"{path}.", problems)
    if kind == "list" and isinstance(value, list):
        _check_size(len(value), "items", shape, path, problems)
        return [_conform(part, shape.member, f"{path}[{index}]", problems) for index, part in enumerate(value)]
    if kind == "map" and isinstance(value, dict):
        for key in value:
            _conform(key, shape.key, f"{path}, key {key}", problems)
        return {key: _conform(part, shape.value, f"{path}.{key}", problems) for key, part in value.items()}
    if kind in ("structure", "list", "map"):
        problems.append(f"{path} must be {'a list' if kind == 'list' else 'an object'} (got {value!r})")
        return value
    return _scalar(value, shape, path, problems)


def _scalar(value: JsonValue, shape: Shape, path: str, problems: list[str]) -> JsonValue:
    kind = shape.type_name
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, dict | list):
        problems.append(f"{path} must be a {kind} (got {value!r})")
    elif kind == "boolean":
        if text not in ("true", "false"):
            problems.append(f"{path} must be true or false (got {value!r})")
        return text == "true"
    elif kind in ("integer", "long", "float", "double"):
        is_whole = kind in ("integer", "long")
        low, high = shape.metadata.get("min"), shape.metadata.get("max")
        is_number = re.fullmatch(r"-?\d+" if is_whole else r"-?\d+(\.\d+)?", text)
        if not is_number or not _is_between(float(text), low, high):
            bounds = "".join(f" {word} {bound}" for word, bound in (("from", low), ("to", high)) if bound is not None)
            problems.append(f"{path} must be a {'whole ' * is_whole}number{bounds} (got {value!r})")
            return value
        return int(text) if is_whole else float(text)
    elif kind == "string":
        if shape.enum and text not in shape.enum:
            problems.append(f"{path} must be {' or '.join(shape.enum)} (got {value!r})")
        _check_size(len(text), "characters", shape, path, problems)
        pattern = _pattern(shape.metadata.get("pattern", ""))
        if pattern and not pattern.fullmatch(text):
            problems.append(f"{path} must match {shape.metadata['pattern']} (got {value!r})")
    return text


def _check_size(size: int, unit: str, shape: Shape, path: str, problems: list[str]) -> None:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if not _is_between(size, low, high):
        problems.append(f"{path} must have {low or 0} to {high} {unit} (got {size})")


def _is_between(number: float, low: float | None, high: float | None) -> bool:
    return (low is None or low <= number) and (high is None or number <= high)


@lru_cache
def _pattern(java: str) -> re.Pattern[str] | None:
    """A pattern of AWS's; None if there is none, or if Python cannot compile it: tags have patterns with \\p."""
    try:
        return (
            re.compile(java.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF"), re.ASCII) if java else None
        )
    except re.error:
        return None
