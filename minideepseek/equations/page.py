"""What a terminal shows: all equations, those of a paper, or one."""

from __future__ import annotations

import textwrap

from minideepseek.equations.ledger import PAPERS, Equation, Symbol, find, ledger, of_paper


def show(asked: str | None) -> str:
    """The page of an id, of a paper, or of everything. InputError for an id that is not there."""
    if asked is None:
        return overview()
    if asked.upper() in PAPERS:
        return paper_page(asked.upper())
    return entry_page(find(asked))


def overview() -> str:
    """Every entry with its title, by the paper of its first id."""
    page = []
    for paper in PAPERS:
        own = [entry for entry in ledger() if entry.id.startswith(f"{paper}:")]
        if own:
            page += [*_headline(paper), *(_row(e.id, e, e.ids[1:]) for e in own), ""]
    count = sum(len(entry.ids) for entry in ledger())
    return "\n".join([*page, f"{len(ledger())} entries, {count} ids; one: minideepseek eq V2:9"])


def paper_page(paper: str) -> str:
    """The equations of one paper, those that are also another's too."""
    rows = [
        _row(id, entry, [other for other in entry.ids if other != id])
        for id, entry in of_paper(paper)
    ]
    return "\n".join([*_headline(paper), *rows])


def _headline(paper: str) -> list[str]:
    title, authors, arxiv = PAPERS[paper]
    return [f"{paper} · {title} ({authors}, arXiv {arxiv})"]


def _row(id: str, entry: Equation, others: list[str] | tuple[str, ...]) -> str:
    more = f"  = {', '.join(others)}" if others else ""
    return f"   {id:<20}  {entry.title}{more}"


def entry_page(entry: Equation) -> str:
    """One entry: where it stands, the equation, the transcription, the library, test, exercise."""
    line = entry.line()
    page = [f"{', '.join(entry.ids)} · {entry.title}", *(f"   {p}" for p in entry.places()), ""]
    page += [textwrap.indent(entry.text, "       "), ""]
    if entry.symbols:
        page += ["   paper, config or tensor, code", *_table(entry.symbols), ""]
    page += ["   transcribed", textwrap.indent(entry.source, "       "), ""]
    page += [f"   the library: {line.owner}, {line}", f"       {line.text}"]
    if entry.note:
        page += textwrap.wrap(entry.note, 96, initial_indent="   note: ", subsequent_indent="   ")
    page.append(f"   test: {entry.test}")
    if entry.exercise:
        page.append(f"   exercise: minideepseek exercises check {entry.exercise}")
    return "\n".join(page)


def _table(symbols: list[Symbol]) -> list[str]:
    rows = [(symbol.said, symbol.name or "–", symbol.code) for symbol in symbols]
    wide = [max(len(row[i]) for row in rows) for i in range(2)]
    return [f"       {a:<{wide[0]}}   {b:<{wide[1]}}   {c}".rstrip() for a, b, c in rows]
