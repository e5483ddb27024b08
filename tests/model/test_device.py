"""The whole model over the strict stand-in for CuPy: the numbers of the host, and few reads.

Nothing here needs a GPU. What CuPy lacks, would wait for, or leaves to chance raises or is counted.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.autograd.engine import DEBUG, no_grad
from minideepseek.errors import CheckpointError, InputError
from minideepseek.layers.moe import update_bias
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.generate import generate
from minideepseek.model.transformer import evaluate_loss
from minideepseek.training.optim import AdamW, clip_grad_norm
from minideepseek.training.trainer import Plan, Trainer
from tests import standin
from tests.layers.common import build, draw_ids, forget, relative, seeds
from tests.reasoning.grpo import tiny
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
    for work in (model, lambda ids: generate(model, ids, 2), model.losses):
        with pytest.raises(InputError, match="^ids: they are on standin, the model is on cpu$"):
            work(ids)
    assert there(ids).shape == (1, 3, 264)


def up(*values):
    """Integers on the device, one row."""
    return backend.to_device(np.array(values), "standin")


IDS, ONES = np.array([[1, 2, 3, 4]]), np.ones((1, 4), int)


def test_what_is_wanted_on_the_host_may_lie_on_the_device():
    """Prompts, lengths and masks are read on the host: from wherever they are."""
    model, there = both(NANO)
    expected = generate(model, IDS, 3, lengths=[3], pad_token_id=0)
    found = generate(there, there.check_ids(IDS), 3, lengths=up(3), pad_token_id=0)
    assert np.array_equal(found, expected)
    mask = backend.to_device(ONES, "standin")
    assert there.losses(IDS, mask=mask).total.item() == there.losses(IDS, mask=ONES).total.item()
    assert evaluate_loss(there, IDS, mask[:, 1:]) == evaluate_loss(there, IDS, ONES[:, 1:])


def filled(model):
    """A cache that holds tokens of a model."""
    cache = model.new_cache(1, 8)
    with no_grad():
        model.hidden(model.check_ids(IDS), cache)
    return cache


def optimise(model, there):
    """One optimiser for both."""
    AdamW([*model.parameters(), *there.parameters()], lr=1e-3)


def elsewhere(model, there):
    """A gradient that was brought to the host."""
    parameter = there.parameters()[0]
    parameter.grad = np.ones(parameter.shape)
    AdamW([parameter], lr=1e-3).step()


def clip(model, there):
    """One norm of both models' gradients."""
    for one in (model, there):
        one.loss(IDS).backward()
    clip_grad_norm([*model.parameters(), *there.parameters()], 1.0)


def patchwork(model, there):
    """A layer that was left behind."""
    there.model.layers[1] = model.model.layers[1]
    there(IDS)


def reference(model, there):
    """GRPO with its reference on the host."""
    trainer = tiny.trainer(device="standin")
    trainer.reference = trainer.reference.to("cpu")
    trainer.step()


MIXED = {
    "host ids": lambda model, there: there.hidden(IDS),
    "device ids": lambda model, there: model.hidden(there.check_ids(IDS)),
    "host mask": lambda model, there: there.hidden(there.check_ids(IDS), mask=ONES),
    "device mask": lambda model, there: model.hidden(IDS, mask=there.check_ids(IDS)),
    "host segments": lambda model, there: there.hidden(there.check_ids(IDS), segment_ids=ONES),
    "device segments": lambda model, there: model.hidden(IDS, segment_ids=there.check_ids(IDS)),
    "host cache": lambda model, there: there.hidden(there.check_ids(IDS), filled(model)),
    "device cache": lambda model, there: model.hidden(IDS, filled(there)),
    "host routing": lambda model, there: there.hidden(
        there.check_ids(IDS), routing=[np.zeros((4, 2), int)]
    ),
    "a host activation": lambda model, there: there.logits(model.hidden(IDS)[0]),
    "a host cotangent": lambda model, there: there(IDS).backward(np.ones((1, 4, 264))),
    "a host array": lambda model, there: there(IDS) + np.ones(264),
    "AdamW": optimise, "a gradient": elsewhere, "a norm": clip, "a layer": patchwork,
    "GRPO": reference,
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_arrays_on_two_devices_are_one_sentence_that_names_both(name):
    with pytest.raises(InputError, match=r"^[^\n]*standin[^\n]*move \w+ with \.to\(") as caught:
        MIXED[name](*both(NANO))
    assert "cpu" in str(caught.value)


def test_weights_are_loaded_across_devices():
    model, there = both(NANO)
    state = model.state_dict()
    twin = next(name for name in reversed(state) if "embed_tokens" in name)
    mixed = state | {twin: there.state_dict()[twin]}  # two names of one matrix, on two devices
    for target in both(NANO, 1):
        target.load_state_dict(mixed)
        for name, array in target.named_tensors():
            assert np.array_equal(backend.to_host(array), state[name]), name
    with pytest.raises(CheckpointError, match="differs from model.embed_tokens.weight"):
        there.load_state_dict(mixed | {twin: there.state_dict()[twin] + 1})
