r"""safetensors: a model's tensors in one file that cannot run code

Until 2022 weights were passed around as pickles, and loading a pickle runs whatever program its
author put in. This format has nothing to run: a table of contents and the numbers.

    bytes 0 … 8            N, the length of the header: an unsigned little-endian 64-bit integer
    bytes 8 … 8+N          the header: JSON in UTF-8, begins with `{`, padded with spaces
    bytes 8+N … the end    the data: each tensor's elements, row-major, little-endian

A file with one tensor W = [[1, 2]] in bfloat16, whose 1 is 3F80₁₆ and 2 is 4000₁₆ (76 bytes):

    40 00 00 00 00 00 00 00                                              N = 64
    {"W":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}            and 7 spaces
    80 3F 00 40

Offsets count from the start of the data. The key `__metadata__` is not a tensor but a map from
strings to strings; Hugging Face's loaders want `{"format": "pt"}` there.

**Reading is looking.** The data are the memory of an array, byte for byte, so nothing is parsed:
the file is *mapped* (mmap), an array is a typed window onto it, and the kernel fetches a page when
somebody looks at it. Listing the tensors of a 163-file model reads 163 headers and no weights.

**Being strict.** A file comes from strangers, and every number in its header is a claim. Each rule
here closes a door; the format's own description states most of them:

    N is at most 100 MB and inside the file       N = 2⁶³ must not become an allocation
    a limit on the number of JSON values          `[[],[],[],…` takes 24 × its length when parsed
    no name twice                                 two readers would see two different models
    dtype × shape = stop − start                  reading past the end; reinterpreting a neighbour
    the tensors tile the data: no hole, no        bytes nobody checks can hide a second file,
      overlap, nothing before or after              overlaps a file that grows when it is loaded
    BOOL bytes are 0 or 1                         NumPy computes nonsense with a bool of value 2

**Order.** The writer puts wide elements first, then sorts by name, as the reference library does.
With N padded to a multiple of 8 each tensor then starts at a multiple of its element's size, so
that every window is aligned. The reader does not count on it; unaligned windows work, slower.

Source: "Format" in the README of huggingface/safetensors; limits and order of its version 0.8.
"""

import json
import math
import mmap
import os
import reprlib
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  gives NumPy the names bfloat16 and float8_*
import numpy as np

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.files import atomic_write

MAX_HEADER_BYTES = 100_000_000  # the reference library's limit
MAX_JSON_VALUES = 4_000_000  # DeepSeek-V3's 91,991 tensors in one file would need 1.2 million

# From wide to narrow: the order of writing.
DTYPES: dict[str, np.dtype] = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in (
        *(("U64", "uint64"), ("I64", "int64"), ("F64", "float64")),
        *(("F32", "float32"), ("U32", "uint32"), ("I32", "int32")),
        *(("BF16", "bfloat16"), ("F16", "float16"), ("U16", "uint16"), ("I16", "int16")),
        *(("F8_E8M0", "float8_e8m0fnu"), ("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")),
        *(("I8", "int8"), ("U8", "uint8"), ("BOOL", "bool")),
    )
}
CODES: dict[str, str] = {dtype.name: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of a tensor; its bytes are start … stop of the data."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A checked header: every tensor in it can be read. `entries` are in the header's order."""

    path: Path
    entries: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_offset: int  # where the data begin in the file
    identity: tuple[int, ...]  # of the very file that was checked; see `_map`


# ---------------------------------------------------------------------------------------- writing


def save_file(
    tensors: Mapping[str, np.ndarray],
    path: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write host arrays of any shape and contiguity, atomically (see files.py).

    At most one tensor is copied at a time, and only if its memory is not already what the file
    wants. Each is looked up twice, so a mapping may make its arrays on demand (fetch them from a
    device, quantise them) and never has two alive. Raises InputError for an argument that the
    format cannot hold, before anything is written; CheckpointError where the system refuses.
    """
    entries = _layout(tensors)
    header = _encode_header(entries, metadata)
    with atomic_write(path) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for name, info in entries.items():
            file.write(_data(name, tensors[name], info))


def _layout(tensors: Mapping[str, np.ndarray]) -> dict[str, TensorInfo]:
    """Names → places, in the order of writing; refuses what cannot be written."""
    found = {name: _describe(name, tensors[name]) for name in tensors}
    rank = list(DTYPES.values()).index
    entries, start = {}, 0
    for name in sorted(found, key=lambda name: (rank(found[name][0]), name)):
        dtype, shape = found[name]
        stop = start + math.prod(shape) * dtype.itemsize
        entries[name] = TensorInfo(dtype, shape, start, stop)
        start = stop
    return entries


def _describe(name: str, array: np.ndarray) -> tuple[np.dtype, tuple[int, ...]]:
    if not _is_text(name) or name == "__metadata__":
        raise InputError(f"{name!r:.200} cannot be the name of a tensor")
    if not isinstance(array, np.ndarray):
        raise InputError(f"tensor {name!r:.200}: expected a NumPy array, got {type(array)}")
    if array.dtype.name not in CODES:
        raise InputError(
            f"tensor {name!r:.200}: safetensors has no dtype for {array.dtype}, "
            f"only for {', '.join(CODES)}"
        )
    return DTYPES[CODES[array.dtype.name]], array.shape


def _data(name: str, array: np.ndarray, info: TensorInfo) -> memoryview:
    """The bytes of an array as the file wants them; its own memory if it is so already."""
    if _describe(name, array) != (info.dtype, info.shape):
        raise InputError(f"tensor {name!r:.200} changed while it was being saved")
    return np.ascontiguousarray(array, dtype=info.dtype).reshape(-1).view(np.uint8).data


def _encode_header(entries: dict[str, TensorInfo], metadata: Mapping[str, str] | None) -> bytes:
    document: dict[str, Any] = {}
    if metadata is not None:
        if not all(_is_text(text) for item in metadata.items() for text in item):
            raise InputError(f"metadata: expected strings, got {reprlib.repr(dict(metadata))}")
        document["__metadata__"] = dict(metadata)
    for name, info in entries.items():
        document[name] = {
            "dtype": CODES[info.dtype.name],
            "shape": info.shape,
            "data_offsets": (info.start, info.stop),
        }
    header = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER_BYTES or _count_values(header) > MAX_JSON_VALUES:
        raise InputError(f"{len(entries)} tensors are too many for one file; write several")
    return header


# ---------------------------------------------------------------------------------------- reading


def read_header(path: str | os.PathLike) -> Header:
    """Read and check the header alone; no weight is touched, however large the file.

    Raises CheckpointError, naming the file and where possible the tensor, for anything that is not
    exactly a safetensors file. Needs memory for the header only.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            raise CheckpointError(f"{path} is not a regular file")
        with open(path, "rb") as file:
            identity = _identity(file.fileno())
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path}: a file of {size} bytes whose header claims {length} "
                    f"(at most {MAX_HEADER_BYTES}) is truncated or no safetensors file"
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    document = _parse_json(path, raw)
    metadata = document.pop("__metadata__", {})
    if type(metadata) is not dict or not all(map(_is_text, metadata.values())):
        raise CheckpointError(f"{path}: __metadata__ is not a map from strings to strings")
    entries = {name: _check_entry(path, name, entry) for name, entry in document.items()}
    _check_tiling(path, entries, size - 8 - length)
    return Header(path, entries, metadata, 8 + length, identity)


def load_file(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors as read-only windows onto the mapped file: nothing is copied, little is read.

    The windows keep the file's contents alive, also after `save_file` has put another file in its
    place. Raises CheckpointError as `read_header` does.
    """
    header = read_header(path)
    end = max((info.stop for info in header.entries.values()), default=0)
    data = _map(header, 0, end)
    return {
        name: _window(header, name, data[info.start : info.stop])
        for name, info in header.entries.items()
    }


def open_tensor(header: Header, name: str) -> np.ndarray:
    """One tensor as a read-only window with a mapping of its own.

    Pages that were looked at stay in memory as long as their mapping. To load a model with no more
    memory than the model and one tensor, open, copy and drop one after the other.
    """
    if name not in header.entries:
        raise CheckpointError(f"{header.path} has no tensor {name!r:.200}")
    info = header.entries[name]
    return _window(header, name, _map(header, info.start, info.stop))


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    if _count_values(raw) > MAX_JSON_VALUES:
        raise CheckpointError(f"{path}: the header has over {MAX_JSON_VALUES} values")
    try:
        text = raw.decode("utf-8").rstrip(" ")
        if not (text.startswith("{") and text.endswith("}")):
            raise ValueError("it must begin with { and end with } and spaces")
        return json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is no valid JSON: {error}") from None


def _integer(text: str) -> int | float:
    return -0.0 if text == "-0" else int(text)  # no size to the reference library either


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict; JSON itself would allow a name twice, and half a surrogate pair."""
    names = dict(pairs)
    if len(names) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r:.200} appears twice")
    if not all(map(_is_text, names)):
        raise ValueError("a name that is no valid text")
    return names


def _check_entry(path: Path, name: str, entry: Any) -> TensorInfo:
    """One tensor's claims, checked against each other."""
    where = f"{path}, tensor {name!r:.200}"
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{where}: expected dtype, shape and data_offsets, got {reprlib.repr(entry)}"
        )
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(code) is not str or code not in DTYPES:
        raise CheckpointError(f"{where}: unknown dtype {reprlib.repr(code)}")
    dtype = DTYPES[code]
    if not _are_sizes(shape) or len(shape) > 64:  # NumPy's limit
        raise CheckpointError(f"{where}: {reprlib.repr(shape)} is no shape")
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**63:  # [0, 2⁶²] has no bytes
        raise CheckpointError(f"{where}: shape {reprlib.repr(shape)} is too large for any array")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{where}: {reprlib.repr(offsets)} are no data_offsets")
    start, stop = offsets
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{where}: {code} of shape {shape} takes {math.prod(shape) * dtype.itemsize} bytes, "
            f"its data_offsets {offsets} give it {stop - start}"
        )
    return TensorInfo(dtype, tuple(shape), start, stop)


def _check_tiling(path: Path, entries: dict[str, TensorInfo], size: int) -> None:
    """The tensors, one after the other, are the data: nothing between them, nothing else."""
    position, last = 0, "none"
    for name, info in sorted(entries.items(), key=lambda entry: (entry[1].start, entry[1].stop)):
        if info.start != position:
            raise CheckpointError(
                f"{path}, tensor {name!r:.200}: begins at byte {info.start} of the data, but what "
                f"is before it ends at {position}: {'hole' if info.start > position else 'overlap'}"
            )
        position, last = info.stop, name
    if position != size:
        raise CheckpointError(
            f"{path}: the last tensor, {last!r:.200}, ends at byte {position} of the data, the "
            f"file at {size}: {'truncated' if size < position else 'trailing bytes'}"
        )


def _map(header: Header, start: int, stop: int) -> np.ndarray:
    """Bytes start … stop of the data, read-only; the kernel reads a page when it is looked at."""
    if start == stop:
        return np.frombuffer(b"", np.uint8)  # mmap cannot map nothing
    begin = header.data_offset + start
    skip = begin % mmap.ALLOCATIONGRANULARITY  # a mapping begins where a page does
    try:
        with open(header.path, "rb") as file:
            # Another file may have the name by now. Its bytes would pass for this one's tensors.
            if _identity(file.fileno()) != header.identity:
                raise CheckpointError(f"{header.path} has changed since its header was read")
            pages = mmap.mmap(
                file.fileno(), skip + stop - start, access=mmap.ACCESS_READ, offset=begin - skip
            )
    except OSError as error:
        raise CheckpointError(f"cannot read {header.path}: {error.strerror or error}") from error
    return np.frombuffer(pages, np.uint8)[skip:]


def _window(header: Header, name: str, data: np.ndarray) -> np.ndarray:
    info = header.entries[name]
    if info.dtype == bool and data.size and data.max() > 1:
        raise CheckpointError(f"{header.path}, tensor {name!r:.200}: a BOOL is neither 0 nor 1")
    return data.view(info.dtype).reshape(info.shape)


def _identity(descriptor: int) -> tuple[int, ...]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _count_values(header: bytes) -> int:
    """At least the number of JSON values in it: each but the first follows one of these bytes."""
    return sum(map(header.count, (b"[", b"{", b",", b":")))


def _are_sizes(values: Any) -> bool:
    """A list of integers in 0 … 2⁶³−1; neither True nor 1.0 is one."""
    return type(values) is list and all(type(n) is int and 0 <= n < 2**63 for n in values)


def _is_text(value: Any) -> bool:
    """A string with a UTF-8 form; half of a surrogate pair has none."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
