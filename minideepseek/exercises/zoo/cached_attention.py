r"""The decoder that forgets  ★★  8 minutes

With a cache a model writes another text than without, from the second new token on, and a poor
one: it does not seem to know what it was asked. Without the cache all is well, and with it the
first new token is right. Shapes are right everywhere.

In the wild: masks that ignore absolute positions are among what is most often seen; in training,
where there is no cache, they are right.
"""

import numpy as np


def cached_attention(q, k, v):
    """softmax(q kᵀ/√d) v for the last T of S tokens; each sees itself and all that came before it.

    q (B, T, d): the queries of one decoding step; k (B, S, d), v (B, S, e): all tokens so far, the
    T new ones at the end.
    """
    t, s = q.shape[1], k.shape[1]
    seen = np.tri(t, s, dtype=bool)
    scores = np.where(seen, q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


# ------------------------------------------------------------------------------------- not copied

from inspect import unwrap

from minideepseek.autograd import attention, reference
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties


def _of_the_library(attention):
    def cached_attention(q, k, v):
        heads = (x[:, :, None] for x in (q, k, v))
        offset = k.shape[1] - q.shape[1]
        return attention(*heads, scale=q.shape[-1] ** -0.5, offsets=offset)[0][:, :, 0]

    return cached_attention


def _inputs(s=5):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, s, n)) for n in (3, 3, 2)]


def _prompt(cached_attention):
    q, k, v = _inputs()
    want = _of_the_library(unwrap(attention.attention))(q, k, v)
    return compare(cached_attention(q, k, v), want, "y of a whole prompt")


def _step(tokens):
    """The property that the last tokens see what they see without a cache."""

    def holds(cached_attention):
        q, k, v = _inputs()
        full = cached_attention(q, k, v)
        y = cached_attention(q[:, -tokens:], k, v)
        for i in range(tokens):
            at = 5 - tokens + i
            if np.abs(y[:, i] - full[:, at]).max() > 1e-12:
                return (
                    f"token {at} of 5 without a cache: {told(full[0, at])}\n"
                    f"as new token {i} of {tokens} behind {5 - tokens} cached ones: {told(y[0, i])}"
                )
        return ""

    return holds


STORY = """\
np.tri(1, 5) is one row with one True: the only query of a decoding step saw the first token and
nothing else. Where queries and keys are the same tokens, row numbers are positions; behind S − T
cached tokens query i stands at position S − T + i, and the diagonal has to move there. The
property is worth more than the mask's picture: what a token gets does not depend on how many
arrive with it."""

EXERCISE = Bug(
    solutions=(attention.attention, reference.visible),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(_inputs()[0][:, -2:], *_inputs()[1:]),
                                   ((2, 2, 2), "f")),
        "a prompt": _prompt,
        "one token more": _step(1),
        "three tokens more": _step(3),
    })),
    hints=(
        "Print the mask for one query and five keys. Which of them does it see?",
        "Query i stands at position S − T + i and sees the keys at 0 … S − T + i.",
        "seen = np.tri(t, s, k=…, dtype=bool)",
    ),
    mistakes=(
        Mistake("np.ones((t, s), bool) if t < s else np.tri(t, dtype=bool)", "three tokens more",
                "as new token 0 of 3"),
        Mistake("np.tri(t, s, k=s - t - 1, dtype=bool) | np.eye(t, s, dtype=bool)",
                "one token more", "as new token 0 of 1"),
        Mistake("np.tri(t, s, k=s - 1, dtype=bool)", "a prompt", "y of a whole prompt"),
    ),
    wrong="np.tri(t, s, dtype=bool)",
    mend="np.tri(t, s, k=s - t, dtype=bool)",
    fails=("one token more", "as new token 0 of 1 behind 4 cached ones:"),
    story=STORY,
)  # fmt: skip
