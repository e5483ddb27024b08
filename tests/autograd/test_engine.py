"""The tape: right gradients for any program, nothing kept too long, nothing shared written to."""

import gc
import operator
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd import backend, engine, primitives  # noqa: F401 - registers
from minideepseek.autograd.engine import (
    Parameter,
    Tensor,
    checkpoint,
    is_recording,
    no_grad,
    ops,
    primitive,
    unbroadcast,
    watch,
)
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.errors import InputError

from .strategies import lift, seeds, shapes

# ------------------------------------------------------------------------------ random programs

STEPS = {  # of two values already computed; each keeps numbers of ordinary size
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: ops.tanh(a) * b,
    "same": lambda a, b: a + a,
    "square": lambda a, b: ops.sigmoid(a * a),
    "divide": lambda a, b: a / (b * b + 1.0),
    "softmax": lambda a, b: ops.softmax(a + b, axis=-1),
    "total": lambda a, b: ops.tanh(a.sum(-1, keepdims=True)) + b,
    "mean": lambda a, b: (a * b).mean() * b,
    "product": lambda a, b: ops.tanh(a @ ops.transpose(b)) @ b,
    "split": lambda a, b: ops.concatenate(a[:, 1:], b[:, :1]),
    "number": lambda a, b: 2.0 - a * 0.5,
}
programs = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=12,
)


def run(program, *leaves):
    """Each step takes any two of the values so far: heavy sharing, dead ends among it."""
    made = list(leaves)
    for name, i, j in program:
        made.append(STEPS[name](made[i % len(made)], made[j % len(made)]))
    return made[-1] + made[len(made) // 2]


def leaves_of(seed):
    """Three arrays of one shape (2, 3)."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((2, 3)) for _ in range(3)]


def gradients_of(program, arrays):
    """The gradients of Σ y² / 2 for fresh Parameters."""
    parameters = [Parameter(a) for a in arrays]
    y = run(program, *parameters)
    y.backward(y.data)
    return parameters


@settings(max_examples=150)
@given(program=programs, seed=seeds)
def test_random_programs_agree_with_differences(program, seed):
    gradcheck(lambda a, b, c: run(program, a, b, c), *leaves_of(seed))


@given(program=programs, seed=seeds)
def test_a_second_run_doubles_gradients_exactly(program, seed):
    arrays = leaves_of(seed)
    once = [p.grad for p in gradients_of(program, arrays)]
    parameters = [Parameter(a) for a in arrays]
    for _ in range(2):
        y = run(program, *parameters)
        y.backward(y.data)
    for p, g in zip(parameters, once, strict=True):
        assert (p.grad is None) == (g is None)
        if g is not None:
            np.testing.assert_array_equal(p.grad, 2 * g)


@given(program=programs, seed=seeds)
def test_backward_writes_nothing_that_others_see(program, seed):
    """Not the data, not the cotangent; and no two gradients share memory with anything."""
    arrays = leaves_of(seed)
    parameters = [Parameter(a.copy()) for a in arrays]
    y = run(program, *parameters)
    u, value = np.random.default_rng(seed).standard_normal(y.shape), y.data.copy()
    before = u.copy()
    y.backward(u)
    assert (u == before).all() and (y.data == value).all()
    for p, a in zip(parameters, arrays, strict=True):
        assert (p.data == a).all()
    seen = [u, y.data, *(p.data for p in parameters)]
    for g in (p.grad for p in parameters if p.grad is not None):
        assert g.flags.writeable and not any(np.may_share_memory(g, other) for other in seen)
        seen.append(g)


@given(seed=seeds)
def test_the_order_of_independent_statements_does_not_matter(seed):
    x, y = Parameter(leaves_of(seed)[0]), Parameter(leaves_of(seed)[0])
    a, b = ops.exp(x), ops.tanh(x)
    ((a + b) * a).sum().backward()
    b, a = ops.tanh(y), ops.exp(y)
    ((a + b) * a).sum().backward()
    np.testing.assert_allclose(x.grad, y.grad, rtol=1e-14)


# ------------------------------------------------------------------------- accumulation, sharing


@pytest.mark.parametrize("uses", [1, 2, 3, 7])
def test_a_tensor_used_n_times_gets_n_gradients(uses):
    x = Parameter(np.array([1.0, 2.0]))
    h = ops.exp(x)
    y = h
    for _ in range(uses - 1):
        y = y + h
    y.backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, uses * np.exp(x.data))


def test_zero_dimensional_tensors_used_twice():
    x = Parameter(np.array([1.0, 2.0, 4.0]))
    s = x.mean()
    (s * s + s * 2 + s).backward()
    np.testing.assert_allclose(x.grad, np.full(3, (2 * 7 / 3 + 3) / 3))
    p = Parameter(np.array(3.0))
    (p * p + p).backward()
    assert isinstance(p.grad, np.ndarray) and p.grad.shape == () and p.grad == 7


def test_gradients_accumulate_in_place_until_set_to_none():
    p = Parameter(np.ones(2))
    (p * 3.0).sum().backward()
    kept = p.grad
    (p * 4.0).sum().backward()
    assert p.grad is kept and (kept == 7).all()
    p.grad = None
    (p * 4.0).sum().backward()
    assert (p.grad == 4).all() and (kept == 7).all()


def test_one_gradient_for_two_parameters_is_two_arrays():
    x, y = Parameter(np.ones(3)), Parameter(np.ones(3))
    u = np.array([1.0, 2.0, 3.0])
    (x + y).backward(u)
    x.grad += 1
    np.testing.assert_array_equal(y.grad, u)
    np.testing.assert_array_equal(u, [1, 2, 3])


def test_repeated_rows_of_an_embedding_receive_every_gradient():
    table = Parameter(np.zeros((4, 2)))
    ops.take(table, np.array([[1, 1], [3, 1]])).sum().backward()
    np.testing.assert_array_equal(table.grad, [[0, 0], [3, 3], [0, 0], [1, 1]])


def test_an_embedding_in_another_memory_order():
    table = Parameter(np.asfortranarray(np.zeros((4, 2))))
    ops.take(table, np.array([1, 1])).sum().backward()
    np.testing.assert_array_equal(table.grad, [[0, 0], [2, 2], [0, 0], [0, 0]])


@given(shape=shapes(min_side=1), lead=shapes(max_dims=2, min_side=1), data=st.data())
def test_unbroadcast_multiplies_by_the_count(shape, lead, data):
    narrow = tuple(1 if data.draw(st.booleans()) else n for n in shape)
    x = np.random.default_rng(len(shape)).standard_normal(narrow)
    wide = np.broadcast_to(x, (*lead, *shape))
    down = unbroadcast(wide, narrow)
    assert down.shape == narrow
    np.testing.assert_allclose(down, x * (wide.size // x.size), rtol=1e-13)


@pytest.mark.parametrize("came, wanted", [
    ((2, 3), (3, 2)), ((4,), (2, 2)), ((3,), (2, 3)), ((6,), (2, 3)), ((2, 3), (6,)), ((), (1,)),
])  # fmt: skip
def test_a_gradient_that_is_no_broadcast_is_refused(came, wanted):
    with pytest.raises(ValueError, match="no broadcast"):
        unbroadcast(np.ones(came), wanted)
    wrong = lift(_with_gradient(np.ones(came)))
    with pytest.raises(ValueError, match=r"wrong: its gradient of shape"):
        wrong(Parameter(np.ones(wanted))).backward()


def _with_gradient(gradient):
    def wrong(x):
        return x.sum(), lambda g: gradient

    return wrong


def test_a_gradient_too_few_names_the_primitive():
    def short(x, y):
        return x + y, lambda g: (g,)

    with pytest.raises(TypeError, match="short: 1 gradients for 2 positional arguments"):
        lift(short)(Parameter(np.ones(2)), Tensor(np.ones(2))).backward(np.ones(2))


# ---------------------------------------------------------------------------------------- memory


def test_closures_are_freed_as_soon_as_used_by_reference_counts_alone():
    gc.disable()
    try:
        x = Parameter(np.ones(1000))
        seen = []
        with watch(lambda name, y: seen.append(weakref.ref(y))):
            loss = (ops.exp(ops.tanh(x * 2.0)) * x).sum()
        assert sum(ref() is not None for ref in seen) >= 3  # what backward needs, and the loss
        loss.backward()
        assert sum(ref() is not None for ref in seen) == 1 and seen[-1]() is loss.data
        assert loss.node.parents == ()
        with watch(lambda name, y: seen.append(weakref.ref(y))):
            unused = ops.exp(ops.tanh(x * 2.0))
        del unused
        assert sum(ref() is not None for ref in seen) == 1
    finally:
        gc.enable()


def test_intermediates_that_no_rule_needs_do_not_survive_forward():
    x = Parameter(np.ones(10))
    seen = {}
    with watch(lambda name, y: seen.setdefault(name, weakref.ref(y))):
        loss = ops.tanh(x * 2.0 + 1.0).sum()
    assert seen["scale"]() is None and seen["shift"]() is None and seen["tanh"]() is not None
    assert loss.node is not None


def test_a_gradient_lives_no_longer_than_its_use():
    """Two products of a row and a matrix give two gradients of 1 MiB each, one after the other."""
    matrix, rows = Tensor(np.ones((1024, 128))), [Parameter(np.ones((1, 128))) for _ in range(2)]
    y, u = rows[0] * matrix + rows[1] * matrix, np.ones((1024, 128))
    tracemalloc.start()
    y.backward(u)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (rows[0].grad == 1024).all() and peak < 2.5 * u.nbytes


def test_a_chain_of_twenty_thousand_steps():
    x = Parameter(np.array([0.5]))
    y = x
    for _ in range(20_000):
        y = y * 1.0001 + 1e-6
    y.backward(np.ones(1))
    np.testing.assert_allclose(x.grad, 1.0001**20_000, rtol=1e-10)
    y = x
    for _ in range(50_000):
        y = y + 1.0
    del y  # never walked: freed without recursion


def test_a_second_backward_is_refused():
    x = Parameter(np.ones(3))
    h = ops.exp(x)
    loss = h.sum()
    loss.backward()
    with pytest.raises(InputError, match="used already"):
        loss.backward()
    with pytest.raises(InputError, match="used already"):
        (h * 2.0).sum().backward()


# ------------------------------------------------------------------- no_grad, watch, checkpoint


def test_no_grad_makes_no_nodes(monkeypatch):
    made = []
    monkeypatch.setattr(engine, "Node", lambda *a: made.append(a))
    p = Tensor(np.ones(2), object())
    with no_grad():
        assert not is_recording()
        y = ops.exp(p * 2.0).sum()
        with no_grad():
            pass
        assert not is_recording()
    assert is_recording() and made == [] and y.node is None
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_recording()


def test_no_grad_is_of_one_thread():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(is_recording()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_constants_make_no_nodes():
    assert (Tensor(np.ones(2)) * Tensor(np.ones(2)) + 1.0).node is None
    assert (Parameter(np.ones(2)).detach() * 2.0).node is None


def test_watch_sees_every_output_and_ends():
    names = []
    x = Parameter(np.ones(2))
    with watch(lambda name, y: names.append(name)):
        (ops.exp(x) * 2.0).sum()
    ops.exp(x)
    assert names == ["exp", "scale", "sum"]


@given(program=programs, seed=seeds)
def test_checkpoint_is_f_in_value_and_gradient(program, seed):
    arrays = leaves_of(seed)
    plain, w, other = ([Parameter(a) for a in arrays[:2]] for _ in range(3))
    used, again = Parameter(arrays[2]), Parameter(arrays[2])
    y = run(program, ops.tanh(plain[0]), plain[1], used)
    z = checkpoint(lambda a, b: run(program, a, b, again), ops.tanh(w[0]), w[1])
    np.testing.assert_array_equal(y.data, z.data)
    y.backward(y.data)
    z.backward(z.data)
    for p, q in zip([*plain, used], [*w, again], strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            np.testing.assert_allclose(q.grad, p.grad, rtol=1e-12, atol=1e-14)
    with no_grad():
        assert checkpoint(lambda a: a * 2.0, other[0]).node is None


def test_checkpoint_keeps_inputs_only():
    x = Parameter(np.ones(100))
    seen, recorded = [], []

    def f(a):
        recorded.append(is_recording())
        return ops.exp(ops.exp(ops.tanh(a)))

    with watch(lambda name, y: seen.append(weakref.ref(y))):
        y = checkpoint(f, x)
    assert [ref() is not None for ref in seen] == [False, False, True]
    with no_grad():
        y.backward(np.ones(100))
    assert recorded == [False, True]  # nothing kept by the first run, everything by the second
    expected = Parameter(np.ones(100))
    ops.exp(ops.exp(ops.tanh(expected))).backward(np.ones(100))
    np.testing.assert_array_equal(x.grad, expected.grad)


def test_checkpoint_of_a_constant_trains_the_parameters_inside():
    p = Parameter(np.ones(3))
    checkpoint(lambda a: a * p, Tensor(np.full(3, 2.0))).backward(np.ones(3))
    np.testing.assert_array_equal(p.grad, np.full(3, 2.0))
    checkpoint(lambda: p * 5.0).backward(np.ones(3))
    np.testing.assert_array_equal(p.grad, np.full(3, 7.0))


# ------------------------------------------------------------------------------------- operators

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv]


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.__name__)
@pytest.mark.parametrize("other", [
    2, 0.5, True, np.float64(0.5), np.float32(0.5), np.int64(3), np.array([0.5, 2.0], np.float32),
], ids=lambda o: f"{type(o).__name__}")  # fmt: skip
def test_operators_are_numpys_from_both_sides_and_keep_float32(op, other):
    data = np.array([1.0, 4.0], np.float32)
    x = Parameter(data)
    number = float(other) if np.ndim(other) == 0 else other
    for got, want in [(op(x, other), op(data, number)), (op(other, x), op(number, data))]:
        assert isinstance(got, Tensor) and got.dtype == np.float32 and got.node is not None
        np.testing.assert_allclose(got.data, want, rtol=1e-6)


def test_the_other_operators():
    a, b = np.arange(6.0).reshape(2, 3) + 1, np.ones((3, 2))
    x = Parameter(a)
    pairs = [
        (x @ b, a @ b), (b @ x, b @ a), (-x, -a), (x**2, a**2), (x**-0.5, a**-0.5), (x.T, a.T),
        (x[1], a[1]), (x[..., None, ::2], a[..., None, ::2]), (x.sum(0), a.sum(0)),
        (x.mean(), a.mean()), (x.reshape(3, 2), a.reshape(3, 2)), (x.reshape((6,)), a.ravel()),
        (x.transpose(1, 0), a.T), (x.transpose(), a.T),
    ]  # fmt: skip
    for got, want in pairs:
        np.testing.assert_allclose(got.data, want)
    assert len(x) == 2 and float(x.sum()) == a.sum() == x.sum().item()
    assert x.numpy() is a and x.to("cpu") is x and x.detach().data is a and x.detach().node is None
    assert repr(x) == "Tensor(shape=(2, 3), float64, cpu, from Parameter)"
    assert repr(Tensor(a)) == "Tensor(shape=(2, 3), float64, cpu)"
    assert len({x, x, Tensor(a)}) == 2


# -------------------------------------------------------------------------------------- refusals


def test_what_a_tensor_refuses():
    x, u = Parameter(np.ones(2)), np.ones(2)
    with pytest.raises(TypeError, match="cannot be written to"):
        x[0] = 1.0
    with pytest.raises(TypeError, match="truth value"):
        bool(x.sum())
    with pytest.raises(TypeError, match="not iterated"):
        list(x)
    with pytest.raises(TypeError, match=r"take \.data"):
        np.asarray(x)
    with pytest.raises(TypeError, match="exponent"):
        x**x
    with pytest.raises(TypeError, match="not basic"):
        x[np.array([0, 1])]
    with pytest.raises(TypeError):
        np.exp(x)
    with pytest.raises(InputError, match="matmul: shapes"):
        x @ u
    with pytest.raises(InputError, match=r"grad: got shape \(3,\), the parameter has \(2,\)"):
        x.grad = np.ones(3)


def test_what_backward_refuses():
    x, u = Parameter(np.ones(2)), np.ones(2)
    with pytest.raises(InputError, match="no second derivatives"):
        (x * 2.0).backward(Tensor(u))
    with pytest.raises(InputError, match="needs a cotangent"):
        (x * 2.0).backward()
    with pytest.raises(InputError, match=r"g has shape \(3,\), the tensor has \(2,\)"):
        (x * 2.0).backward(np.ones(3))
    with pytest.raises(InputError, match="not computed from any Parameter"):
        Tensor(u).backward()
    assert x.grad is None


def test_a_cotangent_takes_the_tensors_dtype():
    x = Parameter(np.ones(2, np.float32))
    (x * 2.0).backward(np.ones(2))
    assert x.grad.dtype == np.float32
    (x * 2.0).backward([1, 2])
    np.testing.assert_array_equal(x.grad, [4, 6])


class Elsewhere(np.ndarray):
    """Host memory that claims to live on a device of its own."""


@pytest.fixture
def elsewhere(monkeypatch):
    """A device "elsewhere", as small as one can be."""
    for name in ("_DEVICES", "_BY_TYPE", "MODULES"):
        monkeypatch.setattr(backend, name, dict(getattr(backend, name)))
    monkeypatch.setattr(engine, "MODULES", backend.MODULES)
    send = lambda a: np.array(a).view(Elsewhere)  # noqa: E731
    backend.register_device("elsewhere", np, Elsewhere, send, lambda a: np.asarray(a).copy())


def test_devices_do_not_mix(elsewhere):
    here, there = Parameter(np.ones(2)), Tensor(np.full(2, 3.0)).to("elsewhere")
    assert there.device == "elsewhere" and there.to("cpu").device == "cpu"
    with pytest.raises(InputError, match=r"add: argument 0 is on cpu, argument 1 on elsewhere; "
                                         r"move one with \.to\('cpu'\)"):  # fmt: skip
        here + there
    with pytest.raises(InputError, match="where: argument 0 is on cpu, argument 2 on elsewhere"):
        ops.where(np.ones(2, bool), here, there)
    np.testing.assert_array_equal((here * there.to("cpu")).data, [3, 3])


# ----------------------------------------------------------------------------------------- errors


def test_an_error_in_backward_names_the_primitive():
    def fragile(x):
        return x * 1, lambda g: g[5, 5]

    with pytest.raises(IndexError) as caught:
        lift(fragile)(Parameter(np.ones(2))).sum().backward()
    assert caught.value.__notes__ == ["in backward of fragile with output shape (2,)"]


DEBUGGED = """
import numpy as np
from minideepseek.autograd import engine, primitives
from minideepseek.autograd.engine import Parameter, ops, primitive

@primitive
def widens(x):
    return x * np.sqrt(np.float64(2)), lambda g: g

@primitive
def wrong_dtype(x):
    return x * 2, lambda g: (g * 2).astype(np.float64)

@primitive
def mutates(x):
    def vjp(g):
        g *= 2
        return g
    return x * 2, vjp

@primitive
def wrong_shape(x):
    return x * 2, lambda g: g[:1].sum(0)

@primitive
def bad_gradient(x):
    return x * 2, lambda g: g * np.inf

@primitive
def fails(x):
    return x * 2, lambda g: g[7, 7]

def attempt(name):
    x = Parameter(np.ones(2, np.float32))
    try:
        y = getattr(ops, name)(x - 1.0)  # the line that is to be named
        y.backward(np.ones(2, np.float32))
        print(name, "passed")
    except Exception as error:
        print(name, type(error).__name__, error, *getattr(error, "__notes__", []), sep=" | ")

with np.errstate(all="ignore"):
    for name in "log widens wrong_dtype mutates wrong_shape bad_gradient fails tanh".split():
        attempt(name)
x = Parameter(np.array(2.0))
(x * x + x).backward()
print("0-d", x.grad)
"""


def test_debug_mode_names_the_primitive_and_the_users_line(tmp_path):
    script = tmp_path / "user.py"
    script.write_text(textwrap.dedent(DEBUGGED), "utf-8")
    line = DEBUGGED.splitlines().index(next(s for s in DEBUGGED.splitlines() if "to be named" in s))
    place = f"{script}:{line + 1}"
    environment = {"MINIDEEPSEEK_DEBUG": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, encoding="utf-8", check=True
    )
    said = {text.split()[0]: text for text in done.stdout.splitlines()}
    note = f"with output shape (2,), computed at {place}"
    assert said == {
        "log": f"log | DivergedError | log: NaN or Inf in its output of shape (2,), at {place}",
        "widens": "widens | TypeError | widens: its output is float64, its inputs float32",
        "wrong_dtype": "wrong_dtype | TypeError | wrong_dtype: gradient 0 is float64, g is float32 "
                       f"| in backward of wrong_dtype {note}",
        "mutates": "mutates | ValueError | mutates: its vjp wrote into the gradient it was given "
                   f"| in backward of mutates {note}",
        "wrong_shape": "wrong_shape | ValueError | "
                       "wrong_shape: its gradient of shape () is no broadcast of (2,)"
                       f" | in backward of wrong_shape {note}",
        "bad_gradient": "bad_gradient | DivergedError | bad_gradient: NaN or Inf in gradient 0 of "
                        f"shape (2,) | in backward of bad_gradient {note}",
        "fails": f"fails | IndexError | {_index_error()} | in backward of fails {note}",
        "tanh": "tanh passed",
        "0-d": "0-d 5.0",
    }  # fmt: skip


def _index_error():
    try:
        np.ones(2)[7, 7]
    except IndexError as error:
        return str(error)


def test_the_name_of_a_primitive_is_taken_once():
    def exp(x):
        return x, lambda g: g

    with pytest.raises(InputError, match="'exp': minideepseek.autograd.primitives has one"):
        primitive(exp)
