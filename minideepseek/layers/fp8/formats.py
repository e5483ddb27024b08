r"""Chapter 4b.1 — The format: which 256 numbers

One sign bit S, four exponent bits E, three mantissa bits M (`float8_e4m3fn` in ml_dtypes):

    E > 0     (−1)ˢ · 2^(E − 7) · (1 + M/8)         normal, from 2⁻⁶ to 448
    E = 0     (−1)ˢ · 2⁻⁶ · M/8                     subnormal, multiples of 2⁻⁹
    S.1111.111                                      NaN; there is no infinity

Neighbours are 1/8 of an octave apart, so rounding to the nearest (ties to an even mantissa) is off
by at most 1/16 of the value, or 2⁻¹⁰ below 2⁻⁶. `encode` clamps to ±448 first: what lies beyond,
infinity too, becomes ±448, and NaN stays NaN. (A bare cast makes everything beyond 464 NaN.)

Codes are owned as uint8 on every device; `float8_e4m3fn` is a label that can be put on them. Both
ways go through tables: decoding has 256 entries, and encoding needs only the upper half of a
float32 and whether anything below it is set, 65,536 entries: seven bits of mantissa and that one
tell every midpoint. float64 is rounded once too (ml_dtypes' own cast goes through float32 and
rounds twice: just beside a midpoint it is wrong).

>>> import numpy as np
>>> codes = encode(np.array([0.3, 448.0, 1e9, -0.001], np.float32))
>>> codes.tolist(), decode(codes).tolist()
([42, 126, 126, 129], [0.3125, 448.0, 448.0, -0.001953125])
"""

from __future__ import annotations

from typing import NamedTuple

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.float8 import float8_tables

E4M3_MAX = 448.0


class Format(NamedTuple):
    """A small floating-point format: sign, exponent bits with a bias, mantissa bits."""

    bias: int
    mantissa: int  # bits
    max: float  # the largest finite value


E4M3 = Format(7, 3, 448.0)
E5M2 = Format(15, 2, 57344.0)
E5M6 = Format(15, 6, 65024.0)


def round_in_place(q: Array, format: Format) -> None:
    """Round float32 numbers, none beyond `format.max`, to the format: nearest, ties to even.

    Adding 1.5 · 2²³ steps pushes everything below one step out of a float32's mantissa, and the
    addition rounds it; a step is 2^(e − mantissa bits) of a number in [2ᵉ, 2ᵉ⁺¹), and no smaller
    than the subnormals'. NaN stays NaN.
    """
    xp = xp_of(q)
    pushed = (q.view("uint32") & 0x7F800000).view("float32")  # 2ᵉ
    xp.maximum(pushed, 2.0 ** (1 - format.bias), out=pushed)
    pushed *= 1.5 * 2.0 ** (23 - format.mantissa)
    q += pushed
    q -= pushed


def ceil_power_of_two(s: Array) -> Array:
    """The smallest power of two that is at least s, for positive normal float32 numbers."""
    return ((s.view("uint32") + 0x7FFFFF) & 0x7F800000).view("float32")


def encode(x: Array) -> Array:
    """uint8 codes of x (float32 or float64, any shape): clamped to ±448, nearest, ties to even."""
    encoding, _ = float8_tables(x)
    bits = _float32_bits(x)
    return encoding[(bits >> 16) | ((bits & 0xFFFF) != 0)]


def decode(codes: Array) -> Array:
    """float32 values of uint8 codes, any shape."""
    return float8_tables(codes)[1][codes]


def _float32_bits(x: Array) -> Array:
    """x as the bits of a float32 whose lowest bit also says whether anything was cut off.

    Rounding float64 to float32 to float8 would round twice; truncating and remembering does not.
    """
    xp = xp_of(x)
    if x.dtype != "float64":
        return xp.ascontiguousarray(x.astype("float32")).view("uint32")
    x = xp.clip(x, -512, 512)  # in reach of float32; both ends become ±448
    narrow = xp.ascontiguousarray(x.astype("float32"))
    cut = abs(narrow) > abs(x)
    return (narrow.view("uint32") - cut.astype("uint32")) | (narrow != x)
