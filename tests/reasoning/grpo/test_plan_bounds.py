"""A GRPO plan's numbers: each bound is the last that is accepted, and the defaults are printed."""

import dataclasses
import math

import pytest

from minideepseek.errors import InputError
from minideepseek.reasoning.grpo.plan import GRPOPlan

AT_LEAST = {
    "steps": 1, "prompts_per_step": 1, "group_size": 2, "max_new_tokens": 1, "minibatches": 1,
    "micro_rows": 1, "warmup_steps": 0, "reference_every": 0, "evaluate_every": 1,
    "evaluate_samples": 1, "checkpoint_every": 1, "seed": 0,
}  # fmt: skip
AT_MOST = {
    "temperature": 100.0, "learning_rate": 1.0, "final_learning_rate": 1.0, "beta2": 0.999999,
    "clip_norm": 1e9, "clip_low": 1e3, "clip_high": 1e3, "kl_coef": 1e3, "bias_step": 1.0,
}  # fmt: skip
ABOVE_0 = ("temperature", "clip_norm")


@pytest.mark.parametrize("name", AT_LEAST)
def test_the_least_is_accepted_and_one_less_refused(name):
    assert getattr(GRPOPlan(**{name: AT_LEAST[name]}), name) == AT_LEAST[name]
    for wrong in (AT_LEAST[name] - 1, float(AT_LEAST[name])):
        with pytest.raises(InputError, match=f"^{name}: got "):
            GRPOPlan(**{name: wrong})


@pytest.mark.parametrize("name", AT_MOST)
def test_the_most_is_accepted_and_the_next_number_refused(name):
    least = math.nextafter(0, 1) if name in ABOVE_0 else 0.0
    for fine in (least, AT_MOST[name]):
        assert getattr(GRPOPlan(**{name: fine}), name) == fine
    below = 0.0 if name in ABOVE_0 else math.nextafter(0, -1)
    for wrong in (below, math.nextafter(AT_MOST[name], math.inf)):
        with pytest.raises(InputError, match=f"^{name}: got "):
            GRPOPlan(**{name: wrong})


def test_the_defaults_are_those_of_the_printed_runs():
    assert dataclasses.asdict(GRPOPlan()) == {
        "steps": 50, "prompts_per_step": 32, "group_size": 16, "max_new_tokens": None,
        "temperature": 1.0, "minibatches": 4, "micro_rows": 32, "learning_rate": 3e-4,
        "warmup_steps": 5, "final_learning_rate": 0.1, "beta2": 0.99, "clip_norm": 1.0,
        "clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0, "kl": "k3", "scale": "std",
        "aggregation": "token", "ratio": "token", "truncated": "judge", "reference_every": 0,
        "bias_step": 0.0, "replay_routing": False, "evaluate_every": 10, "evaluate_samples": 2,
        "checkpoint_every": 10, "seed": 0,
    }  # fmt: skip
