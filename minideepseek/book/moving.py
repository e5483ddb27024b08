r"""Figures that move, from records of real runs

    cache       gigabytes of a cache against the context, by the ledger: nothing is recorded
    experts     a text coloured by the expert that takes each byte, while the model learns
    drafts      speculative decoding, a judgement at a time
    thoughts    what a model answers while GRPO goes on

Each is a still picture first, its last frame, and complete without a script. moving.js adds a
button and a slider and draws the other frames into the same elements; nothing moves unasked, and
where a reader wants less motion the button goes on by one frame.

`python -m demos.record_book` makes the records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.ledger import cache_elements

CARD = 80e9  # bytes of one accelerator's memory
CONTEXTS = range(2048, 131072 + 1, 2048)
SHOWN_KINDS = ("MHA", "GQA-8", "MQA", "MLA")
_TRY = re.compile(r" ([?!]) ")


@dataclass(frozen=True)
class Figure:
    """A still picture, and what moves it.

    stage: its HTML; says: what stands below its last frame; frames: their number; pace:
    milliseconds a frame; source: where it comes from; data: what moving.js draws from.
    """

    kind: str
    title: str
    text: str
    stage: str
    says: str
    frames: int
    pace: int
    source: str
    data: dict[str, Any]

    @property
    def anchor(self) -> str:
        """Its id in a page."""
        return f"moving-{self.kind}"

    @property
    def html(self) -> str:
        """The element; its data are JSON that no text in them can end."""
        raw = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        safe = raw.replace("<", "\\u003c")
        return (
            f'<figure class="moves" id="{self.anchor}" data-kind="{self.kind}" '
            f'data-last="{self.frames - 1}" data-pace="{self.pace}">\n'
            f"<figcaption><strong>{escape(self.title)}</strong> {escape(self.text)}</figcaption>\n"
            f'<p class="says">{escape(self.says)}</p>\n<div class="stage">{self.stage}</div>\n'
            f'<p class="source">{escape(self.source)}</p>\n'
            f'<script type="application/json">{safe}</script>\n</figure>\n'
        )


def record(name: str) -> dict[str, Any]:
    """A record by its name."""
    folder = files("minideepseek.book") / "records"
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


def cache() -> Figure:
    """A bar for each kind, as wide as the memory it takes of one card."""
    config = DeepSeekV3Config.preset("v3")
    numbers = cache_elements(config)
    per_token = {k: 2 * config.num_hidden_layers * numbers[k] for k in SHOWN_KINDS}
    longest = CONTEXTS[-1]
    rows = "".join(
        f'<span>{kind}</span><div class="track{" over" if size * longest > CARD else ""}">'
        f'<b style="--part:{min(1, size * longest / CARD):.4f}"></b></div>'
        f"<output>{gigabytes(size * longest)}</output>"
        for kind, size in per_token.items()
    )
    full = int(CARD // per_token["MHA"])
    says = f"context {longest:,} tokens"
    return Figure(
        "cache",
        "The cache of one conversation",
        "Keys and values, or latents, in BF16 at V3's size. The tracks are one card of 80 GB, "
        f"weights left aside: multi-head attention has filled it after {full:,} tokens.",
        f'<div class="bars">{rows}</div>',
        says,
        len(CONTEXTS),
        70,
        "computed from model/ledger.py",
        {"contexts": list(CONTEXTS), "sizes": list(per_token.values()), "card": CARD},
    )


def gigabytes(size: float) -> str:
    """Bytes in GB, as moving.js writes them."""
    return f"{size / 1e9:.0f} GB" if size >= 1e11 else f"{size / 1e9:.1f} GB"


def experts() -> Figure:
    """The text in eight tints, and how many of its bytes each expert has."""
    found = record("experts")
    frames, text = found["frames"], found["text"]
    last = frames[-1]["experts"]
    letters = "".join(
        f'<b class="e{e}">{escape(letter)}</b>' for letter, e in zip(text, last, strict=True)
    )
    loads = "".join(
        f'<b class="e{e}" style="--part:{last.count(str(e)) / len(text):.4f}"></b>'
        for e in range(8)
    )
    return Figure(
        "experts",
        "Who reads which byte",
        "A held-out text, each byte in the colour of the routed expert with the largest gate in "
        "the last layer. Below, the share of these bytes that each expert has: the line is a fair "
        "share. At first one expert takes nearly all; the bias undoes that, and only then do the "
        "experts part the text among themselves.",
        f'<pre class="tinted">{letters}</pre><div class="loads">{loads}</div>',
        _step(frames[-1]["step"], f"{frames[-1]['bits']:.2f} bits per held-out byte"),
        len(frames),
        900,
        _source(found),
        {
            "experts": [frame["experts"] for frame in frames],
            "says": [
                _step(frame["step"], f"{frame['bits']:.2f} bits per held-out byte")
                for frame in frames
            ],
        },
    )


def _step(step: int, what: str) -> str:
    return f"step {step} · {what}"


def drafts() -> Figure:
    """The written text, with what was refused; a frame is one judgement."""
    found = record("drafts")
    rounds = found["rounds"]
    written = sum(len(one["written"]) for one in rounds)
    marks, says = _judgements(rounds)
    key = (
        '<p class="key"><b class="yes">accepted draft</b> <b class="no">refused</b> '
        '<b class="new">drawn instead</b> <b class="bonus">bonus token</b> '
        '<b class="lost">never judged</b></p>'
    )
    return Figure(
        "drafts",
        "A text, draft by draft",
        f"{written} bytes in {len(rounds)} passes of the main model, "
        f"{written / len(rounds):.2f} a pass; without drafts each would be a pass. The "
        "model is tiny and its English poor: what is exact is the law.",
        f'{key}<pre class="drafted"><span>{_html(found["prompt"])}</span>{marks}</pre>',
        says[-1],
        len(says),
        160,
        _source(found),
        {"says": says},
    )


def _judgements(rounds: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """An element for each letter with its round and frame, and a sentence for each frame."""
    marks, says, written = list[str](), list[str](), 0
    for number, one in enumerate(rounds):
        so_far = f" · {written / number:.2f} tokens a pass so far" if number else ""
        for kind, letter, said in _letters(one):
            gone = " hidden" if kind in ("no", "lost") and number < len(rounds) - 1 else ""
            if kind != "lost":  # those fall with the refused one, in its frame
                says.append(f"pass {number + 1} of {len(rounds)} · {said}{so_far}")
            at = f'data-r="{number}" data-f="{len(says) - 1}"{gone}'
            marks.append(f'<b class="{kind}" {at}>{_html(letter)}</b>')
        written += len(one["written"])
    return "".join(marks), says


def _letters(one: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(kind, letter, what is said of it) of a round: its drafts, then what stands behind them."""
    accepted, written = one["accepted"], one["written"]
    for j, (letter, chance) in enumerate(one["drafts"]):
        said = f"{_named(letter)}: accepted with probability {chance:.2f}"
        if j < min(accepted, len(written)):
            yield "yes", letter, f"{said}, and it was"
        elif j == accepted:
            yield "no", letter, f"{said}, and it was not"
        else:
            yield "lost", letter, ""
    if len(written) > accepted:
        letter = written[-1]
        if not one["drafts"]:
            yield "own", letter, f"{_named(letter)}: the prompt's own next token"
        elif accepted < len(one["drafts"]):
            yield "new", letter, f"{_named(letter)}: drawn from the residual instead"
        else:
            yield "bonus", letter, f"{_named(letter)}: the bonus token"


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "▯" for c in text)


def _html(text: str) -> str:
    return escape(_visible(text))


def _named(letter: str) -> str:
    return {" ": "a space", "\n": "a new line"}.get(letter, f"“{_visible(letter)}”")


def thoughts() -> Figure:
    """The answers of each step, all there, and all but the last hidden."""
    found = record("thoughts")
    frames = found["frames"]
    pages = "".join(
        f'<div{" hidden" if i < len(frames) - 1 else ""}>'
        + "".join(map(_answer, found["prompts"], frame["answers"]))
        + "</div>"
        for i, frame in enumerate(frames)
    )
    bars = "".join(
        f'<b class="{"now" if i == len(frames) - 1 else ""}" style="--part:{f["reward"] or 0}"></b>'
        for i, f in enumerate(frames)
    )
    said = [
        _step(f["step"], f"reward {f['reward']:.0%}" if f["reward"] else "the cold start")
        for f in frames
    ]
    return Figure(
        "thoughts",
        "Four problems, thought about again after every step",
        "Held-out problems, spread over all of them, sampled at temperature 1 with the same random "
        "numbers each time. A try ends with ? where the model takes it for a miss and with ! "
        "where for a hit. A cold-started model soon gives up; reward teaches it to go on. Below, "
        "the reward of every step.",
        f'<div class="answers">{pages}</div><div class="rewards">{bars}</div>',
        said[-1],
        len(frames),
        700,
        _source(found),
        {"says": said},
    )


def _answer(prompt: str, answer: list[Any]) -> str:
    text, right = answer
    *tries, end = _TRY.split(text)
    spans = [
        f'<span>{escape(said)} <b class="{"hit" if mark == "!" else "miss"}">{mark}</b></span>'
        for said, mark in zip(tries[::2], tries[1::2], strict=True)
    ]
    verdict = '<b class="right">✓</b>' if right else '<b class="wrong">✗</b>'
    asked = f'<span class="asked">{escape(prompt)}</span>'
    return f"<p>{asked} {' '.join(spans)} <span>{escape(end)} {verdict}</span></p>"


def _source(found: dict[str, Any]) -> str:
    return f"{found['what']}. Recorded {found['date']}: {found['command']}"


# page → (figure, the heading that it stands before; "" for the end of the theory)
MOVING: dict[str, tuple[Callable[[], Figure], str]] = {
    "layers.mla": (cache, "The latent"),
    "layers.moe": (experts, ""),
    "model.speculative": (drafts, "What the caches hold"),
    "reasoning.grpo": (thoughts, ""),
}
