"""A step of fine-tuning does what it says, a run goes on after a kill, and the model learns."""

import dataclasses
import math

import numpy as np
import pytest

from minideepseek.errors import CheckpointError, DivergedError, InputError
from minideepseek.layers.moe import update_bias
from minideepseek.reasoning.r1 import sft
from minideepseek.reasoning.r1.sft import SFTPlan, SFTTrainer, pack_samples, sft_loss
from minideepseek.reasoning.r1.sources import Demonstrations
from minideepseek.training.optim import AdamW, clip_grad_norm
from minideepseek.training.rundir import RunDirectory, read_metrics
from minideepseek.training.trainer import fit
from tests.reasoning.r1 import common
from tests.reasoning.r1.common import ECHO, PLAN
from tests.training.tiny import untimed

FIELDS = {
    "step": int, "seconds": float, "tokens": int, "loss": float, "grad_norm": float,
    "learning_rate": float, "tokens_per_second": float, "max_vio": list, "dead_experts": list,
}  # fmt: skip


def weights(trainer: SFTTrainer) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in trainer.model.state_dict().items()}


def same(one: dict, other: dict) -> None:
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_a_step_written_out_by_hand():
    trainer, by_hand = common.trainer(), common.trainer()
    model, optimiser = by_hand.model, AdamW(
        by_hand.model.parameters(), lr=0.0, weight_decay=lambda p: 0.1 if p.ndim > 1 else 0.0
    )  # fmt: skip
    for step in range(3):
        packed = pack_samples(by_hand.loader.next_batch(), 24, 0)
        loss, routings = sft._loss(model, packed)
        for p in model.parameters():
            p.grad = None
        loss.backward()
        norm = clip_grad_norm(model.parameters(), 1.0)
        optimiser.lr = [0.0015, 0.003, 0.003][step]
        optimiser.step()
        for router, routing in zip(model.routers, routings, strict=False):
            update_bias(router.e_score_correction_bias, routing.counts, 0.02)
        metrics = trainer.step()
        assert metrics["loss"] == loss.item() and metrics["grad_norm"] == pytest.approx(float(norm))
        assert metrics["dead_experts"] == [r.counts.count(0) for r in routings]
        same(weights(trainer), weights(by_hand))


def test_metrics_have_their_fields():
    trainer, tokens = common.trainer(), 0
    for step in range(1, 4):
        state = trainer.loader.state_dict()
        metrics = trainer.step()
        assert {name: type(value) for name, value in metrics.items()} == FIELDS
        trainer.loader.load_state_dict(state)
        tokens += sum(len(p) + len(r) - 1 for p, r in trainer.loader.next_batch())
        assert (metrics["step"], metrics["tokens"]) == (step, tokens)
        assert metrics["learning_rate"] == trainer.optimiser.lr > 0
        assert len(metrics["max_vio"]) == len(metrics["dead_experts"]) == 1  # not the MTP module's
    assert trainer.evaluations() == {}


@pytest.mark.parametrize("gamma", [0.0, 0.02])
def test_mtp_modules_rest_and_biases_move_only_if_asked(gamma):
    trainer = common.trainer(dataclasses.replace(PLAN, bias_step=gamma))
    before = weights(trainer)
    trainer.step()
    for name, array in trainer.model.state_dict().items():
        shared = "embed_tokens" in name or "shared_head.head" in name
        rests = name.startswith("model.layers.2.") and not shared
        rests |= name.endswith("bias") and not (gamma and name.startswith("model.layers.1."))
        assert (array == before[name]).all() == rests, name


def test_it_learns_to_think():
    trainer = common.trainer(common.LEARNING, initializer_range=0.1)
    losses = [trainer.step()["loss"] for _ in range(trainer.plan.steps)]
    # measured: 3.54 at first, 0.157 in the last ten steps. The teacher's coin leaves ln 2 of
    # uncertainty in a response of 5.5 tokens, 0.126 a token
    assert losses[0] > 3 and 0.12 < np.mean(losses[-10:]) < 0.2


# ------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.experts.down_proj"])
def test_a_bad_parameter_is_named_and_nothing_touched(name):
    trainer = common.trainer()
    trainer.step()
    trainer.parameters[name].data.reshape(-1)[2:3] = np.nan
    before, moments = weights(trainer), [m.copy() for m in trainer.optimiser.m]
    with np.errstate(all="ignore"), pytest.raises(DivergedError) as caught:
        trainer.step()
    assert str(caught.value) == (
        f"step 2: the loss is nan; the first bad tensor is the parameter {name}"
    )
    assert (trainer.done, trainer.optimiser.steps) == (1, 1)
    same(before, weights(trainer))
    for now, then in zip(trainer.optimiser.m, moments, strict=True):
        np.testing.assert_array_equal(now, then)


def test_an_activation_that_overflows_is_named():
    trainer = common.trainer()
    trainer.parameters["model.layers.0.mlp.up_proj.weight"].data[...] = 1e38
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match="an output of linear"):
        trainer.step()


# ----------------------------------------------------------------------------------------- resume


def train(path, fixed: bool, stop_after: int | None = None, killed: bool = False) -> SFTTrainer:
    """A new process's part of a run: fresh objects, resume, then steps; killed: no last save."""
    trainer, files = common.trainer(fixed=fixed), RunDirectory(path, ECHO.tokenizer, "echo")
    notices = [notice.split(",")[0] for notice in files.resume(trainer)]
    cut = [f"{path / 'metrics.jsonl'}: cut back to step {trainer.done}"]  # after a kill
    assert notices in ([], cut)

    def save():
        if not killed or trainer.done % PLAN.checkpoint_every == 0:
            files.save(trainer)

    fit(trainer, files.record, save, lambda: trainer.done == stop_after)
    return trainer


def recorded(path) -> list[dict]:
    return [untimed(m) for m in read_metrics(path / "metrics.jsonl")]


@pytest.mark.parametrize("fixed", [True, False])
def test_a_run_goes_on_as_if_nothing_had_happened(tmp_path, fixed):
    whole = train(tmp_path / "whole", fixed)
    for stop, killed in ((1, True), (2, True), (3, False), (5, True), (5, False)):
        path = tmp_path / f"{stop}{killed}"
        train(path, fixed, stop, killed)
        trainer = train(path, fixed)
        assert recorded(path) == recorded(tmp_path / "whole")
        assert (trainer.done, trainer.tokens) == (PLAN.steps, whole.tokens)
        same(weights(whole), weights(trainer))


def test_another_plan_is_refused(tmp_path):
    train(tmp_path, False, stop_after=2)
    other = common.trainer(dataclasses.replace(PLAN, samples_per_step=5))
    with pytest.raises(CheckpointError, match="samples_per_step = 4, not 5"):
        RunDirectory(tmp_path, ECHO.tokenizer, "echo").resume(other)


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", 0), ("samples_per_step", 0), ("sequence_length", 1), ("sequence_length", 9.0),
        ("warmup_steps", -1), ("checkpoint_every", 0), ("seed", -1), ("learning_rate", math.nan),
        ("learning_rate", 1.5), ("final_learning_rate", 2.0), ("weight_decay", math.inf),
        ("clip_norm", -1.0), ("bias_step", -0.1),
    ],
)  # fmt: skip
def test_a_plan_is_checked(name, value):
    with pytest.raises(InputError, match=rf"^{name}: got {value!r}, expected"):
        SFTPlan(**{name: value})


def test_rows_longer_than_the_models_positions_are_refused():
    common.trainer(dataclasses.replace(PLAN, sequence_length=64))
    with pytest.raises(InputError, match="sequence_length: got 65.*max_position_embeddings = 64"):
        common.trainer(dataclasses.replace(PLAN, sequence_length=65))


def test_a_sample_longer_than_a_row_stops_before_any_work():
    trainer = common.trainer(dataclasses.replace(PLAN, sequence_length=8))
    before = weights(trainer)
    with pytest.raises(InputError, match="has 9|has 10"):
        for _ in range(3):
            trainer.step()
    assert trainer.done or not any((a != before[n]).any() for n, a in weights(trainer).items())


def test_a_step_on_a_device(device):
    host = common.trainer()
    rng = np.random.default_rng(0)
    there = SFTTrainer(common.model().to(device), Demonstrations(ECHO, 4, rng), PLAN)
    for _ in range(2):
        a, b = untimed(host.step()), untimed(there.step())
        assert a["dead_experts"] == b["dead_experts"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    assert sft_loss(there.model, pack_samples(common.samples(3), 24, 0)).device == device
