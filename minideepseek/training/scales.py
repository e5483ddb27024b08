r"""Which numbers a figure shows: ticks and their labels, running means, fewer points, room.

Small rules over plain arrays, each of which a drawing is wrong without:

* `number`, `matrix`: what a file says as floats, NaN for what has no place in a picture;
* `ticks`: multiples of 1, 2 or 5 × 10ᵏ inside the range, the finest that give at most n;
* `smooth`: a centred mean, so that it does not lag; its window shrinks towards the first step,
  where a loss falls fastest, and is cut off at the last; NaN is left out of a mean;
* `decimate`: at most `limit` points, of each bucket the lowest and the highest, so that a spike
  of one step in 100,000 is still seen;
* `spread`: labels that would overlap are pushed apart by the least that keeps them in the frame.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def number(value: Any) -> float:
    """A float that can be drawn, else NaN: null, text, ±∞ and beyond ±1e100 have no place."""
    if isinstance(value, (int, float)) and abs(value) < 1e100:
        return float(value) if abs(value) > 1e-100 else 0.0
    return math.nan


def matrix(rows: Sequence[Any]) -> np.ndarray:
    """(N, E) from N rows of E numbers; a missing or shorter row becomes NaN."""
    width = max((len(row) for row in rows if row), default=0)
    out = np.full((len(rows), width), np.nan)
    for i, row in enumerate(rows):
        if row and len(row) == width:
            out[i] = [number(value) for value in row]
    return out


def ticks(low: float, high: float, n: int, integer: bool = False) -> list[float]:
    """At most n increasing round numbers in [low, high]; at least two where n ≥ 5 and low < high.

    With `integer`, multiples of 1, 2, 5, 10 … only. Nice numbers after Heckbert, Graphics Gems 1.
    """
    if not high > low or (high - low) / n < 1e-300:
        return [low]
    exponent = math.floor(math.log10((high - low) / n))
    if integer:
        exponent = max(exponent, 0)
    while True:
        for factor in (1, 2, 5):
            # Dividing by 10^-k is exact to the last bit where multiplying by 10^k is not.
            up, down = 10.0 ** max(exponent, 0), 10.0 ** max(-exponent, 0)
            step = factor * up / down
            counts = range(math.ceil(low / step) - 1, math.floor(high / step) + 2)
            found = sorted({i * factor * up / down for i in counts})
            found = [value for value in found if low <= value <= high]
            if len(found) <= n:
                return found
        exponent += 1


def tick_labels(values: list[float]) -> list[str]:
    """The ticks with just the decimals that tell neighbours apart: 0.25, 20k, 3×10⁻⁴."""
    if len(values) < 2:
        return [short(value) for value in values]
    step, largest = min(np.diff(values)), max(map(abs, values))
    exponent = math.floor(math.log10(step) + 1e-9)
    labels = []
    for value in values:
        if value and (exponent < -4 or largest >= 1e9):
            labels.append(_scientific(value, 2 + math.floor(math.log10(largest)) - exponent))
        elif value and largest >= 1e7 and step >= 1e5:
            labels.append(f"{value / 1e6:g}M")
        elif value and largest >= 1e4 and step >= 100:
            labels.append(f"{value / 1e3:g}k")
        else:
            labels.append(f"{value:,.{max(0, -exponent) if value else 0}f}")
    return [label.replace("-", "−") for label in labels]


def _scientific(value: float, digits: int) -> str:
    mantissa, power = f"{value:#.{digits - 1}e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.rstrip('0').rstrip('.')}×10{raised}"


def short(value: float, digits: int = 4) -> str:
    """A number for reading, whole or with some digits: 1.234, 12,345, 3×10⁻⁴; words for NaN."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    if value == int(value) and size < 1e12:
        text = f"{int(value):,}"
    elif 1e-4 <= size < 1e9:
        decimals = digits - 1 - math.floor(math.log10(size))
        text = f"{value:,.{max(0, decimals)}f}" if size >= 0.1 else f"{value:.{digits - 1}g}"
    else:
        text = _scientific(value, digits - 1)
    return text.replace("-", "−")


def smooth(y: np.ndarray, window: int) -> np.ndarray:
    """Centred mean of the finite values of y (N,) over at most `window` points; NaN over none."""
    n = len(y)
    half = np.minimum(np.arange(n), window // 2)
    finite = np.isfinite(y)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    first, last = np.arange(n) - half, np.minimum(np.arange(n) + half + 1, n)
    seen = count[last] - count[first]
    return np.where(seen > 0, (total[last] - total[first]) / np.maximum(seen, 1), np.nan)


def decimate(y: np.ndarray, limit: int) -> np.ndarray:
    """Indices of at most `limit` points of y (N,): of each bucket the lowest and the highest."""
    if len(y) <= limit:
        return np.arange(len(y))
    edges = np.linspace(0, len(y), max(1, limit // 2) + 1).astype(int)
    chosen: set[int] = set()
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        bucket = y[first:last]
        finite = np.isfinite(bucket)
        chosen.add(int(first + np.argmin(np.where(finite, bucket, np.inf))))
        chosen.add(int(first + np.argmax(np.where(finite, bucket, -np.inf))))
    return np.array(sorted(chosen))


def spread(wanted: list[float], gap: float, height: float) -> list[float]:
    """Positions near `wanted`, in the same order, `gap` apart, within [0, height] if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, height / max(1, len(wanted) - 1))
    placed = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        above = placed[order[rank - 1]] + gap if rank else 0.0
        placed[i] = max(wanted[i], above)
    below = height
    for i in reversed(order):
        placed[i] = min(placed[i], below)
        below = placed[i] - gap
    return placed


def bounds(values: np.ndarray, from_zero: bool = False) -> tuple[float, float]:
    """(low, high) around the finite values with 5 % of air; a flat set gets room as well."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    flat = high - low <= 1e-9 * max(abs(low), abs(high))
    air = (0.1 * abs(high) or 0.5) if flat else 0.05 * (high - low)
    return low if from_zero and low == 0 else low - air, high + air
