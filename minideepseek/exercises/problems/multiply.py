r"""Multiplication  ★  3 minutes

z = x y, entry by entry. The slope by one factor is the other factor: make x₁₂ larger by a small δ,
and z₁₂ grows by δ y₁₂, nothing else moves.

    ∂zᵢ/∂xⱼ = yᵢ if i = j, else 0         so   ∂L/∂xⱼ = Σᵢ gᵢ ∂zᵢ/∂xⱼ has one term

The vjp needs values of the forward. It is a closure: it may use x and y by their names, and these
arrays then live until backward.

Shapes that differ are broadcast, as in NumPy: x (2, 3) times y (3,) is (2, 3), and so is g. A
gradient may then have g's shape instead of its input's; the engine sums it down, by a function that
is the next exercise. So write the rule as if the shapes were equal.
"""


def multiply(x, y):
    """x y, entry by entry.   x and y broadcast to the shape of g."""

    def vjp(g):
        raise NotImplementedError("return dx, dy")

    return x * y, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    pairs = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (4,)), ((), (3,))]
    drawn = [tuple(map(rng.standard_normal, shapes)) for shapes in pairs]
    return [Case(drawn[0]), *(Case(xs, stage="broadcasting", exact=False) for xs in drawn[1:])]


EXERCISE = Exercise(
    solutions=(primitives.multiply,),
    checker=gradients(_cases),
    hints=(
        "The slope of x y by x is y, and by y it is x. Every slope is multiplied by g.",
        "∂L/∂xⱼ = gⱼ yⱼ",
        "return g * y, …",
    ),
    mistakes=(
        Mistake("return g * x, g * y", "dx", "6 of 6 entries differ"),
        Mistake("return y + 0, g * x", "dx", "ignores the incoming gradient g"),
        Mistake("return g * y, -g * x", "dy", "the sign is flipped"),
        Mistake("return y, x", "vjp", "a gradient is an argument itself"),
        Mistake("return g * y + g * y, g * x", "dx", "off by a factor 2"),
        Mistake("return (g * y).T, g * x", "dx", "shape (3, 2), want (2, 3): transposed?"),
        Mistake("return [g * y, g * x]", "vjp", "expected a tuple"),
        Mistake("return g * y, (g * x)[:2, :3]", "broadcasting", "dy at (2, 1), (4,)"),
    ),
)
