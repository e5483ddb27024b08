r"""What belongs to a chapter: its demos, tests and exercises; and the pictures that demos drew

The README's table of chapters says which demos and tests belong to which files. It is read here by
a Markdown parser, so it is written once; an installed wheel carries the README in its metadata.
Exercises know the library's definition that solves them, and with it their chapter.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minideepseek.book.names import Links
from minideepseek.book.order import CATALOGUES, PACKAGE, Page

Pair = tuple[str, str]  # (text, address)
SIZES = ("full", "default", "quick")  # of a demo's run, the best first


@dataclass
class Beside:
    """Of one page: (text, address) of what belongs to it."""

    chapter: list[Pair] = field(default_factory=list)
    demos: list[Pair] = field(default_factory=list)
    tests: list[Pair] = field(default_factory=list)
    exercises: list[Pair] = field(default_factory=list)
    bugs: list[Pair] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A row of the README's table: its title, and (text, path) of sources, demos and tests."""

    title: str
    sources: list[Pair]
    demos: list[Pair]
    tests: list[Pair]


def readme(root: Path = PACKAGE.parent) -> str:
    """The README's text, from the checkout or from the installed package's metadata."""
    if (root / "README.md").exists():
        return (root / "README.md").read_text("utf-8")
    return str(importlib.metadata.metadata("minideepseek").json["description"])


def rows(text: str) -> list[Row]:
    """The rows of the table whose first column is `chapter`."""
    found: list[Row] = []
    for cells in _table(text, "chapter"):
        links = [list(_links(cell)) for cell in cells]
        found.append(Row(cells[0].content, links[1], links[2], links[3]))
    return found


def _table(text: str, heading: str) -> Iterator[list[Any]]:
    """The inline tokens of each row of the first table that begins with `heading`."""
    from markdown_it import MarkdownIt

    rows: list[list[Any]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in zip(tokens, tokens[1:], strict=False):
        if before.type == "table_open":
            if rows and rows[0][0].content == heading:
                break
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif before.type in ("td_open", "th_open"):
            rows[-1].append(token)
    return iter(rows[1:])


def _links(cell: Any) -> Iterator[Pair]:
    for before, token in zip(cell.children, cell.children[1:], strict=False):
        if before.type == "link_open":
            yield token.content, str(before.attrGet("href"))


def everything_beside(links: Links) -> Mapping[str, Beside]:
    """page name → what belongs to it, in both directions."""
    found = {name: Beside() for name in links.pages}

    def known(pairs: list[Pair]) -> list[Pair]:
        places = [(text, address(path, links)) for text, path in pairs]
        return [(text, url) for text, url in places if url is not None]

    def of(pairs: list[Pair]) -> Iterator[Beside]:
        return (found[url.removesuffix(".html")] for _, url in pairs if "#" not in url)

    for row in rows(readme()):
        sources, demos, tests = known(row.sources), known(row.demos), known(row.tests)
        for near in of(sources):
            near.demos += demos
            near.tests += tests
        for near in of([*demos, *tests]):
            near.chapter += sources
    for test, name in _mirrored(links):
        found[name].tests.append((test.short.removeprefix("test_"), test.url))
        page = links.pages[name]
        getattr(found[test.name], "demos" if page.kind == "demo" else "chapter").append(
            (page.short, page.url)
        )
    for kind, catalogue in CATALOGUES.items():
        for name in catalogue.names():
            solution = inspect.unwrap(catalogue.load(name).solutions[0])
            home, own = links.module(solution.__module__), links.pages[f"{kind}.{name}"]
            if home is not None:
                title = catalogue.heading(name).title
                getattr(found[home.name], f"{kind}s").append((title, own.url))
                found[own.name].chapter.append((home.title, home.url))
    for near in found.values():
        for name, pairs in vars(near).items():  # each address once, under its first text
            setattr(near, name, [(text, url) for url, text in _once(pairs).items()])
    return found


def _once(pairs: list[Pair]) -> dict[str, str]:
    urls: dict[str, str] = {}
    for text, url in pairs:
        urls.setdefault(url, text)
    return urls


def _mirrored(links: Links) -> Iterator[tuple[Page, str]]:
    """(test, page name): tests/layers/test_mla_cache.py is layers/mla.py's: the longest name."""
    for test in links.pages.values():
        stem = test.short.removeprefix("test_")
        if test.kind != "test" or stem == test.short:
            continue
        folder = test.name.removeprefix("tests.").rpartition(".")[0]
        while stem and f"{folder}.{stem}" not in links.pages:
            stem = stem.rpartition("_")[0]
        if stem:
            yield test, f"{folder}.{stem}"


def address(path: str, links: Links) -> str | None:
    """The address of a file's page; of a folder, its page or its first file in a list of pages."""
    page = links.by_path.get(path) or links.by_path.get(f"{path}/__init__.py")
    if page is not None:
        return page.url
    inside = [page for name, page in links.by_path.items() if name.startswith(f"{path}/")]
    return f"{inside[0].kind}s-list.html#{inside[0].name}" if inside else None


def picture(demo: str, runs: Path) -> tuple[str, str] | None:
    """(where, HTML) of what a demo's best run drew; None if it has not run here.

    A demo writes a page of its own (training/page.py); what stands between its title and its
    script is taken as it is.
    """
    for size in SIZES:
        path = runs / demo / size / f"{demo}.html"
        if path.is_file():
            drawn = re.search(r"</h1>\n(.*)\n<script>", path.read_text("utf-8"), re.DOTALL)
            if drawn:
                return f"runs/{demo}/{size}/{path.name}", drawn[1]
    return None


def readme_html(links: Links) -> str:
    """The README as HTML; its links lead to pages of the book, or are text where there is none."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(readme())
    open_links: list[bool] = []
    for token in tokens:
        for child in token.children or ():
            if child.type == "link_open":
                url = address(str(child.attrGet("href")), links)
                open_links.append(url is not None)
                if url is not None:
                    child.attrSet("href", url)
            kept = not child.type.startswith("link_") or open_links[-1]
            if not kept:
                child.type, child.tag, child.content, child.nesting = "text", "", "", 0
    return str(parser.renderer.render(tokens, parser.options, {}))
