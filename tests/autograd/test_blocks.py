"""Blocks, threads and the products cut into them: the same answer for any number."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minideepseek.autograd.fused  # noqa: F401 - registers
from minideepseek.autograd import blocks
from minideepseek.autograd.engine import PRIMITIVES
from minideepseek.autograd.products import matmul_both, matmul_rows
from minideepseek.errors import InputError

from .strategies import seeds, using_threads

# ---------------------------------------------------------------------------------------- blocks


@given(
    rows=st.integers(0, 300),
    row_bytes=st.integers(0, 5000),
    block=st.integers(1, 20000),
    whole=st.integers(1, 9),
)
def test_row_blocks_cover_every_row_once_in_order(rows, row_bytes, block, whole):
    cut = blocks.row_blocks(np, rows, row_bytes, block, whole)
    assert [i for s in cut for i in range(s.start, s.stop)] == list(range(rows))
    for s in cut:
        assert s.stop - s.start <= whole or (s.stop - s.start) * row_bytes <= max(block, rows)
    assert all((s.stop - s.start) % whole == 0 for s in cut[:-1])


def test_row_blocks_follow_the_settings_and_are_large_elsewhere(monkeypatch):
    assert len(blocks.row_blocks(np, 8192, 1024)) == 4
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1024)
    assert len(blocks.row_blocks(np, 1024, 1024)) == 1024
    assert len(blocks.row_blocks(object(), 1024, 1024)) == 1


@given(seed=seeds, n=st.integers(0, 40), rows=st.integers(1, 9), d=st.integers(0, 4))
def test_partial_sums_are_sums_of_their_rows_to_the_last_bit(seed, n, rows, d):
    x = np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)
    out = np.full((-(-n // rows), d), np.nan, np.float32)
    blocks.partial_sums(x, rows, out)
    for i, total in enumerate(out):
        np.testing.assert_array_equal(total, x[i * rows : (i + 1) * rows].sum(0))


@given(seed=seeds, shape=st.sampled_from([(700, 96), (513, 256), (64, 33), (1, 5), (0, 4)]))
def test_the_size_of_a_block_decides_speed_and_no_bit(seed, shape):
    """Partial sums have a size of their own: what was trained before trains to the same bits."""
    rng = np.random.default_rng(seed)
    x, g = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    weight, targets = np.ones(shape[1], np.float32), rng.integers(0, shape[1], shape[0])
    results = []
    for size in (1 << 12, 1 << 18, 1 << 30):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "BLOCK_BYTES", size)
            y, back = PRIMITIVES["rms_norm"](x, weight, eps=1e-6)
            loss, slope = PRIMITIVES["softmax_cross_entropy"](x, targets, denominator=7)
            results.append([y, *back(g), loss, slope(np.float32(1))[0]])
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(one, other)


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

        blocks.parallel_for(body, range(count))
        assert sorted(done) == list(range(count))
        assert len(names) <= threads


def test_helpers_do_help():
    with using_threads(2):
        met = threading.Barrier(2, timeout=20)  # two blocks at the same time, or it breaks
        blocks.parallel_for(lambda i: met.wait(), range(2))


def test_the_first_exception_arrives_and_the_pool_lives_on(threads):
    seen = []

    def body(i):
        seen.append(i)
        if i == 3:
            raise KeyError("block 3")

    with pytest.raises(KeyError, match="block 3"):
        blocks.parallel_for(body, range(1000))
    assert len(seen) < 1000  # what is left is not begun
    out = np.zeros(10)
    blocks.parallel_for(lambda i: out.__setitem__(i, i), range(10))
    np.testing.assert_array_equal(out, np.arange(10))


def test_nested_loops_finish(threads):
    out = np.zeros((6, 5))

    def inner(i):
        blocks.parallel_for(lambda j: out.__setitem__((i, j), i * j), range(5))

    run = threading.Thread(target=blocks.parallel_for, args=(inner, range(6)), daemon=True)
    run.start()
    run.join(20)
    assert not run.is_alive()
    np.testing.assert_array_equal(out, np.outer(np.arange(6), np.arange(5)))


def test_two_threads_may_loop_at_the_same_time():
    with using_threads(2):
        outs = [np.zeros(200) for _ in range(4)]
        runs = [
            threading.Thread(
                target=blocks.parallel_for, args=(lambda i, o=o: o.__setitem__(i, i), range(200))
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
    names, before = [], blocks.get_threads()

    def body(i):
        time.sleep(1e-4)  # long enough for another thread to take a block
        names.append(threading.current_thread())

    with using_threads(3):
        with pytest.raises(KeyError), blocks.serial():
            blocks.parallel_for(body, range(50))
            with blocks.serial():
                pass
            blocks.parallel_for(body, range(50))
            raise KeyError
        assert len(names) == 100 and set(names) == {threading.current_thread()}
        met = threading.Barrier(3, timeout=20)
        blocks.parallel_for(lambda i: met.wait(), range(3))  # shared again
    assert blocks.get_threads() == before


def test_a_wrong_number_of_threads_is_refused():
    for bad in (0, -1, 1.5, "2", None):
        with pytest.raises(InputError, match="threads: got"):
            blocks.set_threads(bad)


def test_threads_that_are_not_needed_end():
    with using_threads(4):
        mine = [t for t in threading.enumerate() if t.name == "minideepseek"]
        assert len(mine) >= 3
    for thread in mine:
        thread.join(20)
    assert not any(t.is_alive() for t in mine)


FORK = """
import os, threading
import minideepseek.autograd.blocks as blocks
assert threading.active_count() == 1 and blocks.get_threads() == 1   # nothing starts at import
blocks.set_threads(3)
done = []
blocks.parallel_for(done.append, range(9))
child = os.fork()
if child == 0:
    blocks.parallel_for(done.append, range(9))
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
            again = np.full((rows, 2), np.nan)
            results.append((again, matmul_both(a, b, again, a, g)))
            np.testing.assert_array_equal(again, out)
    for out, weight in results:
        np.testing.assert_array_equal(out, results[0][0])
        np.testing.assert_array_equal(weight, results[0][1])
        assert weight.base is None  # so that the engine may add into it
    np.testing.assert_allclose(results[0][0], a @ b, atol=1e-14)
    np.testing.assert_allclose(results[0][1], a.T @ g, atol=1e-11)
