"""What a learner reads: the report on one exercise, the list of all, a hint."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path

from minideepseek.exercises.catalogue import Catalogue
from minideepseek.exercises.exercise import OK, OPEN, Line
from minideepseek.exercises.folder import Folder

_TIERS = ("the idea", "the identity", "the first line")


def title(folder: Folder, name: str) -> str:
    """One line that says which exercise it is, and where."""
    head = folder.catalogue.heading(name)
    return f"{name}  {head.stars}  {head.minutes} minutes  {folder.file(name)}"


def report(lines: list[Line], printed: str = "") -> str:
    """What a check found, one line for each thing judged."""
    width, page = max(len(line.name) for line in lines), []
    for line in lines:
        first, *rest = line.text.split("\n")
        start = f"   {line.name:<{width}}  {line.verdict:<{len(OPEN)}}  "
        page.append(f"{start}{first}".rstrip())
        page += [f"{' ' * len(start)}   {more}" for more in rest]
    if printed.strip():
        page += ["   it printed", *(f"      {said}" for said in printed.splitlines()[:12])]
    return "\n".join(page)


def solution(catalogue: Catalogue, name: str) -> str:
    """Where the library's own definitions are; for after success."""
    where = [_place(function) for function in catalogue.load(name).solutions]
    return "   solved; the library's own: " + f"\n{' ' * 30}".join(where)


def _place(function: Callable) -> str:
    bare = inspect.unwrap(function)
    path, (_, line) = inspect.getfile(bare), inspect.getsourcelines(bare)
    if Path(path).is_relative_to(Path.cwd()):
        path = os.path.relpath(path)
    return f"{bare.__qualname__}, {path}:{line}"


def hints(name: str, given: list[str]) -> str:
    """The hints given so far, the newest last."""
    page = [f"{name}: hint {len(given)} of 3"]
    for tier, hint in zip(_TIERS, given, strict=False):
        page += [f"   {tier}", *(f"      {line}" for line in hint.split("\n"))]
    return "\n".join(page)


def overview(folder: Folder) -> str:
    """All exercises by chapter, with verdicts."""
    verdicts = {name: folder.verdict(name) for name in folder.catalogue.names()}
    done = sum(v == OK for v in verdicts.values())
    page = [f"{folder.path}: {done} of {len(verdicts)} solved"]
    wide = max(map(len, verdicts))
    for chapter, members in folder.catalogue.chapters.items():
        page += ["", chapter]
        for name in members:
            head = folder.catalogue.heading(name)
            columns = f"{verdicts[name]:<{len(OPEN)}}  {name:<{wide}}  {head.stars:<3}"
            page.append(f"   {columns}  {head.minutes:>2} min  {head.title}")
    return "\n".join(page)
