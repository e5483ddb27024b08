"""A driver that kills the reasoning part of a journey, for test_journey.py; run as its own process.

    python -m tests.reasoning.kills FOLDER few|many

As tests/training/kills.py: one run is left alone and the calls that change the disk are counted;
then, for some of these calls (few: one in each stage and some between two; many: one in eleven), a
process makes the same run and ends in place of that call, and another goes on with it. It must end
with the same record, measurements, weights and files.

Prints a line for each point that failed, and last their number and that of all points.
"""

import shutil
import sys
from pathlib import Path

import pytest

from minideepseek.reasoning.journey import ReasoningJob, run
from tests.reasoning import small
from tests.training.kills import KILLED, Disk, process

FEW = (  # words of a call, and which of those calls: a share of them
    ("write pretrain/metrics", 0.5),
    ("rename cold-start/checkpoints", 0.5),
    ("write grpo/metrics", 0.9),
    ("write control/metrics", 0.5),
    ("replace evaluations.json", 0.5),
    ("write traces.json", 0.9),
)


def reason(out: Path, at: int | None = None, trace: Path | None = None) -> int:
    """The exit code of one run in a process of its own; beside `out` is what its record says."""

    def work() -> int:
        disk = Disk(at)
        disk.install()
        record = run(ReasoningJob(out, seed=3), say=lambda line: None)
        calls = list(disk.trace)
        out.with_suffix(".record").write_text(repr(small.told(record)), "utf-8")
        if trace is not None:
            trace.write_text("\n".join(call.replace(f"{out}/", "") for call in calls), "utf-8")
        return 0

    return process(work)


def result(out: Path) -> tuple:
    return small.result(out), out.with_suffix(".record").read_text("utf-8")


def chosen(calls: list[str], many: bool) -> list[int]:
    """The numbers of the calls to be killed at, from 1."""
    if many:  # of the thousands of writes, those of metrics only
        those = [i for i, call in enumerate(calls, 1) if "write" not in call or "metrics" in call]
        return those[::11]
    found = []
    for words, share in FEW:
        kind, name = words.split()
        # A temporary file's name holds that of the file: `.traces.json.….tmp`.
        those = [i for i, call in enumerate(calls, 1) if call.startswith(kind) and name in
                 call.replace("/.", "/").replace(" .", " ")]  # fmt: skip
        found.append(those[int(share * len(those))])
    return found


def main(folder: str, how_many: str) -> int:
    small.install(pytest.MonkeyPatch(), Path(folder, "shipped"))
    whole, out, log = (Path(folder, name) for name in ("whole", "run", "trace"))
    assert reason(whole, trace=log) == 0
    expected, calls = result(whole), log.read_text("utf-8").split("\n")
    points, failed = chosen(calls, how_many == "many"), 0
    for at in points:
        codes = reason(out, at), reason(out)
        if codes != (KILLED, 0) or result(out) != expected:
            failed += 1
            print(f"call {at}, {calls[at - 1]}: exit codes {codes}")
        shutil.rmtree(out)
    print(f"{failed} of {len(points)} points failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
