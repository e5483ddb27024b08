r"""Grouped queries: the sum over a group  ★★  8 minutes

What a decoder keeps of every past token is keys and values. Grouped-query attention (Ainslie et al.
2023) makes fewer of them: n_g heads for keys and values, n_h for queries, and the n_h / n_g query
heads of one group look at the same key and value. Head i belongs to group ⌊i n_g / n_h⌋:

    query head              0  1  2   3  4  5            n_h = 6
    key-value head          0  0  0   1  1  1            n_g = 2

At n_g = n_h this is multi-head attention, at n_g = 1 multi-query attention (Shazeer 2019). To the
formula of attention nothing happens: each query head is handed a copy of its group's key and value,
and NumPy's `repeat` makes the copies in this order.

Repeating has a transpose, as broadcasting has. The vjp of ordinary attention gives a gradient for
each of the n_h copies; a key that was used n_h / n_g times gets all of them.
"""

import inspect

import numpy as np

from minideepseek.autograd.attention import attention

attention = inspect.unwrap(attention)  # over arrays: y, vjp = attention(q, k, v, scale=…)


def gqa(q, k, v, *, scale):
    """Attention of H query heads on H′ key-value heads, H a multiple of H′.

    q (B, T, H, D), k (B, T, H′, D), v (B, T, H′, Dᵥ), y and g (B, T, H, Dᵥ).
    """
    group = q.shape[2] // k.shape[2]
    y, attention_vjp = attention(q, k.repeat(group, 2), v.repeat(group, 2), scale=scale)

    def vjp(g):
        dq, dk, dv = attention_vjp(g)  # dk (B, T, H, D) and dv (B, T, H, Dᵥ), of the copies
        raise NotImplementedError("return dq, dk, dv")

    return y, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import attention as blocked
from minideepseek.autograd import reference
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(stage, heads, groups):
        shapes = [(2, 2, heads, 2), (2, 2, groups, 2), (2, 2, groups, 3)]
        return Case([rng.standard_normal(shape) for shape in shapes], {"scale": 0.5}, stage)

    return [case("", 4, 2), case("more groups", 6, 3), case("one group", 4, 1), case("MHA", 2, 2)]


def _summed(expression):
    returned = "return dq, sums(dk, k.shape[2]), sums(dv, k.shape[2])"
    return f"sums = lambda x, n: {expression}\n{returned}"


EXERCISE = Exercise(
    solutions=(blocked.attention, reference.attention),
    checker=gradients(_cases),
    hints=(
        "Which of the H copies were made of key-value head 0? They lie side by side.",
        "k[:, :, j] gets the sum over i from j·group to (j + 1)·group − 1 of dk[:, :, i].",
        "dk = dk.reshape(*k.shape[:3], group, k.shape[3])",
    ),
    mistakes=(
        Mistake("return dq, dk, dv", "dk", "shape (2, 2, 4, 2), want (2, 2, 2, 2)"),
        Mistake(_summed("x.reshape(*x.shape[:2], n, group, -1).mean(3)"), "dk",
                "right direction, off by a factor 0.5"),
        Mistake(_summed("x.reshape(*x.shape[:2], group, n, -1).sum(2)"), "dk", "entries differ"),
        Mistake(_summed("x[:, :, ::group]"), "dk", "entries differ"),
        Mistake(_summed("x.sum(2, keepdims=True)"), "dk", "shape (2, 2, 1, 2), want (2, 2, 2, 2)"),
        Mistake(_summed("x.reshape(*x.shape[:2], 2, x.shape[2] // 2, -1).sum(3)"), "more groups",
                "dk at (2, 2, 6, 2), (2, 2, 3, 2), (2, 2, 3, 3), scale=0.5: shape (2, 2, 2, 2)"),
        Mistake(_summed("x.reshape(*x.shape[:2], n, 2, -1).sum(3)"), "one group",
                "shape (2, 2, 1, 4), want (2, 2, 1, 2)"),
        Mistake("return dq, dk.reshape(*k.shape[:3], group, -1).sum(3), dv", "dv",
                "shape (2, 2, 4, 3), want (2, 2, 2, 3)"),
    ),
)  # fmt: skip
