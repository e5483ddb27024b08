r"""The group's advantage  ★  8 minutes

Was a reward of 0.7 good? It depends on the question. GRPO draws G responses to each question and
lets them be the measure of one another (V2 eq. 34; R1, first version, eq. 3):

    Aᵢ = (rᵢ − mean(r)) / std(r)                 over the group of response i, and nothing else

The papers leave two things open, and programs differ in them:

- Which std. Here the population's: the root of the mean of (rᵢ − mean)², divided by G, not G − 1.
- What a group of equal rewards gets. 0/0 is NaN, and one NaN ends a run. Where all are equal there
  is nothing to be learned, and A is 0, exactly: a computed mean of 0.1, 0.1, 0.1 is not 0.1, and
  what is left over, divided by a std as small as itself, is of size 1.

A small number added to the std hides both: it makes the NaN a 0/10⁻⁸, it also makes advantages
depend on the unit in which rewards are counted. Rewards of 0 and 10⁻⁹ should teach what 0 and 1 do.
So: no ε, and the equal groups apart.
"""

import numpy as np


def group_advantages(rewards):
    """A, (groups, G) float64.   rewards: an array (groups, G), a row for each question."""
    raise NotImplementedError("return A")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.reasoning.grpo import objective


def _at(*groups):
    """The property that these groups, each by itself, get what the definition says."""

    def holds(group_advantages):
        r = np.array(groups)
        want = np.array([[(x - np.mean(g)) / np.std(g) for x in g] for g in groups])
        given = r.copy()
        if said := compare(group_advantages(given), want, f"A of {r.tolist()}", 1e-6):
            return said
        return "" if np.array_equal(given, r) else "it writes into rewards"

    return holds


def _equal(*groups):
    def holds(group_advantages):
        for group in groups:
            got = group_advantages(np.array([group, [0.0, 1.0] + [0.0] * (len(group) - 2)]))
            if said := compare(got * 0, np.zeros((2, len(group))), f"A of {group}"):
                return said
            if got[0].any():
                return f"A of {group} is {got[0].tolist()}, want 0 exactly"
        return ""

    return holds


def _units(group_advantages):
    """a r + b teaches what r does."""
    r = np.array([[0.0, 1.0, 1.0, 3.0]])
    want = group_advantages(r)
    for a, b in ((10.0, 0.0), (1.0, 7.0), (1e6, -3.0), (1e-9, 0.0)):
        if said := compare(group_advantages(a * r + b), want, f"A of {a:g} r + {b:g}", 1e-6):
            return said
    return ""


EXERCISE = Exercise(
    solutions=(objective.group_advantages,),
    checker=properties({
        "one group": _at([1.0, 0.0, 0.0, 0.0]),
        "two groups": _at([1.0, 0.0, 0.0, 1.0], [5.0, 4.0, 4.0, 6.0]),
        "more of them": _at([0.1, 1.1, 0.0], [0.3, 0.2, 0.2], [9.0, -9.0, 1.0], [0.0, 0.0, 2.0]),
        "equal rewards": _equal([0.0, 0.0, 0.0, 0.0], [1.0, 1.0], [0.1, 0.1, 0.1], [0.7] * 7),
        "other units": _units,
    }),
    hints=(
        "Means and deviations are over axis 1, and stay as columns to broadcast. Which groups\n"
        "are equal is a matter of max and min, not of std, which is rounded.",
        "A = (r − mean) / std where max > min, else 0; to divide safely, divide by 1 there",
        "equal = rewards.max(1, keepdims=True) == rewards.min(1, keepdims=True)",
    ),
    mistakes=(
        Mistake(
            "return (rewards - rewards.mean(1, keepdims=True)) / "
            "rewards.std(1, keepdims=True, ddof=1)",
            "one group", "off by a factor 0.866025",
        ),
        Mistake(
            "return (rewards - rewards.mean(1, keepdims=True)) / rewards.std(1, keepdims=True)",
            "equal rewards", "A of [0.0, 0.0, 0.0, 0.0] holds NaN or Inf",
        ),
        Mistake(
            "return (rewards - rewards.mean(1, keepdims=True)) / "
            "(rewards.std(1, keepdims=True) + 1e-8)",
            "equal rewards", "want 0 exactly",
        ),
        Mistake(
            "equal = rewards.max(1, keepdims=True) == rewards.min(1, keepdims=True)\n"
            "a = (rewards - rewards.mean(1, keepdims=True)) / "
            "(rewards.std(1, keepdims=True) + 1e-8)\nreturn np.where(equal, 0, a)",
            "other units", "A of 1e-09 r + 0: right direction, off by a factor 0.",
        ),
        Mistake("return (rewards - rewards.mean()) / rewards.std()", "two groups",
                "entries differ"),
        Mistake("return rewards - rewards.mean(1, keepdims=True)", "one group",
                "off by a factor 0.433013"),
        Mistake("return (rewards - rewards.mean(0)) / rewards.std(0)", "one group", "NaN or Inf"),
        Mistake(
            "return (rewards - rewards.mean(1)) / rewards.std(1)",
            "error", "operands could not be broadcast",
        ),
        Mistake(
            "a = (rewards - rewards.mean(1, keepdims=True)) / rewards.std(1, keepdims=True)\n"
            "return np.nan_to_num(a)",
            "equal rewards", "A of [0.1, 0.1, 0.1] is",
        ),
        Mistake(
            "return (rewards - rewards.mean(1, keepdims=True)) / rewards.var(1, keepdims=True)",
            "one group", "off by a factor 2.3094",
        ),
    ),
)  # fmt: skip
