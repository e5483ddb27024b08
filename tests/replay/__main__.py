"""`python -m tests.replay`: see the package's docstring."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.replay import ledger
from tests.replay.commands import COMMANDS, COSTS, Failed, run
from tests.replay.entries import Entry
from tests.replay.inventory import KEPT, by_command
from tests.replay.templates import Missing

OK, STALE, LEFT = "ok", "STALE", "not replayed"


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m tests.replay", description="Every stated figure, printed again."
    )
    size = options.add_mutually_exclusive_group()
    size.add_argument("--medium", action="store_true", help="commands of minutes too")
    size.add_argument("--all", action="store_true", help="all commands, hours of one core")
    size.add_argument("--only", nargs="+", metavar="NAME", help="these commands or entries")
    options.add_argument("--list", action="store_true", help="what there is; nothing runs")
    options.add_argument(
        "--outputs", type=Path, metavar="DIR",
        help="keep there what commands print; what lies there is read, not run",
    )  # fmt: skip
    options.add_argument("--record", action="store_true", help="write replayed.json")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing is stale, else 1."""
    options = parser().parse_args(arguments)
    if options.list:
        print("\n".join(listed()))
        return 0
    counts = Counter[str]()
    for name, entries in by_command().items():
        entries = [e for e in entries if not options.only or {name, e.name} & set(options.only)]
        reason = why_not(name, options) if entries else None
        if reason:
            lines = ((e.name, LEFT, reason) for e in entries)
        else:
            lines = replayed(name, entries, options) if entries else iter(())
        for entry, verdict, text in lines:
            counts[verdict] += 1
            print(f"{entry:36} {verdict:12} {text}", flush=True)
    for kept in () if options.only else KEPT:
        counts[LEFT] += 1
        print(f"{kept.name:36} {LEFT:12} {kept.reason}")
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in (OK, STALE, LEFT)))
    return 1 if counts[STALE] else 0


def why_not(name: str, options: argparse.Namespace) -> str | None:
    """Why a command is not run now, with its last replay; None if it is."""
    command, last = COMMANDS[name], ledger.last().get(name)
    if options.outputs and (options.outputs / f"{name.replace(' ', '-')}.json").exists():
        return None
    before = f"; last on {last['date']} at {last['commit']}" if last else ""
    if command.lacks:
        return f"{' and '.join(command.lacks)} not installed{before}"
    costs = list(COSTS)
    most = "costly" if options.all or options.only else "medium" if options.medium else "cheap"
    if costs.index(command.cost) > costs.index(most):
        return f"{command.cost}, about {minutes(command.seconds)}: {command.run}{before}"
    return None


def minutes(seconds: int) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds} s"


def replayed(
    name: str, entries: list[Entry], options: argparse.Namespace
) -> Iterator[tuple[str, str, str]]:
    """(entry, verdict, text) of each figure."""
    stale = []
    try:
        found = run(name, options.outputs)
    except Failed as error:
        yield from ((e.name, STALE, str(error)) for e in entries)
        return
    for entry in entries:
        try:
            for stated, value, band, within in entry.judged(found["output"]):
                if not within:
                    stale.append(entry.name)
                text = f"stated {stated.text:>15}  replayed {value:>15,.12g}  {band}"
                yield entry.name, OK if within else STALE, text
        except Missing as error:
            stale.append(entry.name)
            yield entry.name, STALE, str(error)
    if options.record and entries == by_command()[name]:
        ledger.record(name, found, sorted(set(stale)))


def listed() -> Iterator[str]:
    """Every command with its cost and last replay, its entries under it; then what is kept."""
    last = ledger.last()
    for name, entries in by_command().items():
        command, then = COMMANDS[name], last.get(name)
        when = f"{then['date']} at {then['commit']}" if then else "never"
        yield f"{name}: {command.run}  ({command.cost}; last replayed {when})"
        yield from (f"    {e.name}, {e.where}" for e in entries)
    yield "not replayed"
    yield from (f"    {kept.name}, {kept.where}: {kept.reason}" for kept in KEPT)


if __name__ == "__main__":
    sys.exit(main())
