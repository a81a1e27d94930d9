"""The page in a real browser: each tab as a person uses it, at desktop and phone width, light and dark."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect, sync_playwright

from bgem3 import M3Encoder
from tests.support.servers import serve_encoder

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

MINI = Path(__file__).parents[2] / "examples" / "bge-m3-mini"
# What does not depend on the window's size or colours is seen in one of them.
once = pytest.mark.parametrize("page", ["desktop-light"], indirect=True)
on_a_phone = pytest.mark.parametrize("page", ["phone-dark"], indirect=True)
# Answers to /chat that say() an event at a time, and that lose() their server.
STREAM = """() => {
  const real = window.fetch;
  window.fetch = (path, options) => {
    if (!String(path).endsWith("/chat")) return real(path, options);
    const body = new ReadableStream({
      start(stream) {
        options.signal?.addEventListener("abort", () => stream.error(options.signal.reason));
        window.say = (name, data) => stream.enqueue(
          new TextEncoder().encode(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`));
        window.lose = () => stream.error(new TypeError("network error"));
      },
    });
    return Promise.resolve(new Response(body));
  };
}"""
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

    def complain(message: ConsoleMessage) -> None:
        # a browser reports every answer above 399; those of the API are for the page itself to explain
        if message.type in ("error", "warning") and "/v1/" not in message.location["url"]:
            complaints.append(message.text)

    page.on("console", complain)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(base_url)
    page.wait_for_selector("html[data-ready]", state="attached")
    page.window = request.param
    yield page
    context.close()
    assert complaints == []


def check(page: Page, tab: str) -> None:
    """Keep a screenshot, and check that the page fits its width and that axe finds nothing to complain about."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{tab}-{page.window}.png", full_page=True)
    assert fits(page)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def unfold(details: Locator) -> None:
    """Open what a search folds away on a narrow screen."""
    if not details.evaluate("one => one.open"):
        details.locator("summary").click()


def fits(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def add_documents(page: Page, name: str, *documents: dict) -> None:
    """Add documents past the page, which then lists them."""
    url = f"{page.url.split('#')[0]}v1/collections/{name}"
    assert page.request.post(f"{url}/documents", data={"documents": list(documents)}).ok
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")


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
    assert dense.locator("td.cell").first.text_content() == "1.00 related"
    expect(page.locator("#compare-said")).to_have_text("7 texts compared: 4 maps")
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
    page.get_by_role("button", name="Remove this text").first.click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#compare-problem")).to_be_visible()
    expect(page.locator("#compare-result")).to_be_hidden()


@once
def test_maps_are_numbered_as_the_texts(page: Page):
    texts = page.locator("#compare-texts textarea")
    texts.nth(0).fill("")
    texts.nth(3).fill("  ")
    page.get_by_role("button", name="Compare", exact=True).click()
    rows = page.locator("#compare-maps article").first.locator("tbody th")
    expect(rows).to_have_text(["2", "3", "5", "6", "7"])
    expect(page.locator("#compare-maps article").first.locator("thead th")).to_have_text(["2", "3", "5", "6", "7"])


@once
def test_numbers_have_no_minus_before_zero(page: Page):
    shown = page.evaluate("""async () => {
      const { fixed } = await import("/page/dom.js");
      return [fixed(-0.004), fixed(-0.004, 3), fixed(-0.0004, 3), fixed(-0.006), fixed(0.004, 3)];
    }""")
    assert shown == ["0.00", "-0.004", "0.000", "-0.01", "0.004"]


@once
def test_the_state_of_the_model_is_told(page: Page):
    states = (
        ({"json": {"status": "loading"}}, "Loading the model …"),
        ({"json": {"status": "failed"}}, "The model could not be loaded: the server’s log says why"),
        ({"json": {"status": "gone"}}, "The folder of the collections is not there any more"),
        ({"body": "Bad gateway"}, "The server does not answer"),
    )
    # a page of its own: here the console complains of 503
    other = page.context.new_page()
    for answer, text in states:
        other.route("**/ready", partial(Route.fulfill, status=503, **answer))
        other.goto(page.url)
        expect(other.locator("#status")).to_have_text(text)
        other.unroute("**/ready")
    other.wait_for_selector("html[data-ready]", state="attached")


@once
def test_texts_by_keyboard(page: Page):
    add = page.get_by_role("button", name="Add a text")
    for _ in range(24 - 7):
        add.press("Enter")
    expect(add).to_be_disabled()
    expect(add).to_have_attribute("title", "24 texts are as many as can be compared.")
    removes = page.get_by_role("button", name="Remove this text")
    removes.nth(3).press("Enter")
    expect(removes.nth(3)).to_be_focused()
    expect(add).to_be_enabled()
    removes.last.press("Enter")
    expect(add).to_be_focused()


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
        expect(row.locator(".best")).to_contain_text("best")
    expect(shared.first).to_have_attribute("title", re.compile(", in both texts$"))
    expect(page.locator("#inspect-said")).to_have_text(
        f"{len(rows.all())} and {rows.first.locator('td').count()} tokens"
    )
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
    expect(hits.first.locator("mark.word").first).to_have_attribute("title", re.compile("^in the query too"))
    expect(page.locator("#search-said")).to_have_text("3 hits")
    tops = [page.locator(f"#search-{name}").bounding_box()["y"] for name in ("collection", "query")]
    assert tops[0] == tops[1] or page.window == "phone-dark"
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
    expect(page.locator("#search-result")).to_be_hidden()


@once
def test_shares_are_those_of_a_weighted_mean(page: Page):
    add_documents(page, "shares", {"text": "Tea calms."})
    page.get_by_role("tab", name="Search").click()
    page.locator("#search-collection").select_option("shares")
    page.get_by_label("Query").last.fill("tea")
    unfold(page.locator("#options"))
    for mode, strategy, bars in (
        ("hybrid", "union", 1),
        ("hybrid", "cascade", 1),
        ("hybrid", "rrf", 0),
        ("dense", "union", 0),
        ("multi_vector", "union", 0),
    ):
        page.locator("#search-mode").select_option(mode)
        page.locator("#search-strategy").select_option(strategy)
        with page.expect_response("**/search"):
            page.get_by_role("button", name="Search", exact=True).click()
        expect(page.locator("#search-said")).to_have_text("1 hit")
        expect(page.locator(".hit .split")).to_have_count(bars)


@once
def test_a_name_is_part_of_a_path(page: Page):
    listed = {"collections": [{"name": "a b?c#d", "count": 1}]}
    page.route("**/v1/collections", lambda route: route.fulfill(json=listed))
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    for tab, box, button, end in (("search", "Query", "Search", "search"), ("chat", "Question", "Ask", "chat")):
        page.get_by_role("tab", name=tab.title()).click()
        page.get_by_label(box).last.fill("tea")
        with page.expect_request(f"**/v1/collections/a%20b%3Fc%23d/{end}"):
            page.get_by_role("button", name=button, exact=True).click()
        expect(page.locator(f"#{tab}-problem")).to_contain_text("none is called 'a b?c#d'")
    page.get_by_role("tab", name="Search").click()
    unfold(page.locator("#options"))
    page.once("dialog", lambda dialog: dialog.accept())
    with page.expect_request("**/v1/collections/a%20b%3Fc%23d"):
        page.get_by_role("button", name="Delete the collection").click()


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
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#search-problem")).to_contain_text("broken.jsonl, line 1: not JSON")


@once
def test_files_that_are_refused(page: Page, tmp_path: Path):
    problem = page.locator("#search-problem")
    name = page.get_by_role("textbox", name="Name")
    page.get_by_role("tab", name="Search").click()

    def add(file: str, text: str) -> None:
        (tmp_path / file).write_text(text, "utf-8")
        page.locator("#build-files").set_input_files(tmp_path / file)
        page.get_by_role("button", name="Add", exact=True).click()

    name.fill("refused")
    add("empty.txt", "")
    expect(problem).to_have_text("empty.txt is empty.")
    add("twice.jsonl", "".join(json.dumps({"id": f"n-{row % 17}", "text": "Tea."}) + "\n" for row in range(18)))
    expect(problem).to_have_text("Two passages have the id “n-0”. Nothing was added.")
    add("broken.jsonl", "{")
    expect(problem).to_contain_text("not JSON")
    expect(page.locator("#build-progress")).to_be_hidden()
    expect(page.locator("#search-collection")).not_to_contain_text("refused")

    for bad in ("te", "my tea", "-tea", "te..a"):
        name.fill(bad)
        assert name.evaluate("one => one.validity.patternMismatch"), bad
        page.get_by_role("button", name="Add the samples").click()
        expect(name).to_be_focused()
    expect(problem).to_contain_text("not JSON")


@once
def test_values_of_a_filter(page: Page):
    add_documents(page, "zips", {"text": "Tea calms.", "metadata": {"zip": "00501"}})
    page.get_by_role("tab", name="Search").click()
    page.locator("#search-collection").select_option("zips")
    page.get_by_label("Query").last.fill("tea")
    unfold(page.locator("#options"))

    def sent(where: str) -> list:
        page.get_by_label("Filter").fill(where)
        with page.expect_request("**/search") as request:
            page.get_by_role("button", name="Search", exact=True).click()
        where = request.value.post_data_json["where"]
        return [next(iter(one.values()))["$eq"] for one in where.get("$and", [where])]

    assert sent('a=501, b="501", c=-0.5, d=1e3, e=true, f="true", g="x, y=z"') == [
        501, "501", -0.5, "1e3", True, "true", "x, y=z"
    ]  # fmt: skip
    assert sent("zip=00501") == ["00501"]
    expect(page.locator(".hit")).to_have_count(1)


@on_a_phone
def test_long_words_fit(page: Page):
    long = "w" * 500
    name = "n" * 63
    add_documents(page, name, {"id": long, "text": f"Tea {long}", "metadata": {"title": long, long: long}})
    page.get_by_role("tab", name="Search").click()
    page.locator("#search-collection").select_option(name)
    page.get_by_label("Query").last.fill("tea")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".hit")).to_have_count(1)
    assert fits(page)
    unfold(page.locator("#options"))
    page.get_by_label("Filter").fill(long)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#search-problem")).to_contain_text(long)
    assert fits(page)

    page.get_by_role("tab", name="Chat").click()
    page.locator("#chat-collection").select_option(name)
    page.get_by_label("Question").fill("tea?")
    page.get_by_role("button", name="Ask").click()
    page.locator(".cite").first.click()
    assert page.locator("#passage").evaluate("one => one.scrollWidth <= one.clientWidth")
    assert fits(page)


@once
def test_collections_that_cannot_be_opened_or_listed(page: Page):
    add_documents(page, "shut", {"text": "Tea calms."})
    page.get_by_role("tab", name="Search").click()
    problem = page.locator("#search-problem")
    page.get_by_label("Query").last.fill("tea")

    page.route("**/v1/collections", lambda route: route.fulfill(status=507, json={"error": {"message": "No disk"}}))
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    expect(problem).to_have_text("No disk")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(problem).to_have_text("No disk")
    page.unroute("**/v1/collections")

    listed = {"collections": [{"name": "shut", "count": None, "error": "Torn"}, {"name": "open", "count": 1200}]}
    page.route("**/v1/collections", lambda route: route.fulfill(json=listed))
    page.get_by_label("Query").last.fill("tea")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".hit")).to_have_count(1)
    assert page.locator("#search-collection option").all_inner_texts() == ["shut (cannot be opened)", "open (1,200)"]


@once
def test_a_collection_that_was_deleted_elsewhere(page: Page):
    for tab, box, button in (("search", "Query", "Search"), ("chat", "Question", "Ask")):
        add_documents(page, "elsewhere", {"text": "Tea calms."})
        page.get_by_role("tab", name=tab.title()).click()
        chosen = page.locator(f"#{tab}-collection")
        chosen.select_option("elsewhere")
        assert page.request.delete(f"{page.url.split('#')[0]}v1/collections/elsewhere").ok
        page.get_by_label(box).last.fill("tea")
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.locator(f"#{tab}-problem")).to_contain_text("none is called 'elsewhere'")
        expect(chosen).not_to_contain_text("elsewhere")
        expect(chosen).to_have_value("")
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.locator(f"#{tab}-problem")).to_have_text("Choose a collection.")


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


@once
def test_an_answer_that_is_not_finished(page: Page):
    fill_samples(page)
    page.get_by_role("tab", name="Chat").click()
    page.evaluate(STREAM)
    question, ask = page.get_by_label("Question"), page.get_by_role("button", name="Ask")
    answer = page.locator(".said.assistant")

    def begin() -> None:
        question.fill("How is bread baked?")
        ask.click()
        page.evaluate("say('text', {text: 'Knead the'})")
        expect(answer.last).to_have_text("Knead the")
        expect(ask).to_be_disabled()

    begin()
    page.get_by_role("button", name="New conversation").click()
    expect(ask).to_be_enabled()
    expect(page.locator(".said")).to_have_count(0)
    expect(page.locator("#chat-problem")).to_be_hidden()

    begin()
    page.evaluate("lose()")
    expect(page.locator("#chat-problem")).to_have_text("The server stopped answering.")
    expect(answer).to_have_text("Knead theThis answer is unfinished.")
    expect(question).to_have_value("How is bread baked?")

    begin()
    page.locator("#chat-collection").dispatch_event("change")
    expect(ask).to_be_enabled()
    expect(page.locator(".said")).to_have_count(0)


@once
def test_a_long_conversation(page: Page):
    fill_samples(page)
    page.get_by_role("tab", name="Chat").click()
    sent: list[list[dict]] = []
    events = 'event: text\ndata: {"text": "Yes."}\n\nevent: done\ndata: {}\n\n'

    def reply(route: Route) -> None:
        sent.append(route.request.post_data_json["messages"])
        route.fulfill(body=events, content_type="text/event-stream")

    page.route("**/chat", reply)
    for turn in range(51):
        page.get_by_label("Question").fill(f"{turn}?")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    assert [len(messages) for messages in sent[-3:]] == [97, 99, 99]
    assert sent[-1][0] == {"role": "user", "content": "1?"}
    assert sent[-1][-1] == {"role": "user", "content": "50?"}


@once
def test_the_key_is_asked_for(page: Page, encoder: M3Encoder):
    with serve_encoder(MINI, encoder, api_keys=["a key"]) as url:
        page.goto(url)
        dialog, key, problem = page.get_by_role("dialog"), page.get_by_label("API key"), page.locator("#key-problem")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(page.locator("#status")).to_have_text("This server asks for a key, and none was given.")
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(problem).to_be_hidden()
        key.fill("clé")
        page.keyboard.press("Enter")
        expect(problem).to_contain_text("ASCII")
        key.fill("wrong")
        page.keyboard.press("Enter")
        expect(problem).to_have_text("The server refused this key.")
        check(page, "key")
        key.fill("a key")
        page.keyboard.press("Enter")
        expect(page.locator("#compare-maps article")).to_have_count(4)
        expect(page.locator("#status")).to_contain_text("bge-m3-mini")


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
    page.evaluate("location.hash = 'inspect'")
    expect(page.get_by_role("tabpanel")).to_have_attribute("id", "panel-inspect")
    page.evaluate("location.hash = 'main'")
    expect(page.get_by_role("tabpanel")).to_have_attribute("id", "panel-inspect")


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
