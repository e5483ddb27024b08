"""`x[index]` and `x[index] = value` as CuPy has them.

Integers, slices, None and Ellipsis give views. Index arrays may live on the host (CuPy uploads
them silently: counted). A boolean mask makes the host wait for the number of its true elements,
when read and when written through. Writing different values to one element through an index array
leaves the winner to chance on a GPU: here it raises.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .array import counters, ndarray, unsupported, view_of, wrap

_BASIC = frozenset([int, slice, type(None), type(Ellipsis)])


def index_array(index: Any) -> np.ndarray:
    """The numpy form of an index array, device or host; counts what CuPy has to do for it."""
    if type(index) is ndarray:
        array = index._values
    else:
        counters.uploads += 1
        array = np.asarray(index)
        if array.size == 0 and isinstance(index, list):
            array = array.astype(np.int32)  # an empty list is an empty index, not an empty mask
    if array.dtype.kind not in "biu":
        raise IndexError(f"arrays used as indices must be integer or boolean, got {array.dtype}")
    if array.dtype.kind == "b":
        counters.syncs += 1
    return array


def host_index(index: Any) -> tuple[Any, bool]:
    """The index that numpy understands, and whether it holds index arrays."""
    if type(index) in _BASIC:
        return index, False
    if type(index) is not tuple:
        if isinstance(index, np.integer):
            return int(index), False
        return index_array(index), True
    parts, advanced = [], False
    for part in index:
        if type(part) not in _BASIC and not isinstance(part, np.integer):
            part, advanced = index_array(part), True
        parts.append(part)
    return tuple(parts), advanced


def get_item(self: ndarray, index: Any) -> ndarray:
    """x[index]: a view for basic indices, else a gathered copy."""
    key, advanced = host_index(index)
    if not advanced:
        memory = self._memory[key]
        if type(memory) is not np.ndarray:  # one element: a 0-d view of it
            memory = self._memory[(*key, ...) if type(key) is tuple else (key, ...)]
        return view_of(self, memory)
    counters.launches += 1
    return wrap(self._values[key])


def repeated(index: Any, shape: tuple[int, ...]) -> bool:
    """Whether an index that holds index arrays names some element of `shape` twice."""
    parts = index if type(index) is tuple else (index,)
    arrays = [p for p in parts if type(p) is np.ndarray]
    used = sum(p.ndim if p.dtype.kind == "b" else 1 for p in arrays)
    used += sum(isinstance(p, int | slice) for p in parts)
    axis, flat = 0, np.zeros((), np.int64)
    for part in parts:
        if part is Ellipsis:
            axis += len(shape) - used
        elif type(part) is np.ndarray:
            for steps in part.nonzero() if part.dtype.kind == "b" else (part,):
                flat = flat * shape[axis] + steps % max(shape[axis], 1)
                axis += 1
        elif part is not None:
            axis += 1
    return np.unique(flat).size < flat.size


def set_item(self: ndarray, index: Any, value: Any) -> None:
    """x[index] = value; casts like CuPy, to the array's dtype."""
    key, advanced = host_index(index)
    memory = self._values
    source: Any = value
    if type(value) is ndarray:
        source = value._values
    elif isinstance(value, np.ndarray | list | tuple):
        source = _host_value(value, advanced)
    elif not isinstance(value, bool | int | float | complex | np.generic):
        raise unsupported(value)
    if type(value) is ndarray and not advanced and _is_itself(memory[key], source):
        return  # the end of x[key] += …, which CuPy skips too
    counters.launches += 1
    if advanced and np.size(source) > 1 and repeated(key, self.shape):
        raise ValueError(
            "x[index] = values with repeated indices: CuPy leaves the winner to chance; "
            "use add.at, or one value per index"
        )
    memory[key] = source


def _host_value(value: Any, advanced: bool) -> Any:
    """A host array or list as CuPy's setitem takes it: uploaded for index arrays, else refused."""
    if advanced:
        counters.uploads += 1
        return np.asarray(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value.item()
    raise ValueError("non-scalar numpy.ndarray cannot be used for fill: upload it first")


def _is_itself(target: Any, source: np.ndarray) -> bool:
    """Whether a copy is onto itself. ValueError if it overlaps in part where CuPy minds.

    CuPy copies equal contiguous pieces by one memcpy, which is undefined if they overlap.
    """
    if not isinstance(target, np.ndarray) or source.dtype != target.dtype:
        return False
    if source.shape != target.shape or source.strides != target.strides:
        return False
    if source.__array_interface__["data"] == target.__array_interface__["data"]:
        return True
    if target.flags.c_contiguous and target.size and np.may_share_memory(source, target):
        raise ValueError("x[a] = x[b] with overlapping memory is undefined in CuPy: copy first")
    return False


def repeated_along(indices: np.ndarray, size: int, axis: int) -> bool:
    """Whether put_along_axis would write some element twice."""
    ordered = np.sort(indices % max(size, 1), axis)
    return bool((np.diff(ordered, axis=axis) == 0).any())


ndarray.__getitem__ = get_item
ndarray.__setitem__ = set_item
