r"""The loss that is zero, and stays so  ★★  8 minutes

At the first update the loss of GRPO is 0, by construction: the advantages of a group add up to 0
and all ratios are 1. It is read in the paper's notes, it is seen in the log, and everybody is
content. The loss is 0 at the second step, too, and at the thousandth. The rewards go up and down
and stay where they were.

In the wild: some had no ratio at all, some one that could not move.
"""

import numpy as np

from minideepseek.autograd.engine import Tensor, ops


def first_update(logprobs, advantages):
    """The objective's loss, a Tensor, at the only update that is made of a rollout.

    logprobs: Tensor (rows, T), ln π of the tokens; advantages (rows,). −mean over all tokens of
    ρ A, where ρ = π/π_old; π_old is the policy that wrote the tokens, a constant, equal to π now.
    """
    old = logprobs
    ratio = ops.exp(logprobs - old)
    return -(ratio * advantages[:, None]).mean()


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter, backward
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import compare, properties
from minideepseek.reasoning.grpo.objective import grpo_loss

_A = np.array([1.0, -1.0, 0.5, -0.5])


def _of_the_library(loss):
    def first_update(logprobs, advantages):
        return loss(logprobs, logprobs.data.copy(), advantages, np.ones(logprobs.shape))[0]

    return first_update


def _logprobs():
    return Parameter(-np.random.default_rng(0).uniform(0.1, 3, (4, 3)))


def _value(first_update):
    got = first_update(_logprobs(), _A)
    if not isinstance(got, Tensor):
        return f"it returned {described(got)}, expected a Tensor"
    loss = float(got.data)
    said = f"advantages {told(_A)}, all ratios 1: the loss is {loss:.4f}"
    return "" if abs(loss) < 1e-12 else said


def _gradient(first_update):
    """−A/(tokens of the batch) for every token's ln π."""
    logprobs = _logprobs()
    loss = first_update(logprobs, _A)
    if loss.node is not None:
        backward(loss)
    want = np.repeat(-_A[:, None] / 12, 3, 1)
    got = np.zeros((4, 3)) if logprobs.grad is None else logprobs.grad
    if not got.any():
        return (
            f"the loss is {float(loss.data) + 0:g}, and its gradient by every ln π is 0\n"
            f"want −A/12, {told(want[:, 0])}, for the tokens of the rows"
        )
    return compare(got, want, "the gradient by ln π")


STORY = """\
ρ is 1 at the first update, but it must be a 1 that can move: the numerator is a function of the
weights, the denominator a number. Subtracting a tensor from itself gives a ratio of exactly 1 with
a gradient of exactly 0, and so does a ratio of two constants. The value is the expected one and
says nothing. What is to be looked at is the gradient: −A/n for every token, at the first update."""

EXERCISE = Bug(
    solutions=(grpo_loss,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(_logprobs(), _A), ((), "f")),
        "the value": _value,
        "the gradient": _gradient,
    })),
    hints=(
        "Move one ln π by a little: does the ratio move?",
        "π_old is a constant: its numbers, without the tape. logprobs.data has them.",
        "old = logprobs.…",
    ),
    mistakes=(
        Mistake("old = logprobs.data\n    ratio = Tensor(np.ones(old.shape))\n    _",
                "the gradient", "and its gradient by every ln π is 0"),
        Mistake("old = 0.5 * logprobs + 0.5 * logprobs.data\n    ratio", "the gradient",
                "right direction, off by a factor 0.5"),
        Mistake("old = 0.0 * logprobs.data\n    ratio", "the value", "all ratios 1: the loss is"),
    ),
    wrong="old = logprobs\n    ratio",
    mend="old = logprobs.data\n    ratio",
    fails=("the gradient", "the loss is 0, and its gradient by every ln π is 0\nwant"),
    story=STORY,
)  # fmt: skip
