"""The array backend: NumPy on the host, CuPy on CUDA, and the few things that differ between them.

This is the only file that knows cupy. Everything else asks for the module of its arrays,

    xp = xp_of(x)           # numpy for a numpy.ndarray, cupy for a cupy.ndarray

and writes `xp.exp(x)`. Arrays never move by themselves: mixing host and device arrays raises, and
`to_device` / `to_host` are the only ways across. What differs between the two (copies across,
scatter-add, random numbers, memory figures) is a named function here, NumPy's way first.

A device is a registry entry keyed by its array type, so that a stand-in for cupy can be plugged in
where there is no GPU: the tests do so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy

from minideepseek.autograd import cuda
from minideepseek.errors import InputError

Array = Any  # numpy.ndarray, cupy.ndarray or the tests' stand-in
float32, float64, int64 = numpy.float32, numpy.float64, numpy.int64
NUMBERS = (int, float, numpy.generic)  # what an operator takes as an option, not as an array


class Device(NamedTuple):
    """One kind of array: its module, its type, and the two ways across."""

    name: str
    xp: Any
    array_type: type
    from_host: Callable[[numpy.ndarray], Array]
    to_host: Callable[[Array], numpy.ndarray]


_DEVICES: dict[str, Device] = {}
MODULES: dict[type, Any] = {}  # array type → array module
_BY_TYPE: dict[type, Device] = {}


def register_device(name: str, xp: Any, array_type: type, from_host, to_host) -> None:
    """Make arrays of `array_type` known under `name`; `xp` is the module that works on them."""
    device = Device(name, xp, array_type, from_host, to_host)
    _DEVICES[name] = _BY_TYPE[array_type] = device
    MODULES[array_type] = xp


register_device("cpu", numpy, numpy.ndarray, lambda a: numpy.asarray(a, order="C"), numpy.asarray)


def _register_cuda(name: str) -> None:
    """Make cupy and a card known as "cuda" and as "cuda:N"; InputError says what is missing."""
    if "cuda" in _DEVICES:
        used = cuda.describe(_DEVICES["cuda"].xp)
        raise InputError(f"device: got {name!r}, this process computes on {used}, and on no other")
    try:
        import cupy
    except ImportError as error:
        raise InputError(cuda.not_imported(error)) from None
    card = cuda.use_card(cupy, int(name[5:] or 0))
    register_device("cuda", cupy, cupy.ndarray, cupy.asarray, cupy.asnumpy)
    _DEVICES[card] = _DEVICES["cuda"]


def get_device(name: str) -> Device:
    """The device called "cpu", "cuda", "cuda:1" or as registered; InputError says what to install.

    A process computes on one card, the first that it asks for.
    """
    if name not in _DEVICES and re.fullmatch(r"cuda(:\d+)?", str(name)):
        _register_cuda(name)
    if name not in _DEVICES:
        known = sorted({device.name for device in _DEVICES.values()} | {"cuda"})
        raise InputError(f"device: got {name!r}, expected one of {known}")
    return _DEVICES[name]


def has_card() -> bool:
    """Whether this process computes on a card."""
    return "cuda" in _DEVICES


def device_of(array: Array) -> Device:
    """The device an array lives on; InputError for anything that is not an array of ours."""
    device = _BY_TYPE.get(type(array))
    if device is None:
        raise InputError(f"expected an array of {sorted(_DEVICES)}, got {type(array).__name__}")
    return device


def xp_of(first: Array, *others: Array) -> Any:
    """The array module (numpy, cupy, …) of arrays that all live on one device; numbers fit any."""
    if others and isinstance(first, NUMBERS):
        return xp_of(*others)
    kind = type(first)
    for other in others:
        if type(other) is not kind and not isinstance(other, NUMBERS):
            names = " and ".join(getattr(_BY_TYPE.get(type(a)), "name", type(a).__name__)
                                 for a in (first, other))  # fmt: skip
            raise InputError(f"arrays on {names} in one operation; move them with .to(device)")
    return MODULES[kind]


def on_host(xp: Any) -> bool:
    """Whether `xp` is NumPy: there blocks should fit a cache, elsewhere they should be large."""
    return xp is numpy


def as_array(value: Any, dtype: Any = None) -> Array:
    """`value` as an array where it already lives; lists and scalars become host arrays."""
    if type(value) in MODULES:
        return value if dtype is None else value.astype(dtype, copy=False)
    return numpy.array(value, dtype=dtype) if dtype is not None else numpy.asarray(value)


def to_device(array: Array, name: str) -> Array:
    """A copy of `array` on device `name`; the same array if it is there already."""
    source, target = device_of(array), get_device(name)
    return array if source is target else target.from_host(source.to_host(array))


def to_host(array: Array) -> numpy.ndarray:
    """`array` as a numpy array: the same memory on the host, else a copy and a synchronisation."""
    return device_of(array).to_host(array)


def like(host: numpy.ndarray, array: Array) -> Array:
    """A host array sent to where `array` lives."""
    return device_of(array).from_host(host)


def generator(rng: Any, seed: int) -> numpy.random.Generator:
    """`rng`, or a new generator from `seed` where it is None; InputError for anything else."""
    if rng is None:
        return numpy.random.default_rng(seed)
    if not isinstance(rng, numpy.random.Generator):
        raise InputError(f"rng: got {rng!r:.40}, expected a numpy.random.Generator or None")
    return rng


def normal(rng: numpy.random.Generator, shape: Sequence[int], std: float, dtype: Any) -> Array:
    """N(0, std²) on the host: made there always, so that every device sees the same numbers."""
    return (rng.standard_normal(shape, dtype=float64) * std).astype(dtype)


def full(shape: Sequence[int], value: float, dtype: Any) -> Array:
    """A host array of `value`."""
    return numpy.full(shape, value, dtype)


def copy_into(target: Array, source: Any) -> None:
    """target[...] = source, cast to target's dtype, whichever device each is on."""
    if type(source) not in MODULES:
        source = numpy.asarray(source)
    source = to_host(source).astype(target.dtype, copy=False)
    target[...] = like(source, target)


def scatter_add(out: Array, index: Array, rows: Array) -> None:
    """out[index[i]] += rows[i] with repeated indices added up. index (n,), rows (n, d).

    out (V, d) must be contiguous (a fresh `zeros`): NumPy writes through a flat view of it.
    NumPy's `add.at` is slow on rows and fast on one axis (several times), so the rows are
    addressed element by element. CuPy's adds by atomics, whose order is not fixed.
    """
    xp, d = xp_of(out, rows), out.shape[1]
    if xp is numpy:
        flat = (index[:, None] * d + numpy.arange(d)).ravel()
        numpy.add.at(out.reshape(-1), flat, rows.ravel())
    else:
        xp.add.at(out, index, rows)


def top_k(x: Array, k: int) -> Array:
    """Indices (…, k) of the k largest along the last axis, largest first, ties to the lowest index.

    A row must hold at least k values above −∞: what was picked is struck out by −∞.
    k passes of argmax: the same answer on every device, and for k ≤ 8 the fastest way too.
    """
    xp = xp_of(x)
    picks, columns = [], xp.arange(x.shape[-1])
    for _ in range(k):
        picks.append(x.argmax(-1))
        x = xp.where(columns == picks[-1][..., None], -xp.inf, x)  # no mask assignment: CuPy syncs
    return xp.stack(picks, -1)


# -------------------------------------------------------------------------------- time and memory


def synchronize(array: Array) -> None:
    """Wait until everything queued on the device of `array` is done; nothing to do on the host."""
    if (xp := device_of(array).xp) is not numpy:
        xp.cuda.Stream.null.synchronize()


def memory_bytes(name: str) -> int:
    """Bytes held by arrays on a GPU; on the host, the largest resident size so far (bytes)."""
    device = get_device(name)
    if device.xp is not numpy:
        return int(device.xp.get_default_memory_pool().used_bytes())
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_memory() -> bool:
    """Ask the C library to keep freed memory for later arrays; whether it understood (glibc does).

    By default it returns large arrays to the system when they are freed, and a training step, whose
    arrays are those of the step before, gets its pages anew: 7,700 page faults a step of the preset
    `small`, a tenth of its time (`python -m demos.block_sizes`). The peak stays what it is. A
    setting of the whole process: the command line makes it, the library never does by itself.
    """
    import ctypes

    keep = 1 << 30  # bytes: below them no array gets a mapping of its own, and no heap is cut back
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows has none by this name
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # <malloc.h>
    return bool(mallopt(m_mmap_threshold, keep) and mallopt(m_trim_threshold, keep))
