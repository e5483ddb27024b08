r"""What multi-token prediction does to the main model: trained with and without it.

    python -m demos.mtp_effect [--full] [--quick] [--out DIR] [--cores 2]

Three models learn the standard library's docstrings from the same main weights, the same batches in
the same order and at the same rate:

    without     the main model alone
    with        an MTP module beside it, λ = 0.3, then 0.1 (V3 §4.2); its loss is trained on, but
                only the main model is judged
    as long     without, for as many steps more as the module's work would have paid for: the
                first two arms' seconds of CPU per step decide

Printed for each: bits per byte of held-out text by the main model, its training loss over the last
tenth of the steps, seconds of CPU, steps. Then the differences seed by seed, with a 95 % interval
of their mean (Student's t) where there are several seeds, and what they allow to say.

The default is one seed of a model of width 128; --full is three seeds of `mini`; --quick only runs.
An arm whose file lies in --out is read, not trained again: an interrupted --full goes on. Writes
mtp_effect.html, with the curves, and results.json.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import chosen, cpu_alone, publish, run, side_by_side, sizes, spread, text_table  # noqa: E402
from minideepseek.model.config import DeepSeekV3Config  # noqa: E402
from minideepseek.model.files import atomic_write  # noqa: E402
from minideepseek.model.tokenizer import ByteTokenizer  # noqa: E402
from minideepseek.model.transformer import DeepSeekV3  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.corpus import docstring_corpus, prepare_corpus  # noqa: E402
from minideepseek.training.data import BatchLoader, pack  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402
from minideepseek.training.trainer import Plan, Trainer  # noqa: E402

Found = dict[str, Any]
ARMS = ("without", "with", "as long")
COLUMNS = {  # heading: (key, digits)
    "bits per byte": ("bits", 4),
    "training loss": ("loss", 4),
    "seconds": ("seconds", 0),
    "steps": ("steps", 0),
}
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % points, by the number of values
WIDTH_128 = {
    "hidden_size": 128, "intermediate_size": 256, "q_lora_rank": 64, "kv_lora_rank": 48,
    "moe_intermediate_size": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How much of everything. changes: to `mini`; held_out: tokens to be judged by."""

    seeds: int = 1
    steps: int = 800
    batch: int = 8
    length: int = 128
    learning_rate: float = 3e-3
    held_out: int = 65536
    changes: tuple[tuple[str, int], ...] = tuple(WIDTH_128.items())


FULL = Scale(
    seeds=3, steps=900, length=256, learning_rate=2e-3, held_out=1 << 30, changes=()
)
QUICK = Scale(
    steps=8, batch=2, length=32, held_out=2048,
    changes=(*Scale.changes, ("num_hidden_layers", 2), ("n_routed_experts", 8)),
)  # fmt: skip


@functools.cache
def read_text() -> tuple[np.ndarray, np.ndarray]:
    """Tokens (M,) to learn from and to be judged by."""
    corpus, tokenizer = prepare_corpus(docstring_corpus()), ByteTokenizer()
    return pack(corpus.train, tokenizer), pack(corpus.held_out, tokenizer)


def run_arm(file: Path, scale: Scale, seed: int, modules: int, steps: int) -> Found:
    """Train and judge one model, or read what an earlier run has kept in `file`."""
    asked = {"scale": asdict(scale), "seed": seed, "modules": modules, "steps": steps}
    if file.exists():
        kept = json.loads(file.read_text("utf-8"))
        if kept["asked"] == json.loads(json.dumps(asked)):
            return kept
    train, held_out = read_text()
    init, order = np.random.default_rng(seed).spawn(2)
    changes = dict(scale.changes) | {"num_nextn_predict_layers": modules}
    model = DeepSeekV3(DeepSeekV3Config.preset("mini", **changes), init)
    plan = Plan(
        steps=steps, batch_size=scale.batch, sequence_length=scale.length,
        learning_rate=scale.learning_rate, warmup_steps=min(40, steps // 4),
    )  # fmt: skip
    loader = BatchLoader(train, scale.batch, scale.length, order)
    trainer = Trainer(model, loader, plan, held_out[: scale.held_out])
    began = time.process_time()
    curve = [trainer.step()["main_loss"] for _ in range(steps)]
    seconds = time.process_time() - began
    found = {
        "asked": asked, "seconds": seconds, "steps": steps, "curve": curve,
        "bits": trainer.evaluate(), "loss": float(np.mean(curve[-max(1, steps // 10) :])),
    }  # fmt: skip
    with atomic_write(file, "w") as out:
        json.dump(found, out)
    return found


def paid_for(scale: Scale, seeds: Iterable[dict[str, Found]]) -> int:
    """Steps without the module that take as long as scale.steps with it."""
    pairs = [(arms["with"]["seconds"], arms["without"]["seconds"]) for arms in seeds]
    return round(scale.steps * statistics.median(a / b for a, b in pairs))


def run_arms(scale: Scale, out: Path, cores: int) -> list[dict[str, Found]]:
    """All arms of all seeds. The third arm's steps are settled once and kept in a file."""
    seeds: list[dict[str, Found]] = [{} for _ in range(scale.seeds)]

    def run(wanted: list[tuple[str, int, int]]) -> None:
        jobs = [
            (out / f"seed-{seed} {arm}.json", scale, seed, modules, steps)
            for arm, modules, steps in wanted
            for seed in range(scale.seeds)
        ]
        names = [(arm, seed) for arm, _, _ in wanted for seed in range(scale.seeds)]
        for (arm, seed), found in zip(names, side_by_side(run_arm, jobs, cores), strict=True):
            seeds[seed][arm] = found
            print(
                f"seed {seed}  {arm:8} {found['bits']:.4f} bits per byte, {found['steps']} steps, "
                f"{found['seconds']:.0f} s of CPU",
                flush=True,
            )

    run([("with", 1, scale.steps), ("without", 0, scale.steps)])
    settled, asked = out / "steps.json", json.loads(json.dumps(asdict(scale)))
    kept = json.loads(settled.read_text("utf-8")) if settled.exists() else {}
    if kept.get("scale") != asked:
        kept = {"scale": asked, "steps": paid_for(scale, seeds)}
        with atomic_write(settled, "w") as file:
            json.dump(kept, file)
    run([("as long", 0, kept["steps"])])
    return seeds


def differences(seeds: list[dict[str, Found]], arm: str, key: str = "bits") -> list[float]:
    """`with` minus another arm, by seed."""
    return [arms["with"][key] - arms[arm][key] for arms in seeds]


def verdict(gaps: list[float]) -> str:
    """What differences of bits per byte allow to say; below 0 is better with the module."""
    shown = ", ".join(f"{gap:+.4f}" for gap in gaps)
    mean = statistics.mean(gaps)
    better = "better" if mean < 0 else "WORSE"
    if len(gaps) == 1:
        return f"{better} with it, in the one seed that was run, which decides nothing ({shown})"
    half = STUDENT[len(gaps)] * statistics.stdev(gaps) / len(gaps) ** 0.5
    range_ = f"mean {mean:+.4f}, 95 % interval {mean - half:+.4f} to {mean + half:+.4f}"
    if mean - half < 0 < mean + half:
        return f"NOT distinguishable from no effect ({shown}; {range_})"
    return f"{better} with it ({shown}; {range_})"


def findings(seeds: list[dict[str, Found]]) -> list[str]:
    """What the numbers say, whichever way they came out."""
    cost = [arms["with"]["seconds"] / arms["without"]["seconds"] for arms in seeds]
    longer = seeds[0]["as long"]["steps"] / seeds[0]["without"]["steps"]
    return [
        "at equal steps the main model's bits per held-out byte are "
        f"{verdict(differences(seeds, 'without'))}.",
        f"its training loss differs by {spread(differences(seeds, 'without', 'loss'), 4)} nats.",
        f"a step with the module takes {spread(cost, 2)} times as long.",
        f"at equal time ({longer:.2f} × the steps without it) they are "
        f"{verdict(differences(seeds, 'as long'))}.",
        "what the module gives besides, drafts for speculative decoding, is not in these figures.",
    ]


def chart(seeds: list[dict[str, Found]]) -> str:
    """The main losses of the first seed."""
    lines = []
    for colour, arm in enumerate(ARMS):
        y = np.array(seeds[0][arm]["curve"])
        lines.append(Line(arm, np.arange(1.0, y.size + 1), y, colour))
    return line_chart("Main model's training loss", "nats, first seed", lines, ceiling=4.0)


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="three seeds of `mini`")
    parser.add_argument("--cores", type=int, default=2)
    cpu_alone(parser, "one arm trains for as many seconds of the CPU as another")
    options = parser.parse_args(arguments)
    kind, out = chosen(options, "mtp_effect")
    scale = {"full": FULL, "quick": QUICK, "default": Scale()}[kind]
    began = time.perf_counter()
    seeds = run_arms(scale, out, options.cores)
    head = ["", *COLUMNS]
    rows = [
        [arm, *(spread([s[arm][key] for s in seeds], digits) for key, digits in COLUMNS.values())]
        for arm in ARMS
    ]
    said = findings(seeds)
    size = "width 128" if scale.changes else "mini"
    facts = (
        f"{size}; batches of {scale.batch} × {scale.length} bytes; seeds: {scale.seeds}; "
        f"{time.perf_counter() - began:.0f} s on {options.cores} cores"
    )
    print(f"\n{facts}\n\n{text_table(head, rows)}\n\n" + "\n".join(said))
    html = f"<p>{escape(facts)}</p>{table(head[1:], rows)}<h2>What it shows</h2><ul>"
    html += "".join(f"<li>{escape(s)}</li>" for s in said) + f"</ul>{chart(seeds)}"
    html = page("Multi-token prediction, and the main model's loss", html)
    publish(out, "mtp_effect", html, facts=facts, findings=said, seeds=seeds)


if __name__ == "__main__":
    run(main)
