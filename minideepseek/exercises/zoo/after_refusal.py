r"""The word the drafter likes too much  ★★  8 minutes

A draft is refused by the right rule, with a random number, and instead of it a token is drawn from
the model itself. What could be more honest? Yet of two words that the model holds equally likely
the one that the drafter prefers is written more often.

In the wild: it was the argmax in some, a fresh sample of the model's law in others.
"""

import numpy as np


def after_refusal(p, q):
    """The law (V,) of the token that is written in place of a refused draft.

    p, q (V,): the laws of the model and of the drafter. A draft y ~ q is accepted with probability
    min(1, p(y)/q(y)); with the right law behind a refusal every token is written with p, exactly.
    Where p = q nothing is refused, and any law will do.
    """
    law = np.maximum(p, 0)
    total = law.sum()
    return law / total if total > 0 else p


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.model.speculative import residual


def _of_the_library(residual):
    return lambda p, q: residual(p[None], q[None])[0]


_LAWS = [(np.array([0.5, 0.5]), np.array([0.9, 0.1])),
         (np.array([0.6, 0.3, 0.1, 0.0]), np.array([0.1, 0.2, 0.3, 0.4]))]


def _exact(after_refusal):
    for p, q in _LAWS:
        taken = np.minimum(p, q)
        law = taken + (1 - taken.sum()) * after_refusal(p.copy(), q.copy())
        if np.abs(law - p).max() > 1e-12:
            return (
                f"p {told(p)}, q {told(q)}: accepted drafts write {told(taken)}\n"
                f"with the rest by your law {told(law)}, want p"
            )
    return ""


STORY = """\
Accepted drafts have already written min(p, q). What is missing to p is (p − q)₊, only tokens that
the drafter proposes too rarely, and so the residual is that, normalised. Drawing from p once more
gives min(p, q) + TV · p, TV = ½ Σ |p − q| the share of refusals: tokens that the drafter likes get
more than their due. The error is TV-sized, and a good drafter hides it."""

EXERCISE = Bug(
    solutions=(residual,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(*_LAWS[1]), ((4,), "f")),
        "what is written is p": _exact,
    })),
    hints=(
        "Accepted drafts write token y with min(p(y), q(y)). How much is missing to p(y)?",
        "(p − q)₊ / Σ (p − q)₊",
        "law = np.maximum(p - …, 0)",
    ),
    mistakes=(
        Mistake("np.abs(p - q)", "what is written is p", "with the rest by your law"),
        Mistake("np.eye(len(p))[p.argmax()]", "what is written is p", "with the rest by your law"),
        Mistake("np.maximum(q - p, 0)", "what is written is p", "with the rest by your law"),
        Mistake("np.where(p > q, p, 0)", "what is written is p", "with the rest by your law"),
    ),
    wrong="np.maximum(p, 0)",
    mend="np.maximum(p - q, 0)",
    fails=("what is written is p",
           "p [0.5, 0.5], q [0.9, 0.1]: accepted drafts write [0.5, 0.1]\nwith the rest"),
    story=STORY,
)  # fmt: skip
