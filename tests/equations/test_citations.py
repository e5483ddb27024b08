"""Equation numbers that the texts cite are in the ledger, or have a reason not to be."""

import re
from pathlib import Path

import pytest

from minideepseek.equations.ledger import ELSEWHERE, ledger

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(
    path
    for folder in ("minideepseek", "demos")
    for path in (ROOT / folder).rglob("*.py")
    if "equations" not in path.relative_to(ROOT).parts
)
NAMES = {  # how the texts call a paper → its short name
    r"V2\b": "V2",
    r"V3\b": "V3",
    r"MoE(?= paper| eq\.)": "MOE",
    r"Loss-Free Balancing": "LFB",
    r"DeepSeekMath": "MATH",
    r"R1\b": "R1",
    r"Leviathan": "SPEC",
}
NAME = re.compile("|".join(f"({name})" for name in NAMES))
NUMBERS = r"\d+(?:(?:–|, | and )\d+)*"
CITED = re.compile(rf"\b(?:eq\.|equations?) \(?({NUMBERS})")


def citations(text):
    """(short name or None, first, last, where) of every number cited."""
    for found in CITED.finditer(text):
        before = [name for name in NAME.finditer(text) if name.start() < found.start()]
        paper = list(NAMES.values())[before[-1].lastindex - 1] if before else None
        for part in re.split(r", | and ", found[1]):
            first, _, last = part.partition("–")
            yield paper, int(first), int(last or first), found.start()


def known():
    here = {id for entry in ledger() for id in entry.ids}
    reasons = {f"{paper}:{n}" for paper, spans in ELSEWHERE.items()
               for a, b, _ in spans for n in range(a, b + 1)}  # fmt: skip
    return here | reasons


def test_every_equation_that_is_cited_is_in_the_ledger():
    ids, absent = known(), []
    for path in FILES:
        text = path.read_text("utf-8")
        for paper, first, last, start in citations(text):
            where = f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, start) + 1}"
            cited = [f"{paper}:{number}" for number in range(first, last + 1)]
            absent += [f"{where} cites {id}" for id in cited if id not in ids]
    assert not absent


def test_the_citations_are_found():
    """So that the test above cannot pass by finding none."""
    found = [(p, a, b) for path in FILES for p, a, b, _ in citations(path.read_text("utf-8"))]
    assert len(found) > 30
    assert {("V2", 9, 9), ("V2", 10, 11), ("MOE", 9, 11), ("MOE", 5, 5), ("LFB", 4, 4),
            ("R1", 3, 3), ("V2", 34, 34), ("SPEC", 1, 1)} <= set(found)  # fmt: skip


@pytest.mark.parametrize(
    "text, expected",
    [
        ("V2 eq. 9–11, 14–19", [("V2", 9, 11), ("V2", 14, 19)]),
        ("of V2 (eq. 32) and R1 (eq. 1)", [("V2", 32, 32), ("R1", 1, 1)]),
        ("(MoE paper, eq. 9–11)", [("MOE", 9, 11)]),
        ("an MoE layer of V2, eq. 10 and 11", [("V2", 10, 10), ("V2", 11, 11)]),
        ("eq. 5", [(None, 5, 5)]),
        ("equation of order 2", []),
    ],
)
def test_how_citations_are_read(text, expected):
    assert [(p, a, b) for p, a, b, _ in citations(text)] == expected
