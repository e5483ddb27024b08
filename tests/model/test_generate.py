"""Generation: the law that is sampled from, and that batches, caches and padding change nothing."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd import blocks
from minideepseek.autograd.engine import Tensor, no_grad, ops, watch
from minideepseek.errors import InputError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.generate import draw, generate, next_logits, probabilities, stream
from minideepseek.model.transformer import DeepSeekV3
from tests.layers.common import build, draw_ids, seeds
from tests.strategies import configs

NANO = DeepSeekV3Config.preset("nano")


# --------------------------------------------------------------------------- the processed law


def slow_law(z, temperature, top_k, top_p):
    """The distribution of one row of logits, by the definitions of the chapter's top."""
    tokens = sorted(range(len(z)), key=lambda i: (-z[i], i))
    if temperature == 0:
        tokens = tokens[:1]
    p = {i: np.exp((z[i] - max(z)) / (temperature or 1)) for i in tokens}
    kept = {i: p[i] for i in tokens[:top_k]}
    total, mass, nucleus = sum(kept.values()), 0.0, {}
    for i, weight in kept.items():
        if mass >= top_p:
            break
        nucleus[i], mass = weight, mass + weight / total
    total = sum(nucleus.values())
    return np.array([nucleus.get(i, 0.0) / total for i in range(len(z))])


@given(
    seeds, st.integers(1, 3), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    st.none() | st.integers(1, 12), st.none() | st.floats(0.05, 0.999), st.booleans(),
)  # fmt: skip
@settings(max_examples=150)
def test_the_law_is_temperature_then_top_k_then_top_p(
    seed, rows, vocab, temperature, top_k, top_p, ties
):
    z = 2 * np.random.default_rng(seed).standard_normal((rows, vocab))
    if ties:
        z = np.round(z)
        top_p = None if top_p is None else 0.0123 + top_p * 0.9  # off the sums of equal shares
    p = probabilities(z, temperature, top_k, 1.0 if top_p is None else top_p)
    assert p.shape == z.shape and p.dtype == np.float64
    for found, row in zip(p, z, strict=True):
        expected = slow_law(row, temperature, top_k, np.inf if top_p is None else top_p)
        assert np.allclose(found, expected, atol=1e-12)
        assert found.sum() == pytest.approx(1, abs=1e-12)


def test_extremes_of_temperature_and_logits():
    z = np.array([[1.0, 3.0, 2.0, 3.0]])
    assert probabilities(z, 0).tolist() == [[0, 1, 0, 0]]  # of equal ones the first
    for tiny in (5e-324, 1e-308, 1e-9):
        assert probabilities(z, tiny).tolist() == [[0, 0.5, 0, 0.5]]
    assert np.allclose(probabilities(z, 1e9), 0.25)
    wide = np.array([[1e4, -1e4, 0.0]], np.float32)
    assert probabilities(wide, 1.0).tolist() == [[1, 0, 0]]
    assert probabilities(wide, 0.5, top_k=2, top_p=0.9).tolist() == [[1, 0, 0]]


def test_top_p_takes_the_token_that_reaches_the_mass():
    z = np.log([[0.5, 0.25, 0.125, 0.125]])
    assert np.allclose(probabilities(z, top_p=0.5), [[1, 0, 0, 0]])
    assert np.allclose(probabilities(z, top_p=0.51), [[2 / 3, 1 / 3, 0, 0]])
    assert np.allclose(probabilities(z, top_p=0.76), [[4 / 7, 2 / 7, 1 / 7, 0]])
    assert np.allclose(probabilities(z, top_p=1e-9), [[1, 0, 0, 0]])


def test_top_p_counts_what_top_k_has_left():
    z = np.log([[0.4, 0.3, 0.2, 0.1]])  # of the best two, 4/7 and 3/7
    assert np.allclose(probabilities(z, top_k=2, top_p=0.55), [[1, 0, 0, 0]])
    assert np.allclose(probabilities(z, top_k=2, top_p=0.58), [[4 / 7, 3 / 7, 0, 0]])


# ------------------------------------------------------------------------------------- the draw


class Given:
    """A generator whose uniform numbers are given."""

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers, float)

    def random(self, shape):
        return self.numbers.reshape(shape)


@given(seeds, st.integers(1, 9))
def test_a_draw_inverts_the_cumulative_distribution(seed, vocab):
    """Over a fine grid of uniform numbers each token comes as often as its mass says."""
    p = np.random.default_rng(seed).dirichlet(np.ones(vocab))
    p[np.random.default_rng(seed).random(vocab) < 0.3] = 0
    p = p / p.sum() if p.any() else np.full(vocab, 1 / vocab)
    n = 2000
    tokens = draw(np.tile(p, (n, 1)), Given((np.arange(n) + 0.5) / n))
    assert np.abs(np.bincount(tokens, minlength=vocab) - n * p).max() <= 1
    assert p[tokens].all() and (np.diff(tokens) >= 0).all()


def test_a_uniform_number_at_the_ends_draws_a_possible_token():
    p = np.array([[0, 0.3, 0.7, 0, 0]] * 3)
    assert draw(p, Given([0.0, np.nextafter(1, 0), 1.0])).tolist() == [1, 2, 2]
    tenth = np.full((2, 10), 0.1)  # ten tenths are a little less than 1
    assert draw(tenth, Given([np.nextafter(1, 0), 0.0])).tolist() == [9, 0]


def test_sampled_texts_follow_the_law():
    """χ² of 4,000 tokens after one prompt, 8 possible ones: below the 99.9 % point of 7 degrees."""
    model, prompt = build(NANO, 3), draw_ids(NANO, 3, 1, 3)
    out = generate(model, np.tile(prompt, (4000, 1)), 1, temperature=1.3, top_k=8,
                   rng=np.random.default_rng(0))  # fmt: skip
    with no_grad():
        p = probabilities(model(prompt).data[:, -1], 1.3, 8)[0]
    counts = np.bincount(out[:, -1], minlength=264)
    possible = p > 0
    assert possible.sum() == 8 and not counts[~possible].any()
    expected = 4000 * p[possible]
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 24.3


# ------------------------------------------------------------------------ the model that is sampled


def plain_generate(model, row, steps, law=None, rng=None):
    """Token by token, a whole forward pass each: no cache, no batch."""
    row = list(row)
    for _ in range(steps):
        with no_grad():
            z = model(np.array([row])).data[:, -1]
        row.append(int(z.argmax()) if law is None else int(draw(probabilities(z, *law), rng)[0]))
    return row


@given(configs(), seeds, st.integers(1, 3), st.integers(1, 4), st.integers(0, 4))
def test_greedy_is_the_argmax_of_whole_passes(config, seed, rows, tokens, steps):
    """Batched and cached: every row as if alone and read anew at each step."""
    model, ids = build(config, seed), draw_ids(config, seed, rows, tokens)
    out = generate(model, ids, steps)
    assert out.dtype == np.int64 and out.shape == (rows, tokens + steps)
    for found, row in zip(out, ids, strict=True):
        assert found.tolist() == plain_generate(model, row, steps)


@given(configs(), seeds, st.sampled_from([(1.0, None, 1.0), (0.7, 3, 0.8), (2.0, None, 0.9)]))
def test_sampling_draws_what_whole_passes_would(config, seed, law):
    model, ids = build(config, seed), draw_ids(config, seed, 1, 3)
    out = generate(model, ids, 5, *law, rng=np.random.default_rng(seed))
    expected = plain_generate(model, ids[0], 5, law, np.random.default_rng(seed))
    assert out[0].tolist() == expected


@given(configs(), seeds, st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_log_probabilities_of_sampling_are_those_of_training(config, seed, lengths):
    """To 1e-10 in float64: a ratio of the two is 1 but for rounding."""
    model, ends, rows = build(config, seed), np.array(lengths), range(len(lengths))
    ids = draw_ids(config, seed, len(lengths), max(lengths) + 3)
    with no_grad():
        whole = ops.log_softmax(model(ids)).data
    cache, feed, counts = model.new_cache(len(lengths), 1), ids[:, : max(lengths)], ends
    for _ in range(3):
        found = ops.log_softmax(Tensor(next_logits(model, feed, cache, counts))).data
        assert np.abs(found - whole[rows, ends - 1]).max() < 1e-10
        feed, counts, ends = ids[rows, ends][:, None], np.ones_like(ends), ends + 1


@given(configs(), seeds, st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 4))
def test_prompts_of_different_lengths_continue_as_if_alone(config, seed, lengths, steps):
    """After each row's last real token, whatever the padding is, padded at the end."""
    model, wide = build(config, seed), max(lengths)
    ids, pad = draw_ids(config, seed, len(lengths), wide), config.vocab_size - 1
    out = generate(model, ids, steps, pad_token_id=pad, lengths=lengths)
    assert out.shape == (len(lengths), wide + steps)
    for found, row, n in zip(out, ids, lengths, strict=True):
        alone = plain_generate(model, row[:n], steps)
        assert found.tolist() == alone + [pad] * (wide - n)


@given(configs(), seeds, st.data())
def test_a_row_ends_with_eos_and_is_padded(config, seed, data):
    """The others go on as before; all stop when the last has ended."""
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    model, wide = build(config, seed), max(lengths)
    ids = draw_ids(config, seed, len(lengths), wide)
    alone = [plain_generate(model, row[:n], 5) for row, n in zip(ids, lengths, strict=True)]
    eos = data.draw(st.sampled_from(sorted({t for row, n in zip(alone, lengths, strict=True)
                                            for t in row[n:]})))  # fmt: skip
    pad = data.draw(st.sampled_from([None, 0, 3]))
    texts = []
    for row, n in zip(alone, lengths, strict=True):
        new = row[n:]
        texts.append(row[:n] + (new[: new.index(eos) + 1] if eos in new else new))
    out = generate(model, ids, 5, eos_token_id=eos, pad_token_id=pad, lengths=lengths)
    steps = max(len(text) - n for text, n in zip(texts, lengths, strict=True))
    assert out.shape[1] == wide + steps
    for found, text in zip(out, texts, strict=True):
        filled = [eos if pad is None else pad] * (wide + steps - len(text))
        assert found.tolist() == text + filled


def test_an_eos_in_the_prompt_ends_nothing():
    model = build(NANO)
    first = generate(model, [[5, 7, 5]], 4)
    assert 7 not in first[0, 3:]
    assert np.array_equal(generate(model, [[5, 7, 5]], 4, eos_token_id=7), first)


@given(configs(), seeds, st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 1.0]))
@settings(max_examples=20)
def test_more_tokens_continue_fewer(config, seed, few, more, temperature):
    model, ids = build(config, seed), draw_ids(config, seed, 2, 2)
    short, long = (generate(model, ids, n, temperature, rng=np.random.default_rng(seed))
                   for n in (few, few + more))  # fmt: skip
    assert np.array_equal(long[:, : 2 + few], short)


def test_draws_come_from_the_generator_alone():
    model, ids = build(NANO), draw_ids(NANO, 0, 2, 3)
    state = np.random.get_state()[1].copy()  # noqa: NPY002

    def texts(rng):
        return generate(model, ids, 6, temperature=1.0, rng=rng).tolist()

    first = texts(np.random.default_rng(7))
    assert texts(np.random.default_rng(7)) == first != texts(np.random.default_rng(8))
    assert texts(None) == texts(np.random.default_rng(2024)) == texts(None)
    rng = np.random.default_rng(7)
    assert texts(rng) == first != texts(rng)  # it has moved on
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    unused = np.random.default_rng(7)
    generate(model, ids, 3, rng=unused)  # greedy
    assert unused.random() == np.random.default_rng(7).random()


def test_the_stream_gives_each_step_and_marks_rows_that_have_ended():
    model, ids = build(NANO), draw_ids(NANO, 2, 3, 4)
    out = generate(model, ids, 6)
    eos = int(out[1, 5])
    steps = list(stream(model, ids, 6, eos_token_id=eos))
    assert all(step.shape == (3,) for step in steps)
    ended = np.zeros(3, bool)
    for t, step in enumerate(steps):
        assert np.array_equal(step, np.where(ended, -1, out[:, 4 + t]))
        ended |= step == eos
    assert next(stream(model, ids, 6)).tolist() == out[:, 4].tolist()


# ---------------------------------------------------------------------------------- how it decodes


def test_a_step_reads_one_token_per_row_absorbed_and_alone_on_its_thread(monkeypatch):
    """The prompt in one pass; then attention over latents; nothing recorded; one thread."""
    model, fed, alone = build(NANO), [], []
    hidden, serial = DeepSeekV3.hidden, blocks.serial

    def watched(self, ids, cache, *args):
        seen = []
        with watch(lambda name, _: seen.append(name)):
            h, routings = hidden(self, ids, cache, *args)
        fed.append((ids.shape, "head_linear" in seen, h.node))
        return h, routings

    @contextlib.contextmanager
    def counted():
        with serial():
            alone.append(len(fed))
            yield

    monkeypatch.setattr(DeepSeekV3, "hidden", watched)
    monkeypatch.setattr(blocks, "serial", counted)
    generate(model, draw_ids(NANO, 0, 2, 30), 4)
    assert fed == [((2, 30), False, None)] + [((2, 1), True, None)] * 3
    assert alone == [1, 2, 3]
    del fed[:], alone[:]
    generate(model, draw_ids(NANO, 0, 1, 30), 4)
    assert fed == [((1, 30), False, None)] and not alone  # then without Tensors: test_decoding.py


def test_padding_of_prompts_is_routed_nowhere(monkeypatch):
    """Two experts for each of 5 + 2 + 1 prompt tokens, then for each row's new one."""
    loads, hidden = [], DeepSeekV3.hidden

    def counted(*args):
        h, routings = hidden(*args)
        loads.append(sum(routings[0].counts))
        return h, routings

    monkeypatch.setattr(DeepSeekV3, "hidden", counted)
    generate(build(NANO), draw_ids(NANO, 0, 3, 5), 2, pad_token_id=0, lengths=[5, 2, 1])
    assert loads == [2 * 8, 2 * 3]


def test_the_cache_is_reserved_once(monkeypatch):
    caches, new_cache = [], DeepSeekV3.new_cache

    def kept(*args):
        caches.append(new_cache(*args))
        return caches[-1]

    monkeypatch.setattr(DeepSeekV3, "new_cache", kept)
    generate(build(NANO), draw_ids(NANO, 0, 2, 10), 6)
    assert len(caches) == 1 and caches[0].nbytes == 2 * 2 * 16 * 24 * 8


def test_the_last_position_may_be_used():
    assert generate(build(NANO), draw_ids(NANO, 0, 1, 60), 4).shape == (1, 64)


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": -0.5}, "temperature: got -0.5, expected a number of at least 0"),
        ({"temperature": float("nan")}, "temperature: got nan, expected a number of at least 0"),
        ({"temperature": float("inf")}, "temperature: got inf, expected a number of at least 0"),
        ({"top_k": 0}, "top_k: got 0, expected None or an integer of at least 1"),
        ({"top_k": 2.0}, "top_k: got 2.0, expected None or an integer of at least 1"),
        ({"top_p": 0.0}, r"top_p: got 0.0, expected a number in \(0, 1\]"),
        ({"top_p": 1.01}, r"top_p: got 1.01, expected a number in \(0, 1\]"),
        ({"max_new_tokens": -1}, "max_new_tokens: got -1, expected an integer ≥ 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens: got 1.5, expected an integer ≥ 0"),
        ({"max_new_tokens": 62}, "max_new_tokens: 3 prompt tokens and 62 new ones are more than "
                                 "max_position_embeddings 64"),
        ({"eos_token_id": 264}, "eos_token_id: got 264, expected None or a token from 0 to 263"),
        ({"eos_token_id": -1}, "eos_token_id: got -1, expected None or a token from 0 to 263"),
        ({"pad_token_id": 999}, "pad_token_id: got 999, expected None or a token from 0 to 263"),
        ({"lengths": [3]}, r"lengths: got \[3\], expected 2 integers from 1 to 3"),
        ({"lengths": [0, 3]}, r"lengths: got \[0, 3\], expected 2 integers from 1 to 3"),
        ({"lengths": [3, 4]}, r"lengths: got \[3, 4\], expected 2 integers from 1 to 3"),
        ({"lengths": [2.5, 3]}, r"lengths: got \[2.5, 3.0\], expected 2 integers from 1 to 3"),
        ({"lengths": [2, 3]}, "pad_token_id: got None, needed for rows that differ in length"),
        ({"ids": [[1, 264]]}, "ids: got token 264, expected 0 to 263"),
        ({"ids": [[1, 2], [3]]}, "ids: got rows of different lengths, expected integers .*"),
        ({"ids": [1, 2]}, r"ids: got int64 of shape \(2,\), expected integers \(batch, tokens\)"),
        ({"ids": np.zeros((1, 0), int)}, r"ids: got shape \(1, 0\), expected at least \(1, 1\)"),
    ],
    ids=str,
)  # fmt: skip
def test_refused_before_any_work(monkeypatch, options, sentence):
    monkeypatch.setattr(DeepSeekV3, "hidden", None)
    arguments = {"ids": [[1, 2, 3]] * 2, "max_new_tokens": 4} | options
    with pytest.raises(InputError, match=f"^{sentence}$"):
        generate(DeepSeekV3.empty(NANO), **arguments)
