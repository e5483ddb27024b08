r"""Chapter 4b.7 — FP8 as kernels: quantised tile by tile, in one launch

    array functions    quantized     31.1 launches a matrix    about 40 arrays of its size
                       rounded       25.8                            20
                       decoded        3.1                             7
    kernels            each           1                         2, and x again from the cache

A step of `small` in FP8 is 27,665 launches, 22,023 of them in `quantize` and `rounded` and 1,610 in
decoding (307, 483 and 518 matrices). One launch each would leave 5,340 of them, and all kernels
together leave 3,926. This is the clearest case of all: at 10 µs a launch, 0.28 s a step become
0.04.

The tiles are those of V3 §3.3.2. A tile is owned by a warp, or by a block. Up to SMALL numbers one
warp of 32 threads reads it, and a block holds 8 tiles: 1 × 128 is four numbers for each lane, side
by side. A 128 × 128 tile is read by all 256 threads. For 128 × 1 a warp's lanes read 32 rows, 4
bytes of each; its block's 8 warps own the 8 columns beside each other, and what one of them fetches
(32 bytes, the least a card reads) the other seven find in the cache. The largest |x| of a tile is
found as an integer: bits of floats without their sign are in the order of their sizes, with
infinity and NaN above all numbers. A warp's lanes agree by a butterfly; the warps of a block by 8
words of shared memory.

The numbers are those of `tiles.py`, bit for bit, but for two things of the card: numbers below
2⁻¹²⁶ are zero (a tile of nothing else is zeros, where NumPy keeps some), and a NaN that arithmetic
makes has no sign. `encode` itself does no arithmetic on such numbers and agrees for every float32.

Whole matrices as one tile are left to the array functions: one block would read them alone.

No timing on a card exists yet.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.kernels.launch import THREADS, WARP, Kernel, cover, launch

if TYPE_CHECKING:
    from minideepseek.layers.fp8.formats import Format

SMALL = 1024  # numbers of a tile that one warp reads: 32 for each lane
LARGEST_TILE = 128 * 128
BOUND = (2 - 2.0**-23) * 2.0**127 * (1 - 2.0**-23)  # as in tiles._bound

_FORMAT = r"""
typedef {code} CODE;
const int MANTISSA = {mantissa}, BIAS = {bias};
const unsigned LARGEST = {largest}, NOT_A_NUMBER = {nan}, SIGN = {sign}, INFINITE = 0x7f800000u;
"""

# reference: formats.encode_bits
_ENCODE = r"""
__device__ CODE encode(float x)
{
    unsigned bits = __float_as_uint(x), size = bits & 0x7fffffffu, minus = bits >> 31 ? SIGN : 0;
    if (size > INFINITE) return (CODE)(NOT_A_NUMBER | minus);
    size = min(size, (LARGEST + ((127u - BIAS) << MANTISSA)) << (23 - MANTISSA));
    unsigned e = max(size & INFINITE, (128u - BIAS) << 23);         // the bits of 2^e
    unsigned pushed = e + ((23u - MANTISSA) << 23);                 // of 2^(e - m + 23)
    unsigned r = __float_as_uint(__uint_as_float(size) + __uint_as_float(pushed)) - pushed;
    return (CODE)(r + (e >> (23 - MANTISSA)) - ((128u - BIAS) << MANTISSA) | minus);
}

extern "C" __global__ void encode_all(const float* x, CODE* codes, long long count)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) codes[i] = encode(x[i]);
}
"""

# reference: tiles.tile_amax, tiles.tile_scale
_SCALE = r"""
__device__ float tile_scale(unsigned largest, long long power_of_two)
{
    if (largest >= INFINITE) return __uint_as_float(0x7fc00000u);   // NaN
    if (largest == 0) return 1;
    float s = fmaxf(__uint_as_float(largest) / {max}f, __uint_as_float(0x00800000u));
    return power_of_two ? __uint_as_float((__float_as_uint(s) + 0x7fffffu) & INFINITE) : s;
}

// What the threads of this tile agree on: 32 of them, or the whole block.
__device__ unsigned largest_of_all(unsigned largest, long long threads)
{
    __shared__ unsigned of_warp[8];
    for (int other = 16; other > 0; other /= 2)
        largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, other));
    if (threads == 32) return largest;
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int warp = 0; warp < 8; warp++) largest = max(largest, of_warp[warp]);
    return largest;
}

struct Tile { long long number, top, left; int height, width, lane; };

__device__ Tile my_tile(long long n, long long k, long long rows, long long columns,
                        long long threads)
{
    Tile t;
    t.number = blockIdx.x * (blockDim.x / threads) + threadIdx.x / threads;
    t.lane = (int)(threadIdx.x % threads);
    long long across = (k + columns - 1) / columns;
    t.top = t.number / across * rows;
    t.left = t.number % across * columns;
    t.height = (int)min(rows, n - t.top);       // not positive beyond the last tile
    t.width = (int)min(columns, k - t.left);
    return t;
}

__device__ float scale_of(const float* x, long long k, Tile t, long long threads,
                          long long power_of_two)
{
    unsigned largest = 0;
    for (int i = t.lane; i < t.height * t.width; i += (int)threads) {
        float value = x[(t.top + i / t.width) * k + t.left + i % t.width];
        largest = max(largest, __float_as_uint(value) & 0x7fffffffu);
    }
    return tile_scale(largest_of_all(largest, threads), power_of_two);
}
"""

# reference: tiles.to_codes
_QUANTIZE = r"""
extern "C" __global__ void quantize(
    const float* x, CODE* codes, float* scale_inv, long long n, long long k, long long rows,
    long long columns, long long threads, long long power_of_two)
{
    Tile t = my_tile(n, k, rows, columns, threads);
    if (t.height <= 0) return;                  // all threads of the tile
    float s = scale_of(x, k, t, threads, power_of_two);
    if (t.lane == 0) scale_inv[t.number] = s;
    for (int i = t.lane; i < t.height * t.width; i += (int)threads) {
        long long at = (t.top + i / t.width) * k + t.left + i % t.width;
        codes[at] = encode(x[at] / s);
    }
}
"""

# reference: tiles.rounded
_ROUND = r"""
__device__ float bounded(float q, float s)      // reference: tiles._bound
{
    float bound = {bound}f / fmaxf(s, 1);
    return q > bound ? bound : q < -bound ? -bound : q;
}

extern "C" __global__ void round_tiles(
    const float* x, float* y, long long n, long long k, long long rows, long long columns,
    long long threads, long long power_of_two, long long bound)
{
    Tile t = my_tile(n, k, rows, columns, threads);
    if (t.height <= 0) return;
    float s = scale_of(x, k, t, threads, power_of_two);
    float smallest = __uint_as_float((128u - BIAS) << 23);
    for (int i = t.lane; i < t.height * t.width; i += (int)threads) {
        long long at = (t.top + i / t.width) * k + t.left + i % t.width;
        float q = x[at] / s;
        float pushed = fmaxf(__uint_as_float(__float_as_uint(q) & INFINITE), smallest);
        pushed *= 1.5f * __uint_as_float((127u + 23 - MANTISSA) << 23);
        q = q + pushed - pushed;
        y[at] = (bound ? bounded(q, s) : q) * s;
    }
}
"""

# reference: tiles.from_codes
_DEQUANTIZE = r"""
extern "C" __global__ void dequantize(
    const CODE* codes, const float* scale_inv, const float* table, float* x, long long n,
    long long k, long long rows, long long columns, long long bound)
{
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= n) return;
    const float* scales = scale_inv + row / rows * ((k + columns - 1) / columns);
    for (long long c = threadIdx.x % 32; c < k; c += 32) {
        float q = table[codes[row * k + c]], s = scales[c / columns];
        x[row * k + c] = (bound ? bounded(q, s) : q) * s;
    }
}
"""


@functools.cache
def kernel(name: str, format: Format) -> Kernel:
    """The kernel of that name, with a format's numbers as its constants."""
    text = _FORMAT.format(
        code={"uint8": "unsigned char", "uint16": "unsigned short"}[format.dtype],
        mantissa=format.mantissa, bias=format.bias,
        largest=format.largest, nan=format.nan, sign=format.sign,
    )  # fmt: skip
    body = _ENCODE + _SCALE + _QUANTIZE + _ROUND + _DEQUANTIZE
    body = body.replace("{max}", repr(format.max))
    return Kernel(name, text + body.replace("{bound}", repr(BOUND)))


def fits(block: tuple[int, int], shape: tuple[int, ...]) -> bool:
    """Whether a matrix's tiles are of a size that a block of threads can own."""
    return min(block[0], shape[0]) * min(block[1], shape[1]) <= LARGEST_TILE


def encode(x: Array, format: Format) -> Array:
    """`formats.encode` of float32 numbers of any shape."""
    xp = xp_of(x)
    x, codes = xp.ascontiguousarray(x), xp.empty(x.shape, format.dtype)
    launch(kernel("encode_all", format), cover(x.size, THREADS), x, codes, x.size)
    return codes


def quantize(
    x: Array, block: tuple[int, int], format: Format, power_of_two: bool
) -> tuple[Array, Array]:
    """`tiles.to_codes` of float32 x (N, K)."""
    xp = xp_of(x)
    sides, tiles, threads = _geometry(x.shape, block)
    x, codes = xp.ascontiguousarray(x), xp.empty(x.shape, format.dtype)
    scale_inv = xp.empty(tiles, "float32")
    blocks = cover(tiles[0] * tiles[1], THREADS // threads)
    launch(
        kernel("quantize", format), blocks,
        x, codes, scale_inv, *x.shape, *sides, threads, int(power_of_two),
    )  # fmt: skip
    return codes, scale_inv


def rounded(
    x: Array, block: tuple[int, int], format: Format, power_of_two: bool, bound: bool
) -> Array:
    """`tiles.rounded` of float32 x (N, K); bound: keep results within float32."""
    xp = xp_of(x)
    sides, tiles, threads = _geometry(x.shape, block)
    x, y = xp.ascontiguousarray(x), xp.empty(x.shape, "float32")
    blocks = cover(tiles[0] * tiles[1], THREADS // threads)
    launch(
        kernel("round_tiles", format), blocks,
        x, y, *x.shape, *sides, threads, int(power_of_two), int(bound),
    )  # fmt: skip
    return y


def dequantize(
    codes: Array,
    scale_inv: Array,
    table: Array,
    block: tuple[int, int],
    format: Format,
    bound: bool,
) -> Array:
    """`tiles.from_codes` of codes (N, K); table: the values of all codes, in order."""
    xp, (n, _) = xp_of(codes, scale_inv), codes.shape
    codes, scale_inv = xp.ascontiguousarray(codes), xp.ascontiguousarray(scale_inv)
    x = xp.empty(codes.shape, "float32")
    sides = _geometry(codes.shape, block)[0]
    launch(
        kernel("dequantize", format), cover(n, THREADS // WARP),
        codes, scale_inv, table, x, *codes.shape, *sides, int(bound),
    )  # fmt: skip
    return x


def _geometry(
    shape: tuple[int, ...], block: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int], int]:
    """The sides of a tile, no longer than the matrix; how many tiles, down and across; how many
    threads own one."""
    rows, columns = (max(1, min(b, side)) for b, side in zip(block, shape, strict=True))
    tiles = cover(shape[0], rows), cover(shape[1], columns)
    return (rows, columns), tiles, WARP if rows * columns <= SMALL else THREADS
