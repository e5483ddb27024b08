r"""AdamW, gradient clipping, and the learning-rate schedule.

AdamW (Loshchilov & Hutter 2019, algorithm 2), per parameter p with gradient g at step t:

    m ← β₁ m + (1 − β₁) g                       a running mean of the gradient
    v ← β₂ v + (1 − β₂) g²                      and of its square
    p ← p − η ( m̂ / (√v̂ + ε) + λ p ) ,          m̂ = m / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ)

The decay λ stands beside the adaptive step, not inside it: a weight with small gradients decays no
faster than one with large ones. V3 trains with β = (0.9, 0.95), λ = 0.1 and gradients clipped to a
global norm of 1 (V3 §4.2).

One step walks memory once, in blocks that fit the cache, and allocates nothing after the first.

**Moments in bfloat16** (V3 §3.3.3) take two bytes instead of four each: a block is widened, updated
in float32, used, and rounded to the nearest on its way back. Neighbours in bfloat16 are 0.4 % to
0.8 % apart, and with a gradient of 0 a step takes 1 − β₂ off v: with V3's 0.95 that is 5 %, far
more than half a neighbour's distance; with the usual 0.999 it is 0.1 %, and v stays for ever.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from typing import Any

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.blocks import parallel_for, row_blocks
from minideepseek.autograd.engine import Parameter
from minideepseek.autograd.kernels import adamw, wanted
from minideepseek.errors import InputError

BLOCK = 1 << 17  # elements: p, g, m, v and a scratch of float32 together fill about 2.5 MiB


def matrices_only(decay: float) -> Callable[[Parameter], float]:
    """λ for weight matrices and embeddings, 0 for norm weights and biases (one axis)."""
    return lambda parameter: decay if parameter.ndim > 1 else 0.0


class AdamW:
    """AdamW over a list of Parameters; those without a gradient are left alone.

    lr: η, may be set before any step. weight_decay: λ, a number or a function of the Parameter.
    moments: the dtype that m and v are kept in, "bfloat16", or None for each Parameter's own.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float | Callable[[Parameter], float] = 0.1,
        moments: str | None = None,
    ) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise InputError("parameters: got none, an optimiser needs at least one Parameter")
        xp = xp_of(*(p.data for p in self.parameters))  # on one device, all of them
        if not 0 <= lr < math.inf:
            raise InputError(f"lr: got {lr}, expected a number of at least 0")
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise InputError(f"betas: got {betas}, expected two numbers in [0, 1)")
        if moments not in (None, "bfloat16"):
            raise InputError(f"moments: got {moments!r}, expected None or 'bfloat16'")
        self.lr, self.betas, self.eps, self.steps = lr, betas, eps, 0
        decay = weight_decay if callable(weight_decay) else lambda _: weight_decay
        self.decay = [float(decay(p)) for p in self.parameters]
        self.m, self.v = (
            [xp.zeros(p.shape, moments or p.dtype) for p in self.parameters] for _ in range(2)
        )
        self._local = threading.local()  # each thread's work arrays
        self._jobs = [
            (i, block)
            for i, p in enumerate(self.parameters)
            for block in row_blocks(xp, p.size, 1, BLOCK)
        ]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """One update from the gradients collected since `zero_grad`."""
        self.steps += 1
        (b1, b2), t = self.betas, self.steps
        # η m̂/(√v̂ + ε) = η′ m/(√v + ε′): both corrections as two numbers, not two arrays
        root = math.sqrt(1 - b2**t)
        rate, eps = self.lr * root / (1 - b1**t), self.eps * root
        held = [(p, i) for i, p in enumerate(self.parameters) if p.grad is not None]
        if wanted(*(a for p, _ in held for a in (p.data, p.grad))):
            rows = [
                (p.data, p.grad, self.m[i], self.v[i], 1 - self.lr * self.decay[i]) for p, i in held
            ]
            return adamw(rows, b1, b2, rate, eps)

        def update(job: tuple[int, slice]) -> None:
            i, s = job
            parameter = self.parameters[i]
            if parameter.grad is None:
                return
            p, g, m_kept, v_kept = (
                a.reshape(-1)[s] for a in (parameter.data, parameter.grad, self.m[i], self.v[i])
            )
            xp, scratch = xp_of(p, g), self._scratch(p, "scratch")
            m, v = self._wide(m_kept, p, "m"), self._wide(v_kept, p, "v")
            m *= b1
            xp.multiply(g, 1 - b1, out=scratch)
            m += scratch
            xp.multiply(g, g, out=scratch)
            scratch *= 1 - b2
            v *= b2
            v += scratch
            xp.sqrt(v, out=scratch)
            scratch += eps
            xp.divide(m, scratch, out=scratch)
            scratch *= rate
            if self.decay[i]:
                p *= 1 - self.lr * self.decay[i]
            p -= scratch
            if m is not m_kept:
                m_kept[...], v_kept[...] = m, v

        parallel_for(update, self._jobs)

    def _wide(self, kept: Array, like: Array, name: str) -> Array:
        """A block of m or v in the dtype of the Parameter: itself, or a work array's copy."""
        if kept.dtype == like.dtype:
            return kept
        wide = self._scratch(like, name)
        wide[...] = kept
        return wide

    def _scratch(self, like: Array, name: str) -> Array:
        """This thread's work array of that name for one block, made once."""
        name = f"{name} {like.dtype}"
        held = vars(self._local).get(name)
        if held is None or held.size < like.size:
            held = vars(self._local)[name] = xp_of(like).empty_like(like)
        return held[: like.size]


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> Any:
    """Scale all gradients so that their global norm is at most max_norm; returns the norm before.

    A number; on a GPU a 0-d array, which only a reader waits for.
    """
    if not max_norm > 0:
        raise InputError(f"max_norm: got {max_norm}, expected a number above 0")
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return 0.0
    xp, norm = xp_of(*grads), _norm(grads)
    # fmin ignores NaN: gradients keep what shows which of them was the bad one
    factor = xp.fmin(max_norm / (norm + 1e-6), 1.0).astype(grads[0].dtype)

    def scale(g: Array) -> None:
        g *= factor

    parallel_for(scale, grads)
    return norm


def _norm(grads: list[Array]) -> Any:
    """√Σ g² over all arrays, each array's sum in its own dtype, the total in float64."""
    xp = xp_of(*grads)
    squares = [xp.vdot(g.reshape(-1), g.reshape(-1)) for g in grads]
    return xp.sqrt(xp.stack(squares).astype("float64").sum())


def cosine_schedule(step: int, steps: int, peak: float, warmup: int, final: float = 0.1) -> float:
    """Learning rate of step 0 … steps − 1: linear to `peak` over `warmup` steps, then half a cosine
    down to final · peak (V3 §4.2 has the same shape, with a plateau between)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
