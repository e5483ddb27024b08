"""AdamW against five lines of arithmetic, clipping against the norm, the schedule's shape."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd.backend import to_device, to_host
from minideepseek.autograd.blocks import set_threads
from minideepseek.autograd.engine import Parameter
from minideepseek.errors import InputError
from minideepseek.training.optim import (
    BLOCK,
    AdamW,
    clip_grad_norm,
    cosine_schedule,
    matrices_only,
)

SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 4), (300, 301)]  # the last one is more than one block


@pytest.fixture
def threads():
    yield set_threads
    set_threads(1)


def parameters(seed: int, dtype="float64", shapes=SHAPES) -> list[Parameter]:
    rng = np.random.default_rng(seed)
    return [Parameter(np.asarray(rng.standard_normal(s), dtype)) for s in shapes]


def give_gradients(params: list[Parameter], rng, scale: float = 1.0) -> list[np.ndarray]:
    for p in params:
        p.grad = np.asarray(rng.standard_normal(p.shape) * scale, p.dtype)
    return [p.grad.copy() for p in params]


def reference(p, m, v, g, t, lr, b1, b2, eps, decay):
    """One step as the module's docstring arranges it: new (p, m, v)."""
    root = math.sqrt(1 - b2**t)
    m = m * b1 + g * (1 - b1)
    v = v * b2 + (g * g) * (1 - b2)
    p = p * (1 - lr * decay) if decay else p
    return p - m / (np.sqrt(v) + eps * root) * (lr * root / (1 - b1**t)), m, v


def textbook(p, m, v, g, t, lr, b1, b2, eps, decay):
    """One step as Loshchilov & Hutter's algorithm 2 prints it, the schedule's factor in lr."""
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    return p - lr * (m_hat / (np.sqrt(v_hat) + eps) + decay * p), m, v


def run(rule, dtype: str, options: dict, steps: int = 5):
    """(AdamW's parameters, the rule's arrays) after the same gradients, a new rate each step."""
    params = parameters(1, dtype)
    optimiser = AdamW(params, **options)
    arrays = [(p.data.copy(), np.zeros_like(p.data), np.zeros_like(p.data)) for p in params]
    rng = np.random.default_rng(2)
    b1, b2 = optimiser.betas
    for t in range(1, steps + 1):
        optimiser.lr = options["lr"] / t
        grads = give_gradients(params, rng)
        optimiser.step()
        arrays = [
            rule(*a, g, t, options["lr"] / t, b1, b2, optimiser.eps, optimiser.decay[i])
            for i, (a, g) in enumerate(zip(arrays, grads, strict=True))
        ]
    return [p.data for p in params], [a[0] for a in arrays]


OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([1e-4, 3e-3, 0.5]),
        "betas": st.sampled_from([(0.9, 0.95), (0.9, 0.999), (0.0, 0.5), (0.5, 0.0)]),
        "eps": st.sampled_from([1e-8, 1e-3]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
    }
)


@given(OPTIONS, st.sampled_from(["float32", "float64"]))
def test_equals_the_reference_bit_for_bit(options, dtype):
    got, want = run(reference, dtype, options, steps=3)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(a, b)


@given(OPTIONS)
def test_equals_the_textbook(options):
    for a, b in zip(*run(textbook, "float64", options), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e3, 1e8])
def test_does_not_see_the_scale_of_the_loss(scale):
    results = []
    for factor in (1.0, scale):
        params = parameters(3)
        optimiser, rng = AdamW(params, lr=0.01, eps=1e-300), np.random.default_rng(4)
        for _ in range(4):
            give_gradients(params, rng, factor)
            optimiser.step()
        results.append([p.data for p in params])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_the_first_step_has_the_size_of_the_learning_rate():
    params = parameters(5)
    before = [p.data.copy() for p in params]
    optimiser = AdamW(params, lr=0.01, eps=1e-20, weight_decay=0.0)
    grads = give_gradients(params, np.random.default_rng(6))
    optimiser.step()
    for p, old, g in zip(params, before, grads, strict=True):
        np.testing.assert_allclose(p.data - old, -0.01 * np.sign(g), rtol=1e-4)


def test_decay_of_matrices_only():
    params = parameters(7)
    optimiser = AdamW(params, lr=0.1, weight_decay=matrices_only(0.5))
    before = [p.data.copy() for p in params]
    for p in params:
        p.grad = np.zeros_like(p.data)
    optimiser.step()
    for p, old in zip(params, before, strict=True):
        np.testing.assert_allclose(p.data, old * (0.95 if p.ndim > 1 else 1.0), rtol=1e-15)


def test_without_a_gradient_a_parameter_and_its_moments_stay():
    params = parameters(8)
    optimiser, rng = AdamW(params, lr=0.1), np.random.default_rng(9)
    give_gradients(params, rng)
    optimiser.step()
    kept = [(p.data.copy(), m.copy()) for p, m in zip(params, optimiser.m, strict=True)]
    optimiser.zero_grad()
    assert all(p.grad is None for p in params)
    params[0].grad = np.ones(())
    optimiser.step()
    assert params[0].data != kept[0][0]
    for p, m, (old, old_m) in list(zip(params, optimiser.m, kept, strict=True))[1:]:
        np.testing.assert_array_equal(p.data, old)
        np.testing.assert_array_equal(m, old_m)


def test_the_result_does_not_depend_on_the_number_of_threads(threads):
    results = []
    for count in (1, 2, 3):
        threads(count)
        params = parameters(10, "float32", [(3 * BLOCK + 5,), (70, 30), (2,)])
        optimiser, rng = AdamW(params, lr=0.01), np.random.default_rng(11)
        for _ in range(2):
            give_gradients(params, rng)
            clip_grad_norm(params, 1.0)
            optimiser.step()
        results.append([p.data for p in params])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_no_allocation_after_the_first_step():
    params = parameters(12, "float32", [(2 * BLOCK + 7,), (100, 100), (3,)])
    optimiser = AdamW(params, lr=0.01)
    held = [(p.data, m) for p, m in zip(params, optimiser.m, strict=True)]
    give_gradients(params, np.random.default_rng(13))
    optimiser.step()
    tracemalloc.start()
    try:
        optimiser.step()  # Python's own free lists fill
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        optimiser.step()
        peak = tracemalloc.get_traced_memory()[1] - before
        numpys = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
        arrays = tracemalloc.take_snapshot().filter_traces([numpys]).traces
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024, f"{peak} bytes at the peak; the parameters have {8 * BLOCK}"
    assert not arrays
    for p, m, (data, moment) in zip(params, optimiser.m, held, strict=True):
        assert p.data is data and m is moment


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, math.nan)])
def test_refuses_betas(betas):
    with pytest.raises(InputError, match="betas: got"):
        AdamW(parameters(0), lr=0.1, betas=betas)


def test_refuses_no_parameters():
    with pytest.raises(InputError, match="parameters: got none"):
        AdamW([], lr=0.1)


# --------------------------------------------------------------------------- moments in bfloat16


def to_bfloat16(x):
    return x.astype("bfloat16").astype(x.dtype)


@given(OPTIONS)
def test_bfloat16_moments_are_rounded_between_steps_and_only_there(options):
    """The reference, with m and v rounded after each step; p is made of what they were before."""

    def rule(p, m, v, *rest):
        p, m, v = reference(p, m, v, *rest)
        return p, to_bfloat16(m), to_bfloat16(v)

    got, want = run(rule, "float32", options | {"moments": "bfloat16"}, steps=4)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)


def test_bfloat16_moments_take_half_the_bytes_and_nothing_is_allocated():
    params = parameters(12, "float32", [(2 * BLOCK + 7,), (100, 100), (3,)])
    optimiser = AdamW(params, lr=0.01, moments="bfloat16")
    give_gradients(params, np.random.default_rng(13))
    for moments in (optimiser.m, optimiser.v):
        assert [a.dtype.name for a in moments] == ["bfloat16"] * 3
        assert [2 * a.nbytes for a in moments] == [p.data.nbytes for p in params]
    held = [*optimiser.m, *optimiser.v]
    optimiser.step()
    tracemalloc.start()
    optimiser.step()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    optimiser.step()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 16 * 1024
    assert all(a is b and a.any() for a, b in zip([*optimiser.m, *optimiser.v], held, strict=True))


def test_bfloat16_moments_do_not_depend_on_the_number_of_threads(threads):
    results = []
    for count in (1, 3):
        threads(count)
        params = parameters(10, "float32", [(3 * BLOCK + 5,), (70, 30), (2,)])
        optimiser, rng = AdamW(params, lr=0.01, moments="bfloat16"), np.random.default_rng(11)
        for _ in range(3):
            give_gradients(params, rng)
            optimiser.step()
        results.append([p.data for p in params] + optimiser.v)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("beta", "stuck"), [(0.95, False), (0.999, True)])
def test_a_second_moment_in_bfloat16_falls_at_0_95_and_not_at_0_999(beta, stuck):
    """A step takes 1 − β₂ of v off; half of bfloat16's spacing is at most 0.4 % of a number."""
    (p,) = parameters(0, "float32", [(50,)])
    optimiser = AdamW([p], lr=0.0, betas=(0.9, beta), moments="bfloat16")
    p.grad = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    optimiser.step()
    before = optimiser.v[0].astype("float32")
    p.grad = np.zeros(50, np.float32)
    for _ in range(100):
        optimiser.step()
    after = optimiser.v[0].astype("float32")
    assert (after == before).all() == stuck
    assert stuck or (after < 0.02 * before).all()


def test_bfloat16_moments_on_each_device(device):
    results = []
    for place in ("cpu", device):
        params = [Parameter(to_device(p.data, place)) for p in parameters(3, "float32")]
        optimiser, rng = AdamW(params, lr=0.01, moments="bfloat16"), np.random.default_rng(4)
        for _ in range(3):
            for p in params:
                g = np.asarray(rng.standard_normal(p.shape), np.float32)
                p.grad = to_device(g, place)
            optimiser.step()
        results.append([to_host(p.data) for p in params])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_other_moments_are_refused():
    for moments in ("float16", "float8_e4m3fn", True):
        with pytest.raises(InputError, match="moments: got .*, expected None or 'bfloat16'"):
            AdamW(parameters(0), lr=0.1, moments=moments)


# ---------------------------------------------------------------------------------------- clipping


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.sampled_from(["float32", "float64"]))
def test_clipping_returns_the_norm_and_keeps_the_direction(scale, most, dtype):
    params = parameters(16, dtype)
    grads = give_gradients(params[1:], np.random.default_rng(17), scale)
    norm = math.sqrt(sum(float((g.astype("float64") ** 2).sum()) for g in grads))
    got = clip_grad_norm(params, most)
    close = {"rtol": 1e-5 if dtype == "float32" else 1e-12}
    np.testing.assert_allclose(float(got), norm, **close)
    assert params[0].grad is None
    for p, g in zip(params[1:], grads, strict=True):
        assert p.grad.dtype == g.dtype
        np.testing.assert_allclose(p.grad, g * min(1.0, most / (norm + 1e-6)), **close)
    if norm + 1e-6 < most:
        assert all((p.grad == g).all() for p, g in zip(params[1:], grads, strict=True))


def test_clipping_nothing():
    assert clip_grad_norm(parameters(18), 1.0) == 0.0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clipping_does_not_spread_a_bad_gradient(bad):
    params = parameters(19)
    give_gradients(params, np.random.default_rng(20))
    params[3].grad[1, 2] = bad
    assert not np.isfinite(clip_grad_norm(params, 1.0))
    finite = [bool(np.isfinite(p.grad).all()) for p in params]
    assert finite == [True, True, True, False, True, True]


# ---------------------------------------------------------------------------------------- schedule


@given(st.integers(1, 400), st.integers(0, 40), st.sampled_from([0.0, 0.1, 1.0]))
def test_schedule(steps, warmup, final):
    warmup = min(warmup, steps)
    rates = [cosine_schedule(i, steps, 2.0, warmup, final) for i in range(steps)]
    assert all(0 < r <= 2.0 or (final == 0 and i == steps - 1) for i, r in enumerate(rates))
    np.testing.assert_allclose(rates[:warmup], 2.0 * np.arange(1, warmup + 1) / max(1, warmup))
    rest = rates[warmup:]
    assert all(b <= a for a, b in zip(rest, rest[1:], strict=False))
    if rest:
        assert rest[0] == pytest.approx(2.0)
    if len(rest) > 1:
        assert rest[-1] == pytest.approx(2.0 * final, abs=1e-12)
    if len(rest) % 2:  # the middle of the cosine is the middle of its ends
        middle = rest[len(rest) // 2]
        assert len(rest) == 1 or middle == pytest.approx(1.0 + final)


def test_negative_rates_and_norms_are_refused():
    parameter = Parameter(np.ones(2))
    for lr in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="lr: got"):
            AdamW([parameter], lr=lr)
    for norm in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="max_norm: got"):
            clip_grad_norm([parameter], norm)
    with pytest.raises(InputError, match="only floating point has gradients"):
        Parameter(np.ones(2, int))
