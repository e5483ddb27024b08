r"""The primitives whose kernels these are, as `fused.py` and `experts.py` call them: (value, vjp).

The routed experts change their order on a GPU. On the host an expert's tokens go through the whole
formula while they are in the cache. Here that would be 11 launches an expert forward and 26
backward; so the products go expert by expert, and all between them is done for all pairs at once:

    launches of an MoE layer of `small`        forward    backward
    expert by expert, array functions              176         413
    all pairs at once, array functions              56         104
    all pairs at once, kernels                      43          79

Most of that comes from the order, not from the kernels. What it costs is memory: x, g and the
products of all pairs are held at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.kernels import activation, gather, norm, rotation
from minideepseek.autograd.kernels.launch import side_by_side

Rule = tuple[Array, Callable]


def _rows(x: Array) -> Array:
    """x (…, d) as (rows, d), copied only where the elements of a row are scattered."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return rows if side_by_side(rows) else xp_of(rows).ascontiguousarray(rows)


def rms_norm(x: Array, weight: Array, eps: float) -> Rule:
    """`fused.rms_norm`."""
    rows = _rows(x)
    y, r = norm.rms_norm(rows, weight, eps)

    def vjp(g):
        dx, dw = norm.rms_norm_backward(_rows(g), rows, weight, r)
        return dx.reshape(x.shape), dw

    return y.reshape(x.shape), vjp


def swiglu(gate: Array, up: Array) -> Rule:
    """`fused.swiglu`."""
    xp, rows = xp_of(gate, up), (_rows(gate), _rows(up))

    def vjp(g):
        grads = xp.empty(gate.shape, gate.dtype), xp.empty(gate.shape, gate.dtype)
        activation.swiglu_backward(_rows(g), *rows, *(_rows(d) for d in grads))
        return grads

    return activation.swiglu(*rows).reshape(gate.shape), vjp


def rope(x: Array, cos: Array, sin: Array, interleaved: bool) -> Rule:
    """`fused.rope`."""

    def turned(z, sign):
        rows = rotation.rotate(_rows(z), x.shape[-2], cos, sin, interleaved, sign)
        return rows.reshape(x.shape)

    return turned(x, 1.0), lambda g: (turned(g, -1.0), None, None)


def expert_mlp(x: Array, gate_up: Array, down: Array, indices: Array, pairs: tuple) -> Rule:
    """`experts.expert_mlp` of pairs as `sorted_pairs` gives them."""
    xp, m, (token, place, jobs, gates) = xp_of(x, gate_up, down), down.shape[-1], pairs
    count, d = token.size, x.shape[1]

    def each(a: Array, b: Callable, width: int) -> Array:
        """a's rows of each expert times its matrix b(e)."""
        out = xp.empty((count, width), x.dtype)
        for e, s in jobs:
            xp.matmul(a[s], b(e), out=out[s])
        return out

    h = each(x[token], lambda e: gate_up[e].T, 2 * m)
    gate, up = h[:, :m], h[:, m:]
    results = each(activation.swiglu(gate, up), lambda e: down[e].T, d)
    results *= gates

    def vjp(g):
        dgate_up, ddown = xp.zeros_like(gate_up), xp.zeros_like(down)
        a, gs, rows, dh = activation.swiglu(gate, up), g[token], x[token], xp.empty_like(h)
        da = each(gs, lambda e: down[e], m)
        dgates = (da * a).sum(-1)
        a *= gates
        da *= gates
        activation.swiglu_backward(da, gate, up, dh[:, :m], dh[:, m:])
        for e, s in jobs:
            xp.matmul(gs[s].T, a[s], out=ddown[e])
            xp.matmul(dh[s].T, rows[s], out=dgate_up[e])
        dx = gather.gather_sum(each(dh, lambda e: gate_up[e], d), place, indices)
        if not count:
            return dx, dgate_up, ddown, xp.zeros(indices.shape, x.dtype), None
        return dx, dgate_up, ddown, xp.where(indices >= 0, dgates[place], 0), None

    return gather.gather_sum(results, place, indices), vjp
