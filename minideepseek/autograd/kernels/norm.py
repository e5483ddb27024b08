r"""RMSNorm as two kernels.

    array functions, forward     9 launches     7 arrays read or written, of the size of x
                     backward   13             18
    kernels, forward             1              2   (x is read twice, the second time from cache)
             backward            2              3   (g and x three times, twice from cache)

A step of the `small` preset normalises 17 times: 374 of its 3,840 launches, or 51.

**A warp owns a row.** Its lane c reads the elements c, c + 32, …, so that the warp reads 128 bytes
side by side each time; the 32 partial sums are added by a butterfly, in which each lane adds the
sum of the lane whose number differs in one bit: after five steps all lanes hold the same total,
bit for bit, and no memory was touched. With 8 rows to a block and 30 registers to a thread, as the
compiler says, a multiprocessor keeps 64 rows going. Rows may be apart: what MLA normalises is the
left part of longer ones.

**The weight's gradient** is a sum over rows, the other way. A block owns ROWS rows: first its warps
share them for dx, then its threads share the columns and walk down the same rows, which by now are
in the cache. What the blocks found is added up by CuPy, in the order of the blocks. Larger ROWS
would mean fewer partial sums and fewer blocks: 8,192 tokens make 256 of them for 132
multiprocessors.

No timing on a card exists yet.
"""

from __future__ import annotations

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.kernels.launch import (
    THREADS,
    WARP,
    Kernel,
    cover,
    launch,
    row_stride,
)

ROWS = 32  # of a block, backward


def rms_norm_reference(x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    """(y, r): yᵢ = wᵢ xᵢ r with r = 1/√(mean(x²) + ε).   x (n, d), weight (d,) → (n, d), (n, 1)."""
    xp = xp_of(x, weight)
    r = 1 / xp.sqrt((x * x).sum(-1, keepdims=True) * (1 / x.shape[1]) + eps)
    return x * r * weight, r


RMS_NORM = Kernel("rms_norm", r"""
extern "C" __global__ void rms_norm(
    const float* x, const float* weight, float* y, float* r, long long rows, long long d,
    long long x_stride, float mean, float eps)
{
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;                // the whole warp leaves: nobody waits for it below
    x += row * x_stride;
    y += row * d;
    float sum = 0;
    for (long long c = lane; c < d; c += 32)
        sum += x[c] * x[c];
    for (int other = 16; other > 0; other /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, other);
    float scale = 1 / sqrtf(sum * mean + eps);
    for (long long c = lane; c < d; c += 32)
        y[c] = x[c] * scale * weight[c];
    if (lane == 0) r[row] = scale;
}
""")  # fmt: skip


def rms_norm(x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    """`rms_norm_reference` by its kernel."""
    xp, (rows, d) = xp_of(x, weight), x.shape
    y, r = xp.empty(x.shape, x.dtype), xp.empty((rows, 1), x.dtype)
    blocks, numbers = cover(rows, THREADS // WARP), (1 / max(d, 1), float(eps))
    launch(RMS_NORM, blocks, x, weight, y, r, rows, d, row_stride(x), *numbers)
    return y, r


def rms_norm_backward_reference(
    g: Array, x: Array, weight: Array, r: Array
) -> tuple[Array, Array]:
    """(dx, dw): dx = r (g w − x̂ mean(g w x̂)), dw = Σ g x̂, x̂ = r x.   → (n, d), (d,)."""
    x_hat = x * r
    gx = g * x_hat
    mean = (gx * weight).sum(-1, keepdims=True) * (1 / x.shape[1])
    return (g * weight - x_hat * mean) * r, gx.sum(0)


RMS_NORM_BACKWARD = Kernel("rms_norm_backward", r"""
extern "C" __global__ void rms_norm_backward(
    const float* g, const float* x, const float* weight, const float* r, float* dx, float* dw,
    long long rows, long long d, long long g_stride, long long x_stride, long long each, float mean)
{
    long long first = (long long)blockIdx.x * each, last = min(first + each, rows);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (long long row = first + warp; row < last; row += warps) {
        const float *mine = x + row * x_stride, *by = g + row * g_stride;
        float sum = 0;
        for (long long c = lane; c < d; c += 32)
            sum += by[c] * (mine[c] * r[row]) * weight[c];
        for (int other = 16; other > 0; other /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, other);
        sum *= mean;
        for (long long c = lane; c < d; c += 32)
            dx[row * d + c] = (by[c] * weight[c] - mine[c] * r[row] * sum) * r[row];
    }
    for (long long c = threadIdx.x; c < d; c += blockDim.x) {
        float sum = 0;
        for (long long row = first; row < last; row++)
            sum += g[row * g_stride + c] * (x[row * x_stride + c] * r[row]);
        dw[blockIdx.x * d + c] = sum;
    }
}
""")  # fmt: skip


def rms_norm_backward(g: Array, x: Array, weight: Array, r: Array) -> tuple[Array, Array]:
    """`rms_norm_backward_reference` by its kernel, and a sum of what the blocks found."""
    xp, (rows, d) = xp_of(g, x, weight, r), x.shape
    blocks, strides = cover(rows, ROWS), (row_stride(g), row_stride(x))
    dx, dw = xp.empty(x.shape, x.dtype), xp.empty((blocks, d), x.dtype)
    launch(
        RMS_NORM_BACKWARD, blocks,
        g, x, weight, r, dx, dw, rows, d, *strides, ROWS, 1 / max(d, 1),
    )  # fmt: skip
    return dx, dw.sum(0)
