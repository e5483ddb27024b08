r"""Which pages there are, and in which order they are read

A folder is a part, and its docstring says in which order its files are read: an indented line that
begins with a member's name. Members that such a line names besides ("report  … page, figures and
scales draw it") follow it, and those that are named nowhere come last. So the order is written
once, where a reader of the source sees it.

Demos and tests have pages where they exist: a checkout has them, an installed wheel does not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minideepseek.exercises.bugs import ZOO
from minideepseek.exercises.catalogue import EXERCISES

PACKAGE = Path(__file__).parent.parent
CATALOGUES = {"exercise": EXERCISES, "bug": ZOO}  # kind of page → what a learner completes
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Page:
    """One source file and its page.

    name: of the page's file without ".html"; short: as its folder's docstring calls it; path: of
    the source below the root; kind: part, chapter, demo, test or a key of CATALOGUES; up: the name
    of its part's page, or "".
    """

    name: str
    short: str
    path: str
    source: str
    kind: str
    up: str = ""

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def docstring(self) -> str:
        return docstring_of(self.tree)

    @property
    def url(self) -> str:
        """Where it is, from any other page."""
        return f"{self.name}.html"

    @property
    def title(self) -> str:
        """The first sentence of the docstring, or its first line."""
        first = " ".join(self.docstring.split("\n\n")[0].split("\n"))
        return first.rstrip(".") or self.short

    @property
    def label(self) -> str:
        """The title up to its colon."""
        return self.title.partition(": ")[0]

    @property
    def theory(self) -> str:
        """The docstring without its title."""
        return self.docstring.partition("\n\n")[2]


def docstring_of(tree: ast.Module) -> str:
    """A module's docstring as it stands: cleaned, one of indented lines would lose its blocks."""
    return (ast.get_docstring(tree, clean=False) or "").strip()


def all_pages(package: Path = PACKAGE) -> list[Page]:
    """Every page of the book in reading order: parts and chapters, demos, tests, exercises."""
    root = package.parent
    pages = list(_package(package, root))
    for kind, catalogue in CATALOGUES.items():
        for name in catalogue.names():
            learners = catalogue.skeleton(name)
            pages.append(Page(f"{kind}.{name}", name, f"{name}.py", learners, kind))
    for folder, kind in (("demos", "demo"), ("tests", "test")):
        if (root / "setup.cfg").exists():  # a checkout
            for path in sorted((root / folder).rglob("*.py")):
                if path.name != "__init__.py" or path.read_text("utf-8").strip():
                    pages.append(_page(path, root, kind))
    return pages


def _package(folder: Path, root: Path, up: str = "") -> Iterator[Page]:
    page = _page(folder / "__init__.py", root, "part", up)
    yield page
    for name in listed(folder):
        if (folder / name).is_dir():
            yield from _package(folder / name, root, page.name)
        else:
            yield _page(folder / f"{name}.py", root, "chapter", page.name)


def _page(path: Path, root: Path, kind: str, up: str = "") -> Page:
    below = path.relative_to(root)
    parts = list(below.with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    if parts[0] == "minideepseek" and len(parts) > 1:
        parts.pop(0)
    source = path.read_text("utf-8")
    return Page(".".join(parts), parts[-1], below.as_posix(), source, kind, up)


def members(folder: Path) -> list[str]:
    """The modules and folders of a package, sorted, without those of CATALOGUES."""
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    learners = (catalogue.package.split(".")[-2:] for catalogue in CATALOGUES.values())
    return sorted(files | folders - {name for up, name in learners if up == folder.name})


def listed(folder: Path) -> list[str]:
    """The members of a package in the order of its docstring."""
    names = members(folder)
    source = (folder / "__init__.py").read_text("utf-8")
    lines = [
        words
        for line in docstring_of(ast.parse(source)).splitlines()
        if line.startswith("    ") and (words := _WORD.findall(line)) and words[0] in names
    ]
    heads = [words[0] for words in lines]
    order: list[str] = []
    for head, *others in lines:
        order += [head, *(name for name in others if name in names and name not in heads)]
    return list(dict.fromkeys([*order, *names]))
