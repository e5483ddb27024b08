r"""The spring that does not pull  ★★★  12 minutes

The penalty for leaving the reference policy is logged. It starts at 0, as it must, it grows, and
its mean is the divergence, to the digit, by an independent measurement. Raising its weight tenfold
changes nothing but noise; the policy wanders off all the same.

In the wild: as an estimate it has no fault at all.
"""

import numpy as np

from minideepseek.autograd.engine import Tensor, ops


def kl_penalty(logprobs, ref_logprobs):
    """A penalty for each drawn token, a Tensor: never negative, its mean over draws is KL(π‖ref).

    logprobs: Tensor (…), ln π of tokens drawn from π; ref_logprobs: array (…), ln π_ref of the same
    tokens. It stands in the loss, and is to pull π back.
    """
    x = logprobs - ref_logprobs
    return x * 1.0


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter, backward
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import properties
from minideepseek.reasoning.grpo.objective import kl_estimate

_P, _REF = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])


def _of_the_library(estimate):
    return lambda logprobs, ref_logprobs: estimate(logprobs, ref_logprobs, "k3")


def _every(kl_penalty):
    """Of each token: the penalty, and its slope by the token's own ln π."""
    logprobs = Parameter(np.log(_P))
    y = kl_penalty(logprobs, np.log(_REF))
    if not isinstance(y, Tensor):
        raise TypeError(f"kl_penalty returned {described(y)}, expected a Tensor")
    if y.node is not None:
        backward(y, np.ones(3))
    slope = np.zeros(3) if logprobs.grad is None else logprobs.grad
    return y.data, slope


def _zero(kl_penalty):
    y = kl_penalty(Parameter(np.log(_P)), np.log(_P))
    return "" if np.abs(y.data).max() < 1e-12 else f"π = π_ref: the penalty is {told(y.data)}"


def _mean(kl_penalty):
    values, _ = _every(kl_penalty)
    mean, want = (_P * values).sum(), (_P * np.log(_P / _REF)).sum()
    said = f"π {told(_P)}, reference {told(_REF)}: its mean is {mean:.4f}, KL is {want:.4f}"
    return "" if abs(mean - want) < 1e-9 else said


def _pull(kl_penalty):
    """The gradient by the logits z of π that many draws have on average, Σ p slope (onehot − p)."""
    _, slope = _every(kl_penalty)
    pull = _P * (slope - (_P * slope).sum())
    if np.abs(pull).max() < 1e-9:
        return (
            f"π {told(_P)}, reference {told(_REF)}: averaged over draws, the gradient\nby the "
            f"logits of π is {told(pull)}: nothing pulls"
        )
    if (pull * (_P - _REF))[[0, 2]].min() <= 0:
        return f"averaged over draws, the gradient by the logits is {told(pull)}: it pushes away"
    return ""


def _positive(kl_penalty):
    values, _ = _every(kl_penalty)
    said = f"π {told(_P)}, reference {told(_REF)}: penalties {told(values)}, one is negative"
    return said if values.min() < 0 else ""


STORY = """\
x = ln π − ln π_ref has the right mean, which is all that an estimate is asked for. In a loss its
gradient counts, and the gradient of ln π of a drawn token is 0 on average, whatever π is: Σ p ∇ ln
p = ∇ Σ p = 0. The draws carry the rest of the derivative, and they are not differentiated. So k1
adds noise and no pull. k3 = e⁻ˣ − 1 + x is never negative, has the same mean, and pulls. (On
policy it pulls along the gradient of KL(ref‖π), the other divergence.)"""

EXERCISE = Bug(
    solutions=(kl_estimate,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(
            lambda f: f(Parameter(np.zeros((2, 3))), np.zeros((2, 3))), ((2, 3), "f")
        ),
        "0 at the reference": _zero,
        "its mean is KL": _mean,
        "it pulls": _pull,
        "never negative": _positive,
    })),
    hints=(
        "Write down the gradient of ln p(y) by the logits, and average it over y drawn from p.",
        "k3 = e⁻ˣ − 1 + x: the same mean, because the mean of e⁻ˣ = π_ref/π is 1.",
        "return ops.exp(-x) …",
    ),
    mistakes=(
        Mistake("(ops.exp(-x) - 1) * 0.5 + x", "never negative", "one is negative"),
        Mistake("x * x * 0.5", "its mean is KL", "its mean is"),
        Mistake("ops.exp(x) - 1 - x", "its mean is KL", "its mean is"),
        Mistake("Tensor(np.exp(-x.data)) - 1 + x", "it pulls", "is [0.0, 0.0, 0.0]: nothing pulls"),
        Mistake("x + (1 - x.data - x.data)", "0 at the reference", "π = π_ref: the penalty is"),
    ),
    wrong="x * 1.0",
    mend="ops.exp(-x) - 1 + x",
    fails=("it pulls", "by the logits of π is [0.0, 0.0, 0.0]: nothing pulls"),
    story=STORY,
)  # fmt: skip
