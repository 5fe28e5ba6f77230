"""API Gateway's mapping templates: Velocity with `$input`, `$util`, `$context` and `$stageVariables`.

airspeed parses a template and runs it; where it departs from Velocity, the parse tree is corrected. Whatever is not
implemented is refused by name when a template is parsed. Where Velocity's result is not documented, rendering raises:
an error that somebody sees, never a guess. Values are never evaluated again: what a client sends is text, whatever it
looks like.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote_plus, unquote_plus

import airspeed
from airspeed import operators as vtl

FOREACH_LIMIT = 1_000
JSON_PATH = re.compile(r"\$(\.[A-Za-z_]\w*)*")
STATUS_OVERRIDE = re.compile(r"\s*\(\s*\$context\.responseOverride\.status\s*=")


class Override(dict[str, Any]):
    """`$context.responseOverride`: a value may be set once a template; API Gateway answers 5XX to a second time."""

    def __setitem__(self, name: str, value: object) -> None:
        if name in self:
            raise ValueError(f"the override of {name} is set twice")
        super().__setitem__(name, value)


@dataclass
class Input:
    """`$input`: a payload, and the parameters of the request (names of headers in lower case)."""

    body: str
    query: dict[str, str]
    headers: dict[str, str]

    @cached_property
    def document(self) -> Any:
        """The payload as JSON; an empty payload is an empty object, other text that is not JSON raises ValueError."""
        return json.loads(self.body) if self.body else {}

    def path(self, path: str) -> Any:
        """The value that a JSONPath of names finds, or None."""
        if not JSON_PATH.fullmatch(path):
            raise ValueError(f"JSONPath {path!r} is not implemented: only names, as $.a.b")
        value = self.document
        for name in path.split(".")[1:]:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def json(self, path: str) -> str:
        """The value that a JSONPath finds, as JSON; a missing one is an empty string."""
        value = self.path(path)
        return json.dumps("" if value is None else value, ensure_ascii=False)

    def params(self, name: str | None = None) -> Any:
        """All parameters, or one: from the query string, else a header in any case, else an empty string."""
        if name is None:
            return {"path": {}, "querystring": self.query, "header": self.headers}
        return self.query.get(name, self.headers.get(name.lower(), ""))


class Util:
    """`$util`: a namespace of functions, which stand in `TEMPLATE_METHODS`."""


def _substring(text: str, start: int, end: int | None = None) -> str:
    # Java counts UTF-16 units, and raises where Python would return less.
    units = text.encode("utf-16-le", "surrogatepass")
    end = len(units) // 2 if end is None else end
    if not 0 <= start <= end <= len(units) // 2:
        raise IndexError(f"substring({start}, {end}) of {len(units) // 2} characters")
    return units[2 * start : 2 * end].decode("utf-16-le", "surrogatepass")


# What a template may call, by the type of the value. Java encodes half of a surrogate pair, which substring can leave,
# as a question mark.
TEMPLATE_METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    Input: {"json": Input.json, "params": Input.params, "path": Input.path},
    Util: {
        "base64Encode": lambda _, text: base64.b64encode(text.encode("utf-8", "replace")).decode(),
        "urlDecode": lambda _, text: unquote_plus(text),
        "urlEncode": lambda _, text: quote_plus(text, safe="*", errors="replace").replace("~", "%7E"),
    },
    str: {
        "contains": lambda text, other: other in text,
        "length": lambda text: len(text.encode("utf-16-le", "surrogatepass")) // 2,
        "substring": _substring,
    },
    dict: {
        "get": dict.get,
        "keySet": list,
    },
}
KNOWN_METHODS = {name for methods in TEMPLATE_METHODS.values() for name in methods}
# Directives that API Gateway does not know, and what airspeed reads other than Velocity.
REFUSED = (
    *(vtl.DefineDefinition, vtl.EvaluateDirective, vtl.IncludeDirective, vtl.MacroCall, vtl.MacroDefinition),
    *(vtl.ParseDirective, vtl.ReturnDirective, vtl.StopDirective, vtl.AlternateValue, vtl.UnaryOperatorValue),
)
REFUSED_OPERATORS = ("&&", "||", "and", "or")


class MappingTemplate:
    """One template, parsed and checked; `where` names it in errors. Raises ValueError for what is not implemented."""

    def __init__(self, where: str, text: str) -> None:
        self.template = airspeed.Template(text, where)
        try:
            self.template.ensure_compiled()
        except airspeed.TemplateError as error:
            raise ValueError(f"{where}: {error}") from error
        for element in _elements(self.template.root_element):
            if not _corrected(element):
                raise ValueError(f"{where}: the mapping template uses {element.my_text().strip()!r}: not implemented")

    def render(self, **namespace: Any) -> str:
        """The text for these values; every error of the template is an airspeed.TemplateError."""
        text: str = self.template.merge(namespace)
        return text


def _elements(root: Any) -> Iterator[Any]:
    """All elements of a parse tree; some of them hang in it only by a bound method."""
    pending, seen = [root], set()
    while pending:
        item = pending.pop()
        item = getattr(item, "__self__", item)
        if isinstance(item, dict):
            pending += [*item, *item.values()]
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, vtl._Element) and id(item) not in seen:
            seen.add(id(item))
            pending += vars(item).values()
            yield item


def _corrected(element: Any) -> bool:
    """Correct what an element does when it runs; False when it is not implemented."""
    if isinstance(element, vtl.SubExpression):
        member = element.expression
        if isinstance(member, vtl.ArrayIndex):
            return False
        member.part.calculate = _member(member.part)
        return member.part.parameters is None or member.part.name in KNOWN_METHODS
    if isinstance(element, vtl.FormalReference):
        element.evaluate_raw = _printed(element)
    elif isinstance(element, vtl.IfDirective):
        element.condition.calculate = _boolean(element.condition)
        for branch in element.elseifs:
            branch.calculate = _boolean(branch.condition)
    elif isinstance(element, vtl.ForeachDirective):
        element.value.calculate = _iterated(element.value.expression)
    elif isinstance(element, vtl.Assignment):
        return not element.terms or STATUS_OVERRIDE.match(element.my_text()) is not None
    elif isinstance(element, vtl.BinaryOperator):
        return element.my_text().strip() not in REFUSED_OPERATORS
    elif isinstance(element, vtl.FallthroughHashText):
        # A directive with a mistake in it would be printed.
        return re.match(r"\w+\s*\(", element.next_text()) is None
    return not isinstance(element, REFUSED)


def _member(member: Any) -> Callable[..., Any]:
    """`.name` reads a key and `.name(...)` calls a method of ours, never an attribute that Python happens to have."""

    def calculate(value: Any, loader: Any, namespace: Any) -> Any:
        if value is not None and member.parameters is not None:
            method = TEMPLATE_METHODS.get(type(value), {}).get(member.name)
            if method is None:
                raise TypeError(f"{type(value).__name__} has no method {member.name}")
            value = method(value, *member.parameters.calculate(namespace, loader))
        elif isinstance(value, Input):
            value = value.body if member.name == "body" else None
        else:
            value = value.get(member.name) if isinstance(value, dict) else None
        return value if value is None or member.index is None else value[member.index.calculate(namespace, loader)]

    return calculate


def _printed(reference: Any) -> Callable[..., None]:
    """Nothing prints as nothing where the reference is quiet ($!x), else as the text of the reference."""
    text = reference.my_text()
    nothing = "" if text.startswith("$!") else text

    def evaluate(stream: Any, namespace: Any, loader: Any) -> None:
        value = reference.calculate(namespace, loader) if reference.calculate else None
        if isinstance(value, dict | list):
            raise TypeError(f"{text} is a map or a list, which Java prints in no documented form: use $input.json")
        stream.write(value if isinstance(value, str) else nothing if value is None else vtl.value_to_string(value))

    return evaluate


def _boolean(condition: Any) -> Callable[..., bool]:
    """Versions of Velocity disagree whether an empty string is true: a condition must be a boolean."""

    def calculate(namespace: Any, loader: Any) -> bool:
        value = condition.expression.calculate(namespace, loader)
        if not isinstance(value, bool):
            raise TypeError(f"#if{condition.my_text().strip()} is not a boolean: compare with == or !=")
        return value

    return calculate


def _iterated(expression: Any) -> Callable[..., Any]:
    def calculate(namespace: Any, loader: Any) -> Any:
        items = expression.calculate(namespace, loader)
        if items is not None and not (isinstance(items, list | range) and len(items) <= FOREACH_LIMIT):
            raise ValueError(f"#foreach takes a list of at most {FOREACH_LIMIT:,} items")
        return items

    return calculate
