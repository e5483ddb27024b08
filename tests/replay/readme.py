"""The figures in the README's prose and blocks of Python."""

from __future__ import annotations

from tests.replay.bands import CLOCK, EXACT, RATIO, text_of_python, trained
from tests.replay.entries import Entry, Kept, Reading, ends, total
from tests.replay.tables import POINTS

BY_HAND = "a duration on quiet cores, taken with `time`"

PROSE = (
    Entry("300 lines", "the whole model in one file of {} lines", "lines", ("{} demos",), EXACT),
    Entry(
        "microdeepseek",
        "`python -m demos.microdeepseek` takes {} seconds to {} bits a byte, where bz2 needs {}.",
        "micro",
        ("2400 steps, {} s, {} bits a byte (bz2 {})",),
        (CLOCK, trained(0.05), text_of_python(0.05)),
    ),
    Entry(
        "FP8 in memory",
        "# bytes: {} and {}",
        "block 2",
        ("0.0 1.0 {} {}",),
        EXACT,
    ),
    Entry("a code", "# {}, the code of 0.3125", "block 2", ("0.0 1.0 {~} {~} {}",), EXACT),
    Entry(
        "exercises",
        "copies {} exercises, from `add` to GRPO",
        "exercises",
        ("of {} solved",),
        EXACT,
    ),
    Entry(
        "exercises' minutes",
        "{} minutes in all, by their own estimates",
        "exercises",
        (Reading("★ {} min", total, all_places=True),),
        EXACT,
    ),
    Entry(
        "zoo",
        "`minideepseek zoo list` names {} functions",
        "zoo",
        ("of {} solved",),
        EXACT,
    ),
    Entry(
        "R1 above R1-Zero",
        "R1 is above R1-Zero (by {} to {} points, any form of answer counted)",
        "pipeline",
        (Reading("(R1 − R1-Zero, any form, points by seed: {}, {}, {})", ends),),
        POINTS,
    ),
    Entry(
        "told beats finding out",
        "beats finding out for the small model (by {} to {})",
        "pipeline",
        (Reading("(distilled − RL on small, any form, points by seed: {}, {}, {})", ends),),
        POINTS,
    ),
    Entry(
        "thinking stays",
        "{} % of the base's responses think, and {} ± {} % after it",
        "pipeline",
        ("reward: {} ± {~} % of the answers before, {} ± {} % after",),
        POINTS,
    ),
    Entry(
        "bluffing",
        "(`!` on {} → {} % of attempts, true verdicts {} → {} %)",
        "bluffing",
        ("marked `!` {} % → {} % ({*}true verdicts {} % → {} %",),
        POINTS,
    ),
    Entry(
        "length bias",
        "the length bias of 1/|o| does not in {} steps",
        "length bias",
        ("{} {~} {~}% {~} {~}% {~}% {~}% {~} {~}% {~} {~} The failure does not show",),
        EXACT,
    ),
    Entry(
        "addition",
        "On addition {} supervised updates reach more than RL ({} against {} %).",
        "addition",
        ("demonstration, {} supervised steps to {} %", "GRPO comes to {} %"),
        (EXACT, POINTS, POINTS),
    ),
    Entry(
        "sampling",
        "Sampling 256 responses: {} tokens/s on one thread, {} × transformers' `generate`, and {}"
        " of a GRPO step",
        "sampling",
        (
            "ours {}",
            "PyTorch, generate {~} {~} {~} {}×",
            Reading("s training, {}% sampling", lambda found: [found[0] / 100]),
        ),
        (CLOCK, RATIO, RATIO),
    ),
)
KEPT = (
    Kept("trained drafts", "{} and {} once trained (below)", "the row of the drafts, rounded"),
    Kept("a seed's minutes", "A seed took six minutes", BY_HAND),
    Kept("the pipeline's minutes", "some {} minutes of one core for a seed", BY_HAND),
    Kept(
        "other runs of the benchmark",
        "a training step was {}, {} and {} × as fast, with {}, {} and {} % of the sgemm rate, one"
        " sequence {}, {} and {} × `generate`, 64 sequences {}, {} and {} ×",
        "examples of how much a busy machine moves them",
    ),
    Kept(
        "mutants",
        "of the first {} of {} mutants {} survived",
        "a run that was ended; a full one takes most of an hour",
    ),
    Kept("mutants of the slow tier", "The slow tier plants {}", "what the test asks for"),
    Kept(
        "broken writes",
        "with `--stride 37`, {} faults on 2026-11-24, no violation",
        "its table ends with the sum; it needs a C compiler, and the slow tier runs it",
    ),
    Kept(
        "hostile files",
        "on 2026-11-24 {} were accepted, {} refused, none was a violation, in {} s of one process",
        "half an hour",
    ),
    Kept(
        "torch.compile",
        "ours trained {} and {} × as fast",
        "two runs of `demos.benchmark --compile`, which compiles for minutes",
    ),
    Kept(
        "memory at the peak",
        "a training step holds {} MB, PyTorch's {}; for `mini` {} and {}, where training is {} ×",
        "the benchmark's, of presets `small` and `mini`, beside PyTorch",
    ),
    Kept("before GRPO", "before it, pass@8 is {} % already", "the row of pass@8, rounded"),
)
