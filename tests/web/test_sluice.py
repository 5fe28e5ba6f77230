"""web/sluice.js in Chromium, on a page of another origin than the API: the events it sends, and never sends."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser import from_npm
from tests.conftest import ROOT
from tests.web.collector import Collector, running, until

SOURCE = ROOT / "web/sluice.js"
MINIFIER = "terser@5.51.4"
LOCAL = 'data-storage="local"'
CONSENT = "sluice.consent(true)"
STORED = """async () => ({
  cookies: document.cookie, local: {...localStorage}, session: {...sessionStorage},
  databases: await indexedDB.databases(), caches: await caches.keys(),
})"""
NOTHING = {"cookies": "", "local": {}, "session": {}, "databases": [], "caches": []}
SIGNALS = {"gpc": ["globalPrivacyControl", True], "dnt": ["doNotTrack", "1"]}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GIVE_UP = 'Object.defineProperty(window, "localStorage", {get() { throw new DOMException("no", "SecurityError") }})'


# Chromium's clock is its own, and these tests wait for it: they do not run under a shifted clock.
pytestmark = pytest.mark.slow


@pytest.fixture
def collector() -> Iterator[Collector]:
    yield from running()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 800, "height": 1000}) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab; an error on the page fails the test."""
    page, errors = context.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []


def stop_the_clock(page: Page) -> None:
    """From the next page on, time passes only as the test says."""
    page.clock.install(time=NOON - timedelta(minutes=10))
    page.clock.pause_at(NOON)


def leave(page: Page) -> None:
    """Go to another site, as a visitor does."""
    page.goto("about:blank")


def test_the_source_is_short_and_small_once_it_is_minified() -> None:
    assert len(SOURCE.read_text().splitlines()) <= 250
    minified = from_npm("npx", "--yes", MINIFIER, "--compress", "passes=3", "--mangle", "--", str(SOURCE))
    packed = subprocess.run(["gzip", "-9"], input=minified, capture_output=True, check=True).stdout
    assert len(packed) <= 2200


def test_the_types_name_the_calls_and_the_attributes(page: Page, collector: Collector) -> None:
    types = (ROOT / "web/sluice.d.ts").read_text()
    page.goto(collector.show("/"))
    calls = re.search(r"interface Sluice \{(.*?)\n\}", types, re.DOTALL)
    assert calls
    assert re.findall(r"^  (\w+)\(", calls[1], re.MULTILINE) == page.evaluate("Object.keys(sluice)")
    assert set(re.findall(r"^  (\w+)\??:", types, re.MULTILINE)) == {
        *re.findall(r"options\.(\w+)", SOURCE.read_text())
    } | {"title"}


# What an event has


@pytest.mark.parametrize("host", ["localhost", "shop.test"], ids=["secure", "http"])
def test_a_view_has_an_id_a_time_and_where_it_was(page: Page, collector: Collector, host: str) -> None:
    collector.show("/start")
    collector.show("/shoes")
    page.goto(collector.url("/start?token=secret#part", host))
    page.evaluate("url => location.href = url", "/shoes?mail=a@b.c&utm_source=news&utm_campaign=may&ref=ad&page=2")
    page.wait_for_url("**/shoes*")
    leave(page)
    first, second = collector.wait(2)
    assert len(first["event_id"]) >= 36 and first["event_id"] != second["event_id"]
    assert datetime.fromisoformat(first["timestamp"]).tzinfo == UTC
    origin = collector.url("", host)
    assert {key: second[key] for key in second if key not in ("event_id", "timestamp", "time_zone", "language")} == {
        "name": "page",
        "action": "view",
        "source": "shop",
        "path": "/shoes",
        "referrer": f"{origin}/start",
        "host": origin.removeprefix("http://"),
        "screen": "800x1000",
        "utm_source": "news",
        "utm_campaign": "may",
        "ref": "ad",
    }
    assert "referrer" not in first and first["language"] and -12 <= first["time_zone"] <= 14
    assert b"secret" not in b"".join(collector.bodies) and b"a@b.c" not in b"".join(collector.bodies)


def test_the_page_chooses_parameters_of_its_path_and_the_title(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/list", 'data-query="page q" data-title') + "?x=1&q=red+shoes&page=2")
    leave(page)
    [view] = collector.wait(1)
    assert (view["path"], view["title"]) == ("/list?q=red+shoes&page=2", "A page")


def test_leaving_says_in_the_same_beacon_for_how_long_and_how_far(page: Page, collector: Collector) -> None:
    stop_the_clock(page)
    page.goto(collector.show("/"))
    page.clock.run_for(10_200)  # the first 0.2 s pass before the view
    page.evaluate("scrollTo(0, 1000)")
    page.wait_for_function("scrollY === 1000")
    page.evaluate("dispatchEvent(new Event('scroll'))")
    page.clock.run_for(300_000)  # only the first 30 s are engaged
    leave(page)
    [view], [left] = collector.wait(1), collector.wait(1, "leave")
    assert left["path"] == view["path"] and left["scroll_percent"] == 50
    assert left["value"] == 40.0
    assert [len(json.loads(body)) for body in collector.bodies] == [1, 1]


def test_what_other_scripts_tell_while_the_page_is_left_is_sent(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/"))
    collector.wait(1)
    # They listen after sluice.js, as libraries do if they measure a page until its end.
    page.evaluate(
        """() => {
          addEventListener("pagehide", () => {
            sluice.track("left");
            for (const end = performance.now() + 200; performance.now() < end;);
          }, true);
          addEventListener("visibilitychange", () => sluice.track("hidden", {name: "vital"}), true);
        }"""
    )
    leave(page)
    assert collector.wait(1, "hidden")[0]["name"] == "vital"
    collector.wait(1, "left")
    assert len(collector.wait(1, "leave")) == 1  # although the page is left, and then hidden as well
    assert set(collector.deliveries().values()) == {1}


def test_a_short_visit_is_one_beacon(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/"))
    leave(page)
    collector.wait(1, "leave")
    assert [[event["action"] for event in json.loads(body)] for body in collector.bodies] == [["view", "leave"]]


def test_a_tab_that_is_shown_again_adds_the_time_since(page: Page, collector: Collector) -> None:
    stop_the_clock(page)
    page.goto(collector.show("/"))
    for hidden, seconds in ((True, 5), (False, 60), (True, 7)):
        page.clock.run_for(seconds * 1000)
        page.evaluate(
            """hidden => {
              Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
              document.dispatchEvent(new Event("visibilitychange", {bubbles: true}));
            }""",
            hidden,
        )
    lefts = collector.wait(2, "leave")
    assert [(left["value"], left["scroll_percent"]) for left in lefts] == [(4.8, 25), (7.0, 25)]


# Pages without a load


def test_push_replace_and_pop_are_views_and_states_are_not(page: Page, collector: Collector) -> None:
    stop_the_clock(page)
    page.goto(collector.show("/a"))
    page.clock.run_for(200)
    steps = {
        "/b": 'history.pushState({}, "", "/b")',
        "/c": 'history.replaceState({}, "", "/c")',
        "/a": "history.back()",
    }
    for path, step in steps.items():
        page.evaluate('history.replaceState({}, "", "?t=1#x")')
        page.evaluate(step)
        page.wait_for_function(f"location.pathname === '{path}'")
        page.clock.run_for(200)
    leave(page)
    views = collector.wait(4)
    assert [view["path"] for view in views] == ["/a", "/b", "/c", "/a"]
    assert [view.get("referrer", "")[-2:] for view in views] == ["", "/a", "/b", "/c"]
    assert [left["path"] for left in collector.wait(4, "leave")] == ["/a", "/b", "/c", "/a"]


def test_ten_thousand_push_states_do_not_flood(page: Page, collector: Collector) -> None:
    stop_the_clock(page)
    # Chromium itself takes a millisecond for each, so it gets one of a thousand.
    page.add_init_script(
        """const native = history.pushState.bind(history);
        let calls = 0;
        history.pushState = (...values) => calls++ % 1000 || native(...values);"""
    )
    page.goto(collector.show("/"))
    page.clock.run_for(200)
    page.evaluate('for (let i = 0; i < 10000; i++) history.pushState({}, "", `/page-${i}`)')
    leave(page)
    collector.wait(2, "leave")
    assert [event["path"] for event in collector.named("view")] == ["/", "/page-9000"]
    assert len(collector.bodies) == 1


def test_a_page_out_of_the_browsers_cache_is_seen_once_more(page: Page, collector: Collector) -> None:
    stop_the_clock(page)
    page.goto(collector.show("/"))
    for persisted in ("true", "false"):
        page.clock.run_for(200)
        page.evaluate(f'dispatchEvent(new PageTransitionEvent("pageshow", {{persisted: {persisted}}}))')
    leave(page)
    collector.wait(2)
    assert len(collector.named("view")) == 2


# Events told by the page, and watched ones


def test_the_page_tells_actions_and_who_is_there(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/cart"))
    page.evaluate(
        """() => {
          sluice.track("purchase", {name: "order", value: 12.5, items: [1]});
          sluice.identify("ada"); sluice.track("next"); sluice.identify(); sluice.track("last");
        }"""
    )
    leave(page)
    until(lambda: len(collector.events) == 6)
    assert [event["action"] for event in collector.events][:5] == ["view", "purchase", "identify", "next", "last"]
    assert [event.get("user_id") for event in collector.events][:5] == [None, None, "ada", "ada", None]
    [bought] = collector.named("purchase")
    assert (bought["name"], bought["value"], bought["items"], bought["path"]) == ("order", 12.5, [1], "/cart")


LINKS = """<a id="out" href="https://else.test/x?token=1">x</a><a id="in" href="/y"><b>y</b></a>
<a id="pdf" href="/files/a.pdf?k=1">z</a><a id="file" href="/f" download>f</a><a id="mail" href="mailto:a@b.c">m</a>
<form id="signup"><input name="email" value="a@b.c"><button>Go</button></form>
<script>addEventListener("click", (event) => { if (event.target.closest("a")) event.preventDefault() });
addEventListener("submit", (event) => event.preventDefault())</script>"""


@pytest.mark.parametrize("watched", [True, False])
def test_links_downloads_and_forms_are_watched_where_it_says_so(
    page: Page, collector: Collector, watched: bool
) -> None:
    page.goto(collector.show("/", 'data-track="outbound download form"' if watched else "", LINKS))
    for target in ("#out", "#in b", "#pdf", "#file", "#mail", "button"):
        page.click(target)
    leave(page)
    expected = [
        ("link", "outbound", "https://else.test/x"),
        ("link", "download", collector.url("/files/a.pdf")),
        ("link", "download", collector.url("/f")),
        ("form", "submit", "signup"),
    ][: 4 * watched]
    until(lambda: len(collector.events) >= 2 + len(expected))
    assert expected == [
        (event["name"], event["action"], event.get("url", event.get("form")))
        for event in collector.events
        if event["name"] != "page"
    ]
    assert b"a@b.c" not in b"".join(collector.bodies)


# Privacy


def test_nothing_is_stored_by_default(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/"))
    page.context.set_offline(True)
    page.evaluate('sluice.consent(true); sluice.identify("ada"); sluice.track("x"); sluice.consent(false)')
    page.evaluate("dispatchEvent(new Event('pagehide')); sluice.consent(true)")
    page.context.set_offline(False)
    page.evaluate("sluice.optOut()")
    assert page.evaluate(STORED) == NOTHING
    assert page.context.cookies() == []
    leave(page)
    assert not any("anonymous_id" in event or "session_id" in event for event in collector.events)


def test_without_consent_local_storage_is_not_touched(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/", LOCAL))
    page.evaluate('sluice.track("x"); sluice.consent(false); sluice.track("y")')
    assert page.evaluate(STORED) == NOTHING
    leave(page)
    assert [event.get("consent") for event in collector.wait(1, "y")] == ["denied"]
    assert not any("anonymous_id" in event for event in collector.events)


def test_with_consent_visits_end_after_half_an_hour_and_the_device_stays(page: Page, collector: Collector) -> None:
    stop_the_clock(page)
    page.goto(collector.show("/", LOCAL))
    page.evaluate(CONSENT)
    for minutes, action in ((0, "one"), (29, "two"), (29, "three"), (31, "four")):
        page.clock.fast_forward(minutes * 60_000)
        page.evaluate("action => sluice.track(action)", action)
    page.goto(collector.url("/"))  # consent is remembered
    page.evaluate("sluice.track('five')")
    leave(page)
    told = [collector.wait(1, action)[0] for action in ("one", "two", "three", "four", "five")]
    assert len({event["anonymous_id"] for event in told}) == 1
    one, two, three, four, five = (event["session_id"] for event in told)
    assert one == two == three != four == five
    assert {event["consent"] for event in told} == {"granted"}


def test_consent_that_is_taken_back_forgets(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/", LOCAL))
    page.evaluate('sluice.consent(true); sluice.identify("ada"); sluice.consent(false); sluice.track("after")')
    assert page.evaluate(STORED) == NOTHING
    leave(page)
    [after] = collector.wait(1, "after")
    assert not {"anonymous_id", "session_id", "user_id"} & set(after)


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
def test_a_privacy_signal_counts_the_view_alone(page: Page, collector: Collector, signal: list[Any]) -> None:
    url = collector.show("/", LOCAL)
    page.goto(url)
    page.evaluate(CONSENT)
    leave(page)
    collector.wait(1, "view")
    collector.wait(1, "leave")
    before = len(collector.bodies)
    name, value = json.dumps(signal[0]), json.dumps(signal[1])
    page.add_init_script(f"Object.defineProperty(Navigator.prototype, {name}, {{get: () => {value}}})")
    page.goto(url)
    page.evaluate('sluice.consent(true); sluice.identify("ada"); sluice.track("x")')
    assert page.evaluate(STORED) == NOTHING
    leave(page)
    collector.wait(2, "view")
    collector.wait(2, "leave")
    collector.wait(1, "x")
    under_signal = [event for body in collector.bodies[before:] for event in json.loads(body)]
    assert {event["consent"] for event in under_signal} == {"opted_out"}
    assert not {"anonymous_id", "session_id", "user_id"} & {key for event in under_signal for key in event}
    assert collector.named("identify") == []


def test_after_opting_out_nothing_is_sent_on_later_pages_too(page: Page, collector: Collector) -> None:
    url = collector.show("/", LOCAL)
    stop_the_clock(page)
    page.goto(url)
    page.evaluate('sluice.consent(true); sluice.optOut(); sluice.track("x")')
    page.goto(url)
    page.evaluate('sluice.track("y")')
    leave(page)
    page.goto(collector.show("/other"))
    leave(page)
    collector.wait(1)
    assert {event["path"] for event in collector.events} == {"/other"}


# Sending


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refusal_that_may_pass_is_tried_again_with_the_same_ids(
    page: Page, collector: Collector, status: int
) -> None:
    collector.answers[:] = [status, status]
    stop_the_clock(page)
    page.goto(collector.show("/"))
    for count in (1, 2, 3):
        until(lambda count=count: page.clock.run_for(5_000) or len(collector.bodies) >= count)
    assert len(set(collector.bodies)) == 1
    page.clock.run_for(60_000)
    assert len(collector.bodies) == 3


@pytest.mark.parametrize("status", [400, 403, 413, 415])
def test_another_refusal_is_the_end_of_it(page: Page, collector: Collector, status: int) -> None:
    collector.answers[:] = [status]
    page.goto(collector.show("/"))
    collector.wait(1)
    page.evaluate("sluice.track('x')")
    leave(page)
    collector.wait(1, "x")
    assert set(collector.deliveries().values()) == {1}


def test_many_events_go_in_parts_that_a_beacon_can_carry(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/"))
    page.evaluate("for (let i = 0; i < 60; i++) sluice.track('x', {text: 'é'.repeat(1000)})")
    collector.wait(60, "x")
    page.evaluate("for (let i = 0; i < 12; i++) sluice.track('last', {text: 'é'.repeat(1000)})")
    leave(page)
    collector.wait(12, "last")
    assert set(collector.deliveries().values()) == {1}
    assert max(map(len, collector.bodies)) < 64 * 1024


def test_a_large_event_arrives_and_stops_nothing(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/"))
    page.evaluate(
        "sluice.track('large', {text: 'x'.repeat(500000)});"
        "const ring = {}; ring.ring = ring; sluice.track('ring', ring)"
    )
    collector.wait(1, "large")
    leave(page)
    collector.wait(1, "leave")
    assert set(collector.deliveries().values()) == {1}


def test_events_of_an_offline_page_are_sent_by_a_later_one(
    page: Page, context: BrowserContext, collector: Collector
) -> None:
    # A view without an answer would be sent again.
    with page.expect_event("requestfinished", lambda request: "/batch" in request.url, timeout=60_000):
        page.goto(collector.show("/", LOCAL))
        page.evaluate(CONSENT)
    context.set_offline(True)
    page.evaluate("for (let i = 0; i < 5; i++) sluice.track('offline')")
    leave(page)
    context.set_offline(False)
    page.goto(collector.url("/"))
    collector.wait(5, "offline")
    leave(page)
    collector.wait(2, "leave")
    assert set(collector.deliveries().values()) == {1}


def test_a_page_that_is_left_before_the_answer_has_sent_its_events(page: Page, collector: Collector) -> None:
    page.goto(collector.show("/", LOCAL))
    page.evaluate(CONSENT)
    collector.answering.clear()
    collector.wait(1)
    page.goto(collector.show("/next", LOCAL))
    collector.answering.set()
    leave(page)
    collector.wait(2, "leave")
    assert set(collector.deliveries().values()) == {1}


def test_what_an_offline_device_keeps_is_bounded(page: Page, context: BrowserContext, collector: Collector) -> None:
    page.goto(collector.show("/", LOCAL))
    page.evaluate(CONSENT)
    context.set_offline(True)
    for _ in range(15):
        page.evaluate(
            """() => {
              for (let i = 0; i < 2000; i++) sluice.track('x', {text: 'x'.repeat(500)});
              dispatchEvent(new Event('pagehide'));
            }"""
        )
    stored = page.evaluate("Object.entries({...localStorage}).map(([key, value]) => [key, value.length])")
    assert len(stored) == 11 and sum(length for _, length in stored) < 1_200_000
    context.set_offline(False)


def test_several_tabs_send_saved_events_once(context: BrowserContext, collector: Collector) -> None:
    first = context.new_page()
    first.goto(collector.show("/", LOCAL))
    first.evaluate(CONSENT)
    context.set_offline(True)
    for _ in range(5):
        first.evaluate("sluice.track('kept'); dispatchEvent(new Event('pagehide'))")
    tabs = [context.new_page() for _ in range(4)]
    context.set_offline(False)
    for tab in tabs:
        tab.goto(collector.url("/"), wait_until="commit")
    collector.wait(5, "kept")
    for tab in tabs:
        leave(tab)
    collector.wait(4, "leave")
    assert set(collector.deliveries().values()) == {1}


# What may go wrong on a page


def test_two_script_tags_are_one(page: Page, collector: Collector) -> None:
    tag = f'<script defer src="/sluice.js" data-url="{collector.api}"></script>'
    page.goto(collector.show("/", html=tag * 2))
    page.evaluate("history.pushState({}, '', '/b')")
    leave(page)
    collector.wait(1, "leave")
    # On a slow machine the first path is shown long enough to be a view, too.
    assert [event["path"] for event in collector.named("view")] in (["/b"], ["/", "/b"])


def test_it_works_as_a_module(page: Page, collector: Collector) -> None:
    collector.pages["/"] = (
        '<script type="module">import "/sluice.js"; sluice.init({url: "%s", source: "m"})</script>'
        % (collector.api + "/track")
    )
    page.goto(collector.url())
    leave(page)
    assert collector.wait(1)[0]["source"] == "m"


def test_storage_that_throws_costs_the_ids_alone(page: Page, collector: Collector) -> None:
    page.add_init_script(GIVE_UP)
    page.goto(collector.show("/", LOCAL))
    page.evaluate("sluice.consent(true); sluice.track('x')")
    page.context.set_offline(True)
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    page.context.set_offline(False)
    page.evaluate("sluice.consent(false); sluice.consent(true)")
    leave(page)
    assert "anonymous_id" not in collector.wait(1, "x")[0]


def test_a_policy_that_forbids_the_api_stops_nothing(page: Page, collector: Collector) -> None:
    collector.headers["Content-Security-Policy"] = "connect-src 'self'"
    stop_the_clock(page)
    page.goto(collector.show("/"))
    page.clock.run_for(60_000)
    page.evaluate("sluice.track('x'); document.title = 'It goes on'")
    assert page.title() == "It goes on"
    leave(page)
    assert collector.bodies == []


@pytest.mark.parametrize("blocked", ["**/batch", "**/sluice.js"])
def test_the_page_goes_on_under_an_ad_blocker(page: Page, collector: Collector, blocked: str) -> None:
    page.route(blocked, lambda route: route.abort("blockedbyclient"))
    page.add_init_script("delete Navigator.prototype.sendBeacon; Reflect.deleteProperty(AbortSignal, 'timeout')")
    page.goto(collector.show("/"))
    page.evaluate("window.sluice?.track('x'); document.title = 'It goes on'; history.pushState({}, '', '/b')")
    assert page.title() == "It goes on"
    leave(page)
    assert collector.bodies == []
