"""The figures in docstrings."""

from __future__ import annotations

from tests.replay.bands import EXACT, Band, text_of_python, trained
from tests.replay.entries import Entry, Kept, Reading

ROUNDED = Band("a rounded range", absolute=0.05)
_COUNTDOWN = "minideepseek/reasoning/countdown.py"
_OBJECTIVE = "minideepseek/reasoning/grpo/objective.py"
_SUMS = ("uniform, 0 to 1", "normal + 1", "normal + 1/2", "normal")


def share(values: list[float]) -> list[float]:
    """The second of the first, in per cent."""
    return [100 * values[1] / values[0]]


def saved(values: list[float]) -> list[float]:
    """By how many per cent the second is below the first."""
    return [100 * (1 - values[1] / values[0])]


CHAPTERS = (
    Entry(
        "caches of four kinds",
        "MHA 2 n_h d_h {} numbers {} bytes {~} GQA-8 2 n_g d_h {} {} {~} MLA d_c + d_h^R {} {} {~}"
        " MQA 2 d_h {} {}",
        "info",
        tuple(f"{kind} {{}} {{}}" for kind in ("MHA", "GQA-8", "MLA", "MQA")),
        EXACT,
        "minideepseek/layers/attention.py",
    ),
    Entry(
        "MLA's cache",
        "MHA n_h (d_h + d_v) 128 · 256 {} {} {*} times MLA's GQA-8 8 (d_h + d_v) 8 · 256 {} {} {*}"
        " times MLA's MQA d_h + d_v 256 {} {} MLA's is {*} MLA d_c + d_h^R 512 + 64 {} {}",
        "info",
        tuple(f"{kind} {{}} {{}}" for kind in ("MHA", "GQA-8", "MQA", "MLA")),
        EXACT,
        "minideepseek/layers/mla.py",
    ),
    Entry(
        "V3's files",
        "163 files of together {} GB",
        "info",
        (Reading("numbers, {} bytes", lambda found: [found[0] / 1e9]),),
        EXACT,
        "minideepseek/model/inspect.py",
    ),
    Entry(
        "biases apart",
        "the biases must come {} to {} apart, and they part by",
        "balance",
        ("falling {} ± {~}, proportional {~} ± {~}).", "apart, at most 2γ a step, by: {*} 1e-3 {}"),
        ROUNDED,
        "minideepseek/layers/moe.py",
    ),
    Entry(
        "uneven steps",
        "γ · steps ≥ 4 makes it {}.",
        "balance",
        ("(share of steps with MaxVio above 1: {*} 1e-2 {} ±",),
        ROUNDED,
        "minideepseek/layers/moe.py",
    ),
    Entry(
        "sums of fourteen bits",
        " ".join(f"{data} {{}} {{}} {{}} {{}}" for data in _SUMS),
        "fp8 sums",
        tuple(
            reading
            for data in _SUMS
            for column in ("{}", "{~} {}")
            for reading in (f"\n{data}, 14 bits {column}", f"\n{data}, promoted {column}")
        ),
        trained(0.2),
        "minideepseek/layers/fp8/accumulation.py",
    ),
    Entry(
        "primitives of a token",
        "takes some {} primitives",
        "counts",
        ("through Tensors: {} primitives",),
        Band("`some`", absolute=5.0),
        "minideepseek/model/decoding.py",
    ),
    Entry(
        "V3's names",
        "V3's {} within a tenth of a second",
        "counts",
        ("without scales: {}",),
        Band("rounded to thousands", absolute=500.0),
        "minideepseek/model/layout.py",
    ),
    Entry(
        "the corpus",
        "read {} documents {} bytes bits per byte of the held-out text removed {} paragraphs {}"
        " bytes bz2 {} primed {} training {} documents {} bytes lzma {} primed {} held out {}"
        " documents {} bytes lzma primed, copies left in: {}",
        "corpus",
        (
            "read {} documents {} bytes", "removed {} paragraphs {} bytes", "bz2 {} bits",
            "bz2 primed {} bits", "training {} documents {} bytes", "lzma {} bits",
            "lzma primed {} bits", "held out {} documents {} bytes",
            "lzma primed {} bits per byte, held out, copies left in",
        ),
        text_of_python(0.1),
        "minideepseek/training/corpus.py",
    ),
    Entry(
        "copies in the corpus",
        "Of {} docstrings of a standard library {} % of the text repeats other text of it, and a"
        " compressor that has seen the rest looks {} % better",
        "corpus",
        (
            "read {} documents",
            Reading("read {~} documents {} bytes {*} removed {~} paragraphs {} bytes", share),
            Reading("lzma primed {} bits {*} lzma primed {} bits per byte, held out, copies",
                    saved),
        ),
        text_of_python(0.1),
        "minideepseek/exercises/zoo/split_texts.py",
    ),
    Entry(
        "mean of documents",
        "({} bytes is their mean)",
        "corpus",
        (Reading("training {} documents {} bytes", lambda found: [found[1] / found[0]]),),
        text_of_python(0.1),
        "demos/long_context.py",
    ),
)  # fmt: skip
REASONING = (
    Entry(
        "the impatient teacher",
        "problems as drawn right 100" + 5 * " {}" + " % attempts" + 6 * " {}"
        + " the 117 held out right 100" + 5 * " {}" + " % attempts" + 6 * " {}",
        "teacher",
        (
            "problems as drawn right 100" + 5 * " {}" + " % attempts" + 6 * " {}",
            "the 117 held out right 100" + 5 * " {}" + " % attempts" + 6 * " {}",
        ),
        EXACT,
        _COUNTDOWN,
    ),
    Entry(
        "the teacher, of the held out",
        "probability g = 0.3: {} % of the held-out problems",
        "teacher",
        ("the 117 held out right 100 {~} {}",),
        EXACT,
        "minideepseek/reasoning/journey.py",
    ),
    Entry(
        "where gradients point",
        "rloo 0, equal to ∇ E[r] {} % {} % none 0, (G−1)/G of it {} % {} % rᵢ is part of its own"
        " baseline std {} % {} % {} %",
        "expectations",
        (
            *(f'("{scale}", "{how}"): {{}}' for scale in ("rloo", "none")
              for how in ("token", "sequence")),
            *(f'("std", "{how}"): {{}}' for how in ("constant", "token", "sequence")),
        ),
        EXACT,
        _OBJECTIVE,
    ),
    Entry(
        "what std multiplies by",
        "for G = 16 by {} where half of the responses are right and by {} where 5 % are",
        "expectations",
        ("std_factor(p, 16), 2) for p in (0.05, 0.2, 0.5)] == [{~}, {~}, {}]",
         "std_factor(p, 16), 2) for p in (0.05, 0.2, 0.5)] == [{}"),
        EXACT,
        _OBJECTIVE,
    ),
    Entry(
        "estimators of KL",
        "the token forms are {} % (k2, unbiased) and {} % (k3) off, and under 1/|oᵢ| {} % of k2's"
        " and {} % of k3's gradient point elsewhere, while k1's is not 0 but {} % of k2's",
        "expectations",
        ('"k2": {}, "k3": {}', 'residual(found["k2"], reverse)) == {}',
         'residual(found["k3"], forward)) == {}', "round(100 * ratio) == {}"),
        EXACT,
        _OBJECTIVE,
    ),
    Entry(
        "sampler and scorer",
        "ρₜ = 1 but for rounding: to {} in float64, to {} in float32",
        "scoring",
        ("gap(scores, out) < {}", "0 < gap(score(model, out, temperature, out.routing), out) < {}"),
        EXACT,
        "minideepseek/reasoning/grpo/sampler.py",
    ),
)  # fmt: skip
DEMOS = (
    Entry(
        "the model of chapter 3's demos",
        "of which the first is dense; {} parameters",
        "counts",
        ("moe_lab: {} parameters",),
        EXACT,
        "demos/moe_lab.py",
    ),
    Entry(
        "the model of FP8 training",
        "72 quantised matrices, {} parameters",
        "counts",
        ("fp8_lab: {} parameters",),
        EXACT,
        "demos/fp8_lab.py",
    ),
)
KEPT = (
    Kept(
        "how the plan was picked",
        "Held-out bits per byte: {} at 350 steps of 16 × 256 and R = 3e-3 (with γ = 0.02); at 700"
        " steps of 8 × 256 and γ = 0.01, {} at 3e-3, {} at 1.5e-3, {} at 6e-3.",
        "the warm-up was another then, as it says",
        "minideepseek/training/trainer.py",
    ),
    Kept(
        "headers of V3",
        "163 headers of a 671-billion-parameter model are {} MB",
        "an estimate: some 130 bytes for each of 91,991 tensors",
        "minideepseek/model/contents.py",
    ),
    Kept(
        "a default run of the pipeline",
        "with 1.2 million passes an arm, some {} minutes",
        "a duration, machine-bound",
        "demos/r1_pipeline.py",
    ),
    Kept(
        "making the records",
        "all are made, in about four minutes",
        "a duration, machine-bound",
        "demos/record_book.py",
    ),
)
