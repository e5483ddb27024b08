r"""The engine's backward  ★★★  30 minutes

A forward pass leaves a tape. Every Tensor that was computed from a Parameter has a `node`:

    node.vjp        g ↦ the gradients for its parents, a tuple or the bare array; None: a leaf
    node.parents    the inputs' nodes, in the same order; None for a constant
    node.shape      the shape of its value, and of its gradient
    node.time       a number, the larger the younger
    node.grad       of a leaf, a Parameter's: what was collected so far, an array or None

`backward` brings g from a result to the leaves. A value that is used twice gets two gradients,
which add up (the chain rule is a sum over paths), and it passes on their sum when both are there:

    b = tanh(a);  c = b + a         c sends a its gradient first, b sends another one later

Passing each on by itself would give the same numbers, but the paths double with every such step,
2³⁰ after thirty. The order of creation helps: whatever used a value is younger than it. So handle
always the youngest node that has a gradient; then all its users were there before.

Beware of memory that is shared: add's vjp returns (g, g), one array twice. Adding into an array
that was handed to you changes it for the others. Gradients may come in the broadcast shape;
`unbroadcast`, which you have written, sums them down.
"""

import numpy as np

from minideepseek.autograd.tape import unbroadcast


def backward(tensor, g):
    """Add to `.grad` of every leaf below tensor.node.   g: an array of tensor's shape.

    A leaf's grad is an array of its own: neither g nor another's. Nothing is written into g.
    """
    raise NotImplementedError("from the youngest node to the oldest")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import primitives as p
from minideepseek.autograd import tape
from minideepseek.autograd.engine import Parameter
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.properties import compare, properties


def _follows(build, *shapes):
    """The property that the gradients of a program are those of the library's walk."""

    def holds(backward):
        rng = np.random.default_rng(0)
        values = [rng.standard_normal(shape) for shape in shapes]
        wanted, leaves = ([Parameter(x.copy()) for x in values] for _ in range(2))
        y = build(*wanted)
        g = rng.standard_normal(y.shape)
        tape.backward(y, g)
        given = g.copy()
        backward(build(*leaves), given)
        for i, (leaf, want) in enumerate(zip(leaves, wanted, strict=True)):
            if leaf.grad is None and want.grad is not None:
                return f"leaf {i} has got no gradient"
            if said := compare(leaf.grad, want.grad, f"leaf {i}'s grad"):
                return said
        if not np.array_equal(g, given):
            return "it writes into g"
        return ""

    return holds


def _collects(backward):
    x = Parameter([1.0, 2.0])
    for _ in range(2):
        backward(x * x, np.ones(2))
    return compare(x.grad, np.array([4.0, 8.0]), "after two calls, the leaf's grad")


def _own_memory(backward):
    x, z, g = Parameter([1.0, 2.0]), Parameter([3.0, 4.0]), np.ones(2)
    backward(x + z, g)
    if np.shares_memory(x.grad, g) or np.shares_memory(x.grad, z.grad):
        return "x + z: the leaves' grads share memory with g or with each other"
    return ""


def _each_once(backward):
    """A ladder of 10 rungs: 2¹⁰ paths, 20 nodes."""
    x = Parameter([0.0])
    y = x
    calls: list = []
    for _ in range(10):
        z = p.tanh(y)
        y = y + z
        for node in (y.node, z.node):
            node.vjp = _counted(node.vjp, calls)
    backward(y, np.ones(1))
    said = compare(x.grad, np.array([2.0**10]), "the leaf's grad")
    return said or ("" if len(calls) == 20 else f"20 nodes, but {len(calls)} calls of their vjps")


def _counted(vjp, calls):
    def counted(g):
        calls.append(g)
        return vjp(g)

    return counted


def _long(backward):
    x = Parameter([1.0])
    y = x
    for _ in range(3000):
        y = y * 1.0
    backward(y, np.ones(1))
    return compare(x.grad, np.ones(1), "after 3000 steps, the leaf's grad")


def _crossing(a, b):
    """Used young and old: a goes into the last step, and into the first."""
    c = p.tanh(a * b)
    d = c + a
    return d * c + b


_CODE = """\
grads = {tensor.node: g}
while grads:
    node = max(grads, key=lambda n: n.time)
    g = grads.pop(node)
    if node.vjp is None:
        LEAF
        continue
    gradients = node.vjp(g)
    if not isinstance(gradients, tuple):
        gradients = (gradients,)
    for parent, gx in zip(node.parents, gradients):
        if parent is None or gx is None:
            continue
        if gx.shape != parent.shape:
            gx = unbroadcast(gx, parent.shape)
        ADD"""
_LEAF = "node.grad = g.copy() if node.grad is None else node.grad + g"
_ADD = "grads[parent] = grads[parent] + gx if parent in grads else gx"


def _wrong(leaf=_LEAF, add=_ADD, **changes):
    code = _CODE.replace("LEAF", leaf).replace("ADD", add)
    for old, new in changes.values():
        assert old in code
        code = code.replace(old, new)
    return code


EXERCISE = Exercise(
    solutions=(tape.backward,),
    checker=properties({
        "a chain": _follows(lambda x: p.tanh(p.exp(x)), (2, 3)),
        "two leaves": _follows(lambda x, y: x @ y, (2, 3), (3, 4)),
        "constants": _follows(lambda x: p.tanh(x) * np.full(3, 2.0), (3,)),
        "broadcasting": _follows(lambda x, y: x * y, (2, 3), (3,)),
        "used twice": _follows(lambda a: (a + a) * (a + a), (3,)),
        "shared arrays": _follows(lambda x, y: (x + y) + x, (3,), (3,)),
        "order": _follows(_crossing, (3,), (3,)),
        "collecting": _collects,
        "own memory": _own_memory,
        "each vjp once": _each_once,
        "3000 steps": _long,
    }),
    hints=(
        "Keep a dictionary from nodes to gradients that have arrived and are not used yet.\n"
        "Take the youngest node out, use it, put its parents' gradients in, until it is empty.",
        "grads[parent] ← grads.get(parent, 0) + gx, as a new array; the youngest is\n"
        "max(grads, key=lambda node: node.time).",
        "grads = {tensor.node: g}\nwhile grads:",
    ),
    mistakes=(
        Mistake(_wrong(add="grads[parent] = gx"), "used twice", "off by a factor 0.25"),
        Mistake(_wrong(leaf="node.grad = g.copy()"), "collecting", "off by a factor 0.5"),
        Mistake(_wrong(leaf="node.grad = g if node.grad is None else node.grad + g"),
                "own memory", "share memory with g"),
        Mistake(
            _wrong(add="if parent in grads:\n            grads[parent] += gx\n"
                       "        else:\n            grads[parent] = gx"),
            "shared arrays", "leaf 1's grad",
        ),
        Mistake(_wrong(order=("key=lambda n: n.time", "key=lambda n: -n.time")),
                "each vjp once", "20 nodes, but"),
        Mistake(
            _wrong(
                order=("max(grads, key=lambda n: n.time)", "next(iter(grads))"),
                done=("g = grads.pop(node)", "g = grads.pop(node)\n    done.add(node)"),
                skip=("parent is None", "parent in done or parent is None"),
                none=("while grads:", "done = set()\nwhile grads:"),
            ),
            "order", "entries differ",
        ),
        Mistake(_wrong(sum=("gx = unbroadcast(gx, parent.shape)", "pass")),
                "broadcasting", "leaf 1's grad has shape (2, 3), want (3,)"),
        Mistake(_wrong(none=("parent is None or gx is None", "gx is None")), "error", "NoneType"),
        Mistake(
            "def walk(node, g):\n"
            "    if node.vjp is None:\n"
            "        node.grad = g.copy() if node.grad is None else node.grad + g\n"
            "        return\n"
            "    gradients = node.vjp(g)\n"
            "    if not isinstance(gradients, tuple):\n"
            "        gradients = (gradients,)\n"
            "    for parent, gx in zip(node.parents, gradients):\n"
            "        if parent is not None:\n"
            "            walk(parent, unbroadcast(gx, parent.shape))\n"
            "walk(tensor.node, g)",
            "each vjp once", "20 nodes, but 2046 calls",
        ),
    ),
)  # fmt: skip
