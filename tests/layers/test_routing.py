"""The router and its balance: which experts, with which weights, and how the bias moves."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.autograd.engine import Parameter, Tensor, ops
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.layers.moe import (
    DeepSeekMoE,
    Router,
    count_experts,
    gate_weights,
    max_violation,
    route,
    sequence_balance_loss,
    update_bias,
)
from minideepseek.model.config import DeepSeekV3Config
from tests.layers import plain
from tests.layers.common import build, draw_ids, layer, normal, seeds
from tests.strategies import configs


@st.composite
def routings(draw, most=4):
    """(groups, experts in each, groups kept, experts per token)."""
    groups, size = draw(st.sampled_from([(1, 2), (1, 8), (2, 2), (2, 4), (3, 3), (4, 2), (4, 4)]))
    kept = draw(st.integers(1, groups))
    return groups, size, kept, draw(st.integers(1, min(most, kept * size)))


def biases(seed, experts, sign):
    """Biases of both signs, or all far below or above what a score can make up for."""
    b = np.random.default_rng(seed).standard_normal(experts)
    return {"both": b, "negative": -2 - abs(b), "positive": 2 + abs(b), "none": 0 * b}[sign]


signs = st.sampled_from(["both", "negative", "positive", "none"])


def affinities(seed, tokens, experts):
    return np.random.default_rng(seed).random((tokens, experts))


# ----------------------------------------------------------------------------------------- choosing


@given(routings(), seeds, signs)
@settings(max_examples=100)
def test_the_best_choice_of_all_there_are(routing, seed, sign):
    """Of all sets of groups the best by two best experts each, of all sets of experts in it the
    best by biased score: for biases of any sign."""
    groups, size, kept, k = routing
    scores, bias = affinities(seed, 3, groups * size), biases(seed, groups * size, sign)
    chosen = route(scores, bias, k=k, n_group=groups, topk_group=kept)
    assert chosen.shape == (3, k)
    for row, s in zip(chosen, scores, strict=True):
        c = s + bias
        worth = [sum(sorted(c[g * size : (g + 1) * size])[-2:]) for g in range(groups)]
        open_groups = max(
            itertools.combinations(range(groups), kept), key=lambda gs: sum(worth[g] for g in gs)
        )
        experts = [g * size + e for g in open_groups for e in range(size)]
        best = max(itertools.combinations(experts, k), key=lambda es: sum(c[list(es)]))
        assert set(row) == set(best)
        assert len(set(row // size)) <= kept and len(set(row)) == k
        assert list(c[row]) == sorted(c[row], reverse=True)  # best first


@given(routings(), seeds)
def test_ties_go_to_the_lower_index(routing, seed):
    groups, size, kept, k = routing
    rng, experts = np.random.default_rng(seed), groups * size
    scores, bias = rng.integers(0, 3, (4, experts)) / 4, rng.integers(-2, 2, experts) / 2
    chosen = route(scores, bias, k=k, n_group=groups, topk_group=kept)
    for row, s in zip(chosen, scores, strict=True):
        assert row.tolist() == plain.route(s, bias, k, groups, kept)


@given(routings(), st.sampled_from([-3.0, 0.0, 0.5, 7.0]))
def test_all_equal_scores_choose_the_first_experts(routing, value):
    groups, size, kept, k = routing
    flat = np.full((2, groups * size), value)
    chosen = route(flat, np.zeros(groups * size), k=k, n_group=groups, topk_group=kept)
    assert chosen.tolist() == [list(range(k))] * 2


@given(routings(), seeds, signs, st.sampled_from([-4.0, -0.5, 0.25, 8.0]))
def test_a_constant_added_to_all_biases_changes_nothing(routing, seed, sign, shift):
    groups, size, kept, k = routing
    scores, bias = affinities(seed, 5, groups * size), biases(seed, groups * size, sign)
    options = {"k": k, "n_group": groups, "topk_group": kept}
    assert np.array_equal(
        route(scores, bias, **options), route(scores, bias + shift, **options)
    )


def test_one_expert_is_everybodys_choice():
    assert route(np.array([[0.3], [0.9]]), np.zeros(1), k=1, n_group=1, topk_group=1).tolist() == [
        [0], [0],
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ weights


@given(routings(), seeds, st.booleans(), st.sampled_from([1.0, 2.5, 0.3]))
def test_weights_are_the_unbiased_affinities(routing, seed, normalise, factor):
    """Given the same choice, the bias is nowhere in them."""
    groups, size, kept, k = routing
    scores, bias = affinities(seed, 4, groups * size), biases(seed, groups * size, "both")
    chosen = route(scores, bias, k=k, n_group=groups, topk_group=kept)
    weights = gate_weights(Tensor(scores), chosen, normalise=normalise, factor=factor).data
    for w, s, experts in zip(weights, scores, chosen, strict=True):
        expected = factor * s[experts] / (s[experts].sum() if normalise else 1.0)
        assert np.allclose(w, expected, rtol=1e-14)
    if normalise:
        assert np.allclose(weights.sum(-1), factor, rtol=1e-14)


@pytest.mark.parametrize("normalise", [True, False])
def test_gradients_reach_the_chosen_affinities(normalise):
    scores, chosen = affinities(0, 3, 5), np.array([[0, 4], [2, 1], [3, 2]])
    gradcheck(
        lambda s: gate_weights(s, chosen, normalise=normalise, factor=2.5), scores
    )
    p = Parameter(scores)
    gate_weights(p, chosen, normalise=normalise, factor=2.5).backward(normal(0, 3, 2))
    assert [set(np.flatnonzero(row)) for row in p.grad] == [{0, 4}, {2, 1}, {3, 2}]


def router(experts=6, k=2, groups=1, kept=1, hidden=5, seed=0):
    config = SimpleNamespace(
        n_routed_experts=experts, hidden_size=hidden, num_experts_per_tok=k, n_group=groups,
        topk_group=kept,
    )  # fmt: skip
    return layer(Router, config, seed=seed)


@given(seeds, st.integers(1, 6))
def test_affinities_are_sigmoids_and_the_bias_is_outside(seed, tokens):
    """Each expert's on its own, no softmax; the bias moves choices by being added to them."""
    r, x = router(seed=seed), normal(seed, tokens, 5)
    routing = r(Tensor(x), None)
    assert np.allclose(routing.scores.data, 1 / (1 + np.exp(-x @ r.weight.data.T)), rtol=1e-13)
    before = routing.scores.data.copy()
    r.e_score_correction_bias[...] = -5
    r.e_score_correction_bias[4] = -3.9  # σ + b: above every other's, below 0
    routing = r(Tensor(x), None)
    assert np.array_equal(routing.scores.data, before)
    assert (routing.indices[:, 0] == 4).all()


def test_the_bias_is_stored_and_not_trained():
    """No gradient, float32 whatever the model's dtype, and reading a text leaves it alone."""
    r = router()
    assert [name for name, _ in r.named_parameters()] == ["weight"]
    assert [name for name, _ in r.named_tensors()] == ["weight", "e_score_correction_bias"]
    assert r.e_score_correction_bias.dtype == np.float32
    before = r.e_score_correction_bias.copy()
    routing = r(Tensor(normal(0, 9, 5)), None)
    gate_weights(routing.scores, routing.indices, normalise=True, factor=1.0).backward(
        normal(1, 9, 2)
    )
    assert np.array_equal(r.e_score_correction_bias, before)


# ------------------------------------------------------------------------------------------- replay


@given(routings(), seeds, st.integers(1, 6))
def test_a_replayed_choice_is_taken_as_it_is(routing, seed, tokens):
    """Scores are computed anew, experts are as given, −1 and padding stay nowhere."""
    groups, size, kept, k = routing
    r, x = router(groups * size, k, groups, kept, seed=seed), normal(seed, tokens, 5)
    plain_choice = r(Tensor(x), None)
    given_choice = (plain_choice.indices + 1) % (groups * size)  # distinct still
    given_choice[0] = -1
    routed = r(Tensor(x), None, given_choice)
    assert np.array_equal(routed.indices, given_choice)
    assert np.array_equal(routed.scores.data, plain_choice.scores.data)
    assert routed.counts == count_experts(given_choice, groups * size)
    mask = np.arange(tokens) < tokens - 1
    padded = r(Tensor(x), mask, given_choice)
    assert np.array_equal(padded.indices[:-1], given_choice[:-1])
    assert (padded.indices[-1] == -1).all()


@given(configs(first_k_dense_replace=1, num_hidden_layers=3), seeds, st.integers(1, 3))
def test_a_model_replays_each_layers_experts(config, seed, rows):
    """Its own choices give what it gives; another layer order or another choice does not.

    Gradients reach the experts that were given and no others.
    """
    model, ids = build(config, seed), draw_ids(config, seed, rows, 4)
    h, routings = model.hidden(ids)
    own = [routing.indices for routing in routings]
    again, replayed = model.hidden(ids, routing=own)
    assert np.array_equal(again.data, h.data) and len(own) == 2
    assert [r.counts for r in replayed] == [r.counts for r in routings]
    k, experts = config.num_experts_per_tok, config.n_routed_experts
    others = [np.tile(np.arange(i, i + k) % experts, (rows * 4, 1)) for i in (1, 2)]
    others[0][-1] = -1
    h, replayed = model.hidden(ids, routing=others)
    assert all(np.array_equal(r.indices, o) for r, o in zip(replayed, others, strict=True))
    h.sum().backward()
    for layer_, given_choice in zip(model.model.layers[1:], others, strict=True):
        touched = layer_.mlp.experts.down_proj.grad.any((1, 2))
        assert set(np.flatnonzero(touched)) <= set(given_choice.ravel()) - {-1}


@pytest.mark.parametrize("normalise", [True, False])
def test_a_replayed_layer_is_the_sum_over_the_given_experts(normalise):
    """y = Σ gᵢ FFNᵢ over them, gates from the fresh scores; a token sent nowhere gets 0."""
    config = DeepSeekV3Config.preset("nano", norm_topk_prob=normalise)
    module, x = layer(DeepSeekMoE, config, seed=3), normal(4, 1, 3, config.hidden_size)
    given_choice = np.array([[6, 1], [-1, -1], [0, 7]])
    y, routing = module.routed(Tensor(x), replay=given_choice)
    state = {f"mlp.{name}": array for name, array in module.state_dict().items()}
    for t in (0, 1, 2):
        expected = plain.mlp(state, "mlp.shared_experts.", x[0, t])
        s = 1 / (1 + np.exp(-module.gate.weight.data @ x[0, t]))
        total = s[given_choice[t]].sum() if normalise else 1
        for e in given_choice[t][given_choice[t] >= 0]:
            gate = config.routed_scaling_factor * s[e] / total
            expected = expected + gate * np.array(plain.mlp(state, f"mlp.experts.{e}.", x[0, t]))
        assert np.allclose(y.data[0, t], expected, rtol=1e-11)
    gradcheck(
        lambda u, w: ops.reshape(module.routed(u, replay=given_choice)[0], shape=(-1,)) * w,
        x, normal(5, x.size),
    )  # fmt: skip


def test_a_token_replayed_nowhere_teaches_the_gate_nothing(device):
    """Nor does its −1 wrap around to the last expert, twice: a device may add in any order."""
    config = DeepSeekV3Config.preset("nano")
    module = layer(DeepSeekMoE, config, seed=3).to(device)
    x = Parameter(backend.to_device(normal(4, 1, 2, config.hidden_size), device))
    given_choice = backend.to_device(np.array([[-1, -1], [0, 3]]), device)
    y, routing = module.routed(x, replay=given_choice)
    (y - module.shared_experts(x)).sum().backward()
    assert routing.counts == [1, 0, 0, 1, 0, 0, 0, 0]
    assert np.abs(backend.to_host(x.grad)[0, 0]).max() < 1e-12
    taught = backend.to_host(module.gate.weight.grad).any(1)
    assert np.flatnonzero(taught).tolist() == [0, 3]


# ---------------------------------------------------------------------------------- loads, the bias


@given(routings(), seeds, st.integers(0, 9), st.booleans())
def test_counts_are_of_real_tokens(routing, seed, tokens, padded):
    groups, size, kept, k = routing
    r, x = router(groups * size, k, groups, kept, seed=seed), normal(seed, tokens, 5)
    mask = np.random.default_rng(seed).integers(0, 2, tokens) if padded else None
    routed = r(Tensor(x), mask)
    real = np.ones(tokens, bool) if mask is None else mask == 1
    assert (routed.indices[~real] == -1).all()
    assert np.array_equal(routed.indices[real], r(Tensor(x[real]), None).indices)
    expected = np.bincount(routed.indices[real].ravel(), minlength=groups * size)
    assert routed.counts == expected.tolist() == count_experts(routed.indices, groups * size)
    assert all(type(c) is int for c in routed.counts) and sum(routed.counts) == k * real.sum()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), seeds, st.sampled_from([1e-3, 0.05]))
def test_the_bias_moves_by_gamma_towards_balance(counts, seed, gamma):
    """Up where an expert got less than the mean, down where more, always by γ: not by how much."""
    bias = normal(seed, len(counts)).astype(np.float32)
    before, mean = bias.copy(), sum(counts) / len(counts)
    update_bias(bias, counts, gamma)
    for b, was, c in zip(bias, before, counts, strict=True):
        step = gamma if c < mean else -gamma if c > mean else 0.0
        assert b == np.float32(was + np.float32(step))


@pytest.mark.parametrize(
    ("counts", "violation"), [([4, 4, 4, 4], 0.0), ([16, 0, 0, 0], 3.0), ([6, 4, 2, 4], 0.5),
                              ([0, 0], 0.0), ([7], 0.0)],
)  # fmt: skip
def test_max_violation(counts, violation):
    assert max_violation(counts) == violation


def test_updates_balance_a_router_that_had_collapsed():
    """Almost everything goes to two of eight experts; 150 steps, γ falling to 0.002, even it out.

    The wrong sign, or choosing the lowest, would drive loads further apart.
    """
    r, x = router(8, 2, seed=1), normal(2, 400, 5) + 1.5
    r.weight.data[...] += np.array([1.5, 1.5, 0, 0, 0, 0, -1, -1])[:, None] / 2
    r.e_score_correction_bias[...] = 0
    first = r(Tensor(x), None).counts
    assert max_violation(first) > 1.5 and min(first) < 10
    for step in range(150):
        gamma = 0.02 if step < 100 else 0.002
        update_bias(r.e_score_correction_bias, r(Tensor(x), None).counts, gamma)
    last = r(Tensor(x), None).counts
    assert max_violation(last) < 0.2 and min(last) > 80


# ------------------------------------------------------------------------ the sequence-wise balance


def test_perfect_balance_costs_alpha():
    """Token t prefers experts 2t and 2t + 1: each is chosen once, each has the same share."""
    scores = np.full((2, 4, 8), 0.2)
    for t in range(4):
        scores[:, t, 2 * t : 2 * t + 2] = 0.9
    loss = sequence_balance_loss(Tensor(scores), 2, 1e-4, None)
    assert loss.shape == () and loss.item() == pytest.approx(1e-4, rel=1e-13)


def test_imbalance_costs_more():
    scores = np.full((1, 4, 8), 0.2)
    scores[:, :, :2] = 0.9
    expected = 1e-4 * (8 / 2) * (2 * 0.9 / 3.0)  # f = 4 for two experts of share 0.3 each
    loss = sequence_balance_loss(Tensor(scores), 2, 1e-4, None)
    assert loss.item() == pytest.approx(expected, rel=1e-13)


@given(seeds, st.integers(1, 3), st.integers(1, 6), st.integers(2, 6), st.data())
def test_is_the_sum_written_out(seed, batch, tokens, experts, data):
    k = data.draw(st.integers(1, experts))
    scores = np.random.default_rng(seed).random((batch, tokens, experts)) + 0.01
    lengths = data.draw(st.lists(st.integers(0, tokens), min_size=batch, max_size=batch))
    config = SimpleNamespace(aux_loss_alpha=0.3, num_experts_per_tok=k)
    whole = sequence_balance_loss(Tensor(scores), k, 0.3, None).item()
    assert whole == pytest.approx(np.mean([plain.balance(config, s) for s in scores]), rel=1e-12)
    mask = (np.arange(tokens) < np.array(lengths)[:, None]).astype(int)
    padded = sequence_balance_loss(Tensor(scores), k, 0.3, mask).item()
    alone = [plain.balance(config, s[:n]) if n else 0.0
             for s, n in zip(scores, lengths, strict=True)]  # fmt: skip
    assert padded == pytest.approx(np.mean(alone), rel=1e-12, abs=1e-15)


@given(seeds, st.integers(1, 5), st.integers(2, 5), st.data())
def test_its_gradient_runs_through_the_shares_alone(seed, tokens, experts, data):
    """With f a constant: ∂L/∂s = α f/T ∂s′/∂s."""
    k = data.draw(st.integers(1, experts))
    scores = Parameter(np.random.default_rng(seed).random((1, tokens, experts)) + 0.1)
    sequence_balance_loss(scores, k, 0.5, None).backward()
    f = np.zeros(experts)
    for s in scores.data[0]:
        f[plain.route(s, [0.0] * experts, k, 1, 1)] += experts / (k * tokens)
    for s, g in zip(scores.data[0], scores.grad[0], strict=True):
        jacobian = np.eye(experts) / s.sum() - s[None, :] / s.sum() ** 2  # ∂s′ₑ/∂sᵢ, rows i
        assert np.allclose(g, 0.5 / tokens * jacobian @ f, atol=1e-13)
    if np.ptp(f):  # uneven: there is something to learn
        assert np.abs(scores.grad).max() > 1e-4


def test_padding_gets_no_gradient():
    scores, mask = Parameter(affinities(0, 3, 4)[None] + 0.1), np.array([[1, 1, 0]])
    sequence_balance_loss(scores, 2, 0.5, mask).backward()
    assert scores.grad[0, :2].any() and not scores.grad[0, 2].any()


def test_a_sequence_without_tokens_costs_nothing():
    """A depth of multi-token prediction has no slot left in a text of two tokens."""
    scores = Parameter(np.zeros((2, 0, 4)))
    loss = sequence_balance_loss(scores, 2, 0.5, None)
    assert loss.item() == 0
    loss.backward()
