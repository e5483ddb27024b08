r"""The clip that is only seen in the log  ★  5 minutes

The log says that gradients were clipped to a norm of 1, and prints the norms before it, up to 400.
All the same a single bad batch throws the loss from 2.1 to 6.8, and it takes 500 steps to come
back. Lowering the limit to 0.1 changes the log and nothing else.

In the wild: all the lines are there, and each of them is right.
"""

import numpy as np


def clipped_step(weights, gradients, max_norm, update):
    """One step with gradients of a global norm of at most max_norm; returns the norm before.

    weights, gradients: lists of arrays; update(weights, gradients) moves the weights in place. The
    gradients are scaled in place, all by one factor, which is 1 for a norm within the limit.
    """
    norm = np.sqrt(sum((g * g).sum() for g in gradients))
    factor = min(1.0, max_norm / (norm + 1e-6))
    update(weights, gradients)
    for g in gradients:
        g *= factor
    return norm


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd.engine import Parameter
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.training import optim


def _of_the_library(clip):
    def clipped_step(weights, gradients, max_norm, update):
        parameters = [Parameter(w) for w in weights]
        for parameter, g in zip(parameters, gradients, strict=True):
            parameter.grad = g
        norm = clip(parameters, max_norm)
        update(weights, gradients)
        return norm

    return clipped_step


def _run(clipped_step, size, max_norm=1.0):
    """(the norm returned, how the weights moved, the gradients before) with lr 1."""
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal((2, 3)), rng.standard_normal(4)]
    total = np.sqrt(sum((g * g).sum() for g in gradients))
    gradients = [g * (size / total) for g in gradients]
    before, weights = [g.copy() for g in gradients], [np.zeros_like(g) for g in gradients]

    def descend(weights, gradients):
        for w, g in zip(weights, gradients, strict=True):
            w -= g

    norm = clipped_step(weights, gradients, max_norm, descend)
    return norm, weights, before


def _norm(clipped_step):
    for size in (0.25, 400.0):
        norm, *_ = _run(clipped_step, size)
        if abs(norm - size) > 1e-6 * size:
            return f"gradients of norm {size:g}: it returned {norm:g}"
    return ""


def _within(clipped_step):
    _, weights, before = _run(clipped_step, 0.25)
    for w, g in zip(weights, before, strict=True):
        if said := compare(w, -g, "norm 0.25, limit 1: the step"):
            return said
    return ""


def _step(clipped_step):
    for size, limit in ((400.0, 1.0), (3.0, 0.5)):
        _, weights, before = _run(clipped_step, size, limit)
        moved = np.sqrt(sum((w * w).sum() for w in weights))
        if moved > limit * 1.001:
            return (
                f"gradients of norm {size:g}, limit {limit:g}, lr 1: "
                f"the weights move by {moved:.4g}, want {limit:g}"
            )
        for w, g in zip(weights, before, strict=True):
            if said := compare(w, -g * (limit / size), f"norm {size:g}: the step", 1e-5):
                return said
    return ""


STORY = """\
A clip between the update and the next zeroing of the gradients changes nothing but what is logged
after it. The order is: backward, clip, look at the norm, update. And it is one factor for all
arrays: clipping each by itself turns the direction of the step. What tests it is not the norm of
the gradients but how far the weights move."""

EXERCISE = Bug(
    solutions=(optim.clip_grad_norm,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: _run(f, 0.5)[0], ((), "f")),
        "the norm before": _norm,
        "within the limit": _within,
        "how far the weights move": _step,
    })),
    hints=(
        "Which gradients does `update` get?",
        "Backward, clip, update: whoever moves weights must come last.",
        "for g in gradients:\n    g *= factor",
    ),
    mistakes=(
        Mistake(
            "for g in gradients:\n        g *= factor\n    update(weights, gradients)\n"
            "    norm *= factor", "the norm before", "gradients of norm 400: it returned 1",
        ),
        Mistake(
            "for g in gradients:\n        g *= min(1.0, max_norm / np.sqrt((g * g).sum()))\n"
            "    update(weights, gradients)",
            "how far the weights move", "the weights move by 1.41",
        ),
        Mistake("for g in gradients:\n        np.clip(g, -max_norm, max_norm, out=g)\n"
                "    update(weights, gradients)",
                "how far the weights move", "the weights move by"),
        Mistake("factor = max_norm / norm\n    for g in gradients:\n        g *= factor\n"
                "    update(weights, gradients)", "within the limit", "off by a factor 4"),
    ),
    wrong="update(weights, gradients)\n    for g in gradients:\n        g *= factor",
    mend="for g in gradients:\n        g *= factor\n    update(weights, gradients)",
    fails=("how far the weights move",
           "gradients of norm 400, limit 1, lr 1: the weights move by 400, want 1"),
    story=STORY,
)  # fmt: skip
