r"""Chapter 2 — Multi-head Latent Attention, with decoupled rotary positions

A decoder that writes token t looks back at keys and values of all tokens before it. Kept for every
head they are the memory bill of a server. MLA keeps one short vector per token instead, and still
gives every head keys and values of its own. Numbers per token and layer at V3's dimensions, and
BF16 bytes per token over its 61 layers (chapter 1 for the first three):

    MHA      n_h (d_h + d_v)    128 · 256    32,768    3,997,696    57 times MLA's
    GQA-8      8 (d_h + d_v)      8 · 256     2,048      249,856    3.6 times MLA's
    MQA            d_h + d_v          256       256       31,232    MLA's is 2.25 times larger
    MLA          d_c + d_h^R     512 + 64       576       70,272

MLA is not the smallest: it needs the room of a GQA with 2.25 groups. What it buys with it is that
every head reads the vector through matrices of its own. (`minideepseek info --preset v3` counts the
same table from the configuration.)

    paper      here and in the config         code below          V3
    h                                         x                   7,168 wide
    n_h        num_attention_heads            heads, H            128
    d_c        kv_lora_rank                   latent, r           512
    d_c′       q_lora_rank                                        1,536
    d_h        qk_nope_head_dim               nope, dn            128
    d_h^R      qk_rope_head_dim               rope_width, dr      64
    d_v        v_head_dim                     value, dv           128

The latent
----------
Keys and values of all heads are made from one short vector, and only that vector is kept:

    c^KV = norm(W^DKV h)               (V2 eq. 9)     kv_a_proj_with_mqa, kv_a_layernorm
    k^C  = W^UK c^KV,  v^C = W^UV c^KV (V2 eq. 10–11) kv_b_proj, per head [k_nope | v]
    c^Q  = norm(W^DQ h)                (V2 eq. 12)    q_a_proj, q_a_layernorm
    q^C  = W^UQ c^Q                    (V2 eq. 13)    q_b_proj  (q_proj where q_lora_rank is null)

The norms are not in V2's equations but in its text and in the weights; both use ε = 1e-6 whatever
the config says. The query's latent saves no cache, only activations in training.

Absorption
----------
Read literally, eq. 10 and 11 expand every cached latent to keys and values again for every token
that is decoded. Nothing has to be expanded. The score of head i between a query and the token s is

    qᵢ·kᵢ = qᵢᵀ (Wᵢ^UK cₛ) = (Wᵢ^UKᵀ qᵢ)ᵀ cₛ = q̃ᵢ·cₛ         with  q̃ᵢ = Wᵢ^UKᵀ qᵢ ,

a matter of where the brackets stand: q̃ᵢ does not depend on s, it is made once. The weighted sum of
the values is linear in them, so W^UV can wait until it is done:

    yᵢ = Σₛ pᵢₛ (Wᵢ^UV cₛ) = Wᵢ^UV (Σₛ pᵢₛ cₛ) = Wᵢ^UV ỹᵢ .

In this *absorbed* form all heads attend to the latents themselves: it is MQA with one key of width
d_c + d_h^R and one value of width d_c. The *naive* form expands first. They are one function, as
`attend_naive` and `attend_absorbed` below are side by side; multiplications per head:

                          naive                              absorbed                        V3
    for each query        –                                  d_c (d_h + d_v)            131,072
    for each key          d_c (d_h + d_v)                    –                          131,072
    for each pair         (d_h + d_h^R) + d_v                (d_c + d_h^R) + d_c    320 | 1,088

A decoded token is one query against the whole cache: absorbed costs 1,088 a key, and re-expanding
131,392. In training every token is a query and a key once, the first two lines are equal, and the
third favours the naive form. Between the two, T new tokens against a long cache are cheaper
absorbed while 1,088 T < 131,072 + 320 T, up to T = 170: `absorbed_is_cheaper`. (The cost of a
decoded token against the context, measured: `python -m demos.mla_cost`.)

V2 lets W^UK vanish into W^UQ, and W^UV into W^O. Here they stay: Wᵢ^UKᵀ Wᵢ^UQ would have 512 ·
1,536 entries for each head, three times as many as its two factors, so that two thin products one
after the other are cheaper than the wide one; and nothing has to be kept in step when weights
change.

Why positions are decoupled
---------------------------
Let keys and queries be rotated, as elsewhere, with the angle of their positions (rope.py):

    qᵢ·kᵢ = (R(t) qᵢ)ᵀ (R(s) Wᵢ^UK cₛ) = qᵢᵀ R(s − t) Wᵢ^UK cₛ = (Wᵢ^UKᵀ R(t − s) qᵢ)ᵀ cₛ .

The bracket now holds s: there is one q̃ᵢ for each distance, and making it costs what expanding the
key would. Nor can the cache take the rotation over. R(s) turns channels that W^UK has mixed before,
and no matrix A(s) on the latent does the same, Wᵢ^UK A(s) = R(s) Wᵢ^UK for all i: one latent serves
128 different Wᵢ^UK. What remains is to keep the rotated keys of all heads, which is MHA's cache, or
to expand all latents again at every token, which is the naive form.

So the rotation gets channels of its own: a query part per head, and one key that all heads share.
It is made from h itself, rotated once, and kept beside the latent; W^UK does not touch it.

    q^R = RoPE(W^QR c^Q),   k^R = RoPE(W^KR h)                      (V2 eq. 14–15)
    qᵢ = [qᵢ^C ; qᵢ^R],     kᵢ = [kᵢ^C ; k^R]                       (V2 eq. 16–17)
    yᵢ(t) = Σ_{s≤t} softmax_s( qᵢ(t)·kᵢ(s) / √(d_h + d_h^R) ) vᵢ^C(s) ,  then W^O  (V2 eq. 18–19)

One softmax over the sum of both parts, qᵢ^C·kᵢ^C + qᵢ^R·k^R = q̃ᵢ·cₛ + qᵢ^R·k^R, with one scale. It
is d_h^R = 64 numbers more a token and nothing more a head. The cache holds [c^KV after its norm |
k^R after its rotation] and nothing else.

For longer contexts YaRN changes the rotation and the scale, nothing else: some channels turn more
slowly, and the scale becomes m² / √(d_h + d_h^R). rope.py has both of its rules for m; what it does
for a model that has read 128 tokens at a time is measured by `python -m demos.long_context`.

Two classes: `MultiHeadLatentAttention` is the core without positions; `DeepSeekAttention` adds the
decoupled rotary part and is what the model uses.

>>> from minideepseek import DeepSeekAttention, DeepSeekV3Config, MultiHeadLatentAttention, Tensor
>>> import numpy as np
>>> config, rng = DeepSeekV3Config.preset("nano"), np.random.default_rng(0)
>>> attention, x = DeepSeekAttention(config, rng), Tensor(np.ones((2, 5, 32), np.float32))
>>> attention(x)
Tensor(shape=(2, 5, 32), float32, cpu, from linear)
>>> cache = attention.new_cache(batch=2, capacity=8)
>>> _ = attention(x, cache)
>>> cache.data.shape                      # kv_lora_rank + qk_rope_head_dim = 16 + 8 per token
(2, 8, 24)
>>> naive, absorbed = (attention(x, absorbed=form).data for form in (False, True))
>>> bool(abs(naive - absorbed).max() < 1e-6 * abs(naive).max())     # one function
True

Without a config, the fields themselves:

>>> core = MultiHeadLatentAttention(
...     hidden_size=32, num_attention_heads=2, kv_lora_rank=16, qk_nope_head_dim=8, v_head_dim=8,
...     rng=rng,
... )
>>> core(x)
Tensor(shape=(2, 5, 32), float32, cpu, from linear)
"""

from __future__ import annotations

from typing import Any

from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Tensor, ops
from minideepseek.errors import InputError
from minideepseek.layers.cache import LatentCache
from minideepseek.layers.module import REQUIRED, Linear, Module, RMSNorm, settle
from minideepseek.layers.rope import RotaryEmbedding, softmax_scale

LATENT_EPS = 1e-6  # of q_a_layernorm and kv_a_layernorm, whatever rms_norm_eps is


class MultiHeadLatentAttention(Module):
    """The core: down-projection, norm, up-projections; no positions but the causal mask.

    config: a DeepSeekV3Config, or anything with the fields below, or they themselves by name. rng:
    a numpy.random.Generator for the weights, None for one from seed 2024, or a model's `Init`.
    """

    fields: dict[str, Any] = {
        "hidden_size": REQUIRED,
        "num_attention_heads": REQUIRED,
        "q_lora_rank": None,
        "kv_lora_rank": REQUIRED,
        "qk_nope_head_dim": REQUIRED,
        "v_head_dim": REQUIRED,
        "attention_bias": False,
        "max_position_embeddings": 4096,
    }
    rope_width = 0  # d_h^R: the subclass rotates, this class does not

    def __init__(self, config: Any = None, rng: Any = None, **fields: Any) -> None:
        config, init = settle(config, rng, fields, self.fields)
        heads, d, rope = config.num_attention_heads, config.hidden_size, self.rope_width
        self.heads, self.latent = heads, config.kv_lora_rank
        self.nope, self.value = config.qk_nope_head_dim, config.v_head_dim
        self.scale, self.limit = self.nope**-0.5, config.max_position_embeddings
        width, bias = heads * (self.nope + rope), config.attention_bias
        if config.q_lora_rank is None:
            self.q_proj = Linear(d, width, init)
        else:
            self.q_a_proj = Linear(d, config.q_lora_rank, init, bias)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_EPS, init)
            self.q_b_proj = Linear(config.q_lora_rank, width, init)
        self.kv_a_proj_with_mqa = Linear(d, self.latent + rope, init, bias)
        self.kv_a_layernorm = RMSNorm(self.latent, LATENT_EPS, init)
        self.kv_b_proj = Linear(self.latent, heads * (self.nope + self.value), init)
        self.o_proj = Linear(heads * self.value, d, init, bias)

    def __call__(
        self,
        x: Tensor,
        cache: LatentCache | None = None,
        counts: Array | None = None,
        segment_ids: Array | None = None,
        absorbed: bool | None = None,
    ) -> Tensor:
        """x (B, T, d) → (B, T, d), each token looking at itself and those before it.

        cache: tokens seen earlier, which x continues; x's are appended. counts: a host array (B,),
        how many of the T tokens of each row are real (padding is on the right). segment_ids: an
        integer array (B, T), tokens of different segments do not see each other (not with a cache).
        absorbed: the form; None takes the cheaper. InputError for a position, or a cached
        token, beyond max_position_embeddings and for a cache of another batch size or dtype.
        """
        if cache is not None and segment_ids is not None:
            raise InputError("segment_ids: not with a cache, which knows no segments of its tokens")
        tokens = x.shape[1]
        if cache is not None:
            cache.check(x.shape[0], tokens, self.latent + self.rope_width)
        offsets = 0 if cache is None else cache.offsets
        q, c_kv, k_pe = self.project(x, offsets)  # (B, T, H, dq), (B, T, r), (B, T, 1, dr) or None
        stored = c_kv if k_pe is None else ops.concatenate(c_kv, k_pe[:, :, 0])  # (B, T, r + dr)
        if cache is not None:
            stored = Tensor(cache.append(stored.data, counts))  # (B, S, r + dr)
            c_kv = stored[..., : self.latent]
            k_pe = stored[..., None, self.latent :] if self.rope_width else None
        if absorbed is None:
            absorbed = cache is not None and self.absorbed_is_cheaper(tokens)
        attend = self.attend_absorbed if absorbed else self.attend_naive
        y = attend(q, c_kv, k_pe, stored, offsets=offsets, segment_ids=segment_ids)
        return self.o_proj(ops.reshape(y, shape=(*x.shape[:2], self.heads * self.value)))

    def project(self, x: Tensor, offsets: int | Array) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries (B, T, H, dq), latents after their norm (B, T, r), and no shared key here."""
        return self.queries(x), self.kv_a_layernorm(self.kv_a_proj_with_mqa(x)), None

    def queries(self, x: Tensor) -> Tensor:
        """q = W^UQ norm(W^DQ h), (B, T, H, dq)."""
        if "q_proj" in vars(self):
            q = self.q_proj(x)
        else:
            q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        return ops.reshape(q, shape=(*x.shape[:2], self.heads, self.nope + self.rope_width))

    def attend_naive(
        self, q: Tensor, c_kv: Tensor, k_pe: Tensor | None, stored: Tensor, **where: Any
    ) -> Tensor:
        """Expand keys and values for every head, then attend.  → (B, T, H, dv)"""
        shape = (*c_kv.shape[:2], self.heads, self.nope + self.value)
        kv = ops.reshape(self.kv_b_proj(c_kv), shape=shape)  # (B, S, H, dn + dv)
        k_nope, v = kv[..., : self.nope], kv[..., self.nope :]
        k = k_nope if k_pe is None else ops.append_shared(k_nope, k_pe)  # (B, S, H, dn + dr)
        return ops.attention(q, k, v, scale=self.scale, **where)

    def attend_absorbed(
        self, q: Tensor, c_kv: Tensor, k_pe: Tensor | None, stored: Tensor, **where: Any
    ) -> Tensor:
        """Move W^UK to the queries and W^UV behind the sum; attend to latents.  → (B, T, H, dv)"""
        shape = (self.heads, self.nope + self.value, self.latent)
        w = ops.reshape(self.kv_b_proj.matrix(), shape=shape)  # per head [W^UK | W^UV]
        w_uk, w_uv = w[:, : self.nope], w[:, self.nope :]  # (H, dn, r), (H, dv, r)
        q_c = ops.head_linear(q[..., : self.nope], ops.transpose(w_uk, axes=(0, 2, 1)))
        if k_pe is not None:
            q_c = ops.concatenate(q_c, q[..., self.nope :])  # (B, T, H, r + dr)
        keys = stored[:, :, None]  # (B, S, 1, r + dr): one head for all
        y = ops.attention(q_c, keys, c_kv[:, :, None], scale=self.scale, **where)
        return ops.head_linear(y, w_uv)  # (B, T, H, dv)

    def absorbed_is_cheaper(self, tokens: int) -> bool:
        """Whether T = tokens new queries cost less absorbed, by the two lines at the top."""
        r, dn, dr, dv = self.latent, self.nope, self.rope_width, self.value
        return tokens * (2 * r + dr) < r * (dn + dv) + tokens * (dn + dr + dv)

    def new_cache(self, batch: int, capacity: int) -> LatentCache:
        """An empty cache for `batch` rows; it grows beyond `capacity` tokens if it must."""
        return LatentCache(batch, capacity, self.latent + self.rope_width, self.limit)


class DeepSeekAttention(MultiHeadLatentAttention):
    """MLA as DeepSeek-V3 has it: the core plus the decoupled rotary part.

    config, rng: as the core's, with four fields more. rotary: the model's table of angles, shared
    by its layers; made here if left out.
    """

    fields = MultiHeadLatentAttention.fields | {
        "qk_rope_head_dim": REQUIRED,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "rope_interleave": True,
    }

    def __init__(
        self,
        config: Any = None,
        rng: Any = None,
        rotary: RotaryEmbedding | None = None,
        **fields: Any,
    ) -> None:
        config, init = settle(config, rng, fields, self.fields)
        self.rope_width = config.qk_rope_head_dim
        super().__init__(config, init)
        self.scale = softmax_scale(config)
        self.rotary = rotary or RotaryEmbedding(config)

    def project(self, x: Tensor, offsets: int | Array) -> tuple[Tensor, Tensor, Tensor | None]:
        """The core's queries and latents, and the key of all heads (B, T, 1, dr); both rotated."""
        cos, sin = self.rotary.tables(offsets, x.shape[1], x.data)
        interleaved = self.rotary.interleaved
        q = ops.rope(self.queries(x), cos, sin, interleaved=interleaved)  # its last dr channels
        c = self.kv_a_proj_with_mqa(x)  # [latent r | key dr]; the norm covers the latent alone
        k_pe = ops.rope(c[:, :, None, self.latent :], cos, sin, interleaved=interleaved)
        return q, self.kv_a_layernorm(c[..., : self.latent]), k_pe
