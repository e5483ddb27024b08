r"""SwiGLU as two kernels.

    array functions, forward     6 launches    14 arrays read or written, of the size of gate
                     backward   12             31
    kernels, forward             1              3
             backward            1              5

The `small` preset has a dense layer and three shared experts to run: 4 calls, 72 of the 3,840
launches of its step, or 8. Its 48 routed experts make 6 more of them each forward and 12 backward;
what they need with these kernels stands in rules.py.

A warp owns a row (norm.py). The rows of gate and up may be apart: the routed experts keep both in
one array, gate in the left half of a row and up in the right.

`tanhf` is the card's own: NVIDIA's table gives it 2 units in the last place. The reference's tanh
is NumPy's, so the two differ by a few units in the last place of the gate, not of the result.

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


def swiglu_reference(gate: Array, up: Array) -> Array:
    """z σ(z) u for z = gate, u = up (n, d);  σ(z) = (1 + tanh(z/2)) / 2."""
    sigma = xp_of(gate, up).tanh(gate * 0.5) * 0.5 + 0.5
    return gate * sigma * up


SWIGLU = Kernel("swiglu", r"""
extern "C" __global__ void swiglu(const float* gate, const float* up, float* y, long long rows,
                                  long long d, long long gate_stride, long long up_stride)
{
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    for (long long c = threadIdx.x % 32; c < d; c += 32) {
        float z = gate[row * gate_stride + c];
        float sigma = tanhf(z * 0.5f) * 0.5f + 0.5f;
        y[row * d + c] = z * sigma * up[row * up_stride + c];
    }
}
""")  # fmt: skip


def swiglu(gate: Array, up: Array) -> Array:
    """`swiglu_reference` by its kernel."""
    xp, (rows, d) = xp_of(gate, up), gate.shape
    y, strides = xp.empty(gate.shape, gate.dtype), (row_stride(gate), row_stride(up))
    launch(SWIGLU, cover(rows, THREADS // WARP), gate, up, y, rows, d, *strides)
    return y


def swiglu_backward_reference(g: Array, gate: Array, up: Array) -> tuple[Array, Array]:
    """(dgate, dup): g u (σ + a (1 − σ)) and g a, with a = z σ(z).   All (n, d)."""
    sigma = xp_of(g, gate, up).tanh(gate * 0.5) * 0.5 + 0.5
    act = gate * sigma
    return g * up * (act - act * sigma + sigma), g * act


SWIGLU_BACKWARD = Kernel("swiglu_backward", r"""
extern "C" __global__ void swiglu_backward(
    const float* g, const float* gate, const float* up, float* dgate, float* dup, long long rows,
    long long d, long long g_stride, long long gate_stride, long long up_stride,
    long long dgate_stride, long long dup_stride)
{
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    for (long long c = threadIdx.x % 32; c < d; c += 32) {
        float z = gate[row * gate_stride + c], by = g[row * g_stride + c];
        float sigma = tanhf(z * 0.5f) * 0.5f + 0.5f, act = z * sigma;
        float slope = act - act * sigma + sigma;
        dgate[row * dgate_stride + c] = by * up[row * up_stride + c] * slope;
        dup[row * dup_stride + c] = by * act;
    }
}
""")  # fmt: skip


def swiglu_backward(g: Array, gate: Array, up: Array, dgate: Array, dup: Array) -> None:
    """`swiglu_backward_reference` by its kernel, written to dgate and dup (n, d)."""
    rows, d = gate.shape
    arrays = g, gate, up, dgate, dup
    strides = [row_stride(a) for a in arrays]
    launch(SWIGLU_BACKWARD, cover(rows, THREADS // WARP), *arrays, rows, d, *strides)
