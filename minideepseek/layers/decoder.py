r"""One decoder layer: attention, then an MLP or a mixture of experts, each behind a norm.

    h = x + Attention(norm(x)) ,      y = h + FFN(norm(h))

(MoE paper, eq. 1–2, which leave the norms out.) They stand before the branches (pre-norm), so that
the sum x → h → y runs through the whole model untouched. The first `first_k_dense_replace` layers
have a plain SwiGLU, the others DeepSeekMoE (V3: three dense layers of 61).
"""

from __future__ import annotations

from typing import Any

from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Tensor
from minideepseek.layers.cache import LatentCache
from minideepseek.layers.mla import DeepSeekAttention
from minideepseek.layers.module import MLP, Init, Module, RMSNorm
from minideepseek.layers.moe import DeepSeekMoE, Routing
from minideepseek.layers.rope import RotaryEmbedding


class DecoderLayer(Module):
    """Layer number `index` of a DeepSeek-V3.  x (B, T, d) → (B, T, d)."""

    def __init__(self, config: Any, index: int, init: Init, rotary: RotaryEmbedding) -> None:
        d, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(d, eps, init)
        self.self_attn = DeepSeekAttention(config, init, rotary)
        self.post_attention_layernorm = RMSNorm(d, eps, init)
        self.mlp: MLP | DeepSeekMoE
        if config.is_moe_layer(index):
            self.mlp = DeepSeekMoE(config, init)
        else:
            self.mlp = MLP(d, config.intermediate_size, init)

    def __call__(
        self,
        x: Tensor,
        cache: LatentCache | None = None,
        counts: Array | None = None,
        mask: Array | None = None,
        segment_ids: Array | None = None,
        replay: Array | None = None,
    ) -> tuple[Tensor, Routing | None]:
        """The output and the router's decisions (None for a dense layer).

        cache, counts, segment_ids: see MultiHeadLatentAttention. mask: (B, T), 0 for padding.
        replay: (B·T, k), the experts to use in place of the router's choice.
        """
        h = x + self.self_attn(self.input_layernorm(x), cache, counts, segment_ids)
        z = self.post_attention_layernorm(h)
        if isinstance(self.mlp, MLP):
            return h + self.mlp(z), None
        y, routing = self.mlp.routed(z, mask, replay)
        return h + y, routing
