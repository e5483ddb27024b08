"""Tiles: their scales and edges, the laws that the chapter states, and what is refused."""

import ml_dtypes  # noqa: F401  gives NumPy the name bfloat16
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd import backend, blocks
from minideepseek.errors import InputError
from minideepseek.layers import fp8
from minideepseek.layers.fp8.tiles import FLOAT32_MAX, pieces, spread

FORMATS = st.sampled_from([fp8.E4M3, fp8.E5M2, fp8.E5M6])
BLOCKS = st.sampled_from([(128, 128), (1, 128), (128, 1), (3, 5), (1, 1), (1000, 1000)])
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(0, 300)
each_way = pytest.mark.parametrize("power_of_two", [False, True])


def tiles_of(x, block):
    """Every tile of x as a view, with its place among the scales."""
    for i in range(0, x.shape[0], block[0]):
        for j in range(0, x.shape[1], block[1]):
            yield (i // block[0], j // block[1]), x[i : i + block[0], j : j + block[1]]


def plain(x, block, format, power_of_two):
    """The definition, tile by tile: codes and scales."""
    shape = tuple(-(-n // b) for n, b in zip(x.shape, block, strict=True))
    codes, scales = np.empty(x.shape, format.dtype), np.empty(shape, np.float32)
    for (place, tile), (_, into) in zip(tiles_of(x, block), tiles_of(codes, block), strict=True):
        amax = abs(tile).max()
        s = np.maximum(np.float32(amax) / np.float32(format.max), np.float32(2.0**-126))
        if power_of_two:
            m, e = np.frexp(s)
            s = np.ldexp(np.float32(1), e - (m == 0.5))
        scales[place] = s if amax else 1
        into[...] = fp8.encode(tile / scales[place], format)
    return codes, scales


def draw(seed, n, k):
    """Gaussian rows of very different size, a tenth of the numbers zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, k)) * 2.0 ** rng.integers(-20, 20, (n, 1))
    return np.where(rng.random((n, k)) < 0.1, 0, x).astype(np.float32)


def finite_patterns(seed, n, k):
    """Random bits: the whole range of float32, subnormals and its last octave made frequent."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, (n, k), dtype=np.uint32)
    kind = rng.integers(0, 4, (n, 1))
    bits = np.where(kind == 1, bits & 0x807FFFFF, bits)
    bits = np.where(kind == 2, (bits & 0x807FFFFF) | 0x7F000000, bits)
    x = bits.astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(x), x, np.float32(FLOAT32_MAX))


@given(SIDES, SIDES, BLOCKS, FORMATS, st.booleans(), SEEDS)
def test_it_is_the_definition(n, k, block, format, power_of_two, seed):
    x = draw(seed, n, k)
    codes, scales = fp8.quantize(x, block, format, power_of_two)
    if block != (1, 1) or n * k < 2000:
        want, want_scales = plain(x, block, format, power_of_two)
        assert codes.dtype == want.dtype and np.array_equal(codes, want)
        assert scales.dtype == np.float32 and np.array_equal(scales, want_scales)
    back = fp8.dequantize(codes, scales, block, format)
    each = spread(scales, x.shape, block)
    assert back.dtype == np.float32 and back.shape == x.shape
    assert np.array_equal(back, fp8.decode(codes, format) * each)
    assert np.array_equal(back, fp8.rounded(x, block, format, power_of_two))


def test_ties_are_those_of_the_quotient():
    """x / s is exactly halfway here; x · (1/s) would fall to either side."""
    values = fp8.decode(np.arange(127, dtype=np.uint8))
    middle = (values[1:] + values[:-1]) / 2
    for s in np.arange(3, 64, 2, dtype=np.float32):
        x = np.concatenate([middle, [np.float32(448)]])[None] * s
        codes, scales = fp8.quantize(x, (1, 128))
        assert scales.tolist() == [[s]] and np.array_equal(codes[0, :-1], fp8.encode(middle))
        want = fp8.decode(fp8.encode(middle)) * s
        assert np.array_equal(fp8.rounded(x, (1, 128))[0, :-1], want)


@given(SIDES, SIDES, BLOCKS, FORMATS, st.booleans(), SEEDS)
def test_half_a_step_and_the_sign(n, k, block, format, power_of_two, seed):
    x = draw(seed, n, k)
    codes, scales = fp8.quantize(x, block, format, power_of_two)
    back = fp8.dequantize(codes, scales, block, format)
    half, smallest = 2.0 ** -(1 + format.mantissa), 2.0 ** -(format.bias + format.mantissa)
    bound = np.maximum(half * abs(x), smallest * spread(scales, x.shape, block))
    assert (abs(back.astype(float) - x) <= bound * (1 + 2.0**-22)).all()
    assert (np.signbit(back) == np.signbit(x)).all()
    for place, tile in tiles_of(x, block):
        if tile.any():  # no octave is given away
            top = abs(tile).max() / scales[place]
            assert top <= format.max * (1 + 2.0**-23) and top >= format.max / 2.001


@given(BLOCKS, FORMATS, st.booleans(), SEEDS)
def test_nothing_finite_becomes_nan_or_infinite(block, format, power_of_two, seed):
    x = finite_patterns(seed, 9, 11)
    with np.errstate(all="raise", under="ignore"):
        codes, scales = fp8.quantize(x, block, format, power_of_two)
        back = fp8.dequantize(codes, scales, block, format)
        assert np.isfinite(back).all() and (np.signbit(back) == np.signbit(x)).all()
        same = fp8.rounded(x, block, format, power_of_two)
    assert np.array_equal(back.view(np.uint32) << 1, same.view(np.uint32) << 1)
    half = 2.0 ** -(1 + format.mantissa)
    step = 2.0 ** -(format.bias + format.mantissa) * spread(scales, x.shape, block).astype(float)
    bound = np.maximum(half * abs(x.astype(float)), step) + 2.0**-149  # float32's last step
    assert (abs(back.astype(float) - x) <= bound * (1 + 2.0**-22)).all()


@pytest.mark.parametrize("format", [fp8.E4M3, fp8.E5M2, fp8.E5M6], ids=lambda f: f.name)
@each_way
def test_the_ends_of_float32(format, power_of_two):
    top = np.full((2, 3), FLOAT32_MAX, np.float32)
    top[0, 0] = -top[0, 0]
    with np.errstate(all="raise"):
        back = fp8.dequantize(*fp8.quantize(top, (1, 3), format, power_of_two), (1, 3), format)
        assert np.array_equal(fp8.rounded(top, (1, 3), format, power_of_two), back)
    error = np.abs(back.astype(float) / top - 1).max()
    assert error <= (2.0**-22 if power_of_two or format == fp8.E5M6 else 0)
    tiny = np.full((2, 3), 2.0**-149, np.float32)
    codes, scales = fp8.quantize(tiny, (1, 3), format, power_of_two)
    assert (scales == 2.0**-126).all()
    assert (abs(fp8.dequantize(codes, scales, (1, 3), format) - tiny) <= tiny).all()


@given(SIDES, SIDES, BLOCKS, FORMATS, st.booleans(), SEEDS)
def test_once_is_enough(n, k, block, format, power_of_two, seed):
    codes, scales = fp8.quantize(draw(seed, n, k), block, format, power_of_two)
    back = fp8.dequantize(codes, scales, block, format)
    again, moved = fp8.quantize(back, block, format, power_of_two)
    if power_of_two:
        assert np.array_equal(fp8.dequantize(again, moved, block, format), back)
    else:
        assert np.array_equal(again, codes)
        assert (abs(moved - scales) <= np.spacing(scales)).all()


@given(SIDES, SIDES, BLOCKS, FORMATS, st.booleans(), SEEDS, st.integers(-60, 60))
def test_powers_of_two_pass_through(n, k, block, format, power_of_two, seed, power):
    x = draw(seed, n, k)
    codes, scales = fp8.quantize(x, block, format, power_of_two)
    factor = np.float32(2.0**power)
    scaled, moved = fp8.quantize(x * factor, block, format, power_of_two)
    zero = np.ones_like(scales, bool)
    for place, tile in tiles_of(x, block):
        zero[place] = not tile.any()
    assert np.array_equal(scaled, codes)
    assert np.array_equal(moved, np.where(zero, 1, scales * factor))


@given(st.integers(1, 200), st.integers(1, 200), FORMATS, SEEDS)
def test_power_of_two_scales_survive_another_direction(n, k, format, seed):
    """What was rounded in 1 × 128 tiles is exact in 128 × 1 tiles, if nothing is subnormal there:
    the numbers here span 2⁵ and another 2 by rounding, E4M3's normal numbers 2¹⁴."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 32, (n, k)) * rng.choice([-1, 1], (n, k))
    rows = fp8.rounded(x.astype(np.float32), (1, 128), format, True)
    assert np.array_equal(fp8.rounded(rows, (128, 1), format, True), rows)


def test_other_scales_do_not():
    x = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    rows = fp8.rounded(x, (1, 128))
    assert (fp8.rounded(rows, (128, 1)) != rows).mean() > 0.5


def test_zero_tiles_and_outliers():
    codes, scales = fp8.quantize(np.zeros((130, 3), np.float32))
    assert scales.tolist() == [[1.0], [1.0]] and not codes.any()
    assert not fp8.rounded(np.zeros((130, 3), np.float32), (1, 2)).any()
    x = np.random.default_rng(0).standard_normal((40, 256)).astype(np.float32)
    x[0, 0] = 1e4  # one outlier spoils its own tile only
    y = fp8.rounded(x, (1, 128))
    far = np.ones(x.shape, bool)
    far[0, :128] = False
    assert (abs(y - x)[far] <= abs(x)[far] / 16 + 1e-5).all() and (y[far] != 0).all()
    assert (y[0, 1:128] == 0).any()


def test_what_quantize_takes():
    want = [[7.0, 0.0], [-14.0, 3.5]]
    for x in (want, np.array(want), np.array(want, np.float16), np.array(want, "bfloat16")):
        assert fp8.dequantize(*fp8.quantize(x, (1, 128)), (1, 128)).tolist() == want
    codes, scales = fp8.quantize([[7, 0], [-14, 3]])
    assert codes.tolist() == [[118, 0], [254, 108]] and scales.tolist() == [[0.03125]]
    x = np.random.default_rng(0).standard_normal((150, 140))
    x32 = x.astype(np.float32)
    for view in (x32.T, x32[::2, ::-1], np.asfortranarray(x32)):
        for block in ((1, 128), (128, 128), (128, 1)):
            for ours, whole in zip(
                fp8.quantize(view, block), fp8.quantize(view.copy(order="C"), block), strict=True
            ):
                assert np.array_equal(ours, whole)
            want = fp8.dequantize(*fp8.quantize(view, block), block)
            assert np.array_equal(fp8.rounded(view, block), want)
    assert (fp8.quantize(x)[0] != fp8.quantize(x32)[0]).mean() < 1e-3  # float64 as it is
    assert fp8.quantize(np.array([[1e-300, 0]]))[0].tolist() == [[0, 0]]
    with np.errstate(all="raise"), pytest.raises(InputError, match="finite float32 numbers"):
        fp8.quantize(np.array([[1e300]]))


def test_nan_and_infinity_take_their_tile_and_no_other(device):
    x = np.ones((4, 6), np.float32)
    x[0, 0], x[1, 3], x[3, 5] = np.nan, np.inf, -np.inf
    for power_of_two in (False, True):
        with np.errstate(all="raise"):
            y = fp8.rounded(backend.to_device(x, device), (1, 3), fp8.E4M3, power_of_two)
        tiles = np.isnan(backend.to_host(y)).reshape(4, 2, 3)
        assert (tiles.all(-1) == tiles.any(-1)).all()
        assert tiles.any(-1).tolist() == [[True, False], [False, True], [False, False],
                                          [False, True]]  # fmt: skip
    for bad in (np.nan, np.inf, -np.inf):
        for block in ((128, 128), (1, 2)):
            x = np.ones((3, 5), np.float32)
            x[2, 4] = bad
            moved = backend.to_device(x, device)
            with pytest.raises(InputError, match=r"^quantize: NaN or Inf in x of shape \(3, 5\)"):
                fp8.quantize(moved, block)


def test_refusals():
    codes, scales = fp8.quantize(np.ones((130, 3), np.float32))
    for call, what in (
        (lambda x, b=(128, 128): fp8.quantize(x, b), "quantize: x"),
        (lambda x, b=(128, 128): fp8.rounded(x, b), "rounded: x"),
        (lambda x, b=(128, 128): fp8.dequantize(x.astype(np.uint8), scales, b), "dequantize: codes")
    ):  # fmt: skip
        for shape in ((3,), (), (2, 2, 2)):
            with pytest.raises(InputError, match=rf"^{what}: got shape .*, expected a matrix$"):
                call(np.ones(shape, np.float32))
        for block in ((0, 1), (1, -1), (1,), (1, 2, 3), (1.0, 2), (True, 1)):
            with pytest.raises(InputError, match="^block: got .*, expected two positive integers$"):
                call(np.ones((130, 3), np.float32), block)
    with pytest.raises(InputError, match=r"^quantize: got dtype complex128, expected real numbers"):
        fp8.quantize([[1j]])
    for wrong in (scales[:1], scales.T, scales[0], scales[..., None]):
        with pytest.raises(InputError, match=r"^scale_inv: got shape .*, expected \(2, 1\)"):
            fp8.dequantize(codes, wrong)
    for bad in (0, -1, np.nan, np.inf, -np.inf):
        wrong = scales.copy()
        wrong[1] = bad
        with pytest.raises(InputError, match="^scale_inv: .*not positive and finite$"):
            fp8.dequantize(codes, wrong)
    for wrong in (codes.astype(np.int64), codes.view("float8_e4m3fn"), codes.astype(np.float32)):
        with pytest.raises(InputError, match="^codes: got dtype .*, expected uint8$"):
            fp8.dequantize(wrong, scales)
    with pytest.raises(InputError, match="^scale_inv: got dtype .*, expected real numbers$"):
        fp8.dequantize(codes, scales.astype(complex))


def test_a_code_of_nan_stays_nan_and_large_scales_saturate():
    codes = np.array([[127, 126, 254]], np.uint8)
    with np.errstate(all="raise"):
        back = fp8.dequantize(codes, np.array([[1e37]], np.float32), (1, 3))
        assert np.isnan(back[0, 0]) and 3.4e38 < back[0, 1] == -back[0, 2]
        back = fp8.dequantize(codes, np.array([[2.0]]), (1, 3))
    assert np.isnan(back[0, 0]) and back[0, 1:].tolist() == [896, -896]


@given(SIDES, st.integers(0, 3000), BLOCKS)
def test_pieces_hold_every_element_once_and_cut_no_tile(n, k, block):
    seen = np.zeros((n, k), int)
    for piece in pieces(np, (n, k), block):
        part = piece.of(seen)
        part += 1
        assert part.base is not None  # a view
        for s, tile, side, length in zip(piece[:2], piece.tile, block, (n, k), strict=True):
            assert s.start % side == 0 and (s.stop % side == 0 or s.stop == length)
            assert tile == min(side, s.stop - s.start)
        r, c = piece.scales(block)
        assert (r.stop - r.start, c.stop - c.start) == (part.shape[0], part.shape[2])
        assert part[0, :, 0].size <= max(30_000, block[0] * block[1])
    assert (seen == 1).all()


def test_threads_change_nothing():
    x = np.random.default_rng(0).standard_normal((700, 900)).astype(np.float32)
    for block in ((1, 128), (128, 128), (128, 1)):
        codes, scales = fp8.quantize(x, block)
        back = fp8.dequantize(codes, scales, block)
        try:
            blocks.set_threads(2)
            again, moved = fp8.quantize(x, block)
            assert np.array_equal(again, codes) and np.array_equal(moved, scales)
            assert np.array_equal(fp8.dequantize(codes, scales, block), back)
            assert np.array_equal(fp8.rounded(x, block), back)
        finally:
            blocks.set_threads(1)


@pytest.mark.parametrize("block", [(128, 128), (1, 128), (128, 1)])
@each_way
def test_on_every_device(device, block, power_of_two):
    x = np.random.default_rng(0).standard_normal((150, 140)).astype(np.float32)
    moved = backend.to_device(x, device)
    for format in (fp8.E4M3, fp8.E5M6):
        options = (block, format, power_of_two)
        want, want_scales = fp8.quantize(x, *options)
        codes, scales = fp8.quantize(moved, *options)
        assert np.array_equal(backend.to_host(codes), want)
        assert np.array_equal(backend.to_host(scales), want_scales)
        back = fp8.dequantize(codes, scales, block, format)
        assert np.array_equal(
            backend.to_host(back), fp8.dequantize(want, want_scales, block, format)
        )
        assert np.array_equal(backend.to_host(fp8.rounded(moved, *options)), backend.to_host(back))
