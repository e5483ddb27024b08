"""What an entry is, and how the figures in it are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.replay.bands import ROOT, Band
from tests.replay.templates import Number, every, first, number, only

README = "README.md"
Then = Callable[[list[float]], list[float]]


class Reading(NamedTuple):
    """Words in what a command prints, and what becomes of the numbers between them.

    all_places: wherever they stand, not only where first.
    """

    words: str
    then: Then = list
    all_places: bool = False

    def values(self, output: str) -> list[float]:
        """Raises Missing."""
        look = every if self.all_places else first
        return self.then([found.value for found in look(self.words, output)])


@dataclass(frozen=True)
class Entry:
    """Figures that stand together.

    says: the words in the file; `{}` are the figures. command: a key of COMMANDS. prints: words, or
    Readings, that give as many numbers in the same order. bands: of each figure, or one of all.
    """

    name: str
    says: str
    command: str
    prints: tuple[str | Reading, ...]
    bands: Band | tuple[Band, ...]
    where: str = README

    def stated(self) -> list[Number]:
        """The figures as they stand in the file; raises Missing."""
        text = (ROOT / self.where).read_text("utf-8")
        return [number(group) for group in only(self.says, text).groups()]

    def printed(self, output: str) -> list[float]:
        """The figures in what the command printed; raises Missing."""
        readings = (p if isinstance(p, Reading) else Reading(p) for p in self.prints)
        return [value for reading in readings for value in reading.values(output)]

    def band(self, i: int) -> Band:
        return self.bands if isinstance(self.bands, Band) else self.bands[i]

    def judged(self, output: str) -> Iterator[tuple[Number, float, Band, bool]]:
        """(stated, replayed, band, whether it is within) of every figure; raises Missing."""
        stated, printed = self.stated(), self.printed(output)
        for i, (one, other) in enumerate(zip(stated, printed, strict=True)):
            yield one, other, self.band(i), self.band(i).allows(one, other)


@dataclass(frozen=True)
class Kept:
    """Figures that no command here prints again, with the reason."""

    name: str
    says: str
    reason: str
    where: str = README


def ends(values: list[float]) -> list[float]:
    """The least and the largest."""
    return [min(values), max(values)]


def total(values: list[float]) -> list[float]:
    return [sum(values)]


def below_zero(values: list[float]) -> list[float]:
    """How many are."""
    return [float(sum(value < 0 for value in values))]


def inverse(values: list[float]) -> list[float]:
    return [1 / value for value in values]
