"""The verb of the exercises: start, check, hint, list."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_verbs(verbs: Any) -> None:
    """Its parser, and those of its four parts."""
    parser = verbs.add_parser("exercises", help="write each backward yourself, and be told why")
    parser.description = (
        "Exercises from add to GRPO in a folder of your own. check exits with 0 if all it looked "
        "at is solved, else with 1."
    )
    parts = parser.add_subparsers(metavar="PART", required=True)
    start = parts.add_parser("start", help="copy the exercises; never overwrites your work")
    start.set_defaults(run=run_start)
    start.add_argument("dir", nargs="?", type=Path, metavar="DIR", help="where (my_exercises)")
    check = parts.add_parser("check", help="judge the exercises in order, up to the first open one")
    check.set_defaults(run=run_check)
    check.add_argument("name", nargs="?", metavar="NAME", help="judge this one instead")
    hint = parts.add_parser("hint", help="three hints, one more at each call")
    hint.set_defaults(run=run_hint)
    hint.add_argument("name", metavar="NAME")
    overview = parts.add_parser("list", help="what is solved, and what is not")
    overview.set_defaults(run=run_list)
    for part in (check, hint, overview):
        part.add_argument("--dir", type=Path, metavar="DIR", help="your folder (my_exercises)")


def run_start(options: argparse.Namespace) -> int:
    """What was copied, and what to do next."""
    from minideepseek.exercises.folder import find, start

    path = find(options.dir)
    done = start(path)
    said = {"copied": "copied", "renewed": "renewed (untouched so far)", "kept": "kept as they are"}
    counts = [f"{len(names)} {said[kind]}" for kind, names in done.items() if names]
    print(f"{path}: {', '.join(counts)}")
    check = "minideepseek exercises check" + (f" --dir {path}" if options.dir else "")
    if done["kept"]:
        print(f"what comes next: {check}")
    else:
        print(f"open {path / 'add.py'}, fill in its hole, then: {check}")
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Reports on one exercise, or on all up to the first that is not solved."""
    from minideepseek.exercises import page
    from minideepseek.exercises.exercise import OK, OPEN
    from minideepseek.exercises.folder import Folder, find

    folder = Folder(find(options.dir))
    if options.name is not None:
        return 0 if _check(folder, folder.catalogue.named(options.name)) else 1
    verdicts = {name: folder.verdict(name) for name in folder.catalogue.names()}
    left = [name for name in verdicts if verdicts[name] != OK]
    print(f"{len(verdicts) - len(left)} of {len(verdicts)} solved before")
    for name in left:
        if verdicts[name] == OPEN:
            print(f"next: {page.title(folder, name)}")
            return 1
        if not _check(folder, name):
            return 1
    print("all exercises are solved")
    return 0


def _check(folder: Any, name: str) -> bool:
    """Whether an exercise is solved; prints the report and keeps the verdict."""
    from minideepseek.errors import InputError
    from minideepseek.exercises import page
    from minideepseek.exercises.examine import check_file
    from minideepseek.exercises.exercise import solved

    text = folder.text(name)
    if text is None:
        how = f"copy it with: minideepseek exercises start {folder.path}"
        raise InputError(f"{folder.file(name)}: no such file; {how}")
    lines, printed = check_file(name, str(folder.file(name)))
    print(f"{page.title(folder, name)}\n{page.report(lines, printed)}")
    if solved(lines):
        print(page.solution(folder.catalogue, name))
    folder.record(name, text, lines)
    return solved(lines)


def run_hint(options: argparse.Namespace) -> int:
    """The hints so far and the next."""
    from minideepseek.exercises import page
    from minideepseek.exercises.folder import Folder, find

    folder = Folder(find(options.dir))
    name = folder.catalogue.named(options.name)
    print(page.hints(name, folder.hint(name)))
    return 0


def run_list(options: argparse.Namespace) -> int:
    """Every exercise with its verdict."""
    from minideepseek.exercises.folder import Folder, find
    from minideepseek.exercises.page import overview

    print(overview(Folder(find(options.dir))))
    return 0
