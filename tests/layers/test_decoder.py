"""A decoder layer: two branches behind norms, each added to what came in."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd.engine import Parameter, Tensor, no_grad
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.layers.decoder import DecoderLayer
from minideepseek.layers.module import MLP, Init
from minideepseek.layers.moe import DeepSeekMoE
from minideepseek.layers.rope import RotaryEmbedding
from minideepseek.model.config import DeepSeekV3Config
from tests.layers import plain
from tests.layers.common import normal, relative, scramble, seeds
from tests.strategies import configs


def decoder_layer(config, index, seed=0):
    made = DecoderLayer(config, index, Init(None, 0.0, np.float64), RotaryEmbedding(config))
    return scramble(made, seed)


@given(configs(), seeds, st.integers(1, 2), st.integers(1, 5), st.booleans())
def test_is_the_two_sums_written_out(config, seed, batch, tokens, last):
    index = config.num_hidden_layers - 1 if last else 0
    layer, x = decoder_layer(config, index, seed), normal(seed, batch, tokens, config.hidden_size)
    is_moe = index >= config.first_k_dense_replace
    assert isinstance(layer.mlp, DeepSeekMoE if is_moe else MLP)
    with no_grad():
        y, routing = layer(Tensor(x))
    assert (routing is not None) == is_moe
    rows = [plain.decoder_layer(config, layer.state_dict(), row, is_moe) for row in x]
    assert relative(y.data, np.array([row for row, _ in rows])) < 1e-9
    if routing is not None:
        assert np.array_equal(routing.indices, np.concatenate([r.chosen for _, r in rows]))


def test_with_silent_branches_it_is_the_identity():
    config = DeepSeekV3Config.preset("nano")
    for index in range(2):
        layer, x = decoder_layer(config, index), normal(0, 1, 4, 32)
        for name, array in layer.named_tensors():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                array[...] = 0
        assert np.array_equal(layer(Tensor(x))[0].data, x)


def test_gradients():
    config = DeepSeekV3Config.preset("nano")
    for index in range(2):
        layer = decoder_layer(config, index, seed=1)
        gradcheck(lambda x, f=layer: f(x)[0], normal(2, 2, 4, 32),
                  parameters=dict(layer.named_parameters()))  # fmt: skip


@given(configs(), seeds, st.integers(2, 6), st.data())
def test_no_gradient_flows_to_the_future(config, seed, tokens, data):
    t = data.draw(st.integers(0, tokens - 2))
    layer = decoder_layer(config, config.num_hidden_layers - 1, seed)
    x = Parameter(normal(seed, 1, tokens, config.hidden_size))
    u = np.zeros(x.shape)
    u[:, t] = normal(seed + 1, config.hidden_size)
    layer(x)[0].backward(u)
    assert not x.grad[:, t + 1 :].any() and x.grad[:, t].any()
