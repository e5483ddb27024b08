"""Every primitive and its gradients, float32, beside NumPy's; codes of small floats, bit by bit.

The list is the engine's own: a primitive without a case fails the first test.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minideepseek.model.fp8  # noqa: F401 - registers
from minideepseek.autograd import backend
from minideepseek.autograd.engine import PRIMITIVES, unbroadcast
from minideepseek.layers import fp8
from minideepseek.layers.fp8.recipe import FINE_GRAINED, V3
from minideepseek.layers.fp8.tiles import quantize
from tests.autograd.cases import CASES
from tests.autograd.strategies import values
from tests.gpu.common import LOOSE, RTOL, close, up
from tests.layers.fp8.test_experts import counts_of
from tests.layers.fp8.test_experts import draw as draw_experts

FORMATS = (fp8.E4M3, fp8.E5M2, fp8.E5M6)


def matrices(rng, *shapes):
    """Float32 of many sizes."""
    for shape in shapes:
        x = rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6, (shape[0], 1))
        yield x.astype(np.float32)


def fp8_linear(rng):
    return tuple(matrices(rng, (70, 140), (130, 140))), {"scheme": FINE_GRAINED}


def fp8_round(rng):
    return tuple(matrices(rng, (70, 140))), {"tile": FINE_GRAINED.x}


def fp8_stored_linear(rng):
    x, w = matrices(rng, (70, 140), (130, 140))
    return (x, *quantize(w)), {"tile": FINE_GRAINED.x}


def fp8_expert_mlp(rng):
    *arrays, indices, _ = draw_experts(rng.integers(99), 50, 130, 160, 4, 2, nowhere=True)
    return (*arrays, indices), {"counts": counts_of(indices, 4), "recipe": V3}


def fp8_stored_expert_mlp(rng):
    (x, gate_up, down, weights, indices), options = fp8_expert_mlp(rng)
    m = down.shape[-1]
    sides = [[quantize(w[:m]), quantize(w[m:])] for w in gate_up]
    up_codes = np.stack([np.concatenate([g[0], u[0]]) for g, u in sides])
    up_scales = np.stack([np.stack([g[1], u[1]]) for g, u in sides])
    codes, scales = (np.stack(part) for part in zip(*map(quantize, down), strict=True))
    return (x, up_codes, up_scales, codes, scales, weights, indices), options


SMALL = (fp8_linear, fp8_round, fp8_stored_linear, fp8_expert_mlp, fp8_stored_expert_mlp)


def test_no_primitive_is_forgotten():
    assert set(CASES) | {make.__name__ for make in SMALL} == set(PRIMITIVES)


def same(name, arrays, options, g_seed, place, rtol=RTOL):
    """A primitive and its vjp, on both devices; inputs are numbers of about 1."""
    there = {k: up(v, place) if k == "segment_ids" else v for k, v in options.items()}
    y, vjp = PRIMITIVES[name](*arrays, **options)
    z, vjp_there = PRIMITIVES[name](*(up(x, place) for x in arrays), **there)
    close(backend.as_array(z), y, rtol, name, floor=1)
    g = np.random.default_rng(g_seed).standard_normal(y.shape).astype(np.float32)
    found, expected = vjp_there(up(g, place)), vjp(g)
    for i, (one, other) in enumerate(zip(tuples(found), tuples(expected), strict=True)):
        assert (one is None) == (other is None)
        if one is not None:
            other = unbroadcast(other, arrays[i].shape)
            one = unbroadcast(one, arrays[i].shape)
            close(one, other, rtol, f"{name}, gradient {i}", floor=1)


def tuples(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=12)  # attention has five kinds of masks
@given(data=st.data())
def test_primitives(place, name, data):
    v = data.draw(values(("normal",)))
    arrays, options = CASES[name].make(data.draw, v)
    narrow = [x.astype(np.float32) if x.dtype.kind == "f" else x for x in arrays]
    same(name, narrow, options, 1, place)


@pytest.mark.parametrize("make", SMALL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("seed", range(2))
def test_primitives_in_fp8(place, make, seed):
    rtol = LOOSE if "expert" in make.__name__ else RTOL  # SwiGLU's output is rounded again
    same(make.__name__, *make(np.random.default_rng(seed)), seed, place, rtol)


def patterns(seed):
    """Float32 of every exponent, ±0, ±inf and NaN, and every upper half of one."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    low = np.random.default_rng(seed).integers(0, 1 << 16, upper.shape).astype(np.uint32)
    return np.concatenate([upper, upper | low]).view(np.float32)


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_codes_are_the_same_bit_for_bit(place, format):
    x = patterns(0)
    codes, found = fp8.encode(x, format), fp8.encode(up(x, place), format)
    assert np.array_equal(backend.to_host(found), codes)
    back = backend.to_host(fp8.decode(found, format))
    assert np.array_equal(back, fp8.decode(codes, format), equal_nan=True)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("block", [(1, 128), (128, 1), (128, 128)])
@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_tiles_are_the_same_bit_for_bit(place, block, format, power_of_two):
    (x,) = matrices(np.random.default_rng(3), (260, 300))
    x[5] *= 1e30
    x[7, 40:] = 0
    there = quantize(up(x, place), block, format, power_of_two)
    for found, expected in zip(there, quantize(x, block, format, power_of_two), strict=True):
        found = backend.to_host(found)
        assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("ties", [False, True])
def test_what_differs_between_devices_by_name(place, ties):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((50, 16)).astype(np.float32)
    scores = np.round(scores) if ties else scores
    best = backend.top_k(up(scores, place), 4)
    assert np.array_equal(backend.to_host(best), backend.top_k(scores, 4))
    rows, index = rng.standard_normal((90, 7)).astype(np.float32), rng.integers(0, 5, 90)
    sums = np.zeros((5, 7), np.float32)
    there = up(sums, place)
    backend.scatter_add(sums, index, rows)
    backend.scatter_add(there, up(index, place), up(rows, place))
    close(there, sums)
    backend.synchronize(there)
    assert backend.memory_bytes(place) >= there.nbytes
