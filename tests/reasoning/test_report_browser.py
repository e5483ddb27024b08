"""The reasoning part's page in a real browser: quiet, and nothing sticks out or overlaps."""

from pathlib import Path

import pytest

from minideepseek.reasoning.report import write_journey
from tests.training.browser import CHROMIUM, Browser, check_labels
from tests.training.fake_run import fake_run
from tests.training.test_report_browser import messages, requests

from .fake_record import fake_evaluation, fake_record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("n, language", [(40, False), (1, False), (40, True)])
def test_the_page_is_quiet_and_fits(browser, tmp_path, n, language, dark, width):
    record = fake_record(n)
    record.evaluations["again"] = fake_evaluation(1.0, 1.0, 1234.5)  # five columns, all wide
    run = fake_run(n=30) if language else None
    url = write_journey(tmp_path / "report.html", "A journey", run, record).as_uri()
    browser.show(width, dark)
    browser.open(url)
    assert browser.value("document.documentElement.scrollWidth") == width
    furthest = (
        "Math.max(...[...document.querySelectorAll('body *')]"
        ".map(element => element.getBoundingClientRect().right))"
    )
    assert browser.value(furthest) <= width
    assert requests(browser) == [url] and messages(browser) == []


@pytest.mark.parametrize("width", [1200, 390])
def test_an_attempt_stays_on_one_line_and_labels_apart(browser, tmp_path, width):
    browser.show(width)
    browser.open(write_journey(tmp_path / "r.html", "T", None, fake_record()).as_uri())
    heights = browser.value(
        "[...document.querySelectorAll('.try')].map(span => span.getClientRects().length)"
    )
    assert len(heights) > 10 and max(heights) <= 2  # a text and its mark, side by side
    tops = browser.value(
        "[...document.querySelectorAll('.try')].map(span => [span.getBoundingClientRect().height,"
        " parseFloat(getComputedStyle(span).lineHeight)])"
    )
    assert all(height <= line for height, line in tops)
    check_labels(browser)
