"""How far apart a stated and a replayed number may be, and why."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tests.replay.templates import Number

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Band:
    """relative, absolute: what is allowed; both None: not judged. why: where it comes from.

    repeats: on the README's machine and versions the digits that are stated come again, and the
    allowance is for other machines.
    """

    why: str
    relative: float | None = None
    absolute: float | None = None
    repeats: bool = False

    def allows(self, stated: Number, replayed: float) -> bool:
        if self.relative is None and self.absolute is None:
            return True
        room = stated.half * (1 + 1e-6) + 1e-12
        if not (self.repeats and as_measured()):
            room += self.absolute or 0.0
            room += (self.relative or 0.0) * abs(stated.value)
        return abs(replayed - stated.value) <= room

    def __str__(self) -> str:
        if self.relative is None and self.absolute is None:
            return "shown"
        if self.repeats and as_measured() or not (self.relative or self.absolute):
            return "same digits"
        return f"± {self.absolute:g}" if self.absolute else f"± {100 * (self.relative or 0):g} %"


EXACT = Band("counts and sums of shapes: the same everywhere", absolute=0.0)
CLOCK = Band("machine-bound: seconds are shown and not judged")
RATIO = Band("machine-bound: a ratio of two times, taken in turns", relative=0.3)


def trained(absolute: float) -> Band:
    """A number of a training run: bit for bit again on one machine, elsewhere another rounding."""
    return Band("a run repeats bit for bit on one machine", absolute=absolute, repeats=True)


def text_of_python(relative: float) -> Band:
    """A number of the standard library's docstrings, which differ between Python releases."""
    return Band("the text differs between Pythons", relative=relative, repeats=True)


@cache
def as_measured() -> bool:
    """Whether this is the processor and these are the versions that the README's figures are of."""
    text = (ROOT / "README.md").read_text("utf-8")
    versions = re.search(r"(AMD \w+) virtual machine, (\w+), Python ([\d.]+), NumPy ([\d.]+)", text)
    assert versions, "README: processor, system, Python and NumPy of the measurements"
    here = (_processor(), platform.system(), platform.python_version(), np.__version__)
    cpu, *others = versions.groups()
    return cpu in here[0] and tuple(others) == here[1:]


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text("utf-8") if file.exists() else platform.processor()
