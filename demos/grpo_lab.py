r"""What `grpo_failures` works with: runs beside each other, their tables, and when two differ.

A `Lab` holds the cold-started model and the seed. `lab.run(label, model, task, **changes)` trains a
copy of a model by GRPO, with the recipe's plan but for `changes` (and for fewer steps of half as
many problems, so that a comparison takes a minute or two), and prints a table of it:

    reward, equal, KL      means since the row above; equal: groups whose answers all earned alike
    solved ± , greedy      of held-out problems, sampled at temperature 1, with the standard error
                           over problems; greedy: the most probable answer
    tokens, cut off        of an answer, the end token among them; cut off by the limit
    right's, wrong's       tokens of right and of wrong answers
    attempts               in an answer; of all attempts, verdicts: with a true mark; says !: marked
                           so; hits: those that do reach the target
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from minideepseek import DeepSeekV3  # noqa: E402
from minideepseek.errors import DivergedError  # noqa: E402
from minideepseek.reasoning.countdown import Countdown  # noqa: E402
from minideepseek.reasoning.countdown_statistics import attempts, search_statistics  # noqa: E402
from minideepseek.reasoning.evaluate import Evaluation, evaluate  # noqa: E402
from minideepseek.reasoning.grpo.trainer import GRPOTrainer  # noqa: E402
from minideepseek.reasoning.r1.sft import SFTPlan, SFTTrainer  # noqa: E402
from minideepseek.reasoning.r1.sources import Demonstrations  # noqa: E402
from minideepseek.reasoning.recipe import RECIPE  # noqa: E402
from minideepseek.reasoning.stages import without_mtp  # noqa: E402
from minideepseek.reasoning.tasks import Completion, Task, accuracy  # noqa: E402


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    steps: int = 16  # of GRPO
    every: int = 4  # steps between two rows of a table
    problems: int = 117
    samples: int = 4  # of each problem
    taught: int = 100  # further supervised steps, where a cold start is changed
    most: int = 800  # supervised steps at most, where they end at some accuracy
    read: int = 600  # steps of pre-training, where the base is the point
    plan: dict[str, Any] = field(default_factory=lambda: {"prompts_per_step": 16})  # of GRPO


QUICK = Size(2, 2, 4, 2, 2, 2, 3, {"prompts_per_step": 2, "group_size": 4, "minibatches": 2})

COLUMNS = {  # name: (where it is, its name there, how it is shown)
    "reward": ("seen", "reward", "{:.2f}"),
    "equal": ("seen", "frac_reward_zero_std", "{:.0%}"),
    "KL": ("seen", "kl", "{:.3f}"),
    "solved": ("found", "accuracy", "{:.1%}"),
    "±": ("found", "standard_error", "{:.1%}"),
    "greedy": ("found", "greedy", "{:.1%}"),
    "tokens": ("found", "length", "{:.1f}"),
    "cut off": ("found", "truncated", "{:.1%}"),
    "right's": ("counted", "right", "{:.1f}"),
    "wrong's": ("counted", "wrong", "{:.1f}"),
    "attempts": ("counted", "attempts", "{:.2f}"),
    "verdicts": ("counted", "verdicts", "{:.0%}"),
    "says !": ("counted", "says", "{:.0%}"),
    "hits": ("counted", "hits", "{:.0%}"),
}
ALWAYS = ("reward", "equal", "KL", "solved", "±", "greedy", "tokens", "cut off")


@dataclass(frozen=True)
class Row:
    """Where a run stands; `row[column]` is a number, NaN where there is none."""

    step: int
    seen: dict[str, float]  # means of the steps' metrics
    found: Evaluation

    def __getitem__(self, column: str) -> float:
        where, key, _ = COLUMNS[column]
        held = {"seen": self.seen, "found": vars(self.found), "counted": self.found.statistics}
        value = held[where].get(key)
        return math.nan if value is None else value

    def show(self, column: str) -> str:
        return "–" if math.isnan(self[column]) else COLUMNS[column][2].format(self[column])


class Lab:
    """What the experiments share: the cold start, the seed, and the runs that several want."""

    def __init__(self, model: DeepSeekV3, seed: int = 0, size: Size | None = None) -> None:
        self.model, self.seed, self.size = model, seed, size or Size()
        self.kept: dict[str, Any] = {}

    def rng(self, number: int) -> np.random.Generator:
        """The same number gives the same draws: runs beside each other differ in one thing."""
        return np.random.default_rng([self.seed, number])

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def measure(self, model: DeepSeekV3, task: Task, samples: int = 0) -> Evaluation:
        """On held-out problems, the same draws each time. samples 0: as many as the size says."""
        problems = task.held_out_problems()[: self.size.problems]
        count, rng = samples or self.size.samples, self.rng(1)
        return evaluate(model, task, problems, count, rng=rng, statistics=partial(counted, task))

    def taught(self, model: DeepSeekV3, task: Task, steps: int, until: float = 2) -> DeepSeekV3:
        """A copy after so many supervised steps, or after fewer, when it solves a share `until`."""
        policy = without_mtp(model)
        plan = SFTPlan(steps=steps, warmup_steps=5)
        trainer = SFTTrainer(policy, Demonstrations(task, 32, self.rng(2)), plan)
        while trainer.done < steps:
            trainer.step()
            if until < 1 and trainer.done % 25 == 0:
                if self.measure(policy, task, samples=2).accuracy >= until:
                    break
        return policy

    def healthy(self) -> list[Row]:
        """GRPO from the cold start as the recipe has it; run once, whoever asks."""
        label = "GRPO as it is, from the cold start"
        if "healthy" in self.kept:
            print(f"\n{label}: as above")
        columns = ("right's", "wrong's")
        make = partial(self.run, label, self.model, Countdown(), *columns)
        return self.once("healthy", make)

    def run(
        self, label: str, model: DeepSeekV3, task: Task, *columns: str, **changes: Any
    ) -> list[Row]:
        """GRPO on a copy of `model`; prints its table, with `columns` beside those it always has.

        changes: of the plan. A DivergedError ends the run, and is printed.
        """
        size, policy = self.size, without_mtp(model)
        plan = replace(RECIPE.grpo, steps=size.steps, **{**size.plan, **changes})
        trainer = GRPOTrainer(policy, task, plan, rng=self.rng(3))
        columns, rows, seen = (*ALWAYS, *columns), [], []
        print(f"\n{label}\n  step" + "".join(f"{name:>10}" for name in columns))
        ended = ""
        while True:
            if ended or trainer.done % size.every == 0:
                names = ("reward", "frac_reward_zero_std", "kl")
                means = {name: mean([m[name] for m in seen if name in m]) for name in names}
                rows.append(Row(trainer.done, means, self.measure(policy, task)))
                seen = []
                cells = "".join(f"{rows[-1].show(name):>10}" for name in columns)
                print(f"  {trainer.done:4}{cells}", flush=True)
            if ended or trainer.done == size.steps:
                break
            try:
                seen.append(trainer.step())
            except DivergedError as error:
                ended = str(error)
        if ended:
            print(f"  the trainer stopped: {ended}")
        return rows


def counted(task: Task, completions: Sequence[Completion]) -> dict[str, float]:
    """Tokens of right and of wrong answers; for Countdown also what its thoughts consist of."""
    sizes: dict[bool, list[int]] = {True: [], False: []}
    for one in completions:
        sizes[bool(accuracy(task, one))].append(len(one.text.split()) + one.ended)
    found = {"right": mean(sizes[True]), "wrong": mean(sizes[False])}
    if not isinstance(task, Countdown):
        return found
    marks = [a.verdict == "!" for one in completions for a in attempts(one.thought.thinking)]
    return found | {"says": mean(marks)} | search_statistics(completions)


def mean(values: Sequence[float]) -> float:
    """NaN for none."""
    return float(np.mean(values)) if len(values) else math.nan


def percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.0f} %"


def gap(one: Row, other: Row) -> float:
    """By how much `other` solves more, in standard errors of the difference.

    A result above 2 is taken for a difference. 0 where neither has an error: nothing is solved.
    """
    error = math.hypot(one["±"], other["±"])
    return (other["solved"] - one["solved"]) / error if error else 0.0
