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

is added to the main loss. At inference the modules are dropped.
"""

from __future__ import annotations

from typing import Any

from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Tensor, ops
from minideepseek.layers.decoder import DecoderLayer
from minideepseek.layers.module import Embedding, Init, Linear, Module, RMSNorm
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


class MTPModel(Module):
    """The D modules of a model; embedding and head are the main model's and come as arguments."""

    def __init__(self, config: Any, init: Init, rotary: RotaryEmbedding) -> None:
        first, depth = config.num_hidden_layers, config.num_nextn_predict_layers
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
            joined = layer.join(states[:, :slots], embedding(ids[:, k : k + slots]))
            real = None if mask is None else mask[:, k + 1 :]
            y, routing = layer(joined, mask=real)
            states = layer.shared_head.norm(y)
            assert routing is not None  # its block is MoE whatever first_k_dense_replace is
            depths.append((states, routing))
        return depths
