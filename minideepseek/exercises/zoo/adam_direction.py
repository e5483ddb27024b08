r"""The optimiser that starts too fast  ★  6 minutes

A run survives only with a long warm-up. With the paper's learning rate and 20 steps of warm-up the
first steps throw the weights about; a tenth of the rate is stable, and slow afterwards. A resumed
run, whose moments come from a file, has no such trouble. Gradients are right: they were checked.

In the wild: a long warm-up hides it, and becomes a part of the recipe.
"""

import numpy as np


def adam_direction(g, m, v, t, betas=(0.9, 0.999), eps=1e-8):
    """(m̂ / (√v̂ + ε), m, v) of step t = 1, 2, …, as new arrays.

    m, v: running means of g and g², 0 before the first step. m̂ and v̂ are weighted means of the
    gradients there have been: a gradient that is always the same has m̂ = g and v̂ = g².
    """
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    return m / (np.sqrt(v) + eps), m, v


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.training.optim import AdamW


def _of_the_library(optimiser):
    def adam_direction(g, m, v, t, betas=(0.9, 0.999), eps=1e-8):
        parameter = Parameter(np.zeros_like(g))
        parameter.grad = g.copy()
        adam = optimiser([parameter], 0.5, betas, eps, 0.0)
        adam.m[0][...], adam.v[0][...], adam.steps = m, v, t - 1
        adam.step()
        return -2 * parameter.data, adam.m[0], adam.v[0]

    return adam_direction


def _moments(adam_direction):
    g, m, v = np.array([2.0, -1.0]), np.array([0.5, 0.5]), np.array([4.0, 1.0])
    _, m1, v1 = adam_direction(g, m.copy(), v.copy(), 9)
    return compare(m1, 0.9 * m + 0.1 * g, "m") or compare(v1, 0.999 * v + 0.001 * g * g, "v")


def _constant(adam_direction):
    """The direction of a gradient that never changes is its sign, from the first step on."""
    for g, betas in ((3.0, (0.9, 0.999)), (-0.01, (0.9, 0.95))):
        m = v = np.zeros(1)
        for t in range(1, 12):
            step, m, v = adam_direction(np.array([g]), m, v, t, betas)
            if abs(step[0] - np.sign(g)) > 1e-4:
                return (
                    f"step {t} of a gradient that is always {g:g} is {step[0]:.3g} learning rates, "
                    f"want {np.sign(g):g}\nβ = {betas}"
                )
    return ""


def _late(adam_direction):
    rng = np.random.default_rng(0)
    g, m, v = rng.standard_normal(5), rng.standard_normal(5), rng.random(5) + 0.5
    want = _of_the_library(AdamW)(g, m, v, 3)[0]
    return compare(adam_direction(g, m.copy(), v.copy(), 3)[0], want, "step 3: the direction", 1e-7)


STORY = """\
Means that begin at 0 are too small at first: m by 1 − β₁ᵗ, √v by √(1 − β₂ᵗ). With the usual 0.9
and 0.999 the first step is 0.1/√0.001 = 3.2 learning rates long, the twelfth 6.6 and the hundredth
3.2: m forgets its beginning within 20 steps, v needs thousands. V3's β₂ = 0.95 hides most of it.
Divided by what is missing, a constant gradient moves its weight by one learning rate at every
step, and the warm-up is a choice and no longer a necessity of arithmetic."""

EXERCISE = Bug(
    solutions=(AdamW.step, AdamW),
    checker=placed(lambda _: _of_the_library(AdamW), properties({
        "looks right": looks_right(
            lambda f: f(np.ones(3), np.ones(3), np.ones(3), 5), *[((3,), "f")] * 3
        ),
        "the running means": _moments,
        "a constant gradient": _constant,
        "any gradient": _late,
    })),
    hints=(
        "What are m and v after the first step, in multiples of g and g²?",
        "m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ);  only the direction uses them, m and v stay.",
        "m_hat = m / (1 - betas[0] ** t)",
    ),
    mistakes=(
        Mistake("return m / (1 - betas[0] ** t) / (np.sqrt(v) + eps), m, v", "a constant gradient",
                "step 1 of a gradient that is always 3 is 31.6 learning rates"),
        Mistake(
            "m = m / (1 - betas[0] ** t)\n    v = v / (1 - betas[1] ** t)\n"
            "    return m / (np.sqrt(v) + eps), m, v", "the running means", "m: ",
        ),
        Mistake("return np.sign(g), m, v", "any gradient", "entries differ"),
    ),
    wrong="return m / (np.sqrt(v) + eps), m, v",
    mend="m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)\n"
         "    return m_hat / (np.sqrt(v_hat) + eps), m, v",
    fails=("a constant gradient",
           "step 1 of a gradient that is always 3 is 3.16 learning rates, want 1"),
    story=STORY,
)  # fmt: skip
