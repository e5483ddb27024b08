"""The stand-in for CuPy must bite: planted mistakes, grouped by the sentence that answers them."""

import operator
import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import cupy as xp
from tests.standin.indexing import repeated

FLOAT8, BFLOAT16 = ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16
HOST = np.ones((3, 4), np.float32)


def up(values, dtype=None):
    """Host values on the device."""
    return xp.asarray(np.array(values, dtype))


def codes():
    """float8 on the device: uint8 memory with a label."""
    return up([0, 1, 2, 3], np.uint8).view(FLOAT8)


def put(array, index, value):
    """array[index] = value, as an expression."""
    array[index] = value
    return array


MISTAKES = {
    "Unsupported type (ndarray|list|tuple)": {  # host and device arrays in one operation
        "device + host": lambda x: x + HOST,
        "host * device": lambda x: HOST * x,
        "device += host": lambda x: operator.iadd(x, HOST),
        "device < host": lambda x: x < HOST,
        "device @ host": lambda x: x @ HOST.T,
        "host @ device": lambda x: HOST.T @ x,
        "0-d host": lambda x: x * np.array(2.0),
        "ufunc of host": lambda x: xp.exp(HOST),
        "ufunc of both": lambda x: xp.maximum(x, HOST),
        "where on a host mask": lambda x: xp.where(HOST > 0, x, x),
        "where with a host branch": lambda x: xp.where(x > 0, x, HOST),
        "where with a list": lambda x: xp.where(x > 0, x, [1.0, 2.0, 3.0, 4.0]),
        "concatenate both": lambda x: xp.concatenate([x, HOST]),
        "sum of host": lambda x: xp.sum(HOST),
        "method with host": lambda x: x.dot(HOST.T),
        "clip to host": lambda x: x.clip(min=HOST),
        "einsum of both": lambda x: xp.einsum("ij,ij->i", x, HOST),
        "matmul of both": lambda x: xp.matmul(x, HOST.T),
        "take from host": lambda x: xp.take(HOST, x[0].astype(int), axis=0),
        "take_along_axis, host": lambda x: xp.take_along_axis(x, np.zeros((3, 1), int), 1),
        "copyto from host": lambda x: xp.copyto(x, HOST),
        "copyto to host": lambda x: xp.copyto(HOST.copy(), x),
        "add.at of host rows": lambda x: xp.add.at(x, up([0, 1]), HOST[:2]),
        "list in a ufunc": lambda x: xp.add(x, [1.0, 2.0, 3.0, 4.0]),
        "lexsort of a tuple": lambda x: xp.lexsort((x[0], x[1])),
    },
    "Only cupy arrays": {"stack with a list": lambda x: xp.stack([x, [1.0]])},
    "out of cupy.add": {"out on the host": lambda x: xp.add(x, x, out=HOST.copy())},
    "non-scalar numpy.ndarray": {
        "device[...] = host": lambda x: put(x, ..., HOST),
        "device[0] = list": lambda x: put(x, 0, [1.0, 2.0, 3.0, 4.0]),
    },
    "np.* on a device array|Implicit conversion|does not support ufuncs|bytes-like": {
        "host += device": lambda x: operator.iadd(HOST.copy(), x),
        "host[...] = device": lambda x: put(HOST.copy(), ..., x),
        "host[device]": lambda x: HOST[up([0, 1])],
        "np.exp": lambda x: np.exp(x),
        "np.sum": lambda x: np.sum(x),
        "np.where": lambda x: np.where(x > 0, x, x),
        "np.concatenate": lambda x: np.concatenate([x, x]),
        "np.asarray": lambda x: np.asarray(x),
        "np.array of a list": lambda x: np.array([x, x]),
        "np.zeros_like": lambda x: np.zeros_like(x),
        "np.full": lambda x: np.full(2, x.sum()),
        "np.add.at": lambda x: np.add.at(HOST.copy(), 0, x),
        "memoryview": lambda x: memoryview(x),
    },
    "has no (attribute|keyword)|has no random|has no ElementwiseKernel": {
        "errstate": lambda x: xp.errstate(over="ignore"),
        "vecdot": lambda x: xp.vecdot(x, x),
        "unstack": lambda x: xp.unstack(x),
        "linalg.vector_norm": lambda x: xp.linalg.vector_norm(x),
        "setflags": lambda x: x.setflags(write=False),
        "ctypes": lambda x: x.ctypes,
        "sum where=": lambda x: xp.sum(x, where=x > 0),
        "max initial=": lambda x: x.max(initial=0.0),
        "std correction=": lambda x: x.std(correction=1),
        "clip min=": lambda x: xp.clip(x, min=0.0),
        "einsum order=": lambda x: xp.einsum("ij->i", x, order="C"),
        "random": lambda x: xp.random.normal(),
        "ElementwiseKernel": lambda x: xp.ElementwiseKernel("", "", ""),
    },
    "unexpected keyword": {
        "ufunc where=": lambda x: xp.exp(x, where=x > 0),
        "take mode=": lambda x: xp.take(x, 0, mode="clip"),
        "sort stable=": lambda x: xp.sort(x, stable=True),
    },
    "needs 'a": {
        "clip without a bound": lambda x: xp.clip(x, 0.0),
        "take_along_axis without axis": lambda x: xp.take_along_axis(x, xp.zeros((3, 1), int)),
    },
    "kind can only be": {
        "argsort mergesort": lambda x: xp.argsort(x, kind="mergesort"),
        "sort quicksort": lambda x: x.sort(kind="quicksort"),
    },
    "not supported yet|only supports": {
        "maximum.reduce": lambda x: xp.maximum.reduce(x),
        "maximum.accumulate": lambda x: xp.maximum.accumulate(x),
        "multiply.reduceat": lambda x: xp.multiply.reduceat(x, [0, 2]),
        "multiply.at": lambda x: xp.multiply.at(x, 0, 2.0),
        "subtract.at on floats": lambda x: xp.subtract.at(x, 0, 2.0),
        "add.at on bfloat16": lambda x: xp.add.at(x.astype(BFLOAT16), 0, 1.0),
        "astype casting=": lambda x: x.astype(np.int32, casting="unsafe"),
    },
    "(Unsupported dtype|cannot compute with) float8": {
        "float8 zeros": lambda x: xp.zeros(3, FLOAT8),
        "float8 zeros_like": lambda x: xp.zeros_like(x, dtype=FLOAT8),
        "float8 astype": lambda x: x.astype(FLOAT8),
        "float8 upload": lambda x: up(np.zeros(3, FLOAT8)),
        "float8 scalar": lambda x: x * FLOAT8(2),
        "float8 + float8": lambda x: codes() + codes(),
        "float8 += 1": lambda x: operator.iadd(codes(), 1.0),
        "float8 to float32": lambda x: codes().astype(np.float32),
        "float8 copy": lambda x: codes().copy(),
        "float8 isnan": lambda x: xp.isnan(codes()),
        "float8 matmul": lambda x: codes().reshape(2, 2) @ codes().reshape(2, 2),
        "float8 gather": lambda x: codes()[up([0, 1])],
        "float8 write": lambda x: put(codes(), 0, 1.0),
        "float8 reshape that copies": lambda x: codes().reshape(2, 2).T.reshape(-1),
        "float8 strided get": lambda x: codes()[::2].get(),
    },
    "bfloat16": {
        "batched matmul": lambda x: x[None].astype(BFLOAT16) @ x.T.astype(BFLOAT16),
        "logical_not": lambda x: xp.logical_not(x.astype(BFLOAT16)),
    },
    "Unsupported dtype": {
        "text": lambda x: xp.array(["a"]),
        "long double": lambda x: x.astype(np.longdouble),
    },
    "repeated indices": {  # the winner is left to chance
        "rows": lambda x: put(x, up([1, 1]), x[:2] * 1),
        "rows through negatives": lambda x: put(x, up([2, -1]), x[:2] * 1),
        "pairs": lambda x: put(x, (np.array([0, 0]), np.array([1, 1])), up([1.0, 2.0])),
        "scattered axes": lambda x: put(x[None], (up([0, 0]), ..., 1), up(np.ones((2, 3)))),
        "columns": lambda x: put(x, (slice(None), up([1, 1])), x[:, :2] * 1),
        "behind an ellipsis": lambda x: put(x, (..., up([0, -4])), x[:, :2] * 1),
        "put_along_axis": lambda x: xp.put_along_axis(x, xp.zeros((3, 2), int), x[:, :2] * 1, 1),
        "put": lambda x: xp.put(x, up([1, 1]), up([1.0, 2.0])),
        "+= loses sums": lambda x: put(x, (i := up([1, 1])), x[i] + x[:2]),
    },
    "overlapping": {"shift by one": lambda x: put(x, slice(1, None), x[:-1])},
    "as an integer|must be integers|takes host numbers|ambiguous|unhashable": {
        "range(device)": lambda x: range(up(3)),
        "list[device]": lambda x: [1, 2, 3][up(1)],
        "slice to device": lambda x: x[: up(1)],
        "shape from device": lambda x: xp.zeros(up(3)),
        "reshape to device": lambda x: x.reshape(up(4), 3),
        "split at device": lambda x: xp.split(x, up([1])),
        "arange(device)": lambda x: xp.arange(up(3)),
        "truth of many": lambda x: bool(x),
        "hash": lambda x: hash(x),
    },
    "out of bounds|must be integer or boolean|has no setter": {
        "index out of range": lambda x: x[up([7])],
        "float index": lambda x: x[up([1.0])],
        "set shape": lambda x: setattr(x, "shape", (4, 3)),
    },
}


@pytest.mark.parametrize(
    ("sentence", "name"), [(s, name) for s, group in MISTAKES.items() for name in group]
)
def test_planted_mistake_is_refused(sentence, name):
    x = up(np.arange(12).reshape(3, 4), np.float32)
    with pytest.raises(Exception, match=re.compile(sentence)):
        MISTAKES[sentence][name](x)


def test_there_are_enough_planted_mistakes():
    assert sum(len(group) for group in MISTAKES.values()) >= 100


PART = {
    "slice": lambda rng, n: slice(None, None, int(rng.integers(1, 3))),
    "integer": lambda rng, n: int(rng.integers(-n, n)),
    "array": lambda rng, n: rng.integers(-n, n, size=2),
    "column": lambda rng, n: rng.integers(-n, n, size=(3, 1)),
    "mask": lambda rng, n: rng.permutation(np.arange(n) < 2),
}


@given(parts=st.lists(st.sampled_from(sorted(PART)), min_size=1, max_size=3),
       dots=st.none() | st.integers(0, 3), new=st.none() | st.integers(0, 3),
       seed=st.integers(0, 999))  # fmt: skip
def test_repeated_indices_are_told_exactly(parts, dots, new, seed):
    rng, shape = np.random.default_rng(seed), (2, 3, 4)
    first = len(parts) if dots is None else min(dots, len(parts))
    axes = [*range(first), *range(3 - (len(parts) - first), 3)]
    index = [PART[part](rng, shape[axis]) for part, axis in zip(parts, axes, strict=True)]
    if dots is not None:
        index.insert(first, ...)
    if new is not None:
        index.insert(min(new, len(index)), None)
    hits = np.zeros(shape, int)
    np.add.at(hits, tuple(index), 1)
    if any(isinstance(part, np.ndarray) for part in index):
        assert repeated(tuple(index), shape) == (hits > 1).any()
