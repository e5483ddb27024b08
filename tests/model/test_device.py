"""The whole model over the strict stand-in for CuPy: the numbers of the host, and few reads.

Nothing here needs a GPU. What CuPy lacks, would wait for, or leaves to chance raises or is counted.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.autograd.engine import DEBUG, no_grad
from minideepseek.errors import InputError
from minideepseek.layers.moe import update_bias
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.generate import generate
from minideepseek.model.transformer import evaluate_loss
from minideepseek.training.optim import AdamW, clip_grad_norm
from minideepseek.training.trainer import Plan, Trainer
from tests import standin
from tests.layers.common import build, draw_ids, forget, relative, seeds
from tests.standin import counters
from tests.strategies import configs

standin.install()
NANO = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=2)
loud = configs(aux_loss_alpha=0.5)
counted = pytest.mark.skipif(DEBUG, reason="the debug checks read every output")


def both(config, seed=0):
    """The same model on the host and on the device."""
    model = build(config, seed)
    there = model.to("standin")
    assert there.device == "standin" and model.device == "cpu"
    return model, there


def hosts(module):
    """(name, gradient on the host) of every parameter."""
    return {name: None if p.grad is None else backend.to_host(p.grad)
            for name, p in module.named_parameters()}  # fmt: skip


def used(action):
    """(synchronisations, uploads) of one action."""
    counters.reset()
    action()
    return counters.syncs, counters.uploads


# --------------------------------------------------------------------------------- the same numbers


@given(configs(), seeds, st.booleans())
@settings(max_examples=25)
def test_logits_and_routing(config, seed, packed):
    model, there = both(config, seed)
    ids, segments = draw_ids(config, seed, 2, 6), None
    if packed:
        segments = np.array([[0, 0, 1, 1, 1, 2], [0] * 6])
    with no_grad():
        h, routings = model.hidden(ids, segment_ids=segments)
        sent = None if segments is None else backend.to_device(segments, "standin")
        z, found = there.hidden(there.check_ids(ids), segment_ids=sent)
        assert type(z.data) is standin.ndarray
        assert relative(there.logits(z).numpy(), model.logits(h).data) < 1e-12
    for one, two in zip(routings, found, strict=True):
        assert np.array_equal(one.indices, two.indices.get()) and one.counts == two.counts


@given(loud, seeds, st.none() | st.lists(st.integers(2, 6), min_size=2, max_size=2))
@settings(max_examples=25)
def test_losses_and_gradients(config, seed, lengths):
    model, there = both(config, seed)
    ids, mask = draw_ids(config, seed, 2, 6), None
    if lengths is not None:
        mask = np.arange(6) < np.array(lengths)[:, None]
    here, away = (m.losses(ids, mask=mask) for m in (model, there))
    assert away.total.item() == pytest.approx(here.total.item(), rel=1e-12)
    assert [r.counts for r in away.routings] == [r.counts for r in here.routings]
    here.total.backward()
    away.total.backward()
    for (name, a), b in zip(hosts(model).items(), hosts(there).values(), strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            assert np.abs(a - b).max() < 1e-11 * max(1, np.abs(a).max()), name


def test_training_steps():
    """Clipping, AdamW and the bias update, three times; then the weights are the host's."""
    models = both(NANO, 1)
    for model in models:
        optimiser = AdamW(model.parameters(), lr=1e-2)
        for step in range(3):
            optimiser.zero_grad()
            losses = model.losses(draw_ids(NANO, step, 2, 9))
            losses.total.backward()
            clip_grad_norm(model.parameters(), 1.0)
            optimiser.step()
            for router, routing in zip(model.routers, losses.routings, strict=True):
                update_bias(router.e_score_correction_bias, routing.counts, 0.01)
    for (name, a), (_, b) in zip(*(m.named_tensors() for m in models), strict=True):
        assert type(b) is standin.ndarray
        assert np.abs(a - b.get()).max() < 1e-9, name


@given(configs(), seeds, st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans())
@settings(max_examples=25)
def test_generation(config, seed, lengths, sampled):
    """Ragged prompts, the latent cache, greedy and sampled: the same tokens from the same draws."""
    ids = draw_ids(config, seed, len(lengths), max(lengths))
    options = {"temperature": 1.0, "top_k": 5, "top_p": 0.9} if sampled else {}
    one, two = (
        generate(model, ids, 4, pad_token_id=0, eos_token_id=1, lengths=lengths,
                 rng=np.random.default_rng(seed), **options)
        for model in both(config, seed)
    )  # fmt: skip
    assert type(two) is np.ndarray and np.array_equal(one, two)


def test_a_cache_is_cut_and_selected():
    model, there = both(NANO)
    ids, results = draw_ids(NANO, 0, 3, 7), []
    for m in (model, there):
        cache = m.new_cache(3, 2)
        with no_grad():
            m.hidden(m.check_ids(ids[:, :5]), cache)
            cache.truncate([5, 2, 3])
            cache.select(np.array([2, 0]))
            results.append(m.hidden(m.check_ids(ids[:2, 5:]), cache)[0].numpy())
    assert relative(results[1], results[0]) < 1e-12


# -------------------------------------------------------------------------------------------- reads


@counted
def test_a_step_reads_the_counts_of_each_moe_layer_and_the_loss():
    """Three MoE layers (two of them modules'), with padding too; ids and mask go up, once each."""
    _, there = both(NANO)
    ids = draw_ids(NANO, 0, 2, 9)
    optimiser = AdamW(there.parameters(), lr=1e-3)
    mask = np.arange(9) < np.array([[9], [5]])

    def step(**options):
        forget(there)
        losses = there.losses(ids, **options)
        losses.total.backward()
        clip_grad_norm(there.parameters(), 1.0)
        optimiser.step()
        losses.total.item()

    step()  # the tables of angles are made once
    assert used(step) == (3 + 1, 1)
    assert used(lambda: step(mask=mask)) == (3 + 1, 2)
    sent = there.check_ids(ids)
    assert used(lambda: there.losses(sent).total.backward()) == (3, 0)


class Loader:
    """Batches of 2 × 9 tokens."""

    def next_batch(self):
        return draw_ids(NANO, 3, 2, 9)


@counted
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_trainers_step_reads_its_metrics_at_once(accumulate):
    _, there = both(NANO)
    plan = Plan(steps=4, batch_size=2, sequence_length=8, accumulate=accumulate, bias_step=0.02)
    trainer = Trainer(there, Loader(), plan)
    trainer.step()
    syncs, uploads = used(trainer.step)
    assert syncs == 3 * accumulate + 1
    assert uploads == accumulate + 3  # the batches, and a step for each bias


@counted
def test_decoding_reads_the_logits_of_a_step_and_its_counts():
    _, there = both(NANO)
    ids = draw_ids(NANO, 0, 2, 5)
    generate(there, ids, 1)
    few, more = (used(lambda n=n: generate(there, ids, n)) for n in (2, 7))
    assert np.subtract(more, few).tolist() == [5 * 2, 5]  # one MoE layer and the logits; the tokens


@counted
def test_evaluation_reads_one_number():
    _, there = both(NANO)
    ids = draw_ids(NANO, 0, 2, 9)
    evaluate_loss(there, ids, np.ones((2, 8)))
    syncs, _ = used(lambda: evaluate_loss(there, ids, np.ones((2, 8))))
    assert syncs == 1 + 1


# ----------------------------------------------------------------------------------------- refusals


def test_ids_on_another_device_are_refused():
    model, there = both(NANO)
    ids = there.check_ids([[1, 2, 3]])
    with pytest.raises(InputError, match="^ids: they are on standin, the model is on cpu$"):
        model(ids)
    assert there(ids).shape == (1, 3, 264)
