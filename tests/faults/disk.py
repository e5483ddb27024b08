"""A process whose disk fails: the calls are counted by shim.c, which is loaded before libc.

A fork is a process of its own; it has imported what its parent has, and done nothing yet, so that
thousands of them are cheap. What it says goes to a file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "shim.c"
_TRACE, _ONCE, _FULL, _GONE, _SHORT, _KILL, _HALF, _INTERRUPT = range(8)
LONGEST = 60  # seconds: a start that does something else than it should may never end
ROOM = {"write", "create", "open", "truncate", "mkdir", "link", "symlink"}  # what a full disk lacks


@dataclass(frozen=True)
class Fault:
    """What happens at a call. calls: which kinds it is tried on, None: all. clean: whether the
    process can still remove what it leaves."""

    name: str
    mode: int
    code: int = 0
    calls: frozenset[str] | None = None
    killed: bool = False
    clean: bool = False

    @property
    def reason(self) -> str:
        """The system's words for it."""
        return os.strerror(self.code)


FAULTS = (
    Fault("ENOSPC", _ONCE, errno.ENOSPC, frozenset(ROOM), clean=True),
    Fault("ENOSPC from there on", _FULL, errno.ENOSPC, frozenset(ROOM), clean=True),
    Fault("EIO", _ONCE, errno.EIO, clean=True),
    Fault("EIO from there on", _GONE, errno.EIO),
    Fault("short write", _SHORT, calls=frozenset({"write"})),
    Fault("SIGKILL", _KILL, killed=True),
    Fault("SIGKILL within a write", _HALF, calls=frozenset({"write"}), killed=True),
    Fault("Ctrl-C", _INTERRUPT, clean=True),
)


@dataclass(frozen=True)
class Call:
    """A call that changed the disk: its kind and path, relative to the root, and what else it has.

    other: the second path of a rename or link, the one that was there before. failed: it changed
    nothing.
    """

    failed: bool
    kind: str
    path: str
    other: str
    offset: int
    data: bytes

    def brief(self) -> str:
        """For a line about it."""
        return f"{self.kind} {self.path}"


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, −9 where it was killed, and what it said."""

    code: int
    said: str


def why_not() -> str | None:
    """Why there is no shim here; None if there can be one."""
    if not sys.platform.startswith("linux"):
        return "system calls are intercepted on Linux only"
    return None if shutil.which("cc") else "there is no C compiler (cc)"


def compiled(folder: Path) -> Path:
    """The library, made in `folder`. RuntimeError, with what the compiler said, if it cannot be."""
    library = folder / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    found = subprocess.run(command, capture_output=True, encoding="utf-8")
    if found.returncode:
        raise RuntimeError(found.stderr)
    return library


def loaded() -> bool:
    """Whether this process has the shim."""
    return hasattr(ctypes.CDLL(None), "faults_arm")


def begin_again(arguments: list[str]) -> None:
    """Replace this process by the same one with the shim."""
    library = compiled(Path(tempfile.mkdtemp()))
    environment = {**os.environ, "LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONWARNINGS", None)  # a Ctrl-C within open() leaves a file unclosed
    os.execve(sys.executable, [sys.executable, "-m", "tests.faults", *arguments], environment)


def forget_library() -> None:
    """The file is mapped and needed no more, and processes that are started need no shim."""
    shutil.rmtree(Path(os.environ.pop("LD_PRELOAD")).parent)


def process(
    work: Callable[[], int], log: Path, root: Path, fault: Fault | None = None, at: int = 0
) -> tuple[Ended, list[Call]]:
    """A process of its own does `work` and exits with what it returns; and its calls below `root`.

    fault: happens at the call numbered `at`, from 1. log: names files for what it says and does.
    """
    said, trace = log.with_suffix(".said"), log.with_suffix(".trace")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.alarm(LONGEST)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            words, calls = os.open(said, flags), os.open(trace, flags)
            os.dup2(words, 1)
            os.dup2(words, 2)
            mode, error = (fault.mode, fault.code) if fault else (_TRACE, 0)
            ctypes.CDLL(None).faults_arm(str(root).encode(), ctypes.c_long(at), mode, error, calls)
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(code, said.read_text("utf-8", "replace")), parse(trace.read_bytes(), root)


def parse(data: bytes, root: Path) -> list[Call]:
    """The records of a trace."""
    calls, start = [], 0
    while start < len(data):
        *fields, _ = (parts := data[start:].split(b"\0", 5))
        kind, path, other, offset, length = fields
        start += sum(map(len, fields)) + 6
        size = int(length)
        names = (os.path.relpath(os.fsdecode(name), root) if name else "" for name in (path, other))
        word = kind.decode()
        failed, word = word.startswith("-"), word.removeprefix("-")
        calls.append(Call(failed, word, *names, int(offset), data[start : start + size]))
        start += size
        assert len(parts) == 6
    return calls
