r"""StandardMoE against DeepSeekMoE at equal budget, and what many experts cost.

    python -m demos.moe_benchmark [--full] [--quick] [--out DIR] [--cores 2]

1  The same small model (moe_lab.py) with five kinds of layer in place of its MLPs. A token always
   passes three matrices of width 256 in all, but for the dense model the layers hold four times as
   much; MoE layers differ in how both are cut, in the gate and in the balance:

    dense                    one MLP of width 256
    StandardMoE              2 of 8 of width 128, gates of the softmax over all, loss α = 1e-2
    Mixtral's gate           the same, softmax over the two chosen
    DeepSeekMoE loss         7 of 31 of width 32, one shared (`segment`, m = 4), loss α = 1e-2
    DeepSeekMoE bias         the same, balanced by the bias, γ = 1e-2

   Trained for the same steps on the same batches: bits per byte of the held-out text, balance, and
   microseconds per trained token of the whole model
   (one thread; as many models at a time as --cores says).
2  One layer alone at hidden width 256, forward and backward: µs per token.
3  The preset `small` with 8 to 128 experts of which a token uses 4: activated parameters and FLOPs
   are the same, so forward and backward should take the same time; many small products take a
   little longer than few large ones. AdamW, whose work grows with all parameters, is apart.

Prints the tables and what they say; writes moe_benchmark.html and results.json. Times are medians.
--full is three seeds; --quick only shows that everything runs.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import (  # noqa: E402
    ON_A_CARD,
    chosen,
    cpu_alone,
    publish,
    run,
    side_by_side,
    sizes,
    spread,
    text_table,
)
from demos.moe_lab import (  # noqa: E402
    DEFAULT,
    FULL,
    QUICK,
    Scale,
    answer,
    facts_of,
    judge,
    read_text,
    small_config,
    train,
)
from minideepseek import (  # noqa: E402
    AdamW,
    DeepSeekMoE,
    DeepSeekV3,
    DeepSeekV3Config,
    StandardMoE,
    Tensor,
)
from minideepseek.autograd.blocks import set_threads  # noqa: E402
from minideepseek.autograd.engine import Parameter  # noqa: E402
from minideepseek.layers.module import MLP, Init, Module  # noqa: E402
from minideepseek.layers.moe import Routing, update_bias  # noqa: E402
from minideepseek.layers.standard_moe import (  # noqa: E402
    balance_loss,
    segment,
    softmax_of_top,
    top_of_softmax,
)
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402

EXPERTS, USED, CUT = 8, 2, 4  # of StandardMoE, and into how many each is cut for DeepSeekMoE
ALPHA, GAMMA = 1e-2, 1e-2
STANDARD, FINE = "StandardMoE", "DeepSeekMoE bias"
KINDS = ("dense", STANDARD, "Mixtral's gate", "DeepSeekMoE loss", FINE)
COLUMNS = {  # heading: (key, digits)
    "bits per byte": ("bits_per_byte", 3),
    "MaxVio": ("max_vio", 2),
    "dead": ("dead", 1),
    "weights, k": ("total", 1),
    "per token, k": ("activated", 1),
    "µs a token": ("micros", 1),
    "alone": ("alone", 2),
}


class Replaceable(StandardMoE):
    """StandardMoE where a decoder layer expects DeepSeekMoE, which knows of replayed choices."""

    def routed(
        self, x: Tensor, mask: Any = None, replay: Any = None
    ) -> tuple[Tensor, Routing]:
        return super().routed(x, mask)


def make_layer(kind: str, hidden: int, width: int, init: Init) -> Module:
    """The layer, its experts cut from EXPERTS experts of `width`."""
    if kind == "dense":
        return MLP(hidden, USED * width, init)
    if kind.startswith("DeepSeekMoE"):
        fields = segment(EXPERTS, USED, width, m=CUT, shared=1)
        return DeepSeekMoE(None, init, hidden_size=hidden, **fields)
    gates = softmax_of_top if kind.startswith("Mixtral") else top_of_softmax
    return Replaceable(
        None, init, gates, hidden_size=hidden, n_routed_experts=EXPERTS,
        num_experts_per_tok=USED, moe_intermediate_size=width,
    )  # fmt: skip


def share(routing: Routing) -> Tensor:
    """The batch's balance loss; sigmoid affinities are divided by their sum."""
    s = routing.scores
    return balance_loss(routing._replace(scores=s / s.sum(-1, keepdims=True)), ALPHA)


def run_kind(kind: str, scale: Scale, seed: int) -> dict[str, Any]:
    """Train and judge the small model with this kind of layer."""
    text = read_text(scale)
    config = small_config(aux_loss_alpha=0.0)
    model = DeepSeekV3(config, np.random.default_rng(seed))
    layers = model.model.layers[config.first_k_dense_replace :]
    init = Init(np.random.default_rng(seed), config.initializer_range)
    for layer in layers:
        layer.mlp = make_layer(kind, config.hidden_size, 128, init)  # type: ignore[assignment]

    def after(step: int, routings: list[Routing]) -> None:
        for router, routing in zip(model.routers, routings, strict=kind == FINE):
            if kind == FINE:
                update_bias(router.e_score_correction_bias, routing.counts, GAMMA)

    extra = share if kind not in ("dense", FINE) else None
    began = time.perf_counter()
    curve = train(model, text, scale, seed, extra, after)
    seconds = time.perf_counter() - began
    micros = 1e6 * seconds / (scale.steps * scale.batch * scale.length)
    total = sum(p.size for p in layers[0].mlp.parameters())
    return judge(model, text, scale) | {
        "curve": curve,
        "micros": micros,
        "total": total / 1e3,
        "activated": activated(layers[0].mlp) / 1e3,
    }


def activated(layer: Module) -> int:
    """Weights that work for one token, router included."""
    sizes = {name: p.size for name, p in layer.named_parameters()}
    if isinstance(layer, MLP):
        return sum(sizes.values())
    assert isinstance(layer, StandardMoE | DeepSeekMoE)
    used = layer.k if isinstance(layer, StandardMoE) else layer.gate.k
    experts = layer.gate.weight.shape[0]
    return sum(
        n * used // experts if name.startswith("experts.") else n for name, n in sizes.items()
    )


def median_time(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `repeats` runs after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def alone(kind: str, tokens: int, repeats: int) -> float:
    """µs per token of one layer of hidden width 256, experts of 512 before they are cut."""
    layer = make_layer(kind, 256, 512, Init(np.random.default_rng(0), 0.06))
    x = Parameter(np.random.default_rng(1).standard_normal((1, tokens, 256), np.float32))
    up = np.random.default_rng(2).standard_normal(x.shape, np.float32)

    def work() -> None:
        for parameter in (x, *layer.parameters()):
            parameter.grad = None
        layer(x).backward(up)  # type: ignore[operator]

    return 1e6 * median_time(work, repeats) / tokens


def growth(counts: list[int], sequences: int, repeats: int) -> list[dict[str, float]]:
    """Seconds of forward and backward, and of AdamW, of `small` with so many experts."""
    rows = []
    for experts in counts:
        config = DeepSeekV3Config.preset("small", n_routed_experts=experts)
        model = DeepSeekV3(config, np.random.default_rng(0))
        ids = np.random.default_rng(1).integers(0, config.vocab_size, (sequences, 129))
        optimiser = AdamW(model.parameters(), lr=1e-4)

        def step(model: Any = model, ids: Any = ids, optimiser: Any = optimiser) -> None:
            optimiser.zero_grad()
            model.loss(ids).backward()

        both = median_time(step, repeats)
        rows.append({"experts": experts, "both": both, "adamw": median_time(optimiser.step, 3)})
    return rows


def findings(seeds: list[dict[str, Any]], grown: list[dict[str, float]]) -> list[str]:
    """What the numbers say; of a claim that they do not bear out, that too."""

    def compare(claim: str, better: str, worse: str) -> str:
        d = np.array([s[better]["bits_per_byte"] - s[worse]["bits_per_byte"] for s in seeds])
        by_seed = ", ".join(f"{x:+.3f}" for x in d)
        return f"{claim}: {answer(d < 0)} ({better} − {worse}, bits per byte by seed: {by_seed})."

    ratio = max(row["both"] for row in grown) / grown[0]["both"]
    adamw = grown[-1]["adamw"] / grown[0]["adamw"]
    slower = np.mean([seed[FINE]["alone"] / seed[STANDARD]["alone"] for seed in seeds])
    return [
        compare("more parameters for the same work help", STANDARD, "dense"),
        compare("fine-grained and shared experts help", "DeepSeekMoE loss", STANDARD),
        compare("the bias costs less than the loss", FINE, "DeepSeekMoE loss"),
        compare("Mixtral's gate helps", "Mixtral's gate", STANDARD),
        f"one DeepSeekMoE layer alone takes {slower:.2f} times StandardMoE's time.",
        f"from {grown[0]['experts']} to {grown[-1]['experts']} experts forward and backward stay "
        f"within 1.5 times: {'yes' if ratio <= 1.5 else 'NO'} ({ratio:.2f}; AdamW {adamw:.1f}).",
    ]


def body(
    seeds: list[dict[str, Any]], rows: list[list[str]], grown: list[list[str]], said: list[str]
) -> str:
    """The HTML of the page."""
    head = list(COLUMNS)
    html = table(head[:4], [[escape(row[0]), *row[1:5]] for row in rows]) + "<p></p>"
    html += table(head[4:], [[escape(row[0]), *row[5:]] for row in rows]) + "<p></p>"
    html += table(["forward and backward, s", "against the first", "AdamW, s"], grown)
    html += "<h2>What it shows</h2><ul>" + "".join(f"<li>{escape(s)}</li>" for s in said) + "</ul>"
    lines = []
    for colour, kind in enumerate(KINDS):
        y = np.array([row["loss"] for row in seeds[0][kind]["curve"]])
        lines.append(Line(kind, np.arange(1.0, y.size + 1), y, colour))
    title = "training loss, nats, first seed"
    return html + "<h2>Step by step</h2>" + line_chart(title, title, lines, height=320)


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="three seeds")
    parser.add_argument("--cores", type=int, default=2)
    cpu_alone(parser, f"the experts' work is timed on the CPU; {ON_A_CARD}")
    options = parser.parse_args(arguments)
    kind, out = chosen(options, "moe_benchmark")
    scale = {"full": replace(FULL, steps=1000), "quick": QUICK, "default": DEFAULT}[kind]
    began, text = time.perf_counter(), read_text(scale)
    set_threads(options.cores)
    tokens, repeats = (64, 1) if options.quick else (2048, 9)
    times = {name: alone(name, tokens, repeats) for name in KINDS}
    counts = [8, 16] if options.quick else [8, 16, 32, 64, 128]
    grown = growth(counts, 1 if options.quick else 16, 1 if options.quick else 5)
    set_threads(1)
    seeds: list[dict[str, Any]] = [{} for _ in range(scale.seeds)]
    jobs = [(name, scale, seed) for seed in range(scale.seeds) for name in KINDS]
    results = side_by_side(run_kind, jobs, options.cores)
    for (name, _, seed), found in zip(jobs, results, strict=True):
        seeds[seed][name] = found | {"alone": times[name]}
        print(f"seed {seed}  {name:16} {found['bits_per_byte']:.3f} bits per byte, "
              f"{time.perf_counter() - began:.0f} s so far", flush=True)  # fmt: skip
    facts = facts_of(scale, text, options.cores, time.perf_counter() - began)
    rows = [
        [name, *(spread([s[name][key] for s in seeds], d) for key, d in COLUMNS.values())]
        for name in KINDS
    ]
    first = grown[0]["both"]
    many = [
        [f"{r['experts']} experts", f"{r['both']:.3f}", f"{r['both'] / first:.2f}",
         f"{r['adamw']:.4f}"] for r in grown
    ]  # fmt: skip
    said = findings(seeds, grown)
    print(f"\n{facts}\n\n{text_table(['', *COLUMNS], rows)}\n")
    print(text_table(["", "forward, backward s", "to the first", "AdamW s"], many) + "\n")
    print("\n".join(said))
    html = f"<p>{escape(facts)}</p>{body(seeds, rows, many, said)}"
    html = page("Few large experts against many small ones", html)
    publish(out, "moe_benchmark", html, facts=facts, findings=said, seeds=seeds, growth=grown)


if __name__ == "__main__":
    run(main)
