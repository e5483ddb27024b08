r"""Hostile files by the million:  python -m tests.hostile [--files N] [--seed S] [--reader NAME]

    python -m tests.hostile                               1,000,000 files, two processes
    python -m tests.hostile --first 250000                go on where an interrupted run stopped
    python -m tests.hostile --reader index --first 4711 --files 1 --keep DIR     one case again

A case is known by its reader, the seed and its number: the same three make the same file on every
machine. Progress is a line of numbers; Ctrl-C ends with the table of what was tried so far and the
--first to go on with. A violation is printed with the command that makes it again, and its files
are kept. Ends with code 1 if there was one.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.readers import reader_of, readers
from tests.hostile.run import Tally, keep
from tests.hostile.team import Team

CHUNK = 500  # cases that a process takes at a time
SHOWN = 20  # violations that are printed in full


def memory_disk() -> str | None:
    """A directory in memory, where there is one: a million files need no disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def table(total: Tally, seconds: float, largest: int) -> str:
    """What was tried, by reader."""
    rows = [f"{'reader':12} {'files':>9} {'accepted':>9} {'refused':>9} {'violations':>10} "
            f"{'KiB traced':>10}"]  # fmt: skip
    sums = [0, 0, 0, 0]
    for name in readers():
        bad = sum(one[0] == name for one in total.violations)
        took, left = total.accepted[name], total.refused[name]
        cells = [took + left + bad, took, left, bad]
        if not any(cells):
            continue
        sums = [a + b for a, b in zip(sums, cells, strict=True)]
        shown = " ".join(f"{n:>{w},}" for n, w in zip(cells, (9, 9, 9, 10), strict=True))
        rows.append(f"{name:12} {shown} {total.peak[name] >> 10:>10,}")
    shown = " ".join(f"{n:>{w},}" for n, w in zip(sums, (9, 9, 9, 10), strict=True))
    rows.append(f"{'together':12} {shown}")
    rows.append(f"{seconds:.0f} s, {sums[0] / max(seconds, 1e-9):,.0f} files/s; largest process "
                f"{largest / 2**20:,.0f} MiB")  # fmt: skip
    return "\n".join(rows)


def main() -> int:
    """The command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.hostile", description=__doc__,
                                     formatter_class=raw)  # fmt: skip
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=tuple(readers()))
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--keep", type=Path, help="write every case's files here (of few cases)")
    chosen = parser.parse_args()
    last = chosen.first + chosen.files
    if chosen.keep:
        for number in range(chosen.first, last):
            name = chosen.reader or reader_of(number).name
            print(keep(readers()[name], chosen.seed, number, chosen.keep))
    root = Path(tempfile.mkdtemp(prefix="hostile-", dir=memory_disk()))
    try:
        return campaign(chosen, root, last)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def campaign(chosen: argparse.Namespace, root: Path, last: int) -> int:
    """Run all cases, print as they come."""
    spans = ((at, min(at + CHUNK, last)) for at in range(chosen.first, last, CHUNK))
    team = Team(root, chosen.seed, chosen.reader, chosen.processes)
    total, began, done, open_ends = Tally(), time.perf_counter(), chosen.first, set()
    told = began
    try:
        for span, tally in team.run(spans):
            total.add(tally)
            for name, number, text in tally.violations[: SHOWN - len(total.violations) + 1]:
                again = f"--reader {name} --seed {chosen.seed} --first {number} --files 1"
                kept = keep(readers()[name], chosen.seed, number, Path(tempfile.gettempdir()))
                print(f"\n{name} {number}: {text}\n    again: {again}\n    kept: {kept}")
            open_ends.add(span)
            while ended := next((s for s in open_ends if s[0] == done), None):
                open_ends.discard(ended)
                done = ended[1]
            if time.perf_counter() - told > 10 or done == last:
                told = time.perf_counter()
                rate = (done - chosen.first) / (told - began)
                print(f"{done:,} of {last:,}, {len(total.violations)} violations, "
                      f"{rate:,.0f} files/s", flush=True)  # fmt: skip
    except KeyboardInterrupt:
        print(f"\ninterrupted; to go on: --first {done} --files {last - done}")
    print(table(total, time.perf_counter() - began, team.largest))
    return bool(total.violations)


if __name__ == "__main__":
    sys.exit(main())
