r"""Chapter 3, before DeepSeek — a few large experts and a loss that balances them

An MLP twice as wide knows more and costs twice as much for every token. A mixture of experts keeps
N MLPs and lets each token choose K of them: parameters grow with N, work with K alone (Shazeer et
al. 2017, with up to 131,072 experts). In a Transformer every layer, or every second one, has such a
mixture in place of its MLP (GShard 2020: top-2 of up to 2,048; Switch 2021: top-1).

    sᵢ = softmax_i(u·eᵢ)               `probs`, affinity of token u to expert i     (MoE eq. 5)
    gᵢ = sᵢ for i in Topk(s, K), else 0                                             (MoE eq. 4)
    h′ = Σᵢ gᵢ FFNᵢ(u)                 the residual u is added by the block         (MoE eq. 3)

e is `gate.weight`, (N, d). Only the K experts with gᵢ ≠ 0 are computed. The choice itself has no
gradient; the router learns through g: an expert that helped a token is weighted more.

Two gates
---------
`top_of_softmax` is the equation above: the K gates add up to less than 1, and how much less depends
on the experts not chosen. `softmax_of_top` divides by their sum, so that the layer's output does
not shrink where the router is unsure. That is GShard's g₁/(g₁ + g₂), Mixtral's softmax over the K
chosen logits (Jiang et al. 2024, §2.1) and V3's norm_topk_prob: with K = 1 it is the constant 1
and the router gets no gradient, which is why Switch keeps the first.

Collapse, and the loss against it
---------------------------------
Nothing makes a router fair. An expert that is chosen gets the gradients, becomes better and is
chosen more (Shazeer et al. 2017, §4: the same few experts get everything). With cᵢ (`counts`) the
choices that expert i got from T tokens, Switch (§2.2) adds to the language model's loss

    L = α N Σᵢ fᵢ Pᵢ ,   fᵢ = cᵢ / (K T) ,   Pᵢ = mean_t sᵢₜ        (in V2's form: V2 eq. 23–25)

f is what happened, a constant; P is its smooth stand-in that can be pushed: ∂L/∂Pᵢ = α N fᵢ, more
for the experts that are overloaded. With all fᵢ = 1/N, or all Pᵢ = 1/N, L = α. Sources differ in
what f counts: Switch has K = 1; GShard counts first choices; Mixtral's code counts all and does not
divide by K, so that balance gives K α. Switch found α = 1e-2 good; it is a compromise always, for
the same pull that balances the loads also moves the router away from what the text asks for. Doing
without is the subject of moe.py.

Those systems also give each expert a fixed number of places, its capacity, and drop the tokens that
come too late. Here nothing is dropped.

From here to DeepSeekMoE
------------------------
Few large experts must each know many things, and common knowledge is stored in all of them. The MoE
paper changes two numbers and neither the parameters nor the work. Each expert is cut into m of 1/m
of its width: mN experts, mK per token (eq. 6–8). Then K_s of them become shared: every token uses
them and the router chooses mK − K_s of the other mN − K_s (eq. 9–11). With 16 experts, 2 of them
used, m = 4 and K_s = 1:

                    experts   of width   total   per token   sets that a token can choose
    StandardMoE        16         4w       64w        8w     C(16, 2) =           120
    fine-grained       64          w       64w        8w     C(64, 8) = 4,426,165,368
    one shared        1 + 63       w       64w        8w     C(63, 7) =   553,270,671

`segment` does this arithmetic. Only the router grows, from N to mN − K_s rows of d numbers. What it
buys, and what it costs in time, is measured by demos/moe_benchmark.py.

>>> from minideepseek import StandardMoE, Tensor
>>> import numpy as np
>>> moe = StandardMoE(
...     hidden_size=32, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
...     rng=np.random.default_rng(0),
... )
>>> x = Tensor(np.random.default_rng(1).standard_normal((2, 5, 32)).astype(np.float32))
>>> y, routing = moe.routed(x)           # y alone: moe(x)
>>> y
Tensor(shape=(2, 5, 32), float32, cpu, from reshape)
>>> routing.counts                       # 2 · 5 tokens, two experts each
[7, 4, 3, 6]
>>> loss = balance_loss(routing, alpha=0.01)      # goes beside the model's loss
>>> round(loss.item(), 3)                # all probs are near 1/4, so it is near α
0.01
>>> finer = segment(experts=16, k=2, width=4096, m=4, shared=1)
>>> finer["n_routed_experts"], finer["num_experts_per_tok"], finer["moe_intermediate_size"]
(63, 7, 1024)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minideepseek.autograd import backend
from minideepseek.autograd.backend import Array, like, top_k, xp_of
from minideepseek.autograd.engine import Tensor, ops
from minideepseek.errors import InputError
from minideepseek.layers.module import REQUIRED, Linear, Module, settle
from minideepseek.layers.moe import Experts, Routing, check_routing, count_experts

Gates = Callable[[Tensor, Array], Tensor]


def top_of_softmax(logits: Tensor, indices: Array) -> Tensor:
    """gᵢ = sᵢ, the softmax over all experts.  logits (N, E), indices (N, k) → (N, k)."""
    return ops.take_along_axis(ops.softmax(logits), indices)


def softmax_of_top(logits: Tensor, indices: Array) -> Tensor:
    """gᵢ = sᵢ / Σ_Topk s, the softmax over the chosen logits.  (N, E), (N, k) → (N, k)."""
    return ops.softmax(ops.take_along_axis(logits, indices))


def balance_loss(routing: Routing, alpha: float) -> Tensor:
    """α N Σᵢ fᵢ Pᵢ over all tokens of the batch, a scalar; rows of −1 (padding) do not count.

    routing.scores (N, E) must be shares: rows of a softmax, or affinities divided by their sum.
    """
    probs, real = routing.scores, routing.indices[:, :1] >= 0
    tokens, choices = max(1, sum(routing.counts) // routing.indices.shape[1]), sum(routing.counts)
    f = like(backend.as_array(routing.counts, probs.dtype), probs.data) / max(1, choices)
    p = (probs * real.astype(probs.dtype)).sum(0) * (1 / tokens)
    return (p * f).sum() * (alpha * len(routing.counts))


def segment(experts: int, k: int, width: int, *, m: int, shared: int) -> dict[str, int]:
    """The DeepSeekMoE with the parameters and the work of k of `experts` experts of `width`.

    Each expert is cut into m; `shared` pieces become shared experts (MoE eq. 9–11). Returns fields
    of DeepSeekMoE. InputError for a width that m does not divide, and where no routed one is left.
    """
    if m < 1 or width % m:
        raise InputError(f"m: got {m}, expected a divisor of the experts' width {width}")
    if not 1 <= shared < m * k:
        raise InputError(f"shared: got {shared}, expected 1 to m·k − 1 = {m * k - 1}")
    return {
        "n_routed_experts": m * experts - shared,
        "num_experts_per_tok": m * k - shared,
        "n_shared_experts": shared,
        "moe_intermediate_size": width // m,
    }


FIELDS = {  # of a config that StandardMoE reads
    "hidden_size": REQUIRED,
    "n_routed_experts": REQUIRED,
    "num_experts_per_tok": REQUIRED,
    "moe_intermediate_size": REQUIRED,
}


class StandardMoE(Module):
    """K of N experts in place of one MLP, by softmax.  x (B, T, d) → (B, T, d), no residual.

    config: anything with the FIELDS above, or None, and those FIELDS by name. rng: a
    numpy.random.Generator, None for a fixed seed, or a model's Init. gates: `top_of_softmax`
    or `softmax_of_top`. InputError for more experts per token than there are.
    """

    def __init__(
        self, config: Any = None, rng: Any = None, gates: Gates = top_of_softmax, **fields: Any
    ) -> None:
        config, init = settle(config, rng, fields, FIELDS)
        check_routing(config.n_routed_experts, config.num_experts_per_tok)
        self.gate = Linear(config.hidden_size, config.n_routed_experts, init)
        self.experts = Experts(config, init)
        self.k, self.gates = config.num_experts_per_tok, gates

    def __call__(self, x: Tensor) -> Tensor:
        return self.routed(x)[0]

    def routed(self, x: Tensor, mask: Array | None = None) -> tuple[Tensor, Routing]:
        """The output, and the choices with their probs.  mask: None or (B, T), 0 for padding."""
        flat = ops.reshape(x, shape=(x.shape[0] * x.shape[1], x.shape[2]))
        logits = self.gate(flat)
        indices = chosen = top_k(logits.data, self.k)
        if mask is not None:
            indices = xp_of(indices).where(mask.reshape(-1, 1) != 0, indices, -1)
        counts = count_experts(indices, logits.shape[1])
        y = self.experts(flat, self.gates(logits, chosen), indices, counts)
        return ops.reshape(y, shape=x.shape), Routing(indices, ops.softmax(logits), counts)
