"""FP8 products by cuBLASLt, checked without a card: against a library of our own that does what it
is told, against the header's constants and NVIDIA's library where a machine has them."""

import ctypes
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd.engine import Parameter
from minideepseek.errors import InputError
from minideepseek.layers.fp8 import accumulation, cublaslt, hopper, linear, tiles
from minideepseek.layers.fp8.recipe import (
    ALONG_ROW,
    FINE_GRAINED,
    HIGH_PRECISION,
    PER_TENSOR,
    SQUARE,
    V3,
    Scheme,
)
from tests.layers.fp8.hopper_card import hopper_card
from tests.standin import cupy as xp

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
ROW, BLOCK = (1, 128), (128, 128)
U = 2.0**-24


@pytest.fixture
def fake():
    """As `hopper_card`, for one test."""
    with hopper_card() as library:
        yield library


def operand(rng, rows, k, block):
    """A quantised matrix of rows of very different sizes: (codes, scales)."""
    x = rng.standard_normal((rows, k)) * 10.0 ** rng.uniform(-2, 2, (rows, 1))
    return tiles.quantize(x.astype(np.float32), block)


def agree(got, a, scale_a, b, scale_b, block):
    """got = Â B̂ᵀ to float32's rounding of a sum that the fake does in float64."""
    left = tiles.dequantize(a, scale_a, ROW).astype(np.float64)
    right = tiles.dequantize(b, scale_b, block).astype(np.float64)
    bound = 4 * U * (np.abs(left) @ np.abs(right).T)
    assert got.shape == bound.shape and got.dtype == np.float32
    assert (np.abs(got - left @ right.T) <= bound).all()


SIDES = st.integers(1, 20).map(lambda n: 16 * n)


@needs_compiler
@settings(max_examples=25)
@given(m=st.integers(1, 70), n=SIDES, k=SIDES, block=st.sampled_from([ROW, BLOCK]),
       seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_it_is_the_scaled_product(m, n, k, block, seed):
    rng = np.random.default_rng(seed)
    a, b = operand(rng, m, k, ROW), operand(rng, n, k, block)
    with hopper_card():
        y = hopper.product(*map(xp.asarray, (*a, *b)), block).get()
    agree(y, *a, *b, block)
    emulated = accumulation.scaled_product(*a, *b, block)
    size = np.abs(tiles.dequantize(*a, ROW)) @ np.abs(tiles.dequantize(*b, block)).T
    assert (np.abs(y - emulated) <= (k + 8) * U * size).all()


@needs_compiler
def test_every_call_in_its_order(fake):
    rng = np.random.default_rng(0)
    cublaslt.handle.cache_clear()
    for _ in range(2):
        fake.fake_reset()
        a, b = operand(rng, 3, 160, ROW), operand(rng, 32, 160, BLOCK)
        hopper.product(*map(xp.asarray, (*a, *b)))
        calls = fake.fake_log().decode().split()
        made = [c for c in calls if c.endswith("Create") and c != "Create"]
        assert made == ["DescCreate", *["LayoutCreate"] * 3, "PreferenceCreate"]
        destroyed = [c.replace("Destroy", "Create") for c in calls if "Destroy" in c]
        assert destroyed == made[::-1]
        assert calls.count("DescSet") == 6 and calls.index("Heuristic") < calls.index("Matmul")
        first, cublas = calls.count("Create"), calls.index("Matmul")
        assert all("Destroy" not in c for c in calls[:cublas])
    assert first == 0  # one handle for all products


@needs_compiler
@pytest.mark.parametrize("name", [
    "Create", "DescCreate", "DescSet", "LayoutCreate", "PreferenceCreate", "PreferenceSet",
    "Heuristic", "Matmul",
])  # fmt: skip
def test_a_call_that_fails_is_named_and_nothing_is_left_behind(fake, name):
    rng = np.random.default_rng(0)
    a, b = operand(rng, 3, 16, ROW), operand(rng, 16, 16, BLOCK)
    cublaslt.handle.cache_clear()
    fake.fake_fail(name.encode(), 13)
    with pytest.raises(cublaslt.CublasError, match="cublasLt.*: EXECUTION_FAILED, the card"):
        hopper.product(*map(xp.asarray, (*a, *b)))
    fake.fake_fail(name.encode(), 5)
    with pytest.raises(cublaslt.CublasError, match="status 5"):
        hopper.product(*map(xp.asarray, (*a, *b)))
    fake.fake_reset()
    hopper.product(*map(xp.asarray, (*a, *b)))


@needs_compiler
@pytest.mark.parametrize("what", ["Algorithm", "State"])
def test_where_no_algorithm_is_found_nothing_is_multiplied(fake, what):
    operands = [np.zeros((16, 16), np.uint8), np.ones((16, 1), np.float32)] * 2
    fake.fake_fail(what.encode(), 0)
    with pytest.raises(cublaslt.CublasError, match="NOT_SUPPORTED, no algorithm for these shapes"):
        hopper.product(*map(xp.asarray, operands), ROW)
    assert "Matmul" not in fake.fake_log().decode().split()


@needs_compiler
@pytest.mark.parametrize("m, n, k", [(0, 16, 16), (3, 0, 16), (3, 16, 0)], ids=str)
def test_products_of_nothing(fake, m, n, k):
    a = np.zeros((m, k), np.uint8), np.ones((m, -(-k // 128)), np.float32)
    b = np.zeros((n, k), np.uint8), np.ones((-(-n // 128), -(-k // 128)), np.float32)
    y = hopper.product(*map(xp.asarray, (*a, *b))).get()
    assert y.shape == (m, n) and not y.any() and fake.fake_log() == b""


@needs_compiler
def test_nan_stays_nan(fake):
    a, b = operand(np.random.default_rng(0), 3, 16, ROW), operand(np.random.default_rng(1), 16, 16,
                                                                 BLOCK)  # fmt: skip
    a[0][1, 2] = 0x7F
    y = hopper.product(*map(xp.asarray, (*a, *b))).get()
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


# --------------------------------------------------------------------------------- what is refused


@needs_compiler
@pytest.mark.parametrize("change, sentence", [
    ({"n": 24}, r"got N = 24, K = 32, expected multiples of 16"),
    ({"k": 40}, r"got N = 32, K = 40, expected multiples of 16"),
    ({"other": 48}, r"got codes of shapes \(3, 48\) and \(32, 32\), expected \(M, K\)"),
    ({"scale_a": (2, 1)}, r"scale_a: got float32 of shape \(2, 1\), expected .* \(3, 1\)"),
    ({"scale_b": (2, 1)}, r"scale_b: got float32 of shape \(2, 1\), expected .* \(1, 1\)"),
    ({"dtype": "float32"}, r"codes: got dtype float32, expected uint8"),
    ({"scales": "float64"}, r"scale_a: got float64"),
])  # fmt: skip
def test_bad_arguments_in_one_sentence(fake, change, sentence):
    n, k = change.get("n", 32), change.get("k", 32)
    a = np.zeros((3, change.get("other", k)), change.get("dtype", "uint8"))
    scale_a = np.ones(change.get("scale_a", (3, 1)), change.get("scales", "float32"))
    b, scale_b = np.zeros((n, k), np.uint8), np.ones(change.get("scale_b", (1, 1)), np.float32)
    with pytest.raises(InputError, match=sentence):
        hopper.product(*map(xp.asarray, (a, scale_a, b, scale_b)))
    assert fake.fake_log() == b""


@needs_compiler
def test_where_it_cannot_be_it_says_why(fake, monkeypatch):
    there = xp.asarray(np.zeros((16, 16), np.uint8))
    assert hopper.why_not(there) is None
    assert "on the host" in hopper.why_not(there.get())
    fake.fake_version(120803)
    assert re.search("version 120803, expected 120900", hopper.why_not(there))
    fake.fake_version(120900)
    assert hopper.why_not(there) is None
    for capability in ("80", "89", "100", "120"):
        xp.cuda.card.compute_capability = capability
        assert f"capability {capability}, expected 90" in hopper.why_not(there)
    xp.cuda.card.compute_capability = "90"
    monkeypatch.setattr(cublaslt, "library", lambda: None)
    assert "can be loaded; install" in hopper.why_not(there)
    with pytest.raises(InputError, match="product in FP8: none of"):
        hopper.product(there, there, there, there)


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setattr(cublaslt, "LIBRARIES", ("libnothing.so.0",))
    assert cublaslt.library.__wrapped__() is None


# ----------------------------------------------------------------------------------- linear layers


def three_products(shape, out, scheme, bias, on):
    """y, dx, dw, db of `fp8_linear` over the stand-in, and how many products were in FP8."""
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(s, dtype=np.float32)
               for s in ((*shape, 160), (out, 160), (*shape, out)))  # fmt: skip
    arrays = [x, w] + ([rng.standard_normal(out, dtype=np.float32)] if bias else [])
    hopper.set_hopper(on)
    inputs = [Parameter(xp.asarray(a)) for a in arrays]
    y = linear.fp8_linear(*inputs, scheme=scheme)
    y.backward(xp.asarray(g))
    return [y.data.get(), *(p.grad.get() for p in inputs)]


@needs_compiler
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape, products", [((2, 16), 3), ((32,), 3), ((5, 2), 2)], ids=str)
def test_a_linear_layer_multiplies_in_fp8_what_it_can(fake, shape, products, bias):
    """10 tokens are no multiple of 16: the sum over tokens is then of decoded numbers."""
    plain = three_products(shape, 144, FINE_GRAINED, bias, on=False)
    assert fake.fake_log() == b""
    made = three_products(shape, 144, FINE_GRAINED, bias, on=True)
    assert fake.fake_log().decode().split().count("Matmul") == products
    for a, b in zip(made, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
        assert not np.array_equal(a, b) or a.ndim == 1 or products == 2


@needs_compiler
@pytest.mark.parametrize("scheme, products", [
    (PER_TENSOR, 0),
    (V3.after_attention, 0),  # E5M6
    (Scheme(x=HIGH_PRECISION), 0),
    (Scheme(dy=HIGH_PRECISION, dy_tokens=HIGH_PRECISION), 1),
    (Scheme(dy=SQUARE), 2),
    (Scheme(x=ALONG_ROW, w=ALONG_ROW), 2),
], ids=["tensor", "E5M6", "x", "dy", "square", "w"])  # fmt: skip
def test_other_schemes_are_multiplied_as_before(fake, scheme, products):
    plain = three_products((32,), 144, scheme, False, on=False)
    made = three_products((32,), 144, scheme, False, on=True)
    assert fake.fake_log().decode().split().count("Matmul") == products
    for a, b in zip(made, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@needs_compiler
def test_it_is_off_until_it_is_asked_for(fake):
    kept = ALONG_ROW.keep(xp.asarray(np.ones((16, 16), np.float32)))
    weight = SQUARE.keep(xp.asarray(np.ones((16, 16), np.float32)))
    assert not hopper.takes(kept, weight)
    hopper.set_hopper(True)
    assert hopper.takes(kept, weight) and hopper.takes(kept, kept)
    assert not hopper.takes(weight, weight)  # cuBLASLt has no such pair
    host = ALONG_ROW.keep(np.ones((16, 16), np.float32))
    assert not hopper.takes(host, host)


# ------------------------------------------------------------------------------- NVIDIA's own files


def nvidias(pattern):
    """Files of CUDA's on this machine: its toolkit's or a Python package's."""
    folders = [Path(p, "nvidia") for p in sys.path] + list(Path("/usr/local").glob("cuda*"))
    return [f for d in folders if d.is_dir() for f in sorted(d.rglob(pattern))]


def test_constants_are_those_of_the_headers():
    """Names of cublaslt.py with the values that the headers give them."""
    headers = [f for name in ("cublasLt.h", "cublas_api.h", "library_types.h")
               for f in nvidias(name)[:1]]  # fmt: skip
    if not headers:
        pytest.skip("no CUDA headers here; pip install nvidia-cublas brings cublasLt.h")
    text = "\n".join(f.read_text("utf-8") for f in headers)
    known = dict(re.findall(r"\b(CU\w+)\s*=\s*(\d+)\b", text))
    ours = {n: v for n, v in vars(cublaslt).items() if n.startswith("CU") and n.isupper()}
    ours |= {n: v for n, v in vars(cublaslt).items() if n.startswith("CUBLASLT_")}
    seen = 0
    for name, value in ours.items():
        if name in known:
            assert int(known[name]) == value, name
            seen += 1
    if any(f.name == "cublasLt.h" for f in headers):
        assert seen >= 10
        for code, words in cublaslt.STATUS.items():
            status = f"CUBLAS_STATUS_{words.split(',')[0]}"
            assert int(known.get(status, code)) == code


def test_nvidias_library_takes_what_it_is_told():
    """Without a card too: descriptors are made, and attributes' sizes checked, on the host."""
    found = nvidias("libcublasLt.so.1*")
    if not found:
        pytest.skip("no libcublasLt here; pip install nvidia-cublas brings one")
    library = cublaslt.declared(ctypes.CDLL(str(found[0])))
    assert library.cublasLtGetVersion() >= hopper.VERSION
    made = ctypes.c_void_p()
    assert library.cublasLtMatmulDescCreate(
        ctypes.byref(made), cublaslt.CUBLAS_COMPUTE_32F, cublaslt.CUDA_R_32F
    ) == 0  # fmt: skip
    for name, kind in (("TRANSA", ctypes.c_int32), ("TRANSB", ctypes.c_int32),
                       ("A_SCALE_MODE", ctypes.c_int32), ("B_SCALE_MODE", ctypes.c_int32),
                       ("A_SCALE_POINTER", ctypes.c_void_p),
                       ("B_SCALE_POINTER", ctypes.c_void_p)):  # fmt: skip
        attribute, value = getattr(cublaslt, f"CUBLASLT_MATMUL_DESC_{name}"), kind(0)
        cublaslt._set(library, "MatmulDesc", made, attribute, value)
        with pytest.raises(cublaslt.CublasError, match="INVALID_VALUE"):
            cublaslt._set(library, "MatmulDesc", made, attribute, ctypes.c_int16(0))
    layout, preference = ctypes.c_void_p(), ctypes.c_void_p()
    assert library.cublasLtMatrixLayoutCreate(
        ctypes.byref(layout), cublaslt.CUDA_R_8F_E4M3, 256, 128, 256
    ) == 0  # fmt: skip
    assert library.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)) == 0
    limit = cublaslt.CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
    cublaslt._set(library, "MatmulPreference", preference, limit, ctypes.c_uint64(1))
    assert library.cublasLtMatmulPreferenceDestroy(preference) == 0
    assert library.cublasLtMatrixLayoutDestroy(layout) == 0
    assert library.cublasLtMatmulDescDestroy(made) == 0


def test_structures_have_the_sizes_of_the_header():
    assert ctypes.sizeof(cublaslt.Algo) == 64
    assert ctypes.sizeof(cublaslt.Heuristic) == 96
    assert cublaslt.Heuristic.state.offset == 72
