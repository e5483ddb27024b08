r"""The answer that is too sure  ★  6 minutes

The two parts of a score, with position and without, are each divided by the root of their own
width, as one has always done. Training is a little less stable than promised; with DeepSeek's
weights the answers are nearly right, a bit too sure of themselves, and the more so the more the
answer depends on positions.

In the wild: each of the two terms is the textbook's attention.
"""

import numpy as np


def latent_weights(q_nope, q_rope, k_nope, k_rope):
    """softmax over s of the score of q = [q_nope ; q_rope] and k = [k_nope ; k_rope], (T, S).

    q_nope (T, dn), q_rope (T, dr); k_nope (S, dn), k_rope (S, dr): one head, all S tokens seen. The
    score is q·k / √(dn + dr).
    """
    one = q_nope @ k_nope.T / np.sqrt(q_nope.shape[-1])
    other = q_rope @ k_rope.T / np.sqrt(q_rope.shape[-1])
    e = np.exp(one + other - (one + other).max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ------------------------------------------------------------------------------------- not copied

from inspect import unwrap

from minideepseek.autograd import attention
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers import rope


def _of_the_library(attention):
    def latent_weights(q_nope, q_rope, k_nope, k_rope):
        q, k = np.concatenate([q_nope, q_rope], -1), np.concatenate([k_nope, k_rope], -1)
        values = np.eye(len(k))  # so that the weights come out
        heads = (x[None, :, None] for x in (q, k, values))
        return attention(*heads, scale=q.shape[-1] ** -0.5, offsets=len(k))[0][0, :, 0]

    return latent_weights


def _cut(at, seed=0, d=6, t=2, s=3):
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((t, d)), rng.standard_normal((s, d))
    return q[:, :at], q[:, at:], k[:, :at], k[:, at:]


def _cuts(latent_weights):
    """Where the six channels are cut in two does not change q·k."""
    first = latent_weights(*_cut(3))
    for at in (4, 5):
        again = latent_weights(*_cut(at))
        if np.abs(again - first).max() > 1e-12:
            return (
                f"the same q and k of 6 channels, cut 3 + 3: weights {told(first[0])}\n"
                f"cut {at} + {6 - at}: {told(again[0])}"
            )
    return ""


def _value(latent_weights):
    want = _of_the_library(unwrap(attention.attention))(*_cut(4))
    return compare(latent_weights(*_cut(4)), want, "the weights")


STORY = """\
There is one softmax over the sum of two parts, and one scale for it: 1/√(dn + dr), V3's 1/√192.
For channels of variance 1 q·k has variance dn + dr, and the scale brings it to 1. Two scales,
1/√dn and 1/√dr, give each part variance 1 and the sum 2, as if the temperature were 0.71; and the
part with fewer channels weighs as much as the other. Training adapts, trained weights do not."""

EXERCISE = Bug(
    solutions=(attention.attention, rope.softmax_scale),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(*_cut(4)), ((2, 3), "f")),
        "only q·k matters": _cuts,
        "the value": _value,
    })),
    hints=(
        "q has dn + dr channels. What is the variance of q·k if each of them has variance 1?",
        "(q^C·k^C + q^R·k^R) / √(dn + dr): add first, scale once.",
        "width = q_nope.shape[-1] + q_rope.shape[-1]",
    ),
    mistakes=(
        Mistake(
            "d = q_nope.shape[-1]\n    one = q_nope @ k_nope.T / np.sqrt(d)\n"
            "    other = q_rope @ k_rope.T / np.sqrt(d)",
            "only q·k matters", "cut 4 + 2",
        ),
        Mistake("one, other = q_nope @ k_nope.T, q_rope @ k_rope.T", "the value", "the weights: "),
        Mistake(
            "d = q_nope.shape[-1] + q_rope.shape[-1]\n    one = q_nope @ k_nope.T / d\n"
            "    other = q_rope @ k_rope.T / d",
            "the value", "the weights: ",
        ),
    ),
    wrong="one = q_nope @ k_nope.T / np.sqrt(q_nope.shape[-1])\n"
          "    other = q_rope @ k_rope.T / np.sqrt(q_rope.shape[-1])",
    mend="width = q_nope.shape[-1] + q_rope.shape[-1]\n"
         "    one = q_nope @ k_nope.T / np.sqrt(width)\n"
         "    other = q_rope @ k_rope.T / np.sqrt(width)",
    fails=("only q·k matters", "the same q and k of 6 channels, cut 3 + 3: weights"),
    story=STORY,
)  # fmt: skip
