"""Mistakes planted in the kernels' texts and in their launches: each is seen.

The checks are those that the kernels themselves pass at the edges of warps and blocks.
"""

import numpy as np
import pytest

from minideepseek.autograd.kernels import activation, gather, launch, norm, optimise
from minideepseek.layers.fp8 import kernels
from tests.kernels import cases, shim

pytestmark = pytest.mark.skipif(not shim.compiler(), reason="needs g++")

# case: (what stands there, what is planted, why it is wrong)
IN_TEXTS = {
    "rms_norm": [
        ("if (row >= rows) return;", "", "a row beyond the last"),
        ("c < d; c += 32)\n        y", "c <= d; c += 32)\n        y", "one beyond the row"),
        ("row * x_stride", "row * d", "rows that lie apart"),
        ("other = 16", "other = 8", "a butterfly of four steps"),
        ("lane = threadIdx.x % 32", "lane = threadIdx.x % 32 + 1", "the first column"),
        ("c += 32)\n        sum", "c += 31)\n        sum", "a stride that meets others' columns"),
        ("if (row >= rows) return;", "if (row >= rows || lane >= d) return;", "a lane that leaves"),
        ("sum * mean + eps", "sum + eps", "no mean"),
        ("if (lane == 0) r[row]", "r[threadIdx.x]", "r by thread"),
    ],
    "rms_norm_backward": [
        ("min(first + each, rows)", "first + each", "the last block's rows"),
        ("row < last; row += warps", "row < last - 1; row += warps", "the last row"),
        ("dw[blockIdx.x * d + c] = sum", "dw[c] += sum", "a race: no atomic"),
        ("dw[blockIdx.x * d + c] = sum", "dw[c] = sum", "blocks over one another"),
        ("- mine[c] * r[row] * sum)", "- mine[c] * sum)", "x for x̂"),
        ("first + warp; row", "first; row", "each warp does all rows"),
    ],
    "swiglu": [
        ("if (row >= rows) return;", "", "a row beyond the last"),
        ("row * up_stride", "row * gate_stride", "the other array's stride"),
        ("tanhf(z * 0.5f)", "tanhf(z)", "σ(2z)"),
        ("c = threadIdx.x % 32;", "c = threadIdx.x % 16;", "half of the columns"),
    ],
    "swiglu_backward": [
        ("act - act * sigma + sigma", "act - act * sigma", "a term of the slope"),
        ("dup[row * dup_stride + c]", "dup[row * d + c]", "the result's stride"),
        ("by * act;", "act;", "no g"),
    ],
    "rotate": [
        ("row / heads % tokens", "row % tokens", "the head's angles"),
        ("% tokens * half", "* half", "a second sequence's angles"),
        ("d - 2 * half", "0", "the first channels turned"),
        ("? 1 : half", "? 1 : 1", "the partner of a half"),
        ("? 2 * i : i", "? i : i", "the pairs' step"),
        ("b * cosine + a", "b * cosine - a", "no rotation"),
        (" * sign", "", "backward turns on"),
        ("row * x_stride", "row * d", "rows that lie apart"),
        ("c < start", "c <= start", "a race for one channel"),
    ],
    "gather_sum": [
        ("j = 1; sent", "j = 0; sent", "the first twice"),
        ("j < k; j++", "j < k - 1; j++", "the last never"),
        ("place += token * k", "place += token", "another token's places"),
        (">= 0;", ">= -1;", "padding gets somebody's row"),
        ("y[token * d + c]", "y[token * (d + 1) + c]", "the result's stride"),
        ("for (long long j", "for (int j", None),  # harmless: shows that the harness is no alarm
    ],
    "adamw": [
        ("(blockIdx.x - row.first) * each", "blockIdx.x * each", "another parameter's numbers"),
        ("min(start + each, row.size)", "start + each", "beyond a parameter"),
        ("<= blockIdx.x", "< blockIdx.x", "the block before"),
        ("- m / (sqrtf(v) + eps)", "- m / sqrtf(v + eps)", "ε inside the root"),
        ("* row.keep -", "-", "no decay"),
        ("+ 0x7fffu + even", "+ 0x8000u", "bfloat16: ties away from zero"),
        ("g * g * rest2", "g * rest2", "no square"),
        ("i += blockDim.x", "i += 2 * blockDim.x", "every other number"),
    ],
    "encode_all": [
        ("if (i < count) codes", "codes", "beyond the last"),
        ("(size > INFINITE)", "(size >= INFINITE)", "infinity as NaN"),
        ("(128u - BIAS) << 23);         //", "(127u - BIAS) << 23);         //", "subnormals"),
        ("(23u - MANTISSA) << 23", "(22u - MANTISSA) << 23", "one bit too many"),
        ("? SIGN : 0", "? 0 : SIGN", "the sign"),
        ("    size = min(size, (LARGEST", "    min(size, (LARGEST", "no saturation"),
        ("NOT_A_NUMBER | minus", "NOT_A_NUMBER", "NaN without its sign"),
    ],
    "quantize": [
        ("t.height <= 0", "t.height < 0", "a scale for a tile beyond the last"),
        ("threadIdx.x / threads;", "0;", "all warps on one tile"),
        ("min(columns, k - t.left)", "columns", "beyond the last column"),
        ("if (largest == 0) return 1;", "", "a tile of zeros"),
        ("(k + columns - 1) / columns", "k / columns", "ragged tiles"),
        ("    if (threads == 32) return largest;\n", "", "warps of other tiles in the maximum"),
        ("    __syncthreads();\n", "", "read before it is written"),
        ("& 0x7fffffffu);\n    }", ");\n    }", "sizes with their signs"),
        ("fmaxf(__uint_as_float(largest)", "fminf(__uint_as_float(largest)", "the scale's floor"),
        ("+ 0x7fffffu) &", "+ 0x3fffffu) &", "a power of two that is too small"),
    ],
    "round_tiles": [
        ("pushed *= 1.5f", "pushed *= 1.0f", "negative numbers lose an octave"),
        ("(127u + 23 - MANTISSA)", "(127u + 22 - MANTISSA)", "one bit too fine"),
        ("bound ? bounded(q, s) : q) * s;\n    }\n}\n\nextern",
         "q) * s;\n    }\n}\n\nextern", "beyond float32"),
    ],
    "dequantize": [
        ("row / rows *", "row *", "another tile's scale"),
        ("scales[c / columns]", "scales[c]", "a scale for each column"),
        ("q > bound ? bound : q <", "q >= bound ? q : q <", "no upper bound"),
    ],
}  # fmt: skip
PLANTED = [
    pytest.param(case, *mistake, id=f"{case}: {mistake[2] or 'harmless'}")
    for case, mistakes in IN_TEXTS.items()
    for mistake in mistakes
]


@pytest.fixture(autouse=True)
def _ready():
    cases.ready()


def plant(monkeypatch, old, new):
    """Change the text of whatever kernel is launched and holds `old`; how often that happened."""
    compiled, seen = launch.compiled.__wrapped__, []

    def changed(xp, kernel):
        seen.append(kernel.source.count(old))
        return compiled(xp, kernel._replace(source=kernel.source.replace(old, new)))

    monkeypatch.setattr(launch, "compiled", changed)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("case, old, new, why", PLANTED)
def test_a_mistake_in_a_text_is_seen(monkeypatch, case, old, new, why):
    seen, rng = plant(monkeypatch, old, new), np.random.default_rng(0)
    if why is None:
        cases.at_the_edges(case, rng)
    else:
        with pytest.raises((AssertionError, shim.LaunchError)):
            cases.at_the_edges(case, rng)
    assert max(seen) > 0, "nothing was planted"


def test_one_mistake_of_each_kind_is_seen(monkeypatch):
    """A few of the many, in the quick tests: a bound, a race, a rounding, a lane that leaves."""
    for case, i in (("swiglu", 0), ("rms_norm_backward", 3), ("adamw", 5), ("rms_norm", 6)):
        old, new, why = IN_TEXTS[case][i]
        with monkeypatch.context() as patch, pytest.raises((AssertionError, shim.LaunchError)):
            plant(patch, old, new)
            cases.at_the_edges(case, np.random.default_rng(0))
            pytest.fail(f"not seen: {why}", pytrace=False)


# What the host can do wrong: the arguments, their types, the geometry.
IN_LAUNCHES = [
    ("a Python float is handed over as a double",
     lambda *a: [float(x) if isinstance(x, np.float32) else x for x in a]),
    ("an argument is missing", lambda *a: a[:-1]),
    ("two arrays change places", lambda *a: (a[2], a[1], a[0], *a[3:])),
    ("a number is int32",
     lambda *a: [np.int32(x) if type(x) is int else x for x in a]),
    ("rows and columns change places",
     lambda *a: [*a[:3], a[4], a[3], *a[5:]]),
    ("an array stays on the host", lambda *a: [a[0].get(), *a[1:]]),
    ("an array of another dtype", lambda *a: [a[0].astype("float64"), *a[1:]]),
]  # fmt: skip


@pytest.mark.parametrize("why, change", IN_LAUNCHES, ids=[why for why, _ in IN_LAUNCHES])
def test_a_mistake_in_a_launch_is_seen(monkeypatch, why, change):
    from tests.standin.kernels import RawKernel

    call = RawKernel.__call__
    monkeypatch.setattr(
        RawKernel, "__call__", lambda self, g, b, args: call(self, g, b, tuple(change(*args)))
    )
    case = "rms_norm" if "double" in why else "swiglu"
    with pytest.raises((AssertionError, shim.LaunchError, TypeError)):
        cases.at_the_edges(case, np.random.default_rng(0))


@pytest.mark.parametrize("module, name, value, case", [
    (norm, "ROWS", 31, None),  # another number of rows to a block is as good
    (optimise, "EACH", 100, None),
    (activation, "WARP", 16, "swiglu"),  # half of the blocks that it takes
    (activation, "WARP", 64, None),  # twice as many: the rest has nothing to do
    (gather, "THREADS", 128, None),
    (gather, "THREADS", 512, "gather_sum"),
    (kernels, "THREADS", 512, "quantize"),
], ids=str)  # fmt: skip
def test_the_geometry_of_launches(monkeypatch, module, name, value, case):
    monkeypatch.setattr(module, name, value)
    if case is None:
        names = [n for n in cases.CASES if hasattr(module, n)]
        for one in names:
            cases.at_the_edges(one, np.random.default_rng(0))
        return
    with pytest.raises((AssertionError, shim.LaunchError, ZeroDivisionError)):
        cases.at_the_edges(case, np.random.default_rng(0))
