r"""From random weights to a model that thinks: pre-training, cold start, GRPO, and the control.

    base         reads the language of the task: facts, checks, and an impatient teacher's searches
    cold start   learns to answer as the teacher does, which gives up after a miss with
                 probability g = 0.3: 31 % of the held-out problems are solved that way
    GRPO         learns from its own responses, right ones against wrong ones
    control      learns from the teacher for as many more updates instead: it has nothing better
                 to imitate

Everything is measured on all held-out problems, which no stage has seen (tasks.py).
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.autograd.blocks import get_threads
from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.checkpoint import OWNED, write_model
from minideepseek.model.files import atomic_directory
from minideepseek.model.strict_json import read_json
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning import shipped
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.countdown_statistics import search_statistics
from minideepseek.reasoning.evaluate import complete, evaluate
from minideepseek.reasoning.grpo.sampler import GroupSampler
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.reasoning.r1.sft import SFTTrainer
from minideepseek.reasoning.r1.sources import Demonstrations
from minideepseek.reasoning.recipe import (
    QUICK,
    RECIPE,
    Gate,
    Recipe,
    base_gates,
    check_gates,
    cold_start_gates,
)
from minideepseek.reasoning.record import ReasoningRecord
from minideepseek.reasoning.stages import Interrupted, Stages, pretrainer, without_mtp
from minideepseek.reasoning.tasks import Task
from minideepseek.training.language import stop_on_interrupt
from minideepseek.training.trainer import check_plan

PROMPTS = 4  # held-out problems whose answers are shown over time
SHOWN_SFT = {"loss": "loss", "tokens_per_second": "tokens/s"}
SHOWN_PRETRAIN = {"main_loss": "loss", "tokens_per_second": "tokens/s"}
SHOWN_GRPO = {
    "reward": "reward",
    "completions/mean_length": "length",
    "sample_tokens_per_second": "sampled/s",
    "eval/accuracy": "held-out",
}


@dataclass(frozen=True)
class ReasoningJob:
    """What to run, where.  quick: a few steps of GRPO on the cold-started model that the package
    brings, and nothing else; otherwise all stages of the recipe. InputError for a negative seed."""

    out: Path
    seed: int = 0
    quick: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_plan(self, {"seed": 0}, {})

    @property
    def recipe(self) -> Recipe:
        """The numbers of all stages."""
        return QUICK if self.quick else RECIPE

    def to_go_on(self) -> str:
        """The command that goes on with it, for pasting."""
        return f"minideepseek journey --resume {shlex.quote(str(self.out.parent))}"


def store_job(job: ReasoningJob) -> None:
    """job.json: what `stored_job` reads. CheckpointError where another job was begun."""
    if (job.out / "job.json").exists():
        begun = stored_job(job.out, job.device)
        if begun != job:
            raise CheckpointError(
                f"{job.out}: begun with seed {begun.seed} and quick = {begun.quick}, got seed "
                f"{job.seed} and quick = {job.quick}; name another directory"
            )
        return
    facts = {"seed": job.seed, "quick": job.quick}
    with atomic_directory(job.out) as folder:  # never without its job: there is no other to take
        (folder / "job.json").write_text(json.dumps(facts), encoding="utf-8")


def stored_job(out: Path, device: str) -> ReasoningJob:
    """The job that began the run in `out`. CheckpointError for another kind of directory."""
    file = out / "job.json"
    if not file.exists():
        raise CheckpointError(f"{out}: no reasoning part to resume, expected a job.json")
    facts = read_json(file)
    try:
        if type(facts["quick"]) is bool:
            return ReasoningJob(out, facts["seed"], facts["quick"], device)
    except (KeyError, TypeError, InputError):
        pass
    raise CheckpointError(f"{file}: not what a run wrote")


class ReasoningPart:
    """The stages of one job; `run()` gives what the report needs."""

    def __init__(
        self,
        job: ReasoningJob,
        say: Callable[[str], None] = print,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.job, self.recipe, self.say = job, job.recipe, say
        self.task: Task = Countdown()
        self.problems = self.task.held_out_problems()
        self.stages = Stages(job.out, self.task, say, stopped)
        base, cold, rl, control = np.random.default_rng([job.seed, 6]).spawn(4)
        self.rngs = {"pretrain": base, "cold-start": cold, "grpo": rl, "control": control}
        self.gates: list[Gate] = []
        self.evaluations: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, list[dict[str, Any]]] = {}

    def run(self) -> ReasoningRecord:
        """All stages. Raises GateError, DivergedError, and Interrupted (saved)."""
        began = time.perf_counter()
        store_job(self.job)
        cold = self._shipped() if self.job.quick else self._cold_start(self._base())
        self._answer("before GRPO", cold)
        policy = self._grpo(cold)
        if not self.job.quick:
            self._control(cold)
        with atomic_directory(self.job.out / "model", OWNED) as folder:
            write_model(policy, folder)
            self.task.tokenizer.write(folder)
        return self._record(policy, time.perf_counter() - began)

    # ------------------------------------------------------------------------------ the stages

    def _base(self) -> DeepSeekV3:
        trainer = pretrainer(self.task, self.recipe, self.rngs["pretrain"], self.job.device)
        self.metrics["pretrain"] = self.stages.run("pretrain", trainer, SHOWN_PRETRAIN)
        base = without_mtp(trainer.model)
        self._gate(base_gates(base, self.task))
        self._evaluate("base", base)
        return base

    def _cold_start(self, model: DeepSeekV3) -> DeepSeekV3:
        plan = self.recipe.cold_start
        source = Demonstrations(self.task, plan.samples_per_step, self.rngs["cold-start"])
        trainer = SFTTrainer(model, source, plan)
        self.metrics["sft"] = self.stages.run("cold-start", trainer, SHOWN_SFT)
        self._gate(cold_start_gates(self._evaluate("cold start", model)))
        return model

    def _shipped(self) -> DeepSeekV3:
        model = shipped.cold_started().to(self.job.device)
        self._evaluate("cold start", model)
        return model

    def _grpo(self, cold: DeepSeekV3) -> DeepSeekV3:
        plan = self.recipe.grpo
        policy = without_mtp(cold)
        trainer = GRPOTrainer(
            policy, self.task, plan, problems=self.problems, rng=self.rngs["grpo"]
        )

        def answer(step: int) -> None:
            if step in (max(1, plan.steps // 5), plan.steps):
                self._answer(f"after {step} step{'s' if step > 1 else ''} of GRPO", policy)

        self.metrics["grpo"] = self.stages.run("grpo", trainer, SHOWN_GRPO, answer)
        self._evaluate("grpo", policy)
        self._evaluate("grpo, τ = 0.6", policy, temperature=0.6, top_p=0.95)
        return policy

    def _control(self, cold: DeepSeekV3) -> None:
        plan = replace(self.recipe.cold_start, steps=self.recipe.control_steps, warmup_steps=5)
        source = Demonstrations(self.task, plan.samples_per_step, self.rngs["control"])
        trainer = SFTTrainer(without_mtp(cold), source, plan)
        self.metrics["control"] = self.stages.run("control", trainer, SHOWN_SFT)
        self._evaluate("control", trainer.model)

    # --------------------------------------------------------------------------- between stages

    def _gate(self, gates: Sequence[Gate]) -> None:
        self.gates += gates
        for gate in gates:
            self.say(f"gate: {gate.name} {gate.measured:.1%} ({gate.wanted})")
        check_gates(list(gates))

    def _evaluate(self, name: str, model: DeepSeekV3, **sampling: Any) -> dict[str, Any]:
        """All held-out problems, `samples` answers each; measured once and kept."""

        def measure() -> dict[str, Any]:
            rng = np.random.default_rng([self.job.seed, 7])
            return evaluate(
                model,
                self.task,
                self.problems,
                self.recipe.samples,
                rng=rng,
                statistics=search_statistics,
                **sampling,
            ).as_dict()

        found = self.stages.remembered("evaluations.json", name, measure)
        self.say(checked_evaluation(self.job.out / "evaluations.json", name, found))
        self.evaluations[name] = found
        return found

    def _answer(self, when: str, model: DeepSeekV3) -> None:
        """Keep what the model answers now to the first held-out problems, with the same draws."""

        def measure() -> list[list[str]]:
            rng = np.random.default_rng([self.job.seed, 8])
            limit = self.task.max_new_tokens
            sampler = GroupSampler(model, self.task.tokenizer, 1, limit, temperature=1.0)
            groups, _ = complete(sampler, self.task, self.problems[:PROMPTS], rng)
            return [[group[0].problem.prompt, group[0].text] for group in groups]

        self.stages.remembered("traces.json", when, measure)

    def _record(self, policy: DeepSeekV3, seconds: float) -> ReasoningRecord:
        facts = {
            "task": f"{self.task.name}, {len(self.problems)} problems held out",
            "parameters": f"{sum(p.size for p in policy.parameters()):,}",
            "seed": str(self.job.seed),
            "began from": "the shipped cold start" if self.job.quick else "random weights",
            "device": self.job.device,
            "threads": str(get_threads()),
            "seconds, this process": f"{seconds:.0f}",
        }
        return ReasoningRecord(
            stages=self.metrics,
            evaluations=self.evaluations,
            gates=[gate.row() for gate in self.gates],
            traces=read_traces(self.job.out / "traces.json"),
            facts=facts,
            recipe=_made(self.recipe.facts(), self.job.quick),
        )


def checked_evaluation(path: Path, name: str, found: Any) -> str:
    """What an evaluation found, in a sentence. CheckpointError where it is none."""
    if not _is_evaluation(found):
        raise CheckpointError(f"{path}: {name} is not what a run wrote")
    most = max(found["pass_at"], key=int)
    return (
        f"{name}: {found['accuracy']:.1%} of {found['problems']} held-out problems solved at "
        f"temperature {found['temperature']:g}, greedy {found['greedy']:.1%}, "
        f"pass@{most} {found['pass_at'][most]:.1%}, majority {found['majority']:.1%}, "
        f"{found['format']:.1%} well-formed, {found['length']:.1f} tokens an answer"
    )


def _is_evaluation(found: Any) -> bool:
    """Whether the report can show it: `Evaluation.as_dict()`, as far as it is numbers."""
    numbers = ("problems", "samples", "temperature", "accuracy", "greedy", "majority", "format")
    unknown = ("standard_error", "thinks", "truncated")  # perhaps null
    if not isinstance(found, dict) or not {"pass_at", "statistics"} <= found.keys():
        return False
    passes, statistics = found["pass_at"], found["statistics"]
    return (
        all(_is_number(found.get(key)) for key in (*numbers, "length"))
        and all(found.get(key) is None or _is_number(found[key]) for key in unknown)
        and isinstance(passes, dict)
        and bool(passes)
        and all(re.fullmatch("[0-9]{1,9}", k) and _is_number(v) for k, v in passes.items())
        and isinstance(statistics, dict)
        and all(value is None or _is_number(value) for value in statistics.values())
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e100


def _made(facts: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The recipe's stages that this job makes."""
    return {n: facts[n] for n in ("GRPO", "objective")} if quick else facts


def read_traces(path: Path) -> list[tuple[str, str, str]]:
    """(when, prompt, text) in the order in which they were taken. CheckpointError for others."""
    held = read_json(path)
    if isinstance(held, dict) and all(isinstance(rows, list) for rows in held.values()):
        flat = [(when, row) for when, rows in held.items() for row in rows]
        if all(type(row) is list and list(map(type, row)) == [str, str] for _, row in flat):
            return [(when, prompt, text) for when, (prompt, text) in flat]
    raise CheckpointError(f"{path}: not what a run wrote")


def run(job: ReasoningJob, say: Callable[[str], None] = print) -> ReasoningRecord | None:
    """The whole part; None if it was interrupted (and saved)."""
    with stop_on_interrupt(say) as stopped:
        try:
            return ReasoningPart(job, say, stopped).run()
        except Interrupted:
            say(f"stopped, with a checkpoint; to go on:\n{job.to_go_on()}")
            return None
