"""safetensors: every bit there and back, with the reference library as oracle."""

import os
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import CheckpointError
from minideepseek.model.safetensors import (
    DTYPES,
    load_file,
    open_tensor,
    read_header,
    save_file,
)
from tests.model.tables import EXAMPLE, encode, entry, memory_below, random_bits
from tests.platforms import renames_open_files

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


@renames_open_files
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
