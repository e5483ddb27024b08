r"""The mask that hides too little  ★★  6 minutes

A small language model reaches a training loss far below what its size allows, and writes nonsense.
There is a causal mask, it has the right triangle, and the picture of it is in the documentation.
In the attention's weights of a trained model the future has small numbers, but they are not 0.

In the wild: it was seen in several forms. Of one the first position's logits moved by 0.78 when
the last token was changed.
"""

import numpy as np


def causal_attention(q, k, v):
    """softmax(q kᵀ/√d) v, token t looking at tokens 0 … t.   q, k (B, T, d), v (B, T, e)."""
    seen = np.tri(q.shape[1], dtype=bool)  # seen[t, s]: whether token t sees token s
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    scores = scores * seen
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


# ------------------------------------------------------------------------------------- not copied

from inspect import unwrap

from minideepseek.autograd import attention, reference
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties


def _of_the_library(attention):
    def causal_attention(q, k, v):
        heads = (x[:, :, None] for x in (q, k, v))
        return attention(*heads, scale=q.shape[-1] ** -0.5)[0][:, :, 0]

    return causal_attention


def _inputs(t=4):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, t, n)) for n in (3, 3, 2)]


def _mean(causal_attention):
    """Equal values come back whatever the weights are."""
    q, k, v = _inputs()
    y = causal_attention(q, k, np.ones_like(v))
    return compare(y, np.ones_like(v), "of values that are all 1: y")


def _future(causal_attention):
    q, k, v = _inputs()
    first = causal_attention(q, k, v)
    last = np.arange(4)[:, None] == 3
    for name, keys, values in (("value", k, v + 5 * last), ("key", k + 5 * last, v)):
        again = causal_attention(q, keys, values)
        for t in range(3):
            moved = np.abs(again[:, t] - first[:, t]).max()
            if moved > 1e-12:
                change = f"the {name} of token 3 changed by 5"
                return f"{change}: the output of token {t} moves by {moved:.2g}"
    return ""


def _value(causal_attention):
    inputs = _inputs(5)
    return compare(
        causal_attention(*inputs), _of_the_library(unwrap(attention.attention))(*inputs), "y"
    )


STORY = """\
A score of 0 is a score like any other, e⁰ = 1: as much weight as an average token gets. Adding a
boolean mask to the scores is the same mistake in another form, it adds 1 to what is seen and hides
nothing. Hidden means −∞, whose exponential is 0 exactly. The weights of the future are small
enough to be overlooked in a picture, and enough for a model to read the answer through them."""

EXERCISE = Bug(
    solutions=(attention.attention, reference.attention),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(*_inputs()), ((2, 4, 2), "f")),
        "weights add up to 1": _mean,
        "the future is not seen": _future,
        "the value": _value,
    })),
    hints=(
        "What is the weight of a token whose score is 0, beside one whose score is −0.5?",
        "e^−∞ = 0: what is not seen gets −∞ before the softmax.",
        "scores = np.where(seen, scores, …)",
    ),
    mistakes=(
        Mistake("p = np.exp(scores)\n    return p * seen / p.sum(-1, keepdims=True) @ v",
                "weights add up to 1", "of values that are all 1: y"),
        Mistake("scores = scores + seen", "the future is not seen", "the value of token 3 changed"),
        Mistake("scores = np.where(seen.T, scores, -np.inf)", "the future is not seen",
                "the output of token 0"),
        Mistake("scores = np.where(np.tri(q.shape[1], k=-1), scores, -1e30)",
                "the future is not seen", "the output of token 0"),
        Mistake("scores = np.where(np.tri(q.shape[1], k=1), scores, -np.inf)",
                "the future is not seen", "the output of token 2"),
        Mistake("scores = np.where(np.eye(q.shape[1]), scores, -np.inf)", "the value", "y: "),
    ),
    wrong="scores = scores * seen",
    mend="scores = np.where(seen, scores, -np.inf)",
    fails=("the future is not seen",
           "the value of token 3 changed by 5: the output of token 0 moves by"),
    story=STORY,
)  # fmt: skip
