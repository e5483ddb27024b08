"""Multi-head latent attention over its cache: any chunking, any lengths, and what it holds."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.layers.cache import LatentCache
from minideepseek.layers.mla import MultiHeadLatentAttention
from tests.layers import plain
from tests.layers.common import layer, normal, relative, seeds
from tests.layers.test_mla import NANO, attention, in_float32, names_of, run
from tests.strategies import configs


@st.composite
def chunkings(draw, most=9):
    """Lengths of pieces that follow each other, `most` tokens at the most in all."""
    pieces = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    ends = itertools.accumulate(pieces)
    return [n for n, end in zip(pieces, ends, strict=True) if end <= most] or [1]


@given(configs(), seeds, st.integers(1, 2), chunkings(), st.lists(st.booleans(), min_size=6))
def test_any_chunking_is_one_pass(config, seed, batch, pieces, forms):
    module, x = attention(config, seed), normal(seed, batch, sum(pieces), config.hidden_size)
    cache, at, parts = module.new_cache(batch, 1), 0, []
    for n, absorbed in zip(pieces, forms, strict=False):
        parts.append(run(module, x[:, at : at + n], cache, absorbed=absorbed))
        at += n
    assert relative(np.concatenate(parts, 1), run(module, x)) < 1e-9
    assert cache.lengths.tolist() == [sum(pieces)] * batch


@given(configs(), seeds, st.data())
def test_rows_of_any_lengths_continue_their_own_tokens(config, seed, data):
    """Pieces padded on the right, each row with its own number of real tokens in each."""
    rows = data.draw(st.integers(1, 3))
    module, cache = attention(config, seed), None
    x = normal(seed, rows, 12, config.hidden_size)
    expected, rng = run(module, x), np.random.default_rng(seed)
    cache, at = module.new_cache(rows, 1), np.zeros(rows, int)
    for _ in range(data.draw(st.integers(1, 4))):
        tokens, absorbed = data.draw(st.integers(1, 3)), data.draw(st.booleans())
        counts = np.array([data.draw(st.integers(0, tokens)) for _ in range(rows)])
        piece = 9 * rng.standard_normal((rows, tokens, config.hidden_size))  # padding: anything
        for b in range(rows):
            piece[b, : counts[b]] = x[b, at[b] : at[b] + counts[b]]
        y = run(module, piece, cache, counts, absorbed=absorbed)
        for b in range(rows):
            want = expected[b, at[b] : at[b] + counts[b]]
            assert np.abs(y[b, : counts[b]] - want).max(initial=0) < 1e-9 * np.abs(expected).max()
        at += counts
        assert cache.lengths.tolist() == at.tolist()


@given(configs(), seeds, st.integers(1, 2), st.integers(1, 5))
def test_holds_the_latent_after_its_norm_and_the_rotated_key_and_nothing_else(
    config, seed, batch, tokens
):
    module, x = attention(config, seed), normal(seed, batch, tokens, config.hidden_size)
    cache = module.new_cache(batch, tokens)
    run(module, x[:, :1], cache)
    run(module, x[:, 1:], cache)
    width = config.kv_lora_rank + config.qk_rope_head_dim
    assert cache.data.shape == (batch, tokens, width)
    assert cache.nbytes == batch * tokens * width * 8
    assert [name for name, v in vars(cache).items() if type(v) is np.ndarray and v.ndim > 1] == [
        "data"
    ]
    for held, row in zip(cache.data, x, strict=True):
        latent, keys = plain.cached(config, names_of(module), row)
        assert relative(held, np.concatenate([latent, keys], 1)) < 1e-11


def test_the_core_caches_the_latent_alone():
    module, x = layer(MultiHeadLatentAttention, NANO), normal(0, 2, 6, 32)
    cache = module.new_cache(2, 6)
    parts = [run(module, x[:, :4], cache), run(module, x[:, 4:], cache)]
    assert cache.data.shape == (2, 6, 16)
    assert relative(np.concatenate(parts, 1), run(module, x)) < 1e-12


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("counts", [None, [4, 2]], ids=["even", "ragged"])
@pytest.mark.parametrize(
    ("shape", "dtype", "sentence"),
    [
        ((3, 1, 32), np.float64, r"cache: got rows of shape \(3, 1, 24\).*\(2, tokens, 24\)"),
        ((2, 1, 32), np.float32, "cache: got float32, it holds float64"),
        ((2, 61, 32), np.float64, "position 64 is beyond max_position_embeddings 64; .*YaRN.*"),
    ],
    ids=["batch", "dtype", "positions"],
)
def test_a_cache_that_does_not_fit_is_refused_and_unchanged(shape, dtype, sentence, counts):
    module = attention(NANO)
    cache = module.new_cache(2, 8)
    run(module, normal(0, 2, 4, 32), cache, counts and np.array(counts))
    held, lengths = cache.data.copy(), cache.lengths.tolist()
    if dtype == np.float32:
        module = in_float32(module)
    with pytest.raises(InputError, match=f"^{sentence}$"):
        run(module, normal(0, *shape).astype(dtype), cache)
    assert cache.lengths.tolist() == lengths and np.array_equal(cache.data, held)


def test_segments_with_a_cache_are_refused():
    module = attention(NANO)
    cache = module.new_cache(1, 8)
    with pytest.raises(InputError, match="^segment_ids: not with a cache"):
        run(module, normal(0, 1, 3, 32), cache, segment_ids=np.zeros((1, 3), int))
    assert cache.lengths.tolist() == [0]


@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 4))
def test_room_that_is_filled_by_the_caller_is_an_append(seed, chunks, capacity):
    one, other = (LatentCache(1, capacity, 3, 12) for _ in range(2))
    for i, tokens in enumerate(chunks):
        new = normal(seed + i, 1, tokens, 3)
        if sum(chunks[: i + 1]) > 12:
            with pytest.raises(InputError, match="its limit is 12"):
                other.extend(tokens, new[0])
            return
        expected = one.append(new)
        view = other.extend(tokens, new[0])
        view[-tokens:] = new[0]
        assert np.array_equal(view, expected[0]) and view.base is not None
        assert other.lengths.tolist() == one.lengths.tolist()
    with pytest.raises(InputError, match="it holds float64"):
        other.extend(1, new[0].astype(np.float32))
    assert other.lengths.tolist() == one.lengths.tolist()
