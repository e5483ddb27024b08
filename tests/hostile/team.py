"""Processes that work off cases; one that dies (a crash, killed for memory) is a violation."""

import multiprocessing
import os
import resource
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.hostile.guard import Watch
from tests.hostile.readers import reader_of
from tests.hostile.run import Bench, Tally, run_cases

MEMORY = 3 << 30  # bytes of address space a process may have: far above what any small file needs
Span = tuple[int, int]  # the first case, and the one after the last


def work(pipe: Connection, root: Path, seed: int, only: str | None) -> None:
    """A process: takes (first, last), says each number before its case, gives back a Tally."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    bench = Bench(root, Watch())
    current = os.open(root / "current", os.O_WRONLY | os.O_CREAT)
    try:
        while (span := pipe.recv()) is not None:
            tally = run_cases(bench, seed, range(*span), only,
                              lambda n: os.pwrite(current, n.to_bytes(8), 0) and None)  # fmt: skip
            pipe.send((tally, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10))
    except (KeyboardInterrupt, EOFError):
        pass


class Team:
    """Processes that work off spans of cases; one that dies is a violation, and replaced."""

    def __init__(self, root: Path, seed: int, only: str | None, size: int) -> None:
        self.root, self.seed, self.only = root, seed, only
        self.context = multiprocessing.get_context("spawn")
        self.members: dict[Connection, tuple[BaseProcess, Path, Span | None]] = {}
        self.largest = self.started = 0
        for _ in range(size):
            self.start()

    def start(self) -> None:
        """One more process."""
        self.started += 1
        root = self.root / str(self.started)
        root.mkdir()
        here, there = self.context.Pipe()
        arguments = (there, root, self.seed, self.only)
        process = self.context.Process(target=work, args=arguments, daemon=True)
        process.start()
        there.close()
        self.members[here] = process, root, None

    def run(self, spans: Iterator[Span]) -> Iterator[tuple[Span, Tally]]:
        """(span, tally) as they come in."""
        for pipe in list(self.members):
            self.give(pipe, next(spans, None))
        while busy := [pipe for pipe, (_, _, span) in self.members.items() if span]:
            for pipe in wait(busy):
                process, root, span = self.members[pipe]
                try:
                    tally, memory = pipe.recv()
                    self.largest = max(self.largest, memory)
                    self.give(pipe, next(spans, None))
                except (EOFError, ConnectionResetError):
                    process.join()
                    if not (root / "current").exists():
                        raise RuntimeError("a process ended before its first case") from None
                    number = int.from_bytes((root / "current").read_bytes())
                    name = self.only or reader_of(number).name
                    what = f"the process died with code {process.exitcode}"
                    tally = Tally(violations=[(name, number, what)])
                    del self.members[pipe]
                    self.start()
                    rest = (number + 1, span[1]) if number + 1 < span[1] else next(spans, None)
                    self.give(list(self.members)[-1], rest)
                yield span, tally

    def give(self, pipe: Connection, span: Span | None) -> None:
        """Tell a process what to do next."""
        process, root, _ = self.members[pipe]
        self.members[pipe] = process, root, span
        pipe.send(span)
