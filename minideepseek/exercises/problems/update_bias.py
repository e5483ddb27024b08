r"""Balance without a loss: the bias update  ★  8 minutes

A router collapses if nobody stops it: an expert that is chosen learns, and is chosen more. V3 stops
it by a bias for each expert, added to the affinities for choosing and for nothing else (V3 §2.1.2,
Loss-Free Balancing, algorithm 1):

    chosen:  the K largest of sᵢ + bᵢ              gates: from s alone

The bias is not trained. It has no gradient and no optimiser; after each step it moves by a fixed γ,
by what the step's tokens did. With nᵢ the number of tokens that expert i got, and their mean:

    bᵢ ← bᵢ + γ      where expert i got less than the mean: a little easier to choose
    bᵢ ← bᵢ − γ      where it got more
    bᵢ               where it got the mean exactly

How far an expert is from the mean does not matter, only on which side. A step in proportion to it
would be fast at first, and would then shake: loads are counts of one batch, and noisy.

The array belongs to the router, which goes on using it; so it is changed itself. And the counts are
those of the finished step: moving the bias within a batch would let later tokens decide where
earlier ones go.
"""

import numpy as np


def update_bias(bias, counts, gamma):
    """Move the bias one step, in place.   bias (E,) float32, counts: E integers, a list; γ > 0."""
    raise NotImplementedError("change bias")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.properties import properties
from minideepseek.layers import moe

_COUNTS = [9, 0, 4, 3], [1, 1, 1, 6], [0, 8, 8, 8], [1000, 1001, 999, 1000], [5, 3, 4, 0]
_GAMMA = 0.125  # exact in float32


def _moved(update_bias, counts):
    """How far each bias went, in units of γ."""
    bias = np.array([0.5, -1.0, 0.0, 2.0], np.float32)
    before = bias.copy()
    update_bias(bias, list(counts), _GAMMA)
    return (bias - before) / _GAMMA


def _in_place(update_bias):
    bias, counts = np.zeros(4, np.float32), [9, 0, 4, 3]
    update_bias(bias, counts, _GAMMA)
    if counts != [9, 0, 4, 3]:
        return f"the counts [9, 0, 4, 3] have become {counts}"
    return "" if bias.any() else "bias itself has not changed: write into it"


def _direction(update_bias):
    for counts in _COUNTS:
        mean = sum(counts) / len(counts)
        for i, (n, moved) in enumerate(zip(counts, _moved(update_bias, counts), strict=True)):
            if moved * (mean - n) < 0 or (n != mean and moved == 0):
                way = "down" if moved < 0 else "up" if moved > 0 else "nowhere"
                return f"counts {counts}: expert {i} got {n}, the mean is {mean:g}, b goes {way}"
    return ""


def _at_the_mean(update_bias):
    for counts in ([9, 0, 4, 3], [1000, 1001, 999, 1000], [2, 2, 2, 2]):
        mean = sum(counts) / len(counts)
        for i, (n, moved) in enumerate(zip(counts, _moved(update_bias, counts), strict=True)):
            if n == mean and moved:
                return f"counts {counts}: expert {i} got the mean, its bias moves by {moved:g} γ"
    return ""


def _size(update_bias):
    for counts in _COUNTS:
        for i, moved in enumerate(_moved(update_bias, counts)):
            if abs(moved) not in (0, 1):
                return f"counts {counts}: expert {i}'s bias moves by {moved:g} γ, want ±1 γ"
    return ""


def _no_tokens(update_bias):
    moved = _moved(update_bias, [0, 0, 0, 0])
    return f"counts [0, 0, 0, 0]: biases move by {moved.tolist()} γ" if moved.any() else ""


def _balances(update_bias):
    """A router that has collapsed, and 60 steps."""
    rng, bias = np.random.default_rng(0), np.zeros(8, np.float32)
    skew = np.linspace(-1.5, 1.5, 8)
    for step in range(61):
        scores = 1 / (1 + np.exp(-rng.standard_normal((200, 8)) - skew))
        counts = moe.count_experts(moe.route(scores, bias, k=2, n_group=1, topk_group=1), 8)
        if step < 60:
            update_bias(bias, counts, 0.02)
    found = moe.max_violation(counts)
    said = f"after 60 steps the busiest expert has {1 + found:.1f} times the mean"
    return said if found > 0.5 else ""


EXERCISE = Exercise(
    solutions=(moe.update_bias,),
    checker=properties({
        "in place": _in_place,
        "direction": _direction,
        "at the mean": _at_the_mean,
        "size": _size,
        "no tokens": _no_tokens,
        "balance": _balances,
    }),
    hints=(
        "Three cases, and the mean decides between them. NumPy has a function with three values.",
        "bᵢ ← bᵢ + γ sign(mean(n) − nᵢ), and sign(0) = 0",
        "counts = np.array(counts)",
    ),
    mistakes=(
        Mistake("bias += gamma * np.sign(np.array(counts) - np.mean(counts))", "direction",
                "expert 0 got 9, the mean is 4, b goes up"),
        Mistake("bias += gamma * (np.mean(counts) - np.array(counts))", "size",
                "expert 0's bias moves by -5 γ, want ±1 γ"),
        Mistake("bias += gamma * np.tanh(np.mean(counts) - np.array(counts))", "size",
                "moves by -0.999"),
        Mistake("bias += gamma * (1 - np.array(counts) / np.mean(counts))", "size",
                "moves by -1.25 γ"),
        Mistake("return bias + gamma * np.sign(np.mean(counts) - np.array(counts))", "in place",
                "bias itself has not changed"),
        Mistake("bias = bias + gamma * np.sign(np.mean(counts) - np.array(counts))", "in place",
                "bias itself has not changed"),
        Mistake("bias += gamma * np.sign(np.median(counts) - np.array(counts))", "direction",
                "counts [1, 1, 1, 6]: expert 0 got 1, the mean is 2.25, b goes nowhere"),
        Mistake("bias += np.where(np.mean(counts) >= np.array(counts), gamma, -gamma)",
                "at the mean", "expert 2 got the mean, its bias moves by 1 γ"),
        Mistake(
            "step = np.sign(np.mean(counts) - np.array(counts))\n"
            "bias += gamma * step / sum(counts)",
            "size", "moves by -0.0625 γ, want ±1 γ",
        ),
        Mistake("bias += np.where(np.array(counts) == 0, gamma, 0)", "direction",
                "expert 0 got 9, the mean is 4, b goes nowhere"),
        Mistake("bias[np.argmax(counts)] -= gamma\nbias[np.argmin(counts)] += gamma", "direction",
                "expert 3 got 3, the mean is 4, b goes nowhere"),
        Mistake(
            "bias += gamma * np.sign(np.mean(counts) - np.array(counts))\nbias -= bias.mean()",
            "direction", "expert 1 got 0, the mean is 4, b goes down",
        ),
    ),
)  # fmt: skip
