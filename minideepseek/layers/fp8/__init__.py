r"""Chapter 4b — FP8: eight bits a number, and a scale for every tile

V3 is trained and released with weights of one byte. A byte can hold 256 values, so two questions
decide everything: which 256, and in units of what? In this order:

    formats.py    the numbers: E4M3 from its bits, encode and decode
    tiles.py      the units: a scale for every tile, quantize and dequantize
    accumulation.py  the sum: products 128 at a time, and what 14 bits make of it
"""

from minideepseek.layers.fp8.accumulation import (
    float32_sums,
    fourteen_bit_sums,
    promoted_sums,
    scaled_product,
)
from minideepseek.layers.fp8.formats import (
    E4M3,
    E5M2,
    E5M6,
    Format,
    decode,
    decode_ue8m0,
    encode,
    encode_ue8m0,
)
from minideepseek.layers.fp8.tiles import dequantize, quantize, rounded

__all__ = [
    "E4M3",
    "E5M2",
    "E5M6",
    "Format",
    "decode",
    "decode_ue8m0",
    "dequantize",
    "encode",
    "encode_ue8m0",
    "float32_sums",
    "fourteen_bit_sums",
    "promoted_sums",
    "quantize",
    "rounded",
    "scaled_product",
]
