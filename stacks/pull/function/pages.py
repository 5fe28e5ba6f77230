"""The content of an answer: the rows of a page, and the pages after it. An inconsistent answer raises a Problem."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urljoin, urlsplit

from shared import web
from shared.documents import Json, JsonObject, JsonValue, parse_json

from .problems import (
    BadCredentials,
    Busy,
    ErrorBody,
    HttpError,
    NotJson,
    RepeatedPage,
    ShapeChanged,
    WrongTotal,
)
from .source import MOST_PAGES, Request, Source, path

_NEXT_LINK = re.compile(r"<([^>]*)>((?:\s*;[^,<]*)*)")
_MOST_TEXT = 200


class Page(NamedTuple):
    """The rows of one answer."""

    rows: list[JsonObject]
    digest: str
    """A hash of the rows: the same only for a page with the same rows."""
    total: int | None
    """The pages (`total_pages`) or rows (`total_rows`) of the whole series, as the API counts them; None if the
    declaration names no place for it."""
    next: str | None
    """The next cursor, or the URL of the next page."""


class Place(NamedTuple):
    """Where a page is in its series."""

    number: int
    """Counted from 0."""
    parameters: Json
    planned: int
    """How many pages were planned for the series: those before a probe."""
    size: int = 0
    """The rows of the first page, if it planned this one."""
    is_alone: bool = False
    """Whether the pages are fetched one after another although the API announces a total: it did not fit before."""
    previous: str = ""
    """The digest of the page before, if pages are found one after another."""
    mark: str = ""
    """The cursor or link to an earlier page: a series that comes back to it goes round in a circle."""

    @property
    def is_probe(self) -> bool:
        """Whether the page should be behind the last one, and is asked for only to see it empty."""
        return bool(self.parameters.get("probe"))

    def is_behind(self, source: Source, page: Page) -> bool:
        """Whether a page with rows repeats the last one: some APIs answer so behind their end."""
        if not self.is_probe or page.digest != self.previous:
            return False
        reached = self.parameters.get("offset", 0) if source.counts == "total_rows" else self.number
        return not self.is_alone or (page.total is not None and reached >= page.total)


class Following(NamedTuple):
    """The pages after a page, as it tells."""

    numbers: range
    """The pages to plan now."""
    planned: int
    """How many pages the series then has, without probes."""
    are_probes: bool = False
    """Whether those pages are asked for only to see them empty; a 404 says so, too."""
    mark: str = ""
    note: str = ""
    """Something to report, though nothing is lost by it."""


class Landed(NamedTuple):
    """A page of a series, all pages of which have landed."""

    number: int
    offset: int
    """The rows before it, for the style `offset`."""
    rows: int
    total: int | None
    digest: str


def judge(source: Source, answer: web.Answer, now: float) -> None:
    """Raise the Problem for the status, unless it is 2xx."""
    status, kind = answer.status, answer.headers.get("content-type", "no Content-Type")
    if status in (401, 403):
        raise BadCredentials(f"the API answers {status} to the credentials of '{source.name}'")
    if status in (408, 425, 429) or status >= 500:
        raise Busy(f"the API answers {status}", wait=web.retry_after(answer, now) or 0.0)
    if not 200 <= status < 300:
        raise HttpError(f"the API answers {status} ({kind}, {len(answer.body):,} bytes)")


def read_page(source: Source, parameters: JsonObject, request: Request, answer: web.Answer) -> Page:
    """The rows of an answer of 2xx; `parameters` are those of its request. Raises a Problem."""
    if not answer.body and answer.status == 204:
        return Page([], digest([]), 0 if source.counts else None, None)
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
        _read_total(source, document),
        _next(source, document, request, answer),
    )


def follow(source: Source, page: Page, place: Place) -> Following:
    """The pages after a page; raises WrongTotal or RepeatedPage for an impossible answer.

    If a total is announced, the first page plans the others, to be fetched side by side. The last of them plans one
    more, to be found empty if the total is true. All other pages are found one after another. `check` then says
    whether the pages fit together.
    """
    number, rows = place.number, len(page.rows)
    if number + 1 >= MOST_PAGES and (rows or page.next):
        raise WrongTotal(f"the series goes on after {MOST_PAGES:,} pages: narrow it by slice_days or a grid")
    if rows and page.digest == place.previous:
        raise RepeatedPage(f"page {number + 1} has the {rows:,} rows of the page before")
    if not source.is_numbered:
        return _follow_next(source, page, place)
    if page.total is None:
        return Following(range(number + 1, number + 1 + bool(rows)), number + 1 + bool(rows))
    return _follow_announced(source, rows, page.total, place)


def _follow_announced(source: Source, rows: int, total: int, place: Place) -> Following:
    number, announced = place.number, f"{_announced(source, total)} are announced"
    if total and not rows and not place.is_probe:
        raise WrongTotal(f"page {number + 1} has no rows, and {announced}")
    nothing = Following(range(0), place.planned)
    probe = Following(range(number + 1, number + 2), place.planned, are_probes=True)
    if not rows or place.is_alone:
        return probe if rows else nothing
    if place.is_probe:
        return probe._replace(note=f"WrongTotal: page {number + 1} has {rows:,} rows, and only {announced}")
    if number:
        # A page shorter than the first needs no proof of being the last.
        return nothing if rows < place.size or number + 1 < place.planned else probe
    # The API may give fewer rows than it is asked for: the first page shows how many.
    planned = total if source.counts == "total_pages" else -(-total // rows)
    if planned > MOST_PAGES:
        raise WrongTotal(f"{planned:,} pages are announced; a series may have {MOST_PAGES:,}: narrow it")
    if planned < 2:
        return probe._replace(planned=planned)
    asked = source.pagination.get("size", 0)
    note = f"page 1 has {rows:,} rows, though {asked:,} were asked for" if rows < asked else ""
    return Following(range(1, planned), planned, note=note)


def check(source: Source, pages: list[Landed], *, is_alone: bool) -> WrongTotal | RepeatedPage | None:
    """The problem of a series whose pages have all landed, in the order of their numbers; None if they fit.

    They were fetched in any order, unless one after another (`is_alone`, or without a total). Rows added or removed
    meanwhile move the rows behind them. Rows moved past a page not fetched yet are missing, and the totals tell.
    """
    for before, page in itertools.pairwise(pages):
        if page.rows and page.digest == before.digest:
            return RepeatedPage(f"page {page.number + 1} has the {page.rows:,} rows of the page before")
    if not source.is_numbered:
        return None
    full = [page for page in pages if page.rows]
    # Of pages fetched in any order, one without rows may tell of rows that came or went before the others. Some APIs
    # announce nothing there.
    telling = full if is_alone else [page for page in pages if page.rows or page.total]
    totals = [page.total for page in telling if page.total is not None]
    is_growing = is_alone and totals == sorted(totals)
    if len(set(totals)) > 1 and not is_growing:
        least, most = (_announced(source, total) for total in (min(totals), max(totals)))
        return WrongTotal(f"{least} were announced, and {most}: the source changed while its pages were fetched")
    is_offset = source.pagination["style"] == "offset"
    if is_offset:
        for before, page in itertools.pairwise(pages):
            if page.offset > before.offset + before.rows:
                there = f"page {before.number + 1} has {before.rows:,} rows from {before.offset:,} on"
                return WrongTotal(f"{there}, and the next page begins at {page.offset:,}")
    elif source.counts != "total_pages" and not source.pagination.get("short_pages"):
        for page in full:
            if page.rows > full[0].rows or (page.rows < full[0].rows and page is not full[-1]):
                sizes = f"page 1 has {full[0].rows:,} rows, and page {page.number + 1} has {page.rows:,}"
                text = 'rows may lie between them. Declare "short_pages": true if the API only leaves some out'
                return WrongTotal(f"{sizes}: {text}")
    if is_offset:
        found = max((page.offset + page.rows for page in full), default=0)
    else:
        found = len(full) if source.counts == "total_pages" else sum(page.rows for page in full)
    if totals and found < max(totals):
        text = f"only {found:,} of {_announced(source, max(totals))} came"
        return WrongTotal(f"{text}: leave {source.counts} out if the API announces more than it gives")
    return None


def _follow_next(source: Source, page: Page, place: Place) -> Following:
    """The next page, if only this one knows it. Every power of two, its cursor or link becomes the mark: a circle of
    any length comes back to one of them."""
    number = place.number + 1
    if page.next is None:
        return Following(range(0), number)
    if page.next in (place.mark, str(place.parameters.get(source.pagination["style"]))):
        raise RepeatedPage(f"the {source.pagination['style']} that page {number} names as the next was one before")
    mark = page.next if number & (number - 1) == 0 else place.mark
    return Following(range(number, number + 1), number + 1, mark=mark)


def _announced(source: Source, total: int) -> str:
    return f"{total:,} {'pages' if source.counts == 'total_pages' else 'rows'}"


def digest(rows: list[JsonObject]) -> str:
    """A hash of rows, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:32]


def parse(answer: web.Answer) -> JsonValue:
    """The JSON document of an answer. Whole numbers keep all their digits. Raises NotJson."""
    try:
        document: JsonValue = parse_json(answer.body, parse_constant=_refuse)
    except ValueError:
        kind = answer.headers.get("content-type", "no Content-Type")
        raise NotJson(f"the API answers {answer.status} with {kind}, {len(answer.body):,} bytes") from None
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _rows(source: Source, document: JsonValue) -> list[JsonObject]:
    found: Any = source.items(document)
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
        raise ShapeChanged("an item is not a JSON object")
    return found


def _cell(source: Source, parameters: JsonObject) -> JsonObject:
    return {name: parameters[name] for name in source.grid if name in parameters}


def _keys(value: JsonValue) -> str:
    """An unexpected part of a document, described: names of keys only, as values may be private."""
    if not isinstance(value, dict):
        return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
    return f"the keys {', '.join(map(str, value))}"[:_MOST_TEXT] if value else "no key"


def _read_total(source: Source, document: JsonValue) -> int | None:
    if not source.counts:
        return None
    value = path(source.pagination[source.counts])(document)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ShapeChanged(f"'{source.counts}' finds no whole number; the answer has {_keys(document)}")
    return value


def _next(source: Source, document: JsonValue, request: Request, answer: web.Answer) -> str | None:
    if source.pagination["style"] == "cursor":
        cursor = path(source.pagination["next"])(document)
        if cursor is None or cursor == "" or cursor is False:
            return None
        if not isinstance(cursor, str | int):
            raise ShapeChanged("'next' finds a cursor that is neither a text nor a number")
        return str(cursor)
    if source.pagination["style"] == "link":
        return _next_link(request.url, answer.headers.get("link", ""))
    return None


def _next_link(url: str, header: str) -> str | None:
    """The URL of `rel="next"` in a Link header (https://www.rfc-editor.org/rfc/rfc8288)."""
    for target, attributes in _NEXT_LINK.findall(header):
        if re.search(r';\s*rel\s*=\s*("([^"]*\s)?next(\s[^"]*)?"|next\b)', attributes, re.IGNORECASE):
            try:
                following = str(urljoin(url, target))
                is_elsewhere = urlsplit(following)[:2] != urlsplit(url)[:2]
            except ValueError:
                raise ShapeChanged("the next link is not a URL") from None
            # The token goes with the request, and must not go elsewhere.
            if is_elsewhere:
                raise ShapeChanged("the next link leads to another host")
            return following
    return None
