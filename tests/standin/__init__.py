"""A strict stand-in for CuPy 14.2 that runs on the CPU, for machines without a GPU.

    from tests.standin import cupy as xp, counters, install

Code written against `xp` runs over it unchanged and gives NumPy's numbers; whatever CuPy refuses
raises, and in a few places more does (each on purpose):

- a host array in any operation, and any `np.` function on a device array (CuPy lets some through);
- assignment of different values through repeated indices (CuPy: the winner is left to chance);
- out-of-range index arrays (CuPy wraps them around silently);
- a copy between overlapping contiguous pieces of one array (CuPy: one memcpy, undefined).

What CuPy 14.2 does otherwise than NumPy, and where that is here. Sources: w, its wheel imported
without a driver; s, its sources; d, its documentation; i, its issues. (refused): only here.

    host and device arrays in one operation       TypeError                    array, functions   s
    np.f(device)                                  runs f of CuPy (refused)     array              s
    np.asarray, memoryview, host[...] = device    TypeError                    array              w
    host arrays as indices, values at indices     uploaded: counted            indexing           s
    x[0] = host array or list                     ValueError                   indexing           w
    reductions, x[0, 0]                           0-d arrays, never scalars    array, indexing    w
    float, int, bool, if, item, tolist, print     wait: counted                array              s
    range(x), [..][x], slices by x                TypeError: no __index__      array              w
    x[mask], x[mask] = v, nonzero, unique,        wait: counted                indexing,          s
      repeat by array, bincount (twice), choose                                methods, module
    x[i] = v, put, put_along_axis with repeats    any of them wins (refused)   indexing           d
    x[i] out of range                             wraps around (refused)       indexing           d
    x[1.0]                                        x[1] (refused)               indexing           w
    add.at                                        atomics, in any order; no    functions          s
                                                  bfloat16; few other ufuncs
    ufunc where=                                  TypeError                    functions          s
    .reduce, .accumulate, .reduceat               of add (and multiply) only   functions          w
    sum, mean, max, std: where=, initial=, …      TypeError                    manifest           w
    sort, argsort: kind, stable=                  None or 'stable'; TypeError  methods            w
    lexsort of a tuple, clip(min=), take(mode=)   refused                      module, manifest   w
    errstate, vecdot, insert, block, …            no such name                 manifest           w
    linalg                                        a part of it; most wait      module             w
    astype(casting=), view(type=)                 TypeError                    methods            w
    float8                                        a label on uint8 memory      array              w
    bfloat16 @ bfloat16                           bfloat16, NumPy: float32;    array             s i
                                                  stacks crash
    text, objects, long double                    Unsupported dtype            array              w
    x.shape = …                                   allowed (refused)            array              w
    flags                                         no writeable: views that     array              w
                                                  NumPy protects are open
    random                                        other numbers (refused)      module             s
    x[a] = x[b] that overlap                      one memcpy (refused)         indexing           s

As in NumPy, by its sources: promotion (NEP 50), negative steps, dtype=, casting= and overlapping
out= of ufuncs, stable sorts, views of another itemsize. Not shown at all: rounding (subnormal
float32 are flushed, sums are added in another order), atomics' order, speed, memory running out,
and kernels of one's own (RawKernel and its like are refused). Launches are a lower bound.

`install()` makes it known to the package as device "standin".
"""

from __future__ import annotations

from .array import Counters, counters, ndarray
from .module import cupy


def install() -> None:
    """Register the stand-in as device "standin"; calling it again changes nothing."""
    from minideepseek.autograd import backend

    backend.register_device("standin", cupy, ndarray, cupy.asarray, lambda a: a.get())


__all__ = ["Counters", "counters", "cupy", "install", "ndarray"]
