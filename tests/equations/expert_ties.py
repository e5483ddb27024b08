"""Ties of blocks, mixtures of experts, and what balances them."""

import numpy as np
from hypothesis import strategies as st

from minideepseek.autograd.backend import top_k
from minideepseek.autograd.engine import Parameter, Tensor
from minideepseek.equations import experts as eq
from minideepseek.equations.foundations import softmax, swiglu
from minideepseek.layers import moe, standard_moe
from minideepseek.layers.decoder import DecoderLayer
from minideepseek.layers.moe import DeepSeekMoE, Routing
from minideepseek.layers.rope import RotaryEmbedding
from minideepseek.layers.standard_moe import StandardMoE
from tests.equations.ties import close, generator, spy_on, tie
from tests.layers.common import layer, normal, seeds
from tests.strategies import configs


def a_pass(draw, kind):
    """A mixture over tokens u (T, d): the module, its config, u, the output, the routing, a t."""
    config, seed, tokens = draw(configs()), draw(seeds), draw(st.integers(1, 5))
    module, u = layer(kind, config, seed=seed), normal(seed, tokens, config.hidden_size)
    y, routing = module.routed(Tensor(u[None]))
    return module, config, u, y.data[0], routing, draw(st.integers(0, tokens - 1))


def ffn(gate_up, down):
    """An expert as a function of one token."""
    gate, up = np.split(gate_up, 2)
    return lambda u: swiglu(u, gate.T, up.T, down.T)


def routed_experts(module):
    stacks = module.experts.gate_up_proj.data, module.experts.down_proj.data
    return [ffn(gate_up, down) for gate_up, down in zip(*stacks, strict=True)]


def dense(weights, indices, experts):
    """The weights of one token, zero for the experts that were not chosen."""
    g = np.zeros(experts)
    g[indices] = weights
    return g


# ------------------------------------------------------------------------------------------ blocks


@tie("MOE:1", "MOE:2")
def block(draw):
    config, seed, tokens = draw(configs()), draw(seeds), draw(st.integers(1, 4))
    index = draw(st.integers(0, config.num_hidden_layers))
    module = layer(DecoderLayer, config, index, rotary=RotaryEmbedding(config), seed=seed)
    h = normal(seed, 1, tokens, config.hidden_size)
    spy_on(module, "post_attention_layernorm")
    y = module(Tensor(h))[0].data
    u = module.post_attention_layernorm.read

    def Self_Att(h):
        return module.self_attn(module.input_layernorm(Tensor(h))).data

    def FFN(u_t):
        return module.mlp(module.post_attention_layernorm(Tensor(u_t[None, None]))).data[0, 0]

    close(u, eq.block_attention(Self_Att, h))
    for t in range(tokens):
        close(y[0, t], eq.block_experts(FFN, u[0, t]))


# ------------------------------------------------------------------------------------ up to V2


@tie("MOE:3")
def mixture(draw):
    module, config, u, y, routing, t = a_pass(draw, StandardMoE)
    chosen, s = routing.indices[t], routing.scores.data[t]
    g = dense(s[chosen], chosen, config.n_routed_experts)
    close(y[t] + u[t], eq.mixture(u[t], g, routed_experts(module)))


@tie("V2:20")
def shared_and_routed(draw):
    module, config, u, y, routing, t = a_pass(draw, DeepSeekMoE)
    chosen = routing.indices
    weights = moe.gate_weights(
        routing.scores, chosen, normalise=module.normalise, factor=module.factor
    ).data
    parts = (getattr(module.shared_experts, f"{name}_proj").weight.data for name in ("gate", "up"))
    down = np.split(module.shared_experts.down_proj.weight.data, config.n_shared_experts, axis=1)
    gate, up = (np.split(part, config.n_shared_experts) for part in parts)
    shared = [ffn(np.concatenate(both), d) for *both, d in zip(gate, up, down, strict=True)]
    g = dense(weights[t], chosen[t], config.n_routed_experts)
    close(y[t] + u[t], eq.shared_and_routed(u[t], g, shared, routed_experts(module)))


@tie("V2:21")
def gates(draw):
    module, config, u, _, routing, t = a_pass(draw, StandardMoE)
    logits = module.gate(Tensor(u))
    indices = top_k(logits.data, module.k)
    weights = standard_moe.top_of_softmax(logits, indices).data
    assert np.array_equal(indices, routing.indices)
    said = eq.gates(softmax(logits.data[t]), module.k)
    close(dense(weights[t], indices[t], config.n_routed_experts), said)


@tie("V2:22")
def softmax_affinities(draw):
    module, _, u, _, routing, t = a_pass(draw, StandardMoE)
    close(routing.scores.data[t], eq.softmax_affinities(u[t], module.gate.weight.data))


@tie("V2:23")
def balance(draw):
    _, config, _, _, routing, _ = a_pass(draw, StandardMoE)
    f = eq.chosen_share(routing.indices, config.n_routed_experts, config.num_experts_per_tok)
    alpha = draw(st.floats(1e-4, 1))
    said = eq.balance(f, eq.mean_affinity(routing.scores.data), alpha)
    close(standard_moe.balance_loss(routing, alpha).item(), said)


@tie("V2:24")
def chosen_share(draw):
    """f stands in the gradient: ∂L/∂s_{i,t} = α f_i / T."""
    _, config, _, _, routing, _ = a_pass(draw, StandardMoE)
    scores = Parameter(routing.scores.data.copy())
    standard_moe.balance_loss(routing._replace(scores=scores), 1.0).backward()
    said = eq.chosen_share(routing.indices, config.n_routed_experts, config.num_experts_per_tok)
    close(scores.grad[0] * len(scores.grad), said)


@tie("V2:25")
def mean_affinity(draw):
    """With all tokens at expert i, f_i = N and the others' f are 0: L = α N P_i."""
    tokens, experts = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    s, i = generator(draw).random((tokens, experts)), draw(st.integers(0, experts - 1))
    counts = [tokens * (e == i) for e in range(experts)]
    routing = Routing(np.full((tokens, 1), i), Tensor(s), counts)
    close(standard_moe.balance_loss(routing, 1.0).item() / experts, eq.mean_affinity(s)[i])


# ---------------------------------------------------------------------------------------------- V3


@tie("V3:15")
def sigmoid_affinities(draw):
    module, _, u, _, routing, t = a_pass(draw, DeepSeekMoE)
    close(routing.scores.data[t], eq.sigmoid_affinities(u[t], module.gate.weight.data))


def scores_and_bias(draw):
    tokens, experts = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    rng = generator(draw)
    k, t = draw(st.integers(1, experts)), draw(st.integers(0, tokens - 1))
    return rng.random((tokens, experts)), rng.standard_normal(experts), k, t


@tie("V3:16")
def biased_gates(draw):
    s, b, k, t = scores_and_bias(draw)
    chosen = moe.route(s, b, k=k, n_group=1, topk_group=1)[t]
    close(dense(s[t, chosen], chosen, len(b)), eq.biased_gates(s[t], b, k), 0)


@tie("V3:13")
def normalised(draw):
    s, b, k, t = scores_and_bias(draw)
    indices = moe.route(s, b, k=k, n_group=1, topk_group=1)
    weights = moe.gate_weights(Tensor(s), indices, normalise=True, factor=1.0).data[t]
    close(dense(weights, indices[t], len(b)), eq.normalised(eq.biased_gates(s[t], b, k)))


@tie("V3:nodes")
def worth_of_nodes(draw):
    """Kept are the M groups that the equation finds worth most."""
    nodes, per_node = draw(st.integers(1, 5)), draw(st.integers(2, 5))
    kept = draw(st.integers(1, nodes))
    c = generator(draw).standard_normal(nodes * per_node)
    worth = eq.worth_of_nodes(c, nodes, 2 * kept, kept)
    left = moe.kept_groups(c[None], nodes, kept)[0].reshape(nodes, per_node)
    assert {n for n in range(nodes) if np.isfinite(left[n]).all()} == eq.topk(worth, kept)
    assert all(np.isinf(left[n]).all() for n in range(nodes) if n not in eq.topk(worth, kept))
    close(worth, [np.sort(row)[-2] + row.max() for row in c.reshape(nodes, -1)])


@tie("V3:update")
def update(draw):
    counts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
    b, u = generator(draw).standard_normal(len(counts)), draw(st.floats(1e-4, 1))
    said = eq.update(b, counts, u)
    moe.update_bias(b, counts, u)
    close(b, said)


@tie("LFB:4")
def max_violation(draw):
    counts = draw(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any))
    close(moe.max_violation(counts), eq.max_violation(counts))


@tie("V3:17", "V3:18", "V3:19", "V3:20")
def sequence_balance(draw):
    tokens, experts = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    k, alpha = draw(st.integers(1, experts)), draw(st.floats(1e-4, 1))
    s = generator(draw).random((tokens, experts))
    f, P = eq.sequence_share(s, k), eq.mean_share(np.array([eq.affinity_share(row) for row in s]))
    loss = moe.sequence_balance_loss(Tensor(s[None]), k, alpha, None)
    close(loss.item(), eq.sequence_balance(f, P, alpha))
    close([f.sum(), P.sum()], [experts, 1])
