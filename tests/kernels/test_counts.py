"""What the kernels are for: the launches of a step, as the docstrings of the kernels have them.

A count that has moved by more than 2 % is one to write down anew, and to ask why."""

import re

import numpy as np
import pytest

from minideepseek import AdamW, DeepSeekV3, DeepSeekV3Config, clip_grad_norm
from minideepseek.autograd import kernels
from minideepseek.autograd.kernels import optimise, rules, set_kernels
from minideepseek.layers.fp8 import kernels as fp8_kernels
from minideepseek.model.fp8 import fp8_training
from tests.kernels import cases, shim
from tests.standin import counters
from tests.standin.kernels import RawKernel


@pytest.fixture(autouse=True)
def _ready(monkeypatch):
    cases.ready()
    monkeypatch.setattr(RawKernel, "checked", False)
    yield
    set_kernels(False)


def launches(fp8, on):
    """Of a training step of `small` over 4 × 128 tokens."""
    model = DeepSeekV3(DeepSeekV3Config.preset("small"), rng=np.random.default_rng(0))
    model = (fp8_training(model) if fp8 else model).to("standin")
    optimiser = AdamW(model.parameters(), lr=1e-4)
    ids = np.random.default_rng(1).integers(0, 512, (4, 128))
    set_kernels(on)
    counters.reset()
    loss = model.loss(ids, mtp_weight=0.0)
    loss.backward()
    clip_grad_norm(model.parameters(), 1.0)
    optimiser.step()
    assert np.isfinite(loss.item())
    return counters.launches


def said(pattern, text):
    """The numbers that a docstring says."""
    found = re.search(pattern, " ".join(text.split()))
    assert found, pattern
    return [int(n.replace(",", "")) for n in found.groups()]


@pytest.mark.slow
@pytest.mark.skipif(not shim.compiler(), reason="needs g++")
def test_launches_of_a_step_are_what_is_said():
    off = said(r"asks for ([\d,]+) launches \(([\d,]+) in FP8\)", kernels.__doc__)
    on = said(r"the step asks for ([\d,]+) launches, and in FP8 for ([\d,]+)", kernels.__doc__)
    for fp8 in (False, True):
        for switched, expected in ((False, off[fp8]), (True, on[fp8])):
            assert launches(fp8, switched) == pytest.approx(expected, rel=0.02), (fp8, switched)


def test_docstrings_agree_on_the_counts():
    total, in_fp8 = said(r"asks for ([\d,]+) launches \(([\d,]+) in FP8\)", kernels.__doc__)
    assert f"{total:,}" in optimise.__doc__
    assert f"{in_fp8:,}" in fp8_kernels.__doc__
    forward, backward = said(r"array functions (\d+) (\d+) all pairs", rules.__doc__)
    assert f"{3 * (forward + backward):,}" in kernels.__doc__  # three MoE layers
