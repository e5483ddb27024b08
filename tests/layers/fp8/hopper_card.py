"""A Hopper card for tests without one: the stand-in, and a cuBLASLt of our own."""

import contextlib
import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from minideepseek.layers.fp8 import cublaslt, hopper
from tests import standin
from tests.standin import cupy as xp
from tests.standin import kernels as raw

SOURCE = Path(__file__).with_name("fake_cublaslt.cpp")


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="cublaslt-")


@functools.cache
def fake_library():
    """The library of our own, built once."""
    path = Path(_folder().name, "libfake.so")
    subprocess.run(["g++", "-O1", "-std=c++14", "-Wall", "-Werror", "-fPIC", "-shared", str(SOURCE),
                    "-o", str(path)], check=True)  # fmt: skip
    library = cublaslt.declared(ctypes.CDLL(str(path)))
    library.fake_log.restype = ctypes.c_char_p
    return library


@contextlib.contextmanager
def hopper_card():
    """A Hopper card with that library, on the stand-in; the card may be changed."""
    library = fake_library()
    standin.install()
    raw.install()
    library.fake_reset()
    card = SimpleNamespace(compute_capability="90", id=0)
    stream = SimpleNamespace(ptr=77)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xp, "cuda", SimpleNamespace(
            Device=lambda: card, get_current_stream=lambda: stream, card=card
        ))  # fmt: skip
        patch.setattr(cublaslt, "library", lambda: library)
        yield library
        hopper.set_hopper(False)
    assert library.fake_alive() == 0, "a descriptor was not destroyed"
