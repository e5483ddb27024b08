r"""The hyperbolic tangent  ★  5 minutes

y = tanh x squeezes the real line into (−1, 1). From tanh = sinh/cosh with sinh′ = cosh and
cosh′ = sinh, the quotient rule gives

    y′ = (cosh² x − sinh² x) / cosh² x

Divide, and the slope is a polynomial in y alone: as for the exponential, the output is all that
has to be kept. At y = 0 the slope is 1, at y = ±1 it is 0: there no gradient comes through.
"""

import numpy as np


def tanh(x):
    """tanh x.   x, y and g have one shape."""
    y = np.tanh(x)

    def vjp(g):
        raise NotImplementedError("return dx")

    return y, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import entry_by_entry, gradients

EXERCISE = Exercise(
    solutions=(primitives.tanh,),
    checker=gradients(entry_by_entry),
    hints=(
        "Write the slope with y instead of x: two squares, one of them divided by itself.",
        "dx = g (1 − tanh² x) = g (1 − y²)",
        "slope = 1 - …",
    ),
    mistakes=(
        Mistake("return g * (1 - x * x)", "dx", "6 of 6 entries differ"),
        Mistake("return 1 - y * y", "dx", "ignores the incoming gradient g"),
        Mistake("return g * (y * y - 1)", "dx", "the sign is flipped"),
        Mistake("return 0.5 * g * (1 - y * y)", "dx", "off by a factor 0.5"),
        Mistake("return g / (1 - y * y)", "dx", "entries differ, worst at"),
        Mistake("return np.ones(x.shape) * g * (1 - y * y)", "float32", "dx is float64"),
        Mistake("return g * (1 - y @ y)", "error", "ValueError"),
    ),
)
