"""The stand-in's array: a wrapper around numpy memory that behaves as CuPy's array does.

A wrapper, not a subclass of numpy.ndarray: NumPy then has no way in, and mixing host and device
arrays fails here as it does on a GPU. Every operation counts as one kernel launch; whatever would
make the host wait for the GPU counts as a synchronisation.

Two private slots hold the memory. `_memory` is always there. `_values` is the same numpy array but
is left unset where CuPy cannot compute with the dtype (float8: only a label on uint8 memory), so
that every computation refuses such an array without a test on the fast path.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
COMPUTES = frozenset([np.dtype(code) for code in "?bBhHiIlLqQefdFD"] + [BFLOAT16])
_SCALARS = (bool, int, float, complex, np.generic)
_numpy_array, _create = np.ndarray, object.__new__


class Counters:
    """What the code under test did to the device since `reset`."""

    __slots__ = ("launches", "syncs", "uploads")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set every count to zero."""
        self.launches = 0  # kernels; a lower bound, since CuPy needs several for some functions
        self.syncs = 0  # times the host waited for the device
        self.uploads = 0  # host-to-device copies, the hidden ones of host index arrays included

    def __repr__(self) -> str:
        return f"launches={self.launches}, syncs={self.syncs}, uploads={self.uploads}"


counters = Counters()


def unsupported(what: Any) -> TypeError:
    """CuPy's complaint about an operand that is no device array and no scalar."""
    kind = type(what).__name__
    return TypeError(
        f"Unsupported type {kind}: device arrays mix with device arrays and scalars only; "
        "upload host arrays with cupy.asarray"
    )


def root(memory: np.ndarray) -> np.ndarray:
    """The numpy array that owns the memory of a view."""
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    return memory


def wrap(memory: Any, base: ndarray | None = None) -> ndarray:
    """A device array on `memory`: one that owns it, or a view of `base`."""
    if type(memory) is not _numpy_array:
        memory = np.asarray(memory)
    if base is None and memory.dtype not in COMPUTES:
        raise ValueError(f"Unsupported dtype {memory.dtype}")
    return _label(memory, base)


def _label(memory: np.ndarray, base: ndarray | None) -> ndarray:
    """As `wrap`, of any dtype: views may carry a dtype that CuPy cannot compute with."""
    array = _create(ndarray)
    array._memory = memory
    if memory.dtype in COMPUTES:
        array._values = memory
    array.base = base
    return array


def view_of(array: ndarray, memory: np.ndarray) -> ndarray:
    """A view of `array`; CuPy's `base` is always the array that owns the memory."""
    return _label(memory, array if array.base is None else array.base)


def _owning(memory: Any) -> ndarray:
    """`wrap` for results of arithmetic, whose dtype is known to be good."""
    if type(memory) is not _numpy_array:
        memory = np.asarray(memory)
    array = _create(ndarray)
    array._memory = array._values = memory
    array.base = None
    return array


def operand(value: Any) -> Any:
    """The numpy value of something that is not plainly a device array; TypeError on host arrays.

    NotImplemented for objects that are not numbers: they may know what to do with us.
    """
    if isinstance(value, _SCALARS):
        if isinstance(value, np.generic) and value.dtype not in COMPUTES:
            raise ValueError(f"Unsupported dtype {value.dtype}")
        return value
    if isinstance(value, np.ndarray | list | tuple):
        raise unsupported(value)
    return NotImplemented


def _operators(op: Any, inplace: Any = None) -> Any:
    """`x op y`, `y op x` and, if it exists, `x op= y`."""

    def forward(self, other):
        kind = type(other)
        if kind is ndarray:
            other = other._values
        elif kind is not float and kind is not int:
            other = operand(other)
            if other is NotImplemented:
                return other
        counters.launches += 1
        return _owning(op(self._values, other))

    def reflected(self, other):
        other = operand(other)
        if other is NotImplemented:
            return other
        counters.launches += 1
        return _owning(op(other, self._values))

    def in_place(self, other):
        other = other._values if type(other) is ndarray else operand(other)
        if other is NotImplemented:
            return other
        counters.launches += 1
        inplace(self._values, other)
        return self

    return (forward, reflected, in_place) if inplace is not None else (forward, reflected)


def _unary(op: Any) -> Any:
    def apply(self):
        counters.launches += 1
        return _owning(op(self._values))

    return apply


def matmul(a: ndarray, b: ndarray, out: ndarray | None = None) -> ndarray:
    """a @ b with CuPy's gaps: no scalars, and for bfloat16 no stacks of matrices."""
    for operand_ in (a, b) if out is None else (a, b, out):
        if type(operand_) is not ndarray:
            raise unsupported(operand_)
    x, y = a._values, b._values
    half = x.dtype == BFLOAT16 or y.dtype == BFLOAT16
    if half and max(x.ndim, y.ndim) > 2:
        raise TypeError("batched bfloat16 matmul crashes in CuPy: reshape to 2-D or use float32")
    counters.launches += 1
    if half:  # NumPy answers in float32, CuPy in the promoted dtype
        result = np.matmul(x, y).astype(np.result_type(x, y))
        if out is None:
            return _owning(result)
        out._values[...] = result
        return out
    if out is None:
        return _owning(np.matmul(x, y))
    np.matmul(x, y, out=out._values)
    return out


class Flags(NamedTuple):
    """The three flags of a CuPy array; nothing is ever read-only there."""

    c_contiguous: bool
    f_contiguous: bool
    owndata: bool


class ndarray:
    """CuPy's ndarray on the CPU. Methods that need nothing special are added in methods.py."""

    __slots__ = ("_memory", "_values", "base", "__weakref__")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100
    __array_ufunc__ = None  # np.exp(device) raises; `scalar * device` comes to __rmul__

    base: ndarray | None  # None: this array owns its memory
    _memory: np.ndarray
    _values: np.ndarray
    __getitem__: Any  # both in indexing.py
    __setitem__: Any

    def __init__(self, shape: Any, dtype: Any = float, *, order: str = "C") -> None:
        self._memory = self._values = np.empty(shape, dtype, order)  # type: ignore[call-overload]
        self.base = None
        if self._memory.dtype not in COMPUTES:
            raise ValueError(f"Unsupported dtype {self._memory.dtype}")

    def __getattr__(self, name: str) -> Any:
        if name == "_values":
            raise TypeError(
                f"CuPy cannot compute with {self._memory.dtype}: it is a label on memory; "
                "view it as uint8 and decode"
            )
        raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")

    # ---------------------------------------------------------------- what NumPy may not do

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"np.{func.__name__} on a device array: ask xp_of(array) for the module")

    # --------------------------------------------------------------------------- attributes

    shape = property(lambda self: self._memory.shape)
    dtype = property(lambda self: self._memory.dtype)
    ndim = property(lambda self: self._memory.ndim)
    size = property(lambda self: self._memory.size)
    itemsize = property(lambda self: self._memory.itemsize)
    nbytes = property(lambda self: self._memory.nbytes)
    strides = property(lambda self: self._memory.strides)
    T = property(lambda self: view_of(self, self._memory.T))
    mT = property(lambda self: view_of(self, self._memory.swapaxes(-1, -2)))

    @property
    def flags(self) -> Flags:
        """C- and F-contiguity, and whether the array owns its memory."""
        f = self._memory.flags
        return Flags(f.c_contiguous, f.f_contiguous, self.base is None)

    def __len__(self) -> int:
        return len(self._memory)

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # ----------------------------------------------------------------------------- to the host

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True):
        """A copy on the host; waits for the device. float8 memory must be contiguous."""
        memory = self._memory
        if not memory.flags.c_contiguous:
            memory = self._values
        counters.syncs += 1
        if out is None:
            return memory.copy(order)  # type: ignore[arg-type]
        if out.dtype != memory.dtype or out.shape != memory.shape:
            raise TypeError("out of get: dtype and shape must be the array's own")
        np.copyto(out, memory)
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        """Copy a host array of the same dtype and shape into this one."""
        if type(arr) is not np.ndarray or arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError("set takes a host array of the same dtype and shape")
        counters.uploads += 1
        np.copyto(self._memory, arr)

    def item(self) -> Any:
        """The one element as a Python scalar; waits for the device."""
        return self.get().item()

    def tolist(self) -> Any:
        """Nested lists; waits for the device."""
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        """The memory as bytes; waits for the device."""
        return self.get().tobytes(order)

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    # ------------------------------------------------------------------------------- operators

    __add__, __radd__, __iadd__ = _operators(operator.add, operator.iadd)
    __sub__, __rsub__, __isub__ = _operators(operator.sub, operator.isub)
    __mul__, __rmul__, __imul__ = _operators(operator.mul, operator.imul)
    __truediv__, __rtruediv__, __itruediv__ = _operators(operator.truediv, operator.itruediv)
    __floordiv__, __rfloordiv__, __ifloordiv__ = _operators(operator.floordiv, operator.ifloordiv)
    __mod__, __rmod__, __imod__ = _operators(operator.mod, operator.imod)
    __pow__, __rpow__, __ipow__ = _operators(operator.pow, operator.ipow)
    __lshift__, __rlshift__, __ilshift__ = _operators(operator.lshift, operator.ilshift)
    __rshift__, __rrshift__, __irshift__ = _operators(operator.rshift, operator.irshift)
    __and__, __rand__, __iand__ = _operators(operator.and_, operator.iand)
    __or__, __ror__, __ior__ = _operators(operator.or_, operator.ior)
    __xor__, __rxor__, __ixor__ = _operators(operator.xor, operator.ixor)
    __lt__ = _operators(operator.lt)[0]
    __le__ = _operators(operator.le)[0]
    __gt__ = _operators(operator.gt)[0]
    __ge__ = _operators(operator.ge)[0]
    __eq__ = _operators(operator.eq)[0]
    __ne__ = _operators(operator.ne)[0]
    __neg__ = _unary(operator.neg)
    __pos__ = _unary(operator.pos)
    __abs__ = _unary(operator.abs)
    __invert__ = _unary(operator.invert)

    def __matmul__(self, other: Any) -> ndarray:
        if type(other) is not ndarray and operand(other) is NotImplemented:
            return NotImplemented
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> ndarray:
        return NotImplemented if operand(other) is NotImplemented else matmul(other, self)
