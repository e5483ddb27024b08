"""The differences that gradcheck trusts: how far they may be off, on what scale, their table."""

import numpy as np
import pytest

from minideepseek.autograd.differences import STEPS, Problem
from minideepseek.autograd.gradcheck import GradientError, check_vjp


def problem(value, *arrays, u=None):
    """A Problem whose cotangents are given, (2, *y.shape), or drawn."""
    names = [f"x{i}" for i in range(len(arrays))]
    found = Problem(value, names, list(arrays), value, lambda u, *x: [u] * len(x), (), False)
    found.draw(np.random.default_rng(0))
    if u is not None:
        found.u = np.array(u, float)
    return found


@pytest.mark.parametrize("rough", [0, 1])
def test_a_slope_is_known_as_well_as_asked_for_both_cotangents(rough):
    """One entry is linear and settles at once, the other bends and needs shorter steps."""
    def bent(x):
        return np.where(np.arange(2) == rough, np.sin(40 * x), 3 * x)

    x, ones = np.array([0.3, 0.3]), np.ones(2)
    slopes, error = problem(bent, x, u=np.eye(2)).slope(0, ones, ones, 1e-7)
    true = np.full(2, 3.0)
    true[rough] = 40 * np.cos(40 * 0.3)
    assert (error <= 1e-7).all() and (abs(slopes - true) <= error + 1e-12).all()


@pytest.mark.parametrize("move", [1.0, 1e-3, 50.0])
def test_a_value_that_is_zero_just_here_has_the_size_of_one_long_step(move):
    found = problem(lambda x: 7 * (x - 3), np.array([3.0, 3.0]))
    v = np.array([move, -2 * move])
    assert found.size.tolist() == [0, 0]
    want = (abs(found.u) * 7 * abs(STEPS[0] * v)).sum(-1)
    assert found.size_near(0, v) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("rows", [1, 3])
def test_an_entry_is_wrong_by_its_share_of_the_largest_at_any_scale(scale, rows):
    def one_wrong(x):
        def vjp(g):
            dx = scale * g * np.exp(x)
            dx[0, 1] *= 1.01
            return dx

        return scale * np.exp(x), vjp

    x = np.array([[0.5, -0.5, 0.25]] * rows)
    with pytest.raises(GradientError, match=rf"1 of {3 * rows} entries differ, worst at \(0, 1\)"):
        check_vjp(one_wrong, x)


def test_a_second_call_may_not_give_fewer_gradients():
    calls = []

    def forgets(x, y):
        def vjp(g):
            calls.append(g)
            return (g * y, g * x) if len(calls) % 2 else (g * y,)

        return x * y, vjp

    with pytest.raises(GradientError, match="a second call answers differently"):
        check_vjp(forgets, np.ones(3), np.ones(3))


def test_one_entry_that_is_wild_hides_no_other():
    """Errors are shares of the largest derivative, not of the largest claim."""
    def two_wrong(x):
        def vjp(g):
            dx = g * np.exp(x)
            dx[0, 1] *= 1e9
            dx[1, 2] *= 1.01
            return dx

        return np.exp(x), vjp

    with pytest.raises(GradientError, match=r"2 of 6 entries differ, worst at \(0, 1\)") as caught:
        check_vjp(two_wrong, np.arange(6.0).reshape(2, 3) / 6)
    lines = caught.value.report.table("dx").splitlines()[1:]
    assert [line[:6] for line in lines if line.endswith("<")] == ["(0, 1)", "(1, 2)"]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_kink_is_called_one_at_any_scale(scale):
    def size(x):
        return scale * abs(x), lambda g: scale * g * np.where(x < 0, -1, 1)

    with pytest.raises(GradientError, match="f has a kink here: move the inputs apart"):
        check_vjp(size, np.array([0.5, 0.0, -2.0]))
    assert check_vjp(size, np.array([0.5, 0.1, -2.0])).ok
