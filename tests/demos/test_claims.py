"""The ledger of claims: figures stand where it says, verdicts follow the rule, the file fits."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos import claims
from demos.claims import CLAIMS, FILE, VERDICTS, judged, markdown
from demos.claims_models import CONTRADICTED, OPEN, REPRODUCED, Claim
from tests.replay.bands import ROOT
from tests.replay.options import faults

NUMBER = re.compile(r"(?<![\w.])[+−-]?\d[\d,]*(?:\.\d+)?|three quarters|no dead")


def numbers(text):
    """As they are written, without a sign that a plain number has."""
    return {found.lstrip("+").rstrip(",") for found in NUMBER.findall(text)}


def paragraphs(file, words):
    """The rows of tables and paragraphs of a file that hold the words."""
    text = (ROOT / file).read_text("utf-8")
    parts = re.split(r"\n\s*\n|\n(?=\| )", text)
    return [part for part in parts if " ".join(words.split()) in " ".join(part.split())]


def test_there_are_enough_and_each_is_told_once():
    assert len(CLAIMS) >= 20
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim.says for claim in CLAIMS])
def test_the_figures_stand_where_the_claim_says(claim):
    file, words = claim.evidence
    (found,) = paragraphs(file, words)
    assert numbers(claim.result) - numbers(found) == set()


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim.says for claim in CLAIMS])
def test_a_claim_is_whole(claim):
    assert judged(claim).verdict in VERDICTS
    assert bool(claim.seeds) != bool(claim.verdict) and bool(claim.seeds) == bool(claim.unit)
    assert all((claim.says, claim.source, claim.tested, claim.result))
    assert faults(claim.command) == []


def test_all_verdicts_occur():
    assert {judged(claim).verdict for claim in CLAIMS} == set(VERDICTS)


def claim_of(*seeds):
    return Claim("It is so.", "V3", "here", "2", "wc README.md", ("README.md", "x"), "",
                 seeds, "points", 1)  # fmt: skip


@given(st.lists(st.floats(-9, 9).map(lambda x: round(x, 2)), min_size=3, max_size=5))
def test_verdicts_follow_the_interval(seeds):
    one = judged(claim_of(*seeds))
    low, high = one.gap.mean - one.gap.half, one.gap.mean + one.gap.half
    wanted = REPRODUCED if low > 0 else CONTRADICTED if high < 0 else OPEN
    assert one.verdict == wanted
    mirrored = judged(claim_of(*[-x for x in seeds])).verdict
    assert mirrored == {REPRODUCED: CONTRADICTED, CONTRADICTED: REPRODUCED, OPEN: OPEN}[wanted]


def test_a_verdict_by_hand():
    """Mean 2, deviation 1, t = 4.303 with three seeds: 2 ± 2.48 holds 0, 3 ± 2.48 does not."""
    assert judged(claim_of(1, 2, 3)).verdict == OPEN
    one = judged(claim_of(2, 3, 4))
    assert one.verdict == REPRODUCED
    assert one.result == "2; by seed +2.0, +3.0, +4.0 points: +3.0, 95 % interval +0.5 to +5.5"


def test_the_file_is_what_the_command_prints(capsys):
    claims.main([])
    assert capsys.readouterr().out == FILE.read_text("utf-8")


def test_the_file_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "FILE", tmp_path / "CLAIMS.md")
    claims.main(["--write"])
    assert (tmp_path / "CLAIMS.md").read_text("utf-8") == markdown()


def test_rows_have_a_cell_for_each_column():
    rows = [line for line in markdown().splitlines() if line.startswith("|")]
    assert len(rows) == len(CLAIMS) + 2
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {len(claims.COLUMNS) + 2}
