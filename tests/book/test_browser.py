"""The book in a real browser: offline, quiet, as wide as its screen; figures that move."""

import base64
import re
from pathlib import Path

import pytest

from minideepseek.book.moving import record
from tests.training.browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs {CHROMIUM}"),
]
CHAPTERS = [
    "index", "layers.mla", "layers.moe", "model.speculative", "reasoning.grpo", "model.config",
    "reasoning.grpo.objective", "equations-list", "names", "readme", "demos.mla_cost",
    "tests-list", "exercise.softmax",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def visit(browser, book):
    def visit(name, width=1280, dark=False, **media):
        browser.show(width, dark)
        if media:
            features = [{"name": "prefers-reduced-motion", "value": media.get("motion", "")}]
            kind = media.get("media", "")
            browser.call("Emulation.setEmulatedMedia", media=kind, features=features)
        browser.open((book[0].path / f"{name}.html").as_uri())
        return browser

    return visit


def quiet(browser, book):
    """No message, no error, and nothing asked for but the page and its style."""
    kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    assert [event for event in browser.events if event["method"] in kinds] == []
    sent = [e["params"]["request"]["url"] for e in browser.events
            if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
    here = book[0].path.as_uri()
    assert all(url.startswith(here) for url in sent) and len(sent) == 2


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", CHAPTERS)
def test_a_page_is_quiet_and_fits(visit, book, name, width):
    for dark in (False, True):
        browser = visit(name, width, dark)
        assert browser.value("document.documentElement.scrollWidth") == width
        outside = browser.value(
            "[...document.querySelectorAll('body *')].filter(e => !e.closest('pre, table, .scroll,"
            " .formula') && e.getBoundingClientRect().right > innerWidth + 1).length"
        )
        assert outside == 0
        paper = browser.value("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", paper))) / 3
        assert (brightness < 60) if dark else (brightness > 200)
        quiet(browser, book)


def test_formulas_have_visible_size(visit):
    browser = visit("equations-list")
    sizes = browser.value(
        "[...document.querySelectorAll('.formula math')].map(m => {"
        " const r = m.getBoundingClientRect(); return [r.width, r.height]; })"
    )
    assert len(sizes) >= 50
    assert all(width > 15 and 10 < height < 400 for width, height in sizes)
    browser = visit("layers.mla")
    blocks = browser.value(
        "[...document.querySelectorAll('.maths')].map(m => m.getBoundingClientRect().height)"
    )
    assert len(blocks) > 5 and min(blocks) > 15


def test_a_cell_is_as_wide_as_a_letter(visit):
    browser = visit("layers.moe")
    widths = browser.value(
        "(() => { const block = document.querySelector('.maths'), probe = document.createElement("
        "'span'); probe.textContent = 'n'; block.append(probe);"
        " const wanted = probe.getBoundingClientRect().width; probe.remove();"
        " return [...document.querySelectorAll('.maths i')].map(i =>"
        " i.getBoundingClientRect().width - wanted); })()"
    )
    assert len(widths) > 30 and max(map(abs, widths)) < 0.1


def test_wide_blocks_scroll_inside_themselves(visit):
    browser = visit("layers.mla", 390)
    inside = browser.value(
        "[...document.querySelectorAll('pre')].filter(p => p.scrollWidth > p.clientWidth).length"
    )
    assert inside > 5
    browser.value("scrollTo(200, 0)")
    assert browser.value("scrollX") == 0


FIGURES = {"layers.mla": "cache", "layers.moe": "experts", "model.speculative": "drafts",
           "reasoning.grpo": "thoughts"}  # fmt: skip
STATE = "document.querySelector('.stage').innerHTML + document.querySelector('.says').textContent"


def scrub(browser, frame):
    browser.value(
        f"(() => {{ const r = document.querySelector('.controls input'); r.value = {frame};"
        " r.dispatchEvent(new Event('input')); })()"
    )


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_moves_and_comes_back(visit, name):
    browser = visit(name)
    look = "document.querySelector('.stage').innerText + document.querySelector('.says').innerText"
    still, last = browser.value(look), int(browser.value(
        "document.querySelector('figure.moves').dataset.last"))  # fmt: skip
    seen = {still}
    for frame in (0, last // 3, last // 2):
        scrub(browser, frame)
        seen.add(browser.value(look) + browser.value(STATE))
    assert len(seen) == 4
    scrub(browser, last)
    assert browser.value(look) == still
    # All in the page, so that a slow machine's clock between two calls decides nothing.
    played = browser.call("Runtime.evaluate", awaitPromise=True, returnByValue=True, expression="""
        new Promise(done => {
          const [button, range] = document.querySelector('.controls').children, seen = [];
          const note = () => seen.push(button.textContent, +range.value);
          button.click();
          note();
          const wait = setInterval(() => {
            if (+range.value < 1) return;
            clearInterval(wait);
            button.click();
            const stopped = +range.value;
            note();
            setTimeout(() => done([...seen, +range.value - stopped]), 1000);
          }, 20);
        })""")["result"]["value"]
    assert played[:3] == ["Pause", 0, "Play"] and played[3] >= 1 and played[4] == 0


def test_nothing_moves_unasked_and_less_motion_is_a_step_at_a_time(visit):
    browser = visit("layers.mla", motion="reduce")
    wait = "new Promise(done => setTimeout(done, 400))"
    value = "+document.querySelector('.controls input').value"
    last = browser.value(value)
    browser.call("Runtime.evaluate", awaitPromise=True, expression=wait)
    assert browser.value(value) == last
    assert browser.value("document.querySelector('.controls button').textContent") == "Step"
    for step in range(3):
        browser.value("document.querySelector('.controls button').click()")
        browser.call("Runtime.evaluate", awaitPromise=True, expression=wait)
        assert browser.value(value) == step


def test_the_cache_figure_says_what_the_ledger_says(visit):
    browser = visit("layers.mla")
    scrub(browser, 15)  # 32,768 tokens
    assert browser.value("document.querySelector('.says').textContent") == "context 32,768 tokens"
    shown = "[...document.querySelectorAll('.bars output')].map(o => o.textContent)"
    assert browser.value(shown) == ["131 GB", "8.2 GB", "1.0 GB", "2.3 GB"]
    scrub(browser, 0)
    assert browser.value("document.querySelectorAll('.track.over').length") == 0


def test_drafts_show_what_is_written_so_far_and_what_is_being_judged(visit):
    rounds = record("drafts")["rounds"]
    browser = visit("model.speculative")
    marks = "[...document.querySelectorAll('.drafted b:not([hidden])')]"
    number = next(i for i, one in enumerate(rounds) if i > 5 and one["accepted"] == 1)
    frames = f"[...document.querySelectorAll('[data-r=\"{number}\"]')].map(b => +b.dataset.f)"
    first, last = min(browser.value(frames)), max(browser.value(frames))
    before = "".join(one["written"] for one in rounds[:number])
    drafts = "".join(letter for letter, _ in rounds[number]["drafts"])
    scrub(browser, first)
    assert browser.value(f"{marks}.map(b => b.textContent).join('')") == before + drafts
    kinds = browser.value(f"{marks}.slice({len(before)}).map(b => b.className)")
    assert kinds == ["yes"] + ["waiting"] * (len(drafts) - 1)
    scrub(browser, last)
    kept = f"{marks}.filter(b => !['no', 'lost'].includes(b.className))"
    written = browser.value(f"{kept}.map(b => b.textContent).join('')")
    assert written == before + rounds[number]["written"]


@pytest.mark.parametrize("name", [*FIGURES, "names"])
def test_a_page_is_complete_without_its_script(visit, browser, name):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        visit(name)
        assert browser.value("document.querySelectorAll('.controls').length") == 0
        assert browser.value("document.querySelector('main').innerText.length") > 1000
        height = "document.querySelector('.stage')?.getBoundingClientRect().height ?? 100"
        assert browser.value(height) > 60
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_search_finds_names_and_headings(visit, browser, book):
    visit("names")
    shown = "[...document.querySelectorAll('.index li:not([hidden]) a')].map(a => a.textContent)"
    for words, wanted in (
        ("attend_absorbed", "MultiHeadLatentAttention.attend_absorbed"),
        ("positions decoupled", "Why positions are decoupled"),
        ("V2:9", "V2:9 The latent of keys and values"),
    ):
        url = (book[0].path / "names.html").as_uri()
        browser.open(f"{url}?q={words.replace(' ', '+').replace(':', '%3A')}")
        found = browser.value(shown)
        assert wanted in found and len(found) < 30
        assert f"{len(found)} found" == browser.value("document.querySelector('.found').innerText")
    browser.open(f"{url}?q=nothing+of+that+kind")
    assert browser.value(shown) == []
    assert browser.value("document.querySelectorAll('.index section:not([hidden])').length") == 0
    quiet_events = [e for e in browser.events if e["method"] == "Runtime.exceptionThrown"]
    assert quiet_events == []


def test_on_paper_there_is_the_text_alone(visit):
    browser = visit("layers.mla", 700, media="print")
    hidden = "['header', '#book-contents', '.controls', '.turn'].map(s => getComputedStyle("
    hidden += "document.querySelector(s)).display)"
    assert browser.value(hidden) == ["none"] * 4
    wide = "[...document.querySelectorAll('pre')].filter(p => p.scrollWidth > p.clientWidth + 1)"
    assert browser.value(wide + ".length") == 0
    paper = browser.call("Page.printToPDF", printBackground=False)["data"]
    assert len(base64.b64decode(paper)) > 20_000


def test_a_picture_of_a_demo_is_seen(browser, site, tmp_path):
    folder = tmp_path / "runs" / "mla_cost" / "full"
    folder.mkdir(parents=True)
    drawn = "<h1>T</h1>\n<p class='lead'>drawn</p>\n<script>"
    (folder / "mla_cost.html").write_text(drawn, "utf-8")
    page = site.links.pages["demos.mla_cost"]
    out = tmp_path / "out"
    out.mkdir()
    before, site.runs = site.runs, tmp_path / "runs"
    try:
        (out / "page.html").write_text(site.page(page), "utf-8")
    finally:
        site.runs = before
    (out / "book.css").write_text("", "utf-8")
    browser.show(1280)
    browser.open((out / "page.html").as_uri())
    root = "document.querySelector('.picture').shadowRoot"
    assert browser.value(f"{root}.querySelector('.lead').innerText") == "drawn"
    assert browser.value(f"{root}.querySelector('.lead').getBoundingClientRect().height") > 10
