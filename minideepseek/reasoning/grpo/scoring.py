r"""Chapter 6 — The scorer: the same tokens read again, in one pass and with a gradient

    ln π(oₜ | q, o_<t) = zₜ[oₜ]/τ − ln Σⱼ e^(zₜ[j]/τ) ,   z = the logits one position before

for every token of a rollout, at the temperature τ that it was drawn at. Rows are padded on the
right: no token sees what comes after it, so padding changes no token before it, and it is routed to
no expert, so it changes no balance either.

The entropy of the distribution at each position,

    Hₜ = −Σⱼ pₜ(j) ln pₜ(j) ,   p = softmax(z/τ) ,   0 ≤ H ≤ ln V ,

says how much the policy still explores. It is a sum over all V tokens; −ln p of the token drawn is
an estimate of it with a variance of its own, and wrong once rows are selected by their rewards.

Replay (V3.2): where routing is given, each token goes to the experts of the sampling pass; their
weights are still this pass's, so that the router learns. Otherwise a rounding difference, or the
updates between sampling and training, may send a token elsewhere, and ρₜ jumps.

>>> import numpy as np
>>> from minideepseek import DeepSeekV3, DeepSeekV3Config
>>> from minideepseek.model.tokenizer import WordTokenizer
>>> from minideepseek.reasoning.grpo.sampler import GroupSampler
>>> words = WordTokenizer(["<pad>", "<bos>", "<eos>", "<think>", "</think>", "4", "+"])
>>> model = DeepSeekV3(DeepSeekV3Config.preset("reason", vocab_size=7))
>>> sampler = GroupSampler(model, words, group_size=3, max_new_tokens=4, temperature=0.7)
>>> rollout = sampler.sample([np.array([1, 5, 6, 5])], np.random.default_rng(0))
>>> scores = score_completions(model, rollout, temperature=0.7)
>>> bool(np.abs((scores.logprobs.numpy() - rollout.logprobs) * rollout.mask).max() < 1e-5)
True
"""

from __future__ import annotations

import math
from typing import NamedTuple

from minideepseek.autograd.backend import Array, like, xp_of
from minideepseek.autograd.engine import Tensor, ops
from minideepseek.errors import InputError
from minideepseek.layers.moe import Routing
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning.grpo.sampler import Rollout


class Scores(NamedTuple):
    """What one pass says of a rollout's R rows of T tokens.

    logprobs: Tensor (R, T − 1) in nats, aligned with the targets ids[:, 1:]; entropy (R, T − 1), an
    array without gradient; routings: one per MoE layer, padding uncounted, for the bias update.
    Where the rollout's mask is 0 the numbers are finite and mean nothing.
    """

    logprobs: Tensor
    entropy: Array
    routings: list[Routing]


def score_completions(
    model: DeepSeekV3,
    rollout: Rollout,
    temperature: float = 1.0,
    routing: list[Array] | None = None,
) -> Scores:
    """ln π of every token of a rollout, by one pass without a cache.

    temperature: of the sampling. routing: a rollout's, to be replayed, (R, T − 1, K) host integers
    per MoE layer. InputError for a temperature that is no positive number and for a routing of
    another shape.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature: got {temperature!r}, expected a number above 0")
    ids = model.check_ids(rollout.ids, least=2)
    replay = None if routing is None else _flat_routing(model, routing, rollout)
    xp = xp_of(ids)
    # The last token is read by nobody: positions 0 … length − 2 are all that targets need.
    real = xp.arange(ids.shape[1] - 1) < like(rollout.lengths[:, None] - 1, ids)
    h, routings = model.hidden(ids[:, :-1], mask=real, routing=replay)
    logits = model.logits(h)
    logprobs = ops.token_logprobs(logits, ids[:, 1:], temperature=temperature)
    return Scores(logprobs, entropy_of(logits.data, temperature), routings)


def entropy_of(logits: Array, temperature: float = 1.0) -> Array:
    """H of softmax(logits / τ) in nats, over the last axis.  (…, V) → (…)

    With z shifted by its maximum, H = ln Σ eᶻ − Σ p z: no logarithm of a p that has become 0.
    """
    xp = xp_of(logits)
    z = logits * (1 / temperature)
    z -= z.max(-1, keepdims=True)
    e = xp.exp(z)
    total = e.sum(-1)
    e *= z
    return xp.log(total) - e.sum(-1) / total


def _flat_routing(model: DeepSeekV3, routing: list[Array], rollout: Rollout) -> list[Array]:
    """A rollout's routing as (R·(T − 1), K) arrays where the model lives."""
    config, (rows, tokens) = model.config, rollout.ids.shape
    moe = sum(config.is_moe_layer(i) for i in range(config.num_hidden_layers))
    shape = (rows, tokens - 1, config.num_experts_per_tok)
    if [layer.shape for layer in routing] != [shape] * moe:
        raise InputError(
            f"routing: got shapes {[layer.shape for layer in routing]}, "
            f"expected {moe} times {shape}"
        )
    weight = model.model.norm.weight.data
    return [like(layer.reshape(-1, shape[2]), weight) for layer in routing]
