"""Chromium, and a web site for it, for tests of pages from another origin.

`page.route` of Playwright is not for these tests: while it intercepts requests, Chromium sends no preflights.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# The first has no window to draw, and takes a third of the others' processor time.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--no-proxy-server",
    # Any name under .test is this machine, as a name whose owner has rebound it would be; no other name exists.
    "--host-resolver-rules=MAP *.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


class Site(ThreadingHTTPServer):
    """Answers every path with an HTML page, empty unless `pages` has another; `requests` holds their first lines."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SiteHandler)
        self.pages: dict[str, str] = {}
        self.requests: list[str] = []

    def url(self, host: str = "shop.test", path: str = "/") -> str:
        """The URL of a page. Under each host the site is another origin."""
        return f"http://{host}:{self.server_port}{path}"


class SiteHandler(BaseHTTPRequestHandler):
    """One request; no method is refused."""

    server: Site

    def do_GET(self) -> None:
        if self.path != "/favicon.ico":
            self.server.requests.append(self.requestline)
        body = f"<!doctype html>{self.server.pages.get(self.path, '')}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # A page may be left, and close the connection first.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    do_POST = do_OPTIONS = do_GET

    def log_message(self, *_: object) -> None:
        """Keep the output to the tests."""


def from_npm(*command: str, directory: Path | None = None) -> bytes:
    """The output of an npm or npx command. A test is skipped if npm is missing, and outside CI if the command fails."""
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} on PATH: it is needed for {' '.join(command)}")
    done = subprocess.run(command, cwd=directory, capture_output=True, timeout=500)
    if done.returncode and os.environ.get("CI") != "true":
        pytest.skip(f"{' '.join(command)} cannot run: {done.stderr.decode()[-200:]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def serving(make_app: Callable[[int], Any]) -> Iterator[str]:
    """Serve the ASGI application made for a port of 127.0.0.1; yields the URL."""
    import uvicorn  # here, as tests without a browser need not wait for it

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(make_app(port), interface="asgi3", ws="none", lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium. Playwright's event loop runs in this thread while it is open: tests with asyncio.run belong
    in another file."""
    if not (executable := next(filter(None, map(shutil.which, NAMES)), None)):
        message = "Chromium is not on PATH: the browser tests need it (Debian: apt-get install chromium-headless-shell)"
        # CI runs every test: there a missing browser is a fault.
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    from playwright.sync_api import sync_playwright  # here for the same reason

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new tab without cookies or a cache. `page.goto(site.url(...))` gives it an origin."""
    with browser.new_context() as context:
        yield context.new_page()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A web site on this machine: Chromium guards the local network only from sites elsewhere. Other browsers lack
    this guard, so no test may pass by it."""
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
