"""Tensors: an array and its place on the tape. Parameters collect gradients.

A Tensor has NumPy's operators, a few of its methods, and nothing that would hide a cost: no
assignment, no truth value, no iteration. Its operators look in `ops` for the primitives, which
`primitive` puts there.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from minideepseek.autograd import backend
from minideepseek.autograd.backend import MODULES, NUMBERS, Array
from minideepseek.autograd.tape import Node, backward
from minideepseek.errors import InputError

ops = SimpleNamespace()  # name → the primitive lifted to Tensors


class Tensor:
    """An array and its place on the tape. `Tensor(array)` is a constant.

    It has operators and a few methods; other primitives are functions: `mds.ops.exp(x)`.

    data: the array (numpy or cupy), any shape, floating point.
    node: its tape node, None for constants.
    """

    __slots__ = ("data", "node")
    __array_ufunc__ = None  # so that `ndarray + Tensor` asks the Tensor
    __hash__ = object.__hash__

    def __init__(self, data: Any, node: Node | None = None) -> None:
        self.data: Array = data if type(data) in MODULES else backend.as_array(data)
        self.node = node

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    dtype = property(lambda self: self.data.dtype)
    device = property(lambda self: backend.device_of(self.data).name)
    T = property(lambda self: ops.transpose(self))

    def item(self) -> float:
        """The value of a one-element tensor as a Python number (on a GPU: a synchronisation)."""
        return self.data.item()

    def numpy(self) -> Any:
        """The data as a host array; shares memory with the tensor where it lives on the host."""
        return backend.to_host(self.data)

    def detach(self) -> Tensor:
        """The same array as a constant: no gradient flows through it."""
        return Tensor(self.data)

    def to(self, device: str) -> Tensor:
        """A constant with this data on `device` ("cpu", "cuda"); itself if it is there already."""
        data = backend.to_device(self.data, device)
        return self if data is self.data else Tensor(data)

    def backward(self, g: Any = None) -> None:
        """Add d(self)/d(p) to `p.grad` of every Parameter p below; see `backward`."""
        backward(self, g)

    # Operators. A Python number is an option, not an argument: it needs no gradient.

    def __add__(self, other):
        return ops.shift(self, by=other) if _is_number(other) else ops.add(self, other)

    def __sub__(self, other):
        return ops.shift(self, by=-other) if _is_number(other) else ops.subtract(self, other)

    def __mul__(self, other):
        return ops.scale(self, by=other) if _is_number(other) else ops.multiply(self, other)

    def __truediv__(self, other):
        return ops.scale(self, by=1 / other) if _is_number(other) else ops.divide(self, other)

    def __neg__(self):
        return ops.scale(self, by=-1)

    def __rsub__(self, other):
        return -self + other

    def __rtruediv__(self, other):
        return ops.power(self, exponent=-1) * other

    def __pow__(self, exponent):
        if not _is_number(exponent):
            raise TypeError("the exponent of ** must be a number: it would get no gradient")
        return ops.power(self, exponent=exponent)

    def __matmul__(self, other):
        return ops.matmul(self, other)

    def __rmatmul__(self, other):
        return ops.matmul(other, self)

    def __getitem__(self, index):
        return ops.getitem(self, index=index)

    __radd__, __rmul__ = __add__, __mul__

    def __array__(self, *args, **kwargs):
        raise TypeError("a Tensor is not turned into an array silently; take .data or .numpy()")

    def sum(self, axis=None, keepdims: bool = False) -> Tensor:
        """Over an axis, a tuple of axes or all; the shape without them."""
        return ops.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis=None, keepdims: bool = False) -> Tensor:
        """As `sum`, divided by how many were added."""
        return ops.mean(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape) -> Tensor:
        """The same entries in another shape; a tuple, or its numbers."""
        return ops.reshape(self, shape=shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes) -> Tensor:
        """Axes in another order; reversed if none is given."""
        return ops.transpose(self, axes=axes or None)

    def __len__(self) -> int:
        return len(self.data)

    def __setitem__(self, index, value):
        raise TypeError(
            "a Tensor cannot be written to, its value may be needed in backward; "
            "build a new one (where, concatenate), or write to .data of a Parameter"
        )

    def __bool__(self):
        raise TypeError("a Tensor has no truth value; compare .data, or take .item() of a scalar")

    def __iter__(self):
        raise TypeError("a Tensor is not iterated over (one node per element); index or reshape it")

    def __float__(self) -> float:
        return float(self.item())

    def __repr__(self) -> str:
        origin = "" if self.node is None else f", from {self.node.name}"
        return f"Tensor(shape={self.shape}, {self.dtype}, {self.device}{origin})"


class Parameter(Tensor):
    """A Tensor that collects `.grad`, an array of its shape (None until a backward reaches it).

    `.data` is never bound to another array: loading and optimisers write into it.
    """

    __slots__ = ()

    def __init__(self, data: Any) -> None:
        data = backend.as_array(data)
        if data.dtype.kind != "f":
            raise InputError(f"Parameter: got {data.dtype}, only floating point has gradients")
        if not data.flags.c_contiguous:  # optimisers walk it as one row
            data = data.copy(order="C")
        super().__init__(data, Node("Parameter", data.shape, (), None))

    @property
    def grad(self) -> Array | None:
        """The gradient collected so far, an array like `.data`, or None."""
        return self.node.grad  # type: ignore[union-attr]

    @grad.setter
    def grad(self, value: Array | None) -> None:
        if value is not None and value.shape != self.shape:
            raise InputError(f"grad: got shape {value.shape}, the parameter has {self.shape}")
        self.node.grad = value  # type: ignore[union-attr]


def _is_number(x: Any) -> bool:
    return isinstance(x, NUMBERS)
