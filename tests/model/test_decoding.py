"""Decoding without Tensors is the model: states, choices, caches, and what it refuses to serve."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd.engine import no_grad
from minideepseek.errors import InputError
from minideepseek.layers.mla import DeepSeekAttention
from minideepseek.layers.moe import DeepSeekMoE, Router, route
from minideepseek.model import decoding
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.decoding import Decoding, Mixture, fits, times
from minideepseek.model.generate import generate, stream
from tests.layers.common import build, draw_ids, normal, relative, scramble, seeds
from tests.strategies import configs

NANO = DeepSeekV3Config.preset("nano")


@given(configs(), seeds, st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_any_chunks_give_the_states_logits_and_cache_of_the_model(config, seed, chunks):
    model, total = build(config, seed), sum(chunks)
    ids = draw_ids(config, seed, 1, total)
    cache, expected = model.new_cache(1, 2), model.new_cache(1, total)
    decoding, at = Decoding(model, cache), 0
    with no_grad():
        for chunk in chunks:
            h, _ = model.hidden(model.check_ids(ids[:, at : at + chunk]), expected)
            found = decoding(ids[0, at : at + chunk])
            assert relative(found, h.data[0]) < 1e-9
            assert relative(decoding.logits(found), model.logits(h).data[0]) < 1e-9
            at += chunk
    for one, other in zip(cache.layers, expected.layers, strict=True):
        assert one.lengths.tolist() == [total]
        assert relative(one.data[:, :total], other.data[:, :total]) < 1e-9


@given(seeds, st.sampled_from([(1, 1), (4, 2), (2, 1), (4, 4)]), st.integers(1, 4), st.booleans())
def test_it_chooses_as_the_router_ties_and_all(seed, groups, k, ties):
    fields = {"n_group": groups[0], "topk_group": groups[1], "num_experts_per_tok": k}
    layer = scramble(DeepSeekMoE(DeepSeekV3Config.preset("nano", **fields)), seed)
    s = 1 / (1 + np.exp(-normal(seed, 7, 8)))
    if ties:
        s = np.round(s, 1)
        layer.gate.e_score_correction_bias[:] = 0.25
    bias = layer.gate.e_score_correction_bias
    expected = route(s, bias, k=k, n_group=groups[0], topk_group=groups[1])
    assert np.array_equal(Mixture(layer).choose(s), expected)


@given(seeds, st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_times_is_the_product_for_any_number_of_vectors(seed, rows, wide, high):
    """With blocks of 100 bytes, too: one row of W or a few."""
    x, w = normal(seed, rows, wide), normal(seed + 1, high, wide)
    for block in (decoding.SHARED, 100, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoding, "SHARED", block)
            assert relative(times(x, w), x @ w.T) < 1e-12


def test_generate_uses_it_for_one_row_and_says_the_same(monkeypatch):
    model, calls = build(NANO), []
    ids = draw_ids(NANO, 1, 1, 6)
    call = Decoding.__call__
    monkeypatch.setattr(Decoding, "__call__", lambda self, i: calls.append(len(i)) or call(self, i))
    alone = generate(model, ids, 12)
    assert calls == [1] * 11
    both = generate(model, np.repeat(ids, 2, 0), 12)
    assert len(calls) == 11 and np.array_equal(both[:1], alone)


def test_weights_that_change_are_seen():
    model = build(NANO)
    decoding = Decoding(model, model.new_cache(1, 4))
    scramble(model, 5)
    with no_grad():
        h, _ = model.hidden(np.array([[1, 2]]), model.new_cache(1, 4))
    assert relative(decoding(np.array([1, 2])), h.data[0]) < 1e-9


def test_float32_stays_float32():
    model = build(NANO)
    single = scramble(type(model)(NANO), 0)
    decoding = Decoding(single, single.new_cache(1, 8))
    h = decoding(np.array([1, 2, 3]))
    assert h.dtype == decoding.logits(h).dtype == np.float32
    double = Decoding(model, model.new_cache(1, 8))(np.array([1, 2, 3]))
    assert relative(h, double) < 1e-4


class Other(DeepSeekAttention):
    pass


class OtherRouter(Router):
    pass


def test_it_serves_exactly_the_layers_it_knows(device):
    model = build(NANO).to(device)
    assert fits(model) == (device == "cpu")
    if device != "cpu":
        return
    for path, kind in (("self_attn", Other), ("mlp.gate", OtherRouter)):
        strange = copy.deepcopy(model)
        owner, (*between, name) = strange.model.layers[-1], path.split(".")
        for step in between:
            owner = getattr(owner, step)
        getattr(owner, name).__class__ = kind
        assert not fits(strange), path
        assert np.array_equal(generate(strange, [[1, 2]], 3), generate(model, [[1, 2]], 3))


def test_the_limit_is_the_models():
    model = build(DeepSeekV3Config.preset("nano", max_position_embeddings=4))
    assert len(list(stream(model, [[1, 2]], 2))) == 2
    decoding = Decoding(model, model.new_cache(1, 4))
    decoding(np.array([1, 2, 3]))
    with pytest.raises(InputError, match="position 4 is beyond max_position_embeddings 4"):
        decoding(np.array([1, 2]))
    assert decoding.cache.lengths.tolist() == [3]
