r"""The group in which all were right  ★★  8 minutes

Reinforcement learning goes well for 60 steps; the share of right answers climbs. Then the loss is
NaN, and always at about the same success. A small number added to a denominator cures it, and now
and then a step is far too large for no visible reason, on questions that have become easy, where
the rewards are all 0.1 or all 1.1.

In the wild: NaN in some, advantages of ±10⁸ in others.
"""

import numpy as np


def advantages(rewards):
    """Aᵢ = (rᵢ − mean) / std in every group, (groups, G); a group of equal rewards gets zeros.

    rewards (groups, G); std is the population's (ddof 0), so that the mean of A² in a group is 1,
    whatever the unit of the rewards is.
    """
    centred = rewards - rewards.mean(1, keepdims=True)
    return centred / rewards.std(1, keepdims=True)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.reasoning.grpo.objective import group_advantages

_REWARDS = np.array([[1.0, 0, 0, 1], [0.1, 1.1, 0, 0], [0, 0, 0, 1.1]])


def _sizes(advantages):
    """Mean 0 and mean square 1, in any unit."""
    for unit in (1.0, 1e-6, 1e6):
        got = advantages(unit * _REWARDS)
        for a, r in zip(got, _REWARDS, strict=True):
            if abs(a.mean()) > 1e-6 or abs((a * a).mean() - 1) > 1e-6:
                return (
                    f"rewards {told(r)}, in units of {unit:g}: advantages {told(a)}\n"
                    f"their mean is {a.mean() + 0:.4g}, that of their squares {(a * a).mean():.6g}"
                )
    return ""


def _equal(advantages):
    """Whoever got what all got is neither better nor worse."""
    for reward, size in ((1.0, 4), (0.1, 3), (1.1, 3), (0.0, 4), (0.7, 7), (1e6 / 3, 5)):
        rewards = np.array([[reward] * size, [reward] * (size - 1) + [reward + 1]])
        got = advantages(rewards)[0]
        if not (got == 0).all():
            return f"rewards {told(rewards[0])}: advantages {told(got)}, want zeros"
    return ""


def _value(advantages):
    return compare(advantages(_REWARDS.copy()), group_advantages(_REWARDS), "the advantages")


STORY = """\
0/0 is NaN: a group of four right answers is enough, and such groups come when the model is good.
The other half is rounding: the mean of three times 0.1 is 0.10000000000000002, the deviations are
−10⁻¹⁷, their std as much, and the quotient is −1 for each: a group that teaches nothing pushes
every one of its answers down. An ε of 10⁻⁴ in the denominator hides both and makes the advantages
depend on the unit of the rewards. Equal is to be asked for by itself: max = min gives 0."""

EXERCISE = Bug(
    solutions=(group_advantages,),
    checker=properties({
        "looks right": looks_right(lambda f: f(_REWARDS.copy()), ((3, 4), "f")),
        "mean 0, mean square 1": _sizes,
        "equal rewards": _equal,
        "the value": _value,
    }),
    hints=(
        "What does the mean of 0.1, 0.1, 0.1 give? And 0/0?",
        "Where a group's largest and smallest reward are equal, A is 0 by definition; divide by 1.",
        "spread = rewards.max(1, keepdims=True) - rewards.min(1, keepdims=True)",
    ),
    mistakes=(
        Mistake(
            "same = np.ptp(rewards, 1, keepdims=True) == 0\n"
            "    std = np.where(same, 1, rewards.std(1, keepdims=True))\n"
            "    return np.where(same, 0, -centred / std)",
            "the value", "the sign is flipped",
        ),
        Mistake("return centred / (rewards.std(1, keepdims=True) + 1e-4)", "mean 0, mean square 1",
                "that of their squares 0.9996"),
        Mistake("return centred / rewards.std(1, ddof=1, keepdims=True)", "mean 0, mean square 1",
                "that of their squares 0.75"),
        Mistake("return np.nan_to_num(centred / rewards.std(1, keepdims=True))", "equal rewards",
                "rewards [0.1, 0.1, 0.1]: advantages [-1.0, -1.0, -1.0], want zeros"),
        Mistake(
            "std = rewards.std(1, keepdims=True)\n    return centred / np.where(std > 0, std, 1)",
            "equal rewards", "rewards [0.1, 0.1, 0.1]: advantages [-1.0, -1.0, -1.0], want zeros",
        ),
    ),
    wrong="return centred / rewards.std(1, keepdims=True)",
    mend="same = rewards.max(1, keepdims=True) == rewards.min(1, keepdims=True)\n"
         "    std = np.where(same, 1, rewards.std(1, keepdims=True))\n"
         "    return np.where(same, 0, centred / std)",
    fails=("equal rewards",
           "rewards [1.0, 1.0, 1.0, 1.0]: advantages [nan, nan, nan, nan], want zeros"),
    story=STORY,
)  # fmt: skip
