r"""The router that starves its experts  ★  5 minutes

A mixture of 16 experts trains. Its loss falls, the text gets better, a little slower than hoped.
Nobody looks at how many tokens each expert gets. Who does finds that most of them get none, and
that the bias that was to balance them makes it worse the longer it runs: an idle expert's bias is
raised at every step, as it should be, and the expert stays idle.

In the wild: 12 of 16 experts were dead after 300 updates.
"""

import numpy as np


def choose_experts(scores, bias, k):
    """The experts of each token: the k with the largest s + b, in any order.

    scores (N, E): affinities; bias (E,): the balance's. Returns (N, k) integers.
    """
    order = np.argsort(scores + bias, axis=-1)
    return order[:, :k]


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.layers.moe import route


def _of_the_library(route):
    return lambda scores, bias, k: route(scores, bias, k=k, n_group=1, topk_group=1)


_CALLS = [(np.array([[0.1, 0.9, 0.4, 0.3]]), 2), (np.random.default_rng(0).random((5, 6)), 3)]


def _largest(biased):
    """The property that nobody with a larger s + b is left out."""

    def holds(choose_experts):
        for scores, k in _CALLS:
            bias = np.linspace(0.5, -0.5, scores.shape[1]) * biased
            for n, chosen in enumerate(choose_experts(scores.copy(), bias.copy(), k).tolist()):
                c = scores[n] + bias
                best = sorted(np.argsort(-c)[:k].tolist())
                if sorted(chosen) != best:
                    return (
                        f"token {n} goes to experts {sorted(chosen)}, the largest have {best}\n"
                        f"its s + b: {told(c)}"
                    )
        return ""

    return holds


STORY = """\
NumPy sorts upwards; in other libraries a flag decides. The smallest were chosen: each token went
to the experts that wanted it least. Training adapts to any fixed choice, so the loss fell. But the
update of the bias, b + γ sign(mean − n), takes for granted that a larger b is chosen more often;
with the sort upside down it is positive feedback. What would have shown it on the first day is the
number of dead experts, logged."""

EXERCISE = Bug(
    solutions=(route,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(*_CALLS[1][:1], np.zeros(6), 3), ((5, 3), "i")),
        "the largest are chosen": _largest(False),
        "the bias counts": _largest(True),
    })),
    hints=(
        "What does the first column of `order` hold?",
        "np.argsort sorts from the smallest to the largest. The largest stand last.",
        "return order[:, …]",
    ),
    mistakes=(
        Mistake("np.argsort(scores, axis=-1)[:, -k:]", "the bias counts", "the largest have"),
        Mistake("order[:, -k - 1 : -1]", "the largest are chosen", "goes to experts [2, 3]"),
    ),
    wrong="order[:, :k]",
    mend="order[:, -k:]",
    fails=("the largest are chosen",
           "token 0 goes to experts [0, 3], the largest have [1, 2]\nits s + b: [0.1, 0.9, 0.4"),
    story=STORY,
)  # fmt: skip
