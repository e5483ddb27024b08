"""The README's rows about FP8, parity and the ledger."""

from __future__ import annotations

from tests.replay.bands import EXACT, RATIO, Band, trained
from tests.replay.entries import Entry

MEASURED = Band("a spread over samples", absolute=0.02)

ROWS = (
    Entry(
        "encode and decode",
        "dequantise a weight of 2,048² | {} and {} of ml_dtypes' `astype`, equal to it for all 2³²"
        " float32; {} of one 2,048³ product |",
        "fp8 numbers",
        (
            "encode takes {} of ml_dtypes' astype",
            "decode {~} {~} {} {~}",
            "quantize and dequantize take {} of a product",
        ),
        RATIO,
    ),
    Entry(
        "14 bits",
        "sums of 4,096 products in 14 bits, error in norm | uniform data {} %, promoted every 128"
        " products {} %; normal data {} and {} % |",
        "fp8 numbers",
        (
            "uniform, 0 to 1, 14 bits {}",
            "uniform, 0 to 1, promoted {}",
            "normal, 14 bits {}",
            "normal, promoted {}",
        ),
        trained(0.05),
    ),
    Entry(
        "held in FP8",
        "`mini` held in FP8 (240 steps) | {} bytes a coded weight, {} of float32's bytes, {} ± {} %"
        " bits per byte; a token takes {} times as long |",
        "fp8 inference",
        (
            "scales counted: {} (",
            "all arrays, of float32's: {} (",
            "FP8 codes {~} {} ± {}",
            "and {} times what `generate` takes",
        ),
        (EXACT, EXACT, trained(0.05), trained(0.02), RATIO),
    ),
    Entry(
        "FP8 gradients",
        "V3's recipe: below a tenth in {} of {} quantised matrices (worst {}, median {});"
        " fine-grained without its powers of two {} of {} ({}), one scale a tensor {} ({}):",
        "fp8 training",
        (
            "V3's recipe {~} {~} {} of {}",
            "V3's recipe {} {} {~} of",
            "fine-grained {~} {~} {} of {}",
            "fine-grained {} {~} {~} of",
            "per tensor {~} {~} {} of",
            "per tensor {} {~} {~} of",
        ),
        tuple(trained(x) for x in (3, 0, 0.02, 0.02, 3, 0, 0.02, 3, 0.02)),
    ),
    Entry(
        "loud tokens",
        "error of the other tokens' gradients | V3's recipe {} → {} %, 128 × 128 tiles on dY {} →"
        " {} %, one scale a tensor {} → {} % |",
        "fp8 training",
        tuple(
            f"{way}: error, % {{}} {{~}} {{~}} {{~}} {{~}} {{}}"
            for way in ("V3's recipe", "128 × 128 on dY", "per tensor")
        ),
        trained(5.0),
    ),
    Entry(
        "FP8 branches",
        "from one checkpoint, held-out loss, 5 pairs | {} ± {} %: small, and not zero; moments in"
        " bfloat16 {} ± {} % |",
        "fp8 training",
        ("branch, FP8, V3: {} ± {} %", "branch, bfloat16 moments: {} ± {} %"),
        trained(0.1),
    ),
    Entry(
        "FP8 whole runs",
        "whole runs in FP8 beside float32, 5 pairs | {} ± {} %: this scale cannot resolve the"
        " paper's 0.25 % (it would take about {} pairs); four float32 runs that differ in 3 % of"
        " their first weights lie {} % apart, with other seeds {} % |",
        "fp8 training",
        (
            "whole runs, FP8, V3: {} ± {} %",
            "takes about {} pairs of whole runs",
            "weights moved by 3 %: {~}, {~}, {~}, {~} ({} % apart)",
            "other seeds: {~}, {~}, {~}, {~} ({} % apart)",
        ),
        (trained(3.0), trained(3.0), Band("`about`", absolute=10.0), trained(1.5), trained(1.5)),
    ),
    Entry(
        "parity",
        "logits and gradients against transformers | float64, its casts lifted: {} and {}; float32:"
        " {} and {} |",
        "parity",
        (
            "float64 within {}, transformers'",
            "{} in float64 with transformers' casts lifted",
            "Float32 within {} of the largest logit",
            "{} of each tensor's largest gradient in float32",
        ),
        EXACT,
    ),
    Entry(
        "V3's ledger",
        "| V3's ledger | {} parameters, {} activated, {} cache bytes a token |",
        "info",
        ("main model {} {}", "MLA {~} {}"),
        EXACT,
    ),
)
