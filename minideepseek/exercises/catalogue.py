"""The exercises in their order, and the learner's part of each.

An exercise NAME is the file problems/NAME.py, which defines a function NAME with one hole and below
the line CUT an `EXERCISE`. The first line of the file is its heading:

    Softmax  ★★  10 minutes
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from minideepseek.errors import InputError
from minideepseek.exercises.exercise import Exercise

CUT = re.compile(r"^# -+ not copied\n", re.MULTILINE)
HOLE = re.compile(r"^( *)raise NotImplementedError\(.*\n", re.MULTILINE)
_HEADING = re.compile(r'r?"""(?P<title>\S.*\S)  (?P<stars>★{1,3})  (?P<minutes>\d+) minutes\n')

CHAPTERS: dict[str, tuple[str, ...]] = {
    "0 · The engine": (
        "add", "multiply", "unbroadcast", "exp", "tanh", "sum", "transpose", "matmul", "softmax",
        "log_softmax", "softmax_cross_entropy", "rms_norm", "swiglu", "embedding", "backward",
        "checkpoint",
    ),
    "1 · Attention": ("rope",),
}  # fmt: skip


@dataclass(frozen=True)
class Heading:
    """The first line of an exercise: what it is, how difficult, and about how long it takes."""

    title: str
    stars: str
    minutes: int


def names() -> Iterator[str]:
    """All exercises, in order."""
    for chapter in CHAPTERS.values():
        yield from chapter


def named(text: str) -> str:
    """The exercise that a user means: its name, or its file. InputError suggests the nearest."""
    name = re.split(r"[/\\]", text)[-1].removesuffix(".py")
    if name in names():
        return name
    near = difflib.get_close_matches(name, names(), 1)
    meant = f"did you mean {near[0]}?" if near else "see: minideepseek exercises list"
    raise InputError(f"there is no exercise {text!r}; {meant}")


def source(name: str) -> str:
    """The whole file of an exercise."""
    return (files("minideepseek.exercises") / "problems" / f"{name}.py").read_text("utf-8")


def skeleton(name: str) -> str:
    """What a learner gets: the file up to the line CUT."""
    return CUT.split(source(name))[0].rstrip() + "\n"


def heading(name: str) -> Heading:
    """The first line of an exercise's file, read without importing it."""
    found = _HEADING.match(source(name))
    assert found, f"problems/{name}.py begins with no heading"
    return Heading(found["title"], found["stars"], int(found["minutes"]))


def exercise(name: str) -> Exercise:
    """What the checker knows of an exercise. Imports it, and what of the library it needs."""
    return importlib.import_module(f"minideepseek.exercises.problems.{name}").EXERCISE
