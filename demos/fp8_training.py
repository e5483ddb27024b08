r"""FP8 training beside float32's: gradients at one checkpoint, branches from it, whole runs.

    python -m demos.fp8_training [--full] [--quick] [--out DIR] [--cores 2]

V3's authors found the loss of FP8 training within 0.25 % of bfloat16's, with 16 billion parameters
and more over a trillion tokens. One small run cannot say that: its loss moves by more if nothing
but the seed changes. What can be measured with a model of 2.8 million (fp8_lab.py) is

1  Gradients, at a checkpoint in the middle of a float32 run: of every quantised matrix, each
   expert's own, in FP8 beside float32, from the same batch with the same experts chosen.

       error / noise    √(mean ‖ĝ − g‖²) / √(Σ_b ‖g_b − ḡ‖² / (K − 1)): the error of a batch's
                        gradient beside the spread of K batches of the training's size
       noise            the latter over ‖ḡ‖
       relative         ‖ĝ − g‖ / ‖g‖                   cosine   of ĝ and g
       loss             |L̂ − L| / L at the same weights, experts replayed
       flipped          choices of experts that FP8 makes otherwise, where it may

   by V3's recipe; by its tiles without powers of two and E5M6; with powers of two everywhere; with
   128 × 128 tiles on gradients of outputs (dY); with one scale a tensor; by rounding in the forward
   or in the backward products alone.
2  Loud tokens: the loss of the first token of each sequence counts 10 to 10⁵ times. In exact
   arithmetic the gradients that reach the embeddings of all later tokens stay what they are: by
   how much they do not, and how many numbers of dY become 0 in dX = dY W and in dW = dYᵀ X.
3  Branches of that checkpoint, moments included, to the end of the schedule: the same batches in
   float32 and in FP8, and with AdamW's moments in bfloat16. The yardstick is float32 with the same
   text in another order.
4  Whole runs from random weights, float32 and FP8 with the same batches; beside the first of them
   float32 again, from weights moved by 3 % of their size.

Gaps are in per cent of the held-out loss, as the arm computes it ("in float32": its weights read
without rounding), means ± half of a 95 % interval (Student's t), but of float32 runs beside each
other, which share partners, means alone. Prints tables and findings; writes
fp8_training.html and results.json. The default is one pair of each, --full are five, longer;
--quick only shows that everything runs. Each finished run is kept in DIR/arms and not made again:
what is interrupted goes on. Remove the folder to measure anew.
"""

from __future__ import annotations

import os
import statistics
import time
from html import escape
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import chosen, cpu_alone, publish, run, show, side_by_side, sizes  # noqa: E402
from demos.fp8_gradients import FACTORS, LOUD, WAYS  # noqa: E402
from demos.fp8_lab import (  # noqa: E402
    BRANCHES,
    FLOAT,
    FP8,
    MOVED,
    Scale,
    expected_range,
    first_tasks,
    interval,
    later_tasks,
    place,
    seeds_needed,
    work,
)
from demos.fp8_tables import SHOWN, Runs, Table, gaps, losses, measure, ratios, tables  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402

PAPER = 0.25  # per cent
COLUMNS = 3  # of a table, for the width of a phone
SCALES = {
    "default": Scale(),
    "full": Scale(
        steps=360, fork=250, seeds=5, orders=5, batches=32, checked=8, held_out=1 << 16
    ),
    "quick": Scale(
        steps=12, fork=8, neighbours=1, batches=3, checked=1, batch=2, length=32, held_out=1024,
        changes={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "kv_lora_rank": 16, "q_lora_rank": None, "intermediate_size": 64,
            "moe_intermediate_size": 32, "n_routed_experts": 4,
        },
    ),
}  # fmt: skip
def answer(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


# ------------------------------------------------------------------------------------- findings


def findings(study: dict[str, Any], runs: Runs, scale: Scale) -> list[str]:
    """What the numbers say; where a target is missed, that."""
    return [*of_gradients(study, scale), *of_branches(runs), *of_whole_runs(runs)]


def of_gradients(study: dict[str, Any], scale: Scale) -> list[str]:
    said, names = [], list(study["layers"])
    for way in SHOWN[:2]:
        found = ratios(study, way)
        below = int((found < 0.1).sum())
        said.append(
            f"{way}: the error of gradients is below a tenth of the noise between batches of "
            f"{scale.batch * scale.length:,} tokens in {below} of {found.size} quantised matrices "
            f"(all: {answer(below == found.size)}); worst {found.max():.3f}, "
            f"{names[int(found.argmax())].removesuffix('.weight')}; median {np.median(found):.3f}"
        )
    medians = {way: float(np.median(ratios(study, way))) for way in WAYS}
    averaged = float(np.median(measure(study, SHOWN[0], "averaged")))
    loss = 100 * study["ways"][SHOWN[0]]["loss"]
    said += [
        f"rounding in the forward products alone leaves a median of "
        f"{medians['forward alone']:.3f}, in the backward products alone "
        f"{medians['backward alone']:.3f}",
        f"averaged over {scale.checked} batches the error falls to {averaged:.2f} of one batch's "
        f"(independent from batch to batch: {scale.checked**-0.5:.2f}; always the same: 1)",
        f"gradients as they come, without loud tokens: median {medians['fine-grained']:.3f} "
        f"fine-grained, {medians['128 × 128 on dY']:.3f} with 128 × 128 on dY, "
        f"{medians['per tensor']:.3f} per tensor",
        f"at the same weights and experts V3's recipe moves the loss of a batch by {loss:.4f} %; "
        f"it flips {100 * study['ways'][SHOWN[0]]['flips']:.2f} % of the choices of experts",
    ]
    return said + [broken(study, way) for way in LOUD]


def broken(study: dict[str, Any], way: str) -> str:
    """From which factor on the quiet tokens' gradients are twice as wrong as without loud ones."""
    curve = study["loud"][way]
    errors, zeros, tokens = (np.array(curve[key]) for key in ("error", "dy", "dy_tokens"))
    over = np.flatnonzero(errors > 2 * errors[0])
    first = f"doubles by ×{FACTORS[over[0]]:,}" if over.size else "never doubles"
    return (
        f"loud tokens, {way}: the error of the others {first}, from {errors[0]:.3f} to "
        f"{errors[-1]:.3f} at ×{FACTORS[-1]:,}; then {zeros[-1]:.1%} of dY are 0 for dX and "
        f"{tokens[-1]:.1%} for dW (without loud ones {zeros[0]:.1%} and {tokens[0]:.1%})"
    )


def verdict(found: list[float]) -> str:
    one = interval(found)
    if len(found) == 1:
        return f"{one} %, one pair and so no interval"
    inside = answer(one.holds_zero)
    return f"{one} % over {len(found)} pairs (not to be told from zero: {inside})"


def of_branches(runs: Runs) -> list[str]:
    said = [f"branch, {name}: {verdict(gaps(runs, f'branch: {name}'))}" for name in BRANCHES]
    order = losses(runs["branch"][FLOAT])
    apart = 100 * 2**0.5 * statistics.stdev(order) / statistics.mean(order)
    largest = max(abs(statistics.mean(gaps(runs, f"branch: {name}"))) for name in BRANCHES)
    return [
        *said,
        f"the yardstick: two orders of the same text are {apart:.3f} % apart in float32 (root mean "
        f"square); the largest of these mean gaps is {largest:.3f} %",
    ]


def of_whole_runs(runs: Runs) -> list[str]:
    found, whole = gaps(runs, f"whole: {FP8}"), runs["weights"]
    said = [f"whole runs, {FP8}: {verdict(found)}; the paper's figure is {PAPER} %"]
    fp8, plain = losses(whole[FP8]), losses(whole[FLOAT])
    said.append(lesson(fp8[0], [plain[0], *losses(whole[MOVED])], "weights moved by 3 %"))
    if len(found) > 1:
        said.append(lesson(fp8[0], plain[1:], "other seeds"))
        branch = gaps(runs, f"branch: {FP8}")
        said.append(
            f"to know the gap to ± {PAPER} % takes about {seeds_needed(found, PAPER)} pairs of "
            f"whole runs, or {seeds_needed(branch, PAPER)} pairs of branches, by these spreads"
        )
    seconds = [statistics.mean(losses(whole[name], "seconds")) for name in (FP8, FLOAT)]
    said.append(f"an FP8 step takes {seconds[0] / seconds[1]:.2f} times float32's: rounding is "
                "emulated, no product is cheaper")  # fmt: skip
    return said


def lesson(fp8: float, others: list[float], how: str) -> str:
    """Whether one more float32 run could be the FP8 run."""
    shown = ", ".join(f"{loss:.4f}" for loss in others)
    if len(others) < 2:
        return f"float32 {shown}, FP8 {fp8:.4f}: one run of each says nothing"
    low, high = expected_range(others)
    told = "cannot be told from" if low <= fp8 <= high else "CAN be told from"
    return (
        f"{len(others)} float32 runs, {how}: {shown} ({100 * (max(others) / min(others) - 1):.2f} "
        f"% apart); one more would lie between {low:.4f} and {high:.4f} in 95 of 100 cases; the "
        f"FP8 run, {fp8:.4f}, {told} them"
    )


# ----------------------------------------------------------------------------------------- page


def gap_lines(found: dict[str, dict[str, Any]], plain: dict[str, Any], first: int) -> list[Line]:
    """Training loss above the float32 run's in per cent, running means of about a tenth."""
    right = np.array(plain["curve"])
    wide = max(1, len(right) // 10)
    mean = np.full(wide, 1 / wide)
    x = first + np.arange(wide, len(right) + 1.0)
    lines = []
    for colour, (name, one) in enumerate(found.items()):
        curve = np.convolve(np.array(one["curve"]) / right - 1, mean, "valid")
        lines.append(Line(name.removeprefix("FP8, "), x, 100 * curve, colour, smooth=False))
    return lines


def charts(study: dict[str, Any], runs: Runs, scale: Scale) -> str:
    place_of = np.arange(1.0, len(study["layers"]) + 1)
    lines = [Line(way, place_of, ratios(study, way), i) for i, way in enumerate(SHOWN)]
    title = "error / noise of the quantised matrices, from the first layer to the last"
    html = line_chart(title, title, lines, {"a tenth": 0.1}, from_zero=True, across="matrix")
    power = np.log10(FACTORS)
    for key, what in (("error", "error of the quiet tokens' gradients, %"),
                      ("dy", "share of dY that becomes 0 for dX, %")):  # fmt: skip
        lines = [
            Line(way, power, 100 * np.array(study["loud"][way][key]), i)
            for i, way in enumerate(LOUD)
        ]
        html += line_chart(what, what, lines, from_zero=True, across="10ˣ")
    what = "training loss above float32's, %, "
    branches = {name: runs["branch"][name][0] for name in BRANCHES}
    lines = gap_lines(branches, runs["branch"][FLOAT][0], scale.fork)
    html += line_chart(what + "branches", what + "branches of the first order", lines)
    whole = {FP8: runs["weights"][FP8][0]}
    whole |= {f"3 % beside, {n + 1}": one for n, one in enumerate(runs["weights"][MOVED])}
    lines = gap_lines(whole, runs["weights"][FLOAT][0], 0)
    return html + line_chart(what + "whole runs", what + "whole runs of the first seed", lines)


def body(facts: str, said: list[str], drawn: str, shown: dict[str, Table]) -> str:
    html = f"<p>{escape(facts)}</p><h2>What it shows</h2><ul>"
    html += "".join(f"<li>{escape(sentence)}</li>" for sentence in said) + f"</ul>{drawn}"
    for title, (head, rows) in shown.items():
        cells = [[escape(cell) for cell in row] for row in rows]
        html += f"<h2>{escape(title)}</h2>"
        for first in range(1, len(head), COLUMNS):
            part = slice(first, first + COLUMNS)
            html += table(list(map(escape, head[part])), [[row[0], *row[part]] for row in cells])
            html += "<p></p>"
    return html


def measured(out: Path, scale: Scale, cores: int) -> tuple[dict[str, Any], Runs, int]:
    """The study, all runs, and how many results an earlier call had left."""
    study: dict[str, Any] = {}
    runs: Runs = {}
    kept = 0
    for tasks in (first_tasks(scale), later_tasks(scale)):
        kept += sum(place(out, scale, task).exists() for task in tasks)
        jobs = [(out, scale, task) for task in tasks]
        for task, found in zip(tasks, side_by_side(work, jobs, cores), strict=True):
            if task.start == "gradients":
                study = found
                print("gradients at the checkpoint: measured", flush=True)
                continue
            runs.setdefault(task.start, {}).setdefault(task.arm, []).append(found)
            print(f"{task.start} {task.arm}, {task.seed}: {found['loss']:.4f} nats, "
                  f"{1e3 * found['seconds']:.0f} ms a step", flush=True)  # fmt: skip
    return study, runs, kept


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="five seeds and orders, longer runs")
    parser.add_argument("--cores", type=int, default=2)
    cpu_alone(parser, "gradients are compared on the host, number by number")
    options = parser.parse_args(arguments)
    kind, out = chosen(options, "fp8_training")
    scale, began = SCALES[kind], time.perf_counter()
    study, runs, kept = measured(out, scale, options.cores)
    start = runs["checkpoint"][FLOAT][0]["loss"]
    facts = (
        f"{scale.steps} steps of {scale.batch} × {scale.length} bytes, checkpoint after "
        f"{scale.fork} ({start:.3f} nats), noise of {scale.batches} batches, {scale.checked} of "
        f"them in FP8; {kept} results of earlier calls; {options.cores} cores, "
        f"{time.perf_counter() - began:.0f} seconds"
    )
    said, shown = findings(study, runs, scale), tables(study, runs)
    show(f"\n{facts}", shown, said)
    html = page("FP8 training", body(facts, said, charts(study, runs, scale), shown))
    publish(out, "fp8_training", html, facts=facts, findings=said, gradients=study, runs=runs)


if __name__ == "__main__":
    run(main)
