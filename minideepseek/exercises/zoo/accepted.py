r"""The text that plays safe  ★★  8 minutes

With a drafter a model writes faster, and its text is said to be the same. Over many samples it is
not: it prefers what is common, rare words become rarer, and at temperature 1 the entropy of what
is written is lower than without the drafter. Greedy text is identical, and that is what was
tested.

In the wild: a fixed threshold and no random number, or a comparison of two probabilities.
"""

import numpy as np


def accepted(p, q, token, u):
    """Whether a draft is taken: with probability min(1, p(token)/q(token)).

    p, q (V,): the laws of the model and of the drafter; token: drawn from q; u: a uniform random
    number in [0, 1).
    """
    return bool(p[token] >= 0.3)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.model.speculative import acceptance

_GRID = (np.arange(400) + 0.5) / 400
_LAWS = (  # of the model, and of the drafter
    (np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])),
    (np.array([0.8, 0.1, 0.1]), np.array([0.1, 0.1, 0.8])),
)


def _of_the_library(acceptance):
    return lambda p, q, token, u: acceptance(p[None], q[None], np.array([token]))[0] > u


def _greedy(accepted):
    """Laws that are points: the model's choice is taken, another is not."""
    for choice in range(3):
        p = np.eye(3)[choice]
        for token in range(3):
            if accepted(p, np.eye(3)[token], token, 0.5) != (token == choice):
                return f"p {told(p)}, q {told(np.eye(3)[token])}: token {token} is judged wrongly"
    return ""


def _law(accepted):
    """min(p, q) + (what is refused) · residual = p, token by token."""
    for p, q in _LAWS:
        rates = np.array([np.mean([accepted(p, q, y, u) for u in _GRID]) for y in range(3)])
        rest = np.maximum(p - q, 0) / np.maximum(p - q, 0).sum()
        law = q * rates + (1 - (q * rates).sum()) * rest
        if np.abs(law - p).max() > 3e-3:
            return (
                f"p {told(p)}, q {told(q)}: accepted with {told(rates)}\n"
                f"so that tokens are written with {told(law)}, want p"
            )
    return ""


STORY = """\
A draft y comes with probability q(y); taken with min(1, p(y)/q(y)) it is written with min(p, q),
and the residual law makes up the rest to p, exactly, whatever q is. A threshold makes another law:
what is above it is taken as often as the drafter proposes it, what is below never. It looks like
text of the model, only tamer, and greedy decoding, where laws are points, shows no difference. The
test is an average over u, on three tokens, where the law can be added up by hand."""

EXERCISE = Bug(
    solutions=(acceptance,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(*_LAWS[0], 0, 0.5), ((), "b")),
        "greedy laws": _greedy,
        "what is written is p": _law,
    })),
    hints=(
        "u is never looked at. What is it for?",
        "u < p(y)/q(y) happens with probability min(1, p(y)/q(y)).",
        "return bool(u * q[token] < …)",
    ),
    mistakes=(
        Mistake("bool(p[token] >= q[token])", "what is written is p", "so that tokens are written"),
        Mistake("bool(u < p[token])", "what is written is p", "so that tokens are written with"),
        Mistake("bool(u * p[token] < q[token])", "greedy laws", "token 1 is judged wrongly"),
        Mistake("bool(token == p.argmax())", "what is written is p", "so that tokens are written"),
    ),
    wrong="bool(p[token] >= 0.3)",
    mend="bool(u * q[token] < p[token])",
    fails=("what is written is p",
           "p [0.5, 0.25, 0.25], q [0.25, 0.5, 0.25]: accepted with [1.0, 0.0, 0.0]"),
    story=STORY,
)  # fmt: skip
