"""Where a number went bad: the sentence of a DivergedError."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minideepseek.autograd.engine import Parameter, is_finite, no_grad, watch


def blame(
    step: int,
    loss: float,
    norm: float,
    parameters: dict[str, Parameter],
    forward: Callable[[], object],
) -> str:
    """One sentence that names the step and the first tensor that is not finite.

    loss, norm: what was seen, of which one is not finite; forward: does the step's forward passes
    again, so that their tensors can be looked at, those of the backward pass being the gradients.
    """
    where = f"step {step}: the loss is {loss}"
    if math.isfinite(loss):
        where = f"step {step}: the gradient's norm is {norm}"
    for name, parameter in parameters.items():
        if not is_finite(parameter.data):
            return f"{where}; the first bad tensor is the parameter {name}"
    found: list[str] = []

    def look(name: str, array: Any) -> None:
        if not found and array.dtype.kind == "f" and not is_finite(array):
            found.append(f"an output of {name} of shape {array.shape}")

    with watch(look), no_grad():
        forward()
    for name, parameter in reversed(parameters.items()):  # as backward went
        if not found and parameter.grad is not None and not is_finite(parameter.grad):
            found.append(f"the gradient of {name}")
    return f"{where}; the first bad tensor is {found[0]}" if found else where
