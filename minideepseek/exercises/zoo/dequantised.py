r"""The file that only its writer can read  ★  4 minutes

A checkpoint in FP8 is read; names, shapes and bytes are right. Weights come out as numbers like
65,000, the norms of the network bring what they make back to size, nothing overflows, and the
model's answer is noise. Writing with one's own function and reading with this one gives back what
was written.

In the wild: the tensor's name suggests it.
"""

import numpy as np


def dequantised(q, scale_inv):
    """Float32 weights (N, K) of a file's E4M3 numbers q (N, K) and their scale_inv.

    scale_inv (⌈N/128⌉, ⌈K/128⌉): one for every tile of 128 × 128, as DeepSeek's files have it: the
    weights' largest number in the tile divided by 448.
    """
    each = np.repeat(np.repeat(scale_inv, 128, axis=0), 128, axis=1)
    return q / each[: q.shape[0], : q.shape[1]]


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.layers.fp8.formats import decode, encode
from minideepseek.layers.fp8.tiles import dequantize, quantize


def _of_the_library(dequantize):
    return lambda q, scale_inv: dequantize(encode(q), scale_inv)


def _file(scale=0.02):
    w = scale * np.random.default_rng(0).standard_normal((130, 200)).astype(np.float32)
    w[:, 128:] *= 100
    codes, scale_inv = quantize(w)
    return w, decode(codes), scale_inv


def _plain(dequantised):
    got = dequantised(np.full((2, 2), 1.5, np.float32), np.ones((1, 1), np.float32))
    return "" if (got == 1.5).all() else f"1.5 with scale 1 becomes {got[0, 0]:g}"


def _round_trip(dequantised):
    """A file that was written as DeepSeek's are gives back the weights to 1/16."""
    w, q, scale_inv = _file()
    got = dequantised(q, scale_inv)
    off = np.abs(got - w) > np.abs(w) / 16 + np.abs(w).max() / 1e5
    if off.any():
        i, j = np.argwhere(off)[0]
        return (
            f"the weight {w[i, j]:.4g} comes back as {got[i, j]:.4g}\n"
            f"q = {q[i, j]:g}, scale_inv = {scale_inv[i // 128, j // 128]:.4g}"
        )
    return ""


STORY = """\
A quantiser has a scale that it multiplies by, 448/amax, and its inverse that undoes it, amax/448.
The file holds the latter and calls it by its history, `weight_scale_inv`: the inverse, and so one
multiplies. Reading it as "divide" and writing it likewise, one's own round trip is perfect. What
is compared must come from somebody else's hand, or have a size that one knows: weights of a layer
are about 0.02."""

EXERCISE = Bug(
    solutions=(dequantize,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(*_file()[1:]), ((130, 200), "f")),
        "scale 1": _plain,
        "a file's weights": _round_trip,
    })),
    hints=(
        "The largest q of a tile is 448, its weight 0.08, its scale_inv 0.08/448. So?",
        "w ≈ q · scale_inv, whatever the name says.",
        "return q * …",
    ),
    mistakes=(
        Mistake("q / 448 * each[: q.shape[0], : q.shape[1]]", "scale 1",
                "1.5 with scale 1 becomes"),
        Mistake("q * each[: q.shape[0], : q.shape[1]] ** 2", "a file's weights",
                "comes back as"),
        Mistake("q * scale_inv[0, 0]", "a file's weights", "comes back as"),
        Mistake("q * np.tile(scale_inv, (128, 128))[: q.shape[0], : q.shape[1]]",
                "a file's weights", "comes back as"),
    ),
    wrong="q / each[: q.shape[0], : q.shape[1]]",
    mend="q * each[: q.shape[0], : q.shape[1]]",
    fails=("a file's weights", "comes back as"),
    story=STORY,
)  # fmt: skip
