r"""What each file defines, and where a name or the number of an equation leads

    definition   a function, a class, a method or a constant at the top of a file: an anchor
    import       `from minideepseek.layers.rope import RotaryEmbedding` makes the name a link
    primitive    `ops.attention` leads to the function that carries @primitive
    citation     "V2 eq. 10–11" or "V3 §2.1.2" leads to the ledger, number by number
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from minideepseek.book.order import CATALOGUES, Page

CITATION = re.compile(
    r"(?P<paper>V2|V3\.2|V3|R1|DeepSeekMath|MoE paper)(?:, first version)?,? \(?"
    r"(?P<kind>eq\. |§|section )(?P<first>\d+(?:\.\d+)*)(?:(?P<dash>–)(?P<last>\d+))?"
)
FILE = re.compile(r"\b(?:[a-z_0-9]+/)*[a-z_0-9]+(?:\.py|/__init__\.py)\b")


@dataclass(frozen=True)
class Definition:
    """A name that a page defines, and the line where it is written."""

    name: str  # "DeepSeekMoE.routed"
    line: int
    kind: str  # "function", "class", "method", "constant"
    text: str = ""  # the first line of its docstring


def definitions(tree: ast.Module) -> list[Definition]:
    """Functions, classes, their methods, and constants, in the order of the file."""
    found: list[Definition] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.append(_definition(node, "function"))
        elif isinstance(node, ast.ClassDef):
            found.append(_definition(node, "class"))
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    found.append(_definition(inner, "method", f"{node.name}."))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for name in ast.walk(target):  # one, or those of a tuple
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                        found.append(Definition(name.id, name.lineno, "constant"))
    return found


def _definition(node: ast.FunctionDef | ast.ClassDef, kind: str, before: str = "") -> Definition:
    text = (ast.get_docstring(node) or "").split("\n")[0]
    return Definition(before + node.name, node.lineno, kind, text)


class Defined(dict[str, dict[str, Definition]]):
    """page name → name → definition; a file is read when it is asked for."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self.pages = pages

    def __missing__(self, name: str) -> dict[str, Definition]:
        self[name] = {d.name: d for d in definitions(self.pages[name].tree)}
        return self[name]


class Links:
    """Addresses of everything that can be pointed at. equations: key ("V2:9") → address."""

    def __init__(self, pages: Sequence[Page], equations: Mapping[str, str] | None = None) -> None:
        self.pages = {page.name: page for page in pages}
        self.by_path = {page.path: page for page in pages if page.kind not in CATALOGUES}
        self.equations, self.defined = equations or {}, Defined(self.pages)
        self._imported: dict[str, dict[str, str]] = {}

    @cached_property
    def primitives(self) -> dict[str, str]:
        """The functions with @primitive → their addresses."""
        return {
            node.name: f"{page.url}#{node.name}"
            for page in self.pages.values()
            if page.name.startswith("autograd.") and page.kind == "chapter"
            for node in page.tree.body
            if isinstance(node, ast.FunctionDef)
            and any(isinstance(d, ast.Name) and d.id == "primitive" for d in node.decorator_list)
        }

    def module(self, dotted: str) -> Page | None:
        """The page of `minideepseek.layers.mla`, `demos.common`, …"""
        return self.pages.get(dotted.removeprefix("minideepseek."))

    def imported(self, page: Page) -> dict[str, str]:
        """Names that a page may use without a dot → their addresses; its own come last."""
        if page.name not in self._imported:
            own = {name: f"#{name}" for name in self.defined[page.name] if "." not in name}
            self._imported[page.name] = self._others(page) | own
        return self._imported[page.name]

    def _others(self, page: Page) -> dict[str, str]:
        found: dict[str, str] = {}
        for node in ast.walk(page.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                home = self.module(node.module)
                for alias in node.names:
                    name, inner = alias.asname or alias.name, f"{node.module}.{alias.name}"
                    if (module := self.module(inner)) is not None:
                        found[name] = module.url
                    elif home is not None and alias.name in self.defined[home.name]:
                        found[name] = f"{home.url}#{alias.name}"
        return found

    def members(self, page: Page, alias: str) -> dict[str, str]:
        """What `alias.name` may mean: a primitive of `ops`, a definition of a module."""
        if alias == "ops":
            return self.primitives
        url = self.imported(page).get(alias, "")
        home = self.pages.get(url.removesuffix(".html")) if "#" not in url else None
        return {n: f"{url}#{n}" for n in self.defined[home.name]} if home else {}

    def file(self, text: str, page: Page) -> str | None:
        """The address of a file named in a text of `page`: beside it, from a folder above, or, if
        there is only one of that name, anywhere."""
        folder = page.path.rpartition("/")[0]
        while True:
            for place in (f"{folder}/{text}", f"{folder}/{text}/__init__.py"):
                if (found := self.by_path.get(place.lstrip("/"))) is not None:
                    return found.url
            if not folder:
                break
            folder = folder.rpartition("/")[0]
        named = [p for path, p in self.by_path.items() if path.endswith(f"/{text}")]
        return named[0].url if len(named) == 1 and text.endswith(".py") else None

    def code(self, text: str, page: Page) -> str | None:
        """The address of what a text in backticks names, seen from `page`."""
        if found := re.search(r"\bdemos\.(\w+)", text):
            demo = self.pages.get(f"demos.{found[1]}")
            return demo.url if demo else None
        bare = text.removesuffix("()").removesuffix("(…)")
        if bare in self.defined[page.name]:
            return f"#{bare}"
        if (url := self.imported(page).get(bare)) is not None:
            return url
        return self.file(bare, page) or (self.file(f"{bare}.py", page) if bare else None)

    def cited(self, match: re.Match[str]) -> list[tuple[str, str | None]]:
        """A match of CITATION in pieces (text, address or None)."""
        paper = {"MoE paper": "MOE", "DeepSeekMath": "MATH"}.get(match["paper"], match["paper"])
        sign = "" if match["kind"] == "eq. " else "§"  # "section 4.1" is §4.1
        text, first, last = match[0], match["first"], match["last"]
        address = self.equations.get(f"{paper}:{sign}{first}")
        if last is None:
            return [(text, address)]
        begin = text[: len(text) - len(f"{first}–{last}")]
        end = self.equations.get(f"{paper}:{sign}{last}")
        return [(begin + first, address), ("–", None), (last, end)]
