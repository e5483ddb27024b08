r"""The checkpoint that speaks one word  ★★  8 minutes

A model trained with this code is fine. Loaded with DeepSeek's weights it gives the first token the
right logits, to the last digit, for a prompt of one token; with every token more they are further
off, and what it writes is noise. All names and shapes of the checkpoint match, all tensors are
loaded, the angles are right.

In the wild: both conventions are in wide use, each with its own weights.
"""

import numpy as np


def turned_pairs(x, cos, sin):
    """Every pair of channels turned by its angle, for weights that pair neighbours, (2j, 2j + 1).

    x (B, T, d); cos, sin (T, d/2): of token t and pair j. (a, b) becomes (a cos − b sin, b cos +
    a sin), in its place.
    """
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import fused
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties


def _of_the_library(rope):
    def turned_pairs(x, cos, sin):
        return rope(x[:, :, None], cos, sin, interleaved=True)[0][:, :, 0]

    return turned_pairs


def _tables(t, d):
    angles = np.arange(t)[:, None] * 100.0 ** (-np.arange(0, d, 2) / d)
    return np.cos(angles), np.sin(angles)


def _first(turned_pairs):
    x = np.random.default_rng(0).standard_normal((2, 1, 6))
    return compare(turned_pairs(x, *_tables(1, 6)), x, "at position 0: y")


def _distance(turned_pairs):
    rng = np.random.default_rng(0)
    q, k = (np.broadcast_to(rng.standard_normal(6), (1, 5, 6)) for _ in range(2))
    scores = (turned_pairs(q, *_tables(5, 6)) @ turned_pairs(k, *_tables(5, 6)).swapaxes(1, 2))[0]
    same = abs(scores[4, 2] - scores[2, 0]) < 1e-9 < abs(scores[4, 2] - scores[4, 4])
    return "" if same else f"scores at one distance: {scores[2, 0]:.4f} and {scores[4, 2]:.4f}"


def _pairs(turned_pairs):
    """Channel 2j goes to channels 2j and 2j + 1 alone."""
    cos, sin = np.full((1, 3), 0.6), np.full((1, 3), 0.8)
    for channel in range(6):
        x = np.eye(6)[channel].reshape(1, 1, 6)
        y, want = turned_pairs(x, cos, sin), np.zeros((1, 1, 6))
        pair = channel // 2 * 2
        want[0, 0, pair : pair + 2] = (0.6, 0.8) if channel == pair else (-0.8, 0.6)
        if np.abs(y - want).max() > 1e-12:
            return (
                f"cos 0.6, sin 0.8, x {told(x[0, 0])}\n"
                f"becomes {told(y[0, 0])}, want {told(want[0, 0])}"
            )
    return ""


STORY = """\
Both conventions turn d/2 pairs by the same angles, and each is right for weights that were trained
with it: one is the other after a fixed permutation of channels in queries and keys. Position 0 is
not turned at all, so the first token cannot tell them apart, and a model trained from scratch
never will. A checkpoint does. The released weights pair neighbours (`rope_interleave`); much code
that reads them permutes first and turns halves afterwards, and copying only its second part gives
this."""

EXERCISE = Bug(
    solutions=(fused.rope, fused.rotate),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(
            lambda f: f(np.ones((2, 3, 6)), *_tables(3, 6)), ((2, 3, 6), "f")
        ),
        "position 0": _first,
        "scores know distances": _distance,
        "neighbours are pairs": _pairs,
    })),
    hints=(
        "Which two channels of x meet in the first channel of y?",
        "a is x₀, x₂, x₄, …, b is x₁, x₃, x₅, …; and y has their results at the same places.",
        "a, b = x[..., 0::2], x[..., 1::2]",
    ),
    mistakes=(
        Mistake(
            "a, b = x[..., 0::2], x[..., 1::2]\n"
            "    y = np.stack([a * cos - b * sin, b * cos - a * sin], axis=-1)\n"
            "    return y.reshape(x.shape)",
            "scores know distances", "scores at one distance",
        ),
        Mistake(
            "a, b = x[..., 0::2], x[..., 1::2]\n"
            "    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)",
            "position 0", "y: ",
        ),
        Mistake(
            "a, b = x[..., 1::2], x[..., 0::2]\n"
            "    y = np.stack([b * cos + a * sin, a * cos - b * sin], axis=-1)\n"
            "    return y.reshape(x.shape)",
            "neighbours are pairs", "becomes [0.6, -0.8, 0.0, 0.0, 0.0, 0.0], want [0.6, 0.8",
        ),
    ),
    wrong="half = x.shape[-1] // 2\n    a, b = x[..., :half], x[..., half:]\n"
          "    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)",
    mend="a, b = x[..., 0::2], x[..., 1::2]\n"
         "    y = np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)\n"
         "    return y.reshape(x.shape)",
    fails=("neighbours are pairs", "becomes [0.6, 0.0, 0.0, 0.8, 0.0, 0.0], want [0.6, 0.8, 0.0"),
    story=STORY,
)  # fmt: skip
