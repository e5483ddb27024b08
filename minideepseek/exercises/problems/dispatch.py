r"""Dispatch: sorted by expert, and back  ★★★  25 minutes

N tokens go to K experts each, indices (N, K): P = N·K pairs (token, choice). Every expert is to
multiply its tokens in one product, without padding and without dropping any. So the pairs are
sorted by their experts; what expert e multiplies is then one slice of the sorted pairs, and an
expert that nobody chose has an empty one:

    indices                     pairs sorted                    of token
    token 0: experts 2, 0       expert 0: (0,1) (2,0)           0 2
    token 1: experts 2, 1       expert 1: (1,1)                 1
    token 2: experts 0, 2       expert 2: (0,0) (1,0) (2,1)     0 1 2

Three things are asked for:

    token (P,)       whose each sorted pair is:  x[token] are the rows that the experts multiply
    segments         E slices of 0 … P, expert 0's first
    place (N, K)     where each pair has gone:  results[place[n, j]] is what token n gets back from
                     its choice j, so that y[n] = Σⱼ w[n, j] results[place[n, j]]

Sorting says which pair stands at a place, `place` at which place a pair stands: one permutation and
its inverse. np.argsort gives the former; inverting it is one assignment, not a second sort.

The order is stable: within an expert, tokens stand in their own order. And a row of −1 is a padding
token: it goes nowhere, has no pair among the P, and its place may be any (0, say).
"""

import numpy as np


def dispatch(indices, experts):
    """(token, segments, place) of the pairs in the order of their experts.

    indices (N, K) integers, distinct in a row, or a row of −1; experts: E, how many there are.
    """
    raise NotImplementedError("return token, segments, place")


# ------------------------------------------------------------------------------------- not copied

import inspect

from minideepseek.autograd import experts as routed
from minideepseek.autograd import fused, reference
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers.moe import count_experts


def _of_the_library(sorted_pairs):
    def dispatch(indices, experts):
        counts = count_experts(indices, experts)
        token, place, jobs, _ = sorted_pairs(np.ones(indices.shape), indices, counts)
        found = [slice(0, 0)] * experts
        for e, s in jobs:
            found[e] = s
        return token, found, place

    return dispatch


def _drawn(rng, n, experts, k, padding=0):
    indices = rng.permuted(np.tile(np.arange(experts), (n, 1)), axis=1)[:, :k]
    indices[rng.permutation(n)[:padding]] = -1
    return indices


_TEXT = np.array([[2, 0], [2, 1], [0, 2]])  # the exercise's own example


def _at(judge, *sizes):
    """A property of dispatch at the example, or at drawn choices of these sizes."""

    def holds(dispatch):
        rng = np.random.default_rng(0)
        calls = [(_drawn(rng, *size), size[1]) for size in sizes] or [(_TEXT, 3)]
        for indices, experts in calls:
            found = dispatch(indices.copy(), experts)
            told = indices.tolist() if len(indices) < 5 else f"{indices.shape}"
            if said := _form(found, indices, experts) or judge(indices, experts, *found):
                return f"indices {told}, {experts} experts: {said}"
        return ""

    return holds


def _form(found, indices, experts):
    """Types and shapes."""
    if not isinstance(found, tuple) or len(found) != 3:
        return f"it returned {described(found)}, expected token, segments, place"
    token, segments, place = found
    pairs = int((indices >= 0).sum())
    for name, x, shape in (("token", token, (pairs,)), ("place", place, indices.shape)):
        if not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
            kind = f" of {x.dtype}" if isinstance(x, np.ndarray) else ""
            return f"{name} is {described(x)}{kind}, expected integers {shape}"
        if x.shape != shape:
            return f"{name} has shape {x.shape}, want {shape}"
    slices = isinstance(segments, list | tuple) and all(isinstance(s, slice) for s in segments)
    if not slices or len(segments) != experts:
        return f"segments are {described(segments)}, expected {experts} slices"
    return ""


def _segments(indices, experts, token, segments, place):
    """Every expert has exactly the tokens that chose it."""
    for e, s in enumerate(segments):
        got, want = sorted(token[s].tolist()), np.flatnonzero((indices == e).any(1)).tolist()
        if got != want:
            return f"expert {e} gets tokens {got}, chosen by {want}"
    held = sorted(i for s in segments for i in range(*s.indices(len(token))))
    return "" if held == list(range(len(token))) else "a sorted pair lies in two segments, or none"


def _stable(indices, experts, token, segments, place):
    for e, s in enumerate(segments):
        if (np.diff(token[s]) < 0).any():
            return f"expert {e}'s tokens are not in their own order: {token[s].tolist()}"
    return ""


def _return(indices, experts, token, segments, place):
    """Each pair is found again where `place` says."""
    for n, j in zip(*np.nonzero(indices >= 0), strict=True):
        at, (start, stop, _) = int(place[n, j]), segments[indices[n, j]].indices(len(token))
        if not start <= at < stop:
            where = f"the segment of expert {indices[n, j]}, places {start} to {stop - 1}"
            return f"place[{n}, {j}] is {at}, outside of {where}"
        if token[at] != n:
            return f"place[{n}, {j}] is {at}, but there stands token {token[at]}"
    return ""


def _layer(indices, experts, token, segments, place):
    """The layer that uses it is the dense sum over all experts."""
    rng = np.random.default_rng(1)
    n, d, m = len(indices), 3, 2
    x, weights = rng.standard_normal((n, d)), rng.standard_normal(indices.shape)
    gate_up, down = rng.standard_normal((experts, 2 * m, d)), rng.standard_normal((experts, d, m))
    want = reference.expert_mlp(x, gate_up, down, weights, indices).data
    results, swiglu = np.zeros((len(token), d)), inspect.unwrap(fused.swiglu)
    for e, s in enumerate(segments):
        h = x[token[s]] @ gate_up[e].T
        results[s] = swiglu(h[:, :m], h[:, m:])[0] @ down[e].T
    y = (weights[..., None] * results[place] * (indices >= 0)[..., None]).sum(1)
    return compare(y, want, "the layer's y")


_SIZES = (7, 4, 2), (9, 5, 3), (40, 6, 2)


def _wrong(order='np.argsort(flat, kind="stable")', token="order // indices.shape[1]",
           place="place[order] = np.arange(order.size)", drop="order = order[(flat < 0).sum() :]",
           counts="np.bincount(flat[flat >= 0], minlength=experts)"):  # fmt: skip
    return (
        f"flat = indices.reshape(-1)\norder = {order}\n{drop}\n"
        f"place = np.zeros(flat.size, int)\n{place}\n"
        f"counts = {counts}\nends = np.cumsum(counts)\n"
        f"segments = [slice(end - n, end) for end, n in zip(ends, counts)]\n"
        f"return {token}, segments, place.reshape(indices.shape)"
    )


EXERCISE = Exercise(
    solutions=(routed.sorted_pairs, routed.gather_sum),
    checker=placed(_of_the_library, properties({
        "the example": _at(_segments),
        "segments": _at(_segments, *_SIZES),
        "nobody's expert": _at(_segments, (3, 8, 2)),
        "stable": _at(_stable, *_SIZES),
        "the way back": _at(_return, *_SIZES),
        "padding": _at(lambda *found: _segments(*found) or _return(*found), (6, 4, 2, 2),
                       (3, 3, 2, 3)),
        "the dense sum": _at(_layer, (7, 4, 2), (9, 5, 3, 2)),
    })),
    hints=(
        "Look at the pairs as one flat array of experts: pair (n, j) is number n·K + j.\n"
        "Sort the numbers by expert; a number says its token.",
        "token = order // K;  place.flat[order] = 0, 1, …, P − 1;  segments end at the sums of\n"
        "the counts of experts 0, 0 to 1, …. The −1s are sorted to the front.",
        'order = np.argsort(indices.reshape(-1), kind="stable")',
    ),
    mistakes=(
        Mistake(_wrong(place="place = order"), "the way back", "place[0, 0] is"),
        Mistake(_wrong(token="order % indices.shape[0]"), "the example",
                "expert 0 gets tokens [1, 1], chosen by [0, 2]"),
        Mistake(_wrong(order="np.argsort(-flat, kind='stable')"), "the example",
                "expert 0 gets tokens [0, 1], chosen by [0, 2]"),
        Mistake(_wrong(order="np.argsort(flat[::-1], kind='stable')"), "segments",
                "expert 0 gets tokens [2, 3, 6], chosen by [0, 3, 4]"),
        Mistake(_wrong(order="flat.size - 1 - np.argsort(flat[::-1], kind='stable')"), "stable",
                "tokens are not in their own order: [4, 3, 0]"),
        Mistake(_wrong(counts="np.bincount(flat[flat >= 0])"), "nobody's expert",
                "expected 8 slices"),
        Mistake(_wrong(drop="pass"), "padding", "token has shape (12,), want (8,)"),
        Mistake(
            _wrong(counts="np.minimum(np.bincount(flat[flat >= 0], minlength=experts), 3)"),
            "segments", "chosen by",
        ),
        Mistake(_wrong(token="order"), "the example", "expert 0 gets tokens [1, 4]"),
        Mistake(_wrong(place="place = flat[order]"), "the way back",
                "outside of the segment of expert 2, places 5 to 10"),
        Mistake(_wrong().replace("return ", "segments = counts\nreturn "), "the example",
                "expected 3 slices"),
    ),
)  # fmt: skip
