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


@dataclass(frozen=True)
class Heading:
    """The first line of an exercise: what it is, how difficult, and about how long it takes."""

    title: str
    stars: str
    minutes: int


@dataclass(frozen=True)
class Catalogue:
    """A package of exercises, one file each, in chapters.

    noun, verb: what one of them is called, and the verb of the command line that they belong to.
    """

    package: str
    noun: str
    verb: str
    chapters: dict[str, tuple[str, ...]]

    def names(self) -> Iterator[str]:
        """All of them, in order."""
        for members in self.chapters.values():
            yield from members

    def named(self, text: str) -> str:
        """The one that a user means: its name, or its file. InputError suggests the nearest."""
        name = re.split(r"[/\\]", text)[-1].removesuffix(".py")
        if name in self.names():
            return name
        near = difflib.get_close_matches(name, self.names(), 1)
        meant = f"did you mean {near[0]}?" if near else f"see: minideepseek {self.verb} list"
        raise InputError(f"there is no {self.noun} {text!r}; {meant}")

    def source(self, name: str) -> str:
        """The whole file."""
        return (files(self.package) / f"{name}.py").read_text("utf-8")

    def skeleton(self, name: str) -> str:
        """What a learner gets: the file up to the line CUT."""
        return CUT.split(self.source(name))[0].rstrip() + "\n"

    def heading(self, name: str) -> Heading:
        """The file's first line, read without importing it."""
        found = _HEADING.match(self.source(name))
        assert found, f"{name}.py begins with no heading"
        return Heading(found["title"], found["stars"], int(found["minutes"]))

    def load(self, name: str) -> Exercise:
        """What the checker knows of it. Imports the file, and what of the library it needs."""
        return importlib.import_module(f"{self.package}.{name}").EXERCISE


CHAPTERS: dict[str, tuple[str, ...]] = {
    "0 · The engine": (
        "add", "multiply", "unbroadcast", "exp", "tanh", "sum", "transpose", "matmul", "softmax",
        "log_softmax", "softmax_cross_entropy", "rms_norm", "swiglu", "embedding", "backward",
        "checkpoint",
    ),
    "1 · Attention": ("rope", "attention", "causal_mask", "gqa"),
    "2 · Latent attention": ("absorb", "latent_cache"),
    "3 · Mixture of experts": (
        "gate_weights", "dispatch", "combine", "update_bias",
    ),
    "4 · Two tokens ahead, and eight bits": (
        "mtp_shift", "ceil_power_of_two", "straight_through",
    ),
    "Training": ("decontaminate",),
    "5 · Reasoning": ("sequence_logprobs",),
    "6 · GRPO": ("group_advantages", "clipped_objective", "k3", "loss_aggregation"),
}  # fmt: skip

EXERCISES = Catalogue("minideepseek.exercises.problems", "exercise", "exercises", CHAPTERS)
