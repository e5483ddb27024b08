r"""SwiGLU  ★★  12 minutes

The feed-forward layers and the experts of DeepSeek-V3 multiply two projections of their input, one
of them through a soft switch (Shazeer 2020):

    y = silu(gate) · up             silu(z) = z σ(z),    σ(z) = 1 / (1 + e⁻ᶻ)

It is a product, so each factor's gradient holds the other factor. For `gate` there is one step
more, the slope of silu, again by the product rule, with

    σ′ = σ (1 − σ)

Far to the left the switch is closed, σ ≈ 0; far to the right silu(z) ≈ z with slope 1. In between
the slope exceeds 1: it is largest at z ≈ 2.4, where it is 1.1.
"""

import numpy as np


def swiglu(gate, up):
    """gate σ(gate) up.   gate, up, y and g have one shape."""
    s = 1 / (1 + np.exp(-gate))
    silu = gate * s

    def vjp(g):
        raise NotImplementedError("return dgate, dup")

    return silu * up, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import fused, reference
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(*shape, stage=""):
        return Case([rng.standard_normal(shape), rng.standard_normal(shape)], {}, stage)

    return [case(2, 3), case(2, 3, 4, stage="batches"), case(5, stage="batches")]


EXERCISE = Exercise(
    solutions=(fused.swiglu, reference.swiglu),
    checker=gradients(_cases),
    hints=(
        "y = silu · up is a product: dup first. Then g up arrives at silu(gate).",
        "silu′ = σ + z σ′ = σ + z σ (1 − σ)",
        "slope = s + silu * (1 - s)",
    ),
    mistakes=(
        Mistake("return g * up * s, g * silu", "dgate", "6 of 6 entries differ"),
        Mistake("return g * up * s * (1 - s), g * silu", "dgate", "6 of 6 entries differ"),
        Mistake("return g * (s + silu * (1 - s)), g * silu", "dgate", "6 of 6 entries differ"),
        Mistake("return g * up * (s + silu * (1 - s)), g * gate", "dup", "6 of 6 entries differ"),
        Mistake("return g * up * (s + silu * (1 - s)), silu + 0", "dup", "ignores the incoming"),
        Mistake("return -g * up * (s + silu * (1 - s)), g * silu", "dgate", "the sign is flipped"),
        Mistake("return g * up * (s + silu * (s - 1)), g * silu", "dgate", "6 of 6 entries differ"),
        Mistake("return g * up * (s + silu * (1 - s)), silu", "vjp", "an array that it keeps"),
        Mistake("return g * silu, g * up * (s + silu * (1 - s))", "dgate", "6 of 6 entries differ"),
        Mistake("return g * up @ (s + silu * (1 - s)).T, g * silu", "dgate", "shape (2, 2), want"),
    ),
)
