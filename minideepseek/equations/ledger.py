"""What an entry of the ledger is, the papers, and how an entry is found.

An entry is a transcription with `equation(…)` above it, which says everything else:

    @equation(
        "V2:9", "V3:1",                       its names: the first is the one it is listed under
        title="The latent",
        latex="c_t^{KV} = W^{DKV} h_t",       see notation.py
        library="layers.mla:…",               where minideepseek computes it, and of these lines
        code="self.kv_a_layernorm(",          the one that holds this; its number is looked up
    )
    def latent(W_DKV, h_t):                   five lines at most, in the equation's own letters
        return W_DKV @ h_t
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from minideepseek.equations import notation
from minideepseek.errors import InputError

TIES = "tests/equations/test_ties.py::test_the_library_computes_it"  # [id]: of each entry


class Paper(NamedTuple):
    """A paper by the short name that ids begin with."""

    title: str
    authors: str
    arxiv: str


PAPERS = {
    "V2": Paper("DeepSeek-V2", "DeepSeek-AI 2024", "2405.04434"),
    "V3": Paper("DeepSeek-V3", "DeepSeek-AI 2024", "2412.19437"),
    "MOE": Paper("DeepSeekMoE", "Dai et al. 2024", "2401.06066"),
    "LFB": Paper("Loss-Free Balancing", "Wang et al. 2024", "2408.15664"),
    "MATH": Paper("DeepSeekMath", "Shao et al. 2024", "2402.03300"),
    "R1": Paper("DeepSeek-R1, first version", "DeepSeek-AI 2025", "2501.12948v1"),
    "ROPE": Paper("RoFormer", "Su et al. 2021", "2104.09864"),
    "NORM": Paper("Root mean square layer normalization", "Zhang & Sennrich 2019", "1910.07467"),
    "GLU": Paper("GLU variants improve Transformer", "Shazeer 2020", "2002.05202"),
    "ADAMW": Paper("Decoupled weight decay", "Loshchilov & Hutter 2019", "1711.05101"),
    "SPEC": Paper("Speculative decoding", "Leviathan et al. 2023", "2211.17192"),
    "CODEX": Paper("Evaluating language models on code", "Chen et al. 2021", "2107.03374"),
}

# Numbered equations that are not here, each with its reason: paper → (first, last, reason).
ELSEWHERE: dict[str, tuple[tuple[int, int, str], ...]] = {
    "V2": (
        (26, 31, "balance between devices, and here is one machine"),
        (35, 36, "rewards of its two reinforcement stages, from models of reward"),
        (37, 47, "latent attention once more in one place: V2:9 to V2:19"),
    ),
    "MOE": ((15, 17, "balance between devices, and here is one machine"),),
    "LFB": (
        (1, 2, "an ordinary MoE layer and its balance loss: V2:21 to V2:25"),
        (5, 5, "a bias that multiplies, which that paper finds worse"),
    ),
    "MATH": ((2, 2, "PPO's penalty inside the reward; GRPO has it in the loss: MATH:3"),),
    "SPEC": ((1, 1, "tokens per round from the rate of acceptance: python -m demos.speculative"),),
}


class Symbol(NamedTuple):
    """A letter of the papers (LaTeX), the field or tensor of that meaning, and the code's name.

    A chapter's are its SYMBOLS; an entry shows those that stand in its equation.
    """

    letter: str
    name: str
    code: str

    @property
    def said(self) -> str:
        """The letter in Unicode."""
        return notation.text(notation.read(self.letter))


@dataclass(frozen=True)
class Equation:
    """One entry. sections: where the ids without a number stand; note: where the code differs."""

    ids: tuple[str, ...]
    sections: dict[str, str]
    title: str
    latex: str
    transcription: Callable
    library: str
    code: str
    exercise: str = ""
    note: str = ""

    @property
    def id(self) -> str:
        """The name that the entry is listed under."""
        return self.ids[0]

    @property
    def symbols(self) -> list[Symbol]:
        """Those of the chapter's symbols that stand in the equation."""
        known: tuple[Symbol, ...] = inspect.getmodule(self.transcription).SYMBOLS  # type: ignore
        tree = notation.read(self.latex)
        return [symbol for symbol in known if notation.holds(tree, notation.read(symbol.letter))]

    @property
    def text(self) -> str:
        """The equation in Unicode."""
        return notation.text(notation.read(self.latex))

    @property
    def mathml(self) -> str:
        """The equation as a <math> element."""
        return notation.mathml(notation.read(self.latex))

    @property
    def source(self) -> str:
        """The transcription's own lines."""
        lines = inspect.getsource(self.transcription).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("def "))
        return "\n".join(lines[start:])

    @property
    def test(self) -> str:
        """The test that holds the transcription against the library."""
        return f"{TIES}[{self.id}]"

    def places(self) -> list[str]:
        """Where the ids stand, a line for each paper: "DeepSeek-V2, equation 9"."""
        found: dict[str, str] = {}
        for id in self.ids:
            paper, _, number = id.partition(":")
            where = self.sections.get(id, f"equation {number}")
            found[paper] = f"{found[paper]}, {number}" if paper in found else where
        return [f"{PAPERS[paper].title}, {where}" for paper, where in found.items()]

    def line(self) -> Line:
        """The library's line, looked up now."""
        return find_line(self.library, self.code)


class Line(NamedTuple):
    """A line of the library: its file, number, the object it belongs to, and what it says."""

    path: Path
    number: int
    owner: str
    text: str

    def __str__(self) -> str:
        near = self.path.is_relative_to(Path.cwd())
        return f"{os.path.relpath(self.path) if near else self.path}:{self.number}"


def find_line(library: str, code: str) -> Line:
    """The first line that holds `code` of the object "package.module:Class.function"."""
    module, _, owner = library.partition(":")
    thing: Any = importlib.import_module(f"minideepseek.{module}")
    for name in owner.split("."):
        thing = getattr(thing, name)
    thing = inspect.unwrap(thing)
    lines, start = inspect.getsourcelines(thing)
    offset = next(i for i, line in enumerate(lines) if code in line)
    return Line(Path(inspect.getfile(thing)), start + offset, owner, lines[offset].strip())


# --------------------------------------------------------------------------------------- all of it

_entries: list[Equation] = []
_ID = re.compile(r"(?P<id>[A-Z0-9]+:[a-z0-9-]+)(?: \((?P<section>[^)]+)\))?")


def equation(*names: str, **facts: Any) -> Callable[[Callable], Callable]:
    """Enter the transcription below. names: its ids, "MATH:4" or "V3:tile (section 3.3.2)"."""
    found = [m for m in map(_ID.fullmatch, names) if m]
    assert len(found) == len(names), f"{names}: an id is PAPER:number, or PAPER:name (section)"
    sections = {m["id"]: m["section"] for m in found if m["section"]}

    def enter(transcription: Callable) -> Callable:
        ids = tuple(m["id"] for m in found)
        _entries.append(Equation(ids, sections, transcription=transcription, **facts))
        return transcription

    return enter


def order(id: str) -> tuple[int, float, str]:
    """The key by which ids are sorted: papers as in PAPERS, numbers, then names."""
    paper, _, rest = id.partition(":")
    return list(PAPERS).index(paper), int(rest) if rest.isdigit() else float("inf"), rest


def ledger() -> list[Equation]:
    """All entries, sorted by their first id."""
    for chapter in ("foundations", "attention", "experts", "prediction", "objectives"):
        importlib.import_module(f"minideepseek.equations.{chapter}")
    return sorted(_entries, key=lambda entry: order(entry.id))


def of_paper(paper: str) -> list[tuple[str, Equation]]:
    """(id, entry) of one paper's equations, in its own order."""
    pairs = [(id, e) for e in ledger() for id in e.ids if id.startswith(f"{paper}:")]
    return sorted(pairs, key=lambda pair: order(pair[0]))


def find(id: str) -> Equation:
    """The entry of an id in any case. InputError says why it is not here, or what is near."""
    known = {name.casefold(): entry for entry in ledger() for name in entry.ids}
    if found := known.get(id.casefold()):
        return found
    paper, _, number = id.upper().partition(":")
    for first, last, reason in ELSEWHERE.get(paper, ()):
        if number.isdigit() and first <= int(number) <= last:
            raise InputError(f"{paper}:{number} is not in the ledger: {reason}")
    raise InputError(f"there is no equation {id!r}; {_near(paper, number, id, known.values())}")


def _near(paper: str, number: str, id: str, known: Iterable[Equation]) -> str:
    ids = [name for entry in known for name in entry.ids]
    numbers = [int(n) for p, _, n in (i.partition(":") for i in ids) if p == paper and n.isdigit()]
    if number.isdigit() and numbers:
        nearest = min(numbers, key=lambda n: abs(n - int(number)))
        return f"did you mean {paper}:{nearest}?"
    close = difflib.get_close_matches(id.casefold(), [i.casefold() for i in ids], 1)
    if close:
        return f"did you mean {next(i for i in ids if i.casefold() == close[0])}?"
    return f"papers are {', '.join(PAPERS)}; all: minideepseek eq"
