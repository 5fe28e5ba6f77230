"""The console in Chromium: readable for its users, and closed to the pages of everybody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from moto import mock_aws
from playwright.sync_api import Page

from scripts.commands.common.stack import Stack
from scripts.commands.console import app
from scripts.commands.console.export import export
from tests.browser import Site, serving
from tests.console_fakes import EVENT_COLUMNS, REJECTED_COLUMNS, FakeAthena, Place, Table, moment, rejected_row

pytestmark = pytest.mark.slow

LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 360)]
PAGES = {
    "Now": "/?pause=1",
    "the list of questions": "/questions",
    "a line": "/questions/by-day",
    "bars": "/questions/by-name",
    "a number": "/questions/in-all",
    "a form": "/questions/one-event?p=e-1",
    "own SQL": "/sql",
    "Rejected": "/rejected",
    "an error": "/questions/none",
}
READ = """async ([url, options]) => {
  try { return await (await fetch(url, options)).text() } catch (error) { return "" }
}"""
ELEMENT = """([url, name, key]) => new Promise((resolve) => {
  const element = document.createElement(name);
  element.onload = element.onerror = () => resolve(element.contentDocument?.body?.innerText ?? "");
  if (name === "link") element.rel = "stylesheet";
  element[key] = url;
  document.documentElement.append(element);
})"""
SOCKET = """(url) => new Promise((resolve) => {
  const socket = new WebSocket(url.replace("http:", "ws:"));
  socket.onopen = () => resolve("open");
  socket.onerror = () => resolve("");
})"""
FORM = """([url, sql]) => {
  const form = document.createElement("form");
  Object.assign(form, {method: "post", action: url});
  form.append(Object.assign(document.createElement("input"), {name: "sql", value: sql}));
  document.documentElement.append(form);
  form.submit();
}"""


class Served:
    """A serving console, and its Athena."""

    def __init__(self, place: Place, home: str) -> None:
        self.place, self.home = place, home

    @property
    def athena(self) -> FakeAthena:
        return self.place.athena


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    # Pages wait for their queries: they must not load anew while a test looks at them.
    patch = pytest.MonkeyPatch.context()
    with patch as replace, mock_aws():
        replace.setattr(app, "WAIT_SECONDS", 60.0)
        place = Place()
        hostile = "<script>document.title = 'run'</script>"
        events = [[moment(), "row", hostile, "paid", "12.5", "u-1", '{"path": "/"}', f"e-{n}"] for n in range(3)]
        rejected = [rejected_row("not_json", hostile), rejected_row("not_a_number", "x" * 400)]
        days = [[f"2026-01-0{n}", str(n)] for n in range(1, 9)]
        names = [[hostile, "5"], ["a" * 200, "1"], [None, "2"]]
        place.athena.tables = {
            "AS outcome": Table(EVENT_COLUMNS, [*events]),
            "of_reason": Table(REJECTED_COLUMNS, rejected),
            "SELECT day": Table([("day", "date"), ("n", "bigint")], [*days]),
            "SELECT name": Table([("name", "varchar"), ("n", "bigint")], [*names]),
        }
        reasons = {"DroppedByRule": {"bot": 2}, "RejectedByReason": {"not_json": 1}}
        place.counted(Accepted=7, Dropped=2, Rejected=1, Failed=1, **reasons)
        with serving(place.console.app) as home:
            yield Served(place, home)


def check_looks(page: Page, address: str) -> list[str]:
    """The faults of a page in every look, by axe-core, the page's width and the browser's console."""
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        for violation in Axe().run(page).response["violations"]:
            nodes = [node["html"][:100] for node in violation["nodes"]]
            wrong.append(f"{scheme} {width}: {violation['id']}: {violation['help']}: {nodes}")
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append(f"{scheme} {width}: the page is wider than its window")
    # The answer of an error page is one, and Chromium says so.
    return [text for text in wrong if "the server responded with a status of 404" not in text]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_for_everybody(served: Served, page: Page, name: str) -> None:
    assert check_looks(page, served.home + PAGES[name]) == []
    assert page.title() != "run"


def test_the_export_is_for_everybody(served: Served, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "week.html"
    path.write_text(export(Stack(served.place.connect(), "sluice"))[0])
    assert check_looks(page, path.as_uri()) == []
    assert page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"


def test_the_keyboard_alone_asks_a_question(served: Served, page: Page) -> None:
    page.goto(served.home + "/questions")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to the content"
    page.keyboard.press("Enter")
    seen = ""
    while seen != "What became of one event?":
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body"), "the link is not among the stops"
        seen = page.evaluate("document.activeElement.innerText")
    page.keyboard.press("Enter")
    page.wait_for_url("**/questions/one-event")
    page.locator("#p1").focus()
    page.keyboard.type("e-42")
    page.keyboard.press("Tab")
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    page.wait_for_url("**run=*")
    assert served.athena.started[-1]["ExecutionParameters"] == ["'e-42'", "1"]
    page.goto(served.home + "/sql")
    page.get_by_role("button", name="Run").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/sql?run=*")
    assert "FROM records" in served.athena.started[-1]["QueryString"]


@pytest.mark.parametrize("host", ["shop.test", "localhost", "127.0.0.1"])
def test_a_page_of_another_origin_gets_nothing(served: Served, page: Page, site: Site, host: str) -> None:
    before = len(served.athena.started)
    page.goto(site.url(host))
    got = []
    for path in ("/", "/questions/by-day", "/rejected", "/csv?run=run-1", "/console.css"):
        url = served.home + path
        got += [page.evaluate(READ, [url, options]) for options in ({}, {"mode": "no-cors"}, {"method": "POST"})]
        got += [page.evaluate(ELEMENT, [url, *way]) for way in (("img", "src"), ("iframe", "src"), ("link", "href"))]
        got.append(page.evaluate(SOCKET, url))
    assert set(got) == {""}
    page.evaluate(FORM, [served.home + "/sql", "SELECT 1"])
    page.wait_for_url(served.home + "/sql")
    assert "takes nothing from other pages" in page.content()
    assert len(served.athena.started) == before


def test_a_rebound_name_gets_nothing(served: Served, page: Page) -> None:
    for path in ("/", "/questions", "/sql", "/rejected", "/console.css"):
        answer = page.goto(served.home.replace("127.0.0.1", "rebound.test") + path)
        assert answer
        assert answer.status == 403
        assert "sluice" not in answer.text()
