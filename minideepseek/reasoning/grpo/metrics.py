r"""Chapter 6 — What to watch, and when to stop

    reward, rewards/…       climb
    frac_reward_zero_std    the share of groups that teach nothing: high where problems are all too
                            hard, or all solved
    entropy                 of the policy, nats a token: falls as it commits itself
    kl                      to the reference, nats a token, by k3: how far the policy has gone;
                            measured before the step's first update, penalised or not
    clip_ratio/…            how often the brake holds: a few per cent at most
    sampler_gap             the largest |ln p of the sampler − of the scorer| before the first
                            update: rounding, but for the tokens that a near tie sends to another
                            expert
    completions/…           lengths in tokens, the end token included; clipped_ratio is the share
                            that the token limit cut off
    loss                    says nothing: see `objective`

entropy, kl, the ratios and sampler_gap are of the tokens that were learned from; where every group
was equal and nothing was, of as many rows as a minibatch has.

A run stops with a DivergedError, its last checkpoint kept, where nothing can come any more: every
reward 0, no entropy, or a KL above KL_LIMIT nats a token, each for PATIENCE steps. One step says
little: k3 is e⁻ˣ where the policy draws what the reference finds likelier, and a single rare token
of a policy that learns well can lift a small batch's mean above the limit.
"""

from __future__ import annotations

from typing import Any

from minideepseek.autograd.backend import Array, like, to_host, xp_of
from minideepseek.autograd.engine import Tensor
from minideepseek.errors import DivergedError
from minideepseek.reasoning.grpo.objective import kl_estimate
from minideepseek.reasoning.grpo.sampler import Rollout
from minideepseek.reasoning.grpo.scoring import Scores

PATIENCE = 20  # steps
KL_LIMIT = 10.0  # nats a token
NO_ENTROPY = 1e-5  # nats a token


def length_metrics(lengths: Array, ended: Array) -> dict[str, float]:
    """How long the completions were, (R,) in tokens, and how many were cut off.

    The mean of those that ended is 0 where none did.
    """
    terminated = lengths[ended]
    return {
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(1 - ended.mean()),
        "completions/mean_terminated_length": float(terminated.mean()) if terminated.size else 0.0,
    }


def pass_sums(part: Rollout, scores: Scores, ref: Array | None) -> dict[str, float]:
    """Sums over the tokens of a pass, by one host read: "entropy", and before the first update
    "first_kl" and, a maximum, "sampler_gap".

    ref: ln π_ref, (R, T − 1), None after the first update.
    """
    xp = xp_of(scores.entropy, *([] if ref is None else [ref]))
    real = like(part.mask > 0, scores.entropy)
    found = {"entropy": xp.where(real, scores.entropy, 0).sum()}
    if ref is not None:
        old = like(part.logprobs, ref)
        lp, ref = xp.where(real, scores.logprobs.data, 0), xp.where(real, ref, 0)
        found["first_kl"] = kl_estimate(Tensor(lp), ref, "k3").data.sum()
        found["sampler_gap"] = abs(lp - old).max()
    numbers = to_host(xp.stack([x.astype("float64") for x in found.values()])).tolist()
    return dict(zip(found, numbers, strict=True))


def means(passes: list[dict[str, Any]]) -> dict[str, float]:
    """A step's metrics from its passes'.

    A pass: `pass_sums`, "tokens", and of `grpo_loss` the ratio's means over its "actions" (tokens,
    or rows with ratio="sequence").
    """

    def mean(name: str, over: str, parts: list[dict[str, Any]]) -> float:
        return sum(part[name] for part in parts) / sum(part[over] for part in parts)

    first = [part for part in passes if "first_kl" in part]
    actions = sum(part["actions"] for part in passes)
    ratios = ("ratio/mean", "clip_ratio/low_mean", "clip_ratio/high_mean")
    return {
        "entropy": mean("entropy", "tokens", passes),
        "kl": mean("first_kl", "tokens", first),
        "sampler_gap": max(part["sampler_gap"] for part in first),
        **{name: sum(p[name] * p["actions"] for p in passes) / actions for name in ratios},
    }


def check_collapse(metrics: dict[str, Any], streaks: Array) -> None:
    """DivergedError for a run from which nothing can come any more.

    streaks: (3,) integers, counted on here: the steps in a row without reward, without entropy, and
    beyond KL_LIMIT.
    """
    unpaid = metrics["reward"] == 0 and metrics["frac_reward_zero_std"] == 1
    found = {
        "the reward has been 0": (unpaid, "there is nothing to learn from"),
        "the entropy has been 0": (metrics["entropy"] < NO_ENTROPY, "nothing new will be tried"),
        f"the KL to the reference has been above {KL_LIMIT:g} nats a token": (
            metrics["kl"] > KL_LIMIT,
            "the policy has left it; lower the learning rate",
        ),
    }
    for i, (what, (is_so, consequence)) in enumerate(found.items()):
        streaks[i] = streaks[i] + 1 if is_so else 0
        if streaks[i] >= PATIENCE:
            raise DivergedError(
                f"step {metrics['step']}: {what} for {PATIENCE} steps: {consequence}"
            )
