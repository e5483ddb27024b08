"""What to train, on what, where; kept in a run's run.json, so that it can be resumed."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minideepseek.errors import CheckpointError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.files import atomic_write, make_directory
from minideepseek.model.leftovers import is_leftover
from minideepseek.model.strict_json import read_json
from minideepseek.training.trainer import Plan


@dataclass(frozen=True)
class LanguageJob:
    """What to train, on what, where.

    texts: the user's files or folders; none for docstrings. verb: of the command line that began
    or resumed it, for the hint of how to go on. part: of a journey that it is the first part of,
    "both" if the reasoning part follows. fp8: products in FP8, AdamW's moments in bfloat16.
    """

    out: Path
    preset: str = "mini"
    texts: Sequence[str] = ()
    plan: Plan = Plan()
    device: str = "cpu"
    resume: bool = False
    verb: str = "pretrain"
    part: str = "language"
    fp8: bool = False

    def to_go_on(self) -> str:
        """The command that resumes it, for pasting."""
        return f"minideepseek {self.verb} --resume {shlex.quote(str(self.out))}"


def default_length(preset: str) -> int:
    """Bytes per sequence where none are asked for: Plan's, or all positions that `preset` has."""
    positions = DeepSeekV3Config.preset(preset).max_position_embeddings
    return min(Plan.sequence_length, positions)


def check_directory(out: Path, resume: bool) -> None:
    """CheckpointError unless `out` is new and can be made, or is a run to resume."""
    is_run = (out / "checkpoints").is_dir() or (out / "run.json").exists()
    if resume and not is_run:
        raise CheckpointError(f"{out}: no run to resume, expected a folder with checkpoints")
    if not resume and out.exists() and (not out.is_dir() or _holds_something(out)):
        hint = " or resume this run" if is_run else ""
        raise CheckpointError(f"{out}: exists and is not empty; name another directory{hint}")
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise CheckpointError(f"{out}: cannot be written, {nearest} is no directory to write into")


def _holds_something(out: Path) -> bool:
    return not all(is_leftover(path.name) for path in out.iterdir())


def free_directory(wanted: Path) -> Path:
    """`wanted`, or wanted-2, wanted-3, … if it is taken."""
    number, path = 2, wanted
    while path.exists():
        path, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return path


def store_job(job: LanguageJob) -> None:
    """run.json: what `stored_job` reads, written before there is anything to resume."""
    facts = {
        "preset": job.preset,
        "texts": [os.path.abspath(text) for text in job.texts],
        "plan": asdict(job.plan),
        "part": job.part,
        "fp8": job.fp8,
    }
    make_directory(job.out)
    with atomic_write(job.out / "run.json", "w") as file:
        json.dump(facts, file, indent=1)


def stored_job(
    out: Path,
    preset: str | None,
    texts: Sequence[str],
    changes: dict[str, Any],
    device: str,
    fp8: bool = False,
) -> LanguageJob:
    """The job that began the run in `out`, to be resumed; what is given now comes first.

    A run without run.json has only what is given. CheckpointError for a damaged one, and where FP8
    is asked for in the middle of a run.
    """
    file, stored = out / "run.json", {}
    if os.path.lexists(file):
        stored = read_json(file)
        if not _is_job(stored):
            raise CheckpointError(f"{file}: not what a run wrote")
    if fp8 and stored and stored.get("fp8") is not True:
        raise CheckpointError(f"{out} was begun in float32; go on without FP8, or begin a new run")
    preset = preset or stored.get("preset", "mini")
    try:
        numbers = {**stored.get("plan", {}), **changes}
        if "sequence_length" not in numbers:
            numbers["sequence_length"] = default_length(preset)
        plan = Plan(**numbers)
    except TypeError:
        raise CheckpointError(f"{file}: not what a run wrote") from None
    found, part = list(texts or stored.get("texts", [])), stored.get("part", "language")
    fp8 = fp8 or stored.get("fp8", False)
    return LanguageJob(out, preset, found, plan, device, resume=True, part=part, fp8=fp8)


def _is_job(stored: Any) -> bool:
    """Whether it is what `store_job` writes, as far as it goes."""
    if not isinstance(stored, dict):
        return False
    texts = stored.get("texts", [])
    return (
        isinstance(stored.get("preset", "mini"), str)
        and isinstance(texts, list)
        and all(isinstance(text, str) for text in texts)
        and isinstance(stored.get("plan", {}), dict)
        and stored.get("part", "language") in ("language", "both")
        and isinstance(stored.get("fp8", False), bool)
    )
