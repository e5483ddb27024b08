"""The sampler: what it draws, under which distribution, and that nobody disturbs anybody."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd.engine import no_grad
from minideepseek.errors import InputError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.generate import generate, probabilities
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.grpo.sampler import GroupSampler, Rollout, draw_tokens
from tests.layers.common import build, seeds
from tests.reasoning.grpo.common import (
    EOS,
    PAD,
    VOCAB,
    WORDS,
    Given,
    draw_prompts,
    laws,
    plain_sample,
    prompt_lengths,
    sample,
)
from tests.strategies import configs

TINY = DeepSeekV3Config.preset(
    "nano", vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0
)
tiny = configs(vocab_size=VOCAB)
FIELDS = ("ids", "prompt_lengths", "lengths", "ended", "mask", "logprobs")


def rollout_equal(one, two):
    """Bit for bit, routing too."""
    same = all(np.array_equal(getattr(one, name), getattr(two, name)) for name in FIELDS)
    pairs = zip(one.routing or (), two.routing or (), strict=True)
    return same and all(np.array_equal(a, b) for a, b in pairs)


def watch_batches(monkeypatch):
    """The shapes that the model is fed, in order."""
    fed, hidden = [], DeepSeekV3.hidden

    def watched(self, ids, *args, **options):
        fed.append(ids.shape)
        return hidden(self, ids, *args, **options)

    monkeypatch.setattr(DeepSeekV3, "hidden", watched)
    return fed


# ----------------------------------------------------------------------------------- what is drawn


@given(tiny, seeds, prompt_lengths, st.integers(1, 3), st.integers(1, 6), laws,
       st.sampled_from([0.0, 0.25, 2.0]))  # fmt: skip
def test_each_row_is_what_it_would_be_alone_without_a_cache(
    config, seed, lengths, group, most, law, leaving
):
    """Ids, log-probabilities and ends of rows drawn one by one, a whole pass for each token, from
    the same uniform numbers: through padding, the cache, and rows that leave at once or never."""
    model, prompts = build(config, seed), draw_prompts(seed, lengths)
    rows = group * len(prompts)
    uniform = np.random.default_rng(seed).random((rows, most))
    out = sample(model, prompts, group, most, Given(uniform), law, leaving=leaving)
    assert out.ids.dtype == np.int64 and out.logprobs.dtype == np.float64
    assert out.ids.shape == (rows, out.lengths.max())
    assert out.mask.shape == out.logprobs.shape == (rows, out.lengths.max() - 1)
    for r in range(rows):
        prompt = prompts[r // group]  # the rows of a group are consecutive
        ids, logprobs = plain_sample(model, prompt, uniform[r], law)
        n, end = len(prompt), len(ids)
        assert out.ids[r].tolist() == ids + [PAD] * (out.ids.shape[1] - end)
        assert out.prompt_lengths[r] == n and out.lengths[r] == end
        assert out.ended[r] == (ids[-1] == EOS)
        targets = np.arange(1, out.ids.shape[1])
        assert np.array_equal(out.mask[r], (targets >= n) & (targets < end))
        assert np.abs(out.logprobs[r, n - 1 : end - 1] - logprobs).max() < 1e-10
        assert not out.logprobs[r][out.mask[r] == 0].any()


def test_every_token_comes_as_often_as_its_mass_says():
    """Over a grid of 2,000 uniform numbers the first tokens' counts are exact to one."""
    model, prompt, n = build(TINY, 3), draw_prompts(0, [4])[0], 2000
    for law in [(1.0, None, 1.0), (0.7, None, 1.0), (1.3, 5, 0.9)]:
        with no_grad():
            p = probabilities(model(prompt[None]).data[:, -1], *law)[0]
        out = sample(model, [prompt], n, 1, Given((np.arange(n) + 0.5) / n), law)
        tokens = out.ids[:, 4]
        assert np.abs(np.bincount(tokens, minlength=VOCAB) - n * p).max() <= 1
        assert (np.diff(tokens) >= 0).all() and p[tokens].all()
        assert np.abs(out.logprobs[:, 3] - np.log(p[tokens])).max() < 1e-10


def test_numbers_at_the_ends_draw_possible_tokens():
    p = np.array([[0, 0.3, 0.7, 0, 0]] * 3)
    most = np.nextafter(1, 0)  # the largest number that a generator gives
    tokens, logprobs = draw_tokens(p, np.array([0.0, 0.3, most]))
    assert tokens.tolist() == [1, 2, 2] and np.allclose(np.exp(logprobs), [0.3, 0.7, 0.7])
    tenth = np.full((2, 10), 0.1)  # ten tenths are a little less than 1
    assert tenth[0].cumsum()[-1] <= most
    assert draw_tokens(tenth, np.array([most, 0.0]))[0].tolist() == [9, 0]


@given(seeds, st.integers(1, 40))
def test_the_largest_number_draws_a_token_that_has_mass(seed, vocab):
    """Whatever the total has been rounded to."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(vocab), 50) * (rng.random((50, vocab)) < 0.7)
    p[:, rng.integers(vocab)] += 0.01
    p /= p.sum(-1, keepdims=True)
    tokens, logprobs = draw_tokens(p, np.full(50, np.nextafter(1, 0)))
    assert tokens.max() < vocab and np.isfinite(logprobs).all()


@given(tiny, seeds, prompt_lengths)
@settings(max_examples=15)
def test_temperature_zero_is_the_argmax_at_log_probability_zero(config, seed, lengths):
    """It draws nothing, and each row of a group is that of `generate`."""
    model, prompts = build(config, seed), draw_prompts(seed, lengths)
    rng = np.random.default_rng(seed)
    out = sample(model, prompts, 2, 5, rng_is_left_alone(rng), (0.0, None, 1.0))
    assert not out.logprobs.any()
    for r, n in enumerate(out.lengths):
        prompt = prompts[r // 2]
        alone = generate(model, prompt[None], 5, eos_token_id=EOS)[0]
        assert out.ids[r, :n].tolist() == alone.tolist()


def rng_is_left_alone(rng):
    """A generator that must not be asked."""

    class Untouched(Given):
        def random(self, shape):
            raise AssertionError("greedy decoding drew a number")

    return Untouched(rng.random(1))


# ------------------------------------------------------------------------------- nobody disturbs


@given(tiny, seeds, prompt_lengths, st.sampled_from([0.7, 1.0]))
@settings(max_examples=20)
def test_rows_that_leave_change_nothing_for_those_who_stay(config, seed, lengths, temperature):
    model, prompts = build(config, seed), draw_prompts(seed, lengths)
    law = (temperature, None, 1.0)
    never, now, some = (
        sample(model, prompts, 4, 8, seed, law, routing=True, leaving=leaving)
        for leaving in (2.0, 0.0, 0.25)
    )
    for other in (now, some):
        assert np.array_equal(never.ids, other.ids)
        assert np.abs(never.logprobs - other.logprobs).max() < 1e-10
        for a, b in zip(never.routing, other.routing, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("leaving", [0.0, 0.25, 2.0])
def test_who_is_fed(monkeypatch, leaving):
    """Each prompt once; then one token a row, of rows of which more than three quarters run."""
    model, fed = build(TINY, 1), watch_batches(monkeypatch)
    out = sample(model, draw_prompts(1, [3, 5]), 16, 12, 1, leaving=leaving)
    assert fed[0] == (2, 5) and {tokens for _, tokens in fed[1:]} == {1}
    steps = out.lengths - out.prompt_lengths  # the last of them is not fed
    running = [int((steps > t).sum()) for t in range(1, steps.max())]
    batches = [rows for rows, _ in fed[1:]]
    assert len(batches) == len(running) and running[-1] < 16 < running[0]
    if leaving == 0:
        assert batches == running
    elif leaving > 1:
        assert set(batches) == {32}
    else:
        assert all(0.75 * b < r <= b for b, r in zip(batches, running, strict=True))
        assert 2 < len(set(batches)) < len(set(running))  # it is not done at each end


def test_the_same_seed_gives_the_same_rollout_bit_for_bit():
    model, prompts = DeepSeekV3(TINY, np.random.default_rng(0)), draw_prompts(0, [2, 4, 3])
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (
        sample(model, prompts, 4, 8, seed, routing=True) for seed in (5, 5, 6)
    )
    assert rollout_equal(one, two) and not rollout_equal(one, other)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    rng = np.random.default_rng(5)
    sampler = GroupSampler(model, WORDS, 4, 8)
    assert rollout_equal(sampler.sample(prompts, rng, True), one)
    assert not rollout_equal(sampler.sample(prompts, rng, True), one)  # it has moved on


def test_a_prompt_that_comes_twice_is_two_groups():
    """Each with numbers of its own: rows 0–3 and 8–11 share the prompt and nothing else."""
    model, (a, b) = build(TINY, 4), draw_prompts(4, [3, 3])
    out = sample(model, [a, b, a], 4, 6, 4)
    assert out.ids.shape[0] == 12
    assert np.array_equal(out.ids[:, :3], np.repeat([a, b, a], 4, 0))
    assert not np.array_equal(out.ids[:4], out.ids[8:])
    uniform = np.random.default_rng(0).random((4, 6))
    twice = sample(model, [a, a], 4, 6, Given(np.concatenate([uniform, uniform])))
    assert np.array_equal(twice.ids[:4], twice.ids[4:])


def test_an_end_token_in_the_prompt_ends_nothing():
    model = build(TINY, 2)
    out = sample(model, [np.array([5, EOS, EOS])], 8, 5, 2)
    assert (out.lengths > 3).all() and (out.mask[:, :2] == 0).all()
    assert (out.ended == (out.ids[np.arange(8), out.lengths - 1] == EOS)).all()


def test_the_last_position_may_be_used():
    model = build(TINY)
    room = TINY.max_position_embeddings
    out = sample(model, draw_prompts(0, [room - 4]), 2, 4, 0)
    assert out.ids.shape[1] <= room
    assert sample(model, draw_prompts(0, [1]), 1, 1, 0).mask.tolist() == [[1.0]]


# --------------------------------------------------------------------------------------- the parts


def made_rollout():
    """Two rows written by hand: one ended, one cut off."""
    ids = np.array([[1, 5, 3, 4, 7, 2, 0], [1, 6, 5, 3, 5, 6, 0]])
    mask = np.array([[0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0.0]])
    return Rollout(ids, np.array([2, 3]), np.array([6, 6]), np.array([True, False]),
                   mask, -mask / 4, [np.arange(24).reshape(2, 6, 2)])  # fmt: skip


def test_texts_name_special_tokens_and_leave_out_the_end():
    out = made_rollout()
    assert out.completions(WORDS) == [("<think> </think> 11", True), ("<think> 4 +", False)]
    empty = Rollout(np.array([[1, EOS]]), np.array([1]), np.array([2]), np.array([True]),
                    np.ones((1, 1)), np.zeros((1, 1)))  # fmt: skip
    assert empty.completions(WORDS) == [("", True)]


def test_selected_rows_are_cut_to_the_longest():
    out = made_rollout().select([1])
    assert out.ids.tolist() == [[1, 6, 5, 3, 5, 6]] and out.mask.tolist() == [[0, 0, 1, 1, 1]]
    assert out.routing[0].tolist() == made_rollout().routing[0][1:, :5].tolist()
    assert (out.prompt_lengths, out.lengths, out.ended) == ([3], [6], [False])
    model = build(TINY, 7)
    whole = sample(model, draw_prompts(7, [2, 4]), 4, 8, 7, routing=True)
    rows = np.argsort(whole.lengths, kind="stable")[::-1]
    assert rollout_equal(whole.select(rows).select(np.argsort(rows)), whole)
    short = whole.select(rows[-3:])
    assert short.ids.shape[1] == whole.lengths[rows[-3]] < whole.ids.shape[1]
    assert np.array_equal(short.logprobs.sum(1), whole.logprobs[rows[-3:]].sum(1))


@given(tiny, seeds, prompt_lengths)
@settings(max_examples=15)
def test_recorded_experts_are_those_of_a_whole_pass(config, seed, lengths):
    """At every position that was read; −1 at the last token, which nobody reads, and behind it."""
    model, prompts = build(config, seed), draw_prompts(seed, lengths)
    out = sample(model, prompts, 3, 5, seed, routing=True)
    moe = [i for i in range(config.num_hidden_layers) if config.is_moe_layer(i)]
    assert len(out.routing) == len(moe)
    for r, n in enumerate(out.lengths):
        with no_grad():
            _, routings = model.hidden(out.ids[r : r + 1, : n - 1])
        for kept, routing in zip(out.routing, routings, strict=True):
            assert np.array_equal(kept[r, : n - 1], routing.indices)
            assert (kept[r, n - 1 :] == -1).all()
    assert sample(model, prompts, 1, 1, seed).routing is None


def test_every_device_draws_the_same(device):
    model, prompts = build(TINY, 5), draw_prompts(5, [4, 1, 3])
    there = model.to(device)
    one, two = (sample(m, prompts, 3, 8, 5, (0.9, 6, 0.95), routing=True) for m in (model, there))
    assert all(type(getattr(two, name)) is np.ndarray for name in FIELDS)
    assert np.array_equal(one.ids, two.ids) and np.array_equal(one.ended, two.ended)
    assert np.abs(one.logprobs - two.logprobs).max() < 1e-12
    assert all(np.array_equal(a, b) for a, b in zip(one.routing, two.routing, strict=True))


def test_nothing_is_kept_for_a_gradient(monkeypatch):
    nodes, hidden = [], DeepSeekV3.hidden

    def watched(*args):
        h, routings = hidden(*args)
        nodes.append(h.node)
        return h, routings

    monkeypatch.setattr(DeepSeekV3, "hidden", watched)
    sample(build(TINY), draw_prompts(0, [2]), 2, 3, 0)
    assert nodes and set(nodes) == {None}


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": -1.0}, "temperature: got -1.0, expected a number of at least 0"),
        ({"top_k": 0}, "top_k: got 0, expected None or an integer of at least 1"),
        ({"top_p": 0.0}, r"top_p: got 0.0, expected a number in \(0, 1\]"),
        ({"group_size": 0}, "group_size: got 0, expected an integer of at least 1"),
        ({"group_size": 2.0}, "group_size: got 2.0, expected an integer of at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0, expected an integer of at least 1"),
        ({"tokenizer": ByteTokenizer()},
         "tokenizer: got one of 264 tokens, expected the model's 8"),
        ({"prompts": []}, "prompts: got none, expected at least one"),
        ({"prompts": [[1], []]},
         r"prompts: got float64 of shape \(0,\) as number 1, expected a row of integers"),
        ({"prompts": [[[1, 2]]]},
         r"prompts: got int64 of shape \(1, 2\) as number 0, expected a row of integers"),
        ({"prompts": [[1], [1] * 61]},
         "prompts: number 1 has 61 tokens, with max_new_tokens 4 more than "
         "max_position_embeddings 64"),
        ({"prompts": [[1], [8]]}, "ids: got token 8, expected 0 to 7"),
        ({"prompts": [[-1]]}, "ids: got token -1, expected 0 to 7"),
    ],
    ids=str,
)  # fmt: skip
def test_refused_before_any_work(monkeypatch, options, sentence):
    monkeypatch.setattr(DeepSeekV3, "hidden", None)
    made = {"tokenizer": WORDS, "group_size": 2, "max_new_tokens": 4} | options
    prompts = made.pop("prompts", [[1, 2]])
    with pytest.raises(InputError, match=f"^{sentence}$"):
        GroupSampler(DeepSeekV3.empty(TINY), **made).sample(prompts, None)
