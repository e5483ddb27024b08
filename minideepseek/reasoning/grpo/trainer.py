r"""Chapter 6, one step of GRPO

    1  sample   G answers to each of P problems, from the policy as it is: π_old
    2  judge    a reward for each answer, by rules; its advantage beside the rest of its group
    3  update   in `minibatches` parts, with one AdamW step each. The first is on policy, ρ = 1;
                the later ones are not quite any more, which is what ratio and clip are for
    4  forget   the rollout is used once (R1-Zero: one epoch of 16 minibatches)

A group whose answers all earned the same has advantages of exactly 0 and no gradient. Such groups
leave the batch before step 3, and the denominators count what remains: otherwise steps would
shrink as problems get solved. (With a KL penalty they stay: that term has a gradient of its own.)
DAPO samples further prompts until the batch is full again; here the batch is smaller and cheaper.

The routers' biases are held fixed by default. Each update moves the policy by little, but where two
experts nearly tie even that changes who is chosen, and ρ jumps for no reason that the reward knows;
moving the biases adds to it. `replay_routing` removes the effect.

What to watch
-------------
`reward` and its parts climb; `frac_reward_zero_std`, the share of groups without a gradient, is
high where problems are all too hard or all solved; `entropy` falls as the policy commits itself;
`kl` says how far it has gone from the reference (measured on the first minibatch, by k3, whether
or not it is penalised); `clip_ratio` how often the brake holds, a few per cent at most; the gap
between sampler and scorer, `sampler_gap`, is rounding, but for the tokens that a near tie sends to
another expert. The loss is none of these: see `objective`.

A run stops with a DivergedError, its last checkpoint kept, where nothing can come any more: every
reward 0 or no entropy for PATIENCE steps, or a KL above KL_LIMIT nats a token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from minideepseek.autograd.backend import Array, full, like, to_host, xp_of
from minideepseek.autograd.engine import no_grad
from minideepseek.errors import DivergedError
from minideepseek.layers.moe import max_violation, update_bias
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.evaluate import evaluate
from minideepseek.reasoning.grpo.objective import group_advantages, grpo_loss, kl_estimate
from minideepseek.reasoning.grpo.plan import GRPOPlan, Prompts
from minideepseek.reasoning.grpo.sampler import GroupSampler, Rollout
from minideepseek.reasoning.grpo.scoring import score_completions
from minideepseek.reasoning.tasks import REWARDS, Completion, Problem, Reward, Task, score
from minideepseek.training.blame import blame
from minideepseek.training.optim import AdamW, clip_grad_norm, cosine_schedule

PATIENCE = 20  # steps
KL_LIMIT = 10.0  # nats a token
NO_ENTROPY = 1e-5  # nats a token


class GRPOTrainer:
    """A policy, its task and its optimiser; `step()` is one rollout and its updates.

    `training.trainer.fit` drives it and a RunDirectory keeps it, as in pre-training. problems: held
    out, for `evaluations`; none, no evaluation. The reference is the policy as it is given here.
    InputError where prompt and answer exceed the model's positions.
    """

    def __init__(
        self,
        model: DeepSeekV3,
        task: Task,
        plan: GRPOPlan,
        rewards: Sequence[Reward] = REWARDS,
        problems: Sequence[Problem] = (),
        rng: np.random.Generator | None = None,
    ) -> None:
        self.model, self.task, self.plan, self.problems = model, task, plan, list(problems)
        self.rewards = rewards
        rng = np.random.default_rng(plan.seed) if rng is None else rng
        self.loader = Prompts(task, plan.prompts_per_step, rng)
        limit = plan.max_new_tokens or task.max_new_tokens
        self.sampler = GroupSampler(
            model, task.tokenizer, plan.group_size, limit, temperature=plan.temperature
        )
        self.parameters = dict(model.named_parameters())
        self.optimiser = AdamW(
            self.parameters.values(), plan.learning_rate, (0.9, plan.beta2), weight_decay=0.0
        )
        weight = model.model.norm.weight
        self.reference = DeepSeekV3.empty(model.config, weight.dtype).to(model.device)
        self.reference.load_state_dict(model.state_dict())
        self.streaks = full((2,), 0, "int64")  # steps in a row without reward, without entropy
        self.done = 0  # steps
        self.tokens = 0  # sampled
        self.seconds = 0.0  # over all processes that worked on this run

    @property
    def kept(self) -> dict[str, Array]:
        """Arrays that a checkpoint holds beside the weights and AdamW's moments."""
        reference = self.reference.state_dict()
        return {f"reference.{name}": a for name, a in reference.items()} | {"streaks": self.streaks}

    def step(self) -> dict[str, Any]:
        """Sample, judge, update; the metrics. DivergedError for NaN, Inf or a collapse."""
        plan, began = self.plan, time.perf_counter()
        problems = self.loader.next_batch()
        prompts = [self.task.prompt_ids(problem) for problem in problems]
        rollout = self.sampler.sample(prompts, self.loader.sampling, plan.replay_routing)
        sampled = time.perf_counter()
        judged, advantages = self._judge(problems, rollout)
        self.optimiser.lr = cosine_schedule(
            self.done, plan.steps, plan.learning_rate, plan.warmup_steps, plan.final_learning_rate
        )
        learned = self._learn(rollout, advantages)
        ended = time.perf_counter()
        self.done += 1
        self.seconds += ended - began
        lengths = rollout.lengths - rollout.prompt_lengths
        self.tokens += int(lengths.sum())
        if plan.reference_every and self.done % plan.reference_every == 0:
            self.reference.load_state_dict(self.model.state_dict())
        trained = learned.pop("tokens")
        metrics = {
            "step": self.done,
            "seconds": round(self.seconds, 3),
            "tokens": self.tokens,
            **judged,
            **_lengths(lengths, rollout.ended),
            **learned,
            "learning_rate": self.optimiser.lr,
            "sample_seconds": round(sampled - began, 4),
            "train_seconds": round(ended - sampled, 4),
            "sample_tokens_per_second": round(int(lengths.sum()) / (sampled - began), 1),
            "train_tokens_per_second": round(trained / (ended - sampled), 1),
        }
        self._watch(metrics)
        return metrics

    def evaluations(self) -> dict[str, Any]:
        """Held-out accuracy, every evaluate_every steps and at the end; always the same draws."""
        plan = self.plan
        due = self.done == plan.steps or self.done % plan.evaluate_every == 0
        if not self.problems or not due:
            return {}
        rng = np.random.default_rng([plan.seed, 1])
        found = evaluate(self.model, self.task, self.problems, plan.evaluate_samples, rng=rng)
        return {
            "eval/accuracy": found.accuracy,
            "eval/greedy": found.greedy,
            "eval/length": found.length,
        }

    # ---------------------------------------------------------------------------------- judging

    def _judge(
        self, problems: list[Problem], rollout: Rollout
    ) -> tuple[dict[str, float], np.ndarray]:
        """The rewards' metrics, and each row's advantage."""
        size = self.plan.group_size
        texts = rollout.completions(self.task.tokenizer)
        asked = [problem for problem in problems for _ in range(size)]
        pairs = zip(asked, texts, strict=True)
        completions = [Completion(problem, text, ended) for problem, (text, ended) in pairs]
        scores = score(self.task, completions, self.rewards)
        groups = scores["reward"].reshape(-1, size)
        advantages = group_advantages(groups, self.plan.scale).reshape(-1)
        metrics = {
            "reward": float(groups.mean()),
            "reward_std": float(groups.std(1).mean()),
            "frac_reward_zero_std": float((groups.max(1) == groups.min(1)).mean()),
            "advantage_std": float(advantages.std()),
        }
        for reward in self.rewards:
            metrics[f"rewards/{reward.name}"] = float(scores[reward.name].mean())
        return metrics, advantages

    # --------------------------------------------------------------------------------- learning

    def _learn(self, rollout: Rollout, advantages: np.ndarray) -> dict[str, Any]:
        """The updates of one rollout; their metrics."""
        plan, chosen = self.plan, np.ones(len(advantages), bool)
        if not plan.kl_coef:
            chosen = advantages != 0
        if plan.truncated == "mask":
            chosen &= rollout.ended
        rows = self.loader.sampling.permutation(np.flatnonzero(chosen))
        parts: list[dict[str, Any]] = []
        norms = []
        for number, part in enumerate(np.array_split(rows, plan.minibatches)):
            if part.size:
                seen = self._minibatch(rollout.select(part), advantages[part], first=number == 0)
                norms.append(self._update(seen, rollout.select(part)))
                parts += seen
        metrics = _mean(parts)
        loads = np.sum([part["loads"] for part in parts], axis=0).tolist() if parts else []
        if plan.bias_step:
            for router, counts in zip(self.model.routers, loads, strict=False):  # MTP's rest
                update_bias(router.e_score_correction_bias, counts, plan.bias_step)
        return metrics | {
            "grad_norm": float(np.mean(norms)) if norms else 0.0,
            "max_vio": [round(max_violation(counts), 4) for counts in loads],
            "dead_experts": [counts.count(0) for counts in loads],
        }

    def _minibatch(
        self, rollout: Rollout, advantages: np.ndarray, first: bool
    ) -> list[dict[str, Any]]:
        """Gradients of one minibatch, in passes over rows of similar length."""
        plan, passes = self.plan, []
        self.optimiser.zero_grad()
        order = np.argsort(rollout.lengths, kind="stable")
        denominator = {
            "token": rollout.mask.sum(),
            "sequence": len(order),
            "constant": len(order) * self.sampler.max_new_tokens,
        }[plan.aggregation]
        for rows in np.array_split(order, math.ceil(len(order) / plan.micro_rows)):
            passes.append(self._pass(rollout.select(rows), advantages[rows], denominator, first))
        return passes

    def _pass(
        self, part: Rollout, advantages: np.ndarray, denominator: float, first: bool
    ) -> dict[str, Any]:
        """Forward and backward over some rows; what is to be watched of them."""
        plan = self.plan
        scores = score_completions(self.model, part, plan.temperature, part.routing)
        ref = None
        if plan.kl_coef or first:
            with no_grad():
                ref = score_completions(self.reference, part, plan.temperature).logprobs.data
        loss, seen = grpo_loss(
            scores.logprobs,
            part.logprobs,
            advantages,
            part.mask,
            ref if plan.kl_coef else None,
            clip_epsilon=(plan.clip_low, plan.clip_high),
            kl_coef=plan.kl_coef,
            kl=plan.kl,
            aggregation=plan.aggregation,
            denominator=float(denominator),
            ratio=plan.ratio,
        )
        loss.backward()
        mask, logprobs = like(part.mask, scores.logprobs.data), scores.logprobs.data
        xp, real = xp_of(mask), mask > 0
        watched = [(scores.entropy * mask).sum()]
        if first:
            old = like(part.logprobs, mask)
            watched.append(xp.where(real, abs(logprobs - old), 0).max())
            with no_grad():
                k3 = kl_estimate(scores.logprobs, ref, "k3").data
            watched.append(xp.where(real, k3, 0).sum())
        sums = to_host(xp.stack([w.astype("float64") for w in watched])).tolist()
        seen |= dict(zip(("entropy", "sampler_gap", "first_kl"), sums, strict=False))
        seen |= {"tokens": part.mask.sum(), "loads": [r.counts for r in scores.routings]}
        return seen

    def _update(self, passes: list[dict[str, Any]], rollout: Rollout) -> float:
        """Clip and step, unless a number is not finite; the norm before."""
        loss = sum(part["loss"] for part in passes)
        norm = float(clip_grad_norm(self.parameters.values(), self.plan.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):

            def again() -> None:
                score_completions(self.model, rollout, self.plan.temperature, rollout.routing)

            raise DivergedError(blame(self.done + 1, loss, norm, self.parameters, again))
        self.optimiser.step()
        return norm

    def _watch(self, metrics: dict[str, Any]) -> None:
        """DivergedError for a run from which nothing can come any more."""
        nothing = [metrics["reward"] == 0, metrics.get("entropy", 1.0) < NO_ENTROPY]
        for i, (is_so, name) in enumerate(zip(nothing, ("reward", "entropy"), strict=True)):
            self.streaks[i] = self.streaks[i] + 1 if is_so else 0
            if self.streaks[i] >= PATIENCE:
                value = f"the {name} has been 0 for {PATIENCE} steps"
                raise DivergedError(f"step {self.done}: {value}, there is nothing to learn from")
        if metrics.get("kl", 0.0) > KL_LIMIT:
            raise DivergedError(
                f"step {self.done}: the KL to the reference is {metrics['kl']:.1f} nats a token, "
                f"above {KL_LIMIT:g}: the policy has left it; lower the learning rate"
            )


def _mean(passes: list[dict[str, Any]]) -> dict[str, Any]:
    """The passes' numbers by name: means over tokens, where the pass has them."""
    if not passes:
        return {"tokens": 0, "loss": 0.0}
    total = sum(part["tokens"] for part in passes)
    first = [part for part in passes if "first_kl" in part]
    of_first = sum(part["tokens"] for part in first)
    found = {
        "tokens": int(total),
        "loss": sum(part["loss"] for part in passes),
        "entropy": sum(part["entropy"] for part in passes) / total,
        "sampler_gap": max(part["sampler_gap"] for part in first),
        "kl": sum(part["first_kl"] for part in first) / of_first,
    }
    for name in ("ratio/mean", "clip_ratio/low_mean", "clip_ratio/high_mean"):
        found[name] = sum(part[name] * part["tokens"] for part in passes) / total
    return found


def _lengths(lengths: np.ndarray, ended: np.ndarray) -> dict[str, float]:
    """How long the completions were, in tokens with the end token, and how many were cut off."""
    terminated = lengths[ended]
    return {
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(1 - ended.mean()),
        "completions/mean_terminated_length": float(terminated.mean()) if terminated.size else 0.0,
    }
