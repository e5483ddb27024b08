"""Experts' numbers that fit no byte: V3 has 256."""

import numpy as np
import pytest

import minideepseek.autograd.experts  # noqa: F401 - registers
from minideepseek.autograd import reference
from minideepseek.autograd.engine import Tensor, ops


@pytest.mark.parametrize("experts", [127, 129, 256, 300])
def test_tokens_of_any_expert_are_sorted_to_it(experts):
    rng = np.random.default_rng(experts)
    indices = np.stack([rng.permutation(experts)[:3] for _ in range(40)])
    indices[0] = experts - 1, 0, experts // 2
    counts = np.bincount(indices.ravel(), minlength=experts).tolist()
    x, gates = rng.standard_normal((40, 4)), rng.random((40, 3))
    weights = rng.standard_normal((experts, 6, 4)), rng.standard_normal((experts, 4, 3))
    given = [Tensor(a) for a in (x, *weights, gates)]
    y = ops.expert_mlp(*given, indices, counts=counts).data
    assert np.allclose(y, reference.expert_mlp(*given, indices).data, atol=1e-12)
