"""The picture in README.md: a page of a running console, as Chromium shows it.

usage, after scripts/demo.sh and beside scripts/console.sh --local:
PYTHONPATH=. .sluice/venv/bin/python -m tests.screenshot [ADDRESS FILE]
"""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import sync_playwright

from tests.browser import NAMES, OPTIONS

ADDRESS = "http://127.0.0.1:8321/questions/daily-mean-temperature-in-celsius"
FILE = "docs/console.png"


def take(address: str, file: str) -> None:
    """Write the top of the page into a PNG file, once its query has ended."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS, chromium_sandbox=False)
        page = browser.new_page(viewport={"width": 960, "height": 600}, color_scheme="light")
        page.goto(address)
        page.locator("figure").first.wait_for()
        page.screenshot(path=file)
        browser.close()


if __name__ == "__main__":
    take(*(sys.argv[1:] or [ADDRESS, FILE]))
