r"""A run's directory: metrics line by line, checkpoints that are there whole or not at all.

    metrics.jsonl            one JSON object a step, appended
    checkpoints/step-…       `write_model`'s files, the tokenizer's, optimizer.safetensors and
                             trainer.json; written beside their name, synced, then renamed

`resume` puts a trainer where the newest checkpoint left it and cuts metrics.jsonl back to that
step: what an interrupted process did beyond it is done again, with the same numbers. A run that was
killed before its first checkpoint begins again, which comes to the same. A newest checkpoint that
is damaged (nothing here leaves one; a disk may) is set aside, and the one before it taken.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from minideepseek import __version__
from minideepseek.autograd.backend import Array, copy_into, to_host
from minideepseek.autograd.blocks import get_threads
from minideepseek.errors import CheckpointError
from minideepseek.model.checkpoint import from_pretrained, write_model
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.config_checks import shown
from minideepseek.model.files import (
    atomic_directory,
    atomic_write,
    make_directory,
    remove_directory,
    sync,
)
from minideepseek.model.leftovers import clear_leftovers, set_aside
from minideepseek.model.safetensors import load_file, save_file
from minideepseek.model.strict_json import parse_json, read_bytes, read_json
from minideepseek.model.tokenizer import Tokenizer
from minideepseek.training.trainer import Training

KEPT = 2  # checkpoints
ORIGINS = {  # what a run began from, as its hash is compared; and what to do where it differs
    "text": ("was trained on another text", "go on with the same files and the same Python"),
    "weights": ("began from other weights", "go on with those, or begin in another directory"),
}
_LISTED = {"max_vio": 1, "dead_experts": 1, "expert_load": 2}  # metrics that are lists, how deep
VERSIONS = {
    "minideepseek": __version__,
    "python": platform.python_version(),
    "numpy": np.__version__,
    "ml_dtypes": ml_dtypes.__version__,
}


class RunDirectory:
    """The files of one run under `path`.

    corpus: the hash of its text, stored and compared; of a stage that goes on from another, with
    origin "weights", the hash of the weights that it begins from.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tokenizer: Tokenizer,
        corpus: str,
        origin: str = "text",
    ) -> None:
        self.path, self.tokenizer, self.corpus = Path(path), tokenizer, corpus
        self.origin = origin
        make_directory(self.checkpoints)
        if not self._log.exists():
            with atomic_write(self._log):
                pass  # on the disk: from here on a checkpoint's `sync` has but to sync its lines

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def _log(self) -> Path:
        return self.path / "metrics.jsonl"

    def record(self, metrics: dict[str, Any]) -> None:
        """Append one step's metrics; CheckpointError where the system refuses."""
        try:
            with self._log.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(metrics, allow_nan=False) + "\n")
        except OSError as error:
            raise CheckpointError(f"cannot write {self._log}: {error.strerror}") from None

    def metrics(self) -> list[dict[str, Any]]:
        """What was recorded; a last line cut short by a kill is left out."""
        return read_metrics(self._log)

    def save(self, trainer: Training) -> Path:
        """Write checkpoints/step-…, then remove all but the newest two."""
        sync(self._log)  # a checkpoint never knows of more steps than metrics.jsonl
        target = self.checkpoints / f"step-{trainer.done:08d}"
        with atomic_directory(target) as folder:
            write_model(trainer.model, folder)
            self.tokenizer.write(folder)
            moments = {name: to_host(a) for name, a in _moments(trainer).items()}
            save_file(moments, folder / "optimizer.safetensors")
            with atomic_write(folder / "trainer.json", "w") as file:
                json.dump(self._state(trainer), file, indent=1)
        self._remove_old()
        return target

    def _remove_old(self) -> None:
        for old in list_checkpoints(self.path)[:-KEPT]:
            remove_directory(old)

    def resume(self, trainer: Training) -> list[str]:
        """Load the newest checkpoint that is whole, if any, into a `trainer` that made no step.

        Returns sentences on what was put right after a process that did not end well, and on what
        differs from when the checkpoint was written. CheckpointError if all are damaged, or it
        belongs to another text, other weights, another plan or configuration.
        """
        notices = clear_leftovers(self.path) + clear_leftovers(self.checkpoints)
        damaged: list[tuple[Path, CheckpointError]] = []
        for folder in reversed(list_checkpoints(self.path)):
            try:
                state = self._load(trainer, folder)
            except _AnotherRun:
                raise
            except CheckpointError as error:
                # Its words alone: its traceback holds the files, and Windows renames none held.
                damaged.append((folder, CheckpointError(str(error))))
                continue
            notices += [f"{e}; {_aside(p)}, going on from {folder.name}" for p, e in damaged]
            notices += _differences(trainer, state)
            break
        else:
            if damaged:
                raise damaged[0][1]
        notices += self._cut_metrics(trainer.done)
        self._remove_old()  # where a kill came before it
        return notices

    def _state(self, trainer: Training) -> dict[str, Any]:
        return {
            "step": trainer.done,
            "updates": trainer.optimiser.steps,
            "tokens": trainer.tokens,
            "seconds": trainer.seconds,
            "plan": dataclasses.asdict(trainer.plan),
            "corpus": self.corpus,
            "loader": trainer.loader.state_dict(),
            "surroundings": _surroundings(trainer),
        }

    def _load(self, trainer: Training, folder: Path) -> dict[str, Any]:
        """The state in trainer.json, which the trainer is then in."""
        state = read_state(folder / "trainer.json")
        self._compare(trainer, folder, state)
        self._restore(trainer, folder, state)
        return state

    def _compare(self, trainer: Training, folder: Path, state: dict[str, Any]) -> None:
        """_AnotherRun if the checkpoint is of another run than the trainer's."""
        if state["corpus"] != self.corpus:
            differs, advice = ORIGINS[self.origin]
            raise _AnotherRun(
                f"{folder} {differs} (hash {_told(state['corpus'][:12])}…, "
                f"here {self.corpus:.12}…); {advice}"
            )
        config = DeepSeekV3Config.from_json(folder / "config.json")
        model = dataclasses.replace(trainer.model.config, torch_dtype=config.torch_dtype)
        for was, now in (
            (state["plan"], dataclasses.asdict(trainer.plan)),
            (config.to_dict(), model.to_dict()),
        ):
            for name in now:
                if was.get(name) != now[name]:
                    raise _AnotherRun(
                        f"{folder} was made with {name} = {shown(was.get(name))}, not {now[name]}; "
                        "go on with the options that the run was begun with"
                    )

    def _restore(self, trainer: Training, folder: Path, state: dict[str, Any]) -> None:
        moments, own = load_file(folder / "optimizer.safetensors"), _moments(trainer)
        for name in own.keys() | moments.keys():
            if not _fits(name, moments.get(name), own.get(name)):
                path = folder / "optimizer.safetensors"
                raise CheckpointError(f"{path}: {_told(name)} does not fit")
        loaded = from_pretrained(folder, trainer.model.model.norm.weight.dtype)
        trainer.loader.load_state_dict(state["loader"])
        trainer.model.load_state_dict(loaded.state_dict())
        for name, array in own.items():
            copy_into(array, moments[name])
        trainer.done, trainer.optimiser.steps = state["step"], state["updates"]
        trainer.tokens, trainer.seconds = state["tokens"], state["seconds"]

    def _cut_metrics(self, step: int) -> list[str]:
        """Leave the steps up to this one; a notice if there was more, whatever it was."""
        text = "".join(json.dumps(m) + "\n" for m in read_metrics(self._log, step))
        if self._log.read_bytes() == text.encode():
            return []
        with atomic_write(self._log, "w") as file:
            file.write(text)
        return [f"{self._log}: cut back to step {step}, after which there is no checkpoint"]


class _AnotherRun(CheckpointError):
    """The checkpoint is whole, but of another run."""


def _aside(damaged: Path) -> str:
    return f"{damaged.name} is set aside as {set_aside(damaged).name}"


def _differences(trainer: Training, state: dict[str, Any]) -> list[str]:
    here = _surroundings(trainer)
    was = state["surroundings"]
    return [
        f"{name} was {_told(was.get(name))} when this checkpoint was written and is {now} now: "
        "the losses may differ in their last bits"
        for name, now in here.items()
        if was.get(name) != now
    ]


def _told(value: Any) -> str:
    """A word or number of another run's as it is, anything else as `shown`."""
    plain = isinstance(value, str) and value.isprintable() and len(value) <= 100
    return value if plain else shown(value)


def read_state(path: Path) -> dict[str, Any]:
    """The content of a trainer.json; CheckpointError if a key is missing, of another type, or a
    number that no run reaches."""
    kinds = {"step": int, "updates": int, "tokens": int, "seconds": float, "corpus": str}
    kinds |= dict.fromkeys(("plan", "loader", "surroundings"), dict)
    state = read_json(path)
    for name, kind in kinds.items():
        if not isinstance(state, dict) or type(state.get(name)) is not kind:
            raise CheckpointError(f"{path}: {name} is missing or no {kind.__name__}")
        if kind in (int, float) and not 0 <= state[name] < 2**63:
            raise CheckpointError(f"{path}: {name} = {shown(state[name])}")
    return state


def list_checkpoints(path: str | os.PathLike[str]) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((Path(path) / "checkpoints").glob("step-[0-9]*"))


def read_metrics(path: Path, last: float = math.inf) -> list[dict[str, Any]]:
    """The objects of a metrics.jsonl up to step `last`, and nothing after that is looked at.

    CheckpointError for a line before the end that is no step's metrics.
    """
    lines = read_bytes(path).split(b"\n") if os.path.lexists(path) else []
    found: list[dict[str, Any]] = []
    reached = 0
    for number, line in enumerate(lines, start=1):
        if reached >= last:
            break
        try:
            value = parse_json(line, "")
        except CheckpointError:
            value = None
        if _is_step(value):
            reached = value["step"]
            found += [value] if reached <= last else []
        elif number < len(lines):  # each whole line ends in a newline: the rest was cut short
            raise CheckpointError(f"{path}, line {number}: not a step's metrics")
    return found


def _is_step(value: Any) -> bool:
    """Whether it is what trainers record: the step, and numbers, by layer or expert where known."""
    if not isinstance(value, dict) or type(value.get("step")) is not int or value["step"] < 0:
        return False
    return all(_is_number(held, _LISTED.get(name, 0)) for name, held in value.items())


def _is_number(value: Any, depth: int) -> bool:
    """A number, a list of them, or a list of lists; null in place of any."""
    if depth and isinstance(value, list):
        return all(_is_number(inner, depth - 1) for inner in value)
    return value is None or (not depth and type(value) in (int, float))


def _fits(name: str, held: Array | None, own: Array | None) -> bool:
    """Whether a checkpoint's array may become a trainer's: v is a mean of squares."""
    if held is None or own is None or (held.shape, held.dtype.name) != (own.shape, own.dtype.name):
        return False
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(held).all()) and not (name.startswith("v.") and (held < 0).any())


def _moments(trainer: Training) -> dict[str, Array]:
    """AdamW's m and v by name, and what else the trainer says must be `kept`."""
    found = dict(getattr(trainer, "kept", {}))
    for letter, arrays in (("m", trainer.optimiser.m), ("v", trainer.optimiser.v)):
        for name, array in zip(trainer.parameters, arrays, strict=True):
            found[f"{letter}.{name}"] = array
    return found


def _surroundings(trainer: Training) -> dict[str, Any]:
    """What a run's last bits depend on."""
    return VERSIONS | {
        "machine": platform.machine(),
        "device": trainer.model.device,
        "threads": get_threads(),
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
    }
