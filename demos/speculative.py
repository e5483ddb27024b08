r"""Speculative decoding: how often the MTP module is right, what it saves, and when it pays.

    python -m demos.speculative [--full] [--quick] [--model DIR] [--out DIR] [--threads 2]

Trains `mini`, with its MTP module, on the standard library's docstrings (or takes the model in
DIR, a byte model such as runs/journey/model), and lets it continue held-out texts:

    accepted     drafts written, of all drafts; then by position, of all rounds
    tokens/pass  new tokens per pass of the main model behind the prompt's
    same         greedy rows that are plain greedy's, byte for byte (in float32 a rounding error
                 may decide between two equal logits; in float64 the tests ask for all)

A small model's greedy text soon repeats itself, and then every draft is right. The first 12 bytes
after each prompt are therefore measured by themselves; and along the held-out text, where nothing
is generated: how often module and main model want the same byte, and Σ min(p, q) of their laws.

Then the speed of one sequence beside plain decoding, in tokens per second of CPU: the two take
turns and one thread works. Then models of other sizes with random weights, proportions of `mini`:

    MB read      weights that a token activates
    ms, main     a pass of the main model over 1, 2 and 3 tokens;  ms, draft: of the module
    predicted    speed-up from these times and the trained model's acceptance, greedy, first bytes
    measured     the same, of runs in which drafts are accepted by chance that often

A speed-up above 1 is the size from which on drafts pay. The trained model stays in DIR/model of
--out. Writes speculative.html, which shows a text draft by draft, and results.json.
--full trains as long as the journey, with more prompts and a larger size; --quick only runs.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import chosen, cpu_alone, publish, run, sizes, text_table  # noqa: E402
from demos.speculative_lab import (  # noqa: E402
    KEY,
    PROMPT,
    Size,
    added,
    along,
    break_even,
    by_position,
    drafted_text,
    growing,
    grown_cells,
    looping,
    prompts_of,
    rates,
)
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.errors import InputError  # noqa: E402
from minideepseek.model.config import DeepSeekV3Config  # noqa: E402
from minideepseek.model.generate import generate  # noqa: E402
from minideepseek.model.speculative import SpeculativeStats, generate_speculative  # noqa: E402
from minideepseek.model.tokenizer import ByteTokenizer  # noqa: E402
from minideepseek.model.transformer import DeepSeekV3  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.corpus import Corpus, docstring_corpus, prepare_corpus  # noqa: E402
from minideepseek.training.data import BatchLoader, pack  # noqa: E402
from minideepseek.training.page import page  # noqa: E402
from minideepseek.training.trainer import Plan, Trainer  # noqa: E402

TARGETS = {1: 1.7, 2: 2.1}  # tokens a pass, greedy, by the number of drafts
GREEDY_TARGET = 0.7  # of single drafts


@dataclass(frozen=True)
class Scale:
    """How much of everything. new: tokens after each prompt, first: those that are measured by
    themselves, after so many places; turns: of each timing."""

    steps: int = 350
    prompts: int = 24
    places: int = 128
    first: int = 12
    batch: int = 8
    new: int = 128
    timed: int = 3
    turns: int = 9
    sizes: tuple[Size, ...] = (
        Size(256, 3), Size(256, 12), Size(512, 8), Size(1024, 8), Size(1024, 8, dense=True),
    )  # fmt: skip
    preset: str = "mini"
    length: int = 256
    drafts: tuple[int, ...] = (1, 2, 3)


FULL = Scale(
    steps=1000, prompts=96, places=512, timed=9, turns=25,
    sizes=(*Scale.sizes[:3], Size(1024, 4), *Scale.sizes[3:], Size(1024, 16), Size(2048, 8),
           Size(2048, 8, dense=True)),
)  # fmt: skip
QUICK = Scale(
    steps=30, prompts=2, places=4, first=6, batch=2, new=12, timed=1, turns=2,
    sizes=(Size(64, 2), Size(128, 2)), preset="nano", length=32, drafts=(1, 2),
)  # fmt: skip


def trained(scale: Scale, corpus: Corpus, threads: int) -> tuple[DeepSeekV3, str]:
    """The model after so many steps, and what was done."""
    tokenizer, (init, order) = ByteTokenizer(), np.random.default_rng(0).spawn(2)
    plan = Plan(steps=scale.steps, sequence_length=scale.length)
    loader = BatchLoader(pack(corpus.train, tokenizer), plan.batch_size, scale.length, order)
    model = DeepSeekV3(DeepSeekV3Config.preset(scale.preset), init)
    trainer = Trainer(model, loader, plan, pack(corpus.held_out, tokenizer)[:32768])
    for _ in range(plan.steps):
        metrics = trainer.step()
    return model, (
        f"{scale.preset}, {plan.steps} steps of {plan.batch_size} × {scale.length} bytes in "
        f"{trainer.seconds:.0f} s on {threads} threads: {trainer.evaluate():.2f} bits per held-out "
        f"byte, loss of the module {metrics['mtp_loss']:.2f} nats, main {metrics['main_loss']:.2f}"
    )


def loaded(directory: Path) -> tuple[DeepSeekV3, str]:
    """The model in a directory; InputError if it is no byte model with a module."""
    model = DeepSeekV3.from_pretrained(directory)
    if model.config.vocab_size != 264 or not model.mtp.layers:
        raise InputError(f"model: {directory} holds no byte model with an MTP module")
    return model, f"the model in {directory}"


Settings = dict[str, Any]


def measure(
    model: DeepSeekV3, prompts: np.ndarray, new: int, temperature: float, k: int, batch: int
) -> Settings:
    """A row of the table of acceptance."""
    runs: list[SpeculativeStats] = []
    same = loops = 0
    for i in range(0, len(prompts), batch):
        part, rng = prompts[i : i + batch], np.random.default_rng([k, i])
        out, stats = generate_speculative(model, part, new, temperature, draft_tokens=k, rng=rng)
        runs.append(stats)
        loops += sum(map(looping, out.tolist()))
        if temperature == 0:
            same += int((out == generate(model, part, new)).all(1).sum())
    stats = added(runs)
    behind = (stats.tokens - len(prompts)) / max(1, stats.row_forwards - len(prompts))
    return {
        "temperature": temperature, "drafts": k, "new": new, "rows": len(prompts),
        "acceptance": stats.acceptance_rate, "by position": by_position(stats), "tokens": behind,
        "least": min(run.acceptance_rate for run in runs),
        "most": max(run.acceptance_rate for run in runs),
        "same": same if temperature == 0 else None, "loops": loops, "drafted": sum(stats.drafted),
    }  # fmt: skip


def acceptances(model: DeepSeekV3, text: np.ndarray, scale: Scale, length: int) -> list[Settings]:
    """A row for each temperature and number of drafts; the first are of short continuations."""
    many, few = (prompts_of(text, n, length) for n in (scale.places, scale.prompts))
    rows = [measure(model, many, scale.first, 0.0, k, 4 * scale.batch) for k in scale.drafts]
    for temperature in (0.0, 0.6, 1.0):
        for k in scale.drafts:
            rows.append(measure(model, few, scale.new, temperature, k, scale.batch))
    return rows


def speeds(model: DeepSeekV3, prompts: np.ndarray, scale: Scale) -> list[float]:
    """Tokens per second of CPU of single sequences: plain, then by the number of drafts."""
    found = [rates(model, prompt, scale.new, scale.drafts) for prompt in prompts[: scale.timed]]
    return [statistics.median(column) for column in zip(*found, strict=True)]


# -------------------------------------------------------------------------------- what is said


def answer(holds: bool) -> str:
    return "reached" if holds else "NOT reached"


def greedy_sentence(rows: dict[int, Settings]) -> str:
    """The targets beside greedy rows by their number of drafts."""
    one = rows[1]
    share = one["acceptance"]
    tokens = "; ".join(
        f"with {k} draft{'s'[: k - 1]} {target} tokens a pass: "
        f"{answer(rows[k]['tokens'] >= target)} ({rows[k]['tokens']:.2f})"
        for k, target in TARGETS.items()
    )
    return (
        f"greedy, the first {one['new']} bytes: at least {GREEDY_TARGET:.0%} of single drafts "
        f"accepted: {answer(share >= GREEDY_TARGET)} ({share:.1%} of {one['drafted']:,}; batches "
        f"{one['least']:.0%} to {one['most']:.0%}); {tokens}."
    )


def findings(
    rows: list[Settings], text: Settings, speed: list[float], grown: list[Settings]
) -> list[str]:
    """Targets and what the numbers say."""
    short = rows[0]["new"]
    by = {(row["temperature"], row["drafts"], row["new"] == short): row for row in rows}
    said = [greedy_sentence({k: by[0.0, k, first] for k in (1, 2)}) for first in (True, False)]
    long = by[0.0, 1, False]
    said.append(f"{long['loops']} of {long['rows']} greedy texts end in a loop.")
    said.append(
        "along the held-out text module and main model want the same byte "
        f"{text['agree']:.1%} of the time ({GREEDY_TARGET:.0%}: "
        f"{answer(text['agree'] >= GREEDY_TARGET)}); at temperature 1 a draft there would be "
        f"accepted with {text['law']:.1%}."
    )
    said.append(
        "sampled, one draft: "
        + ", ".join(f"{by[t, 1, False]['acceptance']:.1%} at temperature {t}" for t in (0.6, 1.0))
        + "."
    )
    ratios = ", ".join(f"{s / speed[0]:.2f} ×" for s in speed[1:])
    best = max(speed[1:]) / speed[0]
    verdict = "faster" if best > 1 else "SLOWER"
    counts = ", ".join(str(k) for k in range(1, len(speed)))
    said.append(
        f"one sequence of this model is written {verdict} with {counts} drafts: {ratios} plain "
        f"decoding's {speed[0]:.0f} tokens a second of CPU."
    )
    for k in grown[0]["measured"]:
        said.append(f"{k} draft{'s'[: k - 1]}: {break_even(grown, k)}")
    return said


# ------------------------------------------------------------------------------------ the page


HEAD = ["", "accepted", "by position", "tokens/pass", "same"]


def cells(rows: list[Settings]) -> list[list[str]]:
    """The table of acceptance."""
    lines = []
    for row in rows:
        name = "greedy" if row["temperature"] == 0 else f"τ = {row['temperature']}"
        lines.append([
            f"{name}, {row['new']} bytes, {row['drafts']} draft{'s'[: row['drafts'] - 1]}",
            f"{row['acceptance']:.1%}",
            " ".join(f"{share:.0%}" for share in row["by position"]), f"{row['tokens']:.2f}",
            "–" if row["same"] is None else f"{row['same']} of {row['rows']}",
        ])  # fmt: skip
    return lines


def body(
    facts: str, lines: list[list[str]], grown: list[Settings], said: list[str], texts: list[str]
) -> str:
    """The HTML of the page."""
    head, rows = grown_cells(grown)
    html = f"<p>{escape(facts)}</p>{table(HEAD[1:], lines)}<h2>What it shows</h2><ul>"
    html += "".join(f"<li>{escape(s)}</li>" for s in said)
    html += f"</ul><h2>From which size on it pays</h2>{table(head[1:4], [r[:4] for r in rows])}"
    html += f"<p></p>{table(head[4:], [[r[0], *r[4:]] for r in rows])}"
    html += f"<h2>Draft by draft</h2><p>Greedy, then at temperature 1.</p>{KEY}"
    return html + "<p></p>".join(texts)


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="1,000 steps, more prompts, larger sizes")
    parser.add_argument("--model", type=Path, help="a byte model with its MTP module")
    parser.add_argument("--threads", type=int, default=2)
    cpu_alone(parser, "tokens are counted per second of the CPU")
    options = parser.parse_args(arguments)
    set_threads(options.threads)
    kind, out = chosen(options, "speculative")
    scale = {"full": FULL, "quick": QUICK, "default": Scale()}[kind]
    corpus = prepare_corpus(docstring_corpus())
    if options.model:
        model, facts = loaded(options.model)
    else:
        model, facts = trained(scale, corpus, options.threads)
        model.save_pretrained(out / "model")
        ByteTokenizer().save_pretrained(out / "model")
    print(facts, flush=True)
    began = time.perf_counter()
    text = pack(corpus.held_out, ByteTokenizer())
    length = min(PROMPT, scale.length // 2)
    rows = acceptances(model, text, scale, length)
    beside = along(model, prompts_of(text, scale.places // 2, scale.length))
    prompts = prompts_of(text, scale.prompts, length)
    facts += f"; prompts of {length} bytes: {scale.places} for short texts, {len(prompts)} for long"
    lines = cells(rows)
    print(f"\n{text_table(HEAD, lines)}\n", flush=True)
    speed = speeds(model, prompts, scale)
    shares = {r["drafts"]: r["by position"] for r in rows[: len(scale.drafts)]}
    both = {k: shares[k] for k in (1, 2)}
    grown = growing(scale.sizes, both, length, scale.turns, scale.timed)
    said = findings(rows, beside, speed, grown)
    print(f"\n{text_table(*grown_cells(grown))}\n\n" + "\n".join(said))
    print(f"\nmeasuring took {time.perf_counter() - began:.0f} s")
    found = {"acceptance": rows, "along": beside, "speed": speed, "sizes": grown}
    texts = [drafted_text(model, prompts[0], min(3 * scale.new, 240), t) for t in (0.0, 1.0)]
    html = page("Drafts, and what becomes of them", body(facts, lines, grown, said, texts))
    publish(out, "speculative", html, facts=facts, findings=said, scale=asdict(scale), **found)


if __name__ == "__main__":
    run(main)
