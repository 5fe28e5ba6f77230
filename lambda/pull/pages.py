"""What an answer holds: the rows of a page, and which pages follow. An answer that does not add up raises a Problem."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urljoin, urlsplit

from pull.problems import (
    BadCredentials,
    Busy,
    ErrorBody,
    HttpError,
    NotJson,
    RepeatedPage,
    ShapeChanged,
    WrongTotal,
)
from pull.source import MOST_PAGES, Json, Path, Request, Source, path
from shared import web

_NEXT_LINK = re.compile(r"<([^>]*)>((?:\s*;[^,<]*)*)")
_MOST_TEXT = 200


class Page(NamedTuple):
    """The rows of one answer."""

    rows: list[Json]
    digest: str
    """A hash of the rows: that of another page is the same only when its rows are."""
    announced: int | None
    """How many pages the API says that there are; None when the declaration does not say where it tells."""
    next: str | None
    """The next cursor, or the URL of the next page."""


class Place(NamedTuple):
    """Where a page stands in its series."""

    number: int
    """Counted from 0."""
    parameters: Json
    planned: int
    """How many pages of the series had been planned when this one was."""
    previous: str = ""
    """The digest of the page before, where pages are found one after another."""


class Following(NamedTuple):
    """What a page says of those that follow it."""

    numbers: range
    """The pages that are to be planned now."""
    planned: int
    """How many pages of the series are then planned."""
    note: str = ""
    """Something to report, though nothing is lost by it."""


def judge(source: Source, answer: web.Answer, now: float) -> None:
    """Raise what the status says, unless it is 2xx."""
    status, kind = answer.status, answer.headers.get("content-type", "no Content-Type")
    if status in (401, 403):
        raise BadCredentials(f"the API answers {status} to the credentials of '{source.name}'")
    if status in (408, 425, 429) or status >= 500:
        raise Busy(f"the API answers {status}", wait=web.retry_after(answer, now) or 0.0)
    if not 200 <= status < 300:
        raise HttpError(f"the API answers {status} ({kind}, {len(answer.body):,} bytes)")


def read_page(source: Source, parameters: Json, request: Request, answer: web.Answer) -> Page:
    """The rows of an answer of 2xx; `parameters` are those of its request. Raises a Problem."""
    if not answer.body and answer.status == 204:
        return Page([], digest([]), 0 if _total(source) else None, None)
    document = parse(answer)
    if source.error and (error := source.error(document)):
        text = error if isinstance(error, str) else json.dumps(error)
        raise ErrorBody(f"the API answers {answer.status} with an error in it: {text[:_MOST_TEXT]}")
    rows = _rows(source, document)
    for name in source.grid:
        if any(name in row for row in rows):
            raise ShapeChanged(f"the rows have a key '{name}' of their own: give that list of the grid another name")
    for text, find in source.required.items():
        for number, row in enumerate(rows):
            if find({**row, **_cell(source, parameters)}) is None:
                raise ShapeChanged(f"row {number} of {len(rows)} has no '{text}'; it has {_keys(row)}")
    cell = _cell(source, parameters)
    return Page(
        [{**row, **cell} for row in rows] if cell else rows,
        digest(rows),
        _announced(source, document),
        _next(source, document, parameters, request, answer),
    )


def follow(source: Source, page: Page, place: Place) -> Following:
    """Which pages follow one; raises WrongTotal or RepeatedPage for what cannot be true."""
    number, rows = place.number, len(page.rows)
    if number + 1 >= MOST_PAGES and (rows or page.next):
        raise WrongTotal(f"the series goes on after {MOST_PAGES:,} pages: narrow it by slice_days or a grid")
    if page.announced is not None:
        return _follow_announced(source, page, place)
    if rows and page.digest == place.previous:
        raise RepeatedPage(f"page {number + 1} has the {rows:,} rows of the page before")
    style = source.pagination["style"]
    goes_on = bool(rows) if style in ("page", "offset") else page.next is not None
    return Following(range(number + 1, number + 1 + goes_on), number + 1 + goes_on)


def _follow_announced(source: Source, page: Page, place: Place) -> Following:
    """Pages whose total the API announces: those that are not planned yet, and one more behind a last page that is
    full. That one is empty when the total is true."""
    number, rows, announced = place.number, len(page.rows), page.announced or 0
    if announced > MOST_PAGES:
        raise WrongTotal(f"{announced:,} pages are announced; a series may have {MOST_PAGES:,}: narrow it")
    if not rows:
        if number < announced:
            raise WrongTotal(f"page {number + 1} has no rows, and {announced:,} pages are announced")
        return Following(range(0), place.planned)
    if number >= announced:
        note = f"WrongTotal: page {number + 1} has {rows:,} rows, and only {announced:,} pages are announced"
        return Following(range(number + 1, number + 2), max(place.planned, number + 2), note)
    size = source.pagination.get("size", 0)
    is_last = number + 1 == announced
    if source.pagination["style"] == "offset" and rows < size and not is_last:
        # A service that gives fewer rows than asked for would leave a gap before each next offset.
        raise WrongTotal(f"page {number + 1} of {announced:,} has {rows:,} rows, though {size:,} were asked for")
    end = announced + (is_last and rows >= size)
    return Following(range(place.planned, end), max(place.planned, end))


def digest(rows: list[Json]) -> str:
    """A hash of rows, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:32]


def parse(answer: web.Answer) -> Any:
    """The JSON document of an answer; NotJson when it is none. Whole numbers keep all their digits."""
    try:
        return json.loads(answer.body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        kind = answer.headers.get("content-type", "no Content-Type")
        raise NotJson(f"the API answers {answer.status} with {kind}, {len(answer.body):,} bytes") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _rows(source: Source, document: Any) -> list[Json]:
    found = source.items(document)
    if source.is_columnar:
        if not isinstance(found, dict) or not all(isinstance(column, list) for column in found.values()):
            raise ShapeChanged(f"'items' finds no object of lists; the answer has {_keys(document)}")
        if len({len(column) for column in found.values()}) > 1:
            lengths = ", ".join(f"{name} {len(column):,}" for name, column in found.items())
            raise ShapeChanged(f"the columns are not equally long: {lengths[:_MOST_TEXT]}")
        return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    if not isinstance(found, list):
        raise ShapeChanged(f"'items' finds no list; the answer has {_keys(document)}")
    if not all(isinstance(row, dict) for row in found):
        raise ShapeChanged("an item is no JSON object")
    return found


def _cell(source: Source, parameters: Json) -> Json:
    return {name: parameters[name] for name in source.grid if name in parameters}


def _keys(value: Any) -> str:
    """What stands in a document where something else was expected: names of keys only, as values may be private."""
    if not isinstance(value, dict):
        return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
    return f"the keys {', '.join(map(str, value))}"[:_MOST_TEXT] if value else "no key"


def _total(source: Source) -> tuple[str, Path] | None:
    for key in ("total_pages", "total_rows"):
        if key in source.pagination:
            return key, path(source.pagination[key])
    return None


def _announced(source: Source, document: Any) -> int | None:
    if (total := _total(source)) is None:
        return None
    key, find = total
    value = find(document)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ShapeChanged(f"'{key}' finds no whole number; the answer has {_keys(document)}")
    return value if key == "total_pages" else -(-value // int(source.pagination["size"]))


def _next(source: Source, document: Any, parameters: Json, request: Request, answer: web.Answer) -> str | None:
    if source.pagination["style"] == "cursor":
        cursor = path(source.pagination["next"])(document)
        if cursor is None or cursor == "" or cursor is False:
            return None
        if not isinstance(cursor, str | int):
            raise ShapeChanged("'next' finds a cursor that is neither a text nor a number")
        if str(cursor) == str(parameters.get("cursor")):
            raise RepeatedPage("the next cursor is the cursor that was asked for")
        return str(cursor)
    if source.pagination["style"] == "link":
        return _next_link(request.url, answer.headers.get("link", ""))
    return None


def _next_link(url: str, header: str) -> str | None:
    """The URL of `rel="next"` in a Link header (https://www.rfc-editor.org/rfc/rfc8288)."""
    for target, attributes in _NEXT_LINK.findall(header):
        if re.search(r';\s*rel\s*=\s*("([^"]*\s)?next(\s[^"]*)?"|next\b)', attributes, re.IGNORECASE):
            following = str(urljoin(url, target))
            # The token goes with the request, and must not go elsewhere.
            if urlsplit(following)[:2] != urlsplit(url)[:2]:
                raise ShapeChanged("the next link leads to another host")
            if following == url:
                raise RepeatedPage("the next link is the page itself")
            return following
    return None
