"""Every fault at every call of a scenario, what is found afterwards, and what the next start says.

After each fault, in processes of their own: a reader looks, then the next start is made. Wanted is

    a state     that is the old one or the new one, after the reader and after the next start
    an end      killed where it was killed; else exit code 0 with the new state, or 2 with one
                sentence and no traceback; 130 after a Ctrl-C
    a next start    that exits with 0, comes to the new state, leaves no leftover, and says what it
                    put right where a leftover was there

and after a power cut (power.py) the same, with the new state there once the act was over.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minideepseek.cli.machine import complain
from minideepseek.cli.notices import plain_warnings
from minideepseek.errors import MiniDeepSeekError
from minideepseek.model.leftovers import is_leftover
from tests.faults import power
from tests.faults.disk import FAULTS, Call, Ended, Fault, process
from tests.faults.scenario import Scenario, leftovers, nothing

Act = Callable[[Path], object]
PUT_RIGHT = ("a process ended while it wrote this", "a save was cut short")
ASIDE = "is set aside as"
REMOVING = ("unlink", "rmdir")  # where one of these fails, something stays


@dataclass
class Result:
    """A scenario's row of the table."""

    name: str
    calls: int
    tried: int = 0
    old: int = 0
    new: int = 0
    between: int = 0
    violations: list[str] = field(default_factory=list)


def command(act: Act, root: Path) -> Callable[[], int]:
    """The act as the command line does it: errors and warnings are sentences, exit codes."""

    def work() -> int:
        os.chdir(root.parent)
        try:
            with plain_warnings():
                return int(act(root) or 0)  # type: ignore[call-overload]
        except MiniDeepSeekError as error:
            return complain(str(error), 2)
        except KeyboardInterrupt:
            return complain("interrupted", 130)

    return work


class Bench:
    """A place for one scenario: its old state, its new state, and the root where it is tried.

    goals: what the next start comes to from the old state and from the new one.
    """

    def __init__(self, scenario: Scenario, place: Path) -> None:
        self.scenario, self.place = scenario, place
        self.root, self.before, self.log = place / "disk", place / "before", place / "log"
        self.again = scenario.again or scenario.act
        self.root.mkdir()
        self._whole(scenario.old)
        shutil.copytree(self.root, self.before, symlinks=True)
        self.old = self.state()
        self._whole(self.again)
        goal = self.state()
        self.reset()
        self.calls = self._whole(scenario.act)
        self.new = self.state()
        every = set(range(1, len(self.calls) + 1))
        self.tried = telling(self.calls) if scenario.timeless else every
        self._whole(self.again)
        self.goals, self.ever = [goal, self.state()], None
        if scenario.timeless is not None:
            self.reset()
            often = self._whole(scenario.often or scenario.act)
            versions = power.versions(self.calls, self.before) | power.versions(often, self.before)
            ever = {(name, scenario.timeless(name, data)) for name, data in versions}
            self.ever = ever | set(self.old.items()) | set(self.new.items())

    def _whole(self, act: Act) -> list[Call]:
        ended, calls = process(command(act, self.root), self.log, self.root)
        if ended.code or leftovers(self.root):
            raise AssertionError(f"{self.scenario.name}, without a fault: {ended}")
        return calls

    def state(self) -> Any:
        """What is there; why it cannot be read."""
        try:
            return self.scenario.view(self.root)
        except (MiniDeepSeekError, OSError) as error:
            return f"unreadable: {error}"

    def allows(self, found: Any) -> bool:
        """Whether a state is the old one or the new one, or of a run some of what it ever had."""
        if self.ever is not None and isinstance(found, dict):
            return found.items() <= self.ever
        return self.scenario.allowed(found, self.old, self.new)

    def arrived(self, ended: Any, goals: list) -> bool:
        """Whether a next start came to one of these ends."""
        if not isinstance(ended, dict) or not self.allows(ended):
            return ended in goals
        return self.scenario.settled(ended) in map(self.scenario.settled, goals)

    def reset(self, empty: bool = False) -> None:
        """The root as it was before the act, or with nothing in it."""
        shutil.rmtree(self.root)
        if empty:
            self.root.mkdir()
        else:
            shutil.copytree(self.before, self.root, symlinks=True)

    def run(self, act: Act, *fault: Any) -> Ended:
        """How a process ended that did this."""
        return process(command(act, self.root), self.log, self.root, *fault)[0]


def afterwards(bench: Bench, result: Result, where: str) -> Any:
    """A reader and the next start, and what is wrong with them; the state that was found."""
    litter, looked = leftovers(bench.root), Ended(0, "")
    wanted = bench.scenario.told(bench.root) + restored(bench.root, litter)
    if bench.scenario.look is not nothing:
        looked = bench.run(bench.scenario.look)
    found = bench.state()
    kind = "old" if found == bench.old else "new" if found == bench.new else "between"
    setattr(result, kind, getattr(result, kind) + 1)
    started = bench.run(bench.again)
    said, ended = looked.said + started.said, bench.state()
    goals = {"old": bench.goals[:1], "new": bench.goals[1:]}.get(kind, bench.goals)
    wrong = {
        f"neither the old state nor the new one, from the new: {differing(found, bench.new)}":
            kind == "between" and not bench.allows(found),
        f"a reader ended with {looked.code}: {looked.said}": looked.code,
        f"the next start ended with {started.code}: {started.said}": started.code,
        f"the next start came to, from the goal: {differing(ended, goals[-1])}":
            not bench.arrived(ended, goals),
        f"{leftovers(bench.root)} stays": leftovers(bench.root),
        f"nothing is said of {litter}": litter and not any(words in said for words in PUT_RIGHT),
    }  # fmt: skip
    wrong |= {
        f"{words!r} is not said: {said}": not any(word in said for word in words.split("|"))
        for words in wanted
    }
    result.tried += 1
    result.violations += [f"{where}: {what}" for what, is_so in wrong.items() if is_so]
    return found


def restored(root: Path, litter: list[str]) -> list[str]:
    """What is said where a directory is missing and its backup is there."""
    backups = [Path(name) for name in litter if name.endswith(".old")]
    of = [root / path.with_name(path.name[1:].rsplit(".", 2)[0]) for path in backups]
    sentence = "a save was cut short; the state before it is restored"
    return [sentence for path in of if not path.exists()]


def differing(state: Any, other: Any) -> str:
    """What differs, in a line."""
    if not isinstance(state, dict) or not isinstance(other, dict):
        return repr(state)[:300]
    kinds = {"more": state.keys() - other.keys(), "less": other.keys() - state.keys()}
    kinds["other"] = {name for name in state.keys() & other.keys() if state[name] != other[name]}
    return "; ".join(f"{kind} {', '.join(sorted(names))}" for kind, names in kinds.items() if names)


def telling(calls: list[Call]) -> set[int]:
    """The numbers of the calls without most writes of a file that is written in many: the first
    stays, one in the middle and the last."""
    found = set()
    numbers = range(1, len(calls) + 1)
    same = itertools.groupby(numbers, lambda i: (calls[i - 1].kind, calls[i - 1].path))
    for (kind, _), group in same:
        these = list(group)
        found |= {these[0], these[len(these) // 2], these[-1]} if kind == "write" else set(these)
    return found


def points(bench: Bench, fault: Fault, stride: int) -> list[int]:
    """The numbers of the calls that a fault is tried at: every stride-th of those it fits."""
    kinds = fault.calls or {call.kind for call in bench.calls}
    fits = [i for i in sorted(bench.tried) if bench.calls[i - 1].kind in kinds]
    return fits[len(fault.name) % stride :: stride]


def wrong_end(ended: Ended, fault: Fault, is_new: bool) -> str | None:
    """What is wrong with how a process ended in which a call failed."""
    sentences = [n for n in ended.said.splitlines() if n.startswith("minideepseek: ")]
    sentences = [n for n in sentences if not any(words in n for words in (*PUT_RIGHT, ASIDE))]
    if "Traceback" in ended.said:
        return f"a traceback: {ended.said}"
    if fault.killed:
        return None if ended.code == -9 else f"exit code {ended.code}, not killed"
    if ended.code == 0:
        return None if is_new else "exit code 0 without the new state"
    if ended.code != (130 if fault.name == "Ctrl-C" else 2):
        return f"exit code {ended.code}: {ended.said}"
    if fault.code and (len(sentences) != 1 or fault.reason not in sentences[0]):
        return f"not one sentence with the reason: {sentences}"
    return None


def must_tell(calls: list[Call], at: int) -> bool:
    """Whether an error of a call is never to be passed over: of all that puts bytes on the disk.

    Not so where something is on its way out: it was renamed to a leftover's name just before.
    """
    going = at > 1 and calls[at - 2].kind == "rename" and is_leftover(Path(calls[at - 2].path).name)
    return calls[at - 1].kind in ("create", "write", "fsync", "close") and not going


def try_faults(bench: Bench, result: Result, stride: int, only: str | None) -> None:
    """Each fault at each call."""
    for fault in FAULTS:
        if only not in (None, fault.name):
            continue
        for at in points(bench, fault, stride):
            bench.reset()
            where = f"{result.name}, {fault.name} at {at} ({bench.calls[at - 1].brief()})"
            ended = bench.run(bench.scenario.act, fault, at)
            litter = leftovers(bench.root) if fault.clean else []
            found = afterwards(bench, result, where)
            if litter and found != bench.new and bench.calls[at - 1].kind not in REMOVING:
                result.violations.append(f"{where}: it ended and left {litter}")
            if wrong := wrong_end(ended, fault, found == bench.new):
                result.violations.append(f"{where}: {wrong}")
            if fault.code and ended.code == 0 and must_tell(bench.calls, at):
                result.violations.append(f"{where}: exit code 0, as if nothing had failed")


def try_power_cuts(bench: Bench, result: Result, stride: int) -> None:
    """What may be on the disk after each call, where that was not tried yet."""
    bench.reset()
    disk, seen = power.Disk(bench.root), []
    for number, call in enumerate(bench.calls, start=1):
        disk.apply(call)
        over = number == len(bench.calls)
        for state in disk.cuts():
            known = any(state == other and (was or not over) for other, was in seen)
            if known or (number not in bench.tried or number % stride) and not over:
                continue
            seen.append((state, over))
            bench.reset(empty=True)
            power.write(state, bench.root)
            where = f"{result.name}, power cut after {number} ({call.brief()})"
            if bench.scenario.promised is not None:
                taken = bench.scenario.promised(bench.calls[:number], bench.root)
                result.violations += [f"{where}: {taken}"] if taken else []
            found = afterwards(bench, result, where)
            if over and bench.scenario.lasting and found != bench.new:
                result.violations.append(f"{where}: over, and not on the disk")


def run(scenario: Scenario, stride: int = 1, only: str | None = None) -> Result:
    """Everything, or every stride-th of the calls of each fault, or one fault only."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        bench = Bench(scenario, Path(place))
        result = Result(scenario.name, len(bench.calls))
        stride *= scenario.stride
        try_faults(bench, result, stride, only)
        if only in (None, "power cut"):
            try_power_cuts(bench, result, stride)
        return result


def table(results: list[Result]) -> str:
    """A row for each scenario, and the sums."""
    head = "scenario", "calls", "faults", "old", "new", "between", "violations"
    rows = [
        (r.name, r.calls, r.tried, r.old, r.new, r.between, len(r.violations)) for r in results
    ]
    sums = ("all", *(sum(row[i] for row in rows) for i in range(1, len(head))))  # type: ignore
    lines = [head, *rows, sums]
    width = max(len(str(line[0])) for line in lines)
    return "\n".join(
        str(first).ljust(width) + "".join(f"{cell:>12}" for cell in rest) for first, *rest in lines
    )
