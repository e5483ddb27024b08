"""Every kernel, executed on the CPU, gives its reference's numbers, and writes nowhere else.

At the edges of warps and blocks: tests/gpu/test_kernels.py, which also runs on a card.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd.kernels import launch
from minideepseek.errors import InputError
from minideepseek.layers.fp8 import formats, kernels
from tests.kernels import cases, shim

pytestmark = pytest.mark.skipif(not shim.compiler(), reason="needs g++")
ROOT = Path(__file__).parents[2]
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def _ready():
    cases.ready()


ROWS, WIDTH = st.integers(0, 70), st.integers(1, 200)
BLOCKS = st.sampled_from(cases.BLOCKS)
DRAWN = {
    "rms_norm": st.tuples(ROWS, WIDTH, st.integers(0, 5)),
    "rms_norm_backward": st.tuples(ROWS, WIDTH, st.integers(0, 5)),
    "swiglu": st.tuples(ROWS, WIDTH, st.integers(0, 5)),
    "swiglu_backward": st.tuples(ROWS, WIDTH, st.integers(0, 5)),
    "rotate": st.tuples(
        st.integers(0, 20), st.integers(1, 4), st.integers(1, 70), st.integers(0, 40),
        st.integers(1, 3), st.integers(0, 5),
    ),
    "gather_sum": st.tuples(ROWS, st.integers(1, 8), WIDTH),
    "adamw": st.tuples(
        st.lists(st.integers(0, 5000), min_size=1, max_size=9),
        st.sampled_from(["float32", "bfloat16"]),
        st.sampled_from([(0.9, 0.95), (0, 0.999), (0.5, 0)]),
    ),
} | dict.fromkeys(
    ("quantize", "round_tiles", "dequantize"),
    st.tuples(
        ROWS, st.integers(0, 200), BLOCKS, st.sampled_from(cases.FORMATS), st.booleans()
    ),
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(DRAWN))
@settings(max_examples=5)
@given(st.data(), SEEDS)
def test_at_drawn_shapes(name, data, seed):
    cases.CASES[name](np.random.default_rng(seed), *data.draw(DRAWN[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DRAWN))
@settings(max_examples=150)
@given(st.data(), SEEDS)
def test_at_many_drawn_shapes(name, data, seed):
    cases.CASES[name](np.random.default_rng(seed), *data.draw(DRAWN[name]))


# ------------------------------------------------------------------------------------- encode


@pytest.mark.slow
def test_encode_of_every_float32_that_is_no_extreme():
    """From 2⁻¹¹, which becomes 0, to 2⁹, beyond the largest: all 168 million numbers."""
    first, last = np.array([2.0**-11, 2.0**9], np.float32).view(np.uint32)
    for start in range(first, last, 1 << 23):
        bits = np.arange(start, start + (1 << 23), dtype=np.uint32)
        code = formats.encode(bits.view(np.float32))
        out = np.zeros(bits.size, np.uint8)
        words = [bits.ctypes.data, out.ctypes.data, bits.size]
        kernel = kernels.kernel("encode_all", formats.E4M3)
        shim.run(*reversed(kernel), launch.cover(bits.size, launch.THREADS), launch.THREADS,
                 [w.to_bytes(8, "little") for w in words])  # fmt: skip
        assert np.array_equal(out, code), hex(start)


# ------------------------------------------------------------------------------------- launch


def test_rows_that_are_scattered_are_refused():
    x = cases.device(np.ones((4, 4), np.float32)).T
    with pytest.raises(InputError, match="elements side by side"):
        launch.row_stride(x)


def test_nothing_is_launched_for_nothing():
    from tests.standin import counters

    before = counters.launches
    cases.activation.swiglu(cases.device(np.ones((0, 4), np.float32)),
                            cases.device(np.ones((0, 4), np.float32)))  # fmt: skip
    assert counters.launches == before


def test_kernels_are_off_and_never_for_the_host():
    device, host = cases.device(np.ones(3, np.float32)), np.ones(3, np.float32)
    assert not launch.wanted(device)
    launch.set_kernels(True)
    try:
        assert launch.wanted(device) and launch.wanted(device, device)
        assert not launch.wanted(host) and not launch.wanted(device.astype("float64"))
    finally:
        launch.set_kernels(False)


def test_the_environment_switches_them_on():
    code = "from minideepseek.autograd.kernels import launch; print(launch._on)"
    for value, expected in (("1", "True"), ("0", "False"), ("", "False")):
        environment = os.environ | {"MINIDEEPSEEK_KERNELS": value}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8",
                              env=environment, cwd=ROOT, check=True)  # fmt: skip
        assert done.stdout.strip() == expected


SANITIZED = """
import numpy as np
from tests.kernels import cases, shim
from tests.standin import kernels as raw
raw.FENCE = 0  # the sanitizer's own fences begin where an array ends
shim.FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
cases.ready()
for name in cases.CASES:
    cases.at_the_edges(name, np.random.default_rng(0))
bits = np.arange(0, 1 << 32, 99991, dtype=np.uint64).astype(np.uint32)
for format in cases.FORMATS:
    cases.encode(bits, format)
print("clean")
"""


def sanitized(code):
    """Run Python code with the address sanitizer's library loaded first."""
    ask = ["g++", "-print-file-name=libasan.so"]
    library = subprocess.run(ask, capture_output=True, encoding="utf-8")
    path = library.stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip("g++ has no libasan")
    environment = os.environ | {
        "LD_PRELOAD": path,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONMALLOC": "malloc",
    }
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment,
        cwd=ROOT,
    )  # fmt: skip


@pytest.mark.slow
def test_no_address_and_no_operation_is_undefined():
    done = sanitized(SANITIZED)
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-3000:]


@pytest.mark.slow
def test_the_sanitizer_sees_a_read_beyond_an_array():
    planted = SANITIZED.replace("cases.ready()", """
n = cases.norm
n.RMS_NORM = n.RMS_NORM._replace(source=n.RMS_NORM.source.replace("c < d", "c <= d"))
cases.ready()""")
    done = sanitized(planted)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr
