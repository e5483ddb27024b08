"""The cold-started `reason` model that comes with the package, so that chapter 6 starts at once.

    python -m minideepseek.reasoning.shipped runs/journey/reasoning

makes it from a run: the newest checkpoint of its cold start, stored in bfloat16 (half the bytes;
the training that made it was in float32), with the words of its task.
"""

from __future__ import annotations

import sys
from pathlib import Path

from minideepseek.errors import CheckpointError
from minideepseek.model.checkpoint import from_pretrained, save_pretrained
from minideepseek.model.tokenizer import load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.rundir import list_checkpoints

DIRECTORY = Path(__file__).parent / "cold_started"


def cold_started() -> DeepSeekV3:
    """The model, in float32. CheckpointError for an installation without it."""
    if not DIRECTORY.is_dir():
        raise CheckpointError(f"{DIRECTORY}: the shipped model is missing; install again")
    return from_pretrained(DIRECTORY)


def make(run: str, target: Path = DIRECTORY) -> None:
    """Write `target` from the cold start of a run's reasoning part. CheckpointError if none."""
    found = list_checkpoints(Path(run) / "cold-start")
    if not found:
        raise CheckpointError(f"{run}: holds no cold-start/checkpoints")
    model, words = from_pretrained(found[-1]), load_tokenizer(found[-1])
    save_pretrained(model, target, dtype="bfloat16")
    words.save_pretrained(target)


if __name__ == "__main__":
    make(sys.argv[1])
