r"""A run's directory: metrics line by line, checkpoints that are there whole or not at all.

    metrics.jsonl            one JSON object a step, appended and flushed
    checkpoints/step-…       `write_model`'s files, the tokenizer's, optimizer.safetensors and
                             trainer.json; written beside their name, synced, then renamed

`resume` puts a Trainer where the newest checkpoint left it and cuts metrics.jsonl back to that
step: what an interrupted process did beyond it is done again, with the same numbers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from minideepseek import __version__
from minideepseek.autograd.backend import Array, copy_into, get_threads, to_host
from minideepseek.errors import CheckpointError
from minideepseek.model.checkpoint import from_pretrained, write_model
from minideepseek.model.files import atomic_directory, atomic_write
from minideepseek.model.safetensors import load_file, save_file
from minideepseek.model.strict_json import read_json
from minideepseek.model.tokenizer import Tokenizer
from minideepseek.training.trainer import Trainer

KEPT = 2  # checkpoints


class RunDirectory:
    """The files of one run under `path`.  corpus: the hash of its text, stored and compared."""

    def __init__(self, path: str | os.PathLike[str], tokenizer: Tokenizer, corpus: str) -> None:
        self.path, self.tokenizer, self.corpus = Path(path), tokenizer, corpus
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write to {path}: {error.strerror}") from None

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    def record(self, metrics: dict[str, Any]) -> None:
        """Append one step's metrics."""
        try:
            self._metrics.write(json.dumps(metrics, allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.path / 'metrics.jsonl'}: {error.strerror}"
            ) from None

    def metrics(self) -> list[dict[str, Any]]:
        """What was recorded; a last line cut short by a kill is left out."""
        return read_metrics(self.path / "metrics.jsonl")

    def save(self, trainer: Trainer) -> Path:
        """Write checkpoints/step-…, then remove all but the newest two."""
        target = self.checkpoints / f"step-{trainer.done:08d}"
        with atomic_directory(target) as folder:
            write_model(trainer.model, folder)
            self.tokenizer.save_pretrained(folder)
            moments = {name: to_host(a) for name, a in _moments(trainer).items()}
            save_file(moments, folder / "optimizer.safetensors")
            with atomic_write(folder / "trainer.json", "w") as file:
                json.dump(self._state(trainer), file, indent=1)
        for old in list_checkpoints(self.path)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def resume(self, trainer: Trainer) -> list[str]:
        """Load the newest checkpoint into `trainer`; sentences on what differs from when it was
        written. CheckpointError if there is none, or it belongs to another plan or text."""
        found = list_checkpoints(self.path)
        if not found:
            raise CheckpointError(f"{self.path}: no checkpoint to go on from")
        folder = found[-1]
        state = read_json(folder / "trainer.json")
        try:
            self._restore(trainer, folder, state)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / 'trainer.json'}: not a trainer's state") from error
        self._cut_metrics(trainer.done)
        here = _surroundings()
        return [
            f"{name} was {was!r} when the run began and is {here[name]!r} now: "
            "losses may differ in their last bits"
            for name, was in state["surroundings"].items()
            if here.get(name) != was
        ]

    def _state(self, trainer: Trainer) -> dict[str, Any]:
        return {
            "step": trainer.done,
            "tokens": trainer.tokens,
            "seconds": trainer.seconds,
            "plan": dataclasses.asdict(trainer.plan),
            "corpus": self.corpus,
            "loader": trainer.loader.state_dict(),
            "optimiser_steps": trainer.optimiser.steps,
            "surroundings": _surroundings(),
        }

    def _restore(self, trainer: Trainer, folder: Path, state: dict[str, Any]) -> None:
        if state["corpus"] != self.corpus:
            raise CheckpointError(
                f"{folder}: trained on text {state['corpus'][:12]}…, this text is "
                f"{self.corpus[:12]}…; go on with the same files and Python"
            )
        plan = dataclasses.asdict(trainer.plan)
        for name, value in state["plan"].items():
            if plan.get(name) != value:
                raise CheckpointError(
                    f"{folder}: its plan has {name} {value}, this one {plan.get(name)}"
                )
        moments = load_file(folder / "optimizer.safetensors")
        own = _moments(trainer)
        for name, array in own.items():
            if name not in moments or moments[name].shape != array.shape:
                raise CheckpointError(f"{folder / 'optimizer.safetensors'}: {name} does not fit")
        loaded = from_pretrained(folder, trainer.model.model.norm.weight.dtype)
        trainer.model.load_state_dict(loaded.state_dict())
        for name, array in own.items():
            copy_into(array, moments[name])
        trainer.loader.load_state_dict(state["loader"])
        trainer.optimiser.steps = state["optimiser_steps"]
        trainer.done, trainer.tokens = state["step"], state["tokens"]
        trainer.seconds = state["seconds"]

    def _cut_metrics(self, step: int) -> None:
        kept = [m for m in self.metrics() if m["step"] <= step]
        self._metrics.close()
        with atomic_write(self.path / "metrics.jsonl", "w") as file:
            file.writelines(json.dumps(m) + "\n" for m in kept)
        self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8")


def list_checkpoints(path: str | os.PathLike[str]) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((Path(path) / "checkpoints").glob("step-[0-9]*"))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The objects of a metrics.jsonl; CheckpointError for a line in the middle that is none."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or not isinstance(value.get("step"), int):
                raise ValueError
            found.append(value)
        except (ValueError, RecursionError):
            if number < len(lines):  # each whole line ends in a newline: the rest was cut short
                raise CheckpointError(f"{path}, line {number}: not a step's metrics") from None
    return found


def _moments(trainer: Trainer) -> dict[str, Array]:
    """AdamW's m and v by name."""
    found = {}
    for letter, arrays in (("m", trainer.optimiser.m), ("v", trainer.optimiser.v)):
        for name, array in zip(trainer.parameters, arrays, strict=True):
            found[f"{letter}.{name}"] = array
    return found


def _surroundings() -> dict[str, Any]:
    """What a run's last bits depend on."""
    return {
        "minideepseek": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "ml_dtypes": ml_dtypes.__version__,
        "machine": platform.machine(),
        "threads": get_threads(),
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
    }


def versions() -> str:
    """The versions of `_surroundings` in one line, for reports."""
    here = _surroundings()
    return ", ".join(f"{k} {here[k]}" for k in ("minideepseek", "python", "numpy", "ml_dtypes"))
