"""Every primitive, one table of cases, the properties that make a rule right.

A primitive without a case in `cases.py` fails `test_every_primitive_has_a_case`.
"""

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minideepseek.autograd.attention
import minideepseek.autograd.experts
import minideepseek.autograd.fused
import minideepseek.autograd.primitives  # noqa: F401 - registers
from minideepseek.autograd import backend
from minideepseek.autograd.engine import PRIMITIVES, unbroadcast
from minideepseek.autograd.gradcheck import check_vjp
from tests import standin

from .cases import CASES
from .strategies import REGIMES, frozen, values

every_primitive = pytest.mark.parametrize("name", sorted(CASES))
# Straight through a rounding, whose derivative is 0 or does not exist: differences say nothing.
# tests/layers/fp8 compares these with the formula that they document, and keeps the other rules.
STRAIGHT_THROUGH = {
    "fp8_linear", "fp8_round", "fp8_stored_linear", "fp8_expert_mlp", "fp8_stored_expert_mlp",
}  # fmt: skip
LINEAR = sorted(name for name in CASES if CASES[name].linear)


def call(name, arrays, options):
    """y and a vjp that always gives a tuple of arrays in their arguments' shapes, None for None."""
    y, vjp = PRIMITIVES[name](*arrays, **options)

    def pull(g):
        gradients = vjp(g)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        assert len(gradients) == len(arrays)
        return tuple(
            None if gx is None else unbroadcast(np.asarray(gx), x.shape)
            for gx, x in zip(gradients, arrays, strict=True)
        )

    return np.asarray(y), pull


def drawn(data, name, regimes=REGIMES):
    """A call of the primitive: its arrays, its options, the generator that made them."""
    v = data.draw(values(regimes))
    return *CASES[name].make(data.draw, v), v


def cotangent(v, y):
    """A read-only random cotangent of y."""
    return frozen(v.rng.standard_normal(y.shape))


def test_every_primitive_has_a_case():
    assert set(CASES) == set(PRIMITIVES) - STRAIGHT_THROUGH


@every_primitive
@given(data=st.data())
def test_vjp_agrees_with_differences_and_keeps_the_rules(name, data):
    arrays, options, v = drawn(data, name)
    constants = CASES[name].constants
    check_vjp(PRIMITIVES[name], *arrays, rng=v.rng, constants=constants, **options)


@every_primitive
@settings(max_examples=15)
@given(data=st.data())
def test_vjp_is_linear(name, data):
    arrays, options, v = drawn(data, name)
    y, pull = call(name, arrays, options)
    u, w = cotangent(v, y), cotangent(v, y)
    largest = max([1.0, *(np.abs(x).max(initial=0) for x in arrays)])
    both = pull(2.0 * u - 3.0 * w)
    for together, one, other in zip(both, pull(u), pull(w), strict=True):
        if together is not None:
            size = np.abs(one).max(initial=0) + np.abs(other).max(initial=0) + largest**3
            np.testing.assert_allclose(together, 2 * one - 3 * other, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=15)
@given(data=st.data())
def test_linear_primitives_and_their_vjp_are_transposes(name, data):
    """⟨u, A x⟩ = ⟨Aᵀ u, x⟩ needs no differences: equal to rounding."""
    arrays, options, v = drawn(data, name)
    y, pull = call(name, arrays, options)
    u = cotangent(v, y)
    for group in CASES[name].linear:
        gradients = pull(u)
        terms = [gradients[i] * arrays[i] for i in group if i < len(arrays)]
        got = sum(float(t.sum()) for t in terms)
        size = sum(float(np.abs(t).sum()) for t in terms) + float(np.abs(u * y).sum())
        assert abs(got - float((u * y).sum())) <= 1e-12 * size


@every_primitive
@settings(max_examples=15)
@given(data=st.data())
def test_vjp_is_reusable_and_leaks_nothing(name, data):
    """What the engine may write into (an array without a base, not g) belongs to nobody else."""
    arrays, options, v = drawn(data, name)
    y, vjp = PRIMITIVES[name](*arrays, **options)
    y = np.asarray(y)
    u = cotangent(v, y)
    first = vjp(u)
    first = first if isinstance(first, tuple) else (first,)
    kept = [None if g is None else np.array(g) for g in first]
    mine = [g for g in first if isinstance(g, np.ndarray) and g.base is None and g is not u]
    for i, g in enumerate(mine):
        assert not any(np.may_share_memory(g, x) for x in (*arrays, y, u, *mine[:i]))
        g[...] = np.nan
    again = vjp(u)
    again = again if isinstance(again, tuple) else (again,)
    for one, two in zip(kept, again, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_array_equal(one, two)


@every_primitive
@settings(max_examples=15)
@given(data=st.data())
def test_float32_stays_float32_and_agrees_with_float64(name, data):
    arrays, options, v = drawn(data, name, ("normal", "ties", "rows"))
    narrow = [frozen(x.astype(np.float32)) if x.dtype.kind == "f" else x for x in arrays]
    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in narrow]
    y, pull = call(name, narrow, options)
    y64, pull64 = call(name, wide, options)
    u = cotangent(v, y).astype(np.float32)
    results = [(y, y64), *zip(pull(u), pull64(u.astype(np.float64)), strict=True)]
    for got, want in results:
        if got is not None:
            assert got.dtype == np.float32
            size = np.abs(want).max(initial=0) + 1
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * size)


@every_primitive
@settings(max_examples=6)
@given(data=st.data())
def test_the_same_numbers_on_a_device(name, data):
    """Over the stand-in for CuPy, which refuses what CuPy refuses, host arrays first of all."""
    standin.install()
    arrays, options, v = drawn(data, name, ("normal",))
    y, pull = call(name, arrays, options)
    u = cotangent(v, y)
    sent = [backend.to_device(np.array(x), "standin") for x in arrays]
    if "segment_ids" in options:
        options["segment_ids"] = backend.to_device(options["segment_ids"], "standin")
    there, vjp = PRIMITIVES[name](*sent, **options)
    gradients = vjp(backend.to_device(np.array(u), "standin"))
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    np.testing.assert_allclose(backend.to_host(there), y, rtol=1e-12, atol=1e-12)
    for got, want in zip(gradients, pull(u), strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            got = unbroadcast(got, want.shape) if got.shape != want.shape else got
            np.testing.assert_allclose(backend.to_host(got), want, rtol=1e-11, atol=1e-11)


KEEPS_NOTHING = (
    "add subtract scale shift where sum mean max reshape transpose broadcast_to concatenate "
    "getitem take take_along_axis maximum minimum clip exp tanh sigmoid sqrt softmax log_softmax "
    "rope append_shared"
).split()  # of what it was given: not a floating array that it differentiates by


@pytest.mark.parametrize("name", KEEPS_NOTHING)
@settings(max_examples=5)
@given(data=st.data())
def test_what_backward_does_not_need_is_not_kept(name, data):
    """Linear primitives keep shapes, those that can use their output keep that, not their input."""
    arrays, options, _ = drawn(data, name)
    arrays = [x.copy() for x in arrays]
    constants = set(CASES[name].constants)
    y, vjp = PRIMITIVES[name](*arrays, **options)
    if np.asarray(y).base is not None or name in constants:
        return  # a view of its input keeps it in any case
    watched = [weakref.ref(x) for x in arrays[: 1 if constants else None] if x.dtype.kind == "f"]
    del arrays, y  # reference counts alone free them
    assert not any(ref() is not None for ref in watched)
    assert callable(vjp)
