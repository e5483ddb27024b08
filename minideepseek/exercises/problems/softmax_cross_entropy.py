r"""Softmax and cross-entropy at once  ★★  12 minutes

The loss of a language model at n positions with logits z and target tokens t, in nats:

    L = −(1/n) Σᵢ ln softmax(zᵢ)[tᵢ] = (1/n) Σᵢ (ln Σⱼ e^zᵢⱼ − zᵢ,ₜᵢ)

Its gradient is the most pleasant in the whole subject, which is why the two are one primitive here.
Differentiate both terms by zᵢⱼ: the first gives a probability, the second a 1 at the target. A
position's gradient sums to 0: what the target gains, the other tokens lose in proportion to their
probabilities.

y is one number, so g is a number too, an array of shape (): 1 if L is what one differentiates,
something else if L is a term of a larger loss.
"""

import numpy as np


def softmax_cross_entropy(logits, targets):
    """The mean of −ln softmax(logits)[target].   logits (n, V), targets (n,) integers, y ()."""
    rows = np.arange(len(targets))
    z = logits - logits.max(-1, keepdims=True)
    logprobs = z - np.log(np.exp(z).sum(-1, keepdims=True))  # (n, V)

    def vjp(g):
        raise NotImplementedError("return dlogits, None")  # targets are integers: None

    return -logprobs[rows, targets].mean(), vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import fused, reference
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(n, vocab, stage=""):
        return Case([rng.standard_normal((n, vocab)), rng.integers(0, vocab, n)], {}, stage)

    return [case(4, 5), case(1, 3, "one position"), case(6, 2, "repeated targets")]


EXERCISE = Exercise(
    solutions=(fused.softmax_cross_entropy, reference.softmax_cross_entropy),
    checker=gradients(_cases),
    hints=(
        "∂/∂zⱼ of ln Σ e^z is a quotient that you know well; of −zₜ it is −1 at the target.",
        "dlogits = (softmax(z) − onehot(t)) g / n",
        "p = np.exp(logprobs)",
    ),
    mistakes=(
        Mistake(
            "p = np.exp(logprobs)\np[rows, targets] -= 1\nreturn p * g, None",
            "dlogits", "off by a factor 4",
        ),
        Mistake(
            "p = np.exp(logprobs)\np[rows, targets] -= 1\nreturn p / len(p), None",
            "dlogits", "ignores the incoming gradient g",
        ),
        Mistake(
            "p = -np.exp(logprobs)\np[rows, targets] += 1\nreturn p * g / len(p), None",
            "dlogits", "the sign is flipped",
        ),
        Mistake("return np.exp(logprobs) * g / len(logits), None", "dlogits", "of 20 entries diff"),
        Mistake(
            "p = np.exp(logprobs)\np[:, targets] -= 1\nreturn p * g / len(p), None",
            "dlogits", "of 20 entries differ",
        ),
        Mistake(
            "p = np.exp(logprobs)\np[rows, targets] -= 1\nreturn p * g / len(p)",
            "vjp", "expected a tuple, a gradient (or None) for each of logits, targets",
        ),
        Mistake(
            "onehot = np.eye(logits.shape[1])[targets]\n"
            "return (np.exp(logprobs) - onehot) * g / len(onehot), None",
            "float32", "dlogits is float64",
        ),
        Mistake(
            "logprobs[rows, targets] -= 1\nreturn logprobs * g, None",
            "vjp", "a second call answers differently",
        ),
    ),
)  # fmt: skip
