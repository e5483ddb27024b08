"""Which numbers of the README stand in no entry."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.replay.bands import ROOT
from tests.replay.entries import README
from tests.replay.inventory import ENTRIES, KEPT
from tests.replay.templates import only, pattern

# Code, whose printed numbers have entries all the same; the chapters' table, which holds names; the
# first cell of a row, which says what was done; what stands between backquotes or is a link's
# target; letters with a digit (V3, pass@8).
NAMES = re.compile(
    r"^```.*?^```|^## Reading order.*?^## |^\| [^|\n]*\||`[^`\n]+`|\]\([^)]*\)|[A-Za-z@]\d",
    re.MULTILINE | re.DOTALL,
)
SETTINGS = (  # numbers that were chosen, or that others made
    "Python {~} or newer",
    "the real {~} shards",
    "the four different numbers that makes {~}.",
    "after a miss with probability {~}.",
    "cold start (seed {~} of the table below)",
    "On 2026{*}for comparison.",
    "GRPO, τ = {~} |",
    "({~} million token passes an arm",
    "solved, τ = {~} |",
    "With seed {~}, no signal",
    "solved at temperature {~} and greedily",
    "Linux with Python {~}; the",
    "stand-in for CuPy {~} instead",
    "compile for sm_{~} and",
)


def spans() -> list[tuple[int, int]]:
    """Where entries stand in the README."""
    text = (ROOT / README).read_text("utf-8")
    return [only(e.says, text).span() for e in (*ENTRIES, *KEPT) if e.where == README]


def uncovered() -> Iterator[str]:
    """The numbers that no entry holds, with the words around them."""
    text = (ROOT / README).read_text("utf-8")
    taken = [*spans(), *(m.span() for m in NAMES.finditer(text))]
    taken += [m.span() for words in SETTINGS for m in pattern(words).finditer(text)]
    for found in re.finditer(r"\d[\d.,]*", text):
        if not any(start <= found.start() < end for start, end in taken):
            yield " ".join(text[max(0, found.start() - 60) : found.end() + 50].split())


def rows() -> Iterator[tuple[int, int, str]]:
    """(start, end, command) of each row of the table of measurements; `same` is resolved."""
    text, command = (ROOT / README).read_text("utf-8"), ""
    table = only("| what | figure | command | | --- | --- | --- |", text)
    for line in re.finditer(r"\| .* \|\n|(?P<end>\n)", text[table.end() + 1 :]):
        if line["end"]:
            return
        last = line[0].rstrip(" |\n").rpartition(" | ")[2]
        command = command if last == "same" else last.strip("`")
        yield line.start() + table.end() + 1, line.end() + table.end() + 1, command
