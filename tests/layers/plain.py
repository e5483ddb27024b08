"""DeepSeek-V3 once more, slowly: one token, one head, one expert at a time, in float64.

Written from the papers and from what the released checkpoints mean, without anything of the
package but the configuration's fields. A `State` maps checkpoint names to arrays; functions of one
layer get the names below `model.layers.{i}.`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

State = Mapping[str, np.ndarray]


def under(state: State, prefix: str) -> dict[str, np.ndarray]:
    """The tensors below `prefix`, by the rest of their names."""
    return {name[len(prefix) :]: a for name, a in state.items() if name.startswith(prefix)}


def norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def mlp(w: State, prefix: str, x: np.ndarray) -> np.ndarray:
    """down(silu(gate x) ∘ up x) of one token."""
    gate, up, down = (w[f"{prefix}{name}_proj.weight"] for name in ("gate", "up", "down"))
    z = gate @ x
    return down @ (z / (1 + np.exp(-z)) * (up @ x))


# --------------------------------------------------------------------------------------- positions


def positions(c: Any) -> tuple[list[float], float, float]:
    """Radians per position of each pair, the factor on cos and sin, the factor on the softmax."""
    width, yarn = c.qk_rope_head_dim, c.rope_scaling
    rates = [c.rope_theta ** (-2 * j / width) for j in range(width // 2)]
    if not yarn or yarn["type"] == "default":
        return rates, 1.0, 1.0
    s, length = yarn["factor"], yarn["original_max_position_embeddings"]

    def pair_turning(n: float) -> float:
        return width * math.log(length / (n * 2 * math.pi)) / (2 * math.log(c.rope_theta))

    low = max(math.floor(pair_turning(yarn["beta_fast"])), 0)
    high: float = min(math.ceil(pair_turning(yarn["beta_slow"])), width - 1)
    if low == high:
        high += 0.001
    slowed = []
    for j, rate in enumerate(rates):
        ramp = min(1.0, max(0.0, (j - low) / (high - low)))
        slowed.append(ramp * rate / s + (1 - ramp) * rate)

    def m(coefficient: float) -> float:
        return 1.0 if s <= 1 else 0.1 * coefficient * math.log(s) + 1.0

    mscale, all_dim = yarn.get("mscale"), yarn.get("mscale_all_dim")
    on_angles = m(mscale) / m(all_dim) if mscale and all_dim else m(1.0)
    if yarn.get("attention_factor") is not None:
        on_angles = yarn["attention_factor"]
    return slowed, on_angles, m(all_dim) ** 2 if all_dim else 1.0


def rotate(c: Any, x: np.ndarray, position: int) -> np.ndarray:
    """The rotated part of one head, r channels, as complex numbers times e^(iφ)."""
    rates, gain, _ = positions(c)
    y, half = np.empty_like(x), len(rates)
    for j, rate in enumerate(rates):
        a, b = (2 * j, 2 * j + 1) if c.rope_interleave else (j, j + half)
        z = complex(x[a], x[b]) * gain * complex(math.cos(position * rate),
                                                 math.sin(position * rate))  # fmt: skip
        y[a], y[b] = z.real, z.imag
    return y


# --------------------------------------------------------------------------------------- attention


def cached(c: Any, w: State, x: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What a cache holds of tokens x (T, d): latents after their norm, rotated shared keys."""
    a = x @ w["self_attn.kv_a_proj_with_mqa.weight"].T
    a = a + w.get("self_attn.kv_a_proj_with_mqa.bias", 0.0)
    latent = norm(a[:, : c.kv_lora_rank], w["self_attn.kv_a_layernorm.weight"], 1e-6)
    keys = [rotate(c, k, first + t) for t, k in enumerate(a[:, c.kv_lora_rank :])]
    return latent, np.array(keys)


def attention(c: Any, w: State, x: np.ndarray, segments: Sequence[int] | None = None) -> np.ndarray:
    """Multi-head latent attention, naive.  x (T, d) → (T, d)."""
    tokens, heads, nope = len(x), c.num_attention_heads, c.qk_nope_head_dim
    if c.q_lora_rank is None:
        q = x @ w["self_attn.q_proj.weight"].T
    else:
        q = x @ w["self_attn.q_a_proj.weight"].T + w.get("self_attn.q_a_proj.bias", 0.0)
        q = norm(q, w["self_attn.q_a_layernorm.weight"], 1e-6) @ w["self_attn.q_b_proj.weight"].T
    q = q.reshape(tokens, heads, nope + c.qk_rope_head_dim)
    latent, k_pe = cached(c, w, x)
    kv = (latent @ w["self_attn.kv_b_proj.weight"].T).reshape(tokens, heads, nope + c.v_head_dim)
    scale = (nope + c.qk_rope_head_dim) ** -0.5 * positions(c)[2]
    out = np.zeros((tokens, heads, c.v_head_dim))
    for t in range(tokens):
        for h in range(heads):
            turned = rotate(c, q[t, h, nope:], t)
            past = [s for s in range(t + 1) if segments is None or segments[s] == segments[t]]
            scores = np.array([q[t, h, :nope] @ kv[s, h, :nope] + turned @ k_pe[s] for s in past])
            p = np.exp(scale * (scores - scores.max()))
            out[t, h] = sum(p[i] / p.sum() * kv[s, h, nope:] for i, s in enumerate(past))
    y = out.reshape(tokens, heads * c.v_head_dim) @ w["self_attn.o_proj.weight"].T
    return y + w.get("self_attn.o_proj.bias", 0.0)


# ----------------------------------------------------------------------------------------- experts


def route(scores: Any, bias: Any, k: int, groups: int, kept: int) -> list[int]:
    """The experts of one token, best first, ties to the lower index.  scores, bias (E,)."""
    biased = [s + b for s, b in zip(scores, bias, strict=True)]
    size = len(biased) // groups
    worth = []
    for g in range(groups):
        best = sorted(biased[g * size : (g + 1) * size], reverse=True)[:2]
        worth.append((-sum(best), g))
    open_groups = {g for _, g in sorted(worth)[:kept]}
    order = sorted((-c, e) for e, c in enumerate(biased) if e // size in open_groups)
    return [e for _, e in order[:k]]


def moe(c: Any, w: State, x: np.ndarray) -> tuple[np.ndarray, list[int], np.ndarray]:
    """One token through router and experts: output (d,), the experts, all affinities (E,)."""
    scores = 1 / (1 + np.exp(-(w["mlp.gate.weight"] @ x)))
    bias = w["mlp.gate.e_score_correction_bias"].astype(np.float64)
    chosen = route(scores, bias, c.num_experts_per_tok, c.n_group, c.topk_group)
    gates = scores[chosen] / (scores[chosen].sum() if c.norm_topk_prob else 1.0)
    y = mlp(w, "mlp.shared_experts.", x)
    for gate, e in zip(gates, chosen, strict=True):
        y = y + c.routed_scaling_factor * gate * mlp(w, f"mlp.experts.{e}.", x)
    return y, chosen, scores


def balance(c: Any, scores: np.ndarray) -> float:
    """α Σᵢ fᵢ Pᵢ of one sequence.  scores (T, E)."""
    tokens, experts = scores.shape
    f, p = [0.0] * experts, [0.0] * experts
    for row in scores:
        for e in route(row, [0.0] * experts, c.num_experts_per_tok, 1, 1):
            f[e] += experts / (c.num_experts_per_tok * tokens)
        for e in range(experts):
            p[e] += row[e] / row.sum() / tokens
    return c.aux_loss_alpha * sum(a * b for a, b in zip(f, p, strict=True))


# ------------------------------------------------------------------------------------------- model


class Routed(NamedTuple):
    """One MoE layer's decisions on one sequence: experts (T, K) and affinities (T, E)."""

    chosen: np.ndarray
    scores: np.ndarray


def decoder_layer(
    c: Any, w: State, x: np.ndarray, is_moe: bool
) -> tuple[np.ndarray, Routed | None]:
    """x (T, d) → (T, d), and what the router decided."""
    h = x + attention(c, w, norm(x, w["input_layernorm.weight"], c.rms_norm_eps))
    z = norm(h, w["post_attention_layernorm.weight"], c.rms_norm_eps)
    if not is_moe:
        return h + np.array([mlp(w, "mlp.", row) for row in z]).reshape(h.shape), None
    rows = [moe(c, w, row) for row in z]
    k, experts = c.num_experts_per_tok, c.n_routed_experts
    chosen = np.array([r[1] for r in rows], np.int64).reshape(-1, k)
    scores = np.array([r[2] for r in rows]).reshape(-1, experts)
    return h + np.array([r[0] for r in rows]).reshape(h.shape), Routed(chosen, scores)


def hidden(c: Any, state: State, ids: Sequence[int]) -> tuple[np.ndarray, list[Routed]]:
    """The normed last states (T, d) of one sequence, and each MoE layer's decisions."""
    x, routings = state["model.embed_tokens.weight"][np.asarray(ids)], []
    for i in range(c.num_hidden_layers):
        w = under(state, f"model.layers.{i}.")
        x, routed = decoder_layer(c, w, x, i >= c.first_k_dense_replace)
        if routed is not None:
            routings.append(routed)
    return norm(x, state["model.norm.weight"], c.rms_norm_eps), routings


def head(c: Any, state: State) -> np.ndarray:
    return state["model.embed_tokens.weight" if c.tie_word_embeddings else "lm_head.weight"]


def logits(c: Any, state: State, ids: Sequence[int]) -> np.ndarray:
    """(T, V) of one sequence."""
    return hidden(c, state, ids)[0] @ head(c, state).T


def mtp_states(
    c: Any, state: State, ids: Sequence[int], h: np.ndarray
) -> list[tuple[np.ndarray, Routed]]:
    """For each depth k the states that go into the head, slots 0 … N − 2 − k, and its routing."""
    depths, table = [], state["model.embed_tokens.weight"]
    for k in range(1, c.num_nextn_predict_layers + 1):
        w = under(state, f"model.layers.{c.num_hidden_layers + k - 1}.")
        joined = []
        for t in range(max(0, len(ids) - 1 - k)):
            e = norm(table[ids[t + k]], w["enorm.weight"], c.rms_norm_eps)
            s = norm(h[t], w["hnorm.weight"], c.rms_norm_eps)
            joined.append(w["eh_proj.weight"] @ np.concatenate([e, s]))
        x = np.array(joined).reshape(-1, c.hidden_size)
        y, routed = decoder_layer(c, w, x, True)
        h = norm(y, w["shared_head.norm.weight"], c.rms_norm_eps)
        assert routed is not None
        depths.append((h, routed))
    return depths


class Parts(NamedTuple):
    """Summed nats of one sequence of N tokens, its N − 1 targets, and its balance loss."""

    main: float
    mtp: list[float]
    targets: int
    balance: float
    routings: list[Routed]


def loss_parts(c: Any, state: State, ids: Sequence[int]) -> Parts:
    """The parts of the loss of one sequence, nothing averaged yet."""
    h, routings = hidden(c, state, ids[:-1])
    depths = mtp_states(c, state, ids, h)
    routings = routings + [routed for _, routed in depths]

    def nats(states: np.ndarray, ahead: int) -> float:
        total = 0.0
        for t, row in enumerate(states):
            z = head(c, state) @ row
            total += math.log(np.exp(z - z.max()).sum()) + z.max() - z[ids[t + ahead]]
        return total

    aux = sum(balance(c, r.scores) for r in routings if len(r.scores)) if c.aux_loss_alpha else 0.0
    mtp = [nats(states, k + 1) for k, (states, _) in enumerate(depths, start=1)]
    return Parts(nats(h, 1), mtp, len(ids) - 1, aux, routings)


def losses(c: Any, state: State, rows: Sequence[Sequence[int]], lam: float) -> dict[str, Any]:
    """Main, MTP and balance losses of a batch of sequences, of equal length or not."""
    parts = [loss_parts(c, state, ids) for ids in rows]
    targets = sum(p.targets for p in parts)
    depth = c.num_nextn_predict_layers
    main = sum(p.main for p in parts) / targets
    mtp = [sum(p.mtp[k] for p in parts) / targets for k in range(depth)]
    aux = sum(p.balance for p in parts) / len(parts)
    total = main + aux + (lam / depth * sum(mtp) if depth else 0.0)
    return {"main": main, "mtp": mtp, "balance": aux, "total": total, "parts": parts}
