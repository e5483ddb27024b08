"""How often the host waits for the device, and what it sends: counted by the stand-in.

A wait costs a card all the work that could have been queued meanwhile. What has to be read: the
counts of each MoE layer, for there is no grouped product; a step's loss and metrics, at once; and
in decoding the logits, for tokens are drawn on the host.
"""

import numpy as np
import pytest

from minideepseek.autograd.engine import DEBUG
from minideepseek.model.fp8 import fp8_inference
from minideepseek.model.generate import generate
from minideepseek.model.speculative import generate_speculative
from minideepseek.reasoning.r1.sft import SFTTrainer
from minideepseek.reasoning.r1.sources import Demonstrations
from tests import standin
from tests.gpu.test_layers import model
from tests.gpu.test_runs import trainers
from tests.layers.common import draw_ids
from tests.reasoning.grpo import tiny
from tests.reasoning.r1 import common
from tests.reasoning.r1.test_sft import ECHO, PLAN
from tests.standin import counters

pytestmark = pytest.mark.skipif(DEBUG, reason="the debug checks read every output")
standin.install()


def used(action):
    """(launches, synchronisations, uploads) of one action."""
    counters.reset()
    result = action()
    return np.array([counters.launches, counters.syncs, counters.uploads]), result


@pytest.mark.parametrize("fp8", [False, True])
def test_a_step_of_training(fp8):
    """Two MoE layers, one of them the MTP module's; the batch goes up, and a step for each bias."""
    *_, trainer = trainers("standin", fp8)
    trainer.step()
    (_, syncs, uploads), _ = used(trainer.step)
    assert (syncs, uploads) == (2 + 1, 1 + 2)


def test_a_step_of_supervised_fine_tuning():
    """Ids, their places, segments, targets and weights of the packed rows go up."""
    source = Demonstrations(ECHO, 4, np.random.default_rng(0))
    trainer = SFTTrainer(common.model().to("standin"), source, PLAN)
    trainer.step()
    (_, syncs, uploads), _ = used(trainer.step)
    assert len(trainer.model.routers) == 2  # the MTP module's takes no part
    assert (syncs, uploads) == (1 + 1, 5)


def test_a_rollout_and_the_updates_of_grpo():
    """Sampling: as decoding. An update is of passes over some rows: each reads its counts, its
    loss with what is watched, and its entropy, and an update reads the gradients' norm."""
    trainer, sizes = tiny.trainer(device="standin"), []
    trainer.step()
    sample = trainer.sampler.sample

    def sampling(*arguments, **options):
        before = counters.syncs
        rollout = sample(*arguments, **options)
        sizes.append((counters.syncs - before, rollout))
        return rollout

    trainer.sampler.sample = sampling
    (_, syncs, _), _ = used(trainer.step)
    ((sampled, rollout),) = sizes
    steps = (rollout.lengths - rollout.prompt_lengths).max()
    assert sampled == steps * (1 + 1)
    passes, updates, first = 4, 2, 2  # 12 rows in two updates, four rows at a time
    assert syncs - sampled == passes * (1 + 1 + 1) + first * 1 + updates


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_of_decoding(served, rows):
    one = model(num_nextn_predict_layers=0)
    there = (fp8_inference(one) if served else one).to("standin")
    ids = draw_ids(there.config, 0, rows, 5)
    generate(there, ids, 1)
    few, many = (used(lambda n=n: generate(there, ids, n))[0] for n in (3, 8))
    assert (many - few)[1:].tolist() == [5 * (1 + 1), 5]  # counts and logits; the tokens


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_a_round_of_speculative_decoding(drafts):
    """The main model's counts and logits, and the module's for each draft."""
    there = model(num_nextn_predict_layers=1).to("standin")
    ids = draw_ids(there.config, 0, 1, 5)

    def waits(new):
        counted, (_, stats) = used(
            lambda: generate_speculative(
                there, ids, new, 1.0, draft_tokens=drafts, rng=np.random.default_rng(0)
            )
        )
        return counted[1], stats.main_forwards

    (few, short), (many, long) = waits(1), waits(20)
    assert short == 1 and few == 2
    assert 2 + 2 * (long - 1) < many <= 2 + (long - 1) * (2 + 2 * drafts)
