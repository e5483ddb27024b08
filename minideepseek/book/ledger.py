r"""The page of the equations: as the papers set them, as code, and where the library has them"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minideepseek.book.listing import code_html
from minideepseek.book.names import Links
from minideepseek.equations.ledger import ELSEWHERE, PAPERS, Equation, ledger, of_paper
from minideepseek.exercises.catalogue import EXERCISES

PAGE = "equations-list.html"


def anchor(id: str) -> str:
    """An id in an address: "V2:9" → "V2-9"."""
    return id.replace(":", "-")


def addresses() -> Mapping[str, str]:
    """"V2:9", and "V3:§3.3.2" for the first entry of a section → the entry's address."""
    found: dict[str, str] = {}
    for entry in ledger():
        for id in entry.ids:
            found[id] = f"{PAGE}#{anchor(entry.id)}"
            if section := entry.sections.get(id, "").removeprefix("section "):
                found.setdefault(f"{id.partition(':')[0]}:§{section}", found[id])
    return found


def papers() -> Iterator[dict[str, Any]]:
    """Each paper with its entries, those first that are listed under it."""
    for key, paper in PAPERS.items():
        own = [entry for entry in ledger() if entry.id.startswith(f"{key}:")]
        others = [(id, entry) for id, entry in of_paper(key) if entry not in own]
        yield {"key": key, "paper": paper, "own": own, "others": others,
               "elsewhere": ELSEWHERE.get(key, ())}  # fmt: skip


def facts(entry: Equation, links: Links) -> dict[str, Any]:
    """What the template shows of an entry."""
    line, module = entry.line(), links.module(entry.library.partition(":")[0])
    owner = ".".join(line.owner.split(".")[:2])
    test = links.by_path.get(entry.test.partition("::")[0])
    exercise = entry.exercise
    return {
        "anchor": anchor(entry.id),
        "code": code_html(entry.source),
        "line": code_html(line.text),
        "owner": line.owner,
        "place": f"{module.path}:{line.number}" if module else str(line),
        "url": f"{module.url}#{owner}" if module else None,
        "test": test.url if test else None,
        "exercise": (EXERCISES.heading(exercise).title, f"exercise.{exercise}.html")
        if exercise
        else None,
    }
