"""What the tests of safetensors share: files made by hand, arrays of every bit pattern."""

import contextlib
import json
import struct
import tracemalloc

import numpy as np

EXAMPLE = (
    b"\x40\0\0\0\0\0\0\0"
    b'{"W":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}       '
    b"\x80\x3f\x00\x40"
)


def random_bits(rng, dtype, shape):
    """Every bit pattern: NaN payloads, signalling NaNs, subnormals, both zeros."""
    high = 2 if dtype.kind == "b" else 256
    raw = rng.integers(0, high, (*shape, dtype.itemsize), dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def encode(header, data=b"", pad=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text + pad)) + text + pad + data


@contextlib.contextmanager
def memory_below(limit):
    """The block's own peak of allocated bytes; mapped pages do not count."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


def entry(dtype="U8", shape=(2,), offsets=(0, 2), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}
