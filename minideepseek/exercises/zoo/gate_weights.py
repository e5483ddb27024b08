r"""The balance that changes what is said  ★  5 minutes

Every expert has a bias that decides how easily it is chosen; it is moved after every step and has
no gradient. Loads are even, the loss falls. Yet each update of the biases moves the loss by
itself, with the weights held still, and more the longer the biases have been drifting apart. At
inference, where nothing is balanced, the outputs of two equally wanted experts are mixed
unequally.

In the wild: the sum that was made for choosing was used for everything after it, too.
"""

import numpy as np


def gate_weights(scores, bias, k, factor):
    """The k experts (N, k) with the largest s + b, and their gates (N, k), from s alone.

    scores (N, E): affinities; bias (E,); gates: f sᵢ / Σⱼ sⱼ over the chosen, f = factor.
    """
    scores = scores + bias
    indices = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    chosen = np.take_along_axis(scores, indices, axis=-1)
    return indices, factor * chosen / chosen.sum(-1, keepdims=True)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Tensor
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.layers import moe


def _of_the_library(gates):
    def gate_weights(scores, bias, k, factor):
        indices = moe.route(scores, bias, k=k, n_group=1, topk_group=1)
        return indices, gates(Tensor(scores), indices, normalise=True, factor=factor).data

    return gate_weights


_SCORES = np.array([[0.6, 0.2, 0.5, 0.1], [0.3, 0.9, 0.3, 0.4]])
_BIAS = np.array([-0.3, 0.2, 0.3, 0.0])


def _chosen(gate_weights):
    """The bias decides who is chosen."""
    for bias in (np.zeros(4), _BIAS):
        indices, _ = gate_weights(_SCORES.copy(), bias.copy(), 2, 1.0)
        for n in range(2):
            best = sorted(np.argsort(-(_SCORES + bias)[n])[:2].tolist())
            if sorted(indices[n].tolist()) != best:
                got = sorted(indices[n].tolist())
                return f"token {n} goes to experts {got}, the largest have {best}; b {told(bias)}"
    return ""


def _bias_free(gate_weights):
    """Where the same experts are chosen, the gates are the same."""
    scores = np.array([[0.6, 0.3, 0.1]])
    for bias in (np.zeros(3), np.array([0.0, 0.3, 0.0]), np.array([-0.5, -0.25, -0.6])):
        indices, gates = gate_weights(scores.copy(), bias.copy(), 2, 2.5)
        at = dict(zip(indices[0].tolist(), gates[0].tolist(), strict=True))
        want = 2.5 * scores[0, :2] / 0.9
        if abs(at[0] - want[0]) > 1e-12 or abs(at[1] - want[1]) > 1e-12:
            return (
                f"of affinities 0.6, 0.3, 0.1 two are chosen, f = 2.5, bias {told(bias)}\n"
                f"gates {told([at[0], at[1]])}, want {told(want)}"
            )
    return ""


STORY = """\
The bias says whom to ask, not how much to believe them. Leaking into the gate it is a second,
untrained weight on every expert's output, which jumps by γ at every step in whatever direction the
load asks for; and where a bias is below −s the gate turns negative, so that what the expert says
is subtracted. The remedy is two names: the sum for choosing, the affinities for weighing."""

EXERCISE = Bug(
    solutions=(moe.gate_weights, moe.route),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(
            lambda f: f(_SCORES.copy(), np.zeros(4), 2, 2.5), ((2, 2), "i"), ((2, 2), "f")
        ),
        "the bias chooses": _chosen,
        "the bias weighs nothing": _bias_free,
    })),
    hints=(
        "Take two experts of fixed affinity and move one's bias: which of the two results change?",
        "gᵢ = f sᵢ / Σⱼ sⱼ: there is no b in it. Top-k of s + b, gates of s.",
        "indices = np.argsort(-(scores + bias), …)",
    ),
    mistakes=(
        Mistake("indices = np.argsort(-scores, axis=-1, kind='stable')[:, :k]", "the bias chooses",
                "goes to experts [0, 2], the largest have"),
        Mistake("scores = scores - bias\n    indices = np.argsort(-scores, axis=-1)[:, :k]",
                "the bias chooses", "the largest have"),
    ),
    wrong="scores = scores + bias\n"
          '    indices = np.argsort(-scores, axis=-1, kind="stable")[:, :k]',
    mend='indices = np.argsort(-(scores + bias), axis=-1, kind="stable")[:, :k]',
    fails=("the bias weighs nothing",
           "bias [0.0, 0.3, 0.0]\ngates [1.25, 1.25], want [1.667, 0.833]"),
    story=STORY,
)  # fmt: skip
