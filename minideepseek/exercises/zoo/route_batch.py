r"""The balance that is always perfect  ★★  10 minutes

Loads are even from the very first step, better than in any paper. The training loss is good, too.
Generating text one token at a time, the same model is worse than its loss promised, and the same
prompt is answered otherwise when it stands in another batch: what follows a token has a say in
which experts the token went to.

In the wild: the counts are at hand before the experts are multiplied, so why should they wait?
"""

import numpy as np


def top_k(x, k):
    """The k largest of each row, (N, k) integers, largest first."""
    return np.argsort(-x, axis=-1, kind="stable")[:, :k]


def moved(bias, indices, gamma):
    """The bias (E,) after the loads of these choices: too few tokens raise it by gamma."""
    counts = np.bincount(indices.ravel(), minlength=len(bias))
    return bias + gamma * np.sign(counts.mean() - counts)


def route_batch(scores, bias, k, gamma):
    """The experts (N, k) of a step's tokens, chosen by s + b, and the bias (E,) for the next step.

    scores (N, E): the affinities of the N tokens, in the order of the text.
    """
    bias = moved(bias, top_k(scores + bias, k), gamma)
    return top_k(scores + bias, k), bias


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers import moe


def _of_the_library(update_bias):
    def route_batch(scores, bias, k, gamma):
        indices, after = moe.route(scores, bias, k=k, n_group=1, topk_group=1), bias.copy()
        update_bias(after, moe.count_experts(indices, len(bias)), gamma)
        return indices, after

    return route_batch


_SCORES = np.array([[0.5, 0.6, 0.1], [0.2, 0.3, 0.4], [0.6, 0.5, 0.2], [0.1, 0.8, 0.3]])


def _causal(route_batch):
    """Other tokens later leave the choices of the earlier ones alone."""
    bias = np.zeros(3)
    first, _ = route_batch(_SCORES.copy(), bias.copy(), 1, 0.1)
    for last in ([0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [0.1, 0.9, 0.1]):
        scores = _SCORES.copy()
        scores[3] = last
        again, _ = route_batch(scores, bias.copy(), 1, 0.1)
        for n in range(3):
            if first[n, 0] != again[n, 0]:
                return (
                    f"token {n} goes to expert {first[n, 0]}, and to expert {again[n, 0]} where "
                    f"token 3 is another one\nscores of token 3: {told(_SCORES[3])}, then "
                    f"{told(scores[3])}"
                )
    return ""


def _alone(route_batch):
    """A token read alone goes where it goes in the batch."""
    scores = np.repeat(_SCORES[:1], 4, axis=0)  # four times the same
    together, _ = route_batch(scores.copy(), np.zeros(3), 1, 0.1)
    for n in range(4):
        alone, _ = route_batch(scores[n : n + 1].copy(), np.zeros(3), 1, 0.1)
        if alone[0, 0] != together[n, 0]:
            return f"token {n} goes to expert {together[n, 0]} in the batch, {alone[0, 0]} alone"
    return ""


def _next_bias(route_batch):
    for scores in (_SCORES, _SCORES[::2]):
        bias = np.array([0.05, 0.0, -0.05])
        _, after = route_batch(scores.copy(), bias.copy(), 1, 0.1)
        want = moved(bias, top_k(scores + bias, 1), 0.1)
        if said := compare(after, want, "the bias for the next step"):
            return said
    return ""


STORY = """\
The counts of a step contain its last tokens. A choice that depends on them tells the first tokens
something about what comes, and a language model finds whatever is told it: its loss counts a help
that is not there when it writes. That is why the update uses the finished step, and holds from the
next batch on. The same leak has a larger relative: experts that choose their tokens."""

EXERCISE = Bug(
    solutions=(moe.update_bias, moe.route),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(
            lambda f: f(_SCORES.copy(), np.zeros(3), 2, 0.01), ((4, 2), "i"), ((3,), "f")
        ),
        "no token sees the future": _causal,
        "alone as in a batch": _alone,
        "the next step's bias": _next_bias,
    })),
    hints=(
        "Whose tokens' counts have moved the bias by which token 0 is sent?",
        "Choose by the bias that was given; count; move. Only the next batch sees the new one.",
        "indices = top_k(scores + bias, k)",
    ),
    mistakes=(
        Mistake(
            "rows = []\n    for s in scores:\n        rows.append(top_k(s[None] + bias, k)[0])\n"
            "        bias = moved(bias, rows[-1], gamma)\n    return np.array(rows), bias",
            "alone as in a batch", "token 1 goes to expert 0 in the batch, 1 alone",
        ),
        Mistake("return top_k(scores + bias, k), bias", "the next step's bias", "the bias for"),
        Mistake("return top_k(scores, k), moved(bias, top_k(scores + bias, k), -gamma)",
                "the next step's bias", "the bias for the next step"),
        Mistake(
            "b = moved(bias, top_k(scores + bias, k), gamma)\n"
            "    return top_k(scores + (b + bias) / 2, k), b",
            "no token sees the future", "goes to expert",
        ),
    ),
    wrong="bias = moved(bias, top_k(scores + bias, k), gamma)\n"
          "    return top_k(scores + bias, k), bias",
    mend="indices = top_k(scores + bias, k)\n    return indices, moved(bias, indices, gamma)",
    fails=("no token sees the future", "where token 3 is another one\nscores of token 3:"),
    story=STORY,
)  # fmt: skip
