r"""Quantise, straight through  ★★★  20 minutes

E4M3 is a number in one byte: sign, four bits of exponent, three of mantissa, the largest 448. V3
multiplies in it (V3 §3.3.2). A matrix does not fit as it is, some numbers are too large and most
too small, so each tile of it gets a scale that puts its largest number on 448:

    s = max |x| / 448  over the tile,      q = encode(x / s),      x̂ = decode(q) · s

A tile is small, 1 × 128 or 128 × 128 in V3, because an outlier makes everything coarse that shares
its scale. A tile of zeros has s = 1. What can be asked of x̂: neighbours are 1/8 of an octave apart,
so that no number is off by more than 1/16 of itself, or by s/1024 where it is subnormal.

Now the gradient. x̂ as a function of x is a staircase; its derivative is 0 on every step and nothing
at the jumps, so that nothing would ever be learned. What is used instead is the derivative of the
straight line that the staircase follows,

    ∂x̂/∂x = 1 ,

in all of the formula, the scale included. No difference quotient confirms it; it is a choice, and
the reason why the master copy of a weight stays in float32: it collects steps that are too small to
see in x̂.

Both halves are yours: the value, and its vjp.
"""

import numpy as np

from minideepseek.layers.fp8.formats import decode, encode  # E4M3: floats → uint8 → float32


def straight_through(x, *, tile):
    """(x̂, vjp).   x, x̂ and g (N, K) float32; tile.rows divides N, tile.columns divides K."""
    raise NotImplementedError("return x_hat, vjp")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers.fp8 import linear
from minideepseek.layers.fp8.recipe import Tile

_TILES = Tile(1, 4), Tile(4, 1), Tile(4, 4), Tile(2, 6)
_STEP = 2.0**-24


def _matrix(tile, zeros=False):
    """Tiles of very different sizes; and the largest |x| of each at each of its places."""
    rng, rows, columns = np.random.default_rng(0), 8, 12
    down, across = rows // tile.rows, columns // tile.columns
    sizes = 10.0 ** rng.uniform(-6, 6, (down, 1, across, 1))
    if zeros:
        sizes[0, 0, 0] = 0
    x = rng.standard_normal((down, tile.rows, across, tile.columns)) * sizes
    x[..., 0] *= 30  # an outlier in every tile
    x = x.astype(np.float32)
    amax = np.broadcast_to(np.abs(x).max((1, 3), keepdims=True), x.shape)
    return x.reshape(rows, columns), amax.reshape(rows, columns)


def _called(straight_through, x, tile):
    """(x̂, vjp, ""), or what is wrong with what came back."""
    given = x.copy()
    pair = straight_through(given, tile=tile)
    if not isinstance(pair, tuple) or len(pair) != 2 or not callable(pair[1]):
        return None, None, f"it returned {described(pair)}, expected a pair (x̂, vjp)"
    y = pair[0]
    if not np.array_equal(given, x):
        return None, None, "it writes into x"
    if not isinstance(y, np.ndarray) or y.shape != x.shape:
        return None, None, compare(y, x, "x̂")
    if y.dtype != np.float32:
        return None, None, f"x̂ is an array of {y.dtype}, expected float32"
    return *pair, ""


def _each(judge, zeros=False):
    def holds(straight_through):
        for tile in _TILES:
            x, amax = _matrix(tile, zeros)
            y, _, said = _called(straight_through, x, tile)
            if said := said or judge(straight_through, x, y, amax / 448, tile):
                return f"tiles of {tile.rows} × {tile.columns}: {said}"
        return ""

    return holds


def _close(straight_through, x, y, s, tile):
    if not np.isfinite(y).all():
        return "x̂ holds NaN or Inf"
    allowed = np.maximum(np.abs(x) / 16, s / 1024) * (1 + 8 * _STEP)
    over = np.abs(y - x) / np.where(allowed > 0, allowed, 1)
    if over.max() <= 1:
        return ""
    at = np.unravel_index(over.argmax(), x.shape)
    what = f"x = {x[at]:g} at ({at[0]}, {at[1]}) becomes {y[at] + 0.0:g}"
    return f"{what}, {over[at]:.3g} times further off than in E4M3"


def _coarse(straight_through, x, y, s, tile):
    q = y / s
    off = np.abs(decode(encode(q)) - q) > 1e-5 * np.abs(q)
    if not off.any():
        return ""
    i, j = np.argwhere(off)[0]
    return f"x̂ / s = {q[i, j]:g} at ({i}, {j}) is no number of E4M3"


def _alone(straight_through, x, y, s, tile):
    louder = x.copy()
    louder[: tile.rows, : tile.columns] *= np.float32(1e4)
    other, _, said = _called(straight_through, louder, tile)
    same = other == y
    same[: tile.rows, : tile.columns] = True
    return said or ("" if same.all() else "a louder tile changes numbers of the others")


def _zeros(straight_through, x, y, s, tile):
    corner = y[: tile.rows, : tile.columns]
    return f"a tile of zeros becomes {corner.reshape(-1)[0]:g}" if corner.any() else ""


def _straight(straight_through):
    for tile in _TILES:
        x = _matrix(tile)[0]
        _, vjp, said = _called(straight_through, x, tile)
        if said:
            return said
        g = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
        before = g.copy()
        dx = vjp(g)
        dx = dx[0] if isinstance(dx, tuple) and len(dx) == 1 else dx
        if said := compare(dx, before, "dx", 0):
            return said
        if dx.dtype != np.float32:
            return f"dx is an array of {dx.dtype}, expected float32"
    return ""


def _wrong(tiles="x.reshape(-1, tile.rows, x.shape[1] // tile.columns, tile.columns)",
           amax="abs(tiles).max((1, 3), keepdims=True)", scale="np.where(s == 0, 1, s)",
           q="decode(encode(tiles / s)) * s", dx="g"):  # fmt: skip
    return (
        f"tiles = {tiles}\ns = {amax} / np.float32(448)\ns = {scale}.astype(np.float32)\n"
        f"x_hat = ({q}).reshape(x.shape)\nreturn x_hat, lambda g: {dx}"
    )


EXERCISE = Exercise(
    solutions=(linear.fp8_round,),
    checker=properties({
        "close to x": _each(_close),
        "numbers of E4M3": _each(_coarse),
        "each tile alone": _each(_alone),
        "a tile of zeros": _each(_zeros, True),
        "the others then": _each(_close, True),
        "straight through": _straight,
    }),
    hints=(
        "Reshape to (N / rows, rows, K / columns, columns): a tile then is two axes, and its\n"
        "maximum is taken over both. Keep them, so that s broadcasts.",
        "x̂ = decode(encode(x / s)) · s with s = max |x| / 448, s = 1 for zeros;  ∂L/∂x = g",
        "tiles = x.reshape(-1, tile.rows, x.shape[1] // tile.columns, tile.columns)",
    ),
    mistakes=(
        Mistake(_wrong(dx="g * 0"), "straight through", "dx is zero, expected an array that is"),
        Mistake(_wrong(q="np.round(tiles / s * 127 / 448) * s * 448 / 127"), "close to x",
                "times further off than in E4M3"),
        Mistake(_wrong(amax="abs(tiles).max()"), "close to x", "becomes 0, "),
        Mistake(_wrong(amax="tiles.max((1, 3), keepdims=True)"), "close to x", "becomes"),
        Mistake(_wrong(scale="s"), "a tile of zeros", "a tile of zeros becomes nan"),
        Mistake(_wrong(q="decode(encode(tiles * s)) / s"), "close to x", "becomes"),
        Mistake(_wrong(q="decode(encode(tiles))"), "close to x",
                "becomes 0, 16 times further off than in E4M3"),
        Mistake(_wrong(q="tiles"), "numbers of E4M3", "is no number of E4M3"),
        Mistake(_wrong(q="(tiles / s).astype(np.float16).astype(np.float32) * s"),
                "numbers of E4M3", "is no number of E4M3"),
        Mistake(_wrong(dx="g * (abs(x) <= 1)"), "straight through", "entries differ"),
        Mistake(_wrong(dx="(g.reshape(tiles.shape) * s).reshape(x.shape)"), "straight through",
                "entries differ"),
        Mistake(_wrong(tiles="x.reshape(-1, 1, tile.rows * tile.columns, 1)",
                       amax="abs(tiles).max((2, 3), keepdims=True)"), "close to x",
                "tiles of 4 × 1: x = "),
        Mistake(_wrong(q="decode(encode(tiles / s))"), "close to x", "becomes"),
    ),
)  # fmt: skip
