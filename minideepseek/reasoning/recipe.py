"""The recipe: every number of the reasoning part, and the gates between its stages.

    pre-training   the language of the task, thoughts among it, with an MTP module
    cold start     supervised fine-tuning on the impatient teacher's demonstrations
    GRPO           responses of its own, judged by the verifier
    control        as many further supervised updates as GRPO made, from the same cold start

The recipe is frozen: the figures in the README are of this one, and its seeds are all shown.

Gates. Each stage needs something of the one before, and without it burns time: a base that cannot
tell a hit from a miss learns to bluff, because a reward for answers does not teach the verdict; a
policy that never solves a problem gives GRPO groups without a spread. So each gate is measured and
the run stops, with the number, where one fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minideepseek.autograd import backend
from minideepseek.autograd.engine import no_grad
from minideepseek.errors import GateError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.grpo.plan import GRPOPlan
from minideepseek.reasoning.r1.sft import SFTPlan
from minideepseek.reasoning.tasks import Task
from minideepseek.training.trainer import Plan


@dataclass(frozen=True)
class Recipe:
    """One frozen set of numbers.

    documents: of pre-training text; initializer_range: σ of the first weights. samples: responses
    to each held-out problem in an evaluation.
    """

    documents: int = 160_000
    initializer_range: float = 0.07
    pretrain: Plan = field(
        default_factory=lambda: Plan(
            steps=3000,
            batch_size=10,
            sequence_length=96,
            learning_rate=2e-3,
            warmup_steps=20,
            weight_decay=0.01,
            mtp_weight=0.1,
            evaluate_every=500,
            checkpoint_every=500,
        )
    )
    cold_start: SFTPlan = field(default_factory=lambda: SFTPlan(steps=600, weight_decay=0.01))
    grpo: GRPOPlan = field(default_factory=GRPOPlan)
    samples: int = 8

    def config(self, task: Task) -> DeepSeekV3Config:
        """`reason` with the task's vocabulary."""
        words = task.tokenizer
        names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
        changes = {name: getattr(words, name) for name in names}
        changes["initializer_range"] = self.initializer_range
        return DeepSeekV3Config.preset("reason", **changes)

    @property
    def control_steps(self) -> int:
        """Supervised steps with as many updates as GRPO makes."""
        return self.grpo.steps * self.grpo.minibatches

    def facts(self) -> dict[str, Any]:
        """The numbers that a reader of the report wants beside its curves."""
        read, cold, grpo = self.pretrain, self.cold_start, self.grpo
        return {
            "pre-training": f"{read.steps:,} steps of {read.batch_size} × {read.sequence_length} "
            f"tokens, AdamW at {read.learning_rate:g}, λ = {read.mtp_weight:g}",
            "cold start": f"{cold.steps} steps of {cold.samples_per_step} demonstrations "
            f"at {cold.learning_rate:g}",
            "GRPO": f"{grpo.steps} steps of {grpo.prompts_per_step} problems × "
            f"{grpo.group_size} answers, {grpo.minibatches} updates each at "
            f"{grpo.learning_rate:g}, β₂ = {grpo.beta2:g}",
            "objective": f"advantages by {grpo.scale}, mean over {grpo.aggregation}s, ε = "
            f"{grpo.clip_low:g} and {grpo.clip_high:g}, β = {grpo.kl_coef:g}",
            "control": f"{self.control_steps} further supervised steps",
        }


RECIPE = Recipe()
QUICK = Recipe(grpo=GRPOPlan(steps=8, evaluate_every=4))  # for `journey --quick`


@dataclass(frozen=True)
class Gate:
    """A number that must lie in [low, high]."""

    name: str
    measured: float
    low: float
    high: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether it does; NaN does not."""
        return self.low <= self.measured <= self.high

    @property
    def wanted(self) -> str:
        """In words."""
        upper = "" if self.high == 1 else f", at most {self.high:.0%}"
        return f"at least {self.low:.0%}{upper}"

    def row(self) -> tuple[str, str, str, bool]:
        """As the report shows it."""
        return self.name, f"{self.measured:.1%}", self.wanted, self.passed


def base_gates(model: DeepSeekV3, task: Task) -> list[Gate]:
    """How much of each of the task's skills the base has; nearly all is wanted."""
    return [
        Gate(f"the base's {name}", share_known(model, task, probes), 0.99)
        for name, probes in task.skills().items()
    ]


def cold_start_gates(found: Mapping[str, Any]) -> list[Gate]:
    """Whether GRPO can begin: the form is there, and right answers are among a few samples.

    found: `Evaluation.as_dict()`.
    """
    most = max(found["pass_at"], key=int)
    return [
        Gate("well-formed after the cold start", found["format"], 0.98),
        Gate("solved after the cold start", found["accuracy"], 0.25, 0.45),
        Gate(f"pass@{most} after the cold start", found["pass_at"][most], 0.8),
    ]


def check_gates(gates: list[Gate]) -> None:
    """GateError that names the first that failed."""
    for gate in gates:
        if not gate.passed:
            raise GateError(
                f"{gate.name}: {gate.measured:.1%}, {gate.wanted} is needed; the next stage would "
                "learn nothing from here. Train this one for longer or take another seed"
            )


def share_known(model: DeepSeekV3, task: Task, probes: list[tuple[str, str]]) -> float:
    """The share of texts after which the model's most probable next token is the right word."""
    words = task.tokenizer
    rows = [[words.bos_token_id, *words.encode(text).tolist()] for text, _ in probes]
    right = 0
    for length in sorted({len(row) for row in rows}):
        same = [i for i, row in enumerate(rows) if len(row) == length]
        with no_grad():
            logits = model(np.array([rows[i] for i in same])).data[:, -1]
        best = backend.to_host(logits).argmax(-1)
        right += sum(
            int(words.encode(probes[i][1])[0]) == token
            for i, token in zip(same, best.tolist(), strict=True)
        )
    return right / len(probes)
