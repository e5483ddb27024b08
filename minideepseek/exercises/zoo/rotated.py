r"""The position that cancels  ★★  10 minutes

A model with rotary positions trains as well as one without any, no better. Shuffling the tokens of
a prompt, all but the last, leaves its answer as it was. The rotation itself was tested: it keeps
the lengths of vectors, and turns by the angles of the table.

In the wild: scores with it and without it differed by 1.8e-15, and the model trained.
"""

import numpy as np


def rotated(x, theta=10000.0):
    """Pair j of a token's channels, (2j, 2j + 1), turned by the angle t · theta^(−2j/d), d even.

    x (B, T, H, d): T tokens at positions t = 0 … T − 1, H heads; all heads of a token alike.
    """
    d = x.shape[-1]
    frequencies = theta ** (-np.arange(0, d, 2) / d)  # (d/2,)
    angles = np.arange(x.shape[-2])[:, None] * frequencies
    cos, sin = np.cos(angles), np.sin(angles)
    a, b = x[..., 0::2], x[..., 1::2]  # (B, T, H, d/2)
    return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


# ------------------------------------------------------------------------------------- not copied

from inspect import unwrap

from minideepseek.autograd import fused
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties


def _of_the_library(rope):
    def rotated(x, theta=10000.0):
        d = x.shape[-1]
        angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(0, d, 2) / d)
        return rope(x, np.cos(angles), np.sin(angles), interleaved=True)[0]

    return rotated


def _x(t=5, h=3):
    return np.random.default_rng(0).standard_normal((2, t, h, 4))


def _distance(rotated):
    """The score of one query and one key, at every pair of positions."""
    rng = np.random.default_rng(0)
    q, k = (np.broadcast_to(rng.standard_normal((1, 1, 2, 4)), (1, 6, 2, 4)) for _ in range(2))
    scores = np.einsum("bthd,bshd->hts", rotated(q), rotated(k))
    for h in range(2):
        if abs(scores[h, 5, 5] - scores[h, 5, 0]) < 1e-9:
            return (
                f"head {h}: one query and one key score {scores[h, 5, 5]:.4f} at distance 0\n"
                f"and {scores[h, 5, 0]:.4f} at distance 5"
            )
        for t, s in ((3, 1), (5, 3)):
            if abs(scores[h, t, s] - scores[h, 2, 0]) > 1e-9:
                return (
                    f"head {h}: one query and one key score {scores[h, 2, 0]:.4f} at positions 2 "
                    f"and 0, {scores[h, t, s]:.4f} at {t} and {s}, the same distance"
                )
    return ""


def _heads(rotated):
    x = np.broadcast_to(_x(h=1), (2, 5, 3, 4))
    y = rotated(x)
    return compare(y[:, :, 2], y[:, :, 0], "equal heads of a token: the last of them")


def _value(rotated):
    return compare(rotated(_x()), _of_the_library(unwrap(fused.rope))(_x()), "y")


STORY = """\
The table had a row for each head. It was made for (B, H, T, d), where the axis before the last is
the tokens'; here it is the heads', and broadcasting takes any. The query of head h and the key of
head h are turned by the same angle then, whatever their positions, and a product does not notice
that both its factors were turned alike. So the position cancels to the last digit, while
everything that was tested, lengths and angles, is right. Attention without positions still learns:
the causal mask tells it something about order."""

EXERCISE = Bug(
    solutions=(fused.rope,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(_x()), ((2, 5, 3, 4), "f")),
        "the distance is in the score": _distance,
        "all heads alike": _heads,
        "the value": _value,
    })),
    hints=(
        "How many rows does the table of angles have, and for what?",
        "A row for each of the T tokens, and an axis of length 1 where the heads are: (T, 1, d/2).",
        "angles = np.arange(x.shape[1])[:, None, None] * …",
    ),
    mistakes=(
        Mistake("np.arange(x.shape[1])[::-1, None, None]", "the value", "y: "),
        Mistake("np.arange(x.shape[1] * x.shape[2]).reshape(*x.shape[1:3], 1)",
                "all heads alike", "the last of them"),
        Mistake("0 * np.arange(x.shape[1])[:, None, None]", "the distance is in the score",
                "head 0: one query and one key score"),
    ),
    wrong="np.arange(x.shape[-2])[:, None]",
    mend="np.arange(x.shape[1])[:, None, None]",
    fails=("the distance is in the score", "head 0: one query and one key score"),
    story=STORY,
)  # fmt: skip
