r"""The brake that lets go  ★★  8 minutes

With one update per rollout training is right. With four it becomes unstable after a while: bad
answers that have already become rare are pushed down further and further, and ones that have
become likelier by mistake are left where they are. For good answers the clip does what the paper
says.

In the wild: a clip that was right for positive advantages and the other way round for negative
ones.
"""

import numpy as np


def clipped(ratio, advantage, epsilon=0.2):
    """min(ρ A, clip(ρ, 1 − ε, 1 + ε) A), entry by entry: the less favourable of the two.

    ratio, advantage: arrays of one shape.
    """
    bounded = np.clip(ratio, 1 - epsilon, 1 + epsilon)
    return np.minimum(ratio, bounded) * advantage


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.reasoning.grpo.objective import grpo_loss


def _of_the_library(loss):
    def one(rho, a, epsilon):
        lp, one = Parameter(np.array([[np.log(rho) - 3]])), np.ones((1, 1))
        return -loss(lp, -3 * one, [a], one, clip_epsilon=epsilon)[0].item()

    return lambda ratio, advantage, epsilon=0.2: np.vectorize(one)(ratio, advantage, epsilon)


def _at(*calls):
    def holds(clipped):
        for rho, a, epsilon, want in calls:
            got = clipped(np.array([rho]), np.array([a]), epsilon)[0]
            if abs(got - want) > 1e-9:
                return f"ρ = {rho}, A = {a}, ε = {epsilon}: {got:g}, want {want:g}"
        return ""

    return holds


STORY = """\
Multiplying by a negative number turns an order round: the minimum of two ratios times A is the
minimum of the products for A > 0 and the maximum for A < 0. For a bad answer the objective has to
stay steep where it has become likelier, ρ A without a bound (r = 1.5, A = −1 gives −1.5), and be
flat where it is rare enough. Here it is just the other way. Take the products first, then the
minimum."""

EXERCISE = Bug(
    solutions=(grpo_loss,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(np.ones(3), np.ones(3)), ((3,), "f")),
        "near 1": _at((1.1, 1.0, 0.2, 1.1), (1.1, -2.0, 0.2, -2.2), (0.9, 0.5, 0.2, 0.45)),
        "good answers": _at((1.5, 1.0, 0.2, 1.2), (0.5, 1.0, 0.2, 0.5), (1.5, 2.0, 0.4, 2.8)),
        "bad answers": _at((1.5, -1.0, 0.2, -1.5), (0.5, -1.0, 0.2, -0.8), (3.0, -1.0, 0.4, -3.0)),
    })),
    hints=(
        "Which is less favourable for A = −1: −1.5 or −1.2?",
        "min(ρ A, clip(ρ) A): the minimum is over the products.",
        "return np.minimum(ratio * advantage, …)",
    ),
    mistakes=(
        Mistake("np.minimum(advantage, bounded * advantage)", "near 1",
                "ρ = 1.1, A = 1.0, ε = 0.2: 1, want 1.1"),
        Mistake("bounded * advantage", "good answers",
                "ρ = 0.5, A = 1.0, ε = 0.2: 0.8, want 0.5"),
        Mistake("np.maximum(ratio * advantage, bounded * advantage)", "good answers",
                "ρ = 1.5, A = 1.0, ε = 0.2: 1.5, want 1.2"),
        Mistake("np.where(advantage > 0, np.minimum(ratio, bounded), bounded) * advantage",
                "bad answers", "ρ = 1.5, A = -1.0, ε = 0.2: -1.2, want -1.5"),
    ),
    wrong="np.minimum(ratio, bounded) * advantage",
    mend="np.minimum(ratio * advantage, bounded * advantage)",
    fails=("bad answers", "ρ = 1.5, A = -1.0, ε = 0.2: -1.2, want -1.5"),
    story=STORY,
)  # fmt: skip
