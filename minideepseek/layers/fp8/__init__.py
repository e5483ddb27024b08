r"""Chapter 4b — FP8: eight bits a number, and a scale for every tile

V3 is trained and released with weights of one byte. A byte can hold 256 values, so two questions
decide everything: which 256, and in units of what? In this order:

    formats.py    the numbers: E4M3 from its bits, encode and decode
    tiles.py      the units: a scale for every tile, quantize and dequantize
"""

from minideepseek.layers.fp8.formats import decode, encode
from minideepseek.layers.fp8.tiles import dequantize, quantize

__all__ = ["decode", "dequantize", "encode", "quantize"]
