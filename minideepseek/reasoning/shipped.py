"""The cold-started `reason` model that comes with the package, so that chapter 6 starts at once.

    python -m minideepseek.reasoning.shipped runs/journey/reasoning

makes it from a run: the newest checkpoint of its cold start, stored in bfloat16 (half the bytes;
the training that made it was in float32), with the words of its task.
"""

from __future__ import annotations

import sys
from pathlib import Path

from minideepseek.errors import CheckpointError, MiniDeepSeekError
from minideepseek.model.checkpoint import OWNED, from_pretrained, write_model
from minideepseek.model.files import atomic_directory
from minideepseek.model.tokenizer import load_tokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.rundir import list_checkpoints, read_state

DIRECTORY = Path(__file__).parent / "cold_started"


def cold_started() -> DeepSeekV3:
    """The model, in float32. CheckpointError for an installation without it."""
    if not DIRECTORY.is_dir():
        raise CheckpointError(f"{DIRECTORY}: the shipped model is missing; install again")
    return from_pretrained(DIRECTORY)


def make(run: str, target: Path = DIRECTORY) -> None:
    """Write `target` from the cold start of a run's reasoning part, whole or not at all.

    CheckpointError for a run without one or with one that is not complete.
    """
    found = list_checkpoints(Path(run) / "cold-start")
    if not found:
        raise CheckpointError(f"{run}: holds no cold-start/checkpoints")
    state = read_state(found[-1] / "trainer.json")
    if state["step"] != state["plan"].get("steps"):
        raise CheckpointError(f"{found[-1]}: its cold start is not complete")
    model, words = from_pretrained(found[-1]), load_tokenizer(found[-1])
    with atomic_directory(target, OWNED) as folder:
        write_model(model, folder, "bfloat16")
        words.write(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("which run? runs/journey/reasoning, say")
    try:
        make(sys.argv[1])
    except MiniDeepSeekError as error:
        sys.exit(str(error))
