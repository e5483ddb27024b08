r"""What the two demos of chapter 3 share: a small model, its text, training, measures and tables.

The model is DeepSeekV3 with 3 layers of width 64, of which the first is dense; 331,296 parameters.
The text is the standard library's docstrings, as bytes; the held-out part is never trained on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from minideepseek.autograd.backend import like, to_host
from minideepseek.autograd.engine import Tensor, no_grad, ops
from minideepseek.layers.moe import Routing, max_violation
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.tokenizer import ByteTokenizer
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.corpus import docstring_corpus, prepare_corpus
from minideepseek.training.data import BatchLoader, evaluation_windows, pack
from minideepseek.training.figures import LEVEL_NAMES, LEVELS
from minideepseek.training.optim import AdamW, clip_grad_norm, cosine_schedule, matrices_only

VOCABULARY = 264
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Scale:
    """How much of everything.  held_out: tokens of the held-out text; sequences in bytes."""

    seeds: int = 1
    steps: int = 500
    batch: int = 8
    length: int = 128
    held_out: int = 1 << 30
    learning_rate: float = 4e-3


DEFAULT, FULL, QUICK = Scale(), Scale(seeds=3), Scale(steps=12, batch=2, length=32, held_out=2048)


@dataclass(frozen=True)
class Text:
    """Tokens to learn from and tokens to be judged by, (M,) each."""

    train: np.ndarray
    held_out: np.ndarray


@functools.cache
def read_text(scale: Scale) -> Text:
    corpus, tokenizer = prepare_corpus(docstring_corpus()), ByteTokenizer()
    train, held_out = (pack(part, tokenizer) for part in (corpus.train, corpus.held_out))
    return Text(train, held_out[: scale.held_out])


def small_config(**changes: Any) -> DeepSeekV3Config:
    """3 layers of width 64; 16 experts of width 32, a token uses 4, and a shared one."""
    sizes = {
        "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 128,
        "num_attention_heads": 2, "q_lora_rank": None, "kv_lora_rank": 32,
        "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 32,
        "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0, "aux_loss_alpha": 0.0,
    }  # fmt: skip
    return DeepSeekV3Config.preset("mini", **(sizes | changes))


def train(
    model: DeepSeekV3,
    text: Text,
    scale: Scale,
    seed: int,
    extra: Callable[[Routing], Tensor] | None = None,
    after: Callable[[int, list[Routing]], None] = lambda step, routings: None,
) -> Rows:
    """Train; one row of numbers a step.

    extra: a loss of each MoE layer's routing that is added to the model's. after: called behind
    every optimiser step with the step, from 0, and the routings of that step.
    """
    loader = BatchLoader(text.train, scale.batch, scale.length, np.random.default_rng(seed))
    parameters = model.parameters()
    optimiser = AdamW(parameters, scale.learning_rate, weight_decay=matrices_only(0.1))
    rows: Rows = []
    for step in range(scale.steps):
        optimiser.zero_grad()
        losses = model.losses(loader.next_batch(), mtp_weight=0.0)
        total = losses.total
        if extra is not None:
            for routing in losses.routings:
                total = total + extra(routing)
        total.backward()
        clip_grad_norm(parameters, 1.0)
        optimiser.lr = cosine_schedule(step, scale.steps, scale.learning_rate, scale.steps // 20)
        optimiser.step()
        after(step, losses.routings)
        loads = [routing.counts for routing in losses.routings]
        rows.append({"loss": losses.main.item()} | worst(loads))
    return rows


def worst(loads: list[list[int]]) -> dict[str, float]:
    """Balance of the layers by their experts' loads: the worst layer's, and all dead experts.

    max_vio: max load / mean load − 1; least: min load / mean load.
    """
    return {
        "max_vio": max(map(max_violation, loads), default=0.0),
        "least": min((min(load) * len(load) / sum(load) for load in loads), default=1.0),
        "dead": sum(load.count(0) for load in loads),
    }


def judge(model: DeepSeekV3, text: Text, scale: Scale) -> dict[str, Any]:
    """Bits per byte of the held-out text, and who got its tokens.

    The figures of `worst`, pooled over the text; table: (byte, expert) counts of the last MoE layer
    and bits, I(byte; expert) there: what an expert's name tells about the byte it was given.
    """
    nats, count = 0.0, 0
    tables: list[np.ndarray] = []
    for ids, mask in evaluation_windows(text.held_out, scale.length, scale.length):
        sent = model.check_ids(ids)
        with no_grad():
            h, routings = model.hidden(sent[:, :-1])
            weights = like(mask, sent).astype(h.dtype)
            loss = ops.softmax_cross_entropy(
                model.logits(h), sent[:, 1:], weights, denominator=1.0
            )
        nats, count = nats + loss.item(), count + int(mask.sum())
        read = ids[:, :-1][mask]  # the tokens whose next ones count, each once
        for i, routing in enumerate(routings):
            if i == len(tables):
                tables.append(np.zeros((VOCABULARY, len(routing.counts)), np.int64))
            chosen = to_host(routing.indices).reshape(*mask.shape, -1)[mask]  # (n, k)
            np.add.at(tables[i], (read[:, None], chosen), 1)
    found = {"bits_per_byte": nats / count / np.log(2)}
    found |= worst([table.sum(0).tolist() for table in tables])
    if tables:
        found |= {"bits": information(tables[-1]), "table": tables[-1].tolist()}
    return found


def information(table: np.ndarray) -> float:
    """I(row; column) in bits of a table of counts."""
    p = table / table.sum()
    apart = p.sum(1, keepdims=True) * p.sum(0)
    seen = p > 0
    return float((p[seen] * np.log2(p[seen] / apart[seen])).sum())


def facts_of(scale: Scale, text: Text, cores: int, seconds: float) -> str:
    """What a table is of."""
    return (
        f"{scale.steps} steps of {scale.batch} × {scale.length} bytes, held out "
        f"{len(text.held_out):,} bytes; seeds: {scale.seeds}, cores: {cores}, "
        f"{seconds:.0f} seconds"
    )


def answer(holds: np.ndarray) -> str:
    """Whether a claim holds, by seed."""
    return "yes" if holds.all() else "not in every seed" if holds.any() else "NO"


def byte_map(title: str, table: np.ndarray, most: int = 32) -> str:
    """A `<figure>` of the experts of the `most` frequent bytes, a column a byte, a row an expert.

    table: (byte, expert) counts. Colours are those of `heat_map`: the share of a byte's choices
    that an expert got, in fair shares. Bytes that are letters come first; experts are sorted by
    the byte they like best.
    """
    frequent = np.argsort(-table.sum(1), kind="stable")[:most]
    frequent = np.array(sorted(frequent.tolist(), key=lambda b: (not chr(b).isalpha(), b)))
    shares = table[frequent] / np.maximum(table[frequent].sum(1, keepdims=True), 1)
    shares = shares[:, np.lexsort((shares.argmax(0), shares.sum(0) == 0))] * table.shape[1]
    level = np.where(shares > 0, np.digitize(shares, LEVELS) + 1, 0)
    n, experts = level.shape
    cells = "".join(
        f'<path class="h{level[i, e]}" d="M{i} {e}h1v1h-1z"/>'
        for i in range(n)
        for e in range(experts)
    )
    names = "".join(
        f'<text class="mid" x="{(i + 0.5) / n:.2%}" y="-6">{escape(_name(int(b)))}</text>'
        for i, b in enumerate(frequent)
    )
    return (
        f'<figure class="heat"><div class="head"><span>{escape(title)}</span></div>'
        f'<div class="plot" style="padding-top: 1.5rem"><svg role="img" width="100%" height="240">'
        f"<title>{escape(title)}</title><desc>Experts of the most frequent bytes.</desc>"
        f'<g class="cells"><svg viewBox="0 0 {n} {experts}" width="100%" height="100%" '
        f'preserveAspectRatio="none">{cells}</svg></g>{names}</svg></div></figure>'
    )


def _name(byte: int) -> str:
    return {10: "↵", 32: "␣"}.get(byte, chr(byte) if 32 < byte < 127 else "·")


_LEVELS = (f'<span class="k{i}">{name}</span>' for i, name in enumerate(LEVEL_NAMES))
KEY = f'<div class="key">{"".join(_LEVELS)}</div>'  # of `byte_map`
