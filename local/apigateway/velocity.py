"""API Gateway's mapping templates: Velocity 1.7 with `$input`, `$util`, `$context` and `$stageVariables`.

A template is compiled into functions of its variables. A part not implemented is refused by name: if possible when the
template is compiled, else by an error when it is rendered. Null and undefined values are "", as in API Gateway. Values
are never evaluated again: a client's data is text, whatever it looks like.
"""

from __future__ import annotations

import base64
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NoReturn

from local.apigateway import java

Scope = dict[str, Any]
Evaluate = Callable[[Scope], Any]

FOREACH_LIMIT = 1_000
JSON_PATH = re.compile(r"\$(\.[A-Za-z_][A-Za-z0-9_]*)*")


class Override(dict[str, Any]):
    """`$context.responseOverride`: `status`, and `header.NAME` with the name in lower case.

    Each may be set once a template: API Gateway answers 5XX to a second time.
    """

    def __setitem__(self, name: str, value: object) -> None:
        if name in self:
            raise ValueError(f"the override of {name} is set twice")
        types, pattern = (int | str, "[2-5][0-9]{2}") if name == "status" else (str, "[ -~]*")
        if not isinstance(value, types) or not re.fullmatch(pattern, str(value)):
            raise ValueError(f"the override of {name} is {value!r}: only a status, or printable ASCII, is implemented")
        super().__setitem__(name, value)

    @property
    def headers(self) -> dict[str, str]:
        """The headers set by the template, by names in lower case."""
        return {name.removeprefix("header."): value for name, value in self.items() if name.startswith("header.")}


@dataclass
class Input:
    """`$input`: a payload, and the parameters of the request, with the names of headers as they came."""

    body: str
    query: dict[str, str]
    headers: dict[str, str]
    path_parameters: dict[str, str] = field(default_factory=dict)

    @cached_property
    def document(self) -> Any:
        """The payload as JSON; other text raises ValueError, as do null and nothing, left open by AWS."""
        document = java.parse_json(self.body) if self.body else None
        if document is None:
            raise ValueError("$input.path and $input.json of an empty payload, or of null, are not implemented")
        return document

    def path(self, path: str) -> Any:
        """The value at a JSONPath of names, or None."""
        return self._find(path, None)

    def json(self, path: str) -> str:
        """The value at a JSONPath, as compact JSON; a missing one is an empty string."""
        value = self._find(path, "")
        if value is None:
            raise ValueError(f"$input.json of null ({path}) is not implemented")
        return java.to_json(value)

    def _find(self, path: str, missing: str | None) -> Any:
        if not JSON_PATH.fullmatch(path):
            raise ValueError(f"JSONPath {path!r} is not implemented: only names, as $.a.b")
        value = self.document
        for name in path.split(".")[1:]:
            value = value.get(name, missing) if isinstance(value, dict) else missing
        return value

    def params(self, name: str | None = None) -> Any:
        """All parameters, or one: of the path, else of the query string, else a header in any case, else ""."""
        if name is None:
            return {"path": self.path_parameters, "querystring": self.query, "header": self.headers}
        in_any_case = {header.lower(): value for header, value in self.headers.items()}
        return {**in_any_case, **self.headers, **self.query, **self.path_parameters}.get(
            name, in_any_case.get(name.lower(), "")
        )


class Util:
    """`$util`: `METHODS` has its functions."""


# ---- the implemented part

# By the type of the value, the name, and the types of the arguments. The keys of a map are not a list here: Java prints
# them otherwise.
METHODS: dict[tuple[Any, ...], Callable[..., Any]] = {
    (Input, "json", str): Input.json,
    (Input, "params"): Input.params,
    (Input, "params", str): Input.params,
    (Input, "path", str): Input.path,
    (Util, "base64Encode", str): lambda _, text: base64.b64encode(java.encode(text)).decode(),
    (Util, "urlDecode", str): lambda _, text: java.url_decode(text),
    (Util, "urlEncode", str): lambda _, text: java.url_encode(text),
    (str, "contains", str): operator.contains,
    (str, "length"): java.length,
    (str, "substring", int): java.substring,
    (str, "substring", int, int): java.substring,
    (dict, "get", str): dict.get,
    (dict, "keySet"): dict.keys,
}
KNOWN_METHODS = {name for _, name, *_ in METHODS}
LOOP = ("index", "count", "hasNext", "first", "last")
# The text allowed after one of our roots. Members of $context are left out if empty here and not on AWS.
MEMBERS = {
    "input": re.compile(r"\.body(?![\w(-])|\.(json|params|path)\("),
    "util": re.compile(r"\.(base64Encode|urlDecode|urlEncode)\("),
    "foreach": re.compile(rf"\.({'|'.join(LOOP)})(?![\w.(-])"),
    "context": re.compile(
        r"\.(?!get\(|keySet|awsEndpointRequestId|customDomain|deploymentId|domainName|domainPrefix|error|isCanaryRequest"
        r"|protocol|requestOverride|responseOverride|resourceId|waf|webaclArn|identity(?!\.sourceIp|\.userAgent))"
    ),
}
RESERVED = {*MEMBERS, "stageVariables", "velocityCount", "velocityHasNext"}

# Velocity reads true and false as words wherever they are, and a map's class by Java's getClass().
NAME = r"(?!(?:true|false|[Cc]lass)(?![A-Za-z0-9_-]))[A-Za-z_][A-Za-z0-9_-]*"
WORD_END = "(?![A-Za-z0-9_@])"
BLANK = "[ \t\r\n]*"
# A directive takes the rest of its line with it, if that is blank.
LINE_END = "(?:[ \t]*(?:\r\n|\r|\n))?"

TEXT = re.compile("[^$#]+")
# A dollar or a hash as plain text: money, a JSONPath, a number, a tag.
SIGN = re.compile(
    r"\$(?=[0-9]|\.[A-Za-z])|[$#](?= +[^ \t#])|#[0-9]+(?![.eE])"
    r"|#(?!if|else|end|set|foreach|stop|break|macro|define|evaluate|include|parse|literal|return)"
    rf"[A-Za-z_][A-Za-z0-9_]*{WORD_END}(?!{BLANK}\()"
)
COMMENT = re.compile(r"##(?:(?:(?!#\*\*)[^\r\n])*(?:\r\n|\r|\n)|[^\r\n$#]*\Z)|#\*[^$#]*?\*#")
# Blanks before #set belong to it, unless other text precedes them.
SET = re.compile(rf"[ \t]*#set *\({BLANK}")
OVERRIDE = re.compile(rf"\$context\.responseOverride\.(?:(status)|header\.({NAME})){BLANK}=")
VARIABLE = re.compile(rf"\$({NAME}){BLANK}=")
IF, ELSEIF = re.compile(rf"#if{BLANK}\("), re.compile(rf"#elseif{BLANK}\(")
ELSE = re.compile(rf"#(?:else{WORD_END}|\{{else\}}){LINE_END}")
FOREACH = re.compile(rf"#foreach{BLANK}\({BLANK}\$({NAME})[ \t\r\n]+in[ \t\r\n]+")
RANGE = re.compile(rf"\[{BLANK}(-?[0-9]{{1,9}}){BLANK}\.\.{BLANK}(-?[0-9]{{1,9}}){BLANK}\]")
END = re.compile(rf"#(?:end{WORD_END}|\{{end\}}){LINE_END}")
CLOSE = re.compile(rf"{BLANK}\){LINE_END}")

REFERENCE = re.compile(rf"\$!?(?:(\{{)({NAME})|({NAME}))")
MEMBER = re.compile(rf"\.(?=[A-Za-z])({NAME})(\({BLANK})?")
# Text read by Velocity as a part of the reference before it, or otherwise than it looks; #set may be between them. If
# a reference follows a property at once, Velocity is back at the property after it.
REFUSED_AFTER_REFERENCE = re.compile(r"\.?[A-Za-z_]|[\[{]|##|#\*|\$(?![A-Za-z_!{])")
REFUSED_AFTER_PROPERTY = re.compile(rf"{REFUSED_AFTER_REFERENCE.pattern}|\(")
REFUSED_AFTER_BOTH = re.compile(r"[A-Za-z_.\[{}(]|[ \t]*#|\$(?![A-Za-z_!{])")
NOTHING = re.compile("(?!)")
CURLY, COMMA, CLOSE_CALL = re.compile(r"\}"), re.compile(rf"{BLANK},{BLANK}"), re.compile(rf"{BLANK}\)")

STRING = re.compile(r"'([^']*)'(?!')|\"([^\"$#]*)\"(?!\")")
TEMPLATE_STRING = re.compile(r"\"([^\"]*)\"(?!\")")
INTEGER = re.compile(r"(-?[0-9]+)(?![.\w])")
BOOLEAN = re.compile(r"(true|false)(?!\w)")
NOT, OPEN, BLANKS = re.compile(rf"{BLANK}!"), re.compile(rf"{BLANK}\("), re.compile(BLANK)
# From the weakest.
OPERATORS = [re.compile(rf"{BLANK}({level})") for level in (r"\|\|", "&&", "==|!=", "<=|>=|<|>")]


def _equal(left: Any, right: Any) -> bool:
    """Whether two values are equal; values of two types are equal if they print the same."""
    if not isinstance(left, str | bool | int) or not isinstance(right, str | bool | int):
        raise TypeError(f"== of a {type(left).__name__} and a {type(right).__name__} is not implemented")
    return left == right if type(left) is type(right) else java.to_string(left) == java.to_string(right)


def _ordered(compare: Callable[[int, int], bool]) -> Callable[[Any, Any], bool]:
    def evaluate(left: Any, right: Any) -> bool:
        if not isinstance(left, str | bool | int) or not isinstance(right, str | bool | int):
            raise TypeError(f"the order of a {type(left).__name__} and a {type(right).__name__} is not implemented")
        # For Velocity, a value other than a number is neither smaller nor larger.
        return type(left) is type(right) is int and compare(left, right)

    return evaluate


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<=": _ordered(operator.le),
    ">=": _ordered(operator.ge),
    "<": _ordered(operator.lt),
    ">": _ordered(operator.gt),
}


def _truth(value: Any) -> bool:
    # In Velocity 1.7, every value except false is true.
    return value is not False


# ---- templates


@dataclass(frozen=True)
class Literal:
    """A value spelled out in a template. In a condition, Velocity takes it for false, so it is refused there."""

    value: Any

    def __call__(self, scope: Scope) -> Any:
        """The value."""
        return self.value


@dataclass(frozen=True)
class Block:
    """A template, a part of one, or a string with references in it; directives among its parts evaluate to text."""

    parts: list[Evaluate]

    def __call__(self, scope: Scope) -> str:
        """The text."""
        return java.concatenate([java.to_string(part(scope)) for part in self.parts])


class MappingTemplate:
    """One template, compiled; `where` names it in errors. Raises ValueError for a part not implemented."""

    def __init__(self, where: str, text: str) -> None:
        self.where, self.block = where, _compile(where, text)

    def render(self, **variables: Any) -> str:
        """The text for these variables; every error of the template is a ValueError."""
        try:
            return self.block(variables)
        except Exception as error:
            raise ValueError(f"{self.where}: {error}") from error


@lru_cache(1000)
def _compile(where: str, text: str) -> Block:
    """The text as a function. A deployment and its stage have the same templates, so the second one finds them here."""
    return Parser(where, text).whole()


class Parser:
    """Compiles a text, whose first `at` characters are read."""

    def __init__(self, where: str, text: str) -> None:
        self.where, self.text, self.at = where, text, 0

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read on over a match, if there is one here."""
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found

    def need(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Read on over a match; refuse the text if there is none here."""
        return self.take(pattern) or self.refuse(self.at)

    def refuse(self, at: int) -> NoReturn:
        """Raise the error for the text at `at`."""
        line, rest = self.text.count("\n", 0, at) + 1, self.text[at : at + 40]
        what = f"{rest!r} is not implemented" if rest else "the text ends too early"
        raise ValueError(f"{self.where}: line {line}: {what} in a mapping template")

    def whole(self) -> Block:
        """The whole text; a backslash escapes in Velocity, by rules of its own."""
        if "\\" in self.text:
            self.refuse(self.text.index("\\"))
        block = self.read_block()
        return block if self.at == len(self.text) else self.refuse(self.at)

    def read_block(self) -> Block:
        """All up to the end of the text or of the block."""
        parts: list[Evaluate] = []
        refused = NOTHING
        while self.at < len(self.text):
            if refused.match(self.text, self.at):
                self.refuse(self.at)
            before, refused, at = refused, NOTHING, self.at
            if self.take(SET):
                parts.append(self.read_set())
                refused = before
            elif found := self.take(CURLY if before is not NOTHING else TEXT) or self.take(TEXT) or self.take(SIGN):
                # After a reference, a brace is a text of its own, so blanks after it may belong to #set.
                parts.append(Literal(found[0]))
            elif self.take(IF):
                parts.append(self.read_if())
            elif found := self.take(FOREACH):
                parts.append(self.read_foreach(found[1]))
            elif self.text[at] == "$":
                parts.append(self.read_reference())
                refused = _refused_after(self.text[at : self.at], before)
            elif not self.take(COMMENT):
                break
        return Block(parts)

    def read_set(self) -> Evaluate:
        """An assignment, as text: nothing."""
        at = self.at
        found = self.take(OVERRIDE)
        key = found and (found[1] or f"header.{found[2].lower()}")
        name = (found or self.need(VARIABLE))[1]
        if not found and name in RESERVED:
            self.refuse(at)
        value = self.read_expression()
        self.need(CLOSE)

        def evaluate(scope: Scope) -> str:
            # Of an answer only: a request has nothing to override.
            target = scope["context"]["responseOverride"] if key else scope
            target[key or name] = value(scope)
            return ""

        return evaluate

    def read_condition(self) -> Evaluate:
        condition = self.read_truth(self.read_expression)
        self.need(CLOSE)
        return condition

    def read_if(self) -> Evaluate:
        branches = [(self.read_condition(), self.read_block())]
        while self.take(ELSEIF):
            branches.append((self.read_condition(), self.read_block()))
        otherwise = self.read_block() if self.take(ELSE) else Block([])
        self.need(END)

        def evaluate(scope: Scope) -> str:
            return next((block for condition, block in branches if _truth(condition(scope))), otherwise)(scope)

        return evaluate

    def read_foreach(self, name: str) -> Evaluate:
        if name in RESERVED:
            self.refuse(self.at)
        found = self.take(RANGE)
        items = Literal(_range(int(found[1]), int(found[2]))) if found else self.read_reference()
        self.need(CLOSE)
        block = self.read_block()
        self.need(END)

        def evaluate(scope: Scope) -> str:
            values, parts = _items(items(scope)), []
            before = {each: scope.get(each) for each in (name, "velocityCount", "velocityHasNext", "foreach")}
            for count, value in enumerate(values, 1):
                has_next = count < len(values)
                loop = dict(zip(LOOP, (count - 1, count, has_next, count == 1, not has_next), strict=True))
                scope.update({"velocityCount": count, "velocityHasNext": has_next, "foreach": loop, name: value})
                parts.append(block(scope))
            scope.update(before)
            return java.concatenate(parts)

        return evaluate

    def read_truth(self, read: Callable[[], Evaluate]) -> Evaluate:
        """A boolean operand."""
        at = self.at
        value = read()
        return self.refuse(at) if isinstance(value, Literal | Block) else value

    def read_expression(self, level: int = 0) -> Evaluate:
        """Operands, with operators of this level of precedence or of a stronger one between them."""
        if level == len(OPERATORS):
            return self.read_operand()
        start = self.at
        left = self.read_expression(level + 1)
        while found := self.take(OPERATORS[level]):
            right = self.read_expression(level + 1)
            if compare := COMPARISONS.get(found[1]):
                left = _comparing(compare, left, right)
            elif isinstance(left, Literal | Block) or isinstance(right, Literal | Block):
                self.refuse(start)
            else:
                left = _combining(found[1], left, right)
        self.take(BLANKS)
        return left

    def read_operand(self) -> Evaluate:
        if self.take(NOT):
            negated = self.read_truth(self.read_operand)
            return lambda scope: not _truth(negated(scope))
        if self.take(OPEN):
            inner = self.read_expression()
            self.need(CLOSE)
            return inner
        self.take(BLANKS)
        return self.read_value()

    def read_value(self) -> Evaluate:
        """A literal or a reference."""
        if found := self.take(STRING):
            return Literal(found[1] or found[2] or "")
        if found := self.take(TEMPLATE_STRING):
            return Parser(self.where, found[1]).whole()
        if found := self.take(INTEGER):
            return Literal(int(found[1]))
        if found := self.take(BOOLEAN):
            is_true = found[1] == "true"
            return lambda _: is_true
        return self.read_reference()

    def read_reference(self) -> Evaluate:
        start = self.at
        found = self.need(REFERENCE)
        root: str = found[2] or found[3]
        if root in MEMBERS and not MEMBERS[root].match(self.text, self.at):
            self.refuse(start)
        steps: list[Callable[[Any, Scope], Any]] = []
        while member := self.take(MEMBER):
            steps.append(self.read_call(member[1], start) if member[2] else _reading(member[1]))
        if found[1]:
            self.need(CURLY)

        def evaluate(scope: Scope) -> Any:
            value = scope.get(root)
            for step in steps:
                if value is None:
                    break
                value = step(value, scope)
            return "" if value is None else value

        return evaluate

    def read_call(self, name: str, start: int) -> Callable[[Any, Scope], Any]:
        """A call, whose parenthesis is read."""
        arguments = []
        if not self.take(CLOSE_CALL):
            arguments.append(self.read_value())
            while self.take(COMMA):
                arguments.append(self.read_value())
            self.need(CLOSE_CALL)
        paths = [str(each.value) for each in arguments if isinstance(each, Literal) and name in ("json", "path")]
        if name not in KNOWN_METHODS or not all(map(JSON_PATH.fullmatch, paths)):
            self.refuse(start)

        def evaluate(value: Any, scope: Scope) -> Any:
            given = [argument(scope) for argument in arguments]
            method = METHODS.get((type(value), name, *map(type, given)))
            if method is None:
                types = ", ".join(type(each).__name__ for each in given)
                raise TypeError(f"the method {name}({types}) of a {type(value).__name__} is not implemented")
            return method(value, *given)

        return evaluate


def _reading(name: str) -> Callable[[Any, Scope], Any]:
    """`.name`: a key of a map or the body, never an attribute of the Python object."""

    def evaluate(value: Any, scope: Scope) -> Any:
        if isinstance(value, Input):
            return value.body or "{}"
        if not isinstance(value, dict):
            raise TypeError(f"the property {name} of a {type(value).__name__} is not implemented")
        return value.get(name)

    return evaluate


def _comparing(compare: Callable[[Any, Any], bool], left: Evaluate, right: Evaluate) -> Evaluate:
    return lambda scope: compare(left(scope), right(scope))


def _combining(sign: str, left: Evaluate, right: Evaluate) -> Evaluate:
    if sign == "&&":
        return lambda scope: _truth(left(scope)) and _truth(right(scope))
    return lambda scope: _truth(left(scope)) or _truth(right(scope))


def _refused_after(reference: str, before: re.Pattern[str]) -> re.Pattern[str]:
    if before in (REFUSED_AFTER_PROPERTY, REFUSED_AFTER_BOTH):
        return REFUSED_AFTER_BOTH
    if reference.endswith("}"):
        return NOTHING
    return REFUSED_AFTER_REFERENCE if "." not in reference or reference.endswith(")") else REFUSED_AFTER_PROPERTY


def _range(first: int, last: int) -> range:
    return range(first, last + 1) if first <= last else range(first, last - 1, -1)


def _items(value: Any) -> Any:
    """The items of #foreach: a list, a range, keys, the values of a map; a text has no items."""
    items = list(value.values()) if isinstance(value, dict) else () if isinstance(value, str) else value
    if not isinstance(items, tuple | list | range | type({}.keys())) or len(items) > FOREACH_LIMIT or None in items:
        raise ValueError(f"#foreach takes a list of at most {FOREACH_LIMIT:,} items, none of them null")
    return items
