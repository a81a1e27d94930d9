"""The page in a real browser: each tab as a person uses it, at desktop and phone width, light and dark."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

# Debian's; BGEM3_CHROMIUM names another one.
CHROMIUM = os.environ.get("BGEM3_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WINDOWS = {
    "desktop-light": {"viewport": {"width": 1200, "height": 850}, "color_scheme": "light"},
    "phone-dark": {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark", "has_touch": True},
}

# A browser reports every answer above 399; a refused file is one the page itself explains.
REFUSED = "status of 422"
expect.set_options(timeout=30_000)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or set BGEM3_CHROMIUM"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=list(WINDOWS))
def page(request, browser: Browser, base_url: str) -> Iterator[Page]:
    """Return the page, ready; whatever its console complains about fails the test."""
    context = browser.new_context(**WINDOWS[request.param], reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(30_000)
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(base_url)
    page.wait_for_selector("html[data-ready]", state="attached")
    page.window = request.param
    yield page
    context.close()
    assert [one for one in complaints if REFUSED not in one] == []


def check(page: Page, tab: str) -> None:
    """Keep a screenshot, and check that the page fits its width and that axe finds nothing to complain about."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{tab}-{page.window}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def unfold(details: Locator) -> None:
    """Open what a search folds away on a narrow screen."""
    if not details.evaluate("one => one.open"):
        details.locator("summary").click()


def fill_samples(page: Page) -> None:
    page.get_by_role("tab", name="Search").click()
    page.get_by_role("button", name="Add the samples").click()
    expect(page.locator("#build-said")).to_have_text("48 passages added to samples.")


def test_compare(page: Page):
    page.get_by_role("button", name="Compare", exact=True).click()
    maps = page.locator("#compare-maps article")
    expect(maps).to_have_count(4)
    assert maps.locator("h2").all_inner_texts() == ["Hybrid", "Dense", "Sparse", "Multi-vector"]
    dense = maps.nth(1)
    expect(dense.locator("td.cell")).to_have_count(49)
    assert dense.locator("td.cell").first.inner_text() == "1.00"
    check(page, "compare")

    page.get_by_label("Highly related from").fill("0")
    related = dense.locator("small").inner_text()
    page.get_by_label("Highly related from").fill("1")
    assert int(related.split()[0]) > 10
    expect(dense.locator("small")).to_have_text("0 of 21 pairs related")


def test_compare_own_texts(page: Page):
    page.get_by_label("Example").first.select_option("Codes and names")
    for _ in range(3):
        page.get_by_role("button", name="Remove this text").first.click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#compare-problem")).to_have_text("Two texts or more, please.")
    page.get_by_role("button", name="Add a text").click()
    page.keyboard.type("<b>KX-220B</b>")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#compare-maps article").first.locator("td.cell")).to_have_count(4)
    expect(page.locator("#compare-problem")).to_be_hidden()


def test_inspect(page: Page):
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_label("Query").first.fill("calm tea")
    page.get_by_label("Passage").fill("Tea 😀 is calm")
    page.get_by_role("button", name="Inspect").click()
    passage = page.locator("#inspect-result .tokens").nth(1)
    expect(passage).to_have_text("Tea 😀 is calm")
    shared = passage.locator(".shared")
    assert {"calm"} <= set(shared.all_inner_texts())
    rows = page.locator("#inspect-result tbody tr")
    for row in rows.all():
        expect(row.locator(".best")).to_have_count(1)
    check(page, "inspect")


def test_search(page: Page, tmp_path: Path):
    fill_samples(page)
    options = page.locator("#options")
    options.locator("summary").click()
    page.get_by_label("Weights").select_option("lexical")
    expect(page.locator("#weight-sparse-value")).to_have_text("0.8")
    page.get_by_label("Results").fill("3")
    page.get_by_label("Query").last.fill("the engine oil and the brakes")
    page.get_by_role("button", name="Search", exact=True).click()
    hits = page.locator(".hit")
    expect(hits).to_have_count(3)
    assert hits.first.locator("mark.word").count() > 0
    assert hits.first.locator(".bar-part").count() == 3
    assert page.locator(".stages").get_by_text("encode").is_visible()
    check(page, "search")

    unfold(options)
    page.get_by_label("Filter").fill("lang=ja")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(hits.first.get_by_text("lang: ja")).to_be_visible()
    assert all("lang: ja" in text for text in hits.all_inner_texts())
    unfold(options)
    page.get_by_label("Filter").fill("lang ja")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#search-problem")).to_contain_text("write key=value")


def test_search_own_files(page: Page, tmp_path: Path):
    name = f"own-{page.window}"
    (tmp_path / "notes.md").write_text("# Pumps\n\nPart KX-220B fits the small pump.", "utf-8")
    (tmp_path / "rows.csv").write_text('text,lang\n"茶叶含有茶氨酸",zh\n', "utf-8")
    page.get_by_role("tab", name="Search").click()
    page.get_by_role("textbox", name="Name").fill(name)
    page.locator("#build-files").set_input_files([tmp_path / "notes.md", tmp_path / "rows.csv"])
    page.get_by_label("Or paste text").fill("Brake pads wear out.")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#build-said")).to_have_text(f"3 passages added to {name}.")
    expect(page.locator("#search-collection")).to_have_value(name)
    page.get_by_label("Query").last.fill("KX-220B")
    page.keyboard.press("Enter")
    expect(page.locator(".hit").first).to_contain_text("Part KX-220B fits")

    unfold(page.locator("#build"))
    (tmp_path / "broken.jsonl").write_text("{", "utf-8")
    page.locator("#build-files").set_input_files([tmp_path / "broken.jsonl"])
    with page.expect_response(lambda response: response.status == 422):
        page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#search-problem")).to_contain_text("broken.jsonl, line 1: not JSON")


def test_delete_a_collection(page: Page):
    name = f"gone-{page.window}"
    page.get_by_role("tab", name="Search").click()
    page.get_by_role("textbox", name="Name").fill(name)
    page.get_by_label("Or paste text").fill("Brake pads wear out.")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#search-collection")).to_have_value(name)
    asked: list[str] = []
    unfold(page.locator("#options"))
    for answer in ("dismiss", "accept"):
        page.once("dialog", lambda dialog, answer=answer: (asked.append(dialog.message), getattr(dialog, answer)()))
        page.get_by_role("button", name="Delete the collection").click()
    expect(page.locator("#search-result")).to_have_text(f"{name} is deleted.")
    expect(page.locator("#search-collection")).not_to_contain_text(name)
    assert asked == [f"Delete {name} and all its documents?"] * 2


def test_chat(page: Page):
    fill_samples(page)
    page.get_by_role("tab", name="Chat").click()
    expect(page.locator("#chat-lead")).to_contain_text("No language model is set")
    page.get_by_label("Question").fill("How is the bread baked?")
    page.keyboard.press("Enter")
    citation = page.locator(".said.assistant .cite").first
    expect(citation).to_be_visible()
    check(page, "chat")

    citation.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert len(dialog.locator("#passage-text").inner_text()) > 50
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    page.get_by_label("Question").fill("And then?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".said.user")).to_have_count(2)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".said")).to_have_count(0)


def test_everything_by_keyboard(page: Page):
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.get_by_role("tab", name="Compare").focus()
    for name in ("Inspect", "Search", "Chat", "Compare"):
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name=name)).to_be_focused()
        expect(page.get_by_role("tabpanel")).to_have_attribute("id", f"panel-{name.lower()}")
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Chat")).to_be_focused()


def test_the_theme_is_kept(page: Page):
    before = page.evaluate("document.documentElement.dataset.theme")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.reload()
    after = page.evaluate("document.documentElement.dataset.theme")
    assert {before, after} == {"light", "dark"}


def test_a_text_is_never_read_as_html(page: Page):
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_label("Query").first.fill("<img src=x onerror=alert(1)>")
    page.get_by_label("Passage").fill("<script>alert(1)</script>")
    page.get_by_role("button", name="Inspect").click()
    expect(page.locator("#inspect-result .tokens").first).to_have_text("<img src=x onerror=alert(1)>")
    assert page.locator("#inspect-result img, #inspect-result script").count() == 0
