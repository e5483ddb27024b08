"""What the report of the reasoning part is made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minideepseek.training.report import RunRecord
from minideepseek.training.scales import number

BEFORE, AFTER, CONTROL = "cold start", "grpo", "control"  # the evaluations that sentences need


@dataclass(frozen=True)
class ReasoningRecord:
    """What the reasoning half of a report is made of; anything may be missing.

    stages: the objects of each stage's metrics.jsonl, one a step: "pretrain", "sft", "grpo",
        "control"; keys may be missing, null or NaN.
    evaluations: `Evaluation.as_dict()` by name, in the order of the table: "base", "cold start",
        "grpo", "grpo, τ = 0.6" (R1's sampling), "control".
    gates: (name, measured, wanted, passed); measured and wanted are numbers or text.
    traces: (when, prompt, text): responses to the same prompts before, during and after.
    facts, recipe: two tables, in order.
    """

    stages: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gates: Sequence[tuple[str, Any, Any, bool]] = ()
    traces: Sequence[tuple[str, str, str]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def run(self, stage: str) -> RunRecord:
        """One stage as the figures of the language part take it."""
        return RunRecord(stage, metrics=self.stages.get(stage, ()))

    def found(self, evaluation: str, key: str) -> float:
        """A number of an evaluation; NaN where there is none."""
        return number(self.evaluations.get(evaluation, {}).get(key))


def percent(share: float) -> str:
    """One decimal; a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.1f}\u00a0%"


def decimal(value: float) -> str:
    """One decimal; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:,.1f}"
