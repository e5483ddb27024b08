"""MHA, MQA and GQA are Llama's attention: values, gradients and decoding in pieces.

Within 1e-10 of the largest number in float64 with transformers' casts lifted, 1e-5 in float32.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest

from minideepseek.autograd.engine import Parameter, Tensor, no_grad
from minideepseek.layers.attention import GroupedQueryAttention
from minideepseek.layers.module import Init
from tests.parity.oracle import torch
from tests.parity.pairs import relative

pytestmark = pytest.mark.parity
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
        "beta_fast": 32.0, "beta_slow": 1.0}  # fmt: skip
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
CASES = [
    pytest.param(groups, scaling, dtype, id=f"{groups}-{'yarn' if scaling else 'plain'}-{dtype}")
    for groups in (1, 2, 6)
    for scaling in (None, YARN)
    for dtype in TOLERANCE
]


class Both(NamedTuple):
    """Ours, transformers', and its angles."""

    ours: GroupedQueryAttention
    theirs: Any
    rotary: Any


def both(groups: int, scaling: dict[str, Any] | None, dtype: str) -> Both:
    """One attention with 6 heads of 8 channels, twice, with the same weights."""
    from transformers.models.llama import modeling_llama

    init = Init(np.random.default_rng(groups), 0.3, dtype)
    ours = GroupedQueryAttention(
        hidden_size=24, num_attention_heads=6, num_key_value_heads=groups, head_dim=8,
        max_position_embeddings=64, rope_theta=500.0, rope_scaling=scaling, rng=init,
    )  # fmt: skip
    config = modeling_llama.LlamaConfig(
        hidden_size=24, num_attention_heads=6, num_key_value_heads=groups, head_dim=8,
        max_position_embeddings=64, attn_implementation="eager",
        rope_parameters={**(scaling or {}), "rope_theta": 500.0,
                         "rope_type": "yarn" if scaling else "default"},
    )  # fmt: skip
    theirs = modeling_llama.LlamaAttention(config, layer_idx=0).to(getattr(torch, dtype))
    own = {name: torch.from_numpy(array) for name, array in ours.state_dict().items()}
    theirs.load_state_dict(own)  # strict: the names are the same
    return Both(ours, theirs, modeling_llama.LlamaRotaryEmbedding(config))


def their_output(pair: Both, x: Any, first: int = 0, cache: Any = None) -> Any:
    """Tokens first, first + 1, … with transformers' causal mask written out."""
    tokens, end = x.shape[1], first + x.shape[1]
    places = torch.arange(first, end)[None]
    later = torch.arange(end)[None] > places[0][:, None]
    mask = torch.zeros(tokens, end, dtype=x.dtype).masked_fill(later, -torch.inf)[None, None]
    return pair.theirs(x, pair.rotary(x, places), mask, cache)[0]  # its name changed in 5.24


@pytest.fixture(autouse=True)
def casts(request: Any, dtype: str) -> None:
    """In float64 they are lifted; in float32 transformers runs as it is."""
    if dtype == "float64":
        request.getfixturevalue("float64_throughout")


@pytest.mark.parametrize(("groups", "scaling", "dtype"), CASES)
def test_values_and_gradients(groups: int, scaling: Any, dtype: str) -> None:
    pair, rng = both(groups, scaling, dtype), np.random.default_rng(0)
    x, u = (rng.standard_normal((2, 11, 24)).astype(dtype) for _ in range(2))
    p, q = Parameter(x), torch.from_numpy(x).requires_grad_()
    y, expected = pair.ours(p), their_output(pair, q)
    assert relative(y.data, expected.detach().numpy()) < TOLERANCE[dtype]
    y.backward(u)
    expected.backward(torch.from_numpy(u))
    assert relative(np.asarray(p.grad), q.grad.numpy()) < 2 * TOLERANCE[dtype]
    theirs = dict(pair.theirs.named_parameters())
    for name, parameter in pair.ours.named_parameters():
        grad = np.asarray(parameter.grad)
        assert relative(grad, theirs[name].grad.numpy()) < 2 * TOLERANCE[dtype], name


@pytest.mark.parametrize(("groups", "scaling", "dtype"), CASES)
def test_decoding_in_pieces_and_what_is_kept(groups: int, scaling: Any, dtype: str) -> None:
    from transformers import DynamicCache

    pair = both(groups, scaling, dtype)
    x = np.random.default_rng(0).standard_normal((2, 9, 24)).astype(dtype)
    cache, theirs = pair.ours.new_cache(2, 4), DynamicCache()
    for a, b in ((0, 4), (4, 5), (5, 9)):
        with no_grad(), torch.no_grad():
            y = pair.ours(Tensor(x[:, a:b]), cache).data
            expected = their_output(pair, torch.from_numpy(x[:, a:b]), a, theirs).numpy()
        assert relative(y, expected) < TOLERANCE[dtype]
    assert cache.data is not None
    held = cache.data[:, :9].reshape(2, 9, groups, 16).swapaxes(1, 2)
    layer = theirs.layers[0]
    kept = np.concatenate([layer.keys.numpy(), layer.values.numpy()], -1)
    assert kept.shape == held.shape and relative(held, kept) < TOLERANCE[dtype]
