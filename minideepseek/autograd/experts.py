r"""The routed experts' product as one primitive, on tokens sorted by expert.

Token n goes to K experts e = indices[n, j] with gates w[n, j]; expert e is a SwiGLU MLP:

    yₙ = Σⱼ wₙⱼ · FFN_e(xₙ) ,    FFN_e(x) = D_e a ,   a = silu(G_e x) ∘ (U_e x)    (V2 eq. 20)

The N·K pairs are sorted by expert once (stable, so that tokens keep their order). Each expert then
owns one contiguous segment and needs three ordinary matrix products; a token's K results are
gathered back by the inverse permutation and added in the order of j. Nothing is padded, no token
is dropped, and an expert without tokens costs nothing.

Backward, per expert with its rows x, g (= ∂L/∂y of their tokens) and gates w:

    ĝ = g D,         dw = Σ ĝ a  (so FFN's own output is not needed),        da = w ĝ,
    dD = gᵀ (w a),   d[G; U] = dhᵀ x,   dx = dh [G; U]      with dh = [da u silu′(z) ; da silu(z)].

Kept: the pre-activations h = [z ; u], (N·K, 2m), and the permutation.
"""

from __future__ import annotations

from itertools import accumulate

from minideepseek.autograd.backend import Array, parallel_for, row_blocks, xp_of
from minideepseek.autograd.engine import primitive
from minideepseek.autograd.fused import silu_parts, silu_slope


@primitive
def expert_mlp(x, gate_up, down, weights, indices, *, counts):
    """y (N, d) from x (N, d), gate_up (E, 2m, d) gate first, down (E, d, m), weights (N, K).

    indices (N, K): the chosen experts, distinct in a row; a row of −1 sends a (padding) token
    nowhere: its y is 0. counts: how many pairs each expert has, E Python integers.
    """
    xp, (n, k), m = xp_of(x, gate_up, down, weights, indices), indices.shape, down.shape[-1]
    order = xp.argsort(indices.reshape(-1).astype("int16"), kind="stable")
    order = order[n * k - sum(counts) :]  # pairs of expert 0, of expert 1, …; the −1s came first
    token = order // k
    place = xp.zeros(n * k, order.dtype)  # where each pair went
    place[order] = xp.arange(order.size)
    place, gates = place.reshape(n, k), weights.reshape(-1)[order][:, None]
    ends = [0, *accumulate(counts)]
    jobs = [(e, slice(ends[e], ends[e + 1])) for e in range(len(counts)) if counts[e]]
    h = xp.empty((order.size, 2 * m), x.dtype)
    results = xp.empty((order.size, x.shape[1]), x.dtype)

    def forward(job):
        e, s = job
        xp.matmul(x[token[s]], gate_up[e].T, out=h[s])
        _, act = silu_parts(h[s, :m])
        act *= h[s, m:]
        xp.matmul(act, down[e].T, out=results[s])
        results[s] *= gates[s]

    parallel_for(forward, jobs)
    y = _gather_sum(results, place)

    def vjp(g):
        dgate_up, ddown = xp.zeros_like(gate_up), xp.zeros_like(down)
        dgates, dresults = xp.empty_like(gates), xp.empty((order.size, x.shape[1]), x.dtype)

        def backward(job):
            e, s = job
            gs, up = g[token[s]], h[s, m:]
            sigma, act = silu_parts(h[s, :m])
            ghat = xp.matmul(gs, down[e])
            a = act * up
            dgates[s] = (ghat * a).sum(-1, keepdims=True)
            ghat *= gates[s]
            a *= gates[s]
            xp.matmul(gs.T, a, out=ddown[e])
            dh = xp.empty_like(h[s])
            xp.multiply(ghat, act, out=dh[:, m:])
            ghat *= up
            xp.multiply(ghat, silu_slope(h[s, :m], sigma, act), out=dh[:, :m])
            xp.matmul(dh.T, x[token[s]], out=dgate_up[e])
            xp.matmul(dh, gate_up[e], out=dresults[s])

        parallel_for(backward, jobs)
        dweights = dgates[:, 0][place] if order.size else xp.zeros_like(weights)
        dx = _gather_sum(dresults, place)
        if order.size < n * k:
            dweights *= indices >= 0
            dx *= (indices >= 0).any(-1)[:, None]
        return dx, dgate_up, ddown, dweights, None

    if order.size < n * k:  # tokens sent nowhere gathered somebody's row
        y *= (indices >= 0).any(-1)[:, None]
    return y, vjp


def _gather_sum(rows: Array, place: Array) -> Array:
    """y[n] = Σⱼ rows[place[n, j]], added in the order of j. rows (P, d), place (N, K) → (N, d)."""
    xp, (n, k), d = xp_of(rows, place), place.shape, rows.shape[1]
    y = xp.zeros((n, d), rows.dtype)
    if rows.shape[0] == 0:
        return y

    def body(s):
        total = rows[place[s, 0]]
        for j in range(1, k):
            total += rows[place[s, j]]
        y[s] = total

    parallel_for(body, row_blocks(xp, n, 2 * d * rows.itemsize))
    return y
