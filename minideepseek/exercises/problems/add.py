r"""Addition  ★  3 minutes

Here is how every exercise of this kind works. A primitive returns its value and a function, its
vector-Jacobian product: from g = ∂L/∂z, the gradient of some loss L by the output z, it makes the
gradients by the inputs. They have the inputs' shapes, and there is one for each, in order:

    z = f(x, y)        vjp(g) = (∂L/∂x, ∂L/∂y)         with ∂L/∂xⱼ = Σᵢ gᵢ ∂zᵢ/∂xⱼ

For z = x + y each entry of z depends on one entry of x alone, with slope 1. Fill in `vjp`, the line
that raises NotImplementedError, and nothing else; then

    minideepseek exercises check add
"""


def add(x, y):
    """x + y, entry by entry.   x, y and g have one shape."""

    def vjp(g):
        raise NotImplementedError("return dx, dy")

    return x + y, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    pairs = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (4,)), ((), (3,))]
    drawn = [tuple(map(rng.standard_normal, shapes)) for shapes in pairs]
    return [Case(drawn[0]), *(Case(xs, stage="broadcasting", exact=False) for xs in drawn[1:])]


EXERCISE = Exercise(
    solutions=(primitives.add,),
    checker=gradients(_cases),
    hints=(
        "Make x₁₂ larger by a little: which entries of the sum change, and by how much?",
        "∂(x + y)ᵢ/∂xⱼ is 1 where i = j, else 0: so ∂L/∂xⱼ = gⱼ, and the same for y.",
        "return g, …",
    ),
    mistakes=(
        Mistake("return g, -g", "dy", "the sign is flipped"),
        Mistake("return g + g, g", "dx", "off by a factor 2"),
        Mistake("return 0 * x + 1, g", "dx", "ignores the incoming gradient g"),
        Mistake("return g, g.sum(0)", "dy", "shape (3,), want (2, 3)"),
        Mistake("return g", "vjp", "expected a tuple, a gradient (or None) for each of x, y"),
        Mistake("return x, y", "vjp", "a gradient is an argument itself"),
        Mistake("return g[:2, :3], g[:2, :3]", "broadcasting", "dx at (2, 1), (4,)"),
        Mistake("g *= 1\nreturn g, g", "vjp", "the vjp writes into an argument or into g"),
    ),
)
