"""Multi-head attention, and multi-head latent attention; tokens t and heads i counted from 0."""

from numpy import concatenate, split, sqrt

from minideepseek.equations.foundations import rope, softmax
from minideepseek.equations.ledger import Symbol, equation

SYMBOLS = (
    Symbol("n_h", "num_attention_heads", "heads"),
    Symbol("W^Q", "q_proj.weight", "q_proj"),
    Symbol("W^K", "k_proj.weight", "k_proj"),
    Symbol("W^V", "v_proj.weight", "v_proj"),
    Symbol("W^O", "o_proj.weight", "o_proj"),
    Symbol("W^{DKV}", "kv_a_proj_with_mqa.weight, first kv_lora_rank rows", "kv_a_proj_with_mqa"),
    Symbol("W^{KR}", "kv_a_proj_with_mqa.weight, last qk_rope_head_dim rows", "kv_a_proj_with_mqa"),
    Symbol("W^{UK}", "kv_b_proj.weight, first qk_nope_head_dim rows of each head", "w_uk"),
    Symbol("W_i^{UK}", "kv_b_proj.weight, those rows of head i", "w_uk"),
    Symbol("W^{UV}", "kv_b_proj.weight, last v_head_dim rows of each head", "w_uv"),
    Symbol("W^{DQ}", "q_a_proj.weight", "q_a_proj"),
    Symbol("W^{UQ}", "q_b_proj.weight, first qk_nope_head_dim rows of each head", "q_b_proj"),
    Symbol("W^{QR}", "q_b_proj.weight, last qk_rope_head_dim rows of each head", "q_b_proj"),
    Symbol("c_t^{KV}", "kv_lora_rank wide", "c_kv"),
    Symbol("c_j^{KV}", "kv_lora_rank wide", "c_kv"),
    Symbol("k_t^R", "qk_rope_head_dim wide", "k_pe"),
    Symbol("d_h", "qk_nope_head_dim; without a latent head_dim", "nope"),
    Symbol("d_h^R", "qk_rope_head_dim", "rope_width"),
)


@equation(
    "V2:1",
    "V2:2",
    "V2:3",
    title="Query, key and value",
    latex=r"q_t = W^Q h_t , \quad k_t = W^K h_t , \quad v_t = W^V h_t",
    library="layers.attention:GroupedQueryAttention.__call__",
    code="self.split(self.q_proj(x), self.heads)",
)
def project(W_Q, W_K, W_V, h_t):
    return W_Q @ h_t, W_K @ h_t, W_V @ h_t


@equation(
    "V2:4",
    "V2:5",
    "V2:6",
    title="Cut into heads",
    latex=r"[q_{t,1}; q_{t,2}; …; q_{t,n_h}] = q_t , \quad \text{and so} k_t , v_t",
    library="layers.attention:GroupedQueryAttention.split",
    code="ops.reshape(",
)
def heads(q_t, n_h):
    d_h = len(q_t) // n_h
    return [q_t[i * d_h : (i + 1) * d_h] for i in range(n_h)]


@equation(
    "V2:7",
    title="What one head sees",
    latex=r"o_{t,i} = \sum_{j=1}^{t} \operatorname{softmax}_j (\frac{q_{t,i}^T k_{j,i}}"
    r"{\sqrt{d_h}}) v_{j,i}",
    library="layers.attention:GroupedQueryAttention.__call__",
    code="ops.attention(",
    exercise="attention",
    note="Queries and keys are rotated before (ROPE:rotate), with all their channels.",
)
def attend(q, k, v, t, i):
    d_h = len(q[t, i])
    p = softmax([q[t, i] @ k[j, i] / sqrt(d_h) for j in range(t + 1)])
    return sum(p[j] * v[j, i] for j in range(t + 1))


@equation(
    "V2:8",
    title="All heads into one output",
    latex=r"u_t = W^O [o_{t,1}; o_{t,2}; …; o_{t,n_h}]",
    library="layers.attention:GroupedQueryAttention.__call__",
    code="self.o_proj(",
)
def output(W_O, o_t):
    return W_O @ concatenate(o_t)


@equation(
    "V2:9",
    "V3:1",
    title="The latent of keys and values",
    latex=r"c_t^{KV} = W^{DKV} h_t",
    library="layers.mla:DeepSeekAttention.project",
    code="self.kv_a_layernorm(",
    exercise="latent_cache",
    note="The norm that follows is in V2's text and in the weights, not in the equation; the cache "
    "holds what comes after it.",
)
def latent(W_DKV, h_t):
    return W_DKV @ h_t


@equation(
    "V2:10",
    "V3:2",
    title="Keys of all heads from the latent",
    latex=r"[k_{t,1}^C; k_{t,2}^C; …; k_{t,n_h}^C] = k_t^C = W^{UK} c_t^{KV}",
    library="layers.mla:MultiHeadLatentAttention.attend_naive",
    code="kv = ops.reshape(self.kv_b_proj(c_kv)",
)
def keys(W_UK, c_KV, n_h):
    return split(W_UK @ c_KV, n_h)


@equation(
    "V2:11",
    "V3:5",
    title="Values of all heads from the latent",
    latex=r"[v_{t,1}^C; v_{t,2}^C; …; v_{t,n_h}^C] = v_t^C = W^{UV} c_t^{KV}",
    library="layers.mla:MultiHeadLatentAttention.attend_naive",
    code="k_nope, v = ",
)
def values(W_UV, c_KV, n_h):
    return split(W_UV @ c_KV, n_h)


@equation(
    "V2:12",
    "V3:6",
    title="The query's latent",
    latex=r"c_t^Q = W^{DQ} h_t",
    library="layers.mla:MultiHeadLatentAttention.queries",
    code="self.q_a_proj(x)",
    note="A norm follows, as behind V2:9. It saves activations in training and no cache.",
)
def query_latent(W_DQ, h_t):
    return W_DQ @ h_t


@equation(
    "V2:13",
    "V3:7",
    title="Queries of all heads",
    latex=r"[q_{t,1}^C; q_{t,2}^C; …; q_{t,n_h}^C] = q_t^C = W^{UQ} c_t^Q",
    library="layers.mla:MultiHeadLatentAttention.queries",
    code="self.q_b_proj(",
)
def queries(W_UQ, c_Q, n_h):
    return split(W_UQ @ c_Q, n_h)


@equation(
    "V2:14",
    "V3:8",
    title="The rotated part of the queries",
    latex=r"[q_{t,1}^R; q_{t,2}^R; …; q_{t,n_h}^R] = q_t^R = \operatorname{RoPE}(W^{QR} c_t^Q)",
    library="layers.mla:DeepSeekAttention.project",
    code="ops.rope(self.queries(x)",
    exercise="rope",
)
def rotated_queries(W_QR, c_Q, n_h, t, θ):
    return [rope(q, t, θ) for q in split(W_QR @ c_Q, n_h)]


@equation(
    "V2:15",
    "V3:3",
    title="One rotated key for all heads",
    latex=r"k_t^R = \operatorname{RoPE}(W^{KR} h_t)",
    library="layers.mla:DeepSeekAttention.project",
    code="k_pe = ops.rope(",
    exercise="rope",
    note="From h and not from the latent: W^UK does not touch it, so absorption stays possible.",
)
def rotated_key(W_KR, h_t, t, θ):
    return rope(W_KR @ h_t, t, θ)


@equation(
    "V2:16",
    "V3:9",
    title="The whole query of a head",
    latex=r"q_{t,i} = [q_{t,i}^C; q_{t,i}^R]",
    library="layers.mla:DeepSeekAttention.project",
    code="ops.rope(self.queries(x)",
    note="Both parts come from one matrix, q_b_proj; only the last channels are rotated.",
)
def query(q_C, q_R):
    return concatenate([q_C, q_R])


@equation(
    "V2:17",
    "V3:4",
    title="The whole key of a head",
    latex=r"k_{t,i} = [k_{t,i}^C; k_t^R]",
    library="layers.mla:MultiHeadLatentAttention.attend_naive",
    code="ops.append_shared(",
)
def key(k_C, k_R):
    return concatenate([k_C, k_R])


@equation(
    "V2:18",
    "V3:10",
    title="What one head of latent attention sees",
    latex=r"o_{t,i} = \sum_{j=1}^{t} \operatorname{softmax}_j (\frac{q_{t,i}^T k_{j,i}}"
    r"{\sqrt{d_h + d_h^R}}) v_{j,i}^C",
    library="layers.mla:MultiHeadLatentAttention.attend_naive",
    code="ops.attention(",
)
def attend_latent(q, k, v_C, t, i):
    d = len(q[t, i])  # d_h + d_h^R
    p = softmax([q[t, i] @ k[j, i] / sqrt(d) for j in range(t + 1)])
    return sum(p[j] * v_C[j, i] for j in range(t + 1))


@equation(
    "V2:19",
    "V3:11",
    title="All heads of latent attention into one output",
    latex=r"u_t = W^O [o_{t,1}; o_{t,2}; …; o_{t,n_h}]",
    library="layers.mla:MultiHeadLatentAttention.__call__",
    code="self.o_proj(",
)
def latent_output(W_O, o_t):
    return W_O @ concatenate(o_t)


@equation(
    "V2:absorb (section 2.1.2)",
    title="Absorption: the key is never made",
    latex=r"(q_{t,i}^C)^T (W_i^{UK} c_j^{KV}) = ((W_i^{UK})^T q_{t,i}^C)^T c_j^{KV}",
    library="layers.mla:MultiHeadLatentAttention.attend_absorbed",
    code="q_c = ops.head_linear(",
    exercise="absorb",
    note="The paper says it in a sentence; the equation is minideepseek's.",
)
def absorb(q_C, W_UK, c_KV):
    return (W_UK.T @ q_C) @ c_KV
