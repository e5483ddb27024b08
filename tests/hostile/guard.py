"""What a reader may do while it reads: open paths below its folder, and end; a watch over both."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 10  # a reader of a small file that takes longer hangs

# What is opened besides, and not by a name in any file: the machine's memory, the package's own
# files (skeletons of exercises, modules imported late), Python's.
_SYSTEM = ("/sys/fs/cgroup/", "/dev/null")
_PYTHON = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__))
_OWN = tuple(os.path.realpath(path) + os.sep for path in (Path(__file__).parents[2], *_PYTHON))
_EVENTS = ("open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.mkdir", "os.rmdir",
           "os.link", "os.symlink", "os.chmod", "os.truncate", "shutil.rmtree")  # fmt: skip


class Hang(BaseException):
    """A reader did not end."""


class Watch:
    """The paths that were opened (or renamed, listed, removed) while it looked, as strings.

    An audit hook cannot be removed from a process: there is one, which does nothing between two
    looks.
    """

    def __init__(self) -> None:
        self.seen: list[str] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is not None and event in _EVENTS:
            for path in arguments[:2]:
                if isinstance(path, (str, bytes)) and (event != "open" or path is arguments[0]):
                    self.seen.append(os.fsdecode(path))

    @contextmanager
    def looking(self) -> Iterator[list[str]]:
        """Paths that are opened inside."""
        self.seen = found = []
        try:
            yield found
        finally:
            self.seen = None


def outside(paths: list[str], folder: Path) -> list[str]:
    """Those that neither lie in the folder nor are the system's or the package's own.

    `recover_directory` looks for what a killed save of this very folder left: it locks the parent,
    lists its names and touches siblings that are called .FOLDER.….tmp or .FOLDER.….old.
    """
    parent = str(folder.parent)
    sibling = os.path.join(parent, f".{folder.name}.")
    inside = (str(folder) + os.sep, sibling)
    found = []
    for path in set(paths):
        full = os.path.abspath(path)
        if full in (parent, str(folder)) or full.startswith(inside) or full.startswith(_SYSTEM):
            continue
        if not os.path.realpath(full).startswith(_OWN):
            found.append(path)
    return found


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Hang if the block takes longer, waiting for a pipe included.

    The first ring only winds the clock again: a process that was stopped for a while (SIGSTOP) is
    told that time is up as soon as it goes on.
    """
    rings = 0

    def ring(number: int, frame: Any) -> None:
        nonlocal rings
        rings += 1
        if rings == 2:
            raise Hang(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds / 2, seconds / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
