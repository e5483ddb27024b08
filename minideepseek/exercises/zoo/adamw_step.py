r"""The decay that spares the loud  ★★  8 minutes

Weight decay is set to 0.1, as in the paper. Weights with large gradients hardly shrink, rare
words' embeddings shrink fast; changing the decay by a factor 10 changes little, and changing the
learning rate changes how much weights shrink relative to each other. Nothing is broken enough to
be noticed: the loss is a little higher than another team's with the same numbers.

In the wild: it is what the decay of an older optimiser did, under the newer one's name.
"""

import numpy as np


def adamw_step(p, g, m, v, t, lr, betas=(0.9, 0.95), eps=1e-8, decay=0.1):
    """(p, m, v) after step t = 1, 2, … of AdamW, as new arrays of p's shape.

    m and v: running means of the gradient g and of its square; p moves by −lr m̂ / (√v̂ + ε), and
    is multiplied by 1 − lr · decay, whatever its gradient is.
    """
    g = g + decay * p
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.training.optim import AdamW


def _of_the_library(optimiser):
    def adamw_step(p, g, m, v, t, lr, betas=(0.9, 0.95), eps=1e-8, decay=0.1):
        parameter = Parameter(p.copy())
        parameter.grad = g.copy()
        adam = optimiser([parameter], lr, betas, eps, decay)
        adam.m[0][...], adam.v[0][...], adam.steps = m, v, t - 1
        adam.step()
        return parameter.data, adam.m[0], adam.v[0]

    return adamw_step


def _state(seed=0):
    rng = np.random.default_rng(seed)
    p, g, m = rng.standard_normal((3, 4))
    return p, g, 0.1 * m, rng.random(4)


def _without_decay(adamw_step):
    for t in (1, 7):
        want = _of_the_library(AdamW)(*_state(t), t, 0.01, decay=0.0)
        got = adamw_step(*_state(t), t, 0.01, decay=0.0)
        for name, a, b in zip(("p", "m", "v"), got, want, strict=True):
            if said := compare(a, b, f"step {t} without decay: {name}", 1e-7):
                return said
    return ""


def _decay(adamw_step):
    """Two weights of one size, quiet and loud, shrink alike."""
    p, lr = np.array([2.0, 2.0]), 0.01
    for g in (np.array([0.0, 1.0]), np.array([0.01, 100.0])):
        state = g, np.zeros(2), np.zeros(2), 1, lr
        with_decay, *_ = adamw_step(p.copy(), *state, decay=0.1)
        without, *_ = adamw_step(p.copy(), *state, decay=0.0)
        shrunk = without - with_decay
        if np.abs(shrunk - lr * 0.1 * p).max() > 1e-12:
            return (
                f"weights {told(p)}, gradients {told(g)}, step 1, lr 0.01, decay 0.1\n"
                f"the decay takes {', '.join(f'{x + 0:.2g}' for x in shrunk)} off, "
                "want 0.002 of each"
            )
    return ""


STORY = """\
Decay added to the gradient is divided by √v̂ with the rest of it: a weight whose gradients are
large is hardly pulled, one without gradient moves by a full step towards 0 whatever the decay is.
Under plain gradient descent the two places are the same, and that is how the habit arose. Beside
the step it is one factor, 1 − η λ, for all. (V3: λ = 0.1, and none for norms and biases.)"""

EXERCISE = Bug(
    solutions=(AdamW.step, AdamW),
    checker=placed(lambda _: _of_the_library(AdamW), properties({
        "looks right": looks_right(lambda f: f(*_state(), 3, 0.01), *[((4,), "f")] * 3),
        "without decay": _without_decay,
        "decay knows no gradient": _decay,
    })),
    hints=(
        "Follow decay · p through the lines: what is it divided by in the end?",
        "p ← (1 − η λ) p − η m̂ / (√v̂ + ε): λ never meets m or v.",
        "p = p * (1 - lr * decay)",
    ),
    mistakes=(
        Mistake("p, betas = p * (1 - lr * decay), betas[::-1]", "without decay", "step 1 without"),
        Mistake("p = p * (1 - decay)", "decay knows no gradient", "the decay takes 0.2, 0.2 off"),
        Mistake("p = p - decay * g", "decay knows no gradient", "the decay takes"),
    ),
    wrong="g = g + decay * p",
    mend="p = p * (1 - lr * decay)",
    fails=("decay knows no gradient",
           "[0.0, 1.0], step 1, lr 0.01, decay 0.1\nthe decay takes 0.01,"),
    story=STORY,
)  # fmt: skip
