"""From a numpy function and CuPy's signature to a function of device arrays.

`build` makes one callable out of numpy's implementation: arguments are checked against CuPy's
signature, device arrays are unwrapped, host arrays refused, results wrapped, work counted. Whether
a result is a view is not declared but seen: it shares its memory with an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .array import BFLOAT16, counters, ndarray, operand, root, unsupported, view_of, wrap
from .indexing import index_array
from .manifest import AT_DTYPES, NO_BFLOAT16, REDUCE, Signature

# Parameters that must be device arrays (or scalars): a list is no array in CuPy.
_ARRAYS = frozenset(
    "a b x y v m arr ary array a1 a2 x1 x2 ar1 ar2 arr1 arr2 condition mask values element "
    "test_elements prototype dst src indices weights".split()
)
_OPTIONS = frozenset([int, float, bool, str, type(None), type, slice])


def unwrap(value: Any, slot: str = "_values") -> Any:
    """Device arrays to numpy, also inside lists; options as they are; TypeError on host arrays."""
    kind = type(value)
    if kind is ndarray:
        return getattr(value, slot)
    if kind in _OPTIONS:
        return value
    if isinstance(value, list | tuple):
        items = [unwrap(item, slot) for item in value]
        arrays = sum(isinstance(item, np.ndarray) for item in items)
        if 0 < arrays < len(items):
            raise TypeError("Only cupy arrays can be put together: upload the rest first")
        return tuple(items) if isinstance(value, tuple) else items
    known = operand(value)
    return value if known is NotImplemented else known


def parents_of(values: Iterable[Any]) -> list[ndarray]:
    """The device arrays among the arguments, also inside lists."""
    found: list[ndarray] = []
    for value in values:
        if type(value) is ndarray:
            found.append(value)
        elif isinstance(value, list | tuple):
            found += parents_of(value)
    return found


def finish(result: Any, parents: list[ndarray], out: Any = None) -> Any:
    """Wrap a result and count a launch unless nothing but views came out."""
    if isinstance(result, list | tuple):
        items = [_one(item, parents) for item in result]
        counters.launches += any(_is_new(item, parents) for item in items)
        named = hasattr(result, "_fields")
        return type(result)(*items) if named else type(result)(items)
    array = _one(result, parents)
    counters.launches += out is not None or _is_new(array, parents)
    return array


def _is_new(array: ndarray, parents: list[ndarray]) -> bool:
    return array.base is None and not any(array is parent for parent in parents)


def _one(result: Any, parents: list[ndarray]) -> ndarray:
    if type(result) is np.ndarray:
        for parent in parents:
            if parent._memory is result:
                return parent
        if result.base is not None:
            owner = root(result)
            for parent in parents:
                if root(parent._memory) is owner:
                    return view_of(parent, result)
    return wrap(result)


def _checked(name: str, signature: Signature, args: Any, kwargs: dict) -> tuple[list, dict]:
    """Arguments as numpy gets them: what CuPy requires by position, the rest by keyword."""
    problem = signature.problem(len(args), frozenset(kwargs))
    if problem is not None:
        raise TypeError(f"cupy.{name} {problem}")
    args, kwargs = list(args), dict(kwargs)
    for parameter in signature.positional[len(args) : signature.required]:
        args.append(kwargs.pop(parameter))
    given = [*zip(signature.positional, args, strict=False), *kwargs.items()]
    for parameter, value in given:
        if parameter in _ARRAYS and isinstance(value, list | tuple):
            raise unsupported(value)
    return args, kwargs


def _plain(value: Any) -> bool:
    """An option that needs no look inside: a number, a name, a dtype, a tuple of integers."""
    kind = type(value)
    if kind is tuple:
        return all(type(item) is int for item in value)
    return kind in _OPTIONS or isinstance(value, np.dtype)


class _Made(NamedTuple):
    """What `build` knows of one function."""

    name: str
    f: Callable
    signature: Signature
    slot: str  # of an array: "_memory" also takes arrays that CuPy cannot compute with
    syncs: int  # how often CuPy waits
    in_common: int  # how many arguments numpy takes in CuPy's order; the rest go by keyword

    def with_care(self, args: Any, kwargs: dict) -> Any:
        """The call with lists, out=, required arguments by keyword, or mistakes."""
        args, kwargs = _checked(self.name, self.signature, args, kwargs)
        if not self.signature.varargs:
            names = self.signature.positional[self.in_common :]
            kwargs.update(zip(names, args[self.in_common :], strict=False))
            args = args[: self.in_common]
        values = [unwrap(arg, self.slot) for arg in args]
        options = {key: unwrap(value, self.slot) for key, value in kwargs.items()}
        parents = parents_of([*args, *kwargs.values()])
        if not parents:
            raise TypeError(f"cupy.{self.name} got no device array")
        counters.syncs += self.syncs
        return finish(self.f(*values, **options), parents, kwargs.get("out"))


def build(
    name: str, f: Callable, signature: Signature, *, views: bool = False, syncs: int = 0,
    in_common: int | None = None,
) -> Callable:
    """A function of device arrays from numpy's `f`; see `_Made` for the options."""  # fmt: skip
    names, low = signature.positional, signature.required
    high = names.index("out") if "out" in names else len(names)
    high = high if in_common is None else in_common
    slot = "_memory" if views else "_values"
    made = _Made(name, f, signature, slot, syncs, high)
    high = 99 if signature.varargs else high
    optional = signature.keywords - set(names[:low]) - {"out"}
    joins = names[:1] == ("tup",)  # concatenate, stack: a sequence of device arrays comes first

    def call(*args, **kwargs):
        values, parents = [], []
        for arg in args:
            if type(arg) is ndarray:
                values.append(getattr(arg, slot))
                parents.append(arg)
            elif _plain(arg):
                values.append(arg)
            elif joins and not values and all(type(item) is ndarray for item in arg):
                values.append([item._values for item in arg])
                parents += arg
            else:
                return made.with_care(args, kwargs)
        for key, value in kwargs.items():
            if key not in optional or not _plain(value):
                return made.with_care(args, kwargs)
        if not parents or not low <= len(args) <= high:
            return made.with_care(args, kwargs)
        counters.syncs += syncs
        return finish(f(*values, **kwargs), parents)

    call.__name__ = name
    return call


def build_in_place(name: str, f: Callable, signature: Signature) -> Callable:
    """As `build` for functions that write into their first argument and return None."""

    def call(*args, **kwargs):
        args, kwargs = _checked(name, signature, args, kwargs)  # type: ignore[assignment]
        if type(args[0]) is not ndarray:
            raise unsupported(args[0])
        counters.launches += 1
        f(*[unwrap(a) for a in args], **{key: unwrap(value) for key, value in kwargs.items()})

    call.__name__ = name
    return call


def build_creation(name: str, f: Callable, signature: Signature, launches: int = 1) -> Callable:
    """As `build` for functions that make an array out of host numbers (zeros, arange, …)."""

    def call(*args, **kwargs):
        if kwargs or not signature.required <= len(args) <= len(signature.positional):
            args, kwargs = _checked(name, signature, args, kwargs)  # type: ignore[assignment]
        for value in (*args, *kwargs.values()):
            if isinstance(value, np.ndarray | ndarray):
                raise TypeError(f"cupy.{name} takes host numbers, got {type(value)}")
        counters.launches += launches
        return _results(f(*args, **kwargs))

    call.__name__ = name
    return call


class ufunc:
    """An elementwise function: out=, dtype= and casting= as in CuPy, and no where=."""

    def __init__(self, name: str, f: Callable, nin: int, nout: int) -> None:
        self.__name__ = self.name = name
        self.nin, self.nout, self.nargs = nin, nout, nin + nout
        self._f = f
        self._no_bfloat16 = name in NO_BFLOAT16

    def __repr__(self) -> str:
        return f"<ufunc 'cupy_{self.name}'>"

    def __call__(self, *args: Any, out=None, dtype=None, casting=None):
        values = []
        for arg in args:
            kind = type(arg)
            if kind is ndarray:
                values.append(arg._values)
            elif kind is float or kind is int:
                values.append(arg)
            else:
                values.append(_number(arg))
        if type(out) is ndarray and dtype is None and casting is None and len(args) == self.nin:
            if self.nout == 1 and not self._no_bfloat16:  # the common case, kept short
                counters.launches += 1
                self._f(*values, out=out._values)
                return out
        if len(args) != self.nin or out is not None or self._no_bfloat16:
            args, values, out = self._outputs(args, values, out)
        counters.launches += 1
        if out is None and dtype is None and casting is None:
            return _results(self._f(*values))
        options = {"dtype": dtype, "casting": casting}
        options = {key: value for key, value in options.items() if value is not None}
        if out is None:
            return _results(self._f(*values, **options))
        self._f(*values, out=tuple(o._values for o in out), **options)
        return out[0] if self.nout == 1 else out

    def _outputs(self, args: tuple, values: list, out: Any) -> tuple[tuple, list, Any]:
        if not self.nin <= len(args) <= self.nargs:
            raise TypeError(f"Wrong number of arguments for {self.name!r}: {len(args)}")
        if self._no_bfloat16 and any(getattr(v, "dtype", None) == BFLOAT16 for v in values):
            raise TypeError(f"cupy.{self.name} has no bfloat16 loop")
        out = args[self.nin :] or out
        if out is not None:
            out = out if isinstance(out, tuple) else (out,)
            if len(out) != self.nout or any(type(o) is not ndarray for o in out):
                raise TypeError(f"out of cupy.{self.name} must be {self.nout} device array(s)")
        return args[: self.nin], values[: self.nin], out

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        """add.reduce and multiply.reduce; CuPy has no other."""
        return self._fold("reduce", array, axis, dtype, out, keepdims)

    def accumulate(self, array, axis=0, dtype=None, out=None):
        """add.accumulate and multiply.accumulate; CuPy has no other."""
        return self._fold("accumulate", array, axis, dtype, out)

    def _fold(self, method: str, array: Any, axis: Any, dtype: Any, out: Any, *rest: Any) -> Any:
        if self.name not in REDUCE:
            raise NotImplementedError(f"`cupy_{self.name}.{method}` is not supported yet")
        values = unwrap(out)
        result = getattr(self._f, method)(unwrap(array), axis, dtype, values, *rest)
        return finish(result, parents_of([array, out]), out)

    def reduceat(self, array, indices, axis=0, dtype=None, out=None):
        """add.reduceat; CuPy has no other."""
        if self.name != "add":
            raise NotImplementedError(f"`cupy_{self.name}.reduceat` is not supported yet")
        reduceat: Any = self._f.reduceat  # type: ignore[attr-defined]
        result = reduceat(unwrap(array), index_array(indices), axis, dtype, unwrap(out))
        return finish(result, parents_of([array, out]), out)

    def outer(self, a, b, **kwargs):
        """The ufunc of all pairs."""
        counters.launches += 1
        return _results(self._f.outer(unwrap(a), unwrap(b), **kwargs))  # type: ignore[attr-defined]

    def at(self, a, indices, b=None):
        """Unbuffered in-place operation; CuPy has it for few ufuncs and dtypes."""
        if self.name not in AT_DTYPES:
            raise NotImplementedError(f"`cupy_{self.name}.at` is not supported yet")
        if type(a) is not ndarray:
            raise unsupported(a)
        if a.dtype.name not in AT_DTYPES[self.name]:
            allowed = ", ".join(sorted(AT_DTYPES[self.name]))
            raise TypeError(f"cupy.{self.name}.at only supports {allowed}, not {a.dtype}")
        values, key = _number(b), indices
        key = tuple(_part(p) for p in key) if isinstance(key, tuple) else _part(key)
        counters.launches += 1
        self._f.at(a._values, key, np.asarray(values).astype(a.dtype))  # type: ignore[attr-defined]


def _part(index: Any) -> Any:
    basic = index is None or index is Ellipsis or isinstance(index, int | slice | np.integer)
    return index if basic else index_array(index)


def _number(value: Any) -> Any:
    """The numpy value of one operand of a ufunc."""
    if type(value) is ndarray:
        return value._values
    number = operand(value)
    if number is NotImplemented:
        raise unsupported(value)
    return number


def _results(result: Any) -> Any:
    if type(result) is tuple:
        return tuple(wrap(item) for item in result)
    return wrap(result)
