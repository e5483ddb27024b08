"""For every primitive, how to draw arguments and options for it, and what is true of it.

A case is a function (draw, values) → (arrays, options) and facts:

linear     groups of arguments in each of which, taken together, the primitive is linear
constants  floating arguments that get no gradient
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from .strategies import axes, broadcastable, frozen, shapes

CASES: dict[str, "Case"] = {}
sides = st.integers(1, 4)
few = st.sampled_from([2, 1, 3, 2, 0])


@dataclass(frozen=True)
class Case:
    """How to draw a call of one primitive, and what is true of it."""

    make: Callable
    linear: tuple[tuple[int, ...], ...] = ()
    constants: tuple[str, ...] = ()


def case(*names, linear=(), constants=()):
    """Register the decorated (draw, values) → (arrays, options) for primitives of these names."""

    def register(make):
        for name in names:
            CASES[name] = Case(make, linear, constants)
        return make

    return register


# ------------------------------------------------------------------------------- elementwise


@case("add", "subtract", linear=((0, 1),))
@case("multiply", linear=((0,), (1,)))
def _two(draw, values):
    a, b = draw(broadcastable(2))
    return (values.any(a), values.any(b)), {}


@case("divide", linear=((0,),))
def _divide(draw, values):
    a, b = draw(broadcastable(2))
    return (values.any(a), values.away_from_zero(b)), {}


@case("scale", linear=((0,),))
@case("shift")
def _number(draw, values):
    return (values.any(draw(shapes())),), {"by": draw(st.sampled_from([2, -0.5, 0.0, 3.0]))}


@case("power")
def _power(draw, values):
    n = draw(st.sampled_from([1, 2, 3, 4, 5, 2.0, -1, -2, 0.5, -0.5, 1.5]))
    whole = isinstance(n, int) and n > 0
    return ((values.any if whole else values.positive)(draw(shapes())),), {"exponent": n}


@case("exp", "tanh")
def _smooth(draw, values):
    return (values.any(draw(shapes())),), {}


@case("sigmoid", "silu")
def _sigmoid(draw, values):
    return (values.mild(draw(shapes())),), {}


@case("log", "sqrt")
def _positive(draw, values):
    return (values.positive(draw(shapes())),), {}


@case("maximum", "minimum")
def _extremum(draw, values):
    a, b = draw(broadcastable(2))
    return (values.lattice(a), values.lattice(b, start=0.1)), {}


@case("clip")
def _clip(draw, values):
    low, high = draw(st.sampled_from([(-0.6, 0.6), (0.0, 0.2), (-0.4, 2.0), (-5.0, 5.0)]))
    return (values.lattice(draw(shapes()), start=0.1),), {"low": low, "high": high}


@case("where", linear=((1, 2),))
def _where(draw, values):
    a, b, c = draw(broadcastable(3))
    return (values.booleans(a), values.any(b), values.any(c)), {}


# -------------------------------------------------------------------------------- reductions


@case("sum", linear=((0,),))
def _sum(draw, values):
    shape = draw(shapes())
    axis = draw(axes(len(shape)))
    return (values.any(shape),), {"axis": axis, "keepdims": draw(st.booleans())}


@case("mean", linear=((0,),))
def _mean(draw, values):
    shape = draw(shapes(min_side=1))
    axis = draw(axes(len(shape)))
    return (values.any(shape),), {"axis": axis, "keepdims": draw(st.booleans())}


@case("max")
def _max(draw, values):
    shape = draw(shapes(min_dims=1, min_side=1))
    axis = draw(axes(len(shape), several=False))
    return (values.apart(shape),), {"axis": axis, "keepdims": draw(st.booleans())}


@case("logsumexp")
def _logsumexp(draw, values):
    shape = draw(shapes(min_dims=1, min_side=1))
    axis = draw(axes(len(shape), several=False))
    return (values.any(shape),), {"axis": axis, "keepdims": draw(st.booleans())}


@case("softmax", "log_softmax")
def _softmax(draw, values):
    shape = draw(shapes(min_dims=1, min_side=1))
    return (values.any(shape),), {"axis": draw(axes(len(shape), several=False))}


# ------------------------------------------------------------- shapes, gathers, products


@case("matmul", linear=((0,), (1,)))
def _matmul(draw, values):
    a, b = draw(broadcastable(2))
    n, m, p = draw(st.tuples(*[st.integers(0, 3)] * 3))
    return (values.any((*a[:-1], n, m)), values.any((*b[:-1], m, p))), {}


@case("reshape", linear=((0,),))
def _reshape(draw, values):
    shape = draw(shapes(min_side=1))
    size = math.prod(shape)
    rows = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    new = draw(st.sampled_from([(rows, size // rows), (-1,), (rows, -1, 1), shape]))
    return (values.any(shape),), {"shape": new}


@case("transpose", linear=((0,),))
def _transpose(draw, values):
    shape = draw(shapes())
    order = draw(st.none() | st.permutations(range(len(shape))))
    if order and draw(st.booleans()):
        order = [i - len(shape) for i in order]
    return (values.any(shape),), {"axes": order}


@case("broadcast_to", linear=((0,),))
def _broadcast_to(draw, values):
    found = draw(hnp.mutually_broadcastable_shapes(num_shapes=1, max_dims=3, max_side=4))
    lead = draw(shapes(max_dims=1))
    return (values.any(found.input_shapes[0]),), {"shape": (*lead, *found.result_shape)}


@case("concatenate", linear=((0, 1, 2),))
def _concatenate(draw, values):
    shape = draw(shapes(min_dims=1, max_dims=3))
    axis = draw(axes(len(shape), several=False))
    widths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    each = [tuple(w if i == axis % len(shape) else n for i, n in enumerate(shape)) for w in widths]
    return tuple(values.any(s) for s in each), {"axis": axis}


@case("getitem", linear=((0,),))
def _getitem(draw, values):
    shape = draw(shapes())
    index = draw(hnp.basic_indices(shape, allow_newaxis=True))
    return (values.any(shape),), {"index": index}


@case("take", linear=((0,),))
def _take(draw, values):
    shape = draw(shapes(min_dims=1, max_dims=3, min_side=1))
    index = values.integers(shape[0], draw(shapes(max_dims=2)))
    return (values.any(shape), index - shape[0] * draw(st.booleans())), {}


@case("take_along_axis", linear=((0,),))
def _take_along_axis(draw, values):
    shape = draw(shapes(min_dims=1, min_side=1))
    axis = draw(axes(len(shape), several=False))
    order = values.rng.random(shape).argsort(axis)  # distinct along the axis
    kept = draw(st.integers(0, shape[axis]))
    index = order.take(range(kept), axis)
    return (values.any(shape), frozen(index)), {"axis": axis}


# --------------------------------------------------------------------------------- fused


@case("linear", linear=((0, 2), (1, 2)))
def _linear(draw, values):
    lead, wide, out = draw(shapes(max_dims=2)), draw(st.integers(0, 4)), draw(st.integers(0, 4))
    arrays = [values.any((*lead, wide)), values.any((out, wide))]
    return (*arrays, values.any((out,)))[: draw(st.sampled_from([2, 3]))], {}


@case("rms_norm", linear=((1,),))
def _rms_norm(draw, values):
    shape = draw(shapes(min_dims=1)) + (draw(sides),)
    eps = draw(st.sampled_from([1e-6, 1e-5, 1e-2]))
    return (values.any(shape), values.any(shape[-1:])), {"eps": eps}


@case("swiglu", linear=((1,),))
def _swiglu(draw, values):
    shape = draw(shapes(min_dims=1))
    return (values.mild(shape), values.any(shape)), {}


@case("rope", linear=((0,),), constants=("cos", "sin"))
def _rope(draw, values):
    b, t, h, half, rest = (draw(few) for _ in range(5))
    angle = values.rng.standard_normal(draw(st.sampled_from([(t, half), (b, t, half)])))
    x = values.any((b, t, h, rest + 2 * half))
    return (x, frozen(np.cos(angle)), frozen(np.sin(angle))), {"interleaved": draw(st.booleans())}


@case("append_shared", linear=((0, 1),))
def _append_shared(draw, values):
    b, t, h, one, two = (draw(few) for _ in range(5))
    return (values.any((b, t, h, one)), values.any((b, t, 1, two))), {}


@case("head_linear", linear=((0,), (1,)))
def _head_linear(draw, values):
    b, t, h, wide, out = (draw(few) for _ in range(5))
    return (values.any((b, t, h, wide)), values.any((h, out, wide))), {}


@case("softmax_cross_entropy", constants=("weights",))
def _softmax_cross_entropy(draw, values):
    lead, vocab = draw(shapes(min_side=1, max_dims=2)), draw(st.integers(1, 5))
    arrays = [values.mild((*lead, vocab)), values.integers(vocab, lead)]
    if draw(st.booleans()):
        arrays.append(frozen(values.rng.random(lead)))
    return tuple(arrays), {"denominator": draw(st.sampled_from([None, 1, 2.5]))}


@case("token_logprobs")
def _token_logprobs(draw, values):
    lead, vocab = draw(shapes(min_side=1, max_dims=2)), draw(st.integers(1, 5))
    options = {"temperature": draw(st.sampled_from([1.0, 1, 0.7, 2.0]))}
    return (values.mild((*lead, vocab)), values.integers(vocab, lead)), options


@case("attention", linear=((2,),))
def _attention(draw, values):
    b, h_kv, group, dk, dv = (draw(st.integers(1, 3)) for _ in range(5))
    t, offset = draw(st.integers(1, 6)), draw(st.integers(0, 3))
    s, options = t + offset + draw(st.integers(0, 1)), {"scale": draw(st.sampled_from([1, 0.3]))}
    kind = draw(st.sampled_from(["number", "array", "lengths", "segments", "all"]))
    options["offsets"] = offset
    if kind in ("array", "all"):
        options["offsets"] = values.rng.integers(0, offset + 1, b)
    if kind in ("lengths", "all"):
        options["lengths"] = values.rng.integers(0, s + 1, b)
    if kind in ("segments", "all"):
        options["segment_ids"] = np.sort(values.rng.integers(0, 3, (b, s)))
    q = values.any((b, t, h_kv * group, dk))
    return (q, values.any((b, s, h_kv, dk)), values.any((b, s, h_kv, dv))), options


@case("expert_mlp", linear=((2,), (3,)))
def _expert_mlp(draw, values):
    n, experts, d, m = draw(st.integers(0, 5)), draw(sides), draw(sides), draw(sides)
    k = draw(st.integers(1, experts))
    indices = values.rng.random((n, experts)).argsort(-1)[:, :k]  # distinct in a row
    if draw(st.booleans()):  # some tokens are padding
        indices = np.where(values.rng.random((n, 1)) < 0.4, -1, indices)
    counts = [int((indices == e).sum()) for e in range(experts)]
    gate_up = frozen(values.rng.standard_normal((experts, 2 * m, d)))
    arrays = [values.mild((n, d)), gate_up, values.any((experts, d, m)), values.any((n, k))]
    return (*arrays, frozen(indices)), {"counts": counts}
