"""What MINIDEEPSEEK_DEBUG=1 checks at every primitive; read once, when the package is imported.

An output or a gradient with NaN or Inf, a changed dtype, a vjp that writes into the gradient it was
given: each raises at once, naming the primitive and the line of the caller's source. Without the
variable nothing here runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from minideepseek.autograd import backend
from minideepseek.autograd.backend import MODULES, Array
from minideepseek.errors import DivergedError

DEBUG = os.environ.get("MINIDEEPSEEK_DEBUG", "0") not in ("", "0")


def is_finite(array: Array) -> bool:
    """No NaN and no Inf in `array` (a synchronisation on a GPU)."""
    return bool(MODULES[type(array)].isfinite(array).all())


def caller() -> str:
    """file:line of the nearest frame outside this folder."""
    here, frame = os.path.dirname(__file__), sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(here):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def check_output(name: str, y: Array) -> None:
    """DivergedError, naming the primitive and the caller's line, for NaN or Inf in its output y."""
    if y.dtype.kind == "f" and not is_finite(y):
        raise DivergedError(f"{name}: NaN or Inf in its output of shape {y.shape}, at {caller()}")


def checked(function: Callable) -> Callable:
    """`function`, refusing an output whose float type none of its inputs has."""

    def run(*arrays, **options):
        y, vjp = function(*arrays, **options)
        kinds = {a.dtype for a in arrays if type(a) in MODULES and a.dtype.kind == "f"}
        if kinds and y.dtype.kind == "f" and y.dtype not in kinds:
            came = " and ".join(sorted(str(k) for k in kinds))
            raise TypeError(f"{function.__name__}: its output is {y.dtype}, its inputs {came}")
        return y, vjp

    return run


def check_vjp(node: Any, g: Array, before: Array, gradients: tuple) -> None:
    """ValueError, naming the node, for a vjp that wrote into g or changed a dtype."""
    if not bool((g == before).all()) and is_finite(before):
        raise ValueError(f"{node.name}: its vjp wrote into the gradient it was given")
    for i, (parent, gx) in enumerate(zip(node.parents, gradients, strict=True)):
        if parent is None or gx is None:
            continue
        if gx.dtype != g.dtype:
            raise TypeError(f"{node.name}: gradient {i} is {gx.dtype}, g is {g.dtype}")
        if not is_finite(backend.as_array(gx)):
            raise DivergedError(f"{node.name}: NaN or Inf in gradient {i} of shape {gx.shape}")
