"""What is kept for backward reads as it was rounded, at both ends of float32 too; the tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.layers import fp8
from minideepseek.layers.fp8.formats import real_numbers, values_of
from minideepseek.layers.fp8.recipe import Tile
from minideepseek.layers.fp8.tiles import FLOAT32_MAX

FORMATS = [fp8.E4M3, fp8.E5M2, fp8.E5M6]
each_format = pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)


@each_format
@pytest.mark.parametrize("power_of_two", [False, True])
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_kept_is_rounded(format, power_of_two, seed, n, k):
    """The largest numbers of float32 among them: q · s is rounded up beyond it unless held."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, k)).astype(np.float32)
    near = (FLOAT32_MAX * (1 - rng.integers(0, 1 << 20, (n, k)) * 2.0**-24)).astype(np.float32)
    x = np.where(rng.random((n, 1)) < 0.5, x, near)
    tile = Tile(1, 16, format, power_of_two)
    kept, rounded = tile.keep(x).read(), tile.round(x)
    assert np.isfinite(kept).all()
    assert np.array_equal(kept.view(np.uint32) << 1, rounded.view(np.uint32) << 1)


@each_format
def test_the_values_of_the_codes_are_float32(format):
    values = values_of(format, np.zeros(1, np.uint8))
    assert values.dtype == np.float32 and len(values) == 2 * format.sign


@pytest.mark.parametrize("dtype", [[("a", "u1")], [("a", "u1"), ("b", "u1")]])
def test_records_are_no_numbers(dtype):
    with pytest.raises(InputError, match="expected real numbers"):
        real_numbers(np.zeros(3, dtype), "x")
