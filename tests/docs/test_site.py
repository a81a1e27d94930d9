"""The documentation's site, opened from disk as a person does who has just built it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.docs.blocks import ROOT
from tests.server.test_page import ARGUMENTS, CHROMIUM


@pytest.mark.integration
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_site_searches_from_disk_and_asks_no_other_host(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True)
    asked = []
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "guides" / "langchain.html").as_uri())
        page.get_by_placeholder("Search").press_sequentially("sidecar")
        found = page.locator(".md-search-result__link").first
        expect(found).to_be_visible(timeout=30_000)
        found.click()
        expect(page.get_by_role("heading", name="sidecar").first).to_be_visible()
    assert [url for url in asked if not url.startswith("file:")] == []
