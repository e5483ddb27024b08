r"""Derivatives by differences: what `gradcheck` holds a rule against.

For φ(t) = ⟨u, f(x + t v)⟩ the central difference D(h) = (φ(h) − φ(−h)) / 2h is φ′(0) up to terms in
h², h⁴, …; rounding adds about 1e-16 φ / h. Richardson's

    R(h) = (16 D(h/4) − D(h)) / 15

cancels the term in h². A long step suffers from the bends of f, a short one from rounding, and
where the best lies depends on f and x, so no step is fixed: h runs from 1e-2 down by factors of 4
until two R agree, and their difference says how far to trust them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minideepseek.autograd.engine import unbroadcast
from minideepseek.errors import InputError

STEPS = [1e-2 / 4**k for k in range(11)]  # … 1e-8
ROUNDING = 4e-16  # in φ, relative to its size
NOISE = ROUNDING / STEPS[2]  # what it does to a quotient with one of the longer steps
TABLE_LIMIT = 4096  # entries of an argument up to which its whole gradient is made by differences


class Problem:
    """y = value(*arrays), pull(u, *arrays) its gradients there, and two random cotangents u."""

    def __init__(self, f, names, arrays, value, pull, constants, exact_shapes) -> None:
        self.name = getattr(f, "__name__", type(f).__name__)
        self.names = [f"d{name}" for name in names]
        self.arrays = [read_only(x) for x in arrays]
        self.value, self.pull, self.exact_shapes = value, pull, exact_shapes
        self.checked = [
            i for i, x in enumerate(self.arrays)
            if x.dtype.kind == "f" and names[i] not in constants
        ]  # fmt: skip

    def draw(self, rng: np.random.Generator) -> None:
        """Evaluate y, draw the cotangents and pull them back."""
        y = np.asarray(self.value(*self.arrays))
        if y.dtype.kind != "f" or not np.isfinite(y).all():
            raise InputError(f"{self.name}: its value must be floating and finite to be checked")
        self.u = rng.standard_normal((2, *y.shape))
        self.pulled = [self.pull(read_only(u), *self.arrays) for u in self.u]
        self.size = self.size_of(y)

    def wrong_shape(self, i: int) -> str:
        """Why gradient i cannot be one, or ""."""
        if len(self.pulled[0]) != len(self.arrays):
            return f"{len(self.pulled[0])} gradients for {len(self.arrays)} arguments"
        g, want = self.pulled[0][i], self.arrays[i].shape
        if g is None or np.shape(g) == want:
            return ""
        said = f"shape {np.shape(g)}, want {want}"
        try:
            unbroadcast(np.asarray(g), want)
        except ValueError:
            return f"{said}: transposed?" if np.shape(g) == want[::-1] else said
        return f"{said}: sum over the broadcast axes" if self.exact_shapes else ""

    def gradients(self, i: int) -> np.ndarray:
        """The rule's gradients (2, *shape) of argument i for the two cotangents; None is zeros."""
        shape = self.arrays[i].shape
        got = [np.zeros(shape) if g[i] is None else np.asarray(g[i]) for g in self.pulled]
        return np.stack([g if g.shape == shape else unbroadcast(g, shape) for g in got])

    def moved(self, i: int, step: np.ndarray) -> np.ndarray:
        """y with argument i moved by `step`."""
        arrays = [np.asarray(x + step) if j == i else x for j, x in enumerate(self.arrays)]
        return np.asarray(self.value(*arrays))

    def along(self, i: int, step: np.ndarray) -> np.ndarray:
        """φ = ⟨u, y⟩ for both cotangents with argument i moved by `step`: (2,)."""
        return self.u.reshape(2, -1) @ self.moved(i, step).reshape(-1)

    def size_of(self, y: np.ndarray) -> np.ndarray:
        """Σ |uᵢyᵢ| for both cotangents: (2,)."""
        return np.abs(self.u * y).reshape(2, -1).sum(-1)

    def size_near(self, i: int, v: np.ndarray) -> np.ndarray:
        """The size of y here or one long step along v away: y may be 0 just here."""
        with np.errstate(all="ignore"):
            near = self.size_of(self.moved(i, STEPS[0] * v))
        return np.where(np.isfinite(near), np.maximum(near, self.size), self.size)

    def slope(self, i: int, v: np.ndarray, size: Any, enough: Any) -> tuple[np.ndarray, np.ndarray]:
        """φ′(0) along v for both cotangents, and how far it may be off, φ being of some size.

        That is how far two extrapolations disagree, and what rounding does at this step: two that
        are wrong by rounding may well agree, so luck is not taken for accuracy.
        """
        best, error = np.full(2, np.nan), np.full(2, np.inf)
        coarse = last = np.full(2, np.nan)  # NaN: not known yet, and no comparison holds
        for h in STEPS:
            with np.errstate(all="ignore"):  # a long step may leave f's domain
                fine = (self.along(i, h * v) - self.along(i, -h * v)) / (2 * h)
                r = (16 * fine - coarse) / 15
                off = np.abs(r - last) + ROUNDING * size / h
                best, error = np.where(off < error, r, best), np.fmin(off, error)
            coarse, last = fine, r
            if (error <= enough).all():
                break
        return best, error

    def differences(self, i: int) -> np.ndarray:
        """The gradients (2, *shape) of argument i by differences alone, entry by entry."""
        x = self.arrays[i]
        if x.size > TABLE_LIMIT:
            raise InputError(f"{self.names[i]} has {x.size} entries, a table at most {TABLE_LIMIT}")
        want, sizes = np.zeros((2, *x.shape)), own_sizes(x)
        for index in np.ndindex(x.shape):
            v = np.zeros_like(sizes)
            v[index] = sizes[index]
            slope, _ = self.slope(i, v, self.size, NOISE * self.size)
            want[(slice(None), *index)] = slope / sizes[index]
        return want

    def kinked(self, i: int, v: np.ndarray, size: np.ndarray) -> bool:
        """Whether slopes of that size to the left and right differ, however small the step."""
        here = self.along(i, 0 * v)
        a, b = (
            np.abs(self.along(i, h * v) - 2 * here + self.along(i, -h * v)) / h
            for h in (1e-5, 1e-6)
        )
        return bool(((b > 0.5 * a) & (b > 1e-3 * size + 1e7 * ROUNDING * self.size)).any())


def rms(x: np.ndarray) -> float:
    """The root mean square of x, 1 if it is all zeros."""
    return float(np.sqrt((x * x).mean())) or 1.0 if x.size else 1.0


def own_sizes(x: np.ndarray) -> np.ndarray:
    """|x|, with the array's size where an entry is 0."""
    return np.where(x == 0, rms(x), np.abs(x))


def read_only(x: Any) -> np.ndarray:
    """A view of x that cannot be written through, floats in float64."""
    x = np.asarray(x)
    x = (x.astype(np.float64) if x.dtype.kind == "f" and x.dtype != np.float64 else x).view()
    x.flags.writeable = False
    return x
