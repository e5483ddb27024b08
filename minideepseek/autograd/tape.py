r"""The tape: what a forward pass leaves behind, and the walk back over it.

Each primitive that has something to differentiate makes a `Node`: its vjp, whose closure holds
exactly the arrays that the rule mentions, and its parents' nodes. There is no list of them: a node
lives as long as its value or a child does. Nothing else keeps an intermediate alive, and `backward`
drops each closure as soon as it was used.

Nodes are numbered as they are made, and the number *is* a topological order: whatever used a value
is younger than the value. So `backward` takes the youngest node that has a gradient, always; there
is no recursion and no search, and a node is reached only after everything that used it. With
b = a + a and c = b * b, a walk by depth alone would visit b's parents before both of b's gradients
had arrived; the order of creation cannot.

A gradient that arrives second is added into the first one's memory if nobody else can see that
memory: it is not the gradient that was handed on, nor a view of another array.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from minideepseek.autograd import backend
from minideepseek.autograd.backend import MODULES, Array
from minideepseek.autograd.debug import DEBUG, check_output, check_vjp
from minideepseek.errors import InputError


class _State(threading.local):
    recording = True
    watcher: Callable[[str, Array], None] | None = staticmethod(check_output) if DEBUG else None


state = _State()
_clock = itertools.count()


class Node:
    """One step of the tape; knows its parents' nodes, never their data. A leaf has no vjp."""

    __slots__ = ("grad", "name", "parents", "shape", "time", "vjp", "where")

    def __init__(self, name: str, shape: tuple[int, ...], parents: tuple, vjp: Any) -> None:
        self.time, self.name, self.shape = next(_clock), name, shape
        self.parents, self.vjp = parents, vjp
        self.grad: Array | None = None
        self.where: str | None = None


def backward(tensor: Any, g: Any = None) -> None:
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
    elif hasattr(g, "node"):
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
            check_vjp(node, g, before, gradients)
            for parent, gx in zip(node.parents, gradients, strict=True):
                if parent is not None and gx is not None and gx.shape != parent.shape:
                    unbroadcast(gx, parent.shape, node.name)
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
def recording(on: bool) -> Iterator[None]:
    """A context in which primitives make nodes, or do not. Per thread."""
    before, state.recording = state.recording, on
    try:
        yield
    finally:
        state.recording = before


def no_grad() -> contextlib.AbstractContextManager[None]:
    """`with no_grad():` records nothing: for generation and evaluation. Per thread."""
    return recording(False)


def is_recording() -> bool:
    """False inside `no_grad`."""
    return state.recording


@contextlib.contextmanager
def watch(watcher: Callable[[str, Array], None]) -> Iterator[None]:
    """Call watcher(name, output array) after every primitive: for finding the first NaN."""
    before, state.watcher = state.watcher, watcher
    try:
        yield
    finally:
        state.watcher = before
