r"""Absorbing W^UK and W^UV  ★★★  25 minutes

Multi-head latent attention keeps one latent cₛ of every token, and each head makes its key and its
value of it when they are needed (V2 eq. 10, 11). Taken literally, a decoder makes them again for
all cached tokens at every step:

    naive     kᵢₛ = [Wᵢ^UK cₛ ; kₛ^R] ,   vᵢₛ = Wᵢ^UV cₛ
              yᵢ = Σₛ pᵢₛ vᵢₛ ,           pᵢ = softmax_s(scale · qᵢ·kᵢₛ)       (V2 eq. 16–18)

It need not. Both uses of cₛ are linear, and a product of three may be bracketed in two ways. Find
the brackets under which every matrix meets a query or a result, and no matrix meets a cached token:
the heads then attend to the latents themselves, which are one key and one value for all of them.

The query's rotated part qᵢ^R goes with the shared key k^R as before, the scale is the same, and so
are mask and softmax: it is one function, to rounding.

For one new token and S cached ones it saves S · r (dₙ + dᵥ) multiplications a head, at V3's sizes
131,072 for each cached token, and the memory for S keys and values of 128 heads.

Everything here is a Tensor, and weights get gradients through it. What you may need:

    ops.head_linear(x, weight)       yₕ = Wₕ xₕ;  x (B, T, H, in), weight (H, out, in)
    ops.transpose(x, axes=(…))       ops.concatenate(x, y) along the last axis
    ops.attention(q, k, v, scale=layer.scale, **where)
                                     q (B, T, H, D), k (B, S, H′, D), v (B, S, H′, Dᵥ); H′ = 1 is
                                     one head of keys and values for all
    x[:, :, None], x[..., 2:]        as in NumPy
"""

from minideepseek.autograd.engine import ops


def up_projections(layer):
    """W^UK (H, dₙ, r) and W^UV (H, dᵥ, r), Tensors: views of the layer's weights."""
    shape = (layer.heads, layer.nope + layer.value, layer.latent)
    w = ops.reshape(layer.kv_b_proj.matrix(), shape=shape)  # per head [W^UK ; W^UV]
    return w[:, : layer.nope], w[:, layer.nope :]


def absorb(layer, q, c_kv, k_pe, stored, **where):
    """y (B, T, H, dᵥ) by attending to the latents.

    q (B, T, H, dₙ + dᵣ): [q^C ; q^R] of each head; c_kv (B, S, r): the latents; k_pe (B, S, 1, dᵣ):
    the rotated key of all heads, None where dᵣ = 0; stored (B, S, r + dᵣ): [c_kv ; k_pe], as the
    cache has it; where: goes to ops.attention, it says which keys are seen.
    """
    raise NotImplementedError("return y")


# ------------------------------------------------------------------------------------- not copied

import numpy as np

from minideepseek.autograd.engine import Parameter, Tensor, backward
from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers.mla import DeepSeekAttention, MultiHeadLatentAttention
from minideepseek.layers.module import Init

_NAMES = ("q", "c_kv", "k_pe", "stored")


def _layer(latent, nope, value, rope):
    fields = {"hidden_size": 8, "num_attention_heads": 2, "kv_lora_rank": latent,
              "qk_nope_head_dim": nope, "v_head_dim": value}  # fmt: skip
    init = Init(np.random.default_rng(0), 0.5, np.float64)
    if not rope:
        return MultiHeadLatentAttention(rng=init, **fields)
    return DeepSeekAttention(rng=init, qk_rope_head_dim=rope, **fields)


def _inputs(layer, t, s, seed=1):
    """Leaves q and [c_kv ; k_pe], and the three that are made of the latter."""
    rng, rope = np.random.default_rng(seed), layer.rope_width
    q = Parameter(rng.standard_normal((2, t, layer.heads, layer.nope + rope)))
    stored = Parameter(rng.standard_normal((2, s, layer.latent + rope)))
    k_pe = stored[:, :, None, layer.latent :] if rope else None
    return q, stored, (q, stored[..., : layer.latent], k_pe, stored)


def _same(*sizes, t=3, s=3, **where):
    """The property that absorbed = naive."""

    def holds(absorb):
        layer = _layer(*sizes)
        inputs = _inputs(layer, t, s)[2]
        want = layer.attend_naive(*inputs, **where).data
        got = absorb(layer, *inputs, **where)
        if not isinstance(got, Tensor):
            return f"it returned {described(got)}, expected a Tensor"
        return compare(got.data, want, "y")

    return holds


def _gradients(absorb):
    """The gradients are the naive form's, too."""
    found = []
    for form in (MultiHeadLatentAttention.attend_naive, absorb):
        layer = _layer(5, 3, 4, 2)
        q, stored, inputs = _inputs(layer, 3, 3)
        y = form(layer, *inputs)
        backward(y, np.random.default_rng(2).standard_normal(y.shape))
        found.append({"q": q, "stored": stored, "kv_b_proj.weight": layer.kv_b_proj.weight})
    for name, leaf in found[1].items():
        if leaf.grad is None:
            return f"no gradient arrives at {name}"
        if said := compare(leaf.grad, found[0][name].grad, f"the gradient of {name}"):
            return said
    return ""


def _nothing_expanded(absorb):
    """No array on the tape has a vector for every head of every cached token."""
    layer, s = _layer(3, 4, 4, 2), 11
    y = absorb(layer, *_inputs(layer, 1, s)[2], offsets=s - 1)
    nodes, seen = [y.node], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if s in node.shape and np.prod(node.shape) >= 2 * s * layer.heads * layer.nope:
            return f"{node.name} makes an array {node.shape}: a vector per head and cached token"
        nodes += node.parents
    return ""


def _wrong(query="ops.transpose(w_uk, axes=(0, 2, 1))", scale="layer.scale", values="c_kv",
           rotated="q[..., layer.nope :]", where=", **where", out="w_uv", weights=""):  # fmt: skip
    return (
        f"w_uk, w_uv = up_projections(layer)\n{weights}"
        f"q_c = ops.head_linear(q[..., : layer.nope], {query})\n"
        f"if k_pe is not None:\n    q_c = ops.concatenate(q_c, {rotated})\n"
        f"y = ops.attention(q_c, stored[:, :, None], {values}[:, :, None], scale={scale}{where})\n"
        f"return ops.head_linear(y, {out})"
    )


EXERCISE = Exercise(
    solutions=(MultiHeadLatentAttention.attend_absorbed, MultiHeadLatentAttention.attend_naive),
    checker=properties({
        "without positions": _same(4, 4, 3, 0),
        "other widths": _same(6, 3, 5, 0),
        "with the shared key": _same(6, 3, 5, 2),
        "a cache": _same(5, 3, 4, 2, t=1, s=7, offsets=6),
        "gradients": _gradients,
        "nothing expanded": _nothing_expanded,
    }),
    hints=(
        "qᵢ·kᵢₛ = qᵢᵀ (Wᵢ^UK cₛ): move the bracket. And the weighted sum of the values is\n"
        "linear in them: sum first, multiply by W^UV afterwards.",
        "q̃ᵢ = Wᵢ^UKᵀ qᵢ^C;  scores (q̃ᵢ, qᵢ^R)·(cₛ, k^R);  ỹᵢ = Σₛ pᵢₛ cₛ;  yᵢ = Wᵢ^UV ỹᵢ",
        "w_uk, w_uv = up_projections(layer)\n"
        "q_c = ops.head_linear(q[..., : layer.nope], ops.transpose(w_uk, axes=(0, 2, 1)))",
    ),
    mistakes=(
        Mistake(_wrong(scale="q_c.shape[-1] ** -0.5"), "other widths", "entries differ"),
        Mistake(_wrong(query="w_uk"), "without positions", "entries differ"),
        Mistake(_wrong(out="w_uk"), "without positions", "y has shape (2, 3, 2, 4), want (2, 3"),
        Mistake(_wrong(values="stored"), "error", "matmul"),
        Mistake(_wrong(rotated="q[..., layer.nope :] * 0"), "with the shared key",
                "entries differ"),
        Mistake(_wrong(where=""), "a cache", "y: "),
        Mistake("return layer.attend_naive(q, c_kv, k_pe, stored, **where)", "nothing expanded",
                "a vector per head and cached token"),
        Mistake(_wrong(weights="w_uk, w_uv = (type(w)(w.data) for w in (w_uk, w_uv))\n"),
                "gradients", "no gradient arrives at kv_b_proj.weight"),
        Mistake(_wrong().replace("return ops.head_linear(y, w_uv)", "return y"),
                "without positions", "y has shape (2, 3, 2, 4), want (2, 3, 2, 3)"),
    ),
)  # fmt: skip
