"""The array methods that only need numpy's own and CuPy's signature, and the few that need more."""

from __future__ import annotations

from typing import Any

import numpy as np

from .array import counters, ndarray, view_of, wrap
from .functions import build, build_in_place, finish, unwrap
from .indexing import index_array
from .manifest import METHODS, Signature

_VIEWS = "diagonal ravel squeeze"
_KERNELS = (
    "all any argmax argmin argpartition clip compress conj conjugate cumprod cumsum dot flatten "
    "max mean min nonzero prod round searchsorted std sum trace var"
)


def _with_self(name: str) -> Signature:
    s = METHODS[name]
    return s._replace(positional=("self", *s.positional), required=s.required + 1)


for _name in (_VIEWS + " " + _KERNELS).split():
    setattr(ndarray, _name, build(
        f"ndarray.{_name}", getattr(np.ndarray, _name), _with_self(_name),
        views=_name in _VIEWS.split(), syncs=_name in ("compress", "nonzero"),
        in_common=2 if _name in ("argmax", "argmin") else None,
    ))  # fmt: skip


def check_kind(kind: Any) -> None:
    """CuPy sorts stably and knows no other way."""
    if kind not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")


def _sort(self, axis=-1, kind=None):
    check_kind(kind)
    counters.launches += 1
    self._values.sort(axis, "stable")


def _argsort(self, axis=-1, kind=None):
    check_kind(kind)
    return finish(self._values.argsort(axis, "stable"), [self])


def _astype(self, dtype, order="K", casting=None, subok=None, copy=True):
    if casting is not None or subok is not None:
        raise TypeError("casting and subok are not supported yet")
    memory = self._values.astype(dtype, order, copy=copy)
    if memory is self._values:
        return self
    counters.launches += 1
    return wrap(memory)


def _copy(self, order="C"):
    counters.launches += 1
    return wrap(self._values.copy(order))


def _reshape(self, *shape, order="C", copy=None):
    memory, new = self._memory, self._memory.reshape(*shape, order=order, copy=copy)
    if new.base is memory or (new.base is not None and new.base is memory.base):
        return view_of(self, new)
    return finish(new, [self])


def _swapaxes(self, axis1, axis2):
    return view_of(self, self._memory.swapaxes(axis1, axis2))


def _transpose(self, *axes):
    return view_of(self, self._memory.transpose(*axes))


def _fill(self, value):
    self[...] = value


def _view(self, dtype=None, type=None):
    if type is not None:
        raise TypeError("view takes a dtype only")
    memory = self._memory
    return view_of(self, memory.view() if dtype is None else memory.view(dtype))


def _take(self, indices, axis=None, out=None):
    scalar = isinstance(indices, int | np.integer)
    result = self._values.take(indices if scalar else index_array(indices), axis, unwrap(out))
    return finish(result, [self] if out is None else [self, out], out)


def _repeat(self, repeats, axis=None):
    if type(repeats) is ndarray:
        counters.syncs += 1
        repeats = repeats._values
    elif not isinstance(repeats, int | np.integer):
        counters.uploads += 1
    return finish(self._values.repeat(repeats, axis), [self])


def _put(self, indices, values, mode="wrap"):
    index = index_array(indices)
    source = values._values if type(values) is ndarray else np.asarray(values)
    if source.size > 1 and np.unique(index % max(self.size, 1)).size < index.size:
        raise ValueError("put with repeated indices: CuPy leaves the winner to chance")
    counters.launches += 1
    self._values.put(index, source, mode)


def _scatter(name: str) -> Any:
    def method(self, slices, value):
        from .module import cupy

        getattr(cupy, name).at(self, slices, value)

    return method


def _choose(self, choices, out=None, mode="raise"):
    counters.syncs += mode == "raise"
    result = self._values.choose(unwrap(choices), unwrap(out), mode)
    return finish(result, [self] if out is None else [self, out], out)


def _device(self):
    from .module import Device

    return Device(0)


def _real(self):
    return self if self.dtype.kind != "c" else view_of(self, self._values.real)


def _imag(self):
    imaginary = self._values.imag
    return view_of(self, imaginary) if self.dtype.kind == "c" else wrap(imaginary.copy())


def _refuse(name: str) -> Any:
    def method(self, *args, **kwargs):
        raise NotImplementedError(f"the stand-in has no ndarray.{name}")

    return method


def _deepcopy(self, memo):
    return self.copy()


for _name, _f in {
    "argsort": _argsort, "astype": _astype, "choose": _choose, "copy": _copy, "fill": _fill,
    "put": _put, "repeat": _repeat, "sort": _sort, "take": _take, "view": _view,
    "ptp": build("ndarray.ptp", np.ptp, _with_self("ptp")),
    "partition": build_in_place("ndarray.partition", np.ndarray.partition, _with_self("partition")),
    "reshape": _reshape, "swapaxes": _swapaxes, "transpose": _transpose,
    "scatter_add": _scatter("add"), "scatter_max": _scatter("maximum"),
    "scatter_min": _scatter("minimum"), "__copy__": _copy, "__deepcopy__": _deepcopy,
    "device": property(_device), "real": property(_real), "imag": property(_imag),
}.items():  # fmt: skip
    setattr(ndarray, _name, _f)
for _name in METHODS:
    if not hasattr(ndarray, _name):
        setattr(ndarray, _name, _refuse(_name))
