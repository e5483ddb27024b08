r"""The easy question that is praised  ★  5 minutes

Training on questions of mixed difficulty makes the easy ones perfect within minutes, and the hard
ones worse than they were at the start. With questions of one difficulty all is well. The mean of
all advantages is 0 at every step, as it should be.

In the wild: a batch was normalised, as a batch often is.
"""

import numpy as np


def group_baseline(rewards):
    """How much better than the others' answers to the same question each was, (questions, G).

    rewards (questions, G): G answers to each question. The baseline is their mean; not divided by
    a deviation.
    """
    return rewards - rewards.mean()


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.reasoning.grpo.objective import group_advantages


def _of_the_library(advantages):
    return lambda rewards: advantages(rewards, "none")


_REWARDS = np.array([[1.0, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])


def _mean(group_baseline):
    a = group_baseline(_REWARDS.copy())
    return "" if abs(a.mean()) < 1e-12 else f"the mean of all advantages is {a.mean():.3f}, want 0"


def _groups(group_baseline):
    for n, a in enumerate(group_baseline(_REWARDS.copy())):
        if abs(a.sum()) > 1e-12:
            way = "likelier" if a.sum() > 0 else "rarer"
            return (
                f"question {n} has rewards {told(_REWARDS[n])}\nand advantages {told(a)}\n"
                f"which add up to {a.sum():.3f}: its answers are made {way}"
            )
    return ""


def _value(group_baseline):
    want = group_advantages(_REWARDS, "none")
    return compare(group_baseline(_REWARDS.copy()), want, "the advantages")


STORY = """\
The baseline is what was to be expected of an answer, and that depends on the question. With the
mean of the batch the answers to an easy question are made likelier on the whole, those to a hard
one rarer: a pull that comes from how difficult questions are, which no answer can change, and it
makes whatever the policy does on hard ones less likely. A group's mean takes it out exactly."""

EXERCISE = Bug(
    solutions=(group_advantages,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(_REWARDS.copy()), ((3, 4), "f")),
        "mean 0": _mean,
        "every question by itself": _groups,
        "the value": _value,
    })),
    hints=(
        "All four answers to the last question are right. Which of them was better than expected?",
        "Aᵢ = rᵢ − mean of the G rewards to the same question.",
        "return rewards - rewards.mean(1, …)",
    ),
    mistakes=(
        Mistake("rewards.mean(0)", "every question by itself", "question 0 has rewards [1.0, 1.0"),
        Mistake("np.median(rewards)", "mean 0", "the mean of all advantages"),
        Mistake("(rewards.sum(1, keepdims=True) - rewards) / 3", "the value", "the advantages: "),
    ),
    wrong="rewards.mean()",
    mend="rewards.mean(1, keepdims=True)",
    fails=("every question by itself",
           "question 0 has rewards [1.0, 1.0, 1.0, 0.0]\nand advantages [0.333"),
    story=STORY,
)  # fmt: skip
