r"""The pages put together and written

A book is written beside the old one and then takes its place (model/files.py), so that a reader
never meets half of each. Into a directory that holds other things it is not written at all.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from minideepseek.book import beside, ledger
from minideepseek.book.listing import sections
from minideepseek.book.moving import MOVING
from minideepseek.book.names import Links
from minideepseek.book.order import Page, all_pages
from minideepseek.book.prose import anchor, headings, line_html, theory_html
from minideepseek.equations import notation
from minideepseek.errors import InputError
from minideepseek.model.files import atomic_directory
from minideepseek.training.page import PALETTE, STYLE

NEEDS = {"jinja2": "jinja2", "markdown_it": "markdown-it-py", "pygments": "pygments"}
OTHERS = {"exercise": "Exercises", "bug": "The bug zoo", "demo": "Demos", "test": "Tests"}


@dataclass(frozen=True)
class Book:
    """What was written: where, how many pages, how many bytes."""

    path: Path
    pages: int
    size: int


def write_book(out: Path, runs: Path = Path("runs")) -> Book:
    """Write the whole book into `out`; pictures of demos are looked for below `runs`.

    InputError for a missing library of the extra `book`, and for an `out` that holds other things;
    CheckpointError where the system refuses.
    """
    missing = [name for module, name in NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"the book needs {', '.join(missing)}; install the extra: "
            "pip install 'minideepseek[book]'"
        )
    if out.exists() and not (out / "book.css").exists() and (out.is_file() or any(out.iterdir())):
        raise InputError(
            f"--out: got {out}, which holds other things; expected a new directory or an old book"
        )
    size = count = 0
    with atomic_directory(out, ("*.html", "book.css")) as folder:
        for name, text in Site(runs).files():
            data = text.encode()
            (folder / name).write_bytes(data)
            size, count = size + len(data), count + name.endswith(".html")
    return Book(out, count, size)


class Site:
    """Every page as text. runs: where pictures of demos are looked for."""

    def __init__(self, runs: Path = Path("runs"), pages: Sequence[Page] | None = None) -> None:
        self.pages = all_pages() if pages is None else list(pages)
        self.links, self.runs = Links(self.pages, ledger.addresses()), runs
        self.read = [page for page in self.pages if page.kind in ("part", "chapter")]

    @cached_property
    def templates(self) -> Any:
        """The Jinja2 environment: what is put into a page is escaped, unless it is HTML."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        loader = PackageLoader("minideepseek.book")
        found = Environment(
            loader=loader,
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        found.filters["line"] = line_html
        found.filters["ids"] = self._with_ids
        return found

    def _with_ids(self, text: str) -> str:
        """A note of the ledger as HTML, the ids in it as links."""
        parts = re.split(r"\b([A-Z0-9]+:[a-z0-9-]+)\b", text)
        return "".join(
            f'<a href="{self.links.equations[part]}">{part}</a>'
            if part in self.links.equations
            else escape(part)
            for part in parts
        )

    @cached_property
    def beside(self) -> Mapping[str, beside.Beside]:
        return beside.everything_beside(self.links)

    def files(self) -> Iterator[tuple[str, str]]:
        """(name, text) of every file of the book."""
        yield "book.css", PALETTE + _asset("book.css")
        yield "index.html", self.index()
        body = beside.readme_html(self.links)
        yield "readme.html", self._fill("readme.html", "README", body=body)
        yield ledger.PAGE, self.equations()
        yield "names.html", self.names()
        for kind, title in OTHERS.items():
            yield f"{kind}s-list.html", self.overview(kind, title)
        for page in self.pages:
            yield page.url, self.page(page)

    # ------------------------------------------------------------------------------- pages

    def page(self, page: Page) -> str:
        """A source file: its title, its neighbours, its theory, its code."""
        near = self.beside[page.name]
        drawn = None
        if page.kind == "demo" and (found := beside.picture(page.short, self.runs)) is not None:
            drawn = {"where": found[0], "style": STYLE, "html": found[1]}
        theory = self._with_figure(page, theory_html(page, self.links))
        pairs = [(name, getattr(near, name)) for name in vars(near) if getattr(near, name)]
        return self._fill(
            "page.html",
            page.title,
            page,
            moving=page.name in MOVING,
            kind=page.kind,
            page=page,
            up=self.links.pages.get(page.up),
            beside=pairs,
            theory=theory,
            listing=sections(page, self.links),
            picture=drawn,
        )

    def _with_figure(self, page: Page, theory: str) -> str:
        if page.name not in MOVING:
            return theory
        draw, heading = MOVING[page.name]
        before, mark, rest = theory.partition(f'<h2 id="{anchor(heading)}">' if heading else "\0")
        return before + draw().html + mark + rest

    def index(self) -> str:
        """The contents: parts and chapters in reading order."""
        first = self.links.pages["autograd"]
        lead = beside.readme().split("\n\n")[1].replace("\n", " ")
        drawn = [(draw(), name) for name, (draw, _) in MOVING.items()]
        figures = [(figure.title, f"{name}.html#{figure.anchor}") for figure, name in drawn]
        return self._fill(
            "index.html",
            "Contents",
            lead=lead,
            first=first,
            front=self.links.pages.get("demos.microdeepseek"),
            equations=ledger.PAGE,
            figures=figures,
            parts=[
                {"page": part, "pages": self._inside(part)}
                for part in [*self._parts[1:], self._parts[0]]  # the package's own files last
            ],
        )

    def overview(self, kind: str, title: str) -> str:
        """A list of the pages of one kind."""
        pages = [page for page in self.pages if page.kind == kind]
        part = {"page": {"name": kind, "url": f"{kind}s-list.html", "title": title}, "pages": pages}
        return self._fill("overview.html", title, part=part)

    def equations(self) -> str:
        """The ledger."""
        papers = [
            one
            | {
                "own": [(entry, ledger.facts(entry, self.links)) for entry in one["own"]],
                "others": [
                    (id, self.links.equations[id], entry.title) for id, entry in one["others"]
                ],
            }
            for one in ledger.papers()
        ]

        def mathml(letter: str) -> str:
            return notation.mathml(notation.read(letter)).replace(' display="block"', "")

        return self._fill("equations.html", "The equations", papers=papers, mathml=mathml)

    def names(self) -> str:
        """The index of everything that has an address; search.js filters it."""
        groups: dict[str, list[dict[str, str]]] = {"Chapters": [], "Sections": [], "Names": []}
        for page in self.read:
            groups["Chapters"].append(_entry(page.title, page.url, page.short))
            for name, text in headings(page):
                groups["Sections"].append(_entry(text, f"{page.url}#{name}", page.short))
            for name, found in self.links.defined[page.name].items():
                if not name.rpartition(".")[2].startswith("_"):
                    where = f"{page.short} · {found.text}" if found.text else page.short
                    groups["Names"].append(_entry(name, f"{page.url}#{name}", where))
        groups["Names"].sort(key=lambda entry: entry["text"].lower())
        groups["Equations"] = [
            _entry(f"{id} {entry.title}", self.links.equations[id], "")
            for entry in ledger.ledger()
            for id in entry.ids
        ]
        for kind, title in OTHERS.items():
            groups[title] = [
                _entry(page.title, page.url, page.short) for page in self.pages if page.kind == kind
            ]
        script = _asset("search.js")
        return self._fill("names.html", "All names", script=script, groups=list(groups.items()))

    # ------------------------------------------------------------------------------ around

    @cached_property
    def _parts(self) -> list[Page]:
        root = self.read[0]
        return [root, *(page for page in self.read if page.kind == "part" and page.up == root.name)]

    def _inside(self, part: Page) -> list[Page]:
        """The pages of a part in reading order, those of its folders among them."""
        if part is self.read[0]:
            return [p for p in self.read if p.up == part.name and p.kind == "chapter"]
        return [p for p in self.read if p.name.startswith(f"{part.name}.")]

    def _contents(self, here: Page | None, title: str) -> list[dict[str, Any]]:
        """The list at the side: parts, the pages of this one, what is on this page."""
        items = []
        for part in self._parts:
            inner = self._inside(part)
            open_ = here is not None and (here is part or here in inner)
            items.append(
                _entry(part.label, part.url, "", here is part)
                | {"inner": [self._line(page, here) for page in inner] if open_ else []}
            )
        for text, url in (
            ("Equations", ledger.PAGE),
            *((name, f"{kind}s-list.html") for kind, name in OTHERS.items()),
            ("README", "readme.html"),
            ("All names", "names.html"),
        ):
            at = here is not None and OTHERS.get(here.kind) == text
            spots = [self._line(here, here)] if at and here is not None else []
            items.append(_entry(text, url, "", text == title) | {"inner": spots})
        return items

    def _line(self, page: Page, here: Page | None) -> dict[str, Any]:
        spots = []
        if page is here:
            spots = [(text, name, False) for name, text in headings(page)]
            spots += [
                (name, name, True)
                for name, found in self.links.defined[page.name].items()
                if found.kind in ("function", "class") and not name.startswith("_")
            ]
        depth = page.name.count(".") - 1 if page.kind in ("part", "chapter") else 0
        inner = [_entry(text, f"#{name}", "") | {"code": code} for text, name, code in spots]
        return _entry(page.short, page.url, "", page is here) | {"inner": inner, "depth": depth}

    def _fill(
        self,
        template: str,
        title: str,
        here: Page | None = None,
        script: str = "",
        moving: bool = False,
        **values: Any,
    ) -> str:
        script = _asset("moving.js") if moving else script
        before = after = None
        if here is not None:
            others = [page for page in self.pages if page.kind == here.kind]
            row = self.read if here in self.read else others
            at = row.index(here)
            before = row[at - 1] if at else None
            after = row[at + 1] if at + 1 < len(row) else None
        return self.templates.get_template(template).render(
            title=title,
            policy=_policy(script),
            script=script,
            contents=self._contents(here, title),
            before=before,
            after=after,
            **values,
        )


def _entry(text: str, url: str, where: str, here: bool = False) -> dict[str, Any]:
    return {"text": text, "url": url, "where": where, "here": here}


def _asset(name: str) -> str:
    return (files("minideepseek.book") / "templates" / name).read_text("utf-8")


def _policy(script: str) -> str:
    """What a page may do: its own style, its own script, and nothing from anywhere else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    return (
        "default-src 'none'; img-src data:; style-src 'self' 'unsafe-inline' file:; "
        f"script-src {allowed}"
    )
