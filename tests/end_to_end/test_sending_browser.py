"""The table of docs/sending.md against Chromium: the outcome of an event for each way to send it from a page."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser import Site, serving
from tests.conftest import ROOT
from tests.gateway import Gateway

pytestmark = pytest.mark.slow

KEY = "a-key-of-twenty-letters"
FETCH = """async ([url, event, headers]) => {
  try {
    return (await fetch(url, {method: "POST", body: event, headers, ...%s})).ok ? "" : "an error"
  } catch (error) { return "an error" }
}"""
BEACON = '([url, event]) => navigator.sendBeacon(url, %s) ? "" : "an error"'
# The image fires `error` for an empty answer as for a refusal: the page learns nothing from it.
IMAGE = """([url, event]) => new Promise((resolve) => {
  const image = new Image(1, 1);
  image.onload = image.onerror = () => resolve("");
  image.src = url.replace("/track", "/pixel") + "?" + new URLSearchParams(JSON.parse(event));
})"""
FORM = """([url, event]) => {
  const form = document.body.appendChild(document.createElement("form"));
  Object.assign(form, {method: "post", action: url});
  Object.assign(form.appendChild(document.createElement("input")), {name: "event", value: event});
  form.submit();
}"""
JSON, TEXT = {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}
# By the first column of the table: JavaScript, with the page's view of a failure as its result, and headers.
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "`fetch` of JSON": (FETCH % "{}", JSON),
    '`fetch` of JSON, `credentials: "include"`': (FETCH % '{credentials: "include"}', JSON),
    "`fetch` of JSON, `keepalive: true`": (FETCH % "{keepalive: true}", JSON),
    "`fetch` of text": (FETCH % "{}", TEXT),
    '`fetch` of text, `credentials: "include"`': (FETCH % '{credentials: "include"}', TEXT),
    "`sendBeacon` of text": (BEACON % "event", {}),
    "`sendBeacon` of a `Blob` of `application/json`": (BEACON % 'new Blob([event], {type: "application/json"})', {}),
    "`sendBeacon` of `URLSearchParams`": (BEACON % "new URLSearchParams(JSON.parse(event))", {}),
    "an image of /pixel": (IMAGE, {}),
    "a form": (FORM, {}),
}
TABLE = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", (ROOT / "docs/sending.md").read_text(), re.MULTILINE)


def test_the_table_has_every_way_that_is_tried_here() -> None:
    ways, *_ = zip(*TABLE, strict=True)
    assert [way for way in ways if way in WAYS] == [*WAYS]


class Door:
    """The product's API behind a server, once for each column of the table."""

    def __init__(self, directory: Path, origin: str) -> None:
        self.gateway = Gateway(directory)
        named = {"CorsAllowOrigin": f"https://elsewhere.example,{origin}"}
        columns = {"*": {"CorsAllowOrigin": "*"}, "named": named, "keyed": {**named, "ApiAuth": "API_KEY"}}
        limits = {"ThrottleRateLimit": "10000", "ThrottleBurstLimit": "5000"}
        self.apis = {name: self.gateway.deploy_product(**given, **limits) for name, given in columns.items()}
        plan = {"id": "plan", "throttle": {}, "quota": {}}
        self.gateway.emulator.plans[KEY, self.apis["keyed"], "prod"] = "key", plan
        self.home = ""

    def url(self, column: str) -> str:
        return f"{self.home}/_aws/execute-api/{self.apis[column]}/prod/track"

    def has(self, name: str) -> bool:
        """Whether an event has become a record."""
        calls = self.gateway.firehose.calls
        return any(name.encode() in base64.b64decode(body["Record"]["Data"]) for _, body, _ in calls)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Door]:
    door = Door(tmp_path_factory.mktemp("door"), site.url("shop.test").rstrip("/"))
    with serving(lambda port: door.gateway.engine.serve) as door.home:
        yield door


def send(page: Page, url: str, way: str, name: str, **headers: str) -> bool:
    """Let the page send an event; returns whether anybody sees an error, once the browser is finished."""
    script, needed = WAYS[way]
    ended: list[str] = []
    for event in ("requestfinished", "requestfailed"):
        page.on(event, lambda request: ended.append(request.url))  # the name varies
    seen = page.evaluate(script, [url, json.dumps({"name": name}), {**needed, **headers}])
    while not any("/_aws/" in url for url in ended):
        page.wait_for_timeout(10)
    if way == "a form":
        page.wait_for_url("**/_aws/**")
        seen = "message" in page.content()
    return bool(seen)


@pytest.mark.parametrize("column", ["*", "named", "keyed"])
@pytest.mark.parametrize("way", WAYS)
def test_what_the_table_says_becomes_of_an_event(page: Page, site: Site, door: Door, way: str, column: str) -> None:
    page.goto(site.url("shop.test"))
    name = f"{column}-{[*WAYS].index(way)}"
    key = {"x-api-key": KEY} if column == "keyed" else {}
    seen = send(page, door.url(column), way, name, **key)
    outcomes = {
        (True, False): "arrives",
        (True, True): "arrives, but the page sees an error",
        (False, True): "fails visibly",
        (False, False): "is lost in silence",
    }
    (row,) = (row for row in TABLE if row[0] == way)
    assert outcomes[door.has(name), seen] == row[1 + ["*", "named", "keyed"].index(column)]


def test_a_page_is_told_that_a_beacon_is_too_large(page: Page, site: Site, door: Door) -> None:
    page.goto(site.url("shop.test"))
    sizes = "(url) => [60_000, 70_000].map((size) => navigator.sendBeacon(url, JSON.stringify({a: 'x'.repeat(size)})))"
    assert page.evaluate(sizes, door.url("*")) == [True, False]


PACKED = """async ([url, event]) => {
  const body = await new Response(new Blob([event]).stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer();
  const headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"};
  return (await fetch(url, {method: "POST", body, headers})).status;
}"""


def test_a_page_may_pack_a_body(page: Page, site: Site, door: Door) -> None:
    page.goto(site.url("shop.test"))
    assert page.evaluate(PACKED, [door.url("named"), '{"name": "packed"}']) == 202
    assert door.has("packed")


@pytest.mark.parametrize("way", WAYS)
def test_what_arrives_from_a_page_of_another_origin(page: Page, site: Site, door: Door, way: str) -> None:
    page.goto(site.url("stranger.test"))
    name = f"stranger-{[*WAYS].index(way)}"
    send(page, door.url("named"), way, name)
    assert door.has(name) == ("text" in way or "image" in way)
