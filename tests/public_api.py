"""`python -m tests.public_api` writes public_api.txt: what other programs may rely on, one a line.

Every name of `minideepseek.__all__`, with its parameters and their defaults; of a class also the
public attributes and methods, its own and those it has from our classes; of an error its bases; of
`ops` and `fp8` what they hold. Types are left out: they are mypy's to hold, and their text differs
between Pythons.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
from pathlib import Path
from typing import Any

import minideepseek as mds

FILE = Path(__file__).with_name("public_api.txt")
HEAD = "# Written by python -m tests.public_api; a line that goes or changes is a change of API.\n"
OURS = (mds.__name__,)  # whose classes' attributes are listed


def shown(value: Any) -> str:
    """A default, the same in every version of Python and NumPy."""
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__name__
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    plain = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if plain else f"{type(value).__name__}(…)"


def parameters(function: Any) -> str:
    """(a, b=1, *, c): names, kinds and defaults."""
    found = list(inspect.signature(function).parameters.values())
    plain = []
    for p in found:
        default = p.default if p.default is p.empty else _Shown(shown(p.default))
        plain.append(p.replace(annotation=p.empty, default=default))
    return str(inspect.Signature([p for p in plain if p.name not in ("self", "cls")]))


class _Shown(str):
    __repr__ = str.__str__


def attributes(cls: type) -> dict[str, str]:
    """The public attributes of a class, those of our classes that it inherits too."""
    found: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if c.__module__.startswith(OURS)]):
        for name, value in vars(base).items():
            if name.startswith("_") and name not in ("__call__", "__getitem__", "__len__"):
                continue
            value = inspect.unwrap(getattr(value, "__func__", value))
            found[name] = parameters(value) if inspect.isfunction(value) else ""
        for name in {*getattr(base, "__slots__", ()), *assigned(base)}:
            found |= {} if name.startswith("_") or name in found else {name: ""}
    if dataclasses.is_dataclass(cls):
        found |= {f.name: "" for f in dataclasses.fields(cls) if not f.name.startswith("_")}
    return found


def assigned(cls: type) -> set[str]:
    """The names in `self.name = …` of a class's own methods."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    stored = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    return {
        n.attr for n in stored
        if isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name) and n.value.id == "self"
    }  # fmt: skip


def described(name: str, value: Any) -> list[str]:
    """The lines of one name."""
    if isinstance(value, type):
        if issubclass(value, Exception):
            return [f"{name}: {', '.join(base.__name__ for base in value.__bases__)}"]
        first = name + parameters(value)
        return [first, *(f"{name}.{a}{rest}" for a, rest in attributes(value).items())]
    return [name + parameters(value) if inspect.isroutine(value) else name]


def lines() -> list[str]:
    """The list, in the order of the alphabet."""
    found = []
    for name in mds.__all__:
        value = getattr(mds, name)
        found += described(name, value)
        if isinstance(value, types.ModuleType) or name == "ops":
            held = {n: getattr(value, n) for n in getattr(value, "__all__", dir(value))}
            for n, one in held.items():
                if not n.startswith("_") and not isinstance(one, types.ModuleType):
                    found += [line.split("\n")[0] for line in described(f"{name}.{n}", one)[:1]]
    return sorted(found)


if __name__ == "__main__":
    FILE.write_text(HEAD + "\n".join(lines()) + "\n", "utf-8", newline="\n")
    print(f"{FILE.name}: {len(lines())} lines")
