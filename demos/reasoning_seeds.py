r"""Chapters 5 and 6: the frozen recipe under several seeds, each from random weights.

    python -m demos.reasoning_seeds             one seed: minutes on two cores
    python -m demos.reasoning_seeds --full      five seeds; the table of the README
    python -m demos.reasoning_seeds --quick     one seed from the shipped cold start, seconds

prints, for each seed, the share of all held-out problems solved after the cold start, after GRPO
and after as many further supervised updates instead (the control), sampled at temperature 1 and
greedily, with pass@8, the majority vote and the length of an answer; then mean, least and largest
over the seeds. Everything lies in --out, by default runs/reasoning-seeds, and what is complete
there is read, not run again: an interrupted --full goes on. results.json holds all numbers, and
accuracy.html draws the held-out accuracy over the steps of GRPO.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from demos import common  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.cli.machine import device_option  # noqa: E402
from minideepseek.errors import MiniDeepSeekError  # noqa: E402
from minideepseek.model.files import atomic_write  # noqa: E402
from minideepseek.reasoning.journey import ReasoningJob, run  # noqa: E402
from minideepseek.reasoning.record import ReasoningRecord  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402
from minideepseek.training.report import column  # noqa: E402

MOMENTS = ("base", "cold start", "control", "grpo", "grpo, τ = 0.6")
MEASURES = ("accuracy", "greedy", "pass@8", "majority", "format", "length")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description="the reasoning recipe under several seeds")
    parser.add_argument("--full", action="store_true", help="five seeds")
    parser.add_argument("--quick", action="store_true", help="from the shipped cold start")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of 0 (--full: 0 to 4)")
    parser.add_argument("--out", type=Path, default=Path("runs/reasoning-seeds"))
    parser.add_argument("--threads", type=int, default=2)
    device_option(parser)
    options = parser.parse_args(arguments)
    device = common.set_device(options)
    set_threads(options.threads)
    seeds = options.seeds or (range(5) if options.full else [0])
    records: dict[int, ReasoningRecord] = {}
    for seed in seeds:
        began = time.perf_counter()
        try:
            folder = options.out / f"seed-{seed}"
            record = run(ReasoningJob(folder, seed, options.quick, device), print)
        except MiniDeepSeekError as error:
            parser.exit(1, f"seed {seed}: {error}\n")
        if record is None:
            return 130
        records[seed] = record
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s")
    print("\n".join(table(records)))
    with atomic_write(options.out / "results.json", "w") as file:
        json.dump({seed: record.evaluations for seed, record in records.items()}, file, indent=1)
    with atomic_write(options.out / "accuracy.html", "w") as file:
        file.write(page("Held-out accuracy over the steps of GRPO", chart(records)))
    print(f"numbers: {options.out / 'results.json'}; picture: {options.out / 'accuracy.html'}")
    return 0


def measure(evaluation: dict[str, Any], name: str) -> float:
    """One number of an evaluation."""
    if name.startswith("pass@"):
        passes = evaluation["pass_at"]
        return passes.get(name.removeprefix("pass@"), float("nan"))
    return evaluation[name]


def table(records: dict[int, ReasoningRecord]) -> list[str]:
    """Lines: one for each moment and seed, and one for all seeds of a moment."""
    lines = ["moment          seed    " + "".join(f"{name:>10}" for name in MEASURES)]
    for moment in MOMENTS:
        rows = {s: r.evaluations[moment] for s, r in records.items() if moment in r.evaluations}
        columns = [[measure(row, name) for row in rows.values()] for name in MEASURES]
        for i, seed in enumerate(rows):
            lines.append(f"{moment:<16}{seed:<8}" + _cells([c[i] for c in columns]))
        if len(rows) > 1:
            for name, pick in (("mean", statistics.mean), ("least", min), ("most", max)):
                lines.append(f"{moment:<16}{name:<8}" + _cells([pick(c) for c in columns]))
    return lines


def _cells(values: list[float]) -> str:
    shown = [f"{v:>10.1%}" for v in values[:-1]]
    return "".join(shown) + f"{values[-1]:>10.1f}"


def chart(records: dict[int, ReasoningRecord]) -> str:
    """Held-out accuracy at temperature 1 over the steps, a line for each seed."""
    lines = []
    for seed, record in records.items():
        measured = [m for m in record.stages.get("grpo", ()) if "eval/accuracy" in m]
        x, y = column(measured, "step"), 100 * column(measured, "eval/accuracy")
        lines.append(Line(f"seed {seed}", x, y, seed % 6, smooth=False))
    return line_chart("Held-out problems solved at temperature 1", "%", lines)


if __name__ == "__main__":
    common.run(main)
