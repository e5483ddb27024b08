"""Multi-token prediction, drafts that change no law, and products of FP8 codes."""

from ml_dtypes import float8_e4m3fn
from numpy import concatenate, log, maximum

from minideepseek.equations.foundations import softmax
from minideepseek.equations.ledger import Symbol, equation

SYMBOLS = (
    Symbol("M_k", "eh_proj.weight", "eh_proj"),
    Symbol("\\operatorname{TRM}_k", "a layer: self_attn, mlp, two norms", "MTPLayer"),
    Symbol("\\operatorname{OutHead}", "shared_head.norm, then lm_head.weight", "head"),
    Symbol("\\operatorname{Emb}", "embed_tokens.weight", "embedding"),
    Symbol("D", "num_nextn_predict_layers", "depth"),
    Symbol("T", "", "terms"),
    Symbol("λ", "", "mtp_weight"),
    Symbol("s", "weight_scale_inv", "scale_inv"),
    Symbol("p", "", "p"),
    Symbol("q", "", "q"),
)


@equation(
    "V3:21",
    title="A state and the token after it, joined",
    latex=r"h′_i^k = M_k [\operatorname{RMSNorm}(h_i^{k-1}); "
    r"\operatorname{RMSNorm}(\operatorname{Emb}(t_{i+k}))]",
    library="layers.mtp:MTPLayer.join",
    code="self.eh_proj(",
    note="The released weights have the other order, [Emb; h], and so has the code.",
)
def join(M_k, h, Emb, t, i, k, norm_h, norm_e):  # h: of depth k − 1
    return M_k @ concatenate([norm_h(h[i]), norm_e(Emb[t[i + k]])])


@equation(
    "V3:22",
    title="One Transformer layer for each depth",
    latex=r"h_{1:T-k}^k = \operatorname{TRM}_k (h′_{1:T-k}^k)",
    library="layers.mtp:MTPLayer.step",
    code="y, routing = self(",
)
def layer(TRM_k, h_prime, T, k):
    return TRM_k(h_prime[: T - k])


@equation(
    "V3:23",
    title="The main model's head reads every depth",
    latex=r"P_{i+k+1}^k = \operatorname{OutHead}(h_i^k)",
    library="layers.mtp:MTPModel.losses",
    code="head(states)",
    note="OutHead ends with a softmax. The weights have a norm of their own before it.",
)
def law(W_head, h_i):
    return softmax(W_head @ h_i)


@equation(
    "V3:24",
    title="The loss of one depth",
    latex=r"L_{\operatorname{MTP}}^k = -\frac{1}{T} \sum_{i=2+k}^{T+1} \ln P_i^k[t_i]",
    library="layers.mtp:cross_entropy",
    code="return ops.softmax_cross_entropy(logits, targets, denominator=terms)",
    exercise="mtp_shift",
    note="Divided by T although it has T − k terms.",
)
def depth_loss(P, t, T, k):  # P[i], t[i]: by position, which begins with 1
    return -sum(log(P[i][t[i]]) for i in range(2 + k, T + 2)) / T


@equation(
    "V3:25",
    title="The loss of all depths",
    latex=r"L_{\operatorname{MTP}} = \frac{λ}{D} \sum_{k=1}^{D} L_{\operatorname{MTP}}^k",
    library="model.transformer:DeepSeekV3.losses",
    code="total = total + one * (mtp_weight / len(mtp))",
)
def all_depths(L, λ):
    D = len(L)
    return λ / D * sum(L[k] for k in range(D))


# --------------------------------------------------------------------------- speculative decoding


@equation(
    "SPEC:accept (section 2.3)",
    title="When a draft is accepted",
    latex=r"\operatorname{accept}(x) \text{with} \min(1, \frac{p(x)}{q(x)})",
    library="model.speculative:acceptance",
    code="return np.divide(",
)
def accept(p, q, x):
    return min(1, p[x] / q[x])


@equation(
    "SPEC:residual (section 2.3)",
    title="What is drawn after a refusal",
    latex=r"p′(x) = \frac{\max(0, p(x) - q(x))}{\sum_y \max(0, p(y) - q(y))}",
    library="model.speculative:residual",
    code="r = np.maximum(p - q, 0)",
)
def residual(p, q):
    return maximum(0, p - q) / sum(maximum(0, p - q))


# -------------------------------------------------------------------------------------------- FP8


@equation(
    "V3:tile (section 3.3.2)",
    title="One scale for a tile",
    latex=r"s = \frac{\max_i \abs{x_i}}{448} , \quad q_i = \operatorname{E4M3}(\frac{x_i}{s}) , "
    r"\quad x_i ≈ q_i s",
    library="layers.fp8.tiles:tile_scale",
    code="s = xp.maximum(amax / format.max",
    note="Tiles: 1 × 128 for activations, 128 × 128 for weights. A tile of zeros has s = 1.",
)
def quantise(x):  # one tile, float32
    s = max(abs(x)) / 448
    return (x / s).astype(float8_e4m3fn), s


@equation(
    "V3:product (section 3.3.2)",
    title="A product of codes, scaled 128 terms at a time",
    latex=r"C_{ij} = \sum_b s_{ib}^A s_{jb}^B \sum_{k ∈ b} q_{ik}^A q_{jk}^B",
    library="layers.fp8.accumulation:scaled_product",
    code="partial = sums(",
    note="Of A Bᵀ, in blocks b of 128. The inner sum is the tensor cores', the outer float32's.",
)
def scaled_product(q_A, s_A, q_B, s_B, i, j):
    blocks = [slice(k, k + 128) for k in range(0, q_A.shape[1], 128)]
    parts = [s_A[i, n] * s_B[j, n] * (q_A[i, b] @ q_B[j, b]) for n, b in enumerate(blocks)]
    return sum(parts)
