"""Blockwise products within their bound, and fourteen bits against exact fractions."""

from fractions import Fraction

import ml_dtypes  # noqa: F401  gives NumPy the name float8_e4m3fn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.autograd import backend
from minideepseek.errors import InputError
from minideepseek.layers import fp8
from minideepseek.layers.fp8.tiles import spread

SEEDS = st.integers(0, 2**32 - 1)
U = 2.0**-24


def operands(seed, m, n, k, block_b):
    """Codes and scales of two matrices whose blocks differ in size by up to 2¹²."""
    rng = np.random.default_rng(seed)
    blocks = -(-k // 128)
    a = rng.standard_normal((m, k)) * np.repeat(2.0 ** rng.integers(-6, 6, blocks), 128)[:k]
    b = rng.standard_normal((n, k)) * np.repeat(2.0 ** rng.integers(-6, 6, blocks), 128)[:k]
    return (*fp8.quantize(a, (1, 128)), *fp8.quantize(b, block_b))


@given(
    st.integers(0, 9), st.integers(0, 300), st.integers(0, 700),
    st.sampled_from([(128, 128), (1, 128), (7, 128)]), SEEDS,
)  # fmt: skip
def test_the_product_is_that_of_the_decoded_within_the_bound(m, n, k, block_b, seed):
    qa, sa, qb, sb = operands(seed, m, n, k, block_b)
    c = fp8.scaled_product(qa, sa, qb, sb, block_b)
    assert c.shape == (m, n) and c.dtype == np.float32
    a = fp8.decode(qa).astype(float) * spread(sa, qa.shape, (1, 128))
    b = fp8.decode(qb).astype(float) * spread(sb, qb.shape, block_b)
    size, exact = abs(a) @ abs(b).T, a @ b.T
    assert (abs(c - exact) <= (128 + -(-k // 128) + 2) * U * size).all()
    plain = fp8.dequantize(qa, sa, (1, 128)) @ fp8.dequantize(qb, sb, block_b).T
    assert (abs(plain - exact) <= (k + 2) * U * size).all()


def test_every_block_has_its_own_two_scales():
    codes = np.full((2, 256), 56, np.uint8)  # ones
    sa = np.array([[1, 10], [100, 1000]], np.float32)
    sb = np.array([[1, 2]], np.float32)
    want = 128 * np.array([[1 + 20, 1 + 20], [100 + 2000, 100 + 2000]])
    assert fp8.scaled_product(codes, sa, codes, sb).tolist() == want.tolist()
    sb = np.array([[1, 2], [3, 4]], np.float32)
    want = 128 * np.array([[1 + 20, 3 + 40], [100 + 2000, 300 + 4000]])
    assert fp8.scaled_product(codes, sa, codes, sb, (1, 128)).tolist() == want.tolist()


def cut(x, largest):
    """x without what lies below 14 bits of `largest`, in exact fractions."""
    if not largest:
        return x
    e = 0
    while Fraction(2) ** e > largest:
        e -= 1
    while Fraction(2) ** (e + 1) <= largest:
        e += 1
    unit = Fraction(2) ** (e - 13)
    return int(x / unit) * unit  # int() cuts towards zero


def by_fractions(a, b):
    """fourteen_bit_sums of two rows."""
    products = [Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True)]
    total = Fraction(0)
    for i in range(0, len(products), 32):
        terms = [total, *products[i : i + 32]]
        largest = max(abs(t) for t in terms)
        total = sum(cut(t, largest) for t in terms)
        total = cut(total, abs(total))
    return float(total)


@given(st.integers(0, 2), st.integers(0, 2), st.integers(0, 140), st.booleans(), SEEDS)
def test_fourteen_bits_are_those_of_exact_arithmetic(m, n, k, positive, seed):
    rng = np.random.default_rng(seed)
    lowest = rng.choice([0, 112])  # of very different size, or all within two octaves
    values = fp8.decode(rng.integers(lowest, 127, (m + n, k)).astype(np.uint8))
    values *= 1 if positive else rng.choice(np.float32([-1, 0, 1]), values.shape)
    a, b = values[:m], values[m:]
    got = fp8.fourteen_bit_sums(a, b)
    assert got.dtype == np.float32 and got.shape == (m, n)
    assert got.tolist() == [[by_fractions(x, y) for y in b] for x in a]
    promoted = [[sum(np.float32(by_fractions(x[s], y[s])) for s in (slice(128), slice(128, None)))
                 for y in b] for x in a]  # fmt: skip
    assert np.array_equal(fp8.promoted_sums(a, b), np.array(promoted).reshape(m, n))


def test_by_hand():
    """1.125 × 1: exact up to 2052 (57 steps of 36); from there on the last of 14 bits is worth
    1/4, then 1/2, and 1.125 counts as 1: 2052 + 71 · 32. A block of 128 makes 144, exact."""
    a, b = np.ones((1, 4096), np.float32), np.full((1, 4096), 1.125, np.float32)
    assert fp8.fourteen_bit_sums(a, b).tolist() == [[2052 + 71 * 32]]
    assert fp8.fourteen_bit_sums(a, -b).tolist() == [[-(2052 + 71 * 32)]]  # towards zero
    assert fp8.promoted_sums(a, b).tolist() == [[4608]]
    small = np.array([[1.0, 2.0**-13, -(2.0**-14)]], np.float32)
    assert fp8.fourteen_bit_sums(small, np.ones((1, 3), np.float32)).tolist() == [[1 + 2.0**-13]]


def test_fourteen_bits_lose_and_promotion_cures():
    """K = 4096, norm of the error; positive data lose much more than normal ones, in one way."""
    rng = np.random.default_rng(0)
    errors = {}
    for name, draw in (("positive", rng.random), ("normal", rng.standard_normal)):
        a, b = (fp8.decode(fp8.encode(draw((8, 4096)))) for _ in range(2))
        exact = a.astype(float) @ b.astype(float).T
        off = [f(a, b) - exact for f in (fp8.fourteen_bit_sums, fp8.promoted_sums)]
        errors[name] = [np.linalg.norm(o) / np.linalg.norm(exact) for o in off]
        assert errors[name][1] < errors[name][0] / 5
        if name == "positive":
            assert (off[0] < 0).all() and (off[1] < 0).all()
    assert 0.03 < errors["positive"][0] < 0.08 and 5e-4 < errors["normal"][0] < 3e-3


def test_blocks_may_be_added_up_by_fourteen_bits():
    rng = np.random.default_rng(0)
    qa, qb = fp8.encode(rng.random((3, 400))), fp8.encode(rng.random((5, 400)))
    one = [np.ones((rows, 4), np.float32) for rows in (3, 5)]
    got = fp8.scaled_product(qa, one[0], qb, one[1], (1, 128), fp8.fourteen_bit_sums)
    assert np.array_equal(got, fp8.promoted_sums(fp8.decode(qa), fp8.decode(qb)))
    assert not np.array_equal(got, fp8.scaled_product(qa, one[0], qb, one[1], (1, 128)))


def test_refusals():
    qa, sa, qb, sb = operands(0, 3, 4, 200, (128, 128))
    for a, b in ((qa, qb[:, :199]), (qa[0], qb), (qa, qb[None])):
        with pytest.raises(InputError, match=r"^scaled_product: got codes of shapes .*\(N, K\)$"):
            fp8.scaled_product(a, sa, b, sb)
    for a, b in ((sa[:, :1], sb), (sa, sb[:, :1]), (sa[:2], sb), (sa, np.repeat(sb, 4, 0))):
        with pytest.raises(InputError, match=r"^scale_inv: got shape"):
            fp8.scaled_product(qa, a, qb, b)
    for wrong in (np.nan, np.inf, -1, 0):
        for a, b in ((sa * np.float32(wrong), sb), (sa, sb * np.float32(wrong))):
            with pytest.raises(InputError, match="^scale_inv: .*not positive and finite$"):
                fp8.scaled_product(qa, a, qb, b)
    with pytest.raises(InputError, match=r"^block_b: got \(128, 64\), expected 128 along"):
        fp8.scaled_product(qa, sa, qb, sb, (128, 64))
    for a, b in ((qa.astype(int), qb), (qa, qb.view("float8_e4m3fn"))):
        with pytest.raises(InputError, match="^codes: got dtype .*, expected uint8$"):
            fp8.scaled_product(a, sa, b, sb)


def test_on_every_device(device):
    host = operands(0, 5, 40, 300, (128, 128))
    moved = [backend.to_device(x, device) for x in host]
    got = backend.to_host(fp8.scaled_product(*moved))
    np.testing.assert_allclose(got, fp8.scaled_product(*host), rtol=1e-5, atol=1e-5)
    a, b = fp8.decode(moved[0]), fp8.decode(moved[2])
    for sums in (fp8.fourteen_bit_sums, fp8.promoted_sums):
        want = sums(fp8.decode(host[0]), fp8.decode(host[2]))
        assert np.array_equal(backend.to_host(sums(a, b)), want)
