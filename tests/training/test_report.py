"""The page is whole, needs nothing from outside, and says what the record says."""

import dataclasses
import html
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.errors import CheckpointError
from minideepseek.training.figures import Line, heat_map, line_chart
from minideepseek.training.report import (
    SECTIONS,
    RunRecord,
    final_numbers,
    layer_names,
    render_report,
    verdict,
    write_report,
)

from .fake_run import fake_metrics, fake_run

VOID = {"meta", "link", "br", "img", "input", "hr"}
ASKS = ("http:", "https:", "src=", "@import", "url(", "//")


class Page(HTMLParser):
    """Reads a page back: its tags in balance, its samples, its words, its attributes."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.stack: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.samples: list[list[str]] = []
        self.words, self.tags = "", set()
        self.feed(text)
        self.close()
        assert not self.stack, f"left open: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        kind = dict(attrs).get("class", "")
        if kind == "prompt":
            self.samples.append([""])
        elif kind == "new":
            self.samples[-1].append("")
        for data in (value for name, value in attrs if name == "data-hover"):
            json.loads(data, parse_constant=pytest.fail)  # NaN is no JSON to a browser
        if tag not in VOID:
            self.stack.append((tag, kind))

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1][0] == tag, (tag, self.stack)
        self.stack.pop()

    def handle_data(self, data):
        self.words += data
        kinds = [kind for _, kind in self.stack]
        if "prompt" in kinds or "new" in kinds:
            if "byte" in kinds:
                code = int(data.removeprefix("U+"), 16)
                byte = not data.startswith("U+")
                data = chr(code + 0xDC00 if byte and code >= 0x80 else code)
            self.samples[-1][-1] += data


# ------------------------------------------------------------------------------- whole pages
def test_a_full_run_is_one_page_that_asks_for_nothing():
    text = render_report(fake_run())
    page = Page(text)
    for part in ASKS:
        assert part not in text
    assert {"h1", "svg", "title", "desc", "table", "pre"} <= page.tags
    assert not page.tags & {"img", "iframe", "object", "embed", "image", "use"}
    assert ("link", "href", "data:,") in page.attributes
    links = {name for _, name, _ in page.attributes}
    assert not links & {"src", "srcset", "action", "background", "poster"}
    assert not any(name.startswith("on") for name in links)
    assert text.count("<script>") == 1
    assert len(text) < 300_000


def test_the_page_shows_every_part_of_the_record():
    record = fake_run()
    page = Page(render_report(record))
    for heading in ("Against compressors", "What it writes", "Notes", "Loss", "Balance", "Pace"):
        assert heading in page.words
    for name, bits in record.baselines.items():
        assert f"{name} {bits:.2f}" in page.words
    for wanted in (record.title, "2,941,824", "MoE layer 2", "1,454,080", *record.notes):
        assert wanted in page.words
    assert [tuple(s) for s in page.samples] == [(p, c) for _, p, c in record.samples]
    pictures = page.words.count("Over steps") + page.words.count("Load of each expert as")
    assert sum(tag == "svg" and name == "role" for tag, name, _ in page.attributes) == pictures


def test_the_modules_of_mtp_are_named():
    record = dataclasses.replace(fake_run(n=3, layers=3), mtp_modules=1)
    text = render_report(record)
    assert "MTP module 1" in text and "MoE layer 2" in text and "MoE layer 3" not in text
    names = layer_names(dataclasses.replace(record, mtp_modules=2), 3)
    assert names == ["MoE layer 1", "MTP module 1", "MTP module 2"]
    assert layer_names(dataclasses.replace(record, mtp_modules=2), 1) == ["MTP module 1"]


def test_a_first_value_of_a_later_step_says_so():
    record = fake_run(n=60)
    for row in record.metrics[:24]:
        row.pop("bits_per_byte", None)
    text = final_numbers(record)
    assert text.count("(step ") == 1
    assert re.search(r"bits per byte, held out</th><td>[\d.]+ \(step 25\)</td>", text)


def test_the_verdict_says_where_the_model_wins_and_loses():
    record = fake_run()
    bits = {"a": 2.5, "z": 2.33, "b": 2.3151, "c": 1.9, "d": math.nan, "e": math.inf}
    record.metrics[-1]["bits_per_byte"] = 2.3249
    text = verdict(RunRecord("", metrics=record.metrics, baselines=bits))
    assert "<strong>2.32 bits</strong>" in text
    assert text.endswith(
        " It beats a (2.50) and z (2.33). It is level with b (2.32). It loses to c (1.90).</p>"
    )
    record.metrics[-1]["bits_per_byte"] = math.nan
    assert "not a finite number" in verdict(record)
    assert verdict(RunRecord("")) == ""


@pytest.mark.parametrize(
    "kinds",
    [{"n": 1}, {"mtp": False}, {"layers": 0}, {"layers": 9, "n": 30}, {"n": 0}, {"n": 2}],
    ids=str,
)
def test_unusual_runs_give_a_whole_page(kinds):
    page = Page(render_report(fake_run(**kinds)))
    some = kinds.get("n", 1) > 0
    assert ("Multi-token prediction" in page.words) == (some and kinds.get("mtp", True))
    assert ("Load of the experts" in page.words) == (some and kinds.get("layers", 2) > 0)


def test_a_bad_step_is_named():
    record = fake_run()
    for i in (49, 50, 51, 52, 200):
        record.metrics[i]["main_loss"] = math.nan
    record.metrics[9]["mtp_loss"] = -math.inf
    record.metrics[19]["mtp_loss"] = None  # no value is no bad value
    page = Page(render_report(record))
    assert "Not a finite number at step 50, 51, 52 and 2 more." in page.words
    assert "Not a finite number at step 10." in page.words
    every = [dict(row, main_loss=math.nan, loss=math.nan) for row in record.metrics]
    page = Page(render_report(RunRecord("x", metrics=every)))
    assert "Training loss: no finite value was recorded." in page.words


def test_a_hundred_thousand_steps_stay_small_and_keep_the_spike():
    few = fake_metrics(50, experts=4, layers=1)
    metrics = [dict(few[i % 50], step=i + 1) for i in range(100_000)]
    metrics[77_776] = dict(metrics[77_776], main_loss=50.0)
    text = render_report(RunRecord("long", metrics=metrics))
    Page(text)
    assert len(text) < 400_000
    assert "highest 50" in text
    raw = re.search(r'class="raw c0" d="([^"]*)"', text)[1]
    peak = min(re.findall(r"[ML]([\d.]+) ([\d.]+)", raw), key=lambda point: float(point[1]))
    assert abs(float(peak[0]) - 777.8) < 1


def test_a_script_in_any_text_stays_text():
    evil = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;"
    record = RunRecord(
        title=evil,
        config={evil: evil},
        metrics=fake_metrics(3),
        baselines={evil: 2.0},
        samples=[(evil, evil, evil)],
        notes=[evil],
    )
    text = render_report(record)
    page = Page(text)
    assert text.count("<script") == 1 and "img" not in page.tags
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.samples == [[evil, evil]]
    assert page.words.count(evil) >= 7


def test_sections_can_be_added():
    text = render_report(fake_run(n=3), sections=[*SECTIONS, lambda r: f"<h2>{len(r.notes)}</h2>"])
    assert text.index("<h2>The run</h2>") < text.index("<h2>2</h2>")
    Page(text)


def test_the_page_is_written_as_utf8_whatever_is_in_it(tmp_path):
    record = fake_run(n=2)
    path = write_report(tmp_path / "report.html", record)
    assert path.read_text("utf-8") == render_report(record)
    odd = "\udc80 \x00 ä"
    record = RunRecord(odd, {odd: odd}, record.metrics, {odd: 2.0}, [(odd, odd, odd)], [odd])
    page = Page(write_report(path, record).read_text("utf-8"))
    assert page.samples == [[odd, odd]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    def broken(record):
        raise ZeroDivisionError

    path = tmp_path / "report.html"
    path.write_text("old", "utf-8")
    with pytest.raises(ZeroDivisionError):
        write_report(path, fake_run(n=1), [broken])
    with pytest.raises(CheckpointError):
        write_report(path / "report.html", fake_run(n=1))
    assert path.read_text("utf-8") == "old" and len(list(tmp_path.iterdir())) == 1


SCALARS = (
    "step seconds tokens loss main_loss mtp_loss aux_loss learning_rate grad_norm "
    "tokens_per_second bits_per_byte"
).split()
NASTY = (None, math.nan, math.inf, -math.inf, 0, -0.0, 5e-324, 1e300, -1e99, 10**400, 2.0**52 + 2)


def nasty_metrics(n: int, seed: int) -> list[dict]:
    """n records with keys, lengths and values that no healthy run writes."""
    rng = np.random.default_rng(seed)
    plain = rng.random()  # how often a value is an ordinary one

    def value():
        return float(rng.normal()) if rng.random() < plain else NASTY[rng.integers(len(NASTY))]

    def entries(inner, most):
        return [inner() for _ in range(rng.integers(most + 1))] if rng.random() < 0.9 else None

    records = []
    for _ in range(n):
        record = {key: value() for key in SCALARS if rng.random() < 0.8}
        if rng.random() < 0.8:
            record["max_vio"] = entries(value, 8)
            record["dead_experts"] = entries(value, 3)
            record["expert_load"] = entries(lambda: entries(value, 4), 3)
        records.append(record)
    return records


@settings(max_examples=80)
@given(
    n=st.integers(0, 8) | st.sampled_from([45, 130]),
    seed=st.integers(0, 10**6),
    samples=st.lists(st.tuples(*[st.text(st.characters(categories=None), max_size=5)] * 3)),
    bits=st.floats(),
)
def test_no_record_breaks_the_page_and_samples_read_back(n, seed, samples, bits):
    baselines = {"bz2": 2.5, "\udc80\x00 <primed>": bits}
    record = RunRecord("\x00", {"a": 1}, nasty_metrics(n, seed), baselines, samples, ["\udc80"])
    page = Page(render_report(record))
    assert [tuple(sample) for sample in page.samples] == [(p, c) for _, p, c in samples]


# ------------------------------------------------------------------------------ the figures
def test_a_line_lies_where_its_values_are():
    line = Line("a", np.array([0.0, 5, 10]), np.array([0.0, 10, 5]))
    text = line_chart("t", "u", [line], from_zero=True)
    d = re.search(r'class="bold c0" d="([^"]*)"', text)[1]
    assert d == "M0.0 1000.0h0L500.0 47.6L1000.0 523.8"  # the top is 10 and 5 % of air
    assert 'cx="100.00%" cy="52.38%"' in text and ">a 5<" in text


def test_an_axis_says_what_it_counts():
    line = Line("a", np.arange(3.0), np.arange(3.0))
    for text, name in ((line_chart("t", "u", [line]), "step"),
                       (line_chart("t", "u", [line], across="token"), "token")):  # fmt: skip
        assert f">{name}</text>" in text and f"Over {name}s 0 to 2." in text
        assert f'"across":"{name}"' in html.unescape(text)


def test_a_gap_breaks_the_line_and_keeps_lone_points():
    y = np.array([1.0, np.nan, 2.0, 3.0, np.nan])
    text = line_chart("t", "u", [Line("a", np.arange(5.0), y)])
    assert re.search(r'class="bold c0" d="M[^L]*h0M[^L]*h0L[^LM]*"', text)


def test_the_ceiling_cuts_the_start_and_never_the_end():
    def top(y):
        text = line_chart("t", "u", [Line("a", np.arange(3.0), np.array(y))], ceiling=4.0)
        return float(re.search(r'class="bold c0" d="M0.0 ([-\d.]+)', text)[1])

    assert top([8.0, 3.0, 2.0]) < 0  # drawn above the frame
    assert top([8.0, 6.0, 5.0]) > 0


def test_a_heat_map_has_the_colours_of_its_loads():
    load = np.array([[0.0, 0.1, 0.3, 0.6], [0.0, 0.1, 0.3, 0.6]])
    text = heat_map("m", np.array([1.0, 2.0]), load)
    found = dict(re.findall(r'<path class="(h\d)" d="([^"]*)"/>', text))
    # 0, 0.4, 1.2 and 2.4 times the fair share of ¼; each row one rectangle of two steps
    assert found == {"h0": "M0 0h2v1H0z", "h2": "M0 1h2v1H0z", "h4": "M0 2h2v1H0z",
                     "h6": "M0 3h2v1H0z"}  # fmt: skip
    load[1] = [0.55, 0.0, 0.3, 0.15]
    text = heat_map("m", np.array([1.0, 2.0]), load)
    found = dict(re.findall(r'<path class="(h\d)" d="([^"]*)"/>', text))
    assert found == {"h0": "M0 0h1v1H0zM1 1h1v1H1z", "h6": "M1 0h1v1H1zM0 3h1v1H0z",
                     "h2": "M0 1h1v1H0z", "h4": "M0 2h2v1H0z", "h3": "M1 3h1v1H1z"}  # fmt: skip
    counts = heat_map("m", np.array([1.0, 2.0]), load * 512)  # counts and fractions are alike
    assert found == dict(re.findall(r'<path class="(h\d)" d="([^"]*)"/>', counts))
