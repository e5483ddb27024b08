r"""DeepSeek-V3: embedding, decoder layers, norm, head, and its loss.

    h⁰ = Emb(x) ,   hˡ = Layer_l(hˡ⁻¹) ,   logits = W_head norm(hᴸ)

The loss of a text x₀ … x_{N−1} has three parts (V3 §4.2):

    main      mean over t of  −ln P(x_{t+1} | x_≤t)
    MTP       λ/D Σₖ Lₖ       the modules' losses, chapter 4a
    balance   Σ over MoE layers of the sequence-wise loss, chapter 3, weight α = aux_loss_alpha

and says nothing about balance beyond that: the bias update after each step belongs to the trainer.

Names are a checkpoint's: `state_dict()` has the keys of DeepSeek's released files, MTP module k as
`model.layers.{L + k − 1}` with its copies of embedding and head.

>>> import numpy as np
>>> model = DeepSeekV3(DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
>>> ids = np.array([[1, 2, 3, 4, 5]])
>>> model(ids)
Tensor(shape=(1, 5, 264), float32, cpu, from linear)
>>> losses = model.losses(ids)
>>> losses.total.backward()
>>> model.lm_head.weight.grad.shape
(264, 32)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array
from minideepseek.autograd.engine import Parameter, Tensor, no_grad, ops
from minideepseek.errors import InputError
from minideepseek.layers.cache import ModelCache
from minideepseek.layers.decoder import DecoderLayer
from minideepseek.layers.module import DEFAULT_SEED, Embedding, Init, Linear, Module, RMSNorm
from minideepseek.layers.moe import DeepSeekMoE, Router, Routing, sequence_balance_loss
from minideepseek.layers.mtp import MTPModel, cross_entropy
from minideepseek.layers.rope import RotaryEmbedding
from minideepseek.model.config import DeepSeekV3Config

MTP_WEIGHT = 0.3  # λ of V3's first ten trillion tokens
COMPUTED = (np.dtype("float32"), np.dtype("float64"))  # dtypes; they equal their names


@dataclass
class Losses:
    """The parts of a loss, Tensors in nats: total = main + λ/D Σ mtp + balance.

    mtp: one per module, unweighted; balance: weighted with α, or None; routings: one per MoE layer,
    the modules' last, for the bias update and the metrics.
    """

    total: Tensor
    main: Tensor
    mtp: list[Tensor]
    balance: Tensor | None
    routings: list[Routing]


class Decoder(Module):
    """`model.*` of a checkpoint: embedding, layers, final norm."""

    def __init__(self, config: DeepSeekV3Config, init: Init, rotary: RotaryEmbedding) -> None:
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, init)
        self.layers = [
            DecoderLayer(config, i, init, rotary) for i in range(config.num_hidden_layers)
        ]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, init)


class DeepSeekV3(Module):
    """The language model.  model(ids) → logits (B, T, vocab_size) for ids (B, T).

    rng: a numpy.random.Generator for the initial weights; None makes one from seed 2024.
    dtype: float32 or float64, of parameters and computation.
    """

    def __init__(
        self, config: DeepSeekV3Config, rng: Any = None, dtype: Any = backend.float32
    ) -> None:
        if dtype is None or dtype not in COMPUTED:
            raise InputError(f"dtype: got {dtype!r}, the model computes in float32 or float64")
        if not isinstance(config, DeepSeekV3Config):
            raise InputError(f"config: got {config!r:.40}, expected a DeepSeekV3Config")
        rng = np.random.default_rng(DEFAULT_SEED) if rng is None else rng
        if not isinstance(rng, np.random.Generator):
            raise InputError(f"rng: got {rng!r:.40}, expected a numpy.random.Generator or None")
        self._build(config, Init(rng, config.initializer_range, dtype))

    def __repr__(self) -> str:
        count = sum(p.size for p in self.parameters())
        layers = f"{self.config.num_hidden_layers} layers, {len(self.mtp.layers)} MTP modules"
        return f"DeepSeekV3({layers}, {count:,} parameters, on {self.device})"

    def _build(self, config: DeepSeekV3Config, init: Init) -> None:
        self.config, rotary = config, RotaryEmbedding(config)
        self.model = Decoder(config, init, rotary)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, init)
        self.mtp = MTPModel(config, init, rotary)

    @classmethod
    def empty(cls, config: DeepSeekV3Config, dtype: Any = backend.float32) -> DeepSeekV3:
        """A model whose weights are zeros, to be loaded."""
        model = cls.__new__(cls)
        model._build(config, Init(None, 0.0, dtype))
        return model

    @classmethod
    def from_pretrained(cls, directory: Any, dtype: Any = backend.float32) -> DeepSeekV3:
        """The model in a Hugging Face directory; see `checkpoint.from_pretrained`."""
        from minideepseek.model import checkpoint

        return checkpoint.from_pretrained(directory, dtype)

    def save_pretrained(
        self, directory: Any, dtype: Any = None, max_shard_bytes: int | None = None
    ) -> None:
        """Write a Hugging Face directory, atomically; see `checkpoint.save_pretrained`."""
        from minideepseek.model import checkpoint

        checkpoint.save_pretrained(self, directory, dtype, max_shard_bytes)

    # ------------------------------------------------------------------------------- forward

    def __call__(self, ids: Any) -> Tensor:
        """Logits (B, T, V) of the next token at every position.  ids (B, T) integers."""
        return self.logits(self.hidden(self.check_ids(ids))[0])

    def hidden(
        self,
        ids: Array,
        cache: ModelCache | None = None,
        counts: Array | None = None,
        mask: Array | None = None,
        segment_ids: Array | None = None,
        routing: list[Array] | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        """The normed last states (B, T, d) and the routing of each MoE layer.

        cache: what was seen before; counts (B,) on the host: how many of the T tokens are real;
        mask (B, T): 0 for padding, which is then routed nowhere; segment_ids (B, T): tokens of
        different segments do not see each other; routing: the experts to use, (B·T, k) indices for
        each MoE layer, −1 for none, in place of the routers' choices. InputError for arrays that
        live elsewhere than the model, before any work.
        """
        held = [] if cache is None else cache.data
        given = [a for a in (ids, mask, segment_ids, *held) if type(a) in backend.MODULES]
        backend.xp_of(self.model.embed_tokens.weight.data, *given)
        h, routings = self.model.embed_tokens(ids), list[Routing]()
        for i, layer in enumerate(self.model.layers):
            past, replay = None if cache is None else cache.layers[i], None
            if routing is not None and self.config.is_moe_layer(i):
                replay = routing[len(routings)]
            h, decided = layer(h, past, counts, mask, segment_ids, replay)
            if decided is not None:
                routings.append(decided)
        return self.model.norm(h), routings

    def logits(self, h: Tensor) -> Tensor:
        """W_head h.  h (B, T, d) → (B, T, V)."""
        if self.config.tie_word_embeddings:
            return ops.linear(h, self.model.embed_tokens.weight)
        return self.lm_head(h)

    # ---------------------------------------------------------------------------------- loss

    def loss(self, ids: Any, **options: Any) -> Tensor:
        """The training loss, a scalar Tensor in nats; see `losses`."""
        return self.losses(ids, **options).total

    def losses(self, ids: Any, mtp_weight: float = MTP_WEIGHT, mask: Any = None) -> Losses:
        """Next-token, MTP and balance losses of ids (B, N), N ≥ 2.

        mtp_weight: λ. mask: None or a host array (B, N), 1 for tokens, 0 for padding behind them.
        A position counts if its target is a token: others are not routed and enter no sum, so
        that every part is what the rows would give without padding. InputError for ids that are
        no integers, out of range or too short, and for a mask that is not right padding.
        """
        ids = self.check_ids(ids, least=2)
        terms = ids[:, 1:].size
        if mask is not None:
            host = _right_padding(mask, ids.shape)
            mask, terms = backend.like(host, ids), max(1, int(host[:, 1:].sum()))
        h, routings = self.hidden(ids[:, :-1], mask=None if mask is None else mask[:, 1:])
        main = cross_entropy(self.logits(h), ids, 1, mask, terms)
        total, mtp = main, list[Tensor]()
        if mtp_weight and self.mtp.layers:
            embedding = self.model.embed_tokens
            mtp, decided = self.mtp.losses(h, ids, embedding, self.logits, mask, terms)
            routings += decided
            for one in mtp:
                total = total + one * (mtp_weight / len(mtp))
        balance = self._balance(routings, ids.shape, mask)
        if balance is not None:
            total = total + balance
        return Losses(total, main, mtp, balance, routings)

    def _balance(self, routings: list[Routing], shape: tuple, mask: Any) -> Tensor | None:
        """Σ of the sequence-wise losses of the MoE layers, or None for α = 0."""
        alpha, total = self.config.aux_loss_alpha, None
        for routing in routings if alpha else ():
            batch, experts = shape[0], self.config.n_routed_experts
            scores = ops.reshape(routing.scores, shape=(batch, -1, experts))
            real = None if mask is None else mask[:, shape[1] - scores.shape[1] :]
            k = self.config.num_experts_per_tok
            one = sequence_balance_loss(scores, k, alpha, real)
            total = one if total is None else total + one
        return total

    # --------------------------------------------------------------------------------- names

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        for name, parameter in super().named_parameters(prefix):
            yield self.checkpoint_name(name), parameter

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        for name, array in super().named_tensors(prefix):
            yield self.checkpoint_name(name), array
        embedding = self.model.embed_tokens.weight.data
        head = embedding if self.config.tie_word_embeddings else self.lm_head.weight.data
        for k in range(len(self.mtp.layers)):
            layer = f"{prefix}model.layers.{self.config.num_hidden_layers + k}."
            yield layer + "embed_tokens.weight", embedding
            yield layer + "shared_head.head.weight", head

    def checkpoint_name(self, name: str) -> str:
        """mtp.layers.{k}.… is model.layers.{L + k}.… in a file."""
        if not name.startswith("mtp.layers."):
            return name
        k, dot, rest = name.removeprefix("mtp.layers.").partition(".")
        return f"model.layers.{self.config.num_hidden_layers + int(k)}{dot}{rest}"

    # --------------------------------------------------------------------------------- rest

    @property
    def device(self) -> str:
        """Where the parameters live: "cpu", "cuda", …"""
        return self.model.norm.weight.device

    @property
    def routers(self) -> list[Router]:
        """The routers in the order of `Losses.routings`: main layers, then MTP modules."""
        layers = [*self.model.layers, *self.mtp.layers]
        return [layer.mlp.gate for layer in layers if isinstance(layer.mlp, DeepSeekMoE)]

    def new_cache(self, batch: int, capacity: int) -> ModelCache:
        """An empty latent cache for `batch` rows; `capacity` tokens are reserved, more may come."""
        layers = self.model.layers
        return ModelCache([layer.self_attn.new_cache(batch, capacity) for layer in layers])

    def check_ids(self, ids: Any, least: int = 1) -> Array:
        """ids as an integer array (B, T ≥ least) where the model lives, or InputError."""
        if type(ids) in backend.MODULES and (place := backend.device_of(ids).name) != "cpu":
            if place != self.device:
                raise InputError(f"ids: they are on {place}, the model is on {self.device}")
            return ids  # checked when they were sent there: reading them back would stall
        try:
            host = np.asarray(ids)
        except ValueError:
            raise InputError(
                "ids: got rows of different lengths, expected integers (batch, tokens)"
            ) from None
        if host.ndim != 2 or host.dtype.kind not in "iu":
            raise InputError(
                f"ids: got {host.dtype} of shape {host.shape}, expected integers (batch, tokens)"
            )
        if host.shape[1] < least or host.shape[0] < 1:
            raise InputError(f"ids: got shape {host.shape}, expected at least (1, {least})")
        vocab = self.config.vocab_size
        if host.min() < 0 or host.max() >= vocab:
            wrong = int(host.min() if host.min() < 0 else host.max())
            raise InputError(f"ids: got token {wrong}, expected 0 to {vocab - 1}")
        return backend.like(host.astype(np.int64, copy=False), self.model.norm.weight.data)


def _right_padding(mask: Any, shape: tuple) -> np.ndarray:
    """mask as host integers (B, N), or InputError where it is not ones and then zeros."""
    host = backend.to_host(backend.as_array(mask))
    if host.shape != shape:
        raise InputError(f"mask: got shape {host.shape}, expected that of ids, {shape}")
    ones = np.arange(shape[1]) < (host != 0).sum(1, keepdims=True)
    if not np.array_equal(host, ones):
        row = int((host != ones).any(1).argmax())
        raise InputError(f"mask: row {row} is not ones for tokens and then zeros for padding")
    return ones.astype(np.int64)


def evaluate_loss(model: DeepSeekV3, ids: Array, mask: Array) -> tuple[float, int]:
    """Summed nats of the targets with mask 1, and their number: no gradient, main model only.

    ids (B, T + 1); mask (B, T): whether ids[:, 1:] counts.
    """
    ids, host = model.check_ids(ids, least=2), backend.to_host(backend.as_array(mask))
    with no_grad():
        h, _ = model.hidden(ids[:, :-1])
        weights = backend.like(host, ids).astype(h.dtype)
        nats = ops.softmax_cross_entropy(model.logits(h), ids[:, 1:], weights, denominator=1.0)
    return nats.item(), int(host.sum())
