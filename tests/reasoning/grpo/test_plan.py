"""Every number of a GRPO run is checked and has an effect; problems and tokens are drawn apart."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest

from minideepseek.errors import CheckpointError, InputError
from minideepseek.reasoning.grpo.plan import GRPOPlan, Prompts
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.training.trainer import fit
from tests.reasoning.grpo import tiny
from tests.reasoning.grpo.tiny import COPY, LUCK, PLAN, PROBLEMS, untimed


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", 0), ("steps", 5.0), ("steps", True), ("prompts_per_step", 0), ("group_size", 1),
        ("max_new_tokens", 0), ("max_new_tokens", 8.0), ("temperature", 0.0),
        ("temperature", -1.0), ("temperature", math.nan), ("temperature", math.inf),
        ("minibatches", 0), ("micro_rows", 0), ("learning_rate", 1.5), ("learning_rate", math.nan),
        ("warmup_steps", -1), ("final_learning_rate", 1.1), ("beta2", 1.0), ("beta2", -0.1),
        ("clip_norm", 0.0), ("clip_norm", math.inf), ("clip_low", -0.1), ("clip_high", math.nan),
        ("kl_coef", -1e-3), ("kl_coef", math.inf), ("kl", "k4"), ("kl", None), ("scale", "max"),
        ("aggregation", "mean"), ("ratio", "row"), ("truncated", "drop"), ("reference_every", -1),
        ("reference_every", 0.5), ("bias_step", -0.1), ("bias_step", 2.0), ("replay_routing", 1),
        ("replay_routing", "no"), ("evaluate_every", 0), ("evaluate_samples", 0),
        ("evaluate_samples", 257), ("checkpoint_every", 0), ("seed", -1), ("seed", None),
    ],
)  # fmt: skip
def test_a_bad_number_is_named(name, value):
    with pytest.raises(InputError, match=rf"^{name}: got {value!r}, expected"):
        GRPOPlan(**{name: value})


# A change of each field, and what else is set in both runs so that it can show.
CHANGES = {
    "steps": (4, {}),
    "prompts_per_step": (2, {}),
    "group_size": (3, {}),
    "max_new_tokens": (4, {}),
    "temperature": (0.9, {}),
    "minibatches": (3, {}),
    "micro_rows": (2, {}),
    "learning_rate": (2e-2, {}),
    "warmup_steps": (1, {}),
    "final_learning_rate": (0.5, {"warmup_steps": 0}),
    "beta2": (0.95, {}),
    "clip_norm": (0.5, {}),
    "clip_low": (0.01, {}),
    "clip_high": (0.01, {}),
    "kl_coef": (0.1, {}),
    "kl": ("k2", {"kl_coef": 0.1}),
    "scale": ("none", {}),
    "aggregation": ("sequence", {}),
    "ratio": ("sequence", {}),
    "truncated": ("mask", {}),
    "reference_every": (1, {}),
    "bias_step": (0.1, {}),
    "replay_routing": (True, {}),
    "evaluate_every": (1, {}),
    "evaluate_samples": (3, {}),
    "checkpoint_every": (1, {}),
    "seed": (1, {}),
}
KNOWN: dict[str, dict] = {}  # runs already made


def run(**fields):
    """What a run of three steps shows: metrics, saves, weights, and each pass's rows."""
    plan = dataclasses.replace(PLAN, **{"steps": 3} | fields)
    if repr(plan) not in KNOWN:
        trainer = GRPOTrainer(tiny.model(), COPY, plan, (LUCK,), PROBLEMS)
        learn, passes, saves, lines = trainer._pass, [], [], []

        def watched(part, *rest):
            passes.append((len(part.ids), part.routing is not None))
            return learn(part, *rest)

        trainer._pass = watched
        fit(trainer, lambda m: lines.append(untimed(m)), lambda: saves.append(trainer.done))
        weights = {name: array.tolist() for name, array in trainer.model.state_dict().items()}
        KNOWN[repr(plan)] = {"lines": lines, "saves": saves, "passes": passes, "weights": weights}
    return KNOWN[repr(plan)]


def test_every_field_is_tried():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(GRPOPlan)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_has_an_effect(name):
    value, others = CHANGES[name]
    base, other = run(**others), run(**others, **{name: value})
    differ = {part for part, seen in base.items() if other[part] != seen}
    if name == "micro_rows":  # memory, and mathematics up to rounding
        assert "passes" in differ
        for array, found in zip(base["weights"].values(), other["weights"].values(), strict=True):
            np.testing.assert_allclose(found, array, rtol=0, atol=1e-9)
        return
    if name == "replay_routing":
        assert all(recorded for _, recorded in other["passes"])
    expected = {  # these and no others; or else
        "evaluate_every": {"lines"},
        "evaluate_samples": {"lines"},
        "checkpoint_every": {"saves"},
        "reference_every": {"lines"},
    }.get(name, {"lines", "weights"})
    assert differ >= expected
    if "weights" not in expected:
        assert differ == expected
    if name == "evaluate_every":
        assert ["eval/length" in line for line in base["lines"]] == [False, True, True]
        assert all("eval/length" in line for line in other["lines"])


# ------------------------------------------------------------------------------------ the problems


def prompts(size=3, seed=0):
    return Prompts(COPY, size, np.random.default_rng(seed))


def test_problems_do_not_depend_on_how_much_was_sampled():
    one, other = prompts(), prompts()
    for draws in (0, 7, 1):
        other.sampling.random(draws)
        assert one.next_batch() == other.next_batch()
    assert len({p.prompt for p in prompts(200).next_batch()}) == 12  # all there are
    assert prompts(200).next_batch() != prompts(200, 1).next_batch()


def test_the_state_is_json_and_goes_on_where_it_was_taken():
    one, other = prompts(), prompts(seed=5)
    one.next_batch(), one.sampling.random(3)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert [one.next_batch() for _ in range(5)] == [other.next_batch() for _ in range(5)]
    assert one.sampling.random() == other.sampling.random()


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.update(task="countdown"), lambda s: s.pop("task"), lambda s: s.pop("sampling"),
        lambda s: s.update(problems=None), lambda s: s.update(sampling={"state": 3}),
        lambda s: s["problems"].update(bit_generator="MT19937"),
        lambda s: s["sampling"]["state"].update(state="x"),
    ],
)  # fmt: skip
def test_a_state_that_is_none_is_refused(damage):
    state = copy.deepcopy(prompts().state_dict())
    damage(state)
    with pytest.raises(CheckpointError, match="^prompts' state: "):
        prompts().load_state_dict(state)
    with pytest.raises(CheckpointError, match="^prompts' state: "):
        prompts().load_state_dict([])


def test_no_more_responses_at_once_than_memory_holds():
    GRPOPlan(prompts_per_step=1024, group_size=16)
    with pytest.raises(InputError, match="1025 × 16 are 16,400 responses at once"):
        GRPOPlan(prompts_per_step=1025, group_size=16)
