"""E4M3 against ml_dtypes and exact rounding; tiles, their scales and their edges."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.errors import InputError
from minideepseek.layers import fp8
from minideepseek.layers.fp8.tiles import spread

E4M3 = ml_dtypes.float8_e4m3fn
CODES = np.arange(256, dtype=np.uint8)
VALUES = fp8.decode(CODES)
FINITE = np.isfinite(VALUES)
BLOCKS = st.sampled_from([(128, 128), (1, 128), (128, 1), (3, 5)])


def cast(x):
    """ml_dtypes' own rounding, after clamping."""
    with np.errstate(invalid="ignore"):
        return np.clip(x, -448, 448).astype(E4M3).view(np.uint8)


def test_every_code_by_its_bits():
    for code in range(256):
        sign, exponent, mantissa = code >> 7, (code >> 3) & 15, code & 7
        if exponent == 15 and mantissa == 7:
            assert np.isnan(VALUES[code])
            continue
        size = 2.0 ** (exponent - 7) * (1 + mantissa / 8) if exponent else 2.0**-6 * mantissa / 8
        assert VALUES[code] == (-1) ** sign * size
        assert np.signbit(VALUES[code]) == bool(sign)


def test_codes_round_trip_and_equal_ml_dtypes():
    assert np.array_equal(fp8.encode(VALUES), CODES)
    assert np.array_equal(VALUES, CODES.view(E4M3).astype(np.float32), equal_nan=True)


def test_midpoints_and_their_neighbours():
    finite = np.unique(VALUES[FINITE]).astype(np.float64)
    middle = (finite[1:] + finite[:-1]) / 2
    for x in (middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)):
        assert np.array_equal(fp8.encode(x.astype(np.float32)), cast(x.astype(np.float32)))
        assert np.array_equal(fp8.encode(x), [nearest(v) for v in x])


def nearest(x):
    """The code of the nearest finite value, ties to the even mantissa, in exact fractions."""
    want = Fraction(float(x))
    codes = [c for c in CODES[FINITE].tolist() if np.signbit(VALUES[c]) == np.signbit(x)]
    return min(codes, key=lambda c: (abs(Fraction(float(VALUES[c])) - want), c & 1))


@given(st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_random_bit_patterns(seed, size):
    bits = np.random.default_rng(seed).integers(0, 2**32, (size, 100), dtype=np.uint32)
    x = bits.view(np.float32)
    assert np.array_equal(fp8.encode(x), cast(x))


def test_encode_is_total():
    x = np.array([np.inf, -np.inf, 1e30, -449, 464.1, np.nan, 0.0, -0.0, 1e-45], np.float32)
    with np.errstate(all="raise"):
        codes = fp8.encode(x)
    assert fp8.decode(codes)[:5].tolist() == [448, -448, 448, -448, 448]
    assert np.isnan(fp8.decode(codes)[5])
    assert codes[6:].tolist() == [0, 128, 0]
    assert fp8.encode(np.array([1e300, -1e-300])).tolist() == [126, 128]


@given(st.integers(0, 300), st.integers(0, 300), BLOCKS, st.integers(0, 99), st.integers(-20, 20))
def test_half_a_step_per_tile(n, k, block, seed, power):
    """|q − x| ≤ max(2⁻⁴ |x|, 2⁻¹⁰ s), with one scale per tile, ragged ones too."""
    x = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32) * 2.0**power
    codes, scales = fp8.quantize(x, block)
    assert codes.dtype == np.uint8 and scales.dtype == np.float32
    assert scales.shape == (-(-n // block[0]), -(-k // block[1]))
    back = fp8.dequantize(codes, scales, block)
    each = spread(scales, x.shape, block)
    slack = 1 + 1e-6  # x / s and q · s round in float32
    assert (np.abs(back - x) <= slack * np.maximum(np.abs(x) / 16, each / 1024)).all()
    assert (np.sign(back) * np.sign(x) >= 0).all()
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            tile = x[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
            assert scales[i, j] == (np.abs(tile).max() / np.float32(448) or 1)


@given(st.integers(0, 2**32 - 1))
def test_no_finite_number_becomes_nan(seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, (8, 9), dtype=np.uint32)
    x = bits.view(np.float32)
    x = np.where(np.isfinite(x), x, np.float32(0))
    for rows in (x, x * np.float32(2.0**-120), np.full((2, 2), 1e-45, np.float32)):
        codes, scales = fp8.quantize(rows, (1, 4))
        assert np.isfinite(fp8.dequantize(codes, scales, (1, 4))).all()


def test_zero_tiles_scaling_and_outliers():
    codes, scales = fp8.quantize(np.zeros((130, 3), np.float32))
    assert scales.tolist() == [[1.0], [1.0]] and not codes.any()
    x = np.random.default_rng(0).standard_normal((40, 256)).astype(np.float32)
    assert np.array_equal(fp8.quantize(x)[0], fp8.quantize(x * 1024)[0])  # powers of two pass
    x[0, 0] = 1e4  # one outlier spoils its own tile only
    fine = np.abs(fp8.dequantize(*fp8.quantize(x, (1, 128)), (1, 128)) - x)[1:]
    assert fine.max() <= np.abs(x[1:]).max() / 16


def test_refusals():
    with pytest.raises(InputError, match="NaN or Inf in x"):
        fp8.quantize(np.array([[1.0, np.inf]], np.float32))
    with pytest.raises(InputError, match="expected a matrix"):
        fp8.quantize(np.ones(3, np.float32))
    codes, scales = fp8.quantize(np.ones((130, 3), np.float32))
    with pytest.raises(InputError, match=r"got shape \(1, 1\), expected \(2, 1\)"):
        fp8.dequantize(codes, scales[:1])
    for wrong in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="not positive and finite"):
            fp8.dequantize(codes, scales * np.float32(wrong))


def test_on_every_device(device):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((150, 140)).astype(np.float32)
    moved = backend.to_device(x, device)
    codes, scales = fp8.quantize(moved)
    want, want_scales = fp8.quantize(x)
    assert np.array_equal(backend.to_host(codes), want)
    assert np.array_equal(backend.to_host(scales), want_scales)
    back = backend.to_host(fp8.dequantize(codes, scales))
    assert np.array_equal(back, fp8.dequantize(want, want_scales))
