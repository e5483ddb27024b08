r"""Chapter 4b.5 — A linear layer in FP8: to train, and to serve

With Q for "quantised in the tile that recipe.py gives this operand, and decoded again":

    Y  = Q(X) Q(W)ᵀ + b           X in 1 × 128, W in 128 × 128
    dX = Q(dY) Q(W)               dY in 1 × 128
    dW = Q(dY)ᵀ Q(Q(X))           dY and X in 128 × 1; X from its stored codes
    db = Σ dY

**Straight through.** Q is a staircase: its derivative is 0 almost everywhere and says nothing. The
formulas above are the gradient with ∂Q(x)/∂x = 1, that of a function which Q follows on average.
They are therefore no derivative of this Y, and no difference quotient confirms them: what the
tests compare with is the formula, number by number.

**Master weights.** W is float32. E4M3's neighbours are 1/16 to 1/8 of a number apart, the steps of
an optimiser far smaller, and a step that is rounded away is not taken. Q(W) is made anew in each
forward pass.

**What is kept** for backward: codes and scales of X and W, a byte a number, in place of X's four.

The products are float32 products of decoded numbers. What tensor cores do instead, 128 codes at a
time with the scales multiplied into the partial sums, is in accumulation.py; with its sums promoted
to float32, the two differ by float32's rounding. hopper.py has them do it.

**Serving.** `stored()` drops the master copy: `weight` then is a byte a number and
`weight_scale_inv` is beside it, as in a checkpoint. Each use decodes 128 rows of W, multiplies,
and forgets them. What remains in memory is 1 + 4/128² bytes a weight; what it costs is a table
look-up for each weight and token. V3's servers quantise X too, as the forward product above does;
DeepSeek's published inference code can do either and by default multiplies decoded weights by
activations in bfloat16. Here the scheme's `x` says it: WEIGHTS_ALONE, the default, rounds no
activation, so that a token's numbers do not depend on how it is computed (chapter 2's two forms,
with and without a cache) by more than float32's rounding. With a rounded X they do: a last bit can
move a number to the next code, 6 % away.

>>> import numpy as np
>>> from minideepseek import FP8Linear, Tensor
>>> rng = np.random.default_rng(0)
>>> layer, x = FP8Linear(256, 384, rng), Tensor(rng.standard_normal((2, 256), np.float32))
>>> layer(x)
Tensor(shape=(2, 384), float32, cpu, from fp8_linear)
>>> served = layer.stored()
>>> served.weight.dtype, served.weight_scale_inv.shape, served.bytes_per_weight
(dtype('uint8'), (3, 2), 1.000244140625)
>>> bool(abs(served(x).data - layer(x).data).max() < 0.05 * abs(layer(x).data).max())
True
"""

from __future__ import annotations

from typing import Any

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.blocks import parallel_for
from minideepseek.autograd.engine import Parameter, Tensor, ops, primitive
from minideepseek.autograd.fused import rows_of
from minideepseek.autograd.products import matmul_both, matmul_rows
from minideepseek.errors import InputError
from minideepseek.layers.fp8 import hopper
from minideepseek.layers.fp8.formats import E4M3
from minideepseek.layers.fp8.recipe import FINE_GRAINED, WEIGHTS_ALONE, Kept, Scheme
from minideepseek.layers.fp8.tiles import WEIGHT_BLOCK, check_scales, quantize
from minideepseek.layers.module import DEFAULT_SEED, Init, Linear

BLOCK = WEIGHT_BLOCK[0]


@primitive
def fp8_linear(x, weight, bias=None, *, scheme):
    """Y = Q(X) Q(W)ᵀ + b with the gradients above.  x (…, in), weight (out, in), bias (out,)."""
    xp, shape, dtype = xp_of(x, weight), x.shape, x.dtype
    x_kept, w_kept = scheme.x.keep(rows_of(x)), scheme.w.keep(weight)
    y = xp.empty((*shape[:-1], weight.shape[0]), dtype)
    if in_fp8 := dtype == "float32" and hopper.takes(x_kept, w_kept):
        rows_of(y)[...] = hopper.multiply(x_kept, w_kept)
    else:
        matmul_rows(x_kept.read(dtype), w_kept.read(dtype).T, rows_of(y))
    if bias is not None:
        y += bias
    biased = bias is not None

    def vjp(g):
        g2 = rows_of(g)
        if in_fp8:
            dx, dw = hopper.gradients(g2, x_kept, w_kept, scheme)
            return (dx.reshape(shape), dw, g2.sum(0)) if biased else (dx.reshape(shape), dw)
        dx = xp.empty(shape, dtype)
        dy, w = scheme.dy.round(g2), w_kept.read(dtype)
        x_again = scheme.x_tokens.round(x_kept.read(dtype))
        dw = matmul_both(dy, w, rows_of(dx), scheme.dy_tokens.round(g2), x_again)
        return (dx, dw, g2.sum(0)) if biased else (dx, dw)

    return y, vjp


@primitive
def fp8_round(x, *, tile):
    """Q(x) of a matrix, straight through: dx = dy."""
    return tile.round(x), lambda g: g


@primitive
def fp8_stored_linear(x, codes, scale_inv, bias=None, *, tile):
    """Y = Q(X) Wᵀ + b of a stored W: codes (out, in) uint8, scale_inv (⌈out/128⌉, ⌈in/128⌉).

    128 rows of W are decoded at a time and not kept; the gradient reaches x (dX = dY W) and bias.
    """
    xp, shape, dtype = xp_of(x, codes, scale_inv), x.shape, x.dtype
    y = xp.empty((*shape[:-1], codes.shape[0]), dtype)
    rows, out = tile.round(rows_of(x)), rows_of(y)
    blocks = [
        (slice(i * BLOCK, (i + 1) * BLOCK), slice(i, i + 1)) for i in range(scale_inv.shape[0])
    ]

    def decoded(s, tiles):
        return Kept(codes[s], scale_inv[tiles], WEIGHT_BLOCK).read(dtype)

    def one(block):
        xp.matmul(rows, decoded(*block).T, out=out[:, block[0]])

    parallel_for(one, blocks)
    if bias is not None:
        y += bias
    biased, rows_in = bias is not None, len(rows)

    def vjp(g):
        g2, dx = rows_of(g), xp.zeros((rows_in, codes.shape[1]), dtype)
        for block in blocks:
            dx += g2[:, block[0]] @ decoded(*block)
        dx = dx.reshape(shape)
        return (dx, None, None, g2.sum(0)) if biased else (dx, None, None)

    return y, vjp


class FP8Linear(Linear):
    """y = x Wᵀ + b in FP8, to train: `weight` (out, in) is the master copy that is updated.

    rng: a numpy.random.Generator, None for a fixed seed, or an Init. scheme: the operands' tiles.
    `stored()` and `from_codes` give the layer that holds codes instead. InputError, where it is
    called, for an x whose last axis is not in_features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rng: Any = None,
        bias: bool = False,
        scheme: Scheme = FINE_GRAINED,
    ) -> None:
        if not isinstance(rng, Init):
            rng = Init(backend.generator(rng, DEFAULT_SEED), 0.02)
        super().__init__(in_features, out_features, rng, bias)
        self.scheme = scheme

    @classmethod
    def of(cls, linear: Linear, scheme: Scheme = FINE_GRAINED) -> FP8Linear:
        """The layer with the same Parameters as `linear`, which go on being shared."""
        layer = cls.__new__(cls)
        vars(layer).update(vars(linear), scheme=scheme)
        return layer

    @staticmethod
    def from_codes(
        codes: Array, scale_inv: Array, bias: Any = None, scheme: Scheme = WEIGHTS_ALONE
    ) -> StoredFP8Linear:
        """The layer that holds its weights as `quantize` gives them; InputError for other arrays.

        bias: None or a Parameter (out,).
        """
        return StoredFP8Linear(codes, scale_inv, bias, scheme)

    def stored(self, scheme: Scheme = WEIGHTS_ALONE) -> StoredFP8Linear:
        """This layer for serving: Q(W) and nothing else of W."""
        return self.from_codes(*quantize(self.weight.data), vars(self).get("bias"), scheme)

    def __call__(self, x: Tensor) -> Tensor:
        check_contraction(x, self.weight)
        bias = (self.bias,) if "bias" in vars(self) else ()
        return ops.fp8_linear(x, self.weight, *bias, scheme=self.scheme)

    def matrix(self) -> Tensor:
        return ops.fp8_round(self.weight, tile=self.scheme.w)


class StoredFP8Linear(FP8Linear):
    """y = x Wᵀ + b to serve: weight (out, in) uint8 codes, weight_scale_inv as in a checkpoint."""

    buffers = ("weight", "weight_scale_inv")

    def __init__(
        self, codes: Array, scale_inv: Array, bias: Any = None, scheme: Scheme = WEIGHTS_ALONE
    ) -> None:
        check_stored(codes, scale_inv)
        self.weight, self.weight_scale_inv = codes, scale_inv
        if bias is not None:
            self.bias: Parameter = bias
        self.scheme = scheme

    @property
    def bytes_per_weight(self) -> float:
        """Bytes of codes and scales over the number of weights."""
        return 1 + self.weight_scale_inv.nbytes / self.weight.size

    def stored(self, scheme: Scheme = WEIGHTS_ALONE) -> StoredFP8Linear:
        return self.from_codes(
            self.weight, self.weight_scale_inv, vars(self).get("bias"), scheme
        )

    def __call__(self, x: Tensor) -> Tensor:
        check_contraction(x, self.weight)
        bias = (self.bias,) if "bias" in vars(self) else ()
        return ops.fp8_stored_linear(
            x, self.weight, self.weight_scale_inv, *bias, tile=self.scheme.x
        )

    def matrix(self) -> Tensor:
        return Tensor(Kept(self.weight, self.weight_scale_inv, WEIGHT_BLOCK).read())


def check_contraction(x: Tensor, weight: Any) -> None:
    """InputError unless x (…, in) and weight (out, in) agree."""
    if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise InputError(
            f"x: got shape {x.shape}, expected (…, {weight.shape[1]}) for a weight of shape "
            f"{weight.shape}"
        )


def check_stored(codes: Array, scale_inv: Array) -> None:
    """InputError unless these are a matrix's E4M3 codes, none of them NaN, and its scales."""
    if codes.ndim != 2 or codes.dtype != "uint8":
        raise InputError(
            f"codes: got {codes.dtype} of shape {codes.shape}, expected a matrix of uint8"
        )
    if bool(((codes & 0x7F) == 0x7F).any()):
        raise InputError(f"codes: NaN in codes of shape {codes.shape}, expected finite numbers")
    check_scales(scale_inv, codes.shape, WEIGHT_BLOCK, E4M3)
