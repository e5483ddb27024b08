"""Ties of the norm, the gated MLP, positions and the optimiser."""

from types import SimpleNamespace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from minideepseek.autograd.engine import Parameter, Tensor, ops
from minideepseek.equations import foundations as eq
from minideepseek.layers.module import MLP, Init, RMSNorm
from minideepseek.layers.rope import RotaryEmbedding, inverse_frequencies, softmax_scale
from minideepseek.training.optim import AdamW
from tests.equations.ties import close, generator, tie
from tests.layers.common import normal, scramble, seeds


@tie("NORM:rms")
def rms_norm(draw):
    width, eps, seed = draw(st.integers(1, 9)), draw(st.sampled_from([1e-6, 0.3])), draw(seeds)
    norm, a = scramble(RMSNorm(width, eps, Init(None, 0.0, np.float64)), seed), normal(seed, width)
    close(norm(Tensor(a[None])).data[0], eq.rms_norm(a, norm.weight.data, eps))


@tie("GLU:swiglu")
def swiglu(draw):
    hidden, width, seed = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(seeds)
    mlp, x = scramble(MLP(hidden, width, Init(None, 0.0, np.float64)), seed), normal(seed, hidden)
    matrices = (getattr(mlp, f"{name}_proj").weight.data.T for name in ("gate", "up", "down"))
    close(mlp(Tensor(x[None])).data[0], eq.swiglu(x, *matrices))


def positions(width, theta, scaling=None):
    return SimpleNamespace(
        qk_nope_head_dim=3, qk_rope_head_dim=width, rope_theta=theta, rope_scaling=scaling,
        rope_interleave=True, max_position_embeddings=64,
    )  # fmt: skip


@tie("ROPE:rotate")
def rotate(draw):
    width, theta, m = 2 * draw(st.integers(1, 4)), draw(st.floats(2, 1e4)), draw(st.integers(0, 63))
    x = normal(draw(seeds), 1, 1, 1, width)
    cos, sin = RotaryEmbedding(positions(width, theta)).tables(m, 1, x)
    y = ops.rope(Tensor(x), cos, sin, interleaved=True).data
    close(y[0, 0, 0], eq.rope(x[0, 0, 0], m, theta))


@tie("V3:yarn-turns", "V3:yarn-frequencies")
def yarn(draw):
    d, theta = 2 * draw(st.integers(8, 40)), draw(st.sampled_from([500.0, 1e4, 1e6]))
    s, length = draw(st.floats(1, 64)), draw(st.sampled_from([1024, 4096, 30000]))
    fast, slow = draw(st.floats(8, 64)), draw(st.floats(0.5, 4))
    low, high = eq.turns(d, length, theta, fast, slow)
    assume(0 <= low < high < d)
    scaling = {"type": "yarn", "factor": s, "original_max_position_embeddings": length}
    config = positions(d, theta, scaling | {"beta_fast": fast, "beta_slow": slow})
    plain = np.array(inverse_frequencies(positions(d, theta)))
    close(inverse_frequencies(config), eq.frequencies(plain, s, low, high))


@tie("V3:yarn-scale")
def yarn_scale(draw):
    c, s, width = draw(st.floats(0.1, 2)), draw(st.floats(1.01, 64)), 2 * draw(st.integers(1, 9))
    scaling = {"type": "yarn", "factor": s, "mscale_all_dim": c}
    close(softmax_scale(positions(width, 1e4, scaling)), eq.scale(c, s, 3, width))


@tie("ADAMW:step")
def adamw(draw):
    rng, shape = generator(draw), (draw(st.integers(1, 5)), 2)
    beta, decay = (draw(st.floats(0, 0.99)), draw(st.floats(0, 0.999))), draw(st.floats(0, 1))
    rate, eps = draw(st.floats(1e-4, 1)), draw(st.sampled_from([1e-8, 0.1]))
    parameter = Parameter(rng.standard_normal(shape))
    optimiser = AdamW([parameter], rate, beta, eps, decay)
    p, m, v = parameter.data.copy(), np.zeros(shape), np.zeros(shape)
    for t in range(1, draw(st.integers(1, 4)) + 1):
        g = parameter.grad = rng.standard_normal(shape)
        optimiser.step()
        p, m, v = eq.adamw(p, g, m, v, t, rate, beta, eps, decay)
        close(parameter.data, p)
