"""The verb of the bug zoo: list, show, hint, check."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_verbs(verbs: Any) -> None:
    """Its parser, and those of its four parts."""
    parser = verbs.add_parser("zoo", help="functions that look right and are wrong: mend them")
    parser.description = (
        "Mistakes that published implementations really made. show copies one into a folder of "
        "your own and says which property it fails; check exits with 0 if your copy has it, else "
        "with 1."
    )
    parts = parser.add_subparsers(metavar="PART", required=True)
    overview = parts.add_parser("list", help="what there is, and what is mended")
    overview.set_defaults(run=run_list)
    show = parts.add_parser("show", help="what a user sees, and which property fails")
    show.set_defaults(run=run_show)
    hint = parts.add_parser("hint", help="three hints, one more at each call")
    hint.set_defaults(run=run_hint)
    check = parts.add_parser("check", help="hold your copy against the property")
    check.set_defaults(run=run_check)
    for part in (show, hint, check):
        part.add_argument("name", metavar="NAME")
    for part in (overview, show, hint, check):
        part.add_argument("--dir", type=Path, metavar="DIR", help="your folder (my_zoo)")


def run_list(options: argparse.Namespace) -> int:
    """Every bug with its verdict; the folder need not be there."""
    from minideepseek.exercises.page import overview

    visit = _visit(options)
    print(overview(visit))
    if not visit.progress:
        print("\nbegin with: minideepseek zoo show choose_experts")
    return 0


def run_show(options: argparse.Namespace) -> int:
    """The symptom, the failing property, and where the copy is."""
    from minideepseek.exercises.bugs import copy, symptom

    visit = _visit(options)
    name = visit.catalogue.named(options.name)
    copy(visit.path, name)
    print(f"{name}  {visit.catalogue.heading(name).title}\n\n{symptom(name)}\n")
    visit = _visit(options)  # the folder may be new
    if not _check(visit, name):
        folder = f" --dir {options.dir}" if options.dir else ""
        print(f"mend {visit.file(name)}, then: minideepseek zoo check {name}{folder}")
    return 0


def run_hint(options: argparse.Namespace) -> int:
    """The hints so far and the next."""
    from minideepseek.exercises import page

    visit = _shown(options)
    name = visit.catalogue.named(options.name)
    print(page.hints(name, visit.hint(name)))
    return 0


def run_check(options: argparse.Namespace) -> int:
    """The report on one copy, and the story if it is mended."""
    visit = _shown(options)
    return 0 if _check(visit, visit.catalogue.named(options.name)) else 1


def _visit(options: argparse.Namespace) -> Any:
    from minideepseek.exercises.bugs import ZOO, Visit
    from minideepseek.exercises.folder import find

    return Visit(find(options.dir, ZOO))


def _shown(options: argparse.Namespace) -> Any:
    """The folder, with the bug that is asked for in it; InputError if it was never shown."""
    from minideepseek.errors import InputError

    visit = _visit(options)
    name = visit.catalogue.named(options.name)
    if visit.text(name) is None:
        folder = f" --dir {options.dir}" if options.dir else ""
        how = f"copy it with: minideepseek zoo show {name}{folder}"
        raise InputError(f"{visit.file(name)}: no such file; {how}")
    return visit


def _check(visit: Any, name: str) -> bool:
    """Whether the copy is mended; prints the report and keeps the verdict."""
    from minideepseek.exercises import page
    from minideepseek.exercises.examine import check_file
    from minideepseek.exercises.exercise import solved

    text = visit.text(name)
    lines, printed = check_file(name, str(visit.file(name)), visit.catalogue)
    print(f"{page.title(visit, name)}\n{page.report(lines, printed)}")
    if solved(lines):
        print(f"{page.solution(visit.catalogue, name)}\n\n{visit.catalogue.load(name).story}")
    visit.record(name, text, lines)
    return solved(lines)
