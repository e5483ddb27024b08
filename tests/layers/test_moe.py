"""DeepSeekMoE: the sum over experts, nothing dropped, nothing added, padding sent nowhere."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd.engine import Parameter, Tensor, no_grad
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.layers.moe import DeepSeekMoE
from minideepseek.model.config import DeepSeekV3Config
from tests.layers import plain
from tests.layers.common import forget, layer, normal, relative, seeds
from tests.strategies import configs

NANO = DeepSeekV3Config.preset("nano")


def moe(config, seed=0):
    return layer(DeepSeekMoE, config, seed=seed)


def run(module, x, mask=None):
    with no_grad():
        y, routing = module.routed(Tensor(x), mask)
    return y.data, routing


def names_of(module):
    return {f"mlp.{name}": array for name, array in module.state_dict().items()}


def expert(module, e, x):
    """Expert e alone on tokens x (N, d)."""
    state = names_of(module)
    return np.array([plain.mlp(state, f"mlp.experts.{e}.", row) for row in x])


def shared(module, x):
    return np.array([plain.mlp(names_of(module), "mlp.shared_experts.", row) for row in x])


# ------------------------------------------------------------------------------------ what it says


@given(configs(), seeds, st.integers(1, 3), st.integers(1, 5))
def test_is_the_sum_written_out_expert_by_expert(config, seed, batch, tokens):
    """Sigmoid scores, groups, gates without the bias, the factor, the shared expert once."""
    module, x = moe(config, seed), normal(seed, batch, tokens, config.hidden_size)
    y, routing = run(module, x)
    state, flat = names_of(module), x.reshape(-1, config.hidden_size)
    rows = [plain.moe(config, state, row) for row in flat]
    assert routing.indices.tolist() == [chosen for _, chosen, _ in rows]
    assert relative(y.reshape(flat.shape), np.array([out for out, _, _ in rows])) < 1e-11
    assert np.array_equal(module(Tensor(x)).data, y)


@given(configs(), seeds)
def test_no_token_is_dropped_when_all_want_the_same_experts(config, seed):
    module, k = moe(config, seed), config.num_experts_per_tok
    x = np.broadcast_to(normal(seed, config.hidden_size), (3, 7, config.hidden_size)).copy()
    y, routing = run(module, x)
    assert sorted(routing.counts)[-k:] == [21] * k and sum(routing.counts) == 21 * k
    expected = plain.moe(config, names_of(module), x[0, 0])[0]
    assert relative(y, np.broadcast_to(expected, y.shape)) < 1e-11


def test_everything_to_one_expert():
    module = moe(DeepSeekV3Config.preset("nano", num_experts_per_tok=1, routed_scaling_factor=2.5))
    module.gate.e_score_correction_bias[3] = 50
    x = normal(1, 2, 9, 32)
    y, routing = run(module, x)
    assert routing.counts == [0, 0, 0, 18, 0, 0, 0, 0]
    flat = x.reshape(18, 32)  # one gate, normalised: it is the factor alone
    assert relative(y.reshape(18, 32), 2.5 * expert(module, 3, flat) + shared(module, flat)) < 1e-12


def test_a_single_expert():
    config = SimpleNamespace(
        hidden_size=6, n_routed_experts=1, num_experts_per_tok=1, n_group=1, topk_group=1,
        moe_intermediate_size=4, n_shared_experts=1, norm_topk_prob=True, routed_scaling_factor=0.5,
    )  # fmt: skip
    module, x = moe(config), normal(0, 1, 5, 6)
    y, routing = run(module, x)
    assert routing.counts == [5]
    assert relative(y[0], 0.5 * expert(module, 0, x[0]) + shared(module, x[0])) < 1e-12


@given(seeds, st.integers(1, 4))
def test_all_experts_with_equal_scores_are_their_average(seed, tokens):
    config = DeepSeekV3Config.preset("nano", num_experts_per_tok=8, topk_group=4)
    module, x = moe(config, seed), normal(seed, 1, tokens, 32)
    module.gate.weight.data[...] = 0
    y, _ = run(module, x)
    average = sum(expert(module, e, x[0]) for e in range(8)) / 8
    assert relative(y[0], average + shared(module, x[0])) < 1e-12


def test_no_residual_is_hidden_in_it():
    module = moe(NANO)
    module.experts.down_proj.data[...] = 0
    module.shared_experts.down_proj.weight.data[...] = 0
    assert not run(module, normal(0, 2, 3, 32))[0].any()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_shared_experts_are_one_mlp_of_their_widths_together_and_are_added_once(n):
    """Neither averaged over their number nor scaled by the routed experts' factor."""
    changes = {"n_shared_experts": n, "routed_scaling_factor": 2.5}
    module, x = moe(DeepSeekV3Config.preset("nano", **changes)), normal(0, 1, 4, 32)
    module.experts.down_proj.data[...] = 0
    m = NANO.moe_intermediate_size
    assert module.shared_experts.gate_proj.weight.shape == (n * m, 32)
    gate, up, down = (getattr(module.shared_experts, f"{p}_proj").weight.data
                      for p in ("gate", "up", "down"))  # fmt: skip
    expected = np.zeros((4, 32))
    for i in range(n):
        s = slice(i * m, (i + 1) * m)
        w = {"gate_proj.weight": gate[s], "up_proj.weight": up[s], "down_proj.weight": down[:, s]}
        expected += np.array([plain.mlp(w, "", row) for row in x[0]])
    assert relative(run(module, x)[0][0], expected) < 1e-12


# -------------------------------------------------------------------------------------- symmetries


@given(configs(), seeds, st.integers(1, 6))
def test_the_experts_order_is_only_a_name(config, seed, tokens):
    """Groups and the experts in them renumbered, with their rows of gate and bias."""
    module, x = moe(config, seed), normal(seed, 1, tokens, config.hidden_size)
    rng, groups = np.random.default_rng(seed), config.n_group
    size = config.n_routed_experts // groups
    order = np.concatenate([g * size + rng.permutation(size) for g in rng.permutation(groups)])
    before, routing = run(module, x)
    for array in (
        module.gate.weight.data, module.gate.e_score_correction_bias,
        module.experts.gate_up_proj.data, module.experts.down_proj.data,
    ):  # fmt: skip
        array[...] = array[order]
    after, renumbered = run(module, x)
    assert np.array_equal(order[renumbered.indices], routing.indices)
    assert np.array_equal(np.array(routing.counts)[order], renumbered.counts)
    assert relative(after, before) < 1e-12


@given(configs(), seeds, st.integers(1, 3), st.integers(1, 5))
def test_tokens_do_not_meet(config, seed, batch, tokens):
    """Permuted tokens give permuted outputs, and a token alone gives the same."""
    module, x = moe(config, seed), normal(seed, batch, tokens, config.hidden_size)
    before, routing = run(module, x)
    order = np.random.default_rng(seed).permutation(batch * tokens)
    flat = x.reshape(1, -1, config.hidden_size)[:, order]
    after, permuted = run(module, flat)
    assert np.array_equal(permuted.indices, routing.indices[order])
    assert relative(after, before.reshape(flat.shape)[:, order]) < 1e-12
    alone, one = run(module, x[:1, :1])
    assert np.array_equal(one.indices, routing.indices[:1])
    assert relative(alone, before[:1, :1]) < 1e-12


@given(configs(), seeds, st.integers(2, 6), st.data())
def test_gradients_of_a_token_reach_itself_only(config, seed, tokens, data):
    t = data.draw(st.integers(0, tokens - 1))
    module, x = moe(config, seed), Parameter(normal(seed, 1, tokens, config.hidden_size))
    u = np.zeros(x.shape)
    u[:, t] = normal(seed + 1, config.hidden_size)
    module(x).backward(u)
    assert x.grad[:, t].any()
    x.grad[:, t] = 0
    assert not x.grad.any()


# --------------------------------------------------------------------------------------- gradients


def test_gradients():
    """Of the tokens, the stacked experts, the router through the gates, the shared expert."""
    for changes in ({}, {"norm_topk_prob": False, "routed_scaling_factor": 2.5}):
        module = moe(DeepSeekV3Config.preset("nano", **changes), seed=3)
        gradcheck(lambda x, m=module: m(x), normal(4, 2, 4, 32),
                  parameters=dict(module.named_parameters()))  # fmt: skip


@given(configs(), seeds, st.integers(1, 3))
def test_an_expert_without_tokens_has_a_gradient_of_exactly_0(config, seed, tokens):
    module, x = moe(config, seed), normal(seed, 1, tokens, config.hidden_size)
    forget(module)
    y, routing = module.routed(Tensor(x))
    y.backward(normal(seed + 1, *y.shape))
    for stack in (module.experts.gate_up_proj, module.experts.down_proj):
        busy = [bool(gradient.any()) for gradient in stack.grad]
        assert busy == [count > 0 for count in routing.counts]


def test_the_router_learns_through_the_gates():
    """Normalised gates of two experts: without their gradient the router could not learn."""
    module = moe(NANO)
    module(Tensor(normal(0, 1, 6, 32))).backward(normal(1, 1, 6, 32))
    assert np.abs(module.gate.weight.grad).max() > 1e-3


# ----------------------------------------------------------------------------------------- padding


@given(configs(), seeds, st.integers(1, 3), st.integers(1, 5))
def test_padding_is_sent_nowhere_and_counts_nowhere(config, seed, batch, tokens):
    """Only the shared expert sees it; real tokens get what they get without it."""
    module, x = moe(config, seed), normal(seed, batch, tokens, config.hidden_size)
    mask = np.random.default_rng(seed).integers(0, 2, (batch, tokens))
    real, flat = mask.reshape(-1) == 1, x.reshape(-1, config.hidden_size)
    y, routing = run(module, x, mask)
    y = y.reshape(flat.shape)
    assert (routing.indices[~real] == -1).all()
    assert sum(routing.counts) == config.num_experts_per_tok * real.sum()
    assert np.allclose(y[~real], shared(module, flat[~real]).reshape(-1, flat.shape[1]), atol=1e-12)
    if real.any():
        alone, same = run(module, flat[None, real])
        assert np.array_equal(routing.indices[real], same.indices)
        assert routing.counts == same.counts
        assert relative(y[real], alone[0]) < 1e-12


@given(configs(), seeds, st.integers(1, 5))
def test_padding_gets_and_gives_no_gradient_through_the_experts(config, seed, tokens):
    module = moe(config, seed)
    module.shared_experts.down_proj.weight.data[...] = 0
    mask = np.random.default_rng(seed).integers(0, 2, (1, tokens))
    x, u = Parameter(normal(seed, 1, tokens, config.hidden_size)), normal(seed + 1, 1, tokens, 1)
    module.routed(x, mask)[0].backward(np.broadcast_to(u, x.shape))
    real = mask[0] == 1
    assert not x.grad[0, ~real].any()
    stacks = [module.experts.gate_up_proj, module.experts.down_proj, module.gate.weight]
    found = [p.grad.copy() for p in stacks]
    forget(module)
    if real.any():
        alone = Parameter(x.data[:, real])
        module(alone).backward(np.broadcast_to(u[:, real], alone.shape))
        assert relative(x.grad[:, real], alone.grad) < 1e-11
        for p, g in zip(stacks, found, strict=True):
            assert np.abs(p.grad - g).max() < 1e-11 * max(1, np.abs(g).max())
    else:
        assert not any(g.any() for g in found)
