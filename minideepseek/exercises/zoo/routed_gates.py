r"""The experts that hardly matter  ★  5 minutes

A mixture with one shared expert and 64 routed ones, 4 of them for each token, is as good as the
shared expert alone. The routed ones get tokens, they get gradients, their weights move. Making the
layer finer, twice as many experts of half the width, makes it worse and not better. Switching the
routed ones off at the end changes the loss in the third decimal.

In the wild: some left the step out, some did it at the wrong moment; both look like this.
"""

import numpy as np


def routed_gates(scores, indices, factor):
    """The gates (N, k) of the chosen experts; they add up to factor for every token.

    scores (N, E): affinities, sigmoids; indices (N, k): the chosen; factor: routed_scaling_factor.
    """
    shares = scores / scores.sum(-1, keepdims=True)
    return factor * np.take_along_axis(shares, indices, axis=-1)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Tensor
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers import moe


def _of_the_library(gates):
    return lambda scores, indices, factor: gates(
        Tensor(scores), indices, normalise=True, factor=factor
    ).data


def _calls():
    rng = np.random.default_rng(0)
    yield np.array([[0.5, 0.5, 0.5, 0.5]]), np.array([[0, 2]]), 1.0
    indices = rng.permuted(np.tile(np.arange(64), (3, 1)), axis=1)[:, :4]
    yield rng.random((3, 64)), indices, 2.5


def _sum(routed_gates):
    for scores, indices, factor in _calls():
        for n, row in enumerate(routed_gates(scores.copy(), indices, factor)):
            if abs(row.sum() - factor) > 1e-9:
                return (
                    f"the gates of token {n} add up to {row.sum():.4g}, want {factor}\n"
                    f"{scores.shape[1]} experts, {len(row)} chosen: gates {told(row)}"
                )
    return ""


def _proportions(routed_gates):
    for scores, indices, factor in _calls():
        gates = routed_gates(scores.copy(), indices, factor)
        chosen = np.take_along_axis(scores, indices, -1)
        want = chosen * gates[:, :1] / chosen[:, :1]
        if said := compare(gates, want, "proportional to the affinities: the gates"):
            return said
    return ""


STORY = """\
Dividing by the sum over all experts is what a softmax does, and V2's gates were softmax shares: of
a peaked softmax the few chosen hold almost everything. V3's affinities are sigmoids, which do not
compete. Of 256 similar ones the 8 chosen hold 1/32 of the sum, so the layer's output is 32 times
too small beside the shared expert's, and so are the gradients of everything in it. The gates are
to be divided by the sum over the chosen: then they add up to the factor, whatever E is."""

EXERCISE = Bug(
    solutions=(moe.gate_weights,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(*list(_calls())[1]), ((3, 4), "f")),
        "proportional to s": _proportions,
        "they add up to the factor": _sum,
    })),
    hints=(
        "Add the gates of one token up. How does the sum change with the number of experts?",
        "gᵢ = f sᵢ / Σⱼ sⱼ, the sum over the k chosen ones only: gather first, then divide.",
        "chosen = np.take_along_axis(scores, indices, axis=-1)",
    ),
    mistakes=(
        Mistake(
            "chosen = np.take_along_axis(scores, indices, axis=-1)\n    return factor * chosen",
            "they add up to the factor", "64 experts, 4 chosen",
        ),
        Mistake(
            "e = np.exp(np.take_along_axis(scores, indices, axis=-1))\n"
            "    return factor * e / e.sum(-1, keepdims=True)",
            "proportional to s", "entries differ",
        ),
    ),
    wrong="shares = scores / scores.sum(-1, keepdims=True)\n"
          "    return factor * np.take_along_axis(shares, indices, axis=-1)",
    mend="chosen = np.take_along_axis(scores, indices, axis=-1)\n"
         "    return factor * chosen / chosen.sum(-1, keepdims=True)",
    fails=("they add up to the factor", "the gates of token 0 add up to 0.5, want 1.0\n4 experts"),
    story=STORY,
)  # fmt: skip
