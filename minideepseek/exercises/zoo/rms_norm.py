r"""The prompt that changes its own beginning  ★  5 minutes

A decoder's training loss is good. Written one token at a time its text is worse than the loss
promises, and the first tokens of a prompt get other vectors when the prompt is longer. With a
batch of prompts padded to one length the answers depend on the padding. The attention's mask was
checked and is right.

In the wild: leaks are looked for in masks, and everything else is taken to see one token only.
"""

import numpy as np


def rms_norm(x, weight, eps=1e-6):
    """w x / √(mean(x²) + ε), every token by itself.   x (B, T, d), weight (d,) → (B, T, d)."""
    size = (x * x).mean(axis=(1, 2), keepdims=True)
    return weight * x / np.sqrt(size + eps)


# ------------------------------------------------------------------------------------- not copied

from inspect import unwrap

from minideepseek.autograd import fused, reference
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties


def _of_the_library(norm):
    return lambda x, weight, eps=1e-6: norm(x, weight, eps=eps)[0]


def _x():
    return np.random.default_rng(0).standard_normal((2, 4, 6))


def _causal(rms_norm):
    x, w = _x(), np.ones(6)
    first = rms_norm(x.copy(), w)
    for t in (3, 0):
        y = x.copy()
        y[:, t] *= 10
        moved = np.abs(rms_norm(y, w) - first).max((0, 2))
        for other in range(4):
            if other != t and moved[other] > 1e-12:
                return (
                    f"token {t} made ten times larger: the vector of token {other} changes by "
                    f"{moved[other]:.2g}"
                )
    return ""


def _value(rms_norm):
    x, w = _x(), np.linspace(0.5, 1.5, 6)
    return compare(rms_norm(x, w), unwrap(fused.rms_norm)(x, w, eps=1e-6)[0], "y")


STORY = """\
A mean over tokens is as good a leak as a missing mask: the size of the last token is in the first
one's vector. It is learned from only as far as it helps, so that the loss is merely good; and it
is not there when the future is not there. The test that finds all leaks at once does not look at
masks: change the last token, and nothing before it may move. (And a gradient: from the output at t
to inputs after t it is exactly 0.)"""

EXERCISE = Bug(
    solutions=(fused.rms_norm, reference.rms_norm),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(_x(), np.ones(6)), ((2, 4, 6), "f")),
        "every token by itself": _causal,
        "the value": _value,
    })),
    hints=(
        "Over which axes is the mean taken, and which of them are tokens?",
        "One number for each token: the mean over the d channels, the last axis, alone.",
        "size = (x * x).mean(axis=-1, …)",
    ),
    mistakes=(
        Mistake("(0, 1)", "every token by itself", "token 3 made ten times larger: the vector"),
        Mistake("1", "every token by itself", "token 3 made ten times larger"),
        Mistake("()", "the value", "y: "),
    ),
    wrong="(1, 2)",
    mend="-1",
    fails=("every token by itself",
           "token 3 made ten times larger: the vector of token 0 changes by"),
    story=STORY,
)  # fmt: skip
