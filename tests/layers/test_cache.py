"""The latent cache against lists of tokens: rows of different lengths, cut, chosen and grown."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.layers.cache import LatentCache, ModelCache
from tests.layers.common import normal, seeds


@st.composite
def histories(draw):
    """(rows, steps) with steps ("append", tokens, counts), ("truncate", lengths), ("select", …)."""
    rows = draw(st.integers(1, 3))
    lengths, steps = [0] * rows, []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["append", "append", "ragged", "truncate", "select"]))
        if kind in ("append", "ragged"):
            tokens = draw(st.integers(1, 4))
            counts = [tokens] * len(lengths)
            if kind == "ragged":
                counts = [draw(st.integers(0, tokens)) for _ in lengths]
            steps.append(("append", tokens, counts if kind == "ragged" else None))
            lengths = [n + c for n, c in zip(lengths, counts, strict=True)]
        elif kind == "truncate":
            lengths = [draw(st.integers(0, n)) for n in lengths]
            steps.append(("truncate", lengths))
        else:
            picked = draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=3))
            steps.append(("select", picked))
            lengths = [lengths[i] for i in picked]
    return rows, steps


@given(histories(), seeds, st.integers(1, 5))
def test_holds_what_a_list_of_tokens_per_row_holds(history, seed, capacity):
    rows, steps = history
    rng, cache = np.random.default_rng(seed), LatentCache(rows, capacity, 3, 100)
    lists = [np.zeros((0, 3)) for _ in range(rows)]
    for step in steps:
        if step[0] == "append":
            _, tokens, counts = step
            new = rng.standard_normal((len(lists), tokens, 3))
            real = [tokens] * len(lists) if counts is None else counts
            longest = max(len(row) for row in lists)
            lists = [np.concatenate([a, b[:n]]) for a, b, n in zip(lists, new, real, strict=True)]
            seen = cache.append(new, None if counts is None else np.array(counts))
            assert seen.shape == (len(lists), longest + tokens, 3)
            for row, expected in zip(seen, lists, strict=True):
                assert np.array_equal(row[: len(expected)], expected)
        elif step[0] == "truncate":
            lists = [row[:n] for row, n in zip(lists, step[1], strict=True)]
            cache.truncate(np.array(step[1]))
        else:
            lists = [lists[i] for i in step[1]]
            cache.select(np.array(step[1]))
        lengths = [len(row) for row in lists]
        assert cache.lengths.tolist() == lengths
        at = cache.offsets
        assert (at == lengths[0]) if isinstance(at, int) else at.tolist() == lengths
        assert isinstance(at, int) == (len(set(lengths)) == 1)


def test_a_token_is_written_in_place_and_the_capacity_doubles():
    cache, homes = LatentCache(2, 4, 3, 1000), []
    for t in range(200):
        cache.append(np.full((2, 1, 3), t, np.float32))
        if not homes or cache.data is not homes[-1]:
            homes.append(cache.data)
    assert [home.shape[1] for home in homes] == [4, 8, 16, 32, 64, 128, 256]
    assert np.array_equal(cache.data[1, :200, 2], np.arange(200))
    assert cache.nbytes == 2 * 256 * 3 * 4


def test_the_capacity_ends_at_the_limit():
    cache = LatentCache(1, 5, 2, 7)
    cache.append(np.zeros((1, 5, 2)))
    cache.append(np.zeros((1, 2, 2)))
    assert cache.data.shape[1] == 7
    held = cache.data.copy()
    with pytest.raises(InputError, match=r"^cache: 8 tokens asked for, its limit is 7$"):
        cache.append(np.ones((1, 1, 2)))
    assert cache.lengths.tolist() == [7] and np.array_equal(cache.data, held)
    cache.truncate(6)
    cache.append(np.ones((1, 1, 2)))


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (np.zeros((3, 1, 4), np.float32), r"got rows of shape \(3, 1, 4\).* \(2, tokens, 4\)"),
        (np.zeros((2, 1, 5), np.float32), r"got rows of shape \(2, 1, 5\).* \(2, tokens, 4\)"),
        (np.zeros((2, 1, 4)), "got float64, it holds float32"),
    ],
    ids=["batch", "width", "dtype"],
)
def test_rows_of_another_kind_are_refused(new, sentence):
    cache = LatentCache(2, 8, 4, 8)
    cache.append(np.ones((2, 3, 4), np.float32))
    held = cache.data.copy()
    with pytest.raises(InputError, match=f"^cache: {sentence}$"):
        cache.append(new)
    assert cache.lengths.tolist() == [3, 3] and np.array_equal(cache.data, held)


@pytest.mark.parametrize("lengths", [4, -1, [3, 4], [0, -1], [1], [1, 2, 3]])
def test_a_cut_beyond_what_is_held_is_refused(lengths):
    cache = LatentCache(2, 8, 4, 8)
    cache.append(np.ones((2, 3, 4)))
    with pytest.raises(InputError, match=r"^cache: cannot cut rows of \[3, 3\] tokens to "):
        cache.truncate(lengths)
    assert cache.lengths.tolist() == [3, 3]


def test_lengths_may_be_a_number_a_list_or_an_array():
    cache = LatentCache(2, 8, 4, 8)
    cache.append(np.ones((2, 5, 4)))
    cache.truncate(4)
    assert cache.lengths.tolist() == [4, 4]
    cache.truncate([3, 2])
    assert cache.lengths.tolist() == [3, 2]
    cache.truncate(np.array([1, 2]))
    assert cache.lengths.tolist() == [1, 2]
    cache.append(np.ones((2, 2, 4)), [1, 2])
    assert cache.lengths.tolist() == [2, 4]


def test_the_models_cache_cuts_and_selects_every_layer():
    layers = [LatentCache(3, 4, width, 20) for width in (2, 5)]
    cache, rows = ModelCache(layers), {}
    for one in layers:
        rows[one.width] = normal(0, 3, 6, one.width)
        one.append(rows[one.width])
    assert cache.nbytes == 3 * 6 * (2 + 5) * 8
    cache.truncate(np.array([6, 2, 4]))
    cache.select(np.array([2, 0]))
    assert cache.lengths.tolist() == [4, 6] and cache.offsets.tolist() == [4, 6]
    for one in layers:
        assert one.lengths.tolist() == [4, 6]
        assert np.array_equal(one.data[0, :4], rows[one.width][2, :4])
        assert np.array_equal(one.data[1, :6], rows[one.width][0])
