r"""What lies in a checkpoint's directory, found out from headers alone.

    config.json                     what the model is (config.py)
    model.safetensors               its tensors (safetensors.py), or
    model.safetensors.index.json    {"metadata": {…}, "weight_map": {tensor: file, …}} and
    model-00001-of-00163.safetensors, …    the files that the index names

A directory says everything three times: the configuration implies a list of names and shapes
(layout.py), the index has a list, and each file's header has one. Where they do not agree, a reader
that believes one of them loads a model that nobody trained. Here all of them are compared, before a
single weight is looked at: 163 headers of a 671-billion-parameter model are 12 MB.

**Exactly once.** Every tensor that the configuration implies is there, in one file, and nothing
else is. Four exceptions, each of which some writer needs:

    copies       An MTP layer repeats embedding and head, DeepSeek's files do, Hugging Face's do
                 not; lm_head repeats a tied embedding. They may be absent, and must be equal to
                 what they copy (which is checked when the weights are read).
    no MTP       transformers states num_nextn_predict_layers = 1 and drops the layer. Files without
                 a trace of one are a model without one; half of one is a damaged file.
    inv_freq     Old writers stored the rotary frequencies, which the configuration implies.
    scales       Any weight that FP8 may hold (layout.is_quantised) may be stored in FP8, and then
                 X.weight_scale_inv must be beside X.weight; with nothing to scale it is unexpected.

**A block is 128 × 128**, whatever the shape: 576 rows have 5 rows of scales, the last for 64 rows.
Dividing 576 by 5 to find the block's height, as a popular reader does, gives wrong weights silently
where the division comes out even.

**Paths.** A name in the index is joined to the directory and opened. `../../etc/passwd` is such a
name too, so only plain file names are accepted. (Symbolic links are the owner's: Hugging Face's
cache is made of them.)
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from minideepseek.errors import CheckpointError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.config_checks import shown
from minideepseek.model.files import recover_directory, say
from minideepseek.model.layout import (
    Shape,
    checkpoint_size,
    is_quantised,
    scale_shape,
    tensor_shapes,
)
from minideepseek.model.safetensors import CODES, Header, TensorInfo, read_header
from minideepseek.model.strict_json import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_INDEX_BYTES = 1 << 25  # V3's is 9 MB
MAX_TENSORS = 1_000_000  # a configuration that wants more is no model's; V3 wants 91,991
PLAIN = ("F32", "BF16", "F16", "F64")  # what a weight may be stored as, besides FP8 with scales
FP8 = "F8_E4M3"

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
_ROTARY = re.compile(r"model\.layers\.[0-9]{1,10}\.self_attn\.rotary_emb\.inv_freq")
_LAYER = re.compile(r"model\.layers\.([0-9]{1,10})\.(.+)")


class Fault(NamedTuple):
    """Why the directory cannot be loaded: a tensor, and a sentence that names it and its file."""

    kind: Literal["missing", "unexpected", "wrong"]
    name: str
    text: str


@dataclass(frozen=True)
class Contents:
    """A directory's configuration and its tensors' headers.

    config: as stated, but without MTP modules where the files hold none. headers: tensor → the file
    that holds it. notices: one-line sentences for the user.
    """

    folder: Path
    config: DeepSeekV3Config
    headers: dict[str, Header]
    notices: list[str]

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and place of a tensor."""
        return self.headers[name].entries[name]

    def dtype(self, name: str) -> str:
        """A tensor's dtype by its safetensors code, such as "BF16"."""
        return CODES[self.info(name).dtype.name]

    def faults(self) -> Iterator[Fault]:
        """Everything in which the tensors differ from what the configuration wants; lazily."""
        rest = dict.fromkeys(self.headers)
        for name, shape in tensor_shapes(self.config):
            if name not in rest:
                text = f"{self.folder}: tensor {name} of shape {shape} is missing"
                yield Fault("missing", name, text)
                continue
            del rest[name]
            yield from self._check(name, shape, PLAIN + (FP8,) * is_quantised(name))
            if self.dtype(name) == FP8 and is_quantised(name):
                rest.pop(name + "_scale_inv", None)
                yield from self._check_scales(name)
        for name in rest:
            original = original_of(name, self.config)
            if original in self.headers:
                yield from self._check(name, self.info(original).shape, PLAIN)
            elif original is None and not _ROTARY.fullmatch(name):
                text = f"{self._where(name)} is not part of the model that config.json describes"
                yield Fault("unexpected", name, text)

    def _check(self, name: str, shape: Shape, codes: tuple[str, ...]) -> Iterator[Fault]:
        found, code = self.info(name).shape, self.dtype(name)
        if found != shape:
            text = f"{self._where(name)} has shape {found}, config.json wants {shape}"
            yield Fault("wrong", name, text)
        if code not in codes:
            text = f"{self._where(name)} is stored as {code}, expected {' or '.join(codes)}"
            yield Fault("wrong", name, text)

    def _check_scales(self, name: str) -> Iterator[Fault]:
        """Of an FP8 weight: there, float32, one for each block of the weight's shape."""
        if self.config.quantization_config is None:
            text = f"{self._where(name)} is FP8, but config.json has no quantization_config"
            yield Fault("wrong", name, text)
        scales = name + "_scale_inv"
        if scales in self.headers:
            yield from self._check(scales, scale_shape(self.info(name).shape), ("F32",))
        else:
            text = f"{self._where(name)} is FP8, but its scales {scales} are missing"
            yield Fault("missing", scales, text)

    def _where(self, name: str) -> str:
        return f"{self.headers[name].path}: tensor {name!r:.200}"


def model_directory(directory: str | os.PathLike) -> Path:
    """The directory, if it holds a config.json; else CheckpointError, with a guess of what was
    meant: the run that trained a model keeps it one level down. What a killed save left is put
    right before."""
    say(recover_directory(directory))
    folder = Path(directory)
    if not os.path.isdir(folder):
        raise CheckpointError(f"{folder} is not a directory")
    if os.path.lexists(folder / "config.json"):
        return folder
    inner = folder / "model"
    hint = f"; did you mean {inner}?" if os.path.isfile(inner / "config.json") else ""
    raise CheckpointError(f"{folder} is not a model directory (no config.json){hint}")


def read_contents(directory: str | os.PathLike) -> Contents:
    """Read config.json, the index if there is one, and every header.

    Raises CheckpointError, naming the file, for a file that is missing or broken, a configuration
    of another architecture, an index that does not say what the files hold, or a name in it that
    leaves the directory. What the tensors are is then for `Contents.faults` to say.
    """
    restored = recover_directory(directory)
    try:
        folder = model_directory(directory)
    except CheckpointError:
        say(restored)
        raise
    config = DeepSeekV3Config.from_json(folder / "config.json")
    wanted = checkpoint_size(config)[0]
    if wanted > MAX_TENSORS:
        raise CheckpointError(
            f"{folder / 'config.json'} describes a model of {wanted:,} tensors; "
            f"at most {MAX_TENSORS:,} are read"
        )
    headers = _headers(folder)
    notices = [restored] if restored else []
    layers = (_LAYER.fullmatch(name) for name in headers)
    stated = config.num_nextn_predict_layers
    if stated and not any(m and int(m[1]) >= config.num_hidden_layers for m in layers):
        config = replace(config, num_nextn_predict_layers=0)
        notices.append(f"{folder}: config.json says num_nextn_predict_layers = {stated}, but the "
                       "files hold no MTP layer; the model is read without")
    return Contents(folder, config, headers, notices)


def original_of(name: str, config: DeepSeekV3Config) -> str | None:
    """The tensor that `name` is a copy of, by its place in the model; None for no copy."""
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    if name == "lm_head.weight" != head:
        return head
    match, first = _LAYER.fullmatch(name), config.num_hidden_layers
    if not match or not 0 <= int(match[1]) - first < config.num_nextn_predict_layers:
        return None
    copies = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": head}
    return copies.get(match[2])


def _headers(folder: Path) -> dict[str, Header]:
    """Tensor → the header of the file that holds it."""
    single, index = folder / SINGLE, folder / INDEX
    if os.path.lexists(index) and os.path.lexists(single):
        raise CheckpointError(f"{folder} holds both {SINGLE} and {INDEX}; expected one of them")
    if os.path.lexists(index):
        return _sharded(folder, _weight_map(index))
    if os.path.lexists(single):
        header = read_header(single)
        return dict.fromkeys(header.entries, header)
    raise CheckpointError(f"{folder} holds neither {SINGLE} nor {INDEX}")


def _weight_map(path: Path) -> dict[str, str]:
    """The index's map, tensor → file, each a plain name."""
    index: Any = read_json(path, MAX_INDEX_BYTES)
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{path}: expected an object with a weight_map, tensor → file")
    for name, file in where.items():
        if not isinstance(file, str) or not _FILE_NAME.fullmatch(file):
            raise CheckpointError(
                f"{path}: tensor {name!r:.200} is said to be in {shown(file)}; "
                "expected the plain name of a .safetensors file in the same directory"
            )
    return where


def _sharded(folder: Path, where: dict[str, str]) -> dict[str, Header]:
    """The headers of all files, which hold what the index says and nothing else."""
    names: dict[str, set[str]] = defaultdict(set)
    for name, file in where.items():
        names[file].add(name)
    absent = sorted(file for file in names if not os.path.exists(folder / file))
    if absent:
        shown_files = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
        raise CheckpointError(
            f"{folder}: {len(absent)} of the {len(names)} files that {INDEX} names are missing: "
            f"{shown_files}"
        )
    headers: dict[str, Header] = {}
    for file, said in names.items():
        header = read_header(folder / file)
        for name in sorted(said - header.entries.keys()):
            raise CheckpointError(f"{header.path} has no tensor {name!r:.200}; {INDEX} says it has")
        for name in sorted(header.entries.keys() - said):
            elsewhere = f"puts it in {where[name]}" if name in where else "does not name it"
            raise CheckpointError(
                f"{header.path} holds tensor {name!r:.200}, but {INDEX} {elsewhere}"
            )
        headers |= dict.fromkeys(header.entries, header)
    return headers
