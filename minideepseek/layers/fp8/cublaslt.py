r"""Chapter 4b.8, its lower half — cuBLASLt by ctypes: one product, told what its numbers are

A product of cuBLASLt is described before it is asked for: an *operation* (what is transposed, how
scales are read and where they are), a *layout* for each matrix (type, rows, columns, how far apart
columns are), a *preference* (how much memory it may use meanwhile). Out of these the library picks
an algorithm, and that is launched. Each is made, and destroyed whatever happens in between.

Constants are those of cublasLt.h, cublas_api.h and library_types.h of CUDA 13.

hopper.py says what is multiplied, and why the order of A and B is what it is (V3 §3.3.2).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from typing import Any

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.errors import MiniDeepSeekError

LIBRARIES = ("libcublasLt.so.13", "libcublasLt.so.12", "cublasLt64_13.dll", "cublasLt64_12.dll")
WORKSPACE = 32 << 20  # bytes: what NVIDIA advises for Hopper

CUDA_R_32F, CUDA_R_8F_E4M3 = 0, 28
CUBLAS_COMPUTE_32F = 68
CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
CUBLASLT_MATMUL_DESC_TRANSA = 3
CUBLASLT_MATMUL_DESC_TRANSB = 4
CUBLASLT_MATMUL_DESC_A_SCALE_POINTER = 17
CUBLASLT_MATMUL_DESC_B_SCALE_POINTER = 18
CUBLASLT_MATMUL_DESC_A_SCALE_MODE = 31
CUBLASLT_MATMUL_DESC_B_SCALE_MODE = 32
CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F = 4
CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F = 5
CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1
VEC128_32F = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F
BLK128x128_32F = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F

STATUS = {
    1: "NOT_INITIALIZED, the library or its driver is not ready",
    3: "ALLOC_FAILED, there is not enough memory",
    7: "INVALID_VALUE, an argument is not what it may be",
    8: "ARCH_MISMATCH, this card cannot do it",
    11: "MAPPING_ERROR, the card's memory could not be read",
    13: "EXECUTION_FAILED, the card could not run it",
    14: "INTERNAL_ERROR, inside the library",
    15: "NOT_SUPPORTED, no algorithm for these shapes, types and scales",
    16: "LICENSE_ERROR",
}


class CublasError(MiniDeepSeekError):
    """A call of cuBLASLt that failed: its name, and its status in words."""


def matmul(a: Array, scale_a: Array, mode_a: int, b: Array, scale_b: Array, y: Array) -> None:
    """y = b aᵀ, in cuBLASLt's order of the two: its A is transposed, its columns are our rows."""
    xp, (n, k), m, lib = xp_of(a, b, y), a.shape, b.shape[0], library()
    create, call = functools.partial(_created, lib), functools.partial(_call, lib)
    with contextlib.ExitStack() as stack:
        operation = create(stack, "MatmulDesc", CUBLAS_COMPUTE_32F, CUDA_R_32F)
        for attribute, value in (
            (CUBLASLT_MATMUL_DESC_TRANSA, ctypes.c_int32(CUBLAS_OP_T)),
            (CUBLASLT_MATMUL_DESC_TRANSB, ctypes.c_int32(CUBLAS_OP_N)),
            (CUBLASLT_MATMUL_DESC_A_SCALE_MODE, ctypes.c_int32(mode_a)),
            (CUBLASLT_MATMUL_DESC_B_SCALE_MODE, ctypes.c_int32(VEC128_32F)),
            (CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, ctypes.c_void_p(scale_a.data.ptr)),
            (CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, ctypes.c_void_p(scale_b.data.ptr)),
        ):
            _set(lib, "MatmulDesc", operation, attribute, value)
        # type, rows, columns, from one column to the next
        layout_a = create(stack, "MatrixLayout", CUDA_R_8F_E4M3, k, n, k)
        layout_b = create(stack, "MatrixLayout", CUDA_R_8F_E4M3, k, m, k)
        layout_y = create(stack, "MatrixLayout", CUDA_R_32F, n, m, n)
        layouts = layout_a, layout_b, layout_y, layout_y
        preference = create(stack, "MatmulPreference")
        limit = ctypes.c_uint64(WORKSPACE)
        _set(lib, "MatmulPreference", preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, limit)
        found, count = Heuristic(), ctypes.c_int()
        call("cublasLtMatmulAlgoGetHeuristic", handle(lib, _device_id(xp)), operation, *layouts,
             preference, 1, ctypes.byref(found), ctypes.byref(count))  # fmt: skip
        if count.value < 1 or found.state:
            raise CublasError(f"cublasLtMatmulAlgoGetHeuristic: {STATUS[15]}")
        workspace = xp.empty(max(1, found.workspace_size), "uint8")
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        call("cublasLtMatmul", handle(lib, _device_id(xp)), operation, ctypes.byref(one),
             a.data.ptr, layout_a, b.data.ptr, layout_b, ctypes.byref(zero),
             y.data.ptr, layout_y, y.data.ptr, layout_y, ctypes.byref(found.algo),
             workspace.data.ptr, found.workspace_size,
             xp.cuda.get_current_stream().ptr)  # fmt: skip


class Algo(ctypes.Structure):
    """cublasLtMatmulAlgo_t: 64 bytes that only the library reads."""

    _fields_ = (("data", ctypes.c_uint64 * 8),)


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algo", Algo),
        ("workspace_size", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves_count", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
SIGNATURES = {
    "cublasLtCreate": (_POINTER,),
    "cublasLtMatmulDescCreate": (_POINTER, _INT, _INT),
    "cublasLtMatmulDescSetAttribute": (_POINTER, _INT, _POINTER, _SIZE),
    "cublasLtMatmulDescDestroy": (_POINTER,),
    "cublasLtMatrixLayoutCreate": (
        _POINTER, _INT, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64,
    ),
    "cublasLtMatrixLayoutDestroy": (_POINTER,),
    "cublasLtMatmulPreferenceCreate": (_POINTER,),
    "cublasLtMatmulPreferenceSetAttribute": (_POINTER, _INT, _POINTER, _SIZE),
    "cublasLtMatmulPreferenceDestroy": (_POINTER,),
    "cublasLtMatmulAlgoGetHeuristic": (_POINTER,) * 7 + (_INT, _POINTER, _POINTER),
    "cublasLtMatmul": (_POINTER,) * 14 + (_SIZE, _POINTER),
}  # fmt: skip


@functools.cache
def library() -> Any:
    """cuBLASLt, which CuPy has loaded if it needs it; None where there is none."""
    for name in LIBRARIES:
        try:
            return declared(ctypes.CDLL(name))
        except OSError:
            continue
    return None


def declared(lib: Any) -> Any:
    """The library with the types of the functions that are called here."""
    for name, types in SIGNATURES.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = types, ctypes.c_int
    lib.cublasLtGetVersion.argtypes, lib.cublasLtGetVersion.restype = (), ctypes.c_size_t
    return lib


@functools.cache
def handle(lib: Any, device: int) -> ctypes.c_void_p:
    """The library's handle for a card: made once, kept as long as the process lives."""
    made = ctypes.c_void_p()
    _call(lib, "cublasLtCreate", ctypes.byref(made))
    return made


def _device_id(xp: Any) -> int:
    return int(xp.cuda.Device().id)


def _call(lib: Any, name: str, *arguments: Any) -> None:
    status = getattr(lib, name)(*arguments)
    if status:
        raise CublasError(f"{name}: {STATUS.get(status, f'status {status}')}")


def _created(lib: Any, stack: contextlib.ExitStack, kind: str, *arguments: Any) -> ctypes.c_void_p:
    """A new descriptor, destroyed when `stack` closes, whatever happens before."""
    made = ctypes.c_void_p()
    _call(lib, f"cublasLt{kind}Create", ctypes.byref(made), *arguments)
    destroy: Callable = getattr(lib, f"cublasLt{kind}Destroy")
    stack.callback(destroy, made)
    return made


def _set(lib: Any, kind: str, descriptor: ctypes.c_void_p, attribute: int, value: Any) -> None:
    name = f"cublasLt{kind}SetAttribute"
    _call(lib, name, descriptor, attribute, ctypes.byref(value), ctypes.sizeof(value))
