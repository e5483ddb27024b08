"""What an exercise consists of, and one line of a report on it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OK, WRONG, OPEN = "ok", "wrong", "not attempted"


@dataclass(frozen=True)
class Line:
    """What was judged ("dx", "broadcasting"), its verdict (OK, WRONG, OPEN), and why."""

    name: str
    verdict: str
    text: str = ""


@dataclass(frozen=True)
class Mistake:
    """code for the hole that is wrong, and the line that must say so.

    code: what replaces the statement `raise NotImplementedError(…)`, several lines if need be.
    name: that of the first line that is WRONG; says: what its text contains.
    """

    code: str
    name: str
    says: str


@dataclass(frozen=True)
class Exercise:
    """One exercise: how it is checked, by what, and with which help.

    solutions: the library's definitions, functions or classes; the first passes in the learner's
    place. A primitive may be given as it is lifted to Tensors.
    checker: (the learner's function, the library's) → Lines, made by `gradients` or `properties`.
    hints: the idea, the identity, the first line.
    """

    solutions: tuple[Callable, ...]
    checker: Callable[[Callable, Callable], list[Line]]
    hints: tuple[str, str, str]
    mistakes: tuple[Mistake, ...]

    @property
    def reference(self) -> Callable[..., Any]:
        """The library's definition; of a primitive, the function over arrays."""
        return inspect.unwrap(self.solutions[0])

    def check(self, function: Callable) -> list[Line]:
        """Judge a function in the learner's place. Its own errors are not caught."""
        return self.checker(function, self.reference)


def solved(lines: list[Line]) -> bool:
    """Whether there is nothing left to do."""
    return all(line.verdict == OK for line in lines)
