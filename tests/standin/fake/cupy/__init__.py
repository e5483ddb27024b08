"""A package called cupy for machines without one: the stand-in, with one thing wrong.

With this folder's parent on the path, `import cupy` finds it, in child processes too, and `--device
cuda` computes over the stand-in. FAKE_CUPY names what is wrong; classes and texts of errors are
those of CuPy 14.2 (cupy-cuda13x 14.2.0 imported where there is no driver, and its sources).

    old         version 13.6                    broken      its C extension cannot be loaded
    no-driver   no CUDA driver at all           old-driver  the driver knows CUDA 12.4, not 13
    no-card     a driver, and no card           no-library  libnvrtc is not installed
    no-product  libcublasLt is not installed    full        the card has no free byte
    small       it has fewer than a model needs
    two         nothing: two cards
"""

import os
from types import SimpleNamespace

WRONG = os.environ.get("FAKE_CUPY", "")
if WRONG == "broken":
    raise ImportError(
        "\n================================================================\n"
        "Failed to import CuPy.\n\nIf you installed CuPy via wheels …\n"
    ) from ImportError("libcudart.so.13: cannot open shared object file: No such file")

from tests.standin import cupy as _standin  # noqa: E402

__version__ = "13.6.0" if WRONG == "old" else _standin.__version__
ndarray, _limit, _used = _standin.ndarray, 50_000, 0
_card = 0


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""

    __module__ = "cupy.cuda.memory"

    def __init__(self, size: int, total: int) -> None:
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes)."
        )


def _count() -> int:
    if WRONG in ("no-driver", "old-driver"):
        raise CUDARuntimeError(
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime "
            "version"
        )
    if WRONG == "no-card":
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return 2 if WRONG == "two" else 1


class Device:
    """cupy.cuda.Device."""

    def __init__(self, device: int | None = None) -> None:
        self.id = _card if device is None else device

    def use(self) -> None:
        """Make it the current one."""
        global _card
        _card = self.id

    def synchronize(self) -> None:
        """Wait for it."""
        _standin.cuda.runtime.deviceSynchronize()


class MemoryHook:
    """cupy.cuda.MemoryHook: called at every allocation there, once on the way out here."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_) -> None:
        self.malloc_postprocess(device_id=0, size=1, mem_size=512, mem_ptr=1, pmem_id=1)


cuda = SimpleNamespace(
    Device=Device,
    MemoryHook=MemoryHook,
    Stream=_standin.cuda.Stream,
    runtime=SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=_count,
        getDevice=lambda: _card,
        getDeviceProperties=lambda index: {"name": f"Paper H100 number {index}".encode()},
        runtimeGetVersion=lambda: 13020,
        driverGetVersion=lambda: {"no-driver": 0, "old-driver": 12040}.get(WRONG, 13020),
    ),
)


class _NoProduct:
    """An array where cuBLAS cannot be loaded."""

    def __matmul__(self, other: object) -> None:
        raise ImportError('Failure finding "libcublasLt.so.13 or libcublasLt.so.12": No such file')


def ones(*args, **options):
    """cupy.ones; the first kernel there is."""
    if WRONG == "no-product":
        return _NoProduct()
    if WRONG == "full":
        raise OutOfMemoryError(512, 0)
    if WRONG == "no-library":
        raise RuntimeError(
            'Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file: libnvrtc.so.13\n'
            'listdir("/usr/lib")'
        )
    return _standin.ones(*args, **options)


def asarray(a, *args, **options):
    """cupy.asarray; a small card counts what is sent to it."""
    global _used
    if WRONG == "small" and type(a) is not ndarray:
        _used += a.nbytes
        if _used > _limit:
            raise OutOfMemoryError(a.nbytes, _used - a.nbytes)
    return _standin.asarray(a, *args, **options)


def __getattr__(name: str):
    return getattr(_standin, name)
