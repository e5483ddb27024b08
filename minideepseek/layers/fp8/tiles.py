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

from minideepseek.autograd.backend import Array, row_blocks, xp_of
from minideepseek.errors import InputError
from minideepseek.layers.fp8.formats import E4M3_MAX, decode, encode

SMALLEST_SCALE = 2.0**-126  # the smallest normal float32
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
