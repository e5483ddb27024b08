r"""Chapter 1 — Attention and its cache: MHA → MQA → GQA

A decoder writes token t by looking back at every token before it. What it looks at, a key and a
value per head, does not change once it is made, so it is kept. This cache grows with every token of
every conversation; at V3's dimensions plain multi-head attention would keep 32,768 numbers per
token and layer, 4 MB per token over 61 layers in BF16, and a text of 100,000 tokens would fill 400
GB. This chapter is about keeping less.

    paper    here                     code below     V3
    h                                 x              7,168 wide
    n_h      num_attention_heads      heads, H       128
    n_g      num_key_value_heads      groups         (V3 has none; see the table)
    d_h      head_dim                 width          128

Multi-head attention (MHA)
--------------------------
    q = W^Q h,   k = W^K h,   v = W^V h           (V2 eq. 1–3)    q_proj, k_proj, v_proj
    each cut into n_h heads of width d_h          (V2 eq. 4–6)
    yᵢ(t) = Σ_{s≤t} softmax_s( qᵢ(t)·kᵢ(s) / √d_h ) vᵢ(s)         (V2 eq. 7)
    u = W^O [y₁; …; y_{n_h}]                      (V2 eq. 8)      o_proj

Here i is the head, t and s are tokens. The weights of a softmax are positive and add up to 1: yᵢ(t)
lies between the smallest and the largest of the values it may see, channel by channel. Queries and
keys are turned by their position first (rope.py), with all their channels: the score then knows how
far s lies behind t. The cache holds k after its rotation, and v.

What a decoded token costs
--------------------------
Per cached token, a decoder does 4 n_h d_h FLOPs (a score and a sum, two each per channel) and reads
2 n_h d_h numbers, 4 n_h d_h bytes in BF16: one FLOP a byte, where an accelerator could do hundreds
in the time that it takes to read one. Decoding waits for memory, and a batch does not help, since
every row has a cache of its own. (Weights are read once for the whole batch.) Fewer numbers in the
cache are therefore more tokens per second, not only more room.

Multi-query attention (MQA)
---------------------------
All heads share one key and one value (Shazeer 2019); queries stay n_h. The cache is n_h times
smaller and each byte of it is used n_h times. The price is what heads can see. In MHA head i scores
by its own form qᵢ·kᵢ = hₜᵀ (Wᵢ^Qᵀ Wᵢ^K) hₛ. In MQA the right factor W^K is one for all: the past
has the same d_h coordinates for every head, a head can only weigh them otherwise; and what heads
fetch are mixtures of the same d_h values. W^K and W^V have n_h times fewer parameters, too.

Grouped-query attention (GQA)
-----------------------------
n_g keys and values, each for the n_h / n_g heads of one group (Ainslie et al. 2023); head i belongs
to group ⌊i n_g / n_h⌋. One group is MQA, n_h groups are MHA, and the code is the same. A trained
MHA becomes a GQA by averaging the key and value heads of each group and training on, for 5 % of the
original compute; that paper finds quality close to MHA at nearly the speed of MQA.

    kind      kept per token and layer    at V3's dimensions     61 layers, BF16     FLOPs a byte
    MHA       2 n_h d_h                   32,768 numbers          3,997,696 bytes               1
    GQA-8     2 n_g d_h                    2,048                    249,856                    16
    MLA       d_c + d_h^R                    576                     70,272                   242
    MQA       2 d_h                          256                     31,232                   128

(`minideepseek info --preset v3` counts them.) V2's Table 1 calls them strong, moderate, stronger
and weak. MLA, the next chapter, keeps 57 times less than MHA, and 2.25 times more than MQA: as much
as a GQA of 2.25 groups. It shares one vector among all heads as MQA does, but lets each head read
it through matrices of its own.

The four kinds at equal parameters, trained on the same text: `python -m demos.attention_kinds`.

Names and layout are those of Hugging Face's Llama: q_proj, k_proj, v_proj, o_proj without biases,
rotated pairs are channels (j, j + d_h/2).

>>> import numpy as np
>>> import minideepseek as mds
>>> sizes = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 8}
>>> attention = mds.MultiHeadAttention(**sizes, rng=np.random.default_rng(0))
>>> x = mds.Tensor(np.ones((2, 5, 32), np.float32))      # (batch, tokens, hidden)
>>> attention(x)
Tensor(shape=(2, 5, 32), float32, cpu, from linear)
>>> cache = attention.new_cache(batch=2, capacity=8)
>>> _ = attention(x, cache)                               # a prompt of five tokens
>>> _ = attention(x[:, :1], cache)                        # and one more
>>> cache.lengths.tolist(), cache.data.shape              # 2 n_h d_h = 64 numbers a token
([6, 6], (2, 8, 64))
>>> grouped = mds.GroupedQueryAttention(**sizes, num_key_value_heads=2)
>>> [kind.new_cache(1, 1).width for kind in (grouped, mds.MultiQueryAttention(**sizes))]
[32, 16]
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Tensor, ops
from minideepseek.errors import InputError
from minideepseek.layers.cache import LatentCache
from minideepseek.layers.module import REQUIRED, Linear, Module, settle
from minideepseek.layers.rope import RotaryEmbedding, softmax_scale


class GroupedQueryAttention(Module):
    """Causal attention with rotary positions; n_g key-value heads serve n_h query heads.

    config: an object with the fields below, or the fields themselves by name. rng: a
    numpy.random.Generator for N(0, 0.02²) weights, None for one from seed 2024, or an `Init`.

        hidden_size, num_attention_heads, num_key_value_heads    integers
        head_dim                   even; hidden_size / num_attention_heads unless given
        max_position_embeddings    positions that there are, 4096
        rope_theta, rope_scaling   10000 and None, or YaRN's dictionary: see rope.py

    InputError for sizes that do not divide, or an odd head_dim.
    """

    fields: dict[str, Any] = {
        "hidden_size": REQUIRED,
        "num_attention_heads": REQUIRED,
        "num_key_value_heads": REQUIRED,
        "head_dim": None,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rope_scaling": None,
    }

    def __init__(self, config: Any = None, rng: Any = None, **fields: Any) -> None:
        config, init = settle(config, rng, fields, self.fields)
        d, self.heads = config.hidden_size, config.num_attention_heads
        self.groups = self.groups_of(config)
        if not 0 < self.groups <= self.heads or self.heads % self.groups:
            raise InputError(
                f"num_key_value_heads: got {self.groups}, expected a divisor of "
                f"num_attention_heads = {self.heads}"
            )
        self.width = getattr(config, "head_dim", None) or d // self.heads
        if getattr(config, "head_dim", None) is None and d % self.heads:
            raise InputError(
                f"head_dim: got none, expected it where num_attention_heads = {self.heads} does "
                f"not divide hidden_size = {d}"
            )
        turned = SimpleNamespace(  # all channels of a head are rotated, in Llama's layout
            qk_nope_head_dim=0,
            qk_rope_head_dim=self.width,
            rope_interleave=False,
            rope_theta=config.rope_theta,
            rope_scaling=config.rope_scaling,
            max_position_embeddings=config.max_position_embeddings,
        )
        self.rotary, self.scale = RotaryEmbedding(turned), softmax_scale(turned)  # 1/√d_h
        self.q_proj = Linear(d, self.heads * self.width, init)
        self.k_proj = Linear(d, self.groups * self.width, init)
        self.v_proj = Linear(d, self.groups * self.width, init)
        self.o_proj = Linear(self.heads * self.width, d, init)

    def groups_of(self, config: Any) -> int:
        """n_g, the key-value heads."""
        return config.num_key_value_heads

    def __call__(
        self,
        x: Tensor,
        cache: LatentCache | None = None,
        counts: Array | None = None,
        segment_ids: Array | None = None,
    ) -> Tensor:
        """x (B, T, d) → (B, T, d), each token looking at itself and those before it.

        cache: tokens seen earlier, which x continues; x's are appended. counts: a host array (B,),
        how many of the T tokens of each row are real (padding is on the right). segment_ids: an
        integer array (B, T), tokens of different segments do not see each other (not with a cache).
        InputError for a position beyond max_position_embeddings and for a cache of another batch
        size, kind or dtype.
        """
        if cache is not None and segment_ids is not None:
            raise InputError("segment_ids: not with a cache, which knows no segments of its tokens")
        batch, tokens = x.shape[:2]
        if cache is not None:
            cache.check(batch, tokens, self.stored)
        offsets = 0 if cache is None else cache.offsets
        cos, sin = self.rotary.tables(offsets, tokens, x.data)
        q = ops.rope(self.split(self.q_proj(x), self.heads), cos, sin, interleaved=False)
        k = ops.rope(self.split(self.k_proj(x), self.groups), cos, sin, interleaved=False)
        v = self.split(self.v_proj(x), self.groups)  # (B, T, n_g, d_h)
        if cache is not None:
            kv = ops.reshape(ops.concatenate(k, v), shape=(batch, tokens, self.stored))
            seen = self.split(Tensor(cache.append(kv.data, counts)), self.groups)
            k, v = seen[..., : self.width], seen[..., self.width :]  # (B, S, n_g, d_h), views
        y = ops.attention(q, k, v, scale=self.scale, offsets=offsets, segment_ids=segment_ids)
        return self.o_proj(ops.reshape(y, shape=(batch, tokens, self.heads * self.width)))

    @staticmethod
    def split(x: Tensor, heads: int) -> Tensor:
        """(B, T, heads · n) → (B, T, heads, n)."""
        return ops.reshape(x, shape=(*x.shape[:2], heads, x.shape[2] // heads))

    @property
    def stored(self) -> int:
        """Numbers kept per token: [k | v] of each group."""
        return 2 * self.groups * self.width

    def new_cache(self, batch: int, capacity: int) -> LatentCache:
        """An empty cache for `batch` rows; it grows beyond `capacity` tokens if it must."""
        return LatentCache(batch, capacity, self.stored, self.rotary.limit)


class MultiHeadAttention(GroupedQueryAttention):
    """A key and a value for every head: n_g = n_h. Arguments as above, no num_key_value_heads."""

    fields = {k: v for k, v in GroupedQueryAttention.fields.items() if k != "num_key_value_heads"}

    def groups_of(self, config: Any) -> int:
        return config.num_attention_heads


class MultiQueryAttention(GroupedQueryAttention):
    """One key and one value for all heads: n_g = 1. Arguments as above, no num_key_value_heads."""

    fields = MultiHeadAttention.fields

    def groups_of(self, config: Any) -> int:
        return 1
