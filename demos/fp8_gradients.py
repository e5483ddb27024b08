r"""Gradients in FP8 beside float32's of the same batch, and beside the noise between batches.

The routers' choices of the float32 pass are used in FP8 too: a flipped choice sends a token to
another expert and is counted by itself (`flips`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from minideepseek.autograd.engine import Parameter, no_grad, ops
from minideepseek.layers.fp8.recipe import (
    FINE_GRAINED,
    HIGH_PRECISION,
    PER_TENSOR,
    SQUARE_GRADIENTS,
    V3,
    Recipe,
    Scheme,
)
from minideepseek.layers.mtp import cross_entropy
from minideepseek.model.fp8 import fp8_training, high_precision
from minideepseek.model.layout import is_quantised
from minideepseek.model.transformer import DeepSeekV3

Gradients = dict[str, np.ndarray]  # of the quantised matrices, by their names in a checkpoint


class Noise:
    """How far a batch's gradient is from the mean, layer by layer.

    noise = √( Σ_b ‖g_b − ḡ‖² / (K − 1) ) over K batches of the training's size, ḡ their mean.
    """

    def __init__(self) -> None:
        self.count, self.sums, self.squares = 0, Gradients(), dict[str, float]()

    def add(self, gradients: Gradients) -> None:
        self.count += 1
        for name, g in gradients.items():
            self.sums[name] = self.sums.get(name, 0.0) + g.astype(np.float64)
            self.squares[name] = self.squares.get(name, 0.0) + square(g)

    def mean(self, name: str) -> float:
        """‖ḡ‖."""
        return math.sqrt(square(self.sums[name])) / self.count

    def of(self, name: str) -> float:
        around = self.squares[name] - self.count * self.mean(name) ** 2
        return math.sqrt(max(around, 0.0) / (self.count - 1))


class Agreement:
    """Gradients ĝ beside right ones g of the same batches, each sum over the batches.

    error: √(Σ ‖ĝ − g‖² / n); relative: that of √(Σ ‖g‖² / n); cosine: of both, all batches in a
    row; averaged: ‖mean (ĝ − g)‖ / error, 1/√n where errors are independent, 1 where they are one.
    """

    def __init__(self) -> None:
        self.count, self.sums, self.off = 0, dict[str, np.ndarray](), Gradients()

    def add(self, found: Gradients, right: Gradients) -> None:
        self.count += 1
        for name, g in right.items():
            off = found[name].astype(np.float64) - g
            new = np.array([square(off), square(g), square(found[name])])
            self.sums[name] = self.sums.get(name, np.zeros(3)) + new
            self.off[name] = self.off.get(name, 0.0) + off

    def of(self, name: str) -> dict[str, float]:
        off, right, found = self.sums[name]
        return {
            "error": math.sqrt(off / self.count),
            "relative": _share(math.sqrt(off), math.sqrt(right)),
            "cosine": _share((right + found - off) / 2, math.sqrt(right * found)),
            "averaged": _share(math.sqrt(square(self.off[name]) / self.count), math.sqrt(off)),
        }


def square(x: np.ndarray) -> float:
    """‖x‖², added up in float64."""
    flat = x.astype(np.float64, copy=False).ravel()
    return float(flat @ flat)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def powers_of_two(scheme: Scheme) -> Scheme:
    """The scheme with every scale a power of two, as V3.1 has it."""
    tiles = {f.name: replace(getattr(scheme, f.name), power_of_two=True) for f in fields(scheme)}
    return replace(scheme, **tiles)


WAYS = {
    "V3's recipe": V3,
    "fine-grained": Recipe.uniform(FINE_GRAINED),
    "powers of two": Recipe.uniform(powers_of_two(FINE_GRAINED)),
    "128 × 128 on dY": Recipe.uniform(SQUARE_GRADIENTS),
    "per tensor": Recipe.uniform(PER_TENSOR),
    "forward alone": Recipe.uniform(
        Scheme(dy=HIGH_PRECISION, dy_tokens=HIGH_PRECISION, x_tokens=HIGH_PRECISION)
    ),
    "backward alone": Recipe.uniform(Scheme(x=HIGH_PRECISION, w=HIGH_PRECISION)),
}
LOUD = ("V3's recipe", "128 × 128 on dY", "per tensor")
FACTORS = (1, 10, 100, 1000, 10**4, 10**5)


def gradients(
    model: DeepSeekV3, ids: np.ndarray, routing: list[np.ndarray] | None = None
) -> tuple[float, Gradients, list[np.ndarray]]:
    """The loss of ids (B, T + 1), its gradients, each expert's own, and the experts chosen.

    routing: the experts to use in place of the routers' choices.
    """
    for parameter in model.parameters():
        parameter.grad = None
    h, decided = model.hidden(ids[:, :-1], routing=routing)
    loss = cross_entropy(model.logits(h), ids, 1)
    loss.backward()
    places = DeepSeekV3.empty(model.config)  # names each expert's part of a stack
    for place, parameter in zip(places.parameters(), model.parameters(), strict=True):
        place.data[...] = parameter.grad
    named = {n: g for n, g in places.state_dict().items() if is_quantised(n)}
    return loss.item(), named, [routing.indices for routing in decided]


def flips(model: DeepSeekV3, ids: np.ndarray, chosen: list[np.ndarray]) -> float:
    """The share of `chosen` experts that this model's routers do not choose."""
    with no_grad():
        _, decided = model.hidden(ids[:, :-1])
    kept = [
        (one[:, :, None] == routing.indices[:, None]).any(-1).mean()
        for one, routing in zip(chosen, decided, strict=True)
    ]
    return 1 - float(np.mean(kept))


class Leaf:
    """Stands for the embedding: its rows are a Parameter, so that their gradients are kept."""

    def __init__(self, weight: Parameter) -> None:
        self.weight = weight

    def __call__(self, ids: np.ndarray) -> Parameter:
        self.rows = Parameter(self.weight.data[ids])
        return self.rows


class Watched:
    """A tile that counts the numbers other than 0 which it is given, and which it makes 0."""

    def __init__(self, tile: Any) -> None:
        self.tile, self.given, self.lost = tile, 0, 0

    def round(self, x: np.ndarray) -> np.ndarray:
        y = self.tile.round(x)
        given, left = int(np.count_nonzero(x)), int(np.count_nonzero(y))
        self.given, self.lost = self.given + given, self.lost + given - left
        return y


def watched(recipe: Recipe) -> tuple[Recipe, dict[str, list[Watched]]]:
    """The recipe, and those that watch over its dY, by the name of dY's tile."""
    seen: dict[str, list[Watched]] = {"dy": [], "dy_tokens": []}
    parts = {}
    for name in ("linear", "after_attention", "experts_up", "experts_down"):
        scheme = getattr(recipe, name)
        new = {key: Watched(getattr(scheme, key)) for key in seen}
        parts[name] = replace(scheme, **new)
        for key, one in new.items():
            seen[key].append(one)
    return replace(recipe, **parts), seen


def loud(
    twin: DeepSeekV3, ids: np.ndarray, routing: list[np.ndarray], factor: float
) -> np.ndarray:
    """Gradients (B, T − 1, d) of all embedded tokens but the first of each sequence, whose loss
    counts `factor` times. No later token has a part in that loss: what is returned depends on the
    factor by rounding alone. twin: a model to be spoilt, its embedding is replaced."""
    leaf = Leaf(twin.model.embed_tokens.weight)
    vars(twin.model)["embed_tokens"] = leaf
    weights = np.ones(ids[:, 1:].shape, np.float32)
    weights[:, 0] = factor
    h, _ = twin.hidden(ids[:, :-1], routing=routing)
    ops.softmax_cross_entropy(twin.logits(h), ids[:, 1:], weights).backward()
    assert leaf.rows.grad is not None
    return leaf.rows.grad[:, 1:]


def loud_curve(
    model: DeepSeekV3, recipe: Recipe, ids: np.ndarray, routing: list[np.ndarray]
) -> dict[str, list[float]]:
    """By FACTORS: error of the quiet tokens' gradients, and shares of dY that become 0."""
    curve: dict[str, list[float]] = {"error": [], "dy": [], "dy_tokens": []}
    right = loud(high_precision(model), ids, routing, 1)
    for factor in FACTORS:
        counting, seen = watched(recipe)
        found = loud(fp8_training(model, counting), ids, routing, factor)
        curve["error"].append(math.sqrt(square(found - right) / square(right)))
        for key, tiles in seen.items():
            lost, given = (sum(getattr(t, n) for t in tiles) for n in ("lost", "given"))
            curve[key].append(_share(lost, given))
    return curve


def study(model: DeepSeekV3, batches: Iterable[np.ndarray], checked: int) -> dict[str, Any]:
    """All that is measured of gradients at one checkpoint, `checked` of the batches in FP8 too.

    layers: {name: {noise, mean, ways: {way: Agreement's}}}; ways: {way: {flips, loss}}, loss: how
    far off, of itself, the root mean square over batches; loud: {way: curves over FACTORS}.
    """
    noise, agree = Noise(), {way: Agreement() for way in WAYS}
    other: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    curves: dict[str, Any] = {}
    for i, ids in enumerate(batches):
        loss, right, chosen = gradients(model, ids)
        noise.add(right)
        for way, recipe in WAYS.items() if i < checked else ():
            twin = fp8_training(model, recipe)
            found_loss, found, _ = gradients(twin, ids, chosen)
            agree[way].add(found, right)
            other[way].append((flips(twin, ids, chosen), (found_loss / loss - 1) ** 2))
        if i == 0:
            curves = {way: loud_curve(model, WAYS[way], ids, chosen) for way in LOUD}
    means = {way: np.mean(pairs, axis=0).tolist() for way, pairs in other.items()}
    return {
        "layers": {
            name: {"noise": noise.of(name), "mean": noise.mean(name)}
            | {"ways": {way: one.of(name) for way, one in agree.items()}}
            for name in noise.sums
        },
        "ways": {way: {"flips": f, "loss": math.sqrt(s)} for way, (f, s) in means.items()},
        "loud": curves,
    }
