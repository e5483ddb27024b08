"""Multi-token prediction: what each depth sees, in which order it is joined, how depths chain;
what a module is alone, with a cache, and when it is gone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minideepseek.autograd.engine import Parameter, Tensor, no_grad
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.errors import InputError
from minideepseek.layers.module import Embedding, Init
from minideepseek.layers.mtp import MTPModel
from minideepseek.layers.rope import RotaryEmbedding
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3
from tests.layers import plain
from tests.layers.common import build, draw_ids, layer, normal, relative, scramble, seeds
from tests.strategies import configs

deep = st.integers(1, 3).flatmap(lambda d: configs(num_nextn_predict_layers=d))


def modules(config, seed=0):
    """(the modules, an embedding), scrambled, in float64."""
    mtp = MTPModel(config, Init(None, 0.0, np.float64), RotaryEmbedding(config))
    table = layer(Embedding, config.vocab_size, config.hidden_size, seed=seed + 1)
    return scramble(mtp, seed), table


def names_of(config, mtp, table):
    """Their tensors by a checkpoint's names."""
    first = config.num_hidden_layers
    state = {"model.embed_tokens.weight": table.weight.data}
    for name, array in mtp.named_tensors():
        k, rest = name.removeprefix("layers.").split(".", 1)
        state[f"model.layers.{first + int(k)}.{rest}"] = array
    return state


def run(mtp, table, h, ids, mask=None):
    with no_grad():
        depths = mtp(Tensor(h), ids, table, mask)
    return [(states.data, routing) for states, routing in depths]


def inputs(config, seed, batch, tokens):
    """Random states (B, T, d) and ids (B, T + 1), as of a main model on T + 1 tokens."""
    return (normal(seed + 2, batch, tokens, config.hidden_size),
            draw_ids(config, seed, batch, tokens + 1))  # fmt: skip


@given(deep, seeds, st.integers(1, 2), st.integers(1, 6))
def test_is_each_depth_written_out(config, seed, batch, tokens):
    """[norm(Emb) ; norm(h)] in this order, a whole block, the own head norm, depths chained."""
    mtp, table = modules(config, seed)
    h, ids = inputs(config, seed, batch, tokens)
    depths = run(mtp, table, h, ids)
    assert len(depths) == config.num_nextn_predict_layers
    state = names_of(config, mtp, table)
    rows = [plain.mtp_states(config, state, row, one) for row, one in zip(ids, h, strict=True)]
    for k, (states, routing) in enumerate(depths, start=1):
        assert states.shape == (batch, max(0, tokens - k), config.hidden_size)
        expected = np.array([row[k - 1][0] for row in rows])
        assert relative(states, expected.reshape(states.shape)) < 1e-9
        chosen = np.concatenate([row[k - 1][1].chosen for row in rows])
        assert np.array_equal(routing.indices, chosen)


@given(deep, seeds, st.integers(3, 7), st.data())
def test_depth_k_sees_tokens_up_to_i_plus_k(config, seed, tokens, data):
    """And no further: its target, token i + k + 1, would be a leak. Token i + k it does see."""
    mtp, table = modules(config, seed)
    h, ids = inputs(config, seed, 1, tokens)
    j = data.draw(st.integers(1, tokens))  # the token that is changed; states stay as they are
    other = ids.copy()
    other[0, j] = (ids[0, j] + 1) % config.vocab_size
    before, after = run(mtp, table, h, ids), run(mtp, table, h, other)
    for k, ((x, one), (y, two)) in enumerate(zip(before, after, strict=True), start=1):
        first = max(0, j - k)  # the first slot i with i + k ≥ j
        assert np.array_equal(one.indices[:first], two.indices[:first])
        assert relative(y[:, :first], x[:, :first]) < 1e-12
        if j >= k and first < x.shape[1]:
            assert relative(y[:, first], x[:, first]) > 1e-9


@given(deep, seeds, st.integers(2, 6), st.data())
def test_a_slot_sees_the_states_up_to_its_own(config, seed, tokens, data):
    """The block attends over the slots before it, and depth k starts from the states it is given.

    Backward from slot t of the last depth: exactly 0 to states after t, something to all before.
    """
    depth = config.num_nextn_predict_layers
    assume(tokens > depth)
    t = data.draw(st.integers(0, tokens - depth - 1))
    mtp, table = modules(config, seed)
    h, ids = inputs(config, seed, 1, tokens)
    p = Parameter(h)
    states, _ = mtp(p, ids, table)[-1]
    u = np.zeros(states.shape)
    u[:, t] = normal(seed + 3, config.hidden_size)
    states.backward(u)
    assert not p.grad[0, t + 1 :].any() and p.grad[0, : t + 1].any(-1).all()


def test_a_depth_starts_from_the_depth_before():
    config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=2)
    mtp, table = modules(config)
    h, ids = inputs(config, 0, 1, 6)
    before = run(mtp, table, h, ids)
    mtp.layers[0].mlp.shared_experts.down_proj.weight.data[...] *= 2
    after = run(mtp, table, h, ids)
    assert relative(after[0][0], before[0][0]) > 1e-3 and relative(after[1][0], before[1][0]) > 1e-3
    mtp.layers[0].shared_head.norm.weight.data[...] *= 1.5  # what is passed on is normed: hnorm
    rescaled = run(mtp, table, h, ids)  # undoes a common factor
    assert relative(rescaled[0][0], 1.5 * after[0][0]) < 1e-12
    assert relative(rescaled[1][0], after[1][0]) < 1e-5


def test_a_model_may_hold_no_modules():
    config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=0)
    mtp, table = modules(config)
    assert run(mtp, table, *inputs(config, 0, 2, 4)) == [] and mtp.parameters() == []
    assert not DeepSeekV3.empty(DeepSeekV3Config.preset("small")).mtp.layers


@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_a_user_may_not_make_none(rng):
    config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=0)
    for given_config, came in ((config, 0), ("nano", None)):
        sentence = f"^num_nextn_predict_layers: got {came}, expected at least 1 module$"
        with pytest.raises(InputError, match=sentence):
            MTPModel(given_config, rng)


def test_alone_it_is_what_a_model_holds():
    """Made of a config and a generator, or of seed 2024; its losses are the model's."""
    config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=2)
    one, two = MTPModel(config), MTPModel(config, np.random.default_rng(2024))
    for (name, a), (_, b) in zip(one.named_tensors(), two.named_tensors(), strict=True):
        assert np.array_equal(a, b), name
    assert {a.dtype for _, a in one.named_tensors()} == {np.dtype("float32")}
    model, ids = build(config), draw_ids(config, 1, 2, 7)
    alone = MTPModel(config, Init(None, 0.0, np.float64))
    alone.load_state_dict(model.mtp.state_dict())
    h, _ = model.hidden(ids[:, :-1])
    for lengths in ([7, 7], [7, 4]):
        mask = (np.arange(7) < np.array(lengths)[:, None]).astype(int)
        expected = [loss.item() for loss in model.losses(ids, mask=mask).mtp]
        options = {} if lengths == [7, 7] else {"mask": mask, "terms": sum(lengths) - 2}
        found, routings = alone.losses(h, ids, model.model.embed_tokens, model.logits, **options)
        assert [loss.item() for loss in found] == pytest.approx(expected, rel=1e-12)
        assert len(routings) == 2


@given(deep, seeds, st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_steps_with_a_cache_are_the_whole_pass(config, seed, chunks, data):
    """In any chunks, the depths one after the other in each; rows of different lengths too."""
    mtp, table = modules(config, seed)
    depth, total = config.num_nextn_predict_layers, sum(chunks)
    lengths = np.array(data.draw(st.lists(st.integers(1, total), min_size=2, max_size=2)))
    h = normal(seed + 2, 2, total, config.hidden_size)
    ids = draw_ids(config, seed, 2, total + depth)  # of depth k the tokens k ahead
    cache, at = mtp.new_cache(2, 1), 0
    found = [[] for _ in range(depth)]
    with no_grad():
        for chunk in chunks:
            counts = np.clip(lengths - at, 0, chunk)
            mask = (np.arange(chunk) < counts[:, None]).astype(int)
            x = Tensor(h[:, at : at + chunk])
            for k, layer in enumerate(mtp.layers):
                embedded = table(ids[:, at + k + 1 : at + k + 1 + chunk])
                x, _ = layer.step(x, embedded, cache.layers[k], counts, mask)
                found[k].append(x.data)
            at += chunk
        x = Tensor(h)
        for k, layer in enumerate(mtp.layers):
            x, _ = layer.step(x, table(ids[:, k + 1 : k + 1 + total]))
            for b, n in enumerate(lengths):
                assert relative(np.concatenate(found[k], 1)[b, :n], x.data[b, :n]) < 1e-9
    assert all(layer.lengths.tolist() == lengths.tolist() for layer in cache.layers)


@given(deep, seeds)
def test_dropped_without_a_trace(config, seed):
    """A model without the modules, from the same tensors, says the same to the last bit."""
    model, ids = build(config, seed), draw_ids(config, seed, 2, 6)
    main = DeepSeekV3.empty(
        dataclasses.replace(config, num_nextn_predict_layers=0), np.float64
    )
    first, held = config.num_hidden_layers, model.state_dict()
    modules_own = [f"model.layers.{first + k}." for k in range(config.num_nextn_predict_layers)]
    left = {name: a for name, a in held.items() if not name.startswith(tuple(modules_own))}
    main.load_state_dict(left)  # which refuses a missing or an unexpected name
    with no_grad():
        before = model(ids).data
        assert np.array_equal(main(ids).data, before)
        scramble(model.mtp, seed + 1)
        assert np.array_equal(model(ids).data, before)


@given(deep, seeds, st.integers(2, 6), st.data())
def test_padding_is_sent_nowhere(config, seed, tokens, data):
    """Of a row of n tokens depth k has n − 1 − k slots, and those are what they are alone."""
    n = data.draw(st.integers(1, tokens + 1))
    mtp, table = modules(config, seed)
    h, ids = inputs(config, seed, 1, tokens)
    mask = (np.arange(tokens + 1) < n).astype(int)[None]
    padded, alone = run(mtp, table, h, ids, mask), run(mtp, table, h[:, : n - 1], ids[:, :n])
    for k, ((x, one), (y, two)) in enumerate(zip(padded, alone, strict=True), start=1):
        slots = max(0, n - 1 - k)
        assert np.array_equal(one.indices[:slots], two.indices) and one.counts == two.counts
        assert (one.indices[slots:] == -1).all()
        assert relative(x[:, :slots], y) < 1e-12


@pytest.mark.parametrize("depth", [1, 2])
def test_gradients(depth):
    """Of the states and of every parameter, those of the last depth's head norm included."""
    config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=depth)
    mtp, table = modules(config, seed=5)
    h, ids = inputs(config, 5, 1, 5)
    parameters = dict(mtp.named_parameters()) | {"embedding": table.weight}
    for k in range(depth):
        used = {n: p for n, p in parameters.items() if n[:7] != "layers." or int(n[7]) <= k}
        gradcheck(lambda h, k=k: mtp(h, ids, table)[k][0], h, parameters=used)
