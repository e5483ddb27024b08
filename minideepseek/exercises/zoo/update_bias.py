r"""The rich who get richer  ★  4 minutes

Without any balancing one expert takes most of the tokens. With balancing it takes all of them, and
sooner. A larger γ makes the imbalance worse, γ = 0 makes it better, and one concludes that
balancing by a bias does not work.

In the wild: several updates were seen that are not the paper's; this one runs away.
"""

import numpy as np


def update_bias(bias, counts, gamma):
    """After each step, in place: an expert with too few tokens becomes easier to choose.

    bias (E,): added to the affinities before the top-k; counts: E numbers, how many tokens each
    expert got; every bias moves by gamma, or not at all where the load is exactly the mean.
    """
    counts = np.asarray(counts)
    bias += gamma * np.sign(counts - counts.mean())


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers import moe


def _moved(update_bias, counts, gamma=0.125):
    bias = np.zeros(len(counts))
    update_bias(bias, list(counts), gamma)
    return bias


def _direction(update_bias):
    for counts in ([6, 1, 1], [0, 3, 9, 4]):
        bias, mean = _moved(update_bias, counts), sum(counts) / len(counts)
        for e, c in enumerate(counts):
            if (mean - c) * bias[e] < 0:
                way = "rose" if bias[e] > 0 else "fell"
                return (
                    f"expert {e} got {c} of {sum(counts)} tokens, {mean:.3g} is the mean, and its "
                    f"bias {way}\ncounts {counts}: bias {told(bias)}"
                )
    return ""


def _step(update_bias):
    for counts, want in (([6, 1, 1], [-1, 1, 1]), ([4, 4, 4], [0, 0, 0]), ([1, 2, 3], [1, 0, -1])):
        bias = _moved(update_bias, counts)
        if said := compare(bias, 0.125 * np.array(want), f"counts {counts}, γ = 0.125: the bias"):
            return said
    return ""


STORY = """\
The bias is a thermostat: what is above the mean must be turned down. With sign(n − mean) it heats
what is warm. Loads move by themselves in the first hundred steps, so that one curve proves
neither; two facts do. The sign itself, on three numbers by hand; and the trend of the largest load
over a run with the weights frozen, where nothing but the bias can move it."""

EXERCISE = Bug(
    solutions=(moe.update_bias,),
    checker=properties({
        "looks right": looks_right(lambda f: _moved(f, [5, 2, 1, 0]), ((4,), "f")),
        "it turns the load back": _direction,
        "by γ or not at all": _step,
    }),
    hints=(
        "Three experts got 6, 1 and 1 tokens. Which of them is to be chosen more often?",
        "b ← b + γ sign(mean(n) − n)",
        "bias += gamma * np.sign(counts.mean() - …)",
    ),
    mistakes=(
        Mistake("np.tanh(counts.mean() - counts)", "by γ or not at all", "the bias"),
        Mistake("(counts.mean() - counts)", "by γ or not at all", "the bias"),
        Mistake("np.sign(np.median(counts) - counts)", "by γ or not at all",
                "counts [6, 1, 1], γ = 0.125: the bias"),
        Mistake("0 * counts", "by γ or not at all", "the bias"),
    ),
    wrong="np.sign(counts - counts.mean())",
    mend="np.sign(counts.mean() - counts)",
    fails=("it turns the load back",
           "expert 0 got 6 of 8 tokens, 2.67 is the mean, and its bias rose\ncounts [6, 1, 1]"),
    story=STORY,
)  # fmt: skip
