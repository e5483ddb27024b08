r"""Chapter 4b.8 — The product itself in FP8, on Hopper

Everything before this file multiplies decoded numbers. Here a card's tensor cores multiply the
codes: Y = Â B̂ᵀ of codes a (M, K) in tiles of 1 × 128 and b (N, K) in tiles of 128 × 128 or 1 × 128,
which is `accumulation.scaled_product`, and V3's recipe for every linear layer (V3 §3.3.2).

NVIDIA's cuBLASLt has had these very tiles as *scale mode* since 12.9, for compute capability 9.0
alone: Ada has one scale for a tensor, and Blackwell tiles of 32. CuPy brings the library along and
has no name for it, so it is called here by ctypes, and knows nothing of rows: it counts in columns.

    ours, rows side by side          the same memory, columns side by side       cuBLASLt's
    b (N, K)                         (K, N), a column is K long                  A, transposed
    a (M, K)                         (K, M)                                      B, as it is
    Y (M, N) = a bᵀ                  (N, M) = b aᵀ                               D = Aᵀ B

Codes are not copied, and "A transposed, B not" (TN) is the one form that Hopper's FP8 has. The
scales are what `weight_scale_inv` is, factors to multiply by, and want to be laid out like this:

    1 × 128       ours (M, L), L = ⌈K/128⌉; cuBLASLt reads down the M: the transpose, copied
    128 × 128     ours (⌈N/128⌉, L); cuBLASLt reads along L and wants rows of a multiple of 4

16 bytes are read at a time: K and N are multiples of 16, M is padded to one, addresses are.

**What it adds up to.** The card adds 32 products at a time with about 14 bits (accumulation.py).
These two modes bring a scale in every 128 products, and so have to promote the sum; the attribute
FAST_ACCUM, by which one may forgo that, stays off. `pytest -m gpu` measures the error beside
`promoted_sums` and `fourteen_bit_sums`.

**None of this has run on a card.** Descriptors, layouts, scales, the order of the calls and what
is freed are checked against a library of our own that does the product from what it was told, and
the attributes against NVIDIA's, which accepts them without a card. So it is off;
MINIDEEPSEEK_HOPPER=1, read at import, or `set_hopper(True)` lets `FP8Linear` use it for all three
of its products where the card, the library and the shapes allow it. The rules are those of cuBLAS'
documentation, "128-element 1D and 128x128 2D Block Scaling For FP8 Data Types" and
"cublasLtMatmul()".
"""

from __future__ import annotations

import os

from minideepseek.autograd.backend import Array, on_host, xp_of
from minideepseek.errors import InputError
from minideepseek.layers.fp8 import cublaslt
from minideepseek.layers.fp8.formats import E4M3, check_codes
from minideepseek.layers.fp8.recipe import HeldArray, Kept, Scheme
from minideepseek.layers.fp8.tiles import WEIGHT_BLOCK, Block, scale_shape

VERSION = 120900  # 12.9.0: the first with these scale modes
CAPABILITY = "90"
ALIGNED = 16
Operand = Kept | HeldArray

_on = os.environ.get("MINIDEEPSEEK_HOPPER") == "1"


def set_hopper(on: bool) -> None:
    """Multiply in FP8 where the card can, or decoded numbers; off unless MINIDEEPSEEK_HOPPER=1."""
    global _on
    _on = on


def takes(a: Operand, b: Operand) -> bool:
    """Whether a bᵀ is multiplied in FP8: switched on, operands as tiles keep them, E4M3 codes in
    the two kinds of tiles on a card that can, and sides that are multiples of 16."""
    if not (_on and isinstance(a, Kept) and isinstance(b, Kept)):
        return False
    n, k = b.codes.shape
    along = min(128, k)
    return (
        a.format == b.format == E4M3
        and a.block == (1, along)
        and b.block in ((1, along), (min(128, n), along))
        and n % ALIGNED == 0
        and k % ALIGNED == 0
        and why_not(a.codes) is None
    )


def multiply(a: Operand, b: Operand) -> Array:
    """a bᵀ (M, N) float32: of the codes where `takes` says so, else of the decoded numbers."""
    if not (isinstance(a, Kept) and isinstance(b, Kept) and takes(a, b)):
        return a.read() @ b.read().T
    block = (1, 128) if b.block[0] == 1 else WEIGHT_BLOCK
    return product(a.codes, a.scale_inv, b.codes, b.scale_inv, block)


def turned(x: Operand) -> Operand:
    """The transpose of an operand: its codes', its scales' and its tiles'."""
    if not isinstance(x, Kept):
        return x._replace(values=x.values.T)
    return x._replace(codes=x.codes.T, scale_inv=x.scale_inv.T, block=x.block[::-1])


def gradients(g: Array, x: Kept, w: Kept, scheme: Scheme) -> tuple[Array, Array]:
    """(dX, dW) of Y = X Wᵀ: dY W along the outputs, dYᵀ X along the tokens (recipe.py).

    g (M, out) float32, x (M, in), w (out, in).
    """
    dx = multiply(scheme.dy.keep(g), turned(w))
    dy, again = scheme.dy_tokens.keep(g), scheme.x_tokens.keep(x.read())
    return dx, multiply(turned(dy), turned(again))


def why_not(array: Array) -> str | None:
    """None if codes can be multiplied where `array` lives, else one sentence with the cure."""
    if on_host(xp_of(array)):
        return "arrays are on the host, which has no tensor cores; move them to a Hopper card"
    capability = str(xp_of(array).cuda.Device().compute_capability)
    if capability != CAPABILITY:
        return f"the card has compute capability {capability}, expected {CAPABILITY} (Hopper)"
    lib = cublaslt.library()
    if lib is None:
        names = ", ".join(cublaslt.LIBRARIES)
        return f"none of {names} can be loaded; install cupy-cuda13x[ctk]"
    version = int(lib.cublasLtGetVersion())
    if version < VERSION:
        return f"cuBLASLt is of version {version}, expected {VERSION} (CUDA 12.9) or newer"
    return None


# ------------------------------------------------------------------------------------- the product


def product(
    codes_a: Array, scale_a: Array, codes_b: Array, scale_b: Array, block_b: Block = WEIGHT_BLOCK
) -> Array:
    """Â B̂ᵀ of E4M3 codes, (M, N) float32, as `scaled_product` of the same arguments.

    codes_a (M, K), scale_a (M, ⌈K/128⌉); codes_b (N, K), scale_b for tiles of `block_b`, 128 × 128
    or 1 × 128. InputError for shapes that disagree, for K or N that is no multiple of 16, and
    where `why_not` has an answer; CublasError with the status of a call that fails.
    """
    _check(codes_a, scale_a, codes_b, scale_b, block_b)
    xp, (m, k), n = xp_of(codes_a, scale_a, codes_b, scale_b), codes_a.shape, codes_b.shape[0]
    y = xp.zeros((-(-m // ALIGNED) * ALIGNED, n), "float32")
    if not y.size or not k:
        return y[:m]
    a, b = _padded(codes_a, y.shape[0]), xp.ascontiguousarray(codes_b)
    down = xp.ascontiguousarray(_padded(scale_a, y.shape[0]).T)
    across = xp.ascontiguousarray(scale_b.T) if block_b[0] == 1 else _fours(scale_b)
    mode = cublaslt.VEC128_32F if block_b[0] == 1 else cublaslt.BLK128x128_32F
    cublaslt.matmul(b, across, mode, a, down, y)
    return y[:m]


def _check(codes_a, scale_a, codes_b, scale_b, block_b) -> None:
    reason = why_not(codes_a)
    if reason is not None:
        raise InputError(f"product in FP8: {reason}")
    codes_a, codes_b = check_codes(codes_a, E4M3), check_codes(codes_b, E4M3)
    if codes_a.ndim != 2 or codes_b.ndim != 2 or codes_a.shape[1] != codes_b.shape[1]:
        raise InputError(
            f"product in FP8: got codes of shapes {codes_a.shape} and {codes_b.shape}, "
            "expected (M, K) and (N, K)"
        )
    n, k = codes_b.shape
    if n % ALIGNED or k % ALIGNED:
        raise InputError(f"product in FP8: got N = {n}, K = {k}, expected multiples of {ALIGNED}")
    rows = 1 if block_b[0] == 1 else 128  # of a ragged tile too
    for name, scale, shape in (
        ("scale_a", scale_a, scale_shape(codes_a.shape, (1, 128))),
        ("scale_b", scale_b, scale_shape((n, k), (rows, 128))),
    ):
        if tuple(scale.shape) != shape or scale.dtype != "float32":
            raise InputError(
                f"{name}: got {scale.dtype} of shape {tuple(scale.shape)}, "
                f"expected float32 of shape {shape}"
            )


def _padded(x: Array, rows: int) -> Array:
    """x (M, …) with zeros below it, contiguous."""
    xp = xp_of(x)
    if x.shape[0] == rows:
        return xp.ascontiguousarray(x)
    wide = xp.zeros((rows, x.shape[1]), x.dtype)
    wide[: x.shape[0]] = x
    return wide


def _fours(scale: Array) -> Array:
    """scale (R, L) in rows of a multiple of 4."""
    wide = xp_of(scale).zeros((scale.shape[0], -(-scale.shape[1] // 4) * 4), "float32")
    wide[:, : scale.shape[1]] = scale
    return wide
