r"""RMSNorm  ★★★  20 minutes

DeepSeek-V3 normalises every vector before it enters a layer (Zhang & Sennrich 2019): over the d
channels of x,

    r = 1 / √(mean(x²) + ε)           one number for each vector
    x̂ = r x
    y = w x̂                           the same w (d,) for all vectors

w is the easy half. For x, let gw = g w arrive at x̂ = r x: x enters there twice, openly and through
r, and r depends on every channel:

    ∂r/∂xⱼ = −r³ xⱼ / d               from  r = (Σ x²/d + ε)^(−½)

The product rule gives dx as a difference of two terms, and x̂ = r x makes the second one short. What
you get is always almost perpendicular to x: making a vector longer changes nothing.
"""

import numpy as np


def rms_norm(x, weight, *, eps):
    """weight x / √(mean(x²) + ε) over the last axis.   x (…, d), weight (d,), y and g (…, d)."""
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)  # (…, 1)
    x_hat = x * r  # (…, d)

    def vjp(g):
        raise NotImplementedError("return dx, dweight")  # dweight has the shape (d,)

    return x_hat * weight, vjp


# ------------------------------------------------------------------------------------- not copied

from minideepseek.autograd import fused, reference
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import Case, gradients


def _cases(rng):
    def case(*shape, stage=""):
        arrays = rng.standard_normal(shape), rng.standard_normal(shape[-1:])
        return Case(arrays, {"eps": 0.1}, stage)  # large, so that forgetting it shows

    return [case(3, 4), case(2, 3, 4, stage="batches"), case(5, stage="batches")]


_DW = "(g * x_hat).reshape(-1, x.shape[-1]).sum(0)"

EXERCISE = Exercise(
    solutions=(fused.rms_norm, reference.rms_norm),
    checker=gradients(_cases),
    hints=(
        "Go through y = w x̂ first: dw, and gw = g w, which arrives at x̂. Then x̂ = r x\n"
        "by the product rule, with r as a function of all channels.",
        "dxⱼ = r gwⱼ + (Σᵢ gwᵢ xᵢ) ∂r/∂xⱼ = r (gw − x̂ mean(gw x̂))ⱼ",
        "gw = g * weight",
    ),
    mistakes=(
        Mistake(f"return r * g * weight, {_DW}", "dx", "entries differ"),
        Mistake(
            f"gw = g * weight\n"
            f"return r * (gw - x_hat * (gw * x_hat).sum(-1, keepdims=True)), {_DW}",
            "dx", "entries differ, worst at",
        ),
        Mistake(
            f"gw = g * weight\n"
            f"return r * (x_hat * (gw * x_hat).mean(-1, keepdims=True) - gw), {_DW}",
            "dx", "the sign is flipped",
        ),
        Mistake(
            f"gw = g * weight\n"
            f"return gw - x_hat * (gw * x_hat).mean(-1, keepdims=True), {_DW}",
            "dx", "entries differ",
        ),
        Mistake("return None, g * x_hat", "dweight", "want (4,): sum over the broadcast axes"),
        Mistake("return None, (g * x).sum(0)", "dweight", "entries differ"),
        Mistake("return None, (g * x_hat).mean(0)", "dweight", "off by a factor 0.333333"),
        Mistake("return None, x_hat.sum(0)", "dweight", "ignores the incoming gradient g"),
        Mistake(
            "gw = g * weight\n"
            "return r * (gw - x_hat * (gw * x_hat).mean(-1, keepdims=True)), (g * x_hat).sum(0)",
            "batches", "dweight at (2, 3, 4), (4,), eps=0.1: shape (3, 4), want (4,)",
        ),
        Mistake(
            f"n = x_hat / np.sqrt((x_hat * x_hat).mean(-1, keepdims=True))\n"
            f"gw = g * weight\n"
            f"return r * (gw - n * (gw * n).mean(-1, keepdims=True)), {_DW}",
            "dx", "entries differ",
        ),
    ),
)  # fmt: skip
