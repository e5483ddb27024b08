"""The page of the reasoning part is whole, fetches nothing, and says what the record says."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.reasoning.record import ReasoningRecord
from minideepseek.reasoning.report import sections, write_journey
from minideepseek.training.report import RunRecord, render_report
from tests.training.fake_run import fake_run
from tests.training.test_report import ASKS, NASTY, Page

from .fake_record import EARLY, LONG, PROMPT, fake_evaluation, fake_record


def rendered(record: ReasoningRecord) -> str:
    return render_report(RunRecord("reasoning"), sections(record))


def words(record: ReasoningRecord) -> str:
    """The page's words with single spaces."""
    return " ".join(Page(rendered(record)).words.split())


def table_row(page: str, name: str) -> list[str]:
    """The cells of the row that `name` heads."""
    cells = re.search(rf"<tr><th scope=\"row\">{re.escape(name)}</th>(.*?)</tr>", page)[1]
    return [cell.replace("\u00a0", " ") for cell in re.findall(r"<td>(.*?)</td>", cells)]


def hover(page: str, unit: str) -> dict[str, list]:
    """Line → its values, of the figure with this unit."""
    found = re.search(rf"<span>{re.escape(unit)}</span>.*?data-hover=\"(.*?)\"", page)[1]
    lines = json.loads(found.replace("&quot;", '"'))["lines"]
    return {name: dict(zip(x, y, strict=True)) for name, x, y in lines}


# ------------------------------------------------------------------------------- whole pages
def test_a_full_record_is_one_page_that_asks_for_nothing():
    text = rendered(fake_record())
    page = Page(text)
    for part in ASKS:
        assert part not in text
    for heading in ("Before and after", "Held-out accuracy", "Thinking length", "Reward", "Drift",
                    "The same problem, then and now", "The control", "Signal", "Pace", "Balance",
                    "Supervised stages", "Gates", "The recipe", "The run"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text
    assert text.count("<script") == 1 and len(text) < 200_000
    assert not page.tags & {"img", "iframe", "object", "embed", "image", "use"}


def test_either_part_alone_and_both_are_one_page(tmp_path):
    language, record = fake_run(n=3), fake_record(n=3)
    path = tmp_path / "report.html"
    alone = write_journey(path, "T", reasoning=record).read_text("utf-8")
    assert "Part 1" not in alone and "bits on each byte" not in Page(alone).words
    assert "<title>T</title>" in alone and alone.index("91.3") < alone.index("<h2>")
    other = write_journey(path, "T", language=language).read_text("utf-8")
    assert other == render_report(dataclasses.replace(language, title="T"))
    both = write_journey(path, "T", language, record).read_text("utf-8")
    Page(both)
    places = [both.index(text) for text in (
        "bits</strong> on each byte", "the reasoning model solves", "Part 1", "Against compressors",
        "Part 2", "Before and after",
    )]  # fmt: skip
    assert places == sorted(places)
    assert both.count('class="lead"') == 2 and both.count("<h1>") == 1
    with pytest.raises(InputError, match="got neither"):
        write_journey(path, "T")
    assert path.read_text("utf-8") == both


# --------------------------------------------------------------------------- what it says
def test_the_verdict_comes_first_and_has_the_numbers():
    text = words(fake_record())
    lead = (
        "Of problems it was never trained on, the reasoning model solves 91.3 % when it samples at "
        "temperature 1; before GRPO it solved 34.1 %. Decoded greedily it solves 95.7 %, before "
        "63.3 %. Its answers went from 20.4 to 41.2 tokens. As many supervised steps in place of "
        "GRPO reach 35.2 %."
    )
    assert lead in text and text.index(lead) < text.index("Before and after")


def test_a_run_that_stopped_says_what_it_reached_and_which_gate_failed():
    record = fake_record()
    found = {name: record.evaluations[name] for name in ("base", "cold start")}
    gates = [("well-formed <99", 0.71, "at least 0.98", False), ("facts", 1.0, 0.99, True)]
    record = ReasoningRecord(evaluations=found, gates=gates)
    text = words(record)
    assert (
        "After the cold start the reasoning model solves 34.1 % of problems it was never trained "
        "on, sampled at temperature 1. Gates that failed: well-formed <99. Before and after" in text
    )
    page = rendered(record)
    assert table_row(page, "well-formed &lt;99") == [
        "0.7100", "at least 0.98", "<strong>no</strong>"
    ]  # fmt: skip
    assert table_row(page, "facts") == ["1", "0.9900", "yes"]
    assert "GRPO" not in text


def test_the_table_holds_every_evaluation():
    record = fake_record()
    page, found = rendered(record), record.evaluations
    assert re.findall(r'<th scope="col">(.*?)</th>', page)[:4] == [
        "base", "cold start", "control", "GRPO"
    ]  # fmt: skip
    assert table_row(page, "solved, sampled") == ["24.3 %", "34.1 %", "35.2 %", "91.3 %"]
    assert table_row(page, "± standard error") == ["2.1 %"] * 4
    assert table_row(page, "greedy") == ["47.9 %", "63.3 %", "64.1 %", "95.7 %"]
    wanted = [f"{100 * one['pass_at']['8']:.1f} %" for one in found.values()]
    assert table_row(page, "at least one of 8 solved (pass@8)") == wanted
    assert "pass@2" in page and "pass@1)" not in page
    votes = [f"{100 * one['majority']:.1f} %" for one in found.values()]
    assert table_row(page, "majority vote") == votes
    assert table_row(page, "well-formed") == ["98.7 %"] * 4
    assert table_row(page, "cut off by the limit") == ["1.1 %"] * 4
    assert table_row(page, "tokens an answer") == ["16.6", "20.4", "20.9", "41.2"]
    assert table_row(page, "attempts an answer") == ["2.4", "2.9", "3.0", "5.9"]
    assert table_row(page, "attempts with a true mark") == ["99.1 %"] * 4
    assert table_row(page, "answers that give up") == ["–"] * 4
    assert table_row(page, "problems") == ["117"] * 4 and table_row(page, "samples") == ["8"] * 4


def test_what_an_evaluation_lacks_is_a_dash():
    found = {"a": {}, "b": {"pass_at": {4: 0.5}, "accuracy": math.nan, "greedy": None}}
    page = rendered(ReasoningRecord(evaluations=found))
    assert table_row(page, "solved, sampled") == ["–", "–"] == table_row(page, "greedy")
    assert table_row(page, "at least one of 4 solved (pass@4)") == ["–", "50.0 %"]
    assert table_row(page, "problems") == ["–", "–"] and 'class="lead"' not in page


def test_the_curves_show_the_logged_numbers():
    record = fake_record()
    page, grpo = rendered(record), record.stages["grpo"]

    def logged(key, scale=1.0):
        rows = [row for row in grpo if row.get(key) is not None]
        return {row["step"]: float(f"{scale * row[key]:.4g}") for row in rows}

    accuracy = hover(page, "% of held-out problems solved")
    assert accuracy["temperature 1"] == {0: 34.1} | logged("eval/accuracy", 100)
    assert accuracy["greedy"] == {0: 63.3} | logged("eval/greedy", 100)
    assert "control 35.20" in page
    assert hover(page, "reward") == {
        "reward": logged("reward"),
        "accuracy": logged("rewards/accuracy"),
        "format": logged("rewards/format"),
    }
    assert hover(page, "tokens an answer, mean") == {
        "sampled": logged("completions/mean_length"),
        "ended by itself": logged("completions/mean_terminated_length"),
        "held out": {0: 20.4} | logged("eval/length"),
    }
    for unit, name, key, scale in (
        ("entropy, nats per token", "entropy", "entropy", 1),
        ("KL, nats per token", "KL", "kl", 1),
        ("% of groups with equal rewards", "equal", "frac_reward_zero_std", 100),
        ("% cut off by the limit", "cut off", "completions/clipped_ratio", 100),
        ("% of tokens clipped", "below", "clip_ratio/low_mean", 100),
        ("% of tokens clipped", "above", "clip_ratio/high_mean", 100),
        ("gradient norm", "norm", "grad_norm", 1),
        ("seconds a step", "sampling", "sample_seconds", 1),
        ("seconds a step", "training", "train_seconds", 1),
        ("tokens per second", "sampling", "sample_tokens_per_second", 1),
        ("tokens per second", "training", "train_tokens_per_second", 1),
    ):
        assert hover(page, unit)[name] == logged(key, scale), key
    names = {"pretrain": "pre-training", "sft": "cold start", "control": "control"}
    for stage, name in names.items():  # many points: their running mean
        drawn, rows = hover(page, f"{name}: nats per token")[""], record.stages[stage]
        assert drawn[len(rows)] == pytest.approx(rows[-1]["loss"], rel=1e-3)


def test_sentences_about_curves():
    record = fake_record()
    share = sum(row["train_seconds"] for row in record.stages["grpo"])
    text = words(record)
    assert f"Sampling takes {100 * 32 / (32 + share):.1f} % of the time of a step." in text
    assert "Sampler and trainer differ by at most 2.4×10⁻⁵ nats on a token." in text
    assert "went on with 40 supervised steps in place of GRPO. It solves 35.2 %; the" in text
    record.stages["grpo"][6]["entropy"] = math.nan
    record.stages["grpo"][8]["rewards/accuracy"] = math.inf
    text = words(record)
    assert "from its reference. Not a finite number at step 7." in text
    assert "drawn as they are. Not a finite number at step 9." in text
    for row in record.stages["grpo"]:
        row["kl"] = math.nan
    assert "KL, nats per token: no finite value was recorded." in words(record)


def test_without_a_cold_start_the_curve_begins_where_it_was_measured():
    record = dataclasses.replace(fake_record(), evaluations={"grpo": fake_evaluation(0.9, 0.9, 40)})
    page = rendered(record)
    assert "Step 0" not in page and "Dashed" not in page and "The control" not in page
    assert list(hover(page, "% of held-out problems solved")["greedy"]) == [10, 20, 30, 40]


def test_traces_stand_side_by_side_and_read_back():
    record = fake_record()
    text = rendered(record)
    page = Page(text)
    assert [tuple(sample) for sample in page.samples] == [(p, t) for _, p, t in record.traces]
    assert text.count('<div class="three thoughts">') == 2  # one for each prompt
    block = text[text.index('class="three thoughts"') :].split('class="three thoughts"')[1]
    assert block.count("<pre>") == 3 and block.count("after GRPO") == 2
    assert text.count('<b class="hit">!</b>') == 3
    marks = sum(trace.count("?") for _, _, trace in record.traces)
    assert text.count('<b class="miss">?</b>') == marks - 2  # giving up is no mark
    assert '<span class="try">9 - 5 = 4 <b class="miss">?</b></span>' in text
    assert [EARLY, LONG] == [t for _, p, t in record.traces if p == PROMPT][::2]


def test_facts_and_recipe_stand_in_tables():
    record = fake_record()
    page = rendered(record)
    for name, value in (record.facts | record.recipe).items():
        shown = f"{value:,}" if isinstance(value, int) else value
        assert table_row(page, name) == [shown]


def test_a_script_in_any_text_stays_text():
    evil = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;"
    record = ReasoningRecord(
        stages={"grpo": [{"step": 1, f"rewards/{evil.replace('/', '')}": 1.0}]},
        evaluations={evil: fake_evaluation(0.1, 0.2, 3.0)},
        gates=[(evil, evil, evil, False)],
        traces=[(evil, evil, f"8 + 5 = {evil} ! {evil}")],
        facts={evil: evil},
        recipe={evil: evil},
    )
    text = rendered(record)
    page = Page(text)
    assert text.count("<script") == 1 and "img" not in page.tags
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.samples == [[evil, f"8 + 5 = {evil} ! {evil}"]]
    attempt = "<b + <img> = &amp; ?"
    page = Page(rendered(ReasoningRecord(traces=[("", "p", attempt)])))
    assert page.samples == [["p", attempt]] and "img" not in page.tags


# -------------------------------------------------------------------------- records at random
GRPO_KEYS = [*fake_record(n=10).stages["grpo"][-1]]
EVALUATION_KEYS = [*fake_evaluation(0.5, 0.5, 9.0)]


def nasty_record(seed: int, n: int, traces, texts) -> ReasoningRecord:
    """Keys, lengths and values that no healthy run writes."""
    rng = np.random.default_rng(seed)
    plain = rng.random()

    def value():
        return float(rng.normal()) if rng.random() < plain else NASTY[rng.integers(len(NASTY))]

    def several(most):
        return [value() for _ in range(rng.integers(most + 1))]

    def row():
        kept = {key: value() for key in GRPO_KEYS if rng.random() < 0.8}
        return kept | {key: several(8) for key in ("max_vio", "dead_experts") if key in kept}

    def evaluation():
        kept = {key: value() for key in EVALUATION_KEYS if rng.random() < 0.8}
        numbers = {str(2**i): value() for i in range(rng.integers(5))}
        statistics = {key: value() for key in ("attempts", "sums", "other")}
        nested = {"pass_at": numbers, "statistics": statistics, "shown": []}
        return kept | {key: inner for key, inner in nested.items() if key in kept}

    names = ("base", "cold start", "control", "grpo", *texts)
    stages = ("pretrain", "sft", "grpo", "control")
    return ReasoningRecord(
        {name: [row() for _ in range(n)] for name in stages if rng.random() < 0.8},
        {name: evaluation() for name in names if rng.random() < 0.7},
        [(text, value(), text, bool(rng.integers(2))) for text in texts],
        traces,
        {text: value() for text in texts},
        {text: several(3) for text in texts},
    )


TEXT = st.text(st.characters(categories=None), max_size=6)
SEARCH = st.lists(st.sampled_from("8 5 + - = 13 ! ? <think> </think>".split())).map(" ".join)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([0, 1, 2, 7, 45, 130]),
    traces=st.lists(st.tuples(TEXT, TEXT | st.just(PROMPT), TEXT | SEARCH), max_size=4),
    texts=st.lists(TEXT, max_size=2, unique=True),
)
def test_no_record_breaks_the_page_and_traces_read_back(seed, n, traces, texts):
    page = Page(rendered(nasty_record(seed, n, traces, texts)))
    prompts = dict.fromkeys(prompt for _, prompt, _ in traces)
    wanted = [(p, text) for p in prompts for _, asked, text in traces if asked == p]
    assert [tuple(sample) for sample in page.samples] == wanted
    assert "nan" not in re.sub(r"[\ud800-\udfff]", "", page.words).lower().split()


def test_an_empty_record_is_an_empty_page():
    text = rendered(ReasoningRecord())
    Page(text)
    assert "<section>" not in text
