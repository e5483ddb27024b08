r"""The benchmark that is never full  ★  6 minutes

Of n answers to a problem c are right; pass@k is how probable it is that k of them hold a right
one. For k = n that can only be 0 or 1, and the table has 0.68. Two groups report different figures
for one model, and the one that drew more samples has the better figures, at the same k.

In the wild: it is a formula for something else.
"""

import math


def pass_at_k(n, c, k):
    """The probability that k different ones of n samples, c of which are right, hold a right one.

    0 ≤ c ≤ n, 1 ≤ k ≤ n. A float in [0, 1].
    """
    return 1 - (1 - c / n) ** k


# ------------------------------------------------------------------------------------- not copied

from itertools import combinations

from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.reasoning import evaluate


def _one(pass_at_k):
    for n, c in ((4, 1), (8, 0), (8, 5), (3, 3)):
        got = pass_at_k(n, c, 1)
        if abs(got - c / n) > 1e-12:
            return f"n = {n}, c = {c}, k = 1: {got:.4f}, want c/n = {c / n:.4f}"
    return ""


def _counted(pass_at_k):
    """All choices of k of n, one by one."""
    for n, c, k in ((4, 1, 4), (4, 1, 2), (5, 2, 3), (6, 2, 5), (6, 0, 3), (6, 6, 2), (8, 2, 4)):
        choices = list(combinations(range(n), k))
        hits = sum(min(choice) < c for choice in choices)
        got, want = pass_at_k(n, c, k), hits / len(choices)
        if abs(got - want) > 1e-12:
            return (
                f"n = {n}, c = {c}, k = {k}: {got:.4f}, want {want:.4f}\n"
                f"of {len(choices)} ways to choose {k} of {n}, {hits} hold a right one"
            )
    return ""


STORY = """\
1 − (1 − c/n)ᵏ is right for drawing with putting back: it may take one answer k times. It is
concave in c/n, so that its mean lies below the truth, the more the fewer samples were drawn;
figures of two n are not comparable, and none is unbiased. Without putting back: 1 − C(n − c,
k)/C(n, k). Python's integers are exact, whatever n is."""

EXERCISE = Bug(
    solutions=(evaluate.pass_at_k,),
    checker=properties({
        "looks right": looks_right(lambda f: f(8, 3, 2), ((), "f")),
        "pass@1": _one,
        "every choice counted": _counted,
    }),
    hints=(
        "Four samples, one of them right, and all four are chosen. What must come out?",
        "1 − C(n − c, k)/C(n, k): all k are among the n − c wrong ones.",
        "return 1 - math.comb(…) / …",
    ),
    mistakes=(
        Mistake("1 - math.comb(n - c, k - 1) / math.comb(n, k - 1)", "pass@1", "want c/n = 0.2500"),
        Mistake("min(1.0, k * c / n)", "every choice counted", "n = 5, c = 2, k = 3: 1.0000"),
        Mistake("float(c > 0) if k > 1 else c / n", "every choice counted",
                "n = 4, c = 1, k = 2: 1.0000, want 0.5000"),
        Mistake("c / n", "every choice counted", "n = 4, c = 1, k = 4: 0.2500, want 1.0000"),
    ),
    wrong="1 - (1 - c / n) ** k",
    mend="1 - math.comb(n - c, k) / math.comb(n, k)",
    fails=("every choice counted", "n = 4, c = 1, k = 4: 0.6836, want 1.0000\nof 1 ways"),
    story=STORY,
)  # fmt: skip
