r"""How to balance experts: nothing, a loss, or a bias that moves; side by side on the same run.

    python -m demos.moe_balance [--full] [--quick] [--out DIR] [--cores 2] [--device cuda]

A small DeepSeek-V3 (moe_lab.py: two MoE layers of 16 experts, a token uses 4) learns the standard
library's docstrings 12 times from the same weights with the same batches; only the balance differs:

    nothing           what a router does by itself
    batch loss        the auxiliary loss α N Σ fᵢ Pᵢ of standard_moe.py, α = 1e-3 and 1e-2
    sequence          the same within each sequence (moe.py), α = 1e-2; V3 keeps 1e-4 of it
    bias, γ           b += γ sign(mean(n) − n) after each step, γ = 1e-4, 1e-3, 1e-2
    bias, falling     γ from 2e-2 to 0 along a line: the same way in all as 1e-2
    proportional      b += 1e-2 (mean(n) − n)/mean(n) in place of the sign
    two groups of 4   a token's experts come from two of four groups (V3 §2.1.2), γ = 1e-2

and two mistakes that published code makes, each with γ = 1e-2:

    bottom k          an ascending sort: the least wanted experts are chosen, and the update, whose
                      sign is now wrong, feeds back
    bias in the gate  gates from s + b: what was to move choices alone changes the outputs

Printed for each: bits per byte of the held-out text; MaxVio = max load / mean load − 1 pooled over
that text, the worse layer's; the least load over the mean; experts of 32 that got nothing; the
share of training steps whose batch had a MaxVio above 1 (uneven); how far apart the biases are;
bits that an expert's name tells about its byte, in the last layer. Then what the numbers say.
Writes moe_balance.html, with the curves and with which bytes go to which expert, and results.json.
--full is three seeds; --quick only shows that everything runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import (  # noqa: E402
    chosen,
    here,
    publish,
    run,
    set_device,
    side_by_side,
    sizes,
    spread,
    text_table,
)
from demos.moe_lab import (  # noqa: E402
    DEFAULT,
    FULL,
    KEY,
    QUICK,
    Scale,
    Text,
    answer,
    byte_map,
    facts_of,
    judge,
    read_text,
    small_config,
    train,
)
from minideepseek.autograd.backend import like  # noqa: E402
from minideepseek.autograd.engine import Tensor  # noqa: E402
from minideepseek.cli.machine import device_option  # noqa: E402
from minideepseek.layers.module import Init  # noqa: E402
from minideepseek.layers.moe import (  # noqa: E402
    DeepSeekMoE,
    Router,
    Routing,
    route,
    update_bias,
)
from minideepseek.layers.standard_moe import balance_loss  # noqa: E402
from minideepseek.model.transformer import DeepSeekV3  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402

Move = Callable[[Any, list[int], float], None]  # (bias, counts, share of the run that is over)


class BottomRouter(Router):
    """A mistake: the k smallest of s + b."""

    def choose(self, scores: Any) -> Any:
        bias = self.e_score_correction_bias
        return route(-scores, -bias, k=self.k, n_group=self.n_group, topk_group=self.topk_group)


class LeakyRouter(Router):
    """A mistake: the gates are made from s + b; the choices are right."""

    def __call__(self, x: Tensor, mask: Any, replay: Any = None) -> Routing:
        routing = super().__call__(x, mask, replay)
        return routing._replace(scores=routing.scores + Tensor(self.e_score_correction_bias))


def fixed(gamma: float) -> Move:
    return lambda bias, counts, share: update_bias(bias, counts, gamma)


def falling(bias: Any, counts: list[int], share: float) -> None:
    update_bias(bias, counts, 2e-2 * (1 - share))


def proportional(bias: Any, counts: list[int], share: float) -> None:
    n = np.array(counts)
    bias += like((1e-2 * (n.mean() - n) / n.mean()).astype(bias.dtype), bias)


@dataclass(frozen=True)
class Arm:
    """One way.  alpha: of the batch's loss; changes: to the configuration."""

    alpha: float = 0.0
    move: Move | None = None
    router: type[Router] = Router
    changes: dict[str, Any] = field(default_factory=dict)


ARMS = {
    "nothing": Arm(),
    "batch loss 1e-3": Arm(alpha=1e-3),
    "batch loss 1e-2": Arm(alpha=1e-2),
    "sequence 1e-2": Arm(changes={"aux_loss_alpha": 1e-2}),
    "bias, 1e-4": Arm(move=fixed(1e-4)),
    "bias, 1e-3": Arm(move=fixed(1e-3)),
    "bias, 1e-2": Arm(move=fixed(1e-2)),
    "bias, falling": Arm(move=falling),
    "proportional": Arm(move=proportional),
    "two groups of 4": Arm(move=fixed(1e-2), changes={"n_group": 4, "topk_group": 2}),
    "bottom k": Arm(move=fixed(1e-2), router=BottomRouter),
    "bias in the gate": Arm(move=fixed(1e-2), router=LeakyRouter),
}
LOSS, BIAS = "batch loss 1e-2", "bias, 1e-2"  # that are compared
LEAK = "bias in the gate"
SWEEP = ("bias, 1e-4", "bias, 1e-3", "bias, 1e-2", "bias, falling", "proportional")
COLUMNS = {  # heading: (key, digits)
    "bits per byte": ("bits_per_byte", 3),
    "MaxVio": ("max_vio", 2),
    "least": ("least", 2),
    "dead": ("dead", 1),
    "uneven": ("uneven", 2),
    "bias range": ("range", 2),
    "byte bits": ("bits", 2),
    "seconds": ("seconds", 0),
}
Results = list[dict[str, dict[str, Any]]]  # by seed, by arm


def make_model(arm: Arm, seed: int) -> DeepSeekV3:
    """The small model with the arm's routers; the same weights in every arm."""
    model = DeepSeekV3(small_config(**arm.changes), np.random.default_rng(seed))
    for layer in model.model.layers[model.config.first_k_dense_replace :]:
        assert isinstance(layer.mlp, DeepSeekMoE)
        gate = arm.router(model.config, Init(None, 0.0))
        gate.weight = layer.mlp.gate.weight
        layer.mlp.gate = gate
    return model.to(here())


def run_arm(name: str, scale: Scale, seed: int) -> dict[str, Any]:
    """Train and judge one model: its measures, and "curve" with one row a step."""
    arm, text = ARMS[name], read_text(scale)
    model = make_model(arm, seed)

    def extra(routing: Routing) -> Tensor:
        s = routing.scores
        return balance_loss(routing._replace(scores=s / s.sum(-1, keepdims=True)), arm.alpha)

    def after(step: int, routings: list[Routing]) -> None:
        for router, routing in zip(model.routers, routings, strict=True):
            if arm.move:
                arm.move(router.e_score_correction_bias, routing.counts, step / scale.steps)

    began = time.perf_counter()
    curve = train(model, text, scale, seed, extra if arm.alpha else None, after)
    found = judge(model, text, scale) | {"seconds": time.perf_counter() - began, "curve": curve}
    biases = [router.e_score_correction_bias for router in model.routers]
    found["uneven"] = float(np.mean([row["max_vio"] > 1 for row in curve]))
    found["range"] = max(float(b.max() - b.min()) for b in biases)
    return found | {"shifted": shifted(model, text, scale)}


def shifted(model: DeepSeekV3, text: Text, scale: Scale) -> float:
    """Bits per byte that 0.5 added to every bias costs: 0 where biases choose and do nothing else.

    On at most 16,384 bytes of the held-out text.
    """
    part, bits = Text(text.train, text.held_out[:16384]), []
    for by in (0.0, 0.5):
        for router in model.routers:
            router.e_score_correction_bias += np.float32(by)
        bits.append(judge(model, part, scale)["bits_per_byte"])
    return bits[1] - bits[0]


def column(seeds: Results, name: str, key: str) -> np.ndarray:
    return np.array([seed[name][key] for seed in seeds])


def findings(seeds: Results) -> list[str]:
    """What the numbers say; of a claim that they do not bear out, that too."""

    def of(name: str, key: str) -> np.ndarray:
        return column(seeds, name, key)

    def show(name: str, key: str, digits: int = 2) -> str:
        return spread(of(name, key).tolist(), digits)

    def against(name: str, other: str) -> tuple[np.ndarray, str]:
        d = of(name, "bits_per_byte") - of(other, "bits_per_byte")
        return d, ", ".join(f"{x:+.3f}" for x in d)

    def by_gamma(key: str) -> str:
        return ", ".join(f"{name.removeprefix('bias, ')} {show(name, key)}" for name in SWEEP)

    even = (of(BIAS, "max_vio") <= 0.25) & (of(BIAS, "least") >= 0.7) & (of(BIAS, "dead") == 0)
    worse, by_loss = against(BIAS, LOSS)
    noise = worse.std(ddof=1) if len(seeds) > 1 else 0.0
    slow = of("bias, 1e-3", "uneven") > 5 * of(BIAS, "uneven")
    bottom, leak = against("bottom k", BIAS), against(LEAK, BIAS)
    return [
        f"left alone the router lets experts die: {answer(of('nothing', 'dead') > 0)} "
        f"({show('nothing', 'dead', 1)} of 32; MaxVio {show('nothing', 'max_vio')}, of at most 3 "
        "with 4 of 16).",
        "a bias of 1e-2 balances the held-out text, MaxVio at most 0.25, least load at least 0.7, "
        f"no dead expert: {answer(even)} ({show(BIAS, 'max_vio')}, {show(BIAS, 'least')}, "
        f"{show(BIAS, 'dead', 1)}).",
        f"its loss is no worse than with the auxiliary loss of 1e-2: "
        f"{'yes' if worse.mean() <= noise else 'NO'} (bits per byte by seed: {by_loss}; against "
        f"1e-3: {against(BIAS, 'batch loss 1e-3')[1]}; against nothing: "
        f"{against(BIAS, 'nothing')[1]}).",
        f"γ = 1e-3 is too slow for this run, with five times the uneven steps of 1e-2 or more: "
        f"{answer(slow)} (share of steps with MaxVio above 1: {by_gamma('uneven')}; MaxVio at the "
        f"end: {by_gamma('max_vio')}; biases came apart, at most 2γ a step, by: "
        f"{by_gamma('range')}).",
        f"the loss of sequences, 1e-2: MaxVio {show('sequence 1e-2', 'max_vio')}, bits per byte "
        f"against the batch's: {against('sequence 1e-2', LOSS)[1]}.",
        f"groups: MaxVio {show('two groups of 4', 'max_vio')}, bits per byte against free choice: "
        f"{against('two groups of 4', BIAS)[1]}.",
        f"choosing the bottom k kills experts: {answer(of('bottom k', 'dead') > 0)} "
        f"({show('bottom k', 'dead', 1)} of 32); the loss of so short a run shows it: "
        f"{answer(bottom[0] > 0)} (bits per byte against the right order: {bottom[1]}).",
        f"the bias in the gates changes outputs: {answer(np.abs(of(LEAK, 'shifted')) > 1e-5)} (0.5 "
        f"added to all biases, which changes no choice, moves bits per byte by "
        f"{show(LEAK, 'shifted', 5)}, and by {show(BIAS, 'shifted', 5)} where it stays outside); "
        f"it costs quality: {answer(leak[0] > 0)} (bits per byte: {leak[1]}); MaxVio "
        f"{show(LEAK, 'max_vio')} against {show(BIAS, 'max_vio')}.",
    ]


CHARTS = {
    "MaxVio, three ways": ("max_vio", ("nothing", LOSS, BIAS, "sequence 1e-2")),
    "dead experts, three ways": ("dead", ("nothing", LOSS, BIAS, "sequence 1e-2")),
    "training loss, nats, three ways": ("loss", ("nothing", LOSS, BIAS)),
    "MaxVio by γ": ("max_vio", SWEEP),
    "MaxVio of two mistakes": ("max_vio", (BIAS, "bottom k", LEAK)),
    "dead experts of two mistakes": ("dead", (BIAS, "bottom k", LEAK)),
}


def body(seeds: Results, head: list[str], rows: list[list[str]], said: list[str]) -> str:
    """The HTML of the page."""
    html = table(head[1:5], [[escape(row[0]), *row[1:5]] for row in rows]) + "<p></p>"
    html += table(head[5:], [[escape(row[0]), *row[5:]] for row in rows])
    html += "<h2>What it shows</h2><ul>" + "".join(f"<li>{escape(s)}</li>" for s in said) + "</ul>"
    html += "<h2>Step by step</h2><p>Of the first seed; each batch's own counts.</p>"
    for title, (key, names) in CHARTS.items():
        lines = []
        for colour, name in enumerate(names):
            y = np.array([float(row[key]) for row in seeds[0][name]["curve"]])
            lines.append(Line(name, np.arange(1.0, y.size + 1), y, colour))
        html += line_chart(title, title, lines, from_zero=key != "loss")
    html += "<h2>Which bytes go to which expert</h2><p>Held-out text, last layer, first seed: the "
    html += f"share of a byte's choices that an expert got.</p>{KEY}"
    for name in ("nothing", LOSS, BIAS):
        html += byte_map(name, np.array(seeds[0][name]["table"]))
    return html


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="three seeds")
    parser.add_argument("--cores", type=int, default=2)
    device_option(parser)
    options = parser.parse_args(arguments)
    set_device(options)
    kind, out = chosen(options, "moe_balance")
    scale = {"full": FULL, "quick": QUICK, "default": DEFAULT}[kind]
    began, text = time.perf_counter(), read_text(scale)
    seeds: Results = [{} for _ in range(scale.seeds)]
    jobs = [(name, scale, seed) for seed in range(scale.seeds) for name in ARMS]
    results = side_by_side(run_arm, jobs, options.cores)
    for (name, _, seed), found in zip(jobs, results, strict=True):
        seeds[seed][name] = found
        print(
            f"seed {seed}  {name:20} {found['bits_per_byte']:.3f} bits per byte, "
            f"MaxVio {found['max_vio']:.2f}, {found['seconds']:.0f} s",
            flush=True,
        )
    facts = facts_of(scale, text, options.cores, time.perf_counter() - began)
    head = ["", *COLUMNS]
    rows = [
        [name, *(spread(column(seeds, name, k).tolist(), d) for k, d in COLUMNS.values())]
        for name in ARMS
    ]
    said = findings(seeds)
    print(f"\n{facts}\n\n{text_table(head, rows)}\n\n" + "\n".join(said))
    title = "Three ways to balance experts, and two to fail"
    html = page(title, f"<p>{escape(facts)}</p>{body(seeds, head, rows, said)}")
    publish(out, "moe_balance", html, facts=facts, findings=said, seeds=seeds)


if __name__ == "__main__":
    run(main)
