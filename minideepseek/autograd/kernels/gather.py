r"""The way back from the experts as a kernel: each token's K results, gathered and added.

    array functions     9 launches at K = 4     20 arrays read or written, of the size of y
    kernel              1                        5

Six times a step of `small`: 54 of its 3,840 launches. That alone would not be a reason; the bytes
are. The array functions write each gathered row and read it again to add it; the kernel keeps the
sum in a register.

A warp owns a token: it reads the K places once and the rows they name side by side. Nothing is
scattered, so nothing needs an atomic: forward and backward both gather, by the same permutation.

No timing on a card exists yet.
"""

from __future__ import annotations

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.kernels.launch import THREADS, WARP, Kernel, cover, launch


def gather_sum_reference(rows: Array, place: Array, indices: Array) -> Array:
    """y[n] = Σⱼ rows[place[n, j]], in the order of j; 0 for a token whose indices are −1.

    rows (P, d), place and indices (N, K) → (N, d).
    """
    y = rows[place[:, 0]]
    for j in range(1, place.shape[1]):
        y += rows[place[:, j]]
    return xp_of(y).where(indices[:, :1] >= 0, y, 0)


GATHER_SUM = Kernel("gather_sum", r"""
extern "C" __global__ void gather_sum(const float* rows, const long long* place,
                                      const long long* indices, float* y, long long tokens,
                                      long long k, long long d)
{
    long long token = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (token >= tokens) return;
    place += token * k;
    bool sent = indices[token * k] >= 0;    // a token goes to K experts or to none
    for (long long c = threadIdx.x % 32; c < d; c += 32) {
        float sum = sent ? rows[place[0] * d + c] : 0;
        for (long long j = 1; sent && j < k; j++)
            sum += rows[place[j] * d + c];
        y[token * d + c] = sum;
    }
}
""")  # fmt: skip


def gather_sum(rows: Array, place: Array, indices: Array) -> Array:
    """`gather_sum_reference` by its kernel; rows may be empty."""
    xp, (tokens, k), d = xp_of(rows, place, indices), place.shape, rows.shape[1]
    rows, y = xp.ascontiguousarray(rows), xp.empty((tokens, d), rows.dtype)
    place, indices = (xp.ascontiguousarray(a).astype("int64", copy=False)
                      for a in (place, indices))  # fmt: skip
    launch(GATHER_SUM, cover(tokens, THREADS // WARP), rows, place, indices, y, tokens, k, d)
    return y
