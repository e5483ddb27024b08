"""What differs between devices, and blocks and threads: the same answer for any number."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.autograd.products import matmul_rows, matmul_tokens
from minideepseek.errors import InputError

from .strategies import seeds, using_threads

# ---------------------------------------------------------------------------------------- blocks


@given(rows=st.integers(0, 300), row_bytes=st.integers(0, 5000), block=st.integers(1, 20000))
def test_row_blocks_cover_every_row_once_in_order(rows, row_bytes, block):
    blocks = backend.row_blocks(np, rows, row_bytes, block)
    assert [i for s in blocks for i in range(s.start, s.stop)] == list(range(rows))
    for s in blocks:
        assert s.stop - s.start == 1 or (s.stop - s.start) * row_bytes <= max(block, rows)


def test_row_blocks_follow_the_settings_and_are_large_elsewhere(monkeypatch):
    assert len(backend.row_blocks(np, 1024, 1024)) == 4
    monkeypatch.setattr(backend, "BLOCK_BYTES", 1024)
    assert len(backend.row_blocks(np, 1024, 1024)) == 1024
    assert len(backend.row_blocks(object(), 1024, 1024)) == 1


# --------------------------------------------------------------------------------------- threads


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    """The test runs with 1, 2 and 3 threads."""
    with using_threads(request.param):
        yield request.param


def test_every_block_is_worked_on_once(threads):
    for count in [0, 1, 2, 50]:
        done, names = [], set()

        def body(i, done=done, names=names):
            time.sleep(1e-4)
            done.append(i)
            names.add(threading.current_thread().name)

        backend.parallel_for(body, range(count))
        assert sorted(done) == list(range(count))
        assert len(names) <= threads


def test_helpers_do_help():
    with using_threads(2):
        met = threading.Barrier(2, timeout=20)  # two blocks at the same time, or it breaks
        backend.parallel_for(lambda i: met.wait(), range(2))


def test_the_first_exception_arrives_and_the_pool_lives_on(threads):
    seen = []

    def body(i):
        seen.append(i)
        if i == 3:
            raise KeyError("block 3")

    with pytest.raises(KeyError, match="block 3"):
        backend.parallel_for(body, range(1000))
    assert len(seen) < 1000  # what is left is not begun
    out = np.zeros(10)
    backend.parallel_for(lambda i: out.__setitem__(i, i), range(10))
    np.testing.assert_array_equal(out, np.arange(10))


def test_nested_loops_finish(threads):
    out = np.zeros((6, 5))

    def inner(i):
        backend.parallel_for(lambda j: out.__setitem__((i, j), i * j), range(5))

    run = threading.Thread(target=backend.parallel_for, args=(inner, range(6)), daemon=True)
    run.start()
    run.join(20)
    assert not run.is_alive()
    np.testing.assert_array_equal(out, np.outer(np.arange(6), np.arange(5)))


def test_two_threads_may_loop_at_the_same_time():
    with using_threads(2):
        outs = [np.zeros(200) for _ in range(4)]
        runs = [
            threading.Thread(
                target=backend.parallel_for, args=(lambda i, o=o: o.__setitem__(i, i), range(200))
            )
            for o in outs
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join(20)
    for out in outs:
        np.testing.assert_array_equal(out, np.arange(200))


def test_serial_keeps_work_in_the_calling_thread():
    names, before = [], backend.get_threads()

    def body(i):
        time.sleep(1e-4)  # long enough for another thread to take a block
        names.append(threading.current_thread())

    with using_threads(3):
        with pytest.raises(KeyError), backend.serial():
            backend.parallel_for(body, range(50))
            with backend.serial():
                pass
            backend.parallel_for(body, range(50))
            raise KeyError
        assert len(names) == 100 and set(names) == {threading.current_thread()}
        met = threading.Barrier(3, timeout=20)
        backend.parallel_for(lambda i: met.wait(), range(3))  # shared again
    assert backend.get_threads() == before


def test_a_wrong_number_of_threads_is_refused():
    for bad in (0, -1, 1.5, "2", None):
        with pytest.raises(InputError, match="threads: got"):
            backend.set_threads(bad)


def test_threads_that_are_not_needed_end():
    with using_threads(4):
        mine = [t for t in threading.enumerate() if t.name == "minideepseek"]
        assert len(mine) >= 3
    for thread in mine:
        thread.join(20)
    assert not any(t.is_alive() for t in mine)


FORK = """
import os, threading
import minideepseek.autograd.backend as backend
assert threading.active_count() == 1 and backend.get_threads() == 1   # nothing starts at import
backend.set_threads(3)
done = []
backend.parallel_for(done.append, range(9))
child = os.fork()
if child == 0:
    backend.parallel_for(done.append, range(9))
    os._exit(len(done) - 18)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_no_pool_and_nothing_starts_at_import():
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=60
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


# -------------------------------------------------------------------------------------- products


@pytest.mark.parametrize("rows", [0, 1, 511, 512, 513, 1300, 2100])
def test_blocked_products_equal_plain_ones_for_any_threads(rows):
    rng = np.random.default_rng(rows)
    a, b = rng.standard_normal((rows, 3)), rng.standard_normal((3, 2))
    g = rng.standard_normal((rows, 2))
    results = []
    for count in (1, 2, 3):
        with using_threads(count):
            out = np.full((rows, 2), np.nan)
            assert matmul_rows(a, b, out) is out
            results.append((out, matmul_tokens(a, g)))
    for out, weight in results:
        np.testing.assert_array_equal(out, results[0][0])
        np.testing.assert_array_equal(weight, results[0][1])
    np.testing.assert_allclose(results[0][0], a @ b, atol=1e-14)
    np.testing.assert_allclose(results[0][1], a.T @ g, atol=1e-11)


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
