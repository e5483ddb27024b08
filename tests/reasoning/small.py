"""The journey's reasoning part in a second: two numbers a problem, the nano preset, few steps."""

import dataclasses
import functools
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning import jobs, journey, shipped, stages
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.grpo.plan import GRPOPlan
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.reasoning.r1.sft import SFTPlan
from minideepseek.reasoning.recipe import Gate, Recipe
from minideepseek.reasoning.tasks import REWARDS
from minideepseek.training.rundir import read_metrics
from minideepseek.training.trainer import Plan
from tests.reasoning.grpo.tiny import LUCK, untimed

STAGES = ("pretrain", "cold-start", "grpo", "control")


class Small(Countdown):
    """"9 5 > 14 :", ten problems held out, answers of up to 24 tokens; the usual words."""

    def __init__(self) -> None:
        super().__init__(numbers=2)


class SmallRecipe(Recipe):
    """A Recipe of the nano preset."""

    def config(self, task):
        names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
        ids = {name: getattr(task.tokenizer, name) for name in names}
        return DeepSeekV3Config.preset("nano", initializer_range=0.1, **ids)


GRPO = GRPOPlan(
    steps=4, prompts_per_step=3, group_size=4, minibatches=2, micro_rows=12, evaluate_every=2,
    evaluate_samples=1, checkpoint_every=3,
)  # fmt: skip
SFT = SFTPlan(steps=5, samples_per_step=8, sequence_length=64, warmup_steps=2, checkpoint_every=2)
RECIPE = SmallRecipe(
    documents=40,
    pretrain=Plan(
        steps=5, batch_size=2, sequence_length=32, warmup_steps=2, mtp_weight=0.1,
        evaluate_every=3, checkpoint_every=2,
    ),
    cold_start=SFT,
    grpo=GRPO,
    samples=2,
)  # fmt: skip
QUICK = dataclasses.replace(RECIPE, grpo=dataclasses.replace(GRPO, steps=3), samples=1)
STEPS = {"pretrain": 5, "cold-start": 5, "grpo": 4, "control": 8}


def memory() -> tempfile.TemporaryDirectory:
    """A folder in memory where possible: a run syncs a hundred times.

    Windows deletes no file that is mapped, and the traceback of an expected error may hold one.
    """
    held = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.TemporaryDirectory(dir=held, ignore_cleanup_errors=True)


def open_gates(model, task):
    """A gate that a model without skill passes."""
    return [Gate("the base's existence", 1.0, 0.5)]


def model(seed: int = 0) -> DeepSeekV3:
    """As cold-started as it gets."""
    config = dataclasses.replace(RECIPE.config(Small()), num_nextn_predict_layers=0)
    return DeepSeekV3(config, np.random.default_rng(seed))


def model_directory(path: Path, seed: int = 0) -> Path:
    """The model with the task's words."""
    model(seed).save_pretrained(path)
    Small().tokenizer.save_pretrained(path)
    return path


def install(patch, shipped_model: Path) -> None:
    """Small numbers, open gates, a reward that comes without skill, and a shipped model of our own,
    until `patch` is undone."""
    model_directory(shipped_model)
    patch.setattr(stages, "HELD_OUT_DOCUMENTS", 20)
    patch.setattr(journey, "RECIPE", RECIPE)
    patch.setattr(journey, "QUICK", QUICK)
    patch.setattr(journey, "Countdown", Small)
    patch.setattr(journey, "base_gates", open_gates)
    patch.setattr(journey, "cold_start_gates", lambda found: open_gates(None, None))
    lucky = functools.partial(GRPOTrainer, rewards=(*REWARDS, LUCK))
    patch.setattr(journey, "GRPOTrainer", lucky)
    patch.setattr(jobs, "GRPOTrainer", lucky)
    patch.setattr(shipped, "DIRECTORY", shipped_model)
    patch.setitem(jobs.TASKS, "countdown", Small)


def result(out: Path) -> dict:
    """What a reasoning part came to: metrics but for times, measurements, weights, all names."""
    found = {name: steps(out / name) for name in STAGES if (out / name).is_dir()}
    for name in ("evaluations.json", "traces.json", "job.json"):
        found[name] = json.loads((out / name).read_text("utf-8"))
    newest = sorted(out.glob("*/checkpoints/step-*/*.safetensors"))
    files = [*newest, out / "model/model.safetensors"]
    found["weights"] = {str(file.relative_to(out)): file.read_bytes() for file in files}
    found["names"] = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    return found


def steps(stage: Path) -> list[dict]:
    """A stage's metrics but for times."""
    rows = [untimed(row) for row in read_metrics(stage / "metrics.jsonl")]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def told(record) -> dict:
    """A record but for times."""
    facts = {k: v for k, v in record.facts.items() if "second" not in k}
    stages = {
        name: [{k: v for k, v in untimed(row).items() if k != "tokens_per_second"} for row in rows]
        for name, rows in record.stages.items()
    }
    return dataclasses.asdict(record) | {"facts": facts, "stages": stages}
