"""What CuPy 14.2 offers, and a check of source text against it.

`cupy_api.json` was read from CuPy 14.2.0's own wheel: every function with its signature, the
ufuncs by their numbers of inputs and outputs, the array's methods. `check_source` looks at every
`xp.<name>(…)` of a file without running it, so that a name or keyword which only NumPy has is
found even on a line that no test reaches.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_API = json.loads(Path(__file__).with_name("cupy_api.json").read_text(encoding="utf-8"))

VERSION: str = _API["cupy"]
AT_DTYPES = {name: frozenset(dtypes.split()) for name, dtypes in _API["at"].items()}
REDUCE = frozenset(_API["reduce"].split())  # the only ufuncs with .reduce and .accumulate
NO_BFLOAT16 = frozenset(_API["no_bfloat16"].split())
OTHER = frozenset(_API["other"].split())  # dtypes, constants, submodules, classes
ATTRIBUTES = frozenset(_API["attributes"].split())  # properties of an array
UFUNCS = {
    name: tuple(int(n) for n in counts.split())
    for counts, names in _API["ufuncs"].items()
    for name in names.split()
}
UFUNC_KEYWORDS = frozenset({"out", "casting", "dtype"})  # and no where=


class Signature(NamedTuple):
    """Parameters of one function: positional names in order, how many are required, the rest."""

    positional: tuple[str, ...]
    required: int
    keywords: frozenset[str]  # every name that may be given as a keyword
    varargs: bool  # *args
    open: bool  # **kwargs: any keyword

    @classmethod
    def parse(cls, text: str) -> Signature:
        """From the text between the brackets of a `def`."""
        a = ast.parse(f"def f({text}): pass").body[0].args  # type: ignore[attr-defined]
        names = tuple(x.arg for x in a.posonlyargs + a.args)
        keywords = frozenset(x.arg for x in a.args + a.kwonlyargs)
        required = len(names) - len(a.defaults)
        return cls(names, required, keywords, a.vararg is not None, a.kwarg is not None)

    def problem(self, n_args: int, keywords: frozenset[str]) -> str | None:
        """Why a call with so many positional arguments and these keywords fails, or None."""
        unknown = () if self.open else sorted(keywords - self.keywords)
        if unknown:
            return f"has no keyword {unknown[0]!r}"
        if n_args > len(self.positional) and not self.varargs:
            return f"takes at most {len(self.positional)} positional arguments, got {n_args}"
        missing = [name for name in self.positional[n_args : self.required] if name not in keywords]
        return f"needs {missing[0]!r}" if missing else None


def _signatures(section: str) -> dict[str, Signature]:
    return {
        name: Signature.parse("*args, **kwargs" if text is None else text)
        for name, text in _API[section].items()
    }


FUNCTIONS = _signatures("functions")
LINALG = _signatures("linalg")
METHODS = _signatures("methods")
_UFUNC_ATTRIBUTES = {"at": AT_DTYPES, "reduce": REDUCE, "accumulate": REDUCE, "reduceat": {"add"}}


def exists(name: str) -> bool:
    """Whether CuPy 14.2 has `cupy.<name>`."""
    return name in FUNCTIONS or name in UFUNCS or name in OTHER


def _is_module(node: ast.expr) -> bool:
    """`xp`, `something.xp` or `xp_of(…)`: an expression that stands for the array module."""
    if isinstance(node, ast.Call):
        node = node.func
        return isinstance(node, ast.Name | ast.Attribute) and _last(node) == "xp_of"
    return isinstance(node, ast.Name | ast.Attribute) and _last(node) == "xp"


def _last(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


def _name_problems(node: ast.Attribute) -> Iterator[str]:
    """Names that CuPy lacks: xp.vecdot, xp.linalg.vecdot, xp.maximum.reduce."""
    parent = node.value
    if _is_module(parent):
        if not exists(node.attr):
            yield f"xp.{node.attr} does not exist in CuPy {VERSION}"
    elif isinstance(parent, ast.Attribute) and _is_module(parent.value):
        owner, name = parent.attr, node.attr
        if owner == "linalg" and name not in LINALG:
            yield f"xp.linalg.{name} does not exist in CuPy {VERSION}"
        if owner in UFUNCS and owner not in _UFUNC_ATTRIBUTES.get(name, {owner}):
            yield f"xp.{owner}.{name} is not supported in CuPy {VERSION}"


def _constant(call: ast.Call, keyword: str, default: object) -> object:
    for k in call.keywords:
        if k.arg == keyword and isinstance(k.value, ast.Constant):
            return k.value.value
    return default


def _call_problem(name: str, call: ast.Call) -> str | None:
    """What CuPy would say to the arguments of one call, as far as its text tells."""
    starred = any(isinstance(a, ast.Starred) for a in call.args)
    doubly = any(k.arg is None for k in call.keywords)
    keywords = frozenset(k.arg for k in call.keywords if k.arg is not None)
    if name in ("sort", "argsort") and _constant(call, "kind", None) not in (None, "stable"):
        return "knows no kind but 'stable'"
    if name == "lexsort" and call.args and isinstance(call.args[0], ast.Tuple | ast.List):
        return "needs one 2-D array of keys, not a sequence"
    if name in UFUNCS:
        unknown = sorted(keywords - UFUNC_KEYWORDS)
        if unknown:
            return f"has no keyword {unknown[0]!r}"
        low, high = UFUNCS[name][0], sum(UFUNCS[name])
        if not starred and not low <= len(call.args) <= high:
            return f"takes {low} to {high} positional arguments, got {len(call.args)}"
        return None
    signature = FUNCTIONS.get(name) if "." not in name else LINALG.get(name.partition(".")[2])
    if signature is None:
        return None
    given = len(call.args)
    if starred or doubly:  # how many arguments there are is unknown: look at the keywords alone
        given = signature.required
    return signature.problem(given, keywords)


def _dotted(node: ast.expr) -> str | None:
    """The name after xp. of a called function: "sum", "linalg.norm"; None for other calls."""
    if not isinstance(node, ast.Attribute):
        return None
    if _is_module(node.value):
        return node.attr
    owner = node.value
    if isinstance(owner, ast.Attribute) and owner.attr == "linalg" and _is_module(owner.value):
        return f"linalg.{node.attr}"
    return None


def check_text(text: str, where: str) -> list[str]:
    """Problems of one source text, each "where:line: xp.<name> … in CuPy 14.2"."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            found += [(node.lineno, problem) for problem in _name_problems(node)]
        if isinstance(node, ast.Call) and (name := _dotted(node.func)) is not None:
            problem = _call_problem(name, node)
            if problem is not None:
                found.append((node.lineno, f"xp.{name} {problem} in CuPy {VERSION}"))
    return [f"{where}:{line}: {problem}" for line, problem in sorted(found)]


def check_source(path: Path | str) -> list[str]:
    """Problems of one Python file; an empty list when CuPy has everything it asks `xp` for."""
    return check_text(Path(path).read_text(encoding="utf-8"), str(path))
