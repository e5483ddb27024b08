r"""Chapter 4b.1 — The formats: which numbers a byte can hold

A small float is a sign S, a few exponent bits E with a bias b, and m mantissa bits M:

    E > 0     (−1)ˢ · 2^(E − b) · (1 + M/2ᵐ)         normal: the leading 1 is not stored
    E = 0     (−1)ˢ · 2^(1 − b) · M/2ᵐ               subnormal: steps of 2^(1 − b − m) down to zero

            S E M     b   largest           smallest normal, step   E all ones
    E4M3    1 4 3     7   1.75 · 2⁸         2⁻⁶,  2⁻⁹               numbers too, S.1111.111 is NaN
    E5M2    1 5 2    15   1.75 · 2¹⁵        2⁻¹⁴, 2⁻¹⁶              M = 0: ∞, else NaN
    E5M6    1 5 6    15   (2 − 2⁻⁶) · 2¹⁵   2⁻¹⁴, 2⁻²⁰              M = 0: ∞, else NaN
    UE8M0   0 8 0   127   2¹²⁷              2⁻¹²⁷, none             NaN; no zero, no sign

E4M3 is V3's format for every product (§3.3.2): `float8_e4m3fn` elsewhere, largest 448, no infinity.
E5M2 has more range and half the precision; earlier recipes keep gradients in it. E5M6, 12 bits, is
V3's for what enters the projection after attention (§3.3.3). The paper gives its fields alone; here
it is a half-precision number without its last four bits, as DeepSeek's TileKernels store it, so the
exponent of ones stays infinity and NaN, and the largest number is 65,024. A code takes a uint16.
UE8M0 holds a scale and nothing else: the eight exponent bits of a float32.

`encode` rounds to the nearest number, ties to an even mantissa, and is total: what lies beyond the
largest number, infinity too, becomes it, and NaN stays NaN. (A bare cast to float8_e4m3fn makes
everything beyond 464 NaN.) Neighbours are 1/8 of an octave apart in E4M3, so rounding is off by at
most 1/16 of the value, or by 2⁻¹⁰ below 2⁻⁶.

How to round with float32 alone: let 2ᵉ ≤ |x| < 2ᵉ⁺¹, e at least the subnormals' 1 − b. The numbers
around x are multiples of 2^(e − m), and that is the last bit of a float32 near 2^(e − m + 23). So

    |x| + 2^(e − m + 23)

is a float32 addition that rounds x as the small format would, and its mantissa bits count the steps
r = |x| / 2^(e − m), from 2ᵐ for a normal number to 2ᵐ⁺¹ if it was rounded up an octave. The code is
then r + (e + b − 1) · 2ᵐ: exponent and mantissa are one number that carries over by itself.

Codes are owned as uint8 on every device. The dtype is a label that can be put on them and taken off
without a copy: CuPy can neither allocate nor compute with float8, but it can look at bytes.

>>> import numpy as np
>>> codes = encode([0.3, 448.0, 1e9, -0.001])
>>> codes.tolist(), decode(codes).tolist()
([42, 126, 126, 129], [0.3125, 448.0, 448.0, -0.001953125])
>>> import ml_dtypes
>>> labelled = codes.view("float8_e4m3fn")                        # the same memory
>>> labelled.astype(np.float32).tolist(), labelled.nbytes
([0.3125, 448.0, 448.0, -0.001953125], 4)
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from minideepseek.autograd.backend import Array, as_array, device_of, get_device, xp_of
from minideepseek.autograd.blocks import parallel_for, row_blocks
from minideepseek.autograd.kernels import wanted
from minideepseek.errors import InputError
from minideepseek.layers.fp8 import kernels

FLOAT32_MAX = (2 - 2.0**-23) * 2.0**127
INFINITY = 0x7F800000  # a float32's exponent bits: infinity; what is larger, unsigned, is NaN


class Format(NamedTuple):
    """A small float by its bits."""

    name: str
    dtype: str  # of the codes
    sign: int  # that bit
    bias: int
    mantissa: int  # how many bits
    largest: int  # the code of the largest number; the next one is ∞ if it is not NaN
    nan: int

    @property
    def max(self) -> float:
        """The largest number."""
        exponent, mantissa = divmod(self.largest, 1 << self.mantissa)
        return 2.0 ** (exponent - self.bias) * (1 + mantissa / (1 << self.mantissa))


E4M3 = Format("E4M3", "uint8", sign=0x80, bias=7, mantissa=3, largest=0x7E, nan=0x7F)
E5M2 = Format("E5M2", "uint8", sign=0x80, bias=15, mantissa=2, largest=0x7B, nan=0x7E)
E5M6 = Format("E5M6", "uint16", sign=0x800, bias=15, mantissa=6, largest=0x7BF, nan=0x7E0)


def encode(x: Any, format: Format = E4M3) -> Array:
    """Codes (uint8; E5M6 uint16) of real numbers x, any shape: saturating, nearest, ties to even.

    Every dtype is rounded once, float64 and integers too. InputError for what is not real numbers.
    """
    x = real_numbers(x, "encode")
    if wanted(x):
        return kernels.encode(x, format)
    xp = xp_of(x)
    codes = xp.empty(x.shape, format.dtype)
    flat, out = xp.ascontiguousarray(x).reshape(-1), codes.reshape(-1)

    def one(s: slice) -> None:
        out[s] = encode_bits(float32_bits(flat[s]), format)

    parallel_for(one, row_blocks(xp, flat.size, 12))
    return codes


def decode(codes: Array, format: Format = E4M3) -> Array:
    """float32 values of codes, any shape, by a table of all codes.

    InputError for codes of another dtype: take a label off by `.view("uint8")`.
    """
    codes = check_codes(codes, format)
    xp = xp_of(codes)
    values, table = xp.empty(codes.shape, "float32"), values_of(format, codes)
    flat, out = xp.ascontiguousarray(codes).reshape(-1), values.reshape(-1)

    def one(s: slice) -> None:
        out[s] = table[flat[s].astype("int64")]  # the index would be made one anyway, and slower

    parallel_for(one, row_blocks(xp, flat.size, 16))
    return values


def encode_bits(bits: Array, format: Format) -> Array:
    """Codes of float32 numbers given by their bits (uint32)."""
    xp, m = xp_of(bits), format.mantissa
    r = bits & 0x7FFFFFFF  # |x|: larger bits are a larger number
    nan = (r > INFINITY).astype(format.dtype)
    xp.minimum(r, (format.largest + ((127 - format.bias) << m)) << (23 - m), out=r)
    e = r & INFINITY  # the bits of 2ᵉ
    xp.maximum(e, (128 - format.bias) << 23, out=e)
    pushed = e + ((23 - m) << 23)  # the bits of 2^(e − m + 23)
    value = r.view("float32")
    value += pushed.view("float32")
    r -= pushed
    e >>= 23 - m
    r += e
    r -= (128 - format.bias) << m
    r |= (bits >> (32 - format.sign.bit_length())) & format.sign
    codes = r.astype(format.dtype)
    codes += nan * (format.nan - format.largest)
    return codes


def round_in_place(x: Array, format: Format) -> None:
    """x ← decode(encode(x)) for float32 numbers none of which rounds beyond the largest.

    The same addition with the sign left on, 1.5 times as far up so that both signs stay within one
    octave, and the subtraction that takes it back. NaN stays NaN.
    """
    xp = xp_of(x)
    pushed = (x.view("uint32") & INFINITY).view("float32")  # 2ᵉ
    xp.maximum(pushed, 2.0 ** (1 - format.bias), out=pushed)
    pushed *= 1.5 * 2.0 ** (23 - format.mantissa)
    x += pushed
    x -= pushed


def values_of(format: Format, like: Array) -> Array:
    """The values of all codes in order, float32, where `like` lives."""
    return _values(format, device_of(like).name)


@functools.cache
def _values(format: Format, device: str) -> Array:
    xp = get_device(device).xp
    code = xp.arange(2 * format.sign, dtype="int32")
    low = code & (format.sign - 1)
    exponent, mantissa = low >> format.mantissa, low & ((1 << format.mantissa) - 1)
    size = mantissa / (1 << format.mantissa) + (exponent > 0)
    size = xp.ldexp(size, xp.maximum(exponent, 1) - format.bias)
    size = xp.where(low > format.largest, xp.nan, size)
    if format.nan > format.largest + 1:
        size = xp.where(low == format.largest + 1, xp.inf, size)
    return xp.where(code >= format.sign, -size, size).astype("float32")


# ------------------------------------------------------------------------------ scales: UE8M0


def ceil_power_of_two(s: Array) -> Array:
    """2^⌈log₂ s⌉ of positive normal float32 numbers, from the bits: a mantissa that is not zero
    carries into the exponent. (2^⌈log₂ s⌉ by float32 functions is wrong by 2 beside powers of
    two, where log₂ s rounds to an integer.)"""
    return ((s.view("uint32") + 0x7FFFFF) & INFINITY).view("float32")


def encode_ue8m0(scale: Any) -> Array:
    """uint8 codes of scales, rounded up to a power of two: no product q · s may lose its largest.

    Clamped to 2⁻¹²⁷ … 2¹²⁷; NaN for what is not positive. ml_dtypes' cast to float8_e8m0fnu is the
    same for powers of two, and rounds others to the nearest.
    """
    scale = real_numbers(scale, "encode_ue8m0")
    xp, bits = xp_of(scale), float32_bits(scale)
    codes = xp.minimum((bits + 0x7FFFFF) >> 23, 254)
    codes = xp.where(bits <= 0x400000, 0, codes)  # up to 2⁻¹²⁷, a subnormal float32
    codes = xp.where((bits == 0) | (bits > INFINITY), 255, codes)  # NaN; the sign bit is above it
    return codes.astype("uint8").reshape(scale.shape)


def decode_ue8m0(codes: Array) -> Array:
    """float32 scales 2^(code − 127) of uint8 codes; 255 is NaN. InputError for another dtype."""
    codes = check_codes(codes, E4M3)
    xp = xp_of(codes)
    bits = codes.astype("uint32") << 23
    bits = xp.where(codes == 0, xp.uint32(0x400000), bits)
    return xp.where(codes == 255, xp.uint32(0x7FC00000), bits).view("float32")


# ------------------------------------------------------------------------------ what may come in


def real_numbers(x: Any, who: str) -> Array:
    """x as float32 or float64, each without a copy where it is one; lists become arrays."""
    x = as_array(x)
    if x.dtype in ("float32", "float64"):
        return x
    if x.dtype.kind in "iu":
        return x.astype("float64")  # float32 would round once more
    if x.dtype.kind in "fV" and x.dtype.itemsize <= 2 and x.dtype.names is None:
        return x.astype("float32")  # float16, bfloat16 and smaller
    raise InputError(f"{who}: got dtype {x.dtype}, expected real numbers")


def check_codes(codes: Array, format: Format) -> Array:
    """codes as an array; InputError for another dtype than the format's."""
    codes = as_array(codes)
    if codes.dtype != format.dtype:
        raise InputError(f"codes: got dtype {codes.dtype}, expected {format.dtype}")
    return codes


def float32_bits(x: Array) -> Array:
    """Floats as the bits of a float32 (uint32), the last of which says whether more was cut off.

    Rounding float64 to float32 to a small float would round twice, and wrongly beside a midpoint;
    cutting, and remembering that something was cut, does not.
    """
    xp = xp_of(x)
    if x.dtype == "float32":
        return xp.ascontiguousarray(x).view("uint32")
    x = xp.clip(x, -FLOAT32_MAX, FLOAT32_MAX)
    narrow = xp.ascontiguousarray(x.astype("float32"))
    up = abs(narrow) > abs(x)
    return (narrow.view("uint32") - up.astype("uint32")) | (narrow != x)
