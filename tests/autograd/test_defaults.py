"""What is left out of a call: NumPy's defaults, and the last axis where one axis is meant."""

import numpy as np
import pytest

import minideepseek.autograd.primitives  # noqa: F401 - registers
from minideepseek.autograd import reference
from minideepseek.autograd.engine import Tensor, ops

X = np.random.default_rng(0).standard_normal((2, 3, 4))
LEFT_OUT = {
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "max": lambda x: x.max(-1),
    "logsumexp": lambda x: np.log(np.exp(x).sum(-1)),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
    "transpose": lambda x: x.T,
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_reduction_without_options(name):
    y, want = getattr(ops, name)(Tensor(X)).data, LEFT_OUT[name](X)
    assert y.shape == want.shape and np.allclose(y, want, rtol=1e-14)


def test_gathers_and_joins_are_along_the_last_axis():
    index = np.array([[[0], [3], [1]], [[2], [2], [0]]])
    picked = ops.take_along_axis(Tensor(X), index).data
    assert np.array_equal(picked, np.take_along_axis(X, index, -1))
    assert ops.concatenate(Tensor(X), Tensor(X[..., :1])).shape == (2, 3, 5)


def test_no_experts_at_all_add_nothing():
    none = [np.zeros(shape) for shape in ((0, 6, 4), (0, 4, 3), (5, 0))]
    x = Tensor(np.ones((5, 4)))
    y = reference.expert_mlp(x, *map(Tensor, none), np.zeros((5, 0), int))
    assert np.array_equal(y.data, np.zeros((5, 4)))


def test_queries_without_an_offset_are_at_0():
    rng = np.random.default_rng(0)
    q, k, v = (Tensor(rng.standard_normal((2, n, 2, 3))) for n in (3, 5, 5))
    both = [f(q, k, v, scale=0.5).data for f in (ops.attention, reference.attention)]
    assert np.allclose(*both, atol=1e-14)
    assert np.allclose(both[0][:, 0], v.data[:, 0])  # the first query sees the first key alone
