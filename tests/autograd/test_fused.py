"""Each fused primitive is its composition, whatever the shape, the blocks and the threads.

`reference.py` holds the compositions; the attention and the experts are also held against loops
over tokens that share no code with either. Blocks are made tiny, so that small arrays have many.
"""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minideepseek.autograd.experts
import minideepseek.autograd.fused
import minideepseek.autograd.primitives  # noqa: F401 - registers
from minideepseek.autograd import attention as attention_module
from minideepseek.autograd import blocks as blocks_module
from minideepseek.autograd import reference
from minideepseek.autograd.engine import PRIMITIVES, Parameter, ops
from minideepseek.errors import InputError

from .cases import CASES
from .strategies import Values, frozen, seeds, using_threads, values
from .test_primitives import call, cotangent, drawn

FUSED = sorted(name for name in vars(reference) if name in PRIMITIVES)


# One setting of the blocks for all examples of a test is what is meant here.
ANY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(params=["whole", "tiny", "halves"])
def blocks(request, monkeypatch):
    """Blocks as they are; of a row or two, tiles of two queries; one token's rows in two halves."""
    if request.param == "tiny":
        monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 200)
        monkeypatch.setattr(blocks_module, "SUM_BYTES", 100)
        monkeypatch.setattr(attention_module, "TILE", 2)
        monkeypatch.setattr(attention_module, "SCORES_BYTES", 100)
    elif request.param == "halves":
        monkeypatch.setattr(attention_module, "KEYS_BYTES", 0)


def outcome(function, arrays, options, u):
    """The value and every gradient of a function of Tensors."""
    inputs = [Parameter(x) if x.dtype.kind == "f" else x for x in arrays]
    y = function(*inputs, **options)
    y.backward(u)
    return [y.data, *(x.grad for x in inputs if isinstance(x, Parameter))]


def test_every_fused_primitive_has_a_composition():
    assert set(FUSED) == {
        "linear", "rms_norm", "swiglu", "rope", "append_shared", "head_linear",
        "softmax_cross_entropy", "token_logprobs", "attention", "expert_mlp",
    }  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
@settings(ANY, max_examples=30)
@given(data=st.data())
def test_fused_equals_composed(name, blocks, data):
    arrays, options, v = drawn(data, name, ("normal", "tiny", "ties", "rows"))
    u = cotangent(v, call(name, arrays, options)[0])
    got = outcome(getattr(ops, name), arrays, options, u)
    want = outcome(getattr(reference, name), arrays, options, u)
    for one, two in zip(got, want, strict=True):
        if one is not None:  # cos, sin and loss weights get none from the fused one
            two = np.zeros_like(one) if two is None else two
            size = np.abs(two).max(initial=0)
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-12 * size + 1e-15)


@pytest.mark.parametrize("name", [*FUSED, "take", "matmul"])
@settings(ANY, max_examples=10)
@given(data=st.data())
def test_any_number_of_threads_gives_the_same_bits(name, blocks, data):
    v = data.draw(values(("normal",)))
    arrays, options = CASES[name].make(data.draw, v)
    y, pull = call(name, arrays, options)
    u = cotangent(v, y)
    first = [y, *pull(u)]
    for count in (2, 3):
        with using_threads(count):
            y, pull = call(name, arrays, options)
            for one, two in zip(first, [y, *pull(u)], strict=True):
                np.testing.assert_array_equal(one, two)


def test_large_products_have_the_same_bits_for_any_threads():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((5, 700, 6)), rng.standard_normal((3, 6))
    u = rng.standard_normal((5, 700, 3))
    results = []
    for count in (1, 3):
        with using_threads(count):
            results.append(outcome(ops.linear, (x, weight), {}, u))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
    for got, want in zip(results[0], outcome(reference.linear, (x, weight), {}, u), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)


# -------------------------------------------------------------------------- norms, activations


@given(seed=seeds, factor=st.sampled_from([1e-3, 0.1, 7.0, 1e4]))
def test_rms_norm_ignores_the_scale_of_x_and_its_gradient_is_orthogonal_to_x(seed, factor):
    rng = np.random.default_rng(seed)
    x, weight, u = rng.standard_normal((3, 5)), rng.standard_normal(5), rng.standard_normal((3, 5))
    y, pull = call("rms_norm", (x, weight), {"eps": 0.0})
    z, pull_scaled = call("rms_norm", (factor * x, weight), {"eps": 0.0})
    np.testing.assert_allclose(z, y, rtol=1e-12)
    np.testing.assert_allclose(pull_scaled(u)[0] * factor, pull(u)[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose((pull(u)[0] * x).sum(-1), np.zeros(3), atol=1e-12)


def test_rms_norms_eps_is_inside_the_root():
    y, _ = call("rms_norm", (np.array([[3.0, 4.0]]), np.array([1.0, 2.0])), {"eps": 12.5})
    np.testing.assert_allclose(y, [[0.6, 1.6]], rtol=1e-15)  # √(12.5 + 12.5) = 5


@given(seed=seeds)
def test_swiglu_is_linear_in_up_and_closed_at_gate_zero(seed):
    up = np.random.default_rng(seed).standard_normal((3, 4))
    np.testing.assert_array_equal(call("swiglu", (np.zeros((3, 4)), up), {})[0], np.zeros((3, 4)))
    y, _ = call("swiglu", (np.full((3, 4), 60.0), up), {})
    np.testing.assert_allclose(y, 60 * up, rtol=1e-12)
    assert np.isfinite(call("swiglu", (np.full((3, 4), -1e4), up), {})[0]).all()


# ------------------------------------------------------------------------------ cross-entropy


@given(seed=seeds, shift=st.sampled_from([-1e3, -1.0, 5.0, 1e3]))
def test_cross_entropy_ignores_a_shift_and_its_rows_sum_to_zero(seed, shift):
    v = Values(seed)
    logits, targets = v.any((2, 3, 5)), v.integers(5, (2, 3))
    y, pull = call("softmax_cross_entropy", (logits, targets), {})
    z, _ = call("softmax_cross_entropy", (logits + shift, targets), {})
    np.testing.assert_allclose(z, y, rtol=1e-11)
    dlogits = pull(np.array(1.0))[0]
    assert y > 0
    np.testing.assert_allclose(dlogits.sum(-1), np.zeros((2, 3)), atol=1e-15)
    assert (np.take_along_axis(dlogits, targets[..., None], -1) < 0).all()


def test_cross_entropy_in_numbers():
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0]]))
    nats = [math.log(4 / 3), math.log(2)]
    for weights, denominator, want in [
        (None, None, (nats[0] + nats[1]) / 2), ([1.0, 0.0], None, nats[0] / 2),
        ([1.0, 0.0], 1, nats[0]), ([2.0, 1.0], 4, (2 * nats[0] + nats[1]) / 4),
    ]:  # fmt: skip
        arrays = (logits, np.array([1, 0]), *([] if weights is None else [np.array(weights)]))
        y, pull = call("softmax_cross_entropy", arrays, {"denominator": denominator})
        np.testing.assert_allclose(y, want, rtol=1e-14)
        if weights == [1.0, 0.0]:
            assert (pull(np.array(1.0))[0][1] == 0).all()


def test_cross_entropy_of_huge_logits_is_finite():
    y, pull = call("softmax_cross_entropy", (np.array([[1e4, -1e4, 0.0]]), np.array([1])), {})
    np.testing.assert_allclose(y, 2e4)
    np.testing.assert_allclose(pull(np.array(1.0))[0], [[1.0, -1.0, 0.0]])


def test_cross_entropy_refuses_a_target_outside_the_vocabulary():
    with pytest.raises(IndexError):
        PRIMITIVES["softmax_cross_entropy"](np.zeros((2, 3)), np.array([0, 3]))


# ----------------------------------------------------------------------------- log-probabilities


@given(seed=seeds, temperature=st.sampled_from([0.25, 1.0, 3.0]))
def test_token_logprobs_of_all_tokens_are_a_distribution_at_the_temperature(seed, temperature):
    logits = np.random.default_rng(seed).standard_normal(5)
    every = call("token_logprobs", (np.tile(logits, (5, 1)), np.arange(5)),
                 {"temperature": temperature})[0]  # fmt: skip
    p = np.exp(logits / temperature)
    np.testing.assert_allclose(np.exp(every), p / p.sum(), rtol=1e-13)


def test_token_logprobs_in_numbers():
    logits = np.log(np.array([[1.0, 9.0], [1.0, 1.0]]))
    y, pull = call("token_logprobs", (logits, np.array([1, 0])), {"temperature": 2.0})
    np.testing.assert_allclose(y, [math.log(3 / 4), math.log(1 / 2)], rtol=1e-14)  # √9 = 3
    slopes = pull(np.array([1.0, 2.0]))[0]
    np.testing.assert_allclose(slopes, [[-0.125, 0.125], [0.5, -0.5]], rtol=1e-14)


def test_token_logprobs_are_finite_and_never_above_zero():
    logits = np.array([[1e4, -1e4, 0.0], [300.0, 300.0, -300.0], [40.0, 0.0, 0.0]], np.float32)
    y, _ = call("token_logprobs", (logits, np.array([1, 0, 0])), {})
    assert y.dtype == np.float32 and np.isfinite(y).all() and (y <= 0).all()
    np.testing.assert_allclose(y[:2], [-2e4, -math.log(2)], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_token_logprobs_refuses_a_temperature_that_is_none(temperature):
    with pytest.raises(InputError, match=r"temperature: got .*, expected a number above 0"):
        PRIMITIVES["token_logprobs"](np.zeros(2), np.array(0), temperature=temperature)


# --------------------------------------------------------------------------------------- rope


def angles(positions, half):
    """cos and sin (T, half) of positions times one frequency a channel."""
    phase = np.asarray(positions, np.float64)[:, None] * 10.0 ** -np.arange(half)
    return np.cos(phase), np.sin(phase)


@given(seed=seeds, interleaved=st.booleans(), rest=st.integers(0, 2))
def test_rope_is_a_rotation_and_its_vjp_the_inverse_one(seed, interleaved, rest):
    rng = np.random.default_rng(seed)
    x, (cos, sin) = rng.standard_normal((2, 4, 3, rest + 6)), angles(rng.integers(0, 50, 4), 3)
    turn = {"interleaved": interleaved}
    y, pull = call("rope", (x, cos, sin), turn)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-13)
    np.testing.assert_array_equal(y[..., :rest], x[..., :rest])
    np.testing.assert_allclose(pull(y)[0], x, atol=1e-14)
    np.testing.assert_array_equal(pull(x)[0], call("rope", (x, cos, -sin), turn)[0])
    still, _ = call("rope", (x, *angles([0] * 4, 3)), turn)
    np.testing.assert_array_equal(still, x)


@given(seed=seeds, interleaved=st.booleans(), a=st.integers(0, 40), b=st.integers(0, 40))
def test_rope_composes_and_scores_know_the_distance_only(seed, interleaved, a, b):
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((2, 1, 1, 1, 6))

    def turned(x, position):
        return call("rope", (x, *angles([position], 3)), {"interleaved": interleaved})[0]

    np.testing.assert_allclose(turned(turned(q, a), b), turned(q, a + b), atol=1e-12)
    score = (turned(q, a + b) * turned(k, b)).sum()
    np.testing.assert_allclose(score, (turned(q, a) * turned(k, 0)).sum(), atol=1e-12)


def test_rope_turns_tokens_not_heads():
    """Every head of a token by one angle, each token by its own: else positions cancel in q·k."""
    x = np.ones((1, 3, 2, 4))
    y, _ = call("rope", (x, *angles([0, 1, 2], 2)), {"interleaved": False})
    np.testing.assert_array_equal(y[:, :, 0], y[:, :, 1])
    assert len({tuple(row) for row in y[0, :, 0].round(9)}) == 3


def test_interleaved_is_half_split_after_a_permutation_of_channels():
    rng = np.random.default_rng(0)
    x, (cos, sin) = rng.standard_normal((1, 3, 2, 6)), angles([1, 5, 9], 3)
    order = [0, 2, 4, 1, 3, 5]
    y, _ = call("rope", (x, cos, sin), {"interleaved": True})
    z, _ = call("rope", (x[..., order], cos, sin), {"interleaved": False})
    np.testing.assert_allclose(z, y[..., order], rtol=1e-15)


# ---------------------------------------------------------------------------------- attention


def attention_by_loops(q, k, v, scale, offsets, lengths, segments):
    """One query at a time, one key at a time, straight from the definition."""
    (batch, t, heads, _), s = q.shape, k.shape[1]
    group, y = heads // k.shape[2], np.zeros((*q.shape[:3], v.shape[3]))
    for b in range(batch):
        first = offsets if isinstance(offsets, int) else int(offsets[b])
        for i in range(t):
            for h in range(heads):
                keys = [
                    j for j in range(s)
                    if j <= first + i
                    and (lengths is None or j < lengths[b])
                    and (segments is None or segments[b, j] == segments[b, first + i])
                ]  # fmt: skip
                e = [math.exp(scale * (q[b, i, h] @ k[b, j, h // group])) for j in keys]
                for j, weight in zip(keys, e, strict=True):
                    y[b, i, h] += weight / sum(e) * v[b, j, h // group]
    return y


@settings(ANY, max_examples=60)
@given(data=st.data())
def test_attention_equals_loops(blocks, data):
    (q, k, v), options, _ = drawn(data, "attention", ("normal", "ties"))
    y, _ = call("attention", (q, k, v), options)
    lengths, segments = options.get("lengths"), options.get("segment_ids")
    want = attention_by_loops(q, k, v, options["scale"], options["offsets"], lengths, segments)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-13)


@settings(ANY, max_examples=20)
@given(seed=seeds, t=st.integers(2, 7), kind=st.sampled_from(["number", "array", "segments"]))
def test_the_future_never_changes_the_past_bit_for_bit(blocks, seed, t, kind):
    rng = np.random.default_rng(seed)
    cut = int(rng.integers(1, t))
    q, k, v = (rng.standard_normal((2, t, 2, 3)) for _ in range(3))
    options = {"scale": 0.5}
    if kind == "array":
        options["offsets"] = np.zeros(2, np.int64)
    if kind == "segments":
        options["segment_ids"] = np.sort(rng.integers(0, 2, (2, t)))
    y, pull = call("attention", (q, k, v), options)
    changed = [np.concatenate([x[:, :cut], 9 * x[:, cut:] + 1], axis=1) for x in (q, k, v)]
    z, _ = call("attention", changed, options)
    np.testing.assert_array_equal(y[:, :cut], z[:, :cut])
    u = np.zeros_like(y)
    u[:, :cut] = 1.0
    for gradient in pull(u):
        assert (gradient[:, cut:] == 0).all()


def test_a_query_that_sees_no_key_gives_zero_and_no_nan(blocks):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 3, 1, 2)) for _ in range(3))
    y, pull = call("attention", (q, k, v), {"scale": 1.0, "lengths": np.array([0, 2])})
    assert (y[0] == 0).all() and (y[1] != 0).all()
    for gradient in pull(np.ones_like(y)):
        assert (gradient[0] == 0).all() and np.isfinite(gradient).all()


@given(seed=seeds)
def test_attention_rows_are_convex_combinations(seed):
    rng = np.random.default_rng(seed)
    q, k, v = (5 * rng.standard_normal((1, 6, 2, 3)) for _ in range(3))
    y, _ = call("attention", (q, k, v), {"scale": 1.0})
    low, high = (f(v, axis=1) for f in (np.minimum.accumulate, np.maximum.accumulate))
    assert (y >= low - 1e-12).all() and (y <= high + 1e-12).all()
    np.testing.assert_allclose(y[:, 0], v[:, 0], rtol=1e-14)  # the first sees itself alone


@settings(ANY)
@given(seed=seeds, offset=st.integers(0, 3))
def test_heads_that_share_keys_equal_repeated_keys(blocks, seed, offset):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((2, 5, 6, 3))
    k, v = rng.standard_normal((2, 8, 2, 3)), rng.standard_normal((2, 8, 2, 4))
    options = {"scale": 0.7, "offsets": offset}
    y, pull = call("attention", (q, k, v), options)
    z, pull_wide = call("attention", (q, k.repeat(3, 2), v.repeat(3, 2)), options)
    np.testing.assert_allclose(y, z, atol=1e-13)
    u = rng.standard_normal(y.shape)
    for few, many in zip(pull(u)[1:], pull_wide(u)[1:], strict=True):
        summed = many.reshape(2, 8, 2, 3, -1).sum(3)
        np.testing.assert_allclose(few, summed, atol=1e-12)


@settings(ANY)
@given(seed=seeds, cuts=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_any_chunking_of_the_queries_equals_one_call(blocks, seed, cuts):
    rng = np.random.default_rng(seed)
    t = sum(cuts)
    q, k, v = (rng.standard_normal((1, t, 2, 3)) for _ in range(3))
    whole, _ = call("attention", (q, k, v), {"scale": 0.5})
    done, parts = 0, []
    for n in cuts:
        seen = slice(0, done + n)
        part = (q[:, done : done + n], k[:, seen], v[:, seen])
        parts.append(call("attention", part, {"scale": 0.5, "offsets": done})[0])
        done += n
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-13)


def test_attention_holds_no_matrix_of_scores():
    """512 queries and keys, 4 heads: all scores are 8 MiB, a tile and what is kept far less."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 512, 4, 8)) for _ in range(3))
    tracemalloc.start()
    y, pull = call("attention", (q, k, v), {"scale": 0.5})
    forward = tracemalloc.get_traced_memory()
    pull(np.ones_like(y))
    backward = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    scores = 512 * 512 * 4 * 8
    assert forward[0] < 0.1 * scores  # kept
    assert max(forward[1], backward[1]) < 0.4 * scores  # at any time, y and gradients included


def test_attention_refuses_heads_that_cannot_be_shared():
    q, k = np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 2, 4))
    with pytest.raises(InputError, match="3 query heads cannot share 2 key-value heads"):
        PRIMITIVES["attention"](q, k, k, scale=1.0)


# ------------------------------------------------------------------------------------ experts


def experts_by_loops(x, gate_up, down, weights, indices):
    """One token at a time, one expert at a time."""
    y, m = np.zeros_like(x), down.shape[-1]
    for n, chosen in enumerate(indices):
        for w, e in zip(weights[n], chosen, strict=True):
            if e >= 0:
                z = gate_up[e] @ x[n]
                y[n] += w * (down[e] @ (z[:m] / (1 + np.exp(-z[:m])) * z[m:]))
    return y


@settings(ANY)
@given(data=st.data())
def test_experts_equal_loops(blocks, data):
    arrays, options, _ = drawn(data, "expert_mlp", ("normal", "ties"))
    y, _ = call("expert_mlp", arrays, options)
    np.testing.assert_allclose(y, experts_by_loops(*arrays), rtol=0, atol=1e-12)


@settings(ANY)
@given(seed=seeds, data=st.data())
def test_permuting_experts_or_tokens_changes_nothing_else(blocks, seed, data):
    rng = np.random.default_rng(seed)
    n, experts, k = 5, 4, data.draw(st.integers(1, 4))
    x, weights = rng.standard_normal((n, 3)), rng.random((n, k))
    gate_up, down = rng.standard_normal((experts, 4, 3)), rng.standard_normal((experts, 3, 2))
    indices = rng.random((n, experts)).argsort(-1)[:, :k]

    def run(x, gate_up, down, weights, indices):
        counts = [int((indices == e).sum()) for e in range(experts)]
        return call("expert_mlp", (x, gate_up, down, weights, indices), {"counts": counts})[0]

    y = run(x, gate_up, down, weights, indices)
    order, tokens = rng.permutation(experts), rng.permutation(n)
    moved = run(x, gate_up[order], down[order], weights, np.argsort(order)[indices])
    np.testing.assert_allclose(moved, y, atol=1e-13)
    moved = run(x[tokens], gate_up, down, weights[tokens], indices[tokens])
    np.testing.assert_allclose(moved, y[tokens], atol=1e-13)


def test_an_expert_without_tokens_and_a_token_without_experts_get_exact_zeros(blocks):
    rng = np.random.default_rng(1)
    x, weights = rng.standard_normal((3, 2)), rng.random((3, 2))
    gate_up, down = rng.standard_normal((4, 6, 2)), rng.standard_normal((4, 2, 3))
    indices = frozen(np.array([[0, 2], [-1, -1], [2, 0]]))
    arrays = (x, gate_up, down, weights, indices)
    y, pull = call("expert_mlp", arrays, {"counts": [2, 0, 2, 0]})
    dx, dgate_up, ddown, dweights, _ = pull(np.ones_like(y))
    assert (y[1] == 0).all() and (dx[1] == 0).all() and (dweights[1] == 0).all()
    assert (dgate_up[[1, 3]] == 0).all() and (ddown[[1, 3]] == 0).all()
    assert (dgate_up[[0, 2]] != 0).all() and (y[[0, 2]] != 0).all()


def test_all_tokens_are_padding():
    arrays = (np.ones((2, 3)), np.ones((2, 4, 3)), np.ones((2, 3, 2)), np.ones((2, 1)))
    indices = np.full((2, 1), -1)
    y, pull = call("expert_mlp", (*arrays, indices), {"counts": [0, 0]})
    assert (y == 0).all() and all((g == 0).all() for g in pull(np.ones_like(y)) if g is not None)
