r"""The model that skips a word  ★  5 minutes

The loss falls as it should and ends a few tenths higher than expected. What the model writes is
odd: it has the right letters in nearly the right places, but every second one is missing, or it
stutters. Given a text, its most probable next token is mostly the one after the next.

In the wild: two files were each right by themselves, one that makes batches and one that makes the
loss.
"""

import numpy as np


def next_token_loss(logits, targets):
    """The mean of −ln P(target) over all positions, in nats.

    logits (B, T, V): of the inputs ids[:, :-1]; targets (B, T): ids[:, 1:], so that targets[b, t]
    is the token that follows the input at t.
    """
    logits, targets = logits[:, :-1], targets[:, 1:]
    z = logits - logits.max(-1, keepdims=True)
    logprobs = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return -np.take_along_axis(logprobs, targets[..., None], axis=-1).mean()


# ------------------------------------------------------------------------------------- not copied

from inspect import unwrap

from minideepseek.autograd import fused
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties

_IDS = np.array([[0, 2, 1, 3, 4, 0], [4, 3, 0, 1, 2, 2]])


def _of_the_library(loss):
    return lambda logits, targets: loss(logits, targets)[0]


def _certain(next_token_loss):
    """A model that knows every next token has no loss."""
    targets = _IDS[:, 1:]
    loss = next_token_loss(9.0 * np.eye(5)[targets], targets)
    if loss > 0.01:
        return (
            f"a model that is certain of every next token, and right, has a loss of {loss:.3g} nats"
            f"\ninputs {told(_IDS[0, :-1])}, targets {told(targets[0])}"
        )
    return ""


def _uniform(next_token_loss):
    loss = next_token_loss(np.zeros((2, 5, 5)), _IDS[:, 1:])
    said = f"a model that knows nothing has a loss of {loss:.4g} nats, want ln 5 = 1.609"
    return "" if abs(loss - np.log(5)) < 1e-12 else said


def _value(next_token_loss):
    logits = np.random.default_rng(0).standard_normal((2, 5, 5)) + 100
    want = unwrap(fused.softmax_cross_entropy)(logits, _IDS[:, 1:])[0]
    return compare(np.float64(next_token_loss(logits, _IDS[:, 1:])), want, "the loss")


STORY = """\
The loader had shifted already: its targets are the inputs moved by one. The loss shifted again, as
it must where it is given ids for both, and so position t was trained on the token t + 2. That can
be learned, only less well, hence the few tenths; and writing with it, one token at a time, skips.
The shift belongs in one place, and a test that knows the answer finds it: a model that is certain
and right has loss 0."""

EXERCISE = Bug(
    solutions=(fused.softmax_cross_entropy,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(np.zeros((2, 5, 7)), _IDS[:, 1:]), ((), "f")),
        "knowing nothing": _uniform,
        "certain and right": _certain,
        "the value": _value,
    })),
    hints=(
        "Which input's logits meet targets[b, 0] = ids[b, 1]?",
        "Targets that were shifted are not shifted again: position t answers targets[b, t].",
        "z = logits - logits.max(-1, keepdims=True)",
    ),
    mistakes=(
        Mistake("logits = np.pad(logits, ((0, 0), (0, 0), (0, 3)))\n    ", "knowing nothing",
                "has a loss of 2.079 nats, want ln 5 = 1.609"),
        Mistake("logits, targets = logits[:, :-1], targets[:, :-1]\n    ", "the value", "the loss"),
        Mistake("logits, targets = logits[:, 1:], targets[:, :-1]\n    ", "certain and right",
                "has a loss of"),
    ),
    wrong="logits, targets = logits[:, :-1], targets[:, 1:]\n    ",
    mend="",
    fails=("certain and right",
           "a model that is certain of every next token, and right, has a loss"),
    story=STORY,
)  # fmt: skip
