r"""The k3 penalty  ★★  10 minutes

A spring to a reference: training is to raise the reward, and not to leave the policy π_ref, whose
language was good, further than that needs. How far it has gone is a sum over all tokens,

    KL(π‖π_ref) = Σ_o π(o) ln( π(o) / π_ref(o) )

and estimated from the one token that was drawn, with x = ln π(o) − ln π_ref(o). The obvious
estimate is x itself, k1: right on average, but negative wherever π < π_ref, and useless in a loss,
since its gradient averages to 0. GRPO takes (Schulman 2020; V2 eq. 33; R1, first version, eq. 2)

    k3 = π_ref(o)/π(o) − ln( π_ref(o)/π(o) ) − 1

Why this is right: the ratio π_ref/π has the mean Σ π · π_ref/π = 1 under π, and ratio − 1 can be
added to k1 without changing its mean. Why it is better: e^y ≥ 1 + y, so that k3 is never negative,
and 0 only where the two agree.

Which of the two stands above is easily mixed up. The other way round the formula is as positive and
as smooth, and estimates KL(π_ref‖π) for tokens drawn from π_ref, which these are not.

In the loss the gradient goes through ln π alone: ∂k3/∂ln π = 1 − π_ref/π. You may need ops.exp.
"""

import numpy as np

from minideepseek.autograd.engine import ops


def k3(logprobs, ref_logprobs):
    """k3 of every token, a Tensor of logprobs' shape.

    logprobs: Tensor, ln π of the tokens drawn; ref_logprobs: an array of its shape, ln π_ref.
    """
    raise NotImplementedError("return a Tensor")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter, Tensor, backward
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import compare, properties
from minideepseek.reasoning.grpo import objective


def _of_the_library(kl_estimate):
    return lambda logprobs, ref_logprobs: kl_estimate(logprobs, ref_logprobs, "k3")


_P, _REF = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.1, 0.3, 0.2, 0.4])


def _called(k3, p, ref):
    """(leaf, the Tensor, what is wrong with it)."""
    leaf = Parameter(np.log(p)[None])
    y = k3(leaf, np.log(ref)[None])
    if not isinstance(y, Tensor):
        return leaf, y, f"it returned {described(y)}, expected a Tensor"
    if y.shape != (1, len(p)):
        return leaf, y, f"it has shape {y.shape}, want {(1, len(p))}: a number for each token"
    return leaf, y, ""


def _agree(k3):
    _, y, said = _called(k3, _P, _P)
    if said:
        return said
    far = np.abs(y.data).max()
    return "" if far <= 1e-12 else f"π = π_ref, and it is {far:g}, want 0"


def _positive(k3):
    _, y, said = _called(k3, _P, _REF)
    if said or (y.data >= 0).all():
        return said
    i = int(y.data[0].argmin())
    return f"π = {_P[i]:g}, π_ref = {_REF[i]:g}: it is {y.data[0, i]:g}, which is negative"


def _mean(k3):
    """Its mean under π is KL(π‖π_ref): a sum over four tokens."""
    value = (_P * _called(k3, _P, _REF)[1].data[0]).sum()
    want, other = ((a * np.log(a / b)).sum() for a, b in ((_P, _REF), (_REF, _P)))
    if abs(value - want) < 1e-9:
        return ""
    under = (_REF * _called(k3, _P, _REF)[1].data[0]).sum()
    swapped = "; under π_ref it would be KL(π_ref‖π)" if abs(under - other) < 1e-9 else ""
    return f"its mean under π is {value:.6f}, and KL(π‖π_ref) {want:.6f}{swapped}"


def _gradient(k3):
    leaf, y, _ = _called(k3, _P, _REF)
    g = np.array([[1.0, -2.0, 0.5, 3.0]])
    if y.node is not None:
        backward(y, g)
    if leaf.grad is None:
        return "no gradient arrives at logprobs"
    return compare(leaf.grad, g * (1 - _REF / _P), "the gradient")


EXERCISE = Exercise(
    solutions=(objective.kl_estimate,),
    checker=placed(_of_the_library, properties({
        "π = π_ref": _agree,
        "never negative": _positive,
        "the mean": _mean,
        "gradient": _gradient,
    })),
    hints=(
        "Everything in it is a function of x = ln π − ln π_ref: what is π_ref/π then?",
        "k3 = e^(−x) + x − 1",
        "x = logprobs - ref_logprobs",
    ),
    mistakes=(
        Mistake("x = logprobs - ref_logprobs\nreturn ops.exp(x) - 1 - x", "the mean",
                "under π_ref it would be KL(π_ref‖π)"),
        Mistake("return logprobs - ref_logprobs", "never negative", "which is negative"),
        Mistake("x = logprobs - ref_logprobs\nreturn x * x * 0.5", "the mean", "its mean under π"),
        Mistake("x = logprobs - ref_logprobs\nreturn ops.exp(-x) + x", "π = π_ref",
                "it is 1, want 0"),
        Mistake("x = logprobs - ref_logprobs\nreturn ops.exp(-x) - 1", "never negative",
                "π = 0.5, π_ref = 0.1: it is -0.8"),
        Mistake("x = logprobs - ref_logprobs\nreturn ops.exp(-x) - 1 - x", "never negative",
                "which is negative"),
        Mistake("x = logprobs - ref_logprobs\nreturn -(ops.exp(-x) - 1 + x)", "never negative",
                "which is negative"),
        Mistake("x = type(logprobs)(logprobs.data - ref_logprobs)\nreturn ops.exp(-x) - 1 + x",
                "gradient", "no gradient arrives at logprobs"),
        Mistake("x = logprobs - ref_logprobs\nreturn (ops.exp(-x) - 1 + x).mean()", "π = π_ref",
                "it has shape (), want (1, 4)"),
        Mistake(
            "x = logprobs - ref_logprobs\nreturn type(x)(np.exp(-x.data)) - 1 + x", "gradient",
            "entries differ",
        ),
        Mistake("x = logprobs - ref_logprobs\nreturn (x * x) / (x * x) * 0 + ops.exp(-x) - 1 + x",
                "π = π_ref", "it is nan, want 0"),
    ),
)  # fmt: skip
