r"""One notation, two pages: a small part of LaTeX becomes MathML for the book and Unicode text.

    read      r"\frac{a_i}{2}"  →  a tree of tuples, ("row", …), ("script", base, sub, sup), …
    mathml    tree  →  MathML Core, which browsers set by themselves
    text      tree  →  what a terminal shows
    holds     whether a letter stands in a tree

The part: letters and numbers as they are, Greek ones too; x_i, x^2, \frac, \sqrt, \sum, \max, \hat,
\bar, \cos, \sin, \ln, \min, \operatorname{…} for other functions, \text{…} for words, \abs, \floor,
\ceil, \cases{a & \text{if} b \\ c & …}, \quad, and \\ between lines. Brackets that match become one
group, so that each pair grows with its own contents.

>>> tree = read(r"o_{t,i} = \sum_{j=1}^{t} \frac{q_t k_j}{\sqrt{d_h}} v_j^C")
>>> text(tree)
'o_{t,i} = Σ_{j=1}^t (qₜ kⱼ / √dₕ) vⱼ^C'
>>> mathml(read("c^2"))
'<math display="block"><msup><mi>c</mi><mn>2</mn></msup></math>'
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from html import escape
from typing import Any

Tree = tuple[Any, ...]

_WORDS = re.compile(r"\\(text|operatorname)\{([^}]*)\}")
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_TOKEN = re.compile(rf"{_WORDS.pattern}|\\\\|\\[A-Za-z]+|\\.|{_NUMBER}|[^\W\d_]′*|\S")
_CLOSING = {"(": ")", "[": "]"}
_THIN = '<mspace width="0.17em"></mspace>'
_BARS = {"abs": ("|", "|"), "floor": ("⌊", "⌋"), "ceil": ("⌈", "⌉")}
_ACCENTS = {"hat": "^", "bar": "¯"}
_COMBINING = {"hat": "\u0302", "bar": "\u0304"}
_FUNCTIONS = ("cos", "sin", "ln", "min")
_LARGE = {"sum": "∑", "max": "max"}  # their limits stand below and above
_ATOMS = ("letter", "number", "operatorname", "text")
_SPACED = "=+−·⊗←∈<≤≈/"  # operators with a space on both sides
_LOW = dict(zip("0123456789aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
_HIGH = dict(zip("0123456789Tkint", "⁰¹²³⁴⁵⁶⁷⁸⁹ᵀᵏⁱⁿᵗ", strict=True))


def read(source: str) -> Tree:
    """The tree of a formula. ValueError for what the notation does not have."""
    return _Reader([found[0] for found in _TOKEN.finditer(source)]).lines()


def holds(tree: Any, part: Tree) -> bool:
    """Whether `part` stands somewhere in a tree; d does not stand in d_h."""
    if tree == part or not isinstance(tree, tuple):
        return tree == part
    plain = tree[0] == "script" and tree[1][0] == "letter"
    return any(holds(inside, part) for inside in tree[2 if plain else 1 :])


class _Reader:
    """Tokens from the left, one function for each kind of thing."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def next(self, expected: str | None = None) -> str:
        token = self.tokens.pop() if self.tokens else None
        if token is None or (expected is not None and token != expected):
            raise ValueError(f"formula: got {token or 'its end'}, expected {expected or 'a term'}")
        return token

    def lines(self) -> Tree:
        found = [self.row("\\\\")]
        while self.tokens:
            self.next("\\\\")
            found.append(self.row("\\\\"))
        return found[0] if len(found) == 1 else ("lines", *found)

    def row(self, *ends: str) -> Tree:
        items = []
        while self.tokens and self.tokens[-1] not in ends:
            items.append(self.scripted())
        return items[0] if len(items) == 1 else ("row", *items)

    def scripted(self) -> Tree:
        base = self.atom()
        marks: dict[str, Tree | None] = {"_": None, "^": None}
        while self.tokens and self.tokens[-1] in marks:
            mark = self.next()
            if marks[mark] is not None:
                raise ValueError(f"formula: got {mark} twice, expected one script")
            marks[mark] = self.atom()
        low, high = marks.values()
        return base if low is high is None else ("script", base, low, high)

    def group(self) -> Tree:
        self.next("{")
        inside = self.row("}")
        self.next("}")
        return inside

    def atom(self) -> Tree:
        token = self.next()
        if token == "{":
            self.tokens.append(token)
            return self.group()
        if token in _CLOSING:
            inside = self.row(_CLOSING[token])
            return ("fence", token, inside, self.next(_CLOSING[token]))
        if words := _WORDS.fullmatch(token):
            return (str(words[1]), str(words[2]))
        if token.startswith("\\"):
            return self.command(token[1:])
        if token[0].isdigit():
            return ("number", token)
        if token[0].isalpha() or token == "…":
            return ("letter", token)
        if token in "^_&})]":
            raise ValueError(f"formula: got {token}, expected a term")
        return ("operator", token.replace("-", "−").replace("*", "·"))

    def command(self, name: str) -> Tree:
        if name == "quad":
            return ("space",)
        if name in _FUNCTIONS:
            return ("operatorname", name)
        if name in _LARGE:
            return ("large", name)
        if name == "frac":
            return ("frac", self.group(), self.group())
        if name == "sqrt" or name in _ACCENTS:
            return (name, self.group())
        if name in _BARS:
            left, right = _BARS[name]
            return ("fence", left, self.group(), right)
        if name in "{}":
            if name == "}":
                raise ValueError("formula: got \\}, expected a term")
            inside = self.row("\\}")
            return ("fence", "{", inside, self.next("\\}")[1:])
        if name == "cases":
            return self.cases()
        raise ValueError(f"formula: got \\{name}, which the notation does not have")

    def cases(self) -> Tree:
        self.next("{")
        rows, mark = [[self.row("&", "\\\\", "}")]], self.next()
        while mark != "}":
            rows += [[]] if mark == "\\\\" else []
            rows[-1].append(self.row("&", "\\\\", "}"))
            mark = self.next()
        return ("cases", *(tuple(cells) for cells in rows))


# ------------------------------------------------------------------------------------ for browsers


def mathml(tree: Tree) -> str:
    """A <math> element, a line of its own, in MathML Core's elements."""
    return f'<math display="block">{_mathml(tree)}</math>'


def _mathml(tree: Tree) -> str:
    kind, *parts = tree
    if kind == "row":
        return _tag("mrow", *_apart(parts))
    if kind == "letter" and "′" in parts[0]:
        return _scripts(tree, None, None)
    if kind in ("letter", "operatorname"):
        return _tag("mi", escape(parts[0]))
    if kind == "number":
        return _tag("mn", parts[0])
    if kind == "operator":
        return _tag("mo", escape(parts[0]))
    if kind == "text":
        return _tag("mtext", escape(f"\u00a0{parts[0]}\u00a0"))
    if kind == "large":
        return _tag("mo", _LARGE[parts[0]])
    if kind == "space":
        return '<mspace width="1em"></mspace>'
    if kind == "fence":
        left, inside, right = parts
        return _tag("mrow", _tag("mo", left), _mathml(inside), _tag("mo", right))
    if kind == "frac":
        return _tag("mfrac", *map(_mathml, parts))
    if kind == "sqrt":
        return _tag("msqrt", _mathml(parts[0]))
    if kind in _ACCENTS:
        return f'<mover accent="true">{_mathml(parts[0])}<mo>{_ACCENTS[kind]}</mo></mover>'
    if kind == "script":
        return _scripts(*parts)
    if kind == "cases":
        return _tag("mrow", _tag("mo", "{"), _table(parts))
    return _table([(line,) for line in parts], ' displaystyle="true"')


def _apart(items: list[Tree]) -> Iterator[str]:
    """The items of a row, with a thin space where a function's name touches a term."""
    for i, item in enumerate(items):
        before = items[i - 1] if i else ("operator",)
        behind = _is_function(before) and item[0] not in ("operator", "fence")
        if behind or (_is_function(item) and before[0] not in ("operator", "space")):
            yield _THIN
        yield _mathml(item)


def _scripts(base: Tree, low: Tree | None, high: Tree | None) -> str:
    if base[0] == "letter" and base[1].endswith("′"):
        base, prime = ("letter", base[1][:-1]), ("operator", "′")
        high = prime if high is None else ("row", prime, high)
    names = ("munder", "mover", "munderover") if base[0] == "large" else ("msub", "msup", "msubsup")
    scripts = [_mathml(script) for script in (low, high) if script is not None]
    name = names[2] if len(scripts) == 2 else names[0 if high is None else 1]
    return _tag(name, _mathml(base), *scripts)


def _table(rows: Any, style: str = "") -> str:
    cells = [[f'<mtd style="text-align:left">{_mathml(c)}</mtd>' for c in row] for row in rows]
    return f"<mtable{style}>{''.join(_tag('mtr', *row) for row in cells)}</mtable>"


def _tag(name: str, *inside: str) -> str:
    return f"<{name}>{''.join(inside)}</{name}>"


# ----------------------------------------------------------------------------------- for terminals


def text(tree: Tree) -> str:
    """The formula in Unicode; several lines where it has them."""
    kind, *parts = tree
    if kind == "row":
        return _spaced(parts)
    if kind in ("letter", "number", "operator", "operatorname", "text"):
        return parts[0]
    if kind == "space":
        return "  "
    if kind == "large":
        return "Σ" if parts[0] == "sum" else parts[0]
    if kind == "fence":
        left, inside, right = parts
        return f"{left}{text(inside)}{right}"
    if kind == "frac":
        above, below = _bracketed(parts[0], product=True), _bracketed(parts[1])
        return f"{above} / {below}" if " " in above + below else f"{above}/{below}"
    if kind == "sqrt":
        return f"√{_bracketed(parts[0])}"
    if kind in _ACCENTS:
        return unicodedata.normalize("NFC", text(parts[0]) + _COMBINING[kind])
    if kind == "script":
        base, low, high = parts
        small = ({}, {}) if base == ("large", "sum") else (_LOW, _HIGH)
        return f"{text(base)}{_script(low, '_', small[0])}{_script(high, '^', small[1])}"
    if kind == "cases":
        return "{ " + " ; ".join(" ".join(map(text, cells)) for cells in parts)
    return "\n".join(map(text, parts))


def _spaced(items: list[Tree]) -> str:
    """Terms with the spaces that a reader expects: none before a comma or arguments."""
    out = ""
    for i, item in enumerate(items):
        before, after = (items[j] if 0 <= j < len(items) else None for j in (i - 1, i + 1))
        said, first = text(item), before is None or before[0] in ("operator", "space")
        factor = " " in said and after is not None and after[0] != "operator"
        if item[0] == "frac" and (factor or _is_function(before)):
            said = f"({said})"
        if item[0] == "space":
            out += said
        elif item[0] != "operator":
            arguments = item[0] in ("fence", "frac") and said[0] in "([{" and _calls(before, item)
            out += said if first or arguments else f" {said}"
        elif item[1] in _SPACED and not (item[1] in "+−" and first):
            out += f" {said} "
        else:
            out += said + (" " if item[1] in ",;" else "")
    return out


def _is_function(tree: Tree | None) -> bool:
    base = tree[1] if tree is not None and tree[0] == "script" else tree
    return base is not None and (base[0] == "operatorname" or base == ("large", "max"))


def _calls(before: Tree | None, item: Tree) -> bool:
    """Whether `before` takes the bracket `item` as its arguments or index; not in W [a; b]."""
    base = before[1] if before is not None and before[0] == "script" else before
    listed = item[1] == "[" and ("operator", ";") in item[2]
    return _is_function(before) or (base is not None and base[0] == "letter" and not listed)


def _script(tree: Tree | None, mark: str, small: dict[str, str]) -> str:
    if tree is None:
        return ""
    said = text(tree).replace(" ", "")
    if (len(said) == 1 or said.isdigit()) and all(c in small for c in said):
        return "".join(small[c] for c in said)
    letters = tree[0] == "row" and all(part[0] == "letter" for part in tree[1:])
    return f"{mark}{said}" if letters or tree[0] in _ATOMS else f"{mark}{{{said}}}"


def _bracketed(tree: Tree, product: bool = False) -> str:
    """A part of a fraction or a root; in brackets unless it holds together, as products may."""
    call = tree[0] == "row" and len(tree) == 3 and tree[2][0] == "fence" and _calls(*tree[1:])
    sums = any(part in (("operator", "+"), ("operator", "−")) for part in tree[1:])
    together = tree[0] != "row" or call or (product and not sums)
    return text(tree) if together else f"({text(tree)})"
