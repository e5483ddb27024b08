"""The library's definition in a learner's place, where its signature is not the exercise's.

A solution stays the library's own function. What it needs to be called as the exercise calls it,
other arguments, or arrays in the place of Tensors, is said in one line beside the exercise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Parameter, backward
from minideepseek.exercises.exercise import Line

Checker = Callable[[Callable, Callable], list[Line]]


def placed(adapt: Callable[[Callable], Callable], checker: Checker) -> Checker:
    """`checker`, which gets adapt(solution) wherever the solution itself is meant."""

    def check(function: Callable, reference: Callable) -> list[Line]:
        library = adapt(reference)
        return checker(library if function is reference else function, library)

    return check


def of_tensors(checker: Checker) -> Checker:
    """`checker` of primitives for a solution that is a function of Tensors, in one output.

    What the engine keeps is many closures, not one: there is no memory to compare with.
    """
    check = placed(taped, checker)
    return lambda f, library: [line for line in check(f, library) if line.name != "memory"]


def taped(function: Callable) -> Callable:
    """A function of Tensors as a primitive: of arrays, returning (y, vjp). The engine is its rule.

    vjp gives None for what is not floating point.
    """

    def bare(*arrays: Array, **options: Any) -> tuple[Array, Callable]:
        def run() -> tuple[list, Any]:
            leaves = [Parameter(x) if x.dtype.kind == "f" else x for x in arrays]
            return leaves, function(*leaves, **options)

        def vjp(g: Array) -> tuple:
            leaves, y = run()  # a tape serves once
            backward(y, g)
            return tuple(getattr(leaf, "grad", None) for leaf in leaves)

        return run()[1].data, vjp

    return bare
