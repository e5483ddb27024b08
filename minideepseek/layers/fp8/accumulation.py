r"""Chapter 4b.3 — The sum: 128 products at a time

The tiles' scales are constant along 128 products of the contraction, so a product of two quantised
matrices multiplies bare codes and brings the scales in once per block (V3 §3.3.2):

    C_ij = Σ over blocks  s^a_i,block · s^b_j,block · Σ over k in the block  q^a_ik q^b_jk

The inner sum is the tensor cores' work, the outer one is float32's. `scaled_product` does this.
Two numbers of four significant bits have a product of eight, exact in float32; with n = ⌈K/128⌉
blocks and u = 2⁻²⁴ it is off the exact sum by at most (128 + n + 2) u Σ |â_ik b̂_jk| (to first order
in u), and dequantising both and multiplying is off by at most (K + 2) u times the same.

**What a tensor core adds up.** Hopper's do not have float32's 24 bits for that (V3 §3.3.2, §3.5.2):
products are aligned to the largest exponent, and what lies below its highest 14 bits is cut off.
The emulation here, in `fourteen_bit_sums`:

    one step takes 32 products and the sum so far, all exact
    2ᵉ ≤ the largest of their sizes < 2ᵉ⁺¹;  each is cut, towards zero, to a multiple of 2^(e − 13)
    these are added exactly, and the result is cut to 14 bits of its own

The paper says 14 bits, the alignment and the cut; that a step holds 32 products and cuts towards
zero are choices (an arithmetic shift of negative products would cut towards −∞).

Why it matters: the sum grows and the products do not. After 4096 positive products of like size
the last of 14 bits is worth half a product, and what is cut always points the same way, so that
errors add up like the sum itself. With signs the sum grows like √K, and cuts of both signs cancel;
the norm hardly shows it, but a sum that cancels to nearly nothing keeps its error.

**The cure** (`promoted_sums`): every 128 products the partial sum goes to a float32 accumulator and
starts again at zero. A fine-grained scale needs this addition anyway, so the cure costs nothing
more. demos/fp8_numbers.py, K = 4096, 64 × 64 outputs, in per cent; "worst" is the largest error of
an element over the root mean square of the exact outputs:

                           norm of the error           worst
    A and B            14 bits     promoted     14 bits     promoted
    uniform, 0 to 1       7.46        0.056        7.94        0.064
    normal + 1            3.28        0.011        4.10        0.019
    normal + 1/2          0.73        0.005        1.51        0.016
    normal                0.13        0.013        1.17        0.051

The paper's figure is a largest relative error of nearly 2 %, of data that it does not describe.
Here it lies between data whose mean is 1/2 and 1 of its deviation.

>>> import numpy as np
>>> a, b = np.ones((1, 4096), np.float32), np.full((1, 4096), 1.125, np.float32)
>>> [float(sums(a, b)[0, 0]) for sums in (float32_sums, fourteen_bit_sums, promoted_sums)]
[4608.0, 4324.0, 4608.0]
"""

from __future__ import annotations

from collections.abc import Callable

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.errors import InputError
from minideepseek.layers.fp8.formats import E4M3, check_codes, decode
from minideepseek.layers.fp8.tiles import WEIGHT_BLOCK, Block, check_scales, spread

BLOCK = 128  # products between two promotions
STEP = 32  # products that a tensor core adds at once
BITS = 14


def float32_sums(a: Array, b: Array) -> Array:
    """a bᵀ as BLAS adds it up.  a (M, K), b (N, K) float32 → (M, N)."""
    return a @ b.T


def scaled_product(
    codes_a: Array,
    scale_a: Array,
    codes_b: Array,
    scale_b: Array,
    block_b: Block = WEIGHT_BLOCK,
    sums: Callable[[Array, Array], Array] = float32_sums,
) -> Array:
    """Â B̂ᵀ of E4M3 codes: 128 products at a time, scaled as they are added.  (M, N) float32.

    codes_a (M, K) uint8 with scale_a (M, ⌈K/128⌉); codes_b (N, K) with scale_b for tiles of
    `block_b`: (128, 128), or (1, 128) where both are activations. sums: how a block is added up,
    `float32_sums` or `fourteen_bit_sums`. InputError for codes and scales as `dequantize` has it,
    and for contractions that disagree.
    """
    codes_a, codes_b = check_codes(codes_a, E4M3), check_codes(codes_b, E4M3)
    if codes_a.ndim != 2 or codes_b.ndim != 2 or codes_a.shape[1] != codes_b.shape[1]:
        raise InputError(
            f"scaled_product: got codes of shapes {codes_a.shape} and {codes_b.shape}, "
            "expected (M, K) and (N, K)"
        )
    if block_b[1] != BLOCK:
        raise InputError(f"block_b: got {block_b}, expected {BLOCK} along the contraction")
    check_scales(scale_a, codes_a.shape, (1, BLOCK))
    check_scales(scale_b, codes_b.shape, block_b)
    xp = xp_of(codes_a, scale_a, codes_b, scale_b)
    c = xp.zeros((codes_a.shape[0], codes_b.shape[0]), "float32")
    for i, start in enumerate(range(0, codes_a.shape[1], BLOCK)):
        s = slice(start, start + BLOCK)
        partial = sums(decode(codes_a[:, s]), decode(codes_b[:, s]))
        partial *= scale_a[:, i : i + 1]
        partial *= spread(scale_b[:, i : i + 1], (c.shape[1], 1), (block_b[0], 1)).T
        c += partial
    return c


# ----------------------------------------------------------------------- a tensor core's addition


def fourteen_bit_sums(a: Array, b: Array) -> Array:
    """a bᵀ with an accumulator of 14 bits.  a (M, K), b (N, K): E4M3 numbers as float32."""
    xp = xp_of(a, b)
    total = xp.zeros((a.shape[0], b.shape[0]), "float32")
    for start in range(0, a.shape[1], STEP):
        s = slice(start, start + STEP)
        terms = xp.empty((*total.shape, a[:, s].shape[1] + 1), "float32")
        xp.multiply(a[:, None, s], b[None, :, s], out=terms[..., 1:])
        terms[..., 0] = total
        cut(terms, abs(terms).max(-1, keepdims=True))
        total = terms.sum(-1)  # at most 33 · 2¹⁴ units: exact
        cut(total, abs(total))
    return total


def promoted_sums(a: Array, b: Array) -> Array:
    """The same, every 128 products added to a float32 sum.  a (M, K), b (N, K) → (M, N)."""
    total = xp_of(a, b).zeros((a.shape[0], b.shape[0]), "float32")
    for start in range(0, a.shape[1], BLOCK):
        s = slice(start, start + BLOCK)
        total += fourteen_bit_sums(a[:, s], b[:, s])
    return total


def cut(x: Array, largest: Array) -> None:
    """Cut x, in place and towards zero, below the highest 14 bits of a number as `largest`."""
    xp = xp_of(x, largest)
    _, exponent = xp.frexp(largest)  # largest < 2^exponent
    unit = xp.ldexp(xp.float32(1), exponent - BITS)
    x /= unit
    xp.trunc(x, out=x)
    x *= unit
