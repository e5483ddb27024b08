"""The scorer: one pass says what the sampler said, padding says nothing, the ratio begins at 1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.autograd.engine import no_grad
from minideepseek.errors import InputError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.grpo.objective import group_advantages, grpo_loss
from minideepseek.reasoning.grpo.sampler import Rollout
from minideepseek.reasoning.grpo.scoring import entropy_of, score_completions
from tests.layers.common import build, forget, gradients, normal, relative, scramble, seeds
from tests.reasoning.grpo.common import PAD, VOCAB, draw_prompts, prompt_lengths, sample
from tests.strategies import configs

TINY = DeepSeekV3Config.preset(
    "nano", vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0
)
tiny = configs(vocab_size=VOCAB)
temperatures = st.sampled_from([0.7, 1.0])


def rollout_of(seed=5, group=4, temperature=1.0, model=None):
    """A ragged rollout with several ends, and the model it is from."""
    model = build(TINY, seed) if model is None else model
    law = (temperature, None, 1.0)
    out = sample(model, draw_prompts(seed, [2, 5, 3]), group, 8, seed, law, routing=True)
    assert out.ended.any() and not out.ended.all() and len(set(out.lengths)) > 2
    return model, out


def gap(scores, rollout):
    """The largest |log p of the scorer − log p of the sampler| of a completion's tokens."""
    found = backend.to_host(scores.logprobs.data)
    return np.abs((found - rollout.logprobs) * rollout.mask).max()


def score(*args, **options):
    with no_grad():
        return score_completions(*args, **options)


# --------------------------------------------------------------------- the sampler and the scorer


@given(tiny, seeds, prompt_lengths, st.integers(1, 3), st.integers(1, 8), temperatures,
       st.sampled_from([0.0, 0.25, 2.0]))  # fmt: skip
@settings(max_examples=120)
def test_one_pass_says_what_the_sampler_said(
    config, seed, lengths, group, most, temperature, leaving
):
    """To 1e-10 in float64, at each temperature: the same experts, then the same numbers."""
    model, law = build(config, seed), (temperature, None, 1.0)
    out = sample(model, draw_prompts(seed, lengths), group, most, seed, law, True, leaving)
    scores = score(model, out, temperature)
    assert len(scores.routings) == len(out.routing)
    for routing, kept in zip(scores.routings, out.routing, strict=True):
        assert np.array_equal(routing.indices.reshape(kept.shape), kept)
    assert gap(scores, out) < 1e-10
    assert gap(score(model, out, temperature, out.routing), out) < 1e-10


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_in_float32_to_a_ten_thousandth(seed, temperature):
    """With the sampler's experts replayed; with its own the same where no choice flipped."""
    model = scramble(DeepSeekV3(TINY, np.random.default_rng(seed)), seed)
    out = sample(model, draw_prompts(seed, [2, 5, 3]), 8, 8, seed, (temperature, None, 1.0), True)
    assert 0 < gap(score(model, out, temperature, out.routing), out) < 1e-4
    free = score(model, out, temperature)
    if all(
        np.array_equal(r.indices.reshape(kept.shape), kept)
        for r, kept in zip(free.routings, out.routing, strict=True)
    ):
        assert gap(free, out) < 1e-4


@pytest.mark.parametrize(("drawn", "scored"), [(0.7, 1.0), (1.0, 0.7)])
def test_another_temperature_is_seen_at_once(drawn, scored):
    model, out = rollout_of(temperature=drawn)
    assert gap(score(model, out, drawn), out) < 1e-10
    assert gap(score(model, out, scored), out) > 0.1


@given(tiny, seeds, prompt_lengths, temperatures)
@settings(max_examples=15)
def test_the_first_ratio_is_one(config, seed, lengths, temperature):
    """Clipped nowhere, and the loss is −mean of the advantages of the tokens."""
    model = build(config, seed)
    law = (temperature, None, 1.0)
    out = sample(model, draw_prompts(seed, lengths), 4, 6, seed, law)
    advantages = group_advantages(normal(seed, len(lengths), 4)).reshape(-1)
    scores = score_completions(model, out, temperature)
    ratio = np.exp(scores.logprobs.data - out.logprobs)[out.mask > 0]
    assert np.abs(ratio - 1).max() < 1e-10
    loss, _ = grpo_loss(scores.logprobs, out.logprobs, advantages, out.mask, clip_epsilon=1e-9)
    expected = -(out.mask * advantages[:, None]).sum() / out.mask.sum()
    assert loss.item() == pytest.approx(expected, abs=1e-10)


# ------------------------------------------------------------------------------------- the padding


def weighted(model, rollout, seed=0):
    """(Σ w log p over the completions, its gradients) for some weights w of rows and places."""
    forget(model)
    weights = normal(seed, *rollout.mask.shape) * rollout.mask
    total = (score_completions(model, rollout).logprobs * weights).sum()
    total.backward()
    return total.item(), gradients(model)


def test_ids_behind_the_end_change_nothing_bit_for_bit():
    """Nor does the last token as an input, which no target needs."""
    model, out = rollout_of()
    value, grads = weighted(model, out)
    noise = np.random.default_rng(1).integers(0, VOCAB, out.ids.shape)
    behind = np.arange(out.ids.shape[1]) >= out.lengths[:, None]
    assert behind.any()
    other = Rollout(np.where(behind, noise, out.ids), *rest(out))
    found, again = weighted(model, other)
    assert found == value
    assert all(np.array_equal(grads[name], again[name]) for name in grads)


def rest(rollout):
    """Everything but the ids."""
    return tuple(vars(rollout).values())[1:]


def test_seven_more_columns_of_padding_change_nothing():
    model, out = rollout_of()
    value, grads = weighted(model, out)

    def wide(array, fill):
        return np.pad(array, ((0, 0), (0, 7)), constant_values=fill)

    ids, mask, logprobs = wide(out.ids, PAD), wide(out.mask, 0), wide(out.logprobs, 0)
    other = Rollout(ids, out.prompt_lengths, out.lengths, out.ended, mask, logprobs)
    forget(model)
    weights = np.pad(normal(0, *out.mask.shape) * out.mask, ((0, 0), (0, 7)))
    scores = score_completions(model, other)
    total = (scores.logprobs * weights).sum()
    total.backward()
    assert total.item() == pytest.approx(value, rel=1e-12)
    for name, grad in gradients(model).items():
        assert relative(grad, grads[name]) < 1e-10 or np.abs(grad - grads[name]).max() < 1e-12


def test_the_end_token_is_learned():
    """It is the mask's last target, and its log p alone moves the weights."""
    model, out = rollout_of()
    row = int(np.flatnonzero(out.ended & (out.lengths < out.ids.shape[1]))[0])
    at = out.lengths[row] - 2  # the target that is the end token
    assert out.mask[row, at] == 1 and not out.mask[row, at + 1 :].any()
    weights = np.zeros(out.mask.shape)
    weights[row, at] = 1
    (score_completions(model, out).logprobs * weights).sum().backward()
    assert np.abs(model.lm_head.weight.grad[2]).max() > 1e-3


def test_rows_scored_by_themselves_say_the_same():
    model, out = rollout_of()
    whole = score(model, out, 1.0, out.routing)
    rows = np.argsort(out.lengths)[:3]
    part = out.select(rows)
    found = score(model, part, 1.0, part.routing)
    width = part.mask.shape[1]
    assert width < out.mask.shape[1]
    difference = (found.logprobs.data - whole.logprobs.data[rows, :width]) * part.mask
    assert np.abs(difference).max() < 1e-12
    difference = (found.entropy - whole.entropy[rows, :width]) * part.mask
    assert np.abs(difference).max() < 1e-12


def test_padding_and_the_last_token_are_routed_nowhere():
    model, out = rollout_of()
    for routing in score(model, out).routings:
        used = int((out.lengths - 1).sum()) * TINY.num_experts_per_tok
        assert sum(routing.counts) == used < routing.indices.size


# ------------------------------------------------------------------------------------- the entropy


@given(seeds, st.integers(1, 9), temperatures)
def test_entropy_is_the_sum_over_all_tokens(seed, vocab, temperature):
    z = 3 * normal(seed, 2, 3, vocab)
    p = np.exp(z / temperature)
    p /= p.sum(-1, keepdims=True)
    found = entropy_of(z, temperature)
    assert found.shape == (2, 3)
    assert np.abs(found + (p * np.log(p)).sum(-1)).max() < 1e-12
    assert np.abs(entropy_of(z + 50, temperature) - found).max() < 1e-12


def test_entropy_at_its_ends():
    assert entropy_of(np.full((1, 7), 3.0)) == pytest.approx(np.log(7), rel=1e-14)
    assert entropy_of(np.array([[0.0, 1e4, -1e4]])).tolist() == [0.0]  # a certain token
    assert entropy_of(np.array([[0.0, 1e30]], np.float32), 0.5).tolist() == [0.0]
    half = entropy_of(np.array([[2.0, 2.0, -1e4]]))
    assert half == pytest.approx(np.log(2), rel=1e-14)


def test_scores_have_the_entropy_of_what_was_drawn_from():
    """At the temperature of sampling, and no gradient through it."""
    model, out = rollout_of(temperature=0.7)
    scores = score_completions(model, out, 0.7)
    assert type(scores.entropy) is np.ndarray
    row, n = 0, out.lengths[0]
    with no_grad():
        z = model(out.ids[:1, : n - 1]).data[0] / 0.7
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    expected = -(p * np.log(p)).sum(-1)
    assert np.abs(scores.entropy[row, : n - 1] - expected).max() < 1e-10


# -------------------------------------------------------------------------------------- the replay


def test_replayed_experts_are_used_and_the_router_learns_all_the_same():
    """Where an update has moved the router, the numbers differ with and without replay."""
    model, out = rollout_of()
    for router in model.routers:
        router.e_score_correction_bias[...] = normal(9, len(router.e_score_correction_bias))
    free, kept = score(model, out), score_completions(model, out, 1.0, out.routing)
    assert gap(kept, out) < 1e-10 < 1e-3 < gap(free, out)
    for routing, layer in zip(kept.routings, out.routing, strict=True):
        assert np.array_equal(routing.indices.reshape(layer.shape), layer)
    (kept.logprobs * out.mask).sum().backward()
    main = [layer.mlp for layer in model.model.layers if hasattr(layer.mlp, "gate")]
    assert main and all(np.abs(mlp.gate.weight.grad).max() > 1e-6 for mlp in main)


def test_every_device_scores_the_same(device):
    model, out = rollout_of(temperature=0.7)
    there = model.to(device)
    for routing in (None, out.routing):
        one, two = (score(m, out, 0.7, routing) for m in (model, there))
        assert two.logprobs.device == device
        assert np.abs(one.logprobs.data - two.logprobs.numpy()).max() < 1e-12
        assert np.abs(one.entropy - backend.to_host(two.entropy)).max() < 1e-12
        assert [r.counts for r in one.routings] == [r.counts for r in two.routings]


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan")])
def test_a_temperature_must_be_positive(monkeypatch, temperature):
    model, out = rollout_of()
    monkeypatch.setattr(DeepSeekV3, "hidden", None)  # refused before any work
    with pytest.raises(InputError, match=f"^temperature: got {temperature}, expected a number abo"):
        score_completions(model, out, temperature)


def test_a_routing_of_other_rows_is_refused(monkeypatch):
    model, out = rollout_of()
    monkeypatch.setattr(DeepSeekV3, "hidden", None)
    shape = rf"\({out.ids.shape[0]}, {out.ids.shape[1] - 1}, 2\)"
    for routing in (out.routing[:0], [layer[:, :-1] for layer in out.routing],
                    [*out.routing, out.routing[0]]):  # fmt: skip
        with pytest.raises(InputError, match=f"^routing: got shapes .*, expected 1 times {shape}$"):
            score_completions(model, out, 1.0, routing)
