r"""The engine: reverse-mode differentiation on a tape of nodes.

A **primitive** is a function over arrays that returns its value and the function that pulls a
gradient back through it, its vector-Jacobian product (vjp):

    y = f(x)            vjp(g) = Jᵀ g            with J = ∂y/∂x

    @primitive
    def cube(x):
        return x * x * x, lambda g: g * 3 * x * x

    x = Parameter([1.0, 2.0])
    cube(x).backward([1.0, 1.0])                    # x.grad is now [3.0, 12.0]

That is the whole interface. `@primitive` lifts such a function to `Tensor`s: it calls it on the
arrays and, if any input was computed from a `Parameter`, makes a `Node` that remembers its parents'
nodes and the vjp.

`backward` walks the tape from the newest node to the oldest (tape.py); Tensors and Parameters are
in tensor.py.

The rules of a primitive
------------------------
1. Positional arguments are arrays, and so may get a gradient; options, numbers among them, are
   keyword-only. It returns one array and its vjp.
2. vjp(g) returns one gradient per positional argument, None for integers and masks; the bare
   array if there is one argument. Called twice (by gradcheck, say), it gives the same answer.
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

import functools
from collections.abc import Callable

from minideepseek.autograd import backend
from minideepseek.autograd.backend import MODULES, Array
from minideepseek.autograd.debug import DEBUG, caller, checked, is_finite
from minideepseek.autograd.tape import (
    Node,
    backward,
    is_recording,
    no_grad,
    recording,
    state,
    unbroadcast,
    watch,
)
from minideepseek.autograd.tensor import Parameter, Tensor, ops
from minideepseek.errors import InputError

__all__ = [
    "PRIMITIVES",
    "Node",
    "Parameter",
    "Tensor",
    "backward",
    "checkpoint",
    "is_finite",
    "is_recording",
    "no_grad",
    "ops",
    "primitive",
    "unbroadcast",
    "watch",
]

PRIMITIVES: dict[str, Callable] = {}  # name → the bare function over arrays: (value, vjp)


def primitive(function: Callable) -> Callable:
    """Register a function over arrays returning (value, vjp), and lift it to Tensors.

    InputError for a name that another primitive has.
    """
    name = function.__name__
    known = PRIMITIVES.setdefault(name, function)
    if known.__module__ != function.__module__:
        raise InputError(f"primitive {name!r}: {known.__module__} has one of that name already")
    PRIMITIVES[name] = function
    run = checked(function) if DEBUG else function

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
        if state.recording:
            parents = tuple([a.node if isinstance(a, Tensor) else None for a in args])
            if any(parents):
                node = Node(name, y.shape, parents, vjp)
                if DEBUG:
                    node.where = caller()
        if state.watcher is not None:
            state.watcher(name, y)
        return Tensor(y, node)

    setattr(ops, name, lifted)
    return lifted


def _mixed(name: str, arrays: list) -> InputError:
    places = [backend.device_of(a).name for a in arrays if type(a) in MODULES]
    first = places[0]
    i = next(i for i, p in enumerate(places) if p != first)
    return InputError(
        f"{name}: argument 0 is on {first}, argument {i} on {places[i]}; "
        f"move one with .to({first!r})"
    )


def checkpoint(f: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """f(*inputs), remembering the inputs only: backward computes f again. Saves memory for time.

    V3 recomputes RMSNorm and the MLA up-projections in this way (V3 §3.2.3). `f` must be a pure
    function of Tensors; gradients also reach the Parameters it uses.
    """
    with no_grad():
        y = f(*inputs)
    if not state.recording:
        return y

    def vjp(g: Array) -> tuple:
        copies = [Parameter(x.data) for x in inputs]
        with recording(True):
            backward(f(*copies), g)
        return tuple(c.grad for c in copies)

    node = Node("checkpoint", y.shape, tuple(x.node for x in inputs), vjp)
    return Tensor(y.data, node)
