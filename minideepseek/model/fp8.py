r"""A whole model in FP8: to train, and to serve

    fp8_training(model)            the same Parameters, computing in FP8 (V3 §3.3)
    fp8_inference(model)           codes in place of weights: one byte each
    load_fp8(directory)            the same from files, a tensor at a time

In FP8 are the projections of attention and of every SwiGLU, routed experts and MTP modules among
them: `layout.is_quantised`, the same list by which checkpoints are written. In high precision stay
embedding, head, router, norms, the core of attention and the modules' eh_proj (V3 §3.3.1).

**Training.** `fp8_training` gives a second model with the *same* Parameters: an optimiser over
either moves both, names and checkpoints are the float32 model's. The absorbed form of attention
multiplies by parts of kv_b_proj in another order; it sees Q(W), but no rounded activations, so that
here the two forms differ by what rounding activations does.

**Serving.** `fp8_inference` gives a model whose `state_dict()` is a DeepSeek FP8 checkpoint: uint8
codes and `weight_scale_inv`. It generates, and `save_pretrained` writes its codes as they are.
Nothing decoded is kept: each use decodes again, the absorbed form kv_b_proj for each token.

>>> import numpy as np
>>> from minideepseek import DeepSeekV3, DeepSeekV3Config
>>> model = DeepSeekV3(DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
>>> twin = fp8_training(model)
>>> output = twin.model.layers[0].self_attn.o_proj
>>> output.weight is model.model.layers[0].self_attn.o_proj.weight, type(output).__name__
(True, 'FP8Linear')
>>> served = fp8_inference(model)
>>> array_bytes(model), array_bytes(served)
(254752, 123712)
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Parameter
from minideepseek.errors import CheckpointError, InputError
from minideepseek.layers.fp8.experts import FP8Experts, StoredFP8Experts
from minideepseek.layers.fp8.linear import FP8Linear, check_stored
from minideepseek.layers.fp8.recipe import SERVING, V3, Recipe, Scheme
from minideepseek.layers.fp8.tiles import quantize
from minideepseek.layers.module import Init, Linear, Module
from minideepseek.layers.moe import Experts
from minideepseek.model.checkpoint import (
    COMPUTED,
    FP8_FORMAT,
    SCALES,
    check_copies,
    check_memory,
    checked_contents,
    one_of,
    read_tensor,
)
from minideepseek.model.contents import FP8, Contents
from minideepseek.model.layout import checkpoint_size, is_quantised
from minideepseek.model.safetensors import open_tensor
from minideepseek.model.transformer import DeepSeekV3

Change = Callable[[str, Any], Any]  # (checkpoint name, part) → what stands in its place, or None


def fp8_training(model: DeepSeekV3, recipe: Recipe = V3) -> DeepSeekV3:
    """A model that shares all Parameters with `model` and computes in FP8 by `recipe`.

    InputError, here and below, for a model that holds codes.
    """
    _check_weights(model)

    def change(name: str, part: Any) -> Any:
        if isinstance(part, Experts):
            return FP8Experts.of(part, recipe)
        if isinstance(part, Linear) and is_quantised(f"{name}.weight"):
            return FP8Linear.of(part, _scheme(name, recipe))
        return None

    return _changed(model, change)


def high_precision(model: DeepSeekV3) -> DeepSeekV3:
    """The model of the same Parameters that rounds nothing: `fp8_training` undone."""
    _check_weights(model)

    def change(name: str, part: Any) -> Any:
        if isinstance(part, FP8Linear | FP8Experts):
            kind = Linear if isinstance(part, FP8Linear) else Experts
            plain = kind.__new__(kind)
            vars(plain).update({n: v for n, v in vars(part).items() if isinstance(v, Parameter)})
            return plain
        return None

    return _changed(model, change)


def fp8_inference(model: DeepSeekV3, recipe: Recipe = SERVING) -> DeepSeekV3:
    """A model that holds codes in place of `model`'s weights and shares the rest with it.

    recipe: whose x tiles say how activations are rounded; SERVING leaves them as they are, V3 is
    the forward pass of training.
    """
    _check_weights(model)
    state = model.state_dict()

    def codes_of(name: str) -> tuple[Array, Array]:
        return quantize(state[name])

    return _changed(model, _stored(codes_of, recipe, model.config.n_routed_experts))


def load_fp8(
    directory: str | os.PathLike, dtype: Any = backend.float32, recipe: Recipe = SERVING
) -> DeepSeekV3:
    """The model in a Hugging Face directory with its weights as codes, on the CPU.

    What the files hold in FP8 is taken as it is; what they hold otherwise is quantised, one tensor
    at a time: no weight is held decoded. dtype: of the rest and of the computation. Errors and
    warnings are those of `from_pretrained`.
    """
    contents, computed = checked_contents(directory), one_of(COMPUTED, dtype)
    config = replace(contents.config, torch_dtype=computed, quantization_config=FP8_FORMAT)
    check_memory(contents, checkpoint_size(config)[2], "FP8")
    places = DeepSeekV3.__new__(DeepSeekV3)
    places._build(replace(contents.config, quantization_config=None), Places(None, 0.0, computed))

    def codes_of(name: str) -> tuple[Array, Array]:
        return read_codes(contents, name)

    def fill(name: str, place: Parameter) -> Parameter:
        return Parameter(read_tensor(contents, name, place.dtype).copy())

    change = _stored(codes_of, recipe, config.n_routed_experts, fill)
    model = _changed(places, change, fill)
    state = model.state_dict()
    for name, array in state.items():
        if name.endswith("e_score_correction_bias"):
            backend.copy_into(array, read_tensor(contents, name, array.dtype))
    check_copies(state, contents)
    return model


def read_codes(contents: Contents, name: str) -> tuple[Array, Array]:
    """One weight as (codes, scales): copies of what FP8 files hold, and what others hold quantised.

    CheckpointError for a code of NaN or a scale that is not positive and finite.
    """
    if contents.dtype(name) != FP8:
        return quantize(read_tensor(contents, name, backend.float32))
    codes, scales = (open_tensor(contents.headers[n], n).copy() for n in (name, name + SCALES))
    try:
        check_stored(codes.view("uint8"), scales)
    except InputError as error:
        raise CheckpointError(f"tensor {name}: {error}") from None
    return codes.view("uint8"), scales


class Places(Init):
    """Parameters without numbers, each to be replaced by one that is read."""

    def full(self, value: float, *shape: int) -> Parameter:
        """A Parameter of no entries in place of one of this shape."""
        return Parameter(backend.full((0,) * len(shape), value, self.dtype))


def _check_weights(model: DeepSeekV3) -> None:
    held = [name for name in model.state_dict() if name.endswith(SCALES)]
    if held:
        raise InputError(f"model: it holds FP8 codes ({held[0]}), expected one that holds weights")


def array_bytes(model: DeepSeekV3) -> int:
    """Bytes of all arrays that the model holds, each once."""
    arrays = list(model.state_dict().values())
    return sum({id(array): array.nbytes for array in arrays}.values())


def _shared(name: str, parameter: Parameter) -> Parameter:
    return parameter


def _stored(
    codes_of: Callable[[str], tuple[Array, Array]],
    recipe: Recipe,
    experts: int,
    parameter: Change = _shared,
) -> Change:
    """The change to codes, which codes_of(name of a weight) gives; experts: of one layer."""
    matrices = ("gate_proj", "up_proj", "down_proj")

    def change(name: str, part: Any) -> Any:
        if isinstance(part, Experts):
            parts = [[codes_of(f"{name}.{e}.{m}.weight") for m in matrices] for e in range(experts)]
            return StoredFP8Experts(parts, recipe)
        if isinstance(part, Linear) and is_quantised(f"{name}.weight"):
            codes, scale_inv = codes_of(f"{name}.weight")
            bias = parameter(f"{name}.bias", part.bias) if "bias" in vars(part) else None
            return FP8Linear.from_codes(codes, scale_inv, bias, _scheme(name, recipe))
        return None

    return change


def _scheme(name: str, recipe: Recipe) -> Scheme:
    return recipe.after_attention if name.endswith(".o_proj") else recipe.linear


def _changed(model: DeepSeekV3, change: Change, parameter: Change = _shared) -> DeepSeekV3:
    """A copy of the tree of modules with `change` of its modules and `parameter` of its Parameters.

    The rest is shared.
    """

    def walk(module: Module, prefix: str) -> Any:
        twin = copy.copy(module)
        for name, value in vars(module).items():
            path = model.checkpoint_name(prefix + name)
            if isinstance(value, Parameter):
                setattr(twin, name, parameter(path, value))
            elif isinstance(value, Module):
                setattr(twin, name, turned(prefix + name, value))
            elif isinstance(value, list) and value and isinstance(value[0], Module):
                parts = [turned(f"{prefix}{name}.{i}", part) for i, part in enumerate(value)]
                setattr(twin, name, parts)
        return twin

    def turned(path: str, part: Module) -> Any:
        name = model.checkpoint_name(path)
        return change(name, part) or walk(part, f"{path}.")

    return walk(model, "")
