"""What stands just at a limit, what is left out of a call, and what nobody learns from."""

import numpy as np
import pytest

from minideepseek.autograd.engine import Parameter, Tensor
from minideepseek.errors import DivergedError, InputError
from minideepseek.reasoning.grpo.metrics import PATIENCE, check_collapse
from minideepseek.reasoning.grpo.objective import (
    ROUNDING,
    SCALES,
    group_advantages,
    grpo_loss,
    kl_estimate,
)
from tests.reasoning.grpo import tiny
from tests.reasoning.grpo.common import draw_prompts, sample
from tests.reasoning.grpo.test_metrics import FINE
from tests.reasoning.grpo.tiny import changed, same, weights


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [bool, "uint8", "int8", "int64"])
def test_rewards_of_any_kind_of_number(scale, dtype):
    """Differences of booleans are none, and those of small integers may leave their type."""
    rewards = np.array([[1, 0, 0, 1], [1, 1, 1, 1]] if dtype is bool else [[-100, 100, 0, 1]])
    rewards = abs(rewards) if dtype == "uint8" else rewards
    got = group_advantages(rewards.astype(dtype), scale)
    want = group_advantages(rewards.astype("float64"), scale)
    assert got == pytest.approx(want, rel=1e-15)


def test_the_unbiased_estimate_on_the_policy_itself_is_k3():
    lp, ref = Tensor(np.array([[-1.0, -0.2, -3.0]])), np.array([[-0.5, -0.7, -2.0]])
    unbiased, k3 = (kl_estimate(lp, ref, kl).data for kl in ("unbiased", "k3"))
    assert np.array_equal(unbiased, k3) and (k3 > 0).all()


@pytest.mark.parametrize("name", ["old_logprobs", "ref_logprobs"])
def test_a_probability_of_1_may_be_rounded_up_and_no_further(name):
    """ln 1 is 0, and a float32 softmax gives up to `ROUNDING` more."""
    def loss(top):
        given = {n: np.full((2, 3), -1.0) for n in ("old_logprobs", "ref_logprobs")}
        given[name][1, 2] = top
        old, ref = given["old_logprobs"], given["ref_logprobs"]
        lp, ones = Parameter(np.full((2, 3), -1.0)), np.ones((2, 3))
        return grpo_loss(lp, old, ones[:, 0], ones, ref, kl_coef=0.1)[0].item()

    assert np.isfinite([loss(0.0), loss(ROUNDING)]).all()
    with pytest.raises(InputError, match=name):
        loss(np.nextafter(ROUNDING, 1))


@pytest.mark.parametrize("wrong", ["kl", "aggregation", "ratio"])
def test_an_option_of_no_such_name_is_refused(wrong):
    options = {"kl_coef": 0.1, "ref_logprobs": np.zeros((1, 2)), "denominator": 2.0, wrong: "k9"}
    with pytest.raises(InputError, match=f"{wrong}: got 'k9', expected one of '"):
        grpo_loss(Parameter(np.zeros((1, 2))), np.zeros((1, 2)), [1.0], np.ones((1, 2)), **options)


@pytest.mark.parametrize(
    "name, still_fine, too_far",
    [("entropy", 1e-5, 0.99e-5), ("kl", 10.0, 10.01), ("reward", 1e-9, 0.0)],
)
def test_a_run_is_stopped_beyond_the_limit_only(name, still_fine, too_far):
    alike = {"frac_reward_zero_std": 1.0} if name == "reward" else {}
    for _ in range(PATIENCE):
        check_collapse(FINE | alike | {name: still_fine}, streaks := np.zeros(3, int))
        assert not streaks.any()
    check_collapse(FINE | alike | {name: too_far}, streaks)
    assert streaks.sum() == 1


def test_the_routing_of_a_rollout_has_a_slot_for_all_tokens_but_the_last():
    """The last one is read by nobody."""
    model = tiny.model()
    out = sample(model, draw_prompts(0, [2, 4]), 3, 5, 0, routing=True)
    shape = (out.ids.shape[0], out.ids.shape[1] - 1, model.config.num_experts_per_tok)
    assert {r.shape for r in out.routing} == {shape}


def everyone_cut_off(**fields):
    """A trainer of completions none of which ended."""
    trainer = tiny.trainer(changed(truncated="mask", **fields))
    draw = trainer.sampler.sample

    def unended(*args):
        rollout = draw(*args)
        rollout.ended[...] = False
        return rollout

    trainer.sampler.sample = unended
    return trainer


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_where_nobody_is_learned_from_the_loss_is_0_and_the_policy_is_looked_at(aggregation):
    trainer = everyone_cut_off(aggregation=aggregation)
    before, metrics = weights(trainer.model), trainer.step()
    assert metrics["advantage_std"] > 0 and metrics["entropy"] > 0
    assert metrics["loss"] == metrics["grad_norm"] == 0
    assert same(before, weights(trainer.model))


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_though_its_gradients_are(monkeypatch, loss):
    trainer = tiny.trainer()
    learn = trainer._pass
    monkeypatch.setattr(trainer, "_pass", lambda *args: learn(*args) | {"loss": loss})
    before = weights(trainer.model)
    with pytest.raises(DivergedError, match=f"the loss is {loss}"):
        trainer.step()
    assert same(before, weights(trainer.model))
