#!/usr/bin/env python3
"""Take the README's pictures of the page, each tab as a visitor leaves it.

Usage: python tools/page_pictures.py docs/images      from the repository's root

Needs Chromium, and fonts of many scripts (Debian: fonts-noto-core, fonts-noto-cjk).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

QUESTION = "Which tea is grown in the shade?"
SERVE = ("serve", "--model", "examples/bge-m3-mini", "--port", "8099")


def main(target: Path) -> None:
    """Serve the small checkpoint, and take the pictures."""
    with tempfile.TemporaryDirectory() as db, sync_playwright() as playwright:
        server = subprocess.Popen([sys.executable, "-m", "bgem3", *SERVE, "--db", db], stderr=subprocess.DEVNULL)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1200, "height": 850}, color_scheme="light")
            open_page(page, "http://127.0.0.1:8099")
            for tab, use in {"compare": compare, "inspect": inspect, "search": search, "chat": chat}.items():
                page.get_by_role("tab", name=tab.capitalize()).click()
                use(page)
                page.screenshot(path=target / f"page-{tab}.png", full_page=True)
        finally:
            browser.close()
            server.terminate()
            server.wait()


def open_page(page: Page, url: str) -> None:
    """Open the page once the model is loaded."""
    for _ in range(240):
        try:
            if page.request.get(f"{url}/ready").ok:
                break
        except Exception:  # nobody listens yet
            pass
        page.wait_for_timeout(500)
    page.goto(url)
    page.wait_for_selector("html[data-ready]", state="attached")


def compare(page: Page) -> None:
    """Compare the example's texts."""
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_selector("#compare-maps td.cell")


def inspect(page: Page) -> None:
    """Inspect the example's pair."""
    page.get_by_role("button", name="Inspect").click()
    page.wait_for_selector("#inspect-result .tokens")


def search(page: Page) -> None:
    """Fill a collection with the samples, and search it."""
    page.get_by_role("button", name="Add the samples").click()
    page.get_by_text("48 passages added to samples.").wait_for()
    page.locator("#options summary").click()
    page.get_by_label("Results").fill("3")
    page.get_by_label("Query").last.fill(QUESTION)
    for _ in range(2):  # the first one loads what is compiled
        with page.expect_response("**/search"):
            page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_timeout(500)


def chat(page: Page) -> None:
    """Ask the same question."""
    page.get_by_label("Question").fill(QUESTION)
    page.keyboard.press("Enter")
    page.locator(".said.assistant .cite").last.wait_for()
    page.wait_for_timeout(500)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
