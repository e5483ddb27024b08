"""Blocks and threads: large work cut into pieces that threads share.

A large NumPy expression is slow for one reason: every operator walks all of memory again. Fused
primitives therefore work through *row blocks* that fit a cache and write with `out=`.
`parallel_for` gives such blocks to a few Python threads (NumPy releases the interpreter lock inside
an operation). Blocks depend on shapes alone, never on the number of threads, and partial sums are
added in block order, so results are the same bit for bit for any number of threads, as long as
BLAS itself runs one. The library starts with one thread and never changes a setting at import; the
command line sets BLAS to one and calls `set_threads`.

How large a block? A thread that ends a NumPy call waits while another holds the interpreter lock,
and being woken takes tens of microseconds, as long as a small block's work. With blocks of 256 KiB
two threads took RMSNorm's value and gradients, 2,048 rows of 256 numbers, more slowly than one
(1.97 against 1.20 ms); with 2 MiB, which leave the second-level cache and stay in the third, they
take 0.77 ms (`python -m demos.block_sizes`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minideepseek.autograd.backend import Array, has_card, on_host
from minideepseek.errors import InputError

BLOCK_BYTES = 1 << 21
SUM_BYTES = 1 << 18  # of the rows behind one partial sum: part of what a result's last bits are
DEVICE_BLOCK_BYTES = 1 << 28


def row_blocks(
    xp: Any, rows: int, row_bytes: int, block_bytes: int | None = None, whole: int = 1
) -> list[slice]:
    """Slices that cut `rows` into blocks of about `block_bytes` (BLOCK_BYTES; more on a GPU), each
    but the last a multiple of `whole` rows."""
    if not on_host(xp):
        block_bytes = DEVICE_BLOCK_BYTES
    step = max(1, (block_bytes or BLOCK_BYTES) // max(1, row_bytes * whole)) * whole
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def sum_rows(xp: Any, row_bytes: int) -> int:
    """How many rows of `row_bytes` one partial sum covers: SUM_BYTES' worth, at least one."""
    return max(1, (SUM_BYTES if on_host(xp) else DEVICE_BLOCK_BYTES) // max(1, row_bytes))


def partial_sums(x: Array, rows: int, out: Array) -> None:
    """out[i] = the sum of rows i·rows … of x (n, d), each in the order of the rows."""
    n, d = x.shape
    whole = n // rows
    x[: whole * rows].reshape(whole, rows, d).sum(1, out=out[:whole])
    if whole * rows < n:
        x[whole * rows :].sum(0, out=out[whole])


class _Pool:
    """Threads that wait for a shared iterator of blocks. The caller works too."""

    def __init__(self, workers: int) -> None:
        self.jobs: queue.SimpleQueue = queue.SimpleQueue()
        self.size = workers
        for _ in range(workers):
            threading.Thread(target=self._work, daemon=True, name="minideepseek").start()

    def _work(self) -> None:
        _local.inside = True
        while True:
            job, done = self.jobs.get()
            if job is None:
                return
            job()
            done.release()


_local = threading.local()
_pool: _Pool | None = None


def set_threads(count: int) -> None:
    """Use `count` threads in `parallel_for`; 1 means the caller alone."""
    global _pool
    if not isinstance(count, int) or count < 1:
        raise InputError(f"threads: got {count!r}, expected an integer of at least 1")
    if _pool is not None:
        for _ in range(_pool.size):
            _pool.jobs.put((None, None))
    _pool = _Pool(count - 1) if count > 1 else None


def get_threads() -> int:
    """The number of threads that `parallel_for` uses."""
    return 1 if _pool is None else _pool.size + 1


@contextlib.contextmanager
def serial() -> Iterator[None]:
    """`with serial():` keeps this thread's `parallel_for` to itself: for work too small to share,
    such as decoding one sequence."""
    before, _local.inside = getattr(_local, "inside", False), True
    try:
        yield
    finally:
        _local.inside = before


def _after_fork() -> None:  # a child has no threads but its own
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def parallel_for(body: Callable[[Any], None], blocks: Sequence[Any]) -> None:
    """body(block) for every block, shared among the threads; blocks must write to disjoint memory.

    The first exception of any block is raised here after all threads have stopped.
    """
    pool = _pool
    alone = has_card() or getattr(_local, "inside", False)  # CUDA's state is a thread's own
    if pool is None or len(blocks) < 2 or alone:
        for block in blocks:
            body(block)
        return
    ticket = itertools.count()  # next() on it is atomic
    failures: list[BaseException] = []

    def job() -> None:
        try:
            while (i := next(ticket)) < len(blocks) and not failures:
                body(blocks[i])
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            failures.append(error)

    helpers, done = min(pool.size, len(blocks) - 1), threading.Semaphore(0)
    for _ in range(helpers):
        pool.jobs.put((job, done))
    job()
    for _ in range(helpers):
        done.acquire()
    if failures:
        raise failures[0]
