r"""Chapter 4b.4 — Which tile for which product

A linear layer is three products in training. Each adds up along another axis:

    Y  = X Wᵀ      forward              along `in`
    dX = dY W      input gradient       along `out`
    dW = dYᵀ X     weight gradient      along the tokens

A tensor core multiplies bare codes; a scale can be multiplied in only after a stretch of the sum
is complete. So a tile must not be cut by the axis that is summed, but lie along it: 128 numbers of
it share one scale, and the partial sum over those 128 is scaled once (V3 §3.3.2, accumulation.py).

    operand      tile        why this way
    X  in Y      1 × 128     along `in`; each token has scales of its own, one loud token among
                             thousands does not push the others towards zero
    W  in Y, dX  128 × 128   `in` and `out` are both summed along in turn, so that one set of codes
                             serves both products; weights have no outliers to speak of
    dY in dX     1 × 128     along `out`
    dY in dW     128 × 1     along the tokens
    X  in dW     128 × 1     along the tokens, made of the stored 1 × 128 codes (below)

The only stored form of X is that of the forward product, one byte a number: for dW it is decoded,
transposed and quantised again. Three kinds of operand travel or wait in a form of their own
(V3 §3.3.3, all with powers of two as scales):

    inputs of o_proj               stored in E5M6: attention's backward pass needs them too
    inputs of the experts' up      quantised before the tokens are dispatched to other machines
    gradient before the down       quantised before it is dispatched, the other way

Why powers of two: scaling by them changes exponents only. A number rounded to E4M3 in a 1 × 128
tile is still an E4M3 number in a 128 × 1 tile, unless it falls into the subnormals there, so that
the second quantisation adds no error.

The paper does not say what the product of o_proj reads; no tensor core multiplies E5M6. Here it
reads the numbers that are stored.

>>> import numpy as np
>>> x = np.array([[1.0, 0.01, 300.0]], np.float32)
>>> ALONG_ROW.round(x).tolist()                       # s = 300/448: 0.01 is a subnormal here
[[1.0044642686843872, 0.010463169775903225, 300.0]]
>>> kept = ALONG_ROW.keep(x)
>>> kept.codes.dtype, kept.scale_inv.shape, bool((kept.read() == ALONG_ROW.round(x)).all())
(dtype('uint8'), (1, 1), True)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from minideepseek.autograd.backend import Array
from minideepseek.layers.fp8.formats import E4M3, E5M6, Format
from minideepseek.layers.fp8.tiles import Block, from_codes, rounded, to_codes

WHOLE = 1 << 40  # a side that no matrix reaches


class Kept(NamedTuple):
    """A matrix as it waits for the backward pass: (N, K) codes, and a scale for each `block`."""

    codes: Array
    scale_inv: Array
    block: Block
    format: Format = E4M3
    bounded: bool = False

    def read(self, dtype: Any = "float32") -> Array:
        """The values, (N, K)."""
        return from_codes(*self).astype(dtype, copy=False)


@dataclass(frozen=True)
class Tile:
    """How one operand is quantised: a tile's sides (WHOLE: the matrix's), its format, its scale."""

    rows: int
    columns: int
    format: Format = E4M3
    power_of_two: bool = False

    def round(self, x: Array) -> Array:
        """x (N, K) as the product sees it, in x's dtype. NaN and Inf make their tile NaN."""
        y = rounded(x, self._block(x), self.format, self.power_of_two)
        return y.astype(x.dtype, copy=False)

    def keep(self, x: Array) -> Kept:
        """x (N, K) in one byte a number (two in E5M6); its read() gives what `round` does."""
        block, bounded = self._block(x), self.power_of_two or self.format != E4M3
        codes, scale_inv = to_codes(x, block, self.format, self.power_of_two)
        return Kept(codes, scale_inv, block, self.format, bounded)

    def _block(self, x: Array) -> Block:
        return max(1, min(self.rows, x.shape[0])), max(1, min(self.columns, x.shape[1]))


class HighPrecision(NamedTuple):
    """The tile that quantises nothing."""

    def round(self, x: Array) -> Array:
        """x (N, K) as it is."""
        return x

    def keep(self, x: Array) -> HeldArray:
        """x (N, K), held and not copied."""
        return HeldArray(x)


class HeldArray(NamedTuple):
    """What HighPrecision keeps: the array."""

    values: Array

    def read(self, dtype: Any = "float32") -> Array:
        """The array (N, K), in `dtype`."""
        return self.values.astype(dtype, copy=False)


AnyTile = Tile | HighPrecision
HIGH_PRECISION = HighPrecision()
ALONG_ROW, ALONG_COLUMN, SQUARE = Tile(1, 128), Tile(128, 1), Tile(128, 128)
TENSOR = Tile(WHOLE, WHOLE)


@dataclass(frozen=True)
class Scheme:
    """The tiles of one layer's operands, by the letters at the top of this file.

    x, w: of Y = X Wᵀ, and W's of dX too. dy: of dX = dY W. dy_tokens, x_tokens: of dW = dYᵀ X,
    where X is what x has left of it.
    """

    x: AnyTile = ALONG_ROW
    w: AnyTile = SQUARE
    dy: AnyTile = ALONG_ROW
    dy_tokens: AnyTile = ALONG_COLUMN
    x_tokens: AnyTile = ALONG_COLUMN


FINE_GRAINED = Scheme()
PER_TENSOR = Scheme(TENSOR, TENSOR, TENSOR, TENSOR, TENSOR)
SQUARE_GRADIENTS = Scheme(dy=SQUARE, dy_tokens=SQUARE)  # diverged in V3's trial (V3 App. B.2)
WEIGHTS_ALONE = Scheme(HIGH_PRECISION, SQUARE, HIGH_PRECISION, HIGH_PRECISION, HIGH_PRECISION)

_ROW_2, _COLUMN_2 = replace(ALONG_ROW, power_of_two=True), replace(ALONG_COLUMN, power_of_two=True)


@dataclass(frozen=True)
class Recipe:
    """A model's schemes: of its linear layers, of the one after attention, of its experts' two
    sides, and how the experts' SwiGLU keeps its inputs for backward."""

    linear: Scheme
    after_attention: Scheme
    experts_up: Scheme
    swiglu: AnyTile
    experts_down: Scheme

    @classmethod
    def uniform(cls, scheme: Scheme) -> Recipe:
        """One scheme everywhere."""
        return cls(scheme, scheme, scheme, scheme.x, scheme)


V3 = Recipe(
    linear=FINE_GRAINED,
    after_attention=Scheme(
        x=replace(_ROW_2, format=E5M6), x_tokens=replace(_COLUMN_2, format=E5M6)
    ),
    experts_up=Scheme(x=_ROW_2, x_tokens=_COLUMN_2),
    swiglu=ALONG_ROW,
    experts_down=Scheme(dy=_ROW_2, dy_tokens=_COLUMN_2),
)
SERVING = Recipe.uniform(WEIGHTS_ALONE)
