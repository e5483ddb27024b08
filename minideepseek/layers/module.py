r"""Parameters, modules and the plain layers that every chapter uses.

A `Module` finds its parts by looking at its own attributes: Parameters, Modules and lists of
Modules; there is nothing to register. Attributes carry Hugging Face's names, so the path to a
parameter *is* its name in a checkpoint: `model.layers.0.self_attn.o_proj.weight`.

Three views of the same memory:

    named_parameters()   what is trained: (name, Parameter), experts stacked
    named_tensors()      what a checkpoint holds: (name, array), views where a name is a part of a
                         stack, and buffers, which are stored but not trained
    load_state_dict()    writes into named_tensors(); no array is ever replaced

`Init` makes the first values. Weights are N(0, std²) (V3 §4.2 uses std 0.006, at width 7168), norm
weights 1, biases 0. A layer used alone is made from a model's config or from the few fields of it
that it reads, given by name; `settle` brings both into one form.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Parameter, Tensor, ops
from minideepseek.errors import CheckpointError, InputError

DEFAULT_SEED = 2024  # of generators made where a caller passes rng=None


class Init:
    """First values of parameters: N(0, std²) drawn from `rng`, or zeros if a file will fill them.

    rng: a numpy.random.Generator, or None for zeros. std: the deviation. dtype: float32 or float64.
    """

    def __init__(self, rng: Any, std: float, dtype: Any = backend.float32) -> None:
        self.rng, self.std, self.dtype = rng, std, dtype

    def normal(self, *shape: int) -> Parameter:
        """A Parameter of N(0, std²) numbers of this shape; zeros without an rng."""
        if self.rng is None:
            return self.full(0.0, *shape)
        return Parameter(backend.normal(self.rng, shape, self.std, self.dtype))

    def full(self, value: float, *shape: int) -> Parameter:
        """A Parameter of `value` in this shape."""
        return Parameter(backend.full(shape, value, self.dtype))


REQUIRED = object()  # a field of `settle` that has no default


def settle(
    config: Any, rng: Any, fields: Mapping[str, Any], known: Mapping[str, Any]
) -> tuple[Any, Init]:
    """What a layer is built from, (config, Init), of its own arguments (config, rng, **fields).

    known: the fields that the layer reads, each with its default or REQUIRED; they may be given in
    place of a config. rng: a numpy.random.Generator; None makes one from DEFAULT_SEED; an `Init`,
    which the parts of a model share, passes through. InputError: a config and fields, neither, an
    unknown field, a missing one, no generator.
    """
    if config is None:
        unknown = [name for name in fields if name not in known]
        missing = [n for n, value in known.items() if value is REQUIRED and n not in fields]
        if unknown:
            raise InputError(f"{unknown[0]}: no such field, expected one of {', '.join(known)}")
        if missing:
            raise InputError(f"{missing[0]}: got nothing, expected it where there is no config")
        config = SimpleNamespace(**{**known, **fields})
    elif fields:
        raise InputError(f"{next(iter(fields))}: got a config too, expected one of the two")
    if isinstance(rng, Init):
        return config, rng
    std = getattr(config, "initializer_range", 0.02)
    return config, Init(backend.generator(rng, DEFAULT_SEED), std)


class Module:
    """Anything with Parameters. Its parts are its attributes; see the top of this file."""

    buffers: tuple[str, ...] = ()  # names of array attributes that are stored but not trained

    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct parts; those in lists as `name.0`, `name.1`, …"""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list) and value and isinstance(value[0], Module):
                yield from ((f"{name}.{i}", module) for i, module in enumerate(value))

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(name, Parameter) of everything trained, in the order of the forward pass."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, module in self.children():
            yield from module.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        """Every Parameter once."""
        return [p for _, p in self.named_parameters()]

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        """(checkpoint name, array) of everything stored; the arrays share the model's memory."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value.data
            elif name in self.buffers:
                yield prefix + name, value
        for name, module in self.children():
            yield from module.named_tensors(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, Array]:
        """Checkpoint name → array, as `named_tensors`: views of the model, not copies."""
        return dict(self.named_tensors())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy `state` into the model. CheckpointError, before anything is written, for missing,
        unexpected and wrongly shaped tensors, and for one array's two names with different values.
        """
        own = self.state_dict()
        for word, names in (("missing", own.keys() - state), ("unexpected", state.keys() - own)):
            if names:
                shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
                raise CheckpointError(f"state: {len(names)} {word} tensors: {shown}")
        first: dict[int, str] = {}
        for name, array in own.items():
            given = state[name]
            if tuple(given.shape) != array.shape:
                raise CheckpointError(
                    f"{name}: the model wants shape {array.shape}, "
                    f"the checkpoint has {tuple(given.shape)}"
                )
            twin = first.setdefault(id(array), name)  # a copy of the embedding, say
            if given is not state[twin] and _differ(given, state[twin]):
                raise CheckpointError(f"{name}: differs from {twin}, whose copy it is")
        for name, array in own.items():
            backend.copy_into(array, state[name])

    def to(self, device: str) -> Any:
        """A copy of this module on `device` ("cpu", "cuda"); the module itself if it is there."""
        tensors = [a for _, a in self.named_tensors()]
        if all(backend.device_of(a) is backend.get_device(device) for a in tensors):
            return self
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                setattr(moved, name, Parameter(backend.to_device(value.data, device)))
            elif isinstance(value, Module):
                setattr(moved, name, value.to(device))
            elif isinstance(value, list) and value and isinstance(value[0], Module):
                setattr(moved, name, [module.to(device) for module in value])
            elif name in self.buffers:
                setattr(moved, name, backend.to_device(value, device))
        return moved


def _differ(*arrays: Any) -> bool:
    """Whether two arrays differ in any number, wherever each of them is."""
    one, other = (backend.to_host(backend.as_array(array)) for array in arrays)
    return bool((one != other).any())


class Linear(Module):
    """y = x Wᵀ + b.  x (…, in_features) → (…, out_features); weight (out, in), as stored by HF."""

    def __init__(self, in_features: int, out_features: int, init: Init, bias: bool = False) -> None:
        self.weight = init.normal(out_features, in_features)
        if bias:
            self.bias = init.full(0.0, out_features)

    def __call__(self, x: Tensor) -> Tensor:
        if "bias" in vars(self):
            return ops.linear(x, self.weight, self.bias)
        return ops.linear(x, self.weight)

    def matrix(self) -> Tensor:
        """W, (out, in), as this layer multiplies by it: for who computes with W in another way."""
        return self.weight


class Embedding(Module):
    """Row `ids` of a table.  ids (…) integers → (…, width); weight (rows, width)."""

    def __init__(self, rows: int, width: int, init: Init) -> None:
        self.weight = init.normal(rows, width)

    def __call__(self, ids: Array) -> Tensor:
        return ops.take(self.weight, ids)


class RMSNorm(Module):
    """yᵢ = wᵢ xᵢ / √(mean(x²) + ε) over the last axis.  x (…, width) → the same shape."""

    def __init__(self, width: int, eps: float, init: Init) -> None:
        self.eps = eps
        self.weight = init.full(1.0, width)

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self.eps)


class MLP(Module):
    """SwiGLU: down(silu(gate(x)) ∘ up(x)).  x (…, hidden) → (…, hidden), `width` in between."""

    def __init__(self, hidden: int, width: int, init: Init) -> None:
        self.gate_proj = Linear(hidden, width, init)
        self.up_proj = Linear(hidden, width, init)
        self.down_proj = Linear(width, hidden, init)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))
