"""The stand-in for CuPy agrees with NumPy in every number, and counts what it does."""

import copy
import operator

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd import backend
from tests import standin
from tests.standin import counters
from tests.standin import cupy as xp

FLOAT8, BFLOAT16 = ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16
HOST = np.ones((3, 4), np.float32)


def up(host):
    """A host array on the device."""
    return xp.asarray(host)


def grid(rows=3, columns=4, dtype=np.float32):
    """A small device matrix 0, 1, 2, …"""
    return up(np.arange(rows * columns, dtype=dtype).reshape(rows, columns))


def put(array, index, value):
    """array[index] = value, as an expression."""
    array[index] = value
    return array


# a, b: two float arrays (n, m); i: integers (n, m) below m; p: a permutation of n
SNIPPETS = {
    "add": lambda m, a, b, i, p: m.add(a, b),
    "operators": lambda m, a, b, i, p: (a + 2) * b - 1.5 / (abs(a) + 1) + -b // 0.5 % 3,
    "reflected": lambda m, a, b, i, p: (1 - a) + np.float32(2) * a + 2.0**b + (np.int64(1) + i),
    "power": lambda m, a, b, i, p: a**2 + abs(b) ** 0.5,
    "compare": lambda m, a, b, i, p: (a < b) | ~(a >= 0) & (i != 1) ^ (a == a),
    "matmul": lambda m, a, b, i, p: a @ b.T,
    "matmul stacked": lambda m, a, b, i, p: m.matmul(a[None], b.swapaxes(-1, -2)),
    "exp": lambda m, a, b, i, p: m.exp(m.tanh(a)) + m.sqrt(m.abs(b)),
    "maximum": lambda m, a, b, i, p: m.maximum(a, 0.0) + m.minimum(a, b),
    "sum": lambda m, a, b, i, p: a.sum() + m.sum(a, axis=0) + a.sum(-1, keepdims=True),
    "mean, var": lambda m, a, b, i, p: a.mean(0) + a.var(axis=0, ddof=0) + m.std(a, (0, 1)),
    "max": lambda m, a, b, i, p: a.max(-1, keepdims=True) - m.min(a, axis=0) + a.max(),
    "argmax": lambda m, a, b, i, p: a.argmax(-1),
    "any, all": lambda m, a, b, i, p: m.any(a > 0, axis=-1) & (b < 9).all(1),
    "where": lambda m, a, b, i, p: m.where(a > b, a, -m.inf),
    "clip": lambda m, a, b, i, p: m.clip(a, -0.5, 0.5) + a.clip(min=0.0),
    "take": lambda m, a, b, i, p: m.take(a, p, axis=0),
    "take one": lambda m, a, b, i, p: a.take(0, axis=1),
    "take_along_axis": lambda m, a, b, i, p: m.take_along_axis(a, i, axis=-1),
    "put_along_axis": lambda m, a, b, i, p: written(m, m.put_along_axis, a, i[:, :1], b[:, :1], 1),
    "put a scalar": lambda m, a, b, i, p: written(m, m.put_along_axis, a, i, 5.0, -1),
    "concatenate": lambda m, a, b, i, p: m.concatenate((a, b, a), axis=1),
    "stack": lambda m, a, b, i, p: m.stack([a, b], axis=-1),
    "argsort": lambda m, a, b, i, p: m.argsort(-i, axis=-1, kind="stable"),
    "sort": lambda m, a, b, i, p: m.sort(a, axis=0),
    "lexsort": lambda m, a, b, i, p: m.lexsort(m.stack([a[0], i[0].astype(a.dtype)])),
    "cumsum": lambda m, a, b, i, p: m.cumsum(a, axis=1) + a.cumsum(0),
    "einsum": lambda m, a, b, i, p: m.einsum("nm,km->nk", a, b),
    "tensordot": lambda m, a, b, i, p: m.tensordot(a, b, axes=((0, 1), (0, 1))),
    "outer": lambda m, a, b, i, p: m.outer(a[0], b[:, 0]),
    "broadcast_to": lambda m, a, b, i, p: m.broadcast_to(a[:, None], (a.shape[0], 3, a.shape[1])),
    "swapaxes": lambda m, a, b, i, p: m.swapaxes(a, 0, 1) + a.T + m.transpose(a, (1, 0)),
    "moveaxis": lambda m, a, b, i, p: m.moveaxis(a[None], 0, -1),
    "expand_dims": lambda m, a, b, i, p: m.expand_dims(a, (0, 2)).squeeze(0),
    "split": lambda m, a, b, i, p: m.concatenate(m.split(a, [1], axis=1)[::-1], axis=1),
    "array_split": lambda m, a, b, i, p: m.array_split(a, 2, axis=1)[0],
    "searchsorted": lambda m, a, b, i, p: m.searchsorted(m.sort(a[0]), b, side="right"),
    "reshape": lambda m, a, b, i, p: a.T.reshape(-1).reshape(a.shape) + a.reshape(*b.shape),
    "ravel": lambda m, a, b, i, p: a[:, ::-1].ravel() + m.ravel(a),
    "tril": lambda m, a, b, i, p: m.tril(a) + m.triu(b, k=1),
    "zeros_like": lambda m, a, b, i, p: m.zeros_like(a) + m.full_like(b, 2.0) + m.ones(a.shape),
    "arange": lambda m, a, b, i, p: m.arange(a.shape[1]) == i,
    "defaults": lambda m, a, b, i, p: m.zeros(3) + m.eye(3) + m.linspace(0, 1, 3) + m.full(3, 2.0),
    "astype": lambda m, a, b, i, p: a.astype(m.float64).astype(m.int32, copy=False),
    "bfloat16": lambda m, a, b, i, p: a.astype(BFLOAT16).astype(np.float32) + b,
    "isfinite": lambda m, a, b, i, p: m.isfinite(a / 0.5) & ~m.isnan(b),
    "flip, roll": lambda m, a, b, i, p: m.flip(a, 1) + m.roll(b, 1, axis=0),
    "pad": lambda m, a, b, i, p: m.pad(a, ((0, 0), (1, 0)), constant_values=2.0),
    "repeat, tile": lambda m, a, b, i, p: m.repeat(a, 2, axis=0) + m.tile(b, (2, 1)),
    "basic index": lambda m, a, b, i, p: a[0] + a[-1, ..., None][:, 0] + b[::2][0],
    "0-d index": lambda m, a, b, i, p: a[0, 0] * b[-1, -1],
    "gather": lambda m, a, b, i, p: a[p] + a[p][:, i[0]][:, :1],
    "pair index": lambda m, a, b, i, p: a[p[:, None], i],
    "mask": lambda m, a, b, i, p: a[a > 0],
    "row mask": lambda m, a, b, i, p: a[a[:, 0] > 0],
    "scatter": lambda m, a, b, i, p: put(a, p, b),
    "masked write": lambda m, a, b, i, p: put(a, b > 0, 7.0),
    "mask and array": lambda m, a, b, i, p: put(
        m.stack([a, b]), ((m.arange(2) >= 0)[:, None] & (m.arange(len(a)) < 1), ..., m.arange(2)),
        b[0, :2]),
    "slice write": lambda m, a, b, i, p: put(a, (slice(None), 0), b[:, -1]),
    "view write": lambda m, a, b, i, p: written(m, lambda x: put(x.T[0], ..., 3.0), a),
    "in place": lambda m, a, b, i, p: operator.imul(operator.iadd(a, b), 2.0),
    "in place on a view": lambda m, a, b, i, p: written(m, lambda x: operator.iadd(x[:1], 1.0), a),
    "add.at": lambda m, a, b, i, p: written(m, m.add.at, a, p % 2, b),
    "add.at flat": lambda m, a, b, i, p: written(
        m, lambda x: m.add.at(x.reshape(-1), i.ravel(), b.ravel()), a),
    "out=": lambda m, a, b, i, p: m.multiply(m.exp(a, out=a), b, out=a),
    "matmul out=": lambda m, a, b, i, p: m.matmul(a, b.T, out=m.empty((len(a), len(b)), a.dtype)),
    "sum out=": lambda m, a, b, i, p: m.sum(a, axis=1, out=m.empty(len(a), a.dtype)),
    "copyto where=": lambda m, a, b, i, p: written(m, lambda x: m.copyto(x, b, where=b > 0), a),
    "fill": lambda m, a, b, i, p: written(m, lambda x: x[0].fill(4.0), a),
    "nonzero": lambda m, a, b, i, p: m.nonzero(a > 0)[0],
    "bincount": lambda m, a, b, i, p: m.bincount(i.ravel(), minlength=7),
    "unique": lambda m, a, b, i, p: m.unique(i, return_counts=True)[1],
    "top of partition": lambda m, a, b, i, p: m.partition(a, 1, axis=0)[1],
    "norm": lambda m, a, b, i, p: m.linalg.norm(a, axis=1),
    "result_type": lambda m, a, b, i, p: m.zeros(2, m.result_type(a, m.float64)),
    "codes": lambda m, a, b, i, p: i.astype(np.uint8).view(FLOAT8).T[:1].view(np.uint8),
}  # fmt: skip


def written(m, write, array, *arguments):
    """`array` after `write(array, …)`, which returns None."""
    write(array, *arguments)
    return array


def arguments(rows, columns, seed):
    """Host arrays for a snippet."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, rows, columns)).astype(np.float32)
    i = rng.integers(columns, size=(rows, columns))
    return a, b, i, rng.permutation(rows)


@pytest.mark.parametrize("name", SNIPPETS)
@given(rows=st.integers(2, 4), columns=st.integers(2, 5), seed=st.integers(0, 99))
def test_agrees_with_numpy(name, rows, columns, seed):
    host = arguments(rows, columns, seed)
    device = [up(x) for x in host]
    expected = SNIPPETS[name](np, *host)
    found = SNIPPETS[name](xp, *device)
    assert type(found) is standin.ndarray
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found.get(), expected)


# ------------------------------------------------------------------------------- bookkeeping


def used(action):
    """(launches, synchronisations, uploads) of one action."""
    counters.reset()
    action()
    return counters.launches, counters.syncs, counters.uploads


I01 = np.array([0, 1])
COUNTS = {
    "expression": (lambda x: (x + 1) * x, (2, 0, 0)),
    "views": (lambda x: x.T.reshape(4, 3)[1:].swapaxes(0, 1)[None].squeeze(0), (0, 0, 0)),
    "reshape that copies": (lambda x: x.T.reshape(-1), (1, 0, 0)),
    "split": (lambda x: xp.split(x, 2, axis=1), (0, 0, 0)),
    "broadcast": (lambda x: xp.broadcast_to(x, (2, 3, 4)), (0, 0, 0)),
    "nothing to do": (lambda x: xp.ascontiguousarray(xp.asarray(x)), (0, 0, 0)),
    "reduction": (lambda x: x.sum(), (1, 0, 0)),
    "out=": (lambda x: xp.sum(x, axis=0, out=x[0]), (1, 0, 0)),
    "in place": (lambda x: operator.iadd(x, x), (1, 0, 0)),
    "in place on a slice": (lambda x: put(x, 0, operator.iadd(x[0], 1.0)), (1, 0, 0)),
    "slice write": (lambda x: put(x, 0, x[1]), (1, 0, 0)),
    "fancy": (lambda x: x[xp.arange(2)], (2, 0, 0)),
    "host index": (lambda x: x[I01], (1, 0, 1)),
    "list index": (lambda x: x.take([0, 1], axis=0), (1, 0, 1)),
    "host value": (lambda x: put(x, I01, HOST[:2]), (1, 0, 2)),
    "upload": (lambda x: xp.array([1.0, 2.0]), (0, 0, 1)),
    "get": (lambda x: x.get(), (0, 1, 0)),
    "asnumpy": (lambda x: xp.asnumpy(x), (0, 1, 0)),
    "float": (lambda x: float(x.sum()), (1, 1, 0)),
    "int": (lambda x: int(x[0, 0]), (0, 1, 0)),
    "item": (lambda x: x[0, 0].item(), (0, 1, 0)),
    "if": (lambda x: 1 if (x > 0).any() else 2, (2, 1, 0)),
    "print": (lambda x: f"{x[0]}", (0, 1, 0)),
    "mask": (lambda x: x[x > 3], (2, 1, 0)),
    "masked write": (lambda x: put(x, x > 3, 0.0), (2, 1, 0)),
    "nonzero": (lambda x: x.nonzero(), (1, 1, 0)),
    "where of one": (lambda x: xp.where(x), (1, 1, 0)),
    "unique": (lambda x: xp.unique(x), (1, 1, 0)),
    "bincount": (lambda x: xp.bincount(xp.arange(3)), (2, 2, 0)),
    "repeat by array": (lambda x: xp.repeat(x, xp.arange(3), axis=0), (2, 1, 0)),
    "repeat by number": (lambda x: xp.repeat(x, 2, axis=0), (1, 0, 0)),
    "where of three": (lambda x: xp.where(x > 3, x, 0.0), (2, 0, 0)),
    "synchronize": (lambda x: xp.cuda.Stream.null.synchronize(), (0, 1, 0)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    action, expected = COUNTS[name]
    x = grid()
    assert used(lambda: action(x)) == expected


def test_base_says_who_owns_the_memory():
    x = grid()
    owners = [x, x + 1, x.T.reshape(-1), x[up(I01)], x.copy(), x.sum(0), xp.concatenate([x, x]),
              x[up(np.array(1))], xp.zeros(3), x.astype(np.float64), x.T.ravel()]  # fmt: skip
    views = [x[1:], x[0, 0], x.T, x.T[1:].T, x.reshape(4, 3)[2:], x.ravel(), xp.expand_dims(x, 0),
             xp.broadcast_to(x, (2, 3, 4)), xp.split(x, 2, 1)[1], x.view(np.int32)]  # fmt: skip
    assert all(owner.base is None and owner.flags.owndata for owner in owners)
    assert all(view.base is x and not view.flags.owndata for view in views)
    for owner in owners[1:]:
        owner[...] = 99
    assert float(x.max()) == 11
    views[0][...] = 99
    assert float(x.max()) == 99


def test_out_is_returned_and_written_where_it_lies():
    x, out = grid(), xp.empty((3, 4), np.float32)
    assert xp.exp(x, out=out) is out and xp.add(x, x, out) is out
    assert xp.matmul(x, x.T, out=(square := xp.empty((3, 3), np.float32))) is square
    assert xp.sum(x, axis=0, out=out[0]).base is out
    total = xp.zeros(4, np.float32)
    assert xp.sum(x, 0, None, total) is total and float(total[0]) == 12
    np.testing.assert_array_equal(out.get()[0], x.get().sum(0))


def test_bfloat16_matmul_keeps_its_dtype_as_in_cupy():
    x = grid().astype(BFLOAT16)
    assert (x @ x.T).dtype == BFLOAT16 and (x @ x.T.astype(np.float32)).dtype == np.float32


def test_attributes_and_copies():
    x = grid()
    assert (x.shape, x.ndim, x.size, x.nbytes, x.itemsize) == ((3, 4), 2, 12, 48, 4)
    assert x.strides == (16, 4) and x.T.flags.f_contiguous and not x[:, 1:].flags.c_contiguous
    assert x.device.id == 0 and len(x) == 3 and [row.shape for row in x] == [(4,)] * 3
    assert not isinstance(x, np.ndarray) and isinstance(x, xp.ndarray)
    assert copy.deepcopy(x).base is None and x.mT.shape == (4, 3) and x[0].tolist() == [0, 1, 2, 3]
    assert xp.get_array_module(x) is xp and xp.get_array_module(HOST) is np


def test_memory_pool_counts_what_is_alive():
    pool = xp.get_default_memory_pool()
    before = pool.used_bytes()
    x = xp.zeros(1000, np.float32)
    view = x[10:]
    assert pool.used_bytes() - before == 4000
    del x
    assert pool.used_bytes() - before == 4000 and view.size == 990
    del view
    assert pool.used_bytes() == before


# ---------------------------------------------------------------------------- plugged in


def test_install_makes_a_device():
    standin.install()
    standin.install()
    x = backend.to_device(HOST, "standin")
    assert backend.xp_of(x) is xp and backend.to_device(x, "standin") is x
    assert used(lambda: backend.to_host(x)) == (0, 1, 0)
    scores = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    best = backend.top_k(backend.to_device(scores, "standin"), 2)
    np.testing.assert_array_equal(backend.to_host(best), backend.top_k(scores, 2))
