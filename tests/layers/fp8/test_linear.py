"""FP8 linear layers: three products by the formula, what is kept, and how they are served."""

import tracemalloc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek import FP8Linear
from minideepseek.autograd import backend, blocks
from minideepseek.autograd.engine import PRIMITIVES, Parameter, Tensor, no_grad, ops
from minideepseek.autograd.gradcheck import check_vjp
from minideepseek.errors import InputError
from minideepseek.layers.fp8 import dequantize, quantize
from minideepseek.layers.fp8.recipe import (
    ALONG_ROW,
    FINE_GRAINED,
    HIGH_PRECISION,
    PER_TENSOR,
    SQUARE_GRADIENTS,
    V3,
    WEIGHTS_ALONE,
    Scheme,
    Tile,
)
from minideepseek.layers.module import Init, Linear
from tests.layers.common import normal, seeds
from tests.layers.fp8 import plain
from tests.layers.fp8.plain import relative

SCHEMES = {
    "fine": FINE_GRAINED, "tensor": PER_TENSOR, "square": SQUARE_GRADIENTS,
    "after attention": V3.after_attention, "up": V3.experts_up, "down": V3.experts_down,
    "weights": WEIGHTS_ALONE, "nothing": Scheme(*[HIGH_PRECISION] * 5),
}  # fmt: skip
schemes = st.sampled_from(sorted(SCHEMES)).map(SCHEMES.get)
each_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
sides = st.sampled_from([1, 3, 40, 127, 128, 129, 200, 256])
fp8_linear = PRIMITIVES["fp8_linear"]


def draw(seed, rows, columns, dtype="float32"):
    """Rows of different sizes, a twentieth of them very loud, a tenth of the numbers zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) * 2.0 ** rng.integers(-6, 6, (rows, 1))
    x *= np.where(rng.random(x.shape) < 0.05, 50, 1)
    return np.where(rng.random(x.shape) < 0.1, 0, x).astype(dtype)


def triple(seed, n, k, m, dtype="float32"):
    """X (n, k), W (m, k), dY (n, m)."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.integers(0, 2**32, 3)
    return draw(a, n, k, dtype), draw(b, m, k, dtype), draw(c, n, m, dtype) * 2.0**-20


# ------------------------------------------------------------------------------------ the formula


@given(sides, sides, sides, schemes, seeds)
@settings(max_examples=40)
def test_the_three_products_are_those_of_the_formula(n, k, m, scheme, seed):
    x, w, g = triple(seed, n, k, m)
    bias = draw(seed, 1, m)[0]
    y, vjp = fp8_linear(x.reshape(1, n, k), w, bias, scheme=scheme)
    dx, dw, db = vjp(g.reshape(1, n, m))
    want = plain.linear(x, w, g, scheme)
    assert y.dtype == dx.dtype == dw.dtype == np.float32
    assert relative(y[0], want[0] + bias) < 2e-6
    assert relative(dx[0], want[1]) < 2e-6
    assert relative(dw, want[2]) < 2e-6
    assert relative(db, g.sum(0)) < 2e-6
    z, vjp = fp8_linear(x, w, scheme=scheme)
    assert np.array_equal(z + bias, y[0]) and len(vjp(g)) == 2
    for again, once in zip(vjp(g), (dx[0], dw), strict=True):  # and a second time
        assert np.array_equal(again, once)


@pytest.mark.parametrize("part", ["x", "w", "dy", "dy_tokens", "x_tokens"])
@each_scheme
def test_each_tile_is_used_where_it_is_said_to_be(scheme, part):
    """Rounding one operand alone moves the products that read it, and no other."""
    seen_by = {"x": "Y dW", "w": "Y dX", "dy": "dX", "dy_tokens": "dW", "x_tokens": "dW"}
    x, w, g = triple(1, 150, 140, 130)
    tile = getattr(scheme, part)
    found = []
    for one in (HIGH_PRECISION, tile):
        y, vjp = fp8_linear(x, w, scheme=Scheme(**{**vars(SCHEMES["nothing"]), part: one}))
        found.append({"Y": y, **dict(zip(("dX", "dW"), vjp(g), strict=True))})
    for name, array in found[0].items():
        moved = not np.array_equal(array, found[1][name])
        assert moved == (name in seen_by[part] and tile is not HIGH_PRECISION), name


@given(sides, sides, sides, seeds)
@settings(max_examples=20)
def test_what_e4m3_can_say_is_multiplied_exactly(n, k, m, seed):
    """Powers of two as scales and codes for values: the float32 layer, bit for bit."""
    rng = np.random.default_rng(seed)

    def exact(*shape):
        codes = rng.integers(-15, 16, shape) * 16.0  # four bits each, 448 not reached
        codes.flat[:: 7 if shape[1] % 7 else 11] = 0
        x = codes.astype(np.float32)
        x[:, ::128] = 448  # every 1 × 128 tile has the scale 1
        return x

    x, w, g = exact(n, k), exact(m, k), exact(n, m)
    g_tokens = replace(FINE_GRAINED, dy_tokens=ALONG_ROW, x_tokens=ALONG_ROW)
    y, vjp = fp8_linear(x, w, scheme=g_tokens)
    z, plain_vjp = PRIMITIVES["linear"](x, w)
    assert np.array_equal(y, z)
    for one, other in zip(vjp(g), plain_vjp(g), strict=True):
        assert np.array_equal(one, other)


@given(sides, sides, sides, seeds)
@settings(max_examples=20)
def test_errors_stay_within_half_a_step_of_every_number(n, k, m, seed):
    x, w, _ = triple(seed, n, k, m)
    y, _ = fp8_linear(x, w, scheme=FINE_GRAINED)
    dx = np.maximum(abs(x) / 16, _scales(x, 1) / 1024)
    dw = np.maximum(abs(w) / 16, _scales(w, 128) / 1024)
    bound = dx @ abs(w).T + abs(x) @ dw.T + dx @ dw.T
    size = abs(x) @ abs(w).T
    assert (abs(y - x.astype(float) @ w.T) <= bound + 1e-5 * size).all()


def _scales(x, rows):
    """Each number's scale in tiles of rows × 128."""
    s = np.empty(x.shape)
    for i in range(0, len(x), rows):
        for j in range(0, x.shape[1], 128):
            tile = np.s_[i : i + rows, j : j + 128]
            s[tile] = abs(x[tile]).max() / 448
    return s


def test_gradients_point_where_float32s_do():
    """Gaussian operands: 2.6 % of error each, two of them in a product, X rounded twice for dW."""
    x, w, g = (normal(i, 512, 512).astype(np.float32) for i in range(3))
    y, vjp = fp8_linear(x, w, scheme=FINE_GRAINED)
    z, plain_vjp = PRIMITIVES["linear"](x, w)
    off = [np.linalg.norm(a - b) / np.linalg.norm(b)
           for a, b in zip((y, *vjp(g)), (z, *plain_vjp(g)), strict=True)]  # fmt: skip
    assert 0.034 < off[0] < 0.040 and 0.034 < off[1] < 0.040 and 0.040 < off[2] < 0.049


def test_an_outlier_costs_its_own_tile_and_no_other():
    """One number of 3 · 10⁶ flushes what shares its scale: 128 channels, or with one scale, all."""
    x, w = normal(0, 64, 256).astype(np.float32), normal(1, 32, 256).astype(np.float32)
    x[5, 3] = 3e6
    z = x @ w.T
    others = np.arange(64) != 5
    fine, tensor = (fp8_linear(x, w, scheme=s)[0] for s in (FINE_GRAINED, PER_TENSOR))
    assert relative(fine[others], z[others]) < 0.1
    assert not tensor[others].any()  # all of them below half of the smallest step


@given(seeds)
@settings(max_examples=10)
def test_powers_of_two_make_the_second_rounding_free(seed):
    """1 × 128 and then 128 × 1: nothing changes, unless numbers are 2⁻⁹ and less of the largest."""
    x = normal(seed, 200, 300).astype(np.float32)
    x = np.sign(x) * np.clip(abs(x), 0.05, None)
    for scheme in (V3.after_attention, V3.experts_up):
        once = scheme.x.round(x)
        assert np.array_equal(scheme.x_tokens.round(once), once)
    once = FINE_GRAINED.x.round(x)
    assert not np.array_equal(FINE_GRAINED.x_tokens.round(once), once)
    half = 2.0**-7  # E5M6 has three bits more
    assert relative(V3.after_attention.x.round(x), x) <= half


def test_v3s_tiles_are_the_papers():
    """Sides and scales, written out once more."""
    row, column, square = (1, 128), (128, 1), (128, 128)
    wanted = {
        "linear": [row, square, row, column, column],
        "after_attention": [row, square, row, column, column],
        "experts_up": [row, square, row, column, column],
        "experts_down": [row, square, row, column, column],
    }
    twos = {"linear": "", "after_attention": "x x_tokens", "experts_up": "x x_tokens",
            "experts_down": "dy dy_tokens"}  # fmt: skip
    for role, sizes in wanted.items():
        tiles = vars(getattr(V3, role))
        assert [(t.rows, t.columns) for t in tiles.values()] == sizes
        assert {n for n, t in tiles.items() if t.power_of_two} == set(twos[role].split())
        e5m6 = {n for n, t in tiles.items() if t.format.name == "E5M6"}
        assert e5m6 == ({"x", "x_tokens"} if role == "after_attention" else set())
    assert V3.swiglu == ALONG_ROW


@given(sides, sides, seeds, st.booleans())
@settings(max_examples=20)
def test_what_is_kept_reads_as_what_is_rounded(n, k, seed, power_of_two):
    x = draw(seed, n, k)
    for tile in (*vars(V3.after_attention).values(), *vars(PER_TENSOR).values()):
        tile = replace(tile, power_of_two=power_of_two or tile.power_of_two)
        assert np.array_equal(tile.keep(x).read(), tile.round(x))
        assert np.array_equal(tile.round(x), plain.rounded(x, tile))
        largest = np.where(x == 0, 0, np.finfo(np.float32).max).astype(np.float32)
        assert np.array_equal(tile.keep(largest).read(), tile.round(largest))
        assert np.isfinite(tile.round(largest)).all()


def test_rows_know_nothing_of_each_other():
    """A token's output is the same whatever stands beside it, to rounding; in one product of the
    same shape, bit for bit."""
    x, w = draw(0, 40, 256, "float64"), draw(1, 130, 256, "float64")
    y = fp8_linear(x, w, scheme=FINE_GRAINED)[0]
    other = x.copy()
    other[7:] = draw(2, 33, 256)
    assert np.array_equal(fp8_linear(other, w, scheme=FINE_GRAINED)[0][:7], y[:7])
    assert relative(fp8_linear(x[:7], w, scheme=FINE_GRAINED)[0], y[:7]) < 1e-14


def test_float64_keeps_its_dtype():
    x, w, g = triple(3, 20, 30, 40, "float64")
    y, vjp = fp8_linear(x, w, scheme=V3.after_attention)
    assert [a.dtype.name for a in (y, *vjp(g))] == ["float64"] * 3
    wide = plain.linear(x, w, g, V3.after_attention)
    for got, want in zip((y, *vjp(g)), wide, strict=True):
        assert relative(got, want) < 1e-14


# ---------------------------------------------------------------------------------- what it keeps


@each_scheme
def test_backward_holds_codes_and_not_x(scheme):
    x, w = draw(0, 512, 512), draw(1, 512, 512)
    held = weakref.ref(x)
    fp8_linear(x, w, scheme=scheme)[1](x)  # tables are made once
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    y, vjp = fp8_linear(x, w, scheme=scheme)
    kept = tracemalloc.get_traced_memory()[0] - before - y.nbytes
    tracemalloc.stop()
    del x
    freed = held() is None
    assert freed == (scheme.x is not HIGH_PRECISION) and callable(vjp)
    if freed:
        each = 2 if scheme.x.format.name == "E5M6" else 1
        assert kept / 512**2 < each + 1 + 4 / 128 + 4 / 128**2 + 0.02  # codes of x and w, scales


def test_nothing_is_written_to_and_nothing_leaks():
    x, w, g = (np.ascontiguousarray(a) for a in triple(0, 130, 140, 150))
    for a in (x, w, g):
        a.flags.writeable = False
    for scheme in SCHEMES.values():
        y, vjp = fp8_linear(x, w, w[:, 0].copy(), scheme=scheme)
        first = vjp(g)
        kept = [a.copy() for a in first]
        for a in first:
            assert not any(np.may_share_memory(a, b) for b in (x, w, g, y))
            a[...] = np.nan
        assert all(np.array_equal(a, b) for a, b in zip(vjp(g), kept, strict=True))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_spoils_its_row_and_is_not_hidden():
    """A step that diverges must show in its loss and gradients, where the trainer looks for it."""
    x, w, g = triple(0, 6, 40, 30)
    x[2, 5] = np.nan
    y, vjp = fp8_linear(x, w, scheme=FINE_GRAINED)
    assert np.isnan(y[2]).all() and np.isfinite(np.delete(y, 2, 0)).all()
    dx, dw = vjp(g)
    assert np.isfinite(dx).all() and np.isnan(dw).any()


def test_threads_change_nothing():
    x, w, g = triple(0, 1500, 300, 260)
    results = []
    for count in (1, 2, 3):
        blocks.set_threads(count)
        try:
            y, vjp = fp8_linear(x, w, scheme=FINE_GRAINED)
            served = FP8Linear.from_codes(*quantize(w))(Tensor(x)).data
            results.append([y, *vjp(g), served])
        finally:
            blocks.set_threads(1)
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_same_numbers_on_each_device(device):
    x, w, g = triple(0, 70, 140, 130)
    sent = [backend.to_device(a, device) for a in (x, w, g)]
    for scheme in SCHEMES.values():
        y, vjp = fp8_linear(*sent[:2], scheme=scheme)
        z, plain_vjp = fp8_linear(x, w, scheme=scheme)
        for one, other in zip((y, *vjp(sent[2])), (z, *plain_vjp(g)), strict=True):
            assert backend.device_of(one).name == device
            assert relative(backend.to_host(one), other) < 1e-6
    codes, scales = quantize(sent[1])
    served = FP8Linear.from_codes(codes, scales)
    layer = FP8Linear.from_codes(*quantize(w)).to(device)
    with no_grad():
        y = served(Tensor(sent[0]))
        assert np.array_equal(layer(Tensor(sent[0])).numpy(), y.numpy())
        assert np.array_equal(layer.matrix().numpy(), dequantize(*quantize(w)))
    assert relative(y.numpy(), x @ dequantize(*quantize(w)).T) < 1e-6


# --------------------------------------------------------------------------------------- the layer


def test_alone_it_draws_what_linear_draws_and_learns():
    layer = FP8Linear(130, 20, np.random.default_rng(5), bias=True)
    other = Linear(130, 20, Init(np.random.default_rng(5), 0.02), bias=True)
    assert [n for n, _ in layer.named_parameters()] == ["weight", "bias"]
    assert layer.state_dict().keys() == other.state_dict().keys()
    assert np.array_equal(layer.weight.data, other.weight.data)
    assert np.array_equal(FP8Linear(3, 4).weight.data, FP8Linear(3, 4).weight.data)
    x = Tensor(normal(0, 2, 7, 130).astype(np.float32))
    y = layer(x)
    assert y.shape == (2, 7, 20)
    (y * y).sum().backward()
    assert layer.weight.grad.shape == (20, 130) and layer.bias.grad.shape == (20,)


def test_of_shares_parameters_and_matrix_is_what_it_multiplies_by():
    linear = Linear(130, 20, Init(np.random.default_rng(5), 0.02), bias=True)
    layer = FP8Linear.of(linear)
    assert layer.weight is linear.weight and layer.bias is linear.bias
    assert np.array_equal(layer.matrix().data, plain.rounded(linear.weight.data, Tile(128, 128)))
    assert linear.matrix() is linear.weight
    g = normal(0, 20, 130).astype(np.float32)
    layer.matrix().backward(g)
    assert np.array_equal(layer.weight.grad, g)  # straight through
    linear.weight.data += 1  # the master copy moves, and the layer with it
    assert np.array_equal(layer.matrix().data, plain.rounded(linear.weight.data, Tile(128, 128)))


@given(sides, sides, sides, st.booleans(), seeds)
@settings(max_examples=20)
def test_served_it_is_the_product_with_the_decoded_matrix(n, k, m, biased, seed):
    x, w, g = triple(seed, n, k, m)
    layer = FP8Linear.of(Linear(k, m, Init(None, 0.0), biased))
    layer.weight.data[...] = w
    if biased:
        layer.bias.data[...] = w[:, 0]
    served = layer.stored()
    assert served.weight.dtype == np.uint8 and served.weight.shape == (m, k)
    assert not any(p is layer.weight for p in served.parameters())
    matrix = dequantize(served.weight, served.weight_scale_inv)
    assert np.array_equal(served.matrix().data, matrix)
    y = served(Tensor(x)).data
    want = x.astype(float) @ matrix.T.astype(float) + (w[:, 0] if biased else 0)
    assert y.dtype == np.float32 and relative(y, want) < 2e-6
    in_training = FP8Linear.of(layer, WEIGHTS_ALONE)(Tensor(x)).data
    assert relative(in_training, y) < 2e-6
    both = layer.stored(FINE_GRAINED)(Tensor(x)).data  # activations rounded too
    assert relative(both, layer(Tensor(x)).data) < 2e-6
    again = served.stored()
    assert again.weight is served.weight and np.array_equal(again(Tensor(x)).data, y)


def test_gradients_pass_through_a_served_layer():
    """Its weights are constants; x and bias get the exact derivative."""
    codes, scales = quantize(normal(0, 200, 130))
    arguments = normal(1, 3, 4, 130), codes, scales, normal(2, 200)
    check_vjp(PRIMITIVES["fp8_stored_linear"], *arguments, rng=np.random.default_rng(0),
              constants=("scale_inv",), tile=HIGH_PRECISION)  # fmt: skip


def test_a_weight_takes_a_byte():
    for shape in ((128, 128), (256, 384), (512, 4096)):
        served = FP8Linear.of(Linear(*shape, Init(None, 0.0))).stored()
        total = sum(a.nbytes for a in served.state_dict().values())
        assert total == served.bytes_per_weight * np.prod(shape) <= 1.01 * np.prod(shape)
        assert served.weight.base is None  # it is not a view of something wider
    assert FP8Linear(130, 129).stored().bytes_per_weight == 1 + 4 * 4 / (130 * 129)


def test_serving_never_holds_the_decoded_matrix():
    layer, x = FP8Linear(512, 2048, np.random.default_rng(0)).stored(), Tensor(draw(0, 4, 512))
    with no_grad():
        layer(x)
        tracemalloc.start()
        y = layer(x)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert held - y.data.nbytes < 4096
    assert peak < 0.5 * 4 * layer.weight.size  # a row of blocks: its index, its values


# ----------------------------------------------------------------------------------------- refused


def test_refuses_what_does_not_fit():
    layer = FP8Linear(6, 4)
    for one in (layer, layer.stored()):
        with pytest.raises(InputError, match=r"x: got shape \(2, 5\), expected \(…, 6\)"):
            one(Tensor(np.ones((2, 5), np.float32)))
        with pytest.raises(InputError, match=r"x: got shape \(\), expected"):
            one(Tensor(np.float32(1.0)))
    codes, scales = quantize(np.ones((200, 130)))
    bad = {
        "expected \\(2, 2\\)": (codes, scales[:1]),
        "expected a matrix of uint8": (codes.astype(np.int64), scales),
        "positive and finite": (codes, scales * -1),
        "scale that is not positive": (codes, scales * np.float32(np.nan)),
        "NaN in codes": (np.where(codes == codes[0, 0], 0xFF, codes).astype(np.uint8), scales),
    }
    for text, arrays in bad.items():
        with pytest.raises(InputError, match=text) as error:
            FP8Linear.from_codes(*arrays)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="expected a matrix of uint8"):
        FP8Linear.from_codes(codes[0], scales)
    with pytest.raises(InputError, match="rng: got 3"):
        FP8Linear(6, 4, 3)
    layer.weight.data[1, 1] = np.inf
    with pytest.raises(InputError, match="NaN or Inf"):
        layer.stored()
    assert isinstance(layer.weight, Parameter) and ops.fp8_linear is not None
