"""Matrix products by blocks, so that threads can share them.

BLAS runs one thread (see the backend), so a large product is cut: by rows where rows are
independent, by tokens where they are summed. Blocks depend on shapes alone, and partial sums are
added in block order: the result does not depend on the number of threads. On a GPU, one product.
"""

from __future__ import annotations

from minideepseek.autograd.backend import Array, on_host, parallel_for, xp_of

ROWS, TOKENS = 512, 1024  # of a block: large enough that BLAS packs its operands for long


def matmul_rows(a: Array, b: Array, out: Array, rows: int = ROWS) -> Array:
    """out = a @ b for 2-D arrays, by blocks of rows of `a`. Returns `out`."""
    xp, n = xp_of(a, b), a.shape[0]
    if not on_host(xp) or n <= rows:
        return xp.matmul(a, b, out=out)
    blocks = [slice(i, i + rows) for i in range(0, n, rows)]
    parallel_for(lambda s: xp.matmul(a[s], b, out=out[s]), blocks)
    return out


def matmul_tokens(a: Array, b: Array, tokens: int = TOKENS) -> Array:
    """aᵀ b for a (n, p) and b (n, q): a weight gradient, summed over n in blocks of `tokens`."""
    xp, n = xp_of(a, b), a.shape[0]
    if not on_host(xp) or n <= tokens:
        return xp.matmul(a.T, b)
    starts = range(0, n, tokens)
    parts = xp.empty((len(starts), a.shape[1], b.shape[1]), a.dtype)

    def body(i: int) -> None:
        s = slice(starts[i], starts[i] + tokens)
        xp.matmul(a[s].T, b[s], out=parts[i])

    parallel_for(body, range(len(starts)))
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
