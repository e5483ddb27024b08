r"""The curves of the reasoning part's report, each a function of the record that returns HTML.

Shares are drawn in per cent, lengths in tokens of the response, the end token included. A figure
without a number to draw is "", and so is a section without a figure.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from minideepseek.reasoning.record import BEFORE, CONTROL, ReasoningRecord, percent
from minideepseek.training import report as language_report
from minideepseek.training.figures import Line, line_chart
from minideepseek.training.report import RunRecord, curve, missing, paragraph
from minideepseek.training.scales import number, short


# ------------------------------------------------------------------------------- the pieces
def total(run: RunRecord, key: str) -> float:
    """Sum of a key's finite values."""
    values = [number(row.get(key)) for row in run.metrics]
    return sum(value for value in values if math.isfinite(value))


def curves(run: RunRecord, names: Mapping[str, str], scale: float = 1.0) -> list[Line]:
    """A line for each key → name over the steps that have it."""
    lines = []
    for colour, (key, name) in enumerate(names.items()):
        rows = [row for row in run.metrics if row.get(key) is not None]
        if rows:
            line = curve(RunRecord("", metrics=rows), key, name, colour % 6)
            lines.append(replace(line, y=line.y * scale, smooth=not key.startswith("eval/")))
    return lines


def chart(
    run: RunRecord, names: Mapping[str, str], unit: str, scale: float = 1.0, **kinds: Any
) -> str:
    """A figure of some keys, "" where none was logged; `kinds` go to `line_chart`."""
    lines = curves(run, names, scale)
    return line_chart(unit, unit, lines, from_zero=True, **kinds) if lines else ""


def titled(title: str, text: str, *figures: str) -> str:
    """A section of one figure, or of several side by side; "" where there is none."""
    drawn = [figure for figure in figures if figure]
    if not drawn:
        return ""
    body = drawn[0] if len(drawn) == 1 else f'<div class="pair">{"".join(drawn)}</div>'
    return f"<h2>{title}</h2>{paragraph(text) if text else ''}{body}"


def _bad(run: RunRecord, keys: Iterable[str]) -> str:
    """The first of the keys' sentences about values that are not finite."""
    return next(filter(None, (missing(run, key) for key in keys)), "")


def _from_cold_start(record: ReasoningRecord) -> RunRecord:
    """The metrics of GRPO with the cold start's evaluation in front, as step 0."""
    run = record.run("grpo")
    start = {f"eval/{k}": record.found(BEFORE, k) for k in ("accuracy", "greedy", "length")}
    start = {key: value for key, value in start.items() if math.isfinite(value)}
    return replace(run, metrics=[{"step": 0, **start}, *run.metrics]) if start else run


# ----------------------------------------------------------------------------- the sections
def accuracy(record: ReasoningRecord) -> str:
    """Accuracy on held-out problems over the steps of GRPO; the control as a level."""
    run = _from_cold_start(record)
    names = {"eval/accuracy": "temperature 1", "eval/greedy": "greedy"}
    control = record.found(CONTROL, "accuracy")
    levels = {} if math.isnan(control) else {"control": 100 * control}
    figure = chart(
        run, names, "% of held-out problems solved", 100, levels=levels, ceiling=100, height=320
    )
    text = "Step 0 is the cold start." if len(run.metrics) > len(record.run("grpo").metrics) else ""
    if levels:
        text += " Dashed: as many supervised steps in place of GRPO."
    return titled("Held-out accuracy", text + _bad(run, names), figure)


def reward(record: ReasoningRecord) -> str:
    """The reward and its parts, mean over the batch of each step."""
    run = record.run("grpo")
    parts = {key for row in run.metrics for key in row if re.fullmatch(r"rewards/[^/]+", key)}
    names = {"reward": "reward"} | {key: key.removeprefix("rewards/") for key in sorted(parts)}
    text = (
        "Mean over the answers of a step, on training problems. The reward is the weighted sum of "
        "its parts; the parts are drawn as they are." + _bad(run, names)
    )
    return titled("Reward", text, chart(run, names, "reward"))


def length(record: ReasoningRecord) -> str:
    """How long it thinks: the plot of R1-Zero's paper."""
    run = _from_cold_start(record)
    names = {
        "completions/mean_length": "sampled",
        "completions/mean_terminated_length": "ended by itself",
        "eval/length": "held out",
    }
    text = (
        "Nothing in the reward asks for length: an answer earns the same after one attempt and "
        "after ten." + _bad(run, names)
    )
    figure = chart(run, names, "tokens an answer, mean", height=320)
    return titled("Thinking length", text, figure)


def drift(record: ReasoningRecord) -> str:
    """Entropy of the policy and its distance from the cold start."""
    run = record.run("grpo")
    text = (
        "Entropy: how open the next token is, mean over the tokens of the answers. KL: how far the "
        "policy has moved from its reference." + _bad(run, ("entropy", "kl"))
    )
    entropy = chart(run, {"entropy": "entropy"}, "entropy, nats per token")
    return titled("Drift", text, entropy, chart(run, {"kl": "KL"}, "KL, nats per token"))


def signal(record: ReasoningRecord) -> str:
    """Groups without a lesson, clipped tokens, the size of the gradient."""
    run = record.run("grpo")
    clips = {"clip_ratio/low_mean": "below", "clip_ratio/high_mean": "above"}
    text = (
        "A group whose answers all earn the same has advantages of 0 and teaches nothing. Clipped "
        "tokens have a ratio outside the trusted range on the side where the gradient is cut off."
    )
    gaps = [number(row.get("sampler_gap")) for row in run.metrics]
    gaps = [gap for gap in gaps if math.isfinite(gap)]
    if gaps:
        text += f" Sampler and trainer differ by at most {short(max(gaps), 3)} nats on a token."
    figures = [
        chart(run, {"frac_reward_zero_std": "equal"}, "% of groups with equal rewards", 100),
        chart(run, clips, "% of tokens clipped", 100),
        chart(run, {"completions/clipped_ratio": "cut off"}, "% cut off by the limit", 100),
        chart(run, {"grad_norm": "norm"}, "gradient norm"),
    ]
    return titled("Signal", text + _bad(run, ("grad_norm",)), *figures)


def pace(record: ReasoningRecord) -> str:
    """Seconds and tokens per second of sampling and training."""
    run = record.run("grpo")
    sampling, training = total(run, "sample_seconds"), total(run, "train_seconds")
    seconds = {"sample_seconds": "sampling", "train_seconds": "training"}
    tokens = {"sample_tokens_per_second": "sampling", "train_tokens_per_second": "training"}
    text = ""
    if sampling + training > 0:
        text = f"Sampling takes {percent(sampling / (sampling + training))} of the time of a step."
    figures = [chart(run, seconds, "seconds a step"), chart(run, tokens, "tokens per second")]
    return titled("Pace", text, *figures)


def balance(record: ReasoningRecord) -> str:
    """MaxVio of the MoE layers during GRPO."""
    return language_report.max_vio(record.run("grpo"))


STAGES = {"pretrain": "pre-training", "sft": "cold start", "control": "control"}


def losses(record: ReasoningRecord) -> str:
    """The supervised stages; GRPO's loss is not drawn, for it does not show progress."""
    figures = []
    for stage, name in STAGES.items():
        run = record.run(stage)
        key = "main_loss" if any("main_loss" in row for row in run.metrics) else "loss"
        figures.append(chart(run, {key: ""}, f"{name}: nats per token"))
    text = (
        "Mean of −ln p of the next token: over whole documents in pre-training, over responses "
        "after that. The loss of GRPO does not show progress, so it is not drawn."
    )
    return titled("Supervised stages", text, *figures)
