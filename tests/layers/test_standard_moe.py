"""StandardMoE: the sum over experts, two gates, the loss that balances; and both layers alone."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.autograd.engine import Parameter, Tensor, no_grad
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.errors import InputError
from minideepseek.layers.module import Init
from minideepseek.layers.moe import DeepSeekMoE, Routing, route
from minideepseek.layers.standard_moe import (
    StandardMoE,
    balance_loss,
    segment,
    softmax_of_top,
    top_of_softmax,
)
from minideepseek.model.config import DeepSeekV3Config
from tests.layers import plain
from tests.layers.common import forget, layer, normal, relative, scramble, seeds
from tests.standin import counters

GATES = (top_of_softmax, softmax_of_top)
gates = st.sampled_from(GATES)
SIZES = {
    "hidden_size": 5,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 3,
}


@st.composite
def sizes(draw):
    """Fields of a small layer."""
    experts = draw(st.integers(1, 6))
    return {
        "hidden_size": draw(st.integers(1, 6)),
        "n_routed_experts": experts,
        "num_experts_per_tok": draw(st.integers(1, min(experts, 4))),
        "moe_intermediate_size": draw(st.integers(1, 4)),
    }


def moe(fields=SIZES, seed=0, gates=top_of_softmax):
    return layer(StandardMoE, SimpleNamespace(**fields), seed=seed, gates=gates)


def run(module, x, mask=None):
    with no_grad():
        y, routing = module.routed(Tensor(x), mask)
    return y.data, routing


def by_hand(module, x):
    """One token: its output, its experts best first, and its softmax. x (d,)."""
    state = module.state_dict()
    z = state["gate.weight"] @ x
    s = [math.exp(a - max(z)) for a in z]
    s = [a / sum(s) for a in s]
    chosen = sorted(range(len(s)), key=lambda i: (-z[i], i))[: module.k]
    total = sum(s[i] for i in chosen) if module.gates is softmax_of_top else 1.0
    parts = [s[i] / total * plain.mlp(state, f"experts.{i}.", x) for i in chosen]
    return sum(parts), chosen, s


def expert(module, e, rows):
    return np.array([plain.mlp(module.state_dict(), f"experts.{e}.", row) for row in rows])


# ------------------------------------------------------------------------------------ what it says


@given(sizes(), seeds, gates, st.integers(1, 3), st.integers(1, 4))
def test_is_the_sum_written_out_expert_by_expert(fields, seed, kind, batch, tokens):
    module, x = moe(fields, seed, kind), normal(seed, batch, tokens, fields["hidden_size"])
    y, routing = run(module, x)
    rows = [by_hand(module, row) for row in x.reshape(-1, x.shape[-1])]
    assert routing.indices.tolist() == [chosen for _, chosen, _ in rows]
    assert np.allclose(routing.scores.data, [s for _, _, s in rows], rtol=1e-12)
    assert relative(y.reshape(len(rows), -1), np.array([out for out, _, _ in rows])) < 1e-11
    assert sum(routing.counts) == fields["num_experts_per_tok"] * batch * tokens
    assert np.array_equal(module(Tensor(x)).data, y)


@given(seeds, st.integers(1, 6), st.integers(1, 6))
def test_mixtrals_gate_is_the_renormalised_softmax(seed, experts, k):
    """So it is GShard's g₁/(g₁ + g₂), and the gates add up to 1; the older ones add up to less."""
    logits, k = Tensor(3 * normal(seed, 4, experts)), min(k, experts)
    indices = np.argsort(-logits.data)[:, :k]
    old, new = (kind(logits, indices).data for kind in GATES)
    assert np.allclose(new, old / old.sum(-1, keepdims=True), rtol=1e-12)
    assert np.allclose(new.sum(-1), 1.0)
    assert (old.sum(-1) < 1 - 1e-9).all() if k < experts else np.allclose(old, new)


def test_all_equal_scores_take_the_first_experts_at_equal_gates():
    x = normal(0, 1, 3, 5)
    for kind, gate in ((top_of_softmax, 1 / 4), (softmax_of_top, 1 / 2)):
        module = moe(gates=kind)
        module.gate.weight.data[...] = 0
        y, routing = run(module, x)
        assert routing.counts == [3, 3, 0, 0]
        assert relative(y[0], gate * (expert(module, 0, x[0]) + expert(module, 1, x[0]))) < 1e-12


def test_a_single_expert_is_an_mlp():
    for kind in GATES:
        module, x = moe(SIZES | {"n_routed_experts": 1, "num_experts_per_tok": 1}, gates=kind), 0
        x = normal(0, 1, 1, 5)  # and a single token
        y, routing = run(module, x)
        assert routing.counts == [1] and relative(y[0], expert(module, 0, x[0])) < 1e-12


def test_no_token_is_dropped_when_one_expert_gets_everything():
    module = moe(SIZES | {"num_experts_per_tok": 1}, gates=softmax_of_top)
    x = np.abs(normal(1, 2, 30, 5))
    module.gate.weight.data[...] = [[-9.0], [-9.0], [9.0], [-9.0]]
    y, routing = run(module, x)
    assert routing.counts == [0, 0, 60, 0]
    assert relative(y.reshape(60, 5), expert(module, 2, x.reshape(60, 5))) < 1e-12


@given(sizes(), seeds, gates, st.integers(1, 5))
def test_tokens_do_not_meet_and_experts_have_no_order(fields, seed, kind, tokens):
    module, rng = moe(fields, seed, kind), np.random.default_rng(seed)
    x = normal(seed, 1, tokens, fields["hidden_size"])
    before, routing = run(module, x)
    order = rng.permutation(tokens)
    after, permuted = run(module, x[:, order])
    assert np.array_equal(permuted.indices, routing.indices[order])
    assert relative(after, before[:, order]) < 1e-12
    order = rng.permutation(fields["n_routed_experts"])
    for array in module.gate.weight, module.experts.gate_up_proj, module.experts.down_proj:
        array.data[...] = array.data[order]
    after, renumbered = run(module, x)
    assert np.array_equal(order[renumbered.indices], routing.indices)
    assert relative(after, before) < 1e-12


@given(sizes(), seeds, gates, st.integers(1, 3), st.integers(1, 4))
def test_padding_is_sent_nowhere_and_counts_nowhere(fields, seed, kind, batch, tokens):
    module, x = moe(fields, seed, kind), normal(seed, batch, tokens, fields["hidden_size"])
    mask = np.random.default_rng(seed).integers(0, 2, (batch, tokens))
    y, routing = run(module, x, mask)
    assert not y[mask == 0].any() and (routing.indices[mask.ravel() == 0] == -1).all()
    real = x[mask == 1][None]
    alone, same = run(module, real)
    assert routing.counts == same.counts
    assert relative(y[mask == 1], alone[0]) < 1e-12
    found, expected = balance_loss(routing, 2.0).item(), balance_loss(same, 2.0).item()
    assert found == pytest.approx(expected, rel=1e-12)


# --------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("kind", GATES)
def test_gradients(kind):
    """Of the tokens, the experts, and the router through the gates and through the loss."""
    module = moe(seed=3, gates=kind)

    def f(x):
        y, routing = module.routed(x)
        return y * balance_loss(routing, 0.7)

    gradcheck(f, normal(4, 2, 3, 5), parameters=dict(module.named_parameters()))


def test_with_one_expert_per_token_only_the_old_gate_teaches_the_router():
    found = []
    for kind in GATES:
        module = moe(SIZES | {"num_experts_per_tok": 1}, gates=kind)
        module(Tensor(normal(0, 1, 6, 5))).backward(normal(1, 1, 6, 5))
        found.append(np.abs(module.gate.weight.grad).max())
    assert found[0] > 1e-2 and found[1] < 1e-15


@given(sizes(), seeds, st.integers(1, 3))
def test_an_expert_without_tokens_has_a_gradient_of_exactly_0(fields, seed, tokens):
    module = moe(fields, seed)
    forget(module)
    y, routing = module.routed(Tensor(normal(seed, 1, tokens, fields["hidden_size"])))
    y.backward(normal(seed + 1, *y.shape))
    for stack in (module.experts.gate_up_proj, module.experts.down_proj):
        assert [bool(g.any()) for g in stack.grad] == [count > 0 for count in routing.counts]


# -------------------------------------------------------------------------------------- the balance


def decided(scores, indices, experts):
    counts = np.bincount(np.ravel(indices), minlength=experts).tolist()
    return Routing(np.asarray(indices), scores, counts)


def shares(seed, tokens, experts):
    s = np.random.default_rng(seed).random((tokens, experts))
    return s / s.sum(-1, keepdims=True)


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
def test_loss_is_switchs_formula_over_all_choices(seed, experts, k, tokens):
    k, s = min(k, experts), shares(seed, tokens, experts)
    chosen = np.argsort(-s)[:, :k]
    f = [sum(i in row for row in chosen.tolist()) / (k * tokens) for i in range(experts)]
    p = [sum(s[:, i]) / tokens for i in range(experts)]
    expected = 0.3 * experts * sum(a * b for a, b in zip(f, p, strict=True))
    assert balance_loss(decided(Tensor(s), chosen, experts), 0.3).item() == pytest.approx(expected)


@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_loss_is_alpha_at_perfect_balance_whatever_k_is(seed, k, times):
    """Of what happened, or of the probabilities; and N α / K where the same K get everything."""
    experts, alpha = 4, 0.01
    rotated = np.array([[(t + j) % experts for j in range(k)] for t in range(experts * times)])
    even = decided(Tensor(shares(seed, len(rotated), experts)), rotated, experts)
    assert even.counts == [k * times] * experts
    assert balance_loss(even, alpha).item() == pytest.approx(alpha, rel=1e-12)
    same = np.tile(np.arange(k), (5, 1))
    flat = decided(Tensor(np.full((5, experts), 0.25)), same, experts)
    assert balance_loss(flat, alpha).item() == pytest.approx(alpha, rel=1e-12)
    certain = np.zeros((5, experts))
    certain[:, :k] = 1 / k
    collapsed = decided(Tensor(certain), same, experts)
    assert balance_loss(collapsed, alpha).item() == pytest.approx(alpha * experts / k)


@given(seeds, st.integers(1, 5), st.integers(2, 5))
def test_gradient_of_the_loss_is_alpha_n_f_over_t(seed, tokens, experts):
    """Through P alone, the same for every token, larger for the overloaded."""
    s = Parameter(shares(seed, tokens, experts))
    chosen = s.data.argmax(-1)[:, None]
    routing = decided(s, chosen, experts)
    balance_loss(routing, 0.01).backward()
    f = np.array(routing.counts) / tokens
    assert np.allclose(s.grad, 0.01 * experts * f / tokens, rtol=1e-12)


def test_descending_the_loss_alone_spreads_the_tokens():
    module, x = moe(SIZES | {"num_experts_per_tok": 1}, seed=5), np.abs(normal(0, 1, 200, 5))
    module.gate.weight.data[...] *= 0.1
    module.gate.weight.data[2] += 0.5
    assert run(module, x)[1].counts == [0, 0, 200, 0]
    for _ in range(300):
        forget(module)
        balance_loss(module.routed(Tensor(x))[1], 1.0).backward()
        module.gate.weight.data -= 0.3 * module.gate.weight.grad
    counts = run(module, x)[1].counts
    assert min(counts) > 0 and max(counts) < 120


def test_loss_of_nothing_but_padding_is_0():
    _, routing = run(moe(), normal(0, 1, 2, 5), np.zeros((1, 2)))
    assert routing.counts == [0] * 4 and balance_loss(routing, 1.0).item() == 0


# --------------------------------------------------------------------- the same parameters and work


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.data())
def test_deepseeks_layer_has_the_same_parameters_and_the_same_work(experts, k, m, w, data):
    """Counted in the layers that are built; only the routers differ, by their rows."""
    k = min(k, experts)
    if m * k == 1:
        with pytest.raises(InputError, match="shared: got 1, expected 1 to m·k − 1 = 0"):
            segment(experts, k, m * w, m=m, shared=1)
        return
    shared = data.draw(st.integers(1, m * k - 1))
    fields = segment(experts, k, m * w, m=m, shared=shared)
    fine = DeepSeekMoE(hidden_size=4, **fields)
    coarse = StandardMoE(
        hidden_size=4, n_routed_experts=experts, num_experts_per_tok=k, moe_intermediate_size=m * w
    )

    def total(module):
        return sum(p.size for p in module.parameters()) - module.gate.weight.size

    def activated(module, used):
        stacks = module.experts.gate_up_proj.data[:used], module.experts.down_proj.data[:used]
        return sum(stack.size for stack in stacks)

    always = sum(p.size for p in fine.shared_experts.parameters())
    assert total(fine) == total(coarse) == experts * 3 * 4 * m * w
    assert activated(fine, fine.gate.k) + always == activated(coarse, k) == k * 3 * 4 * m * w
    assert fine.gate.weight.shape == (m * experts - shared, 4)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(InputError, match="m: got 3, expected a divisor of the experts' width 8"):
        segment(4, 2, 8, m=3, shared=1)
    with pytest.raises(InputError, match="shared: got 0, expected 1 to m·k − 1 = 7"):
        segment(4, 2, 8, m=4, shared=0)
    with pytest.raises(InputError, match="m: got 0"):
        segment(4, 2, 8, m=0, shared=1)


# ------------------------------------------------------------------------------- alone, from fields


@pytest.mark.parametrize("kind", [StandardMoE, DeepSeekMoE])
def test_plain_arguments_and_a_config_make_the_same_layer(kind):
    nano = DeepSeekV3Config.preset("nano", n_group=1, topk_group=1)
    names = [*SIZES, "n_shared_experts"] if kind is DeepSeekMoE else [*SIZES]
    fields = {name: getattr(nano, name) for name in names}
    made = [
        kind(nano, rng=np.random.default_rng(7)), kind(nano, np.random.default_rng(7)),
        kind(**fields, rng=np.random.default_rng(7)),
        kind(nano, Init(np.random.default_rng(7), 0.02)),
    ]  # fmt: skip
    for other in made[1:]:
        for (n, a), (m, b) in zip(made[0].named_tensors(), other.named_tensors(), strict=True):
            assert n == m and a.dtype == b.dtype and np.array_equal(a, b)
    y = made[2](Tensor(np.ones((2, 3, 32), np.float32)))
    assert y.shape == (2, 3, 32) and y.dtype == np.float32
    one, two = kind(**fields), kind(**fields)
    assert np.array_equal(one.gate.weight.data, two.gate.weight.data)
    assert 0.015 < one.experts.gate_up_proj.data.std() < 0.025


@pytest.mark.parametrize("kind", [StandardMoE, DeepSeekMoE])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"hidden": 3, **SIZES}, "hidden: no such field, expected one of hidden_size, n_routed"),
        ({"hidden_size": 3}, "n_routed_experts: got nothing, expected it where there is no config"),
        ({"config": SimpleNamespace(**SIZES), "hidden_size": 3}, "hidden_size: got a config too"),
        (SIZES | {"rng": 3}, "rng: got 3, expected a numpy.random.Generator or None"),
        (SIZES | {"num_experts_per_tok": 5}, "num_experts_per_tok: got 5, expected 1 to 4"),
        (SIZES | {"num_experts_per_tok": 0}, "num_experts_per_tok: got 0, expected 1 to 4"),
    ],
)
def test_bad_arguments_get_a_sentence(kind, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        kind(**arguments)


GROUPED = SIZES | {"n_routed_experts": 8, "n_group": 4, "topk_group": 2}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_experts_per_tok": 5},
         "num_experts_per_tok: got 5, expected 1 to 4, the experts of 2 of 4 groups"),
        ({"n_group": 3}, "n_group: got 3, expected a divisor of 8 experts"),
        ({"n_group": 0}, "n_group: got 0, expected a divisor"),
        ({"topk_group": 5}, "topk_group: got 5, expected 1 to n_group = 4"),
        ({"topk_group": 0}, "topk_group: got 0, expected 1 to n_group = 4"),
    ],
)  # fmt: skip
def test_more_choices_than_the_kept_groups_hold(changes, sentence):
    """Refused when the layer is made, and by the choice itself."""
    with pytest.raises(InputError, match=sentence):
        DeepSeekMoE(**(GROUPED | changes))
    given_ = GROUPED | changes
    options = {"k": given_["num_experts_per_tok"], "n_group": given_["n_group"]}
    with pytest.raises(InputError, match=sentence):
        route(np.ones((2, 8)), np.zeros(8), **options, topk_group=given_["topk_group"])


def test_as_many_as_the_kept_groups_hold_are_fine():
    module = DeepSeekMoE(**(GROUPED | {"num_experts_per_tok": 4}))
    _, routing = module.routed(Tensor(normal(0, 1, 6, 5).astype(np.float32)))
    assert sum(routing.counts) == 24
    assert all(len(set(row // 2)) == 2 and len(set(row)) == 4 for row in routing.indices)


# ------------------------------------------------------------------------------------------ devices


@pytest.mark.parametrize("kind", GATES)
def test_the_same_on_every_device(kind, device):
    """Outputs, gradients and the loss; the counts are the one thing that is read."""
    here = moe(seed=2, gates=kind)
    there = scramble(moe(gates=kind), 2).to(device)
    x, mask = normal(1, 2, 4, 5), np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    found = []
    for module, place in ((here, "cpu"), (there, device)):
        tokens = Parameter(backend.to_device(x, place))
        counters.reset()
        y, routing = module.routed(tokens, backend.to_device(mask, place))
        loss = balance_loss(routing, 0.1)
        assert counters.syncs == (1 if place == "standin" else 0)
        (y.sum() + loss).backward()
        arrays = [y.data, loss.data, tokens.grad, *(p.grad for p in module.parameters())]
        found.append([routing.counts, *map(backend.to_host, arrays)])
    assert found[0][0] == found[1][0]
    for one, other in zip(*(f[1:] for f in found), strict=True):
        assert np.allclose(one, other, rtol=1e-12, atol=1e-14)
