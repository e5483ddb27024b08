r"""Hugging Face directories: a model written so that others can open it, and read from strangers.

    config.json                     the architecture (config.py)
    generation_config.json          the ids that begin, end and pad a text
    model.safetensors               all weights (safetensors.py), or above a size the caller sets
    model-00001-of-00003.safetensors, …     shards, and the index that says which tensor is where:
    model.safetensors.index.json            {"metadata": {"total_size": bytes}, "weight_map": {…}}
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minideepseek.autograd import backend
from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.files import atomic_directory, recover_directory
from minideepseek.model.safetensors import open_tensor, read_header, save_file
from minideepseek.model.transformer import DeepSeekV3

# What the writer leaves out it means to leave out: stale shards would make a second model.
OWNED = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
STORED = ("float32", "bfloat16", "float64")  # dtypes of written weights


def save_pretrained(
    model: DeepSeekV3,
    directory: str | os.PathLike,
    dtype: Any = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write the model as a Hugging Face directory, atomically; see `write_model`."""
    with atomic_directory(directory, OWNED) as folder:
        write_model(model, folder, dtype, max_shard_bytes)


def write_model(
    model: DeepSeekV3,
    directory: str | os.PathLike,
    dtype: Any = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write the model's files into a directory that exists, such as `atomic_directory` gives.

    dtype: of the stored weights, "float32" or "bfloat16"; None: the model's own.
    """
    folder = Path(directory)
    stored = str(model.model.norm.weight.dtype if dtype is None else np.dtype(dtype))
    if stored not in STORED:
        raise InputError(f"dtype: got {dtype!r}, expected one of {', '.join(STORED)} or None")
    config = replace(model.config, torch_dtype=stored, quantization_config=None)
    _write_json(folder / "config.json", config.to_dict())
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    known = {name: token for name, token in ids.items() if token is not None}
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **known})
    tensors = _Stored(model.state_dict(), stored)
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    where: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(_Stored({n: tensors.arrays[n] for n in names}, stored), folder / file,
                  {"format": "pt"})
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(map(tensors.size, tensors))}, "weight_map": where}
    _write_json(folder / "model.safetensors.index.json", index)


class _Stored(Mapping[str, np.ndarray]):
    """A model's tensors as they are stored, each fetched and converted when it is asked for."""

    def __init__(self, arrays: Mapping[str, Any], dtype: str) -> None:
        self.arrays, self.dtype = arrays, np.dtype(dtype)

    def __getitem__(self, name: str) -> np.ndarray:
        return backend.to_host(self.arrays[name]).astype(self.dtype_of(name), copy=False)

    def dtype_of(self, name: str) -> np.dtype:
        return np.dtype("float32") if name.endswith("e_score_correction_bias") else self.dtype

    def size(self, name: str) -> int:
        return math.prod(self.arrays[name].shape) * self.dtype_of(name).itemsize

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def _shards(tensors: _Stored, most: int | None) -> list[list[str]]:
    """The names in their order, cut where a shard would grow beyond `most` bytes."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in tensors:
        if most is not None and shards[-1] and size + tensors.size(name) > most:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensors.size(name)
    return shards


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def from_pretrained(directory: str | os.PathLike, dtype: Any = backend.float32) -> DeepSeekV3:
    """The model in a Hugging Face directory, computing in `dtype`, float32 or float64."""
    recover_directory(directory)
    folder = Path(directory)
    config = DeepSeekV3Config.from_json(folder / "config.json")
    files = sorted(folder.glob("model*.safetensors"))
    headers = {name: h for file in files for h in [read_header(file)] for name in h.entries}
    model = DeepSeekV3.empty(config, dtype)
    own = model.state_dict()
    for name in own:
        if name not in headers or headers[name].entries[name].shape != own[name].shape:
            raise CheckpointError(f"{directory}: {name} is missing or has another shape")
    for name, array in own.items():
        backend.copy_into(array, open_tensor(headers[name], name))
    return model
