"""`cupy` itself: a module-like object that offers what CuPy 14.2's manifest lists.

A name is made when it is first asked for and then kept on the object. What CuPy lacks is an
AttributeError, as there; what CuPy has and the stand-in does not is a NotImplementedError.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from .array import counters, matmul, ndarray, root, unsupported, wrap
from .functions import build, build_creation, build_in_place, finish, ufunc, unwrap
from .indexing import repeated_along
from .manifest import FUNCTIONS, LINALG, OTHER, UFUNCS, VERSION
from .methods import check_kind

_HOST = (  # answer with host values, start no kernel
    "base_repr binary_repr broadcast_shapes can_cast common_type get_printoptions "
    "iscomplexobj isdtype isfortran isrealobj isscalar issubdtype iterable may_share_memory "
    "min_scalar_type ndim printoptions promote_types result_type set_printoptions shape "
    "shares_memory size typename"
).split()
_VIEWS = (
    "asfortranarray ascontiguousarray atleast_1d atleast_2d atleast_3d broadcast_arrays "
    "broadcast_to diagonal expand_dims flip fliplr flipud matrix_transpose moveaxis permute_dims "
    "ravel reshape rollaxis rot90 squeeze swapaxes transpose"
).split()
_SYNCS = (
    "argwhere average choose compress corrcoef cov delete extract flatnonzero histogram "
    "histogram2d histogramdd interp intersect1d isin nonzero percentile piecewise quantile select "
    "setdiff1d setxor1d trim_zeros union1d unique unique_all unique_counts unique_inverse "
    "unique_values unravel_index"
).split()
_IN_PLACE = "copyto fill_diagonal place putmask".split()
_CREATION = (
    "arange bartlett blackman empty eye hamming hanning identity indices kaiser ones tri "
    "tril_indices triu_indices zeros"
).split()
_NOT_OFFERED = set(
    "apply_along_axis apply_over_axes asarray_chkfinite asfarray clear_memo disp fromDlpack "
    "from_dlpack frombuffer fromfile fromfunction fromiter fromstring fuse genfromtxt load loadtxt "
    "make_aligned_dtype mask_indices memoize save savetxt savez savez_compressed show_config who "
    "ElementwiseKernel RawKernel RawModule ReductionKernel c_ fft mgrid ogrid poly1d polynomial r_ "
    "random testing vectorize".split()
)


class Device:
    """The one device there is."""

    def __init__(self, device: int = 0) -> None:
        if device != 0:
            raise ValueError(f"cudaErrorInvalidDevice: invalid device ordinal {device}")
        self.id = 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        """Wait for the device."""
        counters.syncs += 1


class _Stream:
    ptr = 0

    def synchronize(self) -> None:
        counters.syncs += 1


class _Pool:
    """Memory figures from the arrays that are alive: exact, and free while nobody asks."""

    def used_bytes(self) -> int:
        alive = (a for a in gc.get_objects() if type(a) is ndarray and a.base is None)
        return sum(root(a._memory).nbytes for a in alive)

    total_bytes = used_bytes

    def free_all_blocks(self) -> None:
        pass


_POOL = _Pool()
_STREAM = _Stream()
_CUDA = types.SimpleNamespace(
    Device=Device,
    Stream=types.SimpleNamespace(null=_STREAM),
    get_current_stream=lambda: _STREAM,
    is_available=lambda: True,
    runtime=types.SimpleNamespace(
        getDeviceCount=lambda: 1, getDevice=lambda: 0, deviceSynchronize=_STREAM.synchronize
    ),
)


def _array_from(obj: Any, dtype: Any, copy: Any, order: Any, ndmin: int = 0) -> ndarray:
    """Upload a host object, or convert a device array; lists of device arrays are stacked."""
    if type(obj) is ndarray:
        made = obj.astype(obj.dtype if dtype is None else dtype, order or "K", copy=bool(copy))
    elif isinstance(obj, list | tuple) and any(type(item) is ndarray for item in obj):
        made = cupy.stack(obj)
        made = made if dtype is None else made.astype(dtype, copy=False)
    else:
        counters.uploads += 1
        made = wrap(np.array(obj, dtype, order=order or "K"))
    return made if made.ndim >= ndmin else made.reshape((1,) * (ndmin - made.ndim) + made.shape)


def _array_function(
    obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False
):  # fmt: skip
    if subok:
        raise NotImplementedError("subok")
    return _array_from(obj, dtype, copy, order, ndmin)


def _asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return _array_from(a, dtype, copy, order)


def _asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(stream, order, out) if type(a) is ndarray else np.asarray(a, order=order)


def _argsort(a, axis=-1, kind=None):
    return _device(a).argsort(axis, kind)


def _sort(a, axis=-1, kind=None):
    check_kind(kind)
    return finish(np.sort(_device(a)._values, axis, "stable"), [a])


def _device(a: Any) -> ndarray:
    if type(a) is not ndarray:
        raise unsupported(a)
    return a


def _take(a, indices, axis=None, out=None):
    return _device(a).take(indices, axis, out)


def _repeat(a, repeats, axis=None):
    return _device(a).repeat(repeats, axis)


def _put(a, ind, v, mode="wrap"):
    _device(a).put(ind, v, mode)


def _put_along_axis(arr, indices, values, axis):
    index = _device(indices)._values
    memory, source = _device(arr)._values, unwrap(values)
    if axis is None:
        memory, axis = memory.reshape(-1), 0
    if np.size(source) > 1 and repeated_along(index, memory.shape[axis], axis):
        raise ValueError("put_along_axis with repeated indices: CuPy leaves the winner to chance")
    counters.launches += 1
    np.put_along_axis(memory, index, source, axis)


def _where(condition, x=None, y=None):
    if x is None and y is None:
        return _device(condition).nonzero()
    return _where_three(condition, x, y)


_where_three = build("where", np.where, FUNCTIONS["where"])


def _lexsort(keys):
    return finish(np.lexsort(_device(keys)._values), [keys])


def _full(shape, fill_value, dtype=None, order="C"):
    counters.launches += 1
    return wrap(np.full(shape, unwrap(fill_value), dtype, order))


def _linspace(
    start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0
):  # fmt: skip
    counters.launches += 1
    ends = unwrap(start), unwrap(stop)
    made: Any = np.linspace(*ends, num, endpoint, retstep, dtype, axis)
    return (wrap(made[0]), made[1]) if retstep else wrap(made)


def _split(name: str) -> Callable:
    """Pieces as views; where to cut is a host matter."""

    def split(ary, indices_or_sections, axis=0):
        if type(indices_or_sections) is ndarray:
            raise TypeError("'ndarray' object cannot be interpreted as an integer")
        memory, options = _device(ary)._memory, () if name[0] in "hvd" else (axis,)
        return finish(getattr(np, name)(memory, indices_or_sections, *options), [ary])

    return split


_SPECIAL: dict[str, Any] = {
    "array": _array_function, "asarray": _asarray, "asanyarray": _asarray, "asnumpy": _asnumpy,
    "argsort": _argsort, "sort": _sort, "take": _take, "repeat": _repeat, "put": _put,
    "put_along_axis": _put_along_axis, "where": _where, "lexsort": _lexsort, "full": _full,
    "linspace": _linspace, "matmul": matmul, "ndarray": ndarray, "ufunc": ufunc, "cuda": _CUDA,
    "is_available": lambda: True, "get_default_memory_pool": lambda: _POOL,
    "get_default_pinned_memory_pool": lambda: _POOL,
    "get_array_module": lambda *args: cupy if any(type(a) is ndarray for a in args) else np,
} | {name: _split(name) for name in "array_split split hsplit vsplit dsplit".split()}  # fmt: skip


def _host_function(name: str) -> Callable:
    def call(*args, **kwargs):
        return getattr(np, name)(*[unwrap(a, "_memory") for a in args], **kwargs)

    return call


def _resolve(name: str) -> Any:
    """What `cupy.<name>` is here."""
    if name in _SPECIAL:
        return _SPECIAL[name]
    if name == "linalg":
        return _Linalg("cupy.linalg")
    if name in _NOT_OFFERED or not hasattr(np, name):
        raise NotImplementedError(f"the stand-in for cupy has no {name}")
    f = getattr(np, name)
    if name in UFUNCS:
        return ufunc(name, f, *UFUNCS[name])
    if name in OTHER:
        return f
    if name in _HOST:
        return _host_function(name)
    signature = FUNCTIONS[name]
    if name in _CREATION:
        return build_creation(name, f, signature, launches=name != "empty")
    if name in _IN_PLACE:
        return build_in_place(name, f, signature)
    in_common = 2 if name in ("argmax", "argmin", "nanargmax", "nanargmin") else None
    syncs = 2 if name == "bincount" else int(name in _SYNCS)
    views = name in _VIEWS
    return build(name, f, signature, views=views, syncs=syncs, in_common=in_common)


class _Cupy(types.ModuleType):
    __version__ = VERSION

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not (name in FUNCTIONS or name in UFUNCS or name in OTHER):
            raise AttributeError(f"module 'cupy' has no attribute {name!r} (CuPy {VERSION})")
        found = _resolve(name)
        setattr(self, name, found)
        return found


class _Linalg(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name == "matmul":
            return matmul
        if name not in LINALG or not hasattr(np.linalg, name):
            raise AttributeError(f"module 'cupy.linalg' has no attribute {name!r} (CuPy {VERSION})")
        found = build(f"linalg.{name}", getattr(np.linalg, name), LINALG[name],
                      syncs=0 if name in ("norm", "matrix_transpose", "cross") else 1)  # fmt: skip
        setattr(self, name, found)
        return found


cupy: Any = _Cupy("cupy")
__all__ = ["Device", "cupy"]
