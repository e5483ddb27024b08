"""How a kernel is launched, and when one is chosen.

A kernel is C++ that thousands of threads run at once, each told apart by its number alone:

    blockIdx.x      which block of threads this is, of as many as the launch asks for
    threadIdx.x     which thread of its block, of blockDim.x

The card gives a block to one of its multiprocessors, which runs it 32 threads at a time. Those 32,
a *warp*, take every step together: when they read 32 neighbouring floats, that is one transfer of
128 bytes, and they can hand each other a register (`__shfl_xor_sync`) without going to memory.

The rules of the kernels here:

1. An argument is an array of one type, or a number: `long long` or `float`, nothing else. CuPy
   hands over the eight bytes of a Python int, and a Python float as a double, which a `float`
   parameter would read as rubbish; `launch` makes float32 of it.
2. Rows may be apart in memory (`row_stride`), elements of a row may not.
3. Nothing is added up by atomics: the same input gives the same bits.
4. Sums are not contracted to fused multiply-adds (`-fmad=false`), so that a kernel does what its
   reference in NumPy does, operation by operation; what is read and written takes far longer.

CuPy compiles everything with `-ftz=true`, its array functions too: numbers below 2⁻¹²⁶ are zero.
"""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

from minideepseek.autograd.backend import Array, float32, on_host, xp_of
from minideepseek.errors import InputError

WARP = 32
THREADS = 256  # of a block: 8 warps, so that 8 blocks fill a multiprocessor's 2,048 threads
OPTIONS = ("-fmad=false",)

_on = os.environ.get("MINIDEEPSEEK_KERNELS") == "1"


class Kernel(NamedTuple):
    """The text of a `__global__` function, and its name."""

    name: str
    source: str


def set_kernels(on: bool) -> None:
    """Use the kernels on a GPU, or the array functions; off unless MINIDEEPSEEK_KERNELS=1."""
    global _on
    _on = on


def wanted(*arrays: Array) -> bool:
    """Whether a kernel takes these arrays: switched on, float32, and on a GPU."""
    return _on and all(a.dtype == float32 and not on_host(xp_of(a)) for a in arrays)


def cover(count: int, each: int) -> int:
    """How many pieces of `each` cover `count`."""
    return -(-count // each)


def row_stride(rows: Array) -> int:
    """How many elements lie from one row (n, d) to the next; InputError if a row is scattered."""
    if not side_by_side(rows):
        raise InputError(f"rows: got strides {rows.strides}, expected elements side by side")
    return rows.strides[0] // rows.itemsize


def side_by_side(rows: Array) -> bool:
    """Whether the elements of each row (n, d) are neighbours in memory."""
    return rows.strides[1] == rows.itemsize or rows.size == 0 or rows.shape[1] == 1


def launch(kernel: Kernel, blocks: int, *arguments: Any) -> None:
    """Queue `kernel` on `blocks` blocks of THREADS threads, on the current stream."""
    if blocks == 0:  # nothing to do, and CuPy would launch one
        return
    xp = xp_of(*(a for a in arguments if hasattr(a, "strides")))
    numbers = [float32(a) if isinstance(a, float) else a for a in arguments]
    compiled(xp, kernel)((blocks,), (THREADS,), tuple(numbers))


@functools.cache
def compiled(xp: Any, kernel: Kernel) -> Any:
    """The kernel as CuPy holds it: compiled at its first launch, then kept on disk."""
    return xp.RawKernel(kernel.source, kernel.name, OPTIONS)
