r"""Chapter 4b.2 — The scale: one for every tile

E4M3's normal numbers span 2¹⁵. One scale for a tensor is set by its largest number, and what is
less than 2⁻¹⁵ of it is subnormal, then zero. So a scale belongs to a tile, where an outlier harms
its neighbours alone (V3 §3.3.2):

    s = max |x| / 448  over the tile,      q = encode(x / s),      x ≈ decode(q) · s

    tile         of                                      along the contraction of
    1 × 128      activations, gradients of outputs       X Wᵀ and g W: 128 channels of a token
    128 × 128    weights                                 both, so that one copy serves both
    128 × 1      activations and gradients once more     gᵀ X, which contracts over tokens

s comes from the very numbers that it scales ("online"), not from earlier steps. A file calls it
`weight_scale_inv`; despite the name it multiplies. The last tile of a ragged edge is what remains,
by the rule of 128. A tile of zeros has s = 1. s is never smaller than the smallest normal float32,
and where q · s would round beyond the largest, it stays just below: no finite number comes back as
NaN or infinity.

Laws, u = 2⁻²⁴ for what float32 itself rounds in x / s and q · s:

    |x̂ − x| ≤ max(|x| / 16, s / 1024) · (1 + 4u)      half a step of E4M3 at that scale
    x̂ has the same codes                              its s may differ by one float32 step
    x · 2ᵏ has the same codes and 2ᵏ times the scales  where nothing leaves float32's normal range

**Powers of two.** Rounding s up to a power of two costs up to one octave of range and no precision,
and makes x̂ a number of few bits: the same tiles give it back exactly, and so do tiles of another
direction where it is not subnormal. V3 does so for what is quantised along channels first and along
tokens later (§3.3.3: the input of the projection after attention, in E5M6; the input of the
experts' up-projection; the gradient before their down-projection), and since V3.1 everywhere, in
UE8M0.

>>> import numpy as np
>>> codes, scale_inv = quantize(np.ones((200, 130), np.float32))
>>> scale_inv.shape                                                # ⌈200/128⌉, ⌈130/128⌉
(2, 2)
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from minideepseek.autograd.backend import Array, on_host, xp_of
from minideepseek.autograd.blocks import BLOCK_BYTES, DEVICE_BLOCK_BYTES, parallel_for
from minideepseek.autograd.kernels import wanted
from minideepseek.errors import InputError
from minideepseek.layers.fp8 import kernels
from minideepseek.layers.fp8.formats import (
    E4M3,
    E5M6,
    FLOAT32_MAX,
    Format,
    ceil_power_of_two,
    check_codes,
    encode_bits,
    real_numbers,
    round_in_place,
    values_of,
)

SMALLEST_SCALE = 2.0**-126  # the smallest normal float32
WEIGHT_BLOCK = (128, 128)
Block = tuple[int, int]


def quantize(
    x: Any, block: Block = WEIGHT_BLOCK, format: Format = E4M3, power_of_two: bool = False
) -> tuple[Array, Array]:
    """(codes, scale_inv) of a matrix x (N, K) in tiles of `block`.

    codes (N, K) uint8 (E5M6: uint16); scale_inv (⌈N/block[0]⌉, ⌈K/block[1]⌉) float32. Integers and
    floats are taken, lists too. InputError for NaN, Inf and what float32 cannot hold, for what is
    not a matrix of real numbers, and for a block that is not two positive integers.
    """
    x = real_numbers(x, "quantize")
    _check(x.shape, block, "quantize: x")
    codes, scale_inv = to_codes(x, block, format, power_of_two)
    if not bool(xp_of(x).isfinite(scale_inv).all()):
        raise InputError(
            f"quantize: NaN or Inf in x of shape {x.shape}, expected finite float32 numbers"
        )
    return codes, scale_inv


def to_codes(x: Array, block: Block, format: Format, power_of_two: bool) -> tuple[Array, Array]:
    """`quantize` of floats, unchecked: a tile that holds NaN or Inf has NaN for its scale."""
    if wanted(x) and kernels.fits(block, x.shape):
        return kernels.quantize(x, block, format, power_of_two)
    xp = xp_of(x)
    codes = xp.empty(x.shape, format.dtype)
    scale_inv = xp.empty(scale_shape(x.shape, block), "float32")

    def one(piece: Piece) -> None:
        values = piece.of(x)
        s = tile_scale(tile_amax(values), format, power_of_two)
        scale_inv[piece.scales(block)] = s
        q = xp.empty(values.shape, "float32")
        xp.divide(values, s[:, None, :, None], out=q)
        piece.of(codes)[...] = encode_bits(q.view("uint32"), format)

    parallel_for(one, pieces(xp, x.shape, block))
    return codes, scale_inv


def dequantize(
    codes: Array, scale_inv: Array, block: Block = WEIGHT_BLOCK, format: Format = E4M3
) -> Array:
    """x̂ = decode(codes) · scale_inv, (N, K) float32. A code of NaN stays NaN.

    InputError for codes of another dtype or not a matrix, and for scales of the wrong shape or not
    finite and positive.
    """
    codes = check_codes(codes, format)
    _check(codes.shape, block, "dequantize: codes")
    scale_inv = real_numbers(scale_inv, "scale_inv")
    bounded = check_scales(scale_inv, codes.shape, block, format)
    return from_codes(codes, scale_inv, block, format, bounded)


def from_codes(
    codes: Array, scale_inv: Array, block: Block, format: Format, bounded: bool = False
) -> Array:
    """`dequantize`, unchecked. bounded: keep values that would round beyond float32's largest."""
    xp, table = xp_of(codes, scale_inv), values_of(format, codes)
    if wanted(scale_inv):
        return kernels.dequantize(codes, scale_inv, table, block, format, bounded)
    x = xp.empty(codes.shape, "float32")

    def one(piece: Piece) -> None:
        s = scale_inv[piece.scales(block)][:, None, :, None]
        q = table[piece.of(codes).astype("int64")]
        if bounded:
            _bound(q, s)
        xp.multiply(q, s, out=piece.of(x))

    parallel_for(one, pieces(xp, codes.shape, block))
    return x


def rounded(
    x: Array, block: Block, format: Format = E4M3, power_of_two: bool = False
) -> Array:
    """dequantize(quantize(x)) of x (N, K) float32 without making codes, bit for bit the same.

    This runs thousands of times in training and refuses no number: a tile that holds NaN or Inf
    becomes NaN altogether, so that a step that diverges shows in its loss and its gradients' norm.
    """
    _check(x.shape, block, "rounded: x")
    bounded = power_of_two or format == E5M6  # 448 and 57,344 are 7 · 2ⁿ, and 7 divides 2²⁴ − 1:
    if wanted(x) and kernels.fits(block, x.shape):  # amax / 448 · 448 never overflows
        return kernels.rounded(x, block, format, power_of_two, bounded)
    xp = xp_of(x)
    y = xp.empty(x.shape, "float32")

    def one(piece: Piece) -> None:
        values, q = piece.of(x), piece.of(y)
        s = tile_scale(tile_amax(values), format, power_of_two)[:, None, :, None]
        xp.divide(values, s, out=q)
        round_in_place(q, format)
        if bounded:
            _bound(q, s)
        q *= s

    parallel_for(one, pieces(xp, x.shape, block))
    return y


def tile_amax(values: Array) -> Array:
    """max |x| of every tile of values (R, rows, C, columns): (R, C)."""
    return abs(values).max(1).max(-1)


def tile_scale(amax: Array, format: Format = E4M3, power_of_two: bool = False) -> Array:
    """s of every tile by its largest |x|, float32; NaN where that is no finite float32."""
    xp = xp_of(amax)
    amax = xp.where(amax <= FLOAT32_MAX, amax, xp.nan).astype("float32")
    s = xp.maximum(amax / format.max, SMALLEST_SCALE)
    if power_of_two:
        s = xp.where(s == s, ceil_power_of_two(s), s)
    return xp.where(amax == 0, xp.float32(1), s)


def _bound(q: Array, s: Array) -> None:
    """Keep q · s within float32, which it may leave by rounding up to 2¹²⁸; NaN stays NaN.

    The bound is one float32 step lower than it could be, since it is rounded itself.
    """
    xp = xp_of(q)
    bound = FLOAT32_MAX * (1 - 2.0**-23) / xp.maximum(s, 1)
    xp.clip(q, -bound, bound, out=q)


# ----------------------------------------------------------------------------- tiles of a matrix


class Piece(NamedTuple):
    """A part of a matrix that holds whole tiles, all of one shape."""

    rows: slice
    columns: slice
    tile: Block

    def of(self, x: Array) -> Array:
        """This part of x as a view (R, rows of a tile, C, columns of a tile)."""
        part, (rows, columns) = x[self.rows, self.columns], self.tile
        return part.reshape(part.shape[0] // rows, rows, part.shape[1] // columns, columns)

    def scales(self, block: Block) -> tuple[slice, slice]:
        """Where its tiles' scales stand among all."""
        down, across = self.rows, self.columns
        return (
            slice(down.start // block[0], -(-down.stop // block[0])),
            slice(across.start // block[1], -(-across.stop // block[1])),
        )


def pieces(xp: Any, shape: tuple[int, ...], block: Block) -> list[Piece]:
    """A matrix cut into pieces that fit a core's cache; ragged edges are pieces of their own.

    Cuts depend on the shapes alone, and no tile is cut: results are the same for any threads.
    """
    budget = (BLOCK_BYTES if on_host(xp) else DEVICE_BLOCK_BYTES) // 12  # x, q and one more array
    n, k = shape
    columns = spans(k, block[1], budget // min(n, block[0]) if n else k)
    rows = spans(n, block[0], budget // max((c.stop - c.start for c in columns), default=1))
    return [
        Piece(r, c, (min(block[0], r.stop - r.start), min(block[1], c.stop - c.start)))
        for r in rows
        for c in columns
    ]


def spans(length: int, tile: int, about: int) -> list[slice]:
    """0 … length in slices of whole tiles, one tile or at most `about` long, and what remains."""
    step, whole = max(1, about // tile) * tile, length // tile * tile
    cuts = sorted({0, *range(0, whole, step), whole, length})
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def scale_shape(shape: tuple[int, ...], block: Block) -> Block:
    """How many tiles a matrix has down and across."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def spread(scale_inv: Array, shape: tuple[int, ...], block: Block) -> Array:
    """Each tile's scale at each of its elements, (N, K)."""
    xp = xp_of(scale_inv)
    each = xp.repeat(xp.repeat(scale_inv, block[0], 0)[: shape[0]], block[1], 1)
    return each[:, : shape[1]]


def _check(shape: tuple[int, ...], block: Block, what: str) -> None:
    if len(shape) != 2:
        raise InputError(f"{what}: got shape {tuple(shape)}, expected a matrix")
    if len(block) != 2 or any(type(b) is not int or b < 1 for b in block):
        raise InputError(f"block: got {block}, expected two positive integers")


def check_scales(
    scale_inv: Array, shape: tuple[int, ...], block: Block, format: Format = E4M3
) -> bool:
    """Refuse wrong scales; whether a product by the largest number could leave float32."""
    expected = scale_shape(shape, block)
    if tuple(scale_inv.shape) != expected:
        raise InputError(
            f"scale_inv: got shape {tuple(scale_inv.shape)}, expected {expected} for codes of "
            f"shape {tuple(shape)} in tiles of {block}"
        )
    if not scale_inv.size:
        return False
    low, high = float(scale_inv.min()), float(scale_inv.max())
    if not (low > 0 and high <= FLOAT32_MAX):
        raise InputError("scale_inv: got a scale that is not positive and finite")
    return high * format.max > FLOAT32_MAX
