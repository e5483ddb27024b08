"""Ties of multi-token prediction, speculative decoding and FP8."""

import numpy as np
from hypothesis import strategies as st

from minideepseek.autograd.engine import Tensor, ops
from minideepseek.equations import prediction as eq
from minideepseek.equations.foundations import rms_norm, softmax
from minideepseek.layers import fp8
from minideepseek.layers.decoder import DecoderLayer
from minideepseek.model import speculative
from tests.equations.ties import close, generator, spy_on, tie
from tests.layers.common import build, draw_ids, normal, seeds
from tests.strategies import configs


class Depths:
    """A model's modules over a text t of T + 1 tokens: one depth k, and what it read and said."""

    def __init__(self, draw):
        self.config = draw(configs(num_nextn_predict_layers=draw(st.integers(1, 2))))
        seed, depth = draw(seeds), self.config.num_nextn_predict_layers
        self.model, self.k = build(self.config, seed), draw(st.integers(1, depth))
        self.T = draw(st.integers(self.k + 1, 6))
        self.ids = draw_ids(self.config, seed, 1, self.T + 1)
        self.module = self.model.mtp.layers[self.k - 1]
        spy_on(self.module, "eh_proj")
        spy_on(self.module.shared_head, "norm")
        h = Tensor(normal(seed, 1, self.T, self.config.hidden_size))
        embedding = self.model.model.embed_tokens
        self.states = [h, *(states for states, _ in self.model.mtp(h, self.ids, embedding))]
        self.losses = self.model.mtp.losses(h, self.ids, embedding, self.model.logits)[0]


@tie("V3:21")
def join(draw):
    m = Depths(draw)
    i = draw(st.integers(0, m.T - m.k - 1))
    first, second = np.split(m.module.eh_proj.weight.data, 2, axis=1)
    norms = [
        lambda x, n=n: rms_norm(x, n.weight.data, n.eps) for n in (m.module.hnorm, m.module.enorm)
    ]
    M_k, h = np.concatenate([second, first], 1), m.states[m.k - 1].data[0]
    table = m.model.model.embed_tokens.weight.data
    close(m.module.eh_proj.said[0, i], eq.join(M_k, h, table, m.ids[0], i, m.k, *norms))


@tie("V3:22")
def one_layer(draw):
    """Beyond T − k there is no token to join: those rows must not be looked at."""
    m = Depths(draw)

    def TRM_k(rows):
        return DecoderLayer.__call__(m.module, Tensor(rows[None]))[0].data[0]

    h_prime = np.full((m.T, m.config.hidden_size), np.nan)
    h_prime[: m.T - m.k] = m.module.eh_proj.said[0]
    close(m.module.shared_head.norm.read[0], eq.layer(TRM_k, h_prime, m.T, m.k))


@tie("V3:23")
def law(draw):
    m = Depths(draw)
    i, states = draw(st.integers(0, m.T - m.k - 1)), m.states[m.k]
    logits = m.model.logits(states)
    every = [np.full(logits.shape[:2], token) for token in range(logits.shape[-1])]
    said = [ops.token_logprobs(logits, tokens).data[0, i] for tokens in every]
    head = m.model.model.embed_tokens if m.config.tie_word_embeddings else m.model.lm_head
    close(np.exp(said), eq.law(head.weight.data, states.data[0, i]))


@tie("V3:24")
def depth_loss(draw):
    m = Depths(draw)
    logits = m.model.logits(m.states[m.k]).data[0]
    P = {slot + m.k + 1: softmax(row) for slot, row in enumerate(logits, start=1)}
    t = dict(enumerate(m.ids[0], start=1))
    close(m.losses[m.k - 1].item(), eq.depth_loss(P, t, m.T, m.k))


@tie("V3:25")
def all_depths(draw):
    m, weight = Depths(draw), draw(st.floats(0.01, 2))
    found = m.model.losses(m.ids, mtp_weight=weight)
    balance = 0.0 if found.balance is None else found.balance.item()
    said = eq.all_depths([one.item() for one in found.mtp], weight)
    close(found.total.item() - found.main.item() - balance, said)


# --------------------------------------------------------------------------- speculative decoding


def laws(draw):
    vocab, rng = draw(st.integers(2, 8)), generator(draw)
    p, q = rng.dirichlet(np.ones(vocab), 2)
    return p, q, draw(st.integers(0, vocab - 1))


@tie("SPEC:accept")
def accept(draw):
    p, q, x = laws(draw)
    close(speculative.acceptance(p[None], q[None], np.array([x]))[0], eq.accept(p, q, x))


@tie("SPEC:residual")
def residual(draw):
    p, q, _ = laws(draw)
    close(speculative.residual(p[None], q[None])[0], eq.residual(p, q))


# -------------------------------------------------------------------------------------------- FP8


@tie("V3:tile")
def tile(draw):
    """Bit for bit, with numbers of very different sizes."""
    x = generator(draw).standard_normal(draw(st.integers(1, 128)))
    x = (x * 10.0 ** draw(st.integers(-20, 20))).astype(np.float32)
    codes, scale = fp8.quantize(x[None], (1, 128))
    said, s = eq.quantise(x)
    assert np.array_equal(codes[0], said.view(np.uint8)) and scale[0, 0] == s


@tie("V3:product")
def product(draw):
    """Whole numbers and powers of two: float32 adds them exactly, in any order."""
    m, n, k = (draw(st.integers(1, high)) for high in (3, 3, 400))
    rng, blocks = generator(draw), -(-k // 128)
    q_a, q_b = rng.integers(-8, 9, (m, k)), rng.integers(-8, 9, (n, k))
    s_a, s_b = (2.0 ** rng.integers(-3, 4, (rows, blocks)) for rows in (m, n))
    found = fp8.scaled_product(
        fp8.encode(q_a), s_a.astype(np.float32), fp8.encode(q_b), s_b.astype(np.float32), (1, 128)
    )
    said = [[eq.scaled_product(q_a, s_a, q_b, s_b, i, j) for j in range(n)] for i in range(m)]
    assert np.array_equal(found, said)
