r"""How far long work has come: a bar on a terminal, a plain line every few seconds elsewhere.

    with Progress(355, "pretrain") as progress:
        for step in range(1, 356):
            …
            progress.update(step, loss=loss, **{"tokens/s": rate})

The bar needs rich (the `demos` extra) and a terminal; a log file gets lines that can be read and
searched. Time left is (steps left) · (seconds so far) / (steps done by this process): a resumed
run passes the step it `start`s from, whose time it did not spend.
"""

import importlib.util
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from minideepseek.errors import InputError


class Progress:
    """A context manager; `update(step, **fields)` after each step, fields are numbers or words.

    Lines go to `stream` (standard error) at most every `every` seconds, the last step always.
    Raises InputError if `start` and `total` do not satisfy 0 ≤ start ≤ total.
    """

    def __init__(
        self,
        total: int,
        description: str,
        start: int = 0,
        stream: TextIO | None = None,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        if not 0 <= start <= total:
            raise InputError(f"start: got {start} of {total}, expected 0 ≤ start ≤ total")
        self.total, self.description, self.start = total, description, start
        self._stream = sys.stderr if stream is None else stream
        self._every, self._clock = every, clock
        self._step, self._fields = start, ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        self._began = self._printed = self._clock()
        self._shown = self.start
        if self._stream.isatty() and importlib.util.find_spec("rich") is not None:
            self._start_bar()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._step != self._shown:
            self._print()

    def update(self, step: int, **fields: float | str) -> None:
        """`step` of `total` steps are done."""
        self._step = step
        self._fields = "  ".join(f"{name} {_text(value)}" for name, value in fields.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=step, fields=self._fields)
        elif self._clock() - self._printed >= self._every:
            self._print()

    def _print(self) -> None:
        self._printed, self._shown = self._clock(), self._step
        share = 100 * self._step // self.total if self.total else 100
        parts = [f"{self.description} {self._step}/{self.total} ({share} %)", self._fields]
        elapsed, done = self._printed - self._began, self._step - self.start
        if self._step < self.total and done > 0:
            parts.append(f"{duration((self.total - self._step) * elapsed / done)} left")
        else:
            parts.append(f"{duration(elapsed)} in all")
        print("  ".join(part for part in parts if part), file=self._stream, flush=True)

    def _start_bar(self) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[fields]}", markup=False),
            progress.TimeRemainingColumn(),
            console=Console(file=self._stream),
            expand=True,
        )
        self._task = self._bar.add_task(
            self.description, total=self.total, completed=self.start, fields=""
        )
        self._bar.start()


def duration(seconds: float) -> str:
    """0:07, 2:10, 1:02:10."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """`text` fit for a terminal: control characters, which could command it, become �.

    A model that has learned nothing writes any byte, the ones that clear screens among them.
    """
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
