"""The README's tables of measurements, row by row."""

from __future__ import annotations

from tests.replay.bands import CLOCK, EXACT, RATIO, Band, text_of_python, trained
from tests.replay.entries import Entry, Kept, Reading, below_zero, ends, inverse

POINTS, BITS = trained(3.0), trained(0.05)  # of a hundred; per byte
ACROSS = "{~} ± {~} "

SPEED = (
    Entry(
        "training step",
        "training step, `small`, 16 × 128 | {} s, {} × PyTorch eager, {} % of the sgemm rate"
        " ({} GFLOP/s)",
        "benchmark",
        ("{} s; sgemm", "tokens/s {}×", "a step: {} % of", "sgemm {} GFLOP/s"),
        (CLOCK, RATIO, RATIO, CLOCK),
    ),
    Entry(
        "prefill",
        "prefill, `small`, 4 × 512 | {} × PyTorch |",
        "benchmark",
        ("prefill, 4 × 512 {~} {~} tokens/s {}×",),
        RATIO,
    ),
    Entry(
        "decoding, 1",
        "greedy decoding, one sequence | {} tokens/s: {} × transformers' `generate`, {} × its bare",
        "benchmark",
        ("decoding, batch 1 {} {~} {~} tokens/s {}× {}×",),
        (CLOCK, RATIO, RATIO),
    ),
    Entry(
        "decoding, 64",
        "greedy decoding, 64 sequences | {} tokens/s: {} × `generate`, {} × the bare forward |",
        "benchmark",
        ("decoding, batch 64 {} {~} {~} tokens/s {}× {}×",),
        (CLOCK, RATIO, RATIO),
    ),
    Entry(
        "the engine's µs",
        "forward and backward | at most {} µs, median {} µs |",
        "overhead",
        ("added: at most {} µs, median {} µs",),
        CLOCK,
    ),
    Entry(
        "HIPS autograd",
        "ours {} times faster in {} of the memory",
        "autograd",
        ("{} times faster", "MiB, {} of it"),
        (RATIO, Band("peaks of arrays, alike on machines", absolute=0.03)),
    ),
    Entry(
        "MLA's decoded token",
        "absorbed against re-expanding K and V from the latents | {} × at a context of 4,096, {} ×"
        " at 16,384; against a naive form that copies no key {} × and {} ×; {} µs + {} µs a token"
        " of context, within {} % |",
        "mla cost",
        (
            "whole token at 4,096: {} ×",
            "whole token at 16,384: {} ×",
            "at 4,096: {~} × ({*}); against the naive form that copies no key {} ×",
            "at 16,384: {~} × ({*}); against the naive form that copies no key {} ×",
            "MLA absorbed {} {} {} %",
        ),
        (RATIO, RATIO, RATIO, RATIO, CLOCK, CLOCK, Band("the demo asks for 20", absolute=13.0)),
    ),
)

KEPT = (
    Kept(
        "first command",
        "from clone to report, both parts | {} min {} s to {} min {} s in four runs beside other"
        " processes, installation included; {} MiB |",
        "needs a network and an environment of its own; `time` before the README's first command",
    ),
    Kept(
        "first command, language alone",
        "the same when it had its language part alone | {} min {} s on quiet cores |",
        "the command has two parts now",
    ),
)
TRAINING = (
    Entry(
        "the journey's bits",
        "bits per held-out byte, `mini`, 1,000 steps of 8 × 256 bytes | {}; bz2 {}, lzma {}; having"
        " read the training text: bz2 {}, lzma {}, which wins |",
        "language",
        (
            "The model beats bz2: {} against {} bits",
            "The model beats lzma: {~} against {} bits",
            "The model beats bz2 primed with the same training text: {~} against {} bits",
            "The model loses to lzma primed with the same training text: {~} against {} bits",
        ),
        (BITS, *[text_of_python(0.05)] * 4),
    ),
    Entry(
        "cold start and GRPO",
        "after the cold start → after 50 steps of GRPO | {} % ({} to {}) → {} % ({} to {}), five"
        " seeds from random weights; tokens a response {} → {} |",
        "seeds",
        (
            *(f"{when} {row} {{}}%" for when in ("cold start", "grpo")
              for row in ("mean", "least", "most")),
            "cold start mean {~}% {~}% {~}% {~}% {~}% {}",
            "grpo mean {~}% {~}% {~}% {~}% {~}% {}",
        ),
        POINTS,
    ),
    Entry(
        "greedy, pass@8, majority",
        "| the same, greedy; pass@8; majority vote | {} → {} %; {} → {} %; {} → {} % | same |",
        "seeds",
        (
            "cold start mean {~}% {}%", "grpo mean {~}% {}%",
            "cold start mean {~}% {~}% {}%", "grpo mean {~}% {~}% {}%",
            "cold start mean {~}% {~}% {~}% {}%", "grpo mean {~}% {~}% {~}% {}%",
        ),
        POINTS,
    ),
    Entry(
        "the teacher",
        "the teacher itself solves {} % |",
        "teacher",
        ("the 117 held out right 100 {~} {} {~}",),
        EXACT,
    ),
    Entry(
        "the control",
        "updates in place of GRPO; the teacher itself solves {~} % | {} % ({} to {}) |",
        "seeds",
        ("control mean {}%", "control least {}%", "control most {}%"),
        POINTS,
    ),
    Entry(
        "YaRN",
        "a model trained at 128 tokens read at 512, bits per byte at positions 128–511 beyond"
        " reading 128 at a time | as it is {} to {}, with YaRN {} to {}; after a fine-tune of 50"
        " steps {} to {}, with YaRN {} to {}; three seeds |",
        "context",
        tuple(
            Reading(f"{words}, against 128 at a time: {{}} ± {{~}}, {{}} ± {{~}}, {{}} ± {{~}}",
                    ends)
            for words in ("by seed: as it is", "YaRN", "all trained on: as it is",
                          "all trained on: YaRN")
        ),
        trained(0.2),
    ),
    Entry(
        "the bias balances",
        "balance by a bias (γ = 0.01, 500 steps, 16 experts), pooled over the held-out text |"
        " MaxVio {} ± {}, least load {} ± {} of the mean, {} dead expert; bits per byte {} ± {},"
        " with the auxiliary loss {} ± {}; with neither {} of 32 experts die; three seeds. At γ ="
        " 0.001 {} of the steps stay uneven |",
        "balance",
        (
            "bias, 1e-2 " + ACROSS + "{} ± {} {} ± {} {} ±",
            "bias, 1e-2 {} ± {}",
            "batch loss 1e-2 {} ± {}",
            "nothing " + 3 * ACROSS + "{} ±",
            "bias, 1e-3 " + 4 * ACROSS + "{} ±",
        ),
        trained(0.1),
    ),
    Entry(
        "StandardMoE, DeepSeekMoE, dense",
        "a dense MLP at equal budget, bits per byte after 1,000 steps | {} ± {}, {} ± {}, {} ± {},"
        " three seeds: fine-grained experts win in {} of three; a DeepSeekMoE layer takes {} × the"
        " time |",
        "experts",
        (
            "StandardMoE {} ± {}",
            "DeepSeekMoE bias {} ± {}",
            "dense {} ± {}",
            Reading("DeepSeekMoE loss − StandardMoE, bits per byte by seed: {}, {}, {})",
                    below_zero),
            "layer alone takes {} times",
        ),
        (*[BITS] * 6, trained(1.0), RATIO),
    ),
    Entry(
        "8 to 128 experts",
        "of which a token uses 4 | {} × the time; AdamW, whose work grows with all parameters, {} ×"
        " |",
        "experts",
        ("stay within 1.5 times: {*} ({}; AdamW {})",),
        RATIO,
    ),
    Entry(
        "four attention kinds",
        "four attention kinds at equal parameters ({} to {}), bits per held-out byte after 500"
        " steps | MHA {} ± {}, GQA-2 {} ± {}, MQA {} ± {}, MLA {} ± {}, three seeds: at this scale"
        " MLA reads no better than GQA, nor than MHA with {} × its cache |",
        "kinds",
        (
            Reading("{} {~} {~} {~} {~} {~} {~} ± {~}", ends, all_places=True),
            *(f"{kind} {{~}} {{~}} {{~}} {{~}} {{~}} {{~}} {{}} ± {{}}"
              for kind in ("MHA", "GQA-2", "MQA", "MLA")),
            Reading("MLA reads better than MHA, with {} × its cache", inverse),
        ),
        (EXACT, EXACT, *[BITS] * 8, Band("0.28 has two digits", absolute=0.1)),
    ),
    Entry(
        "drafts",
        "first 12 bytes after 128 held-out prompts, greedy | one draft: {} % accepted, {} tokens a"
        " pass of the main model; two: {}. Along held-out text module and model agree on {} %. At"
        " temperature 1: {} %, {} |",
        "drafts",
        (
            "greedy, 12 bytes, 1 draft {}% {~}% {}",
            "greedy, 12 bytes, 2 drafts {~}% {~}% {~}% {}",
            "want the same byte {}% of the time",
            "τ = 1.0, 128 bytes, 1 draft {}% {~}% {}",
        ),
        tuple(trained(x) for x in (4.0, 0.05, 0.1, 3.0, 4.0, 0.05)),
    ),
    Entry(
        "drafts' speed",
        "`mini` becomes slower, {} ×; sizes with experts up to width 1,024 × 8 layers gain nothing"
        " ({} to {} × in two runs); a dense model of that size gains {} ×, with two drafts {} × |",
        "drafts",
        (
            "is written SLOWER with 1, 2, 3 drafts: {} ×",
            Reading("256 × 12: {}, {~} 512 × 8: {}, {~} 1024 × 8: {}, {~}", ends),
            "1024 × 8, dense: {}, {}",
        ),
        RATIO,
    ),
    Entry(
        "MTP's effect",
        "main model's bits per byte after 900 steps, three seeds | {} ± {} against {} ± {} without;"
        " {}, 95 % interval {} to {}. With the module's time spent on more steps instead: {} ± {}"
        " |",
        "mtp",
        (
            "with {} ± {}",
            "without {} ± {}",
            "mean {}, 95 % interval {} to {})",
            "as long {} ± {}",
        ),
        BITS,
    ),
)
SEEDS = tuple(
    Entry(
        f"seed {seed}",
        f"| {seed} | {{}} %, {{}} % | {{}} %, {{}} % | {{}} %, {{}} % | {{}} % |",
        "seeds",
        (
            *(f"{when} {seed} {{}}% {{}}%" for when in ("cold start", "control", "grpo")),
            f"grpo, τ = 0.6 {seed} {{}}%",
        ),
        POINTS,
    )
    for seed in range(5)
)
ARMS = {  # the row in the README: in what is printed
    "base": "base",
    "R1-Zero: GRPO straight from the base": "R1-Zero",
    "cold start only, all compute on demonstrations": "cold start only",
    "R1 after stage 2, reasoning RL, with 45 % of the compute": "R1 stage 2",
    "R1, all four stages": "R1",
    "student, pre-trained: 2 layers of width 64": "student",
    "distilled: the student on R1's accepted samples": "distilled",
    "RL on the student itself": "RL on small",
}
_CELLS = "| {} ± {} % | {} % | {} % | {} % | {} |"
_PRINTED = "{} ± {} " + ACROSS + 3 * "{} ± {~} " + ACROSS + "{} ±"
PIPELINE = (
    *(Entry(f"arm {printed}", f"| {row} {_CELLS}", "pipeline", (f"{printed} {_PRINTED}",), POINTS)
      for row, printed in ARMS.items()),
    Entry(
        "arm R1-Zero, accuracy",
        "| R1-Zero, accuracy reward only (direct answers count: {} ± {} %) " + _CELLS,
        "pipeline",
        (f"R1-Zero, accuracy {ACROSS}{{}} ± {{}}", f"R1-Zero, accuracy {_PRINTED}"),
        POINTS,
    ),
)  # fmt: skip
