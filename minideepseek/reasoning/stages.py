r"""Running a stage: a trainer, its folder, and what it left there.

    pretrain/        each stage is a run's directory as in training/rundir.py: metrics.jsonl and
    cold-start/      checkpoints; a stage that was interrupted goes on, one that is complete is
    grpo/            only read
    control/
    evaluations.json  what was measured between the stages
    traces.json       the same prompts answered at several times

So a run is resumed by running it again: every stage is asked for in order, and each does what is
left to do. A stage's folder knows the weights that it began from (by their hash), so that it is
never continued from others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.autograd.backend import to_host
from minideepseek.errors import CheckpointError
from minideepseek.model.files import atomic_write
from minideepseek.model.strict_json import read_json
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.recipe import Recipe
from minideepseek.reasoning.tasks import Task
from minideepseek.training.data import BatchLoader
from minideepseek.training.language import interrupt_at_once
from minideepseek.training.progress import Progress
from minideepseek.training.rundir import RunDirectory
from minideepseek.training.trainer import Trainer, Training, fit

HELD_OUT_DOCUMENTS = 500  # of pre-training text, to follow the loss on
LARGEST = 1 << 26  # bytes of a file of remembered values


class Interrupted(Exception):
    """The user asked to stop; the stage has been saved."""


class Stages:
    """The stages of one run under `out`.  say: prints a line; stopped: whether to stop."""

    def __init__(
        self,
        out: Path,
        task: Task,
        say: Callable[[str], None] = print,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.out, self.task, self.say, self.stopped = out, task, say, stopped

    def run(
        self,
        name: str,
        trainer: Training,
        shown: dict[str, str],
        after_step: Callable[[int], None] = lambda step: None,
    ) -> list[dict[str, Any]]:
        """Train to the plan's end, from where the folder stands; the metrics of all steps.

        shown: which metrics the progress line shows, under which names. after_step: called with the
        number of each step that is made now. Raises Interrupted when stopped.
        """
        origin = weights_hash(trainer.model)
        directory = RunDirectory(self.out / name, self.task.tokenizer, origin, "weights")
        for notice in directory.resume(trainer):
            self.say(notice)
        if trainer.done:
            self.say(f"{name}: {_made(trainer)}")
        with Progress(trainer.plan.steps, name, start=trainer.done) as progress:

            def record(metrics: dict[str, Any]) -> None:
                directory.record(metrics)
                after_step(metrics["step"])
                fields = {label: metrics[key] for key, label in shown.items() if key in metrics}
                progress.update(metrics["step"], **fields)

            complete = fit(trainer, record, lambda: directory.save(trainer), self.stopped)
        if not complete:
            raise Interrupted
        return directory.metrics()

    def remembered(self, file: str, name: str, measure: Callable[[], Any]) -> Any:
        """The value under `name` in a JSON file here; measured and kept if it is not there.

        Interrupted if the user asked to stop before; while it is measured a Ctrl-C stops at once.
        """
        path = self.out / file
        known = read_json(path, LARGEST) if os.path.lexists(path) else {}
        if not isinstance(known, dict):
            raise CheckpointError(f"{path}: not what a run wrote")
        if name not in known:
            if self.stopped():
                raise Interrupted
            with interrupt_at_once():
                known[name] = measure()
            with atomic_write(path, "w") as out:
                json.dump(known, out, ensure_ascii=False, indent=1)
        return known[name]


def _made(trainer: Training) -> str:
    done, steps = trainer.done, trainer.plan.steps
    return "complete" if done == steps else f"going on after step {done} of {steps}"


def pretraining_text(task: Task, documents: int, rng: np.random.Generator) -> np.ndarray:
    """(M,) uint16 ids of so many documents, each between <bos> and <eos>."""
    words, ids = task.tokenizer, []
    for _ in range(documents):
        document = words.encode(task.document(rng), allow_special=True)
        ids += [words.bos_token_id, *document.tolist(), words.eos_token_id]
    return np.array(ids, np.uint16)


def pretrainer(task: Task, recipe: Recipe, rng: np.random.Generator, device: str) -> Trainer:
    """A fresh `reason` model and the trainer that reads it the task's language."""
    init, text, order = rng.spawn(3)
    plan = recipe.pretrain
    model = DeepSeekV3(recipe.config(task), init).to(device)
    tokens = pretraining_text(task, recipe.documents, text)
    held_out = pretraining_text(task, HELD_OUT_DOCUMENTS, text)
    loader = BatchLoader(tokens, plan.batch_size, plan.sequence_length, order)
    return Trainer(model, loader, plan, held_out)


def without_mtp(model: DeepSeekV3) -> DeepSeekV3:
    """A copy of the main model alone: its modules served pre-training and are dropped."""
    config = replace(model.config, num_nextn_predict_layers=0)
    main = DeepSeekV3.empty(config, model.model.norm.weight.dtype).to(model.device)
    held, own = model.state_dict(), main.state_dict()
    main.load_state_dict({name: held[name] for name in own})
    return main


def weights_hash(model: DeepSeekV3) -> str:
    """SHA-256 of all weights and buffers, by name."""
    digest = hashlib.sha256()
    for name, array in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(to_host(array)).tobytes())
    return digest.hexdigest()
