"""What a process that was killed, or a disk, left behind: found, put right, or set aside."""

import itertools
import os
from pathlib import Path

from minideepseek.errors import CheckpointError
from minideepseek.model.files import LEFTOVER, recover_directory, sync


def is_leftover(name: str) -> bool:
    """Whether a file of this name is what an unfinished save left, or is making now."""
    return LEFTOVER.fullmatch(name) is not None


def clear_leftovers(folder: str | os.PathLike) -> list[str]:
    """`recover_directory` for everything in a folder; its notices."""
    try:
        matches = [LEFTOVER.fullmatch(name) for name in os.listdir(folder)]
    except OSError:
        return []
    names = sorted({match["name"] for match in matches if match})
    notices = [recover_directory(Path(folder, name)) for name in names]
    return [notice for notice in notices if notice]


def set_aside(path: Path) -> Path:
    """Rename what is damaged to damaged-…, with a number where that is taken; the new name.

    Raises CheckpointError where the system refuses.
    """
    name = path.name.removeprefix(".")
    for number in itertools.count(1):
        aside = path.with_name(f"damaged-{number}-{name}" if number > 1 else f"damaged-{name}")
        if not os.path.lexists(aside):
            break
    try:
        os.rename(path, aside)
    except OSError as error:
        raise CheckpointError(f"cannot set {path} aside: {error.strerror}") from error
    sync(path.parent)
    return aside
