"""Every kernel's text compiles for Hopper (sm_90) without a warning: by nvcc where there is one,
and by NVRTC, which is what CuPy uses, where its library is. No card is needed for either."""

import ctypes
import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minideepseek.autograd.kernels.launch import OPTIONS
from tests.kernels.cases import every_kernel

KERNELS = every_kernel()
TEXTS = list({kernel.source: kernel for kernel in KERNELS}.values())  # the FP8 ones share a text
NAMES = [f"{i}-{kernel.name}" for i, kernel in enumerate(TEXTS)]
# CuPy adds these to ours.
CUPYS = ("-ftz=true", "-std=c++14")


@functools.cache
def nvcc():
    """The path of an nvcc that compiles something, or None."""
    path = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if path is None:
        return None
    works = _nvcc(path, 'extern "C" __global__ void f(float* x) { x[0] = 1; }')
    return path if works.returncode == 0 else None


def _nvcc(path, source):
    command = [path, "-x", "cu", "-arch=sm_90", "-cubin", "-Werror", "all-warnings"]
    command += ["-Xptxas", "-v", *CUPYS, *OPTIONS, "-o", "/dev/null", "-"]
    return subprocess.run(command, input=source, capture_output=True, encoding="utf-8")


@functools.cache
def nvrtc():
    """NVRTC's library: the system's, or a Python package's; or None."""
    folders = [Path(p, "nvidia") for p in sys.path] + [Path("/usr/local/cuda/lib64")]
    found = [str(f) for d in folders if d.is_dir() for f in sorted(d.rglob("libnvrtc.so.*"))]
    for path in [*found, "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"]:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


def by_nvrtc(kernel):
    """(status, log) of a text compiled as CuPy's RawKernel does it."""
    library, program = nvrtc(), ctypes.c_void_p()
    source, name = kernel.source.encode(), f"{kernel.name}.cu".encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source, name, 0, None, None) == 0
    options = [o.encode() for o in ("-arch=sm_90", *CUPYS, *OPTIONS)]
    status = library.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode()


@pytest.mark.parametrize("kernel", TEXTS, ids=NAMES)
def test_by_nvcc(kernel):
    if nvcc() is None:
        pytest.skip("no nvcc here that compiles for sm_90")
    done = _nvcc(nvcc(), kernel.source)
    assert done.returncode == 0, done.stderr
    for registers in re.findall(r"Used (\d+) registers", done.stderr):
        assert int(registers) <= 40  # 6 blocks of 256 threads fit the 65,536 of a multiprocessor
    assert not re.search(r"[1-9]\d* bytes (spill|stack)", done.stderr), done.stderr


@pytest.mark.parametrize("kernel", TEXTS, ids=NAMES)
def test_by_nvrtc(kernel):
    if nvrtc() is None:
        pytest.skip("no libnvrtc here; pip install nvidia-cuda-nvrtc brings one")
    status, log = by_nvrtc(kernel)
    assert (status, log) == (0, "")


def test_a_warning_is_seen():
    if nvcc() is None:
        pytest.skip("no nvcc here that compiles for sm_90")
    text = TEXTS[0].source.replace("float sum = 0;", "float sum = 0; int unused = 1;")
    assert "unused" in _nvcc(nvcc(), text).stderr


def test_every_text_is_only_what_nvrtc_knows():
    for kernel in KERNELS:
        assert "#include" not in kernel.source and "std::" not in kernel.source
        assert kernel.source.isascii(), kernel.name
        assert f"__global__ void {kernel.name}(" in kernel.source
