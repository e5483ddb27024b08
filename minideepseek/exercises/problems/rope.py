r"""Rotary positions  ★★  12 minutes

Attention by itself does not know where a token stands. Rotary positions (Su et al. 2021) turn every
pair (a, b) of a head's channels by an angle φ that grows with the token's position:

    a′ = a cos φ − b sin φ
    b′ = b cos φ + a sin φ            (a′, b′) = R(φ) (a, b)

Which channels make a pair is a convention: neighbours, (0,1), (2,3), …, as DeepSeek's weights have
it, or halves, (0, r/2), (1, r/2 + 1), …. DeepSeek-V3 turns only the last r channels of a head; the
others pass unchanged.

The forward is linear in x, and a rotation's transpose is its inverse. So the vjp is a rotation too,
needs neither x nor y, and the helper below is all it takes. cos and sin are tables, not parameters:
they get no gradient, None.
"""

import numpy as np


def rotate(x, cos, sin, interleaved):
    """The last 2·cos.shape[-1] channels of x turned by the angles; the others copied."""
    half, y = cos.shape[-1], x.copy()
    start = x.shape[-1] - 2 * half
    if interleaved:
        first, second = slice(start, None, 2), slice(start + 1, None, 2)
    else:
        first, second = slice(start, start + half), slice(start + half, None)
    cos, sin = cos[..., None, :], sin[..., None, :]  # (…, T, 1, r/2): one angle for all heads
    a, b = x[..., first], x[..., second]
    y[..., first] = a * cos - b * sin
    y[..., second] = b * cos + a * sin
    return y


def rope(x, cos, sin, *, interleaved):
    """x turned by its positions.   x, y, g (B, T, H, D), cos and sin (T, r/2) or (B, T, r/2)."""

    def vjp(g):
        raise NotImplementedError("return dx, None, None")

    return rotate(x, cos, sin, interleaved), vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import fused, reference
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(stage, angles, interleaved=True):
        angle = rng.standard_normal(angles)
        arrays = [rng.standard_normal((2, 3, 2, 6)), np.cos(angle), np.sin(angle)]
        return Case(arrays, {"interleaved": interleaved}, stage)

    return [
        case("", (3, 2)),
        case("halves", (3, 2), False),
        case("all channels", (3, 3)),
        case("rows apart", (2, 3, 2)),
    ]


EXERCISE = Exercise(
    solutions=(fused.rope, reference.rope),
    checker=gradients(_cases, constants=("cos", "sin"), linear=True),
    hints=(
        "How does one undo a turn by φ? cos is even, sin is odd.",
        "Rᵀ = R(−φ): the same cos, and −sin in the place of sin.",
        "dx = rotate(g, cos, …, interleaved)",
    ),
    mistakes=(
        Mistake("return rotate(g, cos, sin, interleaved), None, None", "dx", "48 of 72 entries"),
        Mistake("return g, None, None", "dx", "48 of 72 entries differ"),
        Mistake("return rotate(g, cos, -sin, interleaved)", "vjp", "each of x, cos, sin"),
        Mistake("return -rotate(g, cos, -sin, interleaved), None, None", "dx", "the sign is flip"),
        Mistake("return rotate(g, -cos, sin, interleaved), None, None", "dx", "48 of 72 entries"),
        Mistake("return rotate(g, cos, -sin, True), None, None", "halves", "interleaved=False"),
        Mistake(
            "return rotate(np.ones_like(g), cos, -sin, interleaved), None, None",
            "dx", "ignores the incoming gradient g",
        ),
        Mistake("return rotate(g, 1 / cos, -sin, interleaved), None, None", "dx", "48 of 72"),
    ),
)  # fmt: skip
