r"""Broadcasting undone  ★★  10 minutes

x of shape (4,) added to an array of shape (3, 4) is used three times, once in every row, and so the
gradient by x is the sum of what the three rows send back. Broadcasting repeats entries in two ways:

    x (4,)   → (3, 4)      a new axis in front, of any length
    x (3, 1) → (3, 4)      an axis of length 1 that is stretched

and undoing it sums over exactly those axes. Repeating is linear, y = B x, so its vjp is Bᵀ, and a
transpose can be recognised without any derivative: for all x and g of the right shapes

    ⟨g, B x⟩ = ⟨Bᵀ g, x⟩                          with ⟨a, b⟩ = Σᵢ aᵢ bᵢ

The engine calls this function wherever a vjp returns a gradient of the broadcast shape. That is why
`add` may return (g, g) whatever the shapes were.
"""

import numpy as np


def unbroadcast(g, shape):
    """g summed down to `shape`, which broadcasts to g.shape. A new array, or g if nothing is to do.

    (3, 4) → (4,), (3, 1), (1, 4), (1, 1), (1,), ();   (2, 3, 4) → (3, 1)
    """
    raise NotImplementedError("sum over the axes that were repeated, and only those")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import tape
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.properties import compare, properties


def _summed(g, shape):
    """By the definition: every entry of g goes where broadcasting took it from."""
    total = np.zeros(shape)
    home = np.broadcast_to(np.arange(total.size).reshape(shape), g.shape)
    np.add.at(total.reshape(-1), home.reshape(-1), g.reshape(-1))
    return total


def _at(*shapes):
    def holds(unbroadcast):
        rng = np.random.default_rng(0)
        for large, small in shapes:
            g = rng.standard_normal(large)
            before = g.copy()
            got = unbroadcast(g, small)
            if said := compare(got, _summed(before, small), f"{large} → {small}"):
                return said
            if not np.array_equal(g, before):
                return f"{large} → {small}: it writes into g"
        return ""

    return holds


def _dual(unbroadcast):
    rng = np.random.default_rng(1)
    for large, small in (((2, 3, 4), (3, 1)), ((5, 1, 2), (1, 2)), ((3, 4), ())):
        g, x = rng.standard_normal(large), rng.standard_normal(small)
        one, other = (g * np.broadcast_to(x, large)).sum(), (unbroadcast(g, small) * x).sum()
        if abs(one - other) > 1e-12 * np.abs(g).sum():
            return f"{large} → {small}: ⟨g, B x⟩ = {one:.6f}, ⟨Bᵀ g, x⟩ = {other:.6f}"
    return ""


EXERCISE = Exercise(
    solutions=(tape.unbroadcast,),
    checker=properties({
        "nothing to do": _at(((3, 4), (3, 4)), ((1, 4), (1, 4))),
        "new axes": _at(((3, 4), (4,)), ((2, 3, 4), (4,)), ((3, 4), ())),
        "stretched": _at(((3, 4), (3, 1)), ((3, 4), (1, 4)), ((3, 3), (1, 3)), ((3, 4), (1, 1))),
        "both": _at(((2, 3, 4), (3, 1)), ((2, 3, 4), (1, 1)), ((2, 3, 4), (1,))),
        "duality": _dual,
    }),
    hints=(
        "Line the two shapes up at their right ends, as NumPy does: two kinds of axes differ.",
        "Sum over the first g.ndim − len(shape) axes, and over those where `shape` says 1.",
        "lead = g.ndim - len(shape)",
    ),
    mistakes=(
        Mistake("return g", "new axes", "has shape (3, 4), want (4,)"),
        Mistake("return g.sum(tuple(range(g.ndim - len(shape))))", "stretched", "has shape (3, 4)"),
        Mistake(
            "lead = g.ndim - len(shape)\n"
            "return g.mean(tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape)\n"
            "    if n == 1)).reshape(shape)",
            "new axes", "off by a factor 0.333333",
        ),
        Mistake(
            "while g.ndim > len(shape):\n    g = g.sum(-1)\n"
            "return g.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)",
            "new axes", "has shape (3,), want (4,)",
        ),
        Mistake("return np.resize(g, shape)", "new axes", "4 of 4 entries differ"),
        Mistake(
            "while g.ndim > len(shape):\n    g = g.sum(0)\n"
            "for i, n in enumerate(shape):\n    g = g.sum(i) if n == 1 else g\n"
            "return g",
            "nothing to do", "has shape (4,), want (1, 4)",
        ),
    ),
)  # fmt: skip
