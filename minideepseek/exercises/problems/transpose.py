r"""Axes in another order  ★  5 minutes

`x.transpose(axes)` moves axis axes[i] of x to place i; no number changes. As a matrix this is a
permutation P: in each row and column a single 1. A permutation's transpose undoes it,

    Pᵀ = P⁻¹

so the vjp puts every axis back where it was, and nothing needs to be kept. For a matrix there is
one other order, which is its own inverse; for three axes that is not so:

    (2, 3, 4) by (1, 2, 0) is (3, 4, 2);   (3, 4, 2) by (1, 2, 0) is (4, 2, 3), not (2, 3, 4)
"""

import numpy as np


def transpose(x, *, axes=None):
    """Axes permuted, reversed for None:  y.shape[i] = x.shape[axes[i]]; axes may be negative."""
    axes = tuple(range(x.ndim))[::-1] if axes is None else tuple(a % x.ndim for a in axes)

    def vjp(g):
        raise NotImplementedError("return dx")

    return x.transpose(axes), vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(stage, shape, axes):
        return Case([rng.standard_normal(shape)], {"axes": axes}, stage)

    return [
        case("", (2, 3), (1, 0)),
        case("three axes", (2, 3, 4), (1, 2, 0)),
        case("three axes", (3, 3, 3), (2, 0, 1)),
        case("negative, None", (2, 3, 4), (-1, 0, -2)),
        case("negative, None", (2, 3, 4), None),
    ]


EXERCISE = Exercise(
    solutions=(primitives.transpose,),
    checker=gradients(_cases, linear=True),
    hints=(
        "Which permutation undoes `axes`? It sends place i back to axis axes[i].",
        "inverse[axes[i]] = i for every i; that is also the order that sorts `axes`.",
        "inverse = np.argsort(…)",
    ),
    mistakes=(
        Mistake("return g", "dx", "shape (3, 2), want (2, 3): transposed?"),
        Mistake("return g.reshape(x.shape)", "dx", "of 6 entries differ"),
        Mistake("return -g.T", "dx", "the sign is flipped"),
        Mistake("return g.transpose(axes)", "three axes", "shape (4, 2, 3), want (2, 3, 4)"),
        Mistake("return g.T", "three axes", "dx at (2, 3, 4), axes=(1, 2, 0)"),
        Mistake("return x", "vjp", "a gradient is an argument itself"),
        Mistake("return np.ones_like(x)", "dx", "ignores the incoming gradient g"),
        Mistake("return g.transpose(axes[::-1])", "dx", "shape (3, 2), want (2, 3)"),
    ),
)
