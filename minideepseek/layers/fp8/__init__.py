r"""Chapter 4b — FP8: eight bits a number, and a scale for every tile

V3 is trained and released with weights of one byte. A byte can hold 256 values, so two questions
decide everything: which 256, and in units of what? In this order:

    formats         the numbers: E4M3 from its bits, encode and decode; E5M2, E5M6, UE8M0
    tiles           the units: a scale for every tile, quantize and dequantize
    accumulation    the sums: products 128 at a time, and what 14 bits make of them
    recipe          which tile for which product of which layer
    linear          a linear layer in FP8, to train and to serve
    experts         the routed experts in FP8
    kernels         a tile quantised in one launch, on a GPU
    hopper          the product itself in FP8, on a GPU that can (cublaslt: by which calls)

`encode`, `decode`, `quantize` and `dequantize` can be called as `minideepseek.fp8.encode` … .
Numbers come back as float32. Arrays of any real dtype are taken, and lists; codes are uint8.

>>> import minideepseek as mds
>>> codes, scale_inv = mds.fp8.quantize([[0.3, -3.0, 112.0], [0.0, 0.0, 0.0]], block=(1, 128))
>>> scale_inv.tolist(), codes.dtype                                      # a scale for each row
([[0.25], [1.0]], dtype('uint8'))
>>> mds.fp8.dequantize(codes, scale_inv, block=(1, 128)).tolist()
[[0.3125, -3.0, 112.0], [0.0, 0.0, 0.0]]
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
