"""The libraries of Segment and RudderStack, from npm, in Chromium: each of their events is a row, also after a 503."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import Site, from_npm, serving
from tests.conftest import ROOT
from tests.gateway import Gateway
from transform.events import transform
from transform.rules import Settings

pytestmark = pytest.mark.slow

ESBUILD = "esbuild@0.28.2"
SECONDS = 60
VERSIONS = dict(
    line.strip("| `").replace("`", "").split(" | ")[:2]
    for line in (ROOT / "docs/sending.md").read_text().splitlines()
    if line.startswith("| `@")
)
# By package, the page's code to load it. The rest is the same for both.
LOADS = {
    "@segment/analytics-next": """import {AnalyticsBrowser} from "@segment/analytics-next";
const load = (url) => {
  const [protocol, apiHost] = `${url}/v1`.split("://");
  return AnalyticsBrowser.load(
    {writeKey: "any", cdnSettings: {integrations: {"Segment.io": {apiKey: "any"}}}},
    {integrations: {"Segment.io": {apiHost, protocol}}},
  );
};""",
    "@rudderstack/analytics-js": """import {RudderAnalytics} from "@rudderstack/analytics-js/bundled";
const load = (url) => {
  const library = new RudderAnalytics();
  const source = {id: "any", enabled: true, destinations: [], config: {}};
  library.load("any", url, {getSourceConfig: () => ({source})});
  return library;
};""",
}
CALLS = """
window.start = (url) => {
  const library = load(url);
  library.page("Shop", "Shoes");
  library.track("Order", {total: 12.5});
  library.identify("u-1", {plan: "pro"});
  library.group("g-1");
  library.alias("u-2");
};"""
NAMES = {"page": "Shoes", "track": "Order", "identify": None, "group": None, "alias": None}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[Gateway, str]]:
    """The product's API, and its URL."""
    gateway = Gateway(tmp_path)
    api = gateway.deploy_product(CorsAllowOrigin="*", ThrottleRateLimit="1000", ThrottleBurstLimit="500")
    with serving(lambda port: gateway.engine.serve) as home:
        yield gateway, f"{home}/_aws/execute-api/{api}/prod"


def bundle(name: str, directory: Path) -> Path:
    """A script for a page, with the library in it."""
    (directory / "page.js").write_text(LOADS[name] + CALLS)
    options = ["--no-audit", "--no-fund", "--ignore-scripts"]
    from_npm("npm", "install", *options, f"{name}@{VERSIONS[name]}", ESBUILD, directory=directory)
    from_npm("npx", "esbuild", "page.js", "--bundle", "--outfile=bundle.js", directory=directory)
    return directory / "bundle.js"


def rows(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """By event_id, the rows of all of Firehose's records."""
    records = [base64.b64decode(body["Record"]["Data"]) for _, body, _ in [*gateway.firehose.calls]]
    outcomes = [outcome for record in records for outcome in transform(record, 0, Settings(keep_headless=True))]
    assert all(isinstance(outcome, bytes) for outcome in outcomes), outcomes
    found = [json.loads(outcome) for outcome in outcomes if isinstance(outcome, bytes)]
    return {row["event_id"]: row for row in found}


def wait_for(page: Page, gateway: Gateway, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while len(rows(gateway)) < count:
        assert time.monotonic() < deadline, rows(gateway)
        page.wait_for_timeout(50)


@pytest.mark.parametrize("name", LOADS)
def test_each_event_of_a_library_is_one_row(
    page: Page, site: Site, door: tuple[Gateway, str], tmp_path: Path, name: str
) -> None:
    gateway, url = door
    taken, gateway.firehose.answer = gateway.firehose.answer, (500, {"__type": "ServiceUnavailableException"})
    page.goto(site.url(path="/shoes"), referer=site.url(path="/start"))
    page.add_script_tag(path=bundle(name, tmp_path))
    page.evaluate("url => start(url)", url)
    wait_for(page, gateway, 1)
    refused = rows(gateway)
    gateway.firehose.calls.clear()
    gateway.firehose.answer = taken
    wait_for(page, gateway, len(NAMES))
    found = rows(gateway)
    assert refused.keys() <= found.keys()
    assert {row["action"]: row["name"] for row in found.values()} == NAMES
    assert len(found) == len(NAMES)
    of_user = {row["action"]: row["user_id"] for row in found.values()}
    assert (of_user["identify"], of_user["group"]) == ("u-1", "u-1")
    assert len({row["anonymous_id"] for row in found.values()} - {None}) == 1
    assert {(row["path"], row["referrer"]) for row in found.values()} == {("/shoes", site.url(path="/start"))}
    assert all(row["clock_skew_ms"] is not None for row in found.values())
