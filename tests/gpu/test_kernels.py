"""Kernels beside their references, and FP8 products by cuBLASLt, here and on a card."""

import contextlib
import shutil

import numpy as np
import pytest

from minideepseek.layers.fp8 import accumulation, hopper, tiles
from tests.gpu.common import close, up
from tests.kernels import cases
from tests.layers.fp8.hopper_card import hopper_card

K, OUTPUTS = 4096, 64  # as in accumulation.py


@pytest.fixture
def there(place):
    """The device, with the kernels' text ready to run on it."""
    if place == "standin" and not shutil.which("g++"):
        pytest.skip("needs g++")
    cases.ready(place)
    yield place
    cases.ready()


@pytest.mark.parametrize("name", sorted(cases.CASES))
def test_kernels_at_the_edges_of_warps_and_blocks(there, name):
    cases.at_the_edges(name, np.random.default_rng(0))


@pytest.mark.parametrize("format", cases.FORMATS, ids=lambda f: f.name)
def test_encode_of_every_rounding(there, format):
    """All high halves of a float32 with six low ones: the formats keep at most 7 bits of the 23, so
    that of the low half nothing counts but whether it is 0. On a card, what is flushed to zero is
    far below half of the smallest number."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    cases.encode((high[:, None] | low).reshape(-1), format)


@contextlib.contextmanager
def hopper_at(place):
    """A card that multiplies in FP8; where there is none, a skip with the reason."""
    if place == "standin":
        with hopper_card():
            yield
        return
    reason = hopper.why_not(up(np.zeros((16, 16), np.uint8), place))
    if reason is not None:
        pytest.skip(reason)
    yield


@pytest.mark.parametrize("block", [(1, 128), (128, 128)], ids=str)
@pytest.mark.parametrize("m, n, k", [(1, 16, 16), (130, 272, 400), (64, 128, 2048)], ids=str)
def test_products_in_fp8(there, m, n, k, block):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (n, k)))
    a, b = tiles.quantize(x, (1, 128)), tiles.quantize(w, block)
    exact = tiles.dequantize(*a, (1, 128)).astype(float) @ tiles.dequantize(*b, block).T
    with hopper_at(there):
        y = hopper.product(*(up(array, there) for array in (*a, *b)), block)
    close(y, exact.astype(np.float32), 2e-3)


@pytest.mark.parametrize("data", ["uniform", "normal"])
def test_the_error_of_a_long_sum(there, data, record_property, capsys):
    """4,096 products: what the card makes of them, beside sums of 14 bits and promoted ones."""
    rng = np.random.default_rng(0)
    draw = {"uniform": rng.random, "normal": rng.standard_normal}[data]
    a, b = (tiles.quantize(draw((OUTPUTS, K)).astype(np.float32), (1, 128)) for _ in range(2))
    exact = tiles.dequantize(*a, (1, 128)).astype(float) @ tiles.dequantize(*b, (1, 128)).T
    with hopper_at(there):
        made = hopper.product(*(up(array, there) for array in (*a, *b)), (1, 128))
    plain = [tiles.dequantize(*x, (1, 128)) for x in (a, b)]
    sums = {
        "this device": made.get(),
        "128 products of 14 bits, then float32": accumulation.scaled_product(
            *a, *b, (1, 128), accumulation.fourteen_bit_sums
        ),
        "float32": plain[0] @ plain[1].T,
    }
    errors = {}
    for name, y in sums.items():
        errors[name] = float(np.linalg.norm(y - exact) / np.linalg.norm(exact))
        record_property(name, errors[name])
    if there == "cuda":
        with capsys.disabled():
            print(f"\n{data}: " + ", ".join(f"{n} {100 * e:.5f} %" for n, e in errors.items()))
    promoted = errors["128 products of 14 bits, then float32"]
    assert errors["this device"] <= 2 * promoted + 1e-6
