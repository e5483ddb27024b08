"""What is watched, by hand; and when a run is stopped."""

import numpy as np
import pytest

from minideepseek.errors import DivergedError
from minideepseek.reasoning.grpo.metrics import (
    KL_LIMIT,
    NO_ENTROPY,
    PATIENCE,
    check_collapse,
    length_metrics,
    means,
)

FINE = {"step": 1, "reward": 0.5, "frac_reward_zero_std": 0.5, "entropy": 0.3, "kl": 0.1}


def test_lengths():
    lengths, ended = np.array([2, 6, 4, 6]), np.array([True, False, True, True])
    assert length_metrics(lengths, ended) == {
        "completions/mean_length": 4.5,
        "completions/min_length": 2,
        "completions/max_length": 6,
        "completions/clipped_ratio": 0.25,
        "completions/mean_terminated_length": 4.0,
    }
    assert length_metrics(lengths, ~ended)["completions/mean_terminated_length"] == 6.0
    assert length_metrics(lengths, ended & False)["completions/mean_terminated_length"] == 0.0


def test_means_over_passes_of_different_sizes():
    """Two passes of the first minibatch, one later; entropy by tokens, ratios by actions."""
    passes = [
        {"tokens": 10, "entropy": 5.0, "first_kl": 1.0, "sampler_gap": 1e-6, "actions": 2,
         "ratio/mean": 1.0, "clip_ratio/low_mean": 0.0, "clip_ratio/high_mean": 0.5},
        {"tokens": 30, "entropy": 3.0, "first_kl": 2.0, "sampler_gap": 3e-6, "actions": 2,
         "ratio/mean": 1.0, "clip_ratio/low_mean": 0.0, "clip_ratio/high_mean": 0.0},
        {"tokens": 60, "entropy": 2.0, "actions": 4,
         "ratio/mean": 1.5, "clip_ratio/low_mean": 0.25, "clip_ratio/high_mean": 0.0},
    ]  # fmt: skip
    assert means(passes) == {
        "entropy": 0.1,
        "kl": 0.075,
        "sampler_gap": 3e-6,
        "ratio/mean": 1.25,
        "clip_ratio/low_mean": 0.125,
        "clip_ratio/high_mean": 0.125,
    }


NOTHING = {
    "the reward has been 0": {"reward": 0.0, "frac_reward_zero_std": 1.0},
    "the entropy has been 0": {"entropy": 9e-6},
    "the KL to the reference has been above 10 nats a token": {"kl": 10.1},
}


@pytest.mark.parametrize("what", NOTHING)
def test_nothing_for_many_steps_stops(what):
    streaks = np.zeros(3, "int64")
    for step in range(1, PATIENCE):
        check_collapse(FINE | NOTHING[what] | {"step": step}, streaks)
    with pytest.raises(DivergedError, match=rf"^step {PATIENCE}: {what} for {PATIENCE} steps: "):
        check_collapse(FINE | NOTHING[what] | {"step": PATIENCE}, streaks)
    assert streaks.tolist() == [PATIENCE * (what == name) for name in NOTHING]


@pytest.mark.parametrize("what", NOTHING)
def test_one_step_with_something_begins_anew(what):
    streaks = np.zeros(3, "int64")
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            check_collapse(FINE | NOTHING[what], streaks)
        assert streaks.max() == PATIENCE - 1
        check_collapse(FINE, streaks)
        assert streaks.max() == 0


@pytest.mark.parametrize(
    "fine",
    [
        {"reward": 0.0, "frac_reward_zero_std": 0.9},  # good and bad that add up to nothing
        {"reward": -1.0, "frac_reward_zero_std": 1.0},
        {"reward": 1.1, "frac_reward_zero_std": 1.0},  # solved
        {"entropy": NO_ENTROPY},
        {"kl": KL_LIMIT},
    ],
)
def test_what_is_no_collapse(fine):
    streaks = np.zeros(3, "int64")
    for _ in range(2 * PATIENCE):
        check_collapse(FINE | fine, streaks)


def test_one_rare_token_stops_nothing():
    check_collapse(FINE | {"kl": float("inf")}, np.zeros(3, "int64"))
