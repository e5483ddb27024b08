r"""The long context that is read too evenly  ★★  6 minutes

A model whose positions were stretched 40 times is asked for something that stands far back in a
long text. It nearly finds it: the right place has the largest weight, but too small a one, and
much else is mixed in. Short texts are affected as well, so that it is not the angles.

In the wild: a score was off by a factor of up to 1.87 at V3's settings, where this step was left
out; here it is 1.37.
"""

import math


def yarn_scale(nope, rope, factor, mscale_all_dim):
    """What multiplies q·k before the softmax, for queries and keys of nope + rope channels.

    YaRN multiplies both q and k by m = 0.1 · mscale_all_dim · ln(factor) + 1 (m = 1 for a factor up
    to 1), and here that is done once, in the scale.
    """
    m = 0.1 * mscale_all_dim * math.log(factor) + 1 if factor > 1 else 1.0
    return m / math.sqrt(nope + rope)


# ------------------------------------------------------------------------------------- not copied

from types import SimpleNamespace

import numpy as np

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.layers import rope as positions


def _of_the_library(softmax_scale):
    def yarn_scale(nope, rope, factor, mscale_all_dim):
        yarn = {"type": "yarn", "factor": factor, "mscale_all_dim": mscale_all_dim}
        return softmax_scale(
            SimpleNamespace(qk_nope_head_dim=nope, qk_rope_head_dim=rope, rope_scaling=yarn)
        )

    return yarn_scale


def _plain(yarn_scale):
    got = yarn_scale(12, 4, 1.0, 1.0)
    return "" if abs(got - 0.25) < 1e-12 else f"16 channels, not stretched: {got:.4f}, want 1/√16"


def _both(yarn_scale):
    """The score of m q and m k at the plain scale is that of q and k at this one."""
    rng = np.random.default_rng(0)
    for nope, rope, factor, mscale in ((128, 64, 40.0, 1.0), (12, 4, 4.0, 0.707)):
        m = 0.1 * mscale * math.log(factor) + 1
        q, k = rng.standard_normal((2, nope + rope))
        want = (m * q) @ (m * k) / math.sqrt(nope + rope)
        got = q @ k * yarn_scale(nope, rope, factor, mscale)
        if abs(got - want) > 1e-9 * abs(want):
            return (
                f"{nope} + {rope} channels, stretched {factor:g} times, m = {m:.4f}\n"
                f"q and k at this scale score {got:.4f}; m q and m k at the plain one {want:.4f}"
            )
    return ""


STORY = """\
The rule is stated for the rotated vectors: q and k are each multiplied by m, and so their product
by m². Whoever moves it into the scale must square it: 192^−½ · 1.3689² = 0.1352 at V3's settings,
and not 0.0988. There is a second trap beside it: two entries of the configuration, `mscale` and
`mscale_all_dim`, of which one touches cos and sin and the other the scale."""

EXERCISE = Bug(
    solutions=(positions.softmax_scale,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(128, 64, 40.0, 1.0), ((), "f")),
        "not stretched": _plain,
        "m q and m k": _both,
    })),
    hints=(
        "How often does m occur in the product of m q and m k?",
        "(m q)·(m k) / √d = q·k · m²/√d",
        "return m * m / …",
    ),
    mistakes=(
        Mistake("1 / math.sqrt(nope + rope)", "m q and m k", "stretched 40 times, m = 1.3689"),
        Mistake("math.sqrt(m / (nope + rope))", "m q and m k", "q and k at this scale score"),
        Mistake("math.sqrt(nope + rope) * m * m", "not stretched", "4.0000, want 1/√16"),
    ),
    wrong="m / math.sqrt(nope + rope)",
    mend="m * m / math.sqrt(nope + rope)",
    fails=("m q and m k", "128 + 64 channels, stretched 40 times, m = 1.3689"),
    story=STORY,
)  # fmt: skip
