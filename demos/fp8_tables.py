r"""The tables of demos/fp8_training.py, whose docstring says what their columns are."""

from __future__ import annotations

import re
import statistics
from typing import Any

import numpy as np

from demos.fp8_gradients import FACTORS, LOUD, WAYS
from demos.fp8_lab import BRANCHES, FLOAT, FP8, MOVED, interval, per_cent

SHOWN = ("V3's recipe", "fine-grained", "128 × 128 on dY", "per tensor")
Runs = dict[str, dict[str, list[dict[str, Any]]]]  # start → arm → by seed or order
Table = tuple[list[str], list[list[str]]]  # heading and rows


def kind_of(name: str) -> str:
    """A matrix's name without the numbers of layer and expert."""
    name = name.removeprefix("model.layers.").removesuffix(".weight")
    return re.sub(r"^\d+\.(mlp|self_attn)\.|\.\d+", "", name)


def ratios(study: dict[str, Any], way: str) -> np.ndarray:
    """error / noise of every quantised matrix."""
    layers = study["layers"].values()
    return np.array([one["ways"][way]["error"] / one["noise"] for one in layers])


def measure(study: dict[str, Any], way: str, key: str) -> np.ndarray:
    return np.array([one["ways"][way][key] for one in study["layers"].values()])


def way_rows(study: dict[str, Any]) -> Table:
    head = ["", "error / noise, worst", "median", "below 1/10", "relative, median", "cosine, least",
            "loss, %", "flipped, %"]  # fmt: skip
    rows = []
    for way in WAYS:
        found, other = ratios(study, way), study["ways"][way]
        rows.append([
            way, f"{found.max():.3f}", f"{np.median(found):.3f}",
            f"{(found < 0.1).sum()} of {found.size}",
            f"{np.median(measure(study, way, 'relative')):.3f}",
            f"{measure(study, way, 'cosine').min():.4f}", f"{100 * other['loss']:.4f}",
            f"{100 * other['flips']:.2f}",
        ])  # fmt: skip
    return head, rows


def kind_rows(study: dict[str, Any]) -> Table:
    """By kind of layer; the worst of its matrices, but for the noise, which is their mean."""
    kinds = np.array([kind_of(name) for name in study["layers"]])
    noise = np.array([one["noise"] / one["mean"] for one in study["layers"].values()])
    rows = []
    for kind in dict.fromkeys(kinds.tolist()):
        of = kinds == kind
        relative, cosine = (measure(study, SHOWN[0], key)[of] for key in ("relative", "cosine"))
        worst = [f"{ratios(study, way)[of].max():.3f}" for way in SHOWN]
        own = [f"{noise[of].mean():.2f}", f"{relative.max():.3f}", f"{cosine.min():.4f}"]
        rows.append([kind, str(of.sum()), *own, *worst])
    return ["", "matrices", "noise", "relative, V3", "cosine, V3", *SHOWN], rows


def loud_rows(study: dict[str, Any]) -> Table:
    names = {"error": "error, %", "dy": "zeros in dX, %", "dy_tokens": "zeros in dW, %"}
    rows = [
        [f"{way}: {text}", *(f"{100 * v:.2f}" for v in study["loud"][way][key])]
        for key, text in names.items()
        for way in LOUD
    ]
    return ["first tokens count ×", *(f"{factor:,}" for factor in FACTORS)], rows


def losses(found: list[dict[str, Any]], key: str = "loss") -> list[float]:
    return [one[key] for one in found]


def pairs(runs: Runs) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Row of a table → runs, and the float32 run that each of them is compared with."""
    plain, whole = runs["branch"][FLOAT], runs["weights"]
    rows = {f"branch: {name}": (runs["branch"][name], plain[:-1]) for name in BRANCHES}
    rows["branch: float32, next order"] = plain[1:], plain[:-1]
    rows[f"whole: {FP8}"] = whole[FP8], whole[FLOAT]
    rows[f"whole: {MOVED}"] = whole[MOVED], whole[FLOAT][:1] * len(whole[MOVED])
    if len(whole[FLOAT]) > 1:
        others = whole[FLOAT][1:]
        rows["whole: float32, another seed"] = others, whole[FLOAT][:1] * len(others)
    return rows


def gaps(runs: Runs, row: str, key: str = "loss") -> list[float]:
    """Per cent of the loss, by pair."""
    one, other = pairs(runs)[row]
    return per_cent(losses(one, key), losses(other, key))


def mean_of(values: list[float]) -> str:
    return f"{statistics.mean(values):+.3f}"


def run_rows(runs: Runs) -> Table:
    head = ["", "pairs", "loss, nats", "gap, %", "spread, %", "in float32, %", "ms a step"]
    rows = []
    for row, (one, _) in pairs(runs).items():
        found, plain = gaps(runs, row), gaps(runs, row, "plain")
        # Pairs of float32 runs share runs: their gaps are not independent.
        show = mean_of if ": float32" in row else interval
        spread = f"{statistics.stdev(found):.3f}" if len(found) > 1 else ""
        rows.append([
            row, str(len(found)), f"{statistics.mean(losses(one)):.4f}", str(show(found)), spread,
            str(show(plain)),
            f"{1e3 * statistics.mean(losses(one, 'seconds')):.0f}",
        ])  # fmt: skip
    return head, rows


def tables(study: dict[str, Any], runs: Runs) -> dict[str, Table]:
    return {
        "Gradients of the quantised matrices": way_rows(study),
        "error / noise by kind of layer, the worst of its matrices": kind_rows(study),
        "The gradients of quiet tokens beside loud ones": loud_rows(study),
        "Runs": run_rows(runs),
    }
