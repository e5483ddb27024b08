r"""The bug zoo: functions that run, train and look right, and are wrong.

    minideepseek zoo list         what there is, and what is mended
    minideepseek zoo show NAME    what a user sees, and which property fails; copies the function
    minideepseek zoo hint NAME    three hints, one more at each call
    minideepseek zoo check NAME   holds your copy against the property

Each is a mistake that published implementations of these models really made. None of them stops a
program, and a test of shapes finds none: what finds it is a property, a sentence about the result
that has to hold whatever the numbers are. To think of that sentence is the skill; the mending is
mostly one line.

A bug NAME is the file zoo/NAME.py, made as an exercise is (catalogue.py): above the line the
symptom and a function NAME, complete and wrong; below it the property, the library's function that
has it, and the story, which is told when the copy is mended.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.autograd.engine import Tensor
from minideepseek.exercises.catalogue import Catalogue
from minideepseek.exercises.exercise import Exercise
from minideepseek.exercises.folder import MISSING, Folder, start
from minideepseek.exercises.gradients import described

CHAPTERS: dict[str, tuple[str, ...]] = {
    "0 · Engine and training": (
        "adamw_step", "adam_direction", "clipped_step", "next_token_loss", "rms_norm",
    ),
    "1 · Attention": ("causal_attention", "cached_attention", "rotated", "turned_pairs"),
    "2 · Latent attention": ("cache_entry", "rotated_keys", "latent_weights", "yarn_scale"),
    "3 · Mixture of experts": (
        "choose_experts", "keep_groups", "gate_weights", "routed_gates", "update_bias",
        "route_batch", "balance_loss",
    ),
    "4 · Two tokens ahead, and eight bits": (
        "mtp_losses", "joined", "accepted", "after_refusal", "speculative_round", "fp8_rows",
        "to_e4m3", "fp8_activations", "dequantised",
    ),
    "5 · Reasoning": ("well_formed", "reaches", "split_texts", "pass_at_k"),
    "6 · GRPO": (
        "completion_mask", "advantages", "group_baseline", "first_update", "clipped", "token_mean",
        "kl_penalty",
    ),
}  # fmt: skip

ZOO = Catalogue("minideepseek.exercises.zoo", "bug", "zoo", CHAPTERS)


@dataclass(frozen=True)
class Bug(Exercise):
    """An exercise whose hole is filled, wrongly.

    wrong: that text in the copy; mend: what belongs there, and a Mistake's code is what else one
    might write. fails: name and a part of the text of the line that the copy gets, after lines
    that are ok. story: what the mistake did and how it was hidden, for after success.
    """

    wrong: str
    mend: str
    fails: tuple[str, str]
    story: str


class Visit(Folder):
    """The visitor's folder, which need not be there before the first bug is shown."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            super().__init__(path, ZOO)
        else:
            self.path, self.catalogue, self.progress = path, ZOO, {}

    def verdict(self, name: str) -> str:
        """As a folder's; "" for a bug that was never shown."""
        found = super().verdict(name)
        return "" if found == MISSING and name not in self.progress else found


def copy(path: Path, name: str) -> None:
    """Copy a bug into the folder, which is made if need be; no work is lost."""
    start(path, replace(ZOO, chapters={"": (name,)}))


def symptom(name: str) -> str:
    """What is said about a bug before it is looked into."""
    text = ast.get_docstring(ast.parse(ZOO.skeleton(name))) or ""
    return text.partition("\n")[2].strip()


# ------------------------------------------------------------------------------ for the properties


def looks_right(call: Callable, *expected: tuple[tuple[int, ...], str]) -> Callable:
    """The property that what call(function) returns are finite arrays of these shapes and kinds.

    Kinds are those of NumPy's dtypes, "f" floating, "i" integers, "b" bool. Tensors and Python's
    numbers will do as well.
    """

    def holds(function: Callable) -> str:
        found = call(function)
        many = found if isinstance(found, tuple) else (found,)
        if len(many) != len(expected):
            much = f"{len(expected)} values" if len(expected) > 1 else "one value"
            return f"it returned {described(found)}, expected {much}"
        for x, (shape, kind) in zip(many, expected, strict=True):
            array = np.asarray(x.data if isinstance(x, Tensor) else x)
            fits = array.dtype.kind in ("iu" if kind == "i" else kind)
            if isinstance(x, list | tuple) or not fits:
                return f"it returned {described(x)}, expected {_KINDS[kind]} {shape}"
            if array.shape != shape:
                return f"it returned an array {array.shape}, want {shape}"
            if kind == "f" and not np.isfinite(array).all():
                return "it returned NaN or Inf for ordinary numbers"
        return ""

    return holds


_KINDS = {"f": "floats", "i": "integers", "b": "bools"}


def told(x: Any) -> str:
    """The numbers of a small array, three decimals of each."""
    numbers = np.asarray(x)
    if numbers.dtype.kind == "f":
        numbers = np.round(numbers, 3) + 0.0  # no −0
    return str(numbers.tolist())
