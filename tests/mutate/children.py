"""Work in forked children: NumPy, hypothesis and pytest are imported already, our package is not.

A child inherits the warm interpreter, so that a mutant's tests begin at once, and cannot leave
anything behind: neither a module nor a full memory nor an endless loop. Its answer comes back in a
file, its output goes to one that is removed. Limits are in CPU seconds, since a machine may be
busy: the kernel ends a child at the end of its allowance (`allow`). Only a child that does nothing
at all, one that waits for a lock that nobody releases, is ended by the clock.
"""

import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time  # tests put clocks of their own in its place
from typing import Any, TypeVar

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
WARM = ("numpy", "ml_dtypes", "hypothesis", "hypothesis.strategies", "pytest", "_pytest.doctest",
        "markdown_it", "pygments", "jinja2", "safetensors", "email", "http.client", "html",
        "unittest.mock", "concurrent.futures")  # fmt: skip
MEMORY = 3 << 30  # bytes that a child may address
IDLE = 60  # seconds between two looks at whether a child computes at all

Job = TypeVar("Job")


@dataclass(frozen=True)
class Answer:
    """What a child said, or None and by what signal it was ended; its CPU seconds; its output."""

    value: Any
    signal: int
    cpu: float
    output: str


def warm_up() -> None:
    """Import what every child needs, with BLAS on one thread, and nothing of the project."""
    for name in THREADS:
        os.environ[name] = "1"
    for name in WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def each(
    jobs: Iterable[Job], work: Callable[[Job, Path], Any], folder: Path, root: Path, processes: int
) -> Iterator[tuple[Job, Answer]]:
    """(job, Answer) for every job as it ends, `processes` at a time; work(job, scratch folder).

    A child runs in `root` and imports from there; what it returns is sent back as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running: dict[int, tuple[Job, Path]] = {}
    waiting = iter(jobs)
    number = 0
    try:
        while True:
            while len(running) < processes and (job := next(waiting, None)) is not None:
                scratch = folder / f"child-{os.getpid()}-{number}"
                number += 1
                running[_start(job, work, scratch, root)] = job, scratch
            if not running:
                return
            pid, status, usage = os.wait4(-1, 0)
            if pid in running:
                job, scratch = running.pop(pid)
                yield job, _answer(scratch, status, usage)
    finally:
        for pid, (_, scratch) in running.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            shutil.rmtree(scratch, ignore_errors=True)


def _start(job: Job, work: Callable[[Job, Path], Any], scratch: Path, root: Path) -> int:
    scratch.mkdir()
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        output = os.open(scratch / "output", os.O_CREAT | os.O_WRONLY)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.chdir(root)
        sys.path.insert(0, str(root))
        sys.pycache_prefix = str(scratch.parent / "pycache")
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
        _watch_for_idleness()
        value = work(job, scratch)
        (scratch / "answer").write_text(json.dumps(value), "utf-8")
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _answer(scratch: Path, status: int, usage: Any) -> Answer:
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    value = None
    if not killed and (scratch / "answer").exists():
        value = json.loads((scratch / "answer").read_text("utf-8"))
    output = (scratch / "output").read_text("utf-8", errors="replace")[-4000:]
    shutil.rmtree(scratch, ignore_errors=True)
    return Answer(value, killed, usage.ru_utime + usage.ru_stime, output)


def allow(seconds: float) -> None:
    """The CPU seconds after which the kernel ends this process; 0 for no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _watch_for_idleness() -> None:
    """End this process once it computed nothing in two intervals; a stop counts for one at most."""
    seen = [process_time(), 0.0]

    def look(*_: Any) -> None:
        now = process_time()
        seen[:] = now, seen[1] + 1 if now - seen[0] < 0.05 else 0
        if seen[1] > 1:
            os.kill(os.getpid(), signal.SIGKILL)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, IDLE, IDLE)
