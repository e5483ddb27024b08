"""The objective: every option against loops, its gradient against differences, and what is exact.

What it is worth in expectation is in test_expectations.py.
"""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import minideepseek.autograd.primitives  # noqa: F401 - registers
from minideepseek.autograd.backend import to_device, to_host
from minideepseek.autograd.engine import Parameter, Tensor
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.errors import InputError
from minideepseek.reasoning.grpo.objective import (
    AGGREGATIONS,
    KLS,
    RATIOS,
    SCALES,
    group_advantages,
    grpo_loss,
    kl_estimate,
    simplified_loss,
)
from tests import standin

seeds = st.integers(0, 2**32 - 1)
ratios, aggregations, kls = (st.sampled_from(x) for x in (RATIOS, AGGREGATIONS, KLS))
clips = st.sampled_from([0.2, 0.0, (0.2, 0.28), 10, (0.1, 10.0), math.inf])


@st.composite
def options(draw):
    """Any options, β > 0 or not."""
    aggregation = draw(aggregations)
    return {
        "clip_epsilon": draw(clips),
        "kl_coef": draw(st.sampled_from([0.0, 0.3])),
        "kl": draw(kls),
        "aggregation": aggregation,
        "denominator": draw(st.sampled_from([7, 2.5] + [None] * (aggregation != "constant"))),
        "ratio": draw(ratios),
    }


def batch(seed, rows=4, tokens=7):
    """logprobs, old, advantages, mask, ref: prompts and completions of any length, one empty."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(1.0, (rows, tokens))
    lp = old + 0.3 * rng.standard_normal((rows, tokens))
    ref = np.minimum(old + 0.5 * rng.standard_normal((rows, tokens)), 0)
    start = rng.integers(0, tokens, rows)
    end = rng.integers(start + 1, tokens + 1)
    end[0] = start[0] if rows > 1 else end[0]
    at = np.arange(tokens)
    mask = ((at >= start[:, None]) & (at < end[:, None])).astype(np.float64)
    return lp, old, rng.standard_normal(rows), mask, ref


def slopes_of(lp, *rest, **kwargs):
    """The loss and its gradient with respect to logprobs."""
    p = Parameter(lp)
    loss, _ = grpo_loss(p, *rest, **kwargs)
    loss.backward()
    return loss.item(), p.grad


def by_loops(
    lp, old, a, mask, ref, *, clip_epsilon, kl_coef, kl, aggregation, denominator, ratio
):
    """The objective as it is printed, one token at a time, in plain numbers."""
    low, high = clip_epsilon if isinstance(clip_epsilon, tuple) else (clip_epsilon,) * 2
    rows = []
    for i in range(len(lp)):
        steps = [(lp[i, t], old[i, t], ref[i, t]) for t in range(lp.shape[1]) if mask[i, t]]
        if ratio == "sequence" and steps:
            steps = [tuple(map(math.fsum, zip(*steps, strict=True)))]
        terms = []
        for now, before, reference in steps:
            rho, x = math.exp(now - before), reference - now
            clipped = min(max(rho, 1 - low), 1 + high)
            k3 = math.exp(x) - x - 1
            penalty = {"k1": -x, "k2": x * x / 2, "k3": k3, "unbiased": rho * k3}[kl]
            terms.append(min(rho * a[i], clipped * a[i]) - kl_coef * penalty)
        rows.append(terms)
    if aggregation == "sequence":
        means = [math.fsum(terms) / len(terms) if terms else 0.0 for terms in rows]
        return -math.fsum(means) / (denominator or len(rows))
    return -math.fsum(sum(rows, [])) / (denominator or mask.sum())


# ----------------------------------------------------------------------------------- advantages


@given(seed=seeds, scale=st.sampled_from(SCALES), groups=st.integers(1, 4), size=st.integers(2, 9))
def test_advantages_are_their_definitions(seed, scale, groups, size):
    r = np.random.default_rng(seed).standard_normal((groups, size)).round(1)
    got = group_advantages(r, scale)
    for row, mine in zip(r, got, strict=True):
        mean, std = row.mean(), row.std()  # NumPy's std is the population's, ddof 0
        others = (row.sum() - row) / (size - 1)
        if std > 0:
            want = {"std": (row - mean) / std, "none": row - mean, "rloo": row - others}[scale]
            np.testing.assert_allclose(mine, want, atol=1e-12)
    np.testing.assert_allclose(got.sum(1), 0, atol=1e-13 * size)


def test_advantages_in_numbers():
    r = [[1, 0, 0, 0], [2, 4, 4, 6]]
    np.testing.assert_allclose(group_advantages(r)[0], [math.sqrt(3), *[-1 / math.sqrt(3)] * 3])
    np.testing.assert_allclose(group_advantages(r)[1] * math.sqrt(2), [-2, 0, 0, 2])
    np.testing.assert_allclose(group_advantages(r, "none")[1], [-2, 0, 0, 2])
    np.testing.assert_allclose(group_advantages(r, "rloo")[0], [1, *[-1 / 3] * 3])


@given(seed=seeds, factor=st.sampled_from([1e-9, 0.3, 1e6]), shift=st.sampled_from([-5, 0.1, 1e3]))
def test_advantages_ignore_what_is_added_and_std_also_the_scale(seed, factor, shift):
    r = np.random.default_rng(seed).integers(0, 5, (3, 6)) / 4
    np.testing.assert_allclose(group_advantages(r * factor), group_advantages(r), atol=1e-9)
    for scale in SCALES:
        np.testing.assert_allclose(
            group_advantages(r + shift, scale), group_advantages(r, scale), atol=1e-9
        )
        if scale != "std":
            np.testing.assert_allclose(
                group_advantages(r * factor, scale) / factor, group_advantages(r, scale), atol=1e-9
            )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-30, -7.7, 1e20])
def test_equal_rewards_are_worth_exactly_nothing(dtype, scale, value):
    """Sixteen times 0.1 has a float32 mean that is not 0.1; an ε would make that an advantage."""
    got = group_advantages(np.full((2, 16), value, dtype), scale)
    assert got.dtype == dtype and (got == 0).all()


def test_rewards_that_differ_in_their_last_bit_are_told_apart():
    r = np.array([[0.1, np.nextafter(0.1, 1), 0.1, 0.1]])
    np.testing.assert_allclose(group_advantages(r), group_advantages([[0, 1, 0, 0]]), rtol=1e-12)


@given(seed=seeds, scale=st.sampled_from(SCALES))
def test_groups_are_rows_and_know_nothing_of_each_other(seed, scale):
    rng = np.random.default_rng(seed)
    r = rng.standard_normal((4, 5))
    whole = group_advantages(r, scale)
    groups, members = rng.permutation(4), rng.permutation(5)
    moved = group_advantages(r[groups][:, members], scale)
    np.testing.assert_allclose(moved, whole[groups][:, members], atol=1e-13)
    np.testing.assert_array_equal(group_advantages(r[[1, 1, 1]], scale), whole[[1, 1, 1]])
    np.testing.assert_array_equal(group_advantages(r[:1], scale), whole[:1])


def test_prompts_tiled_instead_of_repeated_give_other_advantages():
    """Rows p₁ p₂ p₁ p₂ … cut into consecutive groups: the mistake must be visible."""
    easy, hard = [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]
    right = group_advantages([easy, hard])
    tiled = np.stack([easy, hard], 1).reshape(2, 4)
    assert not np.allclose(group_advantages(tiled).reshape(4, 2).T, right)


@pytest.mark.parametrize(
    ("rewards", "scale", "sentence"),
    [
        ([[1.0], [2.0]], "std", r"rewards: got shape \(2, 1\), expected .* G of at least 2"),
        ([1.0, 2.0], "std", r"rewards: got shape \(2,\), expected \(groups, G\)"),
        ([[1.0, math.nan]], "none", "rewards: got nan in row 0, expected finite numbers"),
        ([[1.0, 0.0], [0.0, -math.inf]], "rloo", "rewards: got -inf in row 1, expected finite"),
        ([[1.0, 0.0]], "batch", "scale: got 'batch', expected one of 'std', 'none', 'rloo'"),
    ],
)
def test_advantages_refuse(rewards, scale, sentence):
    with pytest.raises(InputError, match=sentence):
        group_advantages(rewards, scale)


# ----------------------------------------------------------------------------- value and gradient


@given(seed=seeds, opts=options(), rows=st.integers(1, 5), tokens=st.integers(1, 7))
def test_the_loss_is_the_printed_formula(seed, opts, rows, tokens):
    lp, old, a, mask, ref = batch(seed, rows, tokens)
    loss, parts = grpo_loss(Tensor(lp), old, a, mask, ref, **opts)
    want = by_loops(lp, old, a, mask, ref, **opts)
    np.testing.assert_allclose(loss.item(), want, atol=1e-12)
    assert parts["loss"] == loss.item()
    free = by_loops(lp, old, a, mask, ref, **{**opts, "kl_coef": 0})
    np.testing.assert_allclose(parts["policy_loss"], free, atol=1e-12)
    assert ("kl" in parts) == (opts["kl_coef"] > 0)  # reported where it is evaluated


@given(seed=seeds, opts=options())
def test_gradcheck_of_the_whole_loss(seed, opts):
    lp, old, a, mask, ref = batch(seed, 3, 4)
    logs = (lp - old) * mask
    rho = np.exp(logs.sum(1) if opts["ratio"] == "sequence" else logs)
    pair = opts["clip_epsilon"]
    low, high = pair if isinstance(pair, tuple) else (pair, pair)
    kinks = np.abs(np.array([rho - (1 - low), rho - (1 + high)]))
    assume(kinks[:, rho != 1].min(initial=1) > 2e-2)  # differences average the two slopes of one
    gradcheck(lambda x: grpo_loss(x, old, a, mask, ref, **opts)[0], lp)


@given(seed=seeds, opts=options(), advantage=st.sampled_from([1.5, -1.5]))
def test_at_ratio_one_the_gradient_is_reinforce(seed, opts, advantage):
    """∂/∂ ln π = −A times the row's weight; the loss itself is −mean A, no measure of anything."""
    lp, _, a, mask, _ = batch(seed)
    lp = -np.abs(lp)
    a[1] = advantage
    opts = {**opts, "kl_coef": 0.0}
    loss, slopes = slopes_of(lp, lp, a, mask, **opts)
    lengths = np.maximum(mask.sum(1, keepdims=True), 1)
    whole = opts["ratio"] == "sequence"
    share = {
        "constant": mask / (opts["denominator"] or 1),
        "token": mask / (opts["denominator"] or mask.sum()),
        "sequence": mask / (1 if whole else lengths) / (opts["denominator"] or len(mask)),
    }[opts["aggregation"]]
    np.testing.assert_allclose(slopes, -a[:, None] * share, atol=1e-14)
    np.testing.assert_allclose(
        loss, -(a[:, None] * share / (lengths if whole else 1)).sum(), atol=1e-14
    )


@pytest.mark.parametrize(
    ("advantage", "slopes"), [(1, {0.5: -1, 1: -1, 1.5: 0}), (-1, {0.5: 0, 1: 1, 1.5: 1})]
)
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_clip_is_pessimistic_for_both_signs(advantage, slopes, ratio):
    """∂L/∂ρ at ρ = 0.5, 1, 1.5 for ε = 0.2: it brakes what went far enough, never the way back."""
    for rho, want in slopes.items():
        loss, grad = slopes_of(
            np.array([[math.log(rho) - 2]]), np.array([[-2.0]]), np.array([advantage]),
            np.ones((1, 1)), ratio=ratio,
        )  # fmt: skip
        np.testing.assert_allclose(grad[0, 0] / rho, want, atol=1e-15)
        assert (grad == 0).all() == (want == 0)  # exactly, where it binds
    if advantage == -1:
        np.testing.assert_allclose(loss, 1.5)  # not 1.2


def test_clip_higher_lets_rare_tokens_grow_further():
    args = (np.array([[math.log(1.25) - 2]]), np.array([[-2.0]]), np.ones(1), np.ones((1, 1)))
    assert slopes_of(*args, clip_epsilon=0.2)[1] == 0
    assert slopes_of(*args, clip_epsilon=(0.2, 0.28))[1] < 0


def test_r1s_clip_of_ten_leaves_negative_advantages_free():
    """1 − ε is below 0: no ratio is under it, and a bad token may be pushed down without end."""
    rho = np.array([[1e-3], [5.0], [12.0]])
    old, mask = np.full((3, 1), -9.0), np.ones((3, 1))
    lp = np.log(rho) + old
    assert (slopes_of(lp, old, -np.ones(3), mask, clip_epsilon=10)[1] != 0).all()
    assert (slopes_of(lp, old, np.ones(3), mask, clip_epsilon=10)[1] == 0).ravel().tolist() == [
        False, False, True,
    ]  # fmt: skip


def test_three_ways_to_divide_in_numbers():
    """Lengths 2 and 8, losses 1 and 2 a token: means 1.5 and 1.8; by L = 10 a row, 0.9."""
    mask = (np.arange(8) < [[2], [8]]).astype(float)
    lp, a = np.full((2, 8), -1.0), np.array([-1.0, -2.0])
    for aggregation, denominator, want in [
        ("sequence", None, 1.5), ("token", None, 1.8), ("constant", 2 * 10, 0.9),
    ]:  # fmt: skip
        loss, parts = grpo_loss(
            Tensor(lp), lp, a, mask, aggregation=aggregation, denominator=denominator
        )
        np.testing.assert_allclose([loss.item(), parts["loss"]], want, rtol=1e-15)


@given(seed=seeds, kl=kls)
def test_equal_lengths_make_the_three_one(seed, kl):
    lp, old, a, _, ref = batch(seed)
    mask = np.zeros_like(lp)
    mask[:, 2:6] = 1
    (one, *_), *rest = found = [
        slopes_of(lp, old, a, mask, ref, kl_coef=0.1, kl=kl, aggregation=x, denominator=d)
        for x, d in [("sequence", None), ("token", None), ("constant", mask.sum())]
    ]
    for loss, slopes in rest:
        np.testing.assert_allclose(loss, one, atol=1e-14)
        np.testing.assert_allclose(slopes, found[0][1], atol=1e-14)


def simple_slopes(lp, *rest):
    """The simplified loss and its gradient."""
    p = Parameter(lp)
    loss = simplified_loss(p, *rest)
    loss.backward()
    return loss.item(), p.grad


@given(seed=seeds)
def test_the_simplified_loss_is_the_case_of_ratio_one_and_no_length(seed):
    """∇ of −(1/G) Σ A ln P + β KL is ∇ of GRPO's at ρ = 1 with the constant G."""
    lp, _, a, mask, ref = batch(seed)
    lp = np.minimum(lp, 0)
    rest = {"aggregation": "constant", "denominator": len(lp)}
    _, slopes = slopes_of(lp, lp, a, mask, ref, kl_coef=0.2, **rest)
    np.testing.assert_allclose(simple_slopes(lp, a, mask, ref, 0.2)[1], slopes, atol=1e-14)
    r1 = slopes_of(lp, lp, a, mask, aggregation="sequence", ratio="sequence")[1]
    np.testing.assert_allclose(simple_slopes(lp, a, mask)[1], r1, atol=1e-14)  # none in R1 either


def test_the_simplified_loss_is_another_elsewhere():
    lp, _, a, mask, _ = batch(1)
    lp = np.minimum(lp, 0)
    loss, slopes = simple_slopes(lp, a, mask)
    rest = {"aggregation": "constant", "denominator": len(lp)}
    value, same = slopes_of(lp, lp, a, mask, **rest)
    np.testing.assert_allclose(slopes, same, atol=1e-15)
    assert abs(loss - value) > 0.1
    for old, changes in [(lp - 0.1, {}), (lp - 1, {}), (lp, {"aggregation": "sequence"})]:
        assert np.abs(slopes_of(lp, old, a, mask, **{**rest, **changes})[1] - slopes).max() > 0.01


# ---------------------------------------------------------------------------------- what is masked


@given(seed=seeds, opts=options(), junk=st.sampled_from([math.nan, -math.inf, 1e3, -5.0]))
def test_prompt_padding_and_what_follows_the_end_have_no_gradient_and_no_value(seed, opts, junk):
    lp, old, a, mask, ref = batch(seed)
    loss, slopes = slopes_of(lp, old, a, mask, ref, **opts)
    assert (slopes[mask == 0] == 0).all()
    dirty = [np.where(mask > 0, x, junk) for x in (lp, old, ref)]
    again, same = slopes_of(dirty[0], dirty[1], a, mask, dirty[2], **opts)
    assert again == loss
    np.testing.assert_array_equal(same, slopes)


@given(seed=seeds, opts=options(), pad=st.integers(1, 7))
def test_more_padding_changes_nothing(seed, opts, pad):
    lp, old, a, mask, ref = batch(seed)
    loss, slopes = slopes_of(lp, old, a, mask, ref, **opts)
    wide = [np.pad(x, ((0, 0), (0, pad))) for x in (lp, old, mask, ref)]
    again, longer = slopes_of(wide[0], wide[1], a, wide[2], wide[3], **opts)
    np.testing.assert_allclose(again, loss, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(longer[:, : lp.shape[1]], slopes, rtol=1e-12, atol=1e-15)
    assert (longer[:, lp.shape[1] :] == 0).all()


def test_the_end_token_learns_too():
    lp = np.full((1, 3), -1.0)
    _, slopes = slopes_of(lp, lp, np.ones(1), np.array([[0.0, 1.0, 1.0]]))
    assert slopes.tolist() == [[0, -0.5, -0.5]]


# ------------------------------------------------------------------------- splitting, leaving out


@given(seed=seeds, opts=options(), cuts=st.sampled_from([(), (3,), (1, 2, 3, 4)]))
def test_micro_batches_add_up_to_the_batch(seed, opts, cuts):
    lp, old, a, mask, ref = batch(seed, 5)
    loss, slopes = slopes_of(lp, old, a, mask, ref, **opts)
    if opts["denominator"] is None:
        opts["denominator"] = mask.sum() if opts["aggregation"] == "token" else len(lp)
    total, parts = 0.0, []
    for rows in np.split(np.arange(5), cuts):
        if mask[rows].any():
            one = slopes_of(lp[rows], old[rows], a[rows], mask[rows], ref[rows], **opts)
            total += one[0]
            parts.append(one[1])
        else:
            parts.append(np.zeros_like(lp[rows]))
    np.testing.assert_allclose(total, loss, atol=1e-13)
    np.testing.assert_allclose(np.concatenate(parts), slopes, atol=1e-14)


@given(seed=seeds, opts=options())
def test_groups_of_equal_rewards_can_be_left_out(seed, opts):
    """Their gradient is exactly 0; the denominator stays the whole batch's."""
    lp, old, a, mask, _ = batch(seed, 6)
    rewards = np.array([[1, 0, 1.0], [0.1, 0.1, 0.1]])
    opts = {**opts, "kl_coef": 0.0, "denominator": 11.0}
    _, slopes = slopes_of(lp, old, group_advantages(rewards).ravel(), mask, **opts)
    assert (slopes[3:] == 0).all()
    _, kept = slopes_of(lp[:3], old[:3], group_advantages(rewards[:1])[0], mask[:3], **opts)
    np.testing.assert_array_equal(slopes[:3], kept)


@given(seed=seeds, opts=options())
def test_rows_permuted_or_twice(seed, opts):
    lp, old, a, mask, ref = batch(seed)
    loss, slopes = slopes_of(lp, old, a, mask, ref, **opts)
    order = np.random.default_rng(seed).permutation(len(lp))
    moved, same = slopes_of(*(x[order] for x in (lp, old, a, mask, ref)), **opts)
    np.testing.assert_allclose(moved, loss, atol=1e-13)
    np.testing.assert_allclose(same, slopes[order], atol=1e-14)
    twice, halves = slopes_of(*(np.concatenate([x, x]) for x in (lp, old, a, mask, ref)), **opts)
    n = 1 if opts["denominator"] is None else 2  # a mean is the same, a sum is twice as much
    np.testing.assert_allclose(twice, n * loss, atol=1e-12)
    np.testing.assert_allclose(halves[: len(lp)], slopes * n / 2, atol=1e-14)


# ------------------------------------------------------------------------------ what is reported


def test_the_parts_in_numbers():
    rho = np.array([[0.5, 1.0, 1.5, 9.0], [0.5, 1.0, 1.5, 1.1]])
    mask = np.array([[1.0, 1, 1, 0], [1, 1, 1, 1]])
    old = np.full((2, 4), -3.0)
    lp = np.log(rho) + old
    loss, parts = grpo_loss(Tensor(lp), old, [1.0, -1.0], mask, lp - 1, kl_coef=2.0, kl="k2")
    assert set(parts) == {
        "loss", "policy_loss", "kl", "tokens", "ratio/mean", "ratio/min", "ratio/max",
        "clip_ratio/low_mean", "clip_ratio/high_mean",
    }  # fmt: skip
    np.testing.assert_allclose(parts["ratio/mean"], 7.1 / 7)
    np.testing.assert_allclose([parts["ratio/min"], parts["ratio/max"]], [0.5, 1.5])
    np.testing.assert_allclose(parts["clip_ratio/low_mean"], 1 / 7)  # 0.5 with A < 0
    np.testing.assert_allclose(parts["clip_ratio/high_mean"], 1 / 7)  # 1.5 with A > 0
    np.testing.assert_allclose(parts["kl"], 0.5)  # 1²/2 at every token
    np.testing.assert_allclose(parts["policy_loss"], (-0.5 - 1 - 1.2 + 0.8 + 1 + 1.5 + 1.1) / 7)
    np.testing.assert_allclose(parts["loss"], parts["policy_loss"] + 2 * 0.5)
    assert parts["tokens"] == 7 and all(type(x) is float for x in parts.values())
    assert parts["loss"] == loss.item()


def test_the_least_and_the_largest_ratio_are_of_completion_tokens():
    mask, old = np.array([[1.0, 1.0, 0.0]]), np.full((1, 3), -3.0)
    for rho in ([2.0, 3.0, 9.0], [0.2, 0.3, 0.1]):  # what is masked has neither its ρ nor 1
        _, parts = grpo_loss(Tensor(np.log([rho]) + old), old, [1.0], mask)
        np.testing.assert_allclose([parts["ratio/min"], parts["ratio/max"]], rho[:2])


def test_clip_fractions_count_what_has_no_gradient():
    lp, old, a, mask, _ = batch(5, 9, 20)
    _, parts = grpo_loss(Tensor(lp), old, a, mask)
    _, slopes = slopes_of(lp, old, a, mask)
    bound = ((slopes == 0) & (mask > 0)).sum() / mask.sum()
    low, high = parts["clip_ratio/low_mean"], parts["clip_ratio/high_mean"]
    assert low > 0 and high > 0
    np.testing.assert_allclose(low + high, bound)


class Untouchable:
    """A reference that must not be evaluated."""

    def __getattribute__(self, name):
        raise AssertionError(f"the reference's {name} was asked for")


def test_without_beta_the_reference_is_not_touched():
    lp, old, a, mask, _ = batch(0)
    got = grpo_loss(Tensor(lp), old, a, mask, Untouchable(), kl_coef=0.0)
    assert got[1] == grpo_loss(Tensor(lp), old, a, mask)[1]
    with pytest.raises(AssertionError, match="the reference's"):
        grpo_loss(Tensor(lp), old, a, mask, Untouchable(), kl_coef=0.1)


@given(opts=options(), seed=seeds)
def test_the_same_on_a_device_with_one_look_at_it(opts, seed):
    standin.install()
    lp, old, a, mask, ref = (x.astype(np.float32) for x in batch(seed))
    loss, parts = grpo_loss(Tensor(lp), old, a, mask, ref, **opts)
    _, slopes = slopes_of(lp, old, a, mask, ref, **opts)
    p, *rest = (to_device(x, "standin") for x in (lp, old, a, mask, ref))
    p = Parameter(p)
    standin.counters.reset()
    there, seen = grpo_loss(p, *rest, **opts)
    assert standin.counters.syncs == 1
    there.backward()
    assert standin.counters.syncs == 1 and there.dtype == p.grad.dtype == np.float32
    assert seen == pytest.approx(parts, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(to_host(p.grad), slopes, rtol=1e-5, atol=1e-7)
    beside, _ = grpo_loss(p, old.astype(np.float64), a.tolist(), mask > 0, ref, **opts)
    assert beside.dtype == np.float32  # the rollout is kept on the host, in float64
    np.testing.assert_allclose(beside.item(), loss.item(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_advantages_on_a_device(device, scale):
    r = np.random.default_rng(0).random((3, 4))
    got = group_advantages(to_device(r, device), scale)
    np.testing.assert_allclose(to_host(got), group_advantages(r, scale), rtol=1e-14)


# ------------------------------------------------------------------------------------ bad input

GOOD = dict(
    zip(("logprobs", "old_logprobs", "advantages", "mask", "ref_logprobs"), batch(0), strict=True)
)
GOOD["logprobs"] = Tensor(GOOD["logprobs"])
SPOT = tuple(np.argwhere(GOOD["mask"] > 0)[0])


def spoilt(name, value, at=SPOT):
    """One of the good arrays with one entry changed."""
    x = GOOD[name].copy()
    x[at] = value
    return {name: x}


BAD = [
    (spoilt("old_logprobs", 0.5), "old_logprobs: got 0.5 in row 1, expected finite log-prob.* 0$"),
    (spoilt("old_logprobs", math.nan), "old_logprobs: got nan in row 1, expected finite log-prob"),
    (spoilt("old_logprobs", -math.inf), "old_logprobs: got -inf in row 1, expected finite log-p"),
    (spoilt("ref_logprobs", 0.5), "ref_logprobs: got 0.5 in row 1, expected finite log-prob"),
    (spoilt("ref_logprobs", math.nan), "ref_logprobs: got nan in row 1, expected finite log-prob"),
    (spoilt("advantages", math.nan, 2), "advantages: got nan in row 2, expected finite numbers"),
    (spoilt("advantages", math.inf, 0), "advantages: got inf in row 0, expected finite numbers"),
    (spoilt("mask", 0.5), "mask: got 0.5 in row 1, expected 0 and 1 only"),
    (spoilt("mask", math.nan), "mask: got nan in row 1, expected 0 and 1 only"),
    ({"mask": np.zeros((4, 7))}, "mask: got zeros only, expected 1 on completion tokens"),
    ({"mask": np.ones((4, 6))}, r"mask: got shape \(4, 6\), expected \(4, 7\)"),
    ({"old_logprobs": np.zeros(4)}, r"old_logprobs: got shape \(4,\), expected \(4, 7\)"),
    ({"advantages": np.zeros((2, 2))}, r"advantages: got shape \(2, 2\), expected \(4,\)"),
    ({"ref_logprobs": np.zeros((4, 8))}, r"ref_logprobs: got shape \(4, 8\), expected \(4, 7\)"),
    ({"ref_logprobs": None}, "ref_logprobs: got None, expected an array where kl_coef is above 0"),
    ({"logprobs": np.zeros((4, 7))}, "logprobs: got ndarray, expected a Tensor of shape"),
    ({"logprobs": Tensor(np.zeros(7))}, r"logprobs: got shape \(7,\), expected a Tensor of shape"),
    ({"kl": "k4"}, "kl: got 'k4', expected one of 'k1', 'k2', 'k3', 'unbiased'"),
    ({"aggregation": "mean"}, "aggregation: got 'mean', expected one of 'sequence', 'token'"),
    ({"ratio": "whole"}, "ratio: got 'whole', expected one of 'token', 'sequence'"),
    ({"kl_coef": -0.1}, "kl_coef: got -0.1, expected a finite number of at least 0"),
    ({"kl_coef": math.nan}, "kl_coef: got nan, expected a finite number of at least 0"),
    ({"clip_epsilon": -0.2}, "clip_epsilon: got -0.2, expected a number of at least 0, or"),
    ({"clip_epsilon": None}, "clip_epsilon: got None, expected a number"),
    ({"clip_epsilon": ("0.1", 0.2)}, r"clip_epsilon: got \('0.1', 0.2\), expected a number"),
    ({"clip_epsilon": (0.1, math.nan)}, r"clip_epsilon: got \(0.1, nan\), expected a number"),
    ({"clip_epsilon": (0.1, 0.2, 0.3)}, r"clip_epsilon: got \(0.1, 0.2, 0.3\), expected"),
    ({"aggregation": "constant"}, "denominator: got None, expected the constant of aggregation="),
    ({"denominator": 0}, "denominator: got 0, expected a number above 0"),
    ({"denominator": math.inf}, "denominator: got inf, expected a number above 0"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[s[:40] for _, s in BAD])
def test_bad_input_is_one_sentence(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        grpo_loss(**{**GOOD, "kl_coef": 0.1, **changes})


def test_a_log_probability_of_one_may_round_above_zero():
    grpo_loss(**{**GOOD, **spoilt("old_logprobs", 1e-7)})
    with pytest.raises(InputError, match="old_logprobs: got 1e-05 in row 1"):
        grpo_loss(**{**GOOD, **spoilt("old_logprobs", 1e-5)})


def test_kl_estimates_in_numbers():
    x = Tensor(np.log([[0.5]]))
    ref = np.log([[0.25]])
    for kl, want in [
        ("k1", math.log(2)), ("k2", math.log(2) ** 2 / 2), ("k3", 0.5 - 1 + math.log(2)),
        ("unbiased", 3 * (0.5 - 1 + math.log(2))),
    ]:  # fmt: skip
        np.testing.assert_allclose(kl_estimate(x, ref, kl, 3).data, [[want]], rtol=1e-14)
    with pytest.raises(InputError, match="kl: got 'k5', expected one of"):
        kl_estimate(x, ref, "k5")
