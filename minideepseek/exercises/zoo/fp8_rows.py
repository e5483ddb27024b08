r"""The eight bits that are no float  ★★  10 minutes

A network is trained "in FP8": every number passes through this function. It works, for small
networks nearly as well as in 32 bits. In a larger one, in which some channels are a thousand times
larger than others, most activations become 0, and the loss stops falling early. The paper had no
such trouble.

In the wild: in a tile with one outlier 81 % of the numbers became 0 and the relative error was
0.73; of true E4M3 it is none and 0.025.
"""

import ml_dtypes
import numpy as np

LARGEST = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)  # 448


def fp8_rows(x):
    """x (N, 128) float32 rounded to E4M3, a scale for every row: its largest |x| is put on 448.

    Between 448 and 2⁻⁶ neighbours of E4M3 are at most 1/8 apart, relatively. A row of zeros has
    scale 1. Returns float32 of x's shape.
    """
    amax = np.abs(x).max(-1, keepdims=True)
    scale = np.where(amax > 0, amax / np.float32(LARGEST), np.float32(1))
    q = np.clip(np.round(x / scale), -LARGEST, LARGEST)
    return q * scale


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers.fp8 import tiles


def _of_the_library(rounded):
    return lambda x: rounded(x, (1, 128))


def _rows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 128)).astype(np.float32)
    x[1] *= 1e-3
    x[1, 0], x[2] = 448.0, 0.0
    return x


def _largest(fp8_rows):
    x = _rows()
    amax = np.abs(x).max(-1)
    return compare(np.abs(fp8_rows(x)).max(-1), amax, "the largest of each row", 1e-5)


def _close(fp8_rows):
    """|x̂ − x| ≤ |x|/16, or half a step of the subnormals."""
    x = np.zeros((1, 128), np.float32)
    x[0, :4] = 448, 0.3, 3.3, -21
    for rows in (x, _rows()):
        y = fp8_rows(rows.copy())
        scale = np.abs(rows).max(-1, keepdims=True) / 448
        off = np.abs(y - rows) - np.maximum(np.abs(rows) / 16, scale / 1024) * (1 + 1e-6)
        if (off > 0).any():
            n, i = np.argwhere(off > 0)[0]
            return (
                f"{rows[n, i]:.4g} becomes {y[n, i]:.4g} in a row whose largest is "
                f"{np.abs(rows[n]).max():g}\nE4M3 is never off by more than 1/16 there"
            )
    return ""


def _value(fp8_rows):
    got, want = fp8_rows(_rows()), tiles.rounded(_rows(), (1, 128))
    return compare(got, want, "x̂", 1e-6)


STORY = """\
Rounding to whole multiples of a scale is INT8: one step size for small and large, all below half a
step gone. A float spends half of its bits on an exponent so that the step shrinks with the number:
E4M3 has 8 steps in every octave, over 15 octaves and a few subnormal steps below. The name says
FP8, the clip is at 448, the storage is 8 bits, and on numbers of one size the two are equally
good. The test is one small number beside a large one."""

EXERCISE = Bug(
    solutions=(tiles.rounded,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(_rows()), ((3, 128), "f")),
        "the largest stays": _largest,
        "small ones beside it": _close,
        "the value": _value,
    })),
    hints=(
        "Which numbers can q be? Which of them are E4M3's between 1 and 2?",
        "ml_dtypes has the format as a dtype: .astype(ml_dtypes.float8_e4m3fn) rounds to it.",
        "q = np.clip(x / scale, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)",
    ),
    mistakes=(
        Mistake(
            "q = np.clip(x / scale, -240, 240)\n"
            "    q = q.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)",
            "the largest stays", "off by a factor 0.535714",
        ),
        Mistake("q = np.clip(np.round(x / scale * 8) / 8, -LARGEST, LARGEST)",
                "small ones beside it", "becomes"),
        Mistake("q = (x / scale).astype(np.float16).astype(np.float32)", "the value", "x̂: "),
        Mistake(
            "q = (x / scale).astype(ml_dtypes.float8_e5m2).astype(np.float32)",
            "small ones beside it", "becomes",
        ),
    ),
    wrong="q = np.clip(np.round(x / scale), -LARGEST, LARGEST)",
    mend="q = np.clip(x / scale, -LARGEST, LARGEST)\n"
         "    q = q.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)",
    fails=("small ones beside it", "0.3 becomes 0 in a row whose largest is 448\nE4M3"),
    story=STORY,
)  # fmt: skip
