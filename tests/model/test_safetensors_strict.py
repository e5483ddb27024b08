"""safetensors: no lie of a file is believed, and no random change of one either."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.safetensors import (
    DTYPES,
    load_file,
    open_tensor,
    read_header,
    save_file,
)
from tests.model.tables import EXAMPLE, encode, entry, memory_below, random_bits


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """These tests are not about power cuts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One file for all examples of a property: each writes it anew."""
    return tmp_path_factory.mktemp("safetensors") / "x.safetensors"


TWO = b"ab"
LIES = {
    "length 2⁶³": (struct.pack("<Q", 2**63) + EXAMPLE[8:], "claims 9223372036854775808"),
    "length beyond the end": (struct.pack("<Q", 69) + EXAMPLE[8:], "truncated"),
    "length 0": (bytes(8) + EXAMPLE[8:], "JSON"),
    "no length": (EXAMPLE[:7], "7 bytes"),
    "empty": (b"", "0 bytes"),
    "a pickle": (b"\x80\x04\x95" + b"." * 20, "no safetensors file"),
    "last byte missing": (EXAMPLE[:-1], "'W', ends at byte 4 of the data, the file at 3: trunc"),
    "a byte more": (EXAMPLE + b"\0", "'W'.*trailing bytes"),
    "not UTF-8": (encode(b'{"\xff":1}'), "JSON.*utf-8"),
    "not JSON": (encode(b'{"a":}'), "no valid JSON"),
    "two objects": (encode(b"{}{}"), "no valid JSON"),
    "an array": (encode(b"[]"), "begin with {"),
    "a space first": (encode(b" {}"), "begin with {"),
    "a newline last": (encode(b"{}\n"), "end with }"),
    "byte order mark": (encode(b"\xef\xbb\xbf{}"), "begin with {"),
    "control character": (encode(b'{"a\n":1}'), "no valid JSON"),
    "half a surrogate pair": (encode(b'{"\\ud800":1}'), "no valid text"),
    "deep nesting": (encode(b'{"a":' + b"[" * 200000 + b"]" * 200000 + b"}"), "recursion"),
    "many values": (encode(b'{"a":[' + b"{}," * 2_000_000 + b"{}]}"), "over 4000000 values"),
    "huge integer": (encode(b'{"a":' + b"9" * 5000 + b"}"), "no valid JSON"),
    "NaN": (encode(b'{"a":NaN}'), "'a': expected dtype, shape and data_offsets, got nan"),
    "name twice": (
        encode(b'{"a":%s,"b":1,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), TWO),
        "'a' appears twice",
    ),
    "key twice": (
        encode(b'{"a":{"dtype":"U8","dtype":"I8","shape":[2],"data_offsets":[0,2]}}', TWO),
        "'dtype' appears twice",
    ),
    "metadata twice": (encode(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' appears"),
    "metadata of numbers": (encode({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata nested": (encode({"__metadata__": {"a": {}}}), "__metadata__"),
    "metadata null": (encode({"__metadata__": None}), "__metadata__"),
    "metadata not text": (encode(b'{"__metadata__":{"a":"\\udfff"}}'), "__metadata__"),
    "no entry": (encode({"a": None}), "'a': expected dtype"),
    "a list for an entry": (encode({"a": ["U8", [2], [0, 2]]}, TWO), "'a': expected dtype"),
    "key missing": (encode({"a": {"dtype": "U8", "shape": []}}), "'a': expected dtype"),
    "key unknown": (encode({"a": entry(more=1)}, TWO), "'a': expected dtype"),
    "dtype unknown": (encode({"a": entry("F4")}, TWO), "'a': unknown dtype 'F4'"),
    "dtype in small letters": (encode({"a": entry("u8")}, TWO), "'a': unknown dtype"),
    "dtype a list": (encode({"a": entry(["U8"])}, TWO), "'a': unknown dtype"),
    "shape of bools": (encode({"a": entry(shape=[2, True])}, TWO), "'a': .* is no shape"),
    "shape of floats": (encode({"a": entry(shape=[2.0])}, TWO), "'a': .* is no shape"),
    "shape negative": (encode({"a": entry(shape=[-1, -2])}, TWO), "'a': .* is no shape"),
    "shape a number": (encode({"a": {**entry(), "shape": 2}}, TWO), "'a': 2 is no shape"),
    "65 dimensions": (encode({"a": entry(shape=[2] + [1] * 64)}, TWO), "'a': .* is no shape"),
    "size 2⁶³": (encode({"a": entry(shape=[2**63, 0])}, TWO), "'a': .* is no shape"),
    "size 2⁶⁴ in factors": (
        encode({"a": entry(shape=[2**32, 2**32], offsets=(0, 0))}),
        "'a': shape .* too large",
    ),
    "no elements, but too large": (
        encode({"a": entry(shape=[0, 2**32, 2**31], offsets=(0, 0))}),
        "'a': shape .* too large",
    ),
    "offsets of floats": (encode({"a": entry(offsets=(0, 2.0))}, TWO), "'a': .*data_offsets"),
    "offsets of infinity": (encode({"a": entry(offsets=(0, 1e999))}, TWO), "'a': .*data_offsets"),
    "offsets of bools": (encode({"a": entry(shape=[1], offsets=(False, True))}, b"a"), "'a'"),
    "offsets negative": (encode({"a": entry(offsets=(-2, 0))}, TWO), "'a': .*data_offsets"),
    "three offsets": (encode({"a": entry(offsets=(0, 2, 2))}, TWO), "'a': .*data_offsets"),
    "backwards": (encode({"a": entry(offsets=(2, 0))}, TWO), "'a': U8 of shape .* -2"),
    "too few bytes": (encode({"a": entry("F32")}, TWO), "'a': F32 of shape .2. takes 8 bytes"),
    "too many bytes": (encode({"a": entry(shape=[])}, TWO), "'a': U8 of shape .. takes 1 bytes"),
    "hole at the start": (encode({"a": entry(offsets=(1, 3))}, b"abc"), "'a': begins .* hole"),
    "hole": (
        encode({"a": entry(), "b": entry(offsets=(3, 5))}, b"abcde"),
        "'b': begins at byte 3 of the data, but what is before it ends at 2: hole",
    ),
    "overlap": (
        encode({"b": entry(offsets=(1, 3)), "a": entry()}, b"abc"),
        "'b': begins at byte 1 of the data, but what is before it ends at 2: overlap",
    ),
    "the same bytes twice": (encode({"a": entry(), "b": entry()}, TWO), "'b': .*overlap"),
    "a part of another": (
        encode({"a": entry(shape=[4], offsets=(0, 4)), "b": entry(offsets=(1, 3))}, b"abcd"),
        "'b': .*overlap",
    ),
    "empty inside another": (
        encode({"a": entry(), "z": entry(shape=[0], offsets=(1, 1))}, TWO),
        "'z': .*overlap",
    ),
    "beyond the end": (encode({"a": entry(shape=[2**40], offsets=(0, 2**40))}, TWO), "'a'.*trunc"),
    "data of nobody": (encode({}, TWO), "trailing bytes"),
    "bool of value 2": (encode({"a": entry("BOOL")}, b"\1\2"), "'a': a BOOL is neither 0 nor 1"),
    "very long name": (encode({"n" * 10**6: None}), "'n{190,}: expected dtype"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_with_the_name_of_the_tensor(path, lie):
    data, message = LIES[lie]
    path.write_bytes(data)
    with memory_below(4 * len(data) + 2**20):
        with pytest.raises(CheckpointError, match=message) as caught:
            load_file(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 800


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_what_is_not_a_regular_file(path):
    os.mkfifo(path.with_name("pipe"))
    for strange in ("/dev/zero", path.parent, path.with_name("pipe")):
        with pytest.raises(CheckpointError, match="not a regular file"):
            read_header(strange)
    with pytest.raises(CheckpointError, match="cannot read .*missing: No such file"):
        load_file(path.with_name("missing"))
    save_file({"a": np.ones(1)}, path)
    with pytest.raises(CheckpointError, match="has no tensor 'b'"):
        open_tensor(read_header(path), "b")


def test_what_the_writer_refuses_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"good": np.ones(1)}, path)

    class Fickle(dict):
        def __getitem__(self, name):
            self["n"] = super().__getitem__("n") + 1
            return np.ones(super().__getitem__("n"))

    for tensors, metadata, message in (
        ({"a": np.ones(1, complex)}, None, "'a': safetensors has no dtype for complex128"),
        ({"a": np.array([None])}, None, "'a': .* object"),
        ({"a": np.ones(1, [("x", "f4")])}, None, "'a'"),
        ({"a": np.ones(1, ml_dtypes.float8_e4m3)}, None, "'a': .* float8_e4m3,"),
        ({"a": [1.0]}, None, "'a': expected a NumPy array, got <class 'list'>"),
        ({"a": np.float32(1)}, None, "'a': expected a NumPy array"),
        ({1: np.ones(1)}, None, "1 cannot be the name"),
        ({"\ud800": np.ones(1)}, None, "cannot be the name"),
        ({"__metadata__": np.ones(1)}, None, "cannot be the name"),
        ({"a": np.ones(1)}, {"a": 1}, "metadata: expected strings"),
        ({"a": np.ones(1)}, {1: "a"}, "metadata: expected strings"),
        ({"a": np.ones(1)}, {"a": "," * 4_000_000}, "too many for one file"),
        (Fickle(n=1), None, "'n' changed"),
    ):
        with pytest.raises(InputError, match=message):
            save_file(tensors, path, metadata)
        np.testing.assert_array_equal(load_file(path)["good"], 1)
    with pytest.raises(CheckpointError, match="cannot write .*missing/x: No such file"):
        save_file({}, path.with_name("missing") / "x")


# ------------------------------------------------------------------------------------------ fuzz


def mutate(rng, data):
    """A file in which one to three things were changed: bytes, length, or the header's JSON."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        kind, at = rng.integers(6), int(rng.integers(len(data))) if data else 0
        if kind == 0:
            data = data[:at] + bytes([rng.integers(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data = data[:at] + rng.bytes(rng.integers(1, 9)) + data[at:]
        else:
            data = mutate_header(rng, data)
        if not data:
            break
    return data


def mutate_header(rng, data):
    """Change the JSON, innocently or one number, word or key of it; the length is kept right."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        name = str(rng.choice(sorted(header)))
        info = header[name]
        key = str(rng.choice(sorted(info)))
    except (ValueError, TypeError, AttributeError):
        return data
    if rng.random() < 0.5:
        if isinstance(info.get("shape"), list):
            info["shape"].insert(0, 1)
        return encode(dict(reversed(header.items())), data[8 + length :], b" " * rng.integers(4))
    numbers = (0, 1, 2, 3, 8, -1, 1.0, True, None, 2**63, 1e30, "1", [], {}, [0], [1, 2])
    new = numbers[rng.integers(len(numbers))]
    if isinstance(info[key], list) and info[key] and rng.random() < 0.8:
        slot, old = int(rng.integers(len(info[key]))), info[key]
        step = int(rng.integers(-2, 3))
        old[slot] = old[slot] + step if type(old[slot]) is int and rng.random() < 0.5 else new
        rng.random() < 0.2 and old.reverse()
    elif key == "dtype":
        info[key] = str(rng.choice([*DTYPES, "F4", "C64", ""]))
    else:
        info[key] = new
    if rng.random() < 0.2:
        info[str(rng.choice(["shape", "dtype", "extra"]))] = new
    if rng.random() < 0.2:
        header[str(rng.choice([*header, "z"]))] = header.pop(name)
    return encode(header, data[8 + length :])


def fuzz(path, seeds):
    """Whatever is accepted is what the JSON says, tiles the data, and is what the oracle reads."""
    try:
        import safetensors as oracle
    except ImportError:
        oracle = None
    accepted, loaded = 0, {}
    for seed in seeds:
        loaded.clear()  # Windows replaces no file that is mapped
        rng = np.random.default_rng(seed)
        codes = rng.choice(sorted(DTYPES), 3)
        shapes = [tuple(map(int, rng.integers(0, 13, rng.integers(3)))) for _ in codes]
        plan = zip("abc", codes, shapes, strict=True)
        tensors = {name: random_bits(rng, DTYPES[code], shape) for name, code, shape in plan}
        save_file(tensors, path, {"k": "v"} if rng.random() < 0.5 else None)
        data = rng.bytes(rng.integers(200)) if seed % 10 == 0 else mutate(rng, path.read_bytes())
        path.write_bytes(data)
        try:
            loaded = load_file(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            continue
        accepted += 1
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        assert set(loaded) == set(header)
        checked = read_header(path)
        for name, info in header.items():
            assert loaded[name].tobytes() == open_tensor(checked, name).tobytes()
            start, stop = info["data_offsets"]
            assert loaded[name].dtype == DTYPES[info["dtype"]]
            assert list(loaded[name].shape) == info["shape"]
            assert loaded[name].tobytes() == data[8 + length + start : 8 + length + stop]
        assert sum(array.nbytes for array in loaded.values()) == len(data) - 8 - length
        if oracle is not None:  # strict means: never accept what the reference refuses
            for name, info in oracle.deserialize(data):
                assert bytes(info["data"]) == loaded[name].tobytes()
    return accepted


def test_fuzz(path):
    assert 10 < fuzz(path, range(150)) < 100


@pytest.mark.slow
def test_fuzz_longer(path):
    assert 200 < fuzz(path, range(1000, 3000)) < 1500
