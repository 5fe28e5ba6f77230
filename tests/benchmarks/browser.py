"""web/sluice.js in Chromium: the lost views of many restless tabs, and the script's time on the main thread.

    python -m tests.benchmarks.browser [--contexts 50] [--views 20] [--seed 1]

The API is the tests' collector. Tabs are opened, left, reloaded, closed and taken offline at random. Each missing view
is counted under the last thing done to it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import NAMES, OPTIONS
from tests.web.collector import Collector, running

LOCAL = 'data-storage="local"'
LOADED = "window.sluice"  # offline, a page without the script has nothing to send
SETTLE_MS = 8_000
DWELL_MS = 400  # of two paths within 200 ms, the script sees the last
LOADS = 10
LEAST = """const send = () => fetch("%s/batch", {method: "POST", body: JSON.stringify([{
  event_id: crypto.randomUUID(), timestamp: new Date(), name: "page", action: "view", path: location.pathname}])});
setTimeout(send, 2200)"""


@dataclass
class Tab:
    """One tab: the views triggered there, each with the last thing done to it."""

    page: Page
    views: dict[str, str] = field(default_factory=dict)
    current: str = ""

    def view(self, collector: Collector) -> None:
        """Load a page with the view's name as its path."""
        self.note("left for another page")
        self.current = f"/{uuid.uuid4()}"
        self.page.goto(collector.show(self.current, LOCAL), wait_until="domcontentloaded")
        self.page.wait_for_function(LOADED)
        self.views[self.current] = "open"

    def note(self, what: str) -> None:
        if self.current:
            self.views[self.current] = what


def drive(browser: Browser, collector: Collector, tabs: int, views: int, rng: random.Random) -> dict[str, str]:
    """Drive one context of so many tabs; returns the last thing done to each triggered view."""
    context = browser.new_context()
    open_tabs, told = [Tab(context.new_page()) for _ in range(tabs)], dict[str, str]()
    is_offline = False
    open_tabs[0].view(collector)
    open_tabs[0].page.evaluate("sluice.consent(true)")
    for _ in range(views - 1):
        tab = rng.choice(open_tabs)
        chance = rng.random()
        if chance < 0.1 and not is_offline:
            # Offline the page cannot load, so it goes on as an app of one page does.
            context.set_offline(True)
            is_offline = True
        elif is_offline and chance < 0.5:
            context.set_offline(False)
            is_offline = False
        if is_offline and not tab.current:
            context.set_offline(False)
            is_offline = False
        if is_offline:
            tab.note("left for another page, offline")
            tab.current = f"/{uuid.uuid4()}"
            collector.show(tab.current, LOCAL)  # it may be reloaded
            tab.page.wait_for_timeout(DWELL_MS)
            tab.page.evaluate("path => history.pushState({}, '', path)", tab.current)
            tab.page.wait_for_timeout(DWELL_MS)
            tab.views[tab.current] = "open"
            if chance > 0.8:
                tab.note("closed offline")
                close(tab, open_tabs, told, context.new_page())
        elif chance < 0.25 and tab.current:
            tab.note("reloaded")
            tab.page.reload(wait_until="domcontentloaded")  # another view of the same path
            tab.page.wait_for_function(LOADED)
        else:
            tab.view(collector)
            if chance > 0.85:
                tab.note("closed")
                close(tab, open_tabs, told, context.new_page())
    context.set_offline(False)
    last = open_tabs[0]
    last.view(collector)
    last.page.wait_for_timeout(2_500)  # sends the events left by the others
    for tab in open_tabs:
        tab.page.goto("about:blank")
        told |= tab.views
    return told


def close(tab: Tab, tabs: list[Tab], told: dict[str, str], fresh: Page) -> None:
    tab.page.close()
    told |= tab.views
    tabs[tabs.index(tab)] = Tab(fresh)


def lose(browser: Browser, options: Any) -> None:
    """Print how many views arrived, how many events arrived twice, and the last thing done to the missing views."""
    for collector in running():
        rng, told = random.Random(options.seed), dict[str, str]()
        for number in range(options.contexts):
            told |= drive(browser, collector, 3 if number % 5 == 0 else 1, options.views, rng)
        browser.contexts[0].pages[0].wait_for_timeout(SETTLE_MS)
        arrived = {event["path"] for event in collector.named("view")}
        missing = Counter(what for path, what in told.items() if path not in arrived)
        twice = [event for event, count in collector.deliveries().items() if count > 1]
        print(f"{len(told)} views triggered, {len(told) - missing.total()} arrived, {len(twice)} events twice")
        print(f"{len(collector.events)} events in {len(collector.bodies)} requests")
        for what, count in missing.most_common():
            print(f"missing: {count}, last: {what}")


def weigh(browser: Browser) -> None:
    """Print the main thread's time of web/sluice.js, and of a minimal script for one view, under fourfold CPU
    throttling: on the first page of a tab, where Chromium prepares its JavaScript as well, and on the next one."""
    for collector in running():
        collector.show("/sluice")
        collector.pages["/one-fetch"] = f"<!doctype html><title>A page</title><script>{LEAST}</script>" % collector.api
        took: dict[str, list[tuple[float, float]]] = {path: [] for path in collector.pages}
        for _ in range(LOADS):
            for path, found in took.items():
                with browser.new_context() as context:
                    page = context.new_page()
                    found.append((task_ms(page, collector.url(path)), task_ms(page, collector.url(path))))
        for path, found in took.items():
            for where, times in zip(("first", "next"), zip(*found, strict=True), strict=True):
                print(f"{path[1:]}, {where} page: median {statistics.median(times):.1f} ms, least {min(times):.1f} ms")


def task_ms(page: Page, url: str) -> float:
    """The time of scripts on the main thread from the navigation until they have sent the view, without waiting."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    page.goto(url)
    page.wait_for_timeout(3_000)
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return float(1_000 * (metrics["ScriptDuration"] + metrics.get("V8CompileDuration", 0)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--contexts", type=int, default=50)
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), None)
        if not path:
            raise SystemExit(f"error: none of {', '.join(NAMES)} is on PATH")
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS, chromium_sandbox=False)
        weigh(browser)
        lose(browser, options)
        browser.close()


if __name__ == "__main__":
    main()
