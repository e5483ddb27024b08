"""Multi-head latent attention: both forms, positions, causality, and what it is a case of."""

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd.engine import Parameter, Tensor, no_grad, watch
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.errors import InputError
from minideepseek.layers import mla
from minideepseek.layers.mla import DeepSeekAttention, MultiHeadLatentAttention
from minideepseek.layers.module import Init
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.ledger import cache_elements
from tests.layers import plain
from tests.layers.common import forget, gradients, layer, normal, relative, seeds
from tests.strategies import configs

NANO = DeepSeekV3Config.preset("nano")
both_forms = pytest.mark.parametrize("absorbed", [False, True], ids=["naive", "absorbed"])


def attention(config, seed=0):
    return layer(DeepSeekAttention, config, seed=seed)


def names_of(module):
    """Its tensors as a layer's, for plain.py."""
    return {f"self_attn.{name}": array for name, array in module.state_dict().items()}


def run(module, x, *args, **options):
    with no_grad():
        return module(Tensor(x), *args, **options).data


# ------------------------------------------------------------------------------------ what it says


@given(configs(), seeds, st.integers(1, 2), st.integers(1, 6), st.booleans())
def test_is_the_sum_written_out_token_by_token(config, seed, batch, tokens, absorbed):
    """Both norms, one scale, rotary parts of query and key, the shared key, biases."""
    module, x = attention(config, seed), normal(seed, batch, tokens, config.hidden_size)
    y = run(module, x, absorbed=absorbed)
    for found, row in zip(y, x, strict=True):
        expected = plain.attention(config, names_of(module), row)
        assert np.abs(found - expected).max() <= 1e-9 * max(1, np.abs(expected).max())


@both_forms
def test_the_rotated_key_comes_from_the_hidden_state_one_for_all_heads(absorbed):
    """Without latent and queries' nope part, scores know h and the one key; all heads see it."""
    config = DeepSeekV3Config.preset("nano", q_lora_rank=None)
    module = attention(config)
    down, latent = module.kv_a_proj_with_mqa.weight, config.kv_lora_rank
    assert down.shape == (latent + config.qk_rope_head_dim, config.hidden_size)
    assert module.q_proj.weight.shape[0] == config.num_attention_heads * config.qk_head_dim
    x = normal(1, 1, 6, 32)
    before = run(module, x, absorbed=absorbed)
    for per_head in module.q_proj.weight.data.reshape(2, 16, 32):
        kept = per_head.copy()
        per_head[8:] = 0  # the rotary part of one head's queries
        assert relative(run(module, x, absorbed=absorbed), before) > 1e-3
        per_head[...] = kept
    down.data[latent:] = 0  # no rotated key: no positions
    shuffled = x[:, [3, 1, 0, 4, 2, 5]]
    last = [run(module, a, absorbed=absorbed)[0, -1] for a in (x, shuffled)]
    assert np.allclose(*last, atol=1e-12)


@given(configs(), seeds, st.integers(2, 5))
def test_half_split_weights_are_interleaved_ones_with_their_rows_permuted(config, seed, tokens):
    """Rows of the rotary parts of queries and key, evens first, then odds; nothing else."""
    dn, r, latent = config.qk_nope_head_dim, config.qk_rope_head_dim, config.kv_lora_rank
    evens_odds = [*range(0, r, 2), *range(1, r, 2)]
    pairs, split = (attention(replace(config, rope_interleave=b), seed) for b in (True, False))
    x = normal(seed, 1, tokens, config.hidden_size)
    q_name = "q_proj.weight" if config.q_lora_rank is None else "q_b_proj.weight"
    for name, width, before in ((q_name, dn + r, dn),
                                ("kv_a_proj_with_mqa.weight", latent + r, latent),
                                ("kv_a_proj_with_mqa.bias", latent + r, latent)):  # fmt: skip
        if name in split.state_dict():
            rows = split.state_dict()[name].reshape(-1, width, *split.state_dict()[name].shape[1:])
            rows[:, before:] = rows[:, before:][:, evens_odds]
    assert relative(run(split, x), run(pairs, x)) < 1e-12


@given(configs(), seeds, st.integers(3, 6), st.booleans())
def test_permuting_the_past_changes_the_output(config, seed, tokens, absorbed):
    """Unless there are no positions: the core alone cannot tell."""
    order = [*range(1, tokens - 1), 0, tokens - 1]
    x = normal(seed, 1, tokens, config.hidden_size)
    module, core = attention(config, seed), layer(MultiHeadLatentAttention, config, seed=seed)
    last = [run(module, a, absorbed=absorbed)[0, -1] for a in (x, x[:, order])]
    assert relative(*last) > 1e-11  # slow pairs turn by little; without positions it is 1e-15
    last = [run(core, a, absorbed=absorbed)[0, -1] for a in (x, x[:, order])]
    assert relative(*last) < 1e-9


@given(seeds, st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_without_compression_it_is_multi_head_attention(seed, heads, width, tokens, absorbed):
    """Latent norm off, kv_lora_rank = hidden_size, an identity for the down-projection."""
    d = heads * width
    config = SimpleNamespace(
        num_attention_heads=heads, hidden_size=d, kv_lora_rank=d, q_lora_rank=None,
        qk_nope_head_dim=width, v_head_dim=width, max_position_embeddings=64, attention_bias=False,
    )  # fmt: skip
    module = layer(MultiHeadLatentAttention, config, seed=seed)
    module.kv_a_layernorm = lambda latent: latent
    module.kv_a_proj_with_mqa.weight.data[...] = np.eye(d)
    w_k, w_v = np.split(module.kv_b_proj.weight.data.reshape(heads, 2 * width, d), 2, axis=1)
    w_q = module.q_proj.weight.data.reshape(heads, width, d)
    x, expected = normal(seed, tokens, d), []
    for t in range(tokens):
        outputs = []
        for h in range(heads):
            scores = [(w_q[h] @ x[t]) @ (w_k[h] @ x[s]) / np.sqrt(width) for s in range(t + 1)]
            p = np.exp(np.array(scores) - max(scores))
            outputs.append(sum(p[s] / p.sum() * (w_v[h] @ x[s]) for s in range(t + 1)))
        expected.append(module.o_proj.weight.data @ np.concatenate(outputs))
    assert relative(run(module, x[None], absorbed=absorbed)[0], np.array(expected)) < 1e-10


# --------------------------------------------------------------------------------------- two forms


def value_and_gradients(module, x, absorbed, u):
    forget(module)
    p = Parameter(x)
    y = module(p, absorbed=absorbed)
    y.backward(u)
    return y.data, gradients(module) | {"x": p.grad}


@given(configs(), seeds, st.integers(1, 2), st.integers(1, 7))
def test_absorbed_is_naive_in_value_and_gradient(config, seed, batch, tokens):
    module, x = attention(config, seed), normal(seed, batch, tokens, config.hidden_size)
    u = normal(seed + 1, *x.shape)
    (naive, dn), (absorbed, da) = (value_and_gradients(module, x, a, u) for a in (False, True))
    assert relative(absorbed, naive) < 1e-9
    for name in dn:
        assert np.abs(da[name] - dn[name]).max() < 1e-9 * max(1, np.abs(dn[name]).max()), name


def test_nothing_absorbed_is_kept_when_weights_change():
    module, x = attention(NANO), normal(0, 1, 5, 32)
    cache = module.new_cache(1, 8)
    run(module, x[:, :4], cache, absorbed=True)
    module.kv_b_proj.weight.data *= -1.5
    last = run(module, x[:, 4:], cache, absorbed=True)
    assert relative(last, run(module, x, absorbed=False)[:, 4:]) < 1e-12


@both_forms
def test_gradients(absorbed):
    for changes in ({}, {"q_lora_rank": None, "attention_bias": True, "rope_interleave": False}):
        module = attention(DeepSeekV3Config.preset("nano", **changes))
        parameters = dict(module.named_parameters())
        gradcheck(lambda x, m=module: m(x, absorbed=absorbed), normal(1, 2, 4, 32),
                  parameters=parameters)  # fmt: skip


def test_the_cheaper_form_by_counting_products():
    """V3: 170 new tokens are the most that are cheaper absorbed, whatever the context."""
    module = DeepSeekAttention.__new__(DeepSeekAttention)
    module.latent, module.nope, module.rope_width, module.value = 512, 128, 64, 128
    assert [t for t in range(1, 400) if module.absorbed_is_cheaper(t)] == list(range(1, 171))
    small = attention(NANO)  # 40 t < 256 + 24 t
    assert [t for t in range(1, 40) if small.absorbed_is_cheaper(t)] == list(range(1, 16))


def test_the_table_of_the_chapter_is_the_ledgers():
    """57 times less than MHA, 2.25 times more than MQA; BF16, 61 layers."""
    numbers = cache_elements(DeepSeekV3Config.preset("v3"))
    for kind in ("MHA", "GQA-8", "MQA", "MLA"):
        row = rf"^    {kind} .* {numbers[kind]:,} +{2 * 61 * numbers[kind]:,}( |$)"
        assert re.search(row, mla.__doc__, re.M), kind
    assert numbers["MLA"] / numbers["MQA"] == 2.25
    assert round(numbers["MHA"] / numbers["MLA"]) == 57


def test_a_rotation_passes_the_up_projection_of_one_head_and_not_of_all():
    """W A = R W can be solved for one head, since dn ≤ r; not for heads that share the latent."""
    heads, dn, r, rng = 4, 8, 16, np.random.default_rng(0)
    turn = np.kron(np.eye(dn // 2), [[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    w = rng.standard_normal((heads, dn, r))
    for count in (1, heads):
        stack, turned = w[:count].reshape(-1, r), (turn @ w[:count]).reshape(-1, r)
        a = np.linalg.lstsq(stack, turned, rcond=None)[0]
        assert (relative(stack @ a, turned) < 1e-10) == (count == 1)


def test_decoding_takes_the_cheaper_form_and_training_the_naive_one():
    def primitives(tokens, cached):
        module, seen = attention(NANO), []
        with watch(lambda name, _: seen.append(name)):
            run(module, normal(0, 1, tokens, 32), module.new_cache(1, 32) if cached else None)
        return seen

    assert primitives(1, True).count("head_linear") == 2  # to the latents, and back
    assert primitives(15, True).count("head_linear") == 2
    assert "head_linear" not in primitives(16, True) + primitives(1, False)


# --------------------------------------------------------------------------------------- causality


@both_forms
@given(configs(max_position_embeddings=128, rope_scaling=None), seeds, st.data())
@settings(max_examples=20)
def test_the_future_never_changes_the_past(absorbed, config, seed, data):
    """Bit for bit, over the boundaries of blocks of queries too; and gradients are exactly 0."""
    tokens = data.draw(st.sampled_from([5, 64, 65, 100]))
    t = data.draw(st.integers(0, tokens - 2))
    module, x = attention(config, seed), normal(seed, 2, tokens, config.hidden_size)
    other = x.copy()
    other[:, t + 1 :] = normal(seed + 1, *other[:, t + 1 :].shape)
    before, after = (run(module, a, absorbed=absorbed) for a in (x, other))
    assert np.array_equal(before[:, : t + 1], after[:, : t + 1])
    assert relative(after[:, t + 1], before[:, t + 1]) > 1e-9  # its own token matters
    p, u = Parameter(x), np.zeros_like(x)
    u[:, t] = 1
    module(p, absorbed=absorbed).backward(u)
    assert not p.grad[:, t + 1 :].any() and p.grad[:, t].any()


@pytest.mark.parametrize("pieces", [[130], [3, 127], [64, 65, 1], [66, 64]], ids=str)
@both_forms
def test_blocks_of_queries_see_all_that_lies_before_them(absorbed, pieces):
    """Attention works through 64 queries at a time; one token at a time there are no blocks."""
    config = DeepSeekV3Config.preset("nano", max_position_embeddings=130)
    module, x = attention(config), normal(0, 2, 130, 32)
    one, many = module.new_cache(2, 130), module.new_cache(2, 130)
    steps = [run(module, x[:, t : t + 1], one, absorbed=True) for t in range(130)]
    ends = [0, *itertools.accumulate(pieces)]
    parts = [run(module, x[:, a:b], many, absorbed=absorbed) for a, b in itertools.pairwise(ends)]
    assert relative(np.concatenate(parts, 1), np.concatenate(steps, 1)) < 1e-11


@both_forms
@given(configs(), seeds, st.integers(1, 6))
def test_rows_of_a_batch_do_not_meet(absorbed, config, seed, tokens):
    module, x = attention(config, seed), normal(seed, 3, tokens, config.hidden_size)
    other = x.copy()
    other[[0, 2]] = normal(seed + 1, 2, tokens, config.hidden_size)
    before, after = (run(module, a, absorbed=absorbed) for a in (x, other))
    assert np.array_equal(before[1], after[1])
    assert relative(run(module, x[::-1].copy(), absorbed=absorbed), before[::-1]) < 1e-12


@both_forms
@given(configs(), seeds, st.data())
def test_segments_do_not_see_each_other(absorbed, config, seed, data):
    tokens = data.draw(st.integers(1, 7))
    ids = data.draw(st.lists(st.integers(0, 2), min_size=tokens, max_size=tokens).map(sorted))
    module, x = attention(config, seed), normal(seed, 1, tokens, config.hidden_size)
    y = run(module, x, segment_ids=np.array([ids]), absorbed=absorbed)
    for segment in set(ids):
        rows = [i for i in range(tokens) if ids[i] == segment]
        alone = run(module, x[:, rows], absorbed=absorbed)  # from position 0: distances are kept
        assert relative(y[:, rows], alone) < 1e-9


def test_a_config_or_its_fields_and_a_generator():
    for kind in (MultiHeadLatentAttention, DeepSeekAttention):
        fields = {name: getattr(NANO, name) for name in kind.fields}
        made = [kind(NANO, np.random.default_rng(5)), kind(**fields, rng=np.random.default_rng(5)),
                kind(NANO, Init(np.random.default_rng(5), 0.02))]  # fmt: skip
        for other in made[1:]:
            states = made[0].state_dict(), other.state_dict()
            assert states[0].keys() == states[1].keys()
            assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(InputError, match="^kv_lora_rank: got no"):
        DeepSeekAttention(hidden_size=32, num_attention_heads=2)
    with pytest.raises(InputError, match="^qk_rope_head_dim: no such field, expected one of "):
        MultiHeadLatentAttention(**fields)


def in_float32(module):
    other = DeepSeekAttention(NANO, Init(None, 0.0))
    other.load_state_dict(module.state_dict())
    return other


def test_float32_stays_float32_and_is_near_float64():
    module, x = attention(NANO), normal(0, 2, 9, 32)
    exact = run(module, x)
    single = in_float32(module)
    for absorbed in (False, True):
        y = run(single, x.astype(np.float32), absorbed=absorbed)
        assert y.dtype == np.float32 and relative(y, exact) < 1e-5
