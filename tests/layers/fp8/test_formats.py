"""E4M3, E5M2, E5M6 and UE8M0 against ml_dtypes, half precision and exact rounding."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd import backend, blocks
from minideepseek.errors import InputError
from minideepseek.layers import fp8
from minideepseek.layers.fp8.formats import ceil_power_of_two, round_in_place

FORMATS = (fp8.E4M3, fp8.E5M2, fp8.E5M6)
LABELS = {"E4M3": "float8_e4m3fn", "E5M2": "float8_e5m2"}
each_format = pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
each_byte = pytest.mark.parametrize("format", FORMATS[:2], ids=lambda f: f.name)


def codes_of(format):
    return np.arange(2 * format.sign).astype(format.dtype)


def cast(x, format):
    """ml_dtypes' own rounding, after clamping."""
    with np.errstate(invalid="ignore"):
        return np.clip(x, -format.max, format.max).astype(LABELS[format.name]).view(np.uint8)


def nearest(x, format):
    """Codes of the nearest numbers, ties to the even code, by search; x float64, not NaN.

    Exact: a number between two neighbours is less than twice the lower, or below a subnormal step.
    """
    values = fp8.decode(codes_of(format)[: format.largest + 1], format).astype(np.float64)
    size = np.minimum(abs(x), format.max)
    above = np.searchsorted(values, size)
    below = np.maximum(above - 1, 0)
    up, down = values[above] - size, size - values[below]
    codes = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    return codes + np.signbit(x) * format.sign


@each_format
def test_every_code_by_its_bits(format):
    exponent_bits = format.sign.bit_length() - 1 - format.mantissa
    values = fp8.decode(codes_of(format), format)
    for code, value in enumerate(values.tolist()):
        sign, low = divmod(code, format.sign)
        e, m = divmod(low, 2**format.mantissa)
        part = m / 2**format.mantissa
        ones = e == 2**exponent_bits - 1
        if format.name == "E4M3" and ones and m == 7:
            assert math.isnan(value)
        elif format.name != "E4M3" and ones:
            assert math.isnan(value) if m else value == (-math.inf if sign else math.inf)
        else:
            size = 2.0 ** (e - format.bias) * (1 + part) if e else 2.0 ** (1 - format.bias) * part
            assert value == (-1) ** sign * size and math.copysign(1, value) == (-1) ** sign
    assert format.max == values[format.largest] == values[np.isfinite(values)].max()
    assert np.isnan(values[format.nan])


def test_the_largest_numbers():
    assert [f.max for f in FORMATS] == [448.0, 57344.0, 65024.0]


def test_decode_equals_ml_dtypes_and_half_precision():
    for format in FORMATS[:2]:
        codes = codes_of(format)
        want = codes.view(LABELS[format.name]).astype(np.float32)
        assert np.array_equal(fp8.decode(codes, format), want, equal_nan=True)
    half = (codes_of(fp8.E5M6) << 4).view(np.float16)  # what was cut off is zero
    got = fp8.decode(codes_of(fp8.E5M6), fp8.E5M6)
    assert np.array_equal(got, half.astype(np.float32), equal_nan=True)


@each_format
def test_codes_round_trip(format):
    codes = codes_of(format)
    values = fp8.decode(codes, format)
    again = fp8.encode(values, format)
    assert again.dtype == codes.dtype and again.shape == codes.shape
    finite = np.isfinite(values)
    assert np.array_equal(again[finite], codes[finite])
    sign = codes & format.sign
    assert np.array_equal(again[np.isinf(values)], (sign | format.largest)[np.isinf(values)])
    assert np.array_equal(again[np.isnan(values)], (sign | format.nan)[np.isnan(values)])


@each_format
def test_midpoints_and_their_neighbours(format):
    values = fp8.decode(codes_of(format), format).astype(np.float64)
    finite = np.unique(values[np.isfinite(values)])
    middle = (finite[1:] + finite[:-1]) / 2
    assert np.array_equal(middle, middle.astype(np.float32))
    for to in (-np.inf, np.inf):
        near = np.nextafter(middle, to)
        near32 = np.nextafter(middle.astype(np.float32), np.float32(to))
        for x in (middle, near, near32):
            assert np.array_equal(fp8.encode(x, format), nearest(x.astype(np.float64), format))
        assert np.array_equal(fp8.encode(near32, format), nearest(near32.astype(float), format))
        if format.name in LABELS:
            for x in (middle.astype(np.float32), near32):
                assert np.array_equal(fp8.encode(x, format), cast(x, format))


@each_byte
def test_every_upper_half_of_a_float32(format):
    """Rounding to three bits looks at 16 bits and whether any below is set: these are all cases."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for rest in (0, 1, 0x8000, 0xFFFF):
        x = (upper | rest).astype(np.uint32).view(np.float32)
        assert np.array_equal(fp8.encode(x, format), cast(x, format))


@each_byte
def test_ten_million_random_floats(format):
    """Half of them bit patterns, most beyond the format; half in its reach."""
    rng = np.random.default_rng(0)
    for power in range(-10, 10, 4):
        bits = rng.integers(0, 2**32, 1_000_000, dtype=np.uint32)
        reach = rng.standard_normal(1_000_000, np.float32) * np.float32(2.0**power)
        for x in (bits.view(np.float32), reach):
            assert np.array_equal(fp8.encode(x, format), cast(x, format))


@each_format
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-22, 17))
def test_random_numbers_are_rounded_to_the_nearest(format, seed, power):
    x = np.random.default_rng(seed).standard_normal(2000) * 2.0**power
    assert np.array_equal(fp8.encode(x, format), nearest(x, format))
    x = x.astype(np.float32)
    assert np.array_equal(fp8.encode(x, format), nearest(x.astype(np.float64), format))


@each_format
def test_encode_is_total(format):
    big, nan, sign = format.largest, format.nan, format.sign
    x = np.array([np.inf, -np.inf, 3e38, -3e38, np.nan, -np.nan, 0.0, -0.0, 1e-45, -1e-45])
    want = [big, big | sign, big, big | sign, nan, nan | sign, 0, sign, 0, sign]
    with np.errstate(all="raise", under="ignore"):
        assert fp8.encode(x.astype(np.float32), format).tolist() == want
        assert fp8.encode(x, format).tolist() == want
        assert fp8.encode(np.array([1e300, -1e300, 1e-300]), format).tolist() == [
            big, big | sign, 0
        ]  # fmt: skip


@each_format
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-30, 30))
def test_rounding_in_place_is_decode_of_encode(format, seed, power):
    x = np.random.default_rng(seed).standard_normal((7, 50)).astype(np.float32)
    x = np.clip(x * np.float32(2.0**power), -format.max, format.max)
    want = fp8.decode(fp8.encode(x, format), format)
    part = x[:, ::2]  # a view with gaps
    round_in_place(part, format)
    assert np.array_equal(x[:, ::2], want[:, ::2])
    assert np.array_equal(np.signbit(part), np.signbit(want[:, ::2]) & (part != 0))


def test_what_encode_takes():
    want = [56, 64, 192, 126]  # 1, 2, −2, 448
    numbers = [1, 2, -2, 100_000]
    assert fp8.encode(numbers).tolist() == want
    for dtype in ("int64", "int32", "float64", "float32"):
        assert fp8.encode(np.array(numbers, dtype)).tolist() == want
    for dtype in ("int8", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"):
        assert fp8.encode(np.array(numbers[:3], dtype)).tolist() == want[:3]
    assert fp8.encode(np.uint8(2)).tolist() == 64 and fp8.encode(2.0).shape == ()
    assert fp8.encode(np.array([2**62 + 1, -(2**62)])).tolist() == [126, 254]
    assert fp8.encode(np.zeros((3, 0, 2))).shape == (3, 0, 2)
    x = np.random.default_rng(0).standard_normal((30, 40)).astype(np.float32)
    for view in (x.T, x[::2, ::-3], np.asfortranarray(x)):
        assert np.array_equal(fp8.encode(view), fp8.encode(view.copy(order="C")))
        codes = fp8.encode(x)[::2].T
        assert np.array_equal(fp8.decode(codes), fp8.decode(codes.copy(order="C")))


def test_a_number_that_float32_would_round_to_a_midpoint():
    above = 1.0625 + 2.0**-40  # float32 takes it for the midpoint of 1 and 1.125
    assert fp8.decode(fp8.encode(np.array([above, -above, 1.0625]))).tolist() == [1.125, -1.125, 1]
    assert fp8.encode(np.array([2**40 + 1])).tolist() == [126]


@pytest.mark.parametrize(
    "x", [[1j], ["a"], [True], [None], np.zeros(2, "V2,V2"), np.zeros(2, "M8[s]"), [np.longdouble]]
)
def test_encode_refuses_what_is_not_numbers(x):
    with pytest.raises(InputError, match=r"^encode: got dtype .*, expected real numbers$"):
        fp8.encode(x)


@pytest.mark.parametrize("codes", [[1, 2], np.zeros(2, "int8"), np.zeros(2, "float8_e4m3fn"), 1.0])
def test_decode_refuses_what_is_not_codes(codes):
    for decode in (fp8.decode, fp8.decode_ue8m0):
        with pytest.raises(InputError, match=r"^codes: got dtype .*, expected uint8$"):
            decode(codes)
    with pytest.raises(InputError, match="got dtype uint8, expected uint16"):
        fp8.decode(np.zeros(2, np.uint8), fp8.E5M6)


def test_ue8m0_is_a_float32_s_exponent():
    codes = np.arange(256).astype(np.uint8)
    scales = fp8.decode_ue8m0(codes)
    want = codes.view("float8_e8m0fnu").astype(np.float32)
    assert scales.dtype == np.float32 and np.array_equal(scales, want, equal_nan=True)
    assert np.array_equal(fp8.encode_ue8m0(scales), codes)
    assert np.array_equal(fp8.encode_ue8m0(scales), scales.astype("float8_e8m0fnu").view(np.uint8))
    above = np.nextafter(scales[:254], np.float32(np.inf))
    assert np.array_equal(fp8.encode_ue8m0(above), codes[1:255])
    above = scales[:254].astype(np.float64) * (1 + 2.0**-50)  # float32 would take it for the power
    assert np.array_equal(fp8.encode_ue8m0(above), codes[1:255])
    below = np.nextafter(scales[2:255], np.float32(0))
    assert np.array_equal(fp8.encode_ue8m0(below), codes[2:255])


def test_ue8m0_is_total():
    x = [0.0, -0.0, -1.0, np.nan, -np.nan, np.inf, -np.inf, 3e38, 2.0**-149, 2.0**-127, 1e-300]
    want = [255, 255, 255, 255, 255, 254, 255, 254, 0, 0, 0]
    assert fp8.encode_ue8m0(np.array(x[:-1], np.float32)).tolist() == want[:-1]
    assert fp8.encode_ue8m0(x[:-1]).tolist() == want[:-1]
    assert fp8.encode_ue8m0([[3.0], [4.0]]).tolist() == [[129], [129]]
    assert fp8.encode_ue8m0([2**24, 2**24 + 1]).tolist() == [151, 152]  # float32 sees no difference


@given(st.integers(0, 2**32 - 1))
def test_a_power_of_two_that_is_at_least_s(seed):
    bits = np.random.default_rng(seed).integers(1 << 23, 0x7F000001, 500, dtype=np.uint32)
    s = bits.view(np.float32)
    up = ceil_power_of_two(s)
    assert (np.frexp(up)[0] == 0.5).all()
    assert ((up >= s) & (up / 2 < s)).all()
    assert np.array_equal(fp8.decode_ue8m0(fp8.encode_ue8m0(s)), up)


def test_why_not_by_logarithms():
    s = np.nextafter(np.float32(1024), np.float32(2000))
    assert ceil_power_of_two(np.array([s])).tolist() == [2048]
    assert 2 ** np.ceil(np.log2(s)) == 1024  # and s / 1024 > 1


def test_a_label_and_no_copy(device):
    codes = fp8.encode(backend.to_device(np.array([0.3, 448, -1], np.float32), device))
    assert codes.dtype == "uint8"
    labelled = codes.view("float8_e4m3fn")
    assert labelled.dtype == ml_dtypes.float8_e4m3fn and labelled.nbytes == codes.nbytes == 3
    assert labelled.shape == codes.shape
    codes[0] = 56  # the label is on the same memory
    assert backend.to_host(labelled.view("uint8")).tolist() == [56, 126, 184]
    assert backend.to_host(fp8.decode(labelled.view("uint8"))).tolist() == [1, 448, -1]
    if device == "standin":  # CuPy keeps it as a container and computes nothing in it
        with pytest.raises((TypeError, ValueError)):
            labelled + labelled


@each_format
def test_on_every_device(device, format):
    bits = np.random.default_rng(0).integers(0, 2**32, (40, 50), dtype=np.uint32)
    for x in (bits.view(np.float32), bits.astype(np.float64) * 1e-5, bits.astype(np.int64)):
        codes = fp8.encode(backend.to_device(x, device), format)
        assert backend.device_of(codes).name == device
        assert np.array_equal(backend.to_host(codes), fp8.encode(x, format))
        back = backend.to_host(fp8.decode(codes, format))
        assert np.array_equal(back, fp8.decode(fp8.encode(x, format), format), equal_nan=True)
    scales = backend.to_device(np.array([3.0, 2.0**-127, 0.0], np.float32), device)
    codes = fp8.encode_ue8m0(scales)
    assert backend.to_host(codes).tolist() == [129, 0, 255]
    back = backend.to_host(fp8.decode_ue8m0(codes))
    assert back[:2].tolist() == [4, 2.0**-127] and np.isnan(back[2])


def test_threads_change_nothing():
    x = np.random.default_rng(0).standard_normal(100_003).astype(np.float32)
    one = fp8.encode(x)
    try:
        blocks.set_threads(2)
        assert np.array_equal(fp8.encode(x), one)
        assert np.array_equal(fp8.decode(one), fp8.decode(one[None])[0])
    finally:
        blocks.set_threads(1)
