"""What a step of `small` costs in things that can be counted: primitives, arrays, bytes.

A guard against becoming slow or large that no busy machine can upset. The limits are what a step
takes today, and a tenth more.
"""

import collections
import tracemalloc

import numpy as np
import pytest

from minideepseek import AdamW, DeepSeekV3, DeepSeekV3Config, clip_grad_norm
from minideepseek.autograd.engine import no_grad, watch
from minideepseek.model.decoding import Decoding
from minideepseek.model.generate import next_logits

CONFIG = DeepSeekV3Config.preset("small", aux_loss_alpha=0.0)
BATCH, TOKENS = 16, 128
MARGIN = 1.1
ARRAYS = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)

# Of one forward pass: four layers, three of them with experts. The backward pass calls as many.
PRIMITIVES = {
    "linear": 36, "getitem": 20, "reshape": 18, "rms_norm": 17, "add": 11, "rope": 8,
    "attention": 4, "append_shared": 4, "swiglu": 4, "concatenate": 4, "expert_mlp": 3,
    "sigmoid": 3, "take_along_axis": 3, "sum": 3, "shift": 3, "divide": 3, "scale": 3, "take": 1,
    "softmax_cross_entropy": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return DeepSeekV3(CONFIG, np.random.default_rng(0))


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).integers(0, CONFIG.vocab_size, (BATCH, TOKENS + 1))


@pytest.fixture
def traced():
    """tracemalloc, which sees every NumPy array, while the test runs."""
    tracemalloc.start()
    yield tracemalloc
    tracemalloc.stop()


def saved_numbers(c):
    """Numbers that a training step keeps for backward, per token: of each layer what the table in
    fused.py and the docstrings of attention.py and experts.py say, shared arrays once."""
    heads, d = c.num_attention_heads, c.hidden_size
    q, k, v = (heads * w for w in (c.qk_head_dim, c.qk_head_dim, c.v_head_dim))
    latents = c.kv_lora_rank + c.qk_rope_head_dim
    attention = (
        2 * d + 2  # the residual x, normed, and r of both norms: linear's and rms_norm's inputs
        + 2 * c.q_lora_rank + 1  # between W^DQ and W^UQ
        + latents + c.kv_lora_rank + 1  # between W^DKV and [W^UK; W^UV]
        + q + k  # turned
        + heads * (c.qk_nope_head_dim + c.v_head_dim)  # v is a view of what holds k^C too
        + v + heads  # y, which W^O reads, and its log-sum-exps
    )  # fmt: skip
    dense = 3 * c.intermediate_size  # gate, up and their product
    pairs, shared = c.num_experts_per_tok, c.n_shared_experts * c.moe_intermediate_size
    choice = 2 * c.n_routed_experts + 8 * pairs  # affinities; gates, and integers of 8 bytes
    experts = pairs * 2 * c.moe_intermediate_size + 3 * shared + choice
    layers, first = c.num_hidden_layers, c.first_k_dense_replace
    block = attention + 2 * d  # x after attention, and normed
    ends = 2 * d + 2 + c.vocab_size  # the last norm's input and output; logits
    return layers * block + first * dense + (layers - first) * experts + ends


def large_arrays(traced):
    """How many arrays of at least 64 KiB are alive."""
    alive = traced.take_snapshot().filter_traces([ARRAYS]).traces
    return len([t for t in alive if t.size >= 1 << 16])


def test_primitives_of_a_training_step(model, ids):
    seen = collections.Counter()
    with watch(lambda name, _: seen.update([name])):
        loss = model.loss(ids)
    assert set(seen) == set(PRIMITIVES)
    for name, count in seen.items():
        assert count <= PRIMITIVES[name], f"{name}: {count}"
    loss.backward()
    model_gradients = [p.grad for p in model.parameters()]
    assert all(g is not None for g in model_gradients)


def test_arrays_and_bytes_of_a_training_step(model, ids, traced):
    optimiser = AdamW(model.parameters(), lr=1e-4)
    optimiser.zero_grad()
    model.loss(ids).backward()  # tables of angles, gradients, work arrays: made once
    clip_grad_norm(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    before, there = traced.get_traced_memory()[0], large_arrays(traced)
    loss = model.loss(ids)
    kept = traced.get_traced_memory()[0] - before
    told = 4 * saved_numbers(CONFIG) * BATCH * TOKENS
    assert abs(kept / told - 1) < 0.03, f"{kept:,} bytes are kept, the docstrings tell {told:,}"
    assert large_arrays(traced) - there <= MARGIN * 82
    traced.reset_peak()
    loss.backward()
    clip_grad_norm(model.parameters(), 1.0)
    optimiser.step()
    weights = sum(p.data.nbytes for p in model.parameters())
    total = traced.get_traced_memory()[1] - before + 3 * weights  # and the values and moments
    assert total <= 1.3 * (4 * weights + told)
    assert total <= MARGIN * (0.95 * (4 * weights + told))  # what it is: gradients replace arrays


def test_a_step_frees_what_it_made(model, ids, traced):
    model.loss(ids).backward()
    gradients = sum(p.grad.nbytes for p in model.parameters())
    for p in model.parameters():
        p.grad = None
    before = traced.get_traced_memory()[0]
    model.loss(ids).backward()
    assert traced.get_traced_memory()[0] - before < gradients + (1 << 16)


def growth(work, lengths, traced):
    """Bytes by which the peak of work(length) grows per token from the first length to the last."""
    peaks = []
    for length in lengths:
        work(length)
        traced.reset_peak()
        before = traced.get_traced_memory()[0]
        work(length)
        peaks.append(traced.get_traced_memory()[1] - before)
    return (peaks[-1] - peaks[0]) / (lengths[-1] - lengths[0])


@pytest.mark.parametrize("batch", [1, 8])
def test_a_decoded_token_allocates_nothing_that_grows_but_scores(model, traced, batch):
    cache = model.new_cache(batch, 1024)
    prompt = np.ones((batch, 1000), np.int64)
    next_logits(model, prompt, cache, np.full(batch, 1000))
    token = Decoding(model, cache) if batch == 1 else None
    ones = np.ones(batch, np.int64)

    def work(length):
        for layer in cache.layers:
            layer.lengths[:] = length  # it was filled that far
        if token is not None:
            token.logits(token(ones))
        else:
            next_logits(model, ones[:, None], cache, ones)

    heads = CONFIG.num_attention_heads
    assert growth(work, (64, 990), traced) <= 2.5 * batch * heads * 4  # scores, and once in passing


def test_a_decoded_token_of_one_sequence_is_no_primitive(model):
    cache, seen = model.new_cache(1, 8), []
    decoding = Decoding(model, cache)
    with no_grad(), watch(lambda name, _: seen.append(name)):
        decoding.logits(decoding(np.array([3])))
    assert seen == []
