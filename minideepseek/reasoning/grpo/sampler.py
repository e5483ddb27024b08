r"""Chapter 6 — The sampler: G responses to each question, and how likely each of their tokens was

GRPO learns from the model's own samples: for a question q, a group o₁ … o_G drawn from the policy
π_old that the weights are at that moment. The objective then compares, token by token,

    ρₜ = π(oₜ | q, o_<t) / π_old(oₜ | q, o_<t)                       (DeepSeekMath, section 4.1)

so the sampler must hand over π_old(oₜ | …) of every token it drew: under exactly the distribution
that it drew from, temperature τ, top-k and top-p included. A trainer that scores at τ = 1 what was
drawn at 0.7 starts at ρₜ ≠ 1, clips at random and drifts; several public trainers did.

Before the first update π = π_old. `scoring.py` computes π by one pass over whole texts, with no
cache and in another form of attention, and still ρₜ = 1 but for rounding: to 1e-10 in float64, to
1e-4 in float32 (tests/reasoning/grpo/test_scoring.py). This one equality finds a target shifted by
one, a mask that is off, a wrong position and a forgotten temperature; `sampler_gap` among the
metrics watches it in every step.
Where the router chooses by scores that nearly tie, rounding may flip a choice and the gap jumps;
V3.2 therefore keeps the experts of the sampling pass and replays them (`record_routing`).

With top-k or top-p the sampler's distribution is the cut one, and the scorer's is not: ρₜ ≠ 1
there. Train with neither; they are for evaluation (R1 is evaluated at τ = 0.6, top-p 0.95).

The batch
---------
Each prompt is read once; then its row of the cache is repeated G times. Prompts of different
lengths are padded on the right, so each row counts its own positions. A row ends with the end token
or after max_new_tokens; rows that have ended leave the batch when they are a quarter of it: one
long thought then no longer costs as much as a batch of them. (Leaving copies the cache of those who
stay: hence not at each end.) All of it runs on one thread: the products of one token a row are too
small to share.

Every row's uniform numbers are drawn before it starts, one for each token it may come to write.
What a row says then depends on its own numbers alone, not on who else is still in the batch.

>>> from minideepseek import DeepSeekV3, DeepSeekV3Config
>>> from minideepseek.model.tokenizer import WordTokenizer
>>> words = WordTokenizer(["<pad>", "<bos>", "<eos>", "<think>", "</think>", "4", "+"])
>>> model = DeepSeekV3(DeepSeekV3Config.preset("reason", vocab_size=7))
>>> sampler = GroupSampler(model, words, group_size=3, max_new_tokens=4)
>>> rollout = sampler.sample([np.array([1, 5, 6, 5])], np.random.default_rng(0))
>>> rollout.ids.shape, rollout.mask[0].tolist()           # the prompt's own tokens do not count
((3, 8), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
>>> rollout.completions(words)[1]                        # after four tokens no end token yet
('4 + <think> </think>', False)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minideepseek.autograd import backend, blocks
from minideepseek.autograd.engine import no_grad, ops
from minideepseek.errors import InputError
from minideepseek.layers.cache import ModelCache
from minideepseek.layers.moe import Routing
from minideepseek.model.generate import check_sampling, probabilities
from minideepseek.model.tokenizer import Tokenizer
from minideepseek.model.transformer import DeepSeekV3

LEAVING = 0.25  # the share of ended rows at which they leave the batch


@dataclass
class Rollout:
    """R sampled texts, G in a row for each prompt; host arrays.

    ids (R, T) int64: prompt, completion with its end token, padding. prompt_lengths, lengths (R,):
    tokens of the prompt, and of both. ended (R,) bool: the end token came; else the length limit.
    mask, logprobs (R, T − 1) float64, aligned with the targets ids[:, 1:]: 1 on the completion and
    its end token; ln π_old of each such token, 0 elsewhere.
    routing: None, or for each MoE layer (R, T − 1, K) int64, the experts of position t, −1 for
    positions that no target needs.
    """

    ids: np.ndarray
    prompt_lengths: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray
    mask: np.ndarray
    logprobs: np.ndarray
    routing: list[np.ndarray] | None = None

    def completions(self, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
        """(text, ended) of each row: special tokens by name, the end token left out."""
        first, last = self.prompt_lengths, self.lengths - self.ended
        return [
            (tokenizer.decode(row[a:b]), bool(end))
            for row, a, b, end in zip(self.ids, first, last, self.ended, strict=True)
        ]

    def select(self, rows: Any) -> Rollout:
        """These rows (integers, any order), cut to the longest of them."""
        rows = np.asarray(rows)
        width = int(self.lengths[rows].max(initial=2))
        targets = (rows, slice(width - 1))
        routing = self.routing
        return Rollout(
            self.ids[rows, :width],
            self.prompt_lengths[rows],
            self.lengths[rows],
            self.ended[rows],
            self.mask[targets],
            self.logprobs[targets],
            None if routing is None else [layer[targets] for layer in routing],
        )


class GroupSampler:
    """G completions for each prompt, by batched cached decoding.

    temperature 0 is the argmax, whose log-probability is 0. InputError for sampling values that
    define no distribution, counts below 1, and a tokenizer whose words are not the model's.
    """

    def __init__(
        self,
        model: DeepSeekV3,
        tokenizer: Tokenizer,
        group_size: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> None:
        check_sampling(temperature, top_k, top_p)
        for name, value in (("group_size", group_size), ("max_new_tokens", max_new_tokens)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: got {value!r}, expected an integer of at least 1")
        if tokenizer.vocab_size != model.config.vocab_size:
            raise InputError(
                f"tokenizer: got one of {tokenizer.vocab_size} tokens, "
                f"expected the model's {model.config.vocab_size}"
            )
        self.model, self.tokenizer = model, tokenizer
        self.group_size, self.max_new_tokens = group_size, max_new_tokens
        self.law = (temperature, top_k, top_p)

    def sample(
        self, prompts: Sequence[Any], rng: np.random.Generator, record_routing: bool = False
    ) -> Rollout:
        """G completions of each prompt, (N,) integers; rows of a group are consecutive.

        rng gives rows × max_new_tokens uniform numbers, none at temperature 0. record_routing:
        keep the experts of every token. InputError for no prompts, an empty one, ids out of range,
        and a prompt that with max_new_tokens exceeds max_position_embeddings.
        """
        ids, lengths = self._padded(prompts)
        rollout = self._blank(ids, lengths, record_routing)
        shape = (len(rollout.ids), self.max_new_tokens)
        uniform = rng.random(shape) if self.law[0] > 0 else np.zeros(shape)
        with no_grad(), blocks.serial():
            self._decode(ids, lengths, rollout, uniform)
        target = np.arange(1, rollout.ids.shape[1])
        rollout.mask[...] = target >= rollout.prompt_lengths[:, None]
        rollout.mask[target >= rollout.lengths[:, None]] = 0
        return rollout.select(np.arange(len(rollout.ids)))

    def _padded(self, prompts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Checked prompts as ids (P, longest), padded on the right, and their lengths (P,)."""
        rows = [np.asarray(prompt) for prompt in prompts]
        if not rows:
            raise InputError("prompts: got none, expected at least one")
        for i, row in enumerate(rows):
            if row.ndim != 1 or not row.size or row.dtype.kind not in "iu":
                raise InputError(
                    f"prompts: got {row.dtype} of shape {row.shape} as number {i}, "
                    "expected a row of integers"
                )
        lengths = np.array([row.size for row in rows])
        limit = self.model.config.max_position_embeddings
        if lengths.max() + self.max_new_tokens > limit:
            raise InputError(
                f"prompts: number {lengths.argmax()} has {lengths.max()} tokens, with "
                f"max_new_tokens {self.max_new_tokens} more than max_position_embeddings {limit}"
            )
        ids = np.full((len(rows), lengths.max()), self.tokenizer.pad_token_id, np.int64)
        for i, row in enumerate(rows):
            ids[i, : row.size] = row
        self.model.check_ids(ids)
        return ids, lengths

    def _blank(self, ids: np.ndarray, lengths: np.ndarray, record_routing: bool) -> Rollout:
        """The prompts, G times each, with room for the completions."""
        size, config = self.group_size, self.model.config
        rows, width = size * len(ids), ids.shape[1] + self.max_new_tokens
        room = np.full((rows, width), self.tokenizer.pad_token_id, np.int64)
        room[:, : ids.shape[1]] = ids.repeat(size, 0)
        routing = None
        if record_routing:
            shape = (rows, width - 1, config.num_experts_per_tok)
            moe = sum(config.is_moe_layer(i) for i in range(config.num_hidden_layers))
            routing = [np.full(shape, -1, np.int64) for _ in range(moe)]
        return Rollout(
            ids=room,
            prompt_lengths=lengths.repeat(size),
            lengths=lengths.repeat(size),
            ended=np.zeros(rows, bool),
            mask=np.zeros((rows, width - 1)),
            logprobs=np.zeros((rows, width - 1)),
            routing=routing,
        )

    def _decode(
        self, ids: np.ndarray, lengths: np.ndarray, out: Rollout, uniform: np.ndarray
    ) -> None:
        """Continue the rows of `out` to their ends; ids (P, T), lengths (P,): the prompts."""
        cache = self.model.new_cache(len(ids), out.ids.shape[1])
        z, routings = self._read(ids, cache, lengths)
        group = np.arange(len(ids)).repeat(self.group_size)
        cache.select(group)
        z = z[group]
        for kept, routing in zip(out.routing or (), routings, strict=False):
            experts = backend.to_host(routing.indices).reshape(*ids.shape, -1)
            kept[:, : ids.shape[1]] = experts[group]
        rows = np.arange(len(group))  # the rows of `out` that are in the batch
        for step in range(self.max_new_tokens):
            tokens, logprobs = draw_tokens(probabilities(z, *self.law), uniform[rows, step])
            self._write(out, rows, tokens, logprobs)
            stay = np.flatnonzero(~out.ended[rows])
            if not stay.size or step + 1 == self.max_new_tokens:
                return
            if stay.size <= (1 - LEAVING) * rows.size:
                cache.select(stay)
                rows, tokens = rows[stay], tokens[stay]
            z, routings = self._read(tokens[:, None], cache)
            running = np.flatnonzero(~out.ended[rows])
            place = (rows[running], out.lengths[rows[running]] - 1)
            for kept, routing in zip(out.routing or (), routings, strict=False):
                kept[place] = backend.to_host(routing.indices)[running]

    def _read(
        self, feed: np.ndarray, cache: ModelCache, lengths: np.ndarray | None = None
    ) -> tuple[np.ndarray, list[Routing]]:
        """Logits (B, V) on the host after each row's last real token of feed, and the routings."""
        ids, (batch, tokens), mask = self.model.check_ids(feed), feed.shape, None
        if lengths is None or (lengths == tokens).all():
            h, routings = self.model.hidden(ids, cache)
            last = h[:, -1]
        else:
            mask = backend.like(np.arange(tokens) < lengths[:, None], ids)
            h, routings = self.model.hidden(ids, cache, lengths, mask)
            at = backend.like(np.arange(batch) * tokens + lengths - 1, ids)
            last = ops.take(ops.reshape(h, shape=(batch * tokens, h.shape[2])), at)
        return backend.to_host(self.model.logits(last).data), routings

    def _write(
        self, out: Rollout, rows: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray
    ) -> None:
        """Append each row's token (rows in the batch that have ended stay as they are)."""
        running = ~out.ended[rows]
        alive = rows[running]
        at = out.lengths[alive]
        out.ids[alive, at] = tokens[running]
        out.logprobs[alive, at - 1] = logprobs[running]
        out.lengths[alive] += 1
        out.ended[alive] = tokens[running] == self.tokenizer.eos_token_id


def draw_tokens(p: np.ndarray, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's token, the first whose cumulative mass exceeds its number, and ln p of it.

    p (B, V) float64, uniform (B,) in [0, 1): times the total, it stays below the total even when
    rounded, so the token is one that p allows.
    """
    cumulative = np.cumsum(p, -1)
    tokens = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    return tokens, np.log(p[np.arange(len(p)), tokens])
