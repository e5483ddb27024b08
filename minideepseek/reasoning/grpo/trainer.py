r"""Chapter 6 — One step of GRPO

    1  sample   G responses to each of P problems, from the policy as it is: π_old
    2  judge    a reward for each response, by rules; its advantage beside the rest of its group
    3  update   in `minibatches` parts, with one AdamW step each. The first is on policy, ρ = 1;
                the later ones are not quite any more, which is what ratio and clip are for
    4  forget   the rollout is used once (R1-Zero: one epoch of 16 minibatches)

A group whose responses all earned the same has advantages of exactly 0 and no gradient. Such groups
leave the batch before step 3, and the denominators count what remains: otherwise steps would
shrink as problems get solved. (With a KL penalty they stay: that term has a gradient of its own.)
DAPO samples further prompts until the batch is full again; here the batch is smaller and cheaper.

The routers' biases are held fixed by default. Each update moves the policy by little, but where two
experts nearly tie even that changes who is chosen, and ρ jumps for no reason that the reward knows;
moving the biases adds to it. `replay_routing` removes the effect.

`metrics` says what to watch meanwhile, and when a run has collapsed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from minideepseek.autograd.backend import Array, full
from minideepseek.autograd.engine import no_grad
from minideepseek.errors import DivergedError, InputError
from minideepseek.layers.moe import max_violation, update_bias
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.evaluate import evaluate
from minideepseek.reasoning.grpo.metrics import (
    check_collapse,
    length_metrics,
    means,
    pass_sums,
)
from minideepseek.reasoning.grpo.objective import group_advantages, grpo_loss
from minideepseek.reasoning.grpo.plan import GRPOPlan, Prompts
from minideepseek.reasoning.grpo.sampler import GroupSampler, Rollout
from minideepseek.reasoning.grpo.scoring import score_completions
from minideepseek.reasoning.tasks import REWARDS, Completion, Problem, Reward, Task, score
from minideepseek.training.blame import blame
from minideepseek.training.optim import AdamW, clip_grad_norm, cosine_schedule


class GRPOTrainer:
    """A policy, its task and its optimiser; `step()` is one rollout and its updates.

    `training.trainer.fit` drives it and a RunDirectory keeps it, as in pre-training. problems: held
    out, for `evaluations`; none, no evaluation. The reference is the policy as it is given here.
    InputError where prompt and response may exceed the model's positions.
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
        positions = model.config.max_position_embeddings
        if task.max_prompt_tokens + limit > positions:
            raise InputError(
                f"max_new_tokens: got {limit} after prompts of up to {task.max_prompt_tokens}, "
                f"expected no more than max_position_embeddings = {positions} together"
            )
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
        self.streaks = full((3,), 0, "int64")  # see `check_collapse`
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
        if not np.isfinite(rollout.logprobs).all():
            raise DivergedError(self._blame(math.nan, 0.0, rollout))
        judged, advantages = self._judge(problems, rollout)
        self.optimiser.lr = cosine_schedule(
            self.done, plan.steps, plan.learning_rate, plan.warmup_steps, plan.final_learning_rate
        )
        learned, trained = self._learn(rollout, advantages)
        ended = time.perf_counter()
        lengths = rollout.lengths - rollout.prompt_lengths
        self.done += 1
        self.tokens += int(lengths.sum())
        self.seconds += ended - began
        if plan.reference_every and self.done % plan.reference_every == 0:
            self.reference.load_state_dict(self.model.state_dict())
        metrics = {
            "step": self.done,
            "seconds": round(self.seconds, 3),
            "tokens": self.tokens,
            **judged,
            **length_metrics(lengths, rollout.ended),
            **learned,
            "learning_rate": self.optimiser.lr,
            "sample_seconds": round(sampled - began, 4),
            "train_seconds": round(ended - sampled, 4),
            "sample_tokens_per_second": round(int(lengths.sum()) / (sampled - began), 1),
            "train_tokens_per_second": round(trained / (ended - sampled), 1),
        }
        check_collapse(metrics, self.streaks)
        return metrics

    def evaluations(self) -> dict[str, Any]:
        """Held-out accuracy, every evaluate_every steps and at the end; always the same draws."""
        plan = self.plan
        due = self.done == plan.steps or self.done % plan.evaluate_every == 0
        if not self.problems or not due:
            return {}
        rng = np.random.default_rng([plan.seed, 1])
        found = evaluate(
            self.model,
            self.task,
            self.problems,
            plan.evaluate_samples,
            rng=rng,
            max_new_tokens=self.sampler.max_new_tokens,
        )
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

    def _learn(self, rollout: Rollout, advantages: np.ndarray) -> tuple[dict[str, Any], int]:
        """The updates of one rollout: their metrics, and how many tokens were learned from."""
        plan, draw = self.plan, self.loader.sampling
        passes, norms = list[dict[str, Any]](), list[float]()
        rows = draw.permutation(np.flatnonzero(self._useful(rollout, advantages)))
        for part in np.array_split(rows, plan.minibatches):
            if part.size:
                chosen, first = rollout.select(part), not norms
                seen = self._minibatch(chosen, advantages[part], first)
                norms.append(self._update(seen, chosen))
                passes += seen
        trained = sum(part["tokens"] for part in passes)
        if not passes:  # no update, but the policy is looked at all the same
            part = np.array_split(draw.permutation(len(advantages)), plan.minibatches)[0]
            passes = self._minibatch(rollout.select(part), 0 * advantages[part], True)
        loads = np.sum([part["loads"] for part in passes], axis=0).tolist()
        if plan.bias_step:
            for router, counts in zip(self.model.routers, loads, strict=False):  # MTP's rest
                update_bias(router.e_score_correction_bias, counts, plan.bias_step)
        metrics = means(passes) | {
            "loss": sum(part["loss"] for part in passes) / max(1, len(norms)),
            "grad_norm": sum(norms) / max(1, len(norms)),
            "max_vio": [round(max_violation(counts), 4) for counts in loads],
            "dead_experts": [counts.count(0) for counts in loads],
        }
        return metrics, trained

    def _useful(self, rollout: Rollout, advantages: np.ndarray) -> np.ndarray:
        """Which rows are learned from, (R,) bool: of groups with a gradient, unless masked."""
        useful = np.ones(len(advantages), bool)
        if not self.plan.kl_coef:
            size = self.plan.group_size
            useful = (advantages.reshape(-1, size) != 0).any(1).repeat(size)
        return useful & rollout.ended if self.plan.truncated == "mask" else useful

    def _minibatch(
        self, rollout: Rollout, advantages: np.ndarray, first: bool
    ) -> list[dict[str, Any]]:
        """Gradients of one minibatch, in passes over rows of similar length.

        first: of its rollout, so that the policy is still the one that sampled.
        """
        self.optimiser.zero_grad()
        order = np.argsort(rollout.lengths, kind="stable")
        denominator = {
            "token": rollout.mask.sum(),
            "sequence": len(order),
            "constant": len(order) * self.sampler.max_new_tokens,
        }[self.plan.aggregation]
        return [
            self._pass(rollout.select(rows), advantages[rows], float(denominator), first)
            for rows in np.array_split(order, math.ceil(len(order) / self.plan.micro_rows))
        ]

    def _pass(
        self, part: Rollout, advantages: np.ndarray, denominator: float, first: bool
    ) -> dict[str, Any]:
        """Forward and backward over some rows; what is to be watched of them, sums over tokens."""
        plan, ref = self.plan, None
        scores = score_completions(self.model, part, plan.temperature, part.routing)
        if plan.kl_coef or first:
            with no_grad():
                ref = score_completions(self.reference, part, plan.temperature).logprobs.data
        loss, seen = grpo_loss(
            scores.logprobs,
            part.logprobs,
            advantages,
            part.mask,
            ref,
            clip_epsilon=(plan.clip_low, plan.clip_high),
            kl_coef=plan.kl_coef,
            kl=plan.kl,
            aggregation=plan.aggregation,
            denominator=denominator,
            ratio=plan.ratio,
        )
        loss.backward()
        return {
            **seen,
            **pass_sums(part, scores, ref if first else None),
            "actions": seen["tokens"],  # with ratio="sequence" as many as rows
            "tokens": int(part.mask.sum()),
            "loads": [routing.counts for routing in scores.routings],
        }

    def _update(self, passes: list[dict[str, Any]], rollout: Rollout) -> float:
        """Clip and step, unless a number is not finite; the norm before."""
        loss = sum(part["loss"] for part in passes)
        norm = float(clip_grad_norm(self.parameters.values(), self.plan.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(self._blame(loss, norm, rollout))
        self.optimiser.step()
        return norm

    def _blame(self, loss: float, norm: float, rollout: Rollout) -> str:
        def again() -> None:
            score_completions(self.model, rollout, self.plan.temperature, rollout.routing)

        return blame(self.done + 1, loss, norm, self.parameters, again)
