"""Each kernel beside its reference: `CASES[name](rng, …)` launches it as the package does, over the
stand-in or on a card, and compares. Over the stand-in the launch itself is checked too
(tests/standin/kernels.py).

u = 2⁻²⁴. Where the operations are the same and in the same order the answer must be, bit for bit;
sums of a row are added in another order, and tanh is another library's.
"""

import numpy as np

from minideepseek.autograd import backend
from minideepseek.autograd.kernels import activation, gather, norm, optimise, rotation
from minideepseek.layers.fp8 import formats, kernels, tiles
from tests import standin
from tests.standin import kernels as raw

U = 2.0**-24
FORMATS = [formats.E4M3, formats.E5M2, formats.E5M6]
BLOCKS = [(1, 128), (128, 1), (128, 128), (3, 5), (33, 34), (1, 1)]


def every_kernel():
    """All kernels of the package, each with its text."""
    fp8 = ("encode_all", "quantize", "round_tiles", "dequantize")
    return [
        norm.RMS_NORM, norm.RMS_NORM_BACKWARD,
        activation.SWIGLU, activation.SWIGLU_BACKWARD,
        rotation.ROTATE, gather.GATHER_SUM, *optimise.ADAMW.values(),
        *(kernels.kernel(name, f) for f in FORMATS for name in fp8),
    ]  # fmt: skip


place = "standin"  # where the cases run


def ready(where="standin"):
    """Make the stand-in and its RawKernel known, and run the cases there or on "cuda"."""
    global place
    standin.install()
    raw.install()
    place = where


def up(array):
    """A host array's copy on the device."""
    return backend.to_device(np.ascontiguousarray(array), place)


def device(array, stride=0):
    """An array on the device, (n, d) rows of it `stride` further apart than they need be."""
    if not stride:
        return up(array)
    wide = np.full((array.shape[0], array.shape[1] + stride), np.nan, array.dtype)
    wide[:, : array.shape[1]] = array
    return up(wide)[:, : array.shape[1]]


def numbers(rng, *shape):
    """float32 numbers of sizes from 1e-3 to 1e3 and both signs, zeros among them."""
    x = rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3, shape)
    return (x * (rng.random(shape) < 0.95)).astype(np.float32)


def close(got, want, bound):
    """|got − want| ≤ bound, elementwise; NaN only where both are."""
    got = np.asarray(got, np.float64)
    assert got.shape == np.shape(want)
    assert (np.abs(got - want) <= bound).all(), np.abs(got - want).max()


def same(got, want):
    """Bit for bit, NaN's bits aside."""
    got = got.get()
    assert got.dtype == want.dtype and got.shape == want.shape
    if want.dtype.kind == "f":
        assert (np.isnan(got) == np.isnan(want)).all()
        got, want = (np.where(np.isnan(want), 0, a).view(f"u{want.itemsize}") for a in (got, want))
    assert np.array_equal(got, want)


def rms_norm(rng, rows, d, stride=0):
    """Against float64: a sum of d squares, then a root, a quotient and two products."""
    x, w = numbers(rng, rows, d), numbers(rng, d)
    y, r = norm.rms_norm(device(x, stride), device(w), 1e-6)
    want, r_want = norm.rms_norm_reference(x.astype(float), w.astype(float), 1e-6)
    bound = (d / 2 + 8) * U
    close(y.get(), want, bound * np.abs(want))
    close(r.get(), r_want, bound * r_want)


def rms_norm_backward(rng, rows, d, stride=0):
    """Against float64: bounds on the sums of sizes that the two sums run over."""
    x, w, g = numbers(rng, rows, d), numbers(rng, d), numbers(rng, rows, d)
    r = norm.rms_norm_reference(x, w, 1e-6)[1]
    dx, dw = norm.rms_norm_backward(device(g, stride), device(x, 2 * stride), device(w), device(r))
    wide = [a.astype(float) for a in (g, x, w, r)]
    dx_want, dw_want = norm.rms_norm_backward_reference(*wide)
    x_hat, size = np.abs(wide[1] * wide[3]), np.abs(wide[0] * wide[2])
    inner = (size * x_hat).sum(-1, keepdims=True) / max(d, 1)
    close(dx.get(), dx_want, (d + 12) * U * (size + x_hat * inner) * wide[3])
    close(dw.get(), dw_want, (rows + 6) * U * np.abs(wide[0] * x_hat).sum(0))


def swiglu(rng, rows, d, stride=0):
    """tanh to 2 units in the last place on either side: σ to 2 u more, then two products."""
    gate, up = numbers(rng, rows, d), numbers(rng, rows, d)
    y = activation.swiglu(device(gate, stride), device(up, 2 * stride))
    want = activation.swiglu_reference(gate.astype(float), up.astype(float))
    close(y.get(), want, 6 * U * np.abs(gate * up.astype(float)))


def swiglu_backward(rng, rows, d, stride=0):
    """The same, and the slope's three terms."""
    g, gate, up = (numbers(rng, rows, d) for _ in range(3))
    both = device(np.full((rows, 2 * d + stride), np.nan, np.float32))
    dgate, dup = both[:, :d], both[:, d : 2 * d]
    sources = device(g, stride), device(gate, 2 * stride), device(up)
    activation.swiglu_backward(*sources, dgate, dup)
    dgate_want, dup_want = activation.swiglu_backward_reference(
        g.astype(float), gate.astype(float), up.astype(float)
    )
    size = np.abs(g.astype(float) * up)
    close(dgate.get(), dgate_want, 16 * U * size * (1 + np.abs(gate)))
    close(dup.get(), dup_want, 6 * U * np.abs(g * gate.astype(float)))
    assert np.isnan(both.get()[:, 2 * d :]).all()  # what lies beyond was left alone


def rotate(rng, tokens, heads, half, passed=0, repeats=1, stride=0):
    """Both orders of pairs and both directions: bit for bit."""
    x = numbers(rng, repeats * tokens * heads, passed + 2 * half)
    angles = rng.uniform(-7, 7, (tokens, half)).astype(np.float32)
    for interleaved, sign in ((True, 1.0), (False, -1.0)):
        arrays = device(np.cos(angles)), device(np.sin(angles))
        y = rotation.rotate(device(x, stride), heads, *arrays, interleaved, sign)
        heads_of = x.reshape(repeats * tokens, heads, x.shape[1])
        turn = np.cos(angles), np.sin(angles), interleaved, sign
        same(y, rotation.rotate_reference(heads_of, *turn).reshape(x.shape))


def gather_sum(rng, tokens, k, d):
    """Some tokens go nowhere; sums in the order of j, bit for bit."""
    sent = rng.random(tokens) < 0.8
    indices = np.where(sent[:, None], np.arange(k), -1)
    place = np.zeros((tokens, k), np.int64)  # nowhere: somebody's row, which must not be read
    place[sent] = rng.permutation(int(sent.sum()) * k).reshape(-1, k)
    rows = numbers(rng, int(sent.sum()) * k, d)
    y = gather.gather_sum(device(rows), device(place), device(indices))
    want = np.zeros((tokens, d), np.float32)
    if sent.any():
        want = gather.gather_sum_reference(rows, place, indices)
    same(y, want)


def adamw(rng, sizes, moments="float32", betas=(0.9, 0.95)):
    """Parameters of these sizes, each between two fences: bit for bit."""
    fence, held, arrays = 3 * optimise.EACH * (1 + len(sizes)), [], []
    for size in sizes:
        kinds = ("float32", "float32", moments, moments)
        four = [np.full(size + 2 * fence, 7, kind) for kind in kinds]
        for i, a in enumerate(four):
            values = numbers(rng, size)
            a[fence : fence + size] = np.abs(values) if i == 3 else values
        there = [device(a) for a in four]
        held.append((four, there))
        inside = [a[fence : fence + size] for a in there]
        arrays.append((*inside, float(rng.choice([1.0, 0.9999]))))
    numbers_ = {"b1": betas[0], "b2": betas[1], "rate": 1e-3, "eps": 1e-8}
    optimise.adamw(arrays, **numbers_)
    for (four, there), (*_, keep) in zip(held, arrays, strict=True):
        middle = slice(fence, len(four[0]) - fence)
        p, g, m, v = (a[middle].astype(np.float32) for a in four)
        new = optimise.adamw_reference(p, g, m, v, **numbers_, keep=keep)
        for i, values in zip((0, 2, 3), new, strict=True):
            four[i][middle] = values.astype(four[i].dtype)
        for got, want in zip(there, four, strict=True):
            assert got.get().tobytes() == want.tobytes()


def matrix(rng, n, k, oddities=True):
    """Rows of very different sizes, with outliers, zeros of both signs, NaN and infinities."""
    x = numbers(rng, n, k) * 10.0 ** rng.uniform(-20, 20, (n, 1))
    if oddities and x.size:
        for value in (np.nan, np.inf, -np.inf, -0.0, 2.0**-126, formats.FLOAT32_MAX):
            if rng.random() < 0.3:
                x[rng.integers(n), rng.integers(k)] = value
        x[rng.random(n) < 0.1] = 0
    return x.astype(np.float32)


def quantize(rng, n, k, block, format=formats.E4M3, power_of_two=False):
    """Codes and scales; a NaN that a quotient made has a sign that the CPU chose."""
    x = matrix(rng, n, k)
    codes, scales = kernels.quantize(device(x), block, format, power_of_two)
    codes_want, scales_want = tiles.to_codes(x, block, format, power_of_two)
    same(scales, scales_want)
    low, nan = codes_want & (format.sign - 1), np.isnan(formats.decode(codes_want, format))
    same(up(np.where(nan, low, codes.get())), np.where(nan, low, codes_want))
    assert np.isnan(formats.decode(codes.get(), format)[nan]).all()


def round_tiles(rng, n, k, block, format=formats.E4M3, power_of_two=False):
    """The same bits as `tiles.rounded`."""
    x = matrix(rng, n, k)
    bound = power_of_two or format == formats.E5M6
    with np.errstate(invalid="ignore"):
        want = tiles.rounded(x, block, format, power_of_two)
    same(kernels.rounded(device(x), block, format, power_of_two, bound), want)


def dequantize(rng, n, k, block, format=formats.E4M3, bound=False):
    """The same bits as `tiles.from_codes`, of any code and scales up to the largest float32."""
    codes = rng.integers(0, 2 * format.sign, (n, k)).astype(format.dtype)
    scales = 10.0 ** rng.uniform(-30, 30, tiles.scale_shape((n, k), block))
    if bound and scales.size:
        scales.flat[rng.integers(scales.size)] = 2.0**120
    scales = scales.astype(np.float32)
    table = formats.values_of(format, up(scales))
    with np.errstate(invalid="ignore", over="ignore"):
        want = tiles.from_codes(codes, scales, block, format, bound)
    same(kernels.dequantize(device(codes), device(scales), table, block, format, bound), want)


def encode(bits, format):
    """Codes of float32 numbers given by their bits: every bit of every code."""
    got = kernels.encode(up(bits.view(np.float32)), format)
    want = formats.encode_bits(bits, format)
    assert np.array_equal(got.get(), want)


def encode_all(rng, count):
    """Any bits, and what is no number, in each format."""
    bits = rng.integers(0, 1 << 32, count, dtype=np.uint32)
    bits[::7] = 0x7F800000 | (bits[::7] & 0x80000000)
    bits[::11] |= 0x7FC00000
    for format in FORMATS:
        encode(bits, format)


# The shapes at which everything has its edge: none, one, a warp and one more, a block and one more.
EDGES = {
    "rms_norm": [(0, 3), (1, 1), (1, 33), (7, 64), (9, 31), (17, 300)],
    "rms_norm_backward": [(0, 3), (1, 1), (31, 33), (33, 31), (65, 300)],
    "swiglu": [(0, 3), (1, 1), (1, 33), (9, 31), (17, 64)],
    "swiglu_backward": [(0, 3), (1, 1), (1, 33), (9, 31), (17, 64)],
    "rotate": [(0, 2, 3), (1, 1, 1), (9, 3, 33, 34), (5, 2, 8, 0, 3), (3, 1, 4, 1, 2, 5)],
    "gather_sum": [(0, 2, 3), (1, 1, 1), (9, 4, 33), (17, 2, 31)],
    "adamw": [([1],), ([2048],), ([2049, 0, 5000],), ([3] * 9 + [4097],)],
    "encode_all": [(0,), (1,), (255,), (257,)],
    "quantize": [(0, 3, (1, 128)), (1, 1, (1, 128)), (9, 129, (1, 128)), (129, 9, (128, 1)),
                 (130, 131, (128, 128)), (10, 11, (3, 5)), (40, 40, (33, 34))],
}  # fmt: skip
EDGES["round_tiles"] = EDGES["dequantize"] = EDGES["quantize"]
CASES = {
    f.__name__: f
    for f in (
        rms_norm, rms_norm_backward, swiglu, swiglu_backward, rotate, gather_sum, adamw,
        encode_all, quantize, round_tiles, dequantize,
    )
}  # fmt: skip


def at_the_edges(name, rng):
    """One case at all of its edges, with rows side by side and apart."""
    for shape in EDGES[name]:
        CASES[name](rng, *shape)
        if name in ("rms_norm", "rms_norm_backward", "swiglu", "swiglu_backward"):
            CASES[name](rng, *shape, stride=3)
        if name == "adamw":
            CASES[name](rng, *shape, moments="bfloat16")
        if name in ("quantize", "round_tiles", "dequantize"):
            CASES[name](rng, *shape, formats.E5M6, True)
