r"""What `speculative` measures with: prompts, watched rounds, and models of other sizes.

Models of other sizes have the proportions of `mini` and random weights. Their drafts would nearly
all be refused, so where their speed is measured, refusing is left to chance: a draft at position j
is accepted as often as the trained model's was. What a round costs does not depend on the tokens.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minideepseek.autograd.engine import no_grad
from minideepseek.layers.cache import ModelCache
from minideepseek.model import speculative
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.decoding import Decoding, Drafting
from minideepseek.model.generate import probabilities, request, stream
from minideepseek.model.ledger import activated_parameters
from minideepseek.model.speculative import Speculation, SpeculativeStats
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.page import show_text

PROMPT = 64  # bytes

@dataclass(frozen=True)
class Size:
    """Width d and layers of a model in `mini`'s proportions; dense: SwiGLUs alone, no experts but
    the module's."""

    width: int
    layers: int
    dense: bool = False

    def __str__(self) -> str:
        return f"{self.width} × {self.layers}{', dense' if self.dense else ''}"

    def config(self) -> DeepSeekV3Config:
        d = self.width
        sizes = {
            "hidden_size": d, "num_hidden_layers": self.layers, "intermediate_size": 2 * d,
            "num_attention_heads": max(1, d // 64), "q_lora_rank": d // 2,
            "kv_lora_rank": 3 * d // 8, "moe_intermediate_size": d // 4,
            "first_k_dense_replace": self.layers if self.dense else 1,
        }  # fmt: skip
        return DeepSeekV3Config.preset("mini", **sizes)

    def model(self) -> DeepSeekV3:
        """Random weights; one block of them many times over, which is quickly made."""
        model = DeepSeekV3.empty(self.config())
        block = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)
        block *= 0.3 / self.width**0.5  # as in `mini`; large ones make numbers that are slow
        for name, p in model.named_parameters():
            p.data[...] = 1 if name.endswith("norm.weight") else np.resize(block, p.shape)
        return model

    @property
    def megabytes(self) -> float:
        """What a token reads, in float32: activated weights, head and no embedding."""
        return 4 * activated_parameters(self.config()) / 2**20


def prompts_of(tokens: np.ndarray, count: int, length: int) -> np.ndarray:
    """(count, length) pieces of a text (M,), spread over all of it."""
    starts = np.linspace(0, len(tokens) - length, count).astype(int)
    return tokens.astype(np.int64)[starts[:, None] + np.arange(length)]


def looping(text: list[int], longest: int = 24) -> bool:
    """Whether the last bytes of a text only repeat a piece of at most so many."""
    end = text[-2 * longest :]
    return any(end[period:] == end[:-period] for period in range(1, longest + 1))


def along(model: DeepSeekV3, pieces: np.ndarray) -> dict[str, float]:
    """Of the text itself, (B, T): how often the module, told the next byte, wants the byte after
    it that the main model will want; and Σ min(p, q), at temperature 1, of their laws for it."""
    with no_grad():
        h, _ = model.hidden(model.check_ids(pieces[:, :-1]))
        states, _ = model.mtp(h, pieces, model.model.embed_tokens)[0]
        z, y = (model.logits(x).data.reshape(-1, 264) for x in (h[:, 1:], states))
    both = np.minimum(probabilities(z), probabilities(y)).sum(-1)
    return {"agree": float((z.argmax(-1) == y.argmax(-1)).mean()), "law": float(both.mean())}


def by_position(stats: SpeculativeStats) -> list[float]:
    """The share of rounds in which the draft at each position was written."""
    pairs = zip(stats.accepted, stats.drafted, strict=True)
    return [yes / max(1, all_) for yes, all_ in pairs]


def added(runs: list[SpeculativeStats]) -> SpeculativeStats:
    """The counts of several runs as of one."""

    def total(field: str) -> Any:
        return sum(getattr(run, field) for run in runs)

    columns = [np.sum([getattr(r, f) for r in runs], 0).tolist() for f in ("drafted", "accepted")]
    names = ("tokens", "main_forwards", "row_forwards", "drafting", "verifying")
    return SpeculativeStats(*columns, **{name: total(name) for name in names})


# ------------------------------------------------------------------------------------- time


def busy(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of CPU of a call; one thread works."""
    taken = []
    work()
    for _ in range(repeats):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def pass_times(model: DeepSeekV3, context: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of a main pass over 1, 2, 3 tokens, logits included, and of a module's over 1, 2, 3
    slots with the logits of the last, behind `context` tokens."""
    cache, slots = model.new_cache(1, context + 8), model.mtp.new_cache(1, context + 8)
    ids = np.random.default_rng(1).integers(0, 256, (1, context))
    h, _ = model.hidden(model.check_ids(ids), cache)
    embedding = model.model.embed_tokens.weight.data
    model.mtp.layers[0].step(h, model.model.embed_tokens(ids), slots.layers[0])
    main, module = Decoding(model, cache), Drafting(model.mtp.layers[0], slots.layers[0])

    def read(tokens: np.ndarray) -> None:
        main.logits(main(tokens))
        cache.truncate(context)

    def draft(tokens: np.ndarray) -> None:
        main.logits(module(h.data[0, : len(tokens)], embedding[tokens])[-1:])
        ModelCache(slots.layers[:1]).truncate(context)

    widths = [np.arange(1, 1 + n) for n in (1, 2, 3)]
    return {
        "main": [busy(lambda t=t: read(t), repeats) for t in widths],
        "draft": [busy(lambda t=t: draft(t), repeats) for t in widths],
    }


def predicted(times: dict[str, list[float]], shares: list[float]) -> float:
    """Speed-up over plain decoding with K = len(shares) ≤ 2 drafts accepted so often.

    A round is a pass over K + 1 tokens, a first draft whose pass refills the accepted slots too,
    and K − 1 further drafts.
    """
    k, main, draft = len(shares), times["main"], times["draft"]
    exactly = -np.diff([1.0, *shares, 0.0])  # that 0 … K drafts are accepted
    first = float(np.dot(exactly, draft[: k + 1]))
    return (1 + sum(shares)) * main[0] / (main[k] + first + (k - 1) * draft[0])


@contextlib.contextmanager
def accepting(shares: list[float]) -> Iterator[None]:
    """Inside, drafts are accepted by chance: at position j in so many of all rounds."""
    verify, rng = speculative.verify, np.random.default_rng(2)

    def by_chance(logits: np.ndarray, drafts: np.ndarray, *rest: Any) -> tuple[Any, np.ndarray]:
        many = (rng.random() < np.array(shares[: drafts.shape[1]])).sum()
        return np.full(len(drafts), many), logits.argmax(-1)[:, many]

    speculative.verify = by_chance
    try:
        yield
    finally:
        speculative.verify = verify


def rates(model: DeepSeekV3, prompt: np.ndarray, new: int, drafts: tuple[int, ...]) -> list[float]:
    """Tokens per second of CPU behind a prompt (T,): plain, then with each number of drafts.

    Passes over the prompt are left out: the main model's, and the module's in the round after it.
    """
    found = [_rate(lambda: stream(model, prompt[None], new + 1), lambda step: 1, skip=1)]
    for k in drafts:
        asked = request(model, prompt[None], new + 1, 0.0, None, 1.0, None, None, None)
        run = Speculation(model, asked, k)
        found.append(_rate(lambda run=run: iter(run), lambda blocks: len(blocks[1][0]), skip=2))
    return found


def _rate(run: Callable[[], Iterator[Any]], tokens: Callable[[Any], int], skip: int) -> float:
    steps = run()
    for _ in range(skip):
        next(steps)
    began = time.process_time()
    count = sum(tokens(step) for step in steps)
    return count / (time.process_time() - began)


def growing(
    sizes: Sequence[Size], shares: dict[int, list[float]], context: int, turns: int, timed: int
) -> list[dict[str, Any]]:
    """Times and speed-ups of models of other sizes behind `context` tokens.

    shares: the acceptance by position, by K; turns: of timing a pass, timed: of a generation.
    """
    rows = []
    for size in sizes:
        model = size.model()
        times = pass_times(model, context, turns)
        new = max(12, min(128, int(0.5 / times["main"][0])))
        measured: dict[int, float] = {}
        for k, share in shares.items():
            with accepting(share):
                pairs = [
                    rates(model, np.arange(context), new, (k,)) for _ in range(timed)
                ]
            measured[k] = statistics.median(b / a for a, b in pairs)
        rows.append({
            "size": str(size), "dense": size.dense, "MB": size.megabytes, "times": times,
            "predicted": {k: predicted(times, share) for k, share in shares.items()},
            "measured": measured,
        })  # fmt: skip
        print(f"  {size}: {', '.join(f'{v:.2f}' for v in measured.values())}", flush=True)
    return rows


def break_even(grown: list[dict[str, Any]], k: int) -> str:
    """From which size on K drafts pay, as measured."""
    experts = [row for row in grown if not row["dense"]]
    pays = [row["measured"][k] > 1 for row in experts]
    first = next((i for i in range(len(pays)) if all(pays[i:])), None)
    dense = ", ".join(
        f"{row['size']} {row['measured'][k]:.2f} ×" for row in grown if row["dense"]
    )
    best = max(experts, key=lambda row: row["measured"][k])
    tail = f" Without experts in the main model: {dense}." if dense else ""
    if first is None:
        return (
            f"they pay from no size on, up to {experts[-1]['size']} (most: "
            f"{best['measured'][k]:.2f} × at {best['size']}).{tail}"
        )
    row = experts[first]
    return (
        f"they pay from {row['size']} on ({row['MB']:.0f} MB read a token, "
        f"{row['measured'][k]:.2f} ×; most {best['measured'][k]:.2f} × at {best['size']}).{tail}"
    )


def grown_cells(grown: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table of sizes."""
    head = ["", "MB read", "ms, main", "ms, draft"]
    head += [f"{w}, {k}" for k in grown[0]["measured"] for w in ("predicted", "measured")]
    lines = []
    for row in grown:
        ms = [" ".join(f"{1e3 * t:.2f}" for t in row["times"][key]) for key in ("main", "draft")]
        both = [f"{row[w][k]:.2f}" for k in row["measured"] for w in ("predicted", "measured")]
        lines.append([row["size"], f"{row['MB']:.0f}", *ms, *both])
    return head, lines


# ---------------------------------------------------------------------------------- a picture


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[list[int], int, int]]]:
    """Inside, every round of a single row is noted: (drafts, how many accepted, the token then)."""
    verify, seen = speculative.verify, list[tuple[list[int], int, int]]()

    def noted(logits: np.ndarray, drafts: np.ndarray, *rest: Any) -> tuple[Any, Any]:
        accepted, token = verify(logits, drafts, *rest)
        seen.append((drafts[0].tolist(), int(accepted[0]), int(token[0])))
        return accepted, token

    speculative.verify = noted
    try:
        yield seen
    finally:
        speculative.verify = verify


def drafted_text(model: DeepSeekV3, prompt: np.ndarray, new: int, temperature: float) -> str:
    """HTML of one text, two drafts a round: each byte as it came to be."""
    with watched() as seen:
        speculative.generate_speculative(
            model, prompt[None], new, temperature, draft_tokens=2, rng=np.random.default_rng(1)
        )
    parts = [f'<span class="prompt">{show_text(_text(prompt.tolist()))}</span>']
    for drafts, many, token in seen:
        for j, y in enumerate(drafts[:many]):
            shown = show_text(_text([y]))
            parts.append(f'<span style="background: var(--h{3 - j})">{shown}</span>')
        if many < len(drafts):
            parts.append(f'<s class="miss">{show_text(_text([drafts[many]]))}</s>')
        parts.append(show_text(_text([token])))
    return f"<pre>{''.join(parts)}</pre>"


def _text(tokens: list[int]) -> str:
    return bytes(t if t < 256 else 63 for t in tokens).decode("latin-1")


KEY = (
    '<div class="key"><span style="--k: var(--h3)">first draft, accepted</span>'
    '<span style="--k: var(--h2)">second draft, accepted</span>'
    '<span style="--k: var(--s1)">struck out: a draft that was refused</span>'
    '<span style="--k: var(--paper)">written by the main model itself</span></div>'
)
