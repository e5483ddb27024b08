r"""R1-Zero, R1 and distillation at equal compute: which way leads a small model to thinking?

    python -m demos.r1_pipeline [--base DIR] [--full] [--quick] [--out DIR] [--threads 2]

Mini-Countdown, six models. Four begin at one base model and spend the same on it:

    R1-Zero             GRPO, rewards 1 · accuracy + 0.1 · format
    R1-Zero, accuracy   GRPO, 1 for a right answer, with a thought or with none
    cold start only     supervised fine-tuning on the impatient teacher until all is spent
    R1                  the four stages of r1/pipeline.py; the first three are rows of their own

Two begin at a smaller student (2 layers, width 64), pre-trained on text from the same generator:
    distilled           SFT on the samples that R1's third stage was trained on
    RL on small         cold start, then GRPO

Equal compute is counted in token passes: a token that is sampled or read costs one forward pass, a
token that is trained on three. Every arm has the same number of them; GRPO stops, and its learning
rate ends, when they are spent, and SFT makes as many steps as they pay for. A pass of the student
costs about a quarter of the base's FLOPs. Not counted: pre-training, and, for the distilled
student, R1's own training.

Prints one table (all held-out problems, 8 samples each) and what it shows, or fails to show, and
writes r1_pipeline.html and r1_pipeline.json. "right" asks for the strict form; the columns behind
it also take a right answer without a thought. Thought: tokens between the tags, where there are
any. The default is one seed with 1.2 million passes an arm, some 3 minutes beside the base's
pre-training; --full is three seeds with 4 million and takes ten times as long. A run that was
interrupted goes on when it is started again. --base: a pre-trained `reason` model, such as the
newest of runs/journey/reasoning/pretrain/checkpoints; without it one is pre-trained first.
"""

from __future__ import annotations

import json
import os
import time
from html import escape
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import chosen, run, set_device, sizes, spread, text_table  # noqa: E402
from demos.r1_arms import DEFAULT, FULL, QUICK, SAMPLES, Arms  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.cli.machine import device_option  # noqa: E402
from minideepseek.errors import MiniDeepSeekError  # noqa: E402
from minideepseek.model.files import atomic_write  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402

COLUMNS = {  # heading: (key of a row, factor)
    "right": ("right", 100),
    "any form": ("any form", 100),
    "greedy": ("greedy", 100),
    f"pass@{SAMPLES}": ("pass", 100),
    "majority": ("majority", 100),
    "thinks": ("thinks", 100),
    "thought": ("thought", 1),
    "M passes": ("passes", 1e-6),
    "TFLOP": ("flops", 1e-12),
    "seconds": ("seconds", 1),
}
CURVES = {
    "rewards/accuracy": "right answers to training problems, %",
    "rewards/format": "answers in the strict form, %",
    "completions/mean_length": "tokens an answer",
}


def cells(seeds: list[Arms]) -> dict[str, list[str]]:
    """The table: a row for each arm that some seed has, in order."""
    names = dict.fromkeys(name for seed in seeds for name in seed.rows)
    found = {}
    for name in names:
        rows = [seed.rows[name] for seed in seeds if name in seed.rows]
        found[name] = [
            spread([factor * row[key] for row in rows], 2 if key == "flops" else 1)
            for key, factor in COLUMNS.values()
        ]
    return found


def findings(seeds: list[Arms]) -> list[str]:
    """What the numbers say about the paper's claims; those that they do not bear out too."""

    def compare(claim: str, better: str, worse: str) -> str:
        pairs = [
            (seed.rows[better]["any form"], seed.rows[worse]["any form"])
            for seed in seeds
            if better in seed.rows and worse in seed.rows
        ]
        if not pairs:
            return f"{claim}: not measured, an arm is missing."
        ours = [100 * (a - b) for a, b in pairs]
        holds = "yes" if min(ours) > 0 else "NO" if max(ours) <= 0 else "not in every seed"
        points = ", ".join(f"{d:+.1f}" for d in ours)
        return f"{claim}: {holds} ({better} − {worse}, any form, points by seed: {points})."

    def share(name: str, key: str) -> str:
        return spread([100 * seed.rows[name][key] for seed in seeds], 1) + " %"

    before, after = (share(name, "thinks") for name in ("base", "R1-Zero, accuracy"))
    kept = share("R1-Zero", "thinks")
    return [
        compare("RL without supervision beats the base", "R1-Zero", "base"),
        compare("more demonstrations instead of RL do not help", "R1", "cold start only"),
        compare("a cold start is worth its cost", "R1", "R1-Zero"),
        compare("stages 3 and 4 improve on stage 2", "R1", "R1 stage 2"),
        compare("for a small model, being told beats finding out", "distilled", "RL on small"),
        f"thinking under the accuracy-only reward: {before} of the answers before, {after} after; "
        f"with the format reward {kept} after.",
    ]


def charts(seed: Arms) -> str:
    """Reward, form and length over the steps of GRPO, of the first seed."""
    figures = []
    arms = ("R1-Zero", "R1-Zero, accuracy", "R1", "RL on small")
    for key, unit in CURVES.items():
        factor = 100 if key.startswith("rewards") else 1
        lines = []
        for colour, name in enumerate(arms):
            y = np.array([factor * row[key] for row in seed.curves.get(name, ())])
            if y.size:
                label = name.replace("accuracy", "acc.")
                lines.append(Line(label, np.arange(1.0, y.size + 1), y, colour))
        figures.append(line_chart(unit, unit, lines, from_zero=True, height=320))
    return "".join(figures)


def write(out: Path, seeds: list[Arms], said: list[str], facts: str) -> None:
    """r1_pipeline.html and r1_pipeline.json."""
    numbers: dict[str, Any] = {
        "seeds": [{"seed": one.seed, "rows": one.rows, "curves": one.curves} for one in seeds],
        "findings": said,
        "facts": facts,
    }
    with atomic_write(out / "r1_pipeline.json", "w") as file:
        json.dump(numbers, file, indent=1)
    heads, rows = list(COLUMNS), cells(seeds).items()
    tables = [  # two, for the width of a phone
        table(heads[part], [[escape(name), *row[part]] for name, row in rows])
        for part in (slice(5), slice(5, None))
    ]
    body = f"<p>{escape(facts)}; shares in per cent.</p>{'<p></p>'.join(tables)}"
    body += "<h2>What it shows</h2><ul>"
    body += "".join(f"<li>{escape(sentence)}</li>" for sentence in said) + "</ul>"
    body += f"<h2>GRPO, step by step</h2><p>Of seed {seeds[0].seed}.</p>{charts(seeds[0])}"
    with atomic_write(out / "r1_pipeline.html", "w") as file:
        file.write(page("Which way leads a small model to thinking?", body))


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="three seeds, longer stages")
    parser.add_argument("--base", help="directory of a pre-trained reason model")
    parser.add_argument("--threads", type=int, default=2)
    device_option(parser)
    options = parser.parse_args(arguments)
    set_device(options)
    set_threads(options.threads)
    kind, out = chosen(options, "r1_pipeline")
    scale = {"full": FULL, "quick": QUICK, "default": DEFAULT}[kind]
    began, seeds = time.perf_counter(), list[Arms]()
    for seed in range(scale.seeds):
        seeds.append(Arms(out / f"seed-{seed}", scale, seed, options.base))
        try:
            seeds[-1].run()
        except MiniDeepSeekError as error:
            parser.exit(1, f"seed {seed}: {error}\n")
    seconds = time.perf_counter() - began
    facts = (
        f"{len(seeds[0].problems)} held-out problems, {scale.budget / 1e6:g} million token passes "
        f"an arm, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}, {options.threads} threads, "
        f"{seconds:.0f} seconds in this process"
    )
    said = findings(seeds)
    rows = [[name, *row] for name, row in cells(seeds).items()]
    print(f"\n{facts}\n\n{text_table(['', *COLUMNS], rows)}\n")
    print("\n".join(said))
    write(out, seeds, said, facts)
    print(f"\n{out / 'r1_pipeline.html'} and .json")


if __name__ == "__main__":
    run(main)
