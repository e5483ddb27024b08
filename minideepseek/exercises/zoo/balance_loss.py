r"""The loss that asks for nothing  ★★  10 minutes

A loss for the balance of the experts is added to the language model's, with a weight of 0.01. It
is logged, it has the value it should have, about 0.01 where loads are even and more where they are
not. Loads stay uneven. A weight of 1 changes nothing either; a weight of 1,000 makes the total a
large number, and the curve of the loads is the same, to the last digit.

In the wild: it was logged and plotted, and the plot is right.
"""

import numpy as np

from minideepseek.autograd.engine import Tensor


def balance_loss(scores, k, alpha):
    """α Σᵢ fᵢ Pᵢ averaged over the batch, a Tensor: it has a gradient by scores, through P.

    scores: Tensor (B, T, E), affinities. fᵢ = E/(k T) · how many of the T tokens have expert i
    among their k largest; Pᵢ the mean over the T tokens of sᵢ / Σⱼ sⱼ.
    """
    s = scores.data
    experts = s.shape[-1]
    chosen = np.argsort(-s, axis=-1)[..., :k]
    hits = (chosen[..., None] == np.arange(experts)).any(-2)  # (B, T, E)
    f = hits.mean(1) * (experts / k)
    shares = s / s.sum(-1, keepdims=True)
    return Tensor((f * shares.mean(1)).sum(-1).mean() * alpha)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter, backward
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers import moe


def _of_the_library(loss):
    return lambda scores, k, alpha: loss(scores, k, alpha, None)


def _scores():
    return Parameter(np.random.default_rng(0).uniform(0.1, 0.9, (2, 5, 4)))


def _value(balance_loss):
    for scores, k in ((_scores(), 2), (Parameter(np.full((1, 4, 4), 0.5)), 4)):
        got = balance_loss(scores, k, 0.5)
        if not isinstance(got, Tensor):
            return f"it returned {described(got)}, expected a Tensor"
        want = moe.sequence_balance_loss(scores, k, 0.5, None)
        if said := compare(got.data, want.data, "the loss"):
            return said
    return ""


def _gradient(balance_loss):
    """It reaches the router, and it is that of P with f held fixed."""
    mine, other = _scores(), _scores()
    loss = balance_loss(mine, 2, 0.5)
    if loss.node is not None:
        backward(loss)
    if mine.grad is None or not mine.grad.any():
        return (
            f"the loss is {float(loss.data):.4f} and its gradient by the scores is 0\n"
            "no step of the optimiser can know of it"
        )
    backward(moe.sequence_balance_loss(other, 2, 0.5, None))
    return compare(mine.grad, other.grad, "the gradient by the scores")


STORY = """\
Counting has no derivative: f is a number of argmaxes and moves by jumps. The formula is a product
so that the other factor can carry the gradient: P is smooth, and the more tokens expert i has, the
larger the price fᵢ on its share. Where both factors are made from arrays, or from counts, the
number is right and the gradient is 0. A loss is not what is logged, it is what it asks of the
weights: a test has to look at the gradient."""

EXERCISE = Bug(
    solutions=(moe.sequence_balance_loss,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(_scores(), 2, 0.5), ((), "f")),
        "the value": _value,
        "the gradient": _gradient,
    })),
    hints=(
        "Which of f and P can change a little when a score changes a little?",
        "∂L/∂s = α Σᵢ fᵢ ∂Pᵢ/∂s: f is a constant, and P must be made of Tensors.",
        "shares = scores / scores.sum(-1, keepdims=True)",
    ),
    mistakes=(
        Mistake(
            "shares = scores / scores.sum(-1, keepdims=True)\n"
            "    return (shares.mean(1) * f).sum() * alpha",
            "the value", "off by a factor",
        ),
        Mistake(
            "shares = scores / s.sum(-1, keepdims=True)\n"
            "    return (shares.mean(1) * f).sum(-1).mean() * alpha",
            "the gradient", "the gradient by the scores",
        ),
    ),
    wrong="shares = s / s.sum(-1, keepdims=True)\n"
          "    return Tensor((f * shares.mean(1)).sum(-1).mean() * alpha)",
    mend="shares = scores / scores.sum(-1, keepdims=True)\n"
         "    return (shares.mean(1) * f).sum(-1).mean() * alpha",
    fails=("the gradient", "and its gradient by the scores is 0\nno step"),
    story=STORY,
)  # fmt: skip
