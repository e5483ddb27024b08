r"""The same bits in any company  ★★  12 minutes

Adding floats is not associative. In float32

    (1 + 10⁸) − 10⁸ = 0            1 + (10⁸ − 10⁸) = 1

so a sum has a value only together with its order. A token that went to K experts gets K vectors
back and adds them up. Its result should depend on the token, and not on who else is in the batch,
where in it the token stands, or how the experts are numbered: else the same text gets other
log-probabilities when it is sampled with others and when it is read again, and a ratio that ought
to be 1 is not.

Not all of it can be had. The experts' products are BLAS', which picks its loops by the number of
rows, so that more tokens may change a token's last bits there. The way back is ours:

    rows (P, d)        the experts' results, gates multiplied in, sorted by expert
    place (N, K)       where in it token n's K vectors lie:  rows[place[n, j]]
    indices (N, K)     the chosen experts, best first; a row of −1 is padding and gets 0

Sorted by expert, a token's vectors lie in the order of the experts' numbers, and whose number is
lower is a matter of names. Its own order of choices, j = 0 … K − 1, is its own. So add in an order
that the token alone decides, and add nothing of others in between, not even what is taken away
again later.
"""

import numpy as np


def combine(rows, place, indices):
    """y (N, d) in rows' dtype: for each token the sum of its K rows; 0 where indices are −1."""
    raise NotImplementedError("return y")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import experts as routed
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.properties import compare, properties

_N, _E, _K, _D = 40, 16, 8, 5


def _batch(indices, results):
    """rows and place of the pairs' results (N, K, d), sorted by expert."""
    counts = [int((indices == e).sum()) for e in range(_E)]
    token, place, _, _ = routed.sorted_pairs(np.ones(indices.shape), indices, counts)
    rows = np.empty((token.size, _D), np.float32)
    real = indices >= 0
    rows[place[real]] = results[real]
    return rows, place


def _drawn(padding=0):
    """Choices, and results whose sizes differ so much that the order of a sum shows."""
    rng = np.random.default_rng(0)
    indices = rng.permuted(np.tile(np.arange(_E), (_N, 1)), axis=1)[:, :_K]
    indices[:padding] = -1
    sizes = 10.0 ** rng.uniform(-2, 2, (_N, _K, 1))
    return indices, (sizes * rng.standard_normal((_N, _K, _D))).astype(np.float32)


def _sum(combine):
    for padding in (0, 3):
        indices, results = _drawn(padding)
        y = combine(*_batch(indices, results), indices)
        want = results.astype(np.float64).sum(1) * (indices[:, :1] >= 0)
        if said := compare(y, want, "y", 1e-6):
            return said
        if y.dtype != np.float32:
            return f"y is an array of {y.dtype}, of rows in float32"
    return ""


def _padding(combine):
    indices, results = _drawn(3)
    y = combine(*_batch(indices, results), indices)
    if not isinstance(y, np.ndarray) or y.shape != (_N, _D):
        return compare(y, np.zeros((_N, _D)), "y")
    wrong = [n for n in range(3) if y[n].any()]
    return f"token {wrong[0]} was sent nowhere, and gets {y[wrong[0], 0]:g}, …" if wrong else ""


def _differ(y, other, where):
    """Which token has other bits, or ""."""
    n = np.flatnonzero((y != other).any(1))
    if not n.size:
        return ""
    d = np.flatnonzero(y[n[0]] != other[n[0]])[0]
    return f"token {n[0]} gets {y[n[0], d]:.9g} among {_N} tokens, {other[n[0], d]:.9g} {where}"


def _alone(combine):
    indices, results = _drawn()
    y = combine(*_batch(indices, results), indices)
    alone = [
        combine(*_batch(indices[n : n + 1], results[n : n + 1]), indices[n : n + 1])
        for n in range(_N)
    ]
    return _differ(y, np.concatenate(alone), "alone")


def _order(combine):
    indices, results = _drawn()
    y = combine(*_batch(indices, results), indices)
    moved = np.random.default_rng(1).permutation(_N)
    other = np.empty_like(y)
    other[moved] = combine(*_batch(indices[moved], results[moved]), indices[moved])
    return _differ(y, other, "in another order of the tokens")


def _names(combine):
    indices, results = _drawn()
    y = combine(*_batch(indices, results), indices)
    renamed = np.random.default_rng(2).permutation(_E)[indices]
    return _differ(y, combine(*_batch(renamed, results), renamed), "with the experts renumbered")


_BY_EXPERT = (
    "pairs = np.flatnonzero(indices.reshape(-1) >= 0)\n"
    "pairs = pairs[np.argsort(place.reshape(-1)[pairs])]\n"
    "y = np.zeros((len(place), rows.shape[1]), rows.dtype)\n"
    "np.add.at(y, pairs // place.shape[1], rows)\nreturn y"
)
_GATHERED = "found = rows[place] * (indices >= 0)[..., None].astype(rows.dtype)\n"

EXERCISE = Exercise(
    solutions=(routed.gather_sum,),
    checker=properties({
        "padding": _padding,
        "the sum": _sum,
        "alone": _alone,
        "tokens reordered": _order,
        "experts renumbered": _names,
    }),
    hints=(
        "Go over a token's choices instead of over the sorted rows.",
        "y ← rows[place[:, 0]], then + rows[place[:, 1]], …, for all tokens at once; each\n"
        "token's sum is then ((r₀ + r₁) + r₂) + … in its own order.",
        "y = rows[place[:, 0]]",
    ),
    mistakes=(
        Mistake(_BY_EXPERT, "experts renumbered", "with the experts renumbered"),
        Mistake(
            _GATHERED + "total = np.cumsum(found.reshape(-1, rows.shape[1]), 0)\n"
            "ends = total[place.shape[1] - 1 :: place.shape[1]]\n"
            "return np.diff(ends, axis=0, prepend=np.zeros_like(ends[:1]))",
            "alone", "alone",
        ),
        Mistake(
            _GATHERED + "middle = rows.mean(0) if len(rows) else 0\n"
            "return ((found - middle).sum(1) + place.shape[1] * middle) * (indices[:, :1] >= 0)\\\n"
            "    .astype(rows.dtype)",
            "alone", "alone",
        ),
        Mistake("return sum(rows[place[:, j]] for j in range(place.shape[1]))", "padding",
                "token 0 was sent nowhere, and gets"),
        Mistake(_GATHERED + "return found.mean(1)", "the sum", "off by a factor 0.125"),
        Mistake(_GATHERED + "return found.astype(np.float64).sum(1)", "the sum",
                "y is an array of float64"),
        Mistake(_GATHERED + "return found.astype(np.float16).sum(1).astype(rows.dtype)",
                "the sum", "entries differ"),
        Mistake(_GATHERED + "return found[:, 0]", "the sum", "entries differ"),
        Mistake(
            "y = np.zeros((len(place), rows.shape[1]), rows.dtype)\n"
            "for j in range(place.shape[1]):\n    y[indices[:, j] >= 0] = "
            "rows[place[indices[:, j] >= 0, j]]\nreturn y",
            "the sum", "entries differ",
        ),
    ),
)  # fmt: skip
