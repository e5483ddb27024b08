r"""The tables by which float8_e4m3fn is encoded and decoded, made once per device from ml_dtypes.

CuPy cannot compute with float8; looking up a byte in a table it can, and on the host it is faster
than ml_dtypes' own casts too. `layers/fp8/` explains the format.
"""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np

from minideepseek.autograd.backend import Array, device_of, get_device


def float8_tables(like: Array) -> tuple[Array, Array]:
    """(encoding, decoding) where `like` lives.

    encoding (65536,) uint8: the code of the float32 whose upper 16 bits are the index, its lowest
    bit standing for everything below. decoding (256,) float32.
    """
    return _tables(device_of(like).name)


@functools.cache
def _tables(device: str) -> tuple[Array, Array]:
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    values = np.clip(upper.view(np.float32), -448, 448)  # NaN stays NaN
    with np.errstate(invalid="ignore"):  # NaN is meant to stay NaN
        encoding = values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    decoding = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    from_host = get_device(device).from_host
    return from_host(encoding), from_host(decoding)
