"""Checks of a function by its properties, and how arrays that should be equal differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minideepseek.autograd.gradcheck import elsewhere, scaled
from minideepseek.exercises.exercise import OK, OPEN, WRONG, Line
from minideepseek.exercises.gradients import described


def properties(
    checks: dict[str, Callable[[Callable], str]],
) -> Callable[[Callable, Callable], list[Line]]:
    """A checker of functions by named properties, in this order, up to the first that fails.

    Each is called with the function and returns "" or one sentence on what is wrong.
    """

    def check(function: Callable, reference: Callable) -> list[Line]:
        lines: list[Line] = []
        for name, holds in checks.items():
            try:
                said = holds(function)
            except NotImplementedError:
                return [*lines, Line(name, OPEN)]
            lines.append(Line(name, WRONG if said else OK, said))
            if said:
                break
        return lines

    return check


def compare(got: Any, want: Any, name: str = "the result", tolerance: float = 1e-9) -> str:
    """How an array differs from the expected one, the plainest explanation first, or "".

    Type, shape, NaN, factor or sign, transposed, the worst entry. tolerance: relative to the
    largest entry of want.
    """
    if not isinstance(got, (np.ndarray, np.generic)):
        return f"{name} is {described(got)}, expected an array {want.shape}"
    if got.shape != want.shape:
        turned = ": transposed?" if got.shape == want.shape[::-1] else ""
        return f"{name} has shape {got.shape}, want {want.shape}{turned}"
    if got.dtype.kind != want.dtype.kind:
        return f"{name} is an array of {got.dtype}, expected {want.dtype}"
    if want.dtype.kind != "f":
        if np.array_equal(got, want):
            return ""
    elif not np.isfinite(got).all() and np.isfinite(want).all():
        return f"{name} holds NaN or Inf"
    elif np.abs(got - want).max(initial=0) <= tolerance * np.abs(want).max(initial=0):
        return ""
    a, b = np.asarray(got, np.float64)[None], np.asarray(want, np.float64)[None]
    if not a.any():
        return f"{name} is zero, expected an array that is not"
    said = (want.dtype.kind == "f" and scaled(a, b)) or elsewhere(a, b, "expected")
    return f"{name}: {said}"
