"""safetensors files: valid ones with a lie in them, whole ones from the grammar, and the oracle."""

import functools
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors

from minideepseek.errors import MiniDeepSeekError
from minideepseek.model.safetensors import CODES, load_file, open_tensor, read_header
from tests.hostile import strict
from tests.hostile.cases import Case, Files, Wrong, change_bytes
from tests.hostile.json_changes import NUMBERS, RAW, TEXTS, any_value, change_json, write_json

NAME = "x.safetensors"
WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
STRANGE_DTYPES = ("F4", "C64", "F6_E2M3", "f32", "bf16", "float32", "object", "O", "|O8", "", "V8")
LENGTHS = (0, 1, 2, 7, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**8, 10**8 + 1)


def encode(header: Any, data: bytes, pad: int = 0) -> bytes:
    """A file of this header (bytes, or JSON to be) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def meaning(rng: random.Random, key: Any) -> Any:
    """A value that means something under a key of a header."""
    if key == "dtype":
        return rng.choice((*WIDTHS, *STRANGE_DTYPES))
    if key == "shape":
        return rng.choice((
            [], [0], [1], [-1], [2**63], [2**32, 2**32], [0, 2**62], [0, 2**32, 2**31], [1] * 64,
            [1] * 65, [[1]], [1.0], [True], ["1"], [None], 4, [10**400], [-1, -1], [2, 2, 1],
            [10**12], [2**31, 2**31, 4],
        ))  # fmt: skip
    if key == "data_offsets":
        low = rng.choice((0, 1, 2, 4, 8, 16, 2**63, 2**64, -1, -4, 1.0, True, 10**400))
        return rng.choice(([low, 8], [0, low], [low, low], [low], [0, 4, 8], [8, 0], [low, 2**63]))
    return rng.choice((*NUMBERS, *TEXTS))


def make(rng: random.Random, base: Files) -> Case:
    """One file: changed bytes, a changed header, a lie about lengths, or from the grammar."""
    data, how = base[NAME], rng.random()
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    if how < 0.2:
        data, note = change_bytes(rng, data)
        return Case({NAME: data}, note)
    if how < 0.4:
        kind = rng.choice(tuple(LIES))
        return Case({NAME: lie(rng, header, rest, kind)}, f"lie: {kind}")
    if how < 0.6:
        header, note, _ = change_json(rng, header, meaning)
        if rng.random() < 0.2:
            rest, more = change_bytes(rng, rest)
            note += f"; data: {more}"
        return Case({NAME: encode(header, rest, rng.choice((0, 0, 1, 7)))}, note)
    if how < 0.67:
        claim = rng.choice((*LENGTHS, length + rng.randrange(-9, 10), len(data) - 8, len(data) - 7))
        return Case({NAME: struct.pack("<Q", claim % 2**64) + data[8:]}, f"header claims {claim}")
    if how < 0.72:
        odd = rng.choice((b" ", b"\n", b"\0", b"\t", b"\xef\xbb\xbf", b"{}", b"//"))
        header = odd + header if rng.random() < 0.5 else header + odd
        return Case({NAME: encode(header, rest)}, f"{odd!r} beside the header")
    if how < 0.77:
        text = rng.choice((write_json(rng), rng.choice(RAW))).encode("utf-8", "surrogatepass")
        return Case({NAME: encode(text, rest)}, "a header of any JSON")
    return _generated(rng)


def lie(rng: random.Random, header: bytes, data: bytes, kind: str) -> bytes:
    """A file of which one or two entries say something untrue, and all else fits."""
    entries = json.loads(header)
    order = sorted((n for n in entries if n != "__metadata__"),
                   key=lambda n: entries[n]["data_offsets"])  # fmt: skip
    at = rng.randrange(len(order))
    entry = entries[order[at]]
    start, stop = entry["data_offsets"]
    LIES[kind](entry, start, stop)
    if kind == "overlap" and at:  # the rest moves down, so that the end is the end again
        by = rng.randrange(1, min(start, stop - start) + 1)
        for name in order[at:]:
            entries[name]["data_offsets"] = [n - by for n in entries[name]["data_offsets"]]
        data = data[:-by]
    elif kind == "nothing where something is":
        entry |= {"shape": [0], "data_offsets": [start, start]}
        entries["twin"] = {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        entries["third"] = {"dtype": "U8", "shape": [0], "data_offsets": [(start + stop) // 2] * 2}
    elif kind.startswith("no elements"):
        entries["twin"] = {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
    elif kind == "the same bytes twice":
        entries["twin"] = dict(entry)
    elif kind == "bits":
        data = data[:start] + bytes(rng.choice((0, 1, 2, 255)) for _ in range(stop - start)) \
            + data[stop:]  # fmt: skip
    return encode(entries, data)


LIES: dict[str, Callable[[dict[str, Any], int, int], Any]] = {
    "overlap": lambda entry, start, stop: None,
    "nothing where something is": lambda entry, start, stop: None,
    "the same bytes twice": lambda entry, start, stop: None,
    "bits": lambda entry, start, stop: entry.update(dtype="BOOL", shape=[stop - start]),
    "bytes of other numbers": lambda entry, start, stop: entry.update(
        dtype="U8", shape=[stop - start]),
    "negative sizes": lambda entry, start, stop: entry.update(
        dtype="U8", shape=[-1, start - stop]),
    "negative places": lambda entry, start, stop: entry.update(data_offsets=[start - stop, 0]),
    "backwards": lambda entry, start, stop: entry.update(
        dtype="U8", shape=[start - stop], data_offsets=[stop, start]),
    "true for one": lambda entry, start, stop: entry["shape"].append(True),
    "one for a whole": lambda entry, start, stop: entry["shape"].append(1.0),
    "64 dimensions": lambda entry, start, stop: entry.update(
        dtype="U8", shape=[1] * 63 + [stop - start]),
    "65 dimensions": lambda entry, start, stop: entry.update(
        dtype="U8", shape=[1] * 64 + [stop - start]),
    "no elements, too large": lambda entry, start, stop: entry.update(
        shape=[0, 2**62], data_offsets=[start, start]),
    "no elements, too large in factors": lambda entry, start, stop: entry.update(
        shape=[2**32, 0, 2**31], data_offsets=[start, start]),
    "too large in factors": lambda entry, start, stop: entry.update(
        dtype="U8", shape=[2**32, 2**32], data_offsets=[start, start]),
    "beyond the end": lambda entry, start, stop: entry.update(
        dtype="U8", shape=[2**50], data_offsets=[start, start + 2**50]),
    "one element more": lambda entry, start, stop: entry["shape"].append(2),
    "a place more": lambda entry, start, stop: entry["data_offsets"].append(stop),
    "a key more": lambda entry, start, stop: entry.update(more=1),
}  # fmt: skip


@functools.cache
def every_dtype() -> Files:
    """A file of two numbers of each dtype."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for i, (code, width) in enumerate(WIDTHS.items()):
        end = len(data) + 2 * width
        header[f"t{i}"] = {"dtype": code, "shape": [2, 1], "data_offsets": [len(data), end]}
        data += bytes([1]) * 2 * width
    return {NAME: encode(header, data)}


def _generated(rng: random.Random) -> Case:
    """A whole file from the grammar: true, or with one wrong number in one entry."""
    header: dict[str, Any] = {}
    if rng.random() < 0.3:
        some = ({"format": "pt"}, {}, {"a": "ä"}, {"a": any_value(rng)})
        header["__metadata__"] = rng.choice(some)
    data, names = b"", [rng.choice((*TEXTS[:12], "w", "model.b")) + str(i) for i in range(4)]
    for name in names[: rng.randrange(5)]:
        code = rng.choice(tuple(WIDTHS))
        shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
        count = WIDTHS[code]
        for n in shape:
            count *= n
        place = [len(data), len(data) + count]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": place}
        bits = code == "BOOL" and rng.random() < 0.9
        data += bytes(rng.randrange(2) for _ in range(count)) if bits else rng.randbytes(count)
    note = f"from the grammar, {len(header)} entries"
    tensors = [name for name in header if name != "__metadata__"]
    if tensors and rng.random() < 0.5:
        entry = header[rng.choice(tensors)]
        key = rng.choice(("shape", "data_offsets", "dtype"))
        if key == "dtype" or rng.random() < 0.3 or not entry[key]:
            entry[key] = meaning(rng, key)
        else:
            at = rng.randrange(len(entry[key]))
            near = entry[key][at] + rng.randrange(-4, 5)
            entry[key][at] = rng.choice((near, rng.choice(NUMBERS)))
        note += f"; wrong {key}"
    elif len(tensors) > 1 and rng.random() < 0.3:
        a, b = rng.sample(tensors, 2)
        header[a]["data_offsets"], header[b]["data_offsets"] = (
            header[b]["data_offsets"], header[a]["data_offsets"]
        )  # fmt: skip
        note += "; offsets swapped"
    items = list(header.items())
    rng.shuffle(items)
    return Case({NAME: encode(dict(items), data, -len(data) % 8)}, note)


def read(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """All tensors, read in both ways that there are."""
    path = folder / NAME
    header, loaded = read_header(path), load_file(path)
    found = {}
    for name, array in loaded.items():
        alone = open_tensor(header, name)
        if alone.tobytes() != array.tobytes() or (alone.dtype, alone.shape) != (
            array.dtype, array.shape
        ):  # fmt: skip
            raise Wrong(f"{name!r}: open_tensor and load_file differ")
        if array.flags.writeable:
            raise Wrong(f"{name!r} can be written to")
        found[name] = (CODES[array.dtype.name], list(array.shape), array.tobytes())
    return found


def reference(data: bytes) -> dict[str, tuple[str, list[int], bytes]] | None:
    """What the safetensors library reads; None where it refuses."""
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {n: (i["dtype"], list(i["shape"]), bytes(i["data"])) for n, i in found}


# Where this package refuses what version 0.8 of the library reads, with the words that it uses.
STRICTER = (
    "a BOOL is neither 0 nor 1",
    "begin with {",  # white space around the header
    "appears twice",
    "holds a name that is no valid text",
    "__metadata__ is not a map",
    "expected dtype, shape and data_offsets",  # keys beside those three
    "unknown dtype",  # F4, F6, C64: NumPy has none
    "is no shape",  # more than 64 dimensions
    "is too large for any array",  # [0, 2⁶²] has no bytes and no place in NumPy
)


def judge(folder: Path, contents: dict[str, bytes | None], outcome: Any) -> None:
    """Every byte as the library reads it; refused only what it refuses, or for a reason listed."""
    data = contents.get(NAME)
    wanted = None if data is None else reference(data)
    if isinstance(outcome, MiniDeepSeekError):
        if wanted is not None and not any(words in str(outcome) for words in STRICTER):
            raise Wrong(f"refused what the library reads: {outcome}")
    elif wanted is None:
        raise Wrong("accepted what the library refuses")
    elif outcome != wanted:
        raise Wrong(f"tensors differ: {outcome!r:.200}, the library {wanted!r:.200}")
    else:
        _judge_strictly(data or b"", outcome)


def _judge_strictly(data: bytes, outcome: dict[str, tuple[str, list[int], bytes]]) -> None:
    """The rules of STRICTER, of a file that was accepted."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = strict.parse(data[8 : 8 + length])
    except strict.NotStrict:
        raise Wrong("accepted a header that is no strict JSON") from None
    if data[8:9] != b"{" or not data[8 : 8 + length].rstrip(b" ").endswith(b"}"):
        raise Wrong("accepted white space around the header")
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise Wrong(f"accepted metadata {metadata!r:.100}")
    if any(entry.keys() != {"dtype", "shape", "data_offsets"} for entry in header.values()):
        raise Wrong("accepted an entry with more than dtype, shape and data_offsets")
    if any(code == "BOOL" and raw.strip(b"\0\1") for code, _, raw in outcome.values()):
        raise Wrong("accepted a BOOL that is neither 0 nor 1")
