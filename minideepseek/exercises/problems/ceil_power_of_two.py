r"""Up to a power of two, from the bits  ★★  10 minutes

A scale that is a power of two changes exponents only: multiplying by it rounds nothing. Since V3.1
all of DeepSeek's scales are, and eight bits hold one (UE8M0). A scale may only be rounded up: were
it smaller than max |x| / 448, the largest number of the tile would not fit. So

    p = 2^⌈log₂ s⌉

and the obvious float32 program, 2 ** ceil(log2(s)), is wrong. Just above a power of two log₂ s is
just above an integer, closer than float32 can tell from it: for s = 16 (1 + 2⁻²³) it is 4.00000017,
float32's neighbour of 4 is 4.00000048, and so the logarithm is rounded to 4. Then p = 16 < s, too
small by a factor 2. It happens to the first number above 16, and to the first 22 above 2¹⁰⁰: no
random test hits them.

A float32 needs no logarithm; it stores one:

    bit   31       30 … 23           22 … 0
          sign     exponent E + 127  mantissa M         s = 2ᴱ · (1 + M / 2²³)

s is a power of two exactly if M = 0, and else the answer is 2ᴱ⁺¹. The field of the exponent lies
directly above that of the mantissa, so that what is carried out of one arrives in the other.

`s.view(np.uint32)` are the same bytes as integers, and .view(np.float32) leads back.
"""

import numpy as np


def ceil_power_of_two(s):
    """The smallest power of two that is at least s.   s: positive normal float32, any shape."""
    raise NotImplementedError("return p")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import properties
from minideepseek.layers.fp8 import formats

_POWERS = np.ldexp(np.float32(1), np.arange(-126, 127)).astype(np.float32)


def _right(numbers):
    """The property that the result is right at these numbers."""

    def holds(ceil_power_of_two):
        s = np.asarray(numbers, np.float32)
        given = s.copy()
        p = ceil_power_of_two(given)
        if not isinstance(p, np.ndarray | np.generic) or p.shape != s.shape:
            return f"it returned {described(p)}, expected an array {s.shape}"
        if p.dtype != np.float32:
            return f"it returned an array of {p.dtype}, expected float32"
        if not np.array_equal(given, s):
            return "it writes into s"
        mantissa, exponent = np.frexp(s.astype(np.float64))  # s = mantissa · 2^exponent, from ½
        want = np.ldexp(1.0, exponent - (mantissa == 0.5))
        wrong = np.flatnonzero(p.reshape(-1) != want.reshape(-1))
        if not wrong.size:
            return ""
        got, at, right = (x.reshape(-1)[wrong[0]] for x in (p, s, want))
        return f"{wrong.size} of {s.size} are wrong: {float(at)!r} gives {got:g}, want {right:g}"

    return holds


_RANDOM = 2.0 ** np.random.default_rng(0).uniform(-126, 126, (40, 50))

EXERCISE = Exercise(
    solutions=(formats.ceil_power_of_two,),
    checker=properties({
        "between": _right([3.0, 5.0, 0.3, 1e-30, 1e30]),
        "powers of two": _right(_POWERS),
        "just above": _right(np.nextafter(_POWERS, np.float32(np.inf))),
        "just below": _right(np.nextafter(_POWERS, np.float32(0))[1:]),
        "a matrix": _right(_RANDOM),
        "one number": _right(0.7),
    }),
    hints=(
        "Which integer must be added to the bits so that every mantissa but 0 carries into\n"
        "the exponent? The mantissa that is left is then of no interest.",
        "add 2²³ − 1, then clear the lowest 23 bits (sign 0: s is positive)",
        "bits = s.view(np.uint32) + np.uint32(0x7FFFFF)",
    ),
    mistakes=(
        Mistake("return np.exp2(np.ceil(np.log2(s)))", "just above", "of 253 are wrong"),
        Mistake("return (s.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)", "between",
                "5 of 5 are wrong: 3.0 gives 2, want 4"),
        Mistake(
            "return ((s.view(np.uint32) + np.uint32(0x800000)) & np.uint32(0x7F800000))"
            ".view(np.float32)",
            "powers of two", "253 of 253 are wrong",
        ),
        Mistake(
            "return ((s.view(np.uint32) + np.uint32(0x400000)) & np.uint32(0x7F800000))"
            ".view(np.float32)",
            "between", "5.0 gives 4, want 8",
        ),
        Mistake("return (s.view(np.uint32) + np.uint32(0x7FFFFF)).view(np.float32)", "between",
                "5 of 5 are wrong: 3.0 gives"),
        Mistake(
            "return ((s.astype(np.uint32) + np.uint32(0x7FFFFF)) & np.uint32(0x7F800000))"
            ".view(np.float32)",
            "between", "5 of 5 are wrong",
        ),
        Mistake("return 2.0 ** np.ceil(np.log2(s.astype(np.float64)))", "between",
                "it returned an array of float64, expected float32"),
        Mistake("return np.exp2(np.floor(np.log2(s)) + 1)", "powers of two", "want 1.17549e-38"),
        Mistake("return np.exp2(np.round(np.log2(s)))", "between", "5.0 gives 4, want 8"),
    ),
)  # fmt: skip
