r"""An embedding  ★★  8 minutes

A token enters the model as a row of a matrix: y = weight[index], with an integer for each token. As
a linear function y = A weight, A has one 1 in each row, at the token's index. Its transpose sends
each row of g back to the row of `weight` it was taken from:

    dweight[v] = Σ g[i]  over all i with index[i] = v

A text repeats its tokens, so most rows get several gradients and they add up, while the rows of
tokens that did not occur stay 0. NumPy sets a trap here: `dweight[index] += g` reads all the rows,
adds, and writes all the rows, so of several gradients for one row the last one wins.
"""

import numpy as np


def embedding(weight, index):
    """weight[index].   weight (V, d), index (…) integers, y and g (…, d)."""

    def vjp(g):
        raise NotImplementedError("return dweight, None")  # the index is integers: None

    return weight[index], vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(stage, index):
        return Case([rng.standard_normal((5, 3)), np.array(index)], {}, stage)

    return [
        case("", [2, 0, 4]),
        case("repeated", [2, 0, 2, 2]),
        case("shapes", [[1, 1, 0], [4, 1, 0]]),
        case("shapes", 3),
    ]


EXERCISE = Exercise(
    solutions=(primitives.take,),
    checker=gradients(_cases, linear=True),
    hints=(
        "Begin with zeros of weight's shape and add every row of g where it belongs.",
        "np.add.at(out, index, rows) adds one after the other, repeated indices too.",
        "dweight = np.zeros(weight.shape, g.dtype)",
    ),
    mistakes=(
        Mistake(
            "dweight = np.zeros(weight.shape, g.dtype)\ndweight[index] += g\nreturn dweight, None",
            "repeated", "dweight at (5, 3), (4,): 3 of 15 entries differ",
        ),
        Mistake("return g, None", "dweight", "shape (3, 3), want (5, 3)"),
        Mistake(
            "dweight = np.zeros(weight.shape, g.dtype)\nnp.add.at(dweight, index, 1)\n"
            "return dweight, None",
            "dweight", "ignores the incoming gradient g",
        ),
        Mistake(
            "dweight = np.zeros(weight.shape)\nnp.add.at(dweight, index, g)\nreturn dweight, None",
            "float32", "dweight is float64",
        ),
        Mistake(
            "dweight = np.zeros_like(g)\nnp.add.at(dweight, index, g)\nreturn dweight, None",
            "error", "IndexError",
        ),
        Mistake(
            "dweight = weight.copy()\nnp.add.at(dweight, index, g)\nreturn dweight, None",
            "dweight", "15 of 15 entries differ",
        ),
        Mistake(
            "dweight = np.zeros(weight.shape, g.dtype)\nnp.subtract.at(dweight, index, g)\n"
            "return dweight, None",
            "dweight", "the sign is flipped",
        ),
        Mistake("np.add.at(weight, index, g)\nreturn weight, None", "vjp", "writes into an arg"),
    ),
)  # fmt: skip
