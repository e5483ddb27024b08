r"""Fused primitives: what a layer does in one step, computed in one walk over memory.

Each equals a composition of small primitives (`reference.py` holds it, and the tests compare) but
works through row blocks that fit the cache, keeps less for backward and makes one node, not ten:

    primitive                 keeps for backward             composed it would keep
    linear                    x                              x
    rms_norm                  x, r (one number a row)        x², r, x̂
    swiglu                    gate, up                       gate, σ, gate σ, up
    rope                      nothing (it is linear)         two products
    softmax_cross_entropy     logits, lse (one a row)        log-probabilities twice
    token_logprobs            logits, lse (one a row)        log-probabilities, scaled logits

Attention and the experts' product have files of their own.
"""

from __future__ import annotations

import math

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.blocks import parallel_for, partial_sums, row_blocks, sum_rows
from minideepseek.autograd.engine import primitive
from minideepseek.autograd.kernels import rules, wanted
from minideepseek.autograd.products import matmul_both, matmul_rows
from minideepseek.errors import InputError


def rows_of(x: Array) -> Array:
    """x (…, d) as (rows, d), a view where x is contiguous."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


@primitive
def linear(x, weight, bias=None):
    """y = x Wᵀ + b:  dx = g W, dW = gᵀ x, db = Σ g.   x (…, in), weight (out, in), bias (out,).

    The leading axes are flattened, so that the whole batch is one matrix product.
    """
    xp, x2 = xp_of(x, weight), rows_of(x)
    y = xp.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    matmul_rows(x2, weight.T, rows_of(y))
    if bias is not None:
        y += bias

    def vjp(g):
        g2, dx = rows_of(g), xp.empty(x.shape, x.dtype)
        dw = matmul_both(g2, weight, rows_of(dx), g2, x2)
        return (dx, dw) if bias is None else (dx, dw, g2.sum(0))

    return y, vjp


@primitive
def rms_norm(x, weight, *, eps):
    """yᵢ = wᵢ xᵢ / √(mean(x²) + ε).   x (…, d), weight (d,). (Zhang & Sennrich 2019)

    With r = 1/√(mean(x²) + ε) and x̂ = r x:   dw = Σ g x̂,   dx = r (gw − x̂ mean(gw x̂)).
    """
    if wanted(x, weight):
        return rules.rms_norm(x, weight, eps)
    xp, x2 = xp_of(x, weight), rows_of(x)
    rows, d = x2.shape
    y, r = xp.empty(x.shape, x.dtype), xp.empty((rows, 1), x.dtype)
    y2, grain = rows_of(y), sum_rows(xp, 4 * d * x.itemsize)
    blocks = row_blocks(xp, rows, 4 * d * x.itemsize, whole=grain)

    def forward(s):
        xp.multiply(x2[s], x2[s], out=y2[s])
        r[s] = 1 / xp.sqrt(y2[s].sum(-1, keepdims=True) * (1 / d) + eps)
        xp.multiply(x2[s], r[s], out=y2[s])
        y2[s] *= weight

    parallel_for(forward, blocks)

    def vjp(g):
        g2, dx = rows_of(g), xp.empty(x.shape, x.dtype)
        dx2, dw = rows_of(dx), xp.zeros((-(-rows // grain), d), x.dtype)

        def backward(s):
            x_hat = x2[s] * r[s]
            gx = g2[s] * x_hat
            partial_sums(gx, grain, dw[s.start // grain : -(-s.stop // grain)])
            gx *= weight
            x_hat *= gx.sum(-1, keepdims=True) * (1 / d)
            xp.multiply(g2[s], weight, out=dx2[s])
            dx2[s] -= x_hat
            dx2[s] *= r[s]

        parallel_for(backward, blocks)
        return dx, dw.sum(0)

    return y, vjp


def silu_parts(gate: Array) -> tuple[Array, Array]:
    """(σ(gate), gate σ(gate)) as new arrays; σ by tanh, which overflows nowhere."""
    xp = xp_of(gate)
    s = gate * 0.5
    xp.tanh(s, out=s)
    s *= 0.5
    s += 0.5
    return s, gate * s


def silu_slope(gate: Array, s: Array, act: Array) -> Array:
    """d(gate σ)/d gate = σ + gate σ (1 − σ) = σ + act − act σ, as a new array."""
    slope = act * s
    slope *= -1
    slope += act
    slope += s
    return slope


@primitive
def swiglu(gate, up):
    """y = silu(gate) · up with silu(z) = z σ(z).  gate, up (…, d). (Shazeer 2020)

    d up = g silu(gate),   d gate = g up (σ + gate σ (1 − σ));  σ is computed anew in backward.
    """
    if wanted(gate, up):
        return rules.swiglu(gate, up)
    xp, gate2, up2 = xp_of(gate, up), rows_of(gate), rows_of(up)
    rows, d = gate2.shape
    blocks = row_blocks(xp, rows, 5 * d * gate.itemsize)
    y = xp.empty(gate.shape, gate.dtype)
    y2 = rows_of(y)

    def forward(s):
        _, act = silu_parts(gate2[s])
        xp.multiply(act, up2[s], out=y2[s])

    parallel_for(forward, blocks)

    def vjp(g):
        g2 = rows_of(g)
        dgate, dup = xp.empty(gate.shape, gate.dtype), xp.empty(gate.shape, gate.dtype)
        dgate2, dup2 = rows_of(dgate), rows_of(dup)

        def backward(s):
            sigma, act = silu_parts(gate2[s])
            xp.multiply(g2[s], act, out=dup2[s])
            xp.multiply(g2[s], up2[s], out=dgate2[s])
            dgate2[s] *= silu_slope(gate2[s], sigma, act)

        parallel_for(backward, blocks)
        return dgate, dup

    return y, vjp


def rotate(x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    """The last 2·cos.shape[-1] channels of x turned by the angles; the others copied. On arrays."""
    xp, half = xp_of(x, cos, sin), cos.shape[-1]
    start = x.shape[-1] - 2 * half
    y = xp.empty(x.shape, x.dtype)
    y[..., :start] = x[..., :start]
    if interleaved:
        first, second = slice(start, None, 2), slice(start + 1, None, 2)
    else:
        first, second = slice(start, start + half), slice(start + half, None)
    # Arrays in one piece, angles repeated for each head: few long loops in place of many short ones
    a, b = xp.ascontiguousarray(x[..., first]), xp.ascontiguousarray(x[..., second])
    c, s = xp.empty((2, *cos.shape[:-1], x.shape[-2], half), x.dtype)
    c[...], s[...] = cos[..., None, :], sin[..., None, :]
    turned, other = a * c, b * s
    turned -= other
    y[..., first] = turned
    xp.multiply(b, c, out=turned)
    xp.multiply(a, s, out=other)
    turned += other
    y[..., second] = turned
    return y


@primitive
def rope(x, cos, sin, *, interleaved):
    """Rotary positions: each pair (a, b) of channels turned by its token's angle φ,

        (a, b) ↦ (a cos φ − b sin φ, b cos φ + a sin φ).              (Su et al. 2021)

    x (…, T, H, D); cos, sin (T, r/2) or (B, T, r/2): the last r channels are turned, the first
    D − r pass. interleaved: the pairs are (0,1), (2,3), …, else (0, r/2), (1, r/2 + 1), ….
    A rotation's transpose is its inverse: the vjp turns g by −φ, and nothing is kept.
    """
    if wanted(x, cos, sin):
        return rules.rope(x, cos, sin, interleaved)
    return rotate(x, cos, sin, interleaved), lambda g: (
        rotate(g, cos, -sin, interleaved),
        None,
        None,
    )


@primitive
def append_shared(x, shared):
    """[x | shared] with one shared vector for all heads.  x (B, T, H, a), shared (B, T, 1, b)."""
    xp, a = xp_of(x, shared), x.shape[-1]
    y = xp.empty((*x.shape[:-1], a + shared.shape[-1]), x.dtype)
    y[..., :a] = x
    y[..., a:] = shared
    return y, lambda g: (g[..., :a], g[..., a:].sum(-2, keepdims=True))


@primitive
def head_linear(x, weight):
    """yₕ = Wₕ xₕ, a matrix of its own for each head.  x (B, T, H, in), weight (H, out, in).

    dxₕ = Wₕᵀ gₕ,   dWₕ = Σ gₕ xₕᵀ.  The heads are the batch of one stacked matrix product.
    """
    xp, (b, t, h, p) = xp_of(x, weight), x.shape
    xs = x.reshape(b * t, h, p).swapaxes(0, 1)  # (H, B·T, in)
    y = xp.matmul(xs, weight.swapaxes(1, 2)).swapaxes(0, 1)

    def vjp(g):
        gs = g.reshape(b * t, h, weight.shape[1]).swapaxes(0, 1)
        dx = xp.matmul(gs, weight).swapaxes(0, 1).reshape(x.shape)
        return dx, xp.matmul(gs.swapaxes(1, 2), xs)

    return y.reshape(b, t, h, weight.shape[1]), vjp


@primitive
def softmax_cross_entropy(logits, targets, weights=None, *, denominator=None):
    """L = (1/n) Σᵢ wᵢ (ln Σⱼ e^zᵢⱼ − zᵢ,target):   dz = w (softmax(z) − onehot(target)) g / n.

    logits (…, V), targets (…) integers, weights (…) or None for ones, denominator n: a number,
    the count of targets by default. A scalar in nats.
    """
    xp, z = xp_of(logits, targets), rows_of(logits)
    rows, vocab = z.shape
    target, n = targets.reshape(rows), float(rows if denominator is None else denominator)
    w = xp.ones(rows, z.dtype) if weights is None else weights.reshape(rows)
    grain = sum_rows(xp, 2 * vocab * z.itemsize)
    blocks = row_blocks(xp, rows, 2 * vocab * z.itemsize, whole=grain)
    lse, each = xp.empty((rows, 1), z.dtype), xp.empty(rows, z.dtype)

    def forward(s):
        m = z[s].max(-1, keepdims=True)
        e = z[s] - m
        xp.exp(e, out=e)
        lse[s] = m + xp.log(e.sum(-1, keepdims=True))
        picked = xp.take_along_axis(z[s], target[s, None], -1)
        xp.multiply(w[s], (lse[s] - picked)[:, 0], out=each[s])

    parallel_for(forward, blocks)
    partial = xp.zeros(-(-rows // grain), z.dtype)
    for i in range(len(partial)):
        partial[i] = each[i * grain : (i + 1) * grain].sum()

    def vjp(g):
        by, dlogits = w[:, None] * (g / n), xp.empty(logits.shape, z.dtype)
        dz = rows_of(dlogits)

        def backward(s):
            p = dz[s]
            xp.subtract(z[s], lse[s], out=p)
            xp.exp(p, out=p)
            column = target[s, None]
            hit = xp.take_along_axis(p, column, -1)
            xp.put_along_axis(p, column, hit - 1, -1)
            p *= by[s]

        parallel_for(backward, blocks)
        return (dlogits, None) if weights is None else (dlogits, None, None)

    return partial.sum() / n, vjp


@primitive
def token_logprobs(logits, targets, *, temperature=1.0):
    """y = z_target − ln Σⱼ e^zⱼ with z = logits/τ:   dlogits = g (onehot(target) − softmax(z)) / τ.

    logits (…, V), targets (…) integers, y (…) in nats: the log-probability of each token under the
    distribution that sampling at temperature τ draws from; never above 0. InputError for τ ≤ 0.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature: got {temperature!r}, expected a number above 0")
    xp, x, by = xp_of(logits, targets), rows_of(logits), 1 / float(temperature)
    rows, column = len(x), targets.reshape(len(x), 1)
    y, lse = xp.empty((rows, 1), x.dtype), xp.empty((rows, 1), x.dtype)
    blocks = row_blocks(xp, rows, 2 * x.shape[1] * x.itemsize)

    def forward(s):
        z = x[s] * by
        m = z.max(-1, keepdims=True)
        z -= m
        picked = xp.take_along_axis(z, column[s], -1)  # a copy: z is overwritten next
        xp.exp(z, out=z)
        log_sum = xp.log(z.sum(-1, keepdims=True))
        xp.subtract(picked, log_sum, out=y[s])
        xp.add(m, log_sum, out=lse[s])

    parallel_for(forward, blocks)

    def vjp(g):
        dlogits, slope = xp.empty(logits.shape, x.dtype), g.reshape(rows, 1) * -by
        dx = rows_of(dlogits)

        def backward(s):
            p = dx[s]
            xp.multiply(x[s], by, out=p)
            p -= lse[s]
            xp.exp(p, out=p)
            hit = xp.take_along_axis(p, column[s], -1)
            xp.put_along_axis(p, column[s], hit - 1, -1)
            p *= slope[s]

        parallel_for(backward, blocks)
        return dlogits, None

    return y.reshape(targets.shape), vjp
