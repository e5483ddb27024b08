r"""Causal attention as one primitive that never holds a T × S matrix.

For one head, query t at position p(t) and key s at position s:

    Sₜₛ = scale · qₜ·kₛ     for s ≤ p(t), else −∞
    P   = softmax(S) ,   y = P v                                        (V2 eq. 7)

Backward needs P again. It is rebuilt from the row's log-sum-exp ℓₜ = ln Σₛ e^Sₜₛ, the only thing
kept besides the inputs and y (one number a row instead of a row): Pₜₛ = e^(Sₜₛ − ℓₜ), as in Dao et
al. 2022. With g = ∂L/∂y,

    dv = Pᵀ g,    dP = g vᵀ,    δₜ = Σₛ Pₜₛ dPₜₛ = gₜ·yₜ,    dS = P ∘ (dP − δ),
    dq = scale · dS k,    dk = scale · dSᵀ q.

Work is cut into tiles of some batch rows, some key-value heads and `TILE` queries, so that a tile
of scores fits the cache; a tile of queries looks only at the keys that its last query may see,
which saves nearly half of the work of long sequences.

Grouped heads: H query heads share H_kv key-value heads, G = H / H_kv in a group; the G queries of a
group are stacked along the token axis, so that one product serves them and the sum over the group
in dk and dv is the product's own. MQA is H_kv = 1, absorbed MLA too.
"""

from __future__ import annotations

import math

from minideepseek.autograd.backend import Array, like, on_host, xp_of
from minideepseek.autograd.blocks import parallel_for, row_blocks
from minideepseek.autograd.engine import primitive
from minideepseek.errors import InputError

TILE = 64  # queries of one tile; on a GPU, as many as its block budget allows
SCORES_BYTES = 1 << 19  # of one tile of scores: half of a common second-level cache
KEYS_BYTES = 1 << 20  # of the keys that one token of many rows reads, from which two threads pay


@primitive
def attention(q, k, v, *, scale, offsets=0, lengths=None, segment_ids=None):
    """y (B, T, H, Dv) from q (B, T, H, D), k (B, S, H_kv, D), v (B, S, H_kv, Dv); H_kv divides H.

    offsets: position of query 0, a number or a host array (B,): query t of row b sees the keys
    s ≤ offsets[b] + t. lengths: None or a host array (B,): keys from lengths[b] on are never seen.
    segment_ids: None or an integer array (B, S): a query sees keys of its own segment only.
    A query that sees no key at all gives 0.
    """
    xp, (batch, t, h, _), (_, s, h_kv, _) = xp_of(q, k, v), q.shape, k.shape
    if h_kv == 0 or h % h_kv:
        raise InputError(f"attention: {h} query heads cannot share {h_kv} key-value heads")
    group = h // h_kv
    tiles, step = _tiles(xp, q, k, group)
    mask = _Mask(xp, q, t, s, offsets, lengths, segment_ids)
    y = xp.empty((batch, t, h, v.shape[-1]), q.dtype)
    lse = xp.empty((batch, h_kv, group, t), q.dtype)
    queries = [slice(i, min(i + step, t)) for i in range(0, t, step)]

    def forward(tile):
        rows, heads = tile
        many = slice(heads.start * group, heads.stop * group)
        keys, values = _heads_first(k[rows, :, heads]), _heads_first(v[rows, :, heads])
        for ts in queries:
            end = mask.end(ts)
            qs = _stack(q[rows, ts, many], group) * scale
            p = xp.matmul(qs, keys[:, :, :end].swapaxes(-1, -2))
            mask.apply(p, rows, ts, end)
            m, total = _exp_rows(xp, p, mask.simple)
            out = xp.matmul(p, values[:, :, :end])
            out /= total
            _unstack(out, y[rows, ts, many])
            lse[rows, heads, :, ts] = (m + xp.log(total)).reshape(p.shape[:2] + (group, -1))

    parallel_for(forward, tiles)

    def vjp(g):
        dq, dk, dv = (xp.empty(x.shape, q.dtype) for x in (q, k, v))

        def backward(tile):
            rows, heads = tile
            many = slice(heads.start * group, heads.stop * group)
            keys, values = _heads_first(k[rows, :, heads]), _heads_first(v[rows, :, heads])
            dkeys, dvalues = xp.zeros(keys.shape, q.dtype), xp.zeros(values.shape, q.dtype)
            for ts in queries:
                end = mask.end(ts)
                seen, seen_values = keys[:, :, :end], values[:, :, :end]
                qs = _stack(q[rows, ts, many], group) * scale
                gs = _stack(g[rows, ts, many], group)
                delta = (gs * _stack(y[rows, ts, many], group)).sum(-1, keepdims=True)
                p = xp.matmul(qs, seen.swapaxes(-1, -2))
                mask.apply(p, rows, ts, end)
                p -= lse[rows, heads, :, ts].reshape(p.shape[:-1] + (1,))
                xp.exp(p, out=p)
                dvalues[:, :, :end] += xp.matmul(p.swapaxes(-1, -2), gs)
                ds = xp.matmul(gs, seen_values.swapaxes(-1, -2))
                ds -= delta
                ds *= p
                dkeys[:, :, :end] += xp.matmul(ds.swapaxes(-1, -2), qs)
                dqs = xp.matmul(ds, seen)
                dqs *= scale
                _unstack(dqs, dq[rows, ts, many])
            dk[rows, :, heads] = dkeys.swapaxes(1, 2)
            dv[rows, :, heads] = dvalues.swapaxes(1, 2)

        parallel_for(backward, tiles)
        return dq, dk, dv

    return y, vjp


def _heads_first(x: Array) -> Array:
    """(rows, S, heads, D) → (rows, heads, S, D), a view."""
    return x.swapaxes(1, 2)


def _stack(x: Array, group: int) -> Array:
    """(rows, t, heads·G, D) → (rows, heads, G·t, D): the queries of a group one under the other."""
    n, t, h, d = x.shape
    x = x.reshape(n, t, h // group, group, d).transpose(0, 2, 3, 1, 4)
    return x.reshape(n, h // group, group * t, d)


def _unstack(x: Array, out: Array) -> None:
    """Write (rows, heads, G·t, D) back into out (rows, t, heads·G, D): `_stack` undone."""
    n, t, h, d = out.shape
    heads = x.shape[1]
    out[...] = x.reshape(n, heads, h // heads, t, d).transpose(0, 3, 1, 2, 4).reshape(n, t, h, d)


def _exp_rows(xp, p: Array, simple: bool) -> tuple[Array, Array]:
    """p ← exp(p − max) in place; returns the row maxima and the row sums, (…, 1) each."""
    m = p.max(-1, keepdims=True)
    if not simple:  # a row that sees nothing: every score −∞; its sum must not be 0
        m = xp.maximum(m, -1e30)
    p -= m
    xp.exp(p, out=p)
    total = p.sum(-1, keepdims=True)
    return m, total if simple else xp.maximum(total, 1e-30)


class _Mask:
    """Which keys a tile of queries may see; −∞ is added to the scores of the others."""

    def __init__(self, xp, q, t, s, offsets, lengths, segment_ids) -> None:
        self.xp, self.s, self.dtype = xp, s, q.dtype
        self.simple = isinstance(offsets, int) and lengths is None and segment_ids is None
        self.last = int(offsets if isinstance(offsets, int) else offsets.max(initial=0))
        self.corners: dict[int, Array] = {}  # what tiles with the same first query add
        if self.simple:
            return
        self.keys = xp.arange(s)
        first = xp.full((1, 1), offsets) if isinstance(offsets, int) else like(offsets, q)[:, None]
        self.positions = first + xp.arange(t)  # (B or 1, t)
        self.lengths = None if lengths is None else like(lengths, q)[:, None, None]
        self.segments = segment_ids
        if segment_ids is not None:
            where = xp.broadcast_to(self.positions, (q.shape[0], t))
            self.query_segments = xp.take_along_axis(segment_ids, where, 1)

    def end(self, ts: slice) -> int:
        """One past the last key that any query of the tile sees."""
        return min(self.s, self.last + ts.stop)

    def apply(self, p: Array, rows: slice, ts: slice, end: int) -> None:
        """p (rows, heads, G·t, end) ← p + mask, in place."""
        xp, t = self.xp, ts.stop - ts.start
        view = p.reshape(p.shape[0], p.shape[1], -1, t, end)
        if self.simple:
            start = self.last + ts.start + 1  # the first key that the first query may not see
            if start < end:
                if ts.start not in self.corners:
                    upper = xp.arange(end - start)[None, :] >= xp.arange(t)[:, None]
                    self.corners[ts.start] = xp.where(upper, -math.inf, 0.0).astype(self.dtype)
                view[..., start:] += self.corners[ts.start]
            return
        keys, one = self.keys[:end], self.positions.shape[0] == 1
        positions = self.positions if one else self.positions[rows]
        seen = keys <= positions[:, ts, None]
        if self.lengths is not None:
            seen = seen & (keys < self.lengths[rows])
        if self.segments is not None:
            mine = self.query_segments[rows, ts, None]
            seen = seen & (mine == self.segments[rows, None, :end])
        view += xp.where(seen, 0.0, -math.inf).astype(self.dtype)[:, None, None]


def _tiles(xp, q: Array, k: Array, group: int) -> tuple[list[tuple[slice, slice]], int]:
    """Pairs (batch rows, key-value heads) to share among threads, and the queries of one tile."""
    (batch, t), (_, s, h_kv, _) = q.shape[:2], k.shape
    step = max(1, min(t, TILE) if on_host(xp) else t)
    one = group * step * s * q.itemsize  # bytes of scores of one row and one head
    heads = row_blocks(xp, h_kv, one, SCORES_BYTES)
    wide = heads[0].stop if heads else 1
    rows = row_blocks(xp, batch, one * wide, SCORES_BYTES)
    if t == 1 and batch > 1 and len(rows) == 1 and k.nbytes > KEYS_BYTES:  # many rows, short calls
        rows = [slice(0, batch // 2), slice(batch // 2, batch)]
    return [(r, h) for r in rows for h in heads], step
