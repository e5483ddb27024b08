"""Packed samples: each response counts once, and a row's samples know nothing of each other."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd.engine import ops
from minideepseek.errors import InputError
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.r1 import sft
from minideepseek.reasoning.r1.sft import pack_samples, sft_loss
from tests import strategies
from tests.reasoning.r1 import common

PAD = 99
sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=9)


def drawn(sizes, seed: int, low: int = 0, high: int = 8):
    """Samples of these sizes with random tokens."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(low, high, p), rng.integers(low, high, r)) for p, r in sizes]


def unpacked(packed):
    """(prompt, response) of every segment, read back from ids, weights and segment_ids."""
    for ids, weights, segments in zip(packed.ids, packed.weights, packed.segment_ids, strict=True):
        for number in range(segments.max() + 1):
            at = np.flatnonzero(segments == number)
            assert (np.diff(at) == 1).all()
            text, counted = ids[at[0] : at[-1] + 2], weights[at]
            prompt = 1 + int((counted == 0).sum())
            assert (counted == (np.arange(1, len(text)) >= prompt)).all()
            yield text[:prompt].tolist(), text[prompt:].tolist()


@given(sizes, st.integers(15, 40), st.integers(0, 99))
def test_every_sample_lies_in_one_row_with_weight_on_its_response_alone(sizes, length, seed):
    samples = drawn(sizes, seed)
    packed = pack_samples(samples, length, PAD)
    found = sorted(unpacked(packed))
    assert found == sorted((p.tolist(), r.tolist()) for p, r in samples)
    assert packed.weights.sum() == sum(r for _, r in sizes)
    assert packed.weights[packed.segment_ids < 0].sum() == 0
    assert (packed.ids != PAD).sum() == sum(p + r for p, r in sizes)
    assert packed.ids.shape[1] == packed.weights.shape[1] + 1 == packed.segment_ids.shape[1] + 1
    assert (packed.ids[:, -1] != PAD).any() and packed.ids.shape[1] <= length


@given(sizes, st.integers(15, 40), st.integers(0, 99))
def test_no_sample_would_have_fitted_into_an_earlier_row(sizes, length, seed):
    packed = pack_samples(drawn(sizes, seed), length, PAD)
    for row in range(1, len(packed.ids)):
        room = length - (packed.ids[:row] != PAD).sum(1)
        segments = packed.segment_ids[row]
        smallest = min((segments == n).sum() + 1 for n in range(segments.max() + 1))
        assert smallest > room.max()


def test_the_longest_come_first_and_equals_keep_their_order():
    sizes = [(1, 2), (1, 4), (2, 3), (1, 2)]
    samples = [(np.full(p, i), np.full(r, i)) for i, (p, r) in enumerate(sizes)]
    packed = pack_samples(samples, 8, PAD)
    assert packed.ids.tolist() == [[1] * 5 + [0] * 3, [2] * 5 + [3] * 3]


@pytest.mark.parametrize(
    "samples, match",
    [
        ([], "samples: got none"),
        ([(np.arange(2), np.arange(0))], r"the response of sample 0 has shape \(0,\)"),
        ([(np.arange(0), np.arange(2))], r"the prompt of sample 0 has shape \(0,\)"),
        ([(np.ones(2, int), np.ones(2))], "the response of sample 0"),
        ([(np.ones((2, 1), int), np.ones(2, int))], r"the prompt of sample 0 has shape \(2, 1\)"),
        ([(np.arange(2),) * 2, (np.arange(4), np.arange(5))], "sample 1 has 9 tokens, .* = 8"),
    ],
)
def test_what_is_no_sample_is_refused(samples, match):
    with pytest.raises(InputError, match=match):
        pack_samples(samples, 8, PAD)


# ------------------------------------------------------------------------------------------- loss


def alone(model: DeepSeekV3, samples):
    """Σ over the samples, each in a batch of its own, of −ln P of the response / their number."""
    total, terms = None, sum(len(r) for _, r in samples)
    counts = 0
    for prompt, response in samples:
        ids = np.concatenate([prompt, response])[None]
        h, routings = model.hidden(model.check_ids(ids[:, :-1]))
        logits = model.logits(h)[:, len(prompt) - 1 :]
        loss = ops.softmax_cross_entropy(logits, response[None], denominator=terms)
        total = loss if total is None else total + loss
        counts = counts + np.array([r.counts for r in routings])
    return total, counts


def gradients(model: DeepSeekV3, loss) -> dict[str, np.ndarray | None]:
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1e-3, np.abs(a).max()))


@settings(max_examples=25)
@given(
    strategies.configs(vocab_size=8, aux_loss_alpha=0.1),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=5),
    st.integers(8, 16),
    st.integers(0, 99),
)
def test_the_packed_loss_is_the_mean_over_separate_ones(config, sizes, length, seed):
    model = DeepSeekV3(config, np.random.default_rng(seed), "float64")
    samples = drawn(sizes, seed)
    loss, routings = sft._loss(model, pack_samples(samples, length, 0))
    wanted, counts = alone(model, samples)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    for routing, by_hand in zip(routings, counts, strict=True):
        assert routing.counts == by_hand.tolist()  # padding and end tokens count nowhere
    packed, separate = gradients(model, loss), gradients(model, wanted)
    for name, gradient in separate.items():
        if gradient is None:
            assert packed[name] is None and "layers." in name  # an MTP module's
        else:
            close(gradient, packed[name])


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("counted", [0, 1, 2])
def test_a_sample_does_not_see_its_neighbours(dense, counted):
    """Other tokens in the other two samples: loss and gradients of this one stay."""
    config = {"first_k_dense_replace": 2} if dense else {}
    model = common.model(dtype="float32" if dense else "float64", **config)
    sizes, results = [(3, 5), (2, 5), (1, 4)], []
    for seed in (1, 2):
        samples = drawn(sizes, seed, 3 + 10 * seed, 13 + 10 * seed)  # no token in common
        samples[counted] = drawn(sizes, 0, 3, 13)[counted]
        packed = pack_samples(samples, 24, 0)
        assert packed.ids.shape == (1, 20)
        weights = packed.weights * (packed.segment_ids == counted)
        loss = sft_loss(model, dataclasses.replace(packed, weights=weights))
        results.append((loss.item(), gradients(model, loss)))
    (first, grads), (second, others) = results
    if dense:
        assert first == second
    assert first == pytest.approx(second, rel=1e-12)
    for name, gradient in grads.items():
        if gradient is not None and dense:
            np.testing.assert_array_equal(gradient, others[name], err_msg=name)
        elif gradient is not None:
            close(gradient, others[name])
    assert (grads["model.embed_tokens.weight"][13:] == 0).all()


def test_padding_changes_nothing():
    model, samples = common.model(first_k_dense_replace=2), common.samples(5)
    results = []
    for pad in (0, 7):
        loss = sft_loss(model, pack_samples(samples, 20, pad))
        results.append((loss.item(), gradients(model, loss)))
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        np.testing.assert_array_equal(gradient, results[1][1][name], err_msg=name)


def test_the_loss_on_a_device(device):
    model, packed = common.model(dtype="float64"), pack_samples(common.samples(5), 20, 0)
    wanted = sft_loss(model, packed).item()
    there = sft_loss(model.to(device), packed)
    there.backward()
    assert there.item() == pytest.approx(wanted, rel=1e-12)
