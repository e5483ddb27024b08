"""Figures that move: their stills are the last frames, their numbers the records' and ledger's."""

import json
import re

import pytest

from minideepseek.book import moving
from minideepseek.book.order import PACKAGE

from .checker import read, text_of

FIGURES = [draw for draw, _ in moving.MOVING.values()]
RECORDS = ("experts", "drafts", "thoughts")


def data_of(figure):
    raw = re.search(r'<script type="application/json">(.*?)</script>', figure.html, re.DOTALL)
    return json.loads(raw[1])


@pytest.mark.parametrize("draw", FIGURES)
def test_a_figure_is_whole_html_with_its_data(draw):
    figure = draw()
    found = read(figure.html)
    assert found.ids == [f"moving-{figure.kind}"] and not found.unbalanced and not found.handlers
    assert data_of(figure) == figure.data and figure.frames > 10
    assert figure.html.count("</script>") == 1
    says = figure.data.get("says", [figure.says])
    assert says[-1] == figure.says and f'data-last="{figure.frames - 1}"' in figure.html
    assert len(says) in (1, figure.frames)


def test_text_in_the_data_cannot_end_it():
    odd = "</script><script>alert(1)//<!--"
    figure = moving.Figure("k", odd, odd, "", odd, 2, 9, odd, {"says": [odd]})
    assert figure.html.count("</script>") == 1 and data_of(figure) == {"says": [odd]}
    assert text_of(figure.html).count(odd) == 4


def test_the_cache_is_the_ledgers():
    figure = moving.cache()
    assert dict(zip(moving.SHOWN_KINDS, figure.data["sizes"], strict=True)) == {
        "MHA": 3997696, "GQA-8": 249856, "MQA": 31232, "MLA": 70272
    }  # fmt: skip
    assert figure.data["contexts"][-1] == 131072
    shown = re.findall(r"<output>(.*?)</output>", figure.stage)
    assert shown == ["524 GB", "32.7 GB", "4.1 GB", "9.2 GB"]
    parts = [float(part) for part in re.findall(r"--part:([\d.]+)", figure.stage)]
    assert parts == pytest.approx([1, 0.4094, 0.0512, 0.1151], abs=1e-4)
    assert figure.stage.count("track over") == 1 and "20,011 tokens" in figure.text


def test_every_byte_has_its_experts_colour():
    figure, found = moving.experts(), moving.record("experts")
    letters = re.findall(r'<b class="e(\d)">(.*?)</b>', figure.stage, re.DOTALL)
    assert "".join(e for e, _ in letters) == found["frames"][-1]["experts"]
    assert text_of(figure.stage) == found["text"]
    loads = [float(part) for part in re.findall(r"--part:([\d.]+)", figure.stage)]
    assert sum(loads) == pytest.approx(1, abs=1e-3)


def test_the_drafted_text_is_what_was_written():
    figure, found = moving.drafts(), moving.record("drafts")
    written = "".join(one["written"] for one in found["rounds"])
    marks = re.findall(r'<b class="(\w+)" data-r="(\d+)" data-f="(\d+)"( hidden)?>(.*?)</b>',
                       figure.stage, re.DOTALL)  # fmt: skip
    kept = [text_of(m[4]) for m in marks if m[0] not in ("no", "lost")]
    assert "".join(kept) == written and len(written) == 220
    last = str(len(found["rounds"]) - 1)
    for kind, number, _, hidden, _ in marks:
        assert bool(hidden) == (kind in ("no", "lost") and number != last)
    frames = [int(m[2]) for m in marks if m[0] != "lost"]
    assert frames == list(range(figure.frames))
    for number, one in enumerate(found["rounds"]):
        kinds = [m[0] for m in marks if m[1] == str(number)]
        drafts, accepted = len(one["drafts"]), one["accepted"]
        assert kinds.count("yes") == min(accepted, len(one["written"]))
        assert kinds.count("no") == (accepted < drafts) == kinds.count("new")
        assert kinds.count("lost") == max(0, drafts - accepted - 1)


def test_thoughts_keep_their_words_and_verdicts():
    figure, found = moving.thoughts(), moving.record("thoughts")
    pages = re.findall(r"<div( hidden)?>(.*?)</div>", figure.stage.split('"rewards"')[0], re.DOTALL)
    assert [bool(hidden) for hidden, _ in pages] == [True] * (figure.frames - 1) + [False]
    for (_, html), frame in zip(pages, found["frames"], strict=True):
        wanted = "".join(
            f"{prompt} {text} {'✓' if right else '✗'}"
            for prompt, (text, right) in zip(found["prompts"], frame["answers"], strict=True)
        )
        assert text_of(html).replace("  ", " ") == wanted


def test_records_are_small_and_say_where_they_come_from():
    folder = PACKAGE / "book" / "records"
    files = sorted(folder.iterdir())
    assert {file.stem for file in files} == set(RECORDS)
    assert sum(file.stat().st_size for file in files) < 300_000
    for name in RECORDS:
        found = moving.record(name)
        assert found["command"] == f"python -m demos.record_book {name}"
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", found["date"]) and found["what"]


def test_a_law_holds_in_the_records():
    rounds = moving.record("drafts")["rounds"]
    judged = [
        (chance, j < one["accepted"])
        for one in rounds
        for j, (_, chance) in enumerate(one["drafts"])
        if j <= one["accepted"]
    ]
    expected = sum(chance for chance, _ in judged)
    spread = sum(chance * (1 - chance) for chance, _ in judged) ** 0.5
    assert abs(sum(yes for _, yes in judged) - expected) < 4 * spread
    assert all(yes for chance, yes in judged if chance == 1)
