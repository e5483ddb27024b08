"""What the engine's tests draw: shapes, options, regimes and layouts; never single values.

`Values` makes the numbers from a drawn seed. Every array it gives is read-only, so that a primitive
that writes to its inputs fails on that line, and in one of several memory layouts.
"""

import contextlib

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minideepseek.autograd import blocks
from minideepseek.autograd.engine import PRIMITIVES, ops, primitive

REGIMES = ("normal", "tiny", "large", "zeros", "ties", "rows")
LAYOUTS = ("contiguous", "transposed", "sliced", "reversed")

seeds = st.integers(0, 2**32 - 1)


def shapes(min_dims=0, max_dims=3, min_side=0, max_side=4):
    """Shapes with 0-d, size-0 and size-1 axes among them."""
    return hnp.array_shapes(
        min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side
    )


def broadcastable(count):
    """`count` shapes that broadcast with each other."""
    drawn = hnp.mutually_broadcastable_shapes(
        num_shapes=count, max_dims=3, min_side=0, max_side=4
    )
    return drawn.map(lambda found: found.input_shapes)


def laid_out(x, layout):
    """The same values in another memory layout."""
    if layout == "transposed" and x.ndim:
        return np.ascontiguousarray(x.T).T
    if layout == "sliced" and x.ndim:
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "reversed" and x.ndim:
        return np.ascontiguousarray(x[::-1])[::-1]
    return x


def frozen(x):
    """x as a read-only view."""
    x = np.asarray(x).view()
    x.flags.writeable = False
    return x


class Values:
    """Arrays of one regime and layout, their numbers from one generator."""

    def __init__(self, seed, regime="normal", layout="contiguous"):
        self.rng, self.regime, self.layout = np.random.default_rng(seed), regime, layout

    def __repr__(self):
        return f"Values({self.regime}, {self.layout})"

    def _done(self, x):
        return frozen(laid_out(np.asarray(x, np.float64), self.layout))

    def any(self, shape, large=30):
        """Numbers of any sign in this regime; `large` is the size of its large ones."""
        x = self.rng.standard_normal(shape)
        if self.regime == "ties":
            x = np.round(2 * x) / 2
        if self.regime == "rows" and x.ndim:
            x = np.broadcast_to(x[:1], x.shape)
        return self._done(x * {"tiny": 1e-3, "large": large, "zeros": 0}.get(self.regime, 1))

    def mild(self, shape):
        """`any` without the far tails of a sigmoid: at −40 it is 0 to within the rounding of 1."""
        return self.any(shape, large=3)

    def positive(self, shape):
        """Numbers of the regime's size, none near 0."""
        x = np.abs(self.any(shape))
        return self._done(x + 0.2 * (float(np.sqrt((x * x).mean())) or 1 if x.size else 1))

    def away_from_zero(self, shape):
        """`positive` with random signs."""
        return self._done(self.positive(shape) * self.rng.choice([-1.0, 1.0], shape))

    def apart(self, shape, start=0.0):
        """Numbers no two of which are nearer than 0.2: start + 0.2 k with distinct k."""
        k = self.rng.permutation(int(np.prod(shape, dtype=int))) - 5
        return self._done(start + 0.2 * k.reshape(shape))

    def lattice(self, shape, start=0.0):
        """start + 0.2 k with any k, ties among them."""
        return self._done(start + 0.2 * self.rng.integers(-6, 7, shape))

    def integers(self, high, shape):
        """0 ≤ i < high, repeats likely."""
        return frozen(self.rng.integers(0, max(high, 1), shape))

    def booleans(self, shape):
        """A mask."""
        return frozen(self.rng.random(shape) < 0.5)


@st.composite
def values(draw, regimes=REGIMES):
    """A generator of arrays with drawn seed, regime and layout."""
    return Values(draw(seeds), draw(st.sampled_from(regimes)), draw(st.sampled_from(LAYOUTS)))


def axes(ndim, several=True):
    """None, one axis or (with `several`) a tuple of distinct ones, negative ones among them."""
    if ndim == 0:
        return st.none()
    one = st.integers(-ndim, ndim - 1)
    some = st.sets(st.integers(0, ndim - 1), min_size=1).map(lambda s: tuple(sorted(s)))
    return st.none() | one | some if several else one


def lift(function):
    """`primitive` without a trace in the registry, for planted mistakes."""
    lifted = primitive(function)
    del PRIMITIVES[function.__name__]
    delattr(ops, function.__name__)
    return lifted


@contextlib.contextmanager
def using_threads(count):
    """`set_threads` for a `with` block."""
    before = blocks.get_threads()
    blocks.set_threads(count)
    try:
        yield
    finally:
        blocks.set_threads(before)
