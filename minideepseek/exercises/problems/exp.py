r"""The exponential  ★  3 minutes

y = eˣ is its own derivative: y′ = y. So the vjp can do without x: it keeps the output, which was
computed already and which the next operation holds anyway. Rules that need only their output save
memory: x itself may be freed as soon as the forward has used it. The last line of the report,
`memory`, says which arrays your vjp keeps alive.
"""

import numpy as np


def exp(x):
    """eˣ.   x, y and g have one shape."""
    y = np.exp(x)

    def vjp(g):
        raise NotImplementedError("return dx")

    return y, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import entry_by_entry, gradients

EXERCISE = Exercise(
    solutions=(primitives.exp,),
    checker=gradients(entry_by_entry),
    hints=(
        "The slope of eˣ is eˣ, and that is an array you have already.",
        "dx = g eˣ = g y",
        "return g * …",
    ),
    mistakes=(
        Mistake("return y + 0", "dx", "ignores the incoming gradient g"),
        Mistake("return g * x * np.exp(x - 1)", "dx", "6 of 6 entries differ"),
        Mistake("return -g * y", "dx", "the sign is flipped"),
        Mistake("return g.sum(0) * y.sum(0)", "dx", "shape (3,), want (2, 3)"),
        Mistake("return g * y, None", "vjp", "expected an array"),
        Mistake("g *= y\nreturn g", "vjp", "the vjp writes into an argument or into g"),
        Mistake("np.multiply(g, y, out=y)\nreturn y", "vjp", "returns an array that it keeps"),
        Mistake("return (g * y).tolist()", "vjp", "a list"),
        Mistake("return g * y if y.ndim else y", "numbers", "ignores the incoming gradient g"),
        Mistake("return g * np.exp(x.astype(np.float64))", "float32", "dx is float64"),
    ),
)
