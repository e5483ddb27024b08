r"""MHA, GQA, MQA and MLA at equal parameters: what each keeps, how it reads, how fast it writes.

    python -m demos.attention_kinds [--full] [--quick] [--threads 2] [--out DIR]

Four byte models that differ in their attention alone: 3 layers of width 128 with 8 heads of 16
channels and a plain MLP. They learn the docstrings of the standard library, in the same order and
for the same number of steps, at the same rate. GQA has two groups. MLA has V3's proportions
(d_c = 4 d_h, d_h^R = d_h / 2, no latent for queries), so its cache is that of 2.25 groups.

Equal parameters: keys and values of fewer heads need smaller matrices. What an attention saves
against MHA's, its model gets back as width of the MLP, to within half a column's worth in a layer.

    weights      parameters of the model; then those of its attention, and the MLP's width
    cached       numbers per token and layer; bytes as allocated, all layers, float32
    at V3        numbers per token and layer at V3's dimensions
    bits/byte    of held-out text after training
    ms, context  to decode one token of one row with so many tokens in the cache, seconds that its
                 one thread works; the kinds take turns, medians; caches hold random numbers

The default is one seed; --full is three, with the standard deviation over seeds, more steps and all
of the held-out text. Writes attention_kinds.html and results.json into runs/attention_kinds/….
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import chosen, cpu_alone, publish, run, sizes, spread, text_table  # noqa: E402
from minideepseek import (  # noqa: E402
    DeepSeekAttention,
    DeepSeekV3,
    DeepSeekV3Config,
    GroupedQueryAttention,
    MultiHeadAttention,
    MultiQueryAttention,
)
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.layers.module import Init, Module  # noqa: E402
from minideepseek.model.generate import next_logits  # noqa: E402
from minideepseek.model.tokenizer import ByteTokenizer  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.corpus import docstring_corpus, prepare_corpus  # noqa: E402
from minideepseek.training.data import BatchLoader, pack  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402
from minideepseek.training.trainer import Plan, Trainer  # noqa: E402

GROUPS = 2
V3_CACHE = {"MHA": 32768, "GQA-2": 512, "MLA": 576, "MQA": 256}  # 2 n_g · 128; d_c + d_h^R
KINDS = tuple(V3_CACHE)


@dataclass(frozen=True)
class Scale:
    """How much of everything.  held_out: bytes of text; repeats: tokens timed at a context."""

    seeds: int = 1
    steps: int = 400
    batch: int = 16
    length: int = 128
    held_out: int = 1 << 16
    repeats: int = 40
    contexts: tuple[int, ...] = (128, 1024, 4096)


DEFAULT, FULL = Scale(), Scale(seeds=3, steps=500, held_out=1 << 30)
QUICK = Scale(steps=8, batch=4, length=32, held_out=2048, repeats=3, contexts=(16, 64))
CONFIG: dict[str, Any] = {
    "hidden_size": 128, "num_hidden_layers": 3, "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 0, "intermediate_size": 320, "num_attention_heads": 8,
    "q_lora_rank": None, "kv_lora_rank": 64, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "max_position_embeddings": 8192,
}  # fmt: skip


def attention_of(kind: str, config: DeepSeekV3Config, init: Init) -> Module:
    """One layer's attention."""
    if kind == "GQA-2":
        return GroupedQueryAttention(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=GROUPS,
            max_position_embeddings=config.max_position_embeddings,
            rng=init,
        )
    made = {"MHA": MultiHeadAttention, "MQA": MultiQueryAttention, "MLA": DeepSeekAttention}
    return made[kind](config, init)


def size(module: Module) -> int:
    return sum(parameter.size for parameter in module.parameters())


def build(kind: str, seed: int) -> DeepSeekV3:
    """A model whose MLPs are as wide as makes it as large as the one with MHA."""
    config, nothing = DeepSeekV3Config.preset("mini", **CONFIG), Init(None, 0.0)
    saved = size(attention_of("MHA", config, nothing)) - size(attention_of(kind, config, nothing))
    width = config.intermediate_size + round(saved / (3 * config.hidden_size))
    rng = np.random.default_rng(seed)
    config = DeepSeekV3Config.preset("mini", **CONFIG | {"intermediate_size": width})
    model, init = DeepSeekV3(config, rng), Init(rng, config.initializer_range)
    for layer in model.model.layers:
        part: Any = layer
        part.self_attn = attention_of(kind, config, init)
    return model


# ---------------------------------------------------------------------------------------- measures


def train(model: DeepSeekV3, text: tuple[np.ndarray, np.ndarray], scale: Scale, seed: int) -> dict:
    """Bits per byte of the held-out text after training, and the loss of every step in bits."""
    plan = Plan(
        steps=scale.steps,
        batch_size=scale.batch,
        sequence_length=scale.length,
        learning_rate=3e-3,
        warmup_steps=min(40, scale.steps),
    )
    loader = BatchLoader(text[0], scale.batch, scale.length, np.random.default_rng([seed, 1]))
    trainer = Trainer(model, loader, plan, text[1])
    losses = [trainer.step()["main_loss"] / math.log(2) for _ in range(plan.steps)]
    return {"bits": trainer.evaluate(), "curve": losses, "seconds": trainer.seconds}


def decoder(model: DeepSeekV3, context: int) -> tuple[Callable[[], None], int]:
    """A function that decodes one token behind `context` others, and the bytes cached for each."""
    cache, rng = model.new_cache(1, context), np.random.default_rng(0)
    for layer in cache.layers:
        layer.append(rng.standard_normal((1, context, layer.width)).astype(np.float32))
    per_token = cache.nbytes // context
    ids = np.zeros((1, 1), np.int64)

    def work() -> None:
        next_logits(model, ids, cache, np.array([1]))
        cache.truncate(context)

    return work, per_token


def speeds(models: dict[str, DeepSeekV3], scale: Scale) -> dict[str, dict[str, Any]]:
    """Per kind: cached bytes per token, and milliseconds per decoded token at each context."""
    found: dict[str, dict[str, Any]] = {kind: {"ms": []} for kind in models}
    for context in scale.contexts:
        works = {kind: decoder(model, context) for kind, model in models.items()}
        times: dict[str, list[float]] = {kind: [] for kind in models}
        for turn in range(scale.repeats + 2):  # two warm up, the second after the cache has grown
            for kind, (work, _) in works.items():
                began = time.thread_time()
                work()
                if turn > 1:
                    times[kind].append(time.thread_time() - began)
        for kind, (_, per_token) in works.items():
            found[kind]["bytes"] = per_token
            found[kind]["ms"].append(1e3 * statistics.median(times[kind]))
    return found


def read_text(scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Tokens to learn from and tokens to be judged by, (M,) each."""
    corpus, tokenizer = prepare_corpus(docstring_corpus()), ByteTokenizer()
    return pack(corpus.train, tokenizer), pack(corpus.held_out, tokenizer)[: scale.held_out]


def measure(text: tuple[np.ndarray, np.ndarray], scale: Scale) -> list[dict[str, Any]]:
    """A row per kind; `bits` and `curves` have an entry per seed."""
    trained: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    models: dict[str, DeepSeekV3] = {}
    for seed in range(scale.seeds):
        for kind in KINDS:
            models[kind] = build(kind, seed)
            trained[kind].append(train(models[kind], text, scale, seed))
            bits, seconds = trained[kind][-1]["bits"], trained[kind][-1]["seconds"]
            print(f"seed {seed}  {kind:6} {bits:.4f} bits per byte, {seconds:.1f} s", flush=True)
    speed, rows = speeds(models, scale), []
    for kind, model in models.items():
        layer: Any = model.model.layers[0]
        rows.append({
            "kind": kind,
            "parameters": size(model),
            "attention": sum(size(one.self_attn) for one in model.model.layers),
            "mlp_width": model.config.intermediate_size,
            "cached": layer.self_attn.new_cache(1, 1).width,
            "v3": V3_CACHE[kind],
            "bits": [one["bits"] for one in trained[kind]],
            "curves": [one["curve"] for one in trained[kind]],
        } | speed[kind])  # fmt: skip
    return rows


# --------------------------------------------------------------------------------------- what it is


def cells(rows: list[dict[str, Any]], scale: Scale) -> list[list[str]]:
    """The table, its heading first."""
    head = ["", "weights", "attention", "MLP", "cached", "bytes", "at V3", "bits/byte"]
    lines = [head + [f"ms, {context:,}" for context in scale.contexts]]
    for row in rows:
        numbers = [row[name] for name in ("parameters", "attention", "mlp_width", "cached")]
        numbers += [row["bytes"], row["v3"]]
        line = [row["kind"], *(f"{n:,}" for n in numbers), spread(row["bits"])]
        lines.append(line + [f"{ms:.2f}" for ms in row["ms"]])
    return lines


def findings(rows: list[dict[str, Any]], scale: Scale) -> list[str]:
    """What the numbers say about the papers' order, and what they cannot say."""
    by = {row["kind"]: row for row in rows}

    def compare(better: str, worse: str) -> str:
        ours = [b - a for a, b in zip(by[better]["bits"], by[worse]["bits"], strict=True)]
        holds = "yes" if min(ours) > 0 else "NO" if max(ours) <= 0 else "not in every seed"
        points = ", ".join(f"{d:+.3f}" for d in ours)
        times = by[better]["cached"] / by[worse]["cached"]
        claim = f"{better} reads better than {worse}, with {times:.2g} × its cache"
        return f"{claim}: {holds} (bits per byte saved, by seed: {points})"

    far = scale.contexts[-1]
    slow, fast = by["MHA"]["ms"][-1], {kind: by[kind]["ms"][-1] for kind in KINDS[1:]}
    times = ", ".join(f"{kind} {slow / ms:.1f} ×" for kind, ms in fast.items())
    sizes = [row["parameters"] for row in rows]
    return [
        compare("MHA", "MQA"),
        compare("MHA", "GQA-2"),
        compare("GQA-2", "MQA"),
        compare("MLA", "GQA-2"),
        compare("MLA", "MHA"),
        f"a token behind {far:,} others, against MHA's {slow:.2f} ms: {times}",
        f"parameters differ by at most {max(sizes) / min(sizes) - 1:.3%}",
    ]


def picture(rows: list[dict[str, Any]]) -> str:
    """Bits per byte against numbers cached: one dot a seed, a ring around their mean."""
    means = [statistics.mean(row["bits"]) for row in rows]
    every = [bits for row in rows for bits in row["bits"]]
    room = 0.15 * (max(every) - min(every)) + 0.002
    bottom, top = min(every) - room, max(every) + room
    left, right = (f([row["cached"] for row in rows]) for f in (min, max))
    left, right = left / 1.5, right * 1.5

    def place(cached: float, bits: float) -> tuple[str, str]:
        x = math.log(cached / left) / math.log(right / left)
        return f"{x:.2%}", f"{(top - bits) / (top - bottom):.2%}"

    marks = '<line class="axis" x2="100%" y1="100%" y2="100%"/>'
    for i, (row, mean) in enumerate(zip(rows, means, strict=True)):
        x, y = place(row["cached"], mean)
        for bits in row["bits"]:
            dot = place(row["cached"], bits)[1]
            marks += f'<circle class="t{i}" cx="{x}" cy="{dot}" r="3"/>'
        ring = f'<circle class="c{i}" fill="none" stroke-width="1.5" cx="{x}" cy="{y}" r="7"/>'
        name = f'<text class="end t{i}" x="{x}" y="{y}" dx="12" dy="-8">{escape(row["kind"])}'
        marks += f"{ring}{name} {mean:.3f}</text>"
    for cached in (32, 64, 128, 256):
        x = place(cached, mean)[0]
        marks += f'<text class="mid" x="{x}" y="100%" dy="18">{cached}</text>'
    words = "; ".join(
        f"{row['kind']}: {row['cached']} numbers, {m:.3f} bits per byte"
        for row, m in zip(rows, means, strict=True)
    )
    return (
        '<figure class="chart"><div class="head"><span>bits per byte (lower is better) against '
        'numbers cached per token and layer</span></div><div class="plot" style="--room: 12">'
        f'<svg role="img" width="100%" height="260"><title>Quality against cache</title>'
        f"<desc>{escape(words)}</desc>{marks}</svg></div></figure>"
    )


def body_of(rows: list[dict], scale: Scale, said: list[str], facts: str) -> str:
    """The HTML of the page."""
    lines = cells(rows, scale)
    parts = [  # two, for the width of a phone
        table([*lines[0][part]], [[row[0].replace("-", "\u2011"), *row[part]] for row in lines[1:]])
        for part in (slice(1, 7), slice(7, None))
    ]
    curves = [
        Line(row["kind"], np.arange(1, scale.steps + 1.0), np.mean(row["curves"], axis=0), i)
        for i, row in enumerate(rows)
    ]
    body = f"<p>{escape(facts)}</p>{'<p></p>'.join(parts)}<h2>What it shows</h2><ul>"
    body += "".join(f"<li>{escape(sentence)}</li>" for sentence in said)
    body += f"</ul><h2>Quality against cache</h2>{picture(rows)}<h2>Training</h2>"
    return body + line_chart("Loss on training text", "bits per byte", curves, ceiling=4.0)


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="three seeds, longer")
    parser.add_argument("--threads", type=int, default=2)
    cpu_alone(parser, "decoding is timed by the seconds that one thread works")
    options = parser.parse_args(arguments)
    set_threads(options.threads)
    kind, out = chosen(options, "attention_kinds")
    scale = {"full": FULL, "quick": QUICK, "default": DEFAULT}[kind]
    began, text = time.perf_counter(), read_text(scale)
    rows = measure(text, scale)
    tokens = scale.steps * scale.batch * scale.length
    facts = (
        f"{scale.seeds} seed{'s' if scale.seeds > 1 else ''}, {scale.steps} steps of {scale.batch} "
        f"× {scale.length} bytes ({tokens:,}), {len(text[1]):,} held-out, "
        f"{options.threads} threads, {time.perf_counter() - began:.0f} seconds"
    )
    said, lines = findings(rows, scale), cells(rows, scale)
    print(f"\n{facts}\n\n{text_table(lines[0], lines[1:])}\n\n" + "\n".join(said))
    html = page("Four kinds of attention at equal parameters", body_of(rows, scale, said, facts))
    publish(out, "attention_kinds", html, facts=facts, findings=said, rows=rows,
            scale=asdict(scale))  # fmt: skip


if __name__ == "__main__":
    run(main)
