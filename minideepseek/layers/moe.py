r"""Chapter 3 — DeepSeekMoE: many small experts, one shared, balanced without an auxiliary loss

A mixture-of-experts layer replaces the one wide MLP of a block by N_r narrow ones, of which each
token uses K_r. V3 stores 671 billion parameters and multiplies each token by 37 billion of them.
What it was before, a few large experts and a loss that balances them, is standard_moe.py: read that
first.

Two ideas make DeepSeekMoE (MoE paper, eq. 9–11): *fine-grained* experts (256 of width 2,048 instead
of a few wide ones: far more combinations at the same cost), and *shared* experts that every token
uses, so that the routed ones need not all learn the common things:

    h′ = Σ FFN^shared(u) + Σᵢ gᵢ FFNᵢ(u)                                          (V2 eq. 20)

The residual u is added by the block, not here.

Routing, in V3's exact order (V3 §2.1.2)
----------------------------------------
    sᵢ  = σ(u·eᵢ)                      `scores`, affinity of the token to expert i; e = gate.weight
    cᵢ  = sᵢ + bᵢ                      `biased`, for choosing only;  b = e_score_correction_bias
    groups: a group's score is the sum of its two largest c; the best topk_group groups are kept
    Topk = the K_r largest c within the kept groups (the others are −∞, not 0: with negative biases
           a 0 would win)
    gᵢ  = routed_scaling_factor · sᵢ / Σ_Topk s        `weights`, from s: the bias never enters
                                       (undivided where norm_topk_prob is false)

No token is dropped, in training or in inference.

Balance without an auxiliary loss (Loss-Free Balancing, algorithm 1)
--------------------------------------------------------------------
Routers collapse: an expert that is chosen learns, and is chosen more. A loss that punishes uneven
loads also pulls on the router's weights, against the language model. V3 moves the bias instead,
which has no gradient: after each optimiser step, with nᵢ (`counts`) the tokens that expert i got,

    bᵢ ← bᵢ + γ sign(mean(n) − nᵢ) .

An expert with too few tokens becomes a little easier to choose. The update uses the finished step's
counts, from the next batch on; within a batch it would leak the future. A tiny sequence-wise loss
remains as a safeguard against extremes within one text (V3 §2.1.2, α = 1e-4):

    L = α Σᵢ fᵢ Pᵢ ,   fᵢ = N_r / (K_r T) Σₜ 1[i ∈ Topk(sₜ)] ,   Pᵢ = mean_t s′ᵢₜ ,   s′ = s / Σ s

with the unbiased Topk and the gradient through P alone; perfect balance gives L = α.

What to watch: MaxVio = max load / mean load − 1 per layer, and experts that received nothing.

How large is γ? V3's 0.001 suits its many thousand steps. To balance a router the biases must come
0.5 to 0.75 apart, and they part by at most 2γ a step: at 0.001 the router stays collapsed for 250
to 375 steps. In a run of a few hundred steps that is most of it; γ · steps ≥ 4 makes it a tenth.
demos/moe_balance.py runs γ, the losses and two mistakes side by side.

>>> from minideepseek import DeepSeekMoE, Tensor
>>> import numpy as np
>>> moe = DeepSeekMoE(
...     hidden_size=32, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16,
...     rng=np.random.default_rng(0),
... )
>>> x = Tensor(np.random.default_rng(1).standard_normal((2, 5, 32)).astype(np.float32))
>>> y, routing = moe.routed(x)           # y alone: moe(x)
>>> y
Tensor(shape=(2, 5, 32), float32, cpu, from add)
>>> routing.counts                       # 2 · 5 tokens, two experts each
[3, 2, 0, 1, 4, 3, 3, 4]
>>> round(max_violation(routing.counts), 6)      # the busiest expert has 1.6 times its share
0.6
>>> update_bias(moe.gate.e_score_correction_bias, routing.counts, 0.01)

The bias decides who is chosen:

>>> scores = np.array([[0.9, 0.8, 0.1, 0.2]])
>>> route(scores, np.array([0.0, 0.0, 0.0, 0.0]), k=1, n_group=1, topk_group=1)
array([[0]])
>>> route(scores, np.array([-1.0, -1.0, 0.0, 0.0]), k=1, n_group=1, topk_group=1)
array([[3]])
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array, like, to_host, top_k, xp_of
from minideepseek.autograd.engine import Tensor, ops
from minideepseek.errors import InputError
from minideepseek.layers.module import MLP, REQUIRED, Init, Module, settle


def route(scores: Array, bias: Array, *, k: int, n_group: int, topk_group: int) -> Array:
    """The experts of each token, (N, k) integers, best first.  scores (N, E), bias (E,).

    V3's order: add the bias, score each of n_group groups of E / n_group experts by its two best,
    keep topk_group groups, then take the k best experts of those. Ties go to the lower index.
    InputError where the kept groups hold fewer than k experts.
    """
    check_routing(scores.shape[-1], k, n_group, topk_group)
    biased = scores + bias
    if topk_group < n_group:
        biased = kept_groups(biased, n_group, topk_group)
    return top_k(biased, k)


def check_routing(experts: int, k: int, n_group: int = 1, topk_group: int = 1) -> None:
    """InputError for groups that do not divide the experts, and for more choices than there are."""
    if not 1 <= n_group <= experts or experts % n_group:
        raise InputError(f"n_group: got {n_group}, expected a divisor of {experts} experts")
    if not 1 <= topk_group <= n_group:
        raise InputError(f"topk_group: got {topk_group}, expected 1 to n_group = {n_group}")
    reachable = topk_group * (experts // n_group)
    if not 1 <= k <= reachable:
        where = f"the experts of {topk_group} of {n_group} groups"
        raise InputError(f"num_experts_per_tok: got {k}, expected 1 to {reachable}, {where}")


def kept_groups(biased: Array, n_group: int, topk_group: int) -> Array:
    """biased (N, E) with the experts of all but the best topk_group groups set to −∞."""
    xp, (n, experts) = xp_of(biased), biased.shape
    groups = biased.reshape(n, n_group, experts // n_group)
    two_best = xp.sort(groups, -1)[..., -2:].sum(-1)  # (N, n_group)
    kept = top_k(two_best, topk_group)  # (N, topk_group)
    mask = (kept[:, :, None] == xp.arange(n_group)).any(1)  # (N, n_group)
    return xp.where(mask[:, :, None], groups, -xp.inf).reshape(n, experts)


def gate_weights(scores: Tensor, indices: Array, *, normalise: bool, factor: float) -> Tensor:
    """gᵢ of the chosen experts, (N, k), from the unbiased scores (N, E).

    normalise: divide by their sum + 1e-20; factor: routed_scaling_factor, multiplied last.
    """
    weights = ops.take_along_axis(scores, indices)
    if normalise:
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    return weights * factor


def count_experts(indices: Array, experts: int) -> list[int]:
    """How many (token, choice) pairs each expert has; −1 counts for nobody. One host read."""
    xp = xp_of(indices)
    hits = (indices.reshape(-1, 1) == xp.arange(experts)).sum(0)
    return to_host(hits).tolist()


def update_bias(bias: Array, counts: list[int], gamma: float) -> None:
    """b ← b + γ sign(mean(n) − n), in place.  bias (E,), counts: the finished step's, E numbers."""
    mean = sum(counts) / len(counts)
    step = [gamma * ((mean > c) - (mean < c)) for c in counts]
    bias += like(backend.as_array(step, bias.dtype), bias)


def max_violation(counts: list[int]) -> float:
    """MaxVio = (max load − mean load) / mean load; 0 is perfect. (Loss-Free Balancing, eq. 4)"""
    mean = sum(counts) / len(counts)
    return max(counts) / mean - 1 if mean else 0.0


def sequence_balance_loss(scores: Tensor, k: int, alpha: float, mask: Array | None) -> Tensor:
    """α Σᵢ fᵢ Pᵢ per sequence, averaged over the batch: a scalar.  scores (B, T, E), σ affinities.

    mask: None or (B, T), 1 for real tokens: padding counts neither in f nor in P.
    """
    xp, (_, tokens, experts) = xp_of(scores.data), scores.shape
    chosen = top_k(scores.data, k)  # (B, T, k), unbiased
    hits = (chosen[..., None] == xp.arange(experts)).any(-2).astype(scores.dtype)  # (B, T, E)
    shares = scores / (scores.sum(-1, keepdims=True) + 1e-20)
    if mask is None:
        length, f, p = max(tokens, 1), hits.sum(1), shares.sum(1)
    else:
        real = mask.astype(scores.dtype)[:, :, None]
        length = xp.maximum(real.sum(1), 1)  # (B, 1)
        f, p = (hits * real).sum(1), (shares * real).sum(1)
    f = f * (experts / k) / length  # a constant
    return (p * (f / length)).sum(-1).mean() * alpha


class Routing(NamedTuple):
    """What a layer's router decided: for the balance, the metrics and the tests.

    indices (N, k), −1 for padding; scores: Tensor (N, E); counts: pairs per expert, E integers.
    """

    indices: Array
    scores: Tensor
    counts: list[int]


class Router(Module):
    """Affinities and choices.  weight (E, d); e_score_correction_bias (E,) float32, not trained."""

    buffers = ("e_score_correction_bias",)

    def __init__(self, config: Any, init: Init) -> None:
        check_routing(
            config.n_routed_experts, config.num_experts_per_tok, config.n_group, config.topk_group
        )
        self.weight = init.normal(config.n_routed_experts, config.hidden_size)
        self.e_score_correction_bias = backend.full((config.n_routed_experts,), 0.0, "float32")
        self.k, self.n_group, self.topk_group = (
            config.num_experts_per_tok,
            config.n_group,
            config.topk_group,
        )

    def __call__(self, x: Tensor, mask: Array | None, replay: Array | None = None) -> Routing:
        """x (N, d), mask None or (N,), 0 for padding, which is sent nowhere.

        replay: None or (N, k), the choices of an earlier pass: taken as they are, −1 for nowhere.
        """
        scores = ops.sigmoid(ops.linear(x, self.weight))
        indices = self.choose(scores.data) if replay is None else replay
        if mask is not None:
            indices = xp_of(indices).where(mask[:, None] != 0, indices, -1)
        return Routing(indices, scores, count_experts(indices, self.weight.shape[0]))

    def choose(self, scores: Array) -> Array:
        """`route` by this layer's bias and numbers.  scores (N, E) → (N, k)."""
        return route(
            scores,
            self.e_score_correction_bias,
            k=self.k,
            n_group=self.n_group,
            topk_group=self.topk_group,
        )


class Experts(Module):
    """The routed experts, stacked: gate_up_proj (E, 2m, d), gate first, and down_proj (E, d, m).

    A checkpoint names each expert's three matrices; `named_tensors` gives them as views.
    """

    def __init__(self, config: Any, init: Init) -> None:
        e, m, d = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = init.normal(e, 2 * m, d)
        self.down_proj = init.normal(e, d, m)

    def __call__(self, x: Tensor, weights: Tensor, indices: Array, counts: list[int]) -> Tensor:
        """Σⱼ weights[n, j] · FFN of expert indices[n, j], for every token n.  x (N, d) → (N, d)."""
        stacks = self.gate_up_proj, self.down_proj
        return ops.expert_mlp(x, *stacks, weights, indices, counts=counts)

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        gate_up, down = self.gate_up_proj.data, self.down_proj.data
        m = down.shape[-1]
        for e in range(down.shape[0]):
            yield f"{prefix}{e}.gate_proj.weight", gate_up[e, :m]
            yield f"{prefix}{e}.up_proj.weight", gate_up[e, m:]
            yield f"{prefix}{e}.down_proj.weight", down[e]


FIELDS = {  # of a config that DeepSeekMoE reads; the defaults are those of one used alone
    "hidden_size": REQUIRED,
    "n_routed_experts": REQUIRED,
    "num_experts_per_tok": REQUIRED,
    "moe_intermediate_size": REQUIRED,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
}


class DeepSeekMoE(Module):
    """Routed and shared experts in place of one MLP.  x (B, T, d) → (B, T, d), no residual.

    config: a DeepSeekV3Config or anything with its fields of experts; or None, and those FIELDS by
    name. rng: a numpy.random.Generator, None for a fixed seed, or the model's Init. InputError for
    more experts per token than the kept groups hold.
    """

    def __init__(self, config: Any = None, rng: Any = None, **fields: Any) -> None:
        config, init = settle(config, rng, fields, FIELDS)
        self.gate = Router(config, init)
        self.experts = Experts(config, init)
        shared = config.n_shared_experts * config.moe_intermediate_size
        self.shared_experts = MLP(config.hidden_size, shared, init)
        self.normalise, self.factor = config.norm_topk_prob, config.routed_scaling_factor

    def __call__(self, x: Tensor) -> Tensor:
        return self.routed(x)[0]

    def routed(
        self, x: Tensor, mask: Array | None = None, replay: Array | None = None
    ) -> tuple[Tensor, Routing]:
        """The output and what the router decided.  mask: None or (B, T), 0 for padding.

        replay: None or (B·T, k), the experts to use, −1 for none: V3.2 keeps those of the sampler
        when it trains on samples, so that a rounding error cannot flip a choice between the two.
        """
        flat = ops.reshape(x, shape=(x.shape[0] * x.shape[1], x.shape[2]))
        routing = self.gate(flat, None if mask is None else mask.reshape(-1), replay)
        chosen = routing.indices
        if mask is not None or replay is not None:
            # A gather needs distinct experts; the product ignores rows of −1.
            xp = xp_of(chosen)
            chosen = xp.where(chosen < 0, xp.arange(chosen.shape[-1]), chosen)
        weights = gate_weights(routing.scores, chosen, normalise=self.normalise, factor=self.factor)
        y = self.experts(flat, weights, routing.indices, routing.counts)
        return ops.reshape(y, shape=x.shape) + self.shared_experts(x), routing
