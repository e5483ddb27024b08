r"""What a decoded token costs against the context: MHA, GQA, and MLA in both of its forms.

    python -m demos.mla_cost [--full] [--quick] [--out DIR]

One token of one sequence, by the preset `small` with 64 to 16,384 tokens in its caches. Everything
but the attention of its four layers is the same:

    MHA              8 heads of width 32, a key and a value each: 512 numbers a token and layer
    GQA-2            the same heads, two keys and two values: 128
    MLA re-expanded  the latent cache, 80; K and V of all heads made from it at every token
    MLA absorbed     the latent cache, 80; the heads attend to the latents themselves

Counted: FLOPs, two for each multiplication in a matrix product; and bytes, what the products of
attention read and write (operands and results, K and V copied together with them; not the scores,
which stay in a core's cache, nor the experts' weights). Both come from the shapes of what runs.

Timed: the whole token as `generate` makes it for one sequence, without Tensors and on one thread:
the seconds that this thread works, without those in which it waits for other processes. Kinds and
contexts take turns in every round, and the fastest run of each counts: what else the machine does
only adds. a + b·T is fitted from 1,024 tokens on, to least relative squares, and b stands beside
what FLOPs and bytes alone would take at this machine's rates: float32 products of square matrices,
and copies of arrays of 64 MiB, one thread each, the fastest of the same rounds. A last table takes
b of the absorbed form apart. Re-expanded is the layer's naive form, which copies k^R beside every
head's k^C; a form of it that does not is timed too.

Caches hold random numbers: the time does not depend on them. Writes mla_cost.html and results.json.
"""

from __future__ import annotations

import os
import time
from html import escape
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from demos.common import chosen, cpu_alone, publish, run, show, sizes  # noqa: E402
from demos.mla_meter import COPIED, FITTED, KINDS, PRODUCTS, RUNS, measure  # noqa: E402
from minideepseek import DeepSeekV3Config  # noqa: E402
from minideepseek.model.ledger import cache_elements  # noqa: E402
from minideepseek.reasoning.report import table  # noqa: E402
from minideepseek.training.figures import Line, line_chart  # noqa: E402
from minideepseek.training.page import page  # noqa: E402

CONTEXTS = (64, 256, 1024, 2048, 4096, 8192, 16384)
TARGETS = {4096: 10, 16384: 18}  # absorbed against re-expanded, times


def times(ratio: float) -> str:
    return f"{ratio:.3g}×" if ratio >= 1 else f"1/{1 / ratio:.3g}"


def tables(found: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Title: heading and rows, the first cell of a row its name."""
    kinds, contexts = found["kinds"], found["contexts"]
    slow, fast = kinds["MLA re-expanded"], kinds["MLA absorbed"]
    v3 = cache_elements(DeepSeekV3Config.preset("v3"))
    token = [
        [f"{c:,}", *(f"{1e6 * kinds[k]['seconds'][i]:,.0f}" for k in KINDS),
         f"{slow['seconds'][i] / fast['seconds'][i]:.1f}×"]
        for i, c in enumerate(contexts)
    ]  # fmt: skip
    lines = [
        [kind, f"{1e6 * k['a']:,.0f}", f"{1e6 * k['b']:.4f}", f"{100 * k['off']:.0f} %",
         f"{1e6 * k['b_by_flops']:.4f}", f"{1e6 * k['b_by_bytes']:.4f}"]
        for kind, k in kinds.items()
    ]  # fmt: skip
    counted = [
        [kind, f"{k['cached']:,}", f"{k['flops_per_key']:,.0f}", f"{k['bytes_per_key']:,.0f}"]
        for kind, k in kinds.items()
    ]
    inside = [[f"{name}", f"{1e6 * s:.4f}"] for name, s in found["parts"].items()]
    rest = fast["b"] - sum(found["parts"].values())
    inside += [["the rest", f"{1e6 * rest:.4f}"], ["b, measured", f"{1e6 * fast['b']:.4f}"]]
    return {
        "Numbers kept per token and layer at V3's dimensions": (
            ["kind", "numbers", "of MLA's"],
            [[k, f"{n:,}", times(n / v3["MLA"])] for k, n in v3.items()],
        ),
        "A decoded token, µs": (["context", *KINDS, "re-expanded / absorbed"], token),
        f"a + b·T from {FITTED:,} tokens on, µs": (
            ["kind", "a", "b", "off at most", "b by FLOPs", "b by bytes"],
            lines,
        ),
        "What one more token of context adds to a decoded token, four layers": (
            ["kind", "cached in a layer", "FLOPs", "bytes touched"],
            counted,
        ),
        "b of the absorbed form, µs": (["part", "µs per token of context"], inside),
    }


def findings(found: dict[str, Any]) -> list[str]:
    """The targets, and whether these numbers reach them."""
    slow, fast = found["kinds"]["MLA re-expanded"], found["kinds"]["MLA absorbed"]
    said = []
    for context, target in TARGETS.items():
        if context in found["contexts"]:
            i = found["contexts"].index(context)
            ratio = slow["seconds"][i] / fast["seconds"][i]
            word = "reached" if ratio >= target else "NOT reached"
            said.append(
                f"absorbed against re-expanded, whole token at {context:,}: {ratio:.1f} × "
                f"(at least {target} ×: {word}); against the naive form that copies no key "
                f"{found['lean'][i] / fast['seconds'][i]:.1f} ×"
            )
    word = "reached" if fast["off"] <= 0.2 else "NOT reached"
    name, least = max(("FLOPs", fast["b_by_flops"]), ("bytes", fast["b_by_bytes"]),
                      key=lambda bound: bound[1])  # fmt: skip
    said.append(f"a + b·T of the absorbed form: within {100 * fast['off']:.0f} % (20 %: {word})")
    said.append(
        f"b of the absorbed form: {fast['b'] / least:.1f} times what its {name} alone would take, "
        f"{fast['b'] / found['parts'][PRODUCTS]:.1f} times its two products in these shapes"
    )
    return said


def picture(found: dict[str, Any], facts: str) -> str:
    """The HTML page."""
    kinds, x = found["kinds"], np.array(found["contexts"], float)

    def chart(unit: str, key: str, factor: float, names: tuple[str, ...]) -> str:
        lines = [
            Line(n.removeprefix("MLA "), x, factor * np.array(kinds[n][key]), KINDS.index(n))
            for n in names
        ]
        return line_chart(unit, unit, lines, from_zero=True, across="token")

    fast = kinds["MLA absorbed"]
    drawn = {
        "measured": np.array(fast["seconds"]),
        "a + b·T": fast["a"] + fast["b"] * x,
        "a + FLOPs": fast["a"] + fast["b_by_flops"] * x,
        "a + bytes": fast["a"] + fast["b_by_bytes"] * x,
    }
    lines = [Line(name, x, 1e3 * y, i) for i, (name, y) in enumerate(drawn.items())]
    body = f"<p>{escape(facts)}</p><ul>"
    body += "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(found)) + "</ul>"
    body += chart("a decoded token, ms", "seconds", 1e3, KINDS)
    fewer = tuple(kind for kind in KINDS if kind != "MLA re-expanded")
    body += chart("without the re-expanded form, ms", "seconds", 1e3, fewer)
    body += line_chart("absorbed and its lines", "absorbed, beside its lines, ms", lines,
                       from_zero=True, across="token")  # fmt: skip
    body += chart("GFLOP a token", "flops", 1e-9, KINDS)
    body += chart("MB that the products of attention touch", "bytes", 1e-6, KINDS)
    for title, (head, rows) in tables(found).items():
        cells = [[escape(cell) for cell in row] for row in rows]
        body += f"<h2>{escape(title)}</h2>{table(head[1:], cells)}"
    return page("What a decoded token costs", body)


def main(arguments: list[str] | None = None) -> None:
    parser = sizes(__doc__, full="five times as many rounds", quick="short contexts: does it run?")
    cpu_alone(parser, "it counts the bytes that the CPU reads, and times one thread")
    options = parser.parse_args(arguments)
    kind, out = chosen(options, "mla_cost")
    began = time.perf_counter()
    contexts = CONTEXTS[:4] if options.quick else CONTEXTS
    rounds = {"full": 60, "quick": 2, "default": 12}[kind]
    found = measure(contexts, rounds, COPIED >> 4 if options.quick else COPIED)
    facts = (
        f"`small`, one sequence, one thread, {rounds} rounds of {RUNS}; one thread multiplies at "
        f"{found['flops_per_second'] / 1e9:.0f} GFLOP/s and copies at "
        f"{found['bytes_per_second'] / 1e9:.1f} GB/s; {time.perf_counter() - began:.0f} seconds"
    )
    show(facts, tables(found), findings(found))
    html = picture(found, facts)
    publish(out, "mla_cost", html, facts=facts, findings=findings(found), **found)


if __name__ == "__main__":
    run(main)
