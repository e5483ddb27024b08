"""DeepSeek-V3 as a whole: its logits, cache, numbers and names. Its loss has a file of its own."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minideepseek.autograd.blocks import set_threads
from minideepseek.autograd.engine import no_grad
from minideepseek.errors import CheckpointError, InputError
from minideepseek.layers.moe import Router
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.layout import tensor_shapes
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.optim import AdamW
from tests.layers import plain
from tests.layers.common import build, draw_ids, forget, gradients, relative, scramble, seeds
from tests.strategies import configs

NANO = DeepSeekV3Config.preset("nano")


def logits(model, ids, **options):
    with no_grad():
        return model.logits(model.hidden(np.asarray(ids), **options)[0]).data


def routing_of(model, ids):
    """Each MoE layer's choices, (B, T, K)."""
    with no_grad():
        _, routings = model.hidden(np.asarray(ids))
    return [r.indices.reshape(*np.shape(ids), -1) for r in routings]


# ------------------------------------------------------------------------------------------ logits


@given(configs(), seeds, st.integers(1, 2), st.integers(1, 6))
def test_logits_are_those_of_the_plain_model(config, seed, batch, tokens):
    model, ids = build(config, seed), draw_ids(config, seed, batch, tokens)
    found, choices = model(ids), routing_of(model, ids)
    assert found.shape == (batch, tokens, config.vocab_size) and found.dtype == np.float64
    for b, row in enumerate(ids):
        _, routings = plain.hidden(config, model.state_dict(), row)
        for ours, theirs in zip(choices, routings, strict=True):
            assert np.array_equal(ours[b], theirs.chosen)
        expected = plain.logits(config, model.state_dict(), row)
        assert relative(found.data[b], expected) < 1e-9


@given(configs(), seeds, st.integers(2, 8), st.data())
def test_the_future_never_changes_the_past(config, seed, tokens, data):
    """Routing exactly; values bit for bit without experts, whose segments change BLAS's kernels."""
    t = data.draw(st.integers(0, tokens - 2))
    model, ids = build(config, seed), draw_ids(config, seed, 2, tokens)
    other = ids.copy()
    other[:, t + 1 :] = (other[:, t + 1 :] + 1 + draw_ids(config, seed + 1, 2, tokens - 1 - t)
                         % (config.vocab_size - 1)) % config.vocab_size  # fmt: skip
    before, after = logits(model, ids), logits(model, other)
    for one, two in zip(routing_of(model, ids), routing_of(model, other), strict=True):
        assert np.array_equal(one[:, : t + 1], two[:, : t + 1])
    if config.num_moe_layers:
        assert np.abs(after - before)[:, : t + 1].max() <= 1e-12 * np.abs(before).max()
    else:
        assert np.array_equal(before[:, : t + 1], after[:, : t + 1])
    assert relative(after[:, t + 1], before[:, t + 1]) > 1e-9


@given(configs(tie_word_embeddings=False, vocab_size=30), seeds, st.integers(2, 8), st.data())
def test_no_gradient_reaches_a_token_after_the_output(config, seed, tokens, data):
    """Distinct tokens: a row of the embedding's gradient belongs to one position."""
    t = data.draw(st.integers(0, tokens - 2))
    model = build(config, seed)
    ids = np.random.default_rng(seed).permutation(30)[None, :tokens]
    u = np.zeros((1, tokens, 30))
    u[:, t] = np.random.default_rng(seed).standard_normal(30)
    model(ids).backward(u)
    touched = model.model.embed_tokens.weight.grad.any(-1)
    assert set(np.flatnonzero(touched)) <= set(ids[0, : t + 1]) and touched[ids[0, t]]


@given(configs(), seeds, st.integers(1, 6))
def test_rows_of_a_batch_do_not_meet(config, seed, tokens):
    model, ids = build(config, seed), draw_ids(config, seed, 3, tokens)
    together, choices = logits(model, ids), routing_of(model, ids)
    for b in range(3):
        assert relative(logits(model, ids[b : b + 1])[0], together[b]) < 1e-11
        for one, all_rows in zip(routing_of(model, ids[b : b + 1]), choices, strict=True):
            assert np.array_equal(one[0], all_rows[b])
    assert relative(logits(model, ids[::-1]), together[::-1]) < 1e-11


@given(configs(), seeds, st.data())
def test_packed_texts_do_not_see_each_other(config, seed, data):
    tokens = data.draw(st.integers(2, 7))
    segments = np.array([sorted(data.draw(st.lists(st.integers(0, 2), min_size=tokens,
                                                   max_size=tokens)))])  # fmt: skip
    model, ids = build(config, seed), draw_ids(config, seed, 1, tokens)
    packed = logits(model, ids, segment_ids=segments)
    for segment in set(segments[0]):
        own = segments[0] == segment
        assert relative(packed[:, own], logits(model, ids[:, own])) < 1e-9


# ------------------------------------------------------------------------------------------- cache


@given(configs(), seeds, st.data())
def test_any_chunking_of_rows_of_any_length_is_one_pass(config, seed, data):
    """Right-padded pieces, each row with its own number of real tokens in each, padding routed
    nowhere; rows may be cut back and chosen in between, as rejected drafts and ended rows are."""
    rows, rng = data.draw(st.integers(1, 3)), np.random.default_rng(seed)
    model, texts = build(config, seed), draw_ids(config, seed, rows, 14)
    expected, cache, at = logits(model, texts), model.new_cache(rows, 1), np.zeros(rows, np.int64)
    width = config.kv_lora_rank + config.qk_rope_head_dim
    for _ in range(data.draw(st.integers(1, 5))):
        tokens = data.draw(st.integers(1, 3))
        if at.max() + tokens > 14:
            break
        kind = data.draw(st.sampled_from(["full", "ragged", "ragged", "cut", "select"]))
        if kind == "cut":
            at = np.array([data.draw(st.integers(0, int(n))) for n in at])
            cache.truncate(at)
        if kind == "select":
            which = st.lists(st.integers(0, len(at) - 1), min_size=1, max_size=3)
            picked = np.array(data.draw(which))
            texts, expected, at = texts[picked], expected[picked], at[picked]
            cache.select(picked)
        counts = np.full(len(at), tokens)
        if kind == "ragged":
            counts = np.array([data.draw(st.integers(0, tokens)) for _ in at])
        piece = rng.integers(0, config.vocab_size, (len(at), tokens))  # padding: any token
        mask = (np.arange(tokens) < counts[:, None]).astype(np.int64)
        for b, n in enumerate(counts):
            piece[b, :n] = texts[b, at[b] : at[b] + n]
        found = logits(model, piece, cache=cache, counts=counts, mask=mask)
        for b, n in enumerate(counts):
            want = expected[b, at[b] : at[b] + n]
            assert np.abs(found[b, :n] - want).max(initial=0) <= 1e-9 * np.abs(expected).max()
        at = at + counts
        assert cache.lengths.tolist() == at.tolist()
        assert all(one.data.shape[2] == width for one in cache.layers)


def test_new_cache_reserves_what_is_asked_for():
    model = build(NANO)
    cache = model.new_cache(3, 10)
    logits(model, draw_ids(NANO, 0, 3, 4), cache=cache)
    assert cache.nbytes == 2 * 3 * 10 * 24 * 8 and len(cache.layers) == 2


# ------------------------------------------------------------------------- threads, dtypes, numbers


def test_results_are_the_same_bit_for_bit_for_any_number_of_threads():
    """1,240 tokens: more than one block in every primitive that works in blocks."""
    model, ids = scramble(DeepSeekV3(NANO), 5), draw_ids(NANO, 5, 20, 63)
    results = []
    try:
        for count in (1, 2, 3):
            set_threads(count)
            forget(model)
            loss = model.loss(ids)
            loss.backward()
            results.append((loss.item(), gradients(model)))
    finally:
        set_threads(1)
    for loss, found in results[1:]:
        assert loss == results[0][0]
        assert all(np.array_equal(found[name], g) for name, g in results[0][1].items())


@given(configs(), seeds)
@settings(max_examples=20)
def test_float32_is_near_float64(config, seed):
    exact, ids = build(config, seed), draw_ids(config, seed, 2, 7)
    single = DeepSeekV3.empty(config)
    single.load_state_dict(exact.state_dict())
    for one, two in zip(routing_of(exact, ids), routing_of(single, ids), strict=True):
        assume(np.array_equal(one, two))  # a choice at a hair's breadth
    z = logits(single, ids)
    assert z.dtype == np.float32 and relative(z, logits(exact, ids)) < 1e-4
    loss = single.loss(ids)
    loss.backward()
    assert loss.dtype == np.float32
    assert {g.dtype for g in (p.grad for p in single.parameters()) if g is not None} == {
        np.dtype("float32")
    }


@given(configs(), seeds, st.integers(1, 4))
@settings(max_examples=20)
def test_float32_decoding_is_near_one_pass(config, seed, first):
    """Routing compared first: at a hair's breadth another expert may be chosen."""
    model, ids = scramble(DeepSeekV3.empty(config), seed), draw_ids(config, seed, 2, 7)
    whole, cache, parts = logits(model, ids), model.new_cache(2, 7), []
    for a, b in ((0, first), (first, first + 1), (first + 1, 7)):
        with no_grad():
            h, routings = model.hidden(ids[:, a:b], cache)
        parts.append(model.logits(h).data)
        for one, every in zip(routings, routing_of(model, ids), strict=True):
            assume(np.array_equal(one.indices.reshape(2, b - a, -1), every[:, a:b]))
    assert relative(np.concatenate(parts, 1), whole) < 1e-4


def test_first_weights_come_from_the_generator_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = DeepSeekV3(NANO).state_dict()
    again = DeepSeekV3(NANO, np.random.default_rng(2024)).state_dict()
    other = DeepSeekV3(NANO, np.random.default_rng(1)).state_dict()
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert all(np.array_equal(a, again[name]) for name, a in first.items())
    assert not np.array_equal(first["lm_head.weight"], other["lm_head.weight"])
    for name, array in first.items():
        if array.ndim > 1:
            assert array.std() == pytest.approx(0.02, rel=0.25), name
        else:
            assert (array == ("norm" in name)).all(), name
    assert not any(array.any() for name, array in DeepSeekV3.empty(NANO).state_dict().items()
                   if "norm" not in name)  # fmt: skip


# ------------------------------------------------------------------------------------------- names


@given(configs())
def test_state_dict_has_a_checkpoints_names_and_shapes(config):
    model = DeepSeekV3.empty(config)
    found = {name: array.shape for name, array in model.named_tensors()}
    assert found == dict(tensor_shapes(config, mtp_copies=True))
    assert list(found) == list(dict.fromkeys(name for name, _ in model.named_tensors()))
    stored = sum(p.size for p in model.parameters())
    biases = sum(router.e_score_correction_bias.size for router in model.routers)
    assert stored + biases == sum(math.prod(shape) for _, shape in tensor_shapes(config))


def test_copies_in_the_modules_layers_are_the_main_models_memory():
    model = build(NANO)
    state = model.state_dict()
    assert state["model.layers.2.embed_tokens.weight"] is state["model.embed_tokens.weight"]
    assert state["model.layers.2.shared_head.head.weight"] is state["lm_head.weight"]
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names)) and len({id(p) for p in model.parameters()}) == len(names)
    assert not any(n.endswith(("layers.2.embed_tokens.weight", "head.head.weight")) for n in names)


@given(configs(), seeds)
@settings(max_examples=20)
def test_a_state_is_loaded_in_place(config, seed):
    model, other = build(config, seed), build(config, seed + 1)
    held = {name: p.data for name, p in model.named_parameters()}
    ids = draw_ids(config, seed, 1, 5)
    model.load_state_dict({name: array.copy() for name, array in other.named_tensors()})
    assert all(p.data is held[name] for name, p in model.named_parameters())
    assert np.array_equal(logits(model, ids), logits(other, ids))


def test_a_copy_that_differs_is_refused():
    model, state = build(NANO), {n: a.copy() for n, a in build(NANO, 1).named_tensors()}
    before = logits(model, [[1, 2, 3]])
    state["model.layers.2.shared_head.head.weight"][3, 4] += 1
    with pytest.raises(CheckpointError, match=r"^model\.layers\.2\.shared_head\.head\.weight: "
                       r"differs from lm_head\.weight, whose copy it is$"):  # fmt: skip
        model.load_state_dict(state)
    assert np.array_equal(logits(model, [[1, 2, 3]]), before)


def test_training_never_rebinds_the_data():
    model = DeepSeekV3(NANO)
    held = [p.data for p in model.parameters()]
    optimiser = AdamW(model.parameters(), lr=1e-2)
    before = [array.copy() for array in held]
    model.loss(draw_ids(NANO, 0, 2, 9)).backward()
    optimiser.step()
    for parameter, array, old in zip(model.parameters(), held, before, strict=True):
        assert parameter.data is array and not np.array_equal(array, old)


@given(configs())
@settings(max_examples=20)
def test_routers_come_in_the_order_of_the_routings(config):
    model = build(config)
    for i, router in enumerate(model.routers):
        assert isinstance(router, Router)
        router.e_score_correction_bias[...] = 0
        router.e_score_correction_bias[i % config.n_routed_experts] = 100
    for i, routing in enumerate(model.losses(draw_ids(config, 0, 1, 7)).routings):
        assert (routing.indices[:, 0] == i % config.n_routed_experts).all()
    assert len(model.routers) == config.num_moe_layers + config.num_nextn_predict_layers


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([1, 2, 3], r"got int64 of shape \(3,\), expected integers \(batch, tokens\)"),
        ([[1.0, 2.0]], r"got float64 of shape \(1, 2\), expected integers .*"),
        ([[True, False]], r"got bool of shape \(1, 2\), expected integers .*"),
        ([["a", "b"]], r"got <U1 of shape \(1, 2\), expected integers .*"),
        ([[1, 2], [3]], "got rows of different lengths, expected .*"),
        (np.zeros((0, 4), int), r"got shape \(0, 4\), expected at least \(1, 2\)"),
        ([[5]], r"got shape \(1, 1\), expected at least \(1, 2\)"),
        ([[1, 264]], "got token 264, expected 0 to 263"),
        ([[-1, 3]], "got token -1, expected 0 to 263"),
        (np.array([[2**63, 3]], np.uint64), "got token 9223372036854775808, expected 0 to 263"),
    ],
)
def test_ids_that_are_none_are_refused(ids, sentence):
    with pytest.raises(InputError, match=f"^ids: {sentence}$"):
        DeepSeekV3.empty(NANO).loss(ids)


def test_a_text_longer_than_the_positions_is_refused():
    model = DeepSeekV3.empty(NANO)
    model(np.zeros((1, 64), int))
    with pytest.raises(InputError, match="^position 64 is beyond max_position_embeddings 64; .*"):
        model(np.zeros((1, 65), int))


@pytest.mark.parametrize("dtype", [np.float16, "int32", "bfloat16", "no dtype", None, 3])
def test_a_dtype_to_compute_in_is_checked(dtype):
    with pytest.raises(InputError, match=r"^dtype: got .*float32 or float64$"):
        DeepSeekV3(NANO, dtype=dtype)


def test_a_model_says_what_it_is_and_refuses_what_it_is_not_made_of():
    config = DeepSeekV3Config.preset("nano")
    assert repr(DeepSeekV3(config)).startswith("DeepSeekV3(2 layers, 1 MTP modules, ")
    with pytest.raises(InputError, match="config: got 'nano', expected a DeepSeekV3Config"):
        DeepSeekV3("nano")
    with pytest.raises(InputError, match="rng: got 0, expected a numpy.random.Generator"):
        DeepSeekV3(config, 0)
