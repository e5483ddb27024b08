"""Chapter 6 — The numbers of a GRPO run, and where its problems come from"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.config_checks import shown
from minideepseek.reasoning.evaluate import ROWS
from minideepseek.reasoning.grpo.objective import AGGREGATIONS, KLS, RATIOS, SCALES
from minideepseek.reasoning.tasks import Problem, Task
from minideepseek.training.data import restore_generator
from minideepseek.training.trainer import check_plan

TRUNCATED = ("judge", "mask")
MOST_ROWS = 1 << 14  # decoded at once: memory


@dataclass(frozen=True)
class GRPOPlan:
    """The numbers of a run; beside each, R1-Zero's where the paper gives it.

    max_new_tokens None: the task's. truncated: what becomes of a completion that the token limit
    cut off. "judge": it keeps its reward, which is 0 for want of an end; "mask": it is left out of
    the loss, as DAPO's overlong filtering does. reference_every: after so many steps the policy
    becomes the reference; 0 is never. bias_step: γ of the routers' biases, 0 holds them fixed.
    replay_routing: train with the experts of the sampling pass (V3.2).
    """

    steps: int = 50  # 10,400
    prompts_per_step: int = 32  # 32
    group_size: int = 16  # G = 16
    max_new_tokens: int | None = None  # 32,768, later 65,536
    temperature: float = 1.0  # 1
    minibatches: int = 4  # updates per rollout: 16
    micro_rows: int = 32  # rows per forward pass; memory, not mathematics
    learning_rate: float = 3e-4  # 3e-6
    warmup_steps: int = 5
    final_learning_rate: float = 0.1  # of the peak
    beta2: float = 0.99  # of AdamW: its v averages about 1/(1 − β₂) updates, 25 rollouts
    clip_norm: float = 1.0
    clip_low: float = 0.2  # ε; R1's first stage: 10
    clip_high: float = 0.2
    kl_coef: float = 0.0  # β = 0.001
    kl: str = "k3"
    scale: str = "std"
    aggregation: str = "token"
    ratio: str = "token"
    truncated: str = "judge"
    reference_every: int = 0  # 400
    bias_step: float = 0.0
    replay_routing: bool = False
    evaluate_every: int = 10
    evaluate_samples: int = 2
    checkpoint_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_plan(self, _AT_LEAST, _AT_MOST)
        for name, names in _ONE_OF.items():
            if getattr(self, name) not in names:
                expected = ", ".join(map(repr, names))
                came = shown(getattr(self, name))
                raise InputError(f"{name}: got {came}, expected one of {expected}")
        for name in ("temperature", "clip_norm"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: got {getattr(self, name)!r}, expected a number above 0")
        if type(self.replay_routing) is not bool:
            raise InputError(f"replay_routing: got {shown(self.replay_routing)}, expected a bool")
        rows = self.prompts_per_step * self.group_size
        if rows > MOST_ROWS:
            raise InputError(
                f"prompts_per_step, group_size: {self.prompts_per_step} × {self.group_size} are "
                f"{rows:,} responses at once, expected at most {MOST_ROWS:,}"
            )
        limit = self.max_new_tokens
        if limit is not None and (type(limit) is not int or not 1 <= limit < 2**63):
            came = shown(limit)
            raise InputError(f"max_new_tokens: got {came}, expected an integer of at least 1")


_AT_LEAST = {
    "steps": 1,
    "prompts_per_step": 1,
    "group_size": 2,
    "minibatches": 1,
    "micro_rows": 1,
    "warmup_steps": 0,
    "reference_every": 0,
    "evaluate_every": 1,
    "evaluate_samples": 1,
    "checkpoint_every": 1,
    "seed": 0,
}
_AT_MOST = {
    "temperature": 100.0,
    "learning_rate": 1.0,
    "final_learning_rate": 1.0,
    "beta2": 0.999999,
    "clip_norm": 1e9,
    "evaluate_samples": ROWS,
    "clip_low": 1e3,
    "clip_high": 1e3,
    "kl_coef": 1e3,
    "bias_step": 1.0,
}
_ONE_OF = {
    "kl": KLS,
    "scale": SCALES,
    "aggregation": AGGREGATIONS,
    "ratio": RATIOS,
    "truncated": TRUNCATED,
}


class Prompts:
    """Training problems of a task, prompts_per_step at a time, and the sampler's random numbers.

    rng: its children draw the problems (`problems`) and the tokens (`sampling`), so that neither
    depends on how much the other has drawn.
    """

    def __init__(self, task: Task, prompts_per_step: int, rng: np.random.Generator) -> None:
        self.task, self.prompts_per_step = task, prompts_per_step
        self.problems, self.sampling = rng.spawn(2)

    def next_batch(self) -> list[Problem]:
        """The problems of one step; the same one may come twice and is then two groups."""
        return [self.task.draw(self.problems) for _ in range(self.prompts_per_step)]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, in numbers and names that JSON can hold."""
        generators = {name: getattr(self, name).bit_generator.state for name in _GENERATORS}
        return {"task": self.task.name, **generators}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. CheckpointError for another task or no such state."""
        if not isinstance(state, dict) or state.get("task") != self.task.name:
            raise CheckpointError(f"prompts' state: not one of {self.task.name}")
        try:
            for name in _GENERATORS:
                restore_generator(getattr(self, name), state.get(name))
        except CheckpointError:
            raise CheckpointError("prompts' state: holds no states of two generators") from None


_GENERATORS = ("problems", "sampling")
