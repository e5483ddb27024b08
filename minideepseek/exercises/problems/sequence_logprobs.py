r"""The log-probability of a response  ★★  15 minutes

Fine-tuning raises it, GRPO compares it with what it was. A row holds a question q and a response o,
padded behind; the model has read all of it in one pass:

    ids       q₁ q₂ q₃ o₁ o₂ o₃ <end> <pad>
    mask       0  0  0  1  1  1   1     0          which tokens belong to the response

    ln π(o|q) = Σₜ ln π(oₜ | q, o_<t)

Three things go wrong here, and a model trains all the same:

- The shift. A position's logits are for the token after it: those at t say what is likely at t + 1.
  The mask marks tokens, so it goes with the targets.
- What counts. The question is not the model's doing, padding is nobody's. The end token is: a model
  that gets no credit for stopping does not learn to.
- The temperature. What was sampled from softmax(z / τ) has the log-probability that it has there.
  At another τ it is another policy's, and the ratio of new to old is not 1 on the first step.

Each row gets a sum, not a mean: π(o|q) is a product. What to divide by is the loss's decision, and
an exercise of its own.

Everything is a Tensor; the gradient comes by itself. You may need ops.log_softmax(x), over the last
axis; ops.take_along_axis(x, index), which picks along the last axis and wants all other axes alike;
slices x[:, :-1]; None for a new axis; x * array; x.sum(-1).
"""

import numpy as np

from minideepseek.autograd.engine import ops


def sequence_logprobs(logits, ids, mask, temperature=1.0):
    """ln π(o|q) of each row, a Tensor (B,).

    logits: Tensor (B, N, V); ids (B, N) integers; mask (B, N), 1 on the response's tokens, else 0.
    """
    raise NotImplementedError("return a Tensor (B,)")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import fused
from minideepseek.autograd.engine import Parameter, Tensor, backward
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import compare, properties
from minideepseek.reasoning.grpo import scoring

_MASK = np.array([[0, 0, 0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0, 0, 0]], float)


def _of_the_library(token_logprobs):
    def sequence_logprobs(logits, ids, mask, temperature=1.0):
        lifted = getattr(ops, token_logprobs.__name__)
        return (lifted(logits[:, :-1], ids[:, 1:], temperature=temperature) * mask[:, 1:]).sum(-1)

    return sequence_logprobs


def _row(logits, ids, temperature=1.0):
    """ln softmax(logits/τ)[t, ids[t]] of one row, and the probabilities."""
    z = logits / temperature
    z = z - z.max(-1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return logp[np.arange(len(ids)), ids], np.exp(logp)


def _others(logits, ids, mask, temperature):
    """What a wrong program gives for one row, by what is wrong with it."""
    right, _ = _row(logits[:-1], ids[1:], temperature)
    still, _ = _row(logits, ids, temperature)
    m = mask[1:]
    first, last = np.flatnonzero(m)[[0, -1]]
    without = m.copy()
    without[last] = 0
    return {
        "no shift: a token scored by its own position": (still * mask).sum(),
        "the mask is one token late": (right * mask[:-1]).sum(),
        "all tokens count": right.sum(),
        "the question counts": right[: last + 1].sum(),
        "the padding counts": right[first:].sum(),
        "the end token does not count": (right * without).sum(),
        "a mean, not a sum": (right * m).sum() / m.sum(),
        "at temperature 1": (_row(logits[:-1], ids[1:])[0] * m).sum(),
        "the sign is flipped": -(right * m).sum(),
    }


def _called(f, logits, ids, mask, temperature):
    """The values, the leaf, the result; or what is wrong with it."""
    leaf = Parameter(logits.copy())
    y = f(leaf, ids.copy(), mask.copy(), temperature)
    if not isinstance(y, Tensor):
        return leaf, y, f"it returned {described(y)}, expected a Tensor"
    if y.shape != (len(ids),):
        return leaf, y, f"it has shape {y.shape}, want ({len(ids)},): one number for each row"
    return leaf, y, ""


def _drawn(size=1.0):
    rng = np.random.default_rng(0)
    return size * rng.standard_normal((2, 8, 6)), rng.integers(0, 6, (2, 8))


def _values(temperature, size=1.0):
    def holds(f):
        logits, ids = _drawn(size)
        _, y, said = _called(f, logits, ids, _MASK, temperature)
        if said:
            return said
        for b, got in enumerate(y.data):
            want = (_row(logits[b, :-1], ids[b, 1:], temperature)[0] * _MASK[b, 1:]).sum()
            if abs(got - want) <= 1e-9 * abs(want):
                continue
            others = _others(logits[b], ids[b], _MASK[b], temperature).items()
            why = [name for name, other in others if abs(got - other) < 1e-9 * abs(other)]
            told = f"row {b}, τ = {temperature:g}: {got:.6f}, want {want:.6f}"
            return f"{told}; {why[0]}" if why else told
        return ""

    return holds


def _padding(f):
    """What stands behind the end token is of no consequence."""
    logits, ids = _drawn()
    _, y, said = _called(f, logits, ids, _MASK, 1.0)
    logits[0, 6:], ids[0, 7:] = 9.0, 0
    return said or compare(_called(f, logits, ids, _MASK, 1.0)[1].data, y.data, "other padding")


def _gradient(f):
    (logits, ids), t = _drawn(), 0.7
    leaf, y, said = _called(f, logits, ids, _MASK, t)
    if said:
        return said
    g = np.array([1.5, -0.5])
    if y.node is not None:
        backward(y, g)
    if leaf.grad is None:
        return "no gradient arrives at the logits"
    want = np.zeros_like(logits)
    for b in range(2):
        p = _row(logits[b, :-1], ids[b, 1:], t)[1]
        want[b, :-1] = (np.eye(6)[ids[b, 1:]] - p) / t * _MASK[b, 1:, None] * g[b]
    return compare(leaf.grad, want, "the gradient")


def _wrong(z="logits[:, :-1]", by="* (1 / temperature)", ids="ids[:, 1:]", mask="* mask[:, 1:]",
           total=".sum(-1)"):  # fmt: skip
    return (
        f"logp = ops.log_softmax({z} {by})\n"
        f"each = ops.take_along_axis(logp, {ids}[..., None])[..., 0]\n"
        f"return (each {mask}){total}"
    )


EXERCISE = Exercise(
    solutions=(fused.token_logprobs, scoring.score_completions),
    checker=placed(_of_the_library, properties({
        "τ = 1": _values(1.0),
        "τ = 0.7": _values(0.7),
        "padding": _padding,
        "large logits": _values(1.0, 1e3),
        "gradient": _gradient,
    })),
    hints=(
        "Cut the last position from the logits and the first token from ids and mask: then\n"
        "everything with the same index belongs together.",
        "Σₜ mask[t + 1] · log_softmax(logits[t] / τ)[ids[t + 1]]",
        "logp = ops.log_softmax(logits[:, :-1] * (1 / temperature))",
    ),
    mistakes=(
        Mistake(_wrong(z="logits", ids="ids", mask="* mask"), "τ = 1", "no shift"),
        Mistake(_wrong(mask="* mask[:, :-1]"), "τ = 1", "the mask is one token late"),
        Mistake(_wrong(mask=""), "τ = 1", "all tokens count"),
        Mistake(_wrong(mask="* (np.cumsum(mask[:, ::-1], 1)[:, ::-1] > 0)[:, 1:]"), "τ = 1",
                "the question counts"),
        Mistake(_wrong(mask="* (np.cumsum(mask, 1) > 0)[:, 1:]"), "τ = 1", "the padding counts"),
        Mistake(_wrong(mask="* (mask[:, 1:] * np.pad(mask[:, 2:], ((0, 0), (0, 1))))"), "τ = 1",
                "the end token does not count"),
        Mistake(_wrong(total=".sum(-1) * (1 / mask.sum(-1))"), "τ = 1", "a mean, not a sum"),
        Mistake(_wrong(by=""), "τ = 0.7", "at temperature 1"),
        Mistake(_wrong(total=".sum()"), "τ = 1", "it has shape (), want (2,)"),
        Mistake(_wrong(z="type(logits)(logits.data)[:, :-1]"), "gradient",
                "no gradient arrives at the logits"),
        Mistake(_wrong().replace("return (", "return -("), "τ = 1", "the sign is flipped"),
    ),
)  # fmt: skip
