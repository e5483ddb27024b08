r"""Chapter 4a — Multi-token prediction

A language model learns from one question per position: what comes next? V3 asks a second one, what
comes after that, and so gets more signal from the same text, a state that plans ahead, and a free
drafter for speculative decoding.

Module k = 1 … D predicts token t + k + 1 at position t, and does so *sequentially*: it keeps the
causal chain by combining the previous depth's state with the embedding of the token in between
(V3 §2.2):

    h′ᵗ = M [ norm(Emb(x_{t+k})) ; norm(hᵗ of depth k−1) ]      enorm, hnorm, eh_proj
    hᵗ  = TRM(h′)                                               a full MLA + MoE layer of its own
    P(x_{t+k+1}) = softmax(Head(norm(hᵗ)))                      shared_head.norm, the model's head

Embedding and head are the main model's own. Depth 0 is the main model's state *after* its final
norm, and a depth passes on its state after shared_head.norm: so do Hugging Face, vLLM, SGLang and
Megatron; the paper leaves it open, and V4's code takes the state before the norm. The paper writes
M [h ; Emb]; the released weights multiply [Emb ; h], and so do we. Positions are t throughout:
shifting all of them by k would change nothing, rotary scores know distances only.

With a text of N tokens the main model answers T = N − 1 questions and module k answers T − k:
slots t = 0 … N − 2 − k, input x[t + k], target x[t + k + 1]. Each loss is a sum divided by T, and

    L_MTP = λ/D Σₖ Lₖ        with λ = 0.3 for the first 10T tokens and 0.1 afterwards (V3 §4.2)

is added to the main loss: `losses` below gives the Lₖ, the trainer knows λ. At inference the
modules are dropped, and the main model does not notice; or they draft, one cached `step` a token,
for speculative decoding (model/speculative.py). What the second question does to the answers to the
first is measured by `python -m demos.mtp_effect`.

>>> import numpy as np
>>> from minideepseek import DeepSeekV3, DeepSeekV3Config, MTPModel
>>> config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=2)
>>> model, ids = DeepSeekV3(config), np.array([[1, 2, 3, 4, 5, 6]])
>>> h, _ = model.hidden(ids[:, :-1])                # T = 5 states of the main model
>>> mtp = MTPModel(config)                          # or model.mtp, which every model holds
>>> [states.shape for states, _ in mtp(h, ids, model.model.embed_tokens)]
[(1, 4, 32), (1, 3, 32)]
>>> parts, _ = mtp.losses(h, ids, model.model.embed_tokens, model.logits)
>>> [round(loss.item(), 1) for loss in parts]       # about (T − k)/T ln 264: untrained
[4.4, 3.3]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Tensor, ops
from minideepseek.errors import InputError
from minideepseek.layers.cache import LatentCache, ModelCache
from minideepseek.layers.decoder import DecoderLayer
from minideepseek.layers.module import Embedding, Init, Linear, Module, RMSNorm, settle
from minideepseek.layers.moe import Routing
from minideepseek.layers.rope import RotaryEmbedding


class SharedHead(Module):
    """The module's own norm before the main model's head."""

    def __init__(self, config: Any, init: Init) -> None:
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, init)


class MTPLayer(DecoderLayer):
    """One module: a decoder layer, and what joins a state and an embedding before it."""

    def __init__(self, config: Any, index: int, init: Init, rotary: RotaryEmbedding) -> None:
        d, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm = RMSNorm(d, eps, init), RMSNorm(d, eps, init)
        self.eh_proj = Linear(2 * d, d, init)
        super().__init__(config, index, init, rotary)
        self.shared_head = SharedHead(config, init)

    def join(self, h: Tensor, embedded: Tensor) -> Tensor:
        """h′ = M [norm(Emb) ; norm(h)].  h, embedded (B, T, d) → (B, T, d)."""
        return self.eh_proj(ops.concatenate(self.enorm(embedded), self.hnorm(h)))

    def step(
        self,
        h: Tensor,
        embedded: Tensor,
        cache: LatentCache | None = None,
        counts: Array | None = None,
        mask: Array | None = None,
    ) -> tuple[Tensor, Routing]:
        """norm(TRM(h′)), which goes into the head and to the next depth, and the routing.

        h, embedded (B, T, d): of T slots, which follow those in the cache; the rest as a layer's.
        """
        y, routing = self(self.join(h, embedded), cache, counts, mask)
        assert routing is not None  # its block is MoE whatever first_k_dense_replace is
        return self.shared_head.norm(y), routing


class MTPModel(Module):
    """The D ≥ 1 modules of a model; embedding and head are the main model's: arguments here.

    config: a DeepSeekV3Config. rng: a numpy.random.Generator for the weights, None for one from
    seed 2024, or a model's `Init`. rotary: the model's table of angles, made here if left out.
    InputError for num_nextn_predict_layers = 0 (only a model may hold a list of none).
    """

    def __init__(self, config: Any, rng: Any = None, rotary: RotaryEmbedding | None = None) -> None:
        depth = getattr(config, "num_nextn_predict_layers", None)
        if depth is None or (depth < 1 and not isinstance(rng, Init)):
            raise InputError(f"num_nextn_predict_layers: got {depth}, expected at least 1 module")
        config, init = settle(config, rng, {}, {})
        first, rotary = config.num_hidden_layers, rotary or RotaryEmbedding(config)
        self.layers = [MTPLayer(config, first + k, init, rotary) for k in range(depth)]

    def __call__(
        self, h: Tensor, ids: Array, embedding: Embedding, mask: Array | None = None
    ) -> list[tuple[Tensor, Routing]]:
        """For each depth k = 1 … D the states that go into the head, and its routing.

        h (B, T, d): the main model's normed states of ids[:, :-1]; ids (B, T + 1); mask None or
        (B, T + 1), 0 for padding: a slot whose target is padding is routed nowhere.
        States of depth k: (B, T − k, d), slot t predicts ids[t + k + 1].
        """
        depths, states = [], h
        for k, layer in enumerate(self.layers, start=1):
            slots = max(0, ids.shape[1] - 1 - k)  # a text may be shorter than the depth
            real = None if mask is None else mask[:, k + 1 :]
            embedded = embedding(ids[:, k : k + slots])
            states, routing = layer.step(states[:, :slots], embedded, mask=real)
            depths.append((states, routing))
        return depths

    def losses(
        self,
        h: Tensor,
        ids: Array,
        embedding: Embedding,
        head: Callable[[Tensor], Tensor],
        mask: Array | None = None,
        terms: int | None = None,
    ) -> tuple[list[Tensor], list[Routing]]:
        """L₁ … L_D in nats and the routing of each module.

        head: states (B, T, d) → logits (B, T, V), the main model's. terms: what the sums are
        divided by; the number B·T of the main model's questions if not given. The rest as above.
        """
        losses, routings = [], []
        for k, (states, routing) in enumerate(self(h, ids, embedding, mask), start=1):
            losses.append(cross_entropy(head(states), ids, k + 1, mask, terms))
            routings.append(routing)
        return losses, routings

    def new_cache(self, batch: int, capacity: int) -> ModelCache:
        """An empty latent cache of the modules: a slot per token, `capacity` of them reserved."""
        return ModelCache([layer.self_attn.new_cache(batch, capacity) for layer in self.layers])


def cross_entropy(
    logits: Tensor, ids: Array, ahead: int, mask: Array | None = None, terms: int | None = None
) -> Tensor:
    """Σ −ln P(x_{t+ahead}) / terms over the slots of logits (B, N − ahead, V); ids (B, N).

    mask: None or (B, N), 0 for padding, which counts nothing. terms: B·(N − 1) if not given.
    """
    targets, terms = ids[:, ahead:], ids[:, 1:].size if terms is None else terms
    if mask is None:
        return ops.softmax_cross_entropy(logits, targets, denominator=terms)
    weights = mask[:, ahead:].astype(logits.dtype)
    return ops.softmax_cross_entropy(logits, targets, weights, denominator=terms)
