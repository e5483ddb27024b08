"""Matrix products by blocks, so that threads can share them.

BLAS runs one thread (see the backend), so a large product is cut: by rows where rows are
independent, by tokens where they are summed. Blocks depend on shapes alone, and partial sums are
added in block order: the result does not depend on the number of threads. On a GPU, one product.
"""

from __future__ import annotations

from collections.abc import Callable

from minideepseek.autograd.backend import Array, on_host, xp_of
from minideepseek.autograd.blocks import parallel_for

ROWS, TOKENS = 512, 1024  # of a block: large enough that BLAS packs its operands for long


def matmul_rows(a: Array, b: Array, out: Array, rows: int = ROWS) -> Array:
    """out = a @ b for 2-D arrays, by blocks of rows of `a`. Returns `out`."""
    _run(_row_jobs(a, b, out, rows))
    return out


def matmul_both(a: Array, b: Array, out: Array, p: Array, q: Array) -> Array:
    """out = a @ b and, returned, pᵀ q: both gradients of a linear map from one list of blocks, so
    that no thread waits for another in between."""
    parts, jobs = _token_jobs(p, q)
    _run(jobs + _row_jobs(a, b, out, ROWS))
    return _total(parts)


def _run(jobs: list[Callable[[], None]]) -> None:
    parallel_for(lambda job: job(), jobs)


def _row_jobs(a: Array, b: Array, out: Array, rows: int) -> list[Callable[[], None]]:
    xp, n = xp_of(a, b), a.shape[0]
    step = rows if on_host(xp) else max(1, n)

    def one(s: slice) -> Callable[[], None]:
        return lambda: xp.matmul(a[s], b, out=out[s])

    return [one(slice(i, i + step)) for i in range(0, n, step)]


def _token_jobs(a: Array, b: Array) -> tuple[list[Array], list[Callable[[], None]]]:
    """The partial products, (p, q) each, and the jobs that compute them."""
    xp, n = xp_of(a, b), a.shape[0]
    step = TOKENS if on_host(xp) else max(1, n)
    starts = range(0, max(1, n), step)
    parts = [xp.empty((a.shape[1], b.shape[1]), a.dtype) for _ in starts]

    def one(start: int, part: Array) -> Callable[[], None]:
        s = slice(start, start + step)
        return lambda: xp.matmul(a[s].T, b[s], out=part)

    return parts, [one(start, part) for start, part in zip(starts, parts, strict=True)]


def _total(parts: list[Array]) -> Array:
    for part in parts[1:]:
        parts[0] += part
    return parts[0]
