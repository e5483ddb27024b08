r"""The fused primitives once more, composed of elementary ones: the plain definitions.

Slow, and nothing in the library calls them. They are what the fused ones are proved equal to, and
what an exercise asks for. Each takes Tensors and has the signature of its fused twin; its gradient
is the engine's.
"""

from __future__ import annotations

import math

from minideepseek.autograd import primitives as p
from minideepseek.autograd.backend import as_array, like, xp_of
from minideepseek.autograd.engine import Tensor


def linear(x, weight, bias=None):
    """x Wᵀ + b.   x (…, in), weight (out, in), bias (out,)."""
    rows = p.reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1]))
    y = p.matmul(rows, p.transpose(weight))
    y = p.reshape(y, shape=(*x.shape[:-1], weight.shape[0]))
    return y if bias is None else y + bias


def rms_norm(x, weight, *, eps):
    """w x / √(mean(x²) + ε) over the last axis."""
    return x * p.power(p.mean(x * x, axis=-1, keepdims=True) + eps, exponent=-0.5) * weight


def swiglu(gate, up):
    """gate σ(gate) up."""
    return gate * p.sigmoid(gate) * up


def rope(x, cos, sin, *, interleaved):
    """The last 2·cos.shape[-1] channels of x (…, T, H, D) turned pair by pair."""
    half = cos.shape[-1]
    start = x.shape[-1] - 2 * half
    if interleaved:
        a, b = x[..., start::2], x[..., start + 1 :: 2]
    else:
        a, b = x[..., start : start + half], x[..., start + half :]
    cos, sin = cos[..., None, :], sin[..., None, :]
    a, b = a * cos - b * sin, b * cos + a * sin
    if not interleaved:
        return p.concatenate(x[..., :start], a, b)
    shape = (*a.shape[:-1], 2 * half)
    pairs = p.concatenate(a[..., None], b[..., None])
    return p.concatenate(x[..., :start], p.reshape(pairs, shape=shape))


def append_shared(x, shared):
    """[x | shared repeated for every head].   x (B, T, H, a), shared (B, T, 1, b)."""
    shape = (*x.shape[:-1], shared.shape[-1])
    return p.concatenate(x, p.broadcast_to(shared, shape=shape))


def head_linear(x, weight):
    """yₕ = Wₕ xₕ.   x (B, T, H, in), weight (H, out, in)."""
    y = p.matmul(p.transpose(x, axes=(0, 2, 1, 3)), p.transpose(weight, axes=(0, 2, 1)))
    return p.transpose(y, axes=(0, 2, 1, 3))


def softmax_cross_entropy(logits, targets, weights=None, *, denominator=None):
    """−(1/n) Σ w ln softmax(logits)[target]."""
    chosen = p.take_along_axis(p.log_softmax(logits), targets[..., None])[..., 0]
    if weights is not None:
        chosen = chosen * weights
    return p.sum(chosen) * (-1 / (targets.size if denominator is None else denominator))


def token_logprobs(logits, targets, *, temperature=1.0):
    """ln softmax(logits/τ)[target].   logits (…, V), targets (…) integers."""
    logprobs = p.log_softmax(logits * (1 / temperature))
    return p.take_along_axis(logprobs, targets[..., None])[..., 0]


def attention(q, k, v, *, scale, offsets=0, lengths=None, segment_ids=None):
    """softmax(scale q kᵀ + mask) v with the whole matrix of scores: see the fused one."""
    (batch, t, h, _), s, h_kv = q.shape, k.shape[1], k.shape[2]
    seen = visible(q, t, s, batch, offsets, lengths, segment_ids)[:, None]
    xp = xp_of(seen)
    share = xp.arange(h) // (h // h_kv)  # query head → key-value head
    scores = p.matmul(_heads(q), p.transpose(_shared(k, share), axes=(0, 2, 3, 1))) * scale
    y = p.softmax(p.where(seen, scores, like(as_array(-1e30, scores.dtype), scores.data)))
    y = y * seen.any(-1, keepdims=True)
    return p.transpose(p.matmul(y, _heads(_shared(v, share))), axes=(0, 2, 1, 3))


def visible(q, t, s, batch, offsets=0, lengths=None, segment_ids=None):
    """The mask (B, T, S) of what each query may see, written as its definition."""
    data = q.data if isinstance(q, Tensor) else q
    xp = xp_of(data)
    first = xp.full((batch,), offsets) if isinstance(offsets, int) else like(offsets, data)
    position = (first[:, None] + xp.arange(t))[:, :, None]
    seen = xp.arange(s) <= position
    if lengths is not None:
        seen = seen & (xp.arange(s) < like(lengths, data)[:, None, None])
    if segment_ids is not None:
        mine = xp.take_along_axis(segment_ids, position[:, :, 0], 1)
        seen = seen & (mine[:, :, None] == segment_ids[:, None])
    return seen


def _heads(x):
    return p.transpose(x, axes=(0, 2, 1, 3))


def _shared(x, share):
    """Key-value heads (B, S, H_kv, D) repeated for the query heads that share them."""
    return p.transpose(p.take(p.transpose(x, axes=(2, 0, 1, 3)), share), axes=(1, 2, 0, 3))


def expert_mlp(x, gate_up, down, weights, indices, *, counts=None):
    """Every expert on every token, times the gate of the pairs that exist: a dense one-hot sum."""
    xp, m, total = xp_of(indices), down.shape[-1], None
    for e in range(gate_up.shape[0]):
        h = linear(x, gate_up[e])
        y = linear(swiglu(h[:, :m], h[:, m:]), down[e])
        hit = (indices == e).astype(x.dtype)
        y = y * p.sum(weights * hit, axis=-1, keepdims=True)
        total = y if total is None else total + y
    return total if total is not None else x * xp.zeros_like(x.data)
