r"""Chapter 4b.6 — The routed experts in FP8

The same three products for each of an expert's matrices G, U, D, on tokens sorted by expert
(autograd/experts.py), with what V3 does between machines (V3 §3.3.3):

    x̄  = Q(x)                         once a token, before it is dispatched to its experts
    z  = x̄ Q(G)ᵀ ,   u = x̄ Q(U)ᵀ
    a  = w silu(z) ∘ u                w: the token's gate for this expert
    y  = Σ over its experts  Q(a) Q(D)ᵀ

The gate stands before D rather than behind it; D is linear, and the gradient that comes back is
then the token's own g, quantised once and dispatched like x:

    ḡ  = Q(g)                         once a token
    da = ḡ Q(D) ,                     dw = Σ da silu(z) u
    dD = Q(g)ᵀ Q(a) ,                 both in 128 × 1 tiles of this expert's tokens
    dx = Q(dz) Q(G) + Q(du) Q(U) ,    dG = Q(dz)ᵀ Q(x̄) ,   dU = Q(du)ᵀ Q(x̄)

dD reads g itself, as if all were one machine. An expert's own would have ḡ alone and make Q(ḡ) of
it; with V3's powers of two that is Q(g) but for numbers that are subnormal in one of the two tiles.

**What is kept**: the codes of x̄ (one row a token, however many experts it goes to) and z and u in
FP8, one byte a number; a is computed again from those in backward, as V3 caches SwiGLU's inputs.
backward therefore sees z and u rounded, forward does not.

Tiles never cross from one expert to another, nor from gate to up: in a checkpoint they are three
matrices of their own, and these are its tiles. Tokens' tiles of 128 × 1 begin with the expert's
first token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minideepseek.autograd.backend import Array, xp_of
from minideepseek.autograd.blocks import parallel_for
from minideepseek.autograd.engine import Tensor, ops, primitive
from minideepseek.autograd.experts import gather, gather_sum, sorted_pairs
from minideepseek.autograd.fused import silu_parts, silu_slope
from minideepseek.errors import InputError
from minideepseek.layers.fp8.linear import check_stored
from minideepseek.layers.fp8.recipe import SERVING, V3, Kept, Recipe
from minideepseek.layers.fp8.tiles import WEIGHT_BLOCK
from minideepseek.layers.moe import Experts


@primitive
def fp8_expert_mlp(x, gate_up, down, weights, indices, *, counts, recipe):
    """y (N, d) as `expert_mlp` of the same arguments, in FP8 with the gradients above."""
    xp, m = xp_of(x, gate_up, down, weights, indices), down.shape[-1]
    up, fall = recipe.experts_up, recipe.experts_down
    shapes = gate_up.shape, down.shape

    def matrices(e):
        return (
            up.w.keep(gate_up[e, :m]), up.w.keep(gate_up[e, m:]), fall.w.keep(down[e])
        )  # fmt: skip

    y, pull = run_experts(x, matrices, weights, indices, counts, recipe)

    def vjp(g):
        dgate_up, ddown = (xp.zeros(shape, g.dtype) for shape in shapes)

        def learn(e, rows, dh, a, gs):
            rows = up.x_tokens.round(rows)
            for i in (0, 1):
                side = slice(i * m, (i + 1) * m)
                xp.matmul(up.dy_tokens.round(dh[i]).T, rows, out=dgate_up[e, side])
            xp.matmul(fall.dy_tokens.round(gs).T, fall.x_tokens.round(a), out=ddown[e])

        dx, dweights = pull(g, learn)
        return dx, dgate_up, ddown, dweights, None

    return y, vjp


@primitive
def fp8_stored_expert_mlp(
    x, gate_up, gate_up_scale, down, down_scale, weights, indices, *, counts, recipe
):
    """y (N, d) of experts that are stored: codes (E, 2m, d), (E, d, m) and their scales.

    gate_up_scale (E, 2, ⌈m/128⌉, ⌈d/128⌉), down_scale (E, ⌈d/128⌉, ⌈m/128⌉). An expert's matrices
    are decoded when its tokens come and not kept; gradients reach x and the gates.
    """
    m = down.shape[-1]

    def matrices(e):
        return (
            Kept(gate_up[e, :m], gate_up_scale[e, 0], WEIGHT_BLOCK),
            Kept(gate_up[e, m:], gate_up_scale[e, 1], WEIGHT_BLOCK),
            Kept(down[e], down_scale[e], WEIGHT_BLOCK),
        )

    y, pull = run_experts(x, matrices, weights, indices, counts, recipe)

    def vjp(g):
        dx, dweights = pull(g, None)
        return dx, None, None, None, None, dweights, None

    return y, vjp


def run_experts(
    x: Array,
    matrices: Callable[[int], Sequence[Any]],
    weights: Array,
    indices: Array,
    counts: list[int],
    recipe: Recipe,
) -> tuple[Array, Callable]:
    """y and pull(g, learn) → (dx, dweights).  matrices(e): expert e's G, U and D, as tiles keep.

    learn: None, or learn(e, rows, dh, a, gs), called for each expert with what the gradients of its
    matrices are made of: x̄ of its tokens, (dz, du), a, and g of its tokens.
    """
    xp, dtype = xp_of(x, weights, indices), x.dtype
    up, fall = recipe.experts_up, recipe.experts_down
    token, place, jobs, gates = sorted_pairs(weights, indices, counts)
    x_kept, kept = up.x.keep(x), dict[int, tuple]()
    x_read, results = x_kept.read(dtype), xp.empty((token.size, x.shape[1]), dtype)

    def forward(job):
        e, s = job
        g_matrix, u_matrix, d_matrix = matrices(e)
        rows = x_read[token[s]]
        z, u = rows @ g_matrix.read(dtype).T, rows @ u_matrix.read(dtype).T
        kept[e] = g_matrix, u_matrix, d_matrix, recipe.swiglu.keep(z), recipe.swiglu.keep(u)
        _, a = silu_parts(z)
        a *= u
        a *= gates[s]
        xp.matmul(fall.x.round(a), d_matrix.read(dtype).T, out=results[s])

    parallel_for(forward, jobs)

    def pull(g, learn):
        dgates, dresults = xp.empty_like(gates), xp.empty((token.size, g.shape[1]), dtype)
        x_read, g_read = x_kept.read(dtype), fall.dy.round(g)

        def backward(job):
            e, s = job
            g_matrix, u_matrix, d_matrix, *cached = kept[e]
            z, u = (array.read(dtype) for array in cached)
            sigma, act = silu_parts(z)
            a, da = act * u, g_read[token[s]] @ d_matrix.read(dtype)
            dgates[s] = (da * a).sum(-1, keepdims=True)
            da *= gates[s]
            dz, du = da * u, da * act
            dz *= silu_slope(z, sigma, act)
            if learn is not None:
                learn(e, x_read[token[s]], (dz, du), a * gates[s], g[token[s]])
            xp.matmul(up.dy.round(dz), g_matrix.read(dtype), out=dresults[s])
            dresults[s] += up.dy.round(du) @ u_matrix.read(dtype)

        parallel_for(backward, jobs)
        return gather_sum(dresults, place, indices), gather(dgates[:, 0], place, indices)

    return gather_sum(results, place, indices), pull


class FP8Experts(Experts):
    """The experts' stacks as master copies, to train in FP8: `Experts` in every other respect."""

    recipe: Recipe

    @classmethod
    def of(cls, experts: Experts, recipe: Recipe = V3) -> FP8Experts:
        """The experts with the same Parameters, which go on being shared."""
        layer = cls.__new__(cls)
        vars(layer).update(vars(experts), recipe=recipe)
        return layer

    def __call__(self, x: Tensor, weights: Tensor, indices: Array, counts: list[int]) -> Tensor:
        stacks = self.gate_up_proj, self.down_proj
        options: dict[str, Any] = {"counts": counts, "recipe": self.recipe}
        return ops.fp8_expert_mlp(x, *stacks, weights, indices, **options)


class StoredFP8Experts(Experts):
    """The experts as codes, to serve.

    parts: for each expert the (codes, scale_inv) of gate, up and down, as `quantize` gives them.
    InputError for arrays that are not.
    """

    buffers = ("gate_up_proj", "gate_up_scale_inv", "down_proj", "down_scale_inv")

    def __init__(self, parts: Sequence[Any], recipe: Recipe = SERVING) -> None:
        for expert in parts:
            for codes, scale_inv in expert:
                check_stored(codes, scale_inv)
        xp = xp_of(parts[0][0][0])
        self.gate_up_proj = xp.stack([xp.concatenate((g[0], u[0])) for g, u, _ in parts])
        self.gate_up_scale_inv = xp.stack([xp.stack((g[1], u[1])) for g, u, _ in parts])
        self.down_proj = xp.stack([d[0] for _, _, d in parts])
        self.down_scale_inv = xp.stack([d[1] for _, _, d in parts])
        self.recipe = recipe
        if self.gate_up_proj.shape[1:] != (2 * self.down_proj.shape[2], self.down_proj.shape[1]):
            raise InputError(
                f"parts: got gate and up of {self.gate_up_proj.shape[1:]} together and down of "
                f"{self.down_proj.shape[1:]}, expected (2m, d) and (d, m)"
            )

    def __call__(self, x: Tensor, weights: Tensor, indices: Array, counts: list[int]) -> Tensor:
        stacks = (getattr(self, name) for name in self.buffers)
        options: dict[str, Any] = {"counts": counts, "recipe": self.recipe}
        return ops.fp8_stored_expert_mlp(x, *stacks, weights, indices, **options)

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        m = self.down_proj.shape[-1]
        for e in range(self.down_proj.shape[0]):
            codes = self.gate_up_proj[e, :m], self.gate_up_proj[e, m:], self.down_proj[e]
            scales = *self.gate_up_scale_inv[e], self.down_scale_inv[e]
            for name, q, s in zip(("gate", "up", "down"), codes, scales, strict=True):
                yield f"{prefix}{e}.{name}_proj.weight", q
                yield f"{prefix}{e}.{name}_proj.weight_scale_inv", s
