"""What the objective does on average, exactly: sums over all that a toy policy can say.

The numbers in the chapter's tables come from here (tables of logits and rewards by seed 0).
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd.engine import Parameter, Tensor, no_grad, ops
from minideepseek.reasoning.grpo.objective import (
    AGGREGATIONS,
    KLS,
    RATIOS,
    SCALES,
    grpo_loss,
    kl_estimate,
)
from tests.reasoning.grpo.toy import (
    COMPLETIONS,
    MASK,
    PREFIXES,
    STATES,
    expected_gradient,
    expected_slopes,
    gradient,
    logprobs,
    policy_gradient,
    probabilities,
    relative,
    residual,
    table,
)

seeds = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=8)
NOTHING = np.zeros(len(COMPLETIONS))


def policy(seed=0):
    return Parameter(table(seed))


def rewards_of(seed=0):
    """A reward in [0, 1] for every completion."""
    return np.random.default_rng(seed).random(len(COMPLETIONS))


def test_the_list_is_all_that_can_be_said():
    assert len(COMPLETIONS) == len(set(COMPLETIONS)) == 15
    assert abs(probabilities(policy()).sum() - 1) < 1e-15


# ------------------------------------------------------------ what the gradient is an estimate of


@FEW
@given(seed=seeds, size=st.sampled_from([2, 3]))
def test_leave_one_out_by_a_constant_is_the_policy_gradient(seed, size):
    pi, r = policy(seed), rewards_of(seed)
    truth = policy_gradient(pi, r)
    by = {"aggregation": "constant", "denominator": size}
    assert relative(-expected_gradient(pi, r, size, "rloo", **by), truth) < 1e-10
    short = -expected_gradient(pi, r, size, "none", **by)
    assert relative(short, truth * (size - 1) / size) < 1e-10
    whole = {**by, "ratio": "sequence"}  # at ρ = 1 the ratio of what makes no difference
    assert relative(-expected_gradient(pi, r, size, "rloo", **whole), truth) < 1e-10
    r1 = {"aggregation": "sequence", "ratio": "sequence"}  # its mean is over outputs
    assert relative(-expected_gradient(pi, r, size, "rloo", **r1), truth) < 1e-10


ELSEWHERE = {  # per cent of the expected gradient that no step size makes right; G = 3, seed 0
    ("rloo", "constant"): 0.0, ("rloo", "token"): 10.6, ("rloo", "sequence"): 32.9,
    ("none", "constant"): 0.0, ("none", "token"): 10.6, ("none", "sequence"): 32.9,
    ("std", "constant"): 5.7, ("std", "token"): 7.1, ("std", "sequence"): 28.9,
}  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_truth_table(scale, aggregation):
    pi, r = policy(), rewards_of()
    by = {"aggregation": aggregation, "denominator": 3 if aggregation == "constant" else None}
    share = 100 * residual(-expected_gradient(pi, r, 3, scale, **by), policy_gradient(pi, r))
    assert round(share, 1) == ELSEWHERE[scale, aggregation]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_with_rewards_of_0_and_1_std_changes_a_prompts_weight_and_no_direction(size):
    """The factor is a sum over how many of the others are right; for large G it is 1/√(p(1−p))."""
    pi, r = policy(), (rewards_of() > 0.5).astype(float)
    truth, p = policy_gradient(pi, r), (probabilities(pi) * r).sum()
    got = -expected_gradient(pi, r, size, "std", aggregation="constant", denominator=size)
    assert relative(got, std_factor(p, size) * truth) < 1e-10


def std_factor(p, size):
    """E[A | right] − E[A | wrong] when the others are right with probability p."""
    total = 0.0
    for k in range(size):
        chance = math.comb(size - 1, k) * p**k * (1 - p) ** (size - 1 - k)
        for mine in (1, 0):
            q = (k + mine) / size  # the group's share of right answers
            a = (mine - q) / math.sqrt(q * (1 - q)) if 0 < q < 1 else 0.0
            total += chance * (a if mine else -a)
    return total


def test_the_factor_of_std_in_numbers():
    """G = 16: a prompt solved once in twenty weighs 1.7 times one solved every second time."""
    assert [round(std_factor(p, 16), 2) for p in (0.05, 0.2, 0.5)] == [3.27, 2.35, 1.93]
    assert round(std_factor(0.3, 1000) * math.sqrt(0.3 * 0.7), 2) == 1.0


# ---------------------------------------------------------------------------------- the penalties


def visits(pi):
    """How often each prefix is continued, on average: (7,), a constant."""
    counts = np.zeros(len(PREFIXES))
    np.add.at(counts, STATES, probabilities(pi)[:, None] * MASK)
    return counts


def kl_of_tokens(pi, ref, often, forward=False):
    """∇ Σ over prefixes, as often as given, of KL(π‖ref), or of KL(ref‖π), at the next token."""
    p, q = ops.log_softmax(pi), ops.log_softmax(Tensor(ref.data))
    p, q = (q, p) if forward else (p, q)
    return gradient(pi, ((ops.exp(p) * (p - q)).sum(1) * often).sum())


def kl_of_outputs(pi, ref, forward=False):
    """∇ KL(π‖ref), or ∇ KL(ref‖π), of the distributions over whole completions."""
    p, q = ((logprobs(x) * MASK).sum(1) for x in (pi, Tensor(ref.data)))
    p, q = (q, p) if forward else (p, q)
    return gradient(pi, (ops.exp(p) * (p - q)).sum())


def penalty_gradient(pi, old, ref, kl, aggregation="constant", ratio="token"):
    """E[∇ penalty] of one completion drawn from `old`."""
    return expected_slopes(
        pi, old, NOTHING, ref_logprobs=logprobs(ref).data, kl_coef=1.0, kl=kl,
        aggregation=aggregation, denominator=1, ratio=ratio,
    )  # fmt: skip


@given(seed=seeds)
def test_every_estimator_but_k2_has_the_mean_that_is_wanted(seed):
    """E[k1] = E[k3] = KL(π‖ref) token by token; k3 is never negative. k2 is biased."""
    pi, ref = policy(seed), policy(seed + 1)
    chance, before = probabilities(pi)[:, None] * MASK, logprobs(ref).data
    with no_grad():
        p, q = ops.log_softmax(pi).data, ops.log_softmax(ref).data
        found = {kl: kl_estimate(logprobs(pi), before, kl).data for kl in KLS}
    want = ((np.exp(p) * (p - q)).sum(1) * visits(pi)).sum()
    assert abs((chance * found["k1"]).sum() - want) < 1e-12
    assert abs((chance * found["k3"]).sum() - want) < 1e-12
    assert abs((chance * found["k2"]).sum() - want) > 1e-6
    assert found["k3"].min() >= -1e-15 and found["k1"].min() < 0
    np.testing.assert_allclose(kl_estimate(Tensor(before), before, "k3").data, 0, atol=1e-16)


@given(seed=seeds)
def test_as_a_loss_each_penalty_is_the_gradient_of_something_else(seed):
    """Per token, by a constant, prefixes from the frozen policy itself."""
    pi, ref = policy(seed), policy(seed + 1)
    reverse = kl_of_tokens(pi, ref, visits(pi))
    forward = kl_of_tokens(pi, ref, visits(pi), forward=True)
    found = {kl: penalty_gradient(pi, pi, ref, kl) for kl in KLS}
    assert np.abs(found["k1"]).max() < 1e-10
    assert relative(found["k2"], reverse) < 1e-10
    assert relative(found["unbiased"], reverse) < 1e-10
    assert relative(found["k3"], forward) < 1e-10
    assert relative(forward, reverse) > 1e-3


@given(seed=seeds)
def test_off_policy_only_the_unbiased_form_stays_what_it_was(seed):
    """Completions from an older policy: its prefixes, and still KL(π‖ref) at each of them."""
    pi, old, ref = policy(seed), policy(seed + 1), policy(seed + 2)
    reverse = kl_of_tokens(pi, ref, visits(old))
    found = {kl: penalty_gradient(pi, old, ref, kl) for kl in KLS}
    assert relative(found["unbiased"], reverse) < 1e-10
    assert min(relative(found[kl], reverse) for kl in ("k1", "k2", "k3")) > 1e-3
    assert np.abs(found["k1"]).max() > 1e-3


@given(seed=seeds)
def test_on_whole_outputs_the_same_holds_of_their_distribution(seed):
    """R1 writes ratio and penalty for the whole output: then prefixes are not frozen either."""
    pi, ref = policy(seed), policy(seed + 1)
    for aggregation in ("constant", "sequence"):
        found = {
            kl: penalty_gradient(pi, pi, ref, kl, aggregation, ratio="sequence") for kl in KLS
        }
        assert np.abs(found["k1"]).max() < 1e-10
        assert relative(found["k2"], kl_of_outputs(pi, ref)) < 1e-10
        assert relative(found["unbiased"], kl_of_outputs(pi, ref)) < 1e-10
        assert relative(found["k3"], kl_of_outputs(pi, ref, forward=True)) < 1e-10


def test_what_dividing_by_each_length_does_to_the_penalties():
    """Shares that no step size makes right, per cent: with 1/|o| nothing is what it was."""
    pi, ref = policy(0), policy(100)
    reverse, forward = (kl_of_tokens(pi, ref, visits(pi), f) for f in (False, True))
    found = {kl: penalty_gradient(pi, pi, ref, kl, "sequence") for kl in KLS}
    assert round(100 * residual(found["k2"], reverse)) == 22
    assert round(100 * residual(found["unbiased"], reverse)) == 22
    assert round(100 * residual(found["k3"], forward)) == 35
    ratio = np.linalg.norm(found["k1"]) / np.linalg.norm(found["k2"])
    assert round(100 * ratio) == 43  # and k1's, which was 0, is this share of k2's


def test_what_the_frozen_prefixes_leave_out():
    """Against KL(π‖ref) of whole outputs the token forms are off: the prefixes are π's as well."""
    pi, ref = policy(0), policy(100)
    whole = kl_of_outputs(pi, ref)
    off = {kl: round(100 * relative(penalty_gradient(pi, pi, ref, kl), whole)) for kl in KLS}
    assert off == {"k1": 100, "k2": 33, "k3": 45, "unbiased": 33}


@pytest.mark.parametrize(("kl", "ratio"), [(k, r) for k in KLS[1:] for r in RATIOS])
def test_a_step_down_the_penalty_comes_nearer_to_the_reference(kl, ratio):
    pi, ref = policy(0), policy(100)

    def distance():
        p, q = logprobs(pi).data, logprobs(ref).data
        return (probabilities(pi) * ((p - q) * MASK).sum(1)).sum()

    before = distance()
    step = penalty_gradient(pi, pi, ref, kl, ratio=ratio)
    pi.data[...] -= 0.01 * step
    assert distance() < before - 0.005 * np.linalg.norm(step) ** 2


def test_a_mean_over_each_output_makes_long_wrong_answers_cheap():
    """Wrong answers of lengths 1 and 3, A = −1: with 1/|o| each token of the longer one is pushed
    down by a third of what the shorter's is, by a constant as much."""
    rows = [COMPLETIONS.index((0,)), COMPLETIONS.index((1, 2, 0))]
    for aggregation, want in [("constant", [1, 1, 1, 1]), ("sequence", [1, *[1 / 3] * 3])]:
        p = Parameter(logprobs(policy()).data[rows])
        by = {"aggregation": aggregation, "denominator": 1}
        grpo_loss(p, p.data.copy(), [-1.0, -1.0], MASK[rows], **by)[0].backward()
        np.testing.assert_allclose(p.grad[MASK[rows] > 0], want, rtol=1e-14)
