"""Ties of attention, plain and latent."""

from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st

from minideepseek.autograd.engine import Tensor
from minideepseek.equations import attention as eq
from minideepseek.layers.attention import MultiHeadAttention
from minideepseek.layers.mla import DeepSeekAttention
from tests.equations.ties import attention_of, close, spy_on, tie
from tests.layers.common import layer, normal, seeds
from tests.strategies import configs

# ------------------------------------------------------------------------------------------- plain


def plain(draw):
    """A pass of multi-head attention over x (1, T, d): the layer, x, its output, what it saw."""
    heads, width, tokens = (draw(st.integers(*span)) for span in ((1, 3), (1, 3), (1, 5)))
    config = SimpleNamespace(
        hidden_size=draw(st.integers(2, 9)), num_attention_heads=heads, head_dim=2 * width,
        max_position_embeddings=16, rope_theta=10000.0, rope_scaling=None,
    )  # fmt: skip
    seed = draw(seeds)
    module = layer(MultiHeadAttention, config, seed=seed)
    x = normal(seed, 1, tokens, config.hidden_size)
    spy_on(module, "q_proj", "k_proj", "v_proj", "o_proj")
    seen = attention_of(lambda: module(Tensor(x)))
    return module, x[0], seen, draw(st.integers(0, tokens - 1)), draw(st.integers(0, heads - 1))


@tie("V2:1")
def projections(draw):
    module, x, _, t, _ = plain(draw)
    parts = module.q_proj, module.k_proj, module.v_proj
    said = eq.project(*(part.weight.data for part in parts), x[t])
    for part, expected in zip(parts, said, strict=True):
        close(part.said[0, t], expected)


@tie("V2:4")
def cut(draw):
    module, _, _, t, _ = plain(draw)
    whole = module.q_proj.said
    close(module.split(Tensor(whole), module.heads).data[0, t], eq.heads(whole[0, t], module.heads))
    close(eq.heads(whole[0, t], module.heads), whole[0, t].reshape(module.heads, -1))


@tie("V2:7")
def one_head(draw):
    _, _, seen, t, i = plain(draw)
    close(seen.y[0, t, i], eq.attend(seen.q[0], seen.k[0], seen.v[0], t, i))


@tie("V2:8")
def plain_output(draw):
    module, _, seen, t, _ = plain(draw)
    close(module.o_proj.said[0, t], eq.output(module.o_proj.weight.data, seen.y[0, t]))


# ------------------------------------------------------------------------------------------ latent


class Latent:
    """A pass of latent attention over h (T, d), the paper's matrices, a token t and a head i."""

    def __init__(self, draw, absorbed=False):
        c = draw(
            configs(
                attention_bias=False, rope_scaling=None, max_position_embeddings=32,
                rope_interleave=True, q_lora_rank=draw(st.integers(1, 9)),
            )
        )  # fmt: skip
        seed, tokens = draw(seeds), draw(st.integers(1, 5))
        self.heads, self.theta, self.nope = c.num_attention_heads, c.rope_theta, c.qk_nope_head_dim
        self.t, self.i = draw(st.integers(0, tokens - 1)), draw(st.integers(0, self.heads - 1))
        self.module = layer(DeepSeekAttention, c, seed=seed)
        x = normal(seed, 1, tokens, c.hidden_size)
        spy_on(self.module, "q_a_layernorm", "kv_a_layernorm", "q_b_proj", "o_proj")
        self.h = x[0]
        seen = attention_of(lambda: self.module(Tensor(x), absorbed=absorbed))
        self.q, self.k, self.v, self.y = (a[0] for a in (seen.q, seen.k, seen.v, seen.y))
        self.c_KV, self.c_Q = (
            norm.said[0] for norm in (self.module.kv_a_layernorm, self.module.q_a_layernorm)
        )
        self.read_matrices(c)

    def read_matrices(self, c):
        module, heads, r = self.module, self.heads, c.kv_lora_rank
        down = module.kv_a_proj_with_mqa.weight.data
        up = module.kv_b_proj.weight.data.reshape(heads, -1, r)
        q_up = module.q_b_proj.weight.data.reshape(heads, -1, c.q_lora_rank)
        self.W_DKV, self.W_KR = down[:r], down[r:]
        self.W_UK_i = up[self.i, : self.nope]
        self.W_UK, self.W_UV = (
            part.reshape(-1, r) for part in (up[:, : self.nope], up[:, self.nope :])
        )
        self.W_UQ, self.W_QR = (
            part.reshape(-1, c.q_lora_rank) for part in (q_up[:, : self.nope], q_up[:, self.nope :])
        )
        self.W_DQ, self.W_O = module.q_a_proj.weight.data, module.o_proj.weight.data


@tie("V2:9")
def latent(draw):
    m = Latent(draw)
    close(m.module.kv_a_layernorm.read[0, m.t], eq.latent(m.W_DKV, m.h[m.t]))


@tie("V2:10")
def keys(draw):
    m = Latent(draw)
    close(m.k[m.t, :, : m.nope], eq.keys(m.W_UK, m.c_KV[m.t], m.heads))


@tie("V2:11")
def values(draw):
    m = Latent(draw)
    close(m.v[m.t], eq.values(m.W_UV, m.c_KV[m.t], m.heads))


@tie("V2:12")
def query_latent(draw):
    m = Latent(draw)
    close(m.module.q_a_layernorm.read[0, m.t], eq.query_latent(m.W_DQ, m.h[m.t]))


@tie("V2:13")
def queries(draw):
    m = Latent(draw)
    close(m.q[m.t, :, : m.nope], eq.queries(m.W_UQ, m.c_Q[m.t], m.heads))


@tie("V2:14")
def rotated_queries(draw):
    m = Latent(draw)
    said = eq.rotated_queries(m.W_QR, m.c_Q[m.t], m.heads, m.t, m.theta)
    close(m.q[m.t, :, m.nope :], said)


@tie("V2:15")
def rotated_key(draw):
    m = Latent(draw)
    close(m.k[m.t, m.i, m.nope :], eq.rotated_key(m.W_KR, m.h[m.t], m.t, m.theta))


@tie("V2:16")
def whole_query(draw):
    m = Latent(draw)
    q_R = eq.rotated_queries(m.W_QR, m.c_Q[m.t], m.heads, m.t, m.theta)
    close(m.q[m.t, m.i], eq.query(eq.queries(m.W_UQ, m.c_Q[m.t], m.heads)[m.i], q_R[m.i]))


@tie("V2:17")
def whole_key(draw):
    m = Latent(draw)
    k_R = eq.rotated_key(m.W_KR, m.h[m.t], m.t, m.theta)
    close(m.k[m.t, m.i], eq.key(eq.keys(m.W_UK, m.c_KV[m.t], m.heads)[m.i], k_R))


@tie("V2:18")
def one_latent_head(draw):
    m = Latent(draw)
    close(m.y[m.t, m.i], eq.attend_latent(m.q, m.k, m.v, m.t, m.i))


@tie("V2:19")
def latent_output(draw):
    m = Latent(draw)
    close(m.module.o_proj.said[0, m.t], eq.latent_output(m.W_O, m.y[m.t]))


@tie("V2:absorb")
def absorbed(draw):
    m = Latent(draw, absorbed=True)
    q_C = m.module.q_b_proj.said[0, m.t].reshape(m.heads, -1)[m.i, : m.nope]
    said = np.array([eq.absorb(q_C, m.W_UK_i, c) for c in m.c_KV])
    rank = m.c_KV.shape[1]
    close(m.k[:, 0, :rank] @ m.q[m.t, m.i, :rank], said)
    close([q_C @ (m.W_UK_i @ c) for c in m.c_KV], said)
