"""A strict stand-in for CuPy 14.2 that runs on the CPU, for machines without a GPU.

    from tests.standin import cupy as xp, counters, install

Code written against `xp` runs over it unchanged and gives NumPy's numbers; whatever CuPy refuses
raises, and in a few places more does (each on purpose):

- a host array in any operation, and any `np.` function on a device array (CuPy lets some through);
- assignment of different values through repeated indices (CuPy: the winner is left to chance);
- out-of-range index arrays (CuPy wraps them around silently);
- a copy between overlapping contiguous pieces of one array (CuPy: one memcpy, undefined).

Host index arrays, and host values assigned through an index array, are uploaded silently by CuPy:
allowed here and counted in `counters.uploads`. The stand-in cannot show rounding, atomics' order,
speed, or memory running out.

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
