r"""The token that drowns the others  ★★  8 minutes

Activations are rounded to E4M3, really E4M3 this time. On most texts the loss is that of 32 bits.
On some it is much worse, for every token of a batch in which one of them is, say, the beginning of
a text, with numbers a hundred thousand times larger than usual. The same text in another batch is
fine.

In the wild: one scale for a tensor was the rule before V3; the paper's tiles were read and a
tensor's scale was written.
"""

import ml_dtypes
import numpy as np


def fp8_activations(x):
    """x (N, K) float32 rounded to E4M3, one scale for every token's 128 channels.

    N tokens, K a multiple of 128; a tile's scale puts its largest |x| on 448, and a tile of zeros
    has scale 1. Returns float32 of x's shape.
    """
    tiles = x.reshape(len(x), -1, 128)
    amax = np.abs(tiles).max(keepdims=True)
    scale = np.where(amax > 0, amax / np.float32(448), np.float32(1))
    q = np.clip(tiles / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return (q.astype(np.float32) * scale).reshape(x.shape)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers.fp8.tiles import rounded


def _of_the_library(rounded):
    return lambda x: rounded(x, (1, 128))


def _x():
    return np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)


def _close(fp8_activations):
    x = _x()
    return compare(fp8_activations(x), x, "ordinary numbers: x̂", 0.1)


def _apart(fp8_activations):
    """A tile's numbers depend on no other tile."""
    x = _x()
    first = fp8_activations(x)
    for token, tile in ((0, 0), (2, 1)):
        loud = x.copy()
        loud[token, 128 * tile] = 1e7
        again = fp8_activations(loud)
        for n in range(3):
            for j in range(2):
                s = slice(128 * j, 128 * j + 128)
                if (n, j) != (token, tile) and not np.array_equal(again[n, s], first[n, s]):
                    zeros = (again[n, s] == 0).mean()
                    return (
                        f"one number of token {token}, tile {tile} becomes 10,000,000: of token "
                        f"{n}, tile {j}\n{100 * zeros:.0f} % are 0 then, and its first number "
                        f"goes from {first[n, s][0]:.4g} to {again[n, s][0] + 0:.4g}"
                    )
    return ""


def _value(fp8_activations):
    return compare(fp8_activations(_x()), rounded(_x(), (1, 128)), "x̂", 1e-6)


STORY = """\
E4M3's normal numbers span 15 octaves. With one scale for all, whatever is smaller than 2⁻¹⁵ of the
largest number in the batch is subnormal, then 0, and some tokens always have such numbers. With a
scale for each 1 × 128 an outlier harms its own 127 neighbours and nobody else, and a token's
numbers do not depend on who else is in the batch, which is a property that can be tested."""

EXERCISE = Bug(
    solutions=(rounded,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(_x()), ((3, 256), "f")),
        "close to x": _close,
        "an outlier stays alone": _apart,
        "the value": _value,
    })),
    hints=(
        "What shape has `scale`, and how many tiles are there?",
        "amax (N, K/128, 1): the maximum over the 128 channels of a tile, and nothing else.",
        "amax = np.abs(tiles).max(axis=-1, …)",
    ),
    mistakes=(
        Mistake("np.abs(tiles).max((0, 2), keepdims=True)", "an outlier stays alone",
                "one number of token 0, tile 0 becomes 10,000,000: of token 1"),
        Mistake("np.abs(tiles).max((1, 2), keepdims=True)", "an outlier stays alone",
                "of token 0, tile 1"),
        Mistake("np.full((1, 1, 1), 4.0, np.float32)", "the value", "x̂: "),
        Mistake("tiles.max(-1, keepdims=True)", "close to x", "ordinary numbers: x̂"),
    ),
    wrong="np.abs(tiles).max(keepdims=True)",
    mend="np.abs(tiles).max(-1, keepdims=True)",
    fails=("an outlier stays alone", "one number of token 0, tile 0 becomes 10,000,000: of token"),
    story=STORY,
)  # fmt: skip
