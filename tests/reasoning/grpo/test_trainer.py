"""A step of GRPO against the same step written out, and each of its named alternatives."""

import dataclasses
import json

import numpy as np
import pytest

from minideepseek.reasoning.grpo import trainer as module
from minideepseek.reasoning.tasks import Reward
from tests.reasoning.grpo import tiny
from tests.reasoning.grpo.by_hand import ByHand
from tests.reasoning.grpo.tiny import (
    FIRST,
    LUCK,
    Kept,
    always,
    changed,
    same,
    untimed,
    weights,
)

# ---------------------------------------------------------------------------------------- one step

# Half a point for the shorter texts: some groups are all equal, others have rows at their mean.
SHORT = Reward("short", 0.5, lambda task, c: len(c.text.split()) <= 2)
FORMS = [
    {},
    {"aggregation": "sequence", "scale": "none", "minibatches": 1},
    {"aggregation": "constant", "scale": "rloo", "truncated": "mask", "max_new_tokens": 5},
    {"clip_low": 0.3, "clip_high": 0.05, "minibatches": 4},
    {"ratio": "sequence", "aggregation": "sequence", "kl_coef": 0.1, "clip_high": 0.28},
    {"ratio": "sequence", "clip_low": 0.02, "clip_high": 0.01, "minibatches": 4},
    {"kl_coef": 0.3, "kl": "k1", "temperature": 0.7},
    {"kl_coef": 0.3, "kl": "k2", "truncated": "mask", "max_new_tokens": 3},
    {"kl_coef": 0.3, "kl": "unbiased", "aggregation": "constant", "replay_routing": True},
    {"beta2": 0.95, "temperature": 1.3, "clip_norm": 0.1, "micro_rows": 1},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("rewards", [(LUCK,), (SHORT, FIRST)], ids=["luck", "levels"])
def test_steps_written_out_by_hand(form, rewards):
    """Row by row, without padding or micro passes, with slopes and AdamW in plain NumPy."""
    trainer = tiny.trainer(changed(prompts_per_step=5, **form), rewards)
    by_hand, kept = ByHand(trainer), Kept(trainer)
    for step in range(2):
        metrics = trainer.step()
        norms = by_hand.step(kept.rollout, kept.rewards, kept.rng)
        assert metrics["grad_norm"] == pytest.approx(np.mean(norms or [0]), rel=1e-9)
        for name, array in by_hand.model.state_dict().items():
            found = trainer.model.state_dict()[name]
            np.testing.assert_allclose(found, array, rtol=0, atol=1e-9, err_msg=f"{name}, {step}")
    assert trainer.optimiser.steps == by_hand.updates


METRICS = {
    "step": int, "seconds": float, "tokens": int, "loss": float, "reward": float,
    "reward_std": float, "frac_reward_zero_std": float, "advantage_std": float,
    "completions/mean_length": float, "completions/min_length": int,
    "completions/max_length": int, "completions/clipped_ratio": float,
    "completions/mean_terminated_length": float, "kl": float, "entropy": float,
    "ratio/mean": float, "clip_ratio/low_mean": float, "clip_ratio/high_mean": float,
    "grad_norm": float, "learning_rate": float, "sampler_gap": float, "sample_seconds": float,
    "train_seconds": float, "sample_tokens_per_second": float,
    "train_tokens_per_second": float, "max_vio": list, "dead_experts": list,
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rewards", [(LUCK, SHORT), (always(0.5),)], ids=["luck", "equal"])
def test_every_step_has_every_metric(rewards, dtype):
    """Where all groups are equal too: the policy is watched, and nothing else happens."""
    trainer = tiny.trainer(rewards=rewards, dtype=dtype)
    before, names = weights(trainer.model), {f"rewards/{r.name}": float for r in rewards}
    for step in range(1, 4):
        metrics = trainer.step()
        assert {name: type(value) for name, value in metrics.items()} == METRICS | names
        assert metrics == json.loads(json.dumps(metrics, allow_nan=False))
        assert metrics["step"] == trainer.done == step
        assert len(metrics["max_vio"]) == len(metrics["dead_experts"]) == 1  # not the MTP module's
        assert 0 < metrics["entropy"] < np.log(8) and metrics["sampler_gap"] < 1e-5
    assert trainer.evaluations() == {}
    if rewards == (LUCK, SHORT):
        assert metrics["kl"] > 0.01 and metrics["grad_norm"] > 0
        assert metrics["train_tokens_per_second"] > 0
    else:
        assert metrics["frac_reward_zero_std"] == 1
        assert metrics["ratio/mean"] == pytest.approx(1, abs=1e-5)
        for name in ("loss", "grad_norm", "kl", "advantage_std", "train_tokens_per_second"):
            assert metrics[name] == 0, name
        assert same(before, weights(trainer.model)) and trainer.optimiser.steps == 0


def test_metrics_by_hand():
    """From the rows one by one, in the third step of a policy that has moved."""
    trainer = tiny.trainer(changed(minibatches=1, prompts_per_step=4), (LUCK, SHORT))
    by_hand, kept, total = ByHand(trainer), Kept(trainer), 0
    for _ in range(3):
        for name, array in trainer.model.state_dict().items():
            by_hand.model.state_dict()[name][...] = array
        metrics = trainer.step()
        rollout, rewards = kept.rollout, kept.rewards
        lengths = rollout.lengths - rollout.prompt_lengths
        total += lengths.sum()
    entropies, k3s, gaps = [], [], []
    for i in range(16):
        span = slice(rollout.prompt_lengths[i] - 1, rollout.lengths[i] - 1)
        ids = rollout.ids[i, : rollout.lengths[i]]
        _, lp, p = by_hand.read(by_hand.model, ids)
        x = (lp - by_hand.read(by_hand.reference, ids)[1])[span]
        entropies += (-(p * np.log(p)).sum(1))[span].tolist()
        k3s += (np.exp(-x) - 1 + x).tolist()
        gaps.append(abs(lp[span] - rollout.logprobs[i, span]).max())
    a = np.array([(r - r.mean()) / r.std() for r in rewards])
    expected = {
        "tokens": total,
        "reward": rewards.mean(),
        "reward_std": rewards.std(1).mean(),
        "frac_reward_zero_std": 0,
        "advantage_std": a.std(),
        "completions/mean_length": lengths.mean(),
        "completions/clipped_ratio": np.mean(~rollout.ended),
        "loss": -(a.reshape(-1) * lengths).sum() / lengths.sum(),
        "entropy": np.mean(entropies),
        "kl": np.mean(k3s),
        "ratio/mean": 1,
        "clip_ratio/low_mean": 0,
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-9), name
    assert metrics["reward"] == pytest.approx(
        metrics["rewards/luck"] + 0.5 * metrics["rewards/short"], rel=1e-12
    )
    assert metrics["sampler_gap"] == pytest.approx(max(gaps), abs=1e-13)


def test_the_loss_is_the_mean_over_minibatches():
    trainer = tiny.trainer(changed(minibatches=3))
    learn, losses = trainer._minibatch, []

    def kept(*args):
        passes = learn(*args)
        losses.append(sum(part["loss"] for part in passes))
        return passes

    trainer._minibatch = kept
    assert trainer.step()["loss"] == pytest.approx(np.mean(losses)) and len(losses) == 3


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_what_a_pass_says_of_itself(ratio):
    """What its means are over, and that rows of like length are read together."""
    trainer = tiny.trainer(changed(ratio=ratio, prompts_per_step=8, minibatches=1))
    learn, widths = trainer._pass, []

    def watched(part, *rest):
        seen = learn(part, *rest)
        tokens = int((part.lengths - part.prompt_lengths).sum())
        assert seen["actions"] == (tokens if ratio == "token" else len(part.ids))
        assert seen["tokens"] == tokens
        widths.append(part.ids.shape[1])
        return seen

    trainer._pass = watched
    trainer.step()
    assert widths == sorted(widths) and widths[0] < widths[-1]


# ----------------------------------------------------------------------- parts of a batch, and rows


def rolled(**fields):
    """A trainer, one of its rollouts, and random advantages by row."""
    trainer = tiny.trainer(changed(prompts_per_step=4, **fields))
    kept = Kept(trainer)
    trainer.step()  # moves the policy: ratios and penalties are not trivial
    return trainer, kept.rollout, np.random.default_rng(0).standard_normal(16)


def gradients(trainer):
    return {n: p.grad.copy() for n, p in trainer.parameters.items() if p.grad is not None}


def assert_close(one, other):
    size = np.sqrt(sum((g**2).sum() for g in one.values()))
    assert one.keys() == other.keys() and size > 0.1
    for name, g in one.items():
        np.testing.assert_allclose(other[name], g, rtol=0, atol=1e-12 * size, err_msg=name)


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_micro_passes_change_no_gradient(aggregation, ratio, kl_coef):
    trainer, rollout, a = rolled(aggregation=aggregation, ratio=ratio, kl_coef=kl_coef)
    found = []
    for rows, passes in ((16, 1), (5, 4), (1, 16)):
        trainer.plan = dataclasses.replace(trainer.plan, micro_rows=rows)
        assert len(trainer._minibatch(rollout, a, True)) == passes
        found.append(gradients(trainer))
    assert_close(found[0], found[1])
    assert_close(found[0], found[2])


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_equal_groups_leave_without_a_trace(aggregation):
    """Kept, their advantages of 0 give the same gradient over the denominator of the others."""
    trainer, rollout, a = rolled(aggregation=aggregation)
    a[4:8] = 0
    useful = trainer._useful(rollout, a)
    assert useful.tolist() == [True] * 4 + [False] * 4 + [True] * 8
    rows = np.flatnonzero(useful)
    trainer._minibatch(rollout.select(rows), a[rows], True)
    left = gradients(trainer)
    denominator = {
        "token": (rollout.lengths - rollout.prompt_lengths)[rows].sum(),
        "sequence": 12,
        "constant": 12 * 6,
    }[aggregation]
    trainer.optimiser.zero_grad()
    trainer._pass(rollout, a, float(denominator), True)
    assert_close(left, gradients(trainer))


def test_a_row_at_its_groups_mean_stays_and_with_a_penalty_everyone_does():
    trainer, rollout, _ = rolled()
    a = np.array([[1.0, 0, 0, -1], [0, 0, 0, 0], [0, 0, 0, 0], [0.5, -0.5, 0, 0]]).reshape(-1)
    assert trainer._useful(rollout, a).tolist() == [True] * 4 + [False] * 8 + [True] * 4
    trainer.plan = changed(prompts_per_step=4, kl_coef=1e-3)
    assert trainer._useful(rollout, a).all()


# ------------------------------------------------------------------------ sampler and scorer agree


@pytest.mark.parametrize("dtype, gap", [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("replay", [False, True])
def test_the_first_ratio_is_one(dtype, gap, replay):
    for seed in range(3):
        plan = changed(seed=seed, replay_routing=replay, temperature=0.8, minibatches=1)
        trainer = tiny.trainer(plan, dtype=dtype)
        for _ in range(2):
            metrics = trainer.step()
            assert metrics["sampler_gap"] <= gap and abs(metrics["ratio/mean"] - 1) <= gap


def test_where_experts_nearly_tie_only_replay_keeps_the_ratio_at_one():
    """Eight rows of the router that differ by 1e-6: rounding decides who is chosen. Without replay
    the gap was 0.12 to 0.85 nats in five of six seeds, with it 2e-6 at most."""
    gaps = {}
    for replay in (False, True):
        trainer = tiny.trainer(changed(replay_routing=replay, prompts_per_step=8), dtype="float32")
        router = trainer.model.routers[0].weight.data
        router[...] = router[0] + 1e-6 * np.random.default_rng(0).standard_normal(router.shape)
        gaps[replay] = trainer.step()["sampler_gap"]
    assert gaps[False] > 0.05 and gaps[True] < 1e-5


# ------------------------------------------------------------------------------------ the reference


def calls_of_reference(trainer, monkeypatch):
    """Counts passes over the reference from now on."""
    score, calls = module.score_completions, []

    def counted(model, *args):
        calls.append(model is trainer.reference)
        return score(model, *args)

    monkeypatch.setattr(module, "score_completions", counted)
    return calls


def test_the_reference_is_frozen_and_replaced_when_its_time_comes():
    trainer = tiny.trainer(changed(reference_every=3))
    start, kls = weights(trainer.model), []
    for step in range(1, 7):
        kls.append(trainer.step()["kl"])
        expected = weights(trainer.model) if step in (3, 6) else start
        assert same(expected, weights(trainer.reference)), step
        start = weights(trainer.reference)
    assert kls[0] == kls[3] == 0 and all(kls[i] > 0 for i in (1, 2, 4, 5))
    assert not any((trainer.parameters[name] is p) or np.shares_memory(p.data, q.data)
                   for name, p in trainer.reference.named_parameters()
                   for q in [trainer.parameters[name]])  # fmt: skip


def test_without_a_penalty_the_reference_is_measured_and_has_no_say(monkeypatch):
    """Once for each pass of the first minibatch; the weights are the same whatever it is."""
    found = []
    for scramble in (False, True):
        trainer = tiny.trainer()
        if scramble:
            trainer.reference.load_state_dict(tiny.model(seed=9).state_dict())
        calls = calls_of_reference(trainer, monkeypatch)
        found.append([untimed(trainer.step()) for _ in range(3)])
        monkeypatch.undo()
        assert (sum(calls), len(calls)) == (3 * 2, 3 * (2 + 2 + 2))
        found.append(weights(trainer.model))
    assert same(found[1], found[3])
    for one, other in zip(found[0], found[2], strict=True):
        assert {name for name in one if one[name] != other[name]} == {"kl"}


def test_with_a_penalty_the_reference_holds_the_policy_back(monkeypatch):
    kls = []
    for kl_coef in (0.0, 1.0):
        trainer = tiny.trainer(changed(kl_coef=kl_coef, steps=20))
        calls = calls_of_reference(trainer, monkeypatch)
        kls.append(np.mean([trainer.step()["kl"] for _ in range(12)][-5:]))
        monkeypatch.undo()
        assert sum(calls) * 2 == len(calls) or not kl_coef
    assert kls[0] > 2 * kls[1] > 0, kls
    equal = tiny.trainer(changed(kl_coef=1.0), (always(1.0),))
    before = weights(equal.model)
    equal.step(), equal.step()  # at the reference the penalty's gradient is 0, and no one left
    moved = max(abs(a - before[n]).max() for n, a in weights(equal.model).items())
    assert equal.optimiser.steps == 4 and moved < 1e-6


# ------------------------------------------------------------------------------- named alternatives


@pytest.mark.parametrize("truncated", ["judge", "mask"])
def test_what_was_cut_off_is_judged_or_left_out(truncated):
    trainer = tiny.trainer(changed(truncated=truncated, prompts_per_step=8))
    kept, learn, rows = Kept(trainer), trainer._pass, []

    def watched(part, *rest):
        rows.extend(part.ended)
        return learn(part, *rest)

    trainer._pass = watched
    trainer.step()
    ended = int(kept.rollout.ended.sum())
    assert 20 < ended < 32
    assert (sum(rows), len(rows)) == (ended, ended if truncated == "mask" else 32)


def test_where_everyone_was_cut_off_nobody_is_left():
    trainer = tiny.trainer(changed(truncated="mask", max_new_tokens=1, kl_coef=0.1))
    before, sample = weights(trainer.model), trainer.sampler.sample

    def unended(*args):
        rollout = sample(*args)
        rollout.ended[...] = False
        return rollout

    trainer.sampler.sample = unended
    metrics = trainer.step()
    assert metrics["completions/clipped_ratio"] == 1 and metrics["grad_norm"] == 0
    assert same(before, weights(trainer.model))


@pytest.mark.parametrize("gamma", [0.0, 0.02])
def test_biases_move_only_if_asked_and_mtp_modules_never(gamma):
    trainer = tiny.trainer(changed(bias_step=gamma, kl_coef=0.1, prompts_per_step=8))
    before = weights(trainer.model)
    for _ in range(3):
        trainer.step()
    for name, array in trainer.model.state_dict().items():
        shared = "embed_tokens" in name or "shared_head.head" in name
        rests = name.startswith("model.layers.2.") and not shared
        rests |= name.endswith("bias") and not (gamma and name.startswith("model.layers.1."))
        assert (array == before[name]).all() == rests, name


def test_biases_move_against_the_load_of_what_was_learned_from():
    trainer = tiny.trainer(changed(bias_step=0.02))
    learn, counts = trainer._pass, []

    def watched(*args):
        seen = learn(*args)
        counts.append(seen["loads"][0])
        return seen

    trainer._pass = watched
    trainer.step()
    load = np.sum(counts, axis=0)
    bias = trainer.model.routers[0].e_score_correction_bias
    np.testing.assert_allclose(bias, 0.02 * np.sign(load.mean() - load), rtol=1e-6)
