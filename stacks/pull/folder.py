"""Checks the declarations of sources in a folder and makes one document of them, for stacks/pull/template.yaml.

All mistakes are found before anything is deployed, and named by file and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jmespath
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError, best_match

from scripts.commands.common.console import UsageError
from shared.documents import parse_json
from stacks.pull.function.source import Declaration

SCHEMA = Path(__file__).with_name("source.schema.json")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NAME_AND_FORMAT = re.compile(r"([a-z_][a-z0-9_]*)((?:\.\w+)*)(?::(\w+))?")
_TIMES = ("from", "to", "last")
_TIME_FORMATS = ("iso", "date", "epoch", "epoch_ms")
_PAGE_PLACEHOLDERS = {"page": ["page"], "offset": ["offset"], "cursor": ["cursor"]}
_TEMPLATES = ("url", "query", "headers", "body")

Place = Sequence[str | int]

_formats = FormatChecker(formats=())


@_formats.checks("jmespath", raises=(jmespath.exceptions.JMESPathError, RecursionError))
def _is_path(value: object) -> bool:
    return not isinstance(value, str) or jmespath.compile(value) is not None


@_formats.checks("time-in-utc", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value) is not None


class _Wrong(Exception):
    """A mistake, and its place in the declaration: keys and positions from the top."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(text)
        self.place = place


def compile_folder(path: Path) -> bytes:
    """The declarations of a folder (*.json) as one JSON document: `{"sources": {name: declaration}}`.

    Raises CommandError with the file, the line and the allowed values.
    """
    files = sorted(path.glob("*.json"))
    if not files:
        raise UsageError(f"'{path}' has no *.json file: each declares one source (see docs/pull.md)")
    sources: dict[str, Declaration] = {}
    names: dict[str, Path] = {}
    for file in files:
        declaration = read(file)
        name = declaration["name"]
        if name in names:
            raise UsageError(f"{file}: there is a source '{name}' already, in {names[name]}: give one another name")
        sources[name], names[name] = declaration, file
    return json.dumps({"sources": sources}, indent=1, sort_keys=True, ensure_ascii=False).encode()


def read(file: Path) -> Declaration:
    """One declaration, checked; raises CommandError."""
    try:
        return _read(file)
    except RecursionError:
        raise UsageError(f"{file}: it is nested too deeply") from None


def _read(file: Path) -> Declaration:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    try:
        declaration = parse_json(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{file} line {error.lineno}: this is not JSON: {error.msg}") from error
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
    # JSON is YAML, except for tabs between its tokens, and this reader knows lines.
    tree = yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    if (twice := _find_twice(tree)) is not None:
        line, key = twice
        raise UsageError(f"{file} line {line}: '{key}' is here a second time, and only one would count")
    try:
        _check(declaration)
    except _Wrong as wrong:
        raise UsageError(f"{file} line {_line(tree, wrong.place)}: {_named(wrong.place)}{wrong}") from wrong
    found: Declaration = declaration
    return found


def _find_twice(node: yaml.Node | None) -> tuple[int, str] | None:
    """The line and the name of the first key given twice in one object."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                return key.start_mark.line + 1, key.value
            seen.add(key.value)
    below = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else []
    below = node.value if isinstance(node, yaml.SequenceNode) else below
    return next((found for each in below if (found := _find_twice(each)) is not None), None)


def _check(declaration: Any) -> None:
    schema = parse_json(SCHEMA.read_text())
    validator = Draft202012Validator(schema, format_checker=_formats)
    if (error := best_match(validator.iter_errors(declaration))) is not None:
        raise _Wrong(*_explain(error))
    allowed = [*_TIMES, *declaration.get("grid", {})]
    allowed += _PAGE_PLACEHOLDERS.get(declaration.get("pagination", {}).get("style", ""), [])
    for key in _TEMPLATES:
        for place, text in _texts(declaration.get(key), [key]):
            _check_placeholders(place, text, allowed, declaration)
    _check_window(declaration)
    _check_pages(declaration)


def _check_placeholders(place: Place, text: str, allowed: list[str], declaration: Declaration) -> None:
    for written in _PLACEHOLDER.findall(text):
        match = _NAME_AND_FORMAT.fullmatch(written)
        name, keys, kind = match.groups() if match else (written, "", None)
        if name not in allowed:
            raise _Wrong(place, f"there is no placeholder '{{{written}}}': there are {', '.join(allowed)}")
        if name in _TIMES and "window" not in declaration:
            raise _Wrong(place, f"'{{{written}}}' needs a window, and this source has none")
        if kind is not None and (name not in _TIMES or kind not in _TIME_FORMATS):
            formats = ", ".join(_TIME_FORMATS)
            raise _Wrong(place, f"'{{{written}}}': only {', '.join(_TIMES)} have a format, one of {formats}")
        if keys and name in _TIMES:
            raise _Wrong(place, f"'{{{written}}}': a time has no '{keys[1:]}'")
        for number, value in enumerate(declaration.get("grid", {}).get(name, [])):
            for key in keys.split(".")[1:]:
                if not isinstance(value, dict) or key not in value:
                    raise _Wrong(["grid", name, number], f"has no '{key}', which '{{{written}}}' asks for")
                value = value[key]


def _check_window(declaration: Declaration) -> None:
    window = declaration.get("window", {})
    times = {key: _in_utc(window[key]) for key in ("first", "end") if key in window}
    if "end" in times and times["end"] <= times["first"]:
        raise _Wrong(["window", "end"], f"'{window['end']}' must be later than first ('{window['first']}')")


def _in_utc(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _check_pages(declaration: Declaration) -> None:
    """Refuse a page or grid placeholder that no template uses: every request would be the first one again."""
    style = declaration.get("pagination", {}).get("style", "none")
    used = {
        name.split(".")[0].split(":")[0]
        for key in _TEMPLATES
        for _, text in _texts(declaration.get(key), [key])
        for name in _PLACEHOLDER.findall(text)
    }
    for name in _PAGE_PLACEHOLDERS.get(style, []):
        if name not in used:
            raise _Wrong(["pagination"], f"'{{{name}}}' is nowhere in {', '.join(_TEMPLATES)}: no page but the first")
    for name in declaration.get("grid", {}):
        if name not in used:
            raise _Wrong(["grid", name], f"'{{{name}}}' is nowhere in {', '.join(_TEMPLATES)}: all would be the same")


def _texts(value: Any, place: list[str | int]) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, [*place, key])
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, [*place, number])


def _explain(error: ValidationError) -> tuple[Place, str]:
    """The place of an error of the schema, and its text for the declaration's author."""
    place = list(error.absolute_path)
    found: Any = error.instance
    schema = error.schema if isinstance(error.schema, dict) else {}
    wanted: Any = schema.get(str(error.validator))
    shown = json.dumps(found, ensure_ascii=False)[:80]
    match error.validator:
        case "additionalProperties":
            known = list(schema["properties"])
            extra = next(key for key in found if key not in known)
            return [*place, extra], f"is not a key here: there are {', '.join(known)}"
        case "required":
            missing = next(key for key in wanted if key not in found)
            return place, f"'{missing}' is missing"
        case "format" if wanted == "jmespath":
            reason = str(error.cause).splitlines()[0] if error.cause else "it cannot be read"
            return place, f"is not JMESPath: {reason} (got {shown})"
        case "format":
            return place, f"must be a time such as 2026-01-01T00:00:00Z (got {shown})"
        case "enum":
            return place, f"must be one of {', '.join(map(str, wanted))} (got {shown})"
        case "type":
            kinds = wanted if isinstance(wanted, list) else [wanted]
            return place, f"must be {' or '.join(map(str, kinds))} (got {shown})"
        case "pattern" if place[-1:] in (["url"], ["token_url"]):
            return place, f"must be an https:// URL; http:// reaches 127.0.0.1 and localhost alone (got {shown})"
        case "anyOf":
            return place, f"must be a text, or another kind that docs/pull.md allows (got {shown})"
        case "not" if place[-1:] == ["pagination"]:
            return place, "has total_pages and total_rows: one of them is enough"
        case "not":
            return place, f"{shown} has a meaning of its own: take another name"
    return place, f"{error.message}"


def _named(place: Place) -> str:
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    return f"{name}: " if name else ""


def _line(node: yaml.Node | None, place: Place) -> int:
    """The line of a value: its key's, if it has one."""
    line = 0
    for part in place:
        if isinstance(node, yaml.MappingNode):
            key, node = next((key, value) for key, value in node.value if key.value == str(part))
            line = key.start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1
