r"""Elementary primitives: each a value and its vector-Jacobian product, adjacent.

Read one as its mathematics: for y = f(x) the inner `vjp` takes g = ∂L/∂y and returns ∂L/∂x = Jᵀg.

    elementwise      y = f(x)       Jᵀg = g · f′(x)
    linear           y = A x        Jᵀg = Aᵀ g           sum ↔ broadcast, take ↔ scatter-add, …
    a reduction      y = Σ x        Jᵀg = g, broadcast back

Broadcasting is undone by the engine, so `add` may say (g, g) whatever the shapes were. Names and
argument order are NumPy's; shapes are arbitrary unless given. Errors are NumPy's own.
"""

from __future__ import annotations

import math

from minideepseek.autograd.backend import Array, scatter_add, xp_of
from minideepseek.autograd.engine import primitive
from minideepseek.errors import InputError

# --------------------------------------------------------------------------------- arithmetic


@primitive
def add(x, y):
    """x + y, broadcast."""
    return x + y, lambda g: (g, g)


@primitive
def subtract(x, y):
    """x − y, broadcast."""
    return x - y, lambda g: (g, -g)


@primitive
def multiply(x, y):
    """x y, broadcast:  dx = g y, dy = g x."""
    return x * y, lambda g: (g * y, g * x)


@primitive
def divide(x, y):
    """x / y, broadcast:  dx = g / y, dy = −g x / y²."""
    return x / y, lambda g: (g / y, -g * x / (y * y))


@primitive
def scale(x, *, by):
    """x · by for a Python number."""
    by = float(by)
    return x * by, lambda g: g * by


@primitive
def shift(x, *, by):
    """x + by for a Python number."""
    return x + float(by), lambda g: g


@primitive
def power(x, *, exponent):
    """xⁿ for a Python number n:  dx = g n xⁿ⁻¹.  Small whole n by products: `**` is slow."""
    n = exponent

    def raised(n):
        if isinstance(n, int) and 1 <= n <= 4:
            y = x
            for _ in range(n - 1):
                y = y * x
            return y
        return x ** float(n)

    return raised(n), lambda g: g if n == 1 else g * raised(n - 1) * float(n)


@primitive
def matmul(x, y):
    """x @ y for stacks of matrices (at least 2-D):  dx = g yᵀ, dy = xᵀ g."""
    if x.ndim < 2 or y.ndim < 2:
        raise InputError(f"matmul: shapes {x.shape} and {y.shape}, expected at least 2-D arrays")
    return x @ y, lambda g: (g @ y.swapaxes(-1, -2), x.swapaxes(-1, -2) @ g)


# -------------------------------------------------------------------------------- elementwise


@primitive
def exp(x):
    """eˣ:  dx = g y. Saves its output."""
    y = xp_of(x).exp(x)
    return y, lambda g: g * y


@primitive
def log(x):
    """ln x for x > 0:  dx = g / x."""
    return xp_of(x).log(x), lambda g: g / x


@primitive
def sqrt(x):
    """√x for x > 0:  dx = g / 2y."""
    y = xp_of(x).sqrt(x)
    return y, lambda g: g / (2 * y)


@primitive
def tanh(x):
    """tanh x:  dx = g (1 − y²). Saves its output."""
    y = xp_of(x).tanh(x)
    return y, lambda g: g * (1 - y * y)


def sigmoid_array(x: Array) -> Array:
    """σ(x) = (1 + tanh(x/2)) / 2 on arrays: one expression that overflows nowhere."""
    return 0.5 * xp_of(x).tanh(0.5 * x) + 0.5


@primitive
def sigmoid(x):
    """σ(x) = 1 / (1 + e⁻ˣ):  dx = g y (1 − y). Saves its output."""
    y = sigmoid_array(x)
    return y, lambda g: g * y * (1 - y)


@primitive
def silu(x):
    """x σ(x):  dx = g (σ + x σ (1 − σ))."""
    s = sigmoid_array(x)
    return x * s, lambda g: g * (s + x * s * (1 - s))


@primitive
def maximum(x, y):
    """max(x, y), broadcast; where equal, x takes the gradient."""
    keep = x >= y
    return xp_of(x, y).maximum(x, y), lambda g: (g * keep, g * ~keep)


@primitive
def minimum(x, y):
    """min(x, y), broadcast; where equal, x takes the gradient."""
    keep = x <= y
    return xp_of(x, y).minimum(x, y), lambda g: (g * keep, g * ~keep)


@primitive
def clip(x, *, low, high):
    """min(max(x, low), high):  dx = g where low ≤ x ≤ high, else exactly 0."""
    inside = (x >= low) & (x <= high)
    return xp_of(x).clip(x, low, high), lambda g: g * inside


@primitive
def where(mask, x, y):
    """x where the boolean array `mask`, else y, broadcast. The mask needs no gradient."""
    xp = xp_of(mask, x, y)
    return xp.where(mask, x, y), lambda g: (None, g * mask, g * ~mask)


# --------------------------------------------------------------------------------- reductions


def _spread(xp, g, shape, axis, keepdims):
    """g, the gradient of a reduction over `axis`, as a read-only view with x's shape.

    `xp` comes from x: g may be a NumPy scalar, as every product of 0-d arrays is.
    """
    if axis is not None and not keepdims:
        axes = (axis,) if isinstance(axis, int) else axis
        g = xp.expand_dims(g, tuple(a % len(shape) for a in axes))
    return xp.broadcast_to(g, shape)


@primitive
def sum(x, *, axis=None, keepdims=False):
    """Σ x over `axis` (None, an int or a tuple):  dx = g, broadcast back."""
    xp, shape = xp_of(x), x.shape  # not x itself, which the closure would keep alive
    return x.sum(axis, keepdims=keepdims), lambda g: _spread(xp, g, shape, axis, keepdims)


@primitive
def mean(x, *, axis=None, keepdims=False):
    """Σ x / n over `axis`:  dx = g / n, broadcast back. An empty mean raises ZeroDivisionError."""
    xp, shape, total = xp_of(x), x.shape, x.sum(axis, keepdims=keepdims)
    by = 1 / (x.size // total.size) if total.size else 1.0
    return total * by, lambda g: _spread(xp, g * by, shape, axis, keepdims)


@primitive
def max(x, *, axis=-1, keepdims=False):
    """max x over one axis; the first of equal maxima takes the gradient."""
    xp, shape = xp_of(x), x.shape
    best = xp.expand_dims(x.argmax(axis), axis)
    y = xp.take_along_axis(x, best, axis)

    def vjp(g):
        dx = xp.zeros(shape, g.dtype)
        xp.put_along_axis(dx, best, g if keepdims else xp.expand_dims(g, axis), axis)
        return dx

    return (y if keepdims else y.squeeze(axis)), vjp


@primitive
def logsumexp(x, *, axis=-1, keepdims=False):
    """ln Σ eˣ over one axis, shifted by the maximum:  dx = g softmax(x)."""
    xp = xp_of(x)
    m = x.max(axis, keepdims=True)
    y = m + xp.log(xp.exp(x - m).sum(axis, keepdims=True))

    def vjp(g):
        return xp.exp(x - y) * (g if keepdims else xp.expand_dims(g, axis))

    return (y if keepdims else y.squeeze(axis)), vjp


@primitive
def softmax(x, *, axis=-1):
    """yᵢ = eˣⁱ / Σⱼ eˣʲ:  J = diag(y) − y yᵀ, so dx = y (g − Σ g y). Saves its output."""
    xp = xp_of(x)
    y = xp.exp(x - x.max(axis, keepdims=True))
    y /= y.sum(axis, keepdims=True)
    return y, lambda g: y * (g - (g * y).sum(axis, keepdims=True))


@primitive
def log_softmax(x, *, axis=-1):
    """y = x − ln Σ eˣ:  dx = g − softmax(x) Σ g. Saves its output."""
    xp = xp_of(x)
    y = x - x.max(axis, keepdims=True)
    y -= xp.log(xp.exp(y).sum(axis, keepdims=True))
    return y, lambda g: g - xp.exp(y) * g.sum(axis, keepdims=True)


# ------------------------------------------------------------------- shapes, gathers, scatters


@primitive
def reshape(x, *, shape):
    """The same elements in another shape; a view where NumPy can."""
    before = x.shape
    return x.reshape(shape), lambda g: g.reshape(before)


@primitive
def transpose(x, *, axes=None):
    """Axes permuted (reversed by default); a view. Its transpose is the inverse permutation."""
    axes = tuple(reversed(range(x.ndim))) if axes is None else tuple(a % x.ndim for a in axes)
    inverse = sorted(range(x.ndim), key=axes.__getitem__)
    return x.transpose(axes), lambda g: g.transpose(inverse)


@primitive
def broadcast_to(x, *, shape):
    """x repeated to `shape`, a read-only view; the engine sums the gradient back."""
    return xp_of(x).broadcast_to(x, shape), lambda g: g


@primitive
def concatenate(*xs, axis=-1):
    """The arrays end to end along `axis`; the gradient is cut at the same places."""
    cuts = [0]
    for x in xs:
        cuts.append(cuts[-1] + x.shape[axis])
    lead = (slice(None),) * (axis % xs[0].ndim)

    def vjp(g):
        return tuple(g[(*lead, slice(a, b))] for a, b in zip(cuts, cuts[1:], strict=False))

    return xp_of(*xs).concatenate(xs, axis), vjp


@primitive
def getitem(x, *, index):
    """x[index] for integers, slices, None and `...` (a view); gathers are `take` and friends."""
    for i in index if isinstance(index, tuple) else (index,):
        if not (i is None or i is Ellipsis or isinstance(i, (int, slice))):
            raise TypeError(f"getitem: index {i!r} is not basic; use take or take_along_axis")

    xp, shape = xp_of(x), x.shape

    def vjp(g):
        dx = xp.zeros(shape, g.dtype)
        dx[index] = g
        return dx

    return x[index], vjp


@primitive
def take(x, index):
    """Rows x[index] of x (V, d) for an integer array of any shape: an embedding, y (…, d).

    dx = scatter-add of g: a row taken twice receives both gradients.
    """
    xp, shape = xp_of(x, index), x.shape

    def vjp(g):
        width = math.prod(shape[1:])
        dx = xp.zeros((shape[0], width), g.dtype)
        scatter_add(dx, index.reshape(-1), g.reshape(index.size, width))
        return dx.reshape(shape), None

    return x[index], vjp


@primitive
def take_along_axis(x, index, *, axis=-1):
    """x gathered along `axis` by an integer array, distinct along it (top-k choices, targets)."""
    xp, shape = xp_of(x, index), x.shape

    def vjp(g):
        dx = xp.zeros(shape, g.dtype)
        xp.put_along_axis(dx, index, g, axis)
        return dx, None

    return xp.take_along_axis(x, index, axis), vjp
