r"""RoPE as a kernel.

    array functions    13 launches, 14 backward    14 arrays read or written, of the size of x
    kernel              1            1              2

8 calls a step of `small` and their vjps: 216 of its 3,840 launches, or 16.

A warp owns a head of a token (norm.py) and reads the angles of that token once more for each head;
they are in the cache. Interleaved pairs (0, 1), (2, 3), … lie two apart for neighbouring lanes, so
that one half of what a warp fetches is for its first operands and the other for its second.
Backward turns by −φ: `sign` is multiplied into sin φ, which changes no bit of it.

No timing on a card exists yet.
"""

from __future__ import annotations

import math

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.kernels.launch import (
    THREADS,
    WARP,
    Kernel,
    cover,
    launch,
    row_stride,
)


def rotate_reference(
    x: Array, cos: Array, sin: Array, interleaved: bool, sign: float = 1.0
) -> Array:
    """(a cos φ − b sin φ, b cos φ + a sin φ) for the pairs (a, b) of the last 2h channels.

    x (N, H, D), cos, sin (T, h) with T dividing N: token n has the angles of row n mod T.
    The first channels are copied.
    """
    y, half = x.copy(), cos.shape[-1]
    start = x.shape[-1] - 2 * half
    if interleaved:
        first, second = slice(start, None, 2), slice(start + 1, None, 2)
    else:
        first, second = slice(start, start + half), slice(start + half, None)
    repeats = (max(1, x.shape[0] // max(1, cos.shape[0])), 1)
    c, s = (xp_of(x, cos).tile(a, repeats)[: x.shape[0], None] for a in (cos, sin * sign))
    a, b = x[..., first], x[..., second]
    y[..., first], y[..., second] = a * c - b * s, b * c + a * s
    return y


ROTATE = Kernel("rotate", r"""
extern "C" __global__ void rotate(
    const float* x, const float* cosines, const float* sines, float* y, long long rows,
    long long heads, long long d, long long x_stride, long long tokens, long long half,
    long long interleaved, float sign)
{
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    long long angles = row / heads % tokens * half, start = d - 2 * half;
    x += row * x_stride;
    y += row * d;
    for (long long c = threadIdx.x % 32; c < start; c += 32)
        y[c] = x[c];
    for (long long i = threadIdx.x % 32; i < half; i += 32) {
        long long first = start + (interleaved ? 2 * i : i);
        long long second = first + (interleaved ? 1 : half);
        float a = x[first], b = x[second];
        float cosine = cosines[angles + i], sine = sines[angles + i] * sign;
        y[first] = a * cosine - b * sine;
        y[second] = b * cosine + a * sine;
    }
}
""")  # fmt: skip


def rotate(
    rows: Array, heads: int, cos: Array, sin: Array, interleaved: bool, sign: float = 1.0
) -> Array:
    """`rotate_reference` by its kernel, of rows (N · H, D) in the order of tokens, then heads.

    cos, sin (…, h): their leading axes are the T rows of angles.
    """
    xp, (count, d), half = xp_of(rows, cos, sin), rows.shape, cos.shape[-1]
    cos, sin, y = xp.ascontiguousarray(cos), xp.ascontiguousarray(sin), xp.empty((count, d), "f4")
    numbers = count, heads, d, row_stride(rows), math.prod(cos.shape[:-1]), half
    blocks = cover(count, THREADS // WARP)
    launch(ROTATE, blocks, rows, cos, sin, y, *numbers, int(interleaved), float(sign))
    return y
