r"""Softmax  ★★  10 minutes

yᵢ = eˣⁱ / Σⱼ eˣʲ along one axis. Every y depends on every x, so there is a whole Jacobian:

    ∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ − yⱼ)           J = diag(y) − y yᵀ          (δᵢⱼ is 1 for i = j, else 0)

For a vocabulary of 129,280 tokens J has 1.7e10 entries, and nobody needs them: Jᵀ g is wanted, and
a diagonal matrix and one of rank 1 can be applied to a vector without being written down. J is
symmetric, and J 1 = 0: adding a number to all x changes no y. A rule that is wrong by a factor
therefore passes a test with a g of ones, as the sum of y would send; the check draws g at random.
"""

import numpy as np


def softmax(x, *, axis=-1):
    """eˣ / Σ eˣ along `axis`.   x, y and g have one shape."""
    y = np.exp(x - x.max(axis, keepdims=True))
    y = y / y.sum(axis, keepdims=True)

    def vjp(g):
        raise NotImplementedError("return dx")

    return y, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import along_an_axis, gradients

EXERCISE = Exercise(
    solutions=(primitives.softmax,),
    checker=gradients(along_an_axis),
    hints=(
        "Apply the two parts of J to g one by one: diag(y) g is y g, and y yᵀ g is y times\n"
        "a number for each row.",
        "dx = y g − y Σ(y g) = y (g − Σ g y)",
        "inner = (g * y).sum(axis, keepdims=True)",
    ),
    mistakes=(
        Mistake("return g * y * (1 - y)", "dx", "6 of 6 entries differ"),
        Mistake("return g * y", "dx", "6 of 6 entries differ"),
        Mistake("return y * ((g * y).sum(axis, keepdims=True) - g)", "dx", "the sign is flipped"),
        Mistake("return y * (g - (g * y).sum(axis))", "error", "ValueError"),
        Mistake("return y * (g - (g * y).sum())", "dx", "entries differ"),
        Mistake("return y * (y - (y * y).sum(axis, keepdims=True))", "dx", "ignores the incoming"),
        Mistake("return 1.5 * y * (g - (g * y).sum(-1, keepdims=True))", "dx", "a factor 1.5"),
        Mistake("return y * (g - (g * y).sum(-1, keepdims=True))", "axis", "dx at (3, 4), axis=0"),
    ),
)
