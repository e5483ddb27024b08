"""The rules behind a figure: ticks, labels, running means, fewer points, room."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.training.scales import bounds, decimate, short, smooth, spread, tick_labels, ticks

numbers = st.floats(-1e100, 1e100).map(lambda v: 0.0 if abs(v) < 1e-100 else v)


def read(label: str) -> float:
    """The number that a tick label shows."""
    label = label.replace("−", "-").replace(",", "")
    label = label.replace("k", "e3").replace("M", "e6").replace("×10", "e")
    return float(label.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))


@settings(max_examples=200)
@given(
    low=numbers,
    high=numbers,
    near=st.sampled_from([None, 0, 3e-16, 1e-15, 1e-12, 1e-6, 0.01]),
    n=st.integers(1, 12),
    integer=st.booleans(),
)
def test_ticks_are_inside_increasing_and_few(low, high, near, n, integer):
    low, high = sorted((low, high if near is None else low * (1 + near)))
    found = ticks(low, high, n, integer)
    assert len(found) <= n
    assert all(low <= value <= high for value in found)
    assert all(a < b for a, b in zip(found, found[1:], strict=False))
    if n >= 5 and high - low > 1e-6 * max(abs(low), abs(high)) and (not integer or high - low >= 2):
        assert len(found) >= 2
    if integer and high > low:
        assert all(value == int(value) for value in found)
    labels = tick_labels(found)
    assert len(set(labels)) == len(found)
    if len(found) > 1 and high - low > 1e-9 * max(abs(low), abs(high)):
        for label, value in zip(labels, found, strict=True):
            assert read(label) == pytest.approx(value, rel=1e-6)


def test_ticks_and_labels_by_example():
    assert ticks(1.5, 4.3, 6) == [1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert ticks(1, 3, 5, integer=True) == [1, 2, 3]
    assert ticks(0, 0.3, 4) == [0, 0.1, 0.2, 0.3]
    assert tick_labels([0, 20_000, 40_000]) == ["0", "20k", "40k"]
    assert tick_labels([0, 2e-5, 4e-5]) == ["0", "2×10⁻⁵", "4×10⁻⁵"]
    assert tick_labels([-0.5, 0, 0.5]) == ["−0.5", "0", "0.5"]
    assert [short(v) for v in (2.0, 1.23456, -0.123456, 12_345.6, 3e-5, math.nan)] == [
        "2",
        "1.235",
        "−0.1235",
        "12,346",
        "3×10⁻⁵",
        "not a number",
    ]


@given(n=st.integers(1, 300), window=st.integers(1, 21), seed=st.integers(0, 99))
def test_smooth_is_the_mean_of_a_window(n, window, seed):
    bad = (seed % 5) / 4
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    y[rng.random(n) < bad] = np.nan
    smoothed = smooth(y, window)
    for i in range(n):
        half = min(i, window // 2)
        seen = y[i - half : i + half + 1]
        seen = seen[np.isfinite(seen)]
        if len(seen):
            assert smoothed[i] == pytest.approx(seen.mean(), abs=1e-12)
        else:
            assert math.isnan(smoothed[i])


@given(n=st.integers(1, 3000), limit=st.integers(2, 200), seed=st.integers(0, 9))
def test_decimate_keeps_order_and_extremes(n, limit, seed):
    y = np.random.default_rng(seed).normal(size=n)
    y[:: seed + 2] = np.nan
    keep = decimate(y, limit)
    assert len(keep) <= limit and np.all(np.diff(keep) > 0)
    if np.isfinite(y).any():
        assert np.nanmax(y[keep]) == np.nanmax(y) and np.nanmin(y[keep]) == np.nanmin(y)


@given(wanted=st.lists(st.floats(0, 200), max_size=15), gap=st.floats(1, 30))
def test_spread_keeps_the_order_and_the_room(wanted, gap):
    placed = spread(wanted, gap, 200)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    room = min(gap, 200 / max(1, len(wanted) - 1))
    assert all(-1e-9 <= at <= 200 + 1e-9 for at in placed)
    for a, b in zip(order, order[1:], strict=False):
        assert placed[b] - placed[a] >= room - 1e-9
    far = all(abs(a - b) >= room for i, a in enumerate(wanted) for b in wanted[:i])
    if far:
        assert placed == pytest.approx(wanted, abs=1e-9)


@given(st.lists(numbers, min_size=1, max_size=5), st.booleans())
def test_bounds_hold_every_value_and_have_width(values, from_zero):
    low, high = bounds(np.array([*values, np.nan]), from_zero)
    assert low <= min(values) and max(values) <= high and low < high
    assert not from_zero or low <= 0 <= high
