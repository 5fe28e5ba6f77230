"""The pictures in README.md and docs/console.md: pages of a running console, as Chromium shows them.

usage, after scripts/demo.sh and beside scripts/console.sh --local:
PYTHONPATH=. .sluice/venv/bin/python -m tests.screenshot
"""

from __future__ import annotations

import shutil

from playwright.sync_api import sync_playwright

from tests.browser import NAMES, OPTIONS

CONSOLE = "http://127.0.0.1:8321"
# With their heights in pixels.
PICTURES = {
    "docs/console.png": ("/questions/daily-mean-temperature-in-celsius", 600),
    "docs/console-now.png": ("/", 860),
    "docs/console-rejected.png": ("/rejected", 600),
}


def main() -> None:
    """Write the top of each page into a PNG file, once its query has ended."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS, chromium_sandbox=False)
        page = browser.new_page(color_scheme="light")
        for file, (path, height) in PICTURES.items():
            page.set_viewport_size({"width": 960, "height": height})
            page.goto(CONSOLE + path)
            page.locator("figure, table, details").first.wait_for()
            page.screenshot(path=file)
        browser.close()


if __name__ == "__main__":
    main()
