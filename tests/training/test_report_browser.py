"""The report in a real browser: no request, no console message, no sideways scroll, hover."""

import base64
import re
from pathlib import Path

import pytest

from minideepseek.training.report import RunRecord, write_report

from .browser import CHROMIUM, Browser, check_labels
from .fake_run import fake_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs {CHROMIUM}"),
]
PROBE = """<img src="https://example.invalid/a.png"><link rel="stylesheet" href="b.css">
<script>window.ran = 1</script>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def requests(browser) -> list[str]:
    sent = [e for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    return [event["params"]["request"]["url"] for event in sent]


def messages(browser) -> list[dict]:
    kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    return [event for event in browser.events if event["method"] in kinds]


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(
    "kinds",
    [{}, {"n": 1}, {"layers": 9, "experts": 64, "n": 40}, {"layers": 0, "mtp": False}],
    ids=str,
)
def test_the_page_is_quiet_and_fits(browser, folder, kinds, dark, width):
    url = write_report(folder / "report.html", fake_run(**kinds)).as_uri()
    browser.show(width, dark)
    browser.open(url)
    assert browser.value("document.documentElement.scrollWidth") == width
    # Nothing sticks out on the right either, labels of figures included.
    furthest = (
        "Math.max(...[...document.querySelectorAll('body *')]"
        ".map(element => element.getBoundingClientRect().right))"
    )
    assert browser.value(furthest) <= width
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", paper))) / 3
    assert (brightness < 60) if dark else (brightness > 200)
    assert len(base64.b64decode(browser.screenshot())) > 10_000
    assert requests(browser) == [url]
    assert messages(browser) == []


def test_labels_of_a_figure_do_not_overlap(browser, folder):
    browser.show(390)
    browser.open(write_report(folder / "report.html", fake_run()).as_uri())
    check_labels(browser)


def test_hover_shows_the_values_under_the_pointer(browser, folder):
    record = fake_run()
    browser.show(1200)
    browser.open(write_report(folder / "report.html", record).as_uri())
    x, y, width, height = browser.value(
        "(() => { const svg = document.querySelector('[data-hover] > svg');"
        "svg.scrollIntoView({block: 'center'}); const r = svg.getBoundingClientRect();"
        "return [r.x, r.y, r.width, r.height]; })()"
    )
    step = 100
    place = x + width * (step - 1) / 354
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=place, y=y + height / 2)
    bits = record.metrics[step - 1]["bits_per_byte"]
    assert browser.value("document.querySelector('output').textContent") == (
        f"step 100 · model {bits:.4g}"
    )
    cross = browser.value("document.querySelector('.cross').getBoundingClientRect().x")
    assert abs(cross - place) < 1.5
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert browser.value("document.querySelector('output').textContent") == ""


def test_the_page_is_complete_without_its_script(browser, folder):
    browser.show(1200)
    path = write_report(folder / "report.html", fake_run())
    browser.open(path.as_uri())
    look = "document.body.innerText.replace(/\\s+/g, ' ')"
    whole = browser.value(look)
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(path.as_uri())
        assert browser.value(look) == whole
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_lock_holds_even_against_a_section_that_forgets_to_escape(browser, folder):
    url = write_report(folder / "report.html", fake_run(n=1), [lambda record: PROBE]).as_uri()
    browser.open(url)
    assert browser.value("typeof window.ran") == "undefined"
    blocked = [e["params"]["entry"]["text"] for e in messages(browser)]
    assert sum("Content Security Policy" in text for text in blocked) >= 3
    answered = [e for e in browser.events if e["method"] == "Network.responseReceived"]
    assert {event["params"]["response"]["url"] for event in answered} <= {url}


def test_a_browser_reads_the_samples_back(browser, folder):
    texts = ["\n\nline\n", "\ttab  two spaces \n", "</pre><b>&amp;&#65;", "ünïcode 漢字 🙂", " "]
    record = RunRecord("x", samples=[(text, text, text + "!") for text in texts])
    browser.open(write_report(folder / "report.html", record).as_uri())
    for kind, end in (("prompt", ""), ("new", "!")):
        found = browser.value(
            f"[...document.querySelectorAll('pre .{kind}')].map(element => element.textContent)"
        )
        assert found == [text + end for text in texts]
