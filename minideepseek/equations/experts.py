"""Mixtures of experts: layers, gates, choices, and what keeps them balanced."""

from numpy import array, asarray, exp, mean, sign

from minideepseek.equations.foundations import softmax
from minideepseek.equations.ledger import Symbol, equation

SYMBOLS = (
    Symbol("N_s", "n_shared_experts", "shared_experts"),
    Symbol("N_r", "n_routed_experts", "experts"),
    Symbol("N", "n_routed_experts", "experts"),
    Symbol("K_r", "num_experts_per_tok", "k"),
    Symbol("e_i", "gate.weight, row i", "weight"),
    Symbol("b_i", "gate.e_score_correction_bias", "bias"),
    Symbol("u", "", "gamma"),
    Symbol("c_i", "", "counts"),
    Symbol("M", "topk_group", "topk_group"),
    Symbol("s_{i,t}", "", "scores"),
    Symbol("g_{i,t}", "", "weights"),
    Symbol("α", "aux_loss_alpha", "alpha"),
    Symbol("α_1", "", "alpha"),
    Symbol("f_i", "", "f"),
    Symbol("P_i", "", "p"),
)


def topk(s, K):
    """The K indices of the largest of s, ties to the lower index."""
    return set(sorted(range(len(s)), key=lambda i: -s[i])[:K])


@equation(
    "MOE:1",
    title="A block: attention with its residual",
    latex=r"u_{1:T}^l = \operatorname{Self-Att}(h_{1:T}^{l-1}) + h_{1:T}^{l-1}",
    library="layers.decoder:DecoderLayer.__call__",
    code="h = x + self.self_attn(",
    note="The paper leaves the norms out for brevity: they stand before the branches.",
)
def block_attention(Self_Att, h):
    return Self_Att(h) + h


@equation(
    "MOE:2",
    title="A block: MLP or experts with their residual",
    latex=r"h_t^l = \operatorname{FFN}(u_t^l) + u_t^l",
    library="layers.decoder:DecoderLayer.__call__",
    code="return h + y, routing",
)
def block_experts(FFN, u_t):
    return FFN(u_t) + u_t


@equation(
    "MOE:3",
    "MOE:6",
    title="An ordinary mixture of experts",
    latex=r"h_t = \sum_{i=1}^{N} g_{i,t} \operatorname{FFN}_i (u_t) + u_t",
    library="layers.standard_moe:StandardMoE.routed",
    code="y = self.experts(",
    exercise="dispatch",
    note="MOE:6 is the same with mN experts of 1/m of the width. The block adds u.",
)
def mixture(u_t, g_t, FFN):
    return sum(g_t[i] * FFN[i](u_t) for i in range(len(FFN))) + u_t


@equation(
    "V2:20",
    "V3:12",
    "MOE:9",
    title="DeepSeekMoE: shared and routed experts",
    latex=r"h′_t = u_t + \sum_{i=1}^{N_s} \operatorname{FFN}_i^{(s)} (u_t) + "
    r"\sum_{i=1}^{N_r} g_{i,t} \operatorname{FFN}_i^{(r)} (u_t)",
    library="layers.moe:DeepSeekMoE.routed",
    code="self.shared_experts(x)",
    exercise="dispatch",
    note="The shared experts are one MLP of their widths together. The block adds u.",
)
def shared_and_routed(u_t, g_t, FFN_s, FFN_r):
    shared = sum(FFN(u_t) for FFN in FFN_s)
    routed = sum(g_t[i] * FFN_r[i](u_t) for i in range(len(FFN_r)))
    return u_t + shared + routed


@equation(
    "V2:21",
    "V3:14",
    "MOE:4",
    "MOE:7",
    "MOE:10",
    title="Gates of the K best, zero for the others",
    latex=r"g_{i,t} = \cases{s_{i,t} & \text{if} s_{i,t} ∈ \operatorname{Topk}(\{s_{j,t} \text{for}"
    r" 1 ≤ j ≤ N_r\}, K_r) \\ 0 & \text{otherwise}}",
    library="layers.standard_moe:top_of_softmax",
    code="ops.take_along_axis(",
    note="The MoE paper's three differ in their counts alone: K of N, mK of mN, then mK − K_s of "
    "mN − K_s (layers/standard_moe.py, segment). In V3 it is g′, and V3:16 takes its place.",
)
def gates(s_t, K_r):
    best = topk(s_t, K_r)
    return array([s_t[i] if i in best else 0 for i in range(len(s_t))])


@equation(
    "V2:22",
    "MOE:5",
    "MOE:8",
    "MOE:11",
    title="Affinities before V3: softmax over the experts",
    latex=r"s_{i,t} = \operatorname{softmax}_i (u_t^T e_i)",
    library="layers.standard_moe:StandardMoE.routed",
    code="ops.softmax(logits)",
)
def softmax_affinities(u_t, e):
    return softmax([u_t @ e_i for e_i in e])


@equation(
    "V2:23",
    "MOE:12",
    title="The balance loss of V2",
    latex=r"L_{\operatorname{ExpBal}} = α_1 \sum_{i=1}^{N_r} f_i P_i",
    library="layers.standard_moe:balance_loss",
    code="(alpha * len(routing.counts))",
    note="Over the tokens of a batch here. f is a constant, the gradient flows through P.",
)
def balance(f, P, α_1):
    return α_1 * sum(f[i] * P[i] for i in range(len(f)))


@equation(
    "V2:24",
    "MOE:13",
    title="How often an expert was chosen, 1 at balance",
    latex=r"f_i = \frac{N_r}{K_r T} \sum_{t=1}^{T} \operatorname{1}"
    r"(\text{token} t \text{selects expert} i)",
    library="layers.standard_moe:balance_loss",
    code="f = like(",
    note="The code's f is f_i / N_r; the last line of it multiplies by N_r.",
)
def chosen_share(chosen, N_r, K_r):  # chosen[t]: the experts of token t
    T = len(chosen)
    return [N_r / (K_r * T) * sum(i in chosen[t] for t in range(T)) for i in range(N_r)]


@equation(
    "V2:25",
    "MOE:14",
    title="An expert's mean affinity",
    latex=r"P_i = \frac{1}{T} \sum_{t=1}^{T} s_{i,t}",
    library="layers.standard_moe:balance_loss",
    code="p = (probs * real",
)
def mean_affinity(s):  # s[t, i]
    T = len(s)
    return sum(s[t] for t in range(T)) / T


# ---------------------------------------------------------------------------------------------- V3


@equation(
    "V3:15",
    title="Affinities of V3: each expert's own sigmoid",
    latex=r"s_{i,t} = \operatorname{Sigmoid}(u_t^T e_i)",
    library="layers.moe:Router.__call__",
    code="ops.sigmoid(",
)
def sigmoid_affinities(u_t, e):
    return array([1 / (1 + exp(-(u_t @ e_i))) for e_i in e])


@equation(
    "V3:16",
    "LFB:3",
    title="The bias chooses, the affinity weighs",
    latex=r"g′_{i,t} = \cases{s_{i,t} & \text{if} s_{i,t} + b_i ∈ \operatorname{Topk}"
    r"(\{s_{j,t} + b_j \text{for} 1 ≤ j ≤ N_r\}, K_r) \\ 0 & \text{otherwise}}",
    library="layers.moe:route",
    code="biased = scores + bias",
)
def biased_gates(s_t, b, K_r):
    best = topk(s_t + b, K_r)
    return array([s_t[i] if i in best else 0 for i in range(len(s_t))])


@equation(
    "V3:13",
    title="Gates add up to 1",
    latex=r"g_{i,t} = \frac{g′_{i,t}}{\sum_{j=1}^{N_r} g′_{j,t}}",
    library="layers.moe:gate_weights",
    code="weights = weights / (",
    exercise="gate_weights",
    note="Not in the paper: routed_scaling_factor multiplies them afterwards, 2.5 in V3; 1e-20 is "
    "added below.",
)
def normalised(g_prime):
    return g_prime / sum(g_prime)


@equation(
    "V3:nodes (section 2.1.2)",
    title="Node-limited routing: what a group of experts is worth",
    latex=r"\operatorname{worth}_n = \text{sum of the} \frac{K_r}{M} \text{largest}"
    r" s_{i,t} + b_i \text{of node} n",
    library="layers.moe:kept_groups",
    code="two_best = ",
    note="The paper does not say whether b counts; released code adds it, and takes two for any "
    "K_r and M (V3: 8/4 = 2).",
)
def worth_of_nodes(c, nodes, K_r, M):  # c = s + b
    best = K_r // M
    return [sum(sorted(group)[-best:]) for group in c.reshape(nodes, -1)]


@equation(
    "V3:update (section 2.1.2)",
    "LFB:update (algorithm 1)",
    title="Balance without a loss: the bias follows the load",
    latex=r"b_i ← b_i + u \operatorname{sign}(\bar{c} - c_i)",
    library="layers.moe:update_bias",
    code="step = [gamma *",
    exercise="update_bias",
    note="After each step, from that step's tokens c_i, for the next batch. V3 calls u γ: 0.001.",
)
def update(b, c, u):
    return b + u * sign(mean(c) - c)


@equation(
    "LFB:4",
    title="How uneven the load is",
    latex=r"\operatorname{MaxVio} = \frac{\max_i L_i - \bar{L}}{\bar{L}}",
    library="layers.moe:max_violation",
    code="max(counts) / mean - 1",
    note="L is the paper's Load, the tokens that expert i got.",
)
def max_violation(L):
    return (max(L) - mean(L)) / mean(L)


@equation(
    "V3:17",
    title="The sequence-wise safeguard",
    latex=r"L_{\operatorname{Bal}} = α \sum_{i=1}^{N_r} f_i P_i",
    library="layers.moe:sequence_balance_loss",
    code="return (p * (f / length))",
)
def sequence_balance(f, P, α):
    return α * sum(f[i] * P[i] for i in range(len(f)))


@equation(
    "V3:18",
    title="Choices within one sequence, without the bias",
    latex=r"f_i = \frac{N_r}{K_r T} \sum_{t=1}^{T} \operatorname{1}(s_{i,t} ∈ \operatorname{Topk}"
    r"(\{s_{j,t} \text{for} 1 ≤ j ≤ N_r\}, K_r))",
    library="layers.moe:sequence_balance_loss",
    code="f = f * (experts / k) / length",
)
def sequence_share(s, K_r):  # s[t, i]
    T, N_r = s.shape
    hits = [sum(i in topk(s[t], K_r) for t in range(T)) for i in range(N_r)]
    return N_r / (K_r * T) * asarray(hits)


@equation(
    "V3:19",
    title="Affinities as shares of their sum",
    latex=r"s′_{i,t} = \frac{s_{i,t}}{\sum_{j=1}^{N_r} s_{j,t}}",
    library="layers.moe:sequence_balance_loss",
    code="shares = scores / (",
)
def affinity_share(s_t):
    return s_t / sum(s_t)


@equation(
    "V3:20",
    title="An expert's mean share within one sequence",
    latex=r"P_i = \frac{1}{T} \sum_{t=1}^{T} s′_{i,t}",
    library="layers.moe:sequence_balance_loss",
    code="length, f, p = max(tokens, 1)",
)
def mean_share(s_prime):  # s_prime[t, i]
    T = len(s_prime)
    return sum(s_prime[t] for t in range(T)) / T
