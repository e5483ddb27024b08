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

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.blocks import parallel_for, row_blocks
from minideepseek.autograd.engine import primitive
from minideepseek.autograd.fused import silu_parts, silu_slope
from minideepseek.autograd.kernels import gather_sum as gather_sum_kernel
from minideepseek.autograd.kernels import rules, wanted


@primitive
def expert_mlp(x, gate_up, down, weights, indices, *, counts):
    """y (N, d) from x (N, d), gate_up (E, 2m, d) gate first, down (E, d, m), weights (N, K).

    indices (N, K): the chosen experts, distinct in a row; a row of −1 sends a (padding) token
    nowhere: its y is 0. counts: how many pairs each expert has, E Python integers.
    """
    xp, m = xp_of(x, gate_up, down, weights, indices), down.shape[-1]
    pairs = sorted_pairs(weights, indices, counts)
    if wanted(x, gate_up, down, weights):
        return rules.expert_mlp(x, gate_up, down, indices, pairs)
    token, place, jobs, gates = pairs
    h = xp.empty((token.size, 2 * m), x.dtype)
    results = xp.empty((token.size, x.shape[1]), x.dtype)

    def forward(job):
        e, s = job
        xp.matmul(x[token[s]], gate_up[e].T, out=h[s])
        _, act = silu_parts(h[s, :m])
        act *= h[s, m:]
        xp.matmul(act, down[e].T, out=results[s])
        results[s] *= gates[s]

    parallel_for(forward, jobs)
    y = gather_sum(results, place, indices)

    def vjp(g):
        dgate_up, ddown = xp.zeros_like(gate_up), xp.zeros_like(down)
        dgates, dresults = xp.empty_like(gates), xp.empty((token.size, x.shape[1]), x.dtype)

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
        dx = gather_sum(dresults, place, indices)
        return dx, dgate_up, ddown, gather(dgates[:, 0], place, indices), None

    return y, vjp


def sorted_pairs(
    weights: Array, indices: Array, counts: list[int]
) -> tuple[Array, Array, list[tuple[int, slice]], Array]:
    """(token, place, jobs, gates) of the pairs (token, choice) in the order of their experts.

    token (P,): whose each pair is; place (N, K): where each pair went; jobs: (expert, its slice of
    the P pairs) of experts that have any; gates (P, 1): each pair's weight.
    """
    xp, (n, k) = xp_of(weights, indices), indices.shape
    order = xp.argsort(indices.reshape(-1).astype("int16"), kind="stable")
    order = order[n * k - sum(counts) :]  # pairs of expert 0, of expert 1, …; the −1s came first
    place = xp.zeros(n * k, order.dtype)
    place[order] = xp.arange(order.size)
    ends = [0, *accumulate(counts)]
    jobs = [(e, slice(ends[e], ends[e + 1])) for e in range(len(counts)) if counts[e]]
    jobs.sort(key=lambda job: -counts[job[0]])  # the longest first, so that threads end together
    return order // k, place.reshape(n, k), jobs, weights.reshape(-1)[order][:, None]


def gather(numbers: Array, place: Array, indices: Array) -> Array:
    """The pairs' numbers (P,) as (N, K), 0 for a choice of −1."""
    if not numbers.size:
        return xp_of(numbers).zeros(place.shape, numbers.dtype)
    found = numbers[place]
    if numbers.size < place.size:  # a choice of −1 gathered somebody's number
        found *= indices >= 0
    return found


def gather_sum(rows: Array, place: Array, indices: Array) -> Array:
    """y[n] = Σⱼ rows[place[n, j]], added in the order of j; 0 for a token sent nowhere.

    rows (P, d), place and indices (N, K) → (N, d).
    """
    xp, (n, k), d = xp_of(rows, place), place.shape, rows.shape[1]
    if wanted(rows):
        return gather_sum_kernel(rows, place, indices)
    y = xp.zeros((n, d), rows.dtype)
    if rows.shape[0] == 0:
        return y

    def body(s):
        total = rows[place[s, 0]]
        for j in range(1, k):
            total += rows[place[s, j]]
        y[s] = total

    parallel_for(body, row_blocks(xp, n, 2 * d * rows.itemsize))
    if rows.shape[0] < place.size:  # tokens sent nowhere gathered somebody's row
        y *= (indices >= 0).any(-1)[:, None]
    return y
