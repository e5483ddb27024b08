r"""Matrix products  ★★  10 minutes

z = x y with entries zᵢₖ = Σⱼ xᵢⱼ yⱼₖ. An entry xᵢⱼ goes into row i of z, with weights from row j of
y, so

    ∂L/∂xᵢⱼ = Σₖ gᵢₖ ∂zᵢₖ/∂xᵢⱼ = Σₖ gᵢₖ yⱼₖ

which is a product of matrices again. Say it with transposes. The shapes leave no choice: of
g (n, p) and y (m, p) there is one product that is (n, m).

`@` takes stacks of matrices too: all axes but the last two are broadcast, and the last two are
transposed by `swapaxes(-1, -2)`; `.T` would reverse them all.
"""


def matmul(x, y):
    """x @ y.   x (…, n, m), y (…, m, p), g (…, n, p)."""

    def vjp(g):
        raise NotImplementedError("return dx, dy")

    return x @ y, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(one, other, stage="", exact=True):
        return Case([rng.standard_normal(one), rng.standard_normal(other)], {}, stage, exact)

    return [
        case((3, 3), (3, 3)),
        case((2, 3), (3, 4)),
        case((5, 2, 3), (5, 3, 4), "stacks"),
        case((5, 2, 3), (3, 4), "broadcasting", False),
        case((2, 1, 2, 3), (4, 3, 2), "broadcasting", False),
    ]


EXERCISE = Exercise(
    solutions=(primitives.matmul,),
    checker=gradients(_cases, linear=True),
    hints=(
        "Σₖ gᵢₖ yⱼₖ is a product of g with something whose entry (k, j) is yⱼₖ.",
        "dx = g yᵀ and, the other way round, dy = xᵀ g",
        "dx = g @ y.swapaxes(-1, -2)",
    ),
    mistakes=(
        Mistake("return g @ y, x @ g", "dx", "9 of 9 entries differ"),
        Mistake("return y @ g.T, x.T @ g", "dx", "transposed: its rows are the columns"),
        Mistake("return g @ y.T, g.T @ x", "dy", "transposed: its rows are the columns"),
        Mistake("return -g @ y.T, x.T @ g", "dx", "the sign is flipped"),
        Mistake("return g @ y.T, x.T @ (0 * g + 1)", "dy", "ignores the incoming gradient g"),
        Mistake("return g @ y.T, x.T @ g / 3", "dy", "off by a factor 0.333333"),
        Mistake("return g @ y.T, x.T @ g", "error", "called with x (5, 2, 3), y (5, 3, 4)"),
    ),
)
