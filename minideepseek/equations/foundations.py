"""Norm, gated MLP, rotary positions with YaRN, AdamW: what every layer and every step uses."""

from math import ceil, floor, log, pi

import numpy as np
from numpy import asarray, clip, cos, exp, mean, sin, sqrt

from minideepseek.equations.ledger import Symbol, equation

SYMBOLS = (
    Symbol("W", "gate_proj.weight", "gate"),
    Symbol("V", "up_proj.weight", "up"),
    Symbol("W_2", "down_proj.weight", "down"),
    Symbol("θ", "rope_theta", "theta"),
    Symbol("d", "qk_rope_head_dim", "width"),
    Symbol("s", "rope_scaling: factor", "yarn[…]"),
    Symbol("L_0", "rope_scaling: original_max_position_embeddings", "length"),
    Symbol("β_{\\operatorname{fast}}", "rope_scaling: beta_fast", "yarn[…]"),
    Symbol("β_{\\operatorname{slow}}", "rope_scaling: beta_slow", "yarn[…]"),
    Symbol("c", "rope_scaling: mscale_all_dim", "c"),
    Symbol("η", "", "lr"),
    Symbol("λ", "", "weight_decay"),
)


def softmax(x):
    """eˣ / Σ eˣ of a list of numbers."""
    e = exp(asarray(x) - max(x))
    return e / e.sum()


@equation(
    "NORM:rms (section 3)",
    title="The root mean square norm",
    latex=r"\bar{a}_i = \frac{a_i}{\sqrt{\frac{1}{n} \sum_{j=1}^{n} a_j^2 + ε}} g_i",
    library="autograd.fused:rms_norm",
    code="r[s] = 1 / xp.sqrt(",
    exercise="rms_norm",
    note="ε is not in that paper; implementations have it, inside the root.",
)
def rms_norm(a, g, ε):
    return a / sqrt(mean(a**2) + ε) * g


@equation(
    "GLU:swiglu (section 2)",
    title="SwiGLU: the MLP, and each expert",
    latex=r"\operatorname{FFN}(x) = (\operatorname{Swish}(x W) ⊗ x V) W_2 \\"
    r"\operatorname{Swish}(z) = \frac{z}{1 + e^{-z}}",
    library="layers.module:MLP.__call__",
    code="ops.swiglu(",
    exercise="swiglu",
    note="Weights are stored transposed, (out, in).",
)
def swiglu(x, W, V, W_2):
    z = x @ W
    return (z / (1 + exp(-z)) * (x @ V)) @ W_2


@equation(
    "ROPE:rotate (section 3.4.2)",
    title="Rotary positions",
    latex=r"x′_{2j} = x_{2j} \cos m θ_j - x_{2j+1} \sin m θ_j \\"
    r"x′_{2j+1} = x_{2j+1} \cos m θ_j + x_{2j} \sin m θ_j \\"
    r"θ_j = θ^{-2j/d} , \quad j = 0, …, d/2 - 1",
    library="autograd.fused:rotate",
    code="turned, other = a * c",
    exercise="rope",
    note="Counted from 0. Pairs are neighbours, as in DeepSeek's weights (rope_interleave).",
)
def rope(x, m, θ):
    pairs, j = x.reshape(-1, 2), np.arange(len(x) // 2)
    angle = m * θ ** (-2 * j / len(x))
    a, b, c, s = pairs[:, 0], pairs[:, 1], cos(angle), sin(angle)
    return np.stack([a * c - b * s, b * c + a * s], 1).ravel()


@equation(
    "V3:yarn-turns (section 4.3)",
    title="YaRN: the pair that makes n turns in the old context",
    latex=r"c(n) = \frac{d \ln \frac{L_0}{2 π n}}{2 \ln θ} \\"
    r"\operatorname{low} = \floor{c(β_{\operatorname{fast}})} , \quad "
    r"\operatorname{high} = \ceil{c(β_{\operatorname{slow}})}",
    library="layers.rope:inverse_frequencies",
    code="return width * math.log(",
    note="From the released code: the paper names YaRN, s, α and β alone. low is at least 0, high "
    "at most d − 1.",
)
def turns(d, L_0, θ, β_fast, β_slow):
    def c(n):
        return d * log(L_0 / (2 * pi * n)) / (2 * log(θ))

    return floor(c(β_fast)), ceil(c(β_slow))


@equation(
    "V3:yarn-frequencies (section 4.3)",
    title="YaRN: fast pairs as they are, slow ones slowed by s",
    latex=r"r_j = \operatorname{clip}(\frac{j - \operatorname{low}}{\operatorname{high} - "
    r"\operatorname{low}}, 0, 1) \\ ω_j = \frac{θ_j}{s} r_j + θ_j (1 - r_j)",
    library="layers.rope:inverse_frequencies",
    code='return [f * g / yarn["factor"]',
    note="From the released code, whose ramp is linear in j; Peng et al. have one linear in turns.",
)
def frequencies(θ_j, s, low, high):
    r = clip((np.arange(len(θ_j)) - low) / (high - low), 0, 1)
    return θ_j / s * r + θ_j * (1 - r)


@equation(
    "V3:yarn-scale (section 4.3)",
    title="YaRN: a sharper softmax",
    latex=r"m = 0.1 c \ln s + 1 \\ \operatorname{scale} = \frac{m^2}{\sqrt{d_h + d_h^R}}",
    library="layers.rope:softmax_scale",
    code='_sharpening(yarn["factor"]',
    note="The paper's √t is m; queries and keys are both multiplied by it. V3: c = 1, m = 1.369.",
)
def scale(c, s, d_h, d_R):
    m = 0.1 * c * log(s) + 1
    return m**2 / sqrt(d_h + d_R)


@equation(
    "ADAMW:step (algorithm 2)",
    title="One step of AdamW",
    latex=r"m_t = β_1 m_{t-1} + (1 - β_1) g_t \\ v_t = β_2 v_{t-1} + (1 - β_2) g_t^2 \\"
    r"θ_t = θ_{t-1} - η ( \frac{\hat{m}_t}{\sqrt{\hat{v}_t} + ε} + λ θ_{t-1} ) \\"
    r"\hat{m}_t = \frac{m_t}{1 - β_1^t} , \quad \hat{v}_t = \frac{v_t}{1 - β_2^t}",
    library="training.optim:AdamW.step",
    code="xp.divide(m, scratch, out=scratch)",
    note="η as PyTorch has it: it multiplies the decay too.",
)
def adamw(θ, g, m, v, t, η, β, ε, λ):
    m, v = β[0] * m + (1 - β[0]) * g, β[1] * v + (1 - β[1]) * g**2
    m_hat, v_hat = m / (1 - β[0] ** t), v / (1 - β[1] ** t)
    return θ - η * (m_hat / (sqrt(v_hat) + ε) + λ * θ), m, v
