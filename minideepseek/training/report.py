r"""The report of a run: one HTML page that needs nothing but a browser.

A training run ends in numbers that nobody reads unless they are drawn. `write_report` draws them
into one file that can be mailed, printed and opened in ten years: no script is needed to read it,
nothing is fetched (a Content-Security-Policy in the page forbids it, so that a mistake here
cannot change that), and the figures are the inline SVG of `figures.py`.

The page is an ordered list of sections. A section is a function of the record that returns HTML,
or "" where the run has nothing to show: a model without MTP has no MTP figure. Another chapter
adds its own by passing a longer list:

    write_report("report.html", record, [*SECTIONS, reward_curve])

Two units appear. A loss is a mean of −ln p(next token), in nats per token. Bits per byte is
−log₂ p of the whole held-out text over its length in bytes; it does not depend on the tokenizer
and is what a compressor reaches when it stores the text: 8 · compressed bytes / bytes.
MaxVio (Wang et al. 2024, arXiv 2408.15664) is maxᵢ loadᵢ / mean(load) − 1: 0 is perfect balance.

Samples are shown as they came. A character that prints nothing (a control, a half of a pair, a
byte that is no UTF-8 and arrived by `errors="surrogateescape"`) is shown as its number in a box.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.model.files import atomic_write
from minideepseek.training.figures import LEVEL_NAMES, SMOOTHED, Line, heat_map, line_chart
from minideepseek.training.page import cell, page, paragraph, show_text
from minideepseek.training.scales import matrix, number, short


@dataclass(frozen=True)
class RunRecord:
    """What a report is made of.

    config: facts for a table, in order: parameters, steps, device, corpus hash, time …
    metrics: the objects of metrics.jsonl, one a step; keys may be missing, null or NaN.
    baselines: bits per byte that compressors reach on the same held-out text, by name.
    samples: (title, prompt, continuation), as they came.
    notes: plain sentences, such as what the samples show.
    mtp_modules: how many of the layers in max_vio and expert_load, the last ones, are MTP modules.
    """

    title: str
    config: dict[str, Any] = field(default_factory=dict)
    metrics: Sequence[dict[str, Any]] = ()
    baselines: dict[str, float] = field(default_factory=dict)
    samples: Sequence[tuple[str, str, str]] = ()
    notes: Sequence[str] = ()
    mtp_modules: int = 0


Section = Callable[[RunRecord], str]


# ------------------------------------------------------------------------------ the numbers
def column(metrics: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """(N,) the values of one key, NaN where there is none."""
    return np.array([number(record.get(key)) for record in metrics], dtype=float)


def steps(metrics: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N,) the step of each record; its place in the file where the step is missing."""
    found = column(metrics, "step")
    return np.where(np.isfinite(found), found, np.arange(1, len(found) + 1))


def by_layer(metrics: Sequence[dict[str, Any]], key: str) -> list[tuple[Any, ...]]:
    """For each MoE layer its entry in every record, None where there is none."""
    return list(zip_longest(*(record.get(key) or () for record in metrics)))


def layer_names(record: RunRecord, count: int) -> list[str]:
    """Of the `count` layers that `by_layer` gives."""
    main = max(0, count - record.mtp_modules)
    modules = [f"MTP module {i + 1}" for i in range(count - main)]
    return [f"MoE layer {i + 1}" for i in range(main)] + modules


def curve(record: RunRecord, key: str, name: str, colour: int = 0) -> Line:
    """A line of one key over the steps."""
    return Line(name, steps(record.metrics), column(record.metrics, key), colour)


def levels(record: RunRecord) -> dict[str, float]:
    """The compressors' bits per byte that are numbers, the weakest first."""
    known = [(name, number(bits)) for name, bits in record.baselines.items()]
    return dict(sorted((pair for pair in known if pair[1] >= 0), key=lambda pair: -pair[1]))


def missing(record: RunRecord, key: str) -> str:
    """A sentence naming the steps at which a number was NaN or infinite; "" if there is none."""
    bad = [
        int(step)
        for step, row in zip(steps(record.metrics), record.metrics, strict=True)
        if row.get(key) is not None and math.isnan(number(row[key]))
    ]
    places = ", ".join(f"{step:,}" for step in bad[:3])
    places += f" and {len(bad) - 3:,} more" if len(bad) > 3 else ""
    return f" <strong>Not a finite number at step {places}.</strong>" if bad else ""


# ----------------------------------------------------------------------------- the sections
def verdict(record: RunRecord) -> str:
    """One paragraph: the last bits per byte, which compressors it beats, where it loses."""
    measured = [row for row in record.metrics if row.get("bits_per_byte") is not None]
    if not measured:
        return ""
    value = number(measured[-1]["bits_per_byte"])
    if math.isnan(value):
        return paragraph("The last measurement of bits per byte is not a finite number.")
    step = int(steps(measured)[-1])
    text = (
        f"At step {step:,} the model spends <strong>{value:.2f} bits</strong> on each byte of "
        "text it has never seen."
    )
    ours = round(value, 2)
    for word, holds in (("It beats", -1), ("It is level with", 0), ("It loses to", 1)):
        names = [
            f"{show_text(name)} ({level:.2f})"
            for name, level in levels(record).items()
            if (ours > round(level, 2)) - (ours < round(level, 2)) == holds
        ]
        if names:
            text += f" {word} {', '.join(names[:-1])}{' and ' * (len(names) > 1)}{names[-1]}."
    return f'<p class="lead">{text}</p>'


def bits_per_byte(record: RunRecord) -> str:
    """Section: held-out bits per byte beside the compressors'."""
    measured = [row for row in record.metrics if row.get("bits_per_byte") is not None]
    if not measured:
        return ""
    values = column(measured, "bits_per_byte")
    compressors = levels(record)
    ceiling = 1.5 * max(compressors.values(), default=math.inf)
    chart = line_chart(
        "Bits per byte on held-out text",
        "bits per byte of held-out text, lower is better",
        [Line("model", steps(measured), values, smooth=False)],
        compressors,
        ceiling,
        height=320,
    )
    text = "Dashed: general compressors on the same text." if compressors else ""
    if any("primed" in name for name in compressors):
        text += " A primed one has read the training text first, as the model has."
    finite = values[np.isfinite(values)]
    if len(finite) and finite[0] > ceiling >= finite[-1]:
        text += f" The curve begins above the frame, at {finite[0]:.2f}."
    text += missing(record, "bits_per_byte")
    return "<h2>Against compressors</h2>" + paragraph(text) + chart


def samples(record: RunRecord) -> str:
    """Section: what the model wrote on the way."""
    if not record.samples:
        return ""
    blocks = "".join(
        f'<figure class="sample"><figcaption>{show_text(title)}</figcaption><pre>'
        f'<span class="prompt">{show_text(prompt)}</span>'
        f'<span class="new">{show_text(continuation)}</span></pre></figure>'
        for title, prompt, continuation in record.samples
    )
    text = "Unedited. Shaded: what the model was given. The rest: what it wrote."
    return f'<h2>What it writes</h2>{paragraph(text)}<div class="pair">{blocks}</div>'


def loss(record: RunRecord) -> str:
    """Section: training and held-out loss."""
    if not record.metrics:
        return ""
    lines = [curve(record, "main_loss", "next token")]
    total = curve(record, "loss", "total", 1)
    if not np.allclose(total.y, lines[0].y, rtol=1e-3, equal_nan=True):
        lines.append(total)
    text = "Mean of −ln p over the tokens of a batch."
    if len(record.metrics) >= SMOOTHED:
        text = "Faint: each step. Above it: the running mean, whose last value stands at the end."
    if len(lines) > 1:
        text += " The total adds the weighted losses of multi-token prediction and balance."
    text += missing(record, "main_loss") or missing(record, "loss")
    chart = line_chart("Training loss", "training loss, nats per token", lines)
    return "<h2>Loss</h2>" + paragraph(text) + chart


def mtp_loss(record: RunRecord) -> str:
    """Section: the modules' losses beside the main model's."""
    if all(row.get("mtp_loss") is None for row in record.metrics):
        return ""
    lines = [
        curve(record, "mtp_loss", "one further", 2),
        curve(record, "main_loss", "next token"),
    ]
    text = (
        "The MTP module predicts the token after next, and is told the token in between: it knows "
        "as much as the model does one position later, and has one layer more to think."
    )
    text += missing(record, "mtp_loss")
    chart = line_chart("Loss of multi-token prediction", "nats per token", lines)
    return "<h2>Multi-token prediction</h2>" + paragraph(text) + chart


def expert_load(record: RunRecord) -> str:
    """Section: how the tokens spread over the experts, by layer."""
    loads = [matrix(rows) for rows in by_layer(record.metrics, "expert_load")]
    if not loads:
        return ""
    x = steps(record.metrics)
    # Thousands of layers × experts must not make a page of a hundred megabytes.
    columns = min(120, max(20, 100_000 // max(1, sum(load.shape[1] for load in loads))))
    names = layer_names(record, len(loads))
    maps = [heat_map(name, x, load, columns) for name, load in zip(names, loads, strict=True)]
    key = "".join(f'<span class="k{i}">{name}</span>' for i, name in enumerate(LEVEL_NAMES))
    text = (
        "Share of the tokens that each expert received. One row is one expert, one colour a "
        "multiple of the fair share. Collapsed routing shows as rows that receive no token."
    )
    pairs = f'<div class="key">{key}</div><div class="pair">{"".join(maps)}</div>'
    return "<h2>Load of the experts</h2>" + paragraph(text) + pairs


def max_vio(record: RunRecord) -> str:
    """Section: MaxVio by layer."""
    values = matrix(by_layer(record.metrics, "max_vio"))  # (layers, N)
    if not len(values):
        return ""
    x = steps(record.metrics)
    if len(values) <= 6:
        names = layer_names(record, len(values))
        lines = [Line(names[i], x, y, i) for i, y in enumerate(values)]
    else:  # more lines than colours: the worst and the middle one of each step
        worst, middle = np.max(values, axis=0), np.median(values, axis=0)
        lines = [Line("worst", x, worst, 1), Line("median", x, middle, 0)]
    text = (
        "MaxVio of each MoE layer: how far the busiest expert lies above the fair share, in "
        "units of that share. 0 is perfect balance; 1 is one expert with twice its share."
    )
    dead = record.metrics[-1].get("dead_experts")
    if dead:
        text += f" Experts without a token in the last step, by layer: {cell(dead)}."
    chart = line_chart("MaxVio", "busiest expert / fair share − 1", lines, from_zero=True)
    return "<h2>Balance</h2>" + paragraph(text) + chart


def pace(record: RunRecord) -> str:
    """Section: tokens per second, gradient norm, learning rate."""
    x = steps(record.metrics)
    charts = []
    for key, unit in (
        ("learning_rate", "learning rate"),
        ("grad_norm", "gradient norm"),
        ("tokens_per_second", "tokens per second"),
    ):
        line = Line("", x, column(record.metrics, key), 3, smooth=key != "learning_rate")
        if np.isfinite(line.y).any():
            charts.append(line_chart(unit, unit, [line], from_zero=True, height=130))
    return f'<h2>Pace</h2><div class="three">{"".join(charts)}</div>' if charts else ""


def notes(record: RunRecord) -> str:
    """Section: what the run noted."""
    items = "".join(f"<li>{show_text(note)}</li>" for note in record.notes)
    return f"<h2>Notes</h2><ul>{items}</ul>" if items else ""


COUNTED = ("step", "tokens", "seconds", "learning_rate")  # their lowest value says nothing
RECORDED = {
    "step": "step",
    "tokens": "tokens seen",
    "seconds": "seconds",
    "bits_per_byte": "bits per byte, held out",
    "loss": "total loss",
    "main_loss": "loss of the next token, nats",
    "mtp_loss": "loss of one further, nats",
    "aux_loss": "auxiliary loss",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "max_vio": "MaxVio by MoE layer",
    "dead_experts": "dead experts by MoE layer",
}


def final_numbers(record: RunRecord) -> str:
    """First, lowest and last value of each recorded number."""
    rows, begin = [], steps(record.metrics)
    for key, name in RECORDED.items():
        places = [i for i, m in enumerate(record.metrics) if m.get(key) not in (None, [])]
        values = [record.metrics[i][key] for i in places]
        finite = [value for value in map(number, values) if math.isfinite(value)]
        if values:
            lowest = short(min(finite)) if finite and key not in COUNTED else ""
            later = f" (step {begin[places[0]]:,.0f})" if places[0] else ""
            cells = f"<td>{cell(values[0])}{later}</td><td>{lowest}</td><td>{cell(values[-1])}</td>"
            rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    names = "".join(f'<th scope="col">{name}</th>' for name in ("first", "lowest", "last"))
    head = f"<tr><td></td>{names}</tr>"
    return f'<h2>Numbers</h2><table>{head}{"".join(rows)}</table>' if rows else ""


def facts(record: RunRecord) -> str:
    """Section: the run's settings and the machine."""
    body = "".join(
        f'<tr><th scope="row">{show_text(name)}</th><td>{cell(value)}</td></tr>'
        for name, value in record.config.items()
    )
    return f'<h2>The run</h2><table class="facts">{body}</table>' if body else ""


SECTIONS: tuple[Section, ...] = (
    verdict,
    bits_per_byte,
    samples,
    notes,
    loss,
    mtp_loss,
    expert_load,
    max_vio,
    pace,
    final_numbers,
    facts,
)


def render_report(record: RunRecord, sections: Sequence[Section] = SECTIONS) -> str:
    """The page as text."""
    parts = (section(record) for section in sections)
    return page(record.title, "\n".join(f"<section>{part}</section>" for part in parts if part))


def write_report(
    path: str | os.PathLike[str], record: RunRecord, sections: Sequence[Section] = SECTIONS
) -> Path:
    """Write the page atomically and return its path.

    Raises CheckpointError where the system refuses; what was at `path` is then untouched.
    """
    text = render_report(record, sections)
    with atomic_write(path) as file:
        file.write(text.encode(errors="replace"))
    return Path(path)
