"""safetensors: every bit there and back, the reference library as oracle, and no lie believed."""

import contextlib
import json
import os
import struct
import tracemalloc
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import CheckpointError, InputError
from minideepseek.model.safetensors import (
    DTYPES,
    load_file,
    open_tensor,
    read_header,
    save_file,
)

EXAMPLE = (
    b"\x40\0\0\0\0\0\0\0"
    b'{"W":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}       '
    b"\x80\x3f\x00\x40"
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)


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


def random_bits(rng, dtype, shape):
    """Every bit pattern: NaN payloads, signalling NaNs, subnormals, both zeros."""
    high = 2 if dtype.kind == "b" else 256
    raw = rng.integers(0, high, (*shape, dtype.itemsize), dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def random_view(rng, array):
    """The same values behind other strides: transposed, reversed, every second, not aligned."""
    if array.ndim == 0 or rng.random() < 0.2:
        return array
    axes = rng.permutation(array.ndim)
    wide = np.empty([2 * array.shape[axis] for axis in axes], array.dtype)
    if rng.random() < 0.3:
        wide = np.empty(wide.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(wide.shape)
    strided = wide[tuple(slice(None, None, int(rng.choice([-2, 2]))) for _ in axes)]
    view = strided.transpose(np.argsort(axes))
    view.view(f"u{array.itemsize}")[...] = array.view(f"u{array.itemsize}")
    return view


@st.composite
def tensor_dicts(draw, names=NAMES):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
    kinds = st.tuples(st.sampled_from(sorted(DTYPES)), shapes)
    plan = draw(st.dictionaries(names, kinds, max_size=6))
    return {
        name: random_view(rng, random_bits(rng, DTYPES[code], shape))
        for name, (code, shape) in plan.items()
    }


def assert_same(found, expected):
    """Names, dtypes, shapes and every bit."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def encode(header, data=b"", pad=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text + pad)) + text + pad + data


@contextlib.contextmanager
def memory_below(limit):
    """The block's own peak of allocated bytes; mapped pages do not count."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


def entry(dtype="U8", shape=(2,), offsets=(0, 2), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


# ------------------------------------------------------------------------------- there and back


@given(tensors=tensor_dicts(), metadata=st.none() | st.dictionaries(NAMES, NAMES, max_size=3))
def test_round_trip_keeps_every_bit(path, tensors, metadata):
    save_file(tensors, path, metadata)
    loaded, header = load_file(path), read_header(path)
    assert_same(loaded, tensors)
    assert_same({name: open_tensor(header, name) for name in header.entries}, tensors)
    assert header.metadata == (metadata or {}) and list(loaded) == list(header.entries)
    assert header.data_offset % 8 == 0
    for array in loaded.values():
        assert not array.flags.writeable and array.flags.aligned and type(array) is np.ndarray
        with pytest.raises(ValueError):
            array.flags.writeable = True


@pytest.mark.parametrize("code", sorted(set(DTYPES) - {"BOOL"}))
def test_all_patterns_of_the_narrow_and_special_ones_of_the_wide(path, code):
    """Each 8- and 16-bit pattern; each exponent with quiet, signalling and empty mantissas."""
    bits = DTYPES[code].itemsize * 8
    if bits <= 16:
        patterns = np.arange(2**bits, dtype=f"u{bits // 8}")
    else:
        tops = np.arange(2**13, dtype=f"u{bits // 8}") << np.uint8(bits - 13)
        patterns = (tops[:, None] | np.array([0, 1, 2 ** (bits - 14)], tops.dtype)).ravel()
    array = patterns.view(DTYPES[code])
    save_file({"a": array, "b": array[::-3]}, path)
    loaded = load_file(path)
    np.testing.assert_array_equal(loaded["a"].view(patterns.dtype), patterns)
    np.testing.assert_array_equal(loaded["b"].view(patterns.dtype), patterns[::-3])


def test_the_docstring_s_example(path):
    save_file({"W": np.array([[1, 2]], ml_dtypes.bfloat16)}, path)
    assert path.read_bytes() == EXAMPLE
    info = read_header(path).entries["W"]
    assert (info.dtype, info.shape, info.start, info.stop) == ("bfloat16", (1, 2), 0, 4)


def test_windows_need_no_alignment(path):
    """Other writers do not pad their header; each dtype must work on odd addresses."""
    rng, unaligned = np.random.default_rng(0), set()
    for pad in range(8):
        header, data, expected = {}, b"", {}
        for code, dtype in reversed(DTYPES.items()):
            array = expected[code] = random_bits(rng, dtype, (3, 1))
            header[code] = entry(code, array.shape, (len(data), len(data) + array.nbytes))
            data += array.tobytes()
        path.write_bytes(encode(header, data, b" " * pad))
        loaded, checked = load_file(path), read_header(path)
        assert_same(loaded, expected)
        assert_same({code: open_tensor(checked, code) for code in DTYPES}, expected)
        unaligned |= {code for code, array in loaded.items() if not array.flags.aligned}
    assert unaligned == {code for code, dtype in DTYPES.items() if dtype.itemsize > 1}


def test_arithmetic_on_unaligned_windows(path):
    values = np.arange(1, 7).reshape(3, 2)
    for code, dtype in DTYPES.items():
        array = np.ones_like(values, dtype) if dtype.kind == "b" else (2.0**values).astype(dtype)
        path.write_bytes(encode({"a": entry(code, (3, 2), (0, array.nbytes))}, array.tobytes()))
        window = load_file(path)["a"]
        np.testing.assert_array_equal(window, array)
        np.testing.assert_array_equal(window.T @ window.copy(), array.T @ array)
        np.testing.assert_array_equal(window.astype(np.float32)[::-1], array.astype("f4")[::-1])
        copy = np.zeros_like(array)
        copy[...] = window
        np.testing.assert_array_equal(copy, array)


def test_big_endian_and_numpy_s_other_names(path):
    tensors = {"a": np.arange(5, dtype=">f4"), "b": np.arange(3, dtype=np.longlong)}
    save_file(tensors, path)
    loaded = load_file(path)
    np.testing.assert_array_equal(loaded["a"], np.arange(5, dtype=np.float32))
    np.testing.assert_array_equal(loaded["b"], np.arange(3))


def test_one_copy_at_a_time_and_none_when_loading(path):
    megabyte = 2**20
    made = []

    class OnDemand(dict):
        """Like weights fetched from a device: each look-up makes a new, non-contiguous array."""

        def __getitem__(self, name):
            made.append(name)
            return np.ones((1024, 4096), np.uint8).T

    with memory_below(9 * megabyte):  # one array and its copy: 8
        save_file(OnDemand.fromkeys("abcdefgh"), path)
    with memory_below(megabyte):
        loaded = load_file(path)
        assert open_tensor(read_header(path), "c").sum() == 4 * megabyte
    assert len(made) == 16 and all(array.shape == (4096, 1024) for array in loaded.values())


def test_header_of_a_huge_file_is_cheap(path):
    """A sparse file of 64 GiB: only the header is read."""
    size = 2**36
    with open(path, "wb") as file:
        file.write(encode({"a": entry("F32", (2**34,), (0, size))}))
        file.truncate(file.tell() + size)
    with memory_below(2**20):
        assert open_tensor(read_header(path), "a")[-1] == load_file(path)["a"][2**33] == 0
    path.unlink()


def test_views_outlive_the_file_s_replacement(path):
    save_file({"a": np.arange(4.0)}, path)
    old, header = load_file(path)["a"], read_header(path)
    save_file({"a": -old}, path)
    np.testing.assert_array_equal(old, np.arange(4.0))
    np.testing.assert_array_equal(load_file(path)["a"], -np.arange(4.0))
    with pytest.raises(CheckpointError, match="has changed since its header was read"):
        open_tensor(header, "a")
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot read .*No such file"):
        open_tensor(header, "a")


# ----------------------------------------------------------------------------------- the oracle


@given(tensors=tensor_dicts())
def test_the_reference_library_writes_the_same_bytes(path, tensors):
    """Byte for byte: order, header, padding. It saves non-contiguous arrays wrong: copies here."""
    numpy_library = pytest.importorskip("safetensors.numpy")
    save_file(tensors, path, {"format": "pt"})
    copies = {name: np.array(array, order="C") for name, array in tensors.items()}
    assert path.read_bytes() == numpy_library.save(copies, {"format": "pt"})
    assert_same(load_file(path), tensors)


@given(tensors=tensor_dicts())
def test_the_reference_library_reads_ours(path, tensors):
    """Through `deserialize`, which gives bytes: its NumPy front end has no float8."""
    library = pytest.importorskip("safetensors")
    save_file(tensors, path, {"a": "1", "b": "ü"})
    read = {name: SimpleNamespace(**info) for name, info in library.deserialize(path.read_bytes())}
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        assert DTYPES[read[name].dtype] == array.dtype and tuple(read[name].shape) == array.shape
        assert bytes(read[name].data) == array.tobytes()
    with library.safe_open(path, "numpy") as file:
        assert file.metadata() == {"a": "1", "b": "ü"} and set(file.keys()) == set(tensors)


# ------------------------------------------------------------------------------------- bad input

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


def test_what_the_writer_refuses_leaves_the_old_file(path):
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
    accepted = 0
    for seed in seeds:
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
