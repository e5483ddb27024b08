"""One step does what it says, measures what it says, and stops before a NaN reaches a weight."""

import dataclasses
import math

import numpy as np
import pytest

from minideepseek.autograd import backend
from minideepseek.autograd.blocks import set_threads
from minideepseek.errors import DivergedError, InputError
from minideepseek.layers.moe import max_violation, update_bias
from minideepseek.training import trainer as trainer_module
from minideepseek.training.data import BatchLoader, evaluation_windows
from minideepseek.training.optim import AdamW, clip_grad_norm
from minideepseek.training.trainer import Plan, Trainer, fit
from tests.training import tiny
from tests.training.tiny import PLAN, untimed

FIELDS = {
    "step": int, "seconds": float, "tokens": int, "loss": float, "main_loss": float,
    "mtp_loss": float, "aux_loss": float, "learning_rate": float, "grad_norm": float,
    "tokens_per_second": float, "max_vio": list, "dead_experts": list, "expert_load": list,
}  # fmt: skip
LONG = dataclasses.replace(
    PLAN, steps=60, batch_size=8, sequence_length=32, learning_rate=1e-2, bias_step=0.05
)


def weights(trainer: Trainer) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in trainer.model.state_dict().items()}


def test_learns_a_tiny_text():
    trainer = tiny.trainer(LONG)
    before = trainer.evaluate()
    losses = [trainer.step()["main_loss"] for _ in range(LONG.steps)]
    after = trainer.evaluate()
    # measured: loss 5.57 → 1.12, bits per byte 8.05 → 1.58
    assert np.mean(losses[:3]) > 5 and np.mean(losses[-3:]) < 1.7
    assert before > 7.5 and after < 2.4


def test_a_step_is_what_the_top_of_the_file_says():
    """Its four lines, written out by hand, give the same weights bit for bit."""
    plan = dataclasses.replace(PLAN, accumulate=2)
    trainer, by_hand = tiny.trainer(plan), tiny.trainer(plan)
    model, optimiser = by_hand.model, AdamW(
        by_hand.model.parameters(), lr=0.0, weight_decay=lambda p: 0.1 if p.ndim > 1 else 0.0
    )  # fmt: skip
    for step in range(3):
        counts = 0
        for p in model.parameters():
            p.grad = None
        for _ in range(2):
            losses = model.losses(by_hand.loader.next_batch(), mtp_weight=0.3)
            (losses.total * 0.5).backward()
            counts = counts + np.array([r.counts for r in losses.routings])
        clip_grad_norm(model.parameters(), 1.0)
        optimiser.lr = [0.0015, 0.003, 0.003][step]
        optimiser.step()
        for router, c in zip(model.routers, counts.tolist(), strict=True):
            update_bias(router.e_score_correction_bias, c, 0.02)
        metrics = trainer.step()
        assert metrics["learning_rate"] == pytest.approx(optimiser.lr)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(trainer.model.state_dict()[name], array, err_msg=name)


def test_metrics_have_their_fields():
    trainer = tiny.trainer()
    config = trainer.model.config
    layers, experts = config.num_moe_layers + 1, config.n_routed_experts  # the MTP module's too
    for step in range(1, 4):
        metrics = trainer.step()
        assert {name: type(value) for name, value in metrics.items()} == FIELDS
        assert metrics["step"] == step and metrics["tokens"] == 32 * step
        assert metrics["learning_rate"] == trainer.optimiser.lr > 0
        total = metrics["main_loss"] + 0.3 * metrics["mtp_loss"] + metrics["aux_loss"]
        assert metrics["loss"] == pytest.approx(total, rel=1e-5)
        assert metrics["tokens_per_second"] > 0 and metrics["seconds"] >= 0
        assert [len(row) for row in metrics["expert_load"]] == [experts] * layers
        for row, vio, dead in zip(
            metrics["expert_load"], metrics["max_vio"], metrics["dead_experts"], strict=True
        ):
            assert sum(row) == pytest.approx(1, abs=1e-4)
            assert type(vio) is float and type(dead) is int
            assert vio == pytest.approx(max(row) * experts - 1, abs=1e-3)
            assert dead == row.count(0)


def test_metrics_of_a_model_without_mtp_or_auxiliary_loss():
    trainer = tiny.trainer(num_nextn_predict_layers=0, aux_loss_alpha=0.0)
    metrics = trainer.step()
    assert metrics["mtp_loss"] is None and metrics["aux_loss"] == 0.0
    assert metrics["loss"] == metrics["main_loss"]
    assert len(metrics["max_vio"]) == 1


def test_metrics_of_a_dense_model():
    trainer = tiny.trainer(num_nextn_predict_layers=0, first_k_dense_replace=2)
    metrics = trainer.step()
    assert metrics["max_vio"] == metrics["dead_experts"] == metrics["expert_load"] == []


def test_lambda_falls_after_the_share_of_steps_that_v3_took():
    """0.3 for 10 of 14.8 parts, then 0.1; what is below 0.1 stays."""
    plan = dataclasses.replace(PLAN, steps=148)
    assert [plan.mtp_lambda(t) for t in (0, 99, 100, 147)] == [0.3, 0.3, 0.1, 0.1]
    low = dataclasses.replace(plan, mtp_weight=0.05)
    assert {low.mtp_lambda(t) for t in range(148)} == {0.05}
    trainer = tiny.trainer()  # 6 steps: λ falls behind the fifth
    for step in range(6):
        metrics = trainer.step()
        weighted = metrics["loss"] - metrics["main_loss"] - metrics["aux_loss"]
        assert weighted / metrics["mtp_loss"] == pytest.approx(0.3 if step < 5 else 0.1, rel=1e-4)


def test_without_mtp_weight_the_module_is_left_alone():
    trainer = tiny.trainer(dataclasses.replace(PLAN, mtp_weight=0.0))
    before = weights(trainer)
    assert trainer.step()["mtp_loss"] is None
    own = [n for n in before if n.startswith("model.layers.2.") and "embed" not in n]
    for name in own:
        if "shared_head.head" not in name:
            np.testing.assert_array_equal(trainer.model.state_dict()[name], before[name])


def test_maxvio_and_dead_experts():
    assert max_violation([4, 4, 4, 4]) == 0
    assert max_violation([8, 4, 4, 0]) == 1.0
    assert max_violation([16, 0, 0, 0]) == 3.0


def counting(trainer: Trainer, monkeypatch) -> list[list[list[int]]]:
    """Every batch's expert counts, by MoE layer."""
    seen: list = []
    real = trainer.model.losses

    def losses(*args, **kwargs):
        found = real(*args, **kwargs)
        seen.append([list(routing.counts) for routing in found.routings])
        return found

    monkeypatch.setattr(trainer.model, "losses", losses)
    return seen


@pytest.mark.parametrize("accumulate", [1, 3])
def test_biases_move_against_the_sum_of_the_finished_steps_counts(monkeypatch, accumulate):
    trainer = tiny.trainer(dataclasses.replace(PLAN, accumulate=accumulate, bias_step=0.25))
    seen = counting(trainer, monkeypatch)
    for step in range(3):
        before = [router.e_score_correction_bias.copy() for router in trainer.model.routers]
        metrics = trainer.step()
        batches = np.array(seen[step * accumulate :])
        counts = batches.sum(0)
        assert batches.shape[0] == accumulate
        for layer, (router, bias) in enumerate(zip(trainer.model.routers, before, strict=True)):
            update_bias(bias, counts[layer].tolist(), 0.25)
            np.testing.assert_array_equal(router.e_score_correction_bias, bias)
            assert metrics["dead_experts"][layer] == (counts[layer] == 0).sum()
            shares = counts[layer] / counts[layer].sum()
            np.testing.assert_allclose(metrics["expert_load"][layer], shares, atol=1e-5)


def test_the_last_steps_leave_the_biases():
    trainer = tiny.trainer(dataclasses.replace(PLAN, steps=6, bias_frozen=0.5))
    moved = []
    for _ in range(6):
        before = [router.e_score_correction_bias.copy() for router in trainer.model.routers]
        trainer.step()
        after = [router.e_score_correction_bias for router in trainer.model.routers]
        moved.append(any((a != b).any() for a, b in zip(after, before, strict=True)))
    assert moved == [True, True, True, False, False, False]


@pytest.mark.parametrize("mtp", [0, 1])
def test_accumulation_is_a_larger_batch(mtp):
    one = dataclasses.replace(PLAN, batch_size=6, clip_norm=1e9)
    many = dataclasses.replace(one, batch_size=2, accumulate=3)
    results = []
    for plan in (one, many):
        trainer = tiny.trainer(plan, dtype="float64", num_nextn_predict_layers=mtp)
        metrics = [untimed(trainer.step()) for _ in range(3)]
        results.append((metrics, weights(trainer)))
    (large, large_weights), (small, small_weights) = results
    for a, b in zip(large, small, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            exact = a[name] is None or isinstance(a[name], list)  # the counts are the same
            close = a[name] if exact else pytest.approx(a[name], rel=1e-9, abs=1e-12)
            assert b[name] == close, name
    for name, array in large_weights.items():
        np.testing.assert_allclose(small_weights[name], array, rtol=0, atol=1e-6, err_msg=name)


def test_the_same_for_any_number_of_threads():
    runs = []
    try:
        for threads in (1, 2, 3):
            set_threads(threads)
            trainer = tiny.trainer(dataclasses.replace(PLAN, batch_size=8, sequence_length=48))
            runs.append([untimed(trainer.step()) for _ in range(3)])
    finally:
        set_threads(1)
    assert runs[0] == runs[1] == runs[2]


# -------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("held_out", [1, 2, 9])
def test_evaluation_counts_each_held_out_byte_once(monkeypatch, held_out):
    trainer = tiny.trainer(held_out=held_out)
    seen: list[int] = []

    def uniform(model, ids, mask):  # ln 2 for each counted target
        seen.extend(ids[:, 1:][mask].tolist())
        return mask.sum() * math.log(2), int(mask.sum())

    monkeypatch.setattr(trainer_module, "evaluate_loss", uniform)
    assert trainer.evaluate() == pytest.approx(1.0)
    assert seen == trainer.held_out.tolist()


def test_evaluation_is_the_code_length_in_bits():
    trainer = tiny.trainer(held_out=1)
    nats, count = 0.0, 0
    for ids, mask in evaluation_windows(trainer.held_out, 16, 8):
        logits = trainer.model(ids[:, :-1]).data.astype("float64")
        logits -= logits.max(-1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        nats -= np.take_along_axis(logp, ids[:, 1:, None], -1)[..., 0][mask].sum()
        count += mask.sum()
    assert count == len(trainer.held_out)
    assert trainer.evaluate() == pytest.approx(nats / count / math.log(2), rel=1e-5)


def test_evaluation_changes_nothing():
    trainer, other = tiny.trainer(), tiny.trainer()
    trainer.evaluate()
    assert untimed(trainer.step()) == untimed(other.step())


def test_evaluation_needs_a_text():
    trainer = tiny.trainer()
    trainer.held_out = None
    with pytest.raises(InputError, match="held_out"):
        trainer.evaluate()


# --------------------------------------------------------------------------------------- divergence


def diverges(trainer: Trainer, where: str) -> None:
    """The next step raises, names the step and `where`, and touches nothing."""
    before, steps, loader = weights(trainer), trainer.done, trainer.optimiser.steps
    moments = [m.copy() for m in trainer.optimiser.m]
    with np.errstate(all="ignore"), pytest.raises(DivergedError) as caught:
        trainer.step()
    assert str(caught.value).startswith(f"step {steps + 1}: the ")
    assert where in str(caught.value)
    assert (trainer.done, trainer.optimiser.steps) == (steps, loader)
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    for now, then in zip(trainer.optimiser.m, moments, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.experts.down_proj", "model.norm.weight", "lm_head.weight"]
)
def test_a_bad_parameter_is_named(name, bad):
    trainer = tiny.trainer()
    trainer.step()
    trainer.parameters[name].data.reshape(-1)[3:4] = bad
    diverges(trainer, f"the first bad tensor is the parameter {name}")


def test_an_overflowing_learning_rate_is_found_in_the_next_step():
    trainer = tiny.trainer(dataclasses.replace(PLAN, warmup_steps=0))
    object.__setattr__(trainer.plan, "learning_rate", 1e38)
    with np.errstate(all="ignore"):
        trainer.step()
    diverges(trainer, "; the first bad tensor is ")


def test_an_activation_that_overflows_is_named():
    trainer = tiny.trainer()
    trainer.parameters["model.layers.0.mlp.up_proj.weight"].data[...] = 1e38
    diverges(trainer, "the first bad tensor is an output of linear of shape (2, 16, 64)")


def test_the_gradient_that_went_bad_first_is_named(monkeypatch):
    trainer = tiny.trainer()
    layer, real = trainer.model.model.layers[1], trainer_module.clip_grad_norm

    def spoil(parameters, most):  # as a backward would: from here on down all is NaN
        for p in trainer.parameters.values():
            p.grad[...] = np.nan
            if p is layer.self_attn.o_proj.weight:
                break
        return real(trainer.parameters.values(), most)

    monkeypatch.setattr(trainer_module, "clip_grad_norm", spoil)
    diverges(trainer, "the first bad tensor is the gradient of model.layers.1.self_attn.o_proj")


def test_the_batch_that_went_bad_may_be_any_of_the_step(monkeypatch):
    trainer = tiny.trainer(dataclasses.replace(PLAN, accumulate=2))
    batches = [np.full((2, 17), 7), np.full((2, 17), 8)]
    real = trainer.model.losses

    def losses(ids, **options):
        found = real(ids, **options)
        return dataclasses.replace(found, total=found.total * (math.inf if 8 in ids else 1.0))

    monkeypatch.setattr(trainer.loader, "next_batch", batches.pop)
    monkeypatch.setattr(trainer.model, "losses", losses)
    diverges(trainer, "the loss is inf; the first bad tensor is an output of scale of shape ()")


# -------------------------------------------------------------------------------------------- fit


def test_fit_records_every_step_and_saves_on_time():
    trainer, recorded, saved = tiny.trainer(), [], []
    assert fit(trainer, recorded.append, lambda: saved.append(trainer.done)) is True
    assert [m["step"] for m in recorded] == [1, 2, 3, 4, 5, 6]
    assert saved == [2, 4, 6]
    assert [m["step"] for m in recorded if "bits_per_byte" in m] == [2, 4, 6]
    assert recorded[-1]["bits_per_byte"] == round(trainer.evaluate(), 5)
    assert fit(trainer, recorded.append, lambda: saved.append(0)) is True  # nothing left to do
    assert len(recorded) == 6 and len(saved) == 3


def test_fit_stops_when_asked_with_a_checkpoint():
    trainer, recorded, saved = tiny.trainer(), [], []

    def save():
        saved.append(trainer.done)

    assert fit(trainer, recorded.append, save, lambda: trainer.done == 3) is False
    assert [m["step"] for m in recorded] == [1, 2, 3] and saved == [2, 3]
    assert fit(trainer, recorded.append, save, lambda: trainer.done == 6) is True
    assert saved == [2, 3, 4, 6]


def test_fit_evaluates_and_saves_at_an_odd_end():
    plan = dataclasses.replace(PLAN, steps=3, evaluate_every=50, checkpoint_every=50)
    trainer, recorded, saved = tiny.trainer(plan), [], []
    fit(trainer, recorded.append, lambda: saved.append(trainer.done))
    assert saved == [3] and "bits_per_byte" in recorded[-1]


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", 0), ("steps", 2.0), ("batch_size", 0), ("sequence_length", -1),
        ("accumulate", True), ("evaluate_every", 0), ("checkpoint_every", 0), ("seed", -1),
        ("warmup_steps", -1), ("learning_rate", math.nan), ("learning_rate", 1.5),
        ("mtp_weight", math.inf), ("bias_step", -0.1), ("bias_frozen", 1.1), ("clip_norm", -1.0),
        ("weight_decay", math.nan), ("final_learning_rate", 2.0),
    ],
)  # fmt: skip
def test_a_plan_is_checked(name, value):
    with pytest.raises(InputError, match=rf"^{name}: got {value!r}, expected"):
        Plan(**{name: value})


def test_sequences_longer_than_the_models_positions_are_refused():
    tiny.trainer(dataclasses.replace(PLAN, sequence_length=64))
    with pytest.raises(InputError, match="sequence_length: got 65.*max_position_embeddings = 64"):
        tiny.trainer(dataclasses.replace(PLAN, sequence_length=65))


# ------------------------------------------------------------------------------------- the device


def test_a_step_reads_the_device_once_for_each_moe_layer_and_once_for_all_else():
    standin = pytest.importorskip("tests.standin")
    standin.install()
    host = tiny.trainer(aux_loss_alpha=1e-4)
    rng = np.random.default_rng(PLAN.seed).spawn(2)[1]
    device = Trainer(
        tiny.trainer(aux_loss_alpha=1e-4).model.to("standin"),
        BatchLoader(tiny.tokens(), PLAN.batch_size, PLAN.sequence_length, rng),
        dataclasses.replace(PLAN, accumulate=1),
        tiny.tokens(1, 3),
    )
    for _ in range(2):
        standin.counters.reset()
        there, here = untimed(device.step()), untimed(host.step())
        assert standin.counters.syncs <= len(device.model.routers) + 1
        assert there["dead_experts"] == here["dead_experts"]
        for name in ("loss", "main_loss", "mtp_loss", "aux_loss", "grad_norm"):
            assert there[name] == pytest.approx(here[name], rel=1e-4), name
    assert backend.device_of(device.optimiser.m[0]).name == "standin"
    assert device.evaluate() == pytest.approx(host.evaluate(), rel=1e-4)


def test_a_new_trainer_has_done_nothing_yet():
    trainer = tiny.trainer()
    assert (trainer.done, trainer.tokens, trainer.seconds) == (0, 0, 0.0)
    seconds = [trainer.step()["seconds"] for _ in range(3)]
    assert 0 < seconds[0] <= seconds[1] <= seconds[2] == round(trainer.seconds, 3)
