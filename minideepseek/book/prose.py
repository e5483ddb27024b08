r"""Docstrings as HTML: text flows, and what is indented stays as it is

`fenced` writes the project's conventions out as CommonMark: a chunk of lines that are indented by
four columns becomes a fenced block, an example after `>>>` another. A chunk whose first line has
columns of its own, above indented ones, is a table with a heading: it stays together. Of Markdown's
rules the parser then keeps paragraphs, underlined headings, lists, backticks and emphasis; HTML,
links, escapes and entities are off, so that `<think>`, [c | k] and \ are what they are.

A formula is a drawing made of letters. Whatever face a system has, its ∑ or ᵢ may come from another
one with another width and push the columns apart. So each character that is not ASCII stands in a
cell of its own, exactly as wide as a letter; a combining mark shares its letter's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from minideepseek.book.listing import code_html
from minideepseek.book.names import CITATION, FILE, Links
from minideepseek.book.order import Page

_COLUMNS = re.compile(r"\S {3,}\S")
_CELL = re.compile(r"[^\x00-\u02ff][\u0300-\u036f]*|[\x21-\u02ff][\u0300-\u036f]+|[\x80-\u02ff]")
_WIDE = re.compile(r"(?<=\n)[─-╿].*|^[─-╿].*")
_SCRIPTS = re.compile(  # d_h^R, W^UK, h_{n−1}, π_old; not k_pe or q_proj, which are names
    r"(?<![\w^_{])(?P<base>[A-Za-zΑ-Ωα-ω][\u0300-\u036f′]?[ᵢⱼₜₛ]?)"
    r"(?:_(?P<sub>[A-Za-z]|old|ref|max|\{[^{}]+\}))?"
    r"(?:\^(?P<sup>[A-Z]{1,3}ᵀ?|[A-Za-z0-9]|\{[^{}]+\}))?(?![\w^_])"
)
_LINKED = re.compile(f"{CITATION.pattern}|(?P<file>{FILE.pattern})")


def theory_html(page: Page, links: Links) -> str:
    """A page's docstring below its title; headings have anchors."""
    return _parser(page, links).render(fenced(page.theory))


def line_html(text: str) -> str:
    """One line of text, a title perhaps: backticks and emphasis, no links."""
    from markdown_it import MarkdownIt

    return MarkdownIt("zero").enable(["backticks", "emphasis"]).renderInline(text)


def headings(page: Page) -> list[tuple[str, str]]:
    """(anchor, text) of the docstring's headings, as `theory_html` writes them."""
    lines = page.theory.split("\n")
    return [
        (anchor(text), text)
        for text, below in zip(lines, lines[1:], strict=False)
        if text.strip() and re.fullmatch(r"(-{3,}|={3,})", below)
    ]


def anchor(text: str) -> str:
    """A heading's name in an address: its letters and digits."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def fenced(docstring: str) -> str:
    """The docstring with its blocks between fences, the rest as it is."""
    parts: list[str] = []
    kind = ""
    for chunk in _chunks(docstring):
        lines = chunk.split("\n")
        before, kind = kind, _kind(lines)
        if kind == "text":
            parts.append(chunk)
        elif kind == before == "block":  # an empty line inside a block
            parts[-1] = parts[-1].removesuffix("\n~~~~") + f"\n\n{_outdented(chunk)}\n~~~~"
        else:
            parts.append(f"~~~~{kind}\n{_outdented(chunk)}\n~~~~")
    return "\n\n".join(parts)


def _chunks(docstring: str) -> Iterator[str]:
    """What empty lines separate; a heading, and text before an indented block, apart from it."""
    for chunk in re.split(r"\n[ ]*\n", docstring.strip("\n")):
        lines = chunk.split("\n")
        if len(lines) > 2 and re.fullmatch(r"(-{3,}|={3,})", lines[1]):
            yield "\n".join(lines[:2])
            lines = lines[2:]
        indented = [line.startswith("    ") for line in lines]
        table = _COLUMNS.search(lines[0]) and all(indented[1:])
        if not indented[0] and any(indented) and not table and not _is_example(lines):
            first = indented.index(True)
            yield "\n".join(lines[:first])
            lines = lines[first:]
        yield "\n".join(lines)


def _is_example(lines: list[str]) -> bool:
    return lines[0].lstrip().startswith(">>> ")


def _kind(lines: list[str]) -> str:
    if _is_example(lines):
        return "example"
    rest = lines[1:] if _COLUMNS.search(lines[0]) and len(lines) > 1 else lines
    return "block" if all(line.startswith("    ") for line in rest) else "text"


def _outdented(chunk: str) -> str:
    lines = chunk.split("\n")
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[margin:] for line in lines)


def _parser(page: Page, links: Links) -> Any:
    """CommonMark with few of its rules, which links what this page names."""
    from markdown_it import MarkdownIt

    rules = ["fence", "lheading", "list", "backticks", "emphasis"]
    parser = MarkdownIt("zero").enable(rules)
    for name, rule in _rules(page, links).items():
        parser.add_render_rule(name, rule)
    return parser


def _rules(page: Page, links: Links) -> dict[str, Callable[..., str]]:
    headings: list[str] = []  # the one that is open: it is a link, and links do not nest

    def text(renderer: Any, tokens: Any, i: int, *_: Any) -> str:
        inner = tokens[i].content
        return scripts(inner) if headings else linked(inner, page, links, scripts)

    def code(renderer: Any, tokens: Any, i: int, *_: Any) -> str:
        inner = tokens[i].content
        url = None if headings else links.code(inner, page)
        html = f"<code>{escape(inner)}</code>"
        return f'<a href="{url}">{html}</a>' if url else html

    def fence(renderer: Any, tokens: Any, i: int, *_: Any) -> str:
        inner = tokens[i].content
        if tokens[i].info == "example":
            return f'<pre class="example">{code_html(inner, "pycon")}</pre>\n'
        return f'<pre class="maths">{block_html(inner, page, links)}</pre>\n'

    def heading(renderer: Any, tokens: Any, i: int, *_: Any) -> str:
        name = anchor(tokens[i + 1].content)
        headings.append(name)
        return f'<h2 id="{name}"><a class="here" href="#{name}">'

    def end(*_: Any) -> str:
        headings.pop()
        return "</a></h2>\n"

    names = ("text", "code_inline", "fence", "heading_open", "heading_close")
    return dict(zip(names, (text, code, fence, heading, end), strict=True))


def linked(text: str, page: Page, links: Links, wrap: Callable[[str], str]) -> str:
    """Text as HTML in which citations of equations and names of files lead somewhere."""
    parts, end = [], 0
    for match in _LINKED.finditer(text):
        parts.append(wrap(text[end : match.start()]))
        pieces = (
            [(match[0], links.file(match[0], page))] if match["file"] else links.cited(match)
        )
        for piece, url in pieces:
            parts.append(f'<a href="{url}">{wrap(piece)}</a>' if url else wrap(piece))
        end = match.end()
    return "".join(parts) + wrap(text[end:])


def scripts(text: str) -> str:
    """Escaped text in which a letter's _ and ^ become what they stand for."""

    def raised(match: re.Match[str]) -> str:
        parts = [escape(match["base"])]
        for tag in ("sub", "sup"):
            if match[tag]:
                parts.append(f"<{tag}>{escape(match[tag].strip('{}'))}</{tag}>")
        return "".join(parts)

    return re.sub(_SCRIPTS, lambda m: raised(m) if m["sub"] or m["sup"] else m[0], escape(text))


def block_html(block: str, page: Page, links: Links) -> str:
    """An indented block: cells for its letters, links for citations and for files it lists."""
    lines = []
    for line in block.rstrip("\n").split("\n"):
        listed = re.match(r" *([a-z_0-9]+)/?(?= +\S)", line)
        url = links.file(f"{listed[1]}.py", page) or links.file(listed[1], page) if listed else None
        if listed and url and "#" not in url and page.kind == "part":
            name = line[: listed.end()].lstrip()
            indent = " " * (listed.end() - len(name))
            rest = linked(line[listed.end() :], page, links, cells)
            lines.append(f'{indent}<a href="{url}">{escape(name)}</a>{rest}')
        else:
            lines.append(linked(line, page, links, cells))
    return "\n".join(lines)


def cells(text: str) -> str:
    """Escaped text; every character beyond ASCII in an element as wide as a letter."""
    parts, end = [], 0
    for match in _CELL.finditer(text):
        drawn = "─" <= match[0] <= "╿"  # lines of boxes must touch: no cell around them
        inner = match[0] if drawn else f"<i>{match[0]}</i>"
        parts += [escape(text[end : match.start()], quote=False), inner]
        end = match.end()
    return "".join(parts) + escape(text[end:], quote=False)
