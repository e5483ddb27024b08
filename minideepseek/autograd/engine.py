r"""The engine: reverse-mode differentiation on a tape of nodes.

A **primitive** is a function over arrays that returns its value and the function that pulls a
gradient back through it, its vector-Jacobian product (vjp):

    y = f(x)            vjp(g) = Jᵀ g            with J = ∂y/∂x

    @primitive
    def exp(x):
        y = xp_of(x).exp(x)
        return y, lambda g: g * y

That is the whole interface. `@primitive` lifts such a function to `Tensor`s: it calls it on the
arrays and, if any input was computed from a `Parameter`, appends a `Node` to the tape. A node
remembers its parents' nodes and the vjp, whose closure holds exactly the arrays the rule mentions;
nothing else keeps an intermediate alive.

`backward` walks the tape from the newest node to the oldest. Creation time *is* a topological
order, so there is no recursion and no search, and a node is reached only after everything that
used it. With b = a + a and c = b * b, a walk by depth alone would visit b's parents before both
of b's gradients had arrived; creation time cannot.

The rules of a primitive
------------------------
1. Positional arguments are arrays (or Python numbers); options are keyword-only. It returns one
   array and its vjp.
2. vjp(g) returns one gradient per positional argument, None for integers and masks; the bare
   array if there is one argument. Called twice, it gives the same answer.
3. It writes neither to its inputs nor to g, and never returns a saved array nor the same new array
   twice: the engine adds into returned arrays in place.
4. Gradients may have the broadcast shape; the engine sums them down. Nothing else may differ.
5. It keeps the dtype (`math.sqrt`, not `np.sqrt`, of a number: NumPy's float64 scalars widen).
6. It saves the least: outputs rather than inputs where the rule allows.

There are no second derivatives (nothing in DeepSeek-V3 or R1 needs them), no hooks, no modes
beyond `no_grad`. MINIDEEPSEEK_DEBUG=1, read once at import, checks every primitive for NaN and Inf,
for dtypes and gradient shapes and for writing into g, and names the line of the caller's source in
errors raised in backward.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from minideepseek.autograd import backend
from minideepseek.autograd.backend import MODULES, NUMBERS, Array
from minideepseek.errors import DivergedError, InputError

PRIMITIVES: dict[str, Callable] = {}  # name → the bare function over arrays: (value, vjp)
ops = SimpleNamespace()  # name → the function lifted to Tensors; Tensor's operators look here
DEBUG = os.environ.get("MINIDEEPSEEK_DEBUG", "0") not in ("", "0")


class _State(threading.local):
    recording = True
    watcher: Callable[[str, Array], None] | None = None


_state = _State()
_clock = itertools.count()


class Node:
    """One step of the tape; knows its parents' nodes, never their data. A leaf has no vjp."""

    __slots__ = ("grad", "name", "parents", "shape", "time", "vjp", "where")

    def __init__(self, name: str, shape: tuple[int, ...], parents: tuple, vjp: Any) -> None:
        self.time, self.name, self.shape = next(_clock), name, shape
        self.parents, self.vjp = parents, vjp
        self.grad: Array | None = None
        self.where: str | None = None


class Tensor:
    """An array and its place on the tape. `Tensor(array)` is a constant.

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
        return self if self.device == device else Tensor(backend.to_device(self.data, device))

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
        return ops.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis=None, keepdims: bool = False) -> Tensor:
        return ops.mean(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape) -> Tensor:
        return ops.reshape(self, shape=shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes) -> Tensor:
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


def primitive(function: Callable) -> Callable:
    """Register a function over arrays returning (value, vjp), and lift it to Tensors."""
    name = function.__name__
    PRIMITIVES[name] = function
    run = _checked(function) if DEBUG else function

    @functools.wraps(function)
    def lifted(*args, **options) -> Tensor:
        arrays = [a.data if isinstance(a, Tensor) else a for a in args]
        kind = None  # the type of the arrays: all of one device
        for a in arrays:
            t = type(a)
            if t is not kind and t in MODULES:
                if kind is not None:
                    raise _mixed(name, arrays)
                kind = t
        y, vjp = run(*arrays, **options)
        if type(y) is not kind and type(y) not in MODULES:  # NumPy's reductions give scalars
            y = backend.as_array(y)
        node = None
        if _state.recording:
            parents = tuple([a.node if isinstance(a, Tensor) else None for a in args])
            if any(parents):
                node = Node(name, y.shape, parents, vjp)
                if DEBUG:
                    node.where = _caller()
        if _state.watcher is not None:
            _state.watcher(name, y)
        return Tensor(y, node)

    setattr(ops, name, lifted)
    return lifted


def backward(tensor: Tensor, g: Any = None) -> None:
    """Walk the tape from `tensor` to the Parameters and add to their `.grad`.

    tensor: any shape; g: its cotangent, an array of that shape, may be left out for one element.
    Each closure is dropped as soon as it was used, with every array it saved; a second backward
    over the same graph raises InputError.
    """
    if tensor.node is None:
        raise InputError("backward: this tensor was not computed from any Parameter")
    if g is None:
        if tensor.size != 1:
            raise InputError(f"backward: shape {tensor.shape} needs a cotangent g of that shape")
        g = MODULES[type(tensor.data)].ones_like(tensor.data)
    elif isinstance(g, Tensor):
        raise InputError("backward: g is a Tensor; pass an array (there are no second derivatives)")
    elif (g := backend.as_array(g, tensor.dtype)).shape != tensor.shape:
        raise InputError(f"backward: g has shape {g.shape}, the tensor has {tensor.shape}")
    grads: dict[Node, Array] = {tensor.node: g}
    mine: set[Node] = set()  # nodes whose gradient array nobody else can see: added to in place
    queue = [(-tensor.node.time, tensor.node)]
    while queue:
        node = heapq.heappop(queue)[1]
        g = grads.pop(node)
        if type(g) not in MODULES:  # the sum of two 0-d gradients: NumPy made it a scalar
            g = backend.as_array(g)
        if node.vjp is None:
            _collect(node, g, node in mine)
            continue
        gradients = _pull(node, g)
        parents, node.parents, node.vjp = node.parents, (), _freed
        for parent, gx in zip(parents, gradients, strict=True):
            if parent is None or gx is None:
                continue
            if type(gx) not in MODULES:  # NumPy's 0-d results are scalars
                gx = backend.as_array(gx)
            if gx.shape != parent.shape:
                gx = unbroadcast(gx, parent.shape, node.name)
            if parent not in grads:
                grads[parent] = gx
                if gx is not g and gx.base is None:
                    mine.add(parent)
                heapq.heappush(queue, (-parent.time, parent))
            elif parent in mine:
                grads[parent] += gx
            else:
                grads[parent] = grads[parent] + gx
                mine.add(parent)
        g, gx, gradients = None, None, ()  # so that a gradient lives no longer than its use


def _pull(node: Node, g: Array) -> tuple:
    """node.vjp(g) as a tuple; an error in it names the primitive and, in DEBUG, its caller."""
    try:
        before = g.copy() if DEBUG else None
        gradients = node.vjp(g)
        if not isinstance(gradients, tuple):
            gradients = (gradients,)
        if len(gradients) != len(node.parents):  # an array passed by keyword is no argument
            count = f"{len(gradients)} gradients for {len(node.parents)} positional arguments"
            raise TypeError(f"{node.name}: {count}")
        if DEBUG:
            _check_vjp(node, g, before, gradients)
        return gradients
    except Exception as error:
        where = f", computed at {node.where}" if node.where else ""
        error.add_note(f"in backward of {node.name} with output shape {node.shape}{where}")
        raise


def _collect(leaf: Node, g: Array, mine: bool) -> None:
    if leaf.grad is None:
        leaf.grad = g if mine else g.copy()
    else:
        leaf.grad += g


def _freed(g: Array) -> Any:
    raise InputError("backward: this graph was used already and is freed; compute the loss anew")


def unbroadcast(g: Array, shape: tuple[int, ...], name: str = "unbroadcast") -> Array:
    """Sum g, which has a broadcast shape, down to `shape`: the transpose of broadcasting.

    ValueError, naming the primitive, if g could not come from broadcasting `shape`.
    """
    lead = g.ndim - len(shape)
    if lead < 0 or any(n not in (1, m) for m, n in zip(g.shape[lead:], shape, strict=True)):
        raise ValueError(f"{name}: its gradient of shape {g.shape} is no broadcast of {shape}")
    axes = tuple(range(lead)) + tuple(
        lead + i for i, n in enumerate(shape) if n == 1 and g.shape[lead + i] != 1
    )
    return g.sum(axes).reshape(shape)


@contextlib.contextmanager
def _recording(on: bool) -> Iterator[None]:
    before, _state.recording = _state.recording, on
    try:
        yield
    finally:
        _state.recording = before


def no_grad() -> contextlib.AbstractContextManager[None]:
    """`with no_grad():` records nothing: for generation and evaluation. Per thread."""
    return _recording(False)


def is_recording() -> bool:
    """False inside `no_grad`."""
    return _state.recording


@contextlib.contextmanager
def watch(watcher: Callable[[str, Array], None]) -> Iterator[None]:
    """Call watcher(name, output array) after every primitive: for finding the first NaN."""
    before, _state.watcher = _state.watcher, watcher
    try:
        yield
    finally:
        _state.watcher = before


def checkpoint(f: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """f(*inputs), remembering the inputs only: backward computes f again. Saves memory for time.

    V3 recomputes RMSNorm and the MLA up-projections in this way (V3 §3.2.3). `f` must be a pure
    function of Tensors; gradients also reach the Parameters it uses.
    """
    with no_grad():
        y = f(*inputs)
    if not _state.recording:
        return y

    def vjp(g: Array) -> tuple:
        copies = [Parameter(x.data) for x in inputs]
        with _recording(True):
            backward(f(*copies), g)
        return tuple(c.grad for c in copies)

    node = Node("checkpoint", y.shape, tuple(x.node for x in inputs), vjp)
    return Tensor(y.data, node)


# ------------------------------------------------------------------------------------ debug checks


def is_finite(array: Array) -> bool:
    """No NaN and no Inf in `array` (a synchronisation on a GPU)."""
    return bool(MODULES[type(array)].isfinite(array).all())


def _caller() -> str:
    """file:line of the nearest frame outside this folder."""
    here, frame = os.path.dirname(__file__), sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(here):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _check_output(name: str, y: Array) -> None:
    if y.dtype.kind == "f" and not is_finite(y):
        raise DivergedError(f"{name}: NaN or Inf in its output of shape {y.shape}, at {_caller()}")


def _checked(function: Callable) -> Callable:
    """`function`, refusing an output whose float type none of its inputs has."""

    def run(*arrays, **options):
        y, vjp = function(*arrays, **options)
        kinds = {a.dtype for a in arrays if type(a) in MODULES and a.dtype.kind == "f"}
        if kinds and y.dtype.kind == "f" and y.dtype not in kinds:
            came = " and ".join(sorted(str(k) for k in kinds))
            raise TypeError(f"{function.__name__}: its output is {y.dtype}, its inputs {came}")
        return y, vjp

    return run


def _check_vjp(node: Node, g: Array, before: Array, gradients: tuple) -> None:
    if not bool((g == before).all()) and is_finite(before):
        raise ValueError(f"{node.name}: its vjp wrote into the gradient it was given")
    for i, (parent, gx) in enumerate(zip(node.parents, gradients, strict=True)):
        if parent is None or gx is None:
            continue
        if gx.dtype != g.dtype:
            raise TypeError(f"{node.name}: gradient {i} is {gx.dtype}, g is {g.dtype}")
        if gx.shape != parent.shape:
            unbroadcast(gx, parent.shape, node.name)
        if not is_finite(backend.as_array(gx)):
            raise DivergedError(f"{node.name}: NaN or Inf in gradient {i} of shape {gx.shape}")


def _mixed(name: str, arrays: list) -> InputError:
    places = [backend.device_of(a).name for a in arrays if type(a) in MODULES]
    first = places[0]
    i = next(i for i, p in enumerate(places) if p != first)
    return InputError(
        f"{name}: argument 0 is on {first}, argument {i} on {places[i]}; "
        f"move one with .to({first!r})"
    )


if DEBUG:
    _State.watcher = staticmethod(_check_output)
