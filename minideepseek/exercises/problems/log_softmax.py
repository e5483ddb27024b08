r"""Log-softmax  ★★  10 minutes

A language model's loss needs ln softmax, and taking the logarithm of a softmax is a bad way to it:
where a probability underflows to 0, the logarithm is −∞. Directly,

    yᵢ = xᵢ − ln Σⱼ eˣʲ                ∂yᵢ/∂xⱼ = δᵢⱼ − pⱼ          with p = softmax(x) = e^y

Each row of this Jacobian holds the same −p. So Jᵀ g has g itself, and p once for every gᵢ. Again
the output alone is kept: p is made from it when it is needed.
"""

import numpy as np


def log_softmax(x, *, axis=-1):
    """x − ln Σ eˣ along `axis`.   x, y and g have one shape."""
    y = x - x.max(axis, keepdims=True)
    y = y - np.log(np.exp(y).sum(axis, keepdims=True))

    def vjp(g):
        raise NotImplementedError("return dx")

    return y, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import along_an_axis, gradients

EXERCISE = Exercise(
    solutions=(primitives.log_softmax,),
    checker=gradients(along_an_axis),
    hints=(
        "∂L/∂xⱼ = Σᵢ gᵢ (δᵢⱼ − pⱼ): split it into two sums, the first has one term.",
        "dx = g − p Σ g,  p = e^y",
        "total = g.sum(axis, keepdims=True)",
    ),
    mistakes=(
        Mistake("return g - np.exp(y) * g", "dx", "6 of 6 entries differ"),
        Mistake("return g - np.exp(y)", "dx", "6 of 6 entries differ"),
        Mistake("return g - y * g.sum(axis, keepdims=True)", "dx", "6 of 6 entries differ"),
        Mistake("return np.exp(y) * g.sum(axis, keepdims=True) - g", "dx", "the sign is flipped"),
        Mistake("return 1 - y.shape[axis] * np.exp(y)", "dx", "ignores the incoming gradient g"),
        Mistake("return g - np.exp(y) * g.sum(axis)", "error", "called with x (2, 3), axis=-1"),
        Mistake("return g - np.exp(y) * g.sum(-1, keepdims=True)", "axis", "dx at (3, 4), axis=0"),
        Mistake(
            "p = np.exp(np.array(y, np.float64))\nreturn g - p * g.sum(axis, keepdims=True)",
            "float32", "dx is float64",
        ),
    ),
)  # fmt: skip
