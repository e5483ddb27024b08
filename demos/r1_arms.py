r"""The arms of demos/r1_pipeline.py: how each is trained, what it costs, how it is measured.

Costs are token passes, as that file's docstring counts them. Each stage has a folder of its own
with checkpoints, so that `Arms.run` goes on where it was interrupted: what is complete is read.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from demos.common import here
from minideepseek.errors import DivergedError, InputError
from minideepseek.model.checkpoint import from_pretrained
from minideepseek.model.ledger import flops_per_token
from minideepseek.model.tokenizer import load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.evaluate import complete, majority_vote
from minideepseek.reasoning.grpo.plan import GRPOPlan
from minideepseek.reasoning.grpo.sampler import GroupSampler, Rollout
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.reasoning.r1.pipeline import rejection_sample
from minideepseek.reasoning.r1.sft import SFTTrainer
from minideepseek.reasoning.r1.sources import Demonstrations, Sample, SampleSet
from minideepseek.reasoning.recipe import RECIPE, Recipe, base_gates
from minideepseek.reasoning.stages import (
    Stages,
    pretrainer,
    weights_hash,
    without_mtp,
)
from minideepseek.reasoning.tasks import (
    REWARDS,
    Completion,
    Problem,
    Reward,
    Task,
    accuracy,
    answer_accuracy,
    format_reward,
)
from minideepseek.reasoning.thinking import BEGIN, END
from minideepseek.training.optim import cosine_schedule
from minideepseek.training.progress import Progress
from minideepseek.training.rundir import RunDirectory

SFT = RECIPE.cold_start  # but for its steps
SAMPLES = 8  # answers to each held-out problem
KEYS = 32  # that a token attends to on average, for the FLOPs
ANY_FORM = (  # the weight 0 only logs how many keep the form
    Reward("accuracy", 1.0, answer_accuracy),
    Reward("format", 0.0, format_reward),
)


@dataclass(frozen=True)
class Shaped(Recipe):
    """The recipe with some sizes of the model changed."""

    shape: dict[str, Any] = field(default_factory=dict)

    def config(self, task: Task) -> Any:
        return replace(super().config(task), **self.shape)


STUDENT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "kv_lora_rank": 32,
}
TINY = STUDENT | {"hidden_size": 32, "kv_lora_rank": 16}


def _shaped(steps: int, shape: dict[str, Any], documents: int = RECIPE.documents) -> Shaped:
    every = min(500, steps)
    plan = replace(RECIPE.pretrain, steps=steps, evaluate_every=every, checkpoint_every=every)
    return Shaped(documents, initializer_range=0.1, pretrain=plan, shape=shape)


@dataclass(frozen=True)
class Scale:
    """How much of everything.  budget: token passes of each arm.

    cold, sft: SFT steps of R1's stages 1 and 3; first: the share of the budget that is spent when
    its stage 2 ends; problems: asked, 8 times each, in stage 3.
    """

    base: Recipe = RECIPE
    student: Recipe = _shaped(1500, STUDENT)
    seeds: int = 1
    budget: float = 1.2e6
    cold: int = 100
    sft: int = 80
    first: float = 0.45
    problems: int = 256
    # β is 0; a near reference keeps the watched KL below its limit where thinking dies out.
    grpo: GRPOPlan = replace(RECIPE.grpo, checkpoint_every=5, reference_every=10)
    task: Task = field(default_factory=Countdown)


DEFAULT = Scale()
FULL = Scale(seeds=3, budget=4e6, cold=200, sft=200, problems=1024)
QUICK = Scale(
    base=_shaped(120, STUDENT, 5000),
    student=_shaped(120, TINY, 5000),
    budget=1.2e5,
    cold=30,
    sft=10,
    problems=8,
    grpo=GRPOPlan(prompts_per_step=4, group_size=8, minibatches=2, checkpoint_every=5),
    task=Countdown(numbers=2),
)


class BudgetedGRPO(GRPOTrainer):
    """GRPO that has `budget` token passes; the learning rate follows the share that is spent."""

    def __init__(self, *arguments: Any, budget: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.budget, self.spent = budget, np.zeros(1)

    @property
    def kept(self) -> dict[str, Any]:
        return super().kept | {"spent": self.spent}

    @property
    def share(self) -> float:
        """Of the budget that is spent."""
        return float(self.spent[0]) / self.budget

    def _learn(self, rollout: Rollout, advantages: np.ndarray) -> Any:
        plan = self.plan
        self.optimiser.lr = cosine_schedule(
            int(100 * self.share), 100, plan.learning_rate, 5, plan.final_learning_rate
        )
        self.spent += cost(rollout, self._useful(rollout, advantages), plan)
        return super()._learn(rollout, advantages)


def cost(rollout: Rollout, useful: np.ndarray, plan: GRPOPlan) -> float:
    """Token passes of one GRPO step.  useful: (R,) bool, the rows that are learned from."""
    prompts = rollout.prompt_lengths[:: plan.group_size].sum()  # each is read once
    sampled = (rollout.lengths - rollout.prompt_lengths).sum()
    read = rollout.lengths - 1
    # Without a useful row the trainer looks at one minibatch all the same.
    trained = read[useful].sum() if useful.any() else read.sum() / plan.minibatches
    compared = (trained / plan.minibatches) if useful.any() else trained  # with the reference
    return float(prompts + sampled + 3 * trained + compared)


@dataclass(frozen=True)
class Trained:
    """A model, what it has cost since pre-training, and its GRPO steps."""

    model: DeepSeekV3
    passes: float = 0.0
    seconds: float = 0.0
    curve: tuple[dict[str, Any], ...] = ()


class Arms:
    """All arms of one seed, each stage in a folder of its own."""

    def __init__(self, folder: Path, scale: Scale, seed: int, base: str | None) -> None:
        self.folder, self.scale, self.seed, self.given = folder, scale, seed, base
        folder.mkdir(parents=True, exist_ok=True)
        self.task, self.stages = scale.task, Stages(folder, scale.task)
        self.problems = self.task.held_out_problems()
        self.rows: dict[str, dict[str, float]] = {}
        self.curves: dict[str, tuple[dict[str, Any], ...]] = {}

    def run(self) -> None:
        """Fills rows and curves."""
        base = self._row("base", self._base())
        self._row("R1-Zero", self._grpo("zero", base))
        self._row("R1-Zero, accuracy", self._grpo("zero-accuracy", base, rewards=ANY_FORM))
        self._row("cold start only", self._demonstrations("cold-start-only", base))
        accepted = self._r1(base)
        student = self._row("student", self._pretrained("student", self.scale.student))
        if accepted:
            self._row("distilled", self._imitate("distilled", student, accepted))
        cold = self._demonstrations("small-cold-start", student, self.scale.cold)
        self._row("RL on small", self._grpo("small-grpo", cold))

    def _r1(self, base: Trained) -> list[Sample]:
        """The four stages; the samples of the third, of which there may be none."""
        scale = self.scale
        cold = self._row("R1 stage 1", self._demonstrations("cold-start", base, scale.cold))
        rl = self._grpo("r1-grpo", cold, until=scale.first * scale.budget)
        rl = self._row("R1 stage 2", rl)
        accepted, asked, seconds = self._accepted(rl.model)
        if not accepted:
            print("R1: none of its samples was right: there is no stage 3 and none to distil")
            return []
        sampled = asked * self.rows["R1 stage 2"]["length"]  # the held-out problems' mean
        cost = rl.passes + sampled, rl.seconds + seconds
        again = Trained(base.model, *cost, curve=rl.curve)  # from the base, not from stage 2
        again = self._row("R1 stage 3", self._imitate("r1-sft", again, accepted, scale.sft))
        self._row("R1", self._grpo("r1-grpo-again", again))
        return accepted

    # ------------------------------------------------------------------------------ the stages

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def _base(self) -> Trained:
        if self.given is None:
            return self._pretrained("base", self.scale.base)
        if getattr(load_tokenizer(self.given), "tokens", ()) != self.task.tokenizer.tokens:
            raise InputError(f"--base: {self.given} has other words than {self.task.name}")
        return Trained(without_mtp(from_pretrained(self.given).to(here())))

    def _pretrained(self, name: str, recipe: Recipe) -> Trained:
        trainer = pretrainer(self.task, recipe, self._rng("pre-training"), here())
        self.stages.run(name, trainer, {"main_loss": "loss"})
        print(f"{name}: pre-trained in {trainer.seconds:.0f} seconds")
        for gate in base_gates(trainer.model, self.task):
            short = "" if gate.passed else f"; {gate.wanted} is wanted, what follows will suffer"
            print(f"{gate.name}: {gate.measured:.1%}{short}")
        return Trained(without_mtp(trainer.model))

    def _demonstrations(self, name: str, start: Trained, steps: int | None = None) -> Trained:
        source = Demonstrations(self.task, SFT.samples_per_step, self._rng(name))
        example = Demonstrations(self.task, 500, self._rng("lengths")).next_batch()
        return self._sft(name, start, source, steps or self._affordable(start, example))

    def _imitate(
        self, name: str, start: Trained, samples: list[Sample], steps: int | None = None
    ) -> Trained:
        source = SampleSet(samples, SFT.samples_per_step, self._rng(name))
        return self._sft(name, start, source, steps or self._affordable(start, samples))

    def _affordable(self, start: Trained, samples: Sequence[Sample]) -> int:
        """SFT steps on such samples that the rest of the budget pays for."""
        size = np.mean([len(prompt) + len(response) - 1 for prompt, response in samples])
        left = self.scale.budget - start.passes
        return max(1, round(left / (3 * size * SFT.samples_per_step)))

    def _sft(self, name: str, start: Trained, source: Any, steps: int) -> Trained:
        trainer = SFTTrainer(without_mtp(start.model), source, replace(SFT, steps=steps))
        self.stages.run(name, trainer, {"loss": "loss"})
        passes = start.passes + 3 * trainer.tokens
        return Trained(trainer.model, passes, start.seconds + trainer.seconds, start.curve)

    def _grpo(
        self,
        name: str,
        start: Trained,
        rewards: Sequence[Reward] = REWARDS,
        until: float | None = None,
    ) -> Trained:
        """GRPO until so many passes are spent, or all."""
        left = max(1.0, (until or self.scale.budget) - start.passes)
        model, rng = without_mtp(start.model), self._rng(name)
        trainer = BudgetedGRPO(
            model, self.task, self.scale.grpo, rewards, rng=rng, budget=left
        )
        words, origin = self.task.tokenizer, weights_hash(model)
        folder = RunDirectory(self.folder / name, words, origin, "weights")
        folder.resume(trainer)
        with Progress(100, name, start=min(100, int(100 * trainer.share))) as progress:
            while trainer.share < 1:
                try:
                    row = trainer.step()
                except DivergedError as error:
                    print(f"{name}: {error}")
                    break
                folder.record(row)
                if trainer.share >= 1 or trainer.done % self.scale.grpo.checkpoint_every == 0:
                    folder.save(trainer)
                spent = min(100, int(100 * trainer.share))
                progress.update(spent, steps=trainer.done, reward=row["reward"])
        passes, seconds = start.passes + float(trainer.spent[0]), start.seconds + trainer.seconds
        return Trained(model, passes, seconds, (*start.curve, *folder.metrics()))

    def _accepted(self, model: DeepSeekV3) -> tuple[list[Sample], int, float]:
        """Right answers of the model to training problems, the number asked for, the seconds."""

        def ask() -> dict[str, Any]:
            began, rng = time.perf_counter(), self._rng("rejection sampling")
            drawn = [self.task.draw(rng) for _ in range(self.scale.problems)]
            found = rejection_sample(model, self.task, drawn, rng, group_size=SAMPLES)
            samples = [[prompt.tolist(), answer.tolist()] for prompt, answer in found.samples]
            counts = {"asked": found.sampled, "right": found.right}
            return counts | {"seconds": time.perf_counter() - began, "samples": samples}

        found = self.stages.remembered("accepted.json", weights_hash(model), ask)
        print(
            f"rejection sampling: {found['right']:,} of {found['asked']:,} are right, "
            f"{len(found['samples']):,} different ones kept"
        )
        samples = [(np.array(prompt), np.array(answer)) for prompt, answer in found["samples"]]
        return samples, found["asked"], found["seconds"]

    def _row(self, name: str, found: Trained) -> Trained:
        """Measure a model, or remember what was measured; a row of the table."""
        rng = np.random.default_rng([self.seed, 7])
        key = f"{name}, {weights_hash(found.model)[:12]}"
        row = self.stages.remembered(
            "evaluations.json", key, lambda: measure(found.model, self.task, self.problems, rng)
        )
        flops = found.passes * flops_per_token(found.model.config, KEYS)
        cost = {"passes": found.passes, "flops": flops, "seconds": found.seconds}
        self.rows[name], self.curves[name] = row | cost, found.curve
        print(f"{name}: {row['right']:.1%} right at temperature 1, greedy {row['greedy']:.1%}")
        return found


def answer_of(one: Completion) -> str | None:
    """The answer, of a well-formed thought or of none at all; None of half a thought."""
    if BEGIN in one.text or END in one.text:
        return one.thought.answer if one.thought.malformed is None else None
    return one.text.strip() if one.ended else None


def measure(
    model: DeepSeekV3, task: Task, problems: Sequence[Problem], rng: np.random.Generator
) -> dict[str, float]:
    """The columns of the table but for the costs; shares in [0, 1], lengths in tokens."""
    words, limit = task.tokenizer, task.max_new_tokens
    groups, lengths = complete(GroupSampler(model, words, SAMPLES, limit), task, problems, rng)
    greedy = GroupSampler(model, words, 1, limit, temperature=0.0)
    alone = [group[0] for group in complete(greedy, task, problems, rng)[0]]
    every = [one for group in groups for one in group]
    right = np.array([[answer_accuracy(task, one) for one in group] for group in groups])
    votes = [majority_vote([answer_of(one) for one in group]) for group in groups]
    voted = [v is not None and task.verify(p, v) for p, v in zip(problems, votes, strict=True)]
    thoughts = [len(one.thought.thinking.split()) for one in every if BEGIN in one.text]
    return {
        "right": float(np.mean([accuracy(task, one) for one in every])),
        "any form": float(right.mean()),
        "greedy": float(np.mean([answer_accuracy(task, one) for one in alone])),
        "pass": float(right.max(1).mean()),  # of as many as were drawn, so no estimate is needed
        "majority": float(np.mean(voted)),
        "thinks": len(thoughts) / len(every),
        "thought": float(np.mean(thoughts)) if thoughts else 0.0,
        "length": float(lengths.mean()),
    }
