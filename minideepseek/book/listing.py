r"""Code as HTML: the file from top to bottom, each name a link to its definition

Pygments cuts the text into tokens; few kinds of them get an element here, so that a page weighs
little more than its source. The file falls apart at its functions and classes, each with an
anchor, the comments above it included; its imports are folded.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from minideepseek.book.names import CITATION, Links
from minideepseek.book.order import Page

# Pygments' kind of token, or its ancestor → the class of its element.
_CLASSES = (
    ("Literal.String.Doc", "d"), ("Literal.String", "s"), ("Literal.Number", "n"),
    ("Comment", "c"), ("Keyword", "k"), ("Operator.Word", "k"), ("Name.Function", "f"),
    ("Name.Class", "f"), ("Name.Decorator", "m"), ("Generic.Prompt", "p"),
    ("Generic.Output", "o"), ("Generic.Traceback", "o"), ("Generic.Error", "o"),
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A stretch of code: a definition (its name), "imports", or "" for what is between."""

    name: str
    first: int
    html: str


def code_html(code: str, language: str = "python") -> str:
    """Highlighted code without links."""
    return "".join(_element(kind, text) for kind, text in _tokens(code, language))


def sections(page: Page, links: Links) -> list[Section]:
    """A page's code below its docstring."""
    lines = _lines(page, links)
    found = []
    for name, first, last in _spans(page):
        html = "\n".join(lines[first - 1 : last]).strip("\n")
        if html:
            found.append(Section(name, first, html))
    return found


def _spans(page: Page) -> Iterator[tuple[str, int, int]]:
    """(name, first line, last line) of the stretches of a file behind its docstring."""
    source, body = page.source.split("\n"), page.tree.body
    if body and isinstance(body[0], ast.Expr) and page.docstring:
        start, body = (body[0].end_lineno or 0) + 1, body[1:]
    else:
        start = 1
    imports = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
    if imports and imports[0] is body[0]:
        last = imports[0]
        for node in body:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                break
            last = node
        yield "imports", start, last.end_lineno or start
        start = (last.end_lineno or start) + 1
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            while first > start and source[first - 2].startswith("#"):
                first -= 1
            yield "", start, first - 1
            yield node.name, first, node.end_lineno or first
            start = (node.end_lineno or first) + 1
    yield "", start, len(source)


def _lines(page: Page, links: Links) -> list[str]:
    """Every line of the file as HTML."""
    linker, parts = _Linker(page, links), list[str]()
    tokens = _tokens(page.source, "python")
    for i, (kind, text) in enumerate(tokens):
        parts.append(linker.html(kind, text, tokens, i))
    return "".join(parts).split("\n")


def _tokens(code: str, language: str) -> list[tuple[str, str]]:
    """(class or "" or "name", text), neighbours of one class joined."""
    from pygments.lexers import get_lexer_by_name

    lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    found: list[tuple[str, str]] = []
    for token, text in lexer.get_tokens(code):
        kind = _class_of(token)
        if found and kind == found[-1][0] and kind not in ("name", "f"):
            found[-1] = (kind, found[-1][1] + text)
        else:
            found.append((kind, text))
    return found


_cache: dict[Any, str] = {}


def _class_of(token: Any) -> str:
    if token not in _cache:
        name = ".".join(token)
        kinds = (kind for prefix, kind in _CLASSES if name.startswith(prefix))
        _cache[token] = next(kinds, "name" if name.startswith("Name") else "")
    return _cache[token]


def _element(kind: str, text: str, inner: str | None = None) -> str:
    """Elements of a class, one for each line."""
    html = escape(text, quote=False) if inner is None else inner
    if kind in ("", "name") or not text.strip():
        return html
    return "\n".join(
        f'<b class="{kind}">{line}</b>' if line.strip() else line for line in html.split("\n")
    )


class _Linker:
    """Tokens of one page with their links and anchors."""

    def __init__(self, page: Page, links: Links) -> None:
        self.page, self.links, self.line = page, links, 1
        self.names = links.imported(page)
        self.anchors = {
            (d.line, d.name.rpartition(".")[2]): d.name for d in links.defined[page.name].values()
        }
        self.aliases: dict[str, dict[str, str]] = {}

    def html(self, kind: str, text: str, tokens: list[tuple[str, str]], i: int) -> str:
        line, self.line = self.line, self.line + text.count("\n")
        if kind in ("d", "c"):
            return _element(kind, text, self._cited(text))
        if kind not in ("name", "f"):
            return _element(kind, text)
        name = self.anchors.pop((line, text), None)
        if name is not None:
            return f'<b class="f" id="{name}">{escape(text)}</b>'
        url = self._address(text, tokens, i) if kind == "name" else None
        return f'<a href="{url}">{escape(text)}</a>' if url else _element(kind, text)

    def _address(self, text: str, tokens: list[tuple[str, str]], i: int) -> str | None:
        before = tokens[i - 1][1] if i else ""
        after = tokens[i + 1][1] if i + 1 < len(tokens) else ""
        if before.endswith("."):
            owner = tokens[i - 2][1] if i > 1 and before == "." else ""
            if owner not in self.aliases:
                self.aliases[owner] = self.links.members(self.page, owner) if owner else {}
            return self.aliases[owner].get(text)
        if re.match(r"\s*=(?!=)", after):  # an argument's name, or an assignment
            return None
        return self.names.get(text)

    def _cited(self, text: str) -> str:
        parts, end = [], 0
        for match in CITATION.finditer(text):
            parts.append(escape(text[end : match.start()], quote=False))
            for piece, url in self.links.cited(match):
                parts.append(f'<a href="{url}">{escape(piece)}</a>' if url else escape(piece))
            end = match.end()
        return "".join(parts) + escape(text[end:], quote=False)
