r"""Checks of a vjp: each argument's gradient, then broadcasting, then float32, then memory.

The plainest evidence comes first, and what comes later is looked at only when all before it is
right: a gradient of the wrong shape has no factor, and one with the wrong sign is not to be told
about float32.

    what the function and its vjp return       a pair; one gradient for each argument
    the forward                                still the library's
    dx, dy, …   shape, factor or sign, ignores g, transposed, the worst entry   (gradcheck.py)
    duality     linear functions only: ⟨u, f(x)⟩ = ⟨fᵀ(u), x⟩, exact without any differences
    a stage     more calls under one name: broadcasting, another axis, …
    float32     stays float32, and agrees with float64
    memory      what the vjp keeps alive; never wrong, only more or less
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import numpy as np

from minideepseek.autograd.gradcheck import GradientError, argument_names, check_vjp
from minideepseek.exercises.exercise import OK, OPEN, WRONG, Line, solved

Function = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """One call that is checked: function(*arrays, **options).

    stage: "" for the calls that the arguments are judged by; else the name of a later line.
    exact: whether a gradient must have its argument's shape; if not, the engine sums it down.
    """

    arrays: Sequence[np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    stage: str = ""
    exact: bool = True


def gradients(
    cases: Callable[[np.random.Generator], list[Case]],
    *,
    constants: Container[str] = (),
    linear: bool = False,
) -> Callable[[Function, Function], list[Line]]:
    """A checker of functions over arrays that return (y, vjp).

    cases: draws the calls. constants: names of floating arguments that get no gradient.
    linear: whether the function is linear in its first argument, so that duality is checked too.
    """

    def check(function: Function, reference: Function) -> list[Line]:
        drawn = cases(np.random.default_rng(0))
        main = [case for case in drawn if not case.stage]
        lines: list[Line] = []
        for case in main:
            lines = _arguments(function, reference, case, constants)
            if linear and lines[0].name not in ("vjp", "value") and lines[0].verdict != OPEN:
                lines += _duality(function, case)
            if not solved(lines):
                return lines
        for stage in dict.fromkeys(case.stage for case in drawn if case.stage):
            calls = [case for case in drawn if case.stage == stage]
            lines.append(_stage(function, reference, stage, calls, constants))
            if not solved(lines):
                return lines
        lines.append(_float32(function, main[0]))
        return [*lines, _memory(function, reference, main[0])] if solved(lines) else lines

    return check


def _arguments(
    function: Function, reference: Function, case: Case, constants: Container[str]
) -> list[Line]:
    """A line for each argument that has a gradient; or one on what was returned instead."""
    names = argument_names(function, len(case.arrays))
    judged = [
        f"d{n}" for n, x in zip(names, case.arrays, strict=True)
        if x.dtype.kind == "f" and n not in constants
    ]  # fmt: skip
    try:
        _, y, pulled, said = call(function, case.arrays, case.options)
    except NotImplementedError:
        return [Line(name, OPEN) for name in judged]
    if said:
        return [Line("vjp" if y is not None else "value", WRONG, said)]
    want, _ = reference(*case.arrays, **case.options)
    if y.shape != np.shape(want) or not np.allclose(y, want, atol=1e-9, equal_nan=True):
        return [Line("value", WRONG, "the forward was right and is not any more")]
    missing = [n for n, g in zip(names, pulled, strict=True) if g is None and f"d{n}" in judged]
    try:
        report = check_vjp(
            function, *case.arrays, constants=constants, exact_shapes=case.exact, **case.options
        )
    except GradientError as error:
        report = error.report
    lines = []
    for v in report.verdicts:
        if v.name[1:] in missing:
            lines.append(Line(v.name, OPEN, "the vjp returns None for it"))
        else:
            text = f"error {v.error:.1e}" if v.ok else v.reason
            lines.append(Line(v.name, OK if v.ok else WRONG, text))
    return lines


def call(
    function: Function, arrays: Sequence[np.ndarray], options: dict
) -> tuple[Any, Any, tuple, str]:
    """A random u, y, the gradients for u, and what is wrong with what was returned, or "".

    y is None where the function itself returned something else than (y, vjp).
    """
    name, names = function.__name__, argument_names(function, len(arrays))
    try:
        given = [x.copy() for x in arrays]
        pair = function(*given, **options)
        if not isinstance(pair, tuple) or len(pair) != 2 or not callable(pair[1]):
            said = f"{name} returned {described(pair)}, expected a pair (value, vjp)"
            return None, None, (), said
        y, vjp = pair
        if not isinstance(y, (np.ndarray, np.floating)):
            return None, None, (), f"the value is {described(y)}, expected an array"
        u = np.asarray(np.random.default_rng(1).standard_normal(np.shape(y)), y.dtype)
        first = y.copy()  # as it was before the vjp
        pulled = vjp(u.copy())
    except Exception as error:
        shapes = ", ".join(f"{n} {x.shape}" for n, x in zip(names, arrays, strict=True))
        error.add_note(f"called with {shapes}{worded(options)}")
        raise
    bare, many = not isinstance(pulled, tuple), len(names)
    if isinstance(pulled, list) or (bare and many > 1) or not (bare or len(pulled) == many):
        those = f"a gradient (or None) for each of {', '.join(names)}"
        if many == 1:
            said = f"it returned {described(pulled)}, expected an array"
        elif bare:
            said = f"it returned {described(pulled)}, expected a tuple, {those}"
        else:
            said = f"it returned a tuple of {len(pulled)}, expected one of {many}, {those}"
        return u, first, (), said
    if bare:
        pulled = (pulled,)
    for n, g in zip(names, pulled, strict=True):
        if g is not None and not isinstance(g, (np.ndarray, np.floating)):
            return u, first, (), f"d{n} is {described(g)}, expected an array"
        if g is not None and g.dtype.kind != "f":
            return u, first, (), f"d{n} is an array of {g.dtype}, expected floating point"
    return u, first, pulled, ""


def worded(options: dict) -> str:
    """", name=value" for each option: how a call is shown."""
    return "".join(f", {name}={value}" for name, value in options.items())


def entry_by_entry(rng: np.random.Generator) -> list[Case]:
    """Cases of a function of one array that acts on each entry alone."""
    return [Case([rng.standard_normal((2, 3))]), Case([rng.standard_normal(())], stage="numbers")]


def along_an_axis(rng: np.random.Generator) -> list[Case]:
    """Cases of a function of one array along its option `axis`, the last if not given."""

    def case(*shape: int, stage: str = "", axis: int = -1) -> Case:
        return Case([rng.standard_normal(shape)], {"axis": axis}, stage)

    return [case(2, 3), case(3, 4, stage="axis", axis=0), case(2, 3, 4, stage="axis", axis=1)]


def described(x: Any) -> str:
    """A value that somebody returned, in a few words."""
    if isinstance(x, (tuple, list)):
        inside = ", ".join(described(e) for e in x[:3]) + (", …" if len(x) > 3 else "")
        return f"({inside})" if isinstance(x, tuple) else f"a list [{inside}]"
    if isinstance(x, np.ndarray):
        return f"an array {x.shape}"
    kind = type(x).__name__
    return "None" if x is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _duality(function: Function, case: Case) -> list[Line]:
    """⟨u, f(x)⟩ = ⟨fᵀ(u), x⟩, or nothing where dx has not even x's shape."""
    x, u, y, (dx, *_) = case.arrays[0], *call(function, case.arrays, case.options)[:3]
    if np.shape(dx) != x.shape:
        return []
    one, other, size = (u * y).sum(), (dx * x).sum(), np.abs(u * y).sum()
    same = abs(one - other) <= 1e-12 * size
    text = f"⟨u, f(x)⟩ = {one:.6f}, ⟨fᵀ(u), x⟩ = {other:.6f}"
    return [Line("duality", OK if same else WRONG, text)]


def _stage(
    function: Function,
    reference: Function,
    stage: str,
    calls: list[Case],
    constants: Container[str],
) -> Line:
    """One line for several calls: the first thing that is wrong, with the shapes it is wrong at."""
    for case in calls:
        for line in _arguments(function, reference, case, constants):
            if line.verdict != OK:
                shapes = ", ".join(str(x.shape) for x in case.arrays)
                why = line.text or line.verdict
                return Line(stage, WRONG, f"{line.name} at {shapes}{worded(case.options)}: {why}")
    return Line(stage, OK)


def _float32(function: Function, case: Case) -> Line:
    """Gradients of float32 arrays are float32, and agree with those of float64."""
    lower = [x.astype(np.float32) if x.dtype.kind == "f" else x for x in case.arrays]
    *_, single, said = call(function, lower, case.options)
    same = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in lower]
    *_, double, _ = call(function, same, case.options)
    if said:
        return Line("float32", WRONG, said)
    for name, a, b in zip(argument_names(function, len(lower)), single, double, strict=True):
        if a is None:
            continue
        if a.dtype != np.float32:
            why = "a float64 number or array in the rule widens it (np.sqrt(2): use math.sqrt)"
            return Line("float32", WRONG, f"d{name} is {a.dtype}: {why}")
        if np.abs(a - b).max(initial=0) > 1e-4 * np.abs(b).max(initial=0):
            return Line("float32", WRONG, f"d{name} agrees with float64 to less than 1e-4")
    return Line("float32", OK)


def _memory(function: Function, reference: Function, case: Case) -> Line:
    """The arrays that the vjp keeps alive until backward, beside the library's."""
    mine = kept(function(*case.arrays, **case.options)[1])
    other = sum(n for _, n in kept(reference(*case.arrays, **case.options)[1]).values())
    total = sum(n for _, n in mine.values())
    names = ", ".join(name for name, _ in mine.values())
    said = f"keeps {names}: {total} bytes" if total else "keeps nothing"
    return Line("memory", OK, f"{said} (the library's vjp: {other})" if total != other else said)


def kept(function: Any, seen: tuple = ()) -> dict[int, tuple[str, int]]:
    """id → (name, bytes) of the arrays in a function's closure, a view being its base."""
    found: dict[int, tuple[str, int]] = {}
    if not isinstance(function, FunctionType) or function in seen:
        return found
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # named, but not set
            continue
        if isinstance(value, np.ndarray):
            while isinstance(value.base, np.ndarray):
                value = value.base
            found.setdefault(id(value), (name, value.nbytes))
        else:
            found |= kept(value, (*seen, function))
    return found
