r"""AdamW as one kernel, over all Parameters in one launch.

    array functions     13 launches a Parameter     30 arrays read or written, of its size
    kernel               1 for all of them           7

`small` has 60 Parameters: 780 of the 3,840 launches of its step, or 1. Its 6.5 million numbers are
182 MB to read and write, 0.06 ms at the 3.35 TB/s of an H100's data sheet; 780 launches at 5 to 15
µs are 4 to 12 ms.

Parameters are arrays of their own, and their gradients are new ones each step. So the launch is
given a **table** on the card, a row for each Parameter: four addresses, how many numbers, which
block is the first of its own, and its decay. A block looks for the last row whose first block is
not beyond it, by halving, and then updates EACH numbers. EACH = 2,048 is 8 for each thread: fewer
would repeat the search more often, more would leave multiprocessors idle for small models.

Each number is independent and every operation is the reference's, in its order: bit for bit the
same. Moments may be float32 or bfloat16, 16 bits of a float32, rounded to the nearest even as
NumPy's are: `wide` and `keep` read and write either.

No timing on a card exists yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from minideepseek.autograd.backend import Array, as_array, float32, int64, like, xp_of
from minideepseek.autograd.kernels.launch import Kernel, cover, launch

EACH = 2048  # numbers of a block


def adamw_reference(
    p: Array, g: Array, m: Array, v: Array, b1: float, b2: float, rate: float, eps: float,
    keep: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """(p, m, v) after m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², p ← keep p − rate m/(√v + ε).

    All one shape. rate and eps hold the bias corrections, keep = 1 − η λ (training/optim.py).
    """
    m = m * b1 + g * (1 - b1)
    v = v * b2 + g * g * (1 - b2)
    return p * keep - m / (xp_of(v).sqrt(v) + eps) * rate, m, v


_TEXT = r"""
struct Row { float *p, *g; MOMENT *m, *v; long long size, first; float keep; };

__device__ float wide(float kept) { return kept; }
__device__ float wide(unsigned short kept) { return __uint_as_float((unsigned)kept << 16); }
__device__ void keep(float* at, float value) { *at = value; }
__device__ void keep(unsigned short* at, float value)
{
    unsigned bits = __float_as_uint(value), even = (bits >> 16) & 1;
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    *at = (unsigned short)(nan ? bits >> 16 | 0x40 : (bits + 0x7fffu + even) >> 16);
}

extern "C" __global__ void adamw(const Row* table, long long count, long long each, float b1,
                                 float rest1, float b2, float rest2, float rate, float eps)
{
    long long low = 0, high = count;        // the row is in [low, high)
    while (high - low > 1) {
        long long middle = (low + high) / 2;
        if (table[middle].first <= blockIdx.x) low = middle; else high = middle;
    }
    Row row = table[low];
    long long start = (blockIdx.x - row.first) * each, stop = min(start + each, row.size);
    for (long long i = start + threadIdx.x; i < stop; i += blockDim.x) {
        float g = row.g[i];
        float m = wide(row.m[i]) * b1 + g * rest1;
        float v = wide(row.v[i]) * b2 + g * g * rest2;
        row.p[i] = row.p[i] * row.keep - m / (sqrtf(v) + eps) * rate;
        keep(&row.m[i], m);
        keep(&row.v[i], v);
    }
}
"""
ADAMW = {
    dtype: Kernel("adamw", _TEXT.replace("MOMENT", kind))
    for dtype, kind in (("float32", "float"), ("bfloat16", "unsigned short"))
}


def adamw(
    parameters: Sequence[tuple[Array, Array, Array, Array, float]],
    b1: float,
    b2: float,
    rate: float,
    eps: float,
) -> None:
    """`adamw_reference` of each (p, g, m, v, keep), in place, by one launch.

    p, m, v contiguous; all p and g float32, all moments of one dtype, float32 or bfloat16.
    """
    if not parameters:
        return
    first = parameters[0][0]
    rows, gradients = [], []
    blocks = [0, *accumulate(cover(p.size, EACH) for p, *_ in parameters)]
    for (p, g, m, v, keep), block in zip(parameters, blocks, strict=False):
        gradients.append(xp_of(g).ascontiguousarray(g))  # alive until the launch is queued
        bits = int(float32(keep).view("uint32"))
        addresses = [a.data.ptr for a in (p, gradients[-1], m, v)]
        rows.append([*addresses, p.size, block, bits])
    table = like(as_array(rows, int64), first)
    kernel = ADAMW[str(parameters[0][2].dtype)]
    numbers = map(float, (b1, 1 - b1, b2, 1 - b2, rate, eps))
    launch(kernel, blocks[-1], table, len(rows), EACH, *numbers)
