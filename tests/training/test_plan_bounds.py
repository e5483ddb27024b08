"""A plan's numbers: each bound is the last that is accepted, and the defaults are those printed."""

import dataclasses
import math

import pytest

from minideepseek.errors import InputError
from minideepseek.training.trainer import LATE_MTP_WEIGHT, Plan

BOUNDS = {  # the least and the most that is accepted, and what comes beyond
    "steps": (1, None), "batch_size": (1, None), "sequence_length": (1, None),
    "accumulate": (1, None), "warmup_steps": (0, None), "evaluate_every": (1, None),
    "checkpoint_every": (1, None), "seed": (0, None),
    "learning_rate": (0.0, 1.0), "final_learning_rate": (0.0, 1.0), "weight_decay": (0.0, 1e3),
    "clip_norm": (0.0, 1e9), "mtp_weight": (0.0, 1e3), "bias_step": (0.0, 1.0),
    "bias_frozen": (0.0, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDS)
def test_the_bound_is_accepted_and_the_next_number_refused(name):
    least, most = BOUNDS[name]
    for fine in (least, most) if most else (least,):
        if not (name == "clip_norm" and fine == 0):  # nothing would be learned
            assert getattr(Plan(**{name: fine}), name) == fine
    for wrong in (least - 1, math.nextafter(most, 2 * most) if most else float(least)):
        with pytest.raises(InputError, match=f"^{name}: got "):
            Plan(**{name: wrong})


def test_every_number_has_bounds():
    assert {f.name for f in dataclasses.fields(Plan)} == set(BOUNDS)


def test_the_defaults_are_those_of_the_printed_runs():
    assert dataclasses.asdict(Plan()) == {
        "steps": 1000, "batch_size": 8, "sequence_length": 256, "accumulate": 1,
        "learning_rate": 2e-3, "warmup_steps": 40, "final_learning_rate": 0.1, "weight_decay": 0.1,
        "clip_norm": 1.0, "mtp_weight": 0.3, "bias_step": 0.01, "bias_frozen": 0.1,
        "evaluate_every": 200, "checkpoint_every": 100, "seed": 0,
    }  # fmt: skip
    assert LATE_MTP_WEIGHT == 0.1
