"""The stand-in costs at most four times the host: what runs over it stays short."""

import time
from functools import partial

import numpy as np
import pytest

from minideepseek.model.fp8 import fp8_inference
from minideepseek.model.generate import generate
from minideepseek.model.speculative import generate_speculative
from tests import standin
from tests.gpu.test_layers import model
from tests.gpu.test_runs import trainers
from tests.layers.common import draw_ids
from tests.reasoning.grpo import tiny

standin.install()
PLACES = ("cpu", "standin")


def decoding(turn=lambda one: one, write=generate, new=16):
    """A text of two rows: one alone is decoded on the host in another way, without Tensors."""
    one = turn(model(num_nextn_predict_layers=1))
    ids = draw_ids(one.config, 0, 2, 5)
    return [partial(write, one.to(place), ids, new) for place in PLACES]


WORK = {
    "training": lambda: [trainer.step for trainer in trainers("standin")],
    "FP8 training": lambda: [trainer.step for trainer in trainers("standin", fp8=True)],
    "GRPO": lambda: [tiny.trainer(device=place).step for place in PLACES],
    "decoding": decoding,
    "FP8 decoding": lambda: decoding(fp8_inference, new=8),
    "drafts": lambda: decoding(
        write=lambda m, ids, new: generate_speculative(
            m, ids, new, 1.0, draft_tokens=2, rng=np.random.default_rng(0)
        )
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_at_most_four_times(name):
    host, device = WORK[name]()
    fastest = [np.inf, np.inf]
    for _ in range(8):
        for i, work in enumerate((host, device)):
            began = time.perf_counter()
            work()
            fastest[i] = min(fastest[i], time.perf_counter() - began)
    ratio = fastest[1] / fastest[0]
    print(f"{name}: {1e3 * fastest[0]:.1f} ms on the host, {ratio:.2f} times over the stand-in")
    assert ratio < 4
