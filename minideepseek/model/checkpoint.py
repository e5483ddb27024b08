r"""Checkpoints: a model in a Hugging Face directory, written and read.

    config.json                     the architecture (config.py)
    generation_config.json          the ids that begin, end and pad a text
    model.safetensors               the weights (safetensors.py), or above a size that is asked for
    model-00001-of-00003.safetensors, …    shards of them, and
    model.safetensors.index.json           which tensor is in which; contents.py explains it

**Writing.** Names are the model's own (`state_dict`), so nothing is renamed; MTP layers come with
their copies of embedding and head, as in DeepSeek's files. float32 weights are stored bit for bit;
bfloat16 is the upper half of a float32, rounded to the nearest, ties to even, and keeps 8 bits of a
number's 24. The router's biases stay float32 in any case: they grow in steps of 0.001 and decide by
small differences, and bfloat16 numbers near 1 are 0.008 apart. NaN and Inf are not written.

The directory appears all at once (files.py). Tokenizer and optimiser go into the same one:

    with atomic_directory(path, OWNED) as folder:
        write_model(model, folder)
        tokenizer.write(folder)

**Reading** has an order. First everything that can be known without weights: contents.py compares
the configuration, the index and the headers. Then the memory: a model that the machine cannot hold
is refused with the bytes it would take, instead of being killed halfway. Only then is the model
made, empty, and filled tensor by tensor through windows onto the files, so that the peak is the
model and one tensor. A NaN or Inf is an error that names its tensor. Whatever goes wrong, no half
of a model is returned.

**FP8.** W_ij = q_ij · s_⌊i/128⌋⌊j/128⌋: a weight of 8 bits times the scale of its block, stored as
weight_scale_inv, which in spite of its name is the multiplier. Here it is multiplied out in float32
on the way in; the model then is an ordinary one. On the way out the projections are quantised
(layers/fp8/); embedding, head, norms, router and eh_proj stay as they are, as DeepSeek has it.
"""

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array
from minideepseek.errors import CheckpointError, InputError
from minideepseek.layers.fp8 import dequantize, quantize
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.contents import FP8, INDEX, SINGLE, Contents, original_of, read_contents
from minideepseek.model.files import atomic_directory
from minideepseek.model.layout import FP8_BLOCK, is_quantised, scale_shape
from minideepseek.model.ledger import count_parameters
from minideepseek.model.safetensors import open_tensor, save_file
from minideepseek.model.transformer import DeepSeekV3

# For `atomic_directory`: what the new state has not of these, the old one's is not kept.
OWNED = (SINGLE, INDEX, "model-*-of-*.safetensors")
FLOAT8 = "float8_e4m3fn"
STORED = ("float32", "bfloat16", "float64", FLOAT8)  # dtypes of written weights
SCALES = "_scale_inv"  # what is appended to the name of a weight in FP8
FP8_FORMAT = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
}
COMPUTED = ("float32", "float64")  # and of a model's


# ---------------------------------------------------------------------------------------- writing


def save_pretrained(
    model: DeepSeekV3,
    directory: str | os.PathLike,
    dtype: Any = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write the model to `directory`, which holds either the old state or all of the new one.

    Arguments and errors are `write_model`'s. Other files of an existing directory stay, weights of
    an older model do not.
    """
    with atomic_directory(directory, OWNED) as folder:
        write_model(model, folder, dtype, max_shard_bytes)


def write_model(
    model: DeepSeekV3,
    folder: str | os.PathLike,
    dtype: Any = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write the model's files into a directory that exists, as `atomic_directory` gives one.

    dtype: of the stored weights, "float32" or "bfloat16"; None stores what the model computes in.
    "float8_e4m3fn" writes DeepSeek's FP8 layout, and in float32 what that leaves unquantised; it is
    the one dtype of a model that holds codes (fp8.py).
    max_shard_bytes: where the tensors take more, they are written as shards of at most so many, a
    larger tensor alone; None: one file. InputError for an argument that is none of these;
    CheckpointError, naming it, for a tensor with NaN or Inf, and where the system refuses.
    """
    state, default = model.state_dict(), model.model.norm.weight.dtype
    dtypes: tuple[str, ...] = STORED
    if any(name.endswith(SCALES) for name in state):  # it holds codes: they are written as they are
        dtypes, default = (FLOAT8,), FLOAT8
    stored = one_of(dtypes, default if dtype is None else dtype)
    if max_shard_bytes is not None and (type(max_shard_bytes) is not int or max_shard_bytes < 1):
        raise InputError(f"max_shard_bytes: got {max_shard_bytes!r}, expected a number of bytes")
    folder = Path(folder)
    fp8 = stored == FLOAT8
    config = replace(
        model.config,
        torch_dtype="float32" if fp8 else stored,
        quantization_config=FP8_FORMAT if fp8 else None,
    )
    _write_json(folder / "config.json", config.to_dict())
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    known = {name: token for name, token in ids.items() if token is not None}
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **known})
    tensors = _Stored(state, stored)
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        save_file(tensors, folder / SINGLE, {"format": "pt"})  # older loaders insist on "pt"
        return
    where: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(_Stored(tensors.arrays, stored, names), folder / file, {"format": "pt"})
        where |= dict.fromkeys(names, file)
    total = sum(map(tensors.size, tensors))
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


class _Stored(Mapping[str, np.ndarray]):
    """Tensors as they are stored, each fetched from its device and rounded when it is asked for.

    names: which of them; all by default, an FP8 weight followed by its scales.
    """

    def __init__(
        self, arrays: Mapping[str, Array], dtype: str, names: list[str] | None = None
    ) -> None:
        self.arrays, self.fp8 = arrays, dtype == FLOAT8
        self.dtype = np.dtype("float32" if self.fp8 else dtype)
        self.names = list(self._all()) if names is None else names
        self._last: tuple = ("", None)  # codes and scales are asked for one after the other

    def __getitem__(self, name: str) -> np.ndarray:
        weight = name.removesuffix(SCALES)
        if weight + SCALES in self.arrays:  # the model holds codes
            array = backend.to_host(self.arrays[name])
            return array if name != weight else array.view(FLOAT8)
        if not self._in_fp8(weight):
            return _finite(backend.to_host(self.arrays[name]), self._dtype_of(name), name)
        if self._last[0] != weight:
            values = _finite(backend.to_host(self.arrays[weight]), self.dtype, weight)
            self._last = (weight, quantize(values, (FP8_BLOCK, FP8_BLOCK)))
        codes, scales = self._last[1]
        return scales if name != weight else codes.view(FLOAT8)

    def _dtype_of(self, name: str) -> np.dtype:
        return np.dtype("float32") if name.endswith("e_score_correction_bias") else self.dtype

    def _in_fp8(self, name: str) -> bool:
        return self.fp8 and is_quantised(name)

    def _all(self) -> Iterator[str]:
        for name in self.arrays:
            if name.endswith(SCALES):
                continue
            yield name
            if self._in_fp8(name):
                yield name + SCALES

    def size(self, name: str) -> int:
        """The bytes it takes."""
        weight = name.removesuffix(SCALES)
        shape = self.arrays[weight].shape
        if name != weight:
            return 4 * math.prod(scale_shape(shape))
        return math.prod(shape) * (1 if self._in_fp8(name) else self._dtype_of(name).itemsize)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _split(tensors: _Stored, most: int | None) -> list[list[str]]:
    """The names in their order, cut before each tensor that would take a shard over `most`."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in tensors:
        if most is not None and shards[-1] and size + tensors.size(name) > most:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensors.size(name)
    return shards


def one_of(names: tuple[str, ...], dtype: Any) -> str:
    """The dtype's name if it is one of `names`; InputError if not."""
    with suppress(TypeError, ValueError):
        if dtype is not None and np.dtype(dtype).name in names:  # NumPy's None is float64
            return np.dtype(dtype).name
    raise InputError(f"dtype: got {dtype!r}, expected {' or '.join(names)}")


def _write_json(path: Path, value: Any) -> None:
    try:
        path.write_text(json.dumps(value, indent=2) + "\n", "utf-8", newline="\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


# ---------------------------------------------------------------------------------------- reading


def from_pretrained(directory: str | os.PathLike, dtype: Any = backend.float32) -> DeepSeekV3:
    """The model in a Hugging Face directory, on the CPU.

    dtype: float32 or float64, of parameters and computation, whatever the files store; FP8 weights
    are dequantised. CheckpointError with one sentence, naming file and tensor, for anything that
    is not exactly a DeepSeek-V3: see contents.py, and the top of this file for what else is
    refused. Nothing is allocated before the headers and the machine's memory are checked.

    Two things are said by `warnings.warn` (UserWarning): that the files hold no MTP layer although
    config.json states one, so that the model has none; and that a save was cut short and the state
    before it is restored.
    """
    computed = one_of(COMPUTED, dtype)
    contents = checked_contents(directory)
    model = _empty(contents, computed)
    _fill(model, contents)
    return model


def checked_contents(directory: str | os.PathLike) -> Contents:
    """What lies in the directory, if that is a whole model; its notices become warnings."""
    contents = read_contents(directory)
    fault = next(contents.faults(), None)
    if fault is not None:
        raise CheckpointError(fault.text)
    for notice in contents.notices:
        warnings.warn(notice, stacklevel=3)
    return contents


def _fill(model: DeepSeekV3, contents: Contents) -> None:
    """Every tensor into its place."""
    state = model.state_dict()
    for name, array in state.items():
        if original_of(name, contents.config) is None:
            backend.copy_into(array, read_tensor(contents, name, array.dtype))
    check_copies(state, contents)


def check_copies(state: Mapping[str, Array], contents: Contents) -> None:
    """CheckpointError where the files hold a tensor of the model twice, and not the same twice."""
    for name, header in contents.headers.items():
        original = original_of(name, contents.config)
        if original is not None:
            own = state[original]
            if not np.array_equal(read_tensor(contents, name, own.dtype), own):
                raise CheckpointError(
                    f"{header.path}: tensor {name} differs from {original}, whose copy it is"
                )


def memory_needed(config: DeepSeekV3Config, dtype: str) -> int:
    """Bytes of a model's parameters, computing in `dtype`."""
    return sum(count_parameters(config).values()) * np.dtype(dtype).itemsize


def machine_memory() -> int | None:
    """Bytes that this machine has, or its container may use; None where nobody says."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such group; "max"
            memory = min(memory, int(Path("/sys/fs/cgroup", limit).read_text("ascii")))
    return memory


def _empty(contents: Contents, dtype: str) -> DeepSeekV3:
    """The model to be filled, if the machine can hold it."""
    config = replace(contents.config, quantization_config=None)  # dequantised while it is read
    needed = memory_needed(config, dtype)
    check_memory(contents, needed, dtype)
    try:
        return DeepSeekV3.empty(config, dtype)
    except MemoryError:
        raise CheckpointError(
            f"{_needs(contents, needed, dtype)}; the system gives less"
        ) from None


def check_memory(contents: Contents, needed: int, form: str) -> None:
    """CheckpointError if the machine has less than the `needed` bytes of the model in that form."""
    memory = machine_memory()
    if memory is not None and needed > memory:
        raise CheckpointError(f"{_needs(contents, needed, form)}; this machine has {memory:,}")


def _needs(contents: Contents, needed: int, form: str) -> str:
    return f"{contents.folder}: the model needs {needed:,} bytes of memory in {form}"


def read_tensor(contents: Contents, name: str, dtype: Any) -> np.ndarray:
    """One tensor in `dtype`: a window onto the file where it is stored so, else a copy."""
    header, dtype = contents.headers[name], np.dtype(dtype)
    stored = open_tensor(header, name)
    if contents.dtype(name) == FP8:
        scales = name + SCALES
        stored = _dequantised(stored, open_tensor(contents.headers[scales], scales), name)
    return _finite(stored, dtype, f"{name} in {header.path}")


def _dequantised(weight: np.ndarray, scales: np.ndarray, name: str) -> np.ndarray:
    """q · s in float32.  weight (n, k) float8; scales (⌈n/128⌉, ⌈k/128⌉) float32."""
    try:
        return dequantize(weight.view(np.uint8), np.ascontiguousarray(scales))
    except InputError as error:
        raise CheckpointError(f"tensor {name}: {error}") from None


def _finite(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """`array` in `dtype`, a copy only if it has another one; CheckpointError for NaN and Inf."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = array.astype(dtype, copy=False)
        # NaN if there is one; rounding keeps the order, and bfloat16 is slow to compare.
        wide = values if array.dtype.itemsize < dtype.itemsize else array
        low, high = (end.astype(dtype) for end in (wide.min(), wide.max()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CheckpointError(f"tensor {name} holds NaN or Inf as {dtype.name}")
    return values
