"""Declarations of sources: faults are found before anything is deployed, by file and line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.commands.common.console import CommandError
from stacks.pull.folder import SCHEMA, compile_folder
from stacks.pull.function.source import Source, Window, read_time

GOOD = """{
  "name": "things",
  "url": "https://api.example.com/v1/{place.id}/things?sort=id",
  "query": {"page": "{page}", "since": "{from:date}"},
  "auth": {"type": "bearer"},
  "pagination": {
    "style": "page",
    "total_pages": "meta.pages"
  },
  "window": {"first": "2026-01-01T00:00:00Z", "slice_days": 7},
  "grid": {
    "place": [
      {"id": "north"},
      {"id": "south"}
    ]
  },
  "items": "data.items",
  "event": {
    "event_id": ["id"],
    "name": {"constant": "thing"},
    "value": "size"
  }
}
"""

WRONG = {
    # fault: (the replaced text, its replacement, the error's text)
    "no JSON": (
        '"items": "data.items",',
        '"items": "data.items"',
        "line 18: this is not JSON: Expecting ',' delimiter",
    ),
    "an unknown key": ('"items"', '"iterms"', "line 17: iterms: is not a key here: there are name, description, url"),
    "an unknown key below": ('"total_pages"', '"total_page"', "line 8: pagination.total_page: is not a key here"),
    "an unknown key of the event": (
        '"value"',
        '"val"',
        "line 21: event.val: is not a key here: there are event_id, name",
    ),
    "a key of another kind of auth": ('"bearer"', '"bearer", "header": "X"', "line 5: auth.header: is not a key here"),
    "a missing key": ('  "items": "data.items",\n', "", "line 1: 'items' is missing"),
    "a missing key below": ('"type": "bearer"', '"type": "api_key"', "line 5: auth: 'header' is missing"),
    "a wrong type": ('"slice_days": 7', '"slice_days": "7"', 'line 10: window.slice_days: must be integer (got "7")'),
    "a wrong choice": ('"page",\n', '"pages",\n', "line 7: pagination.style: must be one of none, page, offset,"),
    "a wrong JMESPath": ('"data.items"', '"data[.items"', "line 17: items: is not JMESPath: "),
    "a wrong JMESPath in a list": ('["id"]', '["id", "a..b"]', "line 19: event.event_id[1]: is not JMESPath: "),
    "a wrong time": ("2026-01-01T00:00:00Z", "1 January", "line 10: window.first: must be a time such as"),
    "a key twice": ('"event": {', '"name": "x",\n  "event": {', "line 18: 'name' is here a second time"),
    "http": ("https://", "http://", "line 3: url: must be an https:// URL; http:// reaches"),
    "a host that is a placeholder": ("api.example.com", "{place.id}.com", "line 3: url: must be an https:// URL"),
    "a name with a blank": ('"things"', '"my things"', "line 2: name: 'my things' does not match"),
    "an unknown placeholder": (
        "{from:date}",
        "{form:date}",
        "line 4: query.since: there is no placeholder '{form:date}': there are from, to, last, place, page",
    ),
    "an unknown format": (
        "{from:date}",
        "{from:day}",
        "line 4: query.since: '{from:day}': only from, to, last have a format, one of iso, date, epoch, epoch_ms",
    ),
    "a key that the grid has not": (
        "{place.id}",
        "{place.key}",
        "line 13: grid.place[0]: has no 'key', which '{place.key}' asks for",
    ),
    "a key that a later one has not": (
        '{"id": "south"}',
        '{"ID": "south"}',
        "line 14: grid.place[1]: has no 'id', which '{place.id}' asks for",
    ),
    "a grid that nothing uses": (
        "{place.id}",
        "north",
        "line 12: grid.place: '{place}' is nowhere in url, query, headers, body",
    ),
    "a page that nothing uses": (
        "{page}",
        "1",
        "line 6: pagination: '{page}' is nowhere in url, query, headers, body: no page but the first",
    ),
    "times without a window": (
        '  "window": {"first": "2026-01-01T00:00:00Z", "slice_days": 7},\n',
        "",
        "line 4: query.since: '{from:date}' needs a window",
    ),
    "an end before the first": (
        '"slice_days": 7',
        '"end": "2025-01-01"',
        "line 10: window.end: '2025-01-01' must be later than first",
    ),
    "two totals": (
        '"meta.pages"',
        '"meta.pages", "size": 5, "total_rows": "n"',
        "line 6: pagination: has total_pages and total_rows",
    ),
    "a name of the grid that has a meaning": (
        '"place": [',
        '"page": [',
        'line 11: grid: "page" has a meaning of its own',
    ),
    "a list instead of an object": (GOOD, "[]", "line 1: must be object (got [])"),
    "nested too deeply": ('"north"', "[" * 5_000 + "]" * 5_000, "things.json: it is nested too deeply"),
    "nested too deeply for its lines": ('"north"', "[" * 600 + "]" * 600, "things.json: it is nested too deeply"),
    "a JMESPath nested too deeply": ('"data.items"', '"' + "(" * 5_000 + '"', "line 17: items: is not JMESPath: "),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "things.json").write_text(GOOD)
    return tmp_path


@pytest.fixture
def usual_recursion_limit() -> Iterator[None]:
    """Python's own: libraries of other tests raise it, and then more is read than in a script."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_recursion_limit")
@pytest.mark.parametrize(("old", "new", "error"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("indent", ["  ", "\t"], ids=["blanks", "tabs"])
def test_what_is_wrong_is_named_by_file_and_line(folder: Path, old: str, new: str, error: str, indent: str) -> None:
    assert old in GOOD
    (folder / "things.json").write_text(GOOD.replace(old, new, 1).replace("  ", indent))
    with pytest.raises(CommandError) as raised:
        compile_folder(folder)
    assert str(raised.value).startswith(str(folder / "things.json"))
    assert error in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_folder_becomes_one_document_that_is_the_same_each_time(folder: Path) -> None:
    (folder / "readme.md").write_text("not a source")
    (folder / "another.json").write_text(GOOD.replace('"things"', '"another"'))
    document = compile_folder(folder)
    assert list(json.loads(document)["sources"]) == ["another", "things"]
    assert json.loads(document)["sources"]["things"] == json.loads(GOOD)
    assert document == compile_folder(folder)


def test_two_sources_of_one_name_are_refused(folder: Path) -> None:
    (folder / "twin.json").write_text(GOOD)
    with pytest.raises(CommandError, match=r"twin\.json: there is a source 'things' already, in .*things\.json"):
        compile_folder(folder)


def test_a_folder_without_declarations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"has no \*\.json file"):
        compile_folder(tmp_path)


def test_a_file_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / "things.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CommandError, match="cannot be read"):
        compile_folder(folder)


REQUESTS = {
    "as it is": ({}, "https://api.example.com/v1/north/things?sort=id&page=1&since=2026-01-01"),
    "a null leaves its parameter out": (
        {"query": {"a": "{cursor}", "b": 1}},
        "https://api.example.com/v1/north/things?sort=id&b=1",
    ),
    "a list repeats its parameter": (
        {"query": {"a": [1, "x y"]}},
        "https://api.example.com/v1/north/things?sort=id&a=1&a=x+y",
    ),
    "true is not True": ({"query": {"a": True}}, "https://api.example.com/v1/north/things?sort=id&a=true"),
    "times": (
        {"query": {"a": "{from}", "b": "{to:epoch}", "c": "{last}", "d": "{last:date}/{to:epoch_ms}"}},
        "https://api.example.com/v1/north/things?sort=id&a=2026-01-01T00%3A00%3A00Z&b=1767571200"
        "&c=2026-01-04T23%3A59%3A59.999000Z&d=2026-01-04%2F1767571200000",
    ),
}


@pytest.mark.parametrize(("changes", "url"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_has_its_placeholders_filled_in(changes: dict[str, object], url: str) -> None:
    source = Source("things", {**json.loads(GOOD), **changes})
    window = Window(read_time("2026-01-01"), read_time("2026-01-05T00:00:00+00:00"))
    parameters = source.page(next(source.series(window)), 0)
    assert source.request(parameters).url == url


WINDOWS = {
    # the declaration, the checkpoint, the windows of a run at 2026-01-10 12:34:56
    "the first time": ({}, None, ("2026-01-01T00:00:00", "2026-01-10T12:34:56")),
    "after a checkpoint": ({}, "2026-01-09T01:00:00", ("2026-01-09T01:00:00", "2026-01-10T12:34:56")),
    "whole days": ({"round_to": "day"}, None, ("2026-01-01T00:00:00", "2026-01-10T00:00:00")),
    "whole hours, late": (
        {"round_to": "hour", "lag_seconds": 7200},
        None,
        ("2026-01-01T00:00:00", "2026-01-10T10:00:00"),
    ),
    "overlapping": ({"overlap_seconds": 3600}, "2026-01-09T01:00:00", ("2026-01-09T00:00:00", "2026-01-10T12:34:56")),
    "overlapping no further than the first": (
        {"overlap_seconds": 10**6},
        "2026-01-02T00:00:00",
        ("2026-01-01T00:00:00", "2026-01-10T12:34:56"),
    ),
    "an end": ({"end": "2026-01-05"}, None, ("2026-01-01T00:00:00", "2026-01-05T00:00:00")),
    "at its end": ({"end": "2026-01-05"}, "2026-01-05T00:00:00", None),
    "no whole day since": ({"round_to": "day"}, "2026-01-10T00:00:00", None),
    "overlapping does not make old things new": (
        {"round_to": "day", "overlap_seconds": 3600},
        "2026-01-10T00:00:00",
        None,
    ),
}


@pytest.mark.parametrize(("window", "checkpoint", "wanted"), WINDOWS.values(), ids=WINDOWS)
def test_a_run_pulls_the_time_since_the_checkpoint(
    window: dict[str, object], checkpoint: str | None, wanted: tuple[str, str] | None
) -> None:
    source = Source("things", {**json.loads(GOOD), "window": {"first": "2026-01-01", **window}})
    found = source.window(read_time(checkpoint) if checkpoint else None, read_time("2026-01-10T12:34:56"))
    assert found == (Window(*map(read_time, wanted)) if wanted else None)


def test_the_last_slice_of_a_window_is_as_long_as_the_rest() -> None:
    source = Source("things", json.loads(GOOD))
    window = Window(read_time("2026-01-01"), read_time("2026-01-10T06:00:00"))
    assert [(each["from"], each["to"], each["place"]["id"]) for each in source.series(window)] == [
        ("2026-01-01T00:00:00Z", "2026-01-08T00:00:00Z", "north"),
        ("2026-01-01T00:00:00Z", "2026-01-08T00:00:00Z", "south"),
        ("2026-01-08T00:00:00Z", "2026-01-10T06:00:00Z", "north"),
        ("2026-01-08T00:00:00Z", "2026-01-10T06:00:00Z", "south"),
    ]


def test_the_documents_have_every_key_of_a_declaration() -> None:
    text = (SCHEMA.parents[2] / "docs" / "pull.md").read_text()

    def keys(schema: object) -> set[str]:
        if isinstance(schema, list):
            return {key for each in schema for key in keys(each)}
        if not isinstance(schema, dict):
            return set()
        own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
        return own | {key for each in schema.values() for key in keys(each)}

    assert {key for key in keys(json.loads(SCHEMA.read_text())) if f"`{key}`" not in text} == set()
