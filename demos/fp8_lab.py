r"""The runs of demos/fp8_training.py, each kept once it is finished, and what pairs of them say.

The model is `mini` without its MTP module and balance loss, with 8 experts of width 128, of which a
token uses 2: 3 layers of width 256, 72 quantised matrices, 2,771,360 parameters. Its text is that
of moe_lab.py.
"""

from __future__ import annotations

import json
import math
import statistics
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from demos import moe_lab
from demos.fp8_gradients import square, study
from demos.moe_lab import Text
from minideepseek.autograd.backend import copy_into
from minideepseek.layers.fp8.recipe import (
    PER_TENSOR,
    SQUARE_GRADIENTS,
    V3,
    Recipe,
)
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.files import atomic_write
from minideepseek.model.fp8 import fp8_training
from minideepseek.model.safetensors import load_file, save_file
from minideepseek.model.transformer import DeepSeekV3, evaluate_loss
from minideepseek.training.data import BatchLoader, evaluation_windows
from minideepseek.training.trainer import Plan, Trainer


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    steps: of a whole run; fork: where branches leave it. seeds: runs from random weights; orders:
    of the data, for branches; neighbours: float32 runs beside seed 0. batches: for the noise, and
    checked of them in FP8. held_out: bytes; changes: to the configuration.
    """

    steps: int = 160
    fork: int = 110
    seeds: int = 1
    orders: int = 1
    neighbours: int = 3
    batches: int = 24
    checked: int = 3
    batch: int = 8
    length: int = 128
    held_out: int = 1 << 15
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return Plan(
            steps=self.steps,
            batch_size=self.batch,
            sequence_length=self.length,
            warmup_steps=self.steps // 10,
            mtp_weight=0.0,
        )

    @property
    def config(self) -> DeepSeekV3Config:
        sizes = {
            "num_nextn_predict_layers": 0, "aux_loss_alpha": 0.0, "n_group": 1, "topk_group": 1,
            "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
        }  # fmt: skip
        return DeepSeekV3Config.preset("mini", **(sizes | self.changes))

    @property
    def key(self) -> str:
        """Of what a single result depends on: counts of runs are left out."""
        one = replace(self, seeds=0, orders=0, neighbours=0)
        return f"{zlib.crc32(repr(one).encode()):08x}"


def read_text(scale: Scale) -> Text:
    text = moe_lab.read_text(moe_lab.Scale())
    return Text(text.train, text.held_out[: scale.held_out])


# Student's t: a mean of n lies within T95[n − 2] of its standard errors in 95 of 100 cases.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Interval(NamedTuple):
    """A mean and half of its 95 % interval, NaN for a single value."""

    mean: float
    half: float

    @property
    def holds_zero(self) -> bool:
        return abs(self.mean) <= self.half

    def __str__(self) -> str:
        return f"{self.mean:+.3f}" + ("" if math.isnan(self.half) else f" ± {self.half:.3f}")


def interval(values: Sequence[float]) -> Interval:
    """Of at most 10 values; of more it is a little too wide."""
    mean, n = statistics.mean(values), len(values)
    if n == 1:
        return Interval(mean, math.nan)
    return Interval(mean, student(n) * statistics.stdev(values) / math.sqrt(n))


def student(n: int) -> float:
    return T95[min(n - 2, len(T95) - 1)]


def per_cent(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """How much larger each value is than its partner."""
    return [100 * (x - y) / y for x, y in zip(values, others, strict=True)]


def expected_range(values: Sequence[float]) -> tuple[float, float]:
    """Where one more run of the same kind lies in 95 of 100 cases, by n ≥ 2 runs."""
    mean, n = statistics.mean(values), len(values)
    half = student(n) * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def seeds_needed(gaps: Sequence[float], within: float) -> int:
    """Pairs of runs whose mean gap would be known to ± `within`, by the spread of n ≥ 2 gaps."""
    return max(2, math.ceil((1.96 * statistics.stdev(gaps) / within) ** 2))


# ------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Arm:
    """A way to train.  moments: AdamW's; moved: initial weights, by this share of their spread."""

    recipe: Recipe | None = None
    moments: str | None = None
    moved: float = 0.0


FLOAT, FP8, MOVED, MOMENTS = "float32", "FP8, V3", "float32, 3 % beside", "bfloat16 moments"
ARMS = {
    FLOAT: Arm(),
    FP8: Arm(V3),
    "FP8, 128 × 128 on dY": Arm(Recipe.uniform(SQUARE_GRADIENTS)),
    "FP8, per tensor": Arm(Recipe.uniform(PER_TENSOR)),
    MOMENTS: Arm(moments="bfloat16"),
    MOVED: Arm(moved=0.03),
}
BRANCHES = tuple(name for name in ARMS if name not in (FLOAT, MOVED))


class Task(NamedTuple):
    """One result.  start: "checkpoint" makes it, "gradients" studies it, "branch" goes on from it
    with the data in order `seed`, "weights" trains from random ones; arm: of ARMS."""

    start: str
    arm: str = FLOAT
    seed: int = 0


def first_tasks(scale: Scale) -> list[Task]:
    """Long ones first, so that two processes end at about the same time."""
    every = range(scale.seeds)
    moved = [Task("weights", MOVED, n + 1) for n in range(scale.neighbours)]
    runs = [Task("weights", name, seed) for name in (FP8, FLOAT) for seed in every]
    return [Task("checkpoint"), *runs, *moved]


def later_tasks(scale: Scale) -> list[Task]:
    """What needs the checkpoint; float32 in one more order, so that two can be compared."""
    runs = [Task("branch", name, order) for order in range(scale.orders) for name in BRANCHES]
    plain = [Task("branch", FLOAT, order) for order in range(scale.orders + 1)]
    return [Task("gradients"), *runs, *plain]


def place(out: Path, scale: Scale, task: Task) -> Path:
    """Where a task's result is kept; other sizes of the run have other places."""
    arm = list(ARMS).index(task.arm)
    return out / "arms" / f"{task.start}-{arm}-{task.seed}-{scale.key}.json"


def work(out: Path, scale: Scale, task: Task) -> dict[str, Any]:
    """The task's result, which is read if an earlier run finished it, or made and kept."""
    path = place(out, scale, task)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = RUNS[task.start](out, scale, task)
        with atomic_write(path, "w") as file:
            json.dump(found, file)
    return json.loads(path.read_text("utf-8"))


def trainer_of(
    model: DeepSeekV3, text: Text, scale: Scale, arm: Arm, data: Sequence[int]
) -> Trainer:
    twin = model if arm.recipe is None else fp8_training(model, arm.recipe)
    loader = BatchLoader(text.train, scale.batch, scale.length, np.random.default_rng(data))
    return Trainer(twin, loader, scale.plan, moments=arm.moments)


def shake(model: DeepSeekV3, by: float, rng: np.random.Generator) -> None:
    """Move every matrix by random numbers of `by` times its own root mean square."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            size = by * math.sqrt(square(parameter.data) / parameter.size)
            parameter.data += (size * rng.standard_normal(parameter.shape)).astype(parameter.dtype)


def finish(model: DeepSeekV3, trainer: Trainer, text: Text, scale: Scale) -> dict[str, Any]:
    """Train to the plan's end and judge: nats of a held-out byte, as the arm computes (loss) and in
    float32 (plain); the training loss step by step; seconds a step."""
    curve = [trainer.step()["main_loss"] for _ in range(scale.steps - trainer.done)]
    found = {"seconds": trainer.seconds / len(curve), "curve": curve}
    found["loss"] = found["plain"] = held_out_loss(trainer.model, text, scale)
    if trainer.model is not model:
        found["plain"] = held_out_loss(model, text, scale)
    return found


def held_out_loss(model: DeepSeekV3, text: Text, scale: Scale) -> float:
    windows = evaluation_windows(text.held_out, scale.length, scale.length)
    nats, counts = zip(*(evaluate_loss(model, ids, mask) for ids, mask in windows), strict=True)
    return sum(nats) / sum(counts)


def from_weights(out: Path, scale: Scale, task: Task) -> dict[str, Any]:
    """A whole run; a moved arm is seed 0's but for its weights."""
    text, arm = read_text(scale), ARMS[task.arm]
    origin = 0 if arm.moved else task.seed
    model = DeepSeekV3(scale.config, np.random.default_rng(origin))
    shake(model, arm.moved, np.random.default_rng([task.seed, 1]))
    return finish(model, trainer_of(model, text, scale, arm, [origin, 2]), text, scale)


def checkpoint(out: Path, scale: Scale, task: Task) -> dict[str, Any]:
    """Train in float32 as far as the fork; weights and moments go to a file."""
    text, model = read_text(scale), DeepSeekV3(scale.config, np.random.default_rng(0))
    trainer = trainer_of(model, text, scale, ARMS[task.arm], [0, 2])
    curve = [trainer.step()["main_loss"] for _ in range(scale.fork)]
    save_file(_state(trainer), place(out, scale, task).with_suffix(".safetensors"))
    loss = held_out_loss(model, text, scale)
    return {"seconds": trainer.seconds / len(curve), "curve": curve, "loss": loss}


def forked(out: Path, scale: Scale, task: Task) -> tuple[DeepSeekV3, Trainer, Text]:
    """The checkpoint, with its moments, and the data in the task's order."""
    text, model = read_text(scale), DeepSeekV3.empty(scale.config)
    trainer = trainer_of(model, text, scale, ARMS[task.arm], [task.seed, 3])
    kept = load_file(place(out, scale, Task("checkpoint")).with_suffix(".safetensors"))
    for name, array in _state(trainer).items():
        copy_into(array, kept[name])
    trainer.done = trainer.optimiser.steps = scale.fork
    return model, trainer, text


def _state(trainer: Trainer) -> dict[str, np.ndarray]:
    state = trainer.model.state_dict()
    for letter, arrays in (("m", trainer.optimiser.m), ("v", trainer.optimiser.v)):
        names = (f"{letter}.{name}" for name in trainer.parameters)
        state |= dict(zip(names, arrays, strict=True))
    return state


def branch(out: Path, scale: Scale, task: Task) -> dict[str, Any]:
    model, trainer, text = forked(out, scale, task)
    return finish(model, trainer, text, scale)


def gradient_study(out: Path, scale: Scale, task: Task) -> dict[str, Any]:
    model, _, text = forked(out, scale, task)
    order = np.random.default_rng([0, 4])
    loader = BatchLoader(text.train, scale.batch, scale.length, order)
    batches = (loader.next_batch() for _ in range(scale.batches))
    return study(model, batches, scale.checked)


RUNS: dict[str, Callable[[Path, Scale, Task], dict[str, Any]]] = {
    "checkpoint": checkpoint,
    "gradients": gradient_study,
    "branch": branch,
    "weights": from_weights,
}
