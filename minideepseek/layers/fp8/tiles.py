r"""Chapter 4b.2 — The scale: one for every tile

Values of a weight spread over more than E4M3's 2¹⁵ (with one outlier, most others would be
subnormal or zero), so every tile of 128 × 128 weights, or 1 × 128 activations, has a scale of its
own (V3 §3.3.2):

    s = max |x| / 448  over the tile,      q = encode(x / s),      x ≈ decode(q) · s

A file calls s `weight_scale_inv`; despite the name it multiplies. The last tile of a ragged edge is
what remains, by the rule of 128. An all-zero tile has s = 1; s is never smaller than the smallest
normal float32, so that no finite number becomes NaN.

>>> import numpy as np
>>> codes, scale_inv = quantize(np.ones((200, 130), np.float32))
>>> scale_inv.shape                                                # ⌈200/128⌉, ⌈130/128⌉
(2, 2)
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from minideepseek.autograd.backend import (
    BLOCK_BYTES,
    DEVICE_BLOCK_BYTES,
    Array,
    on_host,
    parallel_for,
    row_blocks,
    xp_of,
)
from minideepseek.errors import InputError
from minideepseek.layers.fp8.formats import (
    E4M3,
    E4M3_MAX,
    Format,
    ceil_power_of_two,
    decode,
    encode,
    round_in_place,
)

SMALLEST_SCALE = 2.0**-126  # the smallest normal float32
FLOAT32_MAX = (2 - 2.0**-23) * 2.0**127
WEIGHT_BLOCK = (128, 128)


def quantize(x: Array, block: tuple[int, int] = WEIGHT_BLOCK) -> tuple[Array, Array]:
    """(codes, scale_inv) of a matrix x (N, K) in tiles of `block`.

    codes (N, K) uint8; scale_inv (⌈N/block[0]⌉, ⌈K/block[1]⌉) float32. InputError for NaN or Inf,
    and for what is not a matrix.
    """
    xp = xp_of(x)
    if x.ndim != 2 or min(block) < 1:
        raise InputError(f"quantize: got shape {x.shape}, block {block}; expected a matrix")
    if not bool(xp.isfinite(x).all()):
        raise InputError(f"quantize: NaN or Inf in x of shape {x.shape}, expected finite numbers")
    if x.dtype not in ("float32", "float64"):
        x = x.astype("float32")
    (n, k), (rows, columns) = x.shape, block
    tiled = xp.zeros((-(-n // rows) * rows, -(-k // columns) * columns), "float32")
    tiled[:n, :k] = xp.clip(abs(x), 0, 3.4028235e38)
    tiles = tiled.reshape(tiled.shape[0] // rows, rows, tiled.shape[1] // columns, columns)
    amax = tiles.max(axis=(1, 3)) if tiles.size else tiles.sum(axis=(1, 3))
    scale_inv = xp.maximum(amax / E4M3_MAX, SMALLEST_SCALE)
    scale_inv = xp.where(amax == 0, 1.0, scale_inv).astype("float32")
    return encode(x / spread(scale_inv, x.shape, block)), scale_inv


def dequantize(codes: Array, scale_inv: Array, block: tuple[int, int] = WEIGHT_BLOCK) -> Array:
    """decode(codes) · scale_inv, (N, K) float32. InputError for scales of the wrong shape, or not
    finite and positive."""
    (n, k), (rows, columns) = codes.shape, block
    expected = (-(-n // rows), -(-k // columns))
    if tuple(scale_inv.shape) != expected:
        raise InputError(
            f"scale_inv: got shape {tuple(scale_inv.shape)}, expected {expected} for codes of "
            f"shape {codes.shape} in tiles of {block}"
        )
    xp = xp_of(codes, scale_inv)
    if not bool((xp.isfinite(scale_inv) & (scale_inv > 0)).all()):
        raise InputError("scale_inv: got a scale that is not positive and finite")
    values = xp.empty(codes.shape, "float32")
    for s in row_blocks(xp, n, 16 * k):  # a gather's index takes 8 bytes an element
        xp.multiply(decode(codes[s]), spread(scale_inv, codes.shape, block, s), out=values[s])
    return values


def spread(
    scale_inv: Array, shape: tuple[int, int], block: tuple[int, int], rows: slice | None = None
) -> Array:
    """Each tile's scale at each of its elements, (N, K), or at those of the rows N of a slice."""
    xp = xp_of(scale_inv)
    first, last = (0, shape[0]) if rows is None else (rows.start, rows.stop)
    tiles = xp.arange(first, last) // block[0]
    return xp.repeat(scale_inv[tiles], block[1], 1)[:, : shape[1]]


# ---------------------------------------------------------------- rounding without codes, in blocks


def rounded(
    x: Array, block: tuple[int, int], format: Format = E4M3, power_of_two: bool = False
) -> Array:
    """x (N, K) as it is after quantising in tiles of `block` and decoding again, float32.

    Equal to dequantize(quantize(x)) bit for bit where x is finite, without making codes. This runs
    thousands of times in training and refuses nothing: a tile that holds NaN or Inf becomes NaN
    altogether, so that a step that diverges is seen by its loss and its gradients' norm.
    """
    if x.ndim != 2 or min(block) < 1:
        raise InputError(f"rounded: got shape {x.shape}, block {block}; expected a matrix")
    xp = xp_of(x)
    y = xp.empty(x.shape, "float32")

    def one(piece: Piece) -> None:
        values, q = piece.of(x), piece.of(y)
        s = tile_scale(tile_amax(values), format, power_of_two)[:, None, :, None]
        xp.divide(values, s, out=q)
        round_in_place(q, format)
        if power_of_two or format != E4M3:  # q · s may round up to 2¹²⁸; s = amax/448 never does
            bound = FLOAT32_MAX / xp.maximum(s, 1)
            xp.clip(q, -bound, bound, out=q)
        q *= s

    parallel_for(one, pieces(xp, x.shape, block))
    return y


def tile_amax(values: Array) -> Array:
    """max |x| of every tile of values (R, rows, C, columns): (R, C)."""
    return abs(values).max(1).max(-1)


def tile_scale(amax: Array, format: Format, power_of_two: bool) -> Array:
    """s of every tile, float32; NaN where amax is not finite."""
    xp = xp_of(amax)
    s = xp.maximum(amax / format.max, SMALLEST_SCALE)
    s = ceil_power_of_two(s) if power_of_two else s
    s = xp.where(amax == 0, xp.float32(1), s)
    return xp.where(amax <= FLOAT32_MAX, s, xp.float32(xp.nan))


class Piece(NamedTuple):
    """A part of a matrix that holds whole tiles, all of one shape."""

    rows: slice
    columns: slice
    tile: tuple[int, int]

    def of(self, x: Array) -> Array:
        """This part of x as a view (R, rows of a tile, C, columns of a tile)."""
        part, (rows, columns) = x[self.rows, self.columns], self.tile
        return part.reshape(part.shape[0] // rows, rows, part.shape[1] // columns, columns)


def pieces(xp: Any, shape: tuple[int, int], block: tuple[int, int]) -> list[Piece]:
    """A matrix cut into pieces of about a cache's size; ragged edges are pieces of their own."""
    across = spans(shape[1], block[1], max(512, block[1]) if block[0] > 1 else shape[1])
    budget = BLOCK_BYTES if on_host(xp) else DEVICE_BLOCK_BYTES
    if not on_host(xp):
        across = spans(shape[1], block[1], shape[1])
    widest = max((c.stop - c.start for c in across), default=1)
    down = spans(shape[0], block[0], budget // (12 * widest))
    return [
        Piece(r, c, (min(block[0], r.stop - r.start), min(block[1], c.stop - c.start)))
        for r in down
        for c in across
    ]


def spans(length: int, tile: int, about: int) -> list[slice]:
    """0 … length in slices of whole tiles, at most `about` long or one tile, and what remains."""
    step, whole = max(1, about // tile) * tile, length // tile * tile
    cuts = sorted({0, *range(0, whole, step), whole, length})
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]
