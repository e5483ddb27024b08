"""Scenarios without a fault, for a comparison with what strace sees; run with the shim.

    LD_PRELOAD=shim.so python -m tests.faults.once FOLDER NAME…

Prints for each kind of call that changes files how many there were below the folder.
"""

import os
import sys
from collections import Counter
from pathlib import Path

from tests.faults.disk import process
from tests.faults.runner import command
from tests.faults.runs import RUNS
from tests.faults.scenarios import SCENARIOS

OPENED = {"create", "open", "truncate"}


def main(folder: Path, names: list[str]) -> int:
    """The scenarios one after the other, each below the folder, which is there; 1 if one fails."""
    found: Counter[str] = Counter()
    for number, scenario in enumerate((*SCENARIOS, *RUNS)):
        if not any(name in scenario.name for name in names):
            continue
        root = folder / f"{number}-disk"
        for act in (Path.mkdir, scenario.old, scenario.act):
            log = folder.parent / f"log-{number}"
            ended, calls = process(command(act, root), log, folder)
            if ended.code:
                print(scenario.name, ended, file=sys.stderr)
                return 1
            found += Counter("open" if c.kind in OPENED else c.kind for c in calls)
    del found["close"]
    for kind, count in found.items():
        print(kind, count)
    return 0


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
