"""The package with its kernels on, over the stand-in: the same numbers as with them off."""

import numpy as np
import pytest

from minideepseek import AdamW, DeepSeekV3, DeepSeekV3Config, clip_grad_norm
from minideepseek.autograd.engine import Parameter, Tensor, ops
from minideepseek.autograd.kernels import set_kernels
from minideepseek.layers.fp8 import formats, tiles
from minideepseek.model.fp8 import fp8_training
from tests.kernels import cases, shim
from tests.standin import counters
from tests.standin import cupy as xp

pytestmark = pytest.mark.skipif(not shim.compiler(), reason="needs g++")
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(autouse=True)
def _ready():
    cases.ready()
    yield
    set_kernels(False)


def both_ways(compute):
    """What `compute` gives with the kernels off and on, as host arrays, and its launches."""
    results, launches = [], []
    for on in (False, True):
        set_kernels(on)
        counters.reset()
        made = compute()
        launches.append(counters.launches)
        results.append([a.get() for a in made])
    return *results, launches


def gradients(f, *arrays, options=None, fixed=()):
    """y and the gradients of a primitive at device arrays."""
    inputs = [a if a.dtype.kind == "i" else Parameter(a) for a in arrays]
    y = f(*inputs, **(options or {}))
    y.backward(xp.asarray(np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape)))
    return [y.data] + [p.grad for p in inputs if isinstance(p, Parameter)]


@pytest.mark.parametrize("shape", [(3, 5, 33), (1, 7), (2, 0, 4)], ids=str)
def test_rms_norm(shape):
    rng = np.random.default_rng(0)
    x, w = cases.numbers(rng, *shape), cases.numbers(rng, shape[-1])
    arrays = cases.device(x), cases.device(w)
    off, on, launches = both_ways(lambda: gradients(ops.rms_norm, *arrays, options={"eps": 1e-6}))
    for a, b in zip(off, on, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert launches[1] < launches[0] or 0 in shape


def test_rms_norm_of_a_part_and_of_scattered_rows():
    rng = np.random.default_rng(0)
    wide, w = cases.device(cases.numbers(rng, 6, 40)), cases.device(cases.numbers(rng, 5))
    for part in (wide[:, :5], wide[:5].T[:, :5], wide[:, ::8]):
        off, on, _ = both_ways(
            lambda part=part: gradients(ops.rms_norm, part, w, options={"eps": 1e-6})
        )
        for a, b in zip(off, on, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5, 33), (7,), (2, 0, 4)], ids=str)
def test_swiglu(shape):
    rng = np.random.default_rng(0)
    arrays = [cases.device(cases.numbers(rng, *shape)) for _ in range(2)]
    off, on, launches = both_ways(lambda: gradients(ops.swiglu, *arrays))
    for a, b in zip(off, on, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    assert launches[1] <= launches[0]


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("shape, angles", [
    ((2, 3, 4, 10), (3, 3)), ((2, 3, 1, 6), (2, 3, 3)), ((3, 2, 6), (3, 3)), ((0, 3, 1, 6), (3, 3)),
], ids=str)  # fmt: skip
def test_rope(shape, angles, interleaved):
    rng = np.random.default_rng(0)
    turn = rng.uniform(-7, 7, angles).astype(np.float32)
    x = cases.device(cases.numbers(rng, *shape[:-1], shape[-1] + 5))[..., :-5]  # rows apart
    cos, sin = Tensor(cases.device(np.cos(turn))), Tensor(cases.device(np.sin(turn)))

    def compute():
        p = Parameter(x)
        y = ops.rope(p, cos, sin, interleaved=interleaved)
        y.backward(xp.asarray(np.ones(shape, np.float32)))
        return y.data, p.grad

    off, on, launches = both_ways(compute)
    for a, b in zip(off, on, strict=True):
        assert a.tobytes() == b.tobytes()
    assert launches[1] < launches[0]


@pytest.mark.parametrize("sent", [[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], ids=str)
def test_the_routed_experts(sent):
    """Some tokens go nowhere, some experts get none; each pair's place and gate is its own."""
    rng, (n, k, e, d, m) = np.random.default_rng(0), (5, 2, 4, 6, 3)
    indices = np.array([rng.permutation(3)[:k] for _ in range(n)])  # expert 3 gets nobody
    indices[np.array(sent) == 0] = -1
    counts = [int((indices == i).sum()) for i in range(e)]
    shapes = (n, d), (e, 2 * m, d), (e, d, m), (n, k)
    arrays = [cases.device(rng.standard_normal(s, dtype=np.float32)) for s in shapes]
    off, on, launches = both_ways(lambda: gradients(
        ops.expert_mlp, *arrays, cases.device(indices), options={"counts": counts}
    ))  # fmt: skip
    for a, b in zip(off, on, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)
    if any(sent):
        assert launches[1] < launches[0]


@pytest.mark.parametrize("moments", [None, "bfloat16"])
def test_adamw_to_the_bit_in_one_launch(moments):
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (), (70, 80), (0, 3)]
    start, slopes = ([cases.numbers(rng, *s) for s in shapes] for _ in range(2))

    def train():
        parameters = [Parameter(cases.device(a.copy())) for a in start]
        optimiser = AdamW(parameters, 1e-2, moments=moments,
                          weight_decay=lambda p: 0.1 if p.ndim > 1 else 0.0)  # fmt: skip
        for _ in range(3):
            for i, (p, g) in enumerate(zip(parameters, slopes, strict=True)):
                p.grad = None if i == 1 else cases.device(g)
            counters.reset()
            optimiser.step()
        return [p.data for p in parameters] + optimiser.m + optimiser.v

    off, on, launches = both_ways(train)
    for a, b in zip(off, on, strict=True):
        assert a.tobytes() == b.tobytes()
    assert launches[1] == 1


def test_adamw_without_any_gradient():
    set_kernels(True)
    optimiser = AdamW([Parameter(cases.device(np.ones(3, np.float32)))], 1e-2)
    optimiser.step()
    assert optimiser.steps == 1


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("block", [(1, 128), (128, 1), (128, 128), (1 << 40, 1 << 40)], ids=str)
def test_tiles_to_the_bit(block, power_of_two):
    rng = np.random.default_rng(0)
    x = cases.matrix(rng, 140, 150, oddities=False)
    block = tuple(min(b, n) for b, n in zip(block, x.shape, strict=True))
    for format in (formats.E4M3, formats.E5M6):
        options = block, format, power_of_two
        codes, scales = tiles.to_codes(x, *options)
        off, on, launches = both_ways(lambda o=options, c=codes, s=scales, f=format: [
            *tiles.to_codes(cases.device(x), *o), tiles.rounded(cases.device(x), *o),
            tiles.from_codes(cases.device(c), cases.device(s), o[0], f),
            formats.encode(cases.device(x), f),
        ])  # fmt: skip
        for a, b in zip(off, on, strict=True):
            assert a.tobytes() == b.tobytes()
        assert launches[1] < launches[0]
        if block[0] * block[1] <= 128 * 128:
            assert launches[1] == 4


def test_other_dtypes_keep_their_array_functions():
    x = cases.device(np.linspace(-500, 500, 30).reshape(5, 6))
    off, on, launches = both_ways(lambda: [
        tiles.rounded(x, (1, 128)), formats.encode(x), ops.swiglu(Tensor(x), Tensor(x)).data
    ])  # fmt: skip
    for a, b in zip(off, on, strict=True):
        assert a.tobytes() == b.tobytes()
    assert launches[0] == launches[1]


@pytest.mark.parametrize("fp8", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_of_training(fp8):
    """Losses, gradients and what AdamW makes of them: one step of the whole model."""
    model = DeepSeekV3(DeepSeekV3Config.preset("nano"), rng=np.random.default_rng(0))
    model = fp8_training(model) if fp8 else model
    ids = np.random.default_rng(1).integers(0, 256, (2, 9))

    def step():
        there = model.to("standin")
        optimiser = AdamW(there.parameters(), 1e-3)
        loss = there.loss(ids, mtp_weight=0.1)
        loss.backward()
        clip_grad_norm(there.parameters(), 1.0)
        grads = [p.grad.copy() for p in there.parameters()]
        optimiser.step()
        return [loss.data, *grads, *(p.data for p in there.parameters())]

    off, on, launches = both_ways(step)
    for a, b in zip(off, on, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=3e-5)
    assert launches[1] < (0.25 if fp8 else 0.6) * launches[0]
