"""What differs between devices: gathers, choices, moves."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.errors import InputError

from .strategies import seeds

# ----------------------------------------------------------------------------- gathers, choices


@given(seed=seeds, shape=st.sampled_from([(5,), (3, 7), (2, 3, 4), (0, 4)]), data=st.data())
def test_top_k_equals_a_loop_ties_to_the_lowest_index(seed, shape, data):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, shape).astype(data.draw(st.sampled_from(["float32", "float64"])))
    k = data.draw(st.integers(1, shape[-1]))
    before = x.copy()
    got = backend.top_k(x, k)
    assert got.shape == (*shape[:-1], k) and (x == before).all()
    for index in np.ndindex(shape[:-1]):
        row = list(x[index])
        assert list(got[index]) == sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]


@given(seed=seeds, rows=st.integers(1, 6), count=st.integers(0, 12), width=st.integers(0, 4))
def test_scatter_add_equals_a_loop(seed, rows, count, width):
    rng = np.random.default_rng(seed)
    out, src = rng.standard_normal((rows, width)), rng.standard_normal((count, width))
    index = rng.integers(-rows, rows, count)
    want = out.copy()
    for i, row in zip(index, src, strict=True):
        want[i] += row
    backend.scatter_add(out, index, src)
    np.testing.assert_allclose(out, want, rtol=1e-13, atol=1e-14)


# --------------------------------------------------------------------------------------- devices


def test_arrays_on_the_host():
    x = np.ones((2, 3))
    assert backend.xp_of(x) is backend.xp_of(x, x) is backend.xp_of(x, 2.0) is np
    assert backend.xp_of(2.0, x) is np and backend.on_host(np)
    assert backend.to_host(x) is x and backend.to_device(x, "cpu") is x
    assert backend.device_of(x).name == "cpu"
    assert backend.like(np.array(3.0), x).shape == ()
    assert backend.as_array(x) is x and backend.as_array(x, np.float64) is x
    assert backend.as_array([1, 2], np.float32).dtype == np.float32
    assert backend.memory_bytes("cpu") >= 0
    backend.synchronize(x)


def test_what_is_no_array_or_no_device_is_refused():
    with pytest.raises(InputError, match="got list"):
        backend.device_of([1.0])
    with pytest.raises(InputError, match="arrays on cpu and list"):
        backend.xp_of(np.ones(2), [1.0])
    with pytest.raises(InputError, match="device: got 'tpu', expected one of"):
        backend.get_device("tpu")


def test_a_missing_gpu_says_what_to_install():
    try:
        backend.get_device("cuda")
    except InputError as error:
        assert str(error).startswith("device 'cuda' is not available: cupy")
    else:
        pytest.skip("this machine has a GPU")


def test_random_numbers_are_the_generators_and_the_same_in_any_dtype():
    one, two = (backend.normal(np.random.default_rng(7), (3, 2), 0.5, d) for d in ("f4", "f8"))
    assert one.dtype == np.float32 and two.dtype == np.float64
    np.testing.assert_array_equal(one, two.astype(np.float32))
    np.testing.assert_array_equal(two, np.random.default_rng(7).standard_normal((3, 2)) * 0.5)


# ---------------------------------------------------------------------------------------- memory

KEPT = """
import resource, sys
import numpy as np
from minideepseek.autograd.backend import keep_memory
if sys.argv[1] == "kept":
    print(keep_memory())
for i in range(12):  # sixteen arrays of 8 MB, made and freed, as a training step does
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(1 << 20) for _ in range(16)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_kept_memory_is_not_asked_for_again():
    def faults(how):
        command = [sys.executable, "-c", KEPT, how]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            command, env=environment, capture_output=True, encoding="utf-8", check=True
        )
        return done.stdout.split()

    assert faults("kept")[0] == "True"
    assert int(faults("kept")[-1]) < 100 < int(faults("as it is")[-1])
