r"""A sum, and the test of a transpose  ★★  10 minutes

y = Σ x over one axis, several or all is linear: y = A x with a matrix A of zeros and ones. Linear
functions have the simplest vjp there is, Aᵀ g, and a test that needs no derivative at all. For all
x and u

    ⟨u, A x⟩ = ⟨Aᵀ u, x⟩                          with ⟨a, b⟩ = Σᵢ aᵢ bᵢ

holds to the last digits, and one random x and one random u find any mistake. The report's line
`duality` shows both sides. (Differences agree to about 1e-10 at best; this test to 1e-16.)

Every entry of x goes into one entry of y, so each sends its g back to all the entries it came from.
Broadcasting and summing are each other's transposes.
"""

import numpy as np


def sum(x, *, axis=None, keepdims=False):
    """Σ x over `axis`: None (all), a number, negative ones too, or a tuple of them.

    x (2, 3, 4):   axis=1 → (2, 4),   axis=(0, -1) → (3,),   keepdims → (2, 1, 4) and (1, 3, 1).
    """

    def vjp(g):
        raise NotImplementedError("return dx, of x's shape")  # np.expand_dims, np.broadcast_to

    return x.sum(axis, keepdims=keepdims), vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(stage, *shape, **options):
        return Case([rng.standard_normal(shape)], options, stage)

    return [
        case("", 3, 3, axis=1),
        case("axis=0, None", 2, 3, axis=0),
        case("axis=0, None", 2, 3, axis=None),
        case("keepdims", 2, 3, axis=1, keepdims=True),
        case("tuples", 2, 3, 4, axis=(0, -1)),
        case("tuples", 2, 3, 4, axis=(1, 2), keepdims=True),
    ]


EXERCISE = Exercise(
    solutions=(primitives.sum,),
    checker=gradients(_cases, linear=True),
    hints=(
        "Every entry of x counts once in its sum: its gradient is that of the sum it is in.",
        "dx = g broadcast to x's shape, once the summed axes are back with length 1.",
        "if axis is not None and not keepdims:\n    g = np.expand_dims(g, axis)",
    ),
    mistakes=(
        Mistake("return np.broadcast_to(g, x.shape)", "dx", "transposed: its rows are the columns"),
        Mistake("return g", "dx", "shape (3,), want (3, 3)"),
        Mistake("return np.ones_like(x)", "dx", "ignores the incoming gradient g"),
        Mistake("return np.expand_dims(g, 1) * x / x / 3", "dx", "off by a factor 0.333333"),
        Mistake("return -g[:, None] + 0 * x", "dx", "the sign is flipped"),
        Mistake("return np.expand_dims(g, axis) + 0 * x", "error", "axis=None"),
        Mistake(
            "if axis is not None:\n    g = np.expand_dims(g, axis)\nreturn g + 0 * x",
            "keepdims", "dx at (2, 3), axis=1, keepdims=True: shape (2, 2, 3), want (2, 3)",
        ),
    ),
)  # fmt: skip
