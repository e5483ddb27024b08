r"""The clipped objective  ★★  15 minutes

Responses are dear, so they serve for several updates. After the first the policy π is no longer the
one that wrote them, π_old, and each token has a ratio (DeepSeekMath, section 4.1)

    ρ = π(oₜ | q, o_<t) / π_old(oₜ | q, o_<t) = exp(ln π − ln π_old)

by which its advantage A counts. The objective takes the less favourable of two values,

    J = mean over the response tokens of  min( ρ A , clip(ρ, 1 − ε, 1 + ε) A )

and the loss is −J. What this does to one token, ε = 0.2:

    ρ                 0.5                  1                  1.5
    A = +1            0.5, pushed up       1, pushed up       1.2, flat: it has moved far enough
    A = −1            −0.8, flat           −1, pushed down    −1.5, pushed down

Read the last row twice. A bad token that has become likelier is not let go at 1.2: it is pushed
back however far it has come. A clip alone, without the minimum, would be flat there, and the policy
would keep what it should unlearn.

Only ln π is a Tensor; ln π_old is what was noted at sampling time. Tokens with mask 0 are prompt or
padding and count in neither numerator nor denominator; A is one number for a row, and all of its
tokens get it. At ρ = 1 the loss is −mean A, 0 if the lengths agree, and its gradient is not.

You may need ops.exp, ops.minimum(x, y), ops.clip(x, low=…, high=…), x * array, x.sum().
"""

import numpy as np

from minideepseek.autograd.engine import ops


def clipped_objective(logprobs, old_logprobs, advantages, mask, clip_epsilon=0.2):
    """−J, a Tensor without axes.

    logprobs: Tensor (rows, tokens), ln π; old_logprobs and mask (rows, tokens); advantages (rows,).
    """
    raise NotImplementedError("return loss")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter, Tensor, backward
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import compare, properties
from minideepseek.reasoning.grpo import objective


def _of_the_library(grpo_loss):
    return lambda lp, old, a, mask, clip_epsilon=0.2: grpo_loss(
        lp, old, a, mask, clip_epsilon=clip_epsilon
    )[0]


def _called(f, lp, old, a, mask, epsilon):
    """(the loss, its gradient, ""), or what is wrong with what came back."""
    leaf = Parameter(lp.copy())
    loss = f(leaf, old.copy(), a.copy(), mask.copy(), epsilon)
    if not isinstance(loss, Tensor):
        return 0, None, f"it returned {described(loss)}, expected a Tensor"
    if loss.shape != ():
        return 0, None, f"the loss has shape {loss.shape}, want (): one number"
    if loss.node is not None:
        backward(loss)
    said = "no gradient arrives at logprobs" if leaf.grad is None else ""
    return loss.item(), leaf.grad, said


def _token(rho, a, epsilon):
    """(J, ∂J/∂ln π) of one token."""
    clipped = min(max(rho, 1 - epsilon), 1 + epsilon)
    return min(rho * a, clipped * a), rho * a if rho * a <= clipped * a else 0.0


def _region(*cells, epsilon=0.2):
    """The property that one token has the right value and the right slope in each cell (ρ, A)."""

    def holds(f):
        for rho, a in cells:
            lp, one = np.array([[np.log(0.3)]]), np.ones((1, 1))
            old = lp - np.log(rho)
            loss, slope, said = _called(f, lp, old, np.array([a]), one, epsilon)
            if said:
                return said
            j, pull = _token(rho, a, epsilon)
            where = f"ρ = {rho:g}, A = {a:+g}, ε = {epsilon:g}:"
            if abs(loss + j) > 1e-9:
                return f"{where} J is {-loss:.6g}, want {j:.6g}"
            if abs(slope[0, 0] + pull) > 1e-9:
                return f"{where} ∂J/∂ln π is {-slope[0, 0]:.6g}, want {pull:.6g}"
        return ""

    return holds


def _rows(f):
    """Rows of different lengths: values and gradients, token by token."""
    rng = np.random.default_rng(0)
    mask = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0]], float)
    old, a = -rng.exponential(1.0, mask.shape), np.array([1.2, -0.7, -0.5])
    lp = old + 0.4 * rng.standard_normal(mask.shape)
    loss, slopes, said = _called(f, lp, old, a, mask, 0.2)
    if said:
        return said
    terms, want = 0.0, np.zeros_like(lp)
    for i, t in np.argwhere(mask):
        j, pull = _token(np.exp(lp[i, t] - old[i, t]), a[i], 0.2)
        terms, want[i, t] = terms + j, -pull / mask.sum()
    if abs(loss + terms / mask.sum()) > 1e-9:
        return f"three rows of 4, 1 and 2 tokens: the loss is {loss:.6f}, want {-terms / 7:.6f}"
    outside = np.argwhere((slopes != 0) & (mask == 0))
    if len(outside):
        return f"token {outside[0][1]} of row {outside[0][0]} has mask 0, and gets a gradient"
    return compare(slopes, want, "the gradient")


def _wrong(rho="ops.exp(logprobs - old_logprobs)", a="advantages[:, None]",
           value="ops.minimum(rho * a, clipped * a)",
           mean="(value * mask).sum() * (1 / mask.sum())"):  # fmt: skip
    return (
        f"rho, a = {rho}, {a}\n"
        f"clipped = ops.clip(rho, low=1 - clip_epsilon, high=1 + clip_epsilon)\n"
        f"value = {value}\nreturn -({mean})"
    )


EXERCISE = Exercise(
    solutions=(objective.grpo_loss,),
    checker=placed(_of_the_library, properties({
        "ρ = 1": _region((1.0, 1.0), (1.0, -1.0), (1.0, 0.3)),
        "A > 0": _region((1.1, 1.0), (1.5, 1.0), (0.5, 1.0), (3.0, 0.4)),
        "A < 0": _region((0.9, -1.0), (1.5, -1.0), (0.5, -1.0), (30.0, -2.0)),
        "another ε": _region((1.05, 1.0), (1.15, 1.0), (0.85, -1.0), epsilon=0.1),
        "rows and mask": _rows,
    })),
    hints=(
        "Three lines: the ratio; the smaller of two products; a masked mean with a minus.",
        "ρ = e^(ln π − ln π_old);  −Σ mask · min(ρ A, clip(ρ) A) / Σ mask",
        "rho, a = ops.exp(logprobs - old_logprobs), advantages[:, None]",
    ),
    mistakes=(
        Mistake(_wrong(value="ops.minimum(rho, clipped) * a"), "A < 0",
                "ρ = 1.5, A = -1, ε = 0.2: J is -1.2, want -1.5"),
        Mistake(_wrong(value="clipped * a"), "A > 0",
                "ρ = 0.5, A = +1, ε = 0.2: J is 0.8, want 0.5"),
        Mistake(_wrong(value="rho * a"), "A > 0", "ρ = 1.5, A = +1, ε = 0.2: J is 1.5, want 1.2"),
        Mistake(_wrong(value="ops.maximum(rho * a, clipped * a)"), "A > 0",
                "ρ = 1.5, A = +1, ε = 0.2: J is 1.5, want 1.2"),
        Mistake(_wrong(rho="logprobs"), "ρ = 1", "J is "),
        Mistake(_wrong(rho="ops.exp(-logprobs + old_logprobs)"), "ρ = 1",
                "∂J/∂ln π is -1, want 1"),
        Mistake(_wrong(rho="ops.exp(type(logprobs)(logprobs.data - old_logprobs))"), "ρ = 1",
                "no gradient arrives at logprobs"),
        Mistake(_wrong().replace("return -(", "return ("), "ρ = 1", "J is -1, want 1"),
        Mistake(_wrong(mean="value.mean()"), "rows and mask", "the loss is"),
        Mistake(_wrong(mean="(value * mask).mean()"), "rows and mask", "the loss is"),
        Mistake(
            _wrong(mean="((value * mask).sum(1) * (1 / mask.sum(1))).mean()"), "rows and mask",
            "three rows of 4, 1 and 2 tokens: the loss is",
        ),
        Mistake(_wrong(value="ops.clip(rho * a, low=1 - clip_epsilon, high=1 + clip_epsilon)"),
                "ρ = 1", "J is 0.8, want -1"),
        Mistake(_wrong(a="advantages"), "error", "operands could not be broadcast"),
    ),
)  # fmt: skip
