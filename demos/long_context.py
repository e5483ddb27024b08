r"""From 128 tokens to 512: what YaRN does for a model that has read 128 tokens at a time.

    python -m demos.long_context [--full] [--quick] [--out DIR] [--threads 2] [--device cuda]

`mini` without its MTP module is trained on windows of 128 bytes of the standard library's
docstrings. Its rotated channels have then seen no distance above 127. Rows of the table are ways to
read windows of 512 bytes of held-out text with these weights, in bits per byte by position:

    128 at a time            a window of 128 slides over the text by 64, so that every byte has 64
                             to 127 before it, wherever it stands: nothing is extended
    as it is                 positions go on as before
    YaRN                     factor 4 as V3 has it: slow pairs slowed, scale times m²
    YaRN, m on cos and sin   the other rule for m (rope.py): the rotated part of a score only
    YaRN without m           frequencies alone

and then three of them again after a short training, a tenth as many bytes as before, on windows of
512 bytes, or of 128 where 128 are read at a time.

Documents end inside windows (360 bytes is their mean), so that little of what lies 300 bytes back
helps: the question is what a long window costs, and whether it has to. All rows are read on the
same bytes; differences have their standard error over windows. The default is one seed, --full are
three. Writes long_context.html and results.json.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import chosen, here, publish, run, set_device, sizes, spread, text_table  # noqa: E402
from minideepseek import DeepSeekV3, DeepSeekV3Config, no_grad, ops  # noqa: E402
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.cli.machine import device_option  # noqa: E402
from minideepseek.model.tokenizer import ByteTokenizer  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.corpus import docstring_corpus, prepare_corpus  # noqa: E402
from minideepseek.training.data import BatchLoader, evaluation_windows, pack  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402
from minideepseek.training.trainer import Plan, Trainer  # noqa: E402

FACTOR = 4
EDGES = (0, 32, 64, 128, 192, 256, 384, 512)  # of the table's columns, in 512ths of a long window
V3_MSCALE = {"mscale": 1.0, "mscale_all_dim": 1.0}
BEFORE = {  # what stands in rope_scaling beside the factor; None: no YaRN
    "as it is": None,
    "YaRN": V3_MSCALE,
    "YaRN, m on cos and sin": {},
    "YaRN without m": {"attention_factor": 1.0},
}
AFTER = ("as it is", "YaRN")
SHORT = "128 at a time"
LATER = ", trained on"


@dataclass(frozen=True)
class Scale:
    """How much of everything; lengths in bytes."""

    seeds: int = 1
    length: int = 128  # L₀
    held_out: int = 1 << 16
    changes: dict[str, Any] = field(default_factory=dict)  # to `mini`
    first: Plan = Plan(
        steps=500, batch_size=16, sequence_length=128, mtp_weight=0.0, bias_step=0.01
    )
    later: Plan = Plan(
        steps=50, batch_size=4, sequence_length=512, learning_rate=5e-4, warmup_steps=6,
        mtp_weight=0.0, bias_step=0.0,
    )  # fmt: skip

    @property
    def long(self) -> int:
        return FACTOR * self.length

    def columns(self) -> list[tuple[int, int]]:
        """First and last position of each of the table's columns."""
        edges = [edge * self.long // EDGES[-1] for edge in EDGES]
        return [(a, b - 1) for a, b in zip(edges, edges[1:], strict=False)]


DEFAULT, FULL = Scale(), Scale(seeds=3)
QUICK = Scale(
    length=16,
    held_out=2048,
    changes={
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "kv_lora_rank": 16,
        "q_lora_rank": None, "intermediate_size": 64, "n_routed_experts": 8,
    },
    first=replace(DEFAULT.first, steps=30, sequence_length=16, warmup_steps=2),
    later=replace(DEFAULT.later, steps=3, sequence_length=64, warmup_steps=1),
)  # fmt: skip


def config_of(scale: Scale, positions: int, yarn: dict | None = None) -> DeepSeekV3Config:
    """`mini` for so many positions; yarn: what stands in rope_scaling beside the usual."""
    scaling = None
    if yarn is not None:
        scaling = {
            "type": "yarn", "factor": float(FACTOR), "beta_fast": 32.0, "beta_slow": 1.0,
            "original_max_position_embeddings": scale.length, **yarn,
        }  # fmt: skip
    return DeepSeekV3Config.preset(
        "mini",
        num_nextn_predict_layers=0,
        max_position_embeddings=positions,
        rope_scaling=scaling,
        **scale.changes,
    )


def extended(model: DeepSeekV3, scale: Scale, yarn: dict | None, positions: int) -> DeepSeekV3:
    """A copy of the weights in a model for so many positions, with YaRN or without."""
    copy = DeepSeekV3.empty(config_of(scale, positions, yarn)).to(model.device)
    copy.load_state_dict(model.state_dict())
    return copy


def bits_of(model: DeepSeekV3, text: np.ndarray, length: int, stride: int) -> np.ndarray:
    """(N,) bits of every token of text (N,), read by windows that slide by stride."""
    bits = []
    for ids, mask in evaluation_windows(text, length, stride):
        sent = model.check_ids(ids)
        with no_grad():
            h, _ = model.hidden(sent[:, :-1])
            bits.append(ops.token_logprobs(model.logits(h), sent[:, 1:]).numpy()[mask])
    return np.concatenate(bits) / -math.log(2)  # windows come in order, so do what counts of them


class Study:
    """All rows of one seed: `rows` name → bits (windows, 512)."""

    def __init__(self, scale: Scale, seed: int, train: np.ndarray, held_out: np.ndarray) -> None:
        self.scale, self.train, self.held_out = scale, train, held_out
        self.init, self.data = np.random.default_rng(seed).spawn(2)
        self.rows: dict[str, np.ndarray] = {}
        self.seconds: dict[str, float] = {}

    def run(self) -> Study:
        scale, long, short = self.scale, self.scale.long, self.scale.length
        base = DeepSeekV3(config_of(scale, short), self.init).to(here())
        self.fit("training", base, scale.first)
        self.read(SHORT, base, short, short // 2)
        for name, yarn in BEFORE.items():
            self.read(name, extended(base, scale, yarn, long), long, long)
        later = scale.later
        for name in AFTER:
            model = extended(base, scale, BEFORE[name], long)
            self.fit(name + LATER, model, later)
            self.read(name + LATER, model, long, long)
        as_many = replace(later, batch_size=FACTOR * later.batch_size, sequence_length=short)
        self.fit(SHORT + LATER, base, as_many)
        self.read(SHORT + LATER, base, short, short // 2)
        return self

    def fit(self, name: str, model: DeepSeekV3, plan: Plan) -> None:
        loader = BatchLoader(self.train, plan.batch_size, plan.sequence_length, self.data)
        trainer = Trainer(model, loader, plan)
        for _ in range(plan.steps):
            trainer.step()
        self.seconds[name] = trainer.seconds
        print(f"{name}: {plan.steps} steps, {trainer.seconds:.0f} s", flush=True)

    def read(self, name: str, model: DeepSeekV3, length: int, stride: int) -> None:
        bits = bits_of(model, self.held_out, length, stride)
        self.rows[name] = bits.reshape(-1, self.scale.long)


def cells(seeds: list[Study]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: bits per byte over ranges of positions."""
    columns = seeds[0].scale.columns()
    head = ["bits per byte at", *(f"{a}–{b}" for a, b in columns)]
    rows = [
        [name, *(spread([s.rows[name][:, a : b + 1].mean() for s in seeds]) for a, b in columns)]
        for name in seeds[0].rows
    ]
    return head, rows


def difference(study: Study, one: str, other: str, where: slice) -> str:
    """Bits per byte that `one` needs more than `other`, ± the standard error over windows."""
    found = (study.rows[one] - study.rows[other])[:, where].mean(1)
    return f"{found.mean():+.3f} ± {found.std(ddof=1) / math.sqrt(len(found)):.3f}"


def findings(seeds: list[Study]) -> list[str]:
    """What the rows say, seed by seed."""
    short, long = seeds[0].scale.length, seeds[0].scale.long
    inside, beyond = slice(0, short), slice(short, long)
    yarn, none, apart = "YaRN" + LATER, "as it is" + LATER, SHORT + LATER

    def say(what: str, one: str, other: str, where: slice) -> str:
        return f"{what}: " + ", ".join(difference(s, one, other, where) for s in seeds)

    return [
        f"bits per byte at positions {short}–{long - 1}, by seed:",
        say("as it is, against 128 at a time", "as it is", SHORT, beyond),
        say("YaRN, against 128 at a time", "YaRN", SHORT, beyond),
        say("YaRN, against as it is", "YaRN", "as it is", beyond),
        say(f"what YaRN costs at positions 0–{short - 1}", "YaRN", "as it is", inside),
        say("all trained on: as it is, against 128 at a time", none, apart, beyond),
        say("all trained on: YaRN, against 128 at a time", yarn, apart, beyond),
        say("all trained on: YaRN, against as it is", yarn, none, beyond),
    ]


def picture(seeds: list[Study], said: list[str], facts: str) -> str:
    """The HTML page: bits per byte by position, of the first seed."""
    scale, rows = seeds[0].scale, seeds[0].rows
    wide = max(1, scale.long // 32)
    names = ("as it is", "YaRN", "as it is" + LATER, "YaRN" + LATER, SHORT, SHORT + LATER)
    lines = []
    for colour, name in enumerate(names):
        y = rows[name].mean(0).reshape(-1, wide).mean(1)
        x = (np.arange(len(y)) + 0.5) * wide
        label = name.replace(SHORT, "128").replace(LATER, ", later")
        lines.append(Line(label, x, y, colour))
    chart = line_chart("Bits per byte by position", "bits per byte", lines, height=400,
                       across="position")  # fmt: skip
    head, body = cells(seeds)
    body = [[escape(cell) for cell in row] for row in body]
    html = f"<p>{escape(facts)}</p>{chart}<p>Means of {wide} positions, of the first seed; "
    html += "later: trained on.</p>"
    for part in (slice(1, 4), slice(4, None)):  # two tables, for the width of a phone
        html += table(head[part], [[row[0], *row[part]] for row in body]) + "<p></p>"
    html += f"<h2>What it shows</h2><p>{escape(said[0])}</p><ul>"
    html += "".join(f"<li>{escape(sentence)}</li>" for sentence in said[1:]) + "</ul>"
    return page("From 128 tokens to 512", html)


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="three seeds")
    parser.add_argument("--threads", type=int, default=2)
    device_option(parser)
    options = parser.parse_args(arguments)
    set_device(options)
    set_threads(options.threads)
    kind, out = chosen(options, "long_context")
    scale = {"full": FULL, "quick": QUICK, "default": DEFAULT}[kind]
    began, corpus = time.perf_counter(), prepare_corpus(docstring_corpus())
    train, held_out = (pack(part, ByteTokenizer()) for part in (corpus.train, corpus.held_out))
    held_out = held_out[: min(scale.held_out, len(held_out)) // scale.long * scale.long]
    seeds = [Study(scale, seed, train, held_out).run() for seed in range(scale.seeds)]
    facts = (
        f"windows of {scale.long} over {len(held_out):,} held-out bytes; {len(seeds)} "
        f"seed{'s' if len(seeds) > 1 else ''}, {time.perf_counter() - began:.0f} seconds"
    )
    said, (head, rows) = findings(seeds), cells(seeds)
    print(f"\n{facts}\n\n{text_table(head, rows)}\n\n" + "\n".join(said))
    numbers = [
        {"seconds": s.seconds, "rows": {k: bits.mean(0).tolist() for k, bits in s.rows.items()}}
        for s in seeds
    ]
    html = picture(seeds, said, facts)
    publish(out, "long_context", html, facts=facts, findings=said, seeds=numbers)


if __name__ == "__main__":
    run(main)
