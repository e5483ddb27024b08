r"""Checkpoint: memory for time  ★★★  15 minutes

Every primitive keeps arrays for its vjp until backward, so a forward pass through L layers holds L
layers' worth of them. Checkpointing keeps the input of a piece f alone: the forward computes f
without a tape, and when the gradient arrives, the vjp computes f once more, now with a tape, walks
back over it, and lets it go. One forward more, and only one piece's arrays at a time. DeepSeek-V3
recomputes its norms and up-projections in this way.

To the engine the whole piece is one step: one node, whose parents are the inputs' nodes and whose
vjp is yours. The new tape must be one of its own. If it began at `inputs` themselves, walking back
would run on into everything below them, before its time. So it begins at fresh leaves that hold the
same arrays,

    Parameter(x.data)          for each input x

and whose `.grad`, afterwards, is what your vjp returns. Parameters that f uses without taking them,
a layer's weights, collect their gradients in the same walk.
"""

from minideepseek.autograd.engine import Node, Parameter, Tensor, backward, no_grad


def checkpoint(f, *inputs):
    """f(*inputs), remembering the inputs only.   f: Tensors → a Tensor; inputs: Tensors."""
    with no_grad():
        y = f(*inputs)

    def vjp(g):
        raise NotImplementedError("compute f again; return one gradient for each input, a tuple")

    return Tensor(y.data, Node("checkpoint", y.shape, tuple(x.node for x in inputs), vjp))


# ------------------------------------------------------------------------------------- not copied

import numpy as np

from minideepseek.autograd import engine
from minideepseek.autograd import primitives as p
from minideepseek.errors import InputError
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.properties import compare, properties


def _compared(program, *shapes):
    """The property that gradients with checkpoint are those without."""

    def holds(checkpoint):
        rng = np.random.default_rng(0)
        values = [rng.standard_normal(shape) for shape in shapes]
        plain, mine = ([Parameter(x.copy()) for x in values] for _ in range(2))
        y = program(lambda f, *xs: f(*xs), *plain)
        g = rng.standard_normal(y.shape)
        backward(y, g)
        z = program(checkpoint, *mine)
        if said := compare(z.data, y.data, "the value"):
            return said
        try:
            backward(z, g)
        except (InputError, ValueError) as error:
            if error.__traceback__ is not None and "used already" in str(error):
                return "the walk through f's tape ran on below the inputs, and used it up"
            raise
        for i, (got, want) in enumerate(zip(mine, plain, strict=True)):
            if got.grad is None:
                return f"no gradient arrives at leaf {i}"
            if said := compare(got.grad, want.grad, f"leaf {i}'s grad"):
                return said
        return ""

    return holds


def _below(checkpoint, x):
    """The input is computed from a leaf, and used once more beside the piece."""
    h = x * x
    return checkpoint(p.tanh, h) + h


def _calls(checkpoint):
    """f runs once forward and once backward."""
    calls = []

    def f(x):
        calls.append(engine.is_recording())
        return p.exp(x)

    x = Parameter([1.0, 2.0])
    y = checkpoint(f, x)
    backward(y, np.ones(2))
    if calls != [False, True]:
        return f"f was called {len(calls)} times, expected one without a tape and one with"
    return ""


def _constant(checkpoint, x):
    return checkpoint(lambda a, b: a * b, x, Tensor(np.array([2.0, 3.0])))


EXERCISE = Exercise(
    solutions=(engine.checkpoint,),
    checker=properties({
        "one input": _compared(lambda c, x: c(lambda a: p.exp(p.tanh(a)), x), (2, 3)),
        "two inputs": _compared(lambda c, x, y: c(lambda a, b: a @ b, x, y), (2, 3), (3, 4)),
        "what lies below": _compared(_below, (3,)),
        "a layer's weights": _compared(lambda c, x, w: c(lambda a: a @ w, x), (2, 3), (3, 3)),
        "a constant": _compared(_constant, (2,)),
        "used twice": _compared(lambda c, x: c(lambda a, b: a * b, x, x), (3,)),
        "calls of f": _calls,
    }),
    hints=(
        "Fresh leaves in, f, then the engine's own backward with the g that arrived.",
        "copies = Parameter(x.data) for each x;  backward(f(*copies), g);  the copies' grads",
        "copies = [Parameter(x.data) for x in inputs]",
    ),
    mistakes=(
        Mistake(
            "copies = [Parameter(x.data) for x in inputs]\n"
            "backward(f(*copies), g * 0 + 1)\nreturn tuple(c.grad for c in copies)",
            "one input", "6 of 6 entries differ",
        ),
        Mistake(
            "copies = [Parameter(x.data) for x in inputs]\n"
            "backward(f(*copies))\nreturn tuple(c.grad for c in copies)",
            "error", "needs a cotangent g of that shape",
        ),
        Mistake("backward(f(*inputs), g)\nreturn (None,) * len(inputs)", "what lies below",
                "ran on below the inputs"),
        Mistake(
            "backward(f(*inputs), g)\nreturn tuple(x.grad for x in inputs)",
            "one input", "off by a factor 2",
        ),
        Mistake(
            "copies = [Parameter(x.data) for x in inputs]\nwith no_grad():\n    z = f(*copies)\n"
            "backward(z, g)\nreturn tuple(c.grad for c in copies)",
            "error", "was not computed from any Parameter",
        ),
        Mistake("backward(y, g)\nreturn tuple(x.grad for x in inputs)", "error",
                "was not computed from any Parameter"),
        Mistake(
            "copies = [Parameter(x.data) for x in inputs]\n"
            "backward(f(*copies), g)\nreturn copies[0].grad",
            "error", "1 gradients for 2 positional arguments",
        ),
        Mistake(
            "copies = [Parameter(x.data) for x in inputs]\nbackward(f(*copies), g)\n"
            "f(*copies)\nreturn tuple(c.grad for c in copies)",
            "calls of f", "f was called 3 times",
        ),
        Mistake(
            "copies = [Parameter(x.data) for x in inputs]\n"
            "backward(f(*copies), -g)\nreturn tuple(c.grad for c in copies)",
            "one input", "the sign is flipped",
        ),
    ),
)  # fmt: skip
