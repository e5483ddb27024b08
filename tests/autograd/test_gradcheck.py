"""The tester tested: correct rules pass at every scale, planted mistakes are called by name."""

import doctest
import functools
import importlib
import pkgutil

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minideepseek.autograd
from minideepseek.autograd import fused, primitives  # noqa: F401 - registers
from minideepseek.autograd.engine import PRIMITIVES, Parameter, ops
from minideepseek.autograd.gradcheck import GradientError, check_vjp, gradcheck
from minideepseek.errors import InputError, MiniDeepSeekError

from .cases import CASES
from .strategies import lift
from .test_primitives import drawn, every_primitive

X = np.array([[0.5, -1.5, 2.0], [1.0, 0.25, -0.75], [2.5, -0.5, 1.25]])
WEIGHT = np.array([0.5, -1.0, 2.0])
MATRIX = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0], [2.0, -3.0, 1.0]])


def scaled(x, weight):  # a correct one: w x, w broadcast over the rows
    return x * weight, lambda g: (g * weight, (g * x).sum(0))


def flipped(x):
    return np.exp(x), lambda g: -g * np.exp(x)


def doubled(x):
    return np.exp(x), lambda g: 2 * g * np.exp(x)


def off_by_a_thousandth(x):
    return np.exp(x), lambda g: 1.001 * g * np.exp(x)


def negative_factor(x):
    return np.exp(x), lambda g: -3 * g * np.exp(x)


def ignores_g(x):
    return np.exp(x), lambda g: np.exp(x)


def not_summed(x, weight):
    return x * weight, lambda g: (g * weight, g * x)


def summed_over_the_wrong_axis(x, weight):
    return x * weight, lambda g: (g * weight, (g * x).sum(1))


def flat(x, weight):
    return x * weight, lambda g: ((g * weight).reshape(-1), (g * x).sum(0))


def transposed(x):
    return x @ MATRIX, lambda g: (g @ MATRIX.T).T


def transposed_shape(x):
    return x @ MATRIX, lambda g: (g @ MATRIX.T).T


def one_entry(x):
    def vjp(g):
        dx = g * np.exp(x)
        dx[1, 0] *= 1.01
        return dx

    return np.exp(x), vjp


def silent(x, weight):
    return x * weight, lambda g: (g * weight, None)


def zero(x):
    return np.exp(x), lambda g: np.zeros_like(x)


def not_a_number(x):
    return np.exp(x), lambda g: g * np.nan


def one_short(x, weight):
    return x * weight, lambda g: (g * weight,)


def writes_g(x):
    def vjp(g):
        g *= np.exp(x)
        return g

    return np.exp(x), vjp


def writes_x(x):
    y = np.exp(x)
    x *= 2
    return y, lambda g: g * y


def returns_what_it_saved(x):
    slope = np.exp(x)

    def vjp(g):
        np.multiply(g, np.exp(x), out=slope)
        return slope

    return np.exp(x), vjp


def returns_what_it_needs(x):
    slope = np.exp(x)
    return slope.sum(), lambda g: slope if g == 1 else np.multiply(slope, g, out=slope)


def returns_its_argument(x):
    return (x * x).sum() / 2, lambda g: x


def the_same_twice(x, other):
    def vjp(g):
        both = 1 * g
        return both, both

    return x + other, vjp


def a_view_of_the_other(x, other):
    def vjp(g):
        both = 1 * g
        return both, both[:]

    return x + other, vjp


def remembers(x):
    calls = []

    def vjp(g):
        calls.append(g)
        return len(calls) * g * np.exp(x)

    return np.exp(x), vjp


PLANTED = [
    (flipped, (X,), "dx", "the sign is flipped"),
    (doubled, (X,), "dx", "right direction, off by a factor 2"),
    (off_by_a_thousandth, (X,), "dx", "right direction, off by a factor 1.001"),
    (negative_factor, (X,), "dx", "right direction, off by a factor -3"),
    (ignores_g, (X,), "dx", "your rule ignores the incoming gradient g"),
    (not_summed, (X, WEIGHT), "dweight", "shape (3, 3), want (3,): sum over the broadcast axes"),
    (summed_over_the_wrong_axis, (X, WEIGHT), "dweight", "3 of 3 entries differ, worst at (0)"),
    (flat, (X, WEIGHT), "dx", "shape (9,), want (3, 3)"),
    (transposed, (X,), "dx", "transposed"),
    (transposed_shape, (X[:2],), "dx", "shape (3, 2), want (2, 3): transposed?"),
    (one_entry, (X,), "dx", "1 of 9 entries differ, worst at (1, 0)"),
    (silent, (X, WEIGHT), "dweight", "no gradient arrives"),
    (zero, (X,), "dx", "no gradient arrives"),
    (not_a_number, (X,), "dx", "NaN or Inf"),
    (one_short, (X, WEIGHT), "dx", "1 gradients for 2 arguments"),
    (writes_g, (X,), "vjp", "the vjp writes into an argument or into g"),
    (writes_x, (X,), "vjp", "the forward writes into an argument or into g"),
    (returns_what_it_saved, (X,), "vjp", "it returns an array that it keeps"),
    (returns_what_it_needs, (X,), "vjp", "it returns an array that it keeps"),
    (returns_its_argument, (X,), "vjp", "a gradient is an argument itself"),
    (the_same_twice, (X, X), "vjp", "two gradients share their memory"),
    (a_view_of_the_other, (X, X), "vjp", "two gradients share their memory"),
    (remembers, (X,), "vjp", "a second call answers differently"),
]


@pytest.mark.parametrize("function, arrays, name, reason", PLANTED, ids=lambda p: getattr(p, "__name__", ""))  # noqa: E501
def test_planted_mistakes_are_named(function, arrays, name, reason):
    with pytest.raises(GradientError) as caught:
        check_vjp(function, *arrays, exact_shapes=True)
    wrong = next(v for v in caught.value.report.verdicts if not v.ok)
    assert wrong.name == name and wrong.reason.startswith(reason)
    assert reason in str(caught.value) and function.__name__ in str(caught.value)


def test_only_the_wrong_argument_is_blamed():
    with pytest.raises(GradientError) as caught:
        check_vjp(summed_over_the_wrong_axis, X, WEIGHT)
    assert [v.ok for v in caught.value.report.verdicts] == [True, False]


def test_the_broadcast_shape_is_the_engines_business_unless_asked():
    assert check_vjp(not_summed, X, WEIGHT).ok


@every_primitive
@settings(max_examples=6)
@given(data=st.data())
def test_a_thousandth_in_any_gradient_of_any_primitive_is_caught(name, data):
    arrays, options, v = drawn(data, name, ("normal",))
    y, vjp = PRIMITIVES[name](*arrays, **options)
    honest = vjp(v.rng.standard_normal(np.shape(y)))
    honest = honest if isinstance(honest, tuple) else (honest,)
    there = [i for i, g in enumerate(honest) if g is not None and np.abs(g).max(initial=0) > 1e-3]
    assume(there)
    which = data.draw(st.sampled_from(there))

    @functools.wraps(PRIMITIVES[name])
    def wrong(*arrays, **options):
        y, vjp = PRIMITIVES[name](*arrays, **options)

        def broken(g):
            gradients = vjp(g)
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
            return tuple(
                gx * 1.001 if i == which and gx is not None else gx
                for i, gx in enumerate(gradients)
            )

        return y, broken

    with pytest.raises(GradientError) as caught:
        check_vjp(wrong, *arrays, constants=CASES[name].constants, **options)
    bad = [v.reason for v in caught.value.report.verdicts if not v.ok]
    assert bad == ["right direction, off by a factor 1.001"]


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("name, arrays, options", [
    ("log", "+", {}), ("sqrt", "+", {}), ("divide", "-+", {}), ("power", "+", {"exponent": -0.5}),
    ("rms_norm", "-w", {"eps": 1e-6}), ("rms_norm", "-w", {"eps": 1e-20}), ("multiply", "--", {}),
    ("power", "-", {"exponent": 3}), ("tanh", "-", {}), ("logsumexp", "-", {}),
])  # fmt: skip
def test_correct_rules_pass_at_every_scale(name, arrays, options, scale):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 3)) * scale
    made = {"-": x, "+": np.abs(x) + 0.01 * scale, "w": rng.standard_normal(3)}
    report = check_vjp(PRIMITIVES[name], *(made[a] for a in arrays), **options)
    assert max(v.error for v in report.verdicts) < 1e-6


def test_correct_rules_pass_where_entries_differ_by_twelve_orders_of_magnitude():
    for name in ("log", "sqrt"):
        assert check_vjp(PRIMITIVES[name], np.logspace(-6, 6, 13)).ok
    rows = np.array([[1e-3, 2e-3, -1e-4], [1e3, 2e3, 0.0]])
    assert check_vjp(PRIMITIVES["rms_norm"], rows, np.ones(3), eps=1e-6).ok


def test_a_wrong_entry_near_zero_is_seen_although_its_own_scale_is_small():
    x = np.array([1e-9, 1.0, 2.0])

    def wrong(x):
        return np.exp(x), lambda g: g * np.exp(x) * np.array([1.01, 1.0, 1.0])

    with pytest.raises(GradientError, match=r"worst at \(0\)"):
        check_vjp(wrong, x)


def test_all_zeros_where_a_norm_bends_within_a_thousandth():
    assert check_vjp(PRIMITIVES["rms_norm"], np.zeros((2, 3)), np.ones(3), eps=1e-6).ok


def test_a_kink_is_called_a_kink():
    with pytest.raises(GradientError, match="kink"):
        check_vjp(PRIMITIVES["maximum"], np.ones(3), np.ones(3))


def test_a_jump_is_not_taken_for_a_slope():
    def jump(x):
        return np.where(x > 1, x, -x), lambda g: g * np.where(x > 1, 1.0, -1.0)

    with pytest.raises(GradientError, match="do not settle"):
        check_vjp(jump, np.ones(3))


# ------------------------------------------------------------------------- functions of Tensors


def test_a_composition_passes_and_names_its_arguments():
    def layer(x, weight, ids):
        return ops.tanh(ops.take(x, ids) @ weight)

    report = gradcheck(layer, X, MATRIX[:, :2].astype(np.float32), np.array([0, 2, 2]))
    assert [v.name for v in report.verdicts] == ["dx", "dweight"] and report.ok
    assert str(report).splitlines()[0] == "layer"
    assert gradcheck(ops.concatenate, X, X, axis=0).verdicts[1].name == "dxs[1]"


def test_a_wrong_primitive_inside_a_composition_is_caught():
    wrong = lift(off_by_a_thousandth)
    with pytest.raises(GradientError, match=r"dx +WRONG"):
        gradcheck(lambda x, y: (wrong(x) * y).sum(), X, X)


def test_a_detached_branch_is_caught():
    with pytest.raises(GradientError, match="no gradient arrives"):
        gradcheck(lambda x: ops.exp(x.detach()), X)
    with pytest.raises(GradientError, match=r"dx +WRONG"):
        gradcheck(lambda x: ops.exp(x.detach()) * x, X)


def test_parameters_are_checked_in_place_and_put_back():
    p, q = Parameter(WEIGHT.copy()), Parameter(WEIGHT.copy())
    p.grad = np.full(3, 7.0)
    before, grad, array = p.data.copy(), p.grad, p.data
    report = gradcheck(lambda x: ops.tanh(x * p), X, parameters={"scale": p})
    assert [v.name for v in report.verdicts] == ["dx", "dscale"]
    assert p.data is array and (p.data == before).all() and p.grad is grad
    with pytest.raises(GradientError, match=r"dq +WRONG.*no gradient"):
        gradcheck(lambda x: x * p * q.detach(), X, parameters={"p": p, "q": q})
    assert q.grad is None and (q.data == before).all()
    with pytest.raises(InputError, match="half is float32, expected float64"):
        half = Parameter(WEIGHT.astype(np.float32))
        gradcheck(lambda x: x * half, X, parameters={"half": half})


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(InputError, match="returned ndarray, expected a Tensor"):
        gradcheck(lambda x: x.data, X)
    with pytest.raises(InputError, match="finite"), np.errstate(all="ignore"):
        gradcheck(ops.log, -np.ones(3))
    with pytest.raises(NotImplementedError, match="dx"):
        check_vjp(lambda x: (x, _not_written), X)


def _not_written(g):
    raise NotImplementedError("dx")


# ----------------------------------------------------------------------------------- the report


def test_the_report_prints_one_line_an_argument():
    with pytest.raises(GradientError) as caught:
        check_vjp(summed_over_the_wrong_axis, X, WEIGHT)
    assert isinstance(caught.value, MiniDeepSeekError) and isinstance(caught.value, AssertionError)
    name, first, second = str(caught.value).splitlines()
    assert name == "summed_over_the_wrong_axis"
    assert first.split()[:3] == ["dx", "ok", "error"]
    assert second.split()[:3] == ["dweight", "WRONG", "error"] and "finite differences" in second


def test_the_table_shows_every_entry_and_marks_the_wrong_one():
    with pytest.raises(GradientError) as caught:
        check_vjp(one_entry, X)
    lines = caught.value.report.table("dx").splitlines()
    assert len(lines) == 1 + X.size
    assert [line for line in lines if line.endswith("<")] == [lines[1 + 3]]
    assert lines[1 + 3].startswith("(1, 0)")


def test_a_seed_decides_everything():
    assert str(check_vjp(scaled, X, WEIGHT)) == str(check_vjp(scaled, X, WEIGHT))
    one, two = (check_vjp(scaled, X, WEIGHT, rng=np.random.default_rng(s)) for s in (1, 2))
    assert (one.problem.u != two.problem.u).all()


def test_the_docstrings_examples_run():
    for module in pkgutil.iter_modules(minideepseek.autograd.__path__, "minideepseek.autograd."):
        found = doctest.testmod(importlib.import_module(module.name))
        assert found.failed == 0
        assert found.attempted or not module.name.endswith("gradcheck")
