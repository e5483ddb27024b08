r"""The number that was a little too large  ★  4 minutes

A run in FP8 is stable for days, and then its loss is NaN between one step and the next. The logged
norms do not rise before. Saved activations of the step show nothing beyond 500. Running the step
in 32 bits is fine.

In the wild: it is one call of a library, and the name of the dtype is right.
"""

import ml_dtypes
import numpy as np


def to_e4m3(x):
    """The nearest E4M3 numbers, as float32; what lies beyond ±448, the largest, becomes ±448.

    x: float32, any shape; NaN stays NaN.
    """
    codes = x.astype(ml_dtypes.float8_e4m3fn)
    return codes.astype(np.float32)


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import properties
from minideepseek.layers.fp8.formats import decode, encode


def _of_the_library(encode):
    return lambda x: decode(encode(x))


def _within(*pairs):
    def holds(to_e4m3):
        for x, want in pairs:
            for sign in (1, -1):
                got = to_e4m3(np.array([0, sign * x], np.float32))
                if got[1] != sign * want:
                    return f"{sign * x:g} becomes {got[1]:g}, want {sign * want:g}"
        return ""

    return holds


def _nan(to_e4m3):
    got = to_e4m3(np.array([np.nan, 1], np.float32))
    return "" if np.isnan(got[0]) and got[1] == 1 else f"NaN and 1 become {got[0]:g} and {got[1]:g}"


STORY = """\
float8_e4m3fn has no infinity: the "fn" says finite, with one NaN. A cast rounds to the nearest, so
that up to 464, half a step beyond 448, all is well, and behind it there is nothing but NaN. With
fresh scales the largest number lies on 448; with a scale from an earlier step it lies anywhere.
The clamp comes before the cast."""

EXERCISE = Bug(
    solutions=(encode,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(np.ones((2, 3), np.float32)), ((2, 3), "f")),
        "nearest": _within((0.3, 0.3125), (1.0625, 1.0), (17, 16), (2**-10, 0), (0.002, 2**-9)),
        "up to 464": _within((448, 448), (463, 448)),
        "beyond": _within((500, 448), (1e9, 448), (np.inf, 448)),
        "NaN": _nan,
    })),
    hints=(
        "What does the cast make of 460, of 470, of 1e9?",
        "E4M3 ends at 448 and has no infinity. Clamp first, then cast.",
        "codes = np.clip(x, -448, …).astype(…)",
    ),
    mistakes=(
        Mistake("np.clip(x, -240, 240).astype(ml_dtypes.float8_e4m3fn)", "up to 464",
                "448 becomes 240"),
        Mistake("np.minimum(x, 448).astype(ml_dtypes.float8_e4m3fn)", "beyond", "-500 becomes nan"),
        Mistake("np.nan_to_num(np.clip(x, -448, 448)).astype(ml_dtypes.float8_e4m3fn)", "NaN",
                "NaN and 1 become 0 and 1"),
        Mistake("np.trunc(np.clip(x, -448, 448) * 512) / 512", "nearest", "0.3 becomes"),
    ),
    wrong="x.astype(ml_dtypes.float8_e4m3fn)",
    mend="np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn)",
    fails=("beyond", "500 becomes nan, want 448"),
    story=STORY,
)  # fmt: skip
