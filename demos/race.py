"""Two sides of a comparison, each in a process of its own, in turns.

A process of its own gives each side its own threads, its own allocator and its own peak of memory;
taking turns makes a busy machine slow both. Used by `demos.benchmark` and `demos.against_autograd`.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def blas_threads(count: int) -> None:
    """The threads of BLAS, for NumPy and for processes that start after this call."""
    os.environ.update(dict.fromkeys(BLAS, str(count)))


def serve(link: Any, kind: type, arguments: tuple) -> None:
    """A side's process: (method, arguments) → (seconds, what it returned), until the link ends."""
    side = kind(*arguments)
    link.send(None)
    try:
        while True:
            method, *rest = link.recv()
            began = time.perf_counter()
            said = getattr(side, method)(*rest)
            link.send((time.perf_counter() - began, said))
    except EOFError:  # the race is over
        return


class Side:
    """kind(*arguments) in its own process, whose BLAS has so many threads.

    kind: a class of a module, with a `name`.
    """

    def __init__(self, kind: Any, arguments: tuple, blas: int = 1) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.name, (self.link, other) = kind.name, spawn.Pipe()
        blas_threads(blas)
        process = spawn.Process(target=serve, args=(other, kind, arguments), daemon=True)
        process.start()
        blas_threads(1)
        other.close()
        self.link.recv()

    def call(self, *call: Any) -> tuple[float, Any]:
        """(seconds, result) of a method and its arguments."""
        self.link.send(call)
        return self.link.recv()


def race(calls: list[tuple], repeats: int) -> list[float]:
    """Median seconds of each (side, method, …); they take turns. The first round only warms up."""
    times: list[list[float]] = [[] for _ in calls]
    for i in range(repeats + 1):
        for (side, *call), kept in zip(calls, times, strict=True):
            seconds, _ = side.call(*call)
            if i:
                kept.append(seconds)
    return [statistics.median(kept) for kept in times]


def held_bytes() -> int:
    """Memory that this process has written to, without files and libraries (Linux), or 0."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most that `held_bytes` says while work() runs, looked at every millisecond."""
    most, done = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, held_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return most
