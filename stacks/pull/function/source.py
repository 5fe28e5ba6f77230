"""A source as declared, and its requests: windows, grids, placeholders, pages' addresses.

Declarations are checked when they are deployed (stacks/pull/folder.py); docs/pull.md describes every key.
Everything here is pure: times come in as arguments.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final, Literal, NotRequired, Required, TypedDict
from urllib.parse import urlencode, urlsplit, urlunsplit

import jmespath

from shared.documents import Json, JsonObject, JsonValue

from .problems import ShapeChanged

Path = Callable[[JsonValue], JsonValue]

MOST_PAGES: Final = 10_000
"""Pages of one series, and requests of one run, at most: a lying API may announce a billion."""

COUNTS: Final[tuple[Literal["total_pages", "total_rows"], ...]] = ("total_pages", "total_rows")
ROUNDINGS: Final = {"day": timedelta(days=1), "hour": timedelta(hours=1)}
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_PLACEHOLDER: Final = re.compile(r"\{([a-z_][a-z0-9_]*(?:\.\w+)*)(?::(iso|date|epoch|epoch_ms))?\}")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Window:
    """The time pulled by a run: from the first moment to the one before `to`."""

    start: datetime
    to: datetime


@dataclass(frozen=True)
class Request:
    """A request without its credentials."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None


class Auth(TypedDict, total=False):
    """How requests are authorized; `header` goes with api_key, `token_url` and `scope` with OAuth 2."""

    type: Required[Literal["none", "bearer", "api_key", "oauth2_client_credentials"]]
    secret: str
    header: str
    token_url: str
    scope: str


class Pagination(TypedDict, total=False):
    """How a series is split into pages. Both totals and `next` are JMESPath."""

    style: Required[Literal["none", "page", "offset", "cursor", "link"]]
    first: int
    size: int
    total_pages: str
    total_rows: str
    short_pages: bool
    next: str


class DeclaredWindow(TypedDict, total=False):
    """The times pulled by runs; `first` and `end` are in ISO 8601."""

    first: Required[str]
    end: str
    lag_seconds: int
    overlap_seconds: int
    round_to: Literal["day", "hour"]
    slice_days: int


class Columns(TypedDict):
    """The place of an object of lists in an answer."""

    columns: str


class Declaration(TypedDict):
    """A source, as source.schema.json describes it. Its url, headers, query and body are templates with placeholders;
    `items`, `required` and `error` are JMESPath."""

    name: str
    url: str
    method: NotRequired[Literal["GET", "POST"]]
    headers: NotRequired[Json]
    query: NotRequired[Json]
    body: NotRequired[JsonObject | list[JsonValue]]
    timeout_seconds: NotRequired[float]
    requests_per_second: NotRequired[float]
    auth: NotRequired[Auth]
    pagination: NotRequired[Pagination]
    window: NotRequired[DeclaredWindow]
    grid: NotRequired[dict[str, list[JsonValue]]]
    items: str | Columns
    required: NotRequired[list[str]]
    error: NotRequired[str]
    event: Json
    """By field: JMESPath, or an object with a `constant`. `event_id` is a list of JMESPath."""


@dataclass(frozen=True)
class Source:
    """A source by its name, with its declaration."""

    name: str
    declaration: Declaration

    @property
    def auth(self) -> Auth:
        return self.declaration.get("auth", Auth(type="none"))

    @property
    def pagination(self) -> Pagination:
        return self.declaration.get("pagination", Pagination(style="none"))

    @property
    def is_numbered(self) -> bool:
        """Whether a page is found by its number or offset; otherwise only the page before it knows it."""
        return self.pagination["style"] in ("page", "offset")

    @property
    def counts(self) -> Literal["total_pages", "total_rows"] | None:
        """The kind of total announced by the API for a whole series; None without one."""
        return next((key for key in COUNTS if key in self.pagination), None)

    @property
    def timeout(self) -> float:
        """Seconds an answer may take."""
        return float(self.declaration.get("timeout_seconds", 30))

    @property
    def interval(self) -> float:
        """Seconds between two requests; 0 without a limit."""
        rate = self.declaration.get("requests_per_second")
        return 1 / rate if rate else 0.0

    @property
    def is_columnar(self) -> bool:
        """Whether `items` finds an object of lists, a list a column, rather than a list of objects."""
        return isinstance(self.declaration["items"], dict)

    @cached_property
    def items(self) -> Path:
        items = self.declaration["items"]
        return path(items if isinstance(items, str) else items["columns"])

    @cached_property
    def error(self) -> Path | None:
        return path(self.declaration["error"]) if "error" in self.declaration else None

    @cached_property
    def required(self) -> dict[str, Path]:
        """The required values of each row, by their JMESPath; by default the parts of the event_id."""
        texts = self.declaration.get("required", self.declaration["event"].get("event_id", []))
        return {text: path(text) for text in texts}

    @cached_property
    def event_id(self) -> list[Path]:
        return [path(text) for text in self.declaration["event"].get("event_id", [])]

    @cached_property
    def mapping(self) -> dict[str, Path]:
        """The event's fields, each with the function to find its value in a row."""
        entries = {key: value for key, value in self.declaration["event"].items() if key != "event_id"}
        return {
            key: _constant(value["constant"]) if isinstance(value, dict) else path(value)
            for key, value in ({"source": {"constant": self.name}} | entries).items()
        }

    @cached_property
    def mapped_keys(self) -> set[str]:
        """The keys of a row whose values become fields of the event unchanged; its properties need not repeat them."""
        texts = [value for key, value in self.declaration["event"].items() if key != "event_id"]
        return {text for text in texts if isinstance(text, str) and _IDENTIFIER.fullmatch(text)}

    @property
    def grid(self) -> dict[str, list[JsonValue]]:
        return self.declaration.get("grid", {})

    def window(self, checkpoint: datetime | None, now: datetime) -> Window | None:
        """The window of a run from now on; None if there is nothing new. Without a declared one: all, up to now."""
        declared = self.declaration.get("window")
        if declared is None:
            return Window(EPOCH, now)
        to = now - timedelta(seconds=declared.get("lag_seconds", 0))
        if "end" in declared:
            to = min(to, read_time(declared["end"]))
        if "round_to" in declared:
            to -= (to - EPOCH) % ROUNDINGS[declared["round_to"]]
        start = first = read_time(declared["first"])
        if checkpoint is not None:
            if checkpoint >= to:
                return None
            start = max(first, checkpoint - timedelta(seconds=declared.get("overlap_seconds", 0)))
        return Window(start, to) if start < to else None

    def series(self, window: Window) -> Iterator[JsonObject]:
        """The parameters of each series of pages: the slices of the window times the lists of the grid."""
        days = self.declaration.get("window", {}).get("slice_days")
        slices = [(window.start, window.to)] if days is None else _slices(window, timedelta(days=days))
        for (start, to), values in itertools.product(slices, itertools.product(*self.grid.values())):
            yield {"from": write_time(start), "to": write_time(to), **dict(zip(self.grid, values, strict=True))}

    def page(self, parameters: JsonObject, number: int, offset: int = 0) -> JsonObject:
        """The parameters of a page of a series, by its number, counted from 0, or by the rows before it."""
        match self.pagination["style"]:
            case "page":
                return {**parameters, "page": self.pagination.get("first", 1) + number}
            case "offset":
                return {**parameters, "offset": offset}
            case "cursor":
                return {"cursor": None, **parameters}
        return parameters

    def request(self, parameters: JsonObject) -> Request:
        """The request for a page. A query parameter whose value is null is left out, as is a key of the body."""
        declared = self.declaration
        body = fill(declared["body"], parameters) if "body" in declared else None
        headers = {"Accept": "application/json", "User-Agent": "sluice-pull/1"}
        headers |= {} if body is None else {"Content-Type": "application/json"}
        headers |= {name: _text(fill(value, parameters)) for name, value in declared.get("headers", {}).items()}
        if parameters.get("link"):
            url = str(parameters["link"])
        else:
            parts = urlsplit(_text(fill(declared["url"], parameters)))
            query = {name: fill(value, parameters) for name, value in declared.get("query", {}).items()}
            pairs = [(name, each) for name, value in query.items() for each in _listed(value) if each is not None]
            written = urlencode([(name, _text(each)) for name, each in pairs])
            url = urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, written)))))
        data = None if body is None else json.dumps(_without_null(body)).encode()
        return Request(declared.get("method", "GET"), url, headers, data)


def path(text: str) -> Path:
    """The function to find a value in a document by a JMESPath expression; a bare name is looked up at once."""
    if _IDENTIFIER.fullmatch(text):
        return lambda document: document.get(text) if isinstance(document, dict) else None
    search: Path = jmespath.compile(text).search

    def find(document: JsonValue) -> JsonValue:
        try:
            return search(document)
        except Exception:  # functions of JMESPath raise more than its own errors: a slice with step 0, deep documents
            raise ShapeChanged(f"'{text}' cannot be applied to what the answer has there") from None

    return find


def read_time(text: str) -> datetime:
    """An ISO 8601 time, as declared or stored; without a zone it is UTC."""
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def write_time(time: datetime) -> str:
    """A time in ISO 8601 and UTC, with no more digits than it needs."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def fill(template: JsonValue, parameters: Mapping[str, JsonValue]) -> JsonValue:
    """A template with its placeholders filled in. A text of just one placeholder becomes its value, of any type."""
    if isinstance(template, dict):
        return {key: fill(value, parameters) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, parameters) for value in template]
    if not isinstance(template, str):
        return template
    if whole := _PLACEHOLDER.fullmatch(template):
        return _value(whole, parameters)
    return _PLACEHOLDER.sub(lambda match: _text(_value(match, parameters)), template)


def placeholders(template: JsonValue) -> Iterator[str]:
    """The names of the placeholders in a template: of `{place.latitude}` it is place."""
    if isinstance(template, str):
        yield from (match[1].split(".")[0] for match in _PLACEHOLDER.finditer(template))
    elif isinstance(template, dict | list):
        for value in template.values() if isinstance(template, dict) else template:
            yield from placeholders(value)


def _value(match: re.Match[str], parameters: Mapping[str, JsonValue]) -> JsonValue:
    name, *keys = match[1].split(".")
    value = parameters["to"] if name == "last" else parameters.get(name)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if name not in ("from", "to", "last"):
        return value
    time = read_time(str(value)) - timedelta(milliseconds=name == "last")
    match match[2]:
        case "date":
            return time.date().isoformat()
        case "epoch":
            return int(time.timestamp())
        case "epoch_ms":
            return (time - EPOCH) // timedelta(milliseconds=1)
    return write_time(time)


def _constant(value: JsonValue) -> Path:
    return lambda document: value


def _slices(window: Window, length: timedelta) -> list[tuple[datetime, datetime]]:
    slices: list[tuple[datetime, datetime]] = []
    start = window.start
    while start < window.to and len(slices) <= MOST_PAGES:
        slices.append((start, min(start + length, window.to)))
        start += length
    return slices


def _listed(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else [value]


def _text(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _without_null(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {key: _without_null(each) for key, each in value.items() if each is not None}
    return [_without_null(each) for each in value] if isinstance(value, list) else value
