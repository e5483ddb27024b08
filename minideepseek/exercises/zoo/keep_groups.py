r"""The groups that do not hold  ★★  8 minutes

The experts lie on several machines, one group of experts on each, and a token may visit only the
machines of its best groups: all others are struck out before its experts are chosen. The function
passes its tests and a first run looks as it should. Later in training more and more tokens are
seen on machines that were struck out, though nobody has touched the code; the longer the run, the
more.

In the wild: it stands in routing code that was copied widely, and a short run never shows it.
"""

import numpy as np


def keep_groups(biased, n_group, topk_group):
    """biased (N, E), s + b of every expert, so that no expert of another group can be chosen.

    Kept are the topk_group groups with the largest sum of their two best; each has E / n_group
    experts that lie side by side. The numbers of the kept ones stay as they are.
    """
    n, experts = biased.shape
    groups = biased.reshape(n, n_group, experts // n_group)
    two_best = np.sort(groups, axis=-1)[..., -2:].sum(-1)  # (N, n_group)
    kept = np.argsort(-two_best, axis=-1)[:, :topk_group]
    mask = np.zeros((n, n_group), bool)
    np.put_along_axis(mask, kept, True, axis=-1)
    return np.where(mask[:, :, None], groups, 0.0).reshape(n, experts)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.layers import moe

_SMALL = np.array([[-0.1, -0.3, -0.6, -0.8], [0.7, 0.1, -0.2, 0.4]])


def _within(shift):
    """The property that the best of what is returned lie in the kept groups."""

    def holds(keep_groups):
        for biased, n_group, topk_group, k in ((_SMALL + shift, 2, 1, 2),
                                               (_drawn() + shift, 4, 2, 4)):
            returned = keep_groups(biased.copy(), n_group, topk_group)
            wanted = moe.kept_groups(biased, n_group, topk_group)
            for n, row in enumerate(returned):
                for e in np.argsort(-row, kind="stable")[:k]:
                    if np.isinf(wanted[n, e]):
                        return (
                            f"token {n} goes to expert {e}, whose group is not kept\n"
                            f"s + b {told(biased[n])} in {n_group} groups, {topk_group} kept\n"
                            f"becomes {told(row)}"
                        )
                if not np.array_equal(row[wanted[n] > -np.inf], wanted[n][wanted[n] > -np.inf]):
                    return f"token {n}: s + b {told(biased[n])} of the kept becomes {told(row)}"
        return ""

    return holds


def _drawn():
    return np.random.default_rng(0).uniform(-0.5, 0.5, (6, 8))


STORY = """\
A sigmoid is never negative, so 0 looks like the smallest score there is, and before the bias has
moved it is. The balance bias is subtracted from popular experts, step by step: once the s + b of a
kept expert is below 0, an expert that was struck out stands above it and is chosen. Nothing fails:
tokens travel further, and the groups that were meant to save traffic save less and less. What is
struck out must be −∞, a value that no other can be below."""

EXERCISE = Bug(
    solutions=(moe.kept_groups,),
    checker=properties({
        "looks right": looks_right(lambda f: f(_drawn() + 1, 4, 4), ((6, 8), "f")),
        "at the beginning": _within(1.0),
        "with negative biases": _within(0.0),
        "with a large bias": _within(-30.0),
    }),
    hints=(
        "In which order do −0.3 and the number of an expert that was struck out stand?",
        "Whatever finite number strikes out, some bias goes below it.",
        "return np.where(mask[:, :, None], groups, -…).reshape(n, experts)",
    ),
    mistakes=(
        Mistake("groups, -1.0)", "with a large bias", "token 0 goes to expert 2"),
        Mistake("groups, groups)", "at the beginning", "whose group is not kept"),
        Mistake("groups - 50, -np.inf)", "at the beginning", "of the kept becomes"),
    ),
    wrong="groups, 0.0)",
    mend="groups, -np.inf)",
    fails=("with negative biases",
           "token 0 goes to expert 2, whose group is not kept\ns + b [-0.1, -0.3, -0.6, -0.8]"),
    story=STORY,
)  # fmt: skip
