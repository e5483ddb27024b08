"""Runs on a card beside the host's: 20 steps of training, GRPO, samples, and what a step leaves."""

import gc

import numpy as np
import pytest

from minideepseek.autograd import backend
from minideepseek.model import generate as generate_module
from minideepseek.model.fp8 import fp8_inference, fp8_training
from minideepseek.model.generate import generate
from minideepseek.model.speculative import generate_speculative
from minideepseek.training.trainer import Trainer
from tests.gpu.common import RTOL
from tests.gpu.test_layers import model
from tests.layers.common import draw_ids
from tests.reasoning.grpo import tiny as tiny_grpo
from tests.training import tiny

NEAR = 1e-5  # a uniform number nearer to a boundary may fall on its other side
PLAN = tiny.PLAN


def trainers(place, fp8=False):
    """The same trainer, float32, on the host and on the device."""
    for where in ("cpu", place):
        plain = tiny.trainer(aux_loss_alpha=1e-3)
        turned = fp8_training(plain.model) if fp8 else plain.model
        yield Trainer(turned.to(where), plain.loader, PLAN, plain.held_out,
                      moments="bfloat16" if fp8 else None)  # fmt: skip


def apart(there, here):
    """The largest ‖a − b‖ / ‖b‖ over the tensors of two models."""
    worst = 0.0
    for (_, found), (_, expected) in zip(there.named_tensors(), here.named_tensors(), strict=True):
        if size := np.linalg.norm(expected):
            worst = max(worst, np.linalg.norm(backend.to_host(found) - expected) / size)
    return worst


@pytest.mark.parametrize("fp8", [False, True])
def test_twenty_steps_of_training(place, fp8):
    """The loss of every step and the weights after the last; experts get the same tokens."""
    here, there = trainers(place, fp8)
    rtol = 0.05 if fp8 else RTOL  # what is rounded otherwise in one step is learned in the next
    for step in range(20):
        one, other = here.step(), there.step()
        for name in ("loss", "main_loss", *(() if fp8 else ("grad_norm",))):
            assert other[name] == pytest.approx(one[name], rel=rtol), (step, name)
        if not fp8:
            assert [other[k] for k in one if "load" in k] == [one[k] for k in one if "load" in k]
    assert apart(there.model, here.model) < (0.1 if fp8 else RTOL)
    assert there.evaluate() == pytest.approx(here.evaluate(), rel=rtol)


def test_steps_of_grpo(place):
    """In float64, so that the samples are the host's: a step is then the host's too."""
    here, there = (tiny_grpo.trainer(device=where) for where in ("cpu", place))
    for _ in range(3):
        one, other = (tiny_grpo.untimed(trainer.step()) for trainer in (here, there))
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    assert apart(there.model, here.model) < 1e-6


# ------------------------------------------------------------------------------------------ samples


class Watched:
    """`draw`, and for each call how near each row's uniform number was to a boundary."""

    def __init__(self, monkeypatch):
        self.gaps, self.draw = [], generate_module.draw
        monkeypatch.setattr(generate_module, "draw", self)

    def __call__(self, p, rng):
        again = np.random.default_rng()
        again.bit_generator.state = rng.bit_generator.state
        u = again.random((p.shape[0], 1))
        cumulative = np.cumsum(p, -1)
        self.gaps.append(np.abs(cumulative / cumulative[:, -1:] - u).min(-1))
        return self.draw(p, rng)


def agree(found, expected, gaps):
    """Rows are equal up to the first draw whose uniform number was near a boundary."""
    compared = 0
    for row in range(len(expected)):
        near = np.flatnonzero(gaps[:, row] < NEAR)
        until = int(near[0]) if near.size else len(gaps)
        assert np.array_equal(found[row, :until], expected[row, :until]), row
        compared += until
    return compared


@pytest.mark.parametrize("sampling", [(1.0, None, 1.0), (0.7, 20, 0.95), (0.0, None, 1.0)])
@pytest.mark.parametrize("served", [False, True])
def test_samples_of_one_seed(place, monkeypatch, sampling, served):
    one = fp8_inference(model(3)) if served else model(3)
    ids, results = draw_ids(one.config, 4, 6, 8), []
    for where in (one, one.to(place)):
        watched = Watched(monkeypatch)
        out = generate(where, ids, 24, *sampling, rng=np.random.default_rng(9))
        results.append((out[:, 8:], np.array(watched.gaps)))
        monkeypatch.undo()
    (expected, gaps), (found, _) = results
    gaps = gaps if gaps.size else np.ones(expected.T.shape)  # greedy decoding draws nothing
    assert agree(found, expected, gaps) > 0.75 * expected.size


def test_speculative_samples_of_one_seed(place):
    """In float64: a round draws several numbers, whose boundaries are not looked at here."""
    one = tiny_grpo.model(num_nextn_predict_layers=1)
    ids = draw_ids(one.config, 4, 3, 5)
    for temperature in (0.0, 1.0):
        here, there = (
            generate_speculative(
                m, ids, 12, temperature, draft_tokens=2, rng=np.random.default_rng(5)
            )
            for m in (one, one.to(place))
        )
        assert np.array_equal(there[0], here[0]) and there[1].accepted == here[1].accepted


# ------------------------------------------------------------------------------------------- memory


def held(place):
    gc.collect()
    return backend.memory_bytes(place)


@pytest.mark.parametrize("fp8", [False, True])
def test_a_step_leaves_no_memory_behind(place, fp8):
    """Weights, gradients, moments, AdamW's work arrays and tables stay, nothing else of a step."""
    empty = held(place)
    *_, trainer = trainers(place, fp8)
    trainer.step()
    before, parameters = held(place), trainer.model.parameters()
    sizes = [p.data.nbytes for p in parameters]
    known = sum(sizes) + sum(p.grad.nbytes for p in parameters if p.grad is not None)
    known += sum(a.nbytes for a in (*trainer.optimiser.m, *trainer.optimiser.v))
    assert known <= before - empty <= known + 3 * max(sizes) + (1 << 13)
    for _ in range(3):
        trainer.step()
        assert held(place) == before


def test_generating_leaves_no_memory_behind(place):
    there = model().to(place)
    ids = draw_ids(there.config, 0, 2, 5)
    generate(there, ids, 2)  # the tables of angles stay
    before = held(place)
    generate(there, ids, 12)
    assert held(place) == before


def test_what_a_model_needs_and_what_it_gives_back(place):
    before, here = held(place), model()
    there = here.to(place)
    size = sum(array.nbytes for _, array in here.named_tensors())
    shared = 2 * len(there.mtp.layers) * there.model.embed_tokens.weight.data.nbytes
    assert held(place) - before >= size - shared
    del there
    assert held(place) == before
