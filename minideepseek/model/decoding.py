r"""One sequence, a few tokens at a time, without tensors: the fast way to write

A token of one sequence is a vector that is multiplied by matrices: two operations for each weight
that is read, so that memory sets the pace and whatever is done between two products is overhead.
Through Tensors a token of the preset `small` takes some 180 primitives of a few microseconds each,
more than its products. Here the same arithmetic runs on plain host arrays, absorbed (chapter 2),
with no tape, no blocks, no threads and no sorting of experts:

    x ← x + W^O Attention(norm(x)),    x ← x + FFN(norm(x))      for each layer,    W_head norm(x)

`transformer.py` and the layers are the definition, and what the tests compare with; only the last
bits differ. It serves models of exactly those layers, on the host (`fits`); `generate` uses it for
single sequences. T new tokens may come at once (drafts that are to be verified); for T = 1 every
product is a matrix by a vector. What it gains: `python -m demos.benchmark`.

>>> from minideepseek import DeepSeekV3, DeepSeekV3Config
>>> model = DeepSeekV3(DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
>>> decoding = Decoding(model, model.new_cache(batch=1, capacity=8))
>>> h = decoding(np.array([1, 2, 3]))               # three tokens; the cache holds them now
>>> logits = decoding.logits(decoding(np.array([4])))
>>> bool(abs(logits - model(np.array([[1, 2, 3, 4]])).data[0, -1:]).max() < 1e-6)
True
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minideepseek.autograd.fused import rotate
from minideepseek.layers.cache import LatentCache, ModelCache
from minideepseek.layers.decoder import DecoderLayer
from minideepseek.layers.mla import DeepSeekAttention
from minideepseek.layers.module import MLP, Linear, Module, RMSNorm
from minideepseek.layers.moe import DeepSeekMoE, Experts, Router, kept_groups
from minideepseek.layers.mtp import MTPLayer, SharedHead
from minideepseek.layers.rope import RotaryEmbedding
from minideepseek.model.transformer import DeepSeekV3

Array = np.ndarray
SHARED = 1 << 19  # bytes of a weight that stay in a second-level cache from vector to vector
PLAIN = (
    DecoderLayer, DeepSeekAttention, MLP, DeepSeekMoE, Router, Experts, Linear, RMSNorm,
    MTPLayer, SharedHead,
)  # fmt: skip


def fits(model: DeepSeekV3) -> bool:
    """Whether this file knows every layer of `model`, and its weights are on the host."""

    def known(module: Module) -> bool:
        return type(module) in PLAIN and all(known(part) for _, part in module.children())

    layers = [*model.model.layers, *model.mtp.layers]
    return model.device == "cpu" and all(known(layer) for layer in layers)


def times(x: Array, weight: Array) -> Array:
    """x Wᵀ for x (T, in), weight (out, in).

    For two or three vectors BLAS would copy W first. They come one by one, block by block of W, so
    that W is read from memory once: the other vectors find the block in the cache.
    """
    if len(x) == 1:
        return weight.dot(x[0])[None]
    if len(x) > 3:
        return x @ weight.T
    y, rows = np.empty((len(x), len(weight)), x.dtype), max(1, SHARED // weight[0].nbytes)
    for i in range(0, len(weight), rows):
        block = weight[i : i + rows]
        for one, out in zip(x, y, strict=True):
            np.dot(block, one, out=out[i : i + rows])
    return y


def product(linear: Linear) -> Callable[[Array], Array]:
    """x (T, in) → x Wᵀ + b (T, out)."""
    weight = linear.weight.data
    if "bias" not in vars(linear):
        return lambda x: times(x, weight)
    bias = linear.bias.data
    return lambda x: times(x, weight) + bias


def norm(layer: RMSNorm) -> Callable[[Array], Array]:
    """x (T, d) → its rows over their root mean squares, times the weight."""
    weight, eps = layer.weight.data, layer.eps

    def normed(x: Array) -> Array:
        if len(x) == 1:
            return x * (1 / math.sqrt(np.vdot(x, x) / x.shape[-1] + eps)) * weight
        square = np.add.reduce(x * x, -1, keepdims=True)  # `mean` costs more than the rest
        return x / np.sqrt(square / x.shape[-1] + eps) * weight

    return normed


def turner(rotary: RotaryEmbedding, start: int, x: Array) -> Callable[[Array, Array], None]:
    """turn(q, out): out ← q (T, H, dr), turned by the angles of positions start, … of T tokens x.

    A pair (a, b) of neighbours is the number a + ib, and a rotation one product with e^iφ.
    """
    cos, sin = rotary.tables(start, len(x), x)
    if not rotary.interleaved:

        def by_halves(q: Array, out: Array) -> None:
            out[...] = rotate(q, cos, sin, False)

        return by_halves
    angle = (cos + 1j * sin)[:, None]  # (T, 1, dr/2): one for all heads
    pair = angle.dtype

    def by_pairs(q: Array, out: Array) -> None:
        np.multiply(q.view(pair), angle, out=out.view(pair))

    return by_pairs


class Attention:
    """Latent attention of T new tokens, whose latents it appends to its cache.  x (T, d) → (T, d)

    turn: the new tokens' `turner`.
    """

    def __init__(self, layer: DeepSeekAttention, cache: LatentCache) -> None:
        self.cache, self.scale = cache, layer.scale
        self.heads, self.nope, self.latent = layer.heads, layer.nope, layer.latent
        if "q_proj" in vars(layer):
            self.queries = product(layer.q_proj)
        else:
            down, between = product(layer.q_a_proj), norm(layer.q_a_layernorm)
            up = product(layer.q_b_proj)
            self.queries = lambda x: up(between(down(x)))
        self.latents, self.kv_norm = product(layer.kv_a_proj_with_mqa), norm(layer.kv_a_layernorm)
        self.w_kv = layer.kv_b_proj.weight.data  # per head [W^UK | W^UV]
        w = self.w_kv.reshape(self.heads, -1, self.latent)
        self.w_uk, self.w_uv = w[:, : self.nope], w[:, self.nope :].swapaxes(1, 2)
        self.output = product(layer.o_proj)

    def __call__(self, x: Array, turn: Callable[[Array, Array], None]) -> Array:
        t, r = len(x), self.latent
        q = self.queries(x).reshape(t, self.heads, -1)  # (T, H, dn + dr)
        q_r = q[:, :, self.nope :]
        turn(q_r, q_r)
        c = self.latents(x)  # (T, r + dr)
        stored = self.cache.extend(t, c)  # (S, r + dr), the last T rows to be written
        new = stored[-t:]
        new[:, :r] = self.kv_norm(c[:, :r])
        turn(c[:, None, r:], new[:, None, r:])
        return self.output(self.read(q, stored).reshape(t, -1))

    def read(self, q: Array, stored: Array) -> Array:
        """What T queries of H heads, (T, H, dn + dr), find in stored (S, r + dr), whose last T
        tokens are their own.  → (T, H, dv)"""
        (t, h, _), r = q.shape, self.latent
        absorbed = np.empty((h, t, stored.shape[1]), stored.dtype)
        by_head = q.swapaxes(0, 1)
        np.matmul(by_head[:, :, : self.nope], self.w_uk, out=absorbed[:, :, :r])
        absorbed[:, :, r:] = by_head[:, :, self.nope :]
        absorbed *= self.scale
        p = absorbed.reshape(h * t, -1).dot(stored.T)
        total = softmax_parts(p, t)
        y = p @ stored[:, :r]  # `dot` would copy the view
        y /= total
        return np.matmul(y.reshape(h, t, r), self.w_uv).swapaxes(0, 1)


def softmax_parts(scores: Array, tokens: int) -> Array:
    """scores (H·T, S) of the last T tokens ← e^(scores − max), 0 for later ones; → row sums."""
    if tokens > 1:
        own = scores.reshape(-1, tokens, scores.shape[-1])[:, :, -tokens:]
        for t in range(tokens - 1):
            own[:, t, t + 1 :] = -np.inf
    scores -= np.maximum.reduce(scores, -1, keepdims=True)
    np.exp(scores, out=scores)
    return np.add.reduce(scores, -1, keepdims=True)


def silu(z: Array) -> Array:
    """z σ(z) = ½z (1 + tanh ½z), as a new array."""
    half = z * 0.5
    y = np.tanh(half)
    y += 1
    y *= half
    return y


def feed_forward(layer: MLP) -> Callable[[Array], Array]:
    """SwiGLU of x (T, d)."""
    gate, up, down = (product(part) for part in (layer.gate_proj, layer.up_proj, layer.down_proj))

    def fed(x: Array) -> Array:
        a = silu(gate(x))
        a *= up(x)
        return down(a)

    return fed


class Mixture:
    """DeepSeekMoE of T tokens, each expert a matrix by a vector."""

    def __init__(self, layer: DeepSeekMoE) -> None:
        self.gate, self.shared = layer.gate, feed_forward(layer.shared_experts)
        self.affinity = layer.gate.weight.data
        self.gate_up = list(layer.experts.gate_up_proj.data)  # of each expert
        self.down = list(layer.experts.down_proj.data)
        self.normalise, self.factor = layer.normalise, layer.factor

    def __call__(self, x: Array) -> Array:
        s = times(x, self.affinity)  # (T, E)
        s *= 0.5
        np.tanh(s, out=s)
        s *= 0.5
        s += 0.5
        y = self.shared(x)
        for t, experts in enumerate(self.choose(s).tolist()):
            row = s[t].tolist()
            g = [row[e] for e in experts]
            by = self.factor / (sum(g) + 1e-20) if self.normalise else self.factor
            y[t] += self.routed(x[t], experts, np.array([one * by for one in g], x.dtype))
        return y

    def choose(self, s: Array) -> Array:
        """moe.route's experts (T, k) of the affinities (T, E); a sort beats its k passes here."""
        gate, biased = self.gate, s + self.gate.e_score_correction_bias
        if gate.topk_group < gate.n_group:
            biased = kept_groups(biased, gate.n_group, gate.topk_group)
        return (-biased).argsort(-1, kind="stable")[:, : gate.k]

    def routed(self, x: Array, experts: list[int], g: Array) -> Array:
        """Σⱼ gⱼ FFNⱼ(x) for one token x (d,)."""
        k, m = len(experts), self.down[0].shape[-1]
        h, y = np.empty((k, 2 * m), x.dtype), np.empty((k, len(x)), x.dtype)
        for e, row in zip(experts, h, strict=True):
            np.dot(self.gate_up[e], x, out=row)
        a = silu(h[:, :m])
        a *= h[:, m:]
        a *= g[:, None]
        for e, one, row in zip(experts, a, y, strict=True):
            np.dot(self.down[e], one, out=row)
        return np.add.reduce(y, 0)


class Layer:
    """A decoder layer of T tokens.  x (T, d), their `turner` → (T, d)"""

    def __init__(self, layer: DecoderLayer, attend: Callable) -> None:
        block, self.attend = layer.mlp, attend
        self.before = norm(layer.input_layernorm)
        self.between = norm(layer.post_attention_layernorm)
        self.feed = feed_forward(block) if isinstance(block, MLP) else Mixture(block)

    def __call__(self, x: Array, turn: Callable[[Array, Array], None]) -> Array:
        x = x + self.attend(self.before(x), turn)
        x += self.feed(self.between(x))
        return x


class Drafting:
    """An MTP module (chapter 4a): drafting(h, embedded), its normed states (T, d) of T slots that
    follow those in `cache`, of the states h and the embeddings of the tokens after them, (T, d)."""

    def __init__(self, module: MTPLayer, cache: LatentCache) -> None:
        self.cache, self.rotary = cache, module.self_attn.rotary
        self.enorm, self.hnorm = norm(module.enorm), norm(module.hnorm)
        self.join, self.norm = product(module.eh_proj), norm(module.shared_head.norm)
        self.layer = Layer(module, Attention(module.self_attn, cache))

    def __call__(self, h: Array, embedded: Array) -> Array:
        turn = turner(self.rotary, int(self.cache.lengths[0]), h)
        x = self.join(np.concatenate((self.enorm(embedded), self.hnorm(h)), -1))
        return self.norm(self.layer(x, turn))


class Decoding:
    """decoding(ids): the normed last states (T, d) of T tokens (T,) that follow those in `cache`.

    model: one that `fits`; cache: its, of one row. Weights are read where they are, so that a
    model that is trained further may be decoded further.
    """

    attention: Callable = Attention  # (layer, cache) → attend(x, turn); demos compare others

    def __init__(self, model: DeepSeekV3, cache: ModelCache) -> None:
        self.cache, self.rotary = cache, model.model.layers[0].self_attn.rotary
        self.embedding = model.model.embed_tokens.weight.data
        self.norm, self.layers = norm(model.model.norm), list[Layer]()
        for layer, past in zip(model.model.layers, cache.layers, strict=True):
            self.layers.append(Layer(layer, self.attention(layer.self_attn, past)))
        tied = model.config.tie_word_embeddings
        self.head = self.embedding if tied else model.lm_head.weight.data

    def __call__(self, ids: Array) -> Array:
        x = self.embedding[ids]
        turn = turner(self.rotary, int(self.cache.lengths[0]), x)
        for layer in self.layers:
            x = layer(x, turn)
        return self.norm(x)

    def logits(self, h: Array) -> Array:
        """W_head h.  h (T, d) → (T, V)."""
        return times(h, self.head)


def alone(model: DeepSeekV3, cache: ModelCache, batch: int) -> Decoding | None:
    """The way to decode a batch of one row, where that is possible."""
    return Decoding(model, cache) if batch == 1 and fits(model) else None
