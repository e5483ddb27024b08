"""Measured numbers in docstrings, and whether the docstring names the command that printed them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.replay.bands import ROOT

_N = r"\d[\d,.]*"
MEASURED = re.compile(
    rf"{_N}\s?%"
    rf"|{_N}\s(?:µs|ms|seconds?|minutes?|microseconds?|[kMG]i?B|GFLOP|tokens/s)\b"
    rf"|{_N}\s?(?:×|times)\s(?:as|the|faster|slower|longer|less|more|larger|smaller|better)\b"
    rf"|{_N} bits (?:per|a) (?:held-out )?byte"
    rf"|bits per (?:held-out )?byte\W.*?\b\d\.\d"
    rf"|\bmeasured\b.*?\d"
)
COMMAND = re.compile(
    r"python -m (?:demos|minideepseek|pytest|tests)\b|minideepseek (?:info|journey|pretrain)\b"
    r"|\b(?:demos|tests)/\w[\w/]*\.py|\bsame file\b"
)
# Texts of their own: an exercise's minutes, a transcription's title; what a bug did elsewhere.
SKIPPED = ("exercises/problems/", "exercises/zoo/", "exercises/catalogue.py", "equations/")
_KERNELS = "minideepseek/autograd/kernels/"
ALLOWED = {  # (file, words of the sentence): why no command stands there
    ("minideepseek/autograd/gradcheck.py", "an error of 1 % never"): "arithmetic of a tolerance",
    (f"{_KERNELS}__init__.py", "less than 4 %"): "its table: 3.3 and 0.6 %",
    (f"{_KERNELS}optimise.py", "182 MB to read and write"): "arithmetic of a data sheet",
    (f"{_KERNELS}optimise.py", "780 launches at"): "arithmetic",
    ("minideepseek/layers/fp8/kernels.py", "at 10 µs a launch"): "arithmetic",
    ("minideepseek/layers/attention.py", "4 MB per token"): "32,768 · 2 · 61, of its table",
    ("minideepseek/layers/attention.py", "5 % of the original"): "that paper's figure",
    ("minideepseek/layers/fp8/accumulation.py", "nearly 2 %"): "V3's figure",
    ("minideepseek/layers/fp8/formats.py", "1.5 times as far up"): "a constant",
    ("minideepseek/layers/fp8/linear.py", "6 % away"): "neighbours in E4M3, 1/16 apart",
    ("minideepseek/model/contents.py", "are 12 MB"): "some 130 bytes for each of 91,991 tensors",
    ("minideepseek/model/ledger.py", "costs 3.4 times"): "1,088 and 131,392 over 320, of the table",
    ("minideepseek/model/ledger.py", "57 times less"): "32,768 over 576, printed by `info`",
    ("minideepseek/model/safetensors.py", "at most 100 MB"): "a limit that is set",
    ("minideepseek/training/data.py", "last 32 MiB"): "a limit that is set",
    ("minideepseek/training/data.py", "blocks of 900 kB"): "bzip2's format",
    ("minideepseek/training/figures.py", "some 15 kB"): "the size of a picture's text",
    ("minideepseek/training/optim.py", "0.4 % to 0.8 % apart"): "arithmetic of bfloat16",
    ("minideepseek/training/optim.py", "V3's 0.95 that is 5 %"): "arithmetic of β₂",
    ("minideepseek/training/optim.py", "usual 0.999 it is 0.1 %"): "arithmetic of β₂",
    ("minideepseek/training/scales.py", "5 % of air"): "a margin that is set",
    ("minideepseek/reasoning/countdown.py", "hits with about 10 %"): "1.23 solutions of 12",
    ("minideepseek/reasoning/r1/pipeline.py", "15.6 % → 77.9 %"): "R1's figures",
    ("minideepseek/training/corpus.py", "PaLM's authors"): "theirs",
    ("minideepseek/reasoning/journey.py", "31 % of the held-out"): "countdown.py's table",
    ("demos/fp8_lab.py", "95 % interval"): "a definition",
    ("demos/fp8_gradients.py", ""): "part of fp8_training, whose docstring names the command",
}  # fmt: skip


def docstrings() -> Iterator[tuple[str, str]]:
    """(file, docstring) of every module, class and function of the package and the demos."""
    for path in sorted([*ROOT.glob("minideepseek/**/*.py"), *ROOT.glob("demos/*.py")]):
        name = path.relative_to(ROOT).as_posix()
        if not any(part in name for part in SKIPPED):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = ast.get_docstring(node)
                    if text:
                        yield name, text


def sentences(paragraph: str) -> Iterator[str]:
    """Its sentences, or rows, each on one line; examples of code left out."""
    if not paragraph.lstrip().startswith(">>>"):
        for sentence in re.split(r"(?<=[.;])\s+", paragraph):
            yield " ".join(sentence.split())


def without_command() -> Iterator[tuple[str, str]]:
    """(file, sentence) with a measured number and no command near it.

    Near is the paragraph, with that before and that after it; of a demo, which is a command, the
    whole docstring.
    """
    for name, text in docstrings():
        parts = re.split(r"\n\s*\n", text)
        for i, part in enumerate(parts):
            near = text if name.startswith("demos/") else "\n".join(parts[max(0, i - 1) : i + 2])
            if not COMMAND.search(near):
                yield from ((name, s) for s in sentences(part) if MEASURED.search(s))


def allowed(name: str, sentence: str) -> bool:
    return any(name == file and words in sentence for file, words in ALLOWED)
