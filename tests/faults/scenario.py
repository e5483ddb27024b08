"""A scenario: an old state, an act that is interrupted, a next start.

`old` makes the state below a root, `act` does what is interrupted; both are given the root. `look`
is what comes first afterwards: a reader. `again` is the next start, by default the act once more.
`view` is what is compared: all files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minideepseek.model.leftovers import is_leftover
from tests.faults.disk import Call

View = dict[str, bytes]


def files(root: Path) -> View:
    """Everything below the root that is not a leftover: path → bytes."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not any(map(is_leftover, name.parts)):
            found[str(name)] = path.read_bytes()
    return found


def leftovers(root: Path) -> list[str]:
    """What unfinished saves left below the root."""
    return [str(path.relative_to(root)) for path in root.rglob("*") if is_leftover(path.name)]


def nothing(root: Path) -> None:
    """No old state; or nobody reads."""


def old_or_new(found: Any, old: Any, new: Any) -> bool:
    """All at once."""
    return found in (old, new)


def each_old_or_new(found: View, old: View, new: View) -> bool:
    """File by file: what is written one after the other, and finished by the next start."""
    return all(found.get(name) in (old.get(name), new.get(name)) for name in {*found, *old, *new})


@dataclass(frozen=True)
class Scenario:
    """See above.

    allowed: whether what is found is the old state or the new one. lasting: whether the new state
    outlives a power cut once the act is over. timeless: of a run, what of a file does not depend
    on the clock; what is found is then files as they were at some time, none of another. told:
    what the next start says of what it finds, each one of some words between |. promised: what a
    power cut took that calls had promised. stride: every so many-th call of a long one is enough.
    often: the act with a checkpoint after each step, as a Ctrl-C may leave one. settled: what of
    the end is the same, whatever came before: an extra checkpoint may be the last but one.
    """

    name: str
    old: Callable[[Path], object]
    act: Callable[[Path], object]
    look: Callable[[Path], object] = nothing
    again: Callable[[Path], object] | None = None
    view: Callable[[Path], Any] = files
    allowed: Callable[[Any, Any, Any], bool] = old_or_new
    lasting: bool = True
    timeless: Callable[[str, bytes], bytes] | None = None
    told: Callable[[Path], list[str]] = lambda root: []
    promised: Callable[[list[Call], Path], str | None] | None = None
    stride: int = 1
    often: Callable[[Path], object] | None = None
    settled: Callable[[Any], Any] = lambda view: view
