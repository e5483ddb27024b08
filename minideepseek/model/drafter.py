r"""The drafter of speculative decoding: a model's MTP modules and their cache

Module 1 holds a slot t for each pair (h_t, x_{t+1}) of a true state and the token after it, and
its state there is the question what x_{t+2} is. With x₀ … x_{n−1} written, slot n − 2 drafts y₁.

While drafting, slots are made of drafts and of states that stand in for others. They are cut, all
of them, and made again from the true states and the written tokens once the main model has read
these: in the pass that gives the next first draft, so that it costs nothing extra.

Longer drafts use the module again, on its own output: for y₂, slot n − 1 takes y₁ and, for h_{n−1},
which nobody knows yet, the state that drafted y₁. Module and head were trained on neither, which
costs some acceptance.

With D modules (layers/mtp.py), module k drafts yₖ from slot n − 2: its input is module k − 1's
state and y_{k−1}, as in training. Then the D states that have drafted stand in for the main model's
next D, and module 1 goes on with D slots more: draft j comes from module (j − 1) mod D + 1. Of
module k only the slots up to n − 1 − k hold nothing but written tokens, so in every round the last
D − 1 slots are made again; the main model's states of these are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.engine import Tensor, no_grad
from minideepseek.layers.cache import ModelCache
from minideepseek.model.decoding import Drafting, fits
from minideepseek.model.generate import (
    Request,
    choose,
    host_logits,
    last_of,
    own_thread,
    padded,
    pick,
)
from minideepseek.model.transformer import DeepSeekV3

Laws = list[Any]  # of the drafts y₁ … y_K: (B, V) each, or None where decoding is greedy


class Drafter:
    """The MTP modules at work for a batch: their cache, and what they remember of a round."""

    def __init__(self, model: DeepSeekV3, batch: int, capacity: int, draft_tokens: int) -> None:
        self.model, self.layers = model, model.mtp.layers[:draft_tokens]
        self.depth = len(self.layers)  # D
        self.cache = ModelCache(model.mtp.new_cache(batch, capacity).layers[: self.depth])
        self.tail: Array | None = None  # (B, D − 1, d): main states of the last slots
        self.alone = self._alone(batch)

    def draft(
        self,
        h: Array,
        fresh: np.ndarray,
        text: np.ndarray,
        ends: np.ndarray,
        count: int,
        asked: Request,
    ) -> Laws:
        """Write `count` drafts behind text[b, : ends[b]], for each row b; returns their laws.

        h (B, T, d): the main model's states that are new, fresh[b] of them real: those of the
        tokens before the last written one.
        """
        rows, laws, made = np.arange(len(ends)), Laws(), 0
        h, slots = self._states(h, fresh, ends - 1 - fresh - self.cache.lengths)
        start = ends - 1 - slots  # the first of the slots to be made
        while made < max(count, self.depth):  # all modules in the first cycle: each needs its slots
            drafted = []
            for k in range(min(self.depth, max(count, self.depth) - made)):
                at = start[:, None] + k + 1 + np.arange(h.shape[1])
                tokens = text[rows[:, None], np.minimum(at, text.shape[1] - 1)]
                h = self._step(k, h, tokens, slots)
                drafted.append(last_of(h, slots))
                logits = host_logits(self.model, drafted[-1])[:, 0]
                text[rows, ends + made], law = choose(logits, asked.sampling, asked.rng)
                laws.append(law)
                made += 1
            h, start = xp_of(h).concatenate(drafted, 1), start + slots
            slots = np.full_like(slots, len(drafted))
        self.cache.truncate(np.maximum(ends - self.depth, 0))
        return laws[:count]

    def _alone(self, batch: int) -> list[Drafting]:
        """The modules for one sequence without Tensors, where that is possible."""
        if batch > 1 or not fits(self.model):
            return []
        return [Drafting(*pair) for pair in zip(self.layers, self.cache.layers, strict=True)]

    def _states(self, h: Array, fresh: np.ndarray, kept: np.ndarray) -> tuple[Array, np.ndarray]:
        """The states of the slots to be made, kept[b] of them the tail's, and their number (B,)."""
        slots, before = kept + fresh, self.depth - 1
        columns = np.arange(slots.max())
        if self.tail is not None:
            h = xp_of(h).concatenate([self.tail, h], 1)
            at = (before - kept)[:, None] + columns
            h = pick(h, np.minimum(at, h.shape[1] - 1))
        else:
            h = h[:, : len(columns)]
        if before:
            self.tail = pick(h, np.maximum(slots[:, None] - before + np.arange(before), 0))
        return h, slots

    def _step(self, k: int, h: Array, tokens: np.ndarray, slots: np.ndarray) -> Array:
        """The states of module k + 1 for these slots, which its cache then holds."""
        if self.alone and tokens.size < 8:  # a prompt is many
            embedded = self.model.model.embed_tokens.weight.data[tokens[0]]
            return self.alone[k](h[0], embedded)[None]
        ids = backend.like(tokens, h)
        real, mask = padded(slots, ids)
        with no_grad(), own_thread(ids.size):
            embedded, cache = self.model.model.embed_tokens(ids), self.cache.layers[k]
            return self.layers[k].step(Tensor(h), embedded, cache, real, mask)[0].data

    def select(self, rows: np.ndarray) -> None:
        """Keep these rows."""
        self.cache.select(rows)
        self.alone = self._alone(len(rows))
        if self.tail is not None:
            self.tail = self.tail[backend.like(rows, self.tail)]
