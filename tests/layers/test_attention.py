"""MHA, MQA, GQA: one sum written out, its two ends, causality, positions, and its cache."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.autograd.engine import Parameter, Tensor, no_grad
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.errors import InputError
from minideepseek.layers.attention import (
    GroupedQueryAttention,
    MultiHeadAttention,
    MultiQueryAttention,
)
from minideepseek.layers.mla import DeepSeekAttention
from minideepseek.layers.module import Init
from minideepseek.model.config import DeepSeekV3Config
from tests.layers import plain
from tests.layers.common import normal, relative, scramble, seeds
from tests.layers.test_mla_cache import chunkings
from tests.strategies import rope_scalings

SIZES = {"hidden_size": 12, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}


@st.composite
def sizes(draw, **fixed):
    """Arguments of a GroupedQueryAttention."""
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    scaling, positions = draw(rope_scalings())
    if scaling is not None:  # what a configuration would fill in
        scaling = {"beta_fast": 32.0, "beta_slow": 1.0, **scaling}
    drawn = {
        "hidden_size": draw(st.integers(1, 14)),
        "num_attention_heads": groups * per_group,
        "num_key_value_heads": groups,
        "head_dim": draw(st.sampled_from([2, 4, 6])),
        "max_position_embeddings": positions,
        "rope_theta": draw(st.sampled_from([10000.0, 500.0, 7.5])),
        "rope_scaling": scaling,
    }
    return drawn | fixed


def make(sizes, seed=0, kind=GroupedQueryAttention, dtype=np.float64):
    """A scrambled module."""
    if kind is not GroupedQueryAttention:
        sizes = {name: n for name, n in sizes.items() if name != "num_key_value_heads"}
    return scramble(kind(**sizes, rng=Init(None, 0.0, dtype)), seed)


def run(module, x, *args, **options):
    with no_grad():
        return module(Tensor(x), *args, **options).data


def weights(module):
    return {name.removesuffix(".weight"): a for name, a in module.state_dict().items()}


def slowly(sizes, w, x, segments=None):
    """One token, one head at a time.  x (T, d) → (T, d)."""
    c = SimpleNamespace(**sizes, qk_rope_head_dim=sizes["head_dim"], rope_interleave=False)
    width, heads = c.head_dim, c.num_attention_heads
    scale = plain.positions(c)[2] / np.sqrt(width)
    cut = [slice(i * width, (i + 1) * width) for i in range(heads)]
    keys = [[plain.rotate(c, (w["k_proj"] @ h)[cut[g]], s) for s, h in enumerate(x)]
            for g in range(c.num_key_value_heads)]  # fmt: skip
    out = []
    for t, h in enumerate(x):
        past = [s for s in range(t + 1) if segments is None or segments[s] == segments[t]]
        parts = []
        for i in range(heads):
            g = i * c.num_key_value_heads // heads
            q = plain.rotate(c, (w["q_proj"] @ h)[cut[i]], t)
            scores = np.array([scale * (q @ keys[g][s]) for s in past])
            p = np.exp(scores - scores.max())
            parts.append(sum(p[j] / p.sum() * (w["v_proj"] @ x[s])[cut[g]]
                             for j, s in enumerate(past)))  # fmt: skip
        out.append(w["o_proj"] @ np.concatenate(parts))
    return np.array(out)




# ------------------------------------------------------------------------------------ what it says


@given(sizes(), seeds, st.integers(1, 2), st.integers(1, 6))
def test_is_the_sum_written_out_token_by_token(sizes, seed, batch, tokens):
    module, x = make(sizes, seed), normal(seed, batch, tokens, sizes["hidden_size"])
    expected = np.array([slowly(sizes, weights(module), row) for row in x])
    assert np.abs(run(module, x) - expected).max() <= 1e-9 * max(1, np.abs(expected).max())


@given(sizes(), seeds, st.data())
def test_segments_do_not_see_each_other(sizes, seed, data):
    tokens = data.draw(st.integers(1, 7))
    ids = data.draw(st.lists(st.integers(0, 2), min_size=tokens, max_size=tokens).map(sorted))
    module, x = make(sizes, seed), normal(seed, 1, tokens, sizes["hidden_size"])
    expected = slowly(sizes, weights(module), x[0], ids)
    y = run(module, x, segment_ids=np.array([ids]))[0]
    assert np.abs(y - expected).max() <= 1e-9 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_two_ends_are_mha_and_mqa_bit_for_bit(seed):
    x = normal(seed, 2, 7, 12)
    for kind, groups in ((MultiHeadAttention, 4), (MultiQueryAttention, 1)):
        module = make(SIZES, seed, kind)
        grouped = make(SIZES | {"num_key_value_heads": groups}, seed + 1)
        grouped.load_state_dict(module.state_dict())
        assert np.array_equal(run(grouped, x), run(module, x))
        assert module.new_cache(1, 1).width == 2 * groups * 6
        assert module.k_proj.weight.shape == module.v_proj.weight.shape == (groups * 6, 12)


@given(sizes(), seeds, st.integers(1, 6))
def test_a_key_value_head_for_each_query_head_may_be_the_groups_own_repeated(sizes, seed, tokens):
    """Head i reads group ⌊i · n_g / n_h⌋: neighbours share."""
    few, x = make(sizes, seed), normal(seed, 2, tokens, sizes["hidden_size"])
    many = make(sizes, seed, MultiHeadAttention)
    width, each = sizes["head_dim"], sizes["num_attention_heads"] // sizes["num_key_value_heads"]
    state = few.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        heads = state[name].reshape(-1, width, sizes["hidden_size"])
        state[name] = heads.repeat(each, 0).reshape(-1, sizes["hidden_size"])
    many.load_state_dict(state)
    assert relative(run(many, x), run(few, x)) < 1e-12


@given(sizes(), seeds, st.integers(1, 7))
def test_heads_are_convex_combinations_of_the_values_they_may_see(sizes, seed, tokens):
    heads, groups = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    sizes = sizes | {"hidden_size": heads * sizes["head_dim"]}
    module, x = make(sizes, seed), normal(seed, 1, tokens, sizes["hidden_size"])
    module.o_proj.weight.data[...] = np.eye(sizes["hidden_size"])
    y = run(module, x)[0].reshape(tokens, heads, -1)
    v = (x[0] @ module.v_proj.weight.data.T).reshape(tokens, groups, -1)
    v = v.repeat(heads // groups, 1)  # (T, H, d_h)
    for t in range(tokens):
        low, high = v[: t + 1].min(0), v[: t + 1].max(0)
        assert (low - 1e-12 <= y[t]).all() and (y[t] <= high + 1e-12).all()
    module.v_proj.weight.data[...] = 0
    module.v_proj.weight.data[:, 0] = 1  # all values of a token alike, in all groups
    x[..., 0] = 3.25
    assert np.allclose(run(module, x), 3.25, atol=1e-12)  # weights add up to 1


@pytest.mark.parametrize("kind", [MultiHeadAttention, MultiQueryAttention, GroupedQueryAttention])
def test_gradients(kind):
    module = make(SIZES, 1, kind)
    gradcheck(module, normal(1, 2, 4, 12), parameters=dict(module.named_parameters()))


# --------------------------------------------------------------------------------------- positions


@given(sizes(rope_scaling=None, max_position_embeddings=64), seeds, st.integers(1, 40))
def test_knows_relative_positions_only(sizes, seed, shift):
    """A text may begin anywhere: behind `shift` tokens of another segment, say."""
    module, x = make(sizes, seed), normal(seed, 1, 5, sizes["hidden_size"])
    before = normal(seed + 1, 1, shift, sizes["hidden_size"])
    ids = np.array([[0] * shift + [1] * 5])
    y = run(module, np.concatenate([before, x], 1), segment_ids=ids)[:, shift:]
    assert np.abs(y - run(module, x)).max() <= 1e-9 * max(1, np.abs(y).max())


@given(sizes(), seeds, st.integers(3, 6))
def test_permuting_the_past_changes_the_output(sizes, seed, tokens):
    sizes = sizes | {"hidden_size": 8, "rope_scaling": None, "max_position_embeddings": 16}
    module, x = make(sizes, seed), normal(seed, 1, tokens, 8)
    order = [*range(1, tokens - 1), 0, tokens - 1]
    last = [run(module, a)[0, -1] for a in (x, x[:, order])]
    assert relative(*last) > 1e-9  # without positions it is 1e-15


# --------------------------------------------------------------------------------------- causality


@given(sizes(rope_scaling=None, max_position_embeddings=128), seeds, st.data())
@settings(max_examples=20)
def test_the_future_never_changes_the_past(sizes, seed, data):
    """Bit for bit, over the boundaries of blocks of queries too; and gradients are exactly 0."""
    tokens = data.draw(st.sampled_from([5, 64, 65, 100]))
    t = data.draw(st.integers(0, tokens - 2))
    module, x = make(sizes, seed), normal(seed, 2, tokens, sizes["hidden_size"])
    other = x.copy()
    other[:, t + 1 :] = normal(seed + 1, *other[:, t + 1 :].shape)
    before, after = (run(module, a) for a in (x, other))
    assert np.array_equal(before[:, : t + 1], after[:, : t + 1])
    assert relative(after[:, t + 1], before[:, t + 1]) > 1e-9  # its own token matters
    p, u = Parameter(x), np.zeros_like(x)
    u[:, t] = 1
    module(p).backward(u)
    grad = np.asarray(p.grad)
    assert not grad[:, t + 1 :].any() and grad[:, t].any()


@given(sizes(), seeds, st.integers(1, 6))
def test_rows_of_a_batch_do_not_meet(sizes, seed, tokens):
    module, x = make(sizes, seed), normal(seed, 3, tokens, sizes["hidden_size"])
    other = x.copy()
    other[[0, 2]] = normal(seed + 1, 2, tokens, sizes["hidden_size"])
    before, after = (run(module, a) for a in (x, other))
    assert np.array_equal(before[1], after[1])
    assert relative(run(module, x[::-1].copy()), before[::-1]) < 1e-12


# ------------------------------------------------------------------------------------------- cache


@given(sizes(), seeds, st.integers(1, 2), chunkings())
def test_any_chunking_is_one_pass(sizes, seed, batch, pieces):
    module, x = make(sizes, seed), normal(seed, batch, sum(pieces), sizes["hidden_size"])
    cache, ends = module.new_cache(batch, 1), [0, *itertools.accumulate(pieces)]
    parts = [run(module, x[:, a:b], cache) for a, b in itertools.pairwise(ends)]
    assert relative(np.concatenate(parts, 1), run(module, x)) < 1e-9
    assert cache.lengths.tolist() == [sum(pieces)] * batch


@given(sizes(), seeds, st.data())
def test_rows_of_any_lengths_continue_their_own_tokens(sizes, seed, data):
    """Pieces padded on the right; between them rows are cut back, as drafts that were wrong, and
    some rows leave."""
    d, rows = sizes["hidden_size"], list(range(data.draw(st.integers(1, 3))))
    module, x = make(sizes, seed), normal(seed, len(rows), 12, d)
    expected, rng = run(module, x), np.random.default_rng(seed)
    cache, at = module.new_cache(len(rows), 1), np.zeros(len(rows), int)
    for _ in range(data.draw(st.integers(1, 4))):
        tokens = data.draw(st.integers(1, 3))
        counts = np.array([data.draw(st.integers(0, tokens)) for _ in rows])
        piece = 9 * rng.standard_normal((len(rows), tokens, d))  # padding: anything
        for b, row in enumerate(rows):
            piece[b, : counts[b]] = x[row, at[b] : at[b] + counts[b]]
        y = run(module, piece, cache, counts)
        for b, row in enumerate(rows):
            want = expected[row, at[b] : at[b] + counts[b]]
            assert np.abs(y[b, : counts[b]] - want).max(initial=0) < 1e-9 * np.abs(expected).max()
        at += counts
        assert cache.lengths.tolist() == at.tolist()
        at = np.array([data.draw(st.integers(0, int(n))) for n in at])
        cache.truncate(at)
        kept = data.draw(st.permutations(range(len(rows))))[: data.draw(st.integers(1, len(rows)))]
        cache.select(np.array(kept))
        rows, at = [rows[b] for b in kept], at[kept]


@given(sizes(), seeds, st.integers(1, 2), st.integers(1, 5))
def test_holds_rotated_keys_and_values_of_the_groups_and_nothing_else(sizes, seed, batch, tokens):
    module, x = make(sizes, seed), normal(seed, batch, tokens, sizes["hidden_size"])
    cache, w = module.new_cache(batch, tokens), weights(module)
    run(module, x[:, :1], cache)
    run(module, x[:, 1:], cache)
    groups, width = sizes["num_key_value_heads"], sizes["head_dim"]
    assert cache.nbytes == batch * tokens * 2 * groups * width * 8
    c = SimpleNamespace(**sizes, qk_rope_head_dim=width, rope_interleave=False)
    held = cache.data.reshape(batch, tokens, groups, 2 * width)
    for b, t, g in np.ndindex(batch, tokens, groups):
        key = (w["k_proj"] @ x[b, t])[g * width : (g + 1) * width]
        value = (w["v_proj"] @ x[b, t])[g * width : (g + 1) * width]
        expected = np.concatenate([plain.rotate(c, key, t), value])
        assert np.abs(held[b, t, g] - expected).max() <= 1e-11 * max(1, np.abs(expected).max())


def test_a_step_writes_in_place_and_the_capacity_doubles():
    module, homes = make(SIZES), list[np.ndarray]()
    cache = module.new_cache(1, 4)
    for t in range(40):
        run(module, normal(t, 1, 1, 12), cache)
        if not homes or cache.data is not homes[-1]:
            homes.append(cache.data)
    assert [home.shape[1] for home in homes] == [4, 8, 16, 32, 64]


def test_v3s_numbers():
    """The chapter's table: numbers per token and layer, and bytes over 61 layers in BF16."""
    v3 = DeepSeekV3Config.preset("v3")
    d_h, heads = v3.v_head_dim, v3.num_attention_heads

    def kept(kind, **changes):
        module = kind.__new__(kind)
        module.groups = kind.groups_of(module, SimpleNamespace(**vars(v3) | changes))
        module.width = d_h
        return module.stored

    latent = v3.kv_lora_rank + v3.qk_rope_head_dim
    found = [kept(MultiHeadAttention), kept(GroupedQueryAttention, num_key_value_heads=8), latent,
             kept(MultiQueryAttention)]  # fmt: skip
    assert found == [32768, 2048, 576, 256]
    assert [2 * 61 * n for n in found] == [3_997_696, 249_856, 70_272, 31_232]
    assert round(found[0] / latent) == 57 and latent / found[3] == 2.25
    absorbed = 2 * heads * (latent + v3.kv_lora_rank)  # FLOPs per cached token
    per_byte = [4 * heads * d_h / (2 * n) for n in found]
    assert per_byte[0] == 1 and per_byte[1] == 16 and per_byte[3] == 128
    assert round(absorbed / (2 * latent)) == 242


# ----------------------------------------------------------------------------------- construction


def test_plain_arguments_a_config_and_the_generator():
    plainly = GroupedQueryAttention(**SIZES, rng=np.random.default_rng(3))
    config = SimpleNamespace(**GroupedQueryAttention.fields | SIZES)
    same = GroupedQueryAttention(config, np.random.default_rng(3))
    for (name, a), (other, b) in zip(plainly.named_tensors(), same.named_tensors(), strict=True):
        assert name == other and np.array_equal(a, b) and a.dtype == np.float32
    assert 0.015 < plainly.q_proj.weight.data.std() < 0.025
    names = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"]
    assert list(plainly.state_dict()) == names
    assert MultiHeadAttention(hidden_size=12, num_attention_heads=3).width == 4


def test_a_deepseek_config_serves_the_first_chapter_too():
    config = DeepSeekV3Config.preset("nano")
    module = MultiHeadAttention(config, np.random.default_rng(0))
    assert module.width == 16 and module.groups == 2 and module.rotary.limit == 64


def test_on_every_device(device):
    module, x = make(SIZES), normal(0, 2, 9, 12)
    expected = run(module, x)
    there, moved = module.to(device), backend.to_device(x, device)
    assert backend.device_of(run(there, moved)).name == device
    assert relative(backend.to_host(run(there, moved)), expected) < 1e-12
    cache = there.new_cache(2, 4)
    counts = np.array([4, 2])
    run(there, moved[:, :4], cache, counts)
    y = run(there, moved[:, 4:6], cache)  # row 0 continues; row 1 skips two tokens of its own
    assert relative(backend.to_host(y)[0], expected[0, 4:6]) < 1e-9
    cache.truncate(np.array([4, 1]))
    cache.select(np.array([1, 0]))
    y = run(there, backend.to_device(np.stack([x[1, 1:3], x[0, 4:6]]), device), cache)
    want = np.stack([expected[1, 1:3], expected[0, 4:6]])
    assert relative(backend.to_host(y), want) < 1e-9
    p = Parameter(moved)
    there(p).backward(backend.to_device(np.ones_like(x), device))
    assert backend.device_of(p.grad).name == device


def test_float32_stays_float32_and_is_near_float64():
    module, x = make(SIZES), normal(0, 2, 9, 12)
    single = make(SIZES, dtype=np.float32)
    y = run(single, x.astype(np.float32))
    assert y.dtype == np.float32 and relative(y, run(module, x)) < 1e-5


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads: got 3, expected a divisor of .* = 4"),
        ({"num_key_value_heads": 8}, "num_key_value_heads: got 8, expected a divisor of .* = 4"),
        ({"num_key_value_heads": 0}, "num_key_value_heads: got 0, expected a divisor of .* = 4"),
        ({"num_attention_heads": 0}, "num_key_value_heads: got 2, expected a divisor of .* = 0"),
        ({"hidden_size": 14, "head_dim": None}, "head_dim: got none, expected it where .* = 14"),
        ({"head_dim": 3}, "rotated channels of a head: got 3, expected an even number, .*"),
        ({"rng": 7}, "rng: got 7, expected a numpy.random.Generator or None"),
        ({"heads": 7}, "heads: .*expected one of hidden_size, .*"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(changes, sentence):
    with pytest.raises(InputError, match=f"^{sentence}$"):
        GroupedQueryAttention(**SIZES | changes)


def test_a_missing_size_is_named():
    with pytest.raises(InputError, match="^num_key_value_heads: got no.*, expected it "):
        GroupedQueryAttention(hidden_size=12, num_attention_heads=4)
    with pytest.raises(InputError, match="^num_key_value_heads: .*expected one of hidden_size, "):
        MultiQueryAttention(**SIZES)


@pytest.mark.parametrize("counts", [None, [4, 2]], ids=["even", "ragged"])
@pytest.mark.parametrize(
    ("shape", "dtype", "sentence"),
    [
        ((3, 1), np.float64, r"cache: got rows of shape \(3, 1, 24\).*\(2, tokens, 24\)"),
        ((1, 1), np.float64, r"cache: got rows of shape \(1, 1, 24\).*\(2, tokens, 24\)"),
        ((2, 1), np.float32, "cache: got float32, it holds float64"),
        ((2, 61), np.float64, "position 64 is beyond max_position_embeddings 64; .*YaRN.*"),
    ],
    ids=["larger", "smaller", "dtype", "positions"],
)
def test_a_cache_that_does_not_fit_is_refused_and_unchanged(shape, dtype, sentence, counts):
    sizes = SIZES | {"max_position_embeddings": 64}
    module = make(sizes)
    cache = module.new_cache(2, 8)
    run(module, normal(0, 2, 4, 12), cache, counts and np.array(counts))
    held, lengths = cache.data.copy(), cache.lengths.tolist()
    with pytest.raises(InputError, match=f"^{sentence}$"):
        run(make(sizes, dtype=dtype), normal(0, *shape, 12).astype(dtype), cache)
    assert cache.lengths.tolist() == lengths and np.array_equal(cache.data, held)


@pytest.mark.parametrize("other", ["mqa", "mla"])
def test_a_cache_of_another_kind_is_refused(other):
    module = make(SIZES)
    kinds = {
        "mqa": make(SIZES, 0, MultiQueryAttention),
        "mla": DeepSeekAttention(DeepSeekV3Config.preset("nano", kv_lora_rank=8)),
    }
    with pytest.raises(InputError, match=r"^cache: got rows of shape \(1, 2, 24\), it was made "):
        run(module, normal(0, 1, 2, 12), kinds[other].new_cache(1, 8))


def test_a_cache_past_its_limit_is_refused():
    module = make(SIZES)
    cache = module.new_cache(1, 8)
    assert cache.limit == 4096  # max_position_embeddings
    cache.limit = 5
    run(module, normal(0, 1, 4, 12), cache)
    with pytest.raises(InputError, match="^cache: 6 tokens asked for, its limit is 5$"):
        run(module, normal(0, 1, 2, 12), cache)
    assert cache.lengths.tolist() == [4]


def test_yarn_opens_positions_beyond():
    yarn = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
    far = make(SIZES | {"rope_scaling": yarn, "max_position_embeddings": 16})
    near, x = make(SIZES | {"max_position_embeddings": 8}), normal(0, 1, 16, 12)
    assert run(far, x).shape == (1, 16, 12)
    with pytest.raises(InputError, match="^position 15 is beyond max_position_embeddings 8; "):
        run(near, x)


def test_segments_with_a_cache_are_refused():
    module = make(SIZES)
    cache = module.new_cache(1, 8)
    with pytest.raises(InputError, match="^segment_ids: not with a cache"):
        run(module, normal(0, 1, 3, 12), cache, segment_ids=np.zeros((1, 3), int))
    assert cache.lengths.tolist() == [0]
